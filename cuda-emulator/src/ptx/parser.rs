//! The module level of PTX: directives, variables with their initialisers, and the heads of functions.

use std::collections::HashMap;

use super::ast::*;
use super::cursor::Cursor;
use super::lexer::{Kind, Token};
use super::names::RegisterShape;

/// Parses a PTX module. Needs no more than the text; takes time in proportion to its length, and any text at all gives
/// a module or an error, never a panic.
pub fn parse(text: &str) -> Result<Module, ParseError> {
    let mut parser = Parser {
        cursor: Cursor::new(text)?,
        module: Module::default(),
        globals: HashMap::new(),
    };
    parser.header()?;
    while parser.cursor.peek().kind != Kind::End {
        parser.item()?;
    }
    Ok(parser.finish())
}

/// Dimensions that an array may have; PTX itself names no limit.
const MAX_DIMENSIONS: usize = 32;

pub(super) struct Parser<'a> {
    pub(super) cursor: Cursor<'a>,
    pub(super) module: Module,
    /// Names of module scope, with the index of a function.
    pub(super) globals: HashMap<&'a str, Option<usize>>,
}

/// Words before a variable or a function.
#[derive(Default, Clone, Copy)]
struct Linkage {
    external: bool,
}

/// What the words between the state space and the name of a variable say.
struct VariableHead {
    align: Option<u32>,
    ty: Type,
    /// Components of a vector type, or 1.
    vector: u64,
}

impl<'a> Parser<'a> {
    fn header(&mut self) -> Result<(), ParseError> {
        if !self.cursor.eat_word("version")? {
            return Err(self
                .cursor
                .expected("`.version`, with which every PTX text begins"));
        }
        let version = self
            .cursor
            .expect_kind(Kind::Number, "a version like 9.5")?;
        let parts = version.text.split_once('.');
        let parts =
            parts.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        self.module.version = parts.ok_or_else(|| {
            let message = format!("expected a version like 9.5, found {}", version.describe());
            self.cursor.error(version, message)
        })?;
        if !self.cursor.eat_word("target")? {
            return Err(self.cursor.expected("`.target`"));
        }
        let target = self.cursor.expect_kind(Kind::Name, "a target like sm_80")?;
        self.module.target = parse_target(target.text).ok_or_else(|| {
            let message = format!("expected a target like sm_80, found {}", target.describe());
            self.cursor.error(target, message)
        })?;
        while self.cursor.eat(",")? {
            self.cursor
                .expect_kind(Kind::Name, "a target option like debug")?;
        }
        Ok(())
    }

    fn item(&mut self) -> Result<(), ParseError> {
        let mut linkage = Linkage::default();
        loop {
            let token = self.cursor.peek();
            if token.kind != Kind::Word {
                return Err(self
                    .cursor
                    .expected("a directive of module scope like `.entry`"));
            }
            match token.text {
                "visible" | "weak" | "common" | "extern" => {
                    self.cursor.advance()?;
                    linkage.external |= token.text == "extern";
                    continue;
                }
                "address_size" => {
                    self.cursor.advance()?;
                    let size = self.cursor.peek();
                    if self.cursor.count()? != 64 {
                        return Err(self
                            .cursor
                            .error(size, "only `.address_size 64` is supported"));
                    }
                }
                "entry" | "func" => {
                    self.cursor.advance()?;
                    self.function(token.text == "entry", token)?;
                }
                "global" | "const" | "shared" => {
                    self.cursor.advance()?;
                    for (name, variable) in self.variables(token, linkage.external)? {
                        self.module_variable(name, variable)?;
                    }
                }
                "alias" => self.alias()?,
                _ if self.ignored()? => {}
                _ => {
                    return Err(self
                        .cursor
                        .expected("a directive of module scope like `.entry`"));
                }
            }
            return Ok(());
        }
    }

    /// Directives that say nothing about what a program computes: debugging data and hints. False if it is none.
    pub(super) fn ignored(&mut self) -> Result<bool, ParseError> {
        let token = self.cursor.peek();
        if token.kind != Kind::Word || !matches!(token.text, "file" | "loc" | "pragma" | "section")
        {
            return Ok(false);
        }
        self.cursor.advance()?;
        match token.text {
            "file" => {
                self.cursor.count()?;
                self.cursor
                    .expect_kind(Kind::Text, "a file name in quotes")?;
                while self.cursor.eat(",")? {
                    self.cursor.integer()?;
                }
            }
            "loc" => self.location()?,
            "pragma" => {
                self.cursor.expect_kind(Kind::Text, "a pragma in quotes")?;
                while self.cursor.eat(",")? {
                    self.cursor.expect_kind(Kind::Text, "a pragma in quotes")?;
                }
                self.cursor.expect(";")?;
            }
            _ => self.section()?,
        }
        Ok(true)
    }

    /// After `.loc`: `file line column [, function_name label [+ n], inlined_at file line column]`.
    fn location(&mut self) -> Result<(), ParseError> {
        for _ in 0..3 {
            self.cursor.count()?;
        }
        while self.cursor.eat(",")? {
            let attribute = self
                .cursor
                .expect_kind(Kind::Name, "`function_name` or `inlined_at`")?;
            match attribute.text {
                "function_name" => {
                    self.cursor.expect_kind(Kind::Name, "a label")?;
                    self.cursor.offset()?;
                }
                "inlined_at" => {
                    for _ in 0..3 {
                        self.cursor.count()?;
                    }
                }
                _ => {
                    let message = "expected `function_name` or `inlined_at`";
                    return Err(self.cursor.error(attribute, message));
                }
            }
        }
        Ok(())
    }

    /// After `.section`: a name and data in braces.
    fn section(&mut self) -> Result<(), ParseError> {
        while !self.cursor.at("{") {
            if !matches!(
                self.cursor.peek().kind,
                Kind::Word | Kind::Name | Kind::Text
            ) {
                return Err(self.cursor.expected("`{` after the name of a section"));
            }
            self.cursor.advance()?;
        }
        let opening = self.cursor.advance()?;
        while !self.cursor.at("}") {
            if self.cursor.peek().kind == Kind::End {
                return Err(self.cursor.error(opening, "section without closing `}`"));
            }
            self.cursor.advance()?;
        }
        self.cursor.advance()?;
        Ok(())
    }

    /// `.alias name, function;`: the function under a second name.
    fn alias(&mut self) -> Result<(), ParseError> {
        self.cursor.advance()?;
        let name = self.cursor.expect_kind(Kind::Name, "a function's name")?;
        self.cursor.expect(",")?;
        let aliasee = self.cursor.expect_kind(Kind::Name, "a function's name")?;
        self.cursor.expect(";")?;
        let index = self.globals.get(aliasee.text).copied().flatten();
        let original = index.map(|index| &self.module.functions[index]);
        let Some(original) = original.filter(|function| function.body.is_some()) else {
            let message = format!(
                "function {} is not defined before its alias",
                aliasee.describe()
            );
            return Err(self.cursor.error(aliasee, message));
        };
        let mut function = original.clone();
        function.name = name.text.into();
        self.add_function(name, function)
    }

    /// Enters a function, which may define one that was declared before.
    pub(super) fn add_function(
        &mut self,
        name: Token<'a>,
        function: Function,
    ) -> Result<(), ParseError> {
        let functions = &mut self.module.functions;
        match self.globals.get(name.text) {
            Some(Some(before))
                if function.body.is_none() && functions[*before].entry == function.entry => {}
            Some(Some(before))
                if functions[*before].body.is_none()
                    && functions[*before].entry == function.entry =>
            {
                functions[*before] = function;
            }
            Some(_) => {
                let message = format!("{} is defined twice", name.describe());
                return Err(self.cursor.error(name, message));
            }
            None => {
                self.globals.insert(name.text, Some(functions.len()));
                functions.push(function);
            }
        }
        Ok(())
    }

    fn module_variable(&mut self, name: Token<'a>, variable: Variable) -> Result<(), ParseError> {
        if let Some(known) = self.globals.insert(name.text, None) {
            // `.extern` may announce a variable that the module defines further down.
            let earlier = self
                .module
                .variables
                .iter()
                .position(|v| v.name == variable.name);
            let earlier = earlier.filter(|at| {
                let before = &self.module.variables[*at];
                known.is_none()
                    && before.space == variable.space
                    && (before.external || variable.external)
            });
            let Some(earlier) = earlier else {
                let message = format!("{} is defined twice", name.describe());
                return Err(self.cursor.error(name, message));
            };
            if self.module.variables[earlier].external {
                self.module.variables[earlier] = variable;
            }
            return Ok(());
        }
        self.module.variables.push(variable);
        Ok(())
    }

    /// Variables after the word for their state space, with the closing semicolon.
    pub(super) fn variables(
        &mut self,
        space: Token<'a>,
        external: bool,
    ) -> Result<Vec<(Token<'a>, Variable)>, ParseError> {
        let head = self.variable_head()?;
        let space = match space.text {
            "global" => Space::Global,
            "const" => Space::Const,
            "shared" => Space::Shared,
            "local" => Space::Local,
            _ => Space::Param,
        };
        let mut variables = Vec::new();
        loop {
            let name = self.cursor.expect_kind(Kind::Name, "a variable's name")?;
            let mut dimensions = self.dimensions()?;
            if head.vector > 1 {
                dimensions.push(Some(head.vector));
            }
            let mut initializer = InitializerBuilder::default();
            let mut count = dimensions.first().copied().flatten().unwrap_or(0);
            if self.cursor.at("=") {
                if !matches!(space, Space::Global | Space::Const) {
                    let message = "only `.global` and `.const` variables can be initialised";
                    return Err(self.cursor.error(self.cursor.peek(), message));
                }
                self.cursor.advance()?;
                let found = self.initial_value(&dimensions, head.ty, 0, &mut initializer)?;
                if dimensions.first() == Some(&None) {
                    count = found;
                }
                if initializer.partial_address.is_some() {
                    return Err(self.cursor.expected("the remaining bytes of an address"));
                }
            }
            let size = match dimensions.is_empty() {
                true => Some(head.ty.size().into()),
                false => stride(&dimensions, head.ty).and_then(|stride| stride.checked_mul(count)),
            };
            let Some(size) = size else {
                return Err(self
                    .cursor
                    .error(name, "size of the array does not fit 64 bits"));
            };
            let natural = u64::from(head.ty.size()) * head.vector;
            let variable = Variable {
                name: name.text.into(),
                space,
                ty: head.ty,
                align: head.align.unwrap_or(natural as u32),
                size,
                external,
                initializer: initializer.pieces,
                line: name.line,
            };
            variables.push((name, variable));
            if !self.cursor.eat(",")? {
                break;
            }
        }
        self.cursor.expect(";")?;
        Ok(variables)
    }

    fn variable_head(&mut self) -> Result<VariableHead, ParseError> {
        let (mut align, mut vector) = (None, 1);
        loop {
            let token = self.cursor.peek();
            match (token.kind, token.text) {
                (Kind::Word, "align") => align = Some(self.alignment()?),
                (Kind::Word, "attribute") => {
                    // `.managed` and `.unified` choose where the memory lies, which is one place here.
                    self.cursor.advance()?;
                    self.cursor.expect("(")?;
                    while !self.cursor.at(")") {
                        if self.cursor.at(";") || self.cursor.peek().kind == Kind::End {
                            return Err(self.cursor.expected("`)` after `.attribute(`"));
                        }
                        self.cursor.advance()?;
                    }
                    self.cursor.advance()?;
                }
                (Kind::Word, "v2" | "v4" | "v8") => {
                    self.cursor.advance()?;
                    vector = u64::from(token.text.as_bytes()[1] - b'0');
                }
                _ => break,
            }
        }
        let ty = self.memory_type()?;
        Ok(VariableHead { align, ty, vector })
    }

    /// A type that has a size in memory.
    fn memory_type(&mut self) -> Result<Type, ParseError> {
        let token = self.cursor.peek();
        let ty = (token.kind == Kind::Word)
            .then(|| Type::from_word(token.text))
            .flatten();
        match ty {
            Some(ty) if ty != Type::Pred => {
                self.cursor.advance()?;
                Ok(ty)
            }
            _ => Err(self.cursor.expected("a type like `.b32`")),
        }
    }

    /// `.align n`.
    fn alignment(&mut self) -> Result<u32, ParseError> {
        self.cursor.expect_kind(Kind::Word, "`.align`")?;
        let token = self.cursor.peek();
        let align = self.cursor.count()?;
        match align.is_power_of_two() {
            true => Ok(align),
            false => Err(self
                .cursor
                .error(token, "an alignment must be a power of two")),
        }
    }

    /// `[4][n]`; the first one may be empty, then `None`.
    fn dimensions(&mut self) -> Result<Vec<Option<u64>>, ParseError> {
        let mut dimensions = Vec::new();
        while self.cursor.at("[") {
            let bracket = self.cursor.advance()?;
            if dimensions.len() == MAX_DIMENSIONS {
                let message = format!("an array of more than {MAX_DIMENSIONS} dimensions");
                return Err(self.cursor.error(bracket, message));
            }
            if dimensions.is_empty() && self.cursor.eat("]")? {
                dimensions.push(None);
                continue;
            }
            let token = self.cursor.peek();
            let Ok(size) = u64::try_from(self.cursor.integer()?) else {
                return Err(self
                    .cursor
                    .error(token, "an array's size cannot be negative"));
            };
            dimensions.push(Some(size));
            self.cursor.expect("]")?;
        }
        Ok(dimensions)
    }

    /// The value of an element, or a list in braces along the first dimension. Returns the number of elements of the list.
    fn initial_value(
        &mut self,
        dimensions: &[Option<u64>],
        ty: Type,
        offset: u64,
        out: &mut InitializerBuilder,
    ) -> Result<u64, ParseError> {
        let Some(limit) = dimensions.first() else {
            return self.initial_scalar(ty, offset, out).map(|()| 1);
        };
        let opening = self.cursor.expect("{")?;
        let Some(step) = stride(dimensions, ty) else {
            return Err(self
                .cursor
                .error(opening, "size of the array does not fit 64 bits"));
        };
        let mut count = 0u64;
        while !self.cursor.at("}") {
            if limit.is_some_and(|limit| count >= limit) {
                let message = format!("more than {count} initial values for {count} elements");
                return Err(self.cursor.error(self.cursor.peek(), message));
            }
            let place = step
                .checked_mul(count)
                .and_then(|place| place.checked_add(offset));
            let Some(place) = place else {
                return Err(self
                    .cursor
                    .error(opening, "size of the array does not fit 64 bits"));
            };
            self.initial_value(&dimensions[1..], ty, place, out)?;
            count += 1;
            if !self.cursor.eat(",")? {
                break;
            }
        }
        self.cursor.expect("}")?;
        Ok(count)
    }

    fn initial_scalar(
        &mut self,
        ty: Type,
        offset: u64,
        out: &mut InitializerBuilder,
    ) -> Result<(), ParseError> {
        let start = self.cursor.peek();
        let fail = |parser: &Self, message: String| Err(parser.cursor.error(start, message));
        if start.kind == Kind::Name && start.text != "WARP_SZ" {
            let address = self.initial_address()?;
            if ty.size() != 8 || out.partial_address.is_some() {
                return fail(
                    self,
                    format!("an address takes 8 bytes, an element {}", ty.size()),
                );
            }
            out.pieces.push(Initializer {
                offset,
                value: address,
            });
            return Ok(());
        }
        if !self.cursor.at_constant() {
            return Err(self.cursor.expected("an initial value"));
        }
        let value = self.cursor.immediate()?;
        let size = ty.size() as usize;
        if let Immediate::Integer(mask) = value
            && self.cursor.eat("(")?
        {
            // `0xff00(name)`: one byte of an address. nvcc writes all eight, one after the other.
            let address = self.initial_address()?;
            self.cursor.expect(")")?;
            return match out.address_byte(offset, mask, size, address) {
                true => Ok(()),
                false => fail(
                    self,
                    "a part of an address that is not all of its 8 bytes".into(),
                ),
            };
        }
        if out.partial_address.is_some() {
            return fail(self, "expected the remaining bytes of an address".into());
        }
        let bytes = match (value, ty) {
            (Immediate::F32(bits), Type::F32 | Type::B32) => bits.to_le_bytes().to_vec(),
            (Immediate::F64(bits), Type::F64 | Type::B64) => bits.to_le_bytes().to_vec(),
            (Immediate::F64(bits), Type::F32) => {
                (f64::from_bits(bits) as f32).to_le_bytes().to_vec()
            }
            (Immediate::F32(bits), Type::F64) => {
                f64::from(f32::from_bits(bits)).to_le_bytes().to_vec()
            }
            (Immediate::Integer(value), _) if !matches!(ty, Type::F32 | Type::F64) => {
                let shift = 64 - 8 * size.min(8) as u32;
                let fits = value << shift >> shift == value
                    || ((value as u64) << shift >> shift) as i64 == value;
                if !fits {
                    return fail(self, format!("{value} does not fit {size} bytes"));
                }
                let fill = if value < 0 && ty.size() > 8 { 0xff } else { 0 };
                let mut bytes = value.to_le_bytes().to_vec();
                bytes.resize(size, fill);
                bytes
            }
            _ => {
                let found = start.describe();
                return fail(
                    self,
                    format!("expected an initial value of type {ty:?}, found {found}"),
                );
            }
        };
        out.bytes(offset, &bytes);
        Ok(())
    }

    /// `name + n` or `generic(name + n)`.
    fn initial_address(&mut self) -> Result<InitialValue, ParseError> {
        let mut name = self
            .cursor
            .expect_kind(Kind::Name, "a name or `generic(name)`")?;
        let generic = name.text == "generic" && self.cursor.eat("(")?;
        if generic {
            name = self.cursor.expect_kind(Kind::Name, "a name")?;
        }
        if !self.globals.contains_key(name.text) {
            let message = format!(
                "{} is not a variable or function declared above",
                name.describe()
            );
            return Err(self.cursor.error(name, message));
        }
        let mut addend = self.cursor.offset()?;
        if generic {
            self.cursor.expect(")")?;
            addend = addend.wrapping_add(self.cursor.offset()?);
        }
        Ok(InitialValue::Address {
            name: name.text.into(),
            addend,
            generic,
        })
    }

    /// A parameter of a function; `register` declares one that lives in a register.
    pub(super) fn parameter(
        &mut self,
        register: &mut dyn FnMut(Token<'a>, RegisterShape) -> Option<RegId>,
    ) -> Result<(Token<'a>, Param), ParseError> {
        if self.cursor.eat_word("reg")? {
            let ty = self.register_type()?;
            let name = self.cursor.expect_kind(Kind::Name, "a parameter's name")?;
            let Some(id) = register(
                name,
                RegisterShape {
                    ty,
                    components: None,
                },
            ) else {
                let message = format!("parameter {} is declared twice", name.describe());
                return Err(self.cursor.error(name, message));
            };
            let param = Param {
                name: name.text.into(),
                ty,
                align: ty.size(),
                size: ty.size().into(),
                register: Some(id),
            };
            return Ok((name, param));
        }
        if !self.cursor.eat_word("param")? {
            return Err(self.cursor.expected("a parameter (`.param` or `.reg`)"));
        }
        let head = self.variable_head()?;
        if self.cursor.eat_word("ptr")? {
            // What the pointer points to is a hint.
            while self.cursor.peek().kind == Kind::Word {
                match self.cursor.peek().text {
                    "align" => drop(self.alignment()?),
                    "global" | "shared" | "const" | "local" => drop(self.cursor.advance()?),
                    _ => return Err(self.cursor.expected("a state space or `.align`")),
                }
            }
        }
        let name = self.cursor.expect_kind(Kind::Name, "a parameter's name")?;
        let dimensions = self.dimensions()?;
        let count = match dimensions.first() {
            None => Some(1),
            Some(first) => stride(&dimensions, head.ty)
                .and_then(|s| s.checked_mul(first.unwrap_or(0)))
                .map(|bytes| bytes / u64::from(head.ty.size())),
        };
        let bytes = u64::from(head.ty.size()) * head.vector;
        let Some(size) = count.and_then(|count| count.checked_mul(bytes)) else {
            return Err(self
                .cursor
                .error(name, "size of the parameter does not fit 64 bits"));
        };
        let param = Param {
            name: name.text.into(),
            ty: head.ty,
            align: head.align.unwrap_or(bytes as u32),
            size,
            register: None,
        };
        Ok((name, param))
    }

    /// A type of a register.
    pub(super) fn register_type(&mut self) -> Result<Type, ParseError> {
        match self.cursor.eat_word("pred")? {
            true => Ok(Type::Pred),
            false => self.memory_type(),
        }
    }

    /// Directives between the parameters and the body of a function.
    pub(super) fn directives(&mut self) -> Result<Directives, ParseError> {
        let mut directives = Directives::default();
        while self.cursor.peek().kind == Kind::Word {
            if self.ignored()? {
                continue;
            }
            let token = self.cursor.advance()?;
            match token.text {
                "maxntid" => directives.maxntid = Some(self.extent()?),
                "reqntid" => directives.reqntid = Some(self.extent()?),
                "reqnctapercluster" => directives.reqnctapercluster = Some(self.extent()?),
                "minnctapersm" => directives.minnctapersm = Some(self.cursor.count()?),
                "maxnreg" => directives.maxnreg = Some(self.cursor.count()?),
                "noreturn" => directives.noreturn = true,
                "maxnctapersm" | "maxclusterrank" | "abi_preserve" | "abi_preserve_control" => {
                    self.cursor.count()?;
                }
                "explicitcluster" | "blocksareclusters" | "unique" => {}
                _ => {
                    let message = format!(
                        "expected a performance directive like `.maxntid`, `{{` or `;`, found {}",
                        token.describe()
                    );
                    return Err(self.cursor.error(token, message));
                }
            }
        }
        Ok(directives)
    }

    /// One to three numbers; those left out are 1.
    fn extent(&mut self) -> Result<[u32; 3], ParseError> {
        let mut extent = [1; 3];
        for (axis, size) in extent.iter_mut().enumerate() {
            if axis > 0 && !self.cursor.eat(",")? {
                break;
            }
            *size = self.cursor.count()?;
        }
        Ok(extent)
    }

    fn finish(self) -> Module {
        self.module
    }
}

/// Bytes from one element of the first dimension to the next.
fn stride(dimensions: &[Option<u64>], ty: Type) -> Option<u64> {
    let inner = dimensions.iter().skip(1);
    inner
        .flatten()
        .try_fold(u64::from(ty.size()), |product, size| {
            product.checked_mul(*size)
        })
}

/// Collects an initialiser; bytes that follow one another become one piece.
#[derive(Default)]
struct InitializerBuilder {
    pieces: Vec<Initializer>,
    /// An address of which some bytes were seen: where it began, how many, and what.
    partial_address: Option<(u64, u32, InitialValue)>,
}

impl InitializerBuilder {
    fn bytes(&mut self, offset: u64, bytes: &[u8]) {
        if let Some(Initializer {
            offset: start,
            value: InitialValue::Bytes(before),
        }) = self.pieces.last_mut()
            && *start + before.len() as u64 == offset
        {
            before.extend_from_slice(bytes);
            return;
        }
        let value = InitialValue::Bytes(bytes.to_vec());
        self.pieces.push(Initializer { offset, value });
    }

    /// Takes the byte of an address that a mask selects; false if it is not the next one.
    fn address_byte(&mut self, offset: u64, mask: i64, size: usize, address: InitialValue) -> bool {
        let (start, seen, first) = self
            .partial_address
            .take()
            .unwrap_or_else(|| (offset, 0, address.clone()));
        let wanted = 0xffu64 << (8 * seen);
        let next = size == 1 && offset == start + u64::from(seen) && mask as u64 == wanted;
        if !next || first != address {
            return false;
        }
        match seen {
            7 => self.pieces.push(Initializer {
                offset: start,
                value: first,
            }),
            _ => self.partial_address = Some((start, seen + 1, first)),
        }
        true
    }
}

/// `sm_90a`, `compute_80`.
fn parse_target(text: &str) -> Option<Target> {
    let rest = text
        .strip_prefix("sm_")
        .or_else(|| text.strip_prefix("compute_"))?;
    let digits = rest.trim_end_matches(|c: char| c.is_ascii_lowercase());
    let suffix = &rest[digits.len()..];
    let suffix = match suffix.len() {
        0 => None,
        1 => suffix.chars().next(),
        _ => return None,
    };
    Some(Target {
        sm: digits.parse().ok()?,
        suffix,
    })
}

//! Functions: head, statements, operands.

use std::collections::HashSet;

use super::ast::*;
use super::cursor::MAX_DEPTH;
use super::lexer::{Kind, Token};
use super::names::{Binding, COMPONENTS, Labelled, Pending, RegisterShape, Scope, Scopes, Waiting};
use super::parser::Parser;

/// A function under construction.
#[derive(Default)]
struct Body<'a> {
    scopes: Scopes<'a>,
    instructions: Vec<Instruction>,
    labels: Vec<usize>,
    label_names: Vec<String>,
    branch_targets: Vec<(String, Vec<LabelId>)>,
    variables: Vec<Variable>,
    /// Names that variables and tables of the function have in the tree.
    taken: HashSet<String>,
}

/// Stands for a label until its scope closes.
const UNRESOLVED: LabelId = LabelId(u32::MAX);

impl<'a> Body<'a> {
    /// A name for the tree that no other variable has: `@` cannot be part of a name in the text.
    fn rename_apart(&mut self, name: &str, globally_known: bool) -> String {
        let mut unique = name.to_owned();
        if globally_known || self.taken.contains(name) {
            // A running number, so that many scopes with the same names stay cheap.
            unique = format!("{name}@{}", self.taken.len());
        }
        self.taken.insert(unique.clone());
        unique
    }

    fn new_label(&mut self, name: &str) -> LabelId {
        self.labels.push(self.instructions.len());
        self.label_names.push(name.to_owned());
        LabelId(self.labels.len() as u32 - 1)
    }
}

impl<'a> Parser<'a> {
    /// After `.entry` or `.func`.
    pub(super) fn function(&mut self, entry: bool, start: Token<'a>) -> Result<(), ParseError> {
        let mut body = Body::default();
        body.scopes.open.push(Scope::default());
        let mut directives = self.directives()?;
        let returns = match self.cursor.at("(") {
            true if !entry => self.parameters(&mut body)?,
            _ => Vec::new(),
        };
        let name = self.cursor.expect_kind(Kind::Name, "a function's name")?;
        let params = match self.cursor.at("(") {
            true => self.parameters(&mut body)?,
            false => Vec::new(),
        };
        let after = self.directives()?;
        directives = Directives {
            noreturn: directives.noreturn || after.noreturn,
            ..after
        };
        let defined = self.cursor.at("{");
        let mut function = Function {
            name: name.text.into(),
            entry,
            returns,
            params,
            directives,
            registers: Vec::new(),
            variables: Vec::new(),
            labels: Vec::new(),
            label_names: Vec::new(),
            branch_targets: Vec::new(),
            body: None,
            line: start.line,
        };
        if !defined {
            if !self.cursor.at(";") {
                return Err(self
                    .cursor
                    .expected("`{` or `;` after the head of a function"));
            }
            self.cursor.advance()?;
            return self.add_function(name, function);
        }
        // The name is known inside the function itself, which may call itself.
        self.add_function(name, function.clone())?;
        self.body(&mut body, name)?;
        function.registers = body.scopes.registers;
        function.variables = body.variables;
        function.labels = body.labels;
        function.label_names = body.label_names;
        function.branch_targets = body.branch_targets;
        function.body = Some(body.instructions);
        self.add_function(name, function)
    }

    fn parameters(&mut self, body: &mut Body<'a>) -> Result<Vec<Param>, ParseError> {
        self.cursor.expect("(")?;
        let mut params = Vec::new();
        while !self.cursor.at(")") {
            let scopes = &mut body.scopes;
            let (name, param) = self.parameter(&mut |token, shape| {
                let fresh = scopes.declare(token.text, shape);
                let last = scopes.registers.len() as u32 - 1;
                fresh.then_some(RegId(last))
            })?;
            if param.register.is_none() && name.text != "_" {
                let binding = Binding::Variable(param.name.clone());
                if !body.scopes.bind(name.text, binding) {
                    let message = format!("parameter {} is declared twice", name.describe());
                    return Err(self.cursor.error(name, message));
                }
                body.taken.insert(param.name.clone());
            }
            params.push(param);
            if !self.cursor.eat(",")? {
                break;
            }
        }
        if !self.cursor.at(")") {
            return Err(self.cursor.expected("`,` or `)` after a parameter"));
        }
        self.cursor.advance()?;
        Ok(params)
    }

    /// Statements from `{` to its `}`. Inner scopes are a stack, not a recursion.
    fn body(&mut self, body: &mut Body<'a>, function: Token<'a>) -> Result<(), ParseError> {
        self.cursor.expect("{")?;
        loop {
            let token = self.cursor.peek();
            match (token.kind, token.text) {
                (Kind::Mark, "{") => {
                    self.cursor.advance()?;
                    if body.scopes.open.len() > MAX_DEPTH as usize {
                        let message = format!("scopes nested deeper than {MAX_DEPTH}");
                        return Err(self.cursor.error(token, message));
                    }
                    body.scopes.open.push(Scope::default());
                }
                (Kind::Mark, "}") => {
                    self.close_scope(body)?;
                    self.cursor.advance()?;
                    if body.scopes.open.is_empty() {
                        return Ok(());
                    }
                }
                (Kind::Mark, ";") => drop(self.cursor.advance()?),
                (Kind::Mark, "@") => {
                    let guard = self.guard(body)?;
                    let opcode = self.cursor.expect_kind(Kind::Name, "an instruction")?;
                    self.instruction(body, Some(guard), opcode, token.line)?;
                }
                (Kind::Name, _) => {
                    self.cursor.advance()?;
                    match self.cursor.eat(":")? {
                        true => self.label(body, token)?,
                        false => self.instruction(body, None, token, token.line)?,
                    }
                }
                (Kind::Word, _) => self.declaration(body)?,
                (Kind::End, _) => {
                    let found = "the end of the text";
                    let name = function.describe();
                    let line = function.line;
                    let message = format!("expected `}}` of {name} (line {line}), found {found}");
                    return Err(self.cursor.error(token, message));
                }
                _ => {
                    return Err(self
                        .cursor
                        .expected("an instruction, a label or a directive"));
                }
            }
        }
    }

    /// Resolves the labels that the innermost scope defines; the others wait for the scope around it.
    fn close_scope(&mut self, body: &mut Body<'a>) -> Result<(), ParseError> {
        let Some(scope) = body.scopes.open.pop() else {
            return Ok(());
        };
        for pending in scope.pending {
            let Some(labelled) = scope.labels.get(pending.token.text) else {
                let Some(outer) = body.scopes.open.last_mut() else {
                    let message = format!("label {} is not defined", pending.token.describe());
                    return Err(self.cursor.error(pending.token, message));
                };
                outer.pending.push(pending);
                continue;
            };
            match (pending.waiting, labelled) {
                (
                    Waiting::Operand {
                        instruction,
                        operand,
                    },
                    labelled,
                ) => {
                    body.instructions[instruction].operands[operand] = match labelled {
                        Labelled::Place(id) => Operand::Label(*id),
                        Labelled::Table(name) => Operand::Table(name.clone()),
                        Labelled::Prototype => Operand::Symbol {
                            name: pending.token.text.into(),
                            addend: 0,
                        },
                    };
                }
                (Waiting::BranchTarget { table, entry }, Labelled::Place(id)) => {
                    body.branch_targets[table].1[entry] = *id;
                }
                (Waiting::BranchTarget { .. }, _) => {
                    let found = pending.token.describe();
                    let message = format!("expected the label of an instruction, found {found}");
                    return Err(self.cursor.error(pending.token, message));
                }
            }
        }
        Ok(())
    }

    /// After `name:`.
    fn label(&mut self, body: &mut Body<'a>, name: Token<'a>) -> Result<(), ParseError> {
        let labelled = match self.cursor.peek().kind {
            Kind::Word if self.cursor.at_word("branchtargets") => {
                self.cursor.advance()?;
                let table = body.branch_targets.len();
                let mut count = 0;
                loop {
                    let token = self.cursor.expect_kind(Kind::Name, "a label")?;
                    let waiting = Waiting::BranchTarget {
                        table,
                        entry: count,
                    };
                    body.scopes
                        .innermost()
                        .pending
                        .push(Pending { waiting, token });
                    count += 1;
                    if !self.cursor.eat(",")? {
                        break;
                    }
                }
                self.cursor.expect(";")?;
                let unique = body.rename_apart(name.text, false);
                body.branch_targets
                    .push((unique.clone(), vec![UNRESOLVED; count]));
                Labelled::Table(unique)
            }
            Kind::Word
                if self.cursor.at_word("calltargets") || self.cursor.at_word("callprototype") =>
            {
                // The call itself lists what it passes.
                while !self.cursor.at(";") {
                    if matches!(self.cursor.peek().kind, Kind::End | Kind::Text) {
                        return Err(self.cursor.expected("`;`"));
                    }
                    self.cursor.advance()?;
                }
                self.cursor.advance()?;
                Labelled::Prototype
            }
            _ => Labelled::Place(body.new_label(name.text)),
        };
        if body
            .scopes
            .innermost()
            .labels
            .insert(name.text, labelled)
            .is_some()
        {
            let message = format!("label {} is defined twice in this scope", name.describe());
            return Err(self.cursor.error(name, message));
        }
        Ok(())
    }

    /// `.reg`, variables of the function, and debugging directives.
    fn declaration(&mut self, body: &mut Body<'a>) -> Result<(), ParseError> {
        if self.ignored()? {
            return Ok(());
        }
        let external = self.cursor.eat_word("extern")?;
        let token = self.cursor.peek();
        match token.text {
            "reg" if !external => {
                self.cursor.advance()?;
                self.registers(body)
            }
            "local" | "shared" | "param" if token.kind == Kind::Word => {
                self.cursor.advance()?;
                for (name, mut variable) in self.variables(token, external)? {
                    let unique = body.rename_apart(name.text, self.globals.contains_key(name.text));
                    variable.name.clone_from(&unique);
                    if !body.scopes.bind(name.text, Binding::Variable(unique)) {
                        return Err(self.twice(name));
                    }
                    body.variables.push(variable);
                }
                Ok(())
            }
            _ => Err(self
                .cursor
                .expected("a directive that a function may contain like `.reg`")),
        }
    }

    fn twice(&self, name: Token<'a>) -> ParseError {
        let message = format!("{} is declared twice in this scope", name.describe());
        self.cursor.error(name, message)
    }

    /// After `.reg`.
    fn registers(&mut self, body: &mut Body<'a>) -> Result<(), ParseError> {
        let token = self.cursor.peek();
        let components = match (token.kind, token.text) {
            (Kind::Word, "v2") => Some(2),
            (Kind::Word, "v4") => Some(4),
            _ => None,
        };
        if components.is_some() {
            self.cursor.advance()?;
        }
        let ty = self.register_type()?;
        let shape = RegisterShape { ty, components };
        loop {
            let name = self.cursor.expect_kind(Kind::Name, "a register's name")?;
            let fresh = match self.cursor.eat("<")? {
                true => {
                    let count = self.cursor.count()?;
                    self.cursor.expect(">")?;
                    body.scopes.declare_range(name.text, count, shape)
                }
                false => body.scopes.declare(name.text, shape),
            };
            if !fresh {
                return Err(self.twice(name));
            }
            if !self.cursor.eat(",")? {
                break;
            }
        }
        match self.cursor.eat(";")? {
            true => Ok(()),
            false => Err(self.cursor.expected("`,` or `;` after a register's name")),
        }
    }

    /// `@p` or `@!p`.
    fn guard(&mut self, body: &mut Body<'a>) -> Result<Guard, ParseError> {
        self.cursor.expect("@")?;
        let negated = self.cursor.eat("!")?;
        let register = self.predicate(body)?;
        Ok(Guard { register, negated })
    }

    fn predicate(&mut self, body: &mut Body<'a>) -> Result<RegId, ParseError> {
        let name = self
            .cursor
            .expect_kind(Kind::Name, "a predicate register")?;
        let id = match body.scopes.find(name.text) {
            Some(Binding::Register(id)) => Some(*id),
            _ => None,
        };
        id.filter(|id| body.scopes.registers[id.0 as usize].ty == Type::Pred)
            .ok_or_else(|| {
                let message = format!("expected a predicate register, found {}", name.describe());
                self.cursor.error(name, message)
            })
    }

    /// The words after an opcode, its operands and the semicolon.
    fn instruction(
        &mut self,
        body: &mut Body<'a>,
        guard: Option<Guard>,
        opcode: Token<'a>,
        line: u32,
    ) -> Result<(), ParseError> {
        if opcode.text.starts_with(['%', '$', '_']) {
            let message = format!("expected an instruction, found {}", opcode.describe());
            return Err(self.cursor.error(opcode, message));
        }
        let mut modifiers = Vec::new();
        while self.cursor.peek().kind == Kind::Word {
            modifiers.push(self.cursor.advance()?.text.to_owned());
        }
        let operands = match opcode.text {
            _ if self.cursor.at(";") => Vec::new(),
            "call" => self.call_operands(body)?,
            _ => {
                let mut operands = Vec::new();
                loop {
                    let label = matches!((opcode.text, operands.len()), ("bra", 0) | ("brx", 1));
                    operands.push(match label {
                        true => self.label_operand(body, operands.len())?,
                        false => self.operand(body)?,
                    });
                    if !self.cursor.eat(",")? {
                        break operands;
                    }
                }
            }
        };
        if !self.cursor.at(";") {
            return Err(self.cursor.expected("`,` or `;` after an operand"));
        }
        self.cursor.advance()?;
        body.instructions.push(Instruction {
            guard,
            opcode: opcode.text.into(),
            modifiers,
            operands,
            line,
        });
        Ok(())
    }

    /// A label that may be defined further down: operand number `operand` of the instruction under way.
    fn label_operand(
        &mut self,
        body: &mut Body<'a>,
        operand: usize,
    ) -> Result<Operand, ParseError> {
        let token = self.cursor.expect_kind(Kind::Name, "a label")?;
        let waiting = Waiting::Operand {
            instruction: body.instructions.len(),
            operand,
        };
        body.scopes
            .innermost()
            .pending
            .push(Pending { waiting, token });
        Ok(Operand::Label(UNRESOLVED))
    }

    /// `(results), function, (arguments), prototype`, all but the function optional.
    fn call_operands(&mut self, body: &mut Body<'a>) -> Result<Vec<Operand>, ParseError> {
        let mut results = Vec::new();
        if self.cursor.at("(") {
            results = self.list(body, "(", ")")?;
            self.cursor.expect(",")?;
        }
        let callee = self.element(body)?;
        if !matches!(callee, Operand::Symbol { .. } | Operand::Register(_)) {
            return Err(self.cursor.expected("a function before this"));
        }
        let mut operands = vec![
            Operand::Vector(results),
            callee,
            Operand::Vector(Vec::new()),
        ];
        let mut more = self.cursor.eat(",")?;
        if more && self.cursor.at("(") {
            operands[2] = Operand::Vector(self.list(body, "(", ")")?);
            more = self.cursor.eat(",")?;
        }
        if more {
            operands.push(self.label_operand(body, 3)?);
        }
        Ok(operands)
    }

    /// Operands between two brackets.
    fn list(
        &mut self,
        body: &mut Body<'a>,
        open: &str,
        close: &str,
    ) -> Result<Vec<Operand>, ParseError> {
        self.cursor.expect(open)?;
        let mut elements = Vec::new();
        while !self.cursor.at(close) {
            elements.push(self.element(body)?);
            if !self.cursor.eat(",")? {
                break;
            }
        }
        if !self.cursor.at(close) {
            return Err(self.cursor.expected(&format!("`,` or `{close}`")));
        }
        self.cursor.advance()?;
        Ok(elements)
    }

    fn operand(&mut self, body: &mut Body<'a>) -> Result<Operand, ParseError> {
        if self.cursor.at("{") {
            return Ok(Operand::Vector(self.list(body, "{", "}")?));
        }
        if self.cursor.at("[") {
            return self.address(body);
        }
        let first = self.element(body)?;
        if !self.cursor.eat("|")? {
            return Ok(first);
        }
        let second = self.element(body)?;
        Ok(Operand::Pair(Box::new(first), Box::new(second)))
    }

    /// An operand without brackets: a register, a constant, a name, `!p` or `_`.
    fn element(&mut self, body: &mut Body<'a>) -> Result<Operand, ParseError> {
        if self.cursor.at("!") {
            self.cursor.advance()?;
            return Ok(Operand::NotRegister(self.predicate(body)?));
        }
        if self.cursor.at_constant() {
            return Ok(Operand::Immediate(self.cursor.immediate()?));
        }
        let name = self.cursor.expect_kind(Kind::Name, "an operand")?;
        if name.text == "_" {
            return Ok(Operand::Sink);
        }
        match body.scopes.find(name.text).cloned() {
            Some(Binding::Register(id)) => Ok(Operand::Register(id)),
            Some(Binding::Vector(ids)) => self.vector_register(&ids),
            Some(Binding::Variable(symbol)) => self.symbol(body, symbol),
            None if self.globals.contains_key(name.text) => self.symbol(body, name.text.into()),
            None => self.special(name),
        }
    }

    /// What follows a variable's or function's name: an offset, or the subscript of an element.
    fn symbol(&mut self, body: &Body<'a>, name: String) -> Result<Operand, ParseError> {
        if !self.cursor.at("[") {
            let addend = self.cursor.offset()?;
            return Ok(Operand::Symbol { name, addend });
        }
        let bracket = self.cursor.advance()?;
        let own = body.variables.iter().rev().find(|v| v.name == name);
        let known = own.or_else(|| self.module.variables.iter().find(|v| v.name == name));
        let Some(size) = known.map(|v| i64::from(v.ty.size())) else {
            let message = format!("{name} has no elements");
            return Err(self.cursor.error(bracket, message));
        };
        let offset = self.cursor.integer()?.wrapping_mul(size);
        self.cursor.expect("]")?;
        Ok(Operand::Element { name, offset })
    }

    /// A vector register whole, or the component that follows its name.
    fn vector_register(&mut self, ids: &[RegId]) -> Result<Operand, ParseError> {
        let word = self.cursor.peek();
        if word.kind != Kind::Word {
            return Ok(Operand::Vector(
                ids.iter().map(|id| Operand::Register(*id)).collect(),
            ));
        }
        let places = COMPONENTS.map(|names| names.iter().position(|name| *name == word.text));
        let place = places[0].or(places[1]).and_then(|place| ids.get(place));
        match place {
            Some(id) => {
                self.cursor.advance()?;
                Ok(Operand::Register(*id))
            }
            None => Err(self.cursor.expected("a component of the vector register")),
        }
    }

    /// `%tid.x`, `%laneid`, …
    fn special(&mut self, name: Token<'a>) -> Result<Operand, ParseError> {
        let Some(known) = name
            .text
            .strip_prefix('%')
            .filter(|known| is_special(known))
        else {
            let found = name.describe();
            let message =
                format!("{found} is not a register, variable or function that is declared here");
            return Err(self.cursor.error(name, message));
        };
        let word = self.cursor.peek();
        let three_dimensional = matches!(
            known,
            "tid"
                | "ntid"
                | "ctaid"
                | "nctaid"
                | "clusterid"
                | "nclusterid"
                | "cluster_ctaid"
                | "cluster_nctaid"
        );
        if !three_dimensional || word.kind != Kind::Word {
            return Ok(Operand::Special(name.text.into()));
        }
        if !matches!(word.text, "x" | "y" | "z") {
            return Err(self.cursor.expected("`.x`, `.y` or `.z`"));
        }
        self.cursor.advance()?;
        Ok(Operand::Special(format!("{}.{}", name.text, word.text)))
    }

    /// `[base + offset]`, with coordinates for a tensor.
    fn address(&mut self, body: &mut Body<'a>) -> Result<Operand, ParseError> {
        self.cursor.expect("[")?;
        let name = self.cursor.peek();
        let (base, offset) = if self.cursor.at_constant() {
            (AddressBase::Absolute, self.cursor.integer()?)
        } else {
            let (base, offset) = match self.element(body)? {
                Operand::Register(id) => (AddressBase::Register(id), 0),
                Operand::Symbol { name, addend } => (AddressBase::Symbol(name), addend),
                _ => {
                    let found = name.describe();
                    let message = format!("expected a register or a variable, found {found}");
                    return Err(self.cursor.error(name, message));
                }
            };
            (base, offset.wrapping_add(self.cursor.offset()?))
        };
        let coordinates = match self.cursor.eat(",")? {
            true => Some(self.list(body, "{", "}")?),
            false => None,
        };
        if !self.cursor.at("]") {
            return Err(self.cursor.expected("`]` after an address"));
        }
        self.cursor.advance()?;
        Ok(match coordinates {
            None => Operand::Address { base, offset },
            Some(coordinates) => Operand::TensorAddress {
                base,
                offset,
                coordinates,
            },
        })
    }
}

/// Predefined registers, without their `%`.
fn is_special(name: &str) -> bool {
    const SINGLE: [&str; 37] = [
        "tid",
        "ntid",
        "laneid",
        "warpid",
        "nwarpid",
        "ctaid",
        "nctaid",
        "smid",
        "nsmid",
        "gridid",
        "is_explicit_cluster",
        "clusterid",
        "nclusterid",
        "cluster_ctaid",
        "cluster_nctaid",
        "cluster_ctarank",
        "cluster_nctarank",
        "lanemask_eq",
        "lanemask_le",
        "lanemask_lt",
        "lanemask_ge",
        "lanemask_gt",
        "clock",
        "clock_hi",
        "clock64",
        "globaltimer",
        "globaltimer_lo",
        "globaltimer_hi",
        "reserved_smem_offset_begin",
        "reserved_smem_offset_end",
        "reserved_smem_offset_cap",
        "reserved_smem_offset_0",
        "reserved_smem_offset_1",
        "total_smem_size",
        "aggr_smem_size",
        "dynamic_smem_size",
        "current_graph_exec",
    ];
    let numbered = |prefix: &str, limit: u32| {
        let number = name
            .strip_prefix(prefix)
            .and_then(|rest| rest.parse::<u32>().ok());
        number.is_some_and(|number| number < limit)
    };
    let counter = name.strip_suffix("_64").unwrap_or(name);
    SINGLE.contains(&name)
        || numbered("envreg", 32)
        || matches!(
            counter,
            "pm0" | "pm1" | "pm2" | "pm3" | "pm4" | "pm5" | "pm6" | "pm7"
        )
}

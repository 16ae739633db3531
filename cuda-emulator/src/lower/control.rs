//! The table of opcodes; branches, calls, barriers, fences.

use super::function::{FunctionLowering, Result};
use super::image::Place;
use super::op::*;
use super::words::Words;
use crate::check::hooks::{Scope, Semantics};
use crate::ptx::ast::{Operand, Type};

impl FunctionLowering<'_, '_> {
    /// Lowers one instruction; the caller checks that every modifier was taken.
    pub(crate) fn instruction(&mut self, words: &mut Words<'_>) -> Result<()> {
        match words.inst.opcode.as_str() {
            "mov" => self.mov(words),
            "ld" => self.ld_st(words, false, false),
            "ldu" => self.ld_st(words, false, true),
            "st" => self.ld_st(words, true, false),
            "add" => self.add_sub(words, false),
            "sub" => self.add_sub(words, true),
            "addc" => self.addc(words, CarryKind::Add),
            "subc" => self.addc(words, CarryKind::Sub),
            "mul" => self.mul_mad(words, false, false),
            "mad" => self.mul_mad(words, true, false),
            "madc" => self.mul_mad(words, true, true),
            "mul24" => self.mul24(words, false),
            "mad24" => self.mul24(words, true),
            "fma" => self.fma(words),
            "div" => self.div_rem(words, false),
            "rem" => self.div_rem(words, true),
            "min" => self.min_max(words, false),
            "max" => self.min_max(words, true),
            "abs" => self.abs_neg(words, false),
            "neg" => self.abs_neg(words, true),
            "copysign" => self.copysign(words),
            "sad" => self.sad(words),
            "and" => self.logic(words, Int::And, Some(PredOp::And)),
            "or" => self.logic(words, Int::Or, Some(PredOp::Or)),
            "xor" => self.logic(words, Int::Xor, Some(PredOp::Xor)),
            "not" => self.logic(words, Int::Not, Some(PredOp::Not)),
            "cnot" => self.logic(words, Int::Cnot, None),
            "lop3" => self.lop3(words),
            "shl" => self.shift(words, true),
            "shr" => self.shift(words, false),
            "shf" => self.funnel(words),
            "bfe" => self.bfe(words),
            "bfi" => self.bfi(words),
            "bfind" => self.count(
                words,
                Count::Bfind {
                    signed: false,
                    shift: false,
                },
            ),
            "popc" => self.count(words, Count::Popc),
            "clz" => self.count(words, Count::Clz),
            "brev" => self.count(words, Count::Brev),
            "prmt" => self.prmt(words),
            "szext" => self.szext(words),
            "bmsk" => self.bmsk(words),
            "fns" => self.fns(words),
            "vabsdiff2" => self.absolute_difference(words, false),
            "vabsdiff4" => self.absolute_difference(words, true),
            "dp4a" => self.dot(words, true),
            "dp2a" => self.dot(words, false),
            "rcp" => self.rcp(words),
            "sqrt" => self.sqrt(words),
            "rsqrt" => self.rsqrt(words),
            "ex2" => self.approximate(words, F32Op::Ex2, Some(HalfOp::Ex2)),
            "lg2" => self.approximate(words, F32Op::Lg2, None),
            "sin" => self.approximate(words, F32Op::Sin, None),
            "cos" => self.approximate(words, F32Op::Cos, None),
            "tanh" => self.approximate(words, F32Op::Tanh, Some(HalfOp::Tanh)),
            "setp" => self.setp(words),
            "set" => self.set(words),
            "selp" => self.selp(words),
            "slct" => self.slct(words),
            "testp" => self.testp(words),
            "cvt" => self.cvt(words),
            "cvta" => self.cvta(words),
            "isspacep" => self.isspacep(words),
            "atom" => self.atom(words, false),
            "red" => self.atom(words, true),
            "cp" => self.cp(words),
            "prefetch" | "prefetchu" => self.prefetch(words),
            "discard" => self.discard(words),
            "applypriority" => self.apply_priority(words),
            "createpolicy" => self.createpolicy(words),
            "ldmatrix" => self.ldmatrix(words, false),
            "stmatrix" => self.ldmatrix(words, true),
            "movmatrix" => self.movmatrix(words),
            "mma" => self.mma(words),
            "wmma" => self.wmma(words),
            "shfl" => self.shfl(words),
            "vote" => self.vote(words),
            "match" => self.match_(words),
            "redux" => self.redux(words),
            "activemask" => self.activemask(words),
            "elect" => self.elect(words),
            "bar" => self.bar(words, true),
            "barrier" => self.bar(words, false),
            "membar" => self.membar(words),
            "fence" => self.fence(words),
            "bra" => self.bra(words),
            "brx" => self.brx(words),
            "call" => self.call(words),
            "ret" => self.end(words, Op::Ret),
            "exit" => self.end(words, Op::Exit),
            "trap" => self.plain(words, Slow::Trap),
            "brkpt" => self.plain(words, Slow::Brkpt),
            "pmevent" => {
                Self::operands(words, 1..=1)?;
                Ok(())
            }
            "nanosleep" => self.nanosleep(words),
            "griddepcontrol" => self.griddepcontrol(words),
            other => Err(words.error(format_args!("`{other}` is not implemented"))),
        }
    }

    fn plain(&mut self, words: &Words<'_>, slow: Slow) -> Result<()> {
        Self::operands(words, 0..=0)?;
        self.slow(slow);
        Ok(())
    }

    fn end(&mut self, words: &mut Words<'_>, op: Op) -> Result<()> {
        words.flag("uni");
        Self::operands(words, 0..=0)?;
        self.emit(op, 0, [0; 4]);
        Ok(())
    }

    fn nanosleep(&mut self, words: &mut Words<'_>) -> Result<()> {
        if words.one_type()? != Type::U32 {
            return Err(words.error("nanosleep is u32"));
        }
        let o = Self::operands(words, 1..=1)?;
        let time = self.src32(&o[0], Type::U32, words)?;
        self.slow(Slow::Nanosleep { time });
        Ok(())
    }

    fn griddepcontrol(&mut self, words: &mut Words<'_>) -> Result<()> {
        if !words.flag("launch_dependents") && !words.flag("wait") {
            return Err(words.error("griddepcontrol has .launch_dependents or .wait"));
        }
        self.plain(words, Slow::GridDependency)
    }

    fn bra(&mut self, words: &mut Words<'_>) -> Result<()> {
        words.flag("uni");
        let o = Self::operands(words, 1..=1)?;
        let Operand::Label(label) = o[0] else {
            return Err(words.error("a label was expected"));
        };
        self.emit(Op::Bra(label.0), 0, [0; 4]);
        Ok(())
    }

    fn brx(&mut self, words: &mut Words<'_>) -> Result<()> {
        if !words.flag("idx") {
            return Err(words.error("only brx.idx is implemented"));
        }
        words.flag("uni");
        let o = Self::operands(words, 2..=2)?;
        let index = self.src32(&o[0], Type::U32, words)?;
        let name = match &o[1] {
            Operand::Table(name) => name.as_str(),
            Operand::Symbol { name, addend: 0 } => name,
            Operand::Label(l) => &self.func.label_names[l.0 as usize],
            _ => return Err(words.error("a table of branch targets was expected")),
        };
        let Some((_, labels)) = self.func.branch_targets.iter().find(|(n, _)| n == name) else {
            return Err(words.error(format_args!("no .branchtargets are called {name}")));
        };
        let targets = labels.iter().map(|l| l.0).collect();
        let place = self.image.code.slow.len();
        self.slow(Slow::Brx { index, targets });
        self.brx.push(place);
        Ok(())
    }

    fn membar(&mut self, words: &mut Words<'_>) -> Result<()> {
        let scope = words.one_of(&[("cta", Scope::Cta), ("gl", Scope::Gpu), ("sys", Scope::Sys)]);
        match scope {
            Some(scope) => self.plain(words, Slow::Fence(scope, Semantics::SequentiallyConsistent)),
            None => Err(words.error("membar has .cta, .gl or .sys")),
        }
    }

    fn fence(&mut self, words: &mut Words<'_>) -> Result<()> {
        // For mappings of one piece of memory at several addresses, which there are not.
        if words.flag("proxy") {
            return match words.flag("alias") {
                true => self.plain(words, Slow::Prefetch),
                false => Err(words.error("this proxy fence is not implemented")),
            };
        }
        // All are full fences on the host; where nothing is said it is `.acq_rel`.
        let semantics = words.one_of(&[
            ("sc", Semantics::SequentiallyConsistent),
            ("acq_rel", Semantics::AcquireRelease),
            ("acquire", Semantics::Acquire),
            ("release", Semantics::Release),
        ]);
        let semantics = semantics.unwrap_or(Semantics::AcquireRelease);
        match words.scope() {
            Some(scope) => self.plain(words, Slow::Fence(scope, semantics)),
            None => Err(words.error("this fence is not implemented")),
        }
    }

    /// `bar` and `barrier`; `old` is the spelling whose operations are aligned without saying so.
    fn bar(&mut self, words: &mut Words<'_>, old: bool) -> Result<()> {
        if old && words.flag("warp") {
            if !words.flag("sync") {
                return Err(words.error("bar.warp has .sync"));
            }
            let o = Self::operands(words, 1..=1)?;
            let members = self.src32(&o[0], Type::B32, words)?;
            self.slow(Slow::BarWarp { members });
            return Ok(());
        }
        words.flag("cta");
        let aligned = words.flag("aligned") || old;
        if words.flag("sync") {
            let o = Self::operands(words, 1..=2)?;
            let id = self.src32(&o[0], Type::U32, words)?;
            let count = match o.get(1) {
                Some(o) => self.src32(o, Type::U32, words)?,
                None => NONE,
            };
            self.slow(Slow::Bar(Bar {
                id,
                count,
                waits: true,
                aligned,
                reduce: None,
            }));
            return Ok(());
        }
        if words.flag("arrive") {
            let o = Self::operands(words, 2..=2)?;
            let id = self.src32(&o[0], Type::U32, words)?;
            let count = self.src32(&o[1], Type::U32, words)?;
            self.slow(Slow::Bar(Bar {
                id,
                count,
                waits: false,
                aligned,
                reduce: None,
            }));
            return Ok(());
        }
        if !words.flag("red") {
            return Err(words.error("this barrier operation is not implemented"));
        }
        let op = words.one_of(&[
            ("and", BarRed::And),
            ("or", BarRed::Or),
            ("popc", BarRed::Popc),
        ]);
        let ty = words.one_type()?;
        let (Some(op), true) = (
            op,
            if op == Some(BarRed::Popc) {
                ty == Type::U32
            } else {
                ty == Type::Pred
            },
        ) else {
            return Err(words.error("a barrier reduction is .popc.u32, .and.pred or .or.pred"));
        };
        let o = Self::operands(words, 3..=4)?;
        let d = match op {
            BarRed::Popc => self.dst(&o[0], ty, words)?,
            _ => self.dst_pred(&o[0], words)?,
        };
        let id = self.src32(&o[1], Type::U32, words)?;
        let count = if o.len() == 4 {
            self.src32(&o[2], Type::U32, words)?
        } else {
            NONE
        };
        let a = self.pred(&o[o.len() - 1], words)?;
        let reduce = Some((op, d, a));
        self.slow(Slow::Bar(Bar {
            id,
            count,
            waits: true,
            aligned,
            reduce,
        }));
        Ok(())
    }

    fn call(&mut self, words: &mut Words<'_>) -> Result<()> {
        words.flag("uni");
        let o = &words.inst.operands;
        let Some(at) = o.iter().position(|o| !matches!(o, Operand::Vector(_))) else {
            return Err(words.error("a function was expected"));
        };
        let list = |operands: &'_ [Operand]| -> Vec<Operand> {
            operands
                .iter()
                .flat_map(|o| match o {
                    Operand::Vector(v) => v.clone(),
                    _ => Vec::new(),
                })
                .collect()
        };
        let (returns, args) = (list(&o[..at]), list(&o[at + 1..]));
        match &o[at] {
            Operand::Symbol { name, addend: 0 } => {
                if let Some(index) = self.image.callee(name) {
                    let target = CallTarget::Function(index);
                    let declared = self.image.declaration(name);
                    let (params, results) = match declared {
                        Some(f) => (f.params.len(), f.returns.len()),
                        None => (args.len(), returns.len()),
                    };
                    if params != args.len() || results != returns.len() {
                        return Err(words.error(format_args!(
                            "{name} has {params} parameters and {results} results"
                        )));
                    }
                    return self.call_of(target, &returns, &args, words);
                }
                self.call_external(name, &returns, &args, words)
            }
            Operand::Register(_) => {
                let slot = self.src64(&o[at], Type::U64, words)?;
                self.call_of(CallTarget::Indirect(slot), &returns, &args, words)
            }
            _ => Err(words.error("a function was expected")),
        }
    }

    fn call_of(
        &mut self,
        target: CallTarget,
        returns: &[Operand],
        args: &[Operand],
        words: &Words<'_>,
    ) -> Result<()> {
        let mut call = Call {
            target,
            args: Vec::new(),
            returns: Vec::new(),
        };
        for arg in args {
            let value = self.value(arg, words)?;
            call.args.push(value);
        }
        for ret in returns {
            let value = match ret {
                Operand::Sink => Value::Sink,
                other => self.value(other, words)?,
            };
            call.returns.push(value);
        }
        self.slow(Slow::Call(call));
        Ok(())
    }

    /// An argument or a place for a result.
    fn value(&mut self, operand: &Operand, words: &Words<'_>) -> Result<Value> {
        match operand {
            Operand::Register(id) => Ok(Value::Reg(self.reg(*id))),
            Operand::Symbol { name, addend: 0 } => match self.place(name, words)? {
                Place::FrameParam(offset, size) => Ok(Value::Frame(offset, size)),
                _ => Err(words.error(format_args!(
                    "{name} is not a .param variable of this function"
                ))),
            },
            Operand::Immediate(_) => {
                Err(words.error("an immediate as argument of a call is not implemented"))
            }
            _ => Err(words.error("a .param variable or a register was expected")),
        }
    }

    fn call_external(
        &mut self,
        name: &str,
        returns: &[Operand],
        args: &[Operand],
        words: &Words<'_>,
    ) -> Result<()> {
        let mut frames = Vec::new();
        for arg in args {
            match self.value(arg, words)? {
                Value::Frame(offset, _) => frames.push(offset),
                _ => return Err(words.error("a .param variable was expected")),
            }
        }
        let ret = match returns {
            [] | [Operand::Sink] => None,
            [r] => Some(self.value(r, words)?),
            _ => return Err(words.error("one result at most was expected")),
        };
        match (name, &frames[..]) {
            ("vprintf", &[format, args]) => self.slow(Slow::Vprintf { format, args, ret }),
            ("__assertfail", &[message, file, line, function, _]) => {
                self.slow(Slow::AssertFail([message, file, line, function]));
            }
            _ => {
                return Err(words.error(format_args!(
                    "the external function {name} with {} arguments is not provided",
                    args.len()
                )));
            }
        }
        Ok(())
    }
}

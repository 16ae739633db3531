//! The table of opcodes; branches, calls, barriers, fences.

use super::function::{FunctionLowering, Result};
use super::image::Place;
use super::op::*;
use super::words::Words;
use crate::check::hooks::{Scope, Semantics};
use crate::ptx::ast::{Operand, Type};

impl FunctionLowering<'_, '_> {
    /// Lowers one instruction; the caller checks that every modifier was taken.
    pub(crate) fn instruction(&mut self, w: &mut Words<'_>) -> Result<()> {
        match w.inst.opcode.as_str() {
            "mov" => self.mov(w),
            "ld" => self.ld_st(w, false, false),
            "ldu" => self.ld_st(w, false, true),
            "st" => self.ld_st(w, true, false),
            "add" => self.add_sub(w, false),
            "sub" => self.add_sub(w, true),
            "addc" => self.addc(w, CarryKind::Add),
            "subc" => self.addc(w, CarryKind::Sub),
            "mul" => self.mul_mad(w, false, false),
            "mad" => self.mul_mad(w, true, false),
            "madc" => self.mul_mad(w, true, true),
            "mul24" => self.mul24(w, false),
            "mad24" => self.mul24(w, true),
            "fma" => self.fma(w),
            "div" => self.div_rem(w, false),
            "rem" => self.div_rem(w, true),
            "min" => self.min_max(w, false),
            "max" => self.min_max(w, true),
            "abs" => self.abs_neg(w, false),
            "neg" => self.abs_neg(w, true),
            "copysign" => self.copysign(w),
            "sad" => self.sad(w),
            "and" => self.logic(w, Int::And, Some(PredOp::And)),
            "or" => self.logic(w, Int::Or, Some(PredOp::Or)),
            "xor" => self.logic(w, Int::Xor, Some(PredOp::Xor)),
            "not" => self.logic(w, Int::Not, Some(PredOp::Not)),
            "cnot" => self.logic(w, Int::Cnot, None),
            "lop3" => self.lop3(w),
            "shl" => self.shift(w, true),
            "shr" => self.shift(w, false),
            "shf" => self.funnel(w),
            "bfe" => self.bfe(w),
            "bfi" => self.bfi(w),
            "bfind" => self.count(
                w,
                Count::Bfind {
                    signed: false,
                    shift: false,
                },
            ),
            "popc" => self.count(w, Count::Popc),
            "clz" => self.count(w, Count::Clz),
            "brev" => self.count(w, Count::Brev),
            "prmt" => self.prmt(w),
            "szext" => self.szext(w),
            "bmsk" => self.bmsk(w),
            "fns" => self.fns(w),
            "vabsdiff2" => self.absolute_difference(w, false),
            "vabsdiff4" => self.absolute_difference(w, true),
            "dp4a" => self.dot(w, true),
            "dp2a" => self.dot(w, false),
            "rcp" => self.rcp(w),
            "sqrt" => self.sqrt(w),
            "rsqrt" => self.rsqrt(w),
            "ex2" => self.approximate(w, F32Op::Ex2, Some(HalfOp::Ex2)),
            "lg2" => self.approximate(w, F32Op::Lg2, None),
            "sin" => self.approximate(w, F32Op::Sin, None),
            "cos" => self.approximate(w, F32Op::Cos, None),
            "tanh" => self.approximate(w, F32Op::Tanh, Some(HalfOp::Tanh)),
            "setp" => self.setp(w),
            "set" => self.set(w),
            "selp" => self.selp(w),
            "slct" => self.slct(w),
            "testp" => self.testp(w),
            "cvt" => self.cvt(w),
            "cvta" => self.cvta(w),
            "isspacep" => self.isspacep(w),
            "atom" => self.atom(w, false),
            "red" => self.atom(w, true),
            "cp" => self.cp(w),
            "prefetch" | "prefetchu" => self.prefetch(w),
            "discard" => self.discard(w),
            "applypriority" => self.apply_priority(w),
            "createpolicy" => self.createpolicy(w),
            "ldmatrix" => self.ldmatrix(w, false),
            "stmatrix" => self.ldmatrix(w, true),
            "movmatrix" => self.movmatrix(w),
            "mma" => self.mma(w),
            "wmma" => self.wmma(w),
            "shfl" => self.shfl(w),
            "vote" => self.vote(w),
            "match" => self.match_(w),
            "redux" => self.redux(w),
            "activemask" => self.activemask(w),
            "elect" => self.elect(w),
            "bar" => self.bar(w, true),
            "barrier" => self.bar(w, false),
            "membar" => self.membar(w),
            "fence" => self.fence(w),
            "bra" => self.bra(w),
            "brx" => self.brx(w),
            "call" => self.call(w),
            "ret" => self.end(w, Op::Ret),
            "exit" => self.end(w, Op::Exit),
            "trap" => self.plain(w, Slow::Trap),
            "brkpt" => self.plain(w, Slow::Brkpt),
            "pmevent" => {
                Self::operands(w, 1..=1)?;
                Ok(())
            }
            "nanosleep" => self.nanosleep(w),
            "griddepcontrol" => self.griddepcontrol(w),
            other => Err(w.error(format_args!("`{other}` is not implemented"))),
        }
    }

    fn plain(&mut self, w: &Words<'_>, slow: Slow) -> Result<()> {
        Self::operands(w, 0..=0)?;
        self.slow(slow);
        Ok(())
    }

    fn end(&mut self, w: &mut Words<'_>, op: Op) -> Result<()> {
        w.flag("uni");
        Self::operands(w, 0..=0)?;
        self.emit(op, 0, [0; 4]);
        Ok(())
    }

    fn nanosleep(&mut self, w: &mut Words<'_>) -> Result<()> {
        if w.one_type()? != Type::U32 {
            return Err(w.error("nanosleep is u32"));
        }
        let o = Self::operands(w, 1..=1)?;
        let time = self.src32(&o[0], Type::U32, w)?;
        self.slow(Slow::Nanosleep { time });
        Ok(())
    }

    fn griddepcontrol(&mut self, w: &mut Words<'_>) -> Result<()> {
        if !w.flag("launch_dependents") && !w.flag("wait") {
            return Err(w.error("griddepcontrol has .launch_dependents or .wait"));
        }
        self.plain(w, Slow::GridDependency)
    }

    fn bra(&mut self, w: &mut Words<'_>) -> Result<()> {
        w.flag("uni");
        let o = Self::operands(w, 1..=1)?;
        let Operand::Label(label) = o[0] else {
            return Err(w.error("a label was expected"));
        };
        self.emit(Op::Bra(label.0), 0, [0; 4]);
        Ok(())
    }

    fn brx(&mut self, w: &mut Words<'_>) -> Result<()> {
        if !w.flag("idx") {
            return Err(w.error("only brx.idx is implemented"));
        }
        w.flag("uni");
        let o = Self::operands(w, 2..=2)?;
        let index = self.src32(&o[0], Type::U32, w)?;
        let name = match &o[1] {
            Operand::Table(name) => name.as_str(),
            Operand::Symbol { name, addend: 0 } => name,
            Operand::Label(l) => &self.func.label_names[l.0 as usize],
            _ => return Err(w.error("a table of branch targets was expected")),
        };
        let Some((_, labels)) = self.func.branch_targets.iter().find(|(n, _)| n == name) else {
            return Err(w.error(format_args!("no .branchtargets are called {name}")));
        };
        let targets = labels.iter().map(|l| l.0).collect();
        let place = self.image.code.slow.len();
        self.slow(Slow::Brx { index, targets });
        self.brx.push(place);
        Ok(())
    }

    fn membar(&mut self, w: &mut Words<'_>) -> Result<()> {
        let scope = w.one_of(&[("cta", Scope::Cta), ("gl", Scope::Gpu), ("sys", Scope::Sys)]);
        match scope {
            Some(scope) => self.plain(w, Slow::Fence(scope, Semantics::SequentiallyConsistent)),
            None => Err(w.error("membar has .cta, .gl or .sys")),
        }
    }

    fn fence(&mut self, w: &mut Words<'_>) -> Result<()> {
        // For mappings of one piece of memory at several addresses, which there are not.
        if w.flag("proxy") {
            return match w.flag("alias") {
                true => self.plain(w, Slow::Prefetch),
                false => Err(w.error("this proxy fence is not implemented")),
            };
        }
        // All are full fences on the host; where nothing is said it is `.acq_rel`.
        let semantics = w.one_of(&[
            ("sc", Semantics::SequentiallyConsistent),
            ("acq_rel", Semantics::AcquireRelease),
            ("acquire", Semantics::Acquire),
            ("release", Semantics::Release),
        ]);
        let semantics = semantics.unwrap_or(Semantics::AcquireRelease);
        match w.scope() {
            Some(scope) => self.plain(w, Slow::Fence(scope, semantics)),
            None => Err(w.error("this fence is not implemented")),
        }
    }

    /// `bar` and `barrier`; `old` is the spelling whose operations are aligned without saying so.
    fn bar(&mut self, w: &mut Words<'_>, old: bool) -> Result<()> {
        if old && w.flag("warp") {
            if !w.flag("sync") {
                return Err(w.error("bar.warp has .sync"));
            }
            let o = Self::operands(w, 1..=1)?;
            let members = self.src32(&o[0], Type::B32, w)?;
            self.slow(Slow::BarWarp { members });
            return Ok(());
        }
        w.flag("cta");
        let aligned = w.flag("aligned") || old;
        if w.flag("sync") {
            let o = Self::operands(w, 1..=2)?;
            let id = self.src32(&o[0], Type::U32, w)?;
            let count = match o.get(1) {
                Some(o) => self.src32(o, Type::U32, w)?,
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
        if w.flag("arrive") {
            let o = Self::operands(w, 2..=2)?;
            let id = self.src32(&o[0], Type::U32, w)?;
            let count = self.src32(&o[1], Type::U32, w)?;
            self.slow(Slow::Bar(Bar {
                id,
                count,
                waits: false,
                aligned,
                reduce: None,
            }));
            return Ok(());
        }
        if !w.flag("red") {
            return Err(w.error("this barrier operation is not implemented"));
        }
        let op = w.one_of(&[
            ("and", BarRed::And),
            ("or", BarRed::Or),
            ("popc", BarRed::Popc),
        ]);
        let ty = w.one_type()?;
        let (Some(op), true) = (
            op,
            if op == Some(BarRed::Popc) {
                ty == Type::U32
            } else {
                ty == Type::Pred
            },
        ) else {
            return Err(w.error("a barrier reduction is .popc.u32, .and.pred or .or.pred"));
        };
        let o = Self::operands(w, 3..=4)?;
        let d = match op {
            BarRed::Popc => self.dst(&o[0], ty, w)?,
            _ => self.dst_pred(&o[0], w)?,
        };
        let id = self.src32(&o[1], Type::U32, w)?;
        let count = if o.len() == 4 {
            self.src32(&o[2], Type::U32, w)?
        } else {
            NONE
        };
        let a = self.pred(&o[o.len() - 1], w)?;
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

    fn call(&mut self, w: &mut Words<'_>) -> Result<()> {
        w.flag("uni");
        let o = &w.inst.operands;
        let Some(at) = o.iter().position(|o| !matches!(o, Operand::Vector(_))) else {
            return Err(w.error("a function was expected"));
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
                        return Err(w.error(format_args!(
                            "{name} has {params} parameters and {results} results"
                        )));
                    }
                    return self.call_of(target, &returns, &args, w);
                }
                self.call_external(name, &returns, &args, w)
            }
            Operand::Register(_) => {
                let slot = self.src64(&o[at], Type::U64, w)?;
                self.call_of(CallTarget::Indirect(slot), &returns, &args, w)
            }
            _ => Err(w.error("a function was expected")),
        }
    }

    fn call_of(
        &mut self,
        target: CallTarget,
        returns: &[Operand],
        args: &[Operand],
        w: &Words<'_>,
    ) -> Result<()> {
        let mut call = Call {
            target,
            args: Vec::new(),
            returns: Vec::new(),
        };
        for arg in args {
            let value = self.value(arg, w)?;
            call.args.push(value);
        }
        for ret in returns {
            let value = match ret {
                Operand::Sink => Value::Sink,
                other => self.value(other, w)?,
            };
            call.returns.push(value);
        }
        self.slow(Slow::Call(call));
        Ok(())
    }

    /// An argument or a place for a result.
    fn value(&mut self, operand: &Operand, w: &Words<'_>) -> Result<Value> {
        match operand {
            Operand::Register(id) => Ok(Value::Reg(self.reg(*id))),
            Operand::Symbol { name, addend: 0 } => match self.place(name, w)? {
                Place::FrameParam(offset, size) => Ok(Value::Frame(offset, size)),
                _ => Err(w.error(format_args!(
                    "{name} is not a .param variable of this function"
                ))),
            },
            Operand::Immediate(_) => {
                Err(w.error("an immediate as argument of a call is not implemented"))
            }
            _ => Err(w.error("a .param variable or a register was expected")),
        }
    }

    fn call_external(
        &mut self,
        name: &str,
        returns: &[Operand],
        args: &[Operand],
        w: &Words<'_>,
    ) -> Result<()> {
        let mut frames = Vec::new();
        for arg in args {
            match self.value(arg, w)? {
                Value::Frame(offset, _) => frames.push(offset),
                _ => return Err(w.error("a .param variable was expected")),
            }
        }
        let ret = match returns {
            [] | [Operand::Sink] => None,
            [r] => Some(self.value(r, w)?),
            _ => return Err(w.error("one result at most was expected")),
        };
        match (name, &frames[..]) {
            ("vprintf", &[format, args]) => self.slow(Slow::Vprintf { format, args, ret }),
            ("__assertfail", &[message, file, line, function, _]) => {
                self.slow(Slow::AssertFail([message, file, line, function]));
            }
            _ => {
                return Err(w.error(format_args!(
                    "the external function {name} with {} arguments is not provided",
                    args.len()
                )));
            }
        }
        Ok(())
    }
}

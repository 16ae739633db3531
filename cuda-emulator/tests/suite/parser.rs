//! The parser on corners of the syntax. What nvcc writes is under `tests/ptx`.

use cuda_emulator::ptx::ast::*;
use cuda_emulator::ptx::parse;

/// A module around the statements of one kernel.
fn kernel(statements: &str) -> String {
    format!(
        ".version 9.5\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 k_param)\n{{\n{statements}\n}}\n"
    )
}

fn body(statements: &str) -> Function {
    let module = parse(&kernel(statements)).expect("valid PTX");
    module.functions.into_iter().next().expect("one kernel")
}

fn instructions(statements: &str) -> Vec<Instruction> {
    body(statements).body.expect("a body")
}

/// The operands of the only instruction after `declarations`.
fn operands(declarations: &str, instruction: &str) -> Vec<Operand> {
    let mut all = instructions(&format!("{declarations}\n{instruction}"));
    assert_eq!(all.len(), 1);
    all.remove(0).operands
}

fn error(text: &str) -> ParseError {
    parse(text).expect_err("invalid PTX")
}

fn reg(id: u32) -> Operand {
    Operand::Register(RegId(id))
}

fn int(value: i64) -> Operand {
    Operand::Immediate(Immediate::Integer(value))
}

#[test]
fn header_and_target() {
    let module = parse(".version 8.4 .target sm_90a, debug .address_size 64").unwrap();
    assert_eq!(module.version, (8, 4));
    assert_eq!(
        module.target,
        Target {
            sm: 90,
            suffix: Some('a')
        }
    );
    let e = error(".target sm_80");
    assert_eq!((e.line, e.column), (1, 1));
    assert!(
        e.message.contains("`.version`") && e.message.contains("`.target`"),
        "{e}"
    );
    assert!(
        error(".version 9.5 .target sm_80 .address_size 32")
            .message
            .contains("64")
    );
    assert!(
        error(".version nine .target sm_80")
            .message
            .contains("version like")
    );
}

#[test]
fn modifiers_keep_their_order_and_colons() {
    let i = &instructions(
        ".reg .b64 a; .reg .b32 r<9>;\nld.global.L1::no_allocate.L2::128B.v4.u32 {r1,r2,r3,r4}, [a+16];",
    )[0];
    assert_eq!(i.opcode, "ld");
    assert_eq!(
        i.modifiers,
        ["global", "L1::no_allocate", "L2::128B", "v4", "u32"]
    );
    assert_eq!(i.line, 7);
    let i =
        &instructions(".reg .b32 r<9>; mma.sync.aligned.m8n8k4.row.col.f32 { r1 }, {r2 , r3},r4;")
            [0];
    assert_eq!(
        i.modifiers,
        ["sync", "aligned", "m8n8k4", "row", "col", "f32"]
    );
    assert_eq!(i.operands[0], Operand::Vector(vec![reg(0)]));
}

#[test]
fn triton_spacing() {
    let all = instructions(
        ".reg .pred %p<2>; .reg .b32 %r<5>; .reg .b64 %rd<3>;\n@%p1 ld.global.b32 { %r1 }, [ %rd1 + 0 ];\n\
         @!%p1 st.global.b32 [ %rd1 + -8 ], { %r1 };",
    );
    let (p, r, rd) = (RegId(0), reg(1), RegId(2));
    assert_eq!(
        all[0].guard,
        Some(Guard {
            register: p,
            negated: false
        })
    );
    assert_eq!(all[0].operands[0], Operand::Vector(vec![r.clone()]));
    let at = |offset| Operand::Address {
        base: AddressBase::Register(rd),
        offset,
    };
    assert_eq!(all[0].operands[1], at(0));
    assert_eq!(
        all[1].guard,
        Some(Guard {
            register: p,
            negated: true
        })
    );
    assert_eq!(all[1].operands, [at(-8), Operand::Vector(vec![r])]);
}

#[test]
fn ranges_are_declared_lazily_and_exactly() {
    let function = body(".reg .b32 %r<4000000000>;\nmov.b32 %r3999999999, %r0;");
    let names: Vec<_> = function.registers.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["%r3999999999", "%r0"]);
    for wrong in ["%r10", "%r01", "%r"] {
        let e = error(&kernel(&format!(
            ".reg .b32 %r<10>;\nmov.b32 %r1, {wrong};"
        )));
        assert_eq!((e.line, e.column), (7, 14));
        assert!(e.message.contains(wrong), "{e}");
    }
    // 5 of `%r1`, not 15 of `%r`.
    let function = body(".reg .b32 %r<10>; .reg .b64 %r1<8>;\nmov.b64 %r15, 0;");
    assert_eq!(function.registers[0].ty, Type::B64);
}

#[test]
fn scopes_hide_registers_labels_and_variables() {
    let function = body(
        ".reg .b32 r;\n{ .reg .b64 r; .param .b64 q; bra L; mov.b64 r, 1; L: st.param.b64 [q], r; }\n\
         { .param .b32 q; L: bra L; st.param.b32 [q], r; }\nmov.b32 r, 2; bra OUT; { { bra OUT; } }\nOUT: ret;",
    );
    let code = function.body.as_ref().unwrap();
    let target = |at: usize| match code[at].operands[0] {
        Operand::Label(id) => function.labels[id.0 as usize],
        ref other => panic!("no label: {other:?}"),
    };
    assert_eq!((target(0), target(3)), (2, 3));
    assert_eq!((target(6), target(7)), (8, 8));
    let base = |at: usize| match &code[at].operands[0] {
        Operand::Address {
            base: AddressBase::Symbol(name),
            ..
        } => name.clone(),
        other => panic!("no symbol: {other:?}"),
    };
    assert_ne!(base(2), base(4));
    let sizes: Vec<_> = [base(2), base(4)]
        .map(|n| {
            function
                .variables
                .iter()
                .find(|v| v.name == n)
                .unwrap()
                .size
        })
        .into();
    assert_eq!(sizes, [8, 4]);
    assert_ne!(code[2].operands[1], code[4].operands[1]);
    assert_eq!(code[4].operands[1], code[5].operands[0]);
}

#[test]
fn a_label_of_an_inner_scope_is_not_seen_outside() {
    let e = error(&kernel("bra L;\n{ L: ret; }"));
    assert_eq!((e.line, e.column), (6, 5));
    assert!(e.message.contains("`L`"), "{e}");
}

#[test]
fn a_local_variable_does_not_capture_a_global_name() {
    let text = ".version 9.5 .target sm_80 .global .b32 x; .entry k() { .reg .b32 r; { .local .b32 x; ld.local.b32 r, [x]; \
        } ld.global.b32 r, [x]; }";
    let function = &parse(text).unwrap().functions[0];
    let code = function.body.as_ref().unwrap();
    let symbol = |i: &Instruction| match &i.operands[1] {
        Operand::Address {
            base: AddressBase::Symbol(name),
            ..
        } => name.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(symbol(&code[0]), function.variables[0].name);
    assert_eq!(symbol(&code[1]), "x");
    assert_ne!(function.variables[0].name, "x");
}

#[test]
fn operands_of_every_shape() {
    let decl = ".reg .b32 a, b; .reg .pred p, q; .reg .b64 d;";
    assert_eq!(
        operands(decl, "shfl.sync.up.b32 a|p, b, 1, 0, -1;"),
        [
            Operand::Pair(reg(0).into(), reg(2).into()),
            reg(1),
            int(1),
            int(0),
            int(-1)
        ]
    );
    assert_eq!(
        operands(decl, "setp.eq.and.s32 p|_, 1, 2, !q;")[3],
        Operand::NotRegister(RegId(3))
    );
    assert_eq!(
        operands(decl, "mov.u32 a, %tid.x;")[1],
        Operand::Special("%tid.x".into())
    );
    assert_eq!(
        operands(decl, "mov.u32 a, %envreg31;")[1],
        Operand::Special("%envreg31".into())
    );
    assert_eq!(operands(decl, "mov.u32 a, WARP_SZ;")[1], int(32));
    assert_eq!(
        operands(decl, "mov.f32 a, 0fBF800000;")[1],
        Operand::Immediate(Immediate::F32(0xbf80_0000))
    );
    let f64 = |value: f64| Operand::Immediate(Immediate::F64(value.to_bits()));
    assert_eq!(operands(decl, "mov.f64 d, -1.5e+3;")[1], f64(-1500.0));
    assert_eq!(
        operands(decl, "mov.f64 d, 0d3FF0000000000000;")[1],
        f64(1.0)
    );
    assert_eq!(
        operands(decl, "ld.global.u64 d, [d+4-8];")[1],
        Operand::Address {
            base: AddressBase::Register(RegId(4)),
            offset: -4
        }
    );
    assert_eq!(
        operands(decl, "ld.global.u32 a, [4096];")[1],
        Operand::Address {
            base: AddressBase::Absolute,
            offset: 4096
        }
    );
}

#[test]
fn constant_expressions() {
    let value = |text: &str| operands(".reg .b64 d;", &format!("mov.b64 d, {text};"))[1].clone();
    for (text, expected) in [
        ("1+2*3-4/2", 5),
        ("(1+2)*3", 9),
        ("0x1F & ~0b11 | 010", 28),
        ("-8 >> 1", -4),
        ("(.u64)-8 >> 63", 1),
        ("-1 < 1U", 0),
        ("-1 < 1", 1),
        ("(!0) ? 7 : 8", 7),
        ("0 ? 7 : 1 << 4", 16),
        ("0xFFFFFFFFFFFFFFFF", -1),
        ("7 % 4 == 3 && 2 != 2", 0),
    ] {
        assert_eq!(value(text), int(expected), "{text}");
    }
    let e = error(&kernel(".reg .b64 d; mov.b64 d, 1/0;"));
    assert!(e.message.contains("1 / 0"), "{e}");
    assert!(
        error(&kernel(".reg .b64 d; mov.b64 d, 18446744073709551616;"))
            .message
            .contains("integer")
    );
    assert!(
        error(&kernel(".reg .f32 d; mov.f32 d, 0f3F80;"))
            .message
            .contains("0f3F80")
    );
}

#[test]
fn calls() {
    let text = ".version 9.5 .target sm_80\n.extern .func (.param .b32 r) vprintf (.param .b64 a, .param .b64 b);\n.func nothing;\n\
        .entry k() { .reg .b32 %r<3>; .reg .b64 %rd<3>;\n{ .param .b64 a; .param .b32 out; call.uni (out), vprintf, (a, 3); }\n\
        call nothing; call (%r1), %rd1, (%r2), proto; call %rd1, proto;\nproto: .callprototype (.param .b32 _) _ (.param .b32 _); }";
    let module = parse(text).unwrap();
    let names: Vec<_> = module
        .functions
        .iter()
        .map(|f| (f.name.as_str(), f.entry, f.body.is_some()))
        .collect();
    assert_eq!(
        names,
        [
            ("vprintf", false, false),
            ("nothing", false, false),
            ("k", true, true)
        ]
    );
    let code = module.functions[2].body.as_ref().unwrap();
    let symbol = |name: &str| Operand::Symbol {
        name: name.into(),
        addend: 0,
    };
    let list = Operand::Vector;
    assert_eq!(
        code[0].operands,
        [
            list(vec![symbol("out")]),
            symbol("vprintf"),
            list(vec![symbol("a"), int(3)])
        ]
    );
    assert_eq!(
        code[1].operands,
        [list(vec![]), symbol("nothing"), list(vec![])]
    );
    assert_eq!(
        code[2].operands,
        [
            list(vec![reg(0)]),
            reg(1),
            list(vec![reg(2)]),
            symbol("proto")
        ]
    );
    assert_eq!(
        code[3].operands,
        [list(vec![]), reg(1), list(vec![]), symbol("proto")]
    );
}

#[test]
fn branch_tables() {
    let function =
        body(".reg .b32 r;\nts: .branchtargets A, B, A;\nbrx.idx.uni r, ts;\nA: ret;\nB: trap;");
    let code = function.body.as_ref().unwrap();
    assert_eq!(code[0].operands, [reg(0), Operand::Table("ts".into())]);
    let places: Vec<_> = function.branch_targets[0]
        .1
        .iter()
        .map(|id| function.labels[id.0 as usize])
        .collect();
    assert_eq!(places, [1, 2, 1]);
    assert!(
        error(&kernel(
            ".reg .b32 r;\nts: .branchtargets A;\nbrx.idx r, ts;"
        ))
        .message
        .contains("`A`")
    );
}

#[test]
fn declarations_and_definitions_of_functions() {
    let text = ".version 9.5 .target sm_80\n.visible .func (.param .b32 o) f(.param .b32 a) .noreturn;\n.entry k() { ret; }\n\
        .visible .func (.param .b32 o) f(.param .b32 a) { ret; }\n.alias g, f;";
    let module = parse(text).unwrap();
    let names: Vec<_> = module
        .functions
        .iter()
        .map(|f| (f.name.as_str(), f.body.is_some()))
        .collect();
    assert_eq!(names, [("f", true), ("k", true), ("g", true)]);
    let e = error(".version 9.5 .target sm_80 .entry k() { ret; } .entry k() { ret; }");
    assert!(e.message.contains("`k` is defined twice"), "{e}");
}

#[test]
fn parameters_and_directives() {
    let text = ".version 9.5 .target sm_80 .entry k(.param .align 64 .b8 s[100], .param .u64 .ptr .global .align 16 q, .param .f32 f)\n\
        .maxntid 128, 2\n.minnctapersm 3\n.maxnreg 64 .reqntid 32 .reqnctapercluster 2, 1, 1\n.pragma \"x\";\n{ ret; }";
    let f = &parse(text).unwrap().functions[0];
    let shape: Vec<_> = f
        .params
        .iter()
        .map(|p| (p.name.as_str(), p.align, p.size))
        .collect();
    assert_eq!(shape, [("s", 64, 100), ("q", 8, 8), ("f", 4, 4)]);
    assert_eq!(f.directives.maxntid, Some([128, 2, 1]));
    assert_eq!(f.directives.reqntid, Some([32, 1, 1]));
    assert_eq!(f.directives.minnctapersm, Some(3));
    assert_eq!(f.directives.maxnreg, Some(64));
    assert_eq!(f.directives.reqnctapercluster, Some([2, 1, 1]));
}

fn variable(text: &str) -> Variable {
    let module = parse(&format!(
        ".version 9.5 .target sm_80 .global .b64 other; {text}"
    ))
    .expect("valid");
    module.variables[1].clone()
}

fn piece(offset: u64, bytes: &[u8]) -> (u64, InitialValue) {
    (offset, InitialValue::Bytes(bytes.to_vec()))
}

#[test]
fn variables_with_initial_values() {
    let pieces = |v: &Variable| {
        v.initializer
            .iter()
            .map(|i| (i.offset, i.value.clone()))
            .collect::<Vec<_>>()
    };
    let v = variable(".visible .const .align 8 .b16 t[2][3] = {{1, -1}, {0xFFFF}};");
    assert_eq!((v.space, v.align, v.size), (Space::Const, 8, 12));
    assert_eq!(
        pieces(&v),
        [piece(0, &[1, 0, 255, 255]), piece(6, &[255, 255])]
    );
    let v = variable(".global .v4 .f32 f[] = {{0f3F800000, 1.0}, {2.0}};");
    assert_eq!((v.align, v.size), (16, 32));
    assert_eq!(pieces(&v)[1], piece(16, &2f32.to_le_bytes()));
    let v = variable(".global .u64 a[3] = {other, 5, generic(other)+8};");
    let address = |generic, addend| InitialValue::Address {
        name: "other".into(),
        addend,
        generic,
    };
    assert_eq!(
        pieces(&v),
        [
            (0, address(false, 0)),
            piece(8, &5u64.to_le_bytes()),
            (16, address(true, 8))
        ]
    );
    let masks: Vec<_> = (0..8)
        .map(|i| format!("{:#X}(generic(other))", 0xffu64 << (8 * i)).replace("0X", "0x"))
        .collect();
    let v = variable(&format!(
        ".global .align 1 .b8 s[9] = {{1, {}}};",
        masks.join(", ")
    ));
    assert_eq!(pieces(&v), [piece(0, &[1]), (1, address(true, 0))]);
    let v = variable(".extern .shared .align 16 .b8 dynamic[];");
    assert!(v.external && v.size == 0 && v.align == 16);
}

#[test]
fn wrong_initial_values() {
    for (text, part) in [
        (".global .b8 x[2] = {1,2,3};", "more than 2"),
        (".global .b8 x = 256;", "does not fit"),
        (".global .b32 x = other;", "8 bytes"),
        (".global .b64 x = nowhere;", "`nowhere`"),
        (".shared .b32 x = 1;", "initialised"),
        (
            ".global .b8 x[2] = {0xFF(other), 0xFF00(other)};",
            "address",
        ),
        (
            ".global .b8 x[4611686018427387904][4611686018427387904];",
            "64 bits",
        ),
        (".global .f32 x = 1;", "F32"),
        (".global .texref x;", "a type"),
        (".global .align 3 .b32 x;", "power of two"),
    ] {
        let e = error(&format!(
            ".version 9.5 .target sm_80 .global .b64 other;\n{text}"
        ));
        assert!(e.message.contains(part) && e.line == 2, "{text}: {e}");
    }
}

#[test]
fn debugging_data_is_skipped() {
    let text = ".version 9.5\n.target sm_80, debug\n.file 1 \"a b.cu\", 123, 45\n.entry k() {\n.loc 1 2 3\nret;\n\
        .loc 1 5 0, function_name $L__s+4, inlined_at 1 9 1\n$L__tmp: }\n.section .debug_str {\n$L__s: .b8 1,2\n.b64 $L__tmp+3\n\
        }\n.section .debug_macinfo { }";
    let module = parse(text).unwrap();
    assert_eq!(module.functions[0].body.as_ref().unwrap().len(), 1);
    assert_eq!(module.functions[0].labels, [1]);
}

#[test]
fn errors_say_where_and_what() {
    for (statements, line, column, part) in [
        ("mov.b32 x, 1;", 6, 9, "`x` is not a register"),
        (
            ".reg .b32 r; add.s32 r, r 1;",
            6,
            27,
            "expected `,` or `;` after an operand, found `1`",
        ),
        (
            ".reg .b32 r; @r ret;",
            6,
            15,
            "expected a predicate register, found `r`",
        ),
        (".reg .b32 r; st.global.b32 [r, 1;", 6, 32, "expected `{`"),
        (".reg .b32 r, r;", 6, 14, "`r` is declared twice"),
        ("L: ret;\nL: ret;", 7, 1, "`L` is defined twice"),
        (
            ".surfref s;",
            6,
            1,
            "expected a directive that a function may contain",
        ),
        (".reg .b32 é;", 6, 11, "'é'"),
        ("/* open", 6, 1, "`*/`"),
        (".pragma \"x;\n", 6, 9, "closing"),
    ] {
        let e = error(&kernel(statements));
        assert_eq!((e.line, e.column), (line, column), "{statements}: {e}");
        assert!(e.message.contains(part), "{statements}: {e}");
    }
    let e = error(".version 9.5 .target sm_80\n.entry k() {\nret;");
    assert!(e.message.contains("`k` (line 2)"), "{e}");
    assert_eq!(
        e.to_string(),
        format!("PTX line 3, column 5: {}", e.message)
    );
}

#[test]
fn depth_is_limited_instead_of_the_stack() {
    let deep = 1_000_000;
    for statements in [
        "{".repeat(deep),
        format!(".reg .b64 d; mov.b64 d, {}1;", "(".repeat(deep)),
        format!(".reg .b64 d; mov.b64 d, {}1;", "~".repeat(deep)),
        format!(".reg .b64 d; mov.b64 d, {}1;", "1?".repeat(deep)),
        format!(".shared .b8 x{};", "[1]".repeat(deep)),
    ] {
        error(&kernel(&statements));
    }
}

const MIX: &str = include_str!("../ptx/mix.ptx");
const DEBUG: &str = include_str!("../ptx/debug.ptx");
const HOPPER: &str = include_str!("../ptx/hopper.ptx");

fn function<'a>(module: &'a Module, name: &str) -> &'a Function {
    module
        .functions
        .iter()
        .find(|f| f.name == name)
        .expect("the function")
}

#[test]
fn nvcc_mix_of_everything() {
    let module = parse(MIX).unwrap();
    assert_eq!((module.version, module.target.sm), ((9, 5), 80));
    let kernel = function(&module, "mix");
    assert!(kernel.entry);
    assert_eq!(kernel.directives.maxntid, Some([128, 1, 1]));
    assert_eq!(kernel.directives.minnctapersm, Some(2));
    let shape: Vec<_> = kernel.params.iter().map(|p| (p.size, p.align)).collect();
    assert_eq!(shape, [(8, 8), (8, 8), (88, 8), (4, 4)]);
    let bodies: Vec<_> = module.functions.iter().map(|f| f.body.is_some()).collect();
    assert_eq!(
        bodies.iter().filter(|b| !**b).count(),
        2,
        "vprintf and __assertfail"
    );
    for (name, initial) in [
        ("counter", 1),
        ("packed", 2),
        ("functions", 2),
        ("table", 1),
    ] {
        let variable = module
            .variables
            .iter()
            .find(|v| v.name == name)
            .expect(name);
        assert_eq!(variable.initializer.len(), initial, "{name}");
    }
    same_instructions(MIX, &module);
    let tail = module
        .functions
        .iter()
        .find(|f| f.name == "mix")
        .unwrap()
        .body
        .as_ref()
        .unwrap();
    assert_eq!(tail.last().unwrap().opcode, "ret");
}

/// nvcc writes an instruction a line (a call spreads over several): compares opcodes and line numbers with what the lines say.
fn same_instructions(text: &str, module: &Module) {
    let parsed: Vec<(u32, String)> = module
        .functions
        .iter()
        .filter_map(|f| f.body.as_ref())
        .flatten()
        .map(|i| {
            (
                i.line,
                [vec![i.opcode.clone()], i.modifiers.clone()]
                    .concat()
                    .join("."),
            )
        })
        .collect();
    let mut written = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let words: Vec<&str> = line
            .split("//")
            .next()
            .unwrap()
            .split_whitespace()
            .collect();
        let words = match words.first() {
            Some(first) if first.starts_with('@') => &words[1..],
            _ => &words[..],
        };
        let Some(opcode) = words.first() else {
            continue;
        };
        let instruction = opcode.starts_with(|c: char| c.is_ascii_lowercase())
            && (words.last().unwrap().ends_with(';') || opcode.starts_with("call"));
        if instruction && !words.contains(&":") {
            written.push((number, opcode.trim_end_matches(';').to_owned()));
        }
    }
    assert!(written.len() > 10);
    assert_eq!(parsed, written);
}

#[test]
fn nvcc_debugging_build() {
    let module = parse(DEBUG).unwrap();
    same_instructions(DEBUG, &module);
    let names: Vec<_> = module.functions.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(names, ["_Z5twicei", "_Z5debugPi"]);
}

#[test]
fn text_for_hopper() {
    let module = parse(HOPPER).unwrap();
    assert_eq!(
        module.target,
        Target {
            sm: 90,
            suffix: Some('a')
        }
    );
    same_instructions(HOPPER, &module);
    let kernel = function(&module, "hopper");
    assert_eq!(kernel.directives.reqnctapercluster, Some([2, 1, 1]));
    let find = |opcode: &str, word: &str| {
        let body = kernel.body.as_ref().unwrap();
        body.iter()
            .find(|i| i.opcode == opcode && i.modifiers.iter().any(|m| m == word))
            .expect(opcode)
    };
    let copy = find("cp", "tensor");
    assert!(
        copy.modifiers
            .contains(&"mbarrier::complete_tx::bytes".to_owned())
    );
    assert!(matches!(
        copy.operands[0],
        Operand::Address { offset: 1024, .. }
    ));
    let Operand::TensorAddress { coordinates, .. } = &copy.operands[1] else {
        panic!("{:?}", copy.operands)
    };
    assert_eq!(coordinates[1], int(0));
    assert!(
        matches!(&find("elect", "sync").operands[0], Operand::Pair(a, _) if **a == Operand::Sink)
    );
    let product = find("wgmma", "mma_async");
    assert_eq!(product.modifiers[3..], ["m64n8k16", "f32", "bf16", "bf16"]);
    assert_eq!(product.operands[4..], [int(1), int(-1), int(0), int(1)]);
}

/// A small generator of numbers, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

#[test]
fn truncated_text_never_panics() {
    for text in [MIX, DEBUG, HOPPER] {
        let end = text.trim_end().len();
        // A sample, since the time is quadratic; the step is odd so that it meets every kind of place.
        let step = 1 + text.len() / 1000 * 2;
        for cut in (0..text.len()).step_by(step) {
            let result = parse(&text[..cut]);
            let inside = text[..cut].matches('{').count() != text[..cut].matches('}').count();
            assert!(!inside || result.is_err(), "cut at byte {cut} of {end}");
        }
        parse(text).unwrap();
    }
}

#[test]
fn mutated_text_never_panics() {
    const PARTS: [&str; 24] = [
        "{",
        "}",
        "(",
        ")",
        "[",
        "]",
        ";",
        ",",
        "|",
        "@",
        "!",
        "-",
        ":",
        ".reg .b32 %r<4294967295>;",
        ".v4",
        "0f",
        "0xFFFFFFFFFFFFFFFF",
        "%r1",
        "\"",
        "/*",
        "é",
        "\0",
        ".section",
        "?",
    ];
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut good, mut bad) = (0, 0);
    for _ in 0..1000 {
        let mut text = [MIX, DEBUG, HOPPER][random.below(3)].to_owned();
        for _ in 0..=random.below(3) {
            let boundary = |mut at: usize| {
                while !text.is_char_boundary(at) {
                    at -= 1;
                }
                at
            };
            let (a, b) = (
                boundary(random.below(text.len())),
                boundary(random.below(text.len())),
            );
            match random.below(4) {
                0 => text.insert_str(a, PARTS[random.below(PARTS.len())]),
                1 => drop(text.drain(a..boundary(text.len().min(a + 1 + random.below(8))))),
                2 => {
                    let copied = text[b..boundary(text.len().min(b + 40))].to_owned();
                    text.insert_str(a, &copied);
                }
                _ => {
                    let end = boundary(text.len().min(a + 1));
                    text.replace_range(a..end, PARTS[random.below(PARTS.len())]);
                }
            }
        }
        match parse(&text) {
            Ok(_) => good += 1,
            Err(e) => {
                assert!(
                    e.line >= 1 && e.line as usize <= text.lines().count() + 1,
                    "{e}"
                );
                bad += 1;
            }
        }
    }
    assert!(good > 30 && bad > 100, "{good} parsed, {bad} refused");
}

#[test]
fn an_unaligned_address_in_an_initialiser_is_placed() {
    use cuda_emulator::{engine, memory::DeviceMemory};
    let memory = DeviceMemory::new(1 << 24).unwrap();
    let loaded = engine::load(&parse(MIX).unwrap(), &memory).unwrap();
    let mut packed = [0; 9];
    memory
        .copy_out(loaded.globals["packed"].0, &mut packed)
        .unwrap();
    let (counter, _) = loaded.globals["counter"];
    assert_eq!((packed[0], &packed[1..]), (1, &counter.to_le_bytes()[..]));
}

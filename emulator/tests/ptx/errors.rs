//! Malformed texts, each with the place and the wording of its error.

use super::{HEADER, kernel};
use orthant_gpu::ptx::{Error, Pos, limits, parse, parse_bytes};

fn refused(text: &str) -> Error {
    parse(text).map(|_| ()).expect_err(text)
}

/// Checks (text, line, column, message) after what `wrap` puts around the text.
fn table(wrap: impl Fn(&str) -> String, cases: &[(&str, u32, u32, &str)]) {
    let mut wrong = Vec::new();
    for &(text, line, column, message) in cases {
        let found = refused(&wrap(text));
        if (found.pos, found.message.as_str()) != (Pos { line, column }, message) {
            wrong.push(format!("({text:?}, {}, {}, {:?}),", found.pos.line, found.pos.column, found.message));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn headers() {
    table(
        str::to_string,
        &[
            ("", 1, 1, "expected `.version`, found the end of the text"),
            (".target sm_80", 1, 1, "expected `.version`, found `.target`"),
            (".version 8", 1, 10, "expected a version such as `8.8`, found `8`"),
            (".version 5.0", 1, 10, "expected a PTX version from 6.0 to 9.x, found `5.0`"),
            (".version 10.0", 1, 10, "expected a PTX version from 6.0 to 9.x, found `10.0`"),
            (
                ".version 8.8 .target compute_80",
                1,
                22,
                "expected a target such as `sm_80`, found `compute_80`",
            ),
            (".version 8.8 .target sm_80x", 1, 22, "expected a target such as `sm_80`, found `sm_80x`"),
            (
                ".version 8.8 .target sm_80, map_f64_to_f32",
                1,
                29,
                "target option `map_f64_to_f32` is not supported",
            ),
            (
                ".version 8.8 .target sm_80 .address_size 32",
                1,
                42,
                "expected `64`: 32-bit addresses are not supported, found `32`",
            ),
            (".version 8.8 .target sm_80", 1, 27, "expected `.address_size`, found the end of the text"),
            (".version 8.8 /* open", 1, 14, "expected `*/` before the end of the text"),
            ("\n  #line", 2, 3, "unexpected character \"#\""),
        ],
    );
}

#[test]
fn modules() {
    table(
        |text| format!("{HEADER}{text}"),
        &[
            (".version 8.8", 4, 1, "`.version` may stand only once, at the top"),
            (
                ".tex .u32 x;",
                4,
                1,
                "unknown directive `.tex`: expected `.entry`, `.func`, a variable, `.file`, `.section` or `.pragma`",
            ),
            (
                ".alias a, b;",
                4,
                1,
                "unknown directive `.alias`: expected `.entry`, `.func`, a variable, `.file`, `.section` or `.pragma`",
            ),
            (
                "mov.u32 %r1, 0;",
                4,
                1,
                "expected `.entry`, `.func`, a variable, `.file`, `.section` or `.pragma`, found `mov`",
            ),
            (".visible .file 1 \"a\"", 4, 10, "expected `.entry`, `.func` or a state space, found `.file`"),
            (".visible x", 4, 10, "expected `.entry`, `.func` or a state space, found `x`"),
            (".global .u31 x;", 4, 9, "expected a type such as `.b32`, found `.u31`"),
            (".global .pred x;", 4, 9, "expected a type that has a size in memory, found `.pred`"),
            (
                ".global .align 3 .u32 x;",
                4,
                16,
                "expected an alignment (a power of two up to 65536), found `3`",
            ),
            (
                ".global .align 131072 .u32 x;",
                4,
                16,
                "expected an alignment (a power of two up to 65536), found `131072`",
            ),
            (".global .u32 x; .global .u32 x;", 4, 30, "`x` is declared twice in this scope"),
            (".global .u32 x\n.global .u32 y;", 5, 1, "expected `;` after the variable, found `.global`"),
            (".global .u32 x[0];", 4, 16, "expected the extent of a dimension, at least 1, found `0`"),
            (
                ".global .u32 x[];",
                4,
                14,
                "the size of `x` is open, which only `.extern` variables may leave so",
            ),
            (".global .u32 x[1][];", 4, 19, "expected the extent of a dimension, at least 1, found `]`"),
            (".global .b8 x[18446744073709551615][2];", 4, 13, "`x` is larger than 1099511627776 bytes"),
            (".global .b64 x[18446744073709551615];", 4, 14, "`x` is larger than 1099511627776 bytes"),
            (".global .b64 x[137438953473];", 4, 14, "`x` is larger than 1099511627776 bytes"),
            (".global .b8 x[1][1][1][1][1][1][1][1][1];", 4, 39, "expected at most 8 dimensions, found `1`"),
            (".global .v4 .b64 x;", 4, 13, "a vector holds at most 16 bytes"),
            (".global .v3 .b32 x;", 4, 9, "expected a type such as `.b32`, found `.v3`"),
            (".global .u8 x[2] = {1, 2, 3};", 4, 27, "expected `}` after 2 elements, found `3`"),
            (".global .u8 x = 256;", 4, 17, "256 does not fit `.u8`"),
            (".global .s8 x = -129;", 4, 18, "-129 does not fit `.s8`"),
            (".global .u64 x = 18446744073709551616;", 4, 18, "`18446744073709551616` does not fit 64 bits"),
            (".global .f32 x = 1;", 4, 18, "expected an initialiser of type `.f32`, found `1`"),
            (
                ".global .f32 x = 0f123;",
                4,
                18,
                "expected 8 hexadecimal digits of a floating-point number, found 3",
            ),
            (
                ".global .f64 x = 0f3F800000;",
                4,
                18,
                "expected an initialiser of type `.f64`, found `0f3F800000`",
            ),
            (".global .u32 x[2] = 1;", 4, 21, "expected `{` to open an initialiser, found `1`"),
            (".global .u32 x[2][2] = {1, 2, 3, 4};", 4, 25, "expected `{` to open an initialiser, found `1`"),
            (".global .u32 x[2] = {{1}, {2}};", 4, 22, "expected an initialiser of type `.u32`, found `{`"),
            (".global .u32 x[2] = {1,};", 4, 24, "expected an initialiser of type `.u32`, found `}`"),
            (".global .u64 x = nothing;", 4, 18, "expected a variable or a function, found `nothing`"),
            (
                ".global .u16 y; .global .u16 x = y;",
                4,
                34,
                "expected an initialiser of type `.u16`, found `y`",
            ),
            (
                ".global .u8 y; .global .u8 x = 0xFFF(y);",
                4,
                38,
                "expected a mask of one byte, such as `0xFF00`, before `(` in a byte array, found `y`",
            ),
            (".extern .global .u32 x = 1;", 4, 24, "`x` may have no initialiser"),
            (".shared .u32 x = 1;", 4, 16, "`x` may have no initialiser"),
            (".local .u32 x;", 4, 1, "`.local` variables may stand in functions only"),
            (".const .attribute(.managed) .u32 x;", 4, 1, "`.const` variables may not be managed"),
            (".global .attribute(.unified(1, 2)) .u32 x;", 4, 20, "attribute `unified` is not supported"),
            (".file 1 \"a\" .file 1 \"b\"", 4, 19, "file 1 is declared twice"),
            (".file 1 \"a\n\"", 4, 9, "expected `\"` before the end of the line"),
            (
                ".section .debug_info { .b8 1",
                4,
                29,
                "expected `}` that closes the section at 4:1, found the end of the text",
            ),
            (".pragma nounroll;", 4, 9, "expected a string, found `nounroll`"),
            (".entry k(.reg .u32 a) {}", 4, 10, "expected `.param`, found `.reg`"),
            (".entry k(.param .u32 a,) {}", 4, 24, "expected `.param`, found `)`"),
            (".entry k(.param .u32 a, .param .u32 a) {}", 4, 37, "`a` is declared twice in this scope"),
            (".entry k(.param .b8 a[32765]) {}", 4, 21, "`a` ends beyond 32764 bytes of `.param`"),
            (
                ".entry k(.param .b8 a[]) {}",
                4,
                21,
                "the size of `a` is open, which only `.extern` variables may leave so",
            ),
            (".entry k();", 4, 11, "expected `{`, found `;`"),
            (".entry k() .maxntid 0 {}", 4, 21, "expected a number, at least 1, found `0`"),
            (".entry k() .maxntid 1 .maxntid 1 {}", 4, 23, "`.maxntid` stands twice"),
            (".entry k() .fast {}", 4, 12, "expected a performance directive, `{` or `;`, found `.fast`"),
            (".entry k() { ret; } .entry k() { ret; }", 4, 28, "`k` has a body already"),
            (
                ".func f(.param .u32 a); .func f(.param .u64 a) {}",
                4,
                31,
                "`f` differs from its declaration at 4:7",
            ),
            (".extern .func f() {}", 4, 19, "expected `;` after an `.extern` function, found `{`"),
            (".global .u32 f; .func f() {}", 4, 23, "`f` is declared twice in this scope"),
            (
                ".entry k() { ret;",
                4,
                18,
                "expected `}` that closes the block at 4:12, found the end of the text",
            ),
        ],
    );
}

#[test]
fn bodies() {
    table(
        kernel,
        &[
            ("mov.u32 %r8, 0;", 6, 9, "unknown register `%r8`"),
            ("mov.u32 %r01, 0;", 6, 9, "unknown register `%r01`"),
            ("mov.u32 %q, 0;", 6, 9, "unknown register `%q`"),
            ("mov.u32 %r1, %tid;", 6, 18, "expected `.x`, `.y`, `.z` or `.w` after `%tid`, found `;`"),
            ("mov.u32 %r1, %tid.q;", 6, 18, "expected `.x`, `.y`, `.z` or `.w` after `%tid`, found `.q`"),
            (
                "mov.u32 %r1, nothing;",
                6,
                14,
                "unknown name `nothing`: expected a register, a label, a variable or a function",
            ),
            ("mov.u32 %r1, 08;", 6, 14, "malformed number `08`"),
            ("mov.u32 %r1, 0x;", 6, 14, "expected digits of base 16"),
            ("mov.u32 %r1, 0b12;", 6, 14, "malformed number `0b12`"),
            ("mov.u64 %rd1, -9223372036854775809;", 6, 16, "-9223372036854775809 does not fit 64 bits"),
            ("mov.u32 %r1, 1 2;", 6, 16, "expected `;` after the instruction, found `2`"),
            ("mov.u32 %r1, 0", 7, 1, "expected `;` after the instruction, found `}`"),
            ("mov.u32 %r1,;", 6, 13, "expected an operand, found `;`"),
            ("mov. %r1, 0;", 6, 4, "expected a name after `.`"),
            ("mov.a:: %r1, 0;", 6, 4, "expected a name after `::`"),
            ("Mov.u32 %r1, 0;", 6, 1, "expected an instruction, found `Mov`"),
            ("%r1 = 0;", 6, 1, "expected an instruction, found `%r1`"),
            ("add.u32 %r1, %r1, (4*5);", 6, 21, "unexpected character \"*\""),
            ("mov.u32 %r1, $;", 6, 14, "expected a name, found `$` alone"),
            ("mov.u32 %r1, \u{3b1};", 6, 14, "unexpected character \"\u{3b1}\""),
            ("@%r1 ret;", 6, 2, "expected a predicate register, found `%r1` of class B32"),
            ("@!p ret;", 6, 3, "expected a predicate register, found `p`"),
            ("@%p9 ret;", 6, 2, "expected a predicate register, found `%p9`"),
            (
                "setp.lt.s32 %p1|%r1, %r1, 0;",
                6,
                17,
                "expected a predicate register, found `%r1` of class B32",
            ),
            (
                "setp.lt.and.s32 %p1, %r1, 0, !%r1;",
                6,
                31,
                "expected a predicate register, found `%r1` of class B32",
            ),
            ("ld.u32 %r1, [%f1;", 6, 17, "expected `]` to close the address, found `;`"),
            ("ld.u32 %r1, [%rs1];", 6, 14, "expected a 32- or 64-bit register, found `%rs1` of class B16"),
            ("ld.u32 %r1, [%p1];", 6, 14, "expected a 32- or 64-bit register, found `%p1` of class Pred"),
            ("ld.u32 %r1, [%rd9];", 6, 14, "unknown register `%rd9`"),
            ("ld.u32 %r1, [nothing];", 6, 14, "unknown name `nothing`: expected a register or a variable"),
            ("ld.u32 %r1, [twice];", 6, 14, "expected a register or a variable, found `twice`"),
            ("ld.u32 %r1, [%rd1+%rd2];", 6, 19, "expected an offset, found `%rd2`"),
            ("ld.u32 %r1, [];", 6, 14, "expected a register, a variable or a number, found `]`"),
            ("mov.b64 {}, %rd1;", 6, 10, "expected an operand, found `}`"),
            ("mov.b64 {%r1, {%r2}}, %rd1;", 6, 15, "expected an operand, found `{`"),
            (
                "mov.b64 {%r1, L}, %rd1; L:",
                6,
                15,
                "unknown name `L`: expected a register, a label, a variable or a function",
            ),
            (
                "bra nowhere;",
                6,
                5,
                "unknown name `nowhere`: expected a register, a label, a variable or a function",
            ),
            (
                "{ L: } bra L;",
                6,
                12,
                "unknown name `L`: expected a register, a label, a variable or a function",
            ),
            ("L: L:", 6, 4, "`L` is declared twice in this scope"),
            ("L: .reg .b32 L;", 6, 14, "`L` is declared twice in this scope"),
            (".reg .b32 %r<2>;", 6, 11, "`%r` is declared twice in this scope"),
            (".reg .b32 %r1;", 6, 11, "`%r1` is declared twice in this scope"),
            (".reg .b32 a, b, a;", 6, 17, "`a` is declared twice in this scope"),
            (".reg .b32 a<4294967295>;", 6, 11, "more than 1048576 registers of type `.b32`"),
            (".reg .b32 a<4294967296>;", 6, 13, "`4294967296` does not fit 32 bits"),
            (".reg .b32 a<0>;", 6, 13, "expected the number of registers, at least 1, found `0`"),
            (
                ".reg .v2 .f32 a;",
                6,
                6,
                "expected a scalar type: vector registers are not supported, found `.v2`",
            ),
            (".reg .b33 a;", 6, 6, "expected a type such as `.b32`, found `.b33`"),
            (".reg .b32 %laneid;", 6, 11, "`%laneid` is a special register"),
            (".reg .b64 p;", 6, 11, "`p` is declared twice in this scope"),
            (".local .b8 a[524289];", 6, 12, "`a` ends beyond 524288 bytes of `.local`"),
            (
                ".local .b8 a[];",
                6,
                12,
                "the size of `a` is open, which only `.extern` variables may leave so",
            ),
            (".local .u32 a = 1;", 6, 15, "expected no initialiser: `.local` variables take none, found `=`"),
            (".visible .local .u32 a;", 6, 10, "`.local` variables are seen in their function only"),
            (".param .b8 a[32768];", 6, 12, "`a` ends beyond 32764 bytes of `.param`"),
            (
                ".shared .b8 a[];",
                6,
                13,
                "the size of `a` is open, which only `.extern` variables may leave so",
            ),
            (".weird 1;", 6, 1, "unknown directive `.weird` in a function"),
            (".loc 1 2;", 6, 9, "expected a column, found `;`"),
            (".loc 7 2 0\nret;", 6, 6, "`.loc` names file 7, which no `.file` declares"),
            (".loc 1 2 0, inlined_at 1 2 3", 6, 13, "expected `function_name`, found `inlined_at`"),
            (
                "T: .branchtargets A, counter;",
                6,
                19,
                "unknown name `A`: expected a register, a label, a variable or a function",
            ),
            (
                "A: P: .callprototype _ (); T: .branchtargets P;",
                6,
                46,
                "expected the label of an instruction, found `P`",
            ),
            ("T: .calltargets k, counter;", 6, 20, "expected a function, found `counter`"),
            ("T: .callprototype ();", 6, 21, "expected `_`, found `;`"),
            ("T: .other A;", 6, 4, "unknown directive `.other` in a function"),
            ("{ ret;", 8, 1, "expected `}` that closes the block at 4:84, found the end of the text"),
            (
                "} }",
                6,
                3,
                "expected `.entry`, `.func`, a variable, `.file`, `.section` or `.pragma`, found `}`",
            ),
            (
                "} ret;",
                6,
                3,
                "expected `.entry`, `.func`, a variable, `.file`, `.section` or `.pragma`, found `ret`",
            ),
        ],
    );
}

#[test]
fn caps() {
    let deep = "{".repeat(limits::DEPTH + 1);
    assert_eq!(refused(&kernel(&deep)).message, "expected at most 64 nested blocks, found `{`");
    let million = "{".repeat(1_000_000);
    assert!(refused(&kernel(&million)).message.starts_with("expected at most 64"));
    let nested = format!("{HEADER}.global .u32 x[2][2] = {million}");
    assert_eq!(refused(&nested).message, "expected an initialiser of type `.u32`, found `{`");
    let sections = format!("{HEADER}.section .x {million}");
    assert_eq!(
        refused(&sections).message,
        "expected `}` that closes the section at 4:1, found the end of the text"
    );
    let many = (0..20).map(|i| format!(".reg .b32 a{i}_<100000>;")).collect::<String>();
    assert_eq!(refused(&kernel(&many)).message, "more than 1048576 registers of type `.b32`");
    let locals = (0..20).map(|i| format!(".local .b8 a{i}[100000];")).collect::<String>();
    assert_eq!(refused(&kernel(&locals)).message, "`a5` ends beyond 524288 bytes of `.local`");
    let long = "x".repeat(100_000);
    let message = refused(&kernel(&format!("mov.u32 %r1, {long};"))).message;
    assert!(message.starts_with("unknown name `xxx") && message.len() < 200, "{message}");
    // An open array may not grow past the cap of a variable either.
    let open = format!("{HEADER}.global .b8 x[][549755813888] = {{ {{1}}, {{2}}, {{3}} }};");
    assert_eq!(refused(&open).message, "expected `}` after 2 elements, found `{`");
}

#[test]
fn bytes_that_are_not_text() {
    let mut bytes = HEADER.as_bytes().to_vec();
    bytes.extend(b"// \xff\n");
    let error = parse_bytes(&bytes).unwrap_err();
    assert_eq!(error.to_string(), "4:4: byte 0xff is not UTF-8");
    assert_eq!(refused(&format!("{HEADER}\0")).to_string(), "4:1: unexpected character \"\\0\"");
    assert_eq!(parse_bytes(b"\x7fELF\x02").unwrap_err().to_string(), "1:1: unexpected character \"\\u{7f}\"");
}

/// Texts of some megabytes that repeat one thing: whatever it is, time and memory stay in proportion.
#[test]
fn long_texts_take_linear_time() {
    let repeat = |count: usize, one: &dyn Fn(usize) -> String| (0..count).map(one).collect::<String>();
    let count = 100_000;
    let texts = [
        format!("{HEADER}{}", repeat(count, &|i| format!(".file {i} \"a\"\n"))),
        format!("{HEADER}{}", repeat(count, &|i| format!(".global .b32 v{i};\n"))),
        format!("{HEADER}{}", repeat(count, &|_| ".func f(.param .b32 a);\n".to_string())),
        format!("{HEADER}.global .b8 x[] = {{{} 1}};", repeat(count, &|_| "1,".to_string())),
        kernel(&repeat(count, &|i| format!(".reg .b32 %x{i}_, %y{i};\n"))),
        kernel(&repeat(count, &|i| format!(".reg .b32 %x{i}_<1>;\n"))),
        kernel(&repeat(count, &|i| format!("bra L{}; L{i}:\n", count - 1 - i))),
        kernel(&repeat(count, &|_| "{ .reg .b32 t; .param .b32 x; bra END; }\n".to_string()))
            .replace("\n}\n", "END: }"),
        kernel(&format!(
            "{}{}{}",
            "{".repeat(60),
            repeat(count, &|_| "bra END;\n".to_string()),
            "} ".repeat(60)
        ))
        .replace("\n}\n", "END: }"),
        kernel(&repeat(count, &|i| format!(".loc 1 {i} 0\nadd.s32 %r1, %r1, {i};\n"))) + ".file 1 \"a\"",
        kernel(&format!("t {} 0;", repeat(count, &|i| format!("{i},")))),
    ];
    for (kind, text) in texts.iter().enumerate() {
        let start = std::time::Instant::now();
        let module = parse(text).unwrap_or_else(|error| panic!("text {kind}: {error}"));
        super::check::check(&module, text);
        let seconds = start.elapsed().as_secs_f64();
        // A quadratic step anywhere would take minutes.
        assert!(seconds < 10.0, "text {kind} of {} bytes took {seconds} s", text.len());
    }
}

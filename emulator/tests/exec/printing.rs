//! `printf`: what reaches standard output, seen from outside this process.

use crate::machine::{Machine, fixture, schedules};
use orthant_gpu::gpu::{Arg, Error};
use std::process::Command;

/// Runs an ignored test of this binary and returns what it wrote.
fn output(test: &str) -> String {
    let args = ["--exact", test, "--ignored", "--nocapture", "--test-threads=1"];
    let output = Command::new(std::env::current_exe().unwrap()).args(args).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "its output is looked at by the test below"]
fn prints_child() {
    for options in schedules() {
        let m = Machine::new(&fixture("strangers.sm_80.ptx"), options);
        m.ok("prints", 3, 2, 0, &[Arg::I32(5)]);
    }
}

#[test]
fn by_block_and_lane_whatever_the_schedule() {
    let line = |t: u64| {
        let (word, letter) = (["even", "odd"][t as usize % 2], char::from(b'a' + t as u8));
        let t5 = t as f64 * 0.5;
        format!("thread {t} of 5: {t5:5.2} {word} {letter} {:x}%\n", 0x123_4567_89ab * t)
    };
    let [a, b, c, d, e] = [0, 1, 2, 3, 4].map(line);
    let once = format!("{a}{b}end\n{c}{d}{e}");
    let got = output("printing::prints_child");
    assert!(got.contains(&once.repeat(schedules().count())), "{got}");
}

/// A kernel `k(out)` that calls `vprintf` on `text` with a buffer of two words and stores the result.
fn calls(text: &str, buffer: &str) -> String {
    let bytes: Vec<String> = text.bytes().chain([0]).map(|b| b.to_string()).collect();
    format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n\
         .extern .func (.param .b32 r) vprintf(.param .b64 f, .param .b64 a);\n\
         .global .align 1 .b8 text[{}] = {{{}}};\n\
         .visible .entry k(.param .u64 out) {{\n.reg .b32 %r<9>;\n.reg .b64 %rd<9>;\n.local .align 8 .b8 buffer[8];\n\
         ld.param.u64 %rd0, [out];\nmov.u64 %rd1, text;\ncvta.global.u64 %rd1, %rd1;\n\
         st.local.v2.u32 [buffer], {{7, 8}};\nmov.u64 %rd2, buffer;\ncvta.local.u64 %rd2, %rd2;\n{buffer}\n\
         {{\n.param .b64 f;\n.param .b64 a;\n.param .b32 r;\nst.param.b64 [f], %rd1;\nst.param.b64 [a], %rd2;\n\
         call.uni (r), vprintf, (f, a);\nld.param.b32 %r1, [r];\n}}\n\
         st.global.u32 [%rd0], %r1;\nret;\n}}\n",
        bytes.len(),
        bytes.join(", ")
    )
}

fn result(text: &str, buffer: &str) -> Result<i32, String> {
    let m = Machine::plain(&calls(text, buffer));
    let out = m.put(&[0i32]);
    match m.run("k", 1, 1, 0, &[Arg::U64(out)]) {
        Ok(_) => Ok(m.get::<i32>(out, 1)[0]),
        Err(Error::Fault(fault)) => Err(fault.to_string()),
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn returns_and_faults() {
    assert_eq!(result("%d %d\n", ""), Ok(2));
    assert_eq!(result("nothing\n", "mov.u64 %rd2, 0;"), Ok(0));
    assert_eq!(result("", "mov.u64 %rd1, 0;"), Ok(-1));
    assert!(result("%d", "mov.u64 %rd2, 0;").unwrap_err().contains("there is none"));
    // The third argument lies behind the buffer.
    assert!(result("%d %d %d", "").unwrap_err().contains("local"));
    assert!(result("%s", "").unwrap_err().contains("a text at 0x800000007"));
    let text = calls("%d", "").replace("(.param .b64 f, .param .b64 a)", "(.param .b64 f, .param .b32 a)");
    let mut gpu = orthant_gpu::gpu::Gpu::new(orthant_gpu::exec::Card::sm_80(), Default::default());
    let text = text
        .replace(".param .b64 a;", ".param .b32 a;")
        .replace("st.param.b64 [a], %rd2", "st.param.b32 [a], 0");
    assert!(gpu.load_module(&text).unwrap_err().to_string().contains("two pointers"));
}

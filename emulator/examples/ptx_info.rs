//! `ptx_info FILE...`: parses PTX files and prints what is in them, or where and why they are refused.

use orthant_gpu::ptx;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut failed = false;
    for path in std::env::args().skip(1) {
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) => {
                eprintln!("{path}: {error}");
                failed = true;
                continue;
            }
        };
        match ptx::parse_bytes(&bytes) {
            Ok(module) => print(&path, &module),
            Err(error) => {
                eprintln!("{path}:{error}");
                failed = true;
            }
        }
    }
    ExitCode::from(u8::from(failed))
}

fn print(path: &str, module: &ptx::Module) {
    let target = &module.target;
    let suffix = target.suffix.map(String::from).unwrap_or_default();
    println!("{path}: PTX {}.{} for sm_{}{suffix}", module.version.0, module.version.1, target.arch);
    for function in &module.functions {
        let kind = if function.entry { "entry" } else { "func" };
        print!("  {kind} {}: {} parameter bytes", function.name, function.param_bytes);
        match &function.body {
            Some(body) => println!(
                ", {} instructions, {} labels, registers {:?}, {} local bytes",
                body.instructions.len(),
                body.labels.len(),
                body.registers,
                body.local_bytes
            ),
            None => println!(", declared only"),
        }
    }
    for variable in &module.variables {
        println!(
            "  .{} {}: {} bytes, align {}",
            variable.space.name(),
            variable.name,
            variable.size,
            variable.align
        );
    }
    for section in &module.sections {
        println!("  skipped {} at {} ({} tokens)", section.name, section.pos, section.tokens);
    }
    for pragma in &module.pragmas {
        println!("  pragma \"{}\" at {}", pragma.text, pragma.pos);
    }
}

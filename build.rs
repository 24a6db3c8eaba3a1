//! Compiles `kernels/` with NVRTC and embeds the images.
//!
//! Every `.cu` becomes machine code for sm_80 and sm_90a, PTX for compute_80 (what newer cards compile) and PTX for
//! compute_90a (what the software GPU runs as a Hopper card). A kernel that spills, or uses local memory, fails the build.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs, thread};

#[path = "build/nvrtc.rs"]
mod nvrtc;

use nvrtc::{ImageKind, Nvrtc, Places, ptxas_report};

/// What sources are called in line information: the same on every machine.
const NAME: &str = "/orthant/kernels";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed=kernels");
    nvrtc::VARIABLES.iter().for_each(|name| println!("cargo::rerun-if-env-changed={name}"));
    // Without the backend nothing is compiled; docs.rs has no compiler and no network.
    let wanted = env::var_os("CARGO_FEATURE_CUDA").is_some() && env::var_os("DOCS_RS").is_none();
    let built = if wanted { compile_all() } else { Ok(Vec::new()) };
    match built.and_then(|images| write_table(&images)) {
        Ok(()) => {}
        Err(error) => {
            // Lines of their own: cargo shows a build script's errors as they are.
            error.lines().for_each(|line| println!("cargo::error={line}"));
        }
    }
}

/// One compiled source.
struct Image {
    stem: String,
    kind: ImageKind,
    bytes: Vec<u8>,
    /// Name, registers and shared memory of each kernel, where there is machine code.
    kernels: Vec<(String, u32, u32)>,
}

fn compile_all() -> Result<Vec<Image>, String> {
    let fetch = env::var_os("CARGO_FEATURE_FETCH_NVRTC").is_some();
    let found = nvrtc::find(&Places::of_process(), fetch).map_err(|e| e.to_string())?;
    if found.origin.starts_with("pip") {
        println!("cargo::warning=NVRTC: {found}");
    }
    println!("cargo::rerun-if-changed={}", found.library.display());
    let compiler = Nvrtc::load(&found.library).map_err(|e| e.to_string())?;
    let (major, minor) = compiler.version();
    println!("cargo::rustc-env=ORTHANT_NVRTC_VERSION={major}.{minor}");
    let mut sources: Vec<PathBuf> = fs::read_dir("kernels")
        .map_err(|e| format!("kernels: {e}"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|ext| ext == "cu"))
        .collect();
    sources.sort();
    let mut jobs = Vec::new();
    for path in &sources {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).ok_or("a kernel's name is not UTF-8")?;
        let text = expand(path, &mut BTreeSet::new())?;
        jobs.extend(ImageKind::ALL.map(|kind| (stem.to_owned(), text.clone(), kind)));
    }
    thread::scope(|scope| {
        let compiler = &compiler;
        let running: Vec<_> =
            jobs.into_iter().map(|job| scope.spawn(move || compile(compiler, job))).collect();
        let images = running.into_iter().map(|job| match job.join() {
            Ok(image) => image,
            Err(_) => Err("a compilation panicked".to_owned()),
        });
        images.collect()
    })
}

fn compile(compiler: &Nvrtc, (stem, text, kind): (String, String, ImageKind)) -> Result<Image, String> {
    let compiled =
        compiler.compile(&text, &format!("{NAME}/{stem}.cu"), &kind.options()).map_err(|e| e.to_string())?;
    let report = ptxas_report(&compiled.log);
    let complaints = report.complaints();
    if kind.is_cubin() && !complaints.is_empty() {
        return Err(format!("{stem}.cu for {}: {}", kind.architecture(), complaints.join("; ")));
    }
    let bytes = match compiled.cubin {
        Some(cubin) if kind.is_cubin() => cubin,
        None if kind.is_cubin() => return Err(format!("{stem}.cu: no code for {}", kind.architecture())),
        _ => compiled.ptx.trim_end_matches('\0').as_bytes().to_vec(),
    };
    let kernels = report.kernels.into_iter().map(|k| (k.name, k.registers, k.shared)).collect();
    Ok(Image { stem, kind, bytes, kernels })
}

/// A source with its includes in their places, each once. NVRTC would look for them in the folder that it runs in, and write
/// that into the line information.
fn expand(path: &Path, seen: &mut BTreeSet<PathBuf>) -> Result<String, String> {
    if !seen.insert(path.to_path_buf()) {
        return Ok(String::new());
    }
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let mut out = format!("#line 1 \"{NAME}/{name}\"\n");
    for (number, line) in text.lines().enumerate() {
        let include = line.trim().strip_prefix("#include \"").and_then(|rest| rest.strip_suffix('"'));
        match include {
            Some(file) => {
                out += &expand(&path.with_file_name(file), seen)?;
                _ = writeln!(out, "#line {} \"{NAME}/{name}\"", number + 2);
            }
            None if line.trim() == "#pragma once" => out.push('\n'),
            None => _ = writeln!(out, "{line}"),
        }
    }
    Ok(out)
}

/// `images.rs`: what `src/cuda/images.rs` includes.
fn write_table(images: &[Image]) -> Result<(), String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let mut table = String::from("&[\n");
    for Image { stem, kind, bytes, kernels } in images {
        let extension = if kind.is_cubin() { "cubin" } else { "ptx" };
        let file = out.join(format!("{stem}.{}.{extension}", kind.architecture()));
        fs::write(&file, bytes).map_err(|e| format!("{}: {e}", file.display()))?;
        _ = writeln!(
            table,
            "    Image {{ stem: {stem:?}, architecture: {:?}, machine_code: {}, kernels: &{kernels:?}, \
             bytes: include_bytes!({:?}) }},",
            kind.architecture(),
            kind.is_cubin(),
            file.display().to_string()
        );
    }
    table.push_str("]\n");
    let file = out.join("images.rs");
    fs::write(&file, table).map_err(|e| format!("{}: {e}", file.display()))
}

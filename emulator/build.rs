//! Link options of `liborthant_gpu.so`. Its SONAME is the driver's, so that a program in which it is loaded finds it when
//! it asks for `libcuda.so`; its file is never called that. It stays loaded: it has a thread, and may have work to do at
//! exit. It finds its own functions without their names: those that `cuGetProcAddress` gives away are not another
//! driver's, and names can be taken out of an installed copy.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libcuda.so");
        println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
        println!("cargo::rustc-cdylib-link-arg=-Wl,-Bsymbolic");
    }
}

//! The compiled kernels: what `build.rs` made of `kernels/`.

/// One source of `kernels/`, compiled for one architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Image {
    /// The source's name without `.cu`.
    pub stem: &'static str,
    /// `sm_80` and `sm_90a` for machine code, `compute_80` and `compute_90a` for PTX.
    pub architecture: &'static str,
    /// Whether `bytes` are a cubin; else they are PTX text.
    pub machine_code: bool,
    /// Name, registers and bytes of static shared memory of each kernel; none for PTX.
    pub kernels: &'static [(&'static str, u32, u32)],
    /// The image.
    pub bytes: &'static [u8],
}

/// All of them. Empty in builds without the feature `cuda`, and on docs.rs, which has no compiler.
pub static IMAGES: &[Image] = include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// The version of the NVRTC that compiled them.
pub const NVRTC_VERSION: Option<&str> = option_env!("ORTHANT_NVRTC_VERSION");

#[cfg(test)]
mod tests {
    use super::*;

    fn text(image: &Image) -> &'static str {
        std::str::from_utf8(image.bytes).expect("PTX is text")
    }

    #[test]
    #[cfg(feature = "cuda")]
    fn every_source_is_there_for_every_card_and_fits_its_registers() {
        // What launch bounds leave a thread: 6 blocks of 128 threads a multiprocessor, 5 for what is measured too, 2 of products,
        // 7 for tiles of a matrix; 4 of 256 threads for lines.
        for (stem, most) in [("elementwise", 80), ("sm80_product", 255), ("pack", 72), ("lines", 64)] {
            let of = |architecture| IMAGES.iter().find(|i| i.stem == stem && i.architecture == architecture);
            for architecture in ["sm_80", "sm_90a"] {
                let image = of(architecture).expect("machine code");
                assert!(image.machine_code && image.bytes.starts_with(b"\x7fELF"));
                for (kernel, registers, _) in image.kernels {
                    let most = if *kernel == "elementwise_measured" { 102 } else { most };
                    assert!(*registers <= most, "{kernel} for {architecture}: {registers} registers");
                }
            }
            for (architecture, target) in [("compute_80", "sm_80"), ("compute_90a", "sm_90a")] {
                let image = of(architecture).expect("PTX");
                assert!(!image.machine_code && text(image).contains(&format!(".target {target}")));
            }
        }
    }

    #[test]
    fn kernels_use_no_fused_or_approximate_arithmetic_and_no_atomics_on_floats() {
        for image in IMAGES.iter().filter(|image| !image.machine_code) {
            for line in text(image).lines() {
                let word = line.split_whitespace().next().unwrap_or_default();
                let opcode = word.split('.').next().unwrap_or_default();
                let float = word.ends_with(".f32") || word.ends_with(".f64");
                let approximate = word.contains(".approx") || word.contains(".ftz");
                assert!(!approximate, "{}: {line}", image.stem);
                assert!(!(matches!(opcode, "fma" | "atom" | "red") && float), "{}: {line}", image.stem);
            }
        }
    }

    /// What a card reads and writes of tensors goes in 16 bytes; narrower accesses belong to heads, tails and tables.
    #[test]
    fn wide_accesses_are_there() {
        for image in IMAGES.iter().filter(|image| !image.machine_code && image.stem == "elementwise") {
            let count = |what: &str| text(image).matches(what).count();
            assert!(count("ld.global.v4.u32") > 0 && count("st.global.v4.u32") > 0);
            assert_eq!(count("ld.local") + count("st.local"), 0, "local memory");
        }
    }
}

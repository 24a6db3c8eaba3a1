//! How fast kernels run: elements a second of the elementwise fixtures, with every check and with none.
//! `rates [KERNEL [on|off]]`

use orthant_gpu::exec::Card;
use orthant_gpu::gpu::{Arg, Error, Gpu, Options};
use orthant_gpu::memory::Checks;
use std::time::Instant;

fn main() -> Result<(), Error> {
    let ptx = include_str!("../tests/ptx/fixtures/elementwise.sm_80.ptx");
    let only = std::env::args().nth(1);
    for (what, checks) in [("every check", Checks::ALL), ("no checks", Checks::NONE)] {
        if std::env::args().nth(2).is_some_and(|only| (only == "on") != (checks == Checks::ALL)) {
            continue;
        }
        let mut gpu = Gpu::new(Card::sm_80(), Options { checks, ..Options::default() });
        let module = gpu.load_module(ptx)?;
        let n = 4usize << 20;
        let [a, b, c] = [gpu.alloc(4 * n as u64)?, gpu.alloc(4 * n as u64)?, gpu.alloc(4 * n as u64)?];
        [a, b, c].into_iter().try_for_each(|p| gpu.memset(p, 0x3f, 4 * n))?;
        let h = Arg::Bytes([0.01f32, 0.9, 0.99, 0.1].iter().flat_map(|v| v.to_le_bytes()).collect());
        let pointers = || [a, b, c].map(Arg::U64).to_vec();
        let cases = [
            ("vector_add", n, (n / 256) as u32, vec![Arg::U64(n as u64)]),
            ("lion_bf16", 2 * n, 264, vec![Arg::U64(2 * n as u64), h]),
        ];
        for (kernel, elements, grid, more) in cases {
            if only.as_deref().is_some_and(|only| only != kernel) {
                continue;
            }
            let args: Vec<Arg> = pointers().into_iter().chain(more).collect();
            let mut best = f64::INFINITY;
            for _ in 0..3 {
                let start = Instant::now();
                gpu.launch(module, kernel, [grid, 1, 1], [256, 1, 1], 0, &args)?;
                best = best.min(start.elapsed().as_secs_f64());
            }
            println!("{kernel}, {what}: {:.1} M elements/s", elements as f64 / best / 1e6);
        }
    }
    Ok(())
}

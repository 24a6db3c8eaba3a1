//! cuBLAS, where this machine has it: the products that everybody else multiplies with.
//!
//! Opened by hand: cudarc's feature would link it on machines that have CUDA's toolkit, and then the program would not start
//! on those that lack the library.
#![allow(unsafe_code, reason = "a C library, opened at run time")]

use std::ffi::{c_int, c_longlong, c_void};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use orthant::cuda::{Context, DeviceBuffer, Stream};

/// Environment variable that names the library's file.
const VARIABLE: &str = "ORTHANT_CUBLAS";
const NAMES: [&str; 4] = ["libcublas.so.13", "libcublas.so.12", "libcublas.so.11", "libcublas.so"];
/// What NVIDIA advises for Hopper; captured products must not allocate.
const WORKSPACE: usize = 32 << 20;

type Create = unsafe extern "C" fn(*mut *mut c_void) -> c_int;
type Destroy = unsafe extern "C" fn(*mut c_void) -> c_int;
type SetStream = unsafe extern "C" fn(*mut c_void, *mut c_void) -> c_int;
type SetWorkspace = unsafe extern "C" fn(*mut c_void, *mut c_void, usize) -> c_int;
type Version = unsafe extern "C" fn(*mut c_void, *mut c_int) -> c_int;
/// `cublasGemmStridedBatchedEx`: alpha and beta are f32, as sums are.
type Multiply = unsafe extern "C" fn(
    *mut c_void,
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
    *const f32,
    *const c_void,
    c_int,
    c_int,
    c_longlong,
    *const c_void,
    c_int,
    c_int,
    c_longlong,
    *const f32,
    *mut c_void,
    c_int,
    c_int,
    c_longlong,
    c_int,
    c_int,
    c_int,
) -> c_int;

/// An opened library with a handle of its own, or in words why there is none.
pub struct Cublas {
    handle: *mut c_void,
    workspace: DeviceBuffer,
    multiply: Multiply,
    set_stream: SetStream,
    set_workspace: SetWorkspace,
    destroy: Destroy,
    pub version: String,
    /// Last, so that it is closed last.
    _library: Library,
}

/// `C = alpha op(A) op(B) + beta C` for `batch` matrices one behind the other, in cuBLAS's order, column-major and dense.
#[derive(Debug, Clone, Copy)]
pub struct Gemm {
    pub transposed: (bool, bool),
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub alpha: f32,
    pub beta: f32,
    pub half: bool,
    pub batch: usize,
}

/// The file that the environment names, or else whatever the loader finds.
fn names() -> Vec<String> {
    let named = std::env::var(VARIABLE).ok().filter(|named| !named.is_empty());
    named.map_or_else(|| NAMES.map(str::to_owned).to_vec(), |named| vec![named])
}

fn open(names: &[String]) -> Result<Library, String> {
    // SAFETY: cuBLAS's initialisers are what every program that links it runs.
    let found =
        names.iter().find_map(|name| unsafe { Library::open(Some(name), RTLD_NOW | RTLD_LOCAL) }.ok());
    found.ok_or_else(|| format!("cuBLAS: not found ({})", names.join(", ")))
}

impl Cublas {
    /// # Errors
    /// That it is not there, in words.
    pub fn new(context: &Context) -> Result<Self, String> {
        let library = open(&names())?;
        let missing = |e: libloading::Error| format!("cuBLAS: {e}");
        // SAFETY: the functions have had these types since version 11.
        let (create, destroy, set_stream, set_workspace, version, multiply) = unsafe {
            (
                *library.get::<Create>(b"cublasCreate_v2\0").map_err(missing)?,
                *library.get::<Destroy>(b"cublasDestroy_v2\0").map_err(missing)?,
                *library.get::<SetStream>(b"cublasSetStream_v2\0").map_err(missing)?,
                *library.get::<SetWorkspace>(b"cublasSetWorkspace_v2\0").map_err(missing)?,
                *library.get::<Version>(b"cublasGetVersion_v2\0").map_err(missing)?,
                *library.get::<Multiply>(b"cublasGemmStridedBatchedEx\0").map_err(missing)?,
            )
        };
        let workspace = DeviceBuffer::new(context, WORKSPACE).map_err(|e| format!("cuBLAS: {e}"))?;
        let (mut handle, mut number) = (std::ptr::null_mut(), 0);
        // SAFETY: places for results; the context is current.
        check("cublasCreate_v2", unsafe { create(&mut handle) })?;
        // SAFETY: the handle was just made.
        let told = unsafe { version(handle, &mut number) };
        let version = format!("{}.{}.{}", number / 10_000, number / 100 % 100, number % 100);
        let this = Self {
            handle,
            workspace,
            multiply,
            set_stream,
            set_workspace,
            destroy,
            version,
            _library: library,
        };
        check("cublasGetVersion_v2", told)?;
        Ok(this)
    }

    /// Products go to this stream.
    pub fn set_stream(&self, stream: &Stream) -> Result<(), String> {
        // SAFETY: handle, stream and workspace are alive. A new stream takes the workspace away, so that it comes second.
        unsafe {
            check("cublasSetStream_v2", (self.set_stream)(self.handle, stream.as_raw()))?;
            let memory = self.workspace.address() as *mut c_void;
            check("cublasSetWorkspace_v2", (self.set_workspace)(self.handle, memory, WORKSPACE))
        }
    }

    /// A product of matrices at these addresses, whose memory has room for them.
    pub fn multiply(&self, g: Gemm, a: u64, b: u64, c: u64) -> Result<(), String> {
        const CUDA_R_16F: c_int = 2;
        const CUDA_R_16BF: c_int = 14;
        const COMPUTE_32F: c_int = 68;
        const DEFAULT: c_int = -1;
        let kind = if g.half { CUDA_R_16F } else { CUDA_R_16BF };
        let [m, n, k, batch] = [g.m, g.n, g.k, g.batch].map(|x| c_int::try_from(x).unwrap_or(c_int::MAX));
        let (lda, ldb) = (if g.transposed.0 { k } else { m }, if g.transposed.1 { n } else { k });
        let stride = |x: usize, y: usize| (x * y) as c_longlong;
        // SAFETY: the callers' addresses are memory of the card with room for `batch` such matrices.
        let status = unsafe {
            (self.multiply)(
                self.handle,
                g.transposed.0.into(),
                g.transposed.1.into(),
                m,
                n,
                k,
                &g.alpha,
                a as *const c_void,
                kind,
                lda,
                stride(g.m, g.k),
                b as *const c_void,
                kind,
                ldb,
                stride(g.k, g.n),
                &g.beta,
                c as *mut c_void,
                kind,
                m,
                stride(g.m, g.n),
                batch,
                COMPUTE_32F,
                DEFAULT,
            )
        };
        check("cublasGemmStridedBatchedEx", status)
    }
}

fn check(call: &str, status: c_int) -> Result<(), String> {
    if status == 0 { Ok(()) } else { Err(format!("cuBLAS: {call} failed with status {status}")) }
}

impl Drop for Cublas {
    fn drop(&mut self) {
        // SAFETY: the handle is alive. Nobody is left to tell of an error.
        let _ = unsafe { (self.destroy)(self.handle) };
    }
}

/// Products of a `rows` x `columns` matrix `X` with its short side squared, as they lie row-major: `X X^T` (or `X^T X`),
/// `G G`, `Q X` (or `X Q`); and whether the operands stand in the other order.
pub mod shapes {
    use super::Gemm;

    const PLAIN: Gemm =
        Gemm { transposed: (false, false), m: 0, n: 0, k: 0, alpha: 1.0, beta: 0.0, half: false, batch: 1 };

    /// Both operands are X.
    pub fn gram(rows: usize, columns: usize) -> Gemm {
        // Row-major is the transpose in column-major order, and the result is symmetric.
        let (short, long) = (rows.min(columns), rows.max(columns));
        let wide = rows <= columns;
        Gemm { transposed: (wide, !wide), m: short, n: short, k: long, ..PLAIN }
    }

    pub fn square(rows: usize, columns: usize) -> Gemm {
        let short = rows.min(columns);
        Gemm { m: short, n: short, k: short, ..PLAIN }
    }

    /// Of a wide X the first operand is X, of a tall one Q: (Q X)^T = X^T Q^T.
    pub fn long(rows: usize, columns: usize) -> Gemm {
        Gemm { m: columns, n: rows, k: rows.min(columns), ..PLAIN }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_not_there_is_no_panic() {
        let refused = open(&["libcublas-of-nowhere.so".to_owned()]).err();
        assert_eq!(refused.as_deref(), Some("cuBLAS: not found (libcublas-of-nowhere.so)"));
    }

    /// Column-major, as cuBLAS would.
    fn multiply(g: Gemm, a: &[f64], b: &[f64]) -> Vec<f64> {
        let left = |i: usize, t: usize| if g.transposed.0 { a[i * g.k + t] } else { a[t * g.m + i] };
        let right = |t: usize, j: usize| if g.transposed.1 { b[t * g.n + j] } else { b[j * g.k + t] };
        let sum = |at: usize| (0..g.k).map(|t| left(at % g.m, t) * right(t, at / g.m)).sum();
        (0..g.m * g.n).map(sum).collect()
    }

    #[test]
    fn products_in_its_order_are_the_row_major_ones() {
        let noise = |seed: u64, len: usize| crate::cli::noise::Noise(seed).gaussian(len);
        for (rows, columns) in [(3, 5), (5, 3), (4, 4)] {
            let x = noise(1, rows * columns);
            let short = rows.min(columns);
            let mut q = noise(2, short * short);
            for (i, j) in (0..short).flat_map(|i| (0..i).map(move |j| (i, j))) {
                q[i * short + j] = q[j * short + i];
            }
            let near = |found: &[f64], wanted: &dyn Fn(usize, usize) -> f64, across: usize| {
                for (at, found) in found.iter().enumerate() {
                    assert!((found - wanted(at / across, at % across)).abs() < 1e-12, "{rows} x {columns}");
                }
            };
            let wide = rows <= columns;
            let at = |i: usize, j: usize| x[i * columns + j];
            let gram = |i: usize, j: usize| -> f64 {
                if wide {
                    (0..columns).map(|t| at(i, t) * at(j, t)).sum()
                } else {
                    (0..rows).map(|t| at(t, i) * at(t, j)).sum()
                }
            };
            near(&multiply(shapes::gram(rows, columns), &x, &x), &gram, short);
            let square = |i: usize, j: usize| (0..short).map(|t| q[i * short + t] * q[t * short + j]).sum();
            near(&multiply(shapes::square(rows, columns), &q, &q), &square, short);
            let long = |i: usize, j: usize| -> f64 {
                if wide {
                    (0..short).map(|t| q[i * short + t] * at(t, j)).sum()
                } else {
                    (0..short).map(|t| at(i, t) * q[t * short + j]).sum()
                }
            };
            let (a, b) = if wide { (&x, &q) } else { (&q, &x) };
            near(&multiply(shapes::long(rows, columns), a, b), &long, columns);
        }
    }
}

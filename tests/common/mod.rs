//! Random matrices with chosen spectra, and norms, in f64.
#![allow(dead_code, reason = "every test binary uses its own part")]

use nalgebra::{DMatrix, DVector};

/// SplitMix64: deterministic, one word of state.
pub struct Random(pub u64);

impl Random {
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.word() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.word() % n as u64) as usize
    }

    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    pub fn normals(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| self.normal()).collect()
    }

    pub fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut p: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            p.swap(i, self.below(i + 1));
        }
        p
    }

    pub fn gaussian(&mut self, rows: usize, columns: usize) -> DMatrix<f64> {
        DMatrix::from_row_slice(rows, columns, &self.normals(rows * columns))
    }

    pub fn orthogonal(&mut self, n: usize) -> DMatrix<f64> {
        self.gaussian(n, n).qr().q()
    }

    /// `U diag(s) V^T` with random orthogonal factors.
    pub fn with_spectrum(&mut self, rows: usize, columns: usize, s: &[f64]) -> DMatrix<f64> {
        let k = rows.min(columns);
        let u = self.orthogonal(rows).columns(0, k).into_owned();
        let v = self.orthogonal(columns).columns(0, k).into_owned();
        u * DMatrix::from_diagonal(&DVector::from_iterator(
            k,
            (0..k).map(|i| s.get(i).copied().unwrap_or(0.0)),
        )) * v.transpose()
    }
}

pub fn row_major(m: &DMatrix<f64>) -> Vec<f64> {
    m.transpose().as_slice().to_vec()
}

pub fn from_row_major(rows: usize, columns: usize, data: &[f64]) -> DMatrix<f64> {
    DMatrix::from_row_slice(rows, columns, data)
}

/// Distance of two vectors over the length of the second.
pub fn relative(a: &[f64], b: &[f64]) -> f64 {
    let length = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    let distance = length(&mut a.iter().zip(b).map(|(a, b)| a - b));
    if distance == 0.0 { 0.0 } else { distance / length(&mut b.iter().copied()) }
}

/// Matrices named by their spectrum: what Newton-Schulz is tried on.
pub fn spectra(rows: usize, columns: usize, seed: u64) -> Vec<(&'static str, DMatrix<f64>)> {
    let mut random = Random(seed);
    let k = rows.min(columns);
    let geometric: Vec<f64> = (0..k).map(|i| 10f64.powf(-4.0 * i as f64 / (k.max(2) - 1) as f64)).collect();
    let deficient: Vec<f64> =
        (0..k).map(|i| if i < k.div_ceil(2) { 1.0 / (1 + i) as f64 } else { 0.0 }).collect();
    let gaussian = random.gaussian(rows, columns);
    vec![
        ("gaussian", gaussian.clone()),
        ("geometric", random.with_spectrum(rows, columns, &geometric)),
        ("rank-deficient", random.with_spectrum(rows, columns, &deficient)),
        ("rank-1", random.with_spectrum(rows, columns, &[1.0])),
        ("orthogonal", random.with_spectrum(rows, columns, &vec![1.0; k])),
        ("huge", &gaussian * 1e30),
        ("tiny", &gaussian * 1e-30),
    ]
}

/// Singular value decomposition `(U, s, V)` with `m = U diag(s) V^T`, U and V having min(rows, columns) columns, by
/// one-sided Jacobi rotations: accurate for tiny singular values too. (nalgebra's own loses rank-1 matrices.)
pub fn svd(m: &DMatrix<f64>) -> (DMatrix<f64>, Vec<f64>, DMatrix<f64>) {
    if m.nrows() < m.ncols() {
        let (u, s, v) = svd(&m.transpose());
        return (v, s, u);
    }
    let n = m.ncols();
    let (mut a, mut v) = (m.clone(), DMatrix::<f64>::identity(n, n));
    for _ in 0..60 {
        let mut largest = 0.0f64;
        for p in 0..n {
            for q in p + 1..n {
                let (app, aqq) = (a.column(p).norm_squared(), a.column(q).norm_squared());
                let apq = a.column(p).dot(&a.column(q));
                if apq == 0.0 || apq.abs() <= 1e-17 * (app * aqq).sqrt() {
                    continue;
                }
                largest = largest.max(apq.abs() / (app * aqq).sqrt());
                let tau = (aqq - app) / (2.0 * apq);
                let t = tau.signum() / (tau.abs() + (1.0 + tau * tau).sqrt());
                let c = 1.0 / (1.0 + t * t).sqrt();
                for matrix in [&mut a, &mut v] {
                    for i in 0..matrix.nrows() {
                        let (x, y) = (matrix[(i, p)], matrix[(i, q)]);
                        matrix[(i, p)] = c * x - c * t * y;
                        matrix[(i, q)] = c * t * x + c * y;
                    }
                }
            }
        }
        if largest < 1e-15 {
            break;
        }
    }
    let s: Vec<f64> = (0..n).map(|j| a.column(j).norm()).collect();
    for (j, s) in s.iter().enumerate() {
        if *s > 0.0 {
            a.column_mut(j).scale_mut(1.0 / s);
        }
    }
    (a, s, v)
}

/// Largest singular value.
pub fn sigma_max(m: &DMatrix<f64>) -> f64 {
    svd(m).1.into_iter().fold(0.0, f64::max)
}

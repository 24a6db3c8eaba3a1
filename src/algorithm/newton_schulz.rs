//! Newton-Schulz orthogonalisation as data: coefficient sets, their generator, iteration form and rounding.
//!
//! One iteration maps every singular value `s` of `X` to `a s + b s^3 + c s^5`
//! (`A = X X^T; B = b A + c A^2; X = a X + B X`, on the short side of `X`).

/// How `U V^T` is approximated.
#[derive(Debug, Clone, PartialEq)]
pub struct NewtonSchulz {
    /// Which polynomials.
    pub coefficients: Coefficients,
    /// Number of iterations, 1 to 30. `None`: 5, or the length of an explicit list.
    pub steps: Option<u32>,
    /// Rounding of operands and results of every product. `None`: `bf16`, and `f64` under `--precision f64`.
    pub dtype: Option<NsDtype>,
    /// Iterate on `X`, or on its Gram matrix.
    pub method: NsMethod,
    /// Gram method only: iterations (0-based, 1 to steps-1) before which `Q` is applied to `X` and restarted. `None`: those of
    /// the coefficients ([`Coefficients::default_restarts`]).
    pub restarts: Option<Vec<u32>>,
}

impl Default for NewtonSchulz {
    fn default() -> Self {
        Self {
            coefficients: Coefficients::Jordan,
            steps: None,
            dtype: None,
            method: NsMethod::Auto,
            restarts: None,
        }
    }
}

/// Number format of the iteration. 16-bit formats round operands and every product's result and accumulate in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NsDtype {
    /// bfloat16, torch's choice.
    Bf16,
    /// IEEE half: 8 times finer than bf16; all intermediates fit.
    F16,
    /// Single precision (CPU only).
    F32,
    /// Double precision (CPU only).
    F64,
}

impl NsDtype {
    /// All formats with their names.
    pub const ALL: [(&'static str, NsDtype); 4] =
        [("bf16", NsDtype::Bf16), ("f16", NsDtype::F16), ("f32", NsDtype::F32), ("f64", NsDtype::F64)];
}

/// Form of the iteration; all compute the same polynomial in exact arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NsMethod {
    /// Gram in f16 for shapes where it takes less work, and coefficients that are known to be accurate with its restarts
    /// (all named ones but `cans`); else standard.
    Auto,
    /// On `X` itself: `T(3 alpha + 1)` symmetric-product units for aspect ratio alpha.
    Standard,
    /// On `R = X X^T` with restarts (Dao-AILab gram-newton-schulz, 2026). Cheaper for aspect ratios above 1;
    /// without a restart rounding errors grow geometrically. Polar Express in bf16 is not accurate here: use f16.
    Gram,
}

impl NsMethod {
    /// All methods with their names.
    pub const ALL: [(&'static str, NsMethod); 3] =
        [("auto", NsMethod::Auto), ("standard", NsMethod::Standard), ("gram", NsMethod::Gram)];
}

/// Polynomial coefficients `[a, b, c]` per iteration.
#[derive(Debug, Clone, PartialEq)]
pub enum Coefficients {
    /// (3.4445, -4.7750, 2.0315) in every step: KellerJordan/Muon, torch. Output in [0.68, 1.21] for s >= 0.003.
    Jordan,
    /// Five tuned steps by YouJiacheng; output in [0.978, 1.145] for s >= 0.003. The last repeats.
    You,
    /// Polar Express (Amsel et al., arXiv 2505.16932), any length, safety 1.01, input divided by `1.01 ||X||_F`.
    PolarExpress,
    /// The five steps of modded-nanogpt and dion (Polar Express with safety 1.02), input divided by `1.02 ||X||_F`.
    Speedrun,
    /// CANS (Chebyshev-type, Grishina et al., arXiv 2506.10935). Diverges for inputs 1 % above norm 1, so the
    /// input is divided by `1.02 ||X||_F`; and what rounding puts above 1 grows from step to step (to 8 in a bf16 emulation, on a
    /// spectrum from 1 to 1e-4), so it has Polar Express' safety 1.01, which the published table has not. The last repeats.
    Cans,
    /// Given tuples; the last one repeats when `ns_steps` asks for more.
    Explicit(Vec<[f64; 3]>),
}

const YOU: [[f64; 3]; 5] = [
    [4.0848, -6.8946, 2.9270],
    [3.9505, -6.3029, 2.6377],
    [3.7418, -5.5913, 2.3037],
    [2.8769, -3.1427, 1.2046],
    [2.8366, -3.0525, 1.2012],
];

/// The published table, before the safety factor.
const POLAR_EXPRESS: [[f64; 3]; 8] = [
    [8.28721201814563, -23.595886519098837, 17.300387312530933],
    [4.107059111542203, -2.9478499167379106, 0.5448431082926601],
    [3.9486908534822946, -2.908902115962949, 0.5518191394370137],
    [3.3184196573706015, -2.488488024314874, 0.51004894012372],
    [2.300652019954817, -1.6689039845747493, 0.4188073119525673],
    [1.891301407787398, -1.2679958271945868, 0.37680408948524835],
    [1.8750014808534479, -1.2500016453999487, 0.3750001645474248],
    [1.875, -1.25, 0.375],
];

const SPEEDRUN: [[f64; 3]; 5] = [
    [8.156554524902461, -22.48329292557795, 15.878769915207462],
    [4.042929935166739, -2.808917465908714, 0.5000178451051316],
    [3.8916678022926607, -2.772484153217685, 0.5060648178503393],
    [3.285753657755655, -2.3681294933425376, 0.46449024233003106],
    [2.3465413258596377, -1.7097828382687081, 0.42323551169305323],
];

/// The published table, before the safety factor.
const CANS: [[f64; 3]; 5] = [
    [8.4703, -25.1081, 18.6293],
    [4.1828, -3.1087, 0.5806],
    [3.9619, -2.9541, 0.5630],
    [3.2866, -2.4647, 0.5074],
    [2.2737, -1.6447, 0.4162],
];

/// Explicit lists must keep the composed map of [0, 1] inside these bounds at every step: beyond them the next
/// polynomials blow up. All published sets stay below 2.
const MAP_BOUNDS: (f64, f64) = (-4.0, 4.0);

/// Largest number of iterations accepted.
pub const MAX_STEPS: u32 = 30;

impl Coefficients {
    /// The named sets.
    pub const NAMED: [(&'static str, Coefficients); 5] = [
        ("jordan", Coefficients::Jordan),
        ("you", Coefficients::You),
        ("polar-express", Coefficients::PolarExpress),
        ("speedrun", Coefficients::Speedrun),
        ("cans", Coefficients::Cans),
    ];

    /// Name in configurations; explicit lists print themselves.
    pub fn name(&self) -> String {
        match Self::NAMED.iter().find(|(_, set)| set == self) {
            Some((name, _)) => (*name).to_owned(),
            None => match self {
                Self::Explicit(list) => format!("{list:?}"),
                _ => String::new(),
            },
        }
    }

    /// Number of iterations when none is given.
    pub fn default_steps(&self) -> u32 {
        match self {
            Self::Explicit(list) if list.len() > 1 => list.len() as u32,
            _ => 5,
        }
    }

    /// Before which iterations the Gram method restarts when none are given: the third, as its authors do; with coefficients
    /// that are steep at 0 the fourth too. With one restart these leave their bound by up to 7 %, and have up to 10 times the
    /// error, on nearly square matrices in f16; with two it is at most about twice the standard method's.
    pub fn default_restarts(&self) -> &'static [u32] {
        match self {
            Self::PolarExpress | Self::Speedrun | Self::Cans => &[2, 3],
            Self::Jordan | Self::You | Self::Explicit(_) => &[2],
        }
    }

    /// The factor the Frobenius norm is multiplied with before the input is divided by it.
    pub fn input_margin(&self) -> f64 {
        match self {
            Self::PolarExpress => 1.01,
            Self::Speedrun | Self::Cans => 1.02,
            Self::Jordan | Self::You | Self::Explicit(_) => 1.0,
        }
    }

    /// The tuples of `steps` iterations, safety factors applied.
    pub fn schedule(&self, steps: u32) -> Vec<[f64; 3]> {
        let jordan = [[3.4445, -4.7750, 2.0315]];
        let (polar_express, cans);
        let table: &[[f64; 3]] = match self {
            Self::Jordan => &jordan,
            Self::You => &YOU,
            Self::PolarExpress => {
                polar_express = with_safety(&POLAR_EXPRESS, 1.01);
                &polar_express
            }
            Self::Speedrun => &SPEEDRUN,
            Self::Cans => {
                cans = with_safety(&CANS, 1.01);
                &cans
            }
            Self::Explicit(list) => list,
        };
        let last = table.last().copied().unwrap_or([0.0; 3]);
        (0..steps as usize).map(|t| table.get(t).copied().unwrap_or(last)).collect()
    }
}

/// `(a/s, b/s^3, c/s^5)` for all but the last tuple.
fn with_safety(table: &[[f64; 3]], s: f64) -> Vec<[f64; 3]> {
    let mut out = table.to_vec();
    if let Some((_, all_but_last)) = out.split_last_mut() {
        for [a, b, c] in all_but_last {
            *a /= s;
            *b /= s.powi(3);
            *c /= s.powi(5);
        }
    }
    out
}

impl NewtonSchulz {
    /// Iterations that will be run.
    pub fn resolved_steps(&self) -> u32 {
        self.steps.unwrap_or_else(|| self.coefficients.default_steps())
    }

    /// The tuples that will be applied.
    pub fn schedule(&self) -> Vec<[f64; 3]> {
        self.coefficients.schedule(self.resolved_steps())
    }

    /// Iterations before which the Gram method restarts.
    pub fn resolved_restarts(&self) -> &[u32] {
        self.restarts.as_deref().unwrap_or(self.coefficients.default_restarts())
    }

    /// The method for matrices of this shape, never [`NsMethod::Auto`]: it depends on the shape alone, not on what else is in
    /// a step.
    pub fn method_for(&self, rows: usize, columns: usize) -> NsMethod {
        if self.method != NsMethod::Auto {
            return self.method;
        }
        let accurate = !matches!(self.coefficients, Coefficients::Cans | Coefficients::Explicit(_));
        let (n, m) = (rows.min(columns) as f64, rows.max(columns) as f64);
        let steps = f64::from(self.resolved_steps());
        let restarts = self.resolved_restarts().iter().filter(|&&r| r < self.resolved_steps()).count() as f64;
        // In units of n^2: a symmetric product of X is m, of two squares n, a product with X 2 m. Each restart takes two products
        // with X in the place of three squares.
        let standard = steps * (3.0 * m + n);
        let gram = (4.0 * steps - 3.0 - 3.0 * restarts) * n + (1.0 + restarts) * 3.0 * m;
        // Nearly square matrices have small singular values, where it is less accurate: a few percent are not worth that.
        let worth_it = gram < 0.85 * standard;
        if self.dtype == Some(NsDtype::F16) && accurate && worth_it {
            NsMethod::Gram
        } else {
            NsMethod::Standard
        }
    }

    /// Largest absolute value that the composed map takes on singular values in [0, 1]; every output singular value
    /// is at most this, up to rounding.
    pub fn sigma_bound(&self) -> f64 {
        let schedule = self.schedule();
        grid().map(|s| compose(&schedule, s / self.coefficients.input_margin()).abs()).fold(0.0, f64::max)
    }

    /// `(field, value, legal)` of everything that is not legal.
    pub(crate) fn defects(&self) -> Vec<(&'static str, String, String)> {
        let mut out = vec![];
        let steps = self.resolved_steps();
        if !(1..=MAX_STEPS).contains(&steps) {
            let legal = format!("it must lie in 1..={MAX_STEPS}");
            out.push(("ns_steps", steps.to_string(), legal));
            return out;
        }
        if let Coefficients::Explicit(list) = &self.coefficients {
            let printed = format!("{list:?}");
            if list.is_empty() || list.iter().flatten().any(|v| !v.is_finite()) {
                out.push((
                    "ns_coefficients",
                    printed,
                    "it must be [a, b, c] or a list of such, all finite".into(),
                ));
                return out;
            }
            if (steps as usize) < list.len() {
                out.push((
                    "ns_steps",
                    steps.to_string(),
                    format!("{} coefficient tuples were given and none may be dropped", list.len()),
                ));
            }
            let schedule = self.schedule();
            let (low, high) = MAP_BOUNDS;
            let worst = grid()
                .flat_map(|s| (1..=schedule.len()).map(move |k| (s, k)))
                .map(|(s, k)| compose(&schedule[..k], s))
                .find(|v| !(low..=high).contains(v));
            if let Some(value) = worst {
                let legal = format!(
                    "the composed map must keep [0, 1] inside [{low}, {high}] at every step, and it reaches {value:.3}"
                );
                out.push(("ns_coefficients", printed, legal));
            }
        }
        // Default restarts of short runs are never reached; only given ones are checked.
        if let (NsMethod::Gram | NsMethod::Auto, Some(restarts)) = (self.method, &self.restarts) {
            let ordered = restarts.windows(2).all(|w| w[0] < w[1]);
            let in_range = restarts.iter().all(|&r| (1..steps.max(2)).contains(&r));
            if !ordered || !in_range {
                out.push((
                    "ns_restarts",
                    format!("{restarts:?}"),
                    format!("it must be increasing iteration indices in 1..={}", steps.saturating_sub(1)),
                ));
            }
        }
        out
    }
}

/// The composed scalar map.
pub fn compose(schedule: &[[f64; 3]], s: f64) -> f64 {
    schedule.iter().fold(s, |x, &[a, b, c]| {
        let square = x * x;
        x * (a + square * (b + square * c))
    })
}

/// Points of [0, 1], dense near 0 where the maps are steep.
fn grid() -> impl Iterator<Item = f64> {
    let linear = (0..=4096).map(|i| f64::from(i) / 4096.0);
    let logarithmic = (0..=1024).map(|i| 10f64.powf(-6.0 * f64::from(i) / 1024.0));
    linear.chain(logarithmic)
}

/// Parameters of [`remez`].
#[derive(Debug, Clone, Copy)]
pub struct Remez {
    /// Lower end of the interval of singular values, in (0, 1).
    pub lower: f64,
    /// Number of polynomials.
    pub steps: u32,
    /// The interval's lower end is taken as at least `cushion` times its upper end (0: never).
    pub cushion: f64,
    /// Every tuple but the last is divided by (s, s^3, s^5) with s = 1 + `safety`, and the next polynomial is made
    /// for the interval that leaves.
    pub safety: f64,
}

/// Greedy composition of minimax odd quintics: each polynomial is the best approximation of 1 on the interval that
/// the ones before it leave. Reproduces the published tables: Polar Express (lower 1e-3, cushion
/// 0.02407327424182761), the speedrun's (1e-3, cushion 0.02, safety 0.02) and CANS (1e-3, no cushion, no safety).
pub fn remez(options: Remez) -> Vec<[f64; 3]> {
    let (mut lower, mut upper) = (options.lower, 1.0);
    let safety = 1.0 + options.safety;
    let mut out = Vec::with_capacity(options.steps as usize);
    for step in 1..=options.steps {
        let mut tuple = minimax_quintic(lower.max(options.cushion * upper), upper);
        if options.cushion * upper > lower {
            // The polynomial is centred on 1 for the cushioned interval; recentre it for the real one.
            let rescale = 2.0 / (compose(&[tuple], lower) + compose(&[tuple], upper));
            tuple = tuple.map(|v| v * rescale);
        }
        if step < options.steps {
            let [a, b, c] = tuple;
            tuple = [a / safety, b / safety.powi(3), c / safety.powi(5)];
        }
        lower = compose(&[tuple], lower);
        upper = 2.0 - lower;
        out.push(tuple);
    }
    out
}

/// The odd quintic with the least maximal distance to 1 on `[l, u]`, by Remez exchange on four points.
fn minimax_quintic(l: f64, u: f64) -> [f64; 3] {
    // Above this ratio the equioscillating polynomial and the Taylor one agree to rounding.
    if 1.0 - 5e-6 <= l / u {
        return [15.0 / 8.0 / u, -10.0 / 8.0 / u.powi(3), 3.0 / 8.0 / u.powi(5)];
    }
    let (mut q, mut r) = ((3.0 * l + u) / 4.0, (l + 3.0 * u) / 4.0);
    let mut error = f64::INFINITY;
    let mut tuple = [0.0; 3];
    for _ in 0..100 {
        let row = |x: f64, sign: f64| [x, x.powi(3), x.powi(5), sign, 1.0];
        let [a, b, c, e] = solve4([row(l, 1.0), row(q, -1.0), row(r, 1.0), row(u, -1.0)]);
        tuple = [a, b, c];
        if (error - e).abs() <= 1e-15 {
            break;
        }
        error = e;
        let root = (9.0 * b * b - 20.0 * a * c).max(0.0).sqrt();
        q = ((-3.0 * b - root) / (10.0 * c)).sqrt();
        r = ((-3.0 * b + root) / (10.0 * c)).sqrt();
    }
    tuple
}

/// Gaussian elimination with partial pivoting on a 4 x 5 augmented system.
fn solve4(mut m: [[f64; 5]; 4]) -> [f64; 4] {
    for k in 0..4 {
        let pivot = (k..4).max_by(|&i, &j| m[i][k].abs().total_cmp(&m[j][k].abs())).unwrap_or(k);
        m.swap(k, pivot);
        for i in k + 1..4 {
            let factor = m[i][k] / m[k][k];
            let pivot_row = m[k];
            for (value, above) in m[i].iter_mut().zip(pivot_row).skip(k) {
                *value -= factor * above;
            }
        }
    }
    let mut x = [0.0; 4];
    for k in (0..4).rev() {
        let known: f64 = (k + 1..4).map(|j| m[k][j] * x[j]).sum();
        x[k] = (m[k][4] - known) / m[k][k];
    }
    x
}

//! What is compared: every rule, type, kind of state, length and option that the kernels tell apart.

use orthant::Dtype::{self, Bf16, F16, F32};
use orthant::config::Config;

/// An algorithm with the options that change what is computed.
pub struct Rule {
    pub name: &'static str,
    toml: &'static str,
}

const fn rule(name: &'static str, toml: &'static str) -> Rule {
    Rule { name, toml }
}

pub const RULES: [Rule; 18] = [
    rule("sign-sgd", "algorithm = 'sign-sgd'"),
    rule("sign-sgd ascent", "algorithm = 'sign-sgd'\nweight_decay = 0.1\nmaximize = true"),
    rule("signum", "algorithm = 'signum'\nmomentum = 0.8\nweight_decay = 0.1"),
    rule("lion", "algorithm = 'lion'\nbetas = [0.9, 0.97]\nweight_decay = 0.3"),
    rule(
        "sign heavy-ball",
        "algorithm = 'lmo'\nnorm = 'sign'\nestimator = { kind = 'heavy-ball', momentum = 0.7 }",
    ),
    rule(
        "sign nesterov cautious",
        "algorithm = 'lmo'\nnorm = 'sign'\nestimator = { kind = 'nesterov', momentum = 0.7 }\nweight_decay = 0.1\n\
         constraint = { kind = 'cautious-decay' }",
    ),
    rule(
        "sign extrapolated",
        "algorithm = 'lmo'\nnorm = 'sign'\nestimator = { kind = 'extrapolated', alpha = 0.2 }\nweight_decay = 0.1\n\
         constraint = { kind = 'decay' }",
    ),
    rule(
        "sign mvr convex",
        "algorithm = 'lmo'\nnorm = 'sign'\nestimator = { kind = 'mvr', alpha = 0.2 }\n\
         constraint = { kind = 'convex-combination' }",
    ),
    rule("sgd", "algorithm = 'sgd'"),
    rule("sgd momentum", "algorithm = 'sgd'\nmomentum = 0.9\ndampening = 0.1\nweight_decay = 0.1"),
    rule("sgd nesterov", "algorithm = 'sgd'\nmomentum = 0.9\nnesterov = true"),
    rule("adamw", "algorithm = 'adamw'"),
    rule(
        "adamw amsgrad",
        "algorithm = 'adamw'\nbetas = [0.8, 0.95]\neps = 1e-8\nweight_decay = 0.1\namsgrad = true",
    ),
    rule("adagrad", "algorithm = 'adagrad'\nlr_decay = 0.1\nweight_decay = 0.1\neps = 1e-10"),
    rule("nsgd", "algorithm = 'nsgd'"),
    rule(
        "frobenius lion rms",
        "algorithm = 'lmo'\nnorm = 'frobenius'\nestimator = { kind = 'lion', betas = [0.9, 0.97] }\neps = 1e-3\n\
         weight_decay = 0.1\nconstraint = { kind = 'decay' }\nscale = 'rms'",
    ),
    rule("frobenius mvr", "algorithm = 'lmo'\nnorm = 'frobenius'\nestimator = { kind = 'mvr', alpha = 0.2 }"),
    rule(
        "frobenius extrapolated",
        "algorithm = 'lmo'\nnorm = 'frobenius'\nestimator = { kind = 'extrapolated', alpha = 0.2 }",
    ),
];

const BY_SHAPE: Rule = rule(
    "sign ema by shape",
    "algorithm = 'lmo'\nnorm = 'sign'\nscale = 'original'\nestimator = { kind = 'ema', momentum = 0.9 }\nweight_decay = 0.1",
);

impl Rule {
    pub fn maximizes(&self) -> bool {
        self.toml.contains("maximize")
    }

    fn is_extrapolated(&self) -> bool {
        self.name.contains("extrapolated")
    }

    fn has_state(&self) -> bool {
        !["sign-sgd", "sign-sgd ascent", "sgd", "nsgd"].contains(&self.name)
    }
}

/// How parameters and state are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Kept {
    pub master: Option<&'static str>,
    pub narrow: bool,
    pub stochastic: bool,
}

/// The combinations that a group can have with bf16 parameters.
const KEPT: [Kept; 7] = [
    Kept { master: Some("f32"), narrow: false, stochastic: false },
    Kept { master: Some("compact"), narrow: false, stochastic: false },
    Kept { master: None, narrow: true, stochastic: false },
    Kept { master: None, narrow: false, stochastic: true },
    Kept { master: None, narrow: true, stochastic: true },
    Kept { master: Some("f32"), narrow: true, stochastic: true },
    Kept { master: Some("compact"), narrow: true, stochastic: true },
];

impl Kept {
    fn fits(self, rule: &Rule) -> bool {
        // The extrapolated methods keep x in f32 anyway; state that is not there has no type.
        !(rule.is_extrapolated() && self.master.is_some()) && (rule.has_state() || !self.narrow)
    }
}

/// Types of parameters and gradients.
const TYPES: [(Dtype, Dtype); 7] =
    [(F32, F32), (Bf16, Bf16), (Bf16, F32), (Bf16, F16), (F16, F16), (F16, F32), (F16, Bf16)];

/// Options of steps, with their names in rows.
const PLAIN: (&str, &str) = ("plain", "nonfinite = 'propagate'");
const OPTIONS: [(&str, &str); 4] = [
    ("scan", "nonfinite = 'error'"),
    ("scan, clip", "max_grad_norm = 1.0"),
    ("clip, loss scale 1000", "max_grad_norm = 0.01\nnonfinite = 'propagate'\nloss_scale = 1000"),
    ("scan, clip beyond, loss scale 1/4", "max_grad_norm = 1e6\nnonfinite = 'skip'\nloss_scale = 0.25"),
];

/// How tensors lie in device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Each at a boundary of 256 bytes.
    Aligned,
    /// One behind the other, so that boundaries are at any element, and of buffers at different ones.
    Packed,
    /// The rows of matrices with gaps between them.
    Gaps,
}

/// One comparison: a set of tensors under one group.
pub struct Case {
    pub rule: &'static Rule,
    pub param: Dtype,
    pub grad: Dtype,
    pub kept: Kept,
    pub options: (&'static str, &'static str),
    pub layout: Layout,
    pub shapes: (&'static str, Vec<Vec<usize>>),
    pub steps: u64,
    /// Micro-batches that each gradient is added up from, in tensors of this type.
    pub micro: Option<Dtype>,
    /// Whether the second step's gradients hold numbers that it has to refuse.
    pub refused: bool,
}

impl Case {
    fn new(
        rule: &'static Rule,
        (param, grad): (Dtype, Dtype),
        shapes: (&'static str, Vec<Vec<usize>>),
    ) -> Self {
        Self {
            rule,
            param,
            grad,
            kept: Kept::default(),
            options: PLAIN,
            layout: Layout::Aligned,
            shapes,
            steps: 2,
            micro: None,
            refused: false,
        }
    }

    pub fn name(&self) -> String {
        let mut name = format!("{}, {}/{}", self.rule.name, self.param, self.grad);
        let mut add = |part: &str| name.push_str(&format!(", {part}"));
        if let Some(master) = self.kept.master {
            add(&format!("{master} master"));
        }
        if self.kept.narrow {
            add("bf16 state");
        }
        if self.kept.stochastic {
            add("stochastic");
        }
        if self.options != PLAIN {
            add(self.options.0);
        }
        if let Some(micro) = self.micro {
            add(&format!("micro-batches in {micro}"));
        }
        if self.refused {
            add("refused steps");
        }
        match self.layout {
            Layout::Aligned => {}
            Layout::Packed => add("packed"),
            Layout::Gaps => add("gaps"),
        }
        add(self.shapes.0);
        name
    }

    pub fn config(&self, seed: u64) -> orthant::Result<Config> {
        let mut text = format!("[step]\nseed = {}\n{}\n", seed & 0xffff_ffff, self.options.1);
        text.push_str(&format!("[[group]]\nparams = ['*']\nlr = 0.01\n{}\n", self.rule.toml));
        if let Some(master) = self.kept.master {
            text.push_str(&format!("master = '{master}'\n"));
        }
        if self.kept.narrow {
            text.push_str("state_dtype = 'bf16'\n");
        }
        if self.kept.stochastic {
            text.push_str("rounding = 'stochastic'\n");
        }
        Config::parse(&text)
    }

    pub fn elements(&self) -> usize {
        self.shapes.1.iter().map(|shape| shape.iter().product::<usize>()).sum()
    }
}

fn vectors(lengths: impl IntoIterator<Item = usize>) -> Vec<Vec<usize>> {
    lengths.into_iter().map(|n| vec![n]).collect()
}

/// Every length up to 33, the boundary of a warp's access, matrices of odd sizes.
fn lengths() -> (&'static str, Vec<Vec<usize>>) {
    let mut shapes = vectors((0..=33).chain([255, 256, 257]));
    shapes.extend([vec![3, 5], vec![7, 129], vec![1, 257], vec![5, 0], vec![64, 33]]);
    ("lengths", shapes)
}

/// The boundaries of a reduction's block and of a chunk.
fn boundaries() -> (&'static str, Vec<Vec<usize>>) {
    ("boundaries", vectors([4095, 4096, 4097, 16_383, 16_384, 16_385]))
}

fn some() -> (&'static str, Vec<Vec<usize>>) {
    let mut shapes = vectors([0, 1, 2, 7, 8, 9, 16, 31, 32, 33, 256, 257]);
    shapes.extend([vec![3, 5], vec![7, 129], vec![4097]]);
    ("some lengths", shapes)
}

fn matrices() -> (&'static str, Vec<Vec<usize>>) {
    ("matrices", vec![vec![3, 5], vec![7, 129], vec![33, 64], vec![16, 520], vec![40, 1], vec![1, 40]])
}

fn batches() -> (&'static str, Vec<Vec<usize>>) {
    ("batches", vec![vec![3, 5, 7], vec![2, 64, 33], vec![4, 3, 3, 3], vec![2, 0, 5]])
}

/// Every comparison; `large` is the length of the long vectors.
pub fn all(large: usize) -> Vec<Case> {
    let mut cases = vec![];
    for (i, rule) in RULES.iter().enumerate() {
        let types = |k: usize| TYPES[(i + k) % TYPES.len()];
        cases.extend(TYPES.map(|types| Case { steps: 3, ..Case::new(rule, types, lengths()) }));
        let kept = KEPT.into_iter().filter(|kept| kept.fits(rule));
        cases.extend(kept.map(|kept| Case { kept, ..Case::new(rule, (Bf16, F32), some()) }));
        cases.extend(OPTIONS.iter().enumerate().map(|(k, &options)| Case {
            options,
            steps: 3,
            ..Case::new(rule, types(k), some())
        }));
        cases.push(Case::new(rule, types(1), boundaries()));
        cases.push(Case { layout: Layout::Packed, ..Case::new(rule, types(2), lengths()) });
        cases.push(Case { layout: Layout::Packed, options: OPTIONS[1], ..Case::new(rule, types(3), some()) });
        cases.push(Case {
            layout: Layout::Gaps,
            options: OPTIONS[1],
            ..Case::new(rule, types(4), matrices())
        });
        cases.push(Case::new(rule, types(5), ("a long vector", vec![vec![large]])));
        if i < 2 || rule.name == "adagrad" || rule.name == "frobenius mvr" {
            cases.push(Case {
                refused: true,
                options: OPTIONS[3],
                steps: 4,
                ..Case::new(rule, types(0), some())
            });
        }
    }
    for rule in [&BY_SHAPE, &RULES[14], &RULES[15]] {
        cases.push(Case::new(rule, (Bf16, Bf16), batches()));
    }
    for (grad, micro) in [(F32, Bf16), (F32, F32), (Bf16, Bf16), (Bf16, F16)] {
        for (layout, shapes) in
            [(Layout::Aligned, boundaries()), (Layout::Packed, lengths()), (Layout::Gaps, matrices())]
        {
            let case = Case::new(&RULES[3], (Bf16, grad), shapes);
            cases.push(Case { micro: Some(micro), layout, ..case });
        }
    }
    cases
}

/// A few comparisons of every rule and every branch of the kernels: seconds on the software GPU.
pub fn quick() -> Vec<Case> {
    let mut cases = vec![];
    for (i, rule) in RULES.iter().enumerate() {
        let types = |k: usize| TYPES[(i + k) % TYPES.len()];
        cases.push(Case::new(rule, types(0), lengths()));
        let options = OPTIONS[i % OPTIONS.len()];
        cases.push(Case { options, layout: Layout::Packed, ..Case::new(rule, types(2), some()) });
    }
    for (i, kept) in KEPT.into_iter().enumerate() {
        let rule = [&RULES[3], &RULES[12], &RULES[2], &RULES[13], &RULES[15], &RULES[9], &RULES[11]][i];
        cases.push(Case { kept, ..Case::new(rule, (Bf16, F32), some()) });
    }
    cases.push(Case { options: OPTIONS[1], ..Case::new(&RULES[3], (Bf16, Bf16), boundaries()) });
    cases.push(Case::new(&RULES[14], (F32, F32), boundaries()));
    cases.push(Case {
        layout: Layout::Gaps,
        options: OPTIONS[1],
        ..Case::new(&RULES[16], (Bf16, F32), matrices())
    });
    cases.push(Case::new(&BY_SHAPE, (Bf16, Bf16), batches()));
    cases.push(Case {
        refused: true,
        options: OPTIONS[3],
        steps: 4,
        ..Case::new(&RULES[13], (F32, F32), some())
    });
    cases.push(Case {
        micro: Some(Bf16),
        layout: Layout::Packed,
        ..Case::new(&RULES[3], (Bf16, F32), some())
    });
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_is_legal_and_has_a_name_of_its_own() {
        for cases in [all(100), quick()] {
            let mut names: Vec<String> = cases.iter().map(Case::name).collect();
            for case in &cases {
                case.config(1).unwrap_or_else(|e| panic!("{}: {e}", case.name()));
            }
            names.sort_unstable();
            let twice = names.windows(2).find(|w| w[0] == w[1]);
            assert_eq!(twice, None);
        }
        assert!(RULES.iter().all(|rule| quick().iter().any(|case| case.rule.name == rule.name)));
    }
}

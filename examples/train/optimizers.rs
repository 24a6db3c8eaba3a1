//! Which parameters go to which algorithm, and learning rates that suit the example.

use std::path::Path;

use anyhow::Context;
use orthant::config::Config;
use orthant::{Algorithm, Group, StepOptions};

/// One run of a comparison.
#[derive(Debug, Clone)]
pub struct Choice {
    pub name: String,
    pub groups: Vec<Group>,
    pub options: StepOptions,
}

/// Parameters that matrix methods are meant for: the hidden layers' weights.
const HIDDEN: [&str; 2] = ["blocks.*.attention.*.weight", "blocks.*.mlp.*.weight"];

/// AdamW beside a matrix method.
const REST_LR: f64 = 3e-3;

/// Learning rates tuned on this example, to a factor of about two.
const RATES: [(&str, f64); 10] = [
    ("muon", 0.04),
    ("orthogonal-sgdm", 0.05),
    ("scion", 0.05),
    ("adamw", 5e-3),
    ("lion", 2e-3),
    ("signum", 2e-3),
    ("sign-sgd", 2e-3),
    ("nsgd", 0.2),
    ("sgd", 0.2),
    ("adagrad", 0.02),
];

impl Choice {
    /// A preset: matrix methods own the hidden matrices and leave the rest to AdamW, others own everything. `lr` is
    /// that of the preset's group.
    ///
    /// # Errors
    /// Unknown names, and names that are not built yet.
    pub fn preset(name: &str, lr: Option<f64>) -> orthant::Result<Self> {
        let algorithm = match name {
            "sgd" => Algorithm::sgd().momentum(0.9),
            // Updates of about the size that Muon's have, and no pull towards zero.
            "scion" => Algorithm::scion().unconstrained(true),
            "adamw" => adamw(),
            other => Algorithm::by_name(other)?,
        };
        let tuned = RATES.iter().find(|(n, _)| *n == name).map(|(_, lr)| *lr);
        let matrices = algorithm.needs_matrix();
        let mut group = Group::new(name, algorithm);
        if let Some(lr) = lr.or(tuned) {
            group = group.lr(lr);
        }
        let groups = if matrices {
            vec![group.params(HIDDEN).ndim(2), Group::new("rest", adamw()).lr(REST_LR).params(["*"])]
        } else {
            vec![group.params(["*"])]
        };
        Ok(Self { name: name.to_owned(), groups, options: StepOptions::default() })
    }

    /// Groups from a file.
    ///
    /// # Errors
    /// An unreadable file, and what the configuration's parser refuses.
    pub fn file(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let config = Config::parse(&text).with_context(|| path.display().to_string())?;
        Ok(Self { name: "config".into(), groups: config.groups, options: config.options })
    }
}

fn adamw() -> Algorithm {
    Algorithm::adamw().betas(0.9, 0.95)
}

//! A Newton-Schulz iteration as a list of matrix products.
//!
//! `X` is the normalised matrix with `n` rows or columns on its short side; products are written for `X` with its short side
//! first. Two methods compute the same polynomial (arXiv 2505.16932; Dao-AILab gram-newton-schulz, 2026):
//!
//! - standard: `R = X X^T; Z = b R + c R R; X = a X + Z X`, repeated;
//! - Gram: the same on `R` alone. `Z` as before; the factors `Z + a I` are collected in `Q`, and
//!   `R <- (Z + a I) R (Z + a I)` in two products. Before a restart, and at the end, `X = Q X`.

use crate::algorithm::{NewtonSchulz, NsMethod};

/// Where an operand or a result is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// The normalised matrix.
    Input,
    /// Work space of the matrix's shape.
    Long(usize),
    /// Work space of the short side squared.
    Square(usize),
}

/// What is multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `X X^T`: symmetric.
    Gram,
    /// Two symmetric matrices that commute: symmetric.
    Square,
    /// A symmetric matrix and `X`.
    Long,
}

/// `alpha A B + sum of factor * C + gamma I`, rounded to 16 bits.
#[derive(Debug, Clone, PartialEq)]
pub struct Product {
    /// Products of one phase do not depend on one another.
    pub phase: usize,
    /// What is multiplied.
    pub kind: Kind,
    /// Left operand; of [`Kind::Long`] the symmetric one.
    pub a: Place,
    /// Right operand.
    pub b: Place,
    /// Factor on the product.
    pub alpha: f64,
    /// What is added.
    pub added: [Option<(f64, Place)>; 2],
    /// On the diagonal.
    pub gamma: f64,
    /// `None`: the direction, which goes into the parameter.
    pub result: Option<Place>,
    /// The last iteration's coefficients, at its product `R R`: from traces of `R`'s powers the guard knows there how large
    /// the direction will be.
    pub guard: Option<[f64; 3]>,
}

/// An iteration.
#[derive(Debug, Clone, PartialEq)]
pub struct Program {
    /// In an order in which they can be run.
    pub products: Vec<Product>,
    /// Work spaces of the matrix's shape, beside the input.
    pub longs: usize,
    /// Work spaces of the short side squared.
    pub squares: usize,
}

/// A result, by the number of its product; or the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value {
    Input,
    Of(usize),
}

/// A product before places are chosen.
struct Step {
    phase: usize,
    kind: Kind,
    a: Value,
    b: Value,
    alpha: f64,
    added: [Option<(f64, Value)>; 2],
    gamma: f64,
    guard: Option<[f64; 3]>,
}

#[derive(Default)]
struct Steps(Vec<Step>);

impl Steps {
    fn push(&mut self, kind: Kind, (a, b): (Value, Value), alpha: f64, added: &[(f64, Value)]) -> Value {
        let added = [added.first().copied(), added.get(1).copied()];
        let operands = [a, b].into_iter().chain(added.iter().flatten().map(|(_, value)| *value));
        let after = |value| match value {
            Value::Input => 0,
            Value::Of(i) => self.0[i].phase + 1,
        };
        let phase = operands.map(after).max().unwrap_or(0);
        self.0.push(Step { phase, kind, a, b, alpha, added, gamma: 0.0, guard: None });
        Value::Of(self.0.len() - 1)
    }

    fn gram(&mut self, x: Value) -> Value {
        self.push(Kind::Gram, (x, x), 1.0, &[])
    }

    fn standard(&mut self, schedule: &[[f64; 3]]) {
        let mut x = Value::Input;
        for (t, &[a, b, c]) in schedule.iter().enumerate() {
            let r = self.gram(x);
            let z = self.push(Kind::Square, (r, r), c, &[(b, r)]);
            self.guard_last(t, schedule);
            x = self.push(Kind::Long, (z, x), 1.0, &[(a, x)]);
        }
    }

    fn gram_method(&mut self, schedule: &[[f64; 3]], restarts: &[u32]) {
        let restarts_at = |t: usize| t > 0 && restarts.contains(&(t as u32));
        let mut x = Value::Input;
        let mut r = self.gram(x);
        // What Q is so far: nothing, Z + a I in two parts (rounding a into 16 bits would hurt), or a matrix.
        enum Factor {
            Nothing,
            First(Value, f64),
            Product(Value),
        }
        let mut factor = Factor::Nothing;
        let apply = |steps: &mut Self, factor: &Factor, x| match *factor {
            Factor::Nothing => x,
            Factor::First(z, a) => steps.push(Kind::Long, (z, x), 1.0, &[(a, x)]),
            Factor::Product(q) => steps.push(Kind::Long, (q, x), 1.0, &[]),
        };
        for (t, &[a, b, c]) in schedule.iter().enumerate() {
            if restarts_at(t) {
                x = apply(self, &factor, x);
                r = self.gram(x);
                factor = Factor::Nothing;
            }
            let z = self.push(Kind::Square, (r, r), c, &[(b, r)]);
            self.guard_last(t, schedule);
            if t + 1 < schedule.len() && !restarts_at(t + 1) {
                let rz = self.push(Kind::Square, (r, z), 1.0, &[(a, r)]);
                r = self.push(Kind::Square, (z, rz), 1.0, &[(a, rz)]);
            }
            factor = match factor {
                Factor::Nothing => Factor::First(z, a),
                // (Z1 + a1 I)(Z + a I)
                Factor::First(first, a1) => {
                    let q = self.push(Kind::Square, (first, z), 1.0, &[(a1, z), (a, first)]);
                    if let Some(step) = self.0.last_mut() {
                        step.gamma = a1 * a;
                    }
                    Factor::Product(q)
                }
                Factor::Product(q) => Factor::Product(self.push(Kind::Square, (q, z), 1.0, &[(a, q)])),
            };
        }
        apply(self, &factor, x);
    }

    fn guard_last(&mut self, t: usize, schedule: &[[f64; 3]]) {
        if let (Some(step), true) = (self.0.last_mut(), t + 1 == schedule.len()) {
            step.guard = Some(schedule[t]);
        }
    }

    /// Chooses places: a result takes the first one whose last reader belongs to an earlier phase.
    fn place(mut self) -> Program {
        let end = self.0.len() - 1;
        let mut last_read = vec![0; self.0.len()];
        for step in &self.0 {
            for value in [step.a, step.b].into_iter().chain(step.added.iter().flatten().map(|(_, v)| *v)) {
                // The input stays: the safe iteration begins with it again.
                if let Value::Of(i) = value {
                    last_read[i] = last_read[i].max(step.phase);
                }
            }
        }
        let mut order: Vec<usize> = (0..self.0.len()).collect();
        order.sort_by_key(|&i| self.0[i].phase);
        // Until which phase each place is read.
        let [mut longs, mut squares]: [Vec<(Place, usize)>; 2] = [vec![], vec![]];
        let mut places = vec![None; self.0.len()];
        for &i in order.iter().filter(|&&i| i != end) {
            let step = &self.0[i];
            let long = step.kind == Kind::Long;
            let busy = if long { &mut longs } else { &mut squares };
            let fresh = if long { Place::Long(busy.len()) } else { Place::Square(busy.len()) };
            let at = busy.iter().position(|(_, until)| *until < step.phase).unwrap_or_else(|| {
                busy.push((fresh, 0));
                busy.len() - 1
            });
            busy[at].1 = last_read[i];
            places[i] = Some(busy[at].0);
        }
        let of = |value: Value| match value {
            Value::Input => Place::Input,
            // Only the last product has no place, and nobody reads it.
            Value::Of(i) => places[i].unwrap_or(Place::Input),
        };
        let (longs, squares) = (longs.len(), squares.len());
        let products = order.into_iter().map(|i| {
            let step = &mut self.0[i];
            Product {
                phase: step.phase,
                kind: step.kind,
                a: of(step.a),
                b: of(step.b),
                alpha: step.alpha,
                added: step.added.map(|term| term.map(|(factor, value)| (factor, of(value)))),
                gamma: step.gamma,
                result: places[i],
                guard: step.guard.take(),
            }
        });
        Program { products: products.collect(), longs, squares }
    }
}

impl Program {
    /// The iteration for matrices of this shape.
    pub fn new(spec: &NewtonSchulz, rows: usize, columns: usize) -> Self {
        let mut steps = Steps::default();
        match spec.method_for(rows, columns) {
            NsMethod::Gram => steps.gram_method(&spec.schedule(), spec.resolved_restarts()),
            _ => steps.standard(&spec.schedule()),
        }
        steps.place()
    }

    /// Five standard steps with Jordan's coefficients, which stay bounded whatever the matrix: what takes an iteration's place
    /// that would leave its bound.
    pub fn safe() -> Self {
        let mut steps = Steps::default();
        steps.standard(&NewtonSchulz::default().schedule());
        steps.place()
    }

    /// Number of phases.
    pub fn phases(&self) -> usize {
        self.products.iter().map(|p| p.phase + 1).max().unwrap_or(0)
    }

    /// Floating-point operations that it needs: `n^2 k` for a symmetric product, `2 m n k` for another.
    pub fn ideal_flops(&self, rows: usize, columns: usize) -> u64 {
        self.products.iter().map(|p| p.extents(rows, columns).ideal_flops()).sum()
    }

    /// Floating-point operations that the kernels execute: whole blocks of 16 x 8 x 16.
    pub fn executed_flops(&self, rows: usize, columns: usize) -> u64 {
        self.products.iter().map(|p| p.extents(rows, columns).executed_flops()).sum()
    }
}

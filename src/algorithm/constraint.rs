//! What holds the parameters back: weight decay in its forms.

/// How the step `x - eta u` is combined with the pull towards zero; `eta = lr * scale`, `lambda` = weight decay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Constraint {
    /// `x = x - eta u`.
    None,
    /// Decoupled decay with the unadjusted learning rate: `x = (1 - lr lambda) x - eta u`. The trust region's centre
    /// is pulled to zero; the iterates stay in a ball of radius `scale / lambda` (arXiv 2503.12645, section on weight decay).
    Decay,
    /// As `Decay`, but an element decays only where it agrees in sign with its update (`u x >= 0`): cautious weight
    /// decay, arXiv 2510.12402.
    CautiousDecay,
    /// `x = (1 - lr) x - lr scale u`: Scion's constrained form (Frank-Wolfe; arXiv 2502.07529). Takes no weight decay.
    ConvexCombination,
}

impl Constraint {
    /// All constraints with their names in configurations.
    pub const ALL: [(&'static str, Constraint); 4] = [
        ("none", Constraint::None),
        ("decay", Constraint::Decay),
        ("cautious-decay", Constraint::CautiousDecay),
        ("convex-combination", Constraint::ConvexCombination),
    ];

    /// Name in configurations.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, c)| *c == self).map_or("", |(name, _)| name)
    }

    /// Whether a weight decay other than zero has a meaning.
    pub fn takes_weight_decay(self) -> bool {
        matches!(self, Self::Decay | Self::CautiousDecay)
    }
}

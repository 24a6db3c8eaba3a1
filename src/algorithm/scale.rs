//! Radius factors by shape: the step is `lr * scale(rows, columns) * u`.

use super::Norm;

/// Factor on the learning rate that depends on the shape (rows r, columns c) of each matrix and, for `Rms`, on the norm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scale {
    /// 1.
    None,
    /// `sqrt(max(1, r/c))`: torch's `adjust_lr_fn="original"`, Keller Jordan's Muon.
    Original,
    /// `0.2 sqrt(max(r, c))`: torch's `adjust_lr_fn="match_rms_adamw"`, Moonlight (arXiv 2502.16982).
    MatchRmsAdamw,
    /// `sqrt(r/c)`: torch's `adjust_lr_fn="spectral_unclamped"`.
    SpectralUnclamped,
    /// The factor that makes the root mean square of the update's entries 1 for a full-rank direction, the
    /// normalisation of arXiv 2511.11466: sign 1, Frobenius `sqrt(rc)`, spectral `sqrt(max(r, c))`, rows `sqrt(c)`,
    /// columns `sqrt(r)`. (For RMS->RMS it replaces that norm's own factor.)
    Rms,
    /// A constant.
    Factor(f64),
    /// LIONS-EPFL's Scion: a constant radius times its norms' own factors: sign `1/c`, rows `1/sqrt(c)`,
    /// columns `sqrt(r)`, Frobenius (its `BiasRMS`) `sqrt(rc)`, RMS->RMS and spectral 1.
    Scion(f64),
}

impl Scale {
    /// Scales that have a name in configurations (a number is [`Scale::Factor`]).
    pub const NAMED: [(&'static str, Scale); 5] = [
        ("none", Scale::None),
        ("original", Scale::Original),
        ("match_rms_adamw", Scale::MatchRmsAdamw),
        ("spectral_unclamped", Scale::SpectralUnclamped),
        ("rms", Scale::Rms),
    ];

    /// The factor for one matrix. The norm's own factor (RMS->RMS) is included, so that the LMO itself is the plain
    /// `U V^T` for both spectral norms.
    pub fn factor(self, norm: Norm, rows: usize, columns: usize) -> f64 {
        let (r, c) = (rows as f64, columns as f64);
        if r == 0.0 || c == 0.0 {
            return 0.0;
        }
        let own = if norm == Norm::RmsToRms { (r / c).sqrt() } else { 1.0 };
        match self {
            Self::None => own,
            Self::Original => own * (r / c).max(1.0).sqrt(),
            Self::MatchRmsAdamw => own * 0.2 * r.max(c).sqrt(),
            Self::SpectralUnclamped => own * (r / c).sqrt(),
            Self::Factor(factor) => own * factor,
            Self::Rms => match norm {
                Norm::Sign => 1.0,
                Norm::Frobenius => (r * c).sqrt(),
                Norm::Spectral | Norm::RmsToRms => r.max(c).sqrt(),
                Norm::Rows => c.sqrt(),
                Norm::Columns => r.sqrt(),
            },
            Self::Scion(radius) => {
                radius
                    * match norm {
                        Norm::Sign => 1.0 / c,
                        Norm::Frobenius => (r * c).sqrt(),
                        Norm::Spectral | Norm::RmsToRms => own,
                        Norm::Rows => 1.0 / c.sqrt(),
                        Norm::Columns => r.sqrt(),
                    }
            }
        }
    }

    /// Whether the factor depends on rows and columns, so that a 1-D parameter has none.
    pub fn needs_matrix(self, norm: Norm) -> bool {
        match self {
            Self::Original | Self::MatchRmsAdamw | Self::SpectralUnclamped => true,
            Self::Scion(_) => norm == Norm::Sign,
            Self::None | Self::Rms | Self::Factor(_) => false,
        }
    }
}

impl std::fmt::Display for Scale {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Factor(factor) => write!(f, "{factor}"),
            Self::Scion(radius) => write!(f, "scion {radius}"),
            named => f.write_str(Self::NAMED.iter().find(|(_, s)| s == named).map_or("", |(name, _)| name)),
        }
    }
}

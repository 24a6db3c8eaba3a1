//! Norms, by their linear minimisation oracles (LMOs).

/// The norm of the trust region. Its LMO gives the unit direction `u = argmax_{||u|| <= 1} <m, u>`; the step is
/// `-radius * u`. Matrices are (rows, columns) = (fan_out, fan_in). A zero input gives a zero direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norm {
    /// `||x||_2` over the matrix (or vector): `u = m / ||m||_F`.
    Frobenius,
    /// `max |x_ij|`: `u = sign(m)`, with `sign(+-0) = 0` and `sign(NaN) = NaN`.
    Sign,
    /// `sigma_max`: `u = U V^T` of the singular value decomposition, approximated by Newton-Schulz.
    Spectral,
    /// `sqrt(d_in/d_out) sigma_max`, the operator norm between RMS norms: `u = sqrt(d_out/d_in) U V^T`.
    RmsToRms,
    /// `max_i ||x_i:||_2` (2 -> inf): every row divided by its 2-norm.
    Rows,
    /// `max_j ||x_:j||_2` (1 -> 2): every column divided by its 2-norm.
    Columns,
}

impl Norm {
    /// All norms with their names in configurations.
    pub const ALL: [(&'static str, Norm); 6] = [
        ("frobenius", Norm::Frobenius),
        ("sign", Norm::Sign),
        ("spectral", Norm::Spectral),
        ("rms-to-rms", Norm::RmsToRms),
        ("rows", Norm::Rows),
        ("columns", Norm::Columns),
    ];

    /// Name in configurations.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, n)| *n == self).map_or("", |(name, _)| name)
    }

    /// Whether a 1-D parameter has no meaning under this norm.
    pub fn needs_matrix(self) -> bool {
        matches!(self, Self::Spectral | Self::RmsToRms | Self::Rows | Self::Columns)
    }

    /// Whether the direction comes from Newton-Schulz.
    pub fn is_spectral(self) -> bool {
        matches!(self, Self::Spectral | Self::RmsToRms)
    }
}

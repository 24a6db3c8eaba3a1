//! Tests of `src/algorithm`, in the same layout.

mod newton_schulz;
mod presets;

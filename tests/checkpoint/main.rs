//! Checkpoints: resume is bit-exact, no damage goes unnoticed, no crash loses a saved state.

mod crash;
mod damage;
mod model;
mod refusal;
mod resume;

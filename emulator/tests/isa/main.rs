//! Every register-only instruction against the PTX ISA's definition or an independent computation.

mod approx;
mod bits;
mod compare;
mod convert;
mod exact;
mod float;
mod fp8;
mod half;
mod harness;
mod integer;
mod moves;
mod refused;
mod video;

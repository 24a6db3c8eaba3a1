//! Faults to order: every call of the driver that a scenario makes fails once with every kind of code, and nothing is lost.
//!
//! Lost would be: a panic, a hang, success with other bits, a step that was partly applied, a torn file, an object that
//! stays alive, an error that does not say which call and which device. The software GPU alone can be asked for this.
#![allow(unsafe_code, reason = "tensors on a card, and the driver as a caller uses it")]

mod lost;
#[path = "../cuda/noise.rs"]
mod noise;
mod runs;
mod scenarios;
mod world;

//! What tensor cores are given: Newton-Schulz iterations as lists of products ([`Program`]), products as tiles
//! ([`Extents`]), and all matrices of a step as launches ([`Schedule`]). Plain data made from shapes alone; no device.

mod cohorts;
mod program;
mod tiles;

#[cfg(feature = "cuda")]
pub(crate) use cohorts::spectral;
pub use cohorts::{Cohort, DEFAULT_WORKSPACE, Item, Launch, Schedule, Space, TileOf};
pub use program::{Kind, Place, Product, Program};
#[cfg(feature = "cuda")]
pub(crate) use tiles::check;
pub use tiles::{Extents, Form, LARGEST, LONGEST, PIECE, TILE};

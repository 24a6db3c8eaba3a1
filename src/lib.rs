//! Orthant is an optimizer runtime: SignSGD, Signum, Lion, Muon, Scion and their relatives as data, with an
//! executable reference on the CPU. On a card ([`Device::Cuda`]), or on the software GPU ([`Device::Emulated`]), the same
//! types step with kernels; which algorithms have them is for `orthant plan --device` and [`cuda::kernels`].
//!
//! Every method is one step of a stochastic non-Euclidean trust-region method with a momentum estimator
//! ([`algorithm`]). A training loop registers its parameters once and steps:
//!
//! ```
//! use orthant::{Algorithm, Device, Group, Optimizer, Parameter, Tensor};
//!
//! let weight = Tensor::from_vec(vec![0.5f32; 64 * 32], &[64, 32])?;
//! let weight_grad = Tensor::from_vec(vec![0.1f32; 64 * 32], &[64, 32])?;
//! let bias = Tensor::from_vec(vec![0.0f32; 64], &[64])?;
//! let bias_grad = Tensor::from_vec(vec![0.1f32; 64], &[64])?;
//!
//! let mut optimizer = Optimizer::builder(Device::auto()?)
//!     .group(Group::new("hidden", Algorithm::muon()).lr(0.02).weight_decay(0.1).params(["*.weight"]).ndim(2))
//!     .group(Group::new("rest", Algorithm::adamw()).lr(3e-4).params(["*"]))
//!     .register([
//!         Parameter::new("mlp.weight", weight.clone()).grad(weight_grad.clone()),
//!         Parameter::new("mlp.bias", bias).grad(bias_grad),
//!     ])?;
//!
//! // forward, backward: write gradients into `weight_grad`, ... then
//! optimizer.step()?;
//! assert_ne!(weight.to_vec::<f32>()?[0], 0.5);
//! # Ok::<(), orthant::Error>(())
//! ```

pub mod algorithm;
#[cfg(feature = "candle")]
pub mod candle;

pub mod checkpoint;
pub mod config;
#[cfg(feature = "cuda")]
pub mod cuda;
mod device;
mod device_tensor;
mod driver;
mod error;
pub mod files;
mod group;
mod images;
mod optimizer;
pub mod plan;
pub mod reference;
pub mod schedule;
mod tensor;

pub use algorithm::Algorithm;
pub use device::{Device, EmulatedCard};
pub use device_tensor::DeviceTensor;
pub use driver::{DeviceInfo, Driver};
pub use error::{Error, Result};
pub use group::{Group, Master, Rounding, Splits, StateDtype};
pub use images::{IMAGES, Image, NVRTC_VERSION};
#[cfg(feature = "cuda")]
pub use optimizer::DeviceScalars;
pub use optimizer::{
    AnyTensor, Builder, NonFinite, Optimizer, Parameter, ScanScalars, StepOptions, StepReport,
};
pub use plan::{ParameterSpec, Plan, Precision};
pub use tensor::{Dtype, Element, Storage, Tensor};

/// The README's example is compiled with the documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

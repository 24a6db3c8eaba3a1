//! The adapter to candle (feature `candle`): an [`Optimizer`] that implements [`candle_nn::Optimizer`] and updates
//! candle's variables in place.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use candle_nn::{Init, Optimizer, VarMap};
//! use orthant::candle::CandleOptimizer;
//! use orthant::{Algorithm, Group, StepOptions};
//!
//! let vars = VarMap::new();
//! let weight = vars.get((4, 3), "mlp.weight", Init::Const(0.5), DType::F32, &Device::Cpu)?;
//! let groups = [Group::new("hidden", Algorithm::muon()).lr(0.02).params(["*.weight"])];
//! let mut optimizer = CandleOptimizer::from_varmap(&vars, groups, StepOptions::default())?;
//!
//! let input = Tensor::ones((2, 3), DType::F32, &Device::Cpu)?;
//! let loss = input.matmul(&weight.t()?)?.sqr()?.mean_all()?;
//! optimizer.backward_step(&loss)?;
//! assert_eq!(optimizer.report().updated, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A step copies every variable into the parameter's buffer and its gradient into the gradient's buffer, steps on the
//! CPU or on the device that [`CandleConfig::device`] names, and copies the updated parameters back with `Var::set`. So
//! variables may be assigned between steps, with two exceptions that live in the optimizer's state: f32 master copies and the
//! iterates of extrapolated methods. (Digits below a variable that compact masters keep stay below what is assigned.)

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::PoisonError;

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, DType, Tensor as CandleTensor, TensorId, Var};
use candle_nn::VarMap;

use crate::algorithm::Slot;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::group::Group;
use crate::optimizer::{Optimizer, Parameter, StepOptions, StepReport};
use crate::plan::Precision;
use crate::tensor::{Dtype, Storage, Tensor};

/// What [`candle_nn::Optimizer::new`] takes: groups, options, and the names that candle's variables do not have.
#[derive(Debug, Clone, Default)]
pub struct CandleConfig {
    groups: Vec<Group>,
    options: StepOptions,
    precision: Option<Precision>,
    device: Option<Device>,
    names: HashMap<TensorId, Vec<String>>,
}

impl CandleConfig {
    /// Groups in order: the first that matches a variable's name owns it.
    pub fn new(groups: impl IntoIterator<Item = Group>) -> Self {
        Self { groups: groups.into_iter().collect(), ..Self::default() }
    }

    /// Options of every step.
    #[must_use]
    pub fn options(mut self, options: StepOptions) -> Self {
        self.options = options;
        self
    }

    /// Compute type. Without it: f64 when any variable is stored in f64, else f32.
    #[must_use]
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = Some(precision);
        self
    }

    /// Where steps run; variables stay in host memory. Without it: the CPU.
    #[must_use]
    pub fn device(mut self, device: Device) -> Self {
        self.device = Some(device);
        self
    }

    /// Names one variable. Clones of a variable are the same variable.
    #[must_use]
    pub fn name(mut self, var: &Var, name: impl Into<String>) -> Self {
        self.names.entry(var.id()).or_default().push(name.into());
        self
    }

    /// Takes the names of all variables of a map.
    #[must_use]
    pub fn names(self, vars: &VarMap) -> Self {
        sorted(vars).into_iter().fold(self, |config, (name, var)| config.name(&var, name))
    }
}

/// The variables of a map, sorted by name: maps themselves have no order.
fn sorted(vars: &VarMap) -> Vec<(String, Var)> {
    let vars = vars.data().lock().unwrap_or_else(PoisonError::into_inner);
    let mut out: Vec<_> = vars.iter().map(|(name, var)| (name.clone(), var.clone())).collect();
    out.sort_by(|a, b| a.0.cmp(&b.0));
    out
}

#[derive(Debug)]
struct Variable {
    name: String,
    var: Var,
    data: Tensor,
    /// Gradient buffers, made when the variable first has a gradient of that shape and type.
    grad: Option<Tensor>,
    previous: Option<Tensor>,
}

/// An [`Optimizer`] over candle variables. For extrapolated methods the variables hold the extrapolated point `y`, where
/// gradients are to be taken; see [`eval_point`](Self::eval_point).
#[derive(Debug)]
pub struct CandleOptimizer {
    optimizer: Optimizer,
    variables: Vec<Variable>,
    report: StepReport,
    /// Index of the group that `learning_rate` speaks of, and every group's rate as a multiple of its rate.
    reference: usize,
    shares: Vec<f64>,
    /// `set_learning_rate` cannot return an error, so the next step does.
    refused: Option<Error>,
}

impl CandleOptimizer {
    /// An optimizer for all variables of a map, registered in the order of their names.
    ///
    /// # Errors
    /// What [`Builder::register`](crate::Builder::register) refuses; a variable on another device than the CPU, of
    /// another type than f32, f64, bf16 and f16, not contiguous, or with two names.
    pub fn from_varmap(
        vars: &VarMap,
        groups: impl IntoIterator<Item = Group>,
        options: StepOptions,
    ) -> Result<Self> {
        Self::with_config(vars, CandleConfig::new(groups).options(options))
    }

    /// As [`from_varmap`](Self::from_varmap) with everything that a configuration has beside names.
    ///
    /// # Errors
    /// As [`from_varmap`](Self::from_varmap); a device that is not there or has no kernels for a group.
    pub fn with_config(vars: &VarMap, config: CandleConfig) -> Result<Self> {
        Self::register(sorted(vars).into_iter().map(|(_, var)| var), config.names(vars))
    }

    /// An optimizer for `vars`, registered in the order given.
    ///
    /// # Errors
    /// As [`from_varmap`](Self::from_varmap), and variables that occur twice or have no name in `config`.
    pub fn register(vars: impl IntoIterator<Item = Var>, config: CandleConfig) -> Result<Self> {
        let mut seen = HashSet::new();
        let mut variables = vec![];
        for (i, var) in vars.into_iter().enumerate() {
            let name = match config.names.get(&var.id()).map(Vec::as_slice) {
                Some([name]) => name.clone(),
                Some([name, other, ..]) => {
                    let reason = format!("its variable is also called `{other}`; it needs one name");
                    return Err(Error::parameter(name, reason));
                }
                _ => {
                    return Err(Error::Config(format!(
                        "variable {i} (shape {:?}, {}) has no name; give it one with CandleConfig::name, or take \
                         all variables of a VarMap with CandleOptimizer::from_varmap",
                        var.dims(),
                        var.dtype().as_str()
                    )));
                }
            };
            if !seen.insert(var.id()) {
                return Err(Error::parameter(&name, "its variable was given twice"));
            }
            if !var.is_contiguous() {
                return Err(Error::parameter(
                    &name,
                    "its variable is not contiguous, so candle cannot set it",
                ));
            }
            let data = buffer_for(&name, &var)?;
            copy_in(&name, &var, &data)?;
            variables.push(Variable { name, var, data, grad: None, previous: None });
        }
        let device = config.device.unwrap_or(Device::Cpu);
        let mut builder = Optimizer::builder(device).groups(config.groups).options(config.options);
        if let Some(precision) = config.precision {
            builder = builder.precision(precision);
        }
        let optimizer =
            builder.register(variables.iter().map(|v| Parameter::new(&v.name, v.data.clone())))?;
        let mut new = Self {
            reference: 0,
            shares: vec![1.0; optimizer.plan().groups.len()],
            optimizer,
            variables,
            report: StepReport::default(),
            refused: None,
        };
        let rates = new.rates();
        new.reference = rates.iter().position(|&lr| lr > 0.0).unwrap_or(0);
        new.update_shares(&rates);
        Ok(new)
    }

    /// One step with the gradients of a backward pass. Variables without a gradient are left alone, and so is all
    /// their state.
    ///
    /// # Errors
    /// As [`Optimizer::step`], gradients on another device or of another type or shape than the variable can have,
    /// and a learning rate refused by `set_learning_rate`. Variables and state are bit for bit unchanged then.
    pub fn apply(&mut self, grads: &GradStore) -> Result<&StepReport> {
        self.apply_both(grads, None)
    }

    /// As [`apply`](Self::apply) for variance reduction: `previous` holds the gradients that the current batch has at
    /// the variables' previous values. It is not read for variables on their first step.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn apply_with_previous(&mut self, grads: &GradStore, previous: &GradStore) -> Result<&StepReport> {
        self.apply_both(grads, Some(previous))
    }

    fn apply_both(&mut self, grads: &GradStore, previous: Option<&GradStore>) -> Result<&StepReport> {
        if let Some(refused) = &self.refused {
            return Err(refused.clone());
        }
        let bind = |name: &str, buffer: &mut Option<Tensor>, grads: Option<&GradStore>, var: &Var| {
            let grad = grads.and_then(|grads| grads.get(var));
            grad.map(|grad| fill(buffer, name, grad)).transpose()
        };
        let (mut bound, mut bound_previous) = (vec![], vec![]);
        for v in &mut self.variables {
            bound.push(bind(&v.name, &mut v.grad, Some(grads), &v.var)?);
            bound_previous.push(bind(&v.name, &mut v.previous, previous, &v.var)?);
        }
        let updated: Vec<bool> = bound.iter().map(Option::is_some).collect();
        // Bound anew every time, so that nothing is left over from a step that failed half-way.
        let names = || self.variables.iter().map(|v| v.name.as_str());
        self.optimizer.rebind_gradients(names().zip(bound))?;
        self.optimizer.rebind_previous_gradients(names().zip(bound_previous))?;
        for v in &self.variables {
            copy_in(&v.name, &v.var, &v.data)?;
        }
        self.report = self.optimizer.step()?;
        if self.report.applied {
            for (v, _) in self.variables.iter().zip(updated).filter(|(_, updated)| *updated) {
                copy_out(v)?;
            }
        }
        Ok(&self.report)
    }

    /// What the last successful step did; empty before the first.
    pub fn report(&self) -> &StepReport {
        &self.report
    }

    /// The optimizer inside: routing, state, step counts. Its parameter buffers hold the variables' values as of the
    /// last step.
    pub fn inner(&self) -> &Optimizer {
        &self.optimizer
    }

    /// A group's learning rate.
    ///
    /// # Errors
    /// An unknown group.
    pub fn lr(&self, group: &str) -> Result<f64> {
        self.optimizer.lr(group)
    }

    /// Sets one group's learning rate from the next step on, and with it its proportion to the others that
    /// `set_learning_rate` keeps. (While the rate that `learning_rate` returns is 0 the proportions stay as they were.)
    ///
    /// # Errors
    /// An unknown group, or a value outside the legal interval; nothing changes then.
    pub fn set_lr(&mut self, group: &str, lr: f64) -> Result<()> {
        let before = self.rates();
        self.optimizer.set_lr(group, lr)?;
        self.refused = None;
        if before.get(self.reference).is_some_and(|&r| r > 0.0) {
            self.update_shares(&self.rates());
        }
        Ok(())
    }

    /// Sets one group's weight decay from the next step on.
    ///
    /// # Errors
    /// An unknown group, or a value outside the legal interval; nothing changes then.
    pub fn set_weight_decay(&mut self, group: &str, weight_decay: f64) -> Result<()> {
        self.optimizer.set_weight_decay(group, weight_decay)
    }

    /// `set_learning_rate` of [`candle_nn::Optimizer`], with its errors: the rate of the group that `learning_rate`
    /// speaks of becomes `lr`, and all other groups' rates change in proportion.
    ///
    /// # Errors
    /// When a group's rate would leave its legal interval; no group changes then.
    pub fn try_set_learning_rate(&mut self, lr: f64) -> Result<()> {
        let before = self.rates();
        let names: Vec<String> = self.optimizer.plan().groups.iter().map(|g| g.name().to_owned()).collect();
        for (i, (name, share)) in names.iter().zip(&self.shares).enumerate() {
            let rate = if i == self.reference { lr } else { lr * share };
            if let Err(refused) = self.optimizer.set_lr(name, rate) {
                for (name, &rate) in names.iter().zip(&before) {
                    // These were in force a moment ago, so they are legal.
                    let _ = self.optimizer.set_lr(name, rate);
                }
                return Err(refused);
            }
        }
        self.refused = None;
        Ok(())
    }

    fn rates(&self) -> Vec<f64> {
        let groups = &self.optimizer.plan().groups;
        groups.iter().map(|g| self.optimizer.lr(g.name()).unwrap_or(0.0)).collect()
    }

    fn update_shares(&mut self, rates: &[f64]) {
        if let Some(&first) = rates.get(self.reference).filter(|&&r| r > 0.0) {
            self.shares = rates.iter().map(|&rate| rate / first).collect();
        }
    }

    /// Shows the iterates `x` of extrapolated methods in their variables, for evaluating or exporting the model.
    /// Steps are refused until [`train_point`](Self::train_point); save variables for resuming only after it. Other
    /// variables are not touched, and without extrapolated methods this does nothing.
    ///
    /// # Errors
    /// When candle refuses to read or set a variable.
    pub fn eval_point(&mut self) -> Result<()> {
        for v in &self.variables {
            copy_in(&v.name, &v.var, &v.data)?;
        }
        self.optimizer.eval_point()?;
        self.show_points()
    }

    /// Puts the extrapolated points `y`, where gradients are to be taken, back into their variables.
    ///
    /// # Errors
    /// When candle refuses to set a variable.
    pub fn train_point(&mut self) -> Result<()> {
        self.optimizer.train_point()?;
        self.show_points()
    }

    fn show_points(&self) -> Result<()> {
        let planned = &self.optimizer.plan().parameters;
        let extrapolated = self
            .variables
            .iter()
            .zip(planned)
            .filter(|(_, p)| p.slots.iter().any(|(s, _)| *s == Slot::Point));
        extrapolated.into_iter().try_for_each(|(v, _)| copy_out(v))
    }

    /// Writes the optimizer's state, atomically. The variables are the training loop's to save (`VarMap::save`).
    ///
    /// # Errors
    /// As [`Optimizer::save`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.optimizer.save(path)
    }

    /// Reads state written by [`save`](Self::save). Learning rates stay as they are configured here.
    ///
    /// # Errors
    /// As [`Optimizer::load`]; nothing changes then.
    pub fn load(&mut self, path: impl AsRef<Path>) -> Result<()> {
        self.optimizer.load(path)
    }
}

/// The trait's methods. Errors are those of the methods above, wrapped.
impl candle_nn::Optimizer for CandleOptimizer {
    type Config = CandleConfig;

    fn new(vars: Vec<Var>, config: CandleConfig) -> candle_core::Result<Self> {
        Self::register(vars, config).map_err(candle_core::Error::wrap)
    }

    fn step(&mut self, grads: &GradStore) -> candle_core::Result<()> {
        self.apply(grads).map(drop).map_err(candle_core::Error::wrap)
    }

    /// The rate of the first group, or of the first that started with a rate above 0.
    fn learning_rate(&self) -> f64 {
        self.rates().get(self.reference).copied().unwrap_or(0.0)
    }

    /// As [`CandleOptimizer::try_set_learning_rate`]. The trait leaves no room for an error, so after an illegal rate
    /// all rates stay as they are and every step is refused until a legal one is set.
    fn set_learning_rate(&mut self, lr: f64) {
        self.refused = self.try_set_learning_rate(lr).err();
    }
}

/// Copies a gradient into its buffer; one that does not fit any more is replaced.
fn fill(buffer: &mut Option<Tensor>, name: &str, grad: &CandleTensor) -> Result<Tensor> {
    let fits = |b: &Tensor| b.shape() == grad.dims() && Some(b.dtype()) == dtype_of(grad.dtype());
    let tensor = match buffer.take().filter(fits) {
        Some(tensor) => tensor,
        None => buffer_for(name, grad)?,
    };
    copy_in(name, grad, &tensor)?;
    Ok(buffer.insert(tensor).clone())
}

fn dtype_of(dtype: DType) -> Option<Dtype> {
    match dtype {
        DType::F64 => Some(Dtype::F64),
        DType::F32 => Some(Dtype::F32),
        DType::BF16 => Some(Dtype::Bf16),
        DType::F16 => Some(Dtype::F16),
        _ => None,
    }
}

fn buffer_for(name: &str, like: &CandleTensor) -> Result<Tensor> {
    if !like.device().is_cpu() {
        return Err(Error::parameter(
            name,
            format!("it lies on {:?}; the CPU is supported", like.device().location()),
        ));
    }
    let Some(dtype) = dtype_of(like.dtype()) else {
        let reason = format!("it holds {}; f64, f32, bf16 and f16 are supported", like.dtype().as_str());
        return Err(Error::parameter(name, reason));
    };
    Tensor::zeros(dtype, like.dims())
}

fn copy_in(name: &str, source: &CandleTensor, target: &Tensor) -> Result<()> {
    let refused = |e: candle_core::Error| Error::parameter(name, format!("candle cannot read it: {e}"));
    let source = source.contiguous().map_err(refused)?;
    let (storage, layout) = source.storage_and_layout();
    let elements = layout.start_offset()..layout.start_offset() + layout.shape().elem_count();
    let candle_core::Storage::Cpu(storage) = &*storage else {
        return Err(Error::parameter(name, "it does not lie on the CPU"));
    };
    match storage {
        CpuStorage::F64(v) => target.copy_from_slice(v.get(elements).unwrap_or_default()),
        CpuStorage::F32(v) => target.copy_from_slice(v.get(elements).unwrap_or_default()),
        CpuStorage::BF16(v) => target.copy_from_slice(v.get(elements).unwrap_or_default()),
        CpuStorage::F16(v) => target.copy_from_slice(v.get(elements).unwrap_or_default()),
        _ => Err(Error::parameter(name, "f64, f32, bf16 and f16 are supported")),
    }
}

fn copy_out(variable: &Variable) -> Result<()> {
    let (shape, cpu) = (variable.var.shape(), &candle_core::Device::Cpu);
    let values = match variable.data.to_storage() {
        Storage::F64(v) => CandleTensor::from_vec(v, shape, cpu),
        Storage::F32(v) => CandleTensor::from_vec(v, shape, cpu),
        Storage::Bf16(v) => CandleTensor::from_vec(v, shape, cpu),
        Storage::F16(v) => CandleTensor::from_vec(v, shape, cpu),
    };
    values
        .and_then(|values| variable.var.set(&values))
        .map_err(|e| Error::parameter(&variable.name, format!("candle cannot set it: {e}")))
}

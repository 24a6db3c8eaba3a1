//! The TOML form of groups. Names follow PyTorch where PyTorch has one; unknown keys are errors that suggest the
//! nearest name.
//!
//! ```
//! let config = orthant::config::Config::parse(r#"
//!     [step]
//!     max_grad_norm = 1.0
//!
//!     [[group]]
//!     params = ["blocks.*.weight"]
//!     ndim = 2
//!     algorithm = "muon"
//!     lr = 0.02
//!
//!     [[group]]
//!     params = ["*"]
//!     algorithm = "lmo"
//!     lr = 1e-3
//!     estimator = { kind = "mvr", alpha = 0.1 }
//!     norm = "sign"
//! "#)?;
//! assert_eq!(config.groups.len(), 2);
//! # Ok::<(), orthant::Error>(())
//! ```

use std::collections::BTreeSet;

use toml::{Table, Value};

use crate::algorithm::{
    Algorithm, Coefficients, Constraint, Estimator, Initial, Norm, NsDtype, NsMethod, Scale, Setting,
};
use crate::error::{Error, Result, suggest};
use crate::group::{Group, Master, Rounding, Splits, StateDtype};
use crate::optimizer::{NonFinite, StepOptions};

/// Groups and step options.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `[step]`.
    pub options: StepOptions,
    /// `[[group]]`, in order.
    pub groups: Vec<Group>,
}

impl Config {
    /// Reads and checks a configuration.
    ///
    /// # Errors
    /// TOML syntax errors with their position, unknown keys, wrong types, names that are not built yet, and
    /// hyperparameters outside their legal intervals.
    pub fn parse(text: &str) -> Result<Self> {
        let table: Table =
            text.parse().map_err(|e: toml::de::Error| Error::Config(e.to_string().trim_end().to_owned()))?;
        let mut top = Fields::new(table, "top level".into());
        let options = step_options(top.table("step")?)?;
        let groups = match top.take("group") {
            None => return Err(Error::Config("there is no [[group]]".into())),
            Some(Value::Array(groups)) => groups
                .into_iter()
                .enumerate()
                .map(|(i, value)| match value {
                    Value::Table(table) => group(table, i),
                    other => Err(top.wrong("group", &other, "tables: [[group]]")),
                })
                .collect::<Result<Vec<_>>>()?,
            Some(other) => return Err(top.wrong("group", &other, "tables: [[group]]")),
        };
        top.finish()?;
        for group in &groups {
            group.validate()?;
        }
        Ok(Self { options, groups })
    }
}

fn step_options(table: Option<Table>) -> Result<StepOptions> {
    let mut fields = Fields::new(table.unwrap_or_default(), "[step]".into());
    let nonfinite =
        [("error", NonFinite::Error), ("skip", NonFinite::Skip), ("propagate", NonFinite::Propagate)];
    let options = StepOptions {
        max_grad_norm: fields.number("max_grad_norm")?,
        loss_scale: fields.number("loss_scale")?.unwrap_or(1.0),
        nonfinite: fields.choice("nonfinite", &nonfinite)?.unwrap_or_default(),
        diagnostics: fields.boolean("diagnostics")?.unwrap_or(false),
        seed: fields
            .typed("seed", "a whole number, not negative", |v| u64::try_from(v.as_integer()?).ok())?
            .unwrap_or(0),
        max_workspace: fields.typed("max_workspace", "a whole number of bytes, not negative", |v| {
            usize::try_from(v.as_integer()?).ok()
        })?,
    };
    fields.finish()?;
    options.validate()?;
    Ok(options)
}

fn group(table: Table, index: usize) -> Result<Group> {
    let mut fields = Fields::new(table, format!("group {}", index + 1));
    let name = fields.string("name")?;
    if let Some(name) = &name {
        fields.context = format!("group `{name}`");
    }
    let Some(algorithm) = fields.string("algorithm")? else {
        let misspelt = |key: &&String| strsim::damerau_levenshtein(key, "algorithm") <= 3;
        if let Some(key) = fields.table.keys().find(misspelt) {
            let text = format!("{}: unknown key `{key}`; did you mean `algorithm`?", fields.context);
            return Err(Error::Config(text));
        }
        return Err(Error::Config(format!("{}: algorithm is missing", fields.context)));
    };
    let mut algorithm = Algorithm::by_name(&algorithm).map_err(|e| match e {
        Error::Config(text) => Error::Config(format!("{}: {text}", fields.context)),
        Error::NotBuilt { what, remedy } => Error::not_built(format!("{}: {what}", fields.context), remedy),
        other => other,
    })?;
    let name = name.unwrap_or_else(|| format!("{} {}", algorithm.name(), index + 1));
    let mut group = Group::new(name, algorithm.clone());
    group.params = fields.strings("params")?.unwrap_or_default();
    group.exclude = fields.strings("exclude")?.unwrap_or_default();
    group.ndim = fields.unsigned("ndim")?;
    group.lr = fields.number("lr")?;
    group.weight_decay = fields.number("weight_decay")?;
    group.maximize = fields.boolean("maximize")?.unwrap_or(false);
    group.splits = splits(&mut fields)?;
    let masters = [("none", Master::None), ("f32", Master::F32), ("compact", Master::Compact)];
    group.master = fields.choice("master", &masters)?.unwrap_or(Master::None);
    group.state_dtype = match fields.string("state_dtype")?.as_deref() {
        None | Some("f32") => StateDtype::Full,
        Some("bf16") => StateDtype::Bf16,
        Some("q8") => {
            return Err(Error::not_built(format!("{}: state_dtype = \"q8\"", fields.context), ""));
        }
        Some(other) => return Err(fields.not_one_of("state_dtype", other, &["f32", "bf16", "q8"])),
    };
    let roundings = [("nearest", Rounding::Nearest), ("stochastic", Rounding::Stochastic)];
    group.rounding = fields.choice("rounding", &roundings)?.unwrap_or(Rounding::Nearest);
    for setting in settings(&mut fields, &algorithm)? {
        let key = setting.key();
        algorithm.set(setting).map_err(|hint| Error::NotAnOption {
            group: group.name.clone(),
            algorithm: algorithm.name().to_owned(),
            field: key.to_owned(),
            hint,
        })?;
    }
    group.algorithm = algorithm;
    fields.finish()?;
    Ok(group)
}

fn splits(fields: &mut Fields) -> Result<Option<Splits>> {
    match fields.take("splits") {
        None => Ok(None),
        Some(Value::Integer(n)) if n > 0 => Ok(Some(Splits::Equal(n as usize))),
        Some(Value::Array(sizes)) => sizes
            .iter()
            .map(|v| v.as_integer().and_then(|n| usize::try_from(n).ok()))
            .collect::<Option<Vec<usize>>>()
            .map(|sizes| Some(Splits::Sizes(sizes)))
            .ok_or_else(|| fields.wrong("splits", &Value::Array(sizes), "row counts, or a number of blocks")),
        Some(other) => Err(fields.wrong("splits", &other, "row counts, or a number of blocks")),
    }
}

/// Every hyperparameter key that is present, as a setting.
fn settings(fields: &mut Fields, algorithm: &Algorithm) -> Result<Vec<Setting>> {
    let mut out = vec![];
    let mut push = |setting: Option<Setting>| out.extend(setting);
    push(fields.number("momentum")?.map(Setting::Momentum));
    push(fields.boolean("nesterov")?.map(Setting::Nesterov));
    push(fields.number("dampening")?.map(Setting::Dampening));
    push(fields.pair("betas")?.map(Setting::Betas));
    push(fields.number("eps")?.map(Setting::Eps));
    push(fields.boolean("amsgrad")?.map(Setting::Amsgrad));
    push(fields.number("lr_decay")?.map(Setting::LrDecay));
    push(fields.number("initial_accumulator_value")?.map(Setting::InitialAccumulatorValue));
    push(fields.integer_in("ns_steps", "an iteration count, 1 to 30")?.map(Setting::NsSteps));
    push(ns_coefficients(fields)?.map(Setting::NsCoefficients));
    push(fields.choice("ns_dtype", &NsDtype::ALL)?.map(Setting::NsDtype));
    push(fields.choice("ns_method", &NsMethod::ALL)?.map(Setting::NsMethod));
    push(fields.integers("ns_restarts")?.map(Setting::NsRestarts));
    push(fields.choice("adjust_lr_fn", &Scale::NAMED[..4])?.map(Setting::AdjustLrFn));
    push(scale(fields)?.map(Setting::Scale));
    push(norm(fields)?.map(Setting::Norm));
    push(fields.boolean("unconstrained")?.map(Setting::Unconstrained));
    push(fields.boolean("cautious_weight_decay")?.map(Setting::CautiousWeightDecay));
    push(constraint(fields)?.map(Setting::Constraint));
    if let Some(table) = fields.table("estimator")? {
        out.push(Setting::Estimator(estimator(table, &fields.context)?));
    } else if algorithm.name() == "lmo" {
        return Err(Error::Config(format!(
            "{}: `lmo` needs estimator = {{ kind = \"...\" }} and norm",
            fields.context
        )));
    }
    let has_norm = out.iter().any(|s| matches!(s, Setting::Norm(_)));
    if algorithm.name() == "lmo" && !has_norm {
        return Err(Error::Config(format!("{}: `lmo` needs a norm", fields.context)));
    }
    Ok(out)
}

fn ns_coefficients(fields: &mut Fields) -> Result<Option<Coefficients>> {
    const WANTED: &str = "a set's name, [a, b, c], or a list of such";
    let Some(value) = fields.take("ns_coefficients") else { return Ok(None) };
    let triple = |value: &Value| -> Option<[f64; 3]> {
        let numbers: Vec<f64> = value.as_array()?.iter().map(as_number).collect::<Option<_>>()?;
        numbers.try_into().ok()
    };
    match &value {
        Value::String(name) if name == "turbo" => {
            Err(Error::not_built(format!("{}: ns_coefficients = \"turbo\"", fields.context), ""))
        }
        Value::String(name) => match Coefficients::NAMED.iter().find(|(known, _)| known == name) {
            Some((_, set)) => Ok(Some(set.clone())),
            None => {
                let names: Vec<&str> = Coefficients::NAMED.iter().map(|(name, _)| *name).collect();
                Err(fields.not_one_of("ns_coefficients", name, &names))
            }
        },
        Value::Array(list) => {
            let triples = match triple(&value) {
                Some(one) => Some(vec![one]),
                None => list.iter().map(triple).collect::<Option<Vec<_>>>(),
            };
            triples
                .map(|t| Some(Coefficients::Explicit(t)))
                .ok_or_else(|| fields.wrong("ns_coefficients", &value, WANTED))
        }
        other => Err(fields.wrong("ns_coefficients", other, WANTED)),
    }
}

fn scale(fields: &mut Fields) -> Result<Option<Scale>> {
    match fields.peek("scale") {
        None | Some(Value::String(_)) => fields.choice("scale", &Scale::NAMED),
        Some(_) => Ok(fields.typed("scale", "a number or a name", as_number)?.map(Scale::Factor)),
    }
}

/// `rms->rms` and `rms_to_rms` are the same norm.
fn norm(fields: &mut Fields) -> Result<Option<Norm>> {
    if let Some(Value::String(name)) = fields.table.get_mut("norm") {
        *name = name.replace("->", "-to-").replace('_', "-");
    }
    fields.choice("norm", &Norm::ALL)
}

/// A name, or `{ kind = name }`.
fn constraint(fields: &mut Fields) -> Result<Option<Constraint>> {
    let table = match fields.take("constraint") {
        None => return Ok(None),
        Some(Value::Table(table)) => table,
        Some(name) => [("kind".to_owned(), name)].into_iter().collect(),
    };
    let mut inner = Fields::new(table, format!("{}, constraint", fields.context));
    if let Some(kind @ ("box" | "l1")) = inner.peek("kind").and_then(Value::as_str) {
        return Err(Error::not_built(format!("{}: kind = \"{kind}\"", inner.context), ""));
    }
    let kind = inner.choice("kind", &Constraint::ALL)?;
    inner.finish()?;
    match kind {
        Some(kind) => Ok(Some(kind)),
        None => Err(Error::Config(format!("{}: kind is missing", inner.context))),
    }
}

fn estimator(table: Table, context: &str) -> Result<Estimator> {
    let mut fields = Fields::new(table, format!("{context}, estimator"));
    let Some(kind) = fields.string("kind")? else {
        return Err(Error::Config(format!("{}: kind is missing", fields.context)));
    };
    let given = match (fields.number("momentum")?, fields.number("alpha")?) {
        (Some(_), Some(_)) => {
            return Err(Error::Config(format!(
                "{}: momentum and alpha = 1 - momentum were both given",
                fields.context
            )));
        }
        (Some(momentum), None) => Some((momentum, 1.0 - momentum)),
        (None, Some(alpha)) => Some((1.0 - alpha, alpha)),
        (None, None) => None,
    };
    let initial = [("zero", Initial::Zero), ("first-gradient", Initial::FirstGradient)];
    let initial = fields.choice("initial", &initial)?;
    let betas = fields.pair("betas")?;
    // Before anything is called missing: it may be there, misspelt.
    fields.finish()?;
    let context = fields.context.clone();
    let needed = || {
        given.ok_or_else(|| {
            Error::Config(format!("{context}: `{kind}` needs momentum, or alpha = 1 - momentum"))
        })
    };
    let start = initial.unwrap_or(Initial::Zero);
    let estimator = match kind.as_str() {
        "none" => Estimator::None,
        "heavy-ball" => Estimator::HeavyBall { momentum: needed()?.0, initial: start },
        "ema" => Estimator::Ema { momentum: needed()?.0, initial: start },
        "nesterov" => Estimator::Nesterov { momentum: needed()?.0, initial: start },
        "lion" => Estimator::Lion {
            betas: betas.ok_or_else(|| Error::Config(format!("{context}: `lion` needs betas")))?,
        },
        "extrapolated" => Estimator::Extrapolated { alpha: needed()?.1 },
        "mvr" => Estimator::Mvr { alpha: needed()?.1 },
        other => {
            let kinds = ["none", "heavy-ball", "ema", "nesterov", "lion", "extrapolated", "mvr"];
            return Err(fields.not_one_of("kind", other, &kinds));
        }
    };
    let starts = matches!(kind.as_str(), "heavy-ball" | "ema" | "nesterov");
    let unused = [
        ("initial", initial.is_some() && !starts),
        ("betas", betas.is_some() && kind != "lion"),
        ("momentum or alpha", given.is_some() && matches!(kind.as_str(), "none" | "lion")),
    ];
    if let Some((key, _)) = unused.iter().find(|(_, unused)| *unused) {
        return Err(Error::Config(format!("{context}: `{kind}` has no {key}")));
    }
    Ok(estimator)
}

fn as_number(value: &Value) -> Option<f64> {
    match value {
        Value::Float(v) => Some(*v),
        Value::Integer(v) => Some(*v as f64),
        _ => None,
    }
}

/// A table whose keys are taken one by one; what is left at the end was not a key.
struct Fields {
    table: Table,
    context: String,
    known: BTreeSet<&'static str>,
}

impl Fields {
    fn new(table: Table, context: String) -> Self {
        Self { table, context, known: BTreeSet::new() }
    }

    fn peek(&self, key: &str) -> Option<&Value> {
        self.table.get(key)
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.insert(key);
        self.table.remove(key)
    }

    fn wrong(&self, key: &str, value: &Value, wanted: &str) -> Error {
        Error::Config(format!("{}: {key} = {value} is not legal; it must be {wanted}", self.context))
    }

    fn not_one_of(&self, key: &str, value: &str, names: &[&str]) -> Error {
        let hint = suggest(value, names.iter().copied());
        Error::Config(format!("{}: {key} = \"{value}\" is not legal{hint}", self.context))
    }

    fn typed<T>(
        &mut self,
        key: &'static str,
        wanted: &str,
        convert: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>> {
        match self.take(key) {
            None => Ok(None),
            Some(value) => convert(&value).map(Some).ok_or_else(|| self.wrong(key, &value, wanted)),
        }
    }

    fn number(&mut self, key: &'static str) -> Result<Option<f64>> {
        self.typed(key, "a number", as_number)
    }

    fn boolean(&mut self, key: &'static str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    fn string(&mut self, key: &'static str) -> Result<Option<String>> {
        self.typed(key, "a string", |v| v.as_str().map(str::to_owned))
    }

    fn strings(&mut self, key: &'static str) -> Result<Option<Vec<String>>> {
        self.typed(key, "a list of strings", |v| {
            v.as_array()?.iter().map(|s| s.as_str().map(str::to_owned)).collect()
        })
    }

    fn unsigned(&mut self, key: &'static str) -> Result<Option<usize>> {
        self.typed(key, "a whole number, not negative", |v| usize::try_from(v.as_integer()?).ok())
    }

    fn integer_in(&mut self, key: &'static str, wanted: &str) -> Result<Option<u32>> {
        self.typed(key, wanted, |v| u32::try_from(v.as_integer()?).ok())
    }

    fn integers(&mut self, key: &'static str) -> Result<Option<Vec<u32>>> {
        self.typed(key, "a list of iteration indices", |v| {
            v.as_array()?.iter().map(|n| u32::try_from(n.as_integer()?).ok()).collect()
        })
    }

    fn pair(&mut self, key: &'static str) -> Result<Option<[f64; 2]>> {
        self.typed(key, "two numbers", |v| {
            let numbers: Vec<f64> = v.as_array()?.iter().map(as_number).collect::<Option<_>>()?;
            numbers.try_into().ok()
        })
    }

    fn table(&mut self, key: &'static str) -> Result<Option<Table>> {
        self.typed(key, "a table", |v| v.as_table().cloned())
    }

    fn choice<T: Clone>(&mut self, key: &'static str, choices: &[(&'static str, T)]) -> Result<Option<T>> {
        let Some(name) = self.string(key)? else { return Ok(None) };
        match choices.iter().find(|(known, _)| *known == name) {
            Some((_, value)) => Ok(Some(value.clone())),
            None => {
                let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
                Err(self.not_one_of(key, &name, &names))
            }
        }
    }

    fn finish(&self) -> Result<()> {
        match self.table.keys().next() {
            None => Ok(()),
            Some(key) => {
                let hint = suggest(key, self.known.iter().copied());
                Err(Error::Config(format!("{}: unknown key `{key}`{hint}", self.context)))
            }
        }
    }
}

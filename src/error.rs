//! The one public error type. Every variant names what it concerns (group, parameter, field, file) and the cause.

use std::path::PathBuf;

/// Shorthand used throughout the crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong, as a value. Functions that could panic (a few of [`crate::reference`]) say so.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A hyperparameter lies outside its legal interval. NaN and infinities are outside every interval.
    #[error("group `{group}`: {field} = {value} is not legal; {legal}")]
    Hyperparameter {
        /// Name of the parameter group.
        group: String,
        /// Option name as in the TOML form.
        field: String,
        /// The offending value.
        value: String,
        /// The legal interval or set, in words.
        legal: String,
    },
    /// An option that the algorithm does not have.
    #[error("group `{group}`: `{algorithm}` has no option `{field}`{hint}")]
    NotAnOption {
        /// Name of the parameter group.
        group: String,
        /// Algorithm name.
        algorithm: String,
        /// The option that was given.
        field: String,
        /// Nearest legal name or list of legal names; may be empty.
        hint: String,
    },
    /// A name or feature that the design reserves and this version does not build.
    #[error("{what} is not built yet{remedy}")]
    NotBuilt {
        /// What was asked for.
        what: String,
        /// What to use instead; may be empty, else starts with "; ".
        remedy: String,
    },
    /// Malformed configuration: TOML syntax, unknown keys, wrong types, missing fields.
    #[error("configuration: {0}")]
    Config(String),
    /// The routing of parameters to groups does not work out.
    #[error("routing: {0}")]
    Routing(String),
    /// A parameter (shape, dtype, strides, buffers) that its algorithm or the backend cannot take.
    #[error("parameter `{parameter}`: {reason}")]
    Parameter {
        /// Parameter name.
        parameter: String,
        /// Cause and, where there is one, the remedy.
        reason: String,
    },
    /// A tensor that was described wrongly: sizes, strides or offsets that do not fit its storage.
    #[error("tensor: {0}")]
    Tensor(String),
    /// A gradient holds NaN or an infinity. Nothing was changed.
    #[error(
        "step {step}: gradient of parameter `{parameter}` is not finite ({value} at element {index}); nothing was changed"
    )]
    NonFiniteGradient {
        /// The 1-based step that was refused.
        step: u64,
        /// First parameter, in registration order, with a non-finite gradient element.
        parameter: String,
        /// Row-major index of its first non-finite element.
        index: usize,
        /// `NaN`, `inf` or `-inf`.
        value: String,
    },
    /// A finite gradient that the algorithm's state cannot hold: its square, or its sum with the momentum, would
    /// overflow the working type and freeze the element for ever. Nothing was changed.
    #[error(
        "step {step}: gradient of parameter `{parameter}` reaches {value:e}, beyond the {limit:e} that its state can take in; nothing was changed"
    )]
    GradientOverflow {
        /// The 1-based step that was refused.
        step: u64,
        /// First such parameter, in registration order.
        parameter: String,
        /// Largest absolute value, without the loss scale and after clipping.
        value: f64,
        /// Largest one that is accepted.
        limit: f64,
    },
    /// The scalars that a step was decided from, reduced over ranks ([`crate::ScanScalars`]), refuse it, and this rank's own
    /// gradients do not. Nothing was changed.
    #[error(
        "step {step}: a gradient of another rank is not finite, or too large for its state; nothing was changed"
    )]
    RefusedElsewhere {
        /// The 1-based step that was refused.
        step: u64,
    },
    /// A step or a load that cannot be done in the optimizer's present state. Nothing was changed.
    #[error("{0}; nothing was changed")]
    Step(String),
    /// No parameter has a gradient: most likely backward did not run.
    #[error("step: no registered parameter has a gradient; nothing was changed")]
    NoGradients,
    /// A tensor file or checkpoint that is damaged or does not fit, with all problems found.
    #[error("{}: {}", path.display(), problems.join("; "))]
    File {
        /// The file.
        path: PathBuf,
        /// Every problem found, each naming its entry.
        problems: Vec<String>,
    },
    /// The operating system refused.
    #[error("{}: {operation}: {cause}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was attempted.
        operation: &'static str,
        /// The system's words.
        cause: String,
    },
    /// A call of the driver failed, and the context is still of use.
    #[error("device `{device}`: {call} failed in {during}: {name} ({code}): {meaning}")]
    Driver {
        /// Device.
        device: String,
        /// What this crate was doing.
        during: String,
        /// The driver's function.
        call: &'static str,
        /// The code's name.
        name: String,
        /// The `CUresult`.
        code: u32,
        /// The driver's words for it.
        meaning: String,
    },
    /// The context or the state on the device is lost. Every later call answers with this first cause.
    #[error(
        "device `{device}`: {call} failed in {during}: {name} ({code}): {meaning}; it may stem from earlier work of this process on the card. {consequence}"
    )]
    DeviceLost {
        /// Device.
        device: String,
        /// What this crate was doing when it saw the error first.
        during: String,
        /// The driver's function.
        call: &'static str,
        /// The code's name.
        name: String,
        /// The `CUresult`.
        code: u32,
        /// The driver's words for it.
        meaning: String,
        /// What of the optimizer can still be relied on.
        consequence: &'static str,
    },
    /// There is not enough device memory. Nothing was registered.
    #[error("device `{device}`: {what} needs {bytes} bytes and {free} are free; nothing was registered")]
    OutOfMemory {
        /// Device.
        device: String,
        /// What the memory is for, naming the largest parameter.
        what: String,
        /// Bytes wanted.
        bytes: u64,
        /// Bytes free.
        free: u64,
    },
    /// The device asked for cannot be used.
    #[error("device `{device}`: {reason}")]
    Device {
        /// As it was asked for.
        device: String,
        /// Why not, and what to do.
        reason: String,
    },
}

impl Error {
    pub(crate) fn parameter(parameter: &str, reason: impl Into<String>) -> Self {
        Self::Parameter { parameter: parameter.to_owned(), reason: reason.into() }
    }

    pub(crate) fn io(
        path: &std::path::Path,
        operation: &'static str,
    ) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |cause| Self::Io { path, operation, cause: cause.to_string() }
    }

    pub(crate) fn not_built(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::NotBuilt { what: what.into(), remedy: remedy.into() }
    }
}

/// `; did you mean `x`?` for the nearest candidate, or the list of candidates when none is near.
pub(crate) fn suggest<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    let candidates: Vec<&str> = candidates.into_iter().collect();
    let nearest = candidates
        .iter()
        .map(|c| (strsim::damerau_levenshtein(given, c), *c))
        .min_by_key(|(distance, _)| *distance);
    match nearest {
        Some((distance, name)) if distance <= 2.max(given.len() / 3) => {
            format!("; did you mean `{name}`?")
        }
        Some(_) => format!("; legal: {}", candidates.join(", ")),
        None => String::new(),
    }
}

//! Routing: every parameter to exactly one group, with the matrices it consists of, its state and the reason.
//! Needs no device.

use globset::{Glob, GlobBuilder, GlobMatcher};

use crate::algorithm::{Norm, Rule, Slot};
use crate::error::{Error, Result};
use crate::group::{Group, Master, Rounding, Splits, StateDtype};
use crate::optimizer::StepOptions;
use crate::tensor::{Dtype, checked_numel, numel};

/// Name, shape and types of a parameter: all that routing looks at.
#[derive(Debug, Clone, PartialEq)]
pub struct ParameterSpec {
    /// Unique name.
    pub name: String,
    /// Dimensions, outermost first; matrices are (rows, columns) = (fan_out, fan_in).
    pub shape: Vec<usize>,
    /// Element type of the parameter.
    pub dtype: Dtype,
    /// Element type of the gradient, where known.
    pub grad_dtype: Option<Dtype>,
}

/// Type that the CPU computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// Single precision.
    F32,
    /// Double precision: the oracle.
    F64,
}

impl Precision {
    /// Name in options and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F64 => "f64",
        }
    }
}

/// One matrix of a parameter: a row-major range of the parameter's row-major elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatrixView {
    /// First element.
    pub offset: usize,
    /// Rows (fan_out).
    pub rows: usize,
    /// Columns (fan_in).
    pub columns: usize,
}

/// One row of the routing table.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedParameter {
    /// What was routed.
    pub spec: ParameterSpec,
    /// Index of the owning group.
    pub group: usize,
    /// Why this group: the pattern that matched.
    pub reason: String,
    /// The matrices that norms and scales see: one for a 2-D parameter (or a vector, as 1 x n), one per batch entry
    /// for 3-D, (out, in*kh*kw) for 4-D and above, divided further where splits are declared.
    pub matrices: Vec<MatrixView>,
    /// State buffers and the element types of their storage.
    pub slots: Vec<(Slot, Dtype)>,
}

impl PlannedParameter {
    /// Elements of the parameter.
    pub fn numel(&self) -> usize {
        numel(&self.spec.shape)
    }

    /// Bytes of state: all buffers and the step count.
    pub fn state_bytes(&self) -> usize {
        let bytes = |dtype: Dtype| dtype.size().saturating_mul(self.numel());
        self.slots.iter().fold(size_of::<u64>(), |sum, (_, dtype)| sum.saturating_add(bytes(*dtype)))
    }
}

/// The routing table.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The groups, in order.
    pub groups: Vec<Group>,
    /// One row per parameter, in the order given.
    pub parameters: Vec<PlannedParameter>,
    /// Compute type.
    pub precision: Precision,
    /// Things that are legal and probably not meant.
    pub warnings: Vec<String>,
}

impl Plan {
    /// Routes `parameters` to `groups`. Without a `precision`, f64 is taken when any parameter is stored in f64.
    ///
    /// # Errors
    /// Illegal hyperparameters, patterns that match nothing, parameters that no group matches, and parameters that
    /// their algorithm cannot take; each names what it concerns.
    pub fn new(
        groups: Vec<Group>,
        parameters: Vec<ParameterSpec>,
        precision: Option<Precision>,
    ) -> Result<Self> {
        if groups.is_empty() {
            return Err(Error::Config("there is no group".into()));
        }
        for (i, group) in groups.iter().enumerate() {
            group.validate()?;
            if groups[..i].iter().any(|g| g.name == group.name) {
                return Err(Error::Config(format!("two groups are called `{}`", group.name)));
            }
        }
        if parameters.is_empty() {
            return Err(Error::Routing("there are no parameters".into()));
        }
        let mut names: Vec<&str> = parameters.iter().map(|p| p.name.as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|w| w[0] == w[1]) {
            return Err(Error::parameter(twice[0], "it is registered twice"));
        }
        for parameter in &parameters {
            check_name(&parameter.name)?;
        }
        let any_f64 = parameters.iter().any(|p| p.dtype == Dtype::F64);
        let precision = precision.unwrap_or(if any_f64 { Precision::F64 } else { Precision::F32 });

        let routers: Vec<Router> = groups.iter().map(Router::new).collect::<Result<_>>()?;
        for router in &routers {
            router.every_pattern_matches(&names)?;
        }
        let mut unassigned = vec![];
        let mut planned = Vec::with_capacity(parameters.len());
        for spec in parameters {
            match routers.iter().enumerate().find_map(|(i, r)| Some((i, r.owns(&spec)?))) {
                Some((group, reason)) => {
                    planned.push(plan_parameter(&groups[group], group, spec, reason, precision)?);
                }
                None => unassigned.push(format!("`{}` {:?}", spec.name, spec.shape)),
            }
        }
        if !unassigned.is_empty() {
            let shown = unassigned.iter().take(10).cloned().collect::<Vec<_>>().join(", ");
            let more = unassigned.len().saturating_sub(10);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            return Err(Error::Routing(format!(
                "no group matches {shown}{more}; add a group for them, for example params = [\"*\"] at the end"
            )));
        }
        let warnings = warnings(&groups, &planned);
        Ok(Self { groups, parameters: planned, precision, warnings })
    }

    /// Bytes of state of all parameters.
    pub fn state_bytes(&self) -> usize {
        self.parameters.iter().fold(0, |sum, p| sum.saturating_add(p.state_bytes()))
    }

    /// Bytes that a step has to read and write for these options: of parameters with a known gradient's type, every buffer
    /// that the step touches, once for each pass that touches it. Caches, tables and hyperparameters are not counted. It is
    /// the measure of a step's time that no implementation can beat, and what kernels are held to.
    pub fn step_bytes(&self, options: &StepOptions) -> u64 {
        let bytes = |p: &PlannedParameter| {
            let Some(gradient) = p.spec.grad_dtype else { return 0 };
            let algorithm = &self.group_of(p).algorithm;
            let size =
                |slot: Slot| p.slots.iter().filter(|(s, _)| *s == slot).map(|(_, d)| d.size()).sum::<usize>();
            let previous = if algorithm.needs_previous_gradient() { gradient.size() } else { 0 };
            let gradients = gradient.size() + previous;
            let state: usize = p.slots.iter().map(|(_, dtype)| 2 * dtype.size()).sum();
            // A full-precision copy is read in the parameter's place; a compact one with it.
            let copied = size(Slot::Point) + size(Slot::Master) > 0;
            let parameter = p.spec.dtype.size() * if copied { 1 } else { 2 };
            let norm = match algorithm.rule() {
                Rule::Lmo(lmo) if matches!(lmo.norm, Norm::Frobenius | Norm::Rows | Norm::Columns) => {
                    gradients + size(Slot::Momentum)
                }
                _ => 0,
            };
            let scan = match algorithm.rule() {
                _ if !options.decides() => 0,
                Rule::AdaGrad(_) => gradients + size(Slot::Variance),
                _ => gradients,
            };
            ((gradients + state + parameter + norm + scan) as u64).saturating_mul(p.numel() as u64)
        };
        self.parameters.iter().map(bytes).fold(0, u64::saturating_add)
    }

    /// Warnings for the gradients' types as they are now.
    pub(crate) fn refresh_warnings(&mut self) {
        self.warnings = warnings(&self.groups, &self.parameters);
    }

    /// The group that owns a parameter.
    pub fn group_of(&self, parameter: &PlannedParameter) -> &Group {
        &self.groups[parameter.group]
    }
}

fn warnings(groups: &[Group], planned: &[PlannedParameter]) -> Vec<String> {
    let mut out = vec![];
    for (i, group) in groups.iter().enumerate() {
        if !planned.iter().any(|p| p.group == i) {
            out.push(format!("group `{}` owns no parameter: earlier groups took all it matches", group.name));
        }
    }
    // One line a group, however many parameters it concerns.
    for (i, group) in groups.iter().enumerate() {
        let concerned = |of: &dyn Fn(&ParameterSpec) -> bool| -> Option<String> {
            let mut names =
                planned.iter().filter(|p| p.group == i && of(&p.spec)).map(|p| p.spec.name.as_str());
            let first = names.next()?;
            let more = names.count();
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            Some(format!("group `{}`: `{first}`{more}", group.name))
        };
        if group.algorithm.needs_previous_gradient()
            && let Some(who) = concerned(&|spec| spec.grad_dtype.is_some_and(Dtype::is_half))
        {
            out.push(format!(
                "{who}: variance reduction subtracts two nearly equal gradients, and 16-bit ones lose most of the difference; use f32 gradients"
            ));
        }
        let bare = group.master == Master::None && group.rounding == Rounding::Nearest;
        if bare
            && !group.algorithm.is_extrapolated()
            && let Some(who) = concerned(&|spec| spec.dtype.is_half())
        {
            out.push(format!(
                "{who}: 16-bit parameters without master or stochastic rounding lose updates smaller than half a unit in the last place"
            ));
        }
    }
    out
}

/// Names become checkpoint keys and appear in messages; they are never used as paths.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let legal = |c: char| !c.is_control() && c != '"' && c != '\\';
    if name.is_empty() || name.len() > 512 || !name.chars().all(legal) {
        let shown: String = name.chars().take(64).flat_map(char::escape_debug).collect();
        return Err(Error::parameter(
            &shown,
            "names have 1 to 512 bytes, without control characters, quotes and backslashes",
        ));
    }
    if name == "__metadata__" {
        return Err(Error::parameter(name, "the name is reserved by the safetensors format"));
    }
    Ok(())
}

struct Router<'a> {
    group: &'a Group,
    params: Vec<GlobMatcher>,
    exclude: Vec<GlobMatcher>,
}

impl<'a> Router<'a> {
    fn new(group: &'a Group) -> Result<Self> {
        let compile = |globs: &[String]| -> Result<Vec<GlobMatcher>> {
            let one = |glob: &String| -> std::result::Result<Glob, globset::Error> {
                GlobBuilder::new(glob).literal_separator(false).build()
            };
            globs
                .iter()
                .map(|g| match one(g) {
                    Ok(glob) => Ok(glob.compile_matcher()),
                    Err(e) => Err(Error::Config(format!(
                        "group `{}`: pattern `{g}` is no glob: {}",
                        group.name,
                        e.kind()
                    ))),
                })
                .collect()
        };
        Ok(Self { group, params: compile(&group.params)?, exclude: compile(&group.exclude)? })
    }

    fn every_pattern_matches(&self, names: &[&str]) -> Result<()> {
        let dead = self
            .params
            .iter()
            .chain(&self.exclude)
            .find(|pattern| !names.iter().any(|name| pattern.is_match(name)));
        match dead {
            Some(pattern) => Err(Error::Routing(format!(
                "group `{}`: pattern `{}` matches no parameter",
                self.group.name,
                pattern.glob().glob()
            ))),
            None => Ok(()),
        }
    }

    fn owns(&self, spec: &ParameterSpec) -> Option<String> {
        let pattern = self.params.iter().find(|p| p.is_match(&spec.name))?;
        if self.exclude.iter().any(|p| p.is_match(&spec.name)) {
            return None;
        }
        let glob = pattern.glob().glob();
        match self.group.ndim {
            Some(ndim) if ndim != spec.shape.len() => None,
            Some(ndim) => Some(format!("matches `{glob}` with ndim = {ndim}")),
            None => Some(format!("matches `{glob}`")),
        }
    }
}

fn plan_parameter(
    group: &Group,
    index: usize,
    spec: ParameterSpec,
    reason: String,
    precision: Precision,
) -> Result<PlannedParameter> {
    let fail =
        |reason: String| Err(Error::parameter(&spec.name, format!("{reason} (group `{}`)", group.name)));
    checked_numel(&spec.shape, 8).map_err(|e| Error::parameter(&spec.name, e.to_string()))?;
    if spec.dtype == Dtype::F64 && precision == Precision::F32 {
        return fail("it is stored in f64; compute with precision f64, or store it in f32".into());
    }
    if spec.grad_dtype == Some(Dtype::F64) && precision == Precision::F32 {
        return fail("its gradient is stored in f64; compute with precision f64, or store it in f32".into());
    }
    if group.algorithm.needs_matrix() && spec.shape.len() < 2 {
        return fail(format!(
            "shape {:?} is no matrix, and `{}` needs one: route it to an elementwise algorithm (for example adamw) or restrict this group with ndim = 2",
            spec.shape,
            group.algorithm.name()
        ));
    }
    if group.master == Master::F32 && !spec.dtype.is_half() {
        return fail(format!("a master copy is for bf16 and f16 parameters, and it is {}", spec.dtype));
    }
    if group.master == Master::Compact && spec.dtype != Dtype::Bf16 {
        return fail(format!("a compact master is for bf16 parameters, and it is {}", spec.dtype));
    }
    if group.master != Master::None && precision == Precision::F64 {
        let master = if group.master == Master::F32 { "an f32 master copy" } else { "a compact master" };
        return fail(format!("{master} under precision f64 would throw digits away"));
    }
    if group.rounding == Rounding::Stochastic {
        let rounds_something = (spec.dtype == Dtype::Bf16 && group.master == Master::None)
            || group.state_dtype == StateDtype::Bf16;
        if !rounds_something || spec.dtype == Dtype::F16 {
            return fail(format!(
                "stochastic rounding is for bf16 parameters without master and for bf16 state; it is {}",
                spec.dtype
            ));
        }
    }
    let matrices = match split(&spec.shape, group.splits.as_ref()) {
        Ok(matrices) => matrices,
        Err(reason) => return fail(reason),
    };
    let full = match precision {
        Precision::F32 => Dtype::F32,
        Precision::F64 => Dtype::F64,
    };
    let state = if group.state_dtype == StateDtype::Bf16 { Dtype::Bf16 } else { full };
    let mut slots: Vec<(Slot, Dtype)> = group
        .algorithm
        .slots()
        .into_iter()
        .map(|slot| (slot, if slot == Slot::Point { full } else { state }))
        .collect();
    // The extrapolated methods' point is a full-precision copy already.
    match group.master {
        _ if group.algorithm.is_extrapolated() => {}
        Master::None => {}
        Master::F32 => slots.push((Slot::Master, Dtype::F32)),
        Master::Compact => slots.push((Slot::Low, Dtype::Bf16)),
    }
    Ok(PlannedParameter { spec, group: index, reason, matrices, slots })
}

/// The matrices of a shape. A vector (or scalar) is one row.
fn split(shape: &[usize], splits: Option<&Splits>) -> std::result::Result<Vec<MatrixView>, String> {
    if shape.contains(&0) {
        return Ok(vec![]);
    }
    let (batch, rows, columns) = match *shape {
        [] => (1, 1, 1),
        [n] => (1, 1, n),
        [r, c] => (1, r, c),
        [b, r, c] => (b, r, c),
        [out, ref rest @ ..] => (1, out, rest.iter().product()),
    };
    let heights: Vec<usize> = match splits {
        None => vec![rows],
        Some(_) if shape.len() < 2 => {
            return Err(format!("splits are declared, but shape {shape:?} has no rows"));
        }
        Some(Splits::Equal(n)) if rows % n != 0 => {
            return Err(format!("{rows} rows do not divide into {n} equal splits"));
        }
        Some(Splits::Equal(n)) => vec![rows / n; *n],
        Some(Splits::Sizes(sizes)) => {
            let total = sizes.iter().try_fold(0usize, |t, &s| t.checked_add(s));
            if total != Some(rows) {
                return Err(format!("splits {sizes:?} do not add up to its {rows} rows"));
            }
            sizes.clone()
        }
    };
    let mut offset = 0;
    let mut out = Vec::with_capacity(batch * heights.len());
    for _ in 0..batch {
        for &rows in &heights {
            out.push(MatrixView { offset, rows, columns });
            offset += rows * columns;
        }
    }
    Ok(out)
}

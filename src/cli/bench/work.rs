//! Rows about tensor cores: single products, Newton-Schulz iterations, whole steps of models.

use comfy_table::{Table, presets};
use orthant::Device;
use serde_json::{Map, Value};

use super::Numbers;

/// A row without its numbers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Work {
    pub kernel: &'static str,
    pub shape: String,
    /// `standard`, `gram`, `auto`; of a single product `product`.
    pub method: &'static str,
    pub dtype: &'static str,
    /// Elements of the matrices, and how many tensors they are.
    pub elements: usize,
    pub tensors: usize,
    /// Types of parameters, gradients and state, where there are any.
    pub types: [&'static str; 3],
}

/// What is known of it beside [`Numbers`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tensor {
    pub ideal_flops: u64,
    pub tensor_flops: u64,
    /// Whether the two are the planner's word, and nothing was run.
    pub planned: bool,
    pub bank_conflicts: Option<u64>,
    /// Beside f64, relative, in Frobenius's norm.
    pub error: Option<f64>,
    pub sigma_max: Option<f64>,
    /// Nanoseconds of cuBLAS for the same, and its version; or why there are none.
    pub cublas: Option<Result<(f64, String), String>>,
}

pub struct WorkRow {
    pub work: Work,
    /// Or why it was left out.
    pub numbers: Result<(Numbers, Tensor), String>,
}

impl WorkRow {
    fn ratio(numbers: &Numbers, tensor: &Tensor) -> Option<f64> {
        Some(tensor.cublas.as_ref()?.as_ref().ok()?.0 / numbers.ns?)
    }

    fn head(&self) -> Map<String, Value> {
        let work = &self.work;
        let [param, grad, state] = work.types;
        let mut object = Map::new();
        for (key, value) in [
            ("kernel", work.kernel),
            ("shape", &work.shape),
            ("method", work.method),
            ("dtype", work.dtype),
            ("param", param),
            ("grad", grad),
            ("state", state),
        ] {
            object.insert(key.into(), value.into());
        }
        object.insert("elements".into(), work.elements.into());
        object.insert("tensors".into(), work.tensors.into());
        object
    }

    /// As JSON; or, left out, with the reason.
    pub fn json(&self, device: Device) -> Result<Map<String, Value>, Map<String, Value>> {
        let mut object = self.head();
        let (numbers, tensor) = match &self.numbers {
            Ok(numbers) => numbers,
            Err(reason) => {
                object.insert("reason".into(), reason.as_str().into());
                return Err(object);
            }
        };
        object.insert("device".into(), device.to_string().into());
        object.insert("tensor_flops".into(), tensor.tensor_flops.into());
        object.insert("ideal_flops".into(), tensor.ideal_flops.into());
        object.insert("planned".into(), tensor.planned.into());
        let counts = [("launches", numbers.launches), ("bank_conflicts", tensor.bank_conflicts)];
        object.extend(counts.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.into()))));
        let cublas = tensor.cublas.as_ref();
        let measured = [
            ("bytes_per_element", Some(numbers.bytes_per_element)),
            ("sector_efficiency", numbers.sector_efficiency),
            ("instructions_per_element", numbers.instructions_per_element),
            ("error", tensor.error),
            ("sigma_max", tensor.sigma_max),
            ("ns", numbers.ns),
            ("host_ns", numbers.host_ns),
            ("cublas_ns", cublas.and_then(|cublas| Some(cublas.as_ref().ok()?.0))),
            ("ratio", Self::ratio(numbers, tensor)),
        ];
        object.extend(measured.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.into()))));
        if let Some(Ok((_, said)) | Err(said)) = cublas {
            object.insert("cublas".into(), said.as_str().into());
        }
        if let Some(beyond) = numbers.beyond_cache {
            object.insert("beyond_cache".into(), beyond.into());
        }
        Ok(object)
    }
}

pub fn text(rows: &[WorkRow]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "kernel",
        "shape",
        "method",
        "dtype",
        "launches",
        "MFLOP",
        "of ideal",
        "conflicts",
        "bytes",
        "error",
        "sigma max",
        "ns",
        "TFLOP/s",
        "cuBLAS ns",
        "ratio",
    ]);
    let mut notes = String::new();
    for row in rows {
        let work = &row.work;
        let (numbers, tensor) = match &row.numbers {
            Ok(numbers) => numbers,
            Err(reason) => {
                notes.push_str(&format!(
                    "\nleft out: {} {} {}: {reason}",
                    work.kernel, work.shape, work.dtype
                ));
                continue;
            }
        };
        let shown = |value: Option<String>| value.unwrap_or_else(|| "not measured".into());
        let fixed = |value: Option<f64>, digits: usize| shown(value.map(|v| format!("{v:.digits$}")));
        let flops = format!("{:.1}", tensor.tensor_flops as f64 / 1e6);
        let cublas = match &tensor.cublas {
            Some(Ok((ns, _))) => format!("{ns:.0}"),
            Some(Err(reason)) => reason.clone(),
            None => shown(None),
        };
        table.add_row([
            work.kernel.to_owned(),
            work.shape.clone(),
            work.method.to_owned(),
            work.dtype.to_owned(),
            shown(numbers.launches.map(|n| n.to_string())),
            if tensor.planned { format!("{flops} planned") } else { flops },
            format!("{:.3}", tensor.tensor_flops as f64 / tensor.ideal_flops.max(1) as f64),
            shown(tensor.bank_conflicts.map(|n| n.to_string())),
            format!("{:.2}", numbers.bytes_per_element),
            shown(tensor.error.map(|error| format!("{error:.1e}"))),
            fixed(tensor.sigma_max, 3),
            fixed(numbers.ns, 0),
            fixed(numbers.ns.map(|ns| tensor.ideal_flops as f64 / ns / 1e3), 1),
            cublas,
            fixed(WorkRow::ratio(numbers, tensor), 2),
        ]);
    }
    let legend = "MFLOP: executed by tensor cores; of ideal: over those that symmetry leaves to do; TFLOP/s: of the ideal; \
                  conflicts: passes over shared memory's banks; ratio: cuBLAS over ours";
    format!("{table}\n{legend}{notes}")
}

//! What `ptxas -v` says about each kernel, and what of it must fail a build.

/// Figures of one kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelReport {
    /// Name of the entry function, mangled unless it is `extern "C"`.
    pub name: String,
    /// Architecture it was assembled for, such as `sm_80`.
    pub arch: String,
    /// Registers a thread.
    pub registers: u32,
    /// Bytes of spill stores.
    pub spill_stores: u32,
    /// Bytes of spill loads.
    pub spill_loads: u32,
    /// Bytes of local memory a thread, those of the functions it calls included.
    pub stack_frame: u32,
    /// Bytes of static shared memory a block.
    pub shared: u32,
    /// Bytes of constant memory, parameters included; ptxas counts them for some architectures only.
    pub constant: u32,
}

/// The report of one compilation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Every kernel, in ptxas's order.
    pub kernels: Vec<KernelReport>,
    /// Functions that are no kernels, and have local memory.
    pub functions: Vec<KernelReport>,
    /// Remarks that cost speed, in ptxas's words.
    pub remarks: Vec<String>,
}

impl Report {
    /// What must not be in a kernel that ships: spills, local memory, ignored `setmaxnreg` or launch bounds, and
    /// `wgmma` that ptxas serialises or waits for. Empty is good.
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        for k in self.kernels.iter().chain(&self.functions) {
            let (name, arch) = (&k.name, &k.arch);
            if k.spill_stores > 0 || k.spill_loads > 0 {
                let (stores, loads) = (k.spill_stores, k.spill_loads);
                complaints
                    .push(format!("{name} ({arch}): {stores} bytes of spill stores, {loads} of spill loads"));
            }
            if k.stack_frame > 0 {
                complaints.push(format!("{name} ({arch}): {} bytes of local memory", k.stack_frame));
            }
        }
        complaints.extend(self.remarks.iter().cloned());
        complaints
    }
}

/// Reads the log of a compilation to a cubin with `--ptxas-options=-v`.
pub fn ptxas_report(log: &str) -> Report {
    let mut report = Report::default();
    let mut arch = String::new();
    let mut subject = "";
    for line in log.lines() {
        if line.contains("Compiling entry function '") {
            let mut quoted = line.split('\'').skip(1).step_by(2);
            let name = quoted.next().unwrap_or_default().to_owned();
            quoted.next().unwrap_or_default().clone_into(&mut arch);
            report.kernels.push(KernelReport { name, arch: arch.clone(), ..KernelReport::default() });
        } else if let Some((_, name)) = line.split_once("Function properties for ") {
            subject = name.trim();
        } else if let Some(stack_frame) = number_before(line, " bytes stack frame") {
            let kernel = report.kernels.last_mut().filter(|kernel| kernel.name == subject);
            let mut function =
                KernelReport { name: subject.into(), arch: arch.clone(), ..Default::default() };
            let is_kernel = kernel.is_some();
            let entry = kernel.unwrap_or(&mut function);
            entry.stack_frame = stack_frame;
            entry.spill_stores = number_before(line, " bytes spill stores").unwrap_or(0);
            entry.spill_loads = number_before(line, " bytes spill loads").unwrap_or(0);
            if !is_kernel && (entry.stack_frame, entry.spill_stores, entry.spill_loads) != (0, 0, 0) {
                report.functions.push(function);
            }
        } else if let (Some(registers), Some(kernel)) =
            (number_before(line, " registers"), report.kernels.last_mut())
        {
            kernel.registers = registers;
            let cumulative = number_before(line, " bytes cumulative stack size").unwrap_or(0);
            kernel.stack_frame = kernel.stack_frame.max(cumulative);
            kernel.shared = number_before(line, " bytes smem").unwrap_or(0);
            kernel.constant =
                line.split_inclusive(" bytes cmem[").filter_map(|p| number_before(p, " bytes cmem[")).sum();
        } else if costs_speed(line) {
            report.remarks.push(line.trim().to_owned());
        }
    }
    // What a kernel's or function's own figures say already needs no second complaint.
    let all = report.kernels.iter().chain(&report.functions);
    let told = all.filter(|k| k.stack_frame > 0 || k.spill_stores > 0 || k.spill_loads > 0);
    let told: Vec<_> = told.map(|k| format!("'{}'", k.name)).collect();
    report.remarks.retain(|r| !(is_about_memory(r) && told.iter().any(|name| r.contains(name))));
    report
}

/// ptxas calls most of these "info" and gives them codes (C7508, C7510, C7519, C7602, ...) that it adds to from
/// release to release, so the words decide as well.
fn costs_speed(line: &str) -> bool {
    let codes = ["(C7508)", "(C7510)", "(C7519)", "(C7602)"];
    let words = ["Potential Performance Loss", "setmaxnreg", "are serialized", "is injected"];
    let has = |any: &[&str]| any.iter().any(|part| line.contains(part));
    line.contains("ptxas")
        && (has(&codes)
            || has(&words)
            || is_about_memory(line)
            || line.contains("warning") && line.contains("ignored"))
}

fn is_about_memory(line: &str) -> bool {
    line.contains("Local memory used for") || line.contains("Registers are spilled")
}

/// The number that ends where `phrase` starts.
fn number_before(line: &str, phrase: &str) -> Option<u32> {
    let before = &line[..line.find(phrase)?];
    let digits = before.len() - before.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    before[before.len() - digits..].parse().ok()
}

//! `orthant info`

use orthant::algorithm::PRESETS;
use orthant::{Device, DeviceInfo, Driver, IMAGES, NVRTC_VERSION};

use super::{Common, print};

pub fn run(common: &Common) -> anyhow::Result<()> {
    let device = common.device()?;
    let driver = if device == Device::Cpu { None } else { Some(Driver::open(device)?) };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (built, reserved): (Vec<_>, Vec<_>) = PRESETS.iter().partition(|p| p.is_built());
    let names =
        |presets: &[&orthant::algorithm::Preset]| -> Vec<&str> { presets.iter().map(|p| p.name).collect() };
    if common.json {
        let row = serde_json::json!({
            "device": device.to_string(),
            "threads": threads,
            "driver": driver.as_ref().map(driver_json),
            "kernels": kernels_json(),
            "nvrtc": NVRTC_VERSION,
            "algorithms": names(&built),
            "reserved": names(&reserved),
            "on_cards": on_cards(),
        });
        let version = env!("CARGO_PKG_VERSION");
        print(&serde_json::json!({ "version": version, "rows": [row] }).to_string());
        return Ok(());
    }
    if common.quiet {
        return Ok(());
    }
    print(&format!("orthant {}", env!("CARGO_PKG_VERSION")));
    match &driver {
        None => print(&format!("device      {device} ({threads} threads), the reference implementation")),
        Some(driver) => driver_lines(device, driver).iter().for_each(|line| print(line)),
    }
    print(&kernels_line());
    print(&format!("algorithms  {}", names(&built).join(" ")));
    print(&format!(
        "on cards    {}",
        if on_cards().is_empty() { "none".into() } else { on_cards().join(" ") }
    ));
    print(&format!("reserved    {} (not built yet)", names(&reserved).join(" ")));
    Ok(())
}

/// The algorithms that have kernels.
fn on_cards() -> Vec<&'static str> {
    #[cfg(feature = "cuda")]
    {
        let has_kernels = |name: &&str| {
            let group = |algorithm| orthant::Group::new("g", algorithm).lr(0.1).params(["*"]);
            let kernels =
                |algorithm| orthant::cuda::kernels(&group(algorithm), &orthant::StepOptions::default());
            orthant::Algorithm::by_name(name).and_then(kernels).is_ok()
        };
        PRESETS.iter().map(|preset| preset.name).filter(has_kernels).collect()
    }
    #[cfg(not(feature = "cuda"))]
    vec![]
}

fn kernels_json() -> Vec<serde_json::Value> {
    let image = |image: &orthant::Image| {
        let names: Vec<&str> = image.kernels.iter().map(|(name, ..)| *name).collect();
        serde_json::json!({
            "source": image.stem,
            "architecture": image.architecture,
            "machine_code": image.machine_code,
            "bytes": image.bytes.len(),
            "kernels": names,
        })
    };
    IMAGES.iter().map(image).collect()
}

fn kernels_line() -> String {
    let images: Vec<String> =
        IMAGES.iter().map(|image| format!("{} {}", image.stem, image.architecture)).collect();
    match NVRTC_VERSION {
        Some(version) => {
            format!("kernels     {} (NVRTC {version})", images.join(", "))
        }
        None => "kernels     none: this build has no GPU backend".into(),
    }
}

pub fn card_json(card: &DeviceInfo) -> serde_json::Value {
    serde_json::json!({
        "name": card.name,
        "compute_capability": format!("{}.{}", card.compute_capability.0, card.compute_capability.1),
        "multiprocessors": card.multiprocessors,
        "memory": card.memory,
    })
}

pub fn driver_json(driver: &Driver) -> serde_json::Value {
    let devices: Vec<_> = driver.devices.iter().map(card_json).collect();
    serde_json::json!({
        "path": driver.path,
        "version": format!("{}.{}", driver.version.0, driver.version.1),
        "emulated": driver.emulated,
        "devices": devices,
    })
}

fn driver_lines(device: Device, driver: &Driver) -> Vec<String> {
    let kind = if driver.emulated { ", the software GPU: its numbers are never times" } else { "" };
    let mut lines = vec![
        format!("device      {device}"),
        format!(
            "driver      {} (CUDA {}.{}{kind})",
            driver.path.display(),
            driver.version.0,
            driver.version.1
        ),
    ];
    lines.extend(driver.devices.iter().enumerate().map(|(ordinal, card)| {
        let (major, minor) = card.compute_capability;
        format!(
            "card {ordinal}      {}, compute capability {major}.{minor}, {} multiprocessors, {} MiB",
            card.name,
            card.multiprocessors,
            card.memory >> 20
        )
    }));
    lines
}

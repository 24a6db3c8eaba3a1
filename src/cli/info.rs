//! `orthant info`

use orthant::algorithm::PRESETS;

use super::{Common, print};

pub fn run(common: &Common) -> anyhow::Result<()> {
    let device = common.device()?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (built, reserved): (Vec<_>, Vec<_>) = PRESETS.iter().partition(|p| p.is_built());
    let names =
        |presets: &[&orthant::algorithm::Preset]| -> Vec<&str> { presets.iter().map(|p| p.name).collect() };
    if common.json {
        let row = serde_json::json!({
            "device": device.to_string(),
            "threads": threads,
            "driver": null,
            "kernels": [],
            "algorithms": names(&built),
            "reserved": names(&reserved),
        });
        let version = env!("CARGO_PKG_VERSION");
        print(&serde_json::json!({ "version": version, "rows": [row] }).to_string());
        return Ok(());
    }
    if common.quiet {
        return Ok(());
    }
    print(&format!("orthant {}", env!("CARGO_PKG_VERSION")));
    print(&format!("device      {device} ({threads} threads), the reference implementation"));
    print("kernels     none are built yet: no CUDA image is embedded, and no driver is looked for");
    print(&format!("algorithms  {}", names(&built).join(" ")));
    print(&format!("reserved    {} (not built yet)", names(&reserved).join(" ")));
    Ok(())
}

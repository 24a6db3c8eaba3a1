//! The guide says what the program says.

use orthant_gpu::driver::{SETTINGS, SETTINGS_PREFIX};

#[test]
fn the_guide_lists_every_setting_and_no_others() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/emulator.md");
    let guide = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let rows: Vec<&str> = guide
        .lines()
        .filter_map(|line| line.strip_prefix(&format!("| `{SETTINGS_PREFIX}"))?.split('`').next())
        .collect();
    let names: Vec<&str> = SETTINGS.iter().map(|(name, _)| *name).collect();
    assert_eq!(rows, names);
}

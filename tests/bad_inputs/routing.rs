//! Routing that does not work out, and shapes that an algorithm cannot take.

use crate::fixture::{Case, f32_file, file, numbers};

fn group(lines: &str) -> String {
    format!("[[group]]\nname = \"g\"\nlr = 0.1\n{lines}\n")
}

fn rest() -> String {
    "[[group]]\nname = \"rest\"\nparams = [\"*\"]\nalgorithm = \"sign-sgd\"\nlr = 0.1\n".to_owned()
}

/// (what, lines of group `g`, whether a group for the rest follows, what must be said)
type Row = (&'static str, &'static str, bool, &'static [&'static str]);

/// On `w` 4 x 6 and `b` 6.
#[rustfmt::skip] // one row a line
const ROWS: &[Row] = &[
    ("pattern matches nothing", "params = [\"nothing.*\"]\nalgorithm = \"lion\"", true, &["group `g`", "`nothing.*`", "matches no parameter"]),
    ("second pattern matches nothing", "params = [\"w\", \"v\"]\nalgorithm = \"lion\"", true, &["group `g`", "`v`", "matches no parameter"]),
    ("exclude matches nothing", "params = [\"*\"]\nexclude = [\"embed*\"]\nalgorithm = \"lion\"", true, &["group `g`", "`embed*`", "matches no parameter"]),
    ("case matters", "params = [\"W\"]\nalgorithm = \"lion\"", true, &["`W`", "matches no parameter"]),
    ("empty pattern", "params = [\"\"]\nalgorithm = \"lion\"", true, &["matches no parameter"]),
    ("unassigned parameter", "params = [\"w\"]\nalgorithm = \"lion\"", false, &["no group matches `b` [6]", "params = [\"*\"]"]),
    ("unassigned by exclude", "params = [\"*\"]\nexclude = [\"b\"]\nalgorithm = \"lion\"", false, &["no group matches `b` [6]"]),
    ("unassigned by ndim", "params = [\"*\"]\nndim = 2\nalgorithm = \"lion\"", false, &["no group matches `b` [6]"]),
    ("no parameter has this ndim", "params = [\"*\"]\nndim = 3\nalgorithm = \"lion\"", false, &["no group matches", "`b` [6]", "`w` [4, 6]"]),
    ("unclosed bracket in a glob", "params = [\"w[\"]\nalgorithm = \"lion\"", true, &["group `g`", "`w[`", "is no glob"]),
    ("unclosed brace in a glob", "params = [\"{w,b\"]\nalgorithm = \"lion\"", true, &["group `g`", "`{w,b`", "is no glob"]),
    ("bad range in a glob", "params = [\"[z-a]\"]\nalgorithm = \"lion\"", true, &["`[z-a]`", "is no glob"]),
    ("bad glob in exclude", "params = [\"*\"]\nexclude = [\"[\"]\nalgorithm = \"lion\"", true, &["`[`", "is no glob"]),
    ("vector under muon", "params = [\"*\"]\nalgorithm = \"muon\"", false, &["parameter `b`", "shape [6]", "`muon`", "ndim = 2", "group `g`"]),
    ("vector under orthogonal-sgdm", "params = [\"b\"]\nalgorithm = \"orthogonal-sgdm\"", true, &["parameter `b`", "no matrix", "group `g`"]),
    ("vector under scion", "params = [\"b\"]\nalgorithm = \"scion\"", true, &["parameter `b`", "no matrix", "`scion`"]),
    ("vector under scion's sign", "params = [\"b\"]\nalgorithm = \"scion\"\nnorm = \"sign\"", true, &["parameter `b`", "no matrix"]),
    ("vector under rows", "params = [\"b\"]\nalgorithm = \"lmo\"\nestimator = { kind = \"none\" }\nnorm = \"rows\"", true, &["parameter `b`", "no matrix"]),
    ("vector under columns", "params = [\"b\"]\nalgorithm = \"lmo\"\nestimator = { kind = \"none\" }\nnorm = \"columns\"", true, &["parameter `b`", "no matrix"]),
    ("vector under spectral", "params = [\"b\"]\nalgorithm = \"lmo\"\nestimator = { kind = \"none\" }\nnorm = \"spectral\"", true, &["parameter `b`", "no matrix"]),
    ("vector under a scale by shape", "params = [\"b\"]\nalgorithm = \"lmo\"\nestimator = { kind = \"none\" }\nnorm = \"sign\"\nscale = \"original\"", true, &["parameter `b`", "no matrix"]),
    ("splits that do not divide", "params = [\"w\"]\nalgorithm = \"muon\"\nsplits = 3", true, &["parameter `w`", "4 rows do not divide into 3", "group `g`"]),
    ("more splits than rows", "params = [\"w\"]\nalgorithm = \"muon\"\nsplits = 5", true, &["parameter `w`", "do not divide into 5"]),
    ("splits that add up to less", "params = [\"w\"]\nalgorithm = \"muon\"\nsplits = [1, 2]", true, &["parameter `w`", "splits [1, 2] do not add up to its 4 rows"]),
    ("splits that add up to more", "params = [\"w\"]\nalgorithm = \"muon\"\nsplits = [3, 3]", true, &["parameter `w`", "do not add up"]),
    ("splits that overflow", "params = [\"w\"]\nalgorithm = \"muon\"\nsplits = [9223372036854775807, 9223372036854775807, 6]", true, &["parameter `w`", "do not add up"]),
    ("splits = 0", "params = [\"w\"]\nalgorithm = \"muon\"\nsplits = 0", true, &["group `g`", "splits = 0", "number of blocks"]),
    ("splits = -1", "params = [\"w\"]\nalgorithm = \"muon\"\nsplits = -1", true, &["splits = -1", "number of blocks"]),
    ("splits = 1.5", "params = [\"w\"]\nalgorithm = \"muon\"\nsplits = 1.5", true, &["splits = 1.5"]),
    ("splits = \"two\"", "params = [\"w\"]\nalgorithm = \"muon\"\nsplits = \"two\"", true, &["splits = \"two\""]),
    ("splits = []", "params = [\"w\"]\nalgorithm = \"muon\"\nsplits = []", true, &["group `g`", "splits = []", "at least one row"]),
    ("a split of no rows", "params = [\"w\"]\nalgorithm = \"muon\"\nsplits = [0, 4]", true, &["group `g`", "splits = [0, 4]", "at least one row"]),
    ("a negative split", "params = [\"w\"]\nalgorithm = \"muon\"\nsplits = [-1, 5]", true, &["splits = [-1, 5]", "row counts"]),
    ("a fractional split", "params = [\"w\"]\nalgorithm = \"muon\"\nsplits = [1.5, 2.5]", true, &["splits = [1.5, 2.5]", "row counts"]),
    ("splits on a vector", "params = [\"b\"]\nalgorithm = \"nsgd\"\nsplits = 2", true, &["parameter `b`", "shape [6] has no rows"]),
    ("splits under sign-sgd", "params = [\"w\"]\nalgorithm = \"sign-sgd\"\nsplits = 2", true, &["group `g`", "`sign-sgd` works element by element"]),
    ("splits under adamw", "params = [\"w\"]\nalgorithm = \"adamw\"\nsplits = [2, 2]", true, &["group `g`", "`adamw` works element by element"]),
    ("master for f32", "params = [\"w\"]\nalgorithm = \"muon\"\nmaster = \"f32\"", true, &["parameter `w`", "master", "it is f32", "group `g`"]),
    ("compact master for f32", "params = [\"w\"]\nalgorithm = \"muon\"\nmaster = \"compact\"", true, &["parameter `w`", "compact master", "it is f32", "group `g`"]),
    ("stochastic rounding of f32", "params = [\"w\"]\nalgorithm = \"muon\"\nrounding = \"stochastic\"", true, &["parameter `w`", "stochastic rounding", "it is f32"]),
];

pub fn cases() -> Vec<Case> {
    let mut out: Vec<Case> = ROWS
        .iter()
        .map(|(name, lines, others, says)| {
            let config = group(lines) + &if *others { rest() } else { String::new() };
            Case::new(*name, 2).config(config).plan_too().says(*says)
        })
        .collect();
    let all = |lines: &str| group(&format!("params = [\"*\"]\n{lines}"));

    // Other parameters than the usual two.
    let scalar = f32_file(&[("s", &[], vec![1.0])]);
    out.push(
        Case::new("scalar under muon", 2)
            .config(all("algorithm = \"muon\""))
            .file("params.safetensors", scalar)
            .plan_too()
            .says(["parameter `s`", "shape []", "no matrix"]),
    );
    let empty_vector = f32_file(&[("e", &[0], vec![])]);
    out.push(
        Case::new("empty vector under muon", 2)
            .config(all("algorithm = \"muon\""))
            .file("params.safetensors", empty_vector)
            .plan_too()
            .says(["parameter `e`", "shape [0]", "no matrix"]),
    );
    let batch = f32_file(&[("heads", &[2, 3, 4], numbers(24, 0.0))]);
    out.push(
        Case::new("splits do not divide a batch's matrices", 2)
            .config(all("algorithm = \"muon\"\nsplits = 2"))
            .file("params.safetensors", batch)
            .plan_too()
            .says(["parameter `heads`", "3 rows do not divide into 2"]),
    );
    out.push(
        Case::new("no parameters", 2)
            .file("params.safetensors", f32_file(&[]))
            .plan_too()
            .says(["there are no parameters"]),
    );
    let twelve: Vec<String> = (0..12).map(|i| format!("layer.{i:02}")).collect();
    let many: Vec<(&str, &[usize], Vec<f32>)> =
        twelve.iter().map(|name| (name.as_str(), [1usize].as_slice(), vec![1.0])).collect();
    out.push(
        Case::new("twelve unassigned", 2)
            .config(group("params = [\"layer.00\"]\nndim = 2\nalgorithm = \"lion\""))
            .file("params.safetensors", f32_file(&many))
            .plan_too()
            .says(["`layer.00` [1]", "`layer.09` [1]", "and 2 more"]),
    );
    let half = file(&[("w", "BF16", &[2, 2], vec![0; 8])]);
    let f16 = file(&[("w", "F16", &[2, 2], vec![0; 8])]);
    let double = file(&[("w", "F64", &[2, 2], vec![0; 32])]);
    out.push(
        Case::new("master under precision f64", 2)
            .config(all("algorithm = \"muon\"\nmaster = \"f32\""))
            .file("params.safetensors", half.clone())
            .command("plan --config config.toml --params params.safetensors --precision f64")
            .says(["parameter `w`", "f32 master", "precision f64"]),
    );
    out.push(
        Case::new("compact master under precision f64", 2)
            .config(all("algorithm = \"muon\"\nmaster = \"compact\""))
            .file("params.safetensors", half.clone())
            .command("plan --config config.toml --params params.safetensors --precision f64")
            .says(["parameter `w`", "compact master", "precision f64"]),
    );
    out.push(
        Case::new("compact master for f16", 2)
            .config(all("algorithm = \"muon\"\nmaster = \"compact\""))
            .file("params.safetensors", f16.clone())
            .plan_too()
            .says(["parameter `w`", "compact master", "it is f16"]),
    );
    out.push(
        Case::new("stochastic rounding of f16", 2)
            .config(all("algorithm = \"muon\"\nrounding = \"stochastic\""))
            .file("params.safetensors", f16)
            .plan_too()
            .says(["parameter `w`", "stochastic rounding", "it is f16"]),
    );
    out.push(
        Case::new("stochastic rounding beside a master", 2)
            .config(all("algorithm = \"muon\"\nmaster = \"f32\"\nrounding = \"stochastic\""))
            .file("params.safetensors", half)
            .plan_too()
            .says(["parameter `w`", "without master"]),
    );
    out.push(
        Case::new("f64 parameter under precision f32", 2)
            .file("params.safetensors", double)
            .command("plan --config config.toml --params params.safetensors --precision f32")
            .says(["parameter `w`", "stored in f64", "precision f64"]),
    );
    out
}

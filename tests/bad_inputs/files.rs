//! Files that are missing, damaged, of another kind, or do not belong together.

use crate::fixture::{Case, STEP, default_tensors, f32_file, file, numbers, raw};

const PARAMS: &str = "params.safetensors";
const GRADS: &str = "grads.safetensors";
const MVR: &str = "[[group]]\nname = \"g\"\nparams = [\"*\"]\nalgorithm = \"lmo\"\nlr = 0.1\n\
                   estimator = { kind = \"mvr\", alpha = 0.1 }\nnorm = \"sign\"\n";

/// The header of a file with one tensor.
fn entry(dtype: &str, shape: &str, offsets: &str) -> String {
    format!(r#"{{"w":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
}

/// (what, bytes, what must be said besides the file's name)
fn damaged() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let good = default_tensors(0.0);
    let header = usize::from_le_bytes(good[..8].try_into().expect("eight bytes"));
    let cut = |at: usize| good[..at].to_vec();
    let with_length = |length: u64| [&length.to_le_bytes(), &good[8..]].concat();
    let two = |b: &str, w: &str| {
        format!(
            r#"{{"b":{{"dtype":"F32","shape":[1],"data_offsets":{b}}},"w":{{"dtype":"F32","shape":[1],"data_offsets":{w}}}}}"#
        )
    };
    let w = r#""w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    let named = |name: &str| f32_file(&[(name, &[1], vec![1.0])]);
    let typed = |dtype: &str, size: usize| file(&[("w", dtype, &[1], vec![0; size])]);
    let long = "x".repeat(513);
    #[rustfmt::skip] // one row a line
    let rows = vec![
        ("empty", vec![], "0 bytes"),
        ("one byte", cut(1), "1 bytes"),
        ("seven bytes", cut(7), "7 bytes"),
        ("only the header length", cut(8), "header length"),
        ("cut inside the header", cut(8 + header / 2), "header length"),
        ("cut one byte before the header's end", cut(8 + header - 1), "header length"),
        ("no data at all", cut(8 + header), "damaged"),
        ("cut inside the data", cut(8 + header + 20), "damaged"),
        ("last byte missing", cut(good.len() - 1), "damaged"),
        ("a byte too many", [good.as_slice(), &[0]].concat(), "damaged"),
        ("header length 0", with_length(0), "damaged"),
        ("header length one less", with_length(header as u64 - 1), "damaged"),
        ("header length one more", with_length(header as u64 + 1), "damaged"),
        ("header length 1e9", with_length(1_000_000_000), "header length"),
        ("header length 2^63", with_length(1 << 63), "header length"),
        ("header length 2^64 - 1", with_length(u64::MAX), "header length"),
        ("zeros", vec![0; 64], "damaged"),
        ("text", b"This is no tensor file, it is text.".to_vec(), "header length"),
        ("header is a list", raw("[]", &[]), "damaged"),
        ("header is no JSON", raw("{w: 1}", &[]), "damaged"),
        ("header is not UTF-8", [&4u64.to_le_bytes()[..], b"{\"\xff\"}"].concat(), "damaged"),
        ("trailing comma", raw(&format!("{{{w},}}"), &[0; 4]), "damaged"),
        ("two JSON values", raw(&format!("{{{w}}}{{}}"), &[0; 4]), "damaged"),
        ("deep nesting", raw(&format!("{{\"w\":{}{}}}", "[".repeat(5000), "]".repeat(5000)), &[]), "damaged"),
        ("a name twice", raw(&format!("{{{w},{w}}}"), &[0; 4]), "`w` stands there twice"),
        ("an escaped name twice", raw(&format!("{{{w},{}}}", w.replace("\"w\"", "\"\\u0077\"")), &[0; 4]), "`w` stands there twice"),
        ("overlapping offsets", raw(&two("[0,4]", "[2,6]"), &[0; 6]), "damaged"),
        ("equal offsets", raw(&two("[0,4]", "[0,4]"), &[0; 4]), "damaged"),
        ("a gap between offsets", raw(&two("[0,4]", "[8,12]"), &[0; 12]), "damaged"),
        ("a gap before the first offset", raw(&two("[4,8]", "[8,12]"), &[0; 12]), "damaged"),
        ("offsets beyond the file", raw(&entry("F32", "[1]", "[0,400]"), &[0; 4]), "damaged"),
        ("offsets backwards", raw(&entry("F32", "[1]", "[4,0]"), &[0; 4]), "damaged"),
        ("negative offsets", raw(&entry("F32", "[1]", "[-4,0]"), &[0; 4]), "damaged"),
        ("one offset", raw(&entry("F32", "[1]", "[4]"), &[0; 4]), "damaged"),
        ("huge offsets", raw(&entry("F32", "[1]", "[0,18446744073709551615]"), &[0; 4]), "damaged"),
        ("shape and data differ", raw(&entry("F32", "[3]", "[0,4]"), &[0; 4]), "damaged"),
        ("shape overflows", raw(&entry("F32", "[4294967296,4294967296,4]", "[0,4]"), &[0; 4]), "damaged"),
        ("negative dimension", raw(&entry("F32", "[-1]", "[0,4]"), &[0; 4]), "damaged"),
        ("fractional dimension", raw(&entry("F32", "[1.5]", "[0,4]"), &[0; 4]), "damaged"),
        ("no dtype", raw(r#"{"w":{"shape":[1],"data_offsets":[0,4]}}"#, &[0; 4]), "dtype"),
        ("no shape", raw(r#"{"w":{"dtype":"F32","data_offsets":[0,4]}}"#, &[0; 4]), "shape"),
        ("no offsets", raw(r#"{"w":{"dtype":"F32","shape":[1]}}"#, &[0; 4]), "data_offsets"),
        ("unknown dtype", raw(&entry("F24", "[1]", "[0,3]"), &[0; 3]), "F24"),
        ("metadata holds a number", raw(&format!("{{\"__metadata__\":{{\"a\":1}},{w}}}"), &[0; 4]), "damaged"),
        ("i64", typed("I64", 8), "parameter `w`: it holds I64; f64, f32, bf16 and f16 are supported"),
        ("i32", typed("I32", 4), "it holds I32"),
        ("u8", typed("U8", 1), "it holds U8"),
        ("bool", typed("BOOL", 1), "it holds BOOL"),
        ("float8", typed("F8_E4M3", 1), "it holds F8_E4M3"),
        ("name with a quote", named("a\"b"), "without control characters"),
        ("name with a newline", named("a\nb"), "a\\nb"),
        ("name with NUL", named("a\0b"), "a\\0b"),
        ("name with a backslash", named("a\\b"), "without control characters"),
        ("name with an escape sequence", named("\u{1b}[31mred"), "\\u{1b}[31mred"),
        ("name with C1 control", named("a\u{9b}b"), "\\u{9b}"),
        ("empty name", named(""), "1 to 512 bytes"),
        ("name of 513 bytes", named(&long), "1 to 512 bytes"),
    ];
    rows
}

fn damaged_files() -> Vec<Case> {
    let mut out = vec![];
    for (what, bytes, says) in damaged() {
        for target in [PARAMS, GRADS] {
            let case =
                Case::new(format!("{target}: {what}"), 1).file(target, bytes.clone()).says([target, says]);
            out.push(if target == PARAMS { case.plan_too() } else { case });
        }
        let with_state = format!("{STEP} --state state.safetensors");
        // A checkpoint's names and types are compared with what is expected, in other words.
        let header_at_fault = matches!(says, "damaged" | "header length" | "`w` stands there twice")
            || says.ends_with("bytes") && !says.starts_with("1 to");
        if header_at_fault {
            out.push(
                Case::new(format!("state: {what}"), 1)
                    .file("state.safetensors", bytes)
                    .command(&with_state)
                    .says(["state.safetensors", says]),
            );
        }
    }
    out
}

fn missing_files() -> Vec<Case> {
    let mvr = format!("{STEP} --prev-grads previous.safetensors");
    let state = format!("{STEP} --state state.safetensors");
    let case = |name: &str, exit: i32, says: [&str; 2]| Case::new(name, exit).says(says);
    let unreadable = "cannot be read";
    vec![
        case("no config.toml", 2, ["config.toml", "No such file"]).without("config.toml").plan_too(),
        case("config.toml is a folder", 2, ["config.toml", "directory"]).folder("config.toml").plan_too(),
        case("config.toml is not UTF-8", 2, ["config.toml", "UTF-8"])
            .file("config.toml", vec![0xff])
            .plan_too(),
        case("no params", 1, [PARAMS, unreadable]).without(PARAMS).plan_too(),
        case("params is a folder", 1, [PARAMS, unreadable]).folder(PARAMS).plan_too(),
        case("no gradients", 1, [GRADS, unreadable]).without(GRADS),
        case("gradients are a folder", 1, [GRADS, unreadable]).folder(GRADS),
        case("no state", 1, ["state.safetensors", unreadable]).command(&state),
        case("state is a folder", 1, ["state.safetensors", unreadable])
            .folder("state.safetensors")
            .command(&state),
        case("no previous gradients", 1, ["previous.safetensors", unreadable]).config(MVR).command(&mvr),
        case("second gradient file is missing", 1, ["step 2", "more.safetensors"])
            .command(&STEP.replace("--out", "more.safetensors --out")),
        case("out is a file", 1, ["out.txt", "folder"])
            .file("out.txt", "not a folder")
            .command(&STEP.replace("--out out", "--out out.txt")),
        case("out lies below a file", 1, ["out.txt", "folder"])
            .file("out.txt", "not a folder")
            .command(&STEP.replace("--out out", "--out out.txt/deeper")),
        case("out/params.safetensors is a folder", 1, ["params.safetensors", "folder"])
            .folder("out/params.safetensors"),
        case("out/state.safetensors is a folder", 1, ["state.safetensors", "folder"])
            .folder("out/state.safetensors"),
    ]
}

fn gradients() -> Vec<Case> {
    let case = |name: &str, bytes: Vec<u8>, says: &[&str]| {
        Case::new(name, 1).file(GRADS, bytes).says([GRADS, "step 1"]).says(says.iter().copied())
    };
    let with = |index: usize, value: f32| {
        let mut w = numbers(24, 2.0);
        w[index] = value;
        f32_file(&[("b", &[6], numbers(6, 1.0)), ("w", &[4, 6], w)])
    };
    let mut out = vec![
        case("no tensor in the gradient file", f32_file(&[]), &["no registered parameter has a gradient"]),
        case("gradient of a stranger", f32_file(&[("v", &[1], vec![1.0])]), &["`v`", "is no parameter"]),
        case(
            "gradient of a stranger among others",
            f32_file(&[("b", &[6], numbers(6, 0.0)), ("w2", &[4, 6], numbers(24, 0.0))]),
            &["`w2`", "is no parameter"],
        ),
        case(
            "transposed gradient",
            f32_file(&[("w", &[6, 4], numbers(24, 0.0))]),
            &["parameter `w`", "[6, 4]", "[4, 6]"],
        ),
        case(
            "flat gradient",
            f32_file(&[("w", &[24], numbers(24, 0.0))]),
            &["parameter `w`", "[24]", "[4, 6]"],
        ),
        case("longer gradient", f32_file(&[("b", &[7], numbers(7, 0.0))]), &["parameter `b`", "[7]", "[6]"]),
        case("empty gradient", f32_file(&[("b", &[0], vec![])]), &["parameter `b`", "[0]", "[6]"]),
        case(
            "f64 gradient of an f32 parameter",
            file(&[("b", "F64", &[6], vec![0; 48])]),
            &["parameter `b`", "stored in f64"],
        ),
    ];
    let values = [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")];
    for (value, printed) in values {
        for index in [0, 23] {
            let says = [
                "parameter `w`".to_owned(),
                format!("{printed} at element {index}"),
                "nothing was".to_owned(),
            ];
            let name = format!("gradient holds {printed} at {index}");
            out.push(
                Case::new(&name, 1)
                    .file(GRADS, with(index, value))
                    .says([GRADS, "step 1"])
                    .says(says.clone()),
            );
            let second = STEP.replace("--out", "second.safetensors --out");
            out.push(
                Case::new(format!("second {name}"), 1)
                    .file("second.safetensors", with(index, value))
                    .command(&second)
                    .says(["second.safetensors", "step 2"])
                    .says(says),
            );
        }
    }
    let bf16_nan = [vec![0; 10], vec![0xc0, 0x7f]].concat();
    out.push(case(
        "NaN in bf16",
        file(&[("b", "BF16", &[6], bf16_nan)]),
        &["parameter `b`", "NaN at element 5"],
    ));
    let f16_inf = [vec![0x00, 0x7c], vec![0; 10]].concat();
    out.push(case(
        "infinity in f16",
        file(&[("b", "F16", &[6], f16_inf)]),
        &["parameter `b`", "inf at element 0"],
    ));

    let adamw = "[[group]]\nparams = [\"*\"]\nalgorithm = \"adamw\"\n";
    let huge = case(
        "gradient whose square overflows",
        with(7, 1e30),
        &["`w`", "beyond the 1.8", "nothing was changed"],
    );
    out.push(huge.config(adamw));

    // The previous gradient is read from the second step on.
    let pair = "step --config config.toml --params params.safetensors --grads grads.safetensors grads.safetensors \
                --prev-grads grads.safetensors previous.safetensors --out out";
    let previous = |name: &str, bytes: Vec<u8>| {
        Case::new(name, 1).config(MVR).file("previous.safetensors", bytes).command(pair).says(["step 2"])
    };
    out.push(previous("NaN in the previous gradient", with(5, f32::NAN)).says(["`w`", "NaN at element 5"]));
    out.push(
        previous("previous gradient of another shape", f32_file(&[("w", &[6, 4], numbers(24, 0.0))])).says([
            "`w`",
            "previous gradient",
            "[6, 4]",
        ]),
    );
    out.push(
        previous("previous gradient of a stranger", f32_file(&[("v", &[1], vec![1.0])]))
            .says(["`v`", "is no parameter"]),
    );
    out.push(
        previous("previous gradient lacks a parameter", f32_file(&[("b", &[6], numbers(6, 0.0))]))
            .says(["`w`", "gradient at the previous point"]),
    );
    out.push(
        Case::new("variance reduction without previous gradients", 1)
            .config(MVR)
            .command(&STEP.replace("--out", "grads.safetensors --out"))
            .says(["step 2", "`b`", "gradient at the previous point"]),
    );
    out
}

/// Real checkpoints of other models, other algorithms and other parameters.
fn states() -> Vec<Case> {
    use orthant::{Algorithm, Device, Group, Optimizer, Parameter, Tensor};
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let checkpoint = |algorithm: Algorithm, tensors: &[(&str, &[usize])]| -> Vec<u8> {
        let parameters = tensors.iter().map(|(name, shape)| {
            let numel = shape.iter().product();
            Parameter::new(*name, Tensor::from_vec(numbers(numel, 0.0), shape).expect("a tensor"))
        });
        let group = Group::new("g", algorithm).lr(0.1).params(["*"]);
        let optimizer =
            Optimizer::builder(Device::Cpu).group(group).register(parameters).expect("it registers");
        let path = folder.path().join("state");
        optimizer.save(&path).expect("it saves");
        std::fs::read(path).expect("it was written")
    };
    let command = format!("{STEP} --state state.safetensors");
    let case = |name: &str, bytes: Vec<u8>, says: &[&str]| {
        Case::new(name, 1)
            .file("state.safetensors", bytes)
            .command(&command)
            .says(["state.safetensors"])
            .says(says.iter().copied())
    };
    let ours: &[(&str, &[usize])] = &[("b", &[6]), ("w", &[4, 6])];
    let mut flipped = checkpoint(Algorithm::signum(), ours);
    let last = flipped.len() - 1;
    flipped[last] ^= 1;
    let extrapolated = "[[group]]\nname = \"g\"\nparams = [\"*\"]\nalgorithm = \"lmo\"\nlr = 0.1\n\
                        estimator = { kind = \"extrapolated\", alpha = 0.5 }\nnorm = \"sign\"\n";
    let extrapolation = Algorithm::lmo(
        orthant::algorithm::Estimator::Extrapolated { alpha: 0.5 },
        orthant::algorithm::Norm::Sign,
    );
    vec![
        case(
            "state of another model",
            checkpoint(Algorithm::signum(), &[("v", &[2])]),
            &["`b` is missing", "`w` is missing", "`v` is not registered"],
        ),
        case("state of a smaller model", checkpoint(Algorithm::signum(), &ours[..1]), &["`w` is missing"]),
        case(
            "state of a larger model",
            checkpoint(Algorithm::signum(), &[ours[0], ours[1], ("z", &[1])]),
            &["`z` is not registered"],
        ),
        case(
            "state of other shapes",
            checkpoint(Algorithm::signum(), &[("b", &[6]), ("w", &[6, 4])]),
            &["`w`", "[6, 4]", "[4, 6]"],
        ),
        case(
            "state of lion",
            checkpoint(Algorithm::lion(), ours),
            &["`b`", "`w`", "algorithm is lion in the file and signum here"],
        ),
        case(
            "state of sgd",
            checkpoint(Algorithm::sgd().momentum(0.9), ours),
            &["algorithm is sgd", "heavy-ball"],
        ),
        case("state of adamw", checkpoint(Algorithm::adamw(), ours), &["adamw", "`w.variance` has no place"]),
        case("state with a flipped bit", flipped, &["`w.momentum` is damaged"]),
        case("parameters in place of the state", default_tensors(0.0), &["no `orthant` metadata"]),
        case(
            "state of other iterates",
            checkpoint(extrapolation, ours),
            &["`b.point`", "does not belong to the parameters"],
        )
        .config(extrapolated)
        .file(PARAMS, default_tensors(9.0)),
    ]
}

pub fn cases() -> Vec<Case> {
    let mut out = damaged_files();
    out.extend(missing_files());
    out.extend(gradients());
    out.extend(states());
    out
}

//! The table of presets: every row builds, documents its source, and takes exactly the options it lists.

use orthant::algorithm::{
    Algorithm, Coefficients, Constraint, Estimator, Initial, Norm, NsDtype, NsMethod, PRESETS, Rule, Scale,
};
use orthant::{Error, Group};

/// The names of the design.
const NAMES: [&str; 17] = [
    "sgd",
    "nsgd",
    "sign-sgd",
    "signum",
    "lion",
    "muon",
    "orthogonal-sgdm",
    "scion",
    "gluon",
    "normuon",
    "adamuon",
    "mars-m",
    "adamw",
    "adagrad",
    "shampoo",
    "asgo",
    "lmo",
];

#[test]
fn every_name_of_the_design_is_built_or_says_so() {
    for name in NAMES {
        match Algorithm::by_name(name) {
            Ok(algorithm) => assert_eq!(algorithm.name(), name),
            Err(e) => {
                assert!(matches!(e, Error::NotBuilt { .. }), "{name}: {e}");
                assert!(e.to_string().contains("is not built yet"), "{e}");
            }
        }
    }
    let built: Vec<&str> = PRESETS.iter().filter(|p| p.is_built()).map(|p| p.name).collect();
    assert_eq!(
        built,
        [
            "sgd",
            "nsgd",
            "sign-sgd",
            "signum",
            "lion",
            "muon",
            "orthogonal-sgdm",
            "scion",
            "adamw",
            "adagrad",
            "lmo"
        ]
    );
    let unknown = Algorithm::by_name("moun").unwrap_err().to_string();
    assert!(unknown.contains("did you mean `muon`?"), "{unknown}");
}

fn toml(name: &str, extra: &str) -> String {
    let composition =
        if name == "lmo" { "estimator = { kind = \"none\" }\nnorm = \"spectral\"\n" } else { "" };
    format!("[[group]]\nparams = [\"*\"]\nalgorithm = \"{name}\"\nlr = 0.1\n{composition}{extra}")
}

/// Each option on each preset: accepted and effective where the table lists it, refused by name elsewhere.
#[test]
fn options_are_taken_where_listed_and_refused_elsewhere() {
    let options = [
        ("momentum", "momentum = 0.123"),
        ("nesterov", "nesterov = false"),
        ("dampening", "dampening = 0.123"),
        ("betas", "betas = [0.123, 0.456]"),
        ("eps", "eps = 0.123"),
        ("amsgrad", "amsgrad = true"),
        ("lr_decay", "lr_decay = 0.123"),
        ("initial_accumulator_value", "initial_accumulator_value = 0.123"),
        ("ns_steps", "ns_steps = 7"),
        ("ns_coefficients", "ns_coefficients = \"you\""),
        ("ns_dtype", "ns_dtype = \"f16\""),
        ("ns_method", "ns_method = \"gram\""),
        ("ns_restarts", "ns_restarts = [1, 3]"),
        ("adjust_lr_fn", "adjust_lr_fn = \"match_rms_adamw\""),
        ("scale", "scale = 3.5"),
        ("unconstrained", "unconstrained = true"),
        ("cautious_weight_decay", "cautious_weight_decay = true"),
    ];
    for preset in PRESETS.iter().filter(|p| p.is_built()) {
        let plain = orthant::config::Config::parse(&toml(preset.name, "")).unwrap();
        for (key, line) in options {
            let parsed = orthant::config::Config::parse(&toml(preset.name, line));
            if preset.options.contains(&key) {
                let algorithm =
                    parsed.unwrap_or_else(|e| panic!("{}: {e}", preset.name)).groups[0].algorithm().clone();
                let unchanged = preset.name == "sgd" && key == "nesterov";
                assert_eq!(algorithm == *plain.groups[0].algorithm(), unchanged, "{} {key}", preset.name);
            } else {
                let message = parsed.expect_err(&format!("{} takes {key}", preset.name)).to_string();
                assert!(message.contains(key) && message.contains(preset.name), "{message}");
            }
        }
    }
}

#[test]
fn presets_are_compositions() {
    let lmo = |a: &Algorithm| match a.rule() {
        Rule::Lmo(lmo) => lmo.clone(),
        other => panic!("{other:?}"),
    };
    let zero = Initial::Zero;
    assert_eq!(
        lmo(&Algorithm::signum().momentum(0.7)),
        lmo(&Algorithm::lmo(Estimator::Ema { momentum: 0.7, initial: zero }, Norm::Sign))
    );
    assert_eq!(
        lmo(&Algorithm::lion()),
        lmo(&Algorithm::lmo(Estimator::Lion { betas: [0.9, 0.99] }, Norm::Sign))
    );
    assert_eq!(
        lmo(&Algorithm::muon()),
        lmo(&Algorithm::lmo(Estimator::Nesterov { momentum: 0.95, initial: zero }, Norm::Spectral)
            .scale(Scale::Original))
    );
    assert_eq!(lmo(&Algorithm::scion().norm(Norm::Spectral)).norm, Norm::RmsToRms);
    assert_eq!(lmo(&Algorithm::scion().unconstrained(true)).constraint, Constraint::None);
}

#[test]
fn scales() {
    let factor = |scale: Scale, norm| scale.factor(norm, 64, 16);
    assert_eq!(factor(Scale::Original, Norm::Spectral), 2.0);
    assert_eq!(Scale::Original.factor(Norm::Spectral, 16, 64), 1.0);
    assert_eq!(factor(Scale::MatchRmsAdamw, Norm::Spectral), 0.2 * 8.0);
    assert_eq!(factor(Scale::SpectralUnclamped, Norm::Spectral), 2.0);
    assert_eq!(factor(Scale::None, Norm::RmsToRms), 2.0);
    assert_eq!(factor(Scale::Scion(50.0), Norm::RmsToRms), 100.0);
    assert_eq!(factor(Scale::Scion(3000.0), Norm::Sign), 3000.0 / 16.0);
    assert_eq!(factor(Scale::Scion(1.0), Norm::Rows), 0.25);
    assert_eq!(factor(Scale::Scion(1.0), Norm::Columns), 8.0);
    // Under `rms` every norm's direction gets entries of root mean square 1.
    assert_eq!(factor(Scale::Rms, Norm::Sign), 1.0);
    assert_eq!(factor(Scale::Rms, Norm::Frobenius), 32.0);
    assert_eq!(factor(Scale::Rms, Norm::Spectral), 8.0);
    assert_eq!(factor(Scale::Rms, Norm::Rows), 4.0);
    assert_eq!(factor(Scale::Rms, Norm::Columns), 8.0);
    assert_eq!(factor(Scale::Factor(2.5), Norm::Spectral), 2.5);
}

#[test]
fn builder_misuse_is_reported_not_ignored() {
    let group = Group::new("hidden", Algorithm::muon().betas(0.9, 0.99)).lr(0.1).params(["*"]);
    let spec = orthant::ParameterSpec {
        name: "w".into(),
        shape: vec![4, 4],
        dtype: orthant::Dtype::F32,
        grad_dtype: None,
    };
    let error = orthant::Plan::new(vec![group], vec![spec], None).unwrap_err().to_string();
    assert!(error.contains("hidden") && error.contains("betas"), "{error}");
}

#[test]
fn composition_names_every_part() {
    let algorithm = Algorithm::muon()
        .ns_coefficients(Coefficients::PolarExpress)
        .ns_steps(6)
        .ns_dtype(NsDtype::F16)
        .ns_method(NsMethod::Gram)
        .cautious_weight_decay(true);
    assert_eq!(
        algorithm.composition(),
        "nesterov(0.95) > spectral[polar-express x6 f16 gram] > scale original > cautious-decay"
    );
    assert_eq!(
        Algorithm::orthogonal_sgdm().composition(),
        "spectral[jordan x5 auto] > ema(0.95) > scale none > decay"
    );
}

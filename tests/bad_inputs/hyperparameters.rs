//! Every hyperparameter with every kind of bad value, misspelt keys, foreign options, malformed configurations.

use orthant::algorithm::PRESETS;

use crate::fixture::{Case, GOOD_CONFIG};

/// Group `g` owns `w`; the vector goes elsewhere.
fn config(algorithm: &str, lines: &str) -> String {
    let lr = if lines.lines().any(|l| l.starts_with("lr =")) { "" } else { "lr = 0.1\n" };
    format!(
        "[[group]]\nname = \"g\"\nparams = [\"w\"]\nalgorithm = \"{algorithm}\"\n{lr}{lines}\n\
         [[group]]\nname = \"rest\"\nparams = [\"*\"]\nalgorithm = \"sign-sgd\"\nlr = 0.1\n"
    )
}

fn case(algorithm: &str, lines: &str) -> Case {
    Case::new(format!("{algorithm}: {}", lines.replace('\n', " ")), 2)
        .config(config(algorithm, lines))
        .plan_too()
        .says(["`g`"])
}

/// (algorithm, option, values outside its interval as written and as printed, the legal interval)
type Number = (&'static str, &'static str, &'static [(&'static str, &'static str)], &'static str);
const TOO_LARGE: &[(&str, &str)] = &[("1e11", "100000000000")];
const ONE: &[(&str, &str)] = &[("1", "1"), ("1.5", "1.5")];
const TO_1E10: &str = "finite and in [0, 1e10]";
const BELOW_ONE: &str = "[0, 1)";
const NUMBERS: &[Number] = &[
    ("sign-sgd", "lr", TOO_LARGE, TO_1E10),
    ("muon", "weight_decay", TOO_LARGE, TO_1E10),
    ("sgd", "weight_decay", TOO_LARGE, TO_1E10),
    ("sgd", "momentum", ONE, BELOW_ONE),
    ("nsgd", "momentum", ONE, BELOW_ONE),
    ("signum", "momentum", ONE, BELOW_ONE),
    ("muon", "momentum", ONE, BELOW_ONE),
    ("orthogonal-sgdm", "momentum", ONE, BELOW_ONE),
    ("scion", "momentum", ONE, BELOW_ONE),
    ("sgd", "dampening", &[("1.1", "1.1")], "[0, 1]"),
    ("nsgd", "eps", TOO_LARGE, TO_1E10),
    ("muon", "eps", TOO_LARGE, TO_1E10),
    ("orthogonal-sgdm", "eps", TOO_LARGE, TO_1E10),
    ("scion", "eps", TOO_LARGE, TO_1E10),
    ("adamw", "eps", TOO_LARGE, TO_1E10),
    ("adagrad", "eps", TOO_LARGE, TO_1E10),
    ("adagrad", "lr_decay", TOO_LARGE, TO_1E10),
    ("adagrad", "initial_accumulator_value", TOO_LARGE, TO_1E10),
];

fn numbers() -> Vec<Case> {
    let mut out = vec![];
    for (algorithm, field, outside, legal) in NUMBERS {
        let everywhere =
            [("nan", "NaN"), ("inf", "inf"), ("-inf", "-inf"), ("-1", "-1"), ("-1e-3", "-0.001")];
        for (written, printed) in everywhere.iter().chain(*outside) {
            let says = [format!("{field} = {printed}"), (*legal).to_owned()];
            out.push(case(algorithm, &format!("{field} = {written}")).says(says));
        }
        for written in ["\"0.5\"", "true", "[0.5]"] {
            let says = [format!("{field} = {written}"), "must be a number".to_owned()];
            out.push(case(algorithm, &format!("{field} = {written}")).says(says));
        }
    }
    out
}

/// (algorithm, lines of the group, what must be said besides the group's name)
type Row = (&'static str, &'static str, &'static [&'static str]);

#[rustfmt::skip] // one row a line
const BETAS: &[Row] = &[
    ("lion", "betas = [nan, 0.99]", &["betas = NaN", "[0, 1)"]),
    ("lion", "betas = [0.9, nan]", &["betas = NaN", "[0, 1)"]),
    ("lion", "betas = [inf, 0.99]", &["betas = inf"]),
    ("lion", "betas = [0.9, -inf]", &["betas = -inf"]),
    ("lion", "betas = [-0.1, 0.99]", &["betas = -0.1"]),
    ("lion", "betas = [0.9, 1.0]", &["betas = 1"]),
    ("lion", "betas = [1, 0.99]", &["betas = 1"]),
    ("lion", "betas = [0.9]", &["betas = [0.9]", "two numbers"]),
    ("lion", "betas = [0.9, 0.99, 0.999]", &["two numbers"]),
    ("lion", "betas = []", &["betas = []", "two numbers"]),
    ("lion", "betas = 0.9", &["two numbers"]),
    ("lion", "betas = [\"a\", 0.9]", &["two numbers"]),
    ("adamw", "betas = [nan, 0.99]", &["betas = NaN", "[0, 1)"]),
    ("adamw", "betas = [0.9, nan]", &["betas = NaN"]),
    ("adamw", "betas = [0.9, inf]", &["betas = inf"]),
    ("adamw", "betas = [-inf, 0.9]", &["betas = -inf"]),
    ("adamw", "betas = [-0.1, 0.99]", &["betas = -0.1"]),
    ("adamw", "betas = [0.9, 1.0]", &["betas = 1"]),
    ("adamw", "betas = [1.5, 0.99]", &["betas = 1.5"]),
    ("adamw", "betas = [0.9]", &["two numbers"]),
    ("adamw", "betas = { a = 1 }", &["two numbers"]),
];

#[rustfmt::skip] // one row a line
const NEWTON_SCHULZ: &[Row] = &[
    ("muon", "ns_steps = 0", &["ns_steps = 0", "1..=30"]),
    ("muon", "ns_steps = -3", &["ns_steps = -3", "1 to 30"]),
    ("muon", "ns_steps = 31", &["ns_steps = 31", "1..=30"]),
    ("muon", "ns_steps = 100", &["ns_steps = 100", "1..=30"]),
    ("muon", "ns_steps = 1.5", &["ns_steps = 1.5", "1 to 30"]),
    ("muon", "ns_steps = nan", &["ns_steps = nan", "1 to 30"]),
    ("muon", "ns_steps = \"5\"", &["ns_steps = \"5\"", "1 to 30"]),
    ("muon", "ns_steps = 5000000000", &["ns_steps = 5000000000", "1 to 30"]),
    ("scion", "ns_steps = 0", &["ns_steps = 0", "1..=30"]),
    ("orthogonal-sgdm", "ns_steps = 31", &["ns_steps = 31", "1..=30"]),
    ("muon", "ns_coefficients = [nan, -4.775, 2.0315]", &["ns_coefficients = [[NaN", "finite"]),
    ("muon", "ns_coefficients = [3.4445, inf, 2.0315]", &["ns_coefficients", "finite"]),
    ("muon", "ns_coefficients = [3.4445, -4.775, -inf]", &["ns_coefficients", "finite"]),
    ("muon", "ns_coefficients = []", &["ns_coefficients = []", "[a, b, c]"]),
    ("muon", "ns_coefficients = [1, 2]", &["ns_coefficients = [1, 2]", "[a, b, c]"]),
    ("muon", "ns_coefficients = [1, 2, 3, 4]", &["ns_coefficients", "[a, b, c]"]),
    ("muon", "ns_coefficients = [[1, 2]]", &["ns_coefficients", "[a, b, c]"]),
    ("muon", "ns_coefficients = [[1, 0, 0], [1, 2]]", &["ns_coefficients", "[a, b, c]"]),
    ("muon", "ns_coefficients = [\"a\", 1, 2]", &["ns_coefficients", "[a, b, c]"]),
    ("muon", "ns_coefficients = 5", &["ns_coefficients = 5", "set's name"]),
    ("muon", "ns_coefficients = [5, 1, 1]", &["ns_coefficients = [[5", "composed map"]),
    ("muon", "ns_coefficients = [-5, -1, -1]", &["ns_coefficients", "composed map"]),
    ("muon", "ns_coefficients = [1e300, 1e300, 1e300]", &["ns_coefficients", "composed map"]),
    ("muon", "ns_coefficients = \"jordn\"", &["ns_coefficients = \"jordn\"", "did you mean `jordan`"]),
    ("muon", "ns_coefficients = \"polar_express\"", &["did you mean `polar-express`"]),
    ("muon", "ns_coefficients = \"turbo\"", &["ns_coefficients = \"turbo\"", "not built yet"]),
    ("muon", "ns_coefficients = [[3, -3, 1], [3, -3, 1]]\nns_steps = 1", &["ns_steps = 1", "2 coefficient tuples"]),
    ("muon", "ns_dtype = \"f8\"", &["ns_dtype = \"f8\"", "did you mean"]),
    ("muon", "ns_dtype = \"float\"", &["ns_dtype = \"float\"", "bf16"]),
    ("muon", "ns_dtype = 16", &["ns_dtype = 16", "string"]),
    ("muon", "ns_method = \"grm\"", &["did you mean `gram`"]),
    ("muon", "ns_method = 1", &["ns_method = 1"]),
    ("muon", "ns_method = \"gram\"\nns_restarts = [0]", &["ns_restarts = [0]", "1..=4"]),
    ("muon", "ns_method = \"gram\"\nns_restarts = [7]", &["ns_restarts = [7]", "1..=4"]),
    ("muon", "ns_method = \"gram\"\nns_restarts = [3, 2]", &["ns_restarts = [3, 2]", "increasing"]),
    ("muon", "ns_method = \"gram\"\nns_restarts = [2, 2]", &["ns_restarts = [2, 2]", "increasing"]),
    ("muon", "ns_restarts = [7]", &["ns_restarts = [7]", "1..=4"]),
    ("muon", "ns_restarts = [-1]", &["ns_restarts = [-1]", "iteration indices"]),
    ("muon", "ns_restarts = [1.5]", &["ns_restarts = [1.5]", "iteration indices"]),
    ("muon", "ns_restarts = 2", &["ns_restarts = 2", "list"]),
];

#[rustfmt::skip] // one row a line
const CHOICES: &[Row] = &[
    ("muon", "adjust_lr_fn = \"orignal\"", &["adjust_lr_fn", "did you mean `original`"]),
    ("muon", "adjust_lr_fn = \"match_rms_adam\"", &["did you mean `match_rms_adamw`"]),
    ("muon", "adjust_lr_fn = 0.2", &["adjust_lr_fn = 0.2", "string"]),
    ("muon", "nesterov = 1", &["nesterov = 1", "true or false"]),
    ("muon", "nesterov = \"yes\"", &["nesterov = \"yes\"", "true or false"]),
    ("sgd", "nesterov = true", &["nesterov = true", "momentum above 0"]),
    ("sgd", "momentum = 0.9\ndampening = 0.1\nnesterov = true", &["nesterov = true", "dampening = 0"]),
    ("adamw", "amsgrad = 1", &["amsgrad = 1", "true or false"]),
    ("scion", "unconstrained = \"no\"", &["unconstrained = \"no\"", "true or false"]),
    ("lion", "cautious_weight_decay = 0.1", &["cautious_weight_decay = 0.1", "true or false"]),
    ("lion", "maximize = 1", &["maximize = 1", "true or false"]),
    ("scion", "norm = \"spectrl\"", &["norm", "did you mean `spectral`"]),
    ("scion", "norm = \"nuclear\"", &["norm = \"nuclear\"", "frobenius"]),
    ("scion", "norm = 2", &["norm = 2"]),
    ("scion", "scale = nan", &["scale = NaN", "[0, 1e10]"]),
    ("scion", "scale = inf", &["scale = inf", "[0, 1e10]"]),
    ("scion", "scale = -inf", &["scale = -inf"]),
    ("scion", "scale = -1", &["scale = -1"]),
    ("scion", "scale = 1e11", &["scale = 100000000000"]),
    ("scion", "scale = \"orignal\"", &["scale", "did you mean `original`"]),
    ("scion", "scale = true", &["scale = true", "a number or a name"]),
    ("scion", "scale = \"rmz\"", &["did you mean `rms`"]),
    ("sign-sgd", "master = \"f16\"", &["master = \"f16\"", "did you mean `f32`"]),
    ("sign-sgd", "master = \"compct\"", &["master = \"compct\"", "did you mean `compact`"]),
    ("sign-sgd", "master = true", &["master = true"]),
    ("signum", "state_dtype = \"q8\"", &["state_dtype = \"q8\"", "not built yet"]),
    ("signum", "state_dtype = \"bf15\"", &["did you mean `bf16`"]),
    ("signum", "state_dtype = 16", &["state_dtype = 16"]),
    ("sign-sgd", "rounding = \"stochastik\"", &["did you mean `stochastic`"]),
    ("sign-sgd", "rounding = 0", &["rounding = 0"]),
    ("sign-sgd", "ndim = -1", &["ndim = -1", "whole number"]),
    ("sign-sgd", "ndim = 1.5", &["ndim = 1.5", "whole number"]),
    ("sign-sgd", "ndim = \"2\"", &["ndim = \"2\"", "whole number"]),
    ("muon", "exclude = \"b\"", &["exclude = \"b\"", "list of strings"]),
    ("muon", "exclude = [1]", &["exclude = [1]", "list of strings"]),
];

#[rustfmt::skip] // one row a line
const TOGETHER: &[Row] = &[
    ("muon", "lr = 10", &["weight_decay = 0.1", "lr * weight_decay must stay below 1", "lr = 10"]),
    ("muon", "lr = 1\nweight_decay = 1", &["lr * weight_decay must stay below 1"]),
    ("lion", "lr = 0.5\nweight_decay = 2", &["lr * weight_decay must stay below 1"]),
    ("signum", "lr = 1e10\nweight_decay = 1e10", &["lr * weight_decay must stay below 1"]),
    ("adamw", "lr = 200", &["lr * weight_decay must stay below 1"]),
    ("scion", "weight_decay = 0.1", &["weight_decay = 0.1", "takes no weight decay"]),
    ("scion", "lr = 1.5", &["lr = 1.5", "lr in [0, 1]"]),
    ("signum", "lr = nan\nweight_decay = nan", &["lr = NaN"]),
    ("lmo", "estimator = { kind = \"none\" }\nnorm = \"sign\"\nconstraint = \"none\"\nweight_decay = 0.1", &["takes no weight decay"]),
    ("lmo", "estimator = { kind = \"none\" }\nnorm = \"sign\"\nconstraint = \"convex-combination\"\nlr = 1.01", &["lr = 1.01", "[0, 1]"]),
];

#[rustfmt::skip] // one row a line
const COMPOSITIONS: &[Row] = &[
    ("lmo", "", &["needs estimator"]),
    ("lmo", "norm = \"sign\"", &["needs estimator"]),
    ("lmo", "estimator = { kind = \"none\" }", &["needs a norm"]),
    ("lmo", "estimator = \"ema\"\nnorm = \"sign\"", &["estimator = \"ema\"", "a table"]),
    ("lmo", "estimator = {}\nnorm = \"sign\"", &["estimator", "kind is missing"]),
    ("lmo", "estimator = { kind = 1 }\nnorm = \"sign\"", &["kind = 1", "a string"]),
    ("lmo", "estimator = { kind = \"emma\" }\nnorm = \"sign\"", &["kind = \"emma\"", "did you mean `ema`"]),
    ("lmo", "estimator = { kind = \"adam\" }\nnorm = \"sign\"", &["kind = \"adam\" is not legal"]),
    ("lmo", "estimator = { kind = \"ema\", momentum = 0.9, alpha = 0.1 }\nnorm = \"sign\"", &["momentum and alpha", "both given"]),
    ("lmo", "estimator = { kind = \"ema\" }\nnorm = \"sign\"", &["`ema` needs momentum, or alpha"]),
    ("lmo", "estimator = { kind = \"ema\", momentum = 1 }\nnorm = \"sign\"", &["momentum = 1", "[0, 1)"]),
    ("lmo", "estimator = { kind = \"ema\", momentum = nan }\nnorm = \"sign\"", &["momentum = NaN"]),
    ("lmo", "estimator = { kind = \"heavy-ball\", momentum = -0.1 }\nnorm = \"sign\"", &["momentum = -0.1"]),
    ("lmo", "estimator = { kind = \"heavy-ball\" }\nnorm = \"sign\"", &["`heavy-ball` needs momentum"]),
    ("lmo", "estimator = { kind = \"nesterov\", momentum = inf }\nnorm = \"sign\"", &["momentum = inf"]),
    ("lmo", "estimator = { kind = \"nesterov\", momentum = \"0.9\" }\nnorm = \"sign\"", &["momentum = \"0.9\"", "a number"]),
    ("lmo", "estimator = { kind = \"ema\", alpha = 0 }\nnorm = \"sign\"", &["momentum = 1", "[0, 1)"]),
    ("lmo", "estimator = { kind = \"mvr\" }\nnorm = \"sign\"", &["`mvr` needs"]),
    ("lmo", "estimator = { kind = \"mvr\", alpha = 0 }\nnorm = \"sign\"", &["alpha = 0", "(0, 1]"]),
    ("lmo", "estimator = { kind = \"mvr\", alpha = 1.5 }\nnorm = \"sign\"", &["alpha = 1.5", "(0, 1]"]),
    ("lmo", "estimator = { kind = \"mvr\", alpha = nan }\nnorm = \"sign\"", &["alpha = NaN"]),
    ("lmo", "estimator = { kind = \"mvr\", alpha = -0.1 }\nnorm = \"sign\"", &["alpha = -0.1"]),
    ("lmo", "estimator = { kind = \"mvr\", alpha = 0.1, initial = \"zero\" }\nnorm = \"sign\"", &["`mvr` has no initial"]),
    ("lmo", "estimator = { kind = \"extrapolated\" }\nnorm = \"sign\"", &["`extrapolated` needs"]),
    ("lmo", "estimator = { kind = \"extrapolated\", alpha = 0 }\nnorm = \"sign\"", &["alpha = 0", "(0, 1]"]),
    ("lmo", "estimator = { kind = \"extrapolated\", alpha = inf }\nnorm = \"sign\"", &["alpha = inf"]),
    ("lmo", "estimator = { kind = \"extrapolated\", alpha = \"half\" }\nnorm = \"sign\"", &["alpha = \"half\"", "a number"]),
    ("lmo", "estimator = { kind = \"lion\" }\nnorm = \"sign\"", &["`lion` needs betas"]),
    ("lmo", "estimator = { kind = \"lion\", betas = [0.9] }\nnorm = \"sign\"", &["two numbers"]),
    ("lmo", "estimator = { kind = \"lion\", betas = [0.9, 1] }\nnorm = \"sign\"", &["betas = 1", "[0, 1)"]),
    ("lmo", "estimator = { kind = \"lion\", betas = [0.9, 0.99], momentum = 0.9 }\nnorm = \"sign\"", &["`lion` has no momentum"]),
    ("lmo", "estimator = { kind = \"none\", momentum = 0.9 }\nnorm = \"sign\"", &["`none` has no momentum"]),
    ("lmo", "estimator = { kind = \"ema\", momentum = 0.9, betas = [0.9, 0.9] }\nnorm = \"sign\"", &["`ema` has no betas"]),
    ("lmo", "estimator = { kind = \"ema\", momentum = 0.9, initial = \"one\" }\nnorm = \"sign\"", &["initial = \"one\"", "first-gradient"]),
    ("lmo", "estimator = { kind = \"ema\", momentun = 0.9 }\nnorm = \"sign\"", &["unknown key `momentun`", "did you mean `momentum`"]),
    ("lmo", "estimator = { kind = \"none\" }\nnorm = \"sgn\"", &["did you mean `sign`"]),
    ("lmo", "estimator = { kind = \"none\" }\nnorm = \"sign\"\nscale = \"rsm\"", &["did you mean `rms`"]),
    ("lmo", "estimator = { kind = \"none\" }\nnorm = \"sign\"\nscale = nan", &["scale = NaN"]),
    ("lmo", "estimator = { kind = \"none\" }\nnorm = \"sign\"\nscale = -2", &["scale = -2"]),
    ("lmo", "estimator = { kind = \"none\" }\nnorm = \"sign\"\nconstraint = \"decy\"", &["did you mean `decay`"]),
    ("lmo", "estimator = { kind = \"none\" }\nnorm = \"sign\"\nconstraint = 3", &["constraint: kind = 3", "a string"]),
    ("lmo", "estimator = { kind = \"none\" }\nnorm = \"sign\"\nconstraint = {}", &["constraint", "kind is missing"]),
    ("lmo", "estimator = { kind = \"none\" }\nnorm = \"sign\"\nconstraint = { kind = \"box\" }", &["kind = \"box\"", "not built yet"]),
    ("lmo", "estimator = { kind = \"none\" }\nnorm = \"sign\"\nconstraint = { kind = \"l1\" }", &["kind = \"l1\"", "not built yet"]),
    ("lmo", "estimator = { kind = \"none\" }\nnorm = \"sign\"\nconstraint = \"box\"", &["\"box\"", "not built yet"]),
    ("lmo", "estimator = { kind = \"none\" }\nnorm = \"sign\"\nconstraint = { kind = \"decay\", radius = 1 }", &["unknown key `radius`"]),
    ("lmo", "estimator = { kind = \"none\" }\nnorm = \"spectral\"\nns_steps = 31", &["ns_steps = 31", "1..=30"]),
    ("lmo", "estimator = { kind = \"none\" }\nnorm = \"sign\"\neps = -1", &["eps = -1"]),
    ("muon", "estimator = { kind = \"none\" }", &["`muon` has no option `estimator`"]),
];

#[rustfmt::skip] // one row a line
const MISSPELT: &[Row] = &[
    ("muon", "momentm = 0.9", &["unknown key `momentm`", "did you mean `momentum`?"]),
    ("muon", "Momentum = 0.9", &["unknown key `Momentum`", "did you mean `momentum`?"]),
    ("muon", "wieght_decay = 0.1", &["unknown key `wieght_decay`", "did you mean `weight_decay`?"]),
    ("muon", "weight-decay = 0.1", &["did you mean `weight_decay`?"]),
    ("muon", "nesterv = true", &["did you mean `nesterov`?"]),
    ("muon", "ns_step = 5", &["did you mean `ns_steps`?"]),
    ("muon", "ns_coefs = \"jordan\"", &["unknown key `ns_coefs`"]),
    ("muon", "adjust_lr = \"original\"", &["did you mean `adjust_lr_fn`?"]),
    ("lion", "beta = [0.9, 0.99]", &["did you mean `betas`?"]),
    ("adamw", "epsilon = 1e-8", &["unknown key `epsilon`"]),
    ("adamw", "amsgrd = true", &["did you mean `amsgrad`?"]),
    ("sgd", "dampning = 0.1", &["did you mean `dampening`?"]),
    ("sgd", "lrr = 0.1", &["unknown key `lrr`", "did you mean `lr`?"]),
    ("sgd", "exlude = [\"b\"]", &["did you mean `exclude`?"]),
    ("sgd", "ndims = 2", &["did you mean `ndim`?"]),
    ("sgd", "split = 2", &["did you mean `splits`?"]),
    ("sgd", "mater = \"f32\"", &["did you mean `master`?"]),
    ("sgd", "state_type = \"bf16\"", &["did you mean `state_dtype`?"]),
    ("sgd", "rounding_mode = \"nearest\"", &["unknown key `rounding_mode`"]),
    ("sgd", "maximise = true", &["did you mean `maximize`?"]),
    ("adagrad", "lr_decy = 0.1", &["did you mean `lr_decay`?"]),
    ("adagrad", "xyzzy = 1", &["unknown key `xyzzy`", "legal:"]),
];

fn rows() -> impl Iterator<Item = Case> {
    [BETAS, NEWTON_SCHULZ, CHOICES, TOGETHER, COMPOSITIONS, MISSPELT]
        .into_iter()
        .flatten()
        .map(|(algorithm, lines, says)| case(algorithm, lines).says(*says))
}

/// A legal value for every option, so that only its presence can be at fault.
const LEGAL: &[(&str, &str)] = &[
    ("momentum", "0.9"),
    ("nesterov", "true"),
    ("dampening", "0.0"),
    ("betas", "[0.9, 0.99]"),
    ("eps", "1e-8"),
    ("amsgrad", "true"),
    ("lr_decay", "0.1"),
    ("initial_accumulator_value", "0.1"),
    ("ns_steps", "5"),
    ("ns_coefficients", "\"jordan\""),
    ("ns_dtype", "\"bf16\""),
    ("ns_method", "\"standard\""),
    ("ns_restarts", "[2]"),
    ("adjust_lr_fn", "\"original\""),
    ("scale", "1.0"),
    ("norm", "\"sign\""),
    ("unconstrained", "true"),
    ("cautious_weight_decay", "true"),
    ("constraint", "\"decay\""),
    ("estimator", "{ kind = \"none\" }"),
];

/// Every built algorithm with every option that is not its own.
pub fn foreign_options() -> Vec<Case> {
    let mut out = vec![];
    for preset in PRESETS.iter().filter(|p| p.is_built()) {
        for (option, value) in LEGAL.iter().filter(|(option, _)| !preset.options.contains(option)) {
            let needed = match preset.name {
                "lmo" => "estimator = { kind = \"none\" }\nnorm = \"sign\"\n",
                _ => "",
            };
            let says = format!("`{}` has no option `{option}`", preset.name);
            out.push(case(preset.name, &format!("{needed}{option} = {value}")).says([says]));
        }
    }
    out
}

/// (name, configuration, what must be said): faults outside a group's hyperparameters.
#[rustfmt::skip] // one row a line
const WHOLE: &[(&str, &str, &[&str])] = &[
    ("empty file", "", &["config.toml", "there is no [[group]]"]),
    ("only [step]", "[step]\nmax_grad_norm = 1.0\n", &["there is no [[group]]"]),
    ("group = 3", "group = 3\n", &["group = 3", "[[group]]"]),
    ("group = []", "group = []\n", &["there is no"]),
    ("group = [1]", "group = [1]\n", &["[[group]]"]),
    ("[group] instead of [[group]]", "[group]\nalgorithm = \"lion\"\n", &["[[group]]"]),
    ("[[groups]]", "[[groups]]\nalgorithm = \"lion\"\n", &["there is no [[group]]"]),
    ("no algorithm", "[[group]]\nname = \"g\"\nparams = [\"*\"]\n", &["group `g`", "algorithm is missing"]),
    ("no algorithm, no name", "[[group]]\nparams = [\"*\"]\n", &["group 1", "algorithm is missing"]),
    ("algorithm = 1", "[[group]]\nparams = [\"*\"]\nalgorithm = 1\n", &["algorithm = 1", "a string"]),
    ("name = 1", "[[group]]\nname = 1\nparams = [\"*\"]\nalgorithm = \"lion\"\n", &["name = 1", "a string"]),
    ("no params", "[[group]]\nname = \"g\"\nalgorithm = \"lion\"\n", &["group `g`", "params is missing or empty"]),
    ("params = []", "[[group]]\nname = \"g\"\nparams = []\nalgorithm = \"lion\"\n", &["group `g`", "params is missing or empty"]),
    ("params is a string", "[[group]]\nparams = \"*\"\nalgorithm = \"lion\"\n", &["params = \"*\"", "list of strings"]),
    ("params holds a number", "[[group]]\nparams = [1]\nalgorithm = \"lion\"\n", &["list of strings"]),
    ("no lr, no default", "[[group]]\nname = \"g\"\nparams = [\"*\"]\nalgorithm = \"signum\"\n", &["group `g`", "lr is missing", "signum"]),
    ("unknown top-level key", "steps = 3\n[[group]]\nparams = [\"*\"]\nalgorithm = \"lion\"\n", &["unknown key `steps`", "did you mean `step`?"]),
    ("[stp]", "[stp]\n[[group]]\nparams = [\"*\"]\nalgorithm = \"lion\"\n", &["unknown key `stp`", "did you mean `step`?"]),
    ("step = 3", "step = 3\n[[group]]\nparams = [\"*\"]\nalgorithm = \"lion\"\n", &["step = 3", "a table"]),
    ("two groups of one name", "[[group]]\nname = \"g\"\nparams = [\"w\"]\nalgorithm = \"lion\"\n[[group]]\nname = \"g\"\nparams = [\"*\"]\nalgorithm = \"lion\"\n", &["two groups are called `g`"]),
    ("duplicate key in a group", "[[group]]\nlr = 0.1\nlr = 0.2\nparams = [\"*\"]\nalgorithm = \"lion\"\n", &["config.toml", "line 3", "duplicate key"]),
    ("duplicate table", "[step]\n[step]\n[[group]]\nparams = [\"*\"]\nalgorithm = \"lion\"\n", &["line 2", "duplicate key"]),
    ("no value", "[[group]]\nlr =\n", &["config.toml", "line 2"]),
    ("unclosed string", "[[group]]\nname = \"g\n", &["line 2"]),
    ("unclosed list", "[[group]]\nparams = [\"w\"\nlr = 1\n", &["config.toml", "TOML parse error"]),
    ("JSON", "{\"group\": []}\n", &["TOML parse error", "line 1"]),
    ("no equals sign", "[[group]]\nlr 0.1\n", &["line 2"]),
    ("NUL", "[[group]]\n\0\n", &["line 2"]),
    ("the second group is the bad one", "[[group]]\nname = \"one\"\nparams = [\"w\"]\nalgorithm = \"lion\"\n[[group]]\nname = \"two\"\nparams = [\"*\"]\nalgorithm = \"lion\"\nlr = -1\n", &["group `two`", "lr = -1"]),
    ("the unnamed second group", "[[group]]\nparams = [\"w\"]\nalgorithm = \"lion\"\n[[group]]\nparams = [\"*\"]\nalgorithm = \"lion\"\nlr = -1\n", &["group `lion 2`", "lr = -1"]),
];

#[rustfmt::skip] // one row a line
const NAMES: &[(&str, &[&str])] = &[
    ("mun", &["unknown algorithm `mun`", "did you mean `muon`?"]),
    ("Muon", &["did you mean `muon`?"]),
    ("adam", &["unknown algorithm `adam`", "did you mean `adamw`?"]),
    ("sign_sgd", &["did you mean `sign-sgd`?"]),
    ("rmsprop", &["unknown algorithm `rmsprop`", "muon"]),
    ("", &["unknown algorithm ``"]),
    ("gluon", &["algorithm `gluon`", "not built yet", "built: sgd"]),
    ("normuon", &["algorithm `normuon`", "not built yet"]),
    ("adamuon", &["algorithm `adamuon`", "not built yet"]),
    ("mars-m", &["algorithm `mars-m`", "not built yet"]),
    ("shampoo", &["algorithm `shampoo`", "not built yet"]),
    ("asgo", &["algorithm `asgo`", "not built yet"]),
    ("soap", &["algorithm `soap`", "not built yet"]),
];

#[rustfmt::skip] // one row a line
const STEP_OPTIONS: &[(&str, &[&str])] = &[
    ("max_grad_norm = nan", &["max_grad_norm = NaN", "(0, 1e30]"]),
    ("max_grad_norm = inf", &["max_grad_norm = inf", "(0, 1e30]"]),
    ("max_grad_norm = -inf", &["max_grad_norm = -inf"]),
    ("max_grad_norm = 0", &["max_grad_norm = 0"]),
    ("max_grad_norm = -1", &["max_grad_norm = -1"]),
    ("max_grad_norm = 1e31", &["max_grad_norm = 1", "(0, 1e30]"]),
    ("max_grad_norm = \"1\"", &["max_grad_norm = \"1\"", "a number"]),
    ("max_grad_norm = true", &["max_grad_norm = true", "a number"]),
    ("max_grad_nrm = 1", &["unknown key `max_grad_nrm`", "did you mean `max_grad_norm`?"]),
    ("loss_scale = nan", &["loss_scale = NaN", "[1e-30, 1e30]"]),
    ("loss_scale = inf", &["loss_scale = inf", "[1e-30, 1e30]"]),
    ("loss_scale = 0", &["loss_scale = 0", "[1e-30, 1e30]"]),
    ("loss_scale = -1024", &["loss_scale = -1024"]),
    ("loss_scale = 1e31", &["loss_scale = 1", "[1e-30, 1e30]"]),
    ("loss_scale = \"1024\"", &["loss_scale = \"1024\"", "a number"]),
    ("loss_scal = 2", &["unknown key `loss_scal`", "did you mean `loss_scale`?"]),
    ("nonfinite = \"errors\"", &["nonfinite = \"errors\"", "did you mean `error`?"]),
    ("nonfinite = \"ignore\"", &["nonfinite = \"ignore\"", "propagate"]),
    ("nonfinite = true", &["nonfinite = true"]),
];

pub fn cases() -> Vec<Case> {
    let mut out = numbers();
    out.extend(rows());
    out.extend(WHOLE.iter().map(|(name, config, says)| {
        Case::new(format!("config: {name}"), 2).config(*config).plan_too().says(*says)
    }));
    out.extend(NAMES.iter().map(|(name, says)| case(name, "").says(*says)));
    out.extend(STEP_OPTIONS.iter().map(|(line, says)| {
        let config = format!("[step]\n{line}\n{GOOD_CONFIG}");
        Case::new(format!("[step] {line}"), 2).config(config).plan_too().says(["[step]"]).says(*says)
    }));
    out
}

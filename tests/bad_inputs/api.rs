//! Misuse of the library: refused with the names of what is wrong, parameters and state unchanged bit for bit.

use orthant::algorithm::{Algorithm, Estimator, Norm};
use orthant::{
    Builder, Device, Dtype, Error, Group, NonFinite, Optimizer, Parameter, ParameterSpec, Plan, Splits,
    Tensor,
};

use crate::model::{bits, noise, optimizer, tensor};

fn f32s(shape: &[usize]) -> Tensor {
    tensor(Dtype::F32, shape, noise(1.0))
}

fn groups(groups: impl IntoIterator<Item = Group>) -> Builder {
    Optimizer::builder(Device::Cpu).groups(groups)
}

fn lion() -> Group {
    Group::new("g", Algorithm::lion()).params(["*"])
}

fn one(group: Group) -> Result<Optimizer, Error> {
    groups([group]).register([Parameter::new("w", f32s(&[2, 3]))])
}

fn mvr() -> Algorithm {
    Algorithm::lmo(Estimator::Mvr { alpha: 0.1 }, Norm::Sign)
}

#[test]
fn registrations_are_refused() {
    let w = || f32s(&[2, 3]);
    let whole = f32s(&[24]);
    let view = |offset: usize, shape: &[usize], strides: &[usize]| {
        whole.view(offset, shape, strides).expect("a view")
    };
    let pair =
        |a: Tensor, b: Tensor| groups([lion()]).register([Parameter::new("a", a), Parameter::new("b", b)]);
    let with_algorithm = |algorithm: Algorithm| one(Group::new("g", algorithm).lr(0.1).params(["*"]));
    let with_name = |name: &str| groups([lion()]).register([Parameter::new(name, w())]);
    let shared = w();
    #[rustfmt::skip] // one row a line
    let rows: Vec<(&str, Result<Optimizer, Error>, &[&str])> = vec![
        ("a name twice", groups([lion()]).register([Parameter::new("w", w()), Parameter::new("w", w())]), &["`w`", "twice"]),
        ("one tensor as two parameters", pair(shared.clone(), shared.clone()), &["`a`", "`b`", "shares storage"]),
        ("overlapping rows", pair(view(0, &[2, 6], &[6, 1]), view(6, &[2, 6], &[6, 1])), &["`a`", "`b`", "element 6"]),
        ("overlap by one element", pair(view(0, &[13], &[1]), view(12, &[12], &[1])), &["`a`", "`b`", "element 12"]),
        ("interleaved that meet", pair(view(0, &[12], &[2]), view(4, &[3], &[3])), &["`a`", "`b`", "element 4"]),
        ("transposed view of the same", pair(view(0, &[4, 6], &[6, 1]), view(0, &[6, 4], &[1, 6])), &["`a`", "`b`"]),
        ("stride 0", pair(view(0, &[3, 2], &[0, 1]), w()), &["`a`", "itself"]),
        ("strides that fold", pair(view(0, &[3, 3], &[1, 1]), w()), &["`a`", "itself"]),
        ("gradient is the parameter", groups([lion()]).register([Parameter::new("w", shared.clone()).grad(shared.clone())]), &["`w`", "storage of their own"]),
        ("gradient beside the parameter", groups([lion()]).register([Parameter::new("w", view(0, &[12], &[1])).grad(view(12, &[12], &[1]))]), &["`w`", "storage"]),
        ("gradient in another parameter", groups([lion()]).register([Parameter::new("a", shared.clone()), Parameter::new("b", w()).grad(shared.clone())]), &["`b`", "`a`", "storage"]),
        ("gradient of another shape", groups([lion()]).register([Parameter::new("w", w()).grad(f32s(&[3, 2]))]), &["`w`", "[3, 2]", "[2, 3]"]),
        ("f64 gradient", groups([lion()]).register([Parameter::new("w", w()).grad(tensor(Dtype::F64, &[2, 3], noise(1.0)))]), &["`w`", "f64"]),
        ("unused previous gradient", groups([lion()]).register([Parameter::new("w", w()).prev_grad(w())]), &["`w`", "previous gradient", "does not use"]),
        ("previous gradient of another shape", groups([Group::new("g", mvr()).lr(0.1).params(["*"])]).register([Parameter::new("w", w()).prev_grad(f32s(&[6]))]), &["`w`", "previous gradient", "[6]"]),
        ("no group", groups([]).register([Parameter::new("w", w())]), &["no group"]),
        ("no parameter", groups([lion()]).register([]), &["no parameters"]),
        ("two groups of one name", groups([lion(), lion()]).register([Parameter::new("w", w())]), &["two groups", "`g`"]),
        ("group without patterns", one(Group::new("g", Algorithm::lion())), &["`g`", "params"]),
        ("pattern without match", one(Group::new("g", Algorithm::lion()).params(["x"])), &["`g`", "`x`", "no parameter"]),
        ("vector under muon", groups([Group::new("g", Algorithm::muon()).params(["*"])]).register([Parameter::new("v", f32s(&[3]))]), &["`v`", "no matrix", "`g`"]),
        ("max_grad_norm NaN", groups([lion()]).max_grad_norm(f64::NAN).register([Parameter::new("w", w())]), &["max_grad_norm", "NaN"]),
        ("max_grad_norm 0", groups([lion()]).max_grad_norm(0.0).register([Parameter::new("w", w())]), &["max_grad_norm", "0"]),
        ("lr NaN", one(lion().lr(f64::NAN)), &["`g`", "lr = NaN"]),
        ("lr infinite", one(lion().lr(f64::INFINITY)), &["`g`", "lr = inf"]),
        ("weight decay negative", one(lion().weight_decay(-0.1)), &["`g`", "weight_decay = -0.1"]),
        ("no splits", one(Group::new("g", Algorithm::muon()).params(["*"]).splits(Splits::Equal(0))), &["`g`", "splits"]),
        ("splits that do not add up", one(Group::new("g", Algorithm::muon()).params(["*"]).splits(Splits::Sizes(vec![1, 2]))), &["`w`", "add up"]),
        ("muon().betas", with_algorithm(Algorithm::muon().betas(0.9, 0.99)), &["`g`", "`muon` has no option `betas`"]),
        ("lion().momentum", with_algorithm(Algorithm::lion().momentum(0.9)), &["`lion` has no option `momentum`"]),
        ("sgd().ns_steps", with_algorithm(Algorithm::sgd().ns_steps(5)), &["`sgd` has no option `ns_steps`"]),
        ("adamw().nesterov", with_algorithm(Algorithm::adamw().nesterov(true)), &["`adamw` has no option `nesterov`"]),
        ("sign_sgd().eps", with_algorithm(Algorithm::sign_sgd().eps(1e-8)), &["`sign-sgd` has no option `eps`"]),
        ("muon().unconstrained", with_algorithm(Algorithm::muon().unconstrained(true)), &["`muon` has no option `unconstrained`"]),
        ("misuse is not overwritten", with_algorithm(Algorithm::muon().betas(0.9, 0.99).momentum(0.9)), &["`betas`"]),
        ("ns_steps 0", with_algorithm(Algorithm::muon().ns_steps(0)), &["ns_steps = 0"]),
        ("momentum 1", with_algorithm(Algorithm::muon().momentum(1.0)), &["momentum = 1"]),
        ("empty name", with_name(""), &["1 to 512 bytes"]),
        ("name with a newline", with_name("a\nb"), &["a\\nb", "control characters"]),
        ("name with a quote", with_name("a\"b"), &["quotes"]),
        ("long name", with_name(&"x".repeat(513)), &["512 bytes"]),
        ("reserved name", with_name("__metadata__"), &["`__metadata__`", "reserved"]),
    ];
    assert!(rows.len() >= 40);
    for (what, outcome, says) in rows {
        let message = outcome.err().unwrap_or_else(|| panic!("{what} was registered")).to_string();
        for fragment in says {
            assert!(message.contains(fragment), "{what}: `{fragment}` is not in: {message}");
        }
    }
    assert_eq!(whole.to_vec_f64(), f32s(&[24]).to_vec_f64(), "a refused registration changed values");
}

/// Views that share a storage and no element are fine.
#[test]
fn disjoint_views_of_one_storage_are_two_parameters() {
    let whole = f32s(&[24]);
    let even = whole.view(0, &[12], &[2]).expect("a view");
    let odd = whole.view(1, &[12], &[2]).expect("a view");
    let parameter = |name: &str, t: Tensor| Parameter::new(name, t).grad(f32s(&[12]));
    let mut both =
        groups([lion()]).register([parameter("even", even), parameter("odd", odd)]).expect("disjoint");
    both.step().expect("a step");
}

#[test]
fn shapes_beyond_the_address_space_are_refused() {
    for shape in [vec![usize::MAX, 2], vec![1 << 32, 1 << 32], vec![usize::MAX / 4, 1]] {
        let spec =
            ParameterSpec { name: "w".into(), shape: shape.clone(), dtype: Dtype::F32, grad_dtype: None };
        let refused = Plan::new(vec![lion()], vec![spec], None).expect_err("too large").to_string();
        assert!(refused.contains("`w`") && refused.contains("address space"), "{refused}");
        assert!(Tensor::zeros(Dtype::F32, &shape).is_err());
        assert!(f32s(&[4]).view(0, &shape, &[1, 1]).is_err());
    }
    assert!(f32s(&[4]).view(usize::MAX, &[1], &[1]).is_err());
    assert!(f32s(&[4]).view(0, &[2, 2], &[usize::MAX, 1]).is_err());
    assert!(f32s(&[4]).view(1, &[2, 2], &[2, 1]).is_err());
}

fn mixed() -> Vec<(&'static str, Group, Dtype, &'static [usize])> {
    let group = |name: &str, algorithm: Algorithm| Group::new(name, algorithm).lr(0.1);
    let extrapolated = Algorithm::lmo(Estimator::Extrapolated { alpha: 0.5 }, Norm::Frobenius);
    vec![
        ("a", group("sgd", Algorithm::sgd().momentum(0.9)), Dtype::F32, &[7]),
        ("b", group("muon", Algorithm::muon()), Dtype::F32, &[3, 4]),
        ("c", group("adamw", Algorithm::adamw()), Dtype::F32, &[2, 2]),
        ("d", group("scion", Algorithm::scion()), Dtype::F32, &[4, 3]),
        ("e", group("extrapolated", extrapolated), Dtype::F32, &[5]),
        ("f", group("mvr", mvr()), Dtype::F32, &[6]),
        ("g", group("adagrad", Algorithm::adagrad()), Dtype::F32, &[1, 9]),
    ]
}

/// A running optimizer: two steps done, everything bound.
fn running() -> Optimizer {
    let mut optimizer = optimizer(&mixed(), NonFinite::Error);
    optimizer.rebind_previous_gradients([("f", Some(f32s(&[6])))]).expect("it fits");
    (0..2).for_each(|_| drop(optimizer.step().expect("a step")));
    optimizer
}

#[test]
fn misuse_of_a_running_optimizer_changes_nothing() {
    type Misuse = Box<dyn Fn(&mut Optimizer) -> Result<(), Error>>;
    let rebind = |name: &'static str, tensor: Tensor| -> Misuse {
        Box::new(move |o| o.rebind_gradients([("a", None), (name, Some(tensor.clone()))]))
    };
    let lr = |group: &'static str, lr: f64| -> Misuse { Box::new(move |o| o.set_lr(group, lr)) };
    let decay = |group: &'static str, wd: f64| -> Misuse { Box::new(move |o| o.set_weight_decay(group, wd)) };
    #[rustfmt::skip] // one row a line
    let rows: Vec<(&str, Misuse, &[&str])> = vec![
        ("lr NaN", lr("muon", f64::NAN), &["`muon`", "lr = NaN"]),
        ("lr inf", lr("muon", f64::INFINITY), &["lr = inf"]),
        ("lr -inf", lr("muon", f64::NEG_INFINITY), &["lr = -inf"]),
        ("lr -1", lr("muon", -1.0), &["lr = -1"]),
        ("lr 1e11", lr("sgd", 1e11), &["lr = 100000000000"]),
        ("lr * wd = 1", lr("muon", 10.0), &["`muon`", "below 1"]),
        ("lr of a convex combination", lr("scion", 1.5), &["`scion`", "[0, 1]"]),
        ("lr of no group", lr("muom", 0.1), &["no group `muom`", "did you mean `muon`?"]),
        ("wd NaN", decay("muon", f64::NAN), &["weight_decay = NaN"]),
        ("wd -1", decay("muon", -1.0), &["weight_decay = -1"]),
        ("wd inf", decay("adamw", f64::INFINITY), &["weight_decay = inf"]),
        ("wd too large", decay("adamw", 10.0), &["`adamw`", "below 1"]),
        ("wd of scion", decay("scion", 0.1), &["takes no weight decay"]),
        ("wd of no group", decay("x", 0.1), &["no group `x`"]),
        ("stranger", rebind("bb", f32s(&[3, 4])), &["`bb`", "no such parameter"]),
        ("wrong shape", rebind("b", f32s(&[4, 3])), &["`b`", "[4, 3]", "[3, 4]"]),
        ("wrong rank", rebind("b", f32s(&[12])), &["`b`", "[12]"]),
        ("f64 gradient", rebind("b", tensor(Dtype::F64, &[3, 4], noise(1.0))), &["`b`", "f64"]),
        ("a parameter as gradient", Box::new(|o| {
            let data = o.parameters().find(|(name, _)| *name == "b").expect("registered").1.clone();
            o.rebind_gradients([("a", None), ("b", Some(data))])
        }), &["`b`", "storage of parameter `b`"]),
        ("previous gradient of another shape", Box::new(|o| o.rebind_previous_gradients([("f", Some(f32s(&[5])))])), &["`f`", "previous gradient"]),
        ("no such checkpoint", Box::new(|o| o.load("/nonexistent/state")), &["/nonexistent/state", "cannot be read"]),
        ("no such folder", Box::new(|o| o.save("/nonexistent/state")), &["/nonexistent", "No such file"]),
        ("step at the iterates", Box::new(|o| {
            o.eval_point().unwrap();
            let outcome = o.step().map(drop);
            o.train_point().unwrap();
            outcome
        }), &["train_point"]),
        ("load at the iterates", Box::new(|o| {
            o.eval_point().unwrap();
            let outcome = o.load("/nonexistent/state");
            o.train_point().unwrap();
            outcome
        }), &["train_point"]),
    ];
    let mut control = running();
    let mut subject = running();
    for (what, misuse, says) in rows {
        let before = bits(&subject);
        let rates: Vec<_> = mixed().iter().map(|(_, g, ..)| subject.lr(g.name())).collect();
        let message = misuse(&mut subject).expect_err(what).to_string();
        for fragment in says {
            assert!(message.contains(fragment), "{what}: `{fragment}` is not in: {message}");
        }
        assert_eq!(bits(&subject), before, "{what}");
        assert_eq!(
            mixed().iter().map(|(_, g, ..)| subject.lr(g.name())).collect::<Vec<_>>(),
            rates,
            "{what}"
        );
        assert_eq!(control.step(), subject.step(), "{what}: the next correct step");
        assert_eq!(bits(&control), bits(&subject), "{what}: the next correct step");
    }
}

#[test]
fn a_step_without_any_gradient_is_refused() {
    let mut subject = running();
    subject
        .rebind_gradients(mixed().iter().map(|(name, ..)| (*name, None::<orthant::Tensor>)))
        .expect("they are registered");
    let before = bits(&subject);
    assert_eq!(subject.step(), Err(Error::NoGradients));
    assert_eq!(bits(&subject), before);
    assert_eq!(subject.steps(), 2);
}

#[test]
fn a_failing_step_changes_nothing_whichever_parameter_fails() {
    for (name, _, _, shape) in mixed() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let mut subject = running();
            let before = bits(&subject);
            let last = shape.iter().product::<usize>() - 1;
            let gradient = tensor(Dtype::F32, shape, |i| if i == last { bad } else { 1.0 });
            subject.rebind_gradients([(name, Some(gradient))]).expect("it fits");
            match subject.step() {
                Err(Error::NonFiniteGradient { step: 3, parameter, index, .. }) => {
                    assert_eq!((parameter.as_str(), index), (name, last));
                }
                other => panic!("{name}: {other:?}"),
            }
            assert_eq!(bits(&subject), before, "{name}");
            let mut control = running();
            let good = tensor(Dtype::F32, shape, noise(2.0));
            subject.rebind_gradients([(name, Some(good))]).expect("it fits");
            assert_eq!(control.step(), subject.step());
            assert_eq!(bits(&control), bits(&subject), "{name}: the next correct step");
        }
    }
}

#[test]
fn a_missing_previous_gradient_is_refused_from_the_second_step_on() {
    let names = ["a", "b", "c", "d", "e"];
    for missing in names {
        let parameters = names.map(|name| {
            let group = Group::new(name, mvr()).lr(0.1);
            (name, group, Dtype::F32, [4usize].as_slice())
        });
        let mut subject = optimizer(&parameters, NonFinite::Error);
        subject.step().expect("the first step reads no previous gradient");
        let bound = names.map(|name| (name, (name != missing).then(|| f32s(&[4]))));
        subject.rebind_previous_gradients(bound).expect("they fit");
        let before = bits(&subject);
        let refused = subject.step().expect_err("one is missing").to_string();
        assert!(refused.contains(&format!("`{missing}`")) && refused.contains("previous point"), "{refused}");
        assert_eq!(bits(&subject), before);
        let nan = tensor(Dtype::F32, &[4], |i| if i == 2 { f64::NAN } else { 0.0 });
        subject.rebind_previous_gradients([(missing, Some(nan))]).expect("it fits");
        match subject.step() {
            Err(Error::NonFiniteGradient { parameter, index: 2, .. }) => assert_eq!(parameter, missing),
            other => panic!("{missing}: {other:?}"),
        }
        assert_eq!(bits(&subject), before);
    }
}

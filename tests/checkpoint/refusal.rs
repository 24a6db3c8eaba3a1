//! Intact checkpoints of something else, of another time, or with values that must not spread.

use std::fs;

use orthant::algorithm::{Algorithm, Estimator, Initial, Norm, Slot};
use orthant::{Dtype, Error, Group, Master, NonFinite, StateDtype, Tensor};
use sha2::{Digest, Sha256};

use crate::model::{bits, optimizer, scratch};

fn signum() -> Group {
    Group::new("signum", Algorithm::signum()).lr(0.1)
}

fn named(name: &str, group: Group) -> Group {
    Group::new(name, group.algorithm().clone()).lr(0.1)
}

#[test]
fn everything_that_does_not_fit_is_reported_together() {
    let lmo = |estimator| Group::new("lmo", Algorithm::lmo(estimator, Norm::Sign)).lr(0.1);
    let start = Initial::Zero;
    let ema = Estimator::Ema { momentum: 0.9, initial: start };
    let heavy = Estimator::HeavyBall { momentum: 0.9, initial: start };
    let vector: &[usize] = &[5];
    let file = optimizer(
        &[
            ("fits", named("0", signum()), Dtype::F32, vector),
            ("shape", named("1", signum()), Dtype::F32, &[2, 3]),
            ("dtype", named("2", signum()), Dtype::Bf16, vector),
            ("kind", named("3", Group::new("", Algorithm::lion())), Dtype::F32, vector),
            ("convention", named("4", lmo(ema)), Dtype::F32, vector),
            ("stranger", named("5", signum()), Dtype::F32, vector),
            ("fewer", named("6", Group::new("", Algorithm::adamw().amsgrad(true))), Dtype::F32, vector),
            ("more", named("7", Group::new("", Algorithm::adamw())), Dtype::F32, vector),
            ("width", named("8", signum()), Dtype::F32, vector),
        ],
        NonFinite::Error,
    );
    let mut here = optimizer(
        &[
            ("fits", named("0", signum()), Dtype::F32, vector),
            ("shape", named("1", signum()), Dtype::F32, &[3, 2]),
            ("dtype", named("2", signum()), Dtype::F32, vector),
            ("kind", named("3", signum()), Dtype::F32, vector),
            ("convention", named("4", lmo(heavy)), Dtype::F32, vector),
            ("absent", named("5", signum()), Dtype::F32, vector),
            ("fewer", named("6", Group::new("", Algorithm::adamw())), Dtype::F32, vector),
            ("more", named("7", Group::new("", Algorithm::adamw().amsgrad(true))), Dtype::F32, vector),
            ("width", named("8", signum()).state_dtype(StateDtype::Bf16), Dtype::F32, vector),
        ],
        NonFinite::Error,
    );
    let dir = scratch();
    let path = dir.path().join("state");
    file.save(&path).expect("it saves");
    let before = bits(&here);
    let Err(Error::File { problems, path: reported }) = here.load(&path) else { panic!("it was loaded") };
    assert_eq!(reported, path);
    for expected in [
        "parameter `shape`: shape is [2, 3] in the file and [3, 2] here",
        "entry `shape.momentum` is F32 [2, 3] in the file",
        "parameter `dtype`: dtype is bf16 in the file and f32 here",
        "parameter `kind`: algorithm is lion in the file and signum here",
        "parameter `convention`: momentum convention is ema in the file and heavy-ball here",
        "parameter `stranger` is not registered here",
        "parameter `absent` is missing",
        "entry `fewer.variance_max` has no place",
        "entry `more.variance_max` is missing",
        "entry `width.momentum` is F32 [5] in the file, and bf16",
    ] {
        assert!(problems.iter().any(|p| p.contains(expected)), "`{expected}` is not among {problems:#?}");
    }
    assert_eq!(problems.len(), 10, "{problems:#?}");
    assert!(!problems.iter().any(|p| p.contains("`fits")), "{problems:#?}");
    assert_eq!(bits(&here), before);
}

#[test]
fn order_of_registration_does_not_matter() {
    let ours: [(&str, Group, Dtype, &[usize]); 2] = [
        ("a", named("1", signum()), Dtype::F32, &[4]),
        ("b", named("2", Group::new("", Algorithm::lion())), Dtype::F32, &[4]),
    ];
    let swapped = [ours[1].clone(), ours[0].clone()];
    let mut first = optimizer(&ours, NonFinite::Error);
    first.step().expect("a step");
    let dir = scratch();
    let path = dir.path().join("state");
    first.save(&path).expect("it saves");
    let mut second = optimizer(&swapped, NonFinite::Error);
    second.load(&path).expect("it loads");
    for name in ["a", "b"] {
        let slot = orthant::algorithm::Slot::Momentum;
        assert_eq!(first.state(name, slot).unwrap(), second.state(name, slot).unwrap());
        assert_eq!(second.step_count(name).unwrap(), Some(1));
    }
}

#[test]
fn state_with_nan_is_refused_unless_it_may_propagate() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let parameters: [(&str, Group, Dtype, &[usize]); 2] =
            [("a", named("1", signum()), Dtype::F32, &[4]), ("b", named("2", signum()), Dtype::F32, &[4])];
        let mut sick = optimizer(&parameters, NonFinite::Propagate);
        let gradient = Tensor::from_vec(vec![1.0, 1.0, 1.0, bad], &[4]).expect("a tensor");
        sick.rebind_gradients([("b", Some(gradient))]).expect("it fits");
        sick.step().expect("propagate steps");
        let dir = scratch();
        let path = dir.path().join("state");
        sick.save(&path).expect("it saves");
        for policy in [NonFinite::Error, NonFinite::Skip] {
            let mut healthy = optimizer(&parameters, policy);
            let before = bits(&healthy);
            let Err(Error::File { problems, .. }) = healthy.load(&path) else { panic!("NaN was loaded") };
            assert_eq!(problems, ["entry `b.momentum` holds NaN or an infinity"]);
            assert_eq!(bits(&healthy), before);
        }
        let mut careless = optimizer(&parameters, NonFinite::Propagate);
        careless.load(&path).expect("propagate loads it");
    }
}

/// Puts the right header digest into an edited file.
fn seal(bytes: &mut [u8]) {
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let mark = br#"{\"header_digest\":\""#;
    let at = bytes.windows(mark.len()).position(|w| w == mark).expect("the mark") + mark.len();
    bytes[at..at + 64].fill(b'0');
    let digest: String = Sha256::digest(&bytes[8..header]).iter().map(|b| format!("{b:02x}")).collect();
    bytes[at..at + 64].copy_from_slice(digest.as_bytes());
}

fn replace(bytes: &mut [u8], from: &str, to: &str) {
    assert_eq!(from.len(), to.len(), "lengths must not change");
    let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).expect("the text to replace");
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
}

#[test]
fn other_format_versions_and_edited_schemas_are_refused() {
    let parameters: [(&str, Group, Dtype, &[usize]); 1] = [("a", named("1", signum()), Dtype::F32, &[4])];
    let mut subject = optimizer(&parameters, NonFinite::Error);
    let dir = scratch();
    let path = dir.path().join("state");
    subject.save(&path).expect("it saves");
    let good = fs::read(&path).expect("it was written");
    let mut load = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        edit(&mut bytes);
        seal(&mut bytes);
        fs::write(&path, bytes).expect("written");
        subject.load(&path).map_err(|e| e.to_string())
    };
    assert_eq!(load(&|_| {}), Ok(()), "sealing a file that was not edited is the identity");
    for (from, to, says) in [
        (r#"\"format\":1"#, r#"\"format\":2"#, "format version 2 is not 1"),
        (r#"\"format\":1"#, r#"\"format\":0"#, "format version 0 is not 1"),
        (r#"\"format\":1"#, r#"\"fOrmat\":1"#, "unknown field `fOrmat`"),
        (r#"\"step\":0"#, r#"\"step\":x"#, "schema is damaged"),
        ("\"a.momentum\":{\"dtype\":\"F32\"", "\"a.momentum\":{\"dtype\":\"I32\"", "`a.momentum` is I32"),
        ("\"a.momentum\":{", "\"a.momentun\":{", "`a.momentun` has no digest"),
        (r#"\"a.momentum\":\""#, r#"\"b.momentum\":\""#, "`b.momentum` has a digest and no data"),
        ("\"orthant\":", "\"orthont\":", "no `orthant` metadata"),
    ] {
        let refused = load(&|bytes| replace(bytes, from, to)).expect_err(to);
        assert!(refused.contains(says), "{to}: `{says}` is not in: {refused}");
    }
    // A hostile edit with matching digests still meets the finiteness check.
    let nan = load(&|bytes| {
        let end = bytes.len();
        let old: String = Sha256::digest(&bytes[end - 16..]).iter().map(|b| format!("{b:02x}")).collect();
        bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
        let new: String = Sha256::digest(&bytes[end - 16..]).iter().map(|b| format!("{b:02x}")).collect();
        replace(bytes, &old, &new);
    });
    assert!(nan.expect_err("NaN").contains("`a.momentum` holds NaN"));
}

#[test]
fn damage_and_misfits_are_listed_together() {
    let vector: &[usize] = &[4];
    let of = |names: &[&'static str]| -> orthant::Optimizer {
        let parameters: Vec<_> =
            names.iter().map(|name| (*name, named(name, signum()), Dtype::F32, vector)).collect();
        optimizer(&parameters, NonFinite::Error)
    };
    let dir = scratch();
    let path = dir.path().join("state");
    of(&["a", "junk"]).save(&path).expect("it saves");
    let mut bytes = fs::read(&path).expect("it was written");
    // The schema forgets `junk`, but its tensors and digests stay.
    replace(&mut bytes, r#"\"junk\":{"#, r#"\"jump\":{"#);
    seal(&mut bytes);
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).expect("a header");
    let at = header + metadata.info("a.momentum").expect("an entry").data_offsets.0;
    bytes[at] ^= 1;
    fs::write(&path, bytes).expect("written");
    let Err(Error::File { problems, .. }) = of(&["a", "b"]).load(&path) else { panic!("it was loaded") };
    for expected in [
        "entry `a.momentum` is damaged",
        "parameter `b` is missing",
        "parameter `jump` is not registered here",
        "entry `junk.momentum` has no place",
        "entry `junk.step` has no place",
    ] {
        assert!(problems.iter().any(|p| p.contains(expected)), "`{expected}` is not among {problems:#?}");
    }
    assert_eq!(problems.len(), 5, "{problems:#?}");
}

/// Words are no numbers: their type says so, they are not looked at as bf16, and an f32 master is something else.
#[test]
fn the_words_of_compact_masters_are_integers() {
    let with = |master| {
        let sgd = Group::new("g", Algorithm::sgd()).lr(1.0).master(master);
        let parameters: [(&str, Group, Dtype, &[usize]); 1] = [("a", sgd, Dtype::Bf16, &[4])];
        optimizer(&parameters, NonFinite::Error)
    };
    let mut subject = with(Master::Compact);
    // The parameter is 1 and becomes 1 + 0x7fc1 * 2^-23; 0x7fc1 would be NaN in bf16.
    let (_, data) = subject.parameters().next().expect("a parameter");
    data.copy_from_slice(&[half::bf16::ONE; 4]).expect("it fits");
    let gradient = vec![-f32::from(0x7fc1u16) * f32::EPSILON; 4];
    let gradient = Tensor::from_vec(gradient, &[4]).expect("a tensor");
    subject.rebind_gradients([("a", Some(gradient))]).expect("it fits");
    subject.step().expect("a step");
    assert_eq!(subject.state("a", Slot::Low).unwrap(), Some(vec![f64::from(0x7fc1); 4]));
    let dir = scratch();
    let path = dir.path().join("state");
    subject.save(&path).expect("it saves");
    let good = fs::read(&path).expect("it was written");
    let tensors = safetensors::SafeTensors::deserialize(&good).expect("a file");
    let low = tensors.tensor("a.low").expect("an entry");
    assert_eq!((low.dtype(), low.shape()), (safetensors::Dtype::I16, [4].as_slice()));
    assert_eq!(low.data(), [0xc1, 0x7f].repeat(4));
    let mut other = with(Master::Compact);
    other.load(&path).expect("it loads");
    assert_eq!(other.state("a", Slot::Low).unwrap(), subject.state("a", Slot::Low).unwrap());
    let refused = with(Master::F32).load(&path).expect_err("another kind of master").to_string();
    assert!(
        refused.contains("`a.master` is missing") && refused.contains("`a.low` has no place"),
        "{refused}"
    );
    for dtype in ["U16", "F16"] {
        let mut bytes = good.clone();
        replace(&mut bytes, "\"a.low\":{\"dtype\":\"I16\"", &format!("\"a.low\":{{\"dtype\":\"{dtype}\""));
        seal(&mut bytes);
        fs::write(&path, bytes).expect("written");
        let refused = other.load(&path).expect_err(dtype).to_string();
        let says = format!("entry `a.low` is {dtype} [4] in the file, and i16 [4] is needed");
        assert!(refused.contains(&says), "{refused}");
    }
}

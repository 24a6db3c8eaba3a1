//! Every flipped bit and every truncation is noticed.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use orthant::algorithm::{Algorithm, Slot};
use orthant::{Dtype, Error, Group, NonFinite, Optimizer};
use safetensors::SafeTensors;

use crate::model::{bits, optimizer, scratch};

fn small() -> Optimizer {
    let signum = Group::new("one", Algorithm::signum()).lr(0.1);
    let adamw = Group::new("two", Algorithm::adamw()).lr(0.1);
    let mut optimizer = optimizer(
        &[("layer.weight", signum, Dtype::F32, &[24, 25]), ("layer.bias", adamw, Dtype::F32, &[107])],
        NonFinite::Error,
    );
    optimizer.step().expect("a step");
    optimizer
}

fn checkpoint(optimizer: &Optimizer) -> Vec<u8> {
    let dir = scratch();
    let path = dir.path().join("state");
    optimizer.save(&path).expect("it saves");
    fs::read(path).expect("it was written")
}

/// Applies `damage` for every index below `count` on a few threads; each must be refused, and the words are judged.
fn all_refused(
    count: usize,
    damage: impl Fn(usize) -> Vec<u8> + Sync,
    judge: impl Fn(usize, &[String]) + Sync,
) {
    let dir = scratch();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (damage, judge, next, dir) = (&damage, &judge, &next, &dir);
            scope.spawn(move || {
                let mut optimizer = small();
                let before = bits(&optimizer);
                let path = dir.path().join(format!("{thread}"));
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= count {
                        break;
                    }
                    fs::write(&path, damage(i)).expect("written");
                    match optimizer.load(&path) {
                        Err(Error::File { problems, .. }) => judge(i, &problems),
                        Err(other) => panic!("{i}: {other}"),
                        Ok(()) => panic!("{i} was not noticed"),
                    }
                }
                assert_eq!(bits(&optimizer), before, "a refused file changed the state");
            });
        }
    });
}

#[test]
fn every_flipped_bit_is_noticed_and_tensors_are_named() {
    let good = checkpoint(&small());
    assert!((4000..=5000).contains(&good.len()), "{} bytes", good.len());
    let header = 8 + u64::from_le_bytes(good[..8].try_into().expect("eight bytes")) as usize;
    let (_, metadata) = SafeTensors::read_metadata(&good).expect("a header");
    let owner: Vec<(String, std::ops::Range<usize>)> = metadata
        .tensors()
        .into_iter()
        .map(|(name, info)| (name, header + info.data_offsets.0..header + info.data_offsets.1))
        .collect();
    assert_eq!(owner.len(), 5);
    let named = AtomicUsize::new(0);
    let flip = |i: usize| {
        let mut bytes = good.clone();
        bytes[i / 8] ^= 1 << (i % 8);
        bytes
    };
    all_refused(good.len() * 8, flip, |i, problems| {
        if i / 8 >= header {
            let (name, _) =
                owner.iter().find(|(_, range)| range.contains(&(i / 8))).expect("data has an owner");
            let says = format!("entry `{name}` is damaged");
            assert!(problems.len() == 1 && problems[0].contains(&says), "bit {i}: {problems:?}");
            named.fetch_add(1, Ordering::Relaxed);
        }
    });
    let named = named.into_inner();
    println!("{} flips in {} bytes, {named} of them named their tensor", good.len() * 8, good.len());
    assert_eq!(named, (good.len() - header) * 8);
}

#[test]
fn every_truncation_is_noticed() {
    let good = checkpoint(&small());
    all_refused(good.len(), |length| good[..length].to_vec(), |_, _| {});
    let longer = |extra: usize| [good.as_slice(), &vec![0; extra + 1]].concat();
    all_refused(16, longer, |_, _| {});
}

#[test]
fn exchanged_payloads_of_one_shape_are_noticed() {
    let group = |name: &str| Group::new(name, Algorithm::signum()).lr(0.1);
    let parameters: [(&str, Group, Dtype, &[usize]); 2] =
        [("a", group("one"), Dtype::F32, &[4, 4]), ("b", group("two"), Dtype::F32, &[4, 4])];
    let mut optimizer = optimizer(&parameters, NonFinite::Error);
    let other = orthant::Tensor::from_vec(vec![0.25f32; 16], &[4, 4]).expect("a tensor");
    optimizer.rebind_gradients([("b", Some(other))]).expect("it fits");
    optimizer.step().expect("a step");
    let mut bytes = checkpoint(&optimizer);
    let at = bytes.len() - 128;
    let (first, second) = bytes[at..].split_at_mut(64);
    first.swap_with_slice(second);
    let dir = scratch();
    let path = dir.path().join("state");
    fs::write(&path, bytes).expect("written");
    let refused = optimizer.load(&path).expect_err("payloads were exchanged").to_string();
    assert!(
        refused.contains("`a.momentum` is damaged") && refused.contains("`b.momentum` is damaged"),
        "{refused}"
    );
}

#[test]
fn the_plain_safetensors_crate_reads_it() {
    let optimizer = small();
    let bytes = checkpoint(&optimizer);
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let mut names = file.names();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "layer.bias.momentum",
            "layer.bias.step",
            "layer.bias.variance",
            "layer.weight.momentum",
            "layer.weight.step"
        ]
    );
    for parameter in ["layer.weight", "layer.bias"] {
        let view = file.tensor(&format!("{parameter}.step")).expect("an entry");
        assert_eq!((view.dtype(), view.shape()), (safetensors::Dtype::I64, [].as_slice()));
        let steps = u64::from_le_bytes(view.data().try_into().expect("eight bytes"));
        assert_eq!(Some(steps), optimizer.step_count(parameter).unwrap());
    }
    for (parameter, slot) in
        [("layer.weight", Slot::Momentum), ("layer.bias", Slot::Momentum), ("layer.bias", Slot::Variance)]
    {
        let view = file.tensor(&format!("{parameter}.{}", slot.name())).expect("an entry");
        let values: Vec<f64> = view
            .data()
            .chunks_exact(4)
            .map(|c| f64::from(f32::from_le_bytes(c.try_into().expect("four bytes"))))
            .collect();
        assert_eq!(Some(values), optimizer.state(parameter, slot).unwrap());
        let spec = optimizer.plan().parameters.iter().find(|p| p.spec.name == parameter).expect("planned");
        assert_eq!(view.shape(), spec.spec.shape);
    }
}

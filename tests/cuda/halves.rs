//! Steps in two halves: ranks that each hold a part of the parameters, and reduce in between what a step is decided from.
#![allow(unsafe_code, reason = "the test stands for the library that reduces in device memory")]

use std::sync::Arc;

use cudarc::driver::sys;
use orthant::config::Config;
use orthant::cuda::{DeviceBuffer, Stream};
use orthant::{Device, DeviceScalars, Dtype, Error, Optimizer, ScanScalars, Storage};

use crate::fixture::{Card, Layout, OnCard, Pair, View, assert_same};
use crate::graphs::{Graph, driver};
use crate::noise::Noise;
use crate::parity::{RULES, Set, config_with};

const SCALARS: usize = size_of::<ScanScalars>();

/// Reads the scalars where they lie, in the stream's order.
fn read(stream: &Stream, at: DeviceScalars) -> ScanScalars {
    let (mut sum, mut max) = ([0f64], [0f64; 2]);
    let raw: sys::CUstream = stream.as_raw().cast();
    // SAFETY: here and below: live handles, and places of the sizes that are copied.
    driver(|| unsafe {
        vec![
            sys::cuMemcpyDtoHAsync_v2(sum.as_mut_ptr().cast(), at.sum, 8, raw),
            sys::cuMemcpyDtoHAsync_v2(max.as_mut_ptr().cast(), at.max, 16, raw),
            sys::cuStreamSynchronize(raw),
        ]
    });
    ScanScalars { squares: sum[0], found: max[0], too_large: max[1] }
}

/// What all ranks have after it.
fn write(stream: &Stream, at: DeviceScalars, scalars: ScanScalars) {
    let (sum, max) = ([scalars.squares], [scalars.found, scalars.too_large]);
    let raw: sys::CUstream = stream.as_raw().cast();
    // SAFETY: as above.
    driver(|| unsafe {
        vec![
            sys::cuMemcpyHtoDAsync_v2(at.sum, sum.as_ptr().cast(), 8, raw),
            sys::cuMemcpyHtoDAsync_v2(at.max, max.as_ptr().cast(), 16, raw),
            sys::cuStreamSynchronize(raw),
        ]
    });
}

fn reduce(parts: &[ScanScalars]) -> ScanScalars {
    let most = |of: fn(&ScanScalars) -> f64| parts.iter().map(of).fold(0.0, f64::max);
    ScanScalars {
        squares: parts.iter().map(|p| p.squares).sum(),
        found: most(|p| p.found),
        too_large: most(|p| p.too_large),
    }
}

/// The tensors of a set that a rank has.
fn share(set: &Set, which: usize) -> Set {
    let one = |tensors: &[orthant::Tensor]| vec![tensors[which].clone()];
    Set {
        names: vec![set.names[which].clone()],
        data: one(&set.data),
        grads: one(&set.grads),
        previous: one(&set.previous),
    }
}

/// One optimizer over two parameters on the CPU, and for each of them an optimizer on the CPU and one on the card.
struct Ranks {
    whole: (Set, Optimizer),
    cpu: Vec<(Set, Optimizer)>,
    card: Vec<(OnCard, Optimizer)>,
    at: Card,
    noise: Noise,
}

impl Ranks {
    fn new(text: &str, dtype: Dtype, grad: Dtype) -> Ranks {
        let config = Config::parse(text).unwrap_or_else(|e| panic!("{e}"));
        let mut noise = Noise(5);
        let set = Set::new(&mut noise, dtype, grad, &[vec![61, 67], vec![9001]]);
        let at = Card::new();
        let copy = set.copy();
        let cpu = (0..2).map(|i| {
            let part = share(&copy, i);
            let optimizer = part.optimizer(&config, Device::Cpu);
            (part, optimizer)
        });
        let cpu: Vec<_> = cpu.collect();
        let card = cpu.iter().map(|(part, _)| {
            let part = OnCard::new(&at, part, Layout::default());
            let optimizer = part.optimizer(&at, &config);
            (part, optimizer)
        });
        let card = card.collect();
        let optimizer = set.optimizer(&config, Device::Cpu);
        Ranks { whole: (set, optimizer), cpu, card, at, noise }
    }

    /// New gradients for all, changed by `change`.
    fn renew(&mut self, change: impl Fn(usize, &mut Storage)) {
        for i in 0..2 {
            let mut values = self.noise.storage(self.whole.0.grads[i].dtype(), self.whole.0.grads[i].numel());
            change(i, &mut values);
            self.whole.0.grads[i].assign(&values).expect("it fits");
            self.cpu[i].0.grads[0].assign(&values).expect("it fits");
            self.card[i].0.host.grads[0].assign(&values).expect("it fits");
            self.card[i].0.send_gradients();
        }
    }

    /// The first halves, with the same scalars on the CPU and on the card; reduced.
    fn scan(&mut self) -> ([DeviceScalars; 2], ScanScalars) {
        let parts: Vec<_> = self.cpu.iter_mut().map(|(_, o)| o.scan_host().expect("a scan")).collect();
        let at = [0, 1].map(|i| self.card[i].1.scan().expect("a scan"));
        for i in 0..2 {
            // As text: squares may be NaN.
            let (found, expected) = (read(&self.at.stream, at[i]), parts[i]);
            assert_eq!(format!("{found:?}"), format!("{expected:?}"), "rank {i}");
        }
        (at, reduce(&parts))
    }

    /// The second halves with these scalars: what CPU and card say of them, which is the same.
    fn finish(&mut self, at: [DeviceScalars; 2], scalars: ScanScalars) -> [orthant::Result<String>; 2] {
        [0, 1].map(|i| {
            write(&self.at.stream, at[i], scalars);
            let expected = self.cpu[i].1.step_with(scalars);
            self.card[i].1.step().expect("given");
            self.card[i].1.synchronize().expect("done");
            let found = self.card[i].1.status();
            let expected = expected.map(|report| format!("{:?}", [report]));
            assert_eq!(expected, found.map(|reports| format!("{reports:?}")), "rank {i}");
            self.same(i);
            expected
        })
    }

    fn forget(&mut self) {
        (0..2).for_each(|i| {
            self.cpu[i].1.forget_scan();
            self.card[i].1.forget_scan();
        });
    }

    #[track_caller]
    fn finish_ok(&mut self, at: [DeviceScalars; 2], scalars: ScanScalars, what: &str) {
        for said in self.finish(at, scalars) {
            said.unwrap_or_else(|e| panic!("{what}: {e}"));
        }
    }

    #[track_caller]
    fn same(&self, i: usize) {
        assert_same("rank", (&self.cpu[i].0, &self.cpu[i].1), (&self.card[i].0, &self.card[i].1));
    }

    /// Whether the ranks hold the bits of the whole.
    #[track_caller]
    fn same_as_whole(&self, what: &str) {
        for i in 0..2 {
            let (part, optimizer) = (share(&self.whole.0, i), &self.whole.1);
            assert_same(what, (&part, optimizer), (&self.card[i].0, &self.card[i].1));
        }
    }
}

#[test]
fn ranks_that_reduce_step_as_one() {
    for (rule, policy) in [
        (3, "max_grad_norm = 0.5"),
        (12, "max_grad_norm = 2\nloss_scale = 64\nnonfinite = \"skip\""),
        (14, "max_grad_norm = 0.01\nnonfinite = \"propagate\""),
        (13, "nonfinite = \"error\""),
    ] {
        let mut ranks = Ranks::new(&config_with(policy, RULES[rule], ""), Dtype::Bf16, Dtype::F32);
        for step in 1..=3 {
            ranks.renew(|_, _| {});
            ranks.whole.1.step().expect("a step");
            let (at, scalars) = ranks.scan();
            assert_eq!(scalars.squares > 0.0, rule != 13, "summed where it is asked for");
            let reports = ranks.finish(at, scalars);
            assert!(reports.iter().all(Result::is_ok), "{reports:?}");
            ranks.same_as_whole(&format!("{policy}, step {step}"));
        }
    }
}

/// A rank alone that reduces nothing steps as without halves.
#[test]
fn a_rank_of_one() {
    let text = config_with("max_grad_norm = 0.5", RULES[12], "");
    let mut pair = Pair::new(&text, Dtype::F32, Dtype::F32, &[vec![33], vec![5, 7], vec![0], vec![4100]]);
    for step in 1..=4 {
        pair.renew();
        if step % 2 == 0 {
            pair.optimizer.scan().expect("a scan");
        }
        pair.step(&format!("step {step}"));
    }
}

#[test]
fn what_one_rank_finds_no_rank_applies() {
    let nan = |rank: usize, values: &mut Storage| {
        if let (1, Storage::F32(values)) = (rank, values) {
            values[4097] = f32::NAN;
        }
    };
    let large = |rank: usize, values: &mut Storage| {
        if let (1, Storage::F32(values)) = (rank, values) {
            values[7] = 1e20;
        }
    };
    type Change = fn(usize, &mut Storage);
    for change in [nan as Change, large as Change] {
        for policy in ["nonfinite = \"error\"", "nonfinite = \"skip\"\nmax_grad_norm = 1e25"] {
            let mut ranks = Ranks::new(&config_with(policy, RULES[12], ""), Dtype::F32, Dtype::F32);
            ranks.renew(|_, _| {});
            let (at, scalars) = ranks.scan();
            ranks.finish_ok(at, scalars, "applied");
            let before = [0, 1].map(|i| ranks.card[i].0.data[0].read());
            ranks.renew(change);
            let (at, scalars) = ranks.scan();
            let said = ranks.finish(at, scalars);
            if policy.contains("error") {
                assert_eq!(said[0], Err(Error::RefusedElsewhere { step: 2 }));
                let own = said[1].as_ref().expect_err("its own");
                assert!(own.to_string().contains("`p1`"), "{own}");
            } else {
                let text = |i: usize| said[i].as_ref().expect("skipped").clone();
                assert!(
                    text(0).contains("applied: false") && text(0).contains("non_finite: None"),
                    "{said:?}"
                );
                assert!(text(1).contains("applied: false") && text(1).contains("Some(\"p1\")"), "{said:?}");
            }
            let after = [0, 1].map(|i| ranks.card[i].0.data[0].read());
            assert!(before == after, "a skipped step changed something");
            // The next one is applied.
            ranks.renew(|_, _| {});
            let (at, scalars) = ranks.scan();
            ranks.finish_ok(at, scalars, "applied");
        }
    }
}

/// A gradient that its state can take in only since the norm of all ranks clips it.
#[test]
fn the_norm_of_all_ranks_decides_what_is_too_large() {
    let text = config_with("max_grad_norm = 1", RULES[12], "");
    let mut ranks = Ranks::new(&text, Dtype::F32, Dtype::F32);
    ranks.renew(|rank, values| {
        if let (0, Storage::F32(values)) = (rank, values) {
            values[7] = 1e25;
        }
    });
    let (at, scalars) = ranks.scan();
    assert!(scalars.too_large > 1.0);
    ranks.finish_ok(at, scalars, "clipped to 1");
}

/// Whatever is made of the scalars, CPU and card do the same with it.
#[test]
fn scalars_of_any_kind() {
    let odd = [0.0, 1.0, 2.0, -1.0, 1e-300, 1e300, f64::INFINITY, f64::NEG_INFINITY, f64::NAN];
    for policy in ["max_grad_norm = 1\nnonfinite = \"skip\"", "max_grad_norm = 1\nnonfinite = \"propagate\""]
    {
        let mut ranks = Ranks::new(&config_with(policy, RULES[12], ""), Dtype::F32, Dtype::F32);
        for i in 0..27 {
            ranks.renew(|_, _| {});
            let (at, mut scalars) = ranks.scan();
            let value = odd[i / 3];
            // A norm that is no number makes parameters so, and then there is nothing to compare.
            if policy.contains("propagate") && i % 3 == 0 && value.is_nan() | (value < 0.0) {
                ranks.forget();
                continue;
            }
            *[&mut scalars.squares, &mut scalars.found, &mut scalars.too_large][i % 3] = value;
            ranks.finish_ok(at, scalars, "skipped or applied");
        }
    }
}

/// Reductions in a caller's graph: the scalars go out, and what others made of them comes in, all of it on the card.
#[test]
fn both_halves_in_the_callers_graph() {
    let text = config_with("max_grad_norm = 0.5\nnonfinite = \"skip\"", RULES[12], "name = \"g\"");
    let mut ranks = Ranks::new(&text, Dtype::Bf16, Dtype::Bf16);
    let stream: Arc<Stream> = ranks.at.stream.clone();
    let boxes = [0, 1].map(|_| DeviceBuffer::new(&ranks.at.context, SCALARS).expect("memory"));
    let graphs = [0, 1].map(|i| {
        let optimizer = &mut ranks.card[i].1;
        Graph::capture(&stream, || {
            let at = optimizer.scan().expect("captured");
            let raw: sys::CUstream = stream.as_raw().cast();
            let from = boxes[i].address();
            // SAFETY: as above.
            driver(|| unsafe {
                vec![
                    sys::cuMemcpyDtoDAsync_v2(at.sum, from, 8, raw),
                    sys::cuMemcpyDtoDAsync_v2(at.max, from + 8, 16, raw),
                ]
            });
            optimizer.step().expect("captured");
        })
    });
    for step in 1..=4 {
        ranks.renew(|rank, values| {
            if let (1, 3, Storage::Bf16(values)) = (rank, step, values) {
                values[0] = half::bf16::INFINITY;
            }
        });
        ranks.whole.1.step().expect("a step");
        let parts: Vec<_> = ranks.cpu.iter_mut().map(|(_, o)| o.scan_host().expect("a scan")).collect();
        let all = reduce(&parts);
        let bytes: Vec<u8> =
            [all.squares, all.found, all.too_large].iter().flat_map(|v| v.to_le_bytes()).collect();
        for i in 0..2 {
            ranks.cpu[i].1.step_with(all).expect("skipped or applied");
            boxes[i].write(&stream, 0, &bytes).expect("written");
            ranks.card[i].1.set_lr("g", 0.01 / step as f64).expect("legal");
            ranks.card[i].1.write_control(&stream).expect("written");
            graphs[i].launch();
        }
        stream.synchronize().expect("done");
        for i in 0..2 {
            ranks.cpu[i].1.set_lr("g", 0.01 / (step + 1) as f64).expect("legal");
        }
        ranks.whole.1.set_lr("g", 0.01 / (step + 1) as f64).expect("legal");
        (0..2).for_each(|i| ranks.same(i));
        ranks.same_as_whole(&format!("replay {step}"));
    }
    assert_eq!(ranks.card[0].1.skipped_steps(), 1);
}

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: orthant::Result<T>, words: &str) {
    let error = answer.expect_err(words).to_string();
    assert!(error.contains(words), "{error}");
}

/// Every call that would part the halves, and none of them closes the scan or changes anything.
#[test]
fn wrong_uses_are_refused() {
    let text = config_with("max_grad_norm = 0.5", RULES[12], "name = \"g\"");
    let mut pair = Pair::new(&text, Dtype::F32, Dtype::F32, &[vec![33], vec![5, 7]]);
    let other = Arc::new(Stream::new(&pair.card.context).expect("a stream"));
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("state");
    pair.optimizer.save(&file).expect("saved");
    let algorithm = pair.optimizer.plan().groups[0].algorithm().clone();
    let gradients = |views: &[View]| -> Vec<(String, Option<orthant::DeviceTensor>)> {
        views.iter().enumerate().map(|(i, v)| (format!("p{i}"), Some(v.tensor.clone()))).collect()
    };

    let (o, cpu) = (&mut pair.optimizer, &mut pair.reference);
    o.scan().expect("a scan");
    cpu.scan_host().expect("a scan");
    for _ in 0..2 {
        refused(o.scan(), "scan: a scan is open");
        refused(o.scan_on(&other), "scan: a scan is open");
        refused(o.step_on(&other), "open in another stream");
        refused(o.rebind_gradients(gradients(&pair.set.grads)), "a scan is open");
        refused(o.set_max_grad_norm(None), "set_max_grad_norm: a scan is open");
        refused(o.set_algorithm("g", algorithm.clone()), "set_algorithm: a scan is open");
        refused(o.load(&file), "load: a scan is open");
        refused(o.accumulate(1.0, true), "accumulate: a scan is open");
        let stream = pair.card.stream.clone();
        let graph = Graph::capture(&stream, || refused(o.step_on(&stream), "that no graph has"));
        drop(graph);
        refused(cpu.scan_host(), "scan_host: a scan is open");
        refused(cpu.step(), "step_with");
        refused(cpu.set_max_grad_norm(None), "a scan is open");
        refused(cpu.load(&file), "a scan is open");
        let none = [("p0", None::<orthant::Tensor>)];
        refused(cpu.rebind_gradients(none), "a scan is open");
    }
    // What is allowed is not refused, and the step is the one that was begun.
    o.set_lr("g", 0.3).expect("legal");
    cpu.forget_scan();
    cpu.set_lr("g", 0.3).expect("legal");
    pair.step("after the refusals");

    // Given up, it was nothing.
    pair.optimizer.scan().expect("a scan");
    pair.renew();
    pair.optimizer.forget_scan();
    pair.step("after one that was forgotten");

    // Captured, and not finished there.
    let stream = pair.card.stream.clone();
    drop(Graph::capture(&stream, || _ = pair.optimizer.scan().expect("captured")));
    refused(pair.optimizer.step(), "was captured into a graph");
    drop(Graph::capture(&stream, || refused(pair.optimizer.step(), "captured into another graph")));
    pair.optimizer.forget_scan();
    pair.step("after one that was captured");

    // Nothing to reduce, no scan, and places that have none.
    refused(
        pair.reference.step_with(ScanScalars { squares: 0.0, found: 0.0, too_large: 0.0 }),
        "no scan is open",
    );
    refused(pair.reference.scan(), "scan_host");
    refused(pair.optimizer.scan_host(), "use `scan`");
    let text = config_with("nonfinite = \"propagate\"", RULES[12], "");
    let mut pair = Pair::new(&text, Dtype::F32, Dtype::F32, &[vec![33]]);
    refused(pair.optimizer.scan(), "nothing is to be reduced");
    refused(pair.reference.scan_host(), "nothing is to be reduced");
    let config = Config::parse(&config_with("max_grad_norm = 1", RULES[12], "")).expect("legal");
    let mut on_host = pair.cpu.copy().optimizer(&config, crate::device());
    refused(on_host.scan(), "tensors lie in host memory");
}

/// The refusal of a step under `error` is told with the next first half, never with a second one: other ranks have gone on.
#[test]
fn a_second_half_tells_of_no_step_before() {
    let text = config_with("nonfinite = \"error\"", RULES[12], "");
    let mut ranks = Ranks::new(&text, Dtype::F32, Dtype::F32);
    let poison = |_: usize, values: &mut Storage| {
        if let Storage::F32(values) = values {
            values[3] = f32::INFINITY;
        }
    };
    let stream = ranks.at.stream.clone();
    let graph = Graph::capture(&stream, || ranks.card[0].1.step_on(&stream).expect("captured"));
    ranks.renew(|_, _| {});
    ranks.card[0].1.scan().expect("a scan");
    // A whole step that is refused comes in between.
    ranks.renew(poison);
    graph.launch();
    stream.synchronize().expect("done");
    ranks.renew(|_, _| {});
    ranks.card[0].1.step().expect("given");
    refused(ranks.card[0].1.scan(), "gradient of parameter `p0` is not finite");
    ranks.card[0].1.scan().expect("told once");
    ranks.card[0].1.step().expect("given");
    ranks.card[0].1.synchronize().expect("done");
    assert_eq!(ranks.card[0].1.steps(), 2);
    // What others refused is told in the same way.
    let at = ranks.card[0].1.scan().expect("a scan");
    write(&stream, at, ScanScalars { squares: 0.0, found: 1.0, too_large: 0.0 });
    ranks.card[0].1.step().expect("given");
    stream.synchronize().expect("done");
    refused(ranks.card[0].1.scan(), "another rank");
}

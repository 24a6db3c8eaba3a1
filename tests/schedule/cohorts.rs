//! Every matrix goes through all its products, in work space that keeps within its limit.

use std::collections::HashSet;

use orthant::schedule::{Program, Schedule};
use orthant::{Algorithm, Dtype, Group, ParameterSpec, Plan, StepOptions};

fn plan(shapes: &[Vec<usize>], algorithm: Algorithm) -> Plan {
    let spec = |(i, shape): (usize, &Vec<usize>)| ParameterSpec {
        name: format!("p{i}"),
        shape: shape.clone(),
        dtype: Dtype::Bf16,
        grad_dtype: Some(Dtype::Bf16),
    };
    let group = Group::new("g", algorithm).lr(0.1).params(["*"]);
    Plan::new(vec![group], shapes.iter().enumerate().map(spec).collect(), None).expect("a plan")
}

fn gram() -> Algorithm {
    Algorithm::muon().ns_dtype(orthant::algorithm::NsDtype::F16)
}

/// 126 matrices of 8 to 512, as convolutional networks have them.
fn small_ones() -> Vec<Vec<usize>> {
    let sides = [8, 16, 24, 48, 96, 160, 256, 384, 512];
    (0..126).map(|i| vec![sides[i % 9], sides[i / 9 % 9], if i % 3 == 0 { 3 } else { 1 }, 1]).collect()
}

#[test]
fn every_tile_of_every_product_is_launched_once_and_in_order() {
    for algorithm in [Algorithm::muon(), gram()] {
        let schedule = Schedule::new(&plan(&small_ones(), algorithm), None).expect("it fits");
        assert_eq!(schedule.cohorts.len(), 1);
        let cohort = &schedule.cohorts[0];
        assert_eq!(cohort.items.len(), 126);
        let mut phase_of = vec![vec![None; 32]; 126];
        let mut seen = HashSet::new();
        for (phase, launch) in cohort.launches.iter().enumerate() {
            assert!(!launch.is_empty());
            let terms = launch.iter().map(|tile| {
                let item = &cohort.items[tile.item];
                item.program.products[tile.product].extents(item.view.rows, item.view.columns).k
            });
            let terms: Vec<usize> = terms.collect();
            assert!(terms.is_sorted_by(|a, b| a >= b), "the longest first");
            for tile in launch {
                assert!(seen.insert((tile.item, tile.product, tile.row, tile.column)));
                let known = phase_of[tile.item][tile.product].get_or_insert(phase);
                assert_eq!(*known, phase, "a product is launched in one piece");
            }
        }
        for (item, phases) in cohort.items.iter().zip(&phase_of) {
            let extents = |p: &orthant::schedule::Product| p.extents(item.view.rows, item.view.columns);
            for (i, product) in item.program.products.iter().enumerate() {
                let launched = phases[i].expect("launched");
                // All shift alike, so the order within a matrix is the program's.
                assert_eq!(launched + item.program.phases(), cohort.launches.len() + product.phase);
                assert!(extents(product).tile_count() > 0);
            }
        }
        let tiles: usize = cohort
            .items
            .iter()
            .flat_map(|item| {
                item.program
                    .products
                    .iter()
                    .map(|p| p.extents(item.view.rows, item.view.columns).tile_count())
            })
            .sum();
        assert_eq!(seen.len(), tiles);
    }
}

#[test]
fn work_spaces_do_not_overlap() {
    let safe = Program::safe();
    let schedule = Schedule::new(&plan(&small_ones(), gram()), None).expect("it fits");
    let cohort = &schedule.cohorts[0];
    let pad = |x: usize| x.div_ceil(64) * 64;
    let mut taken: Vec<(usize, usize)> = vec![];
    for item in &cohort.items {
        let (rows, columns) = (pad(item.view.rows), pad(item.view.columns));
        let places: HashSet<_> = item
            .program
            .products
            .iter()
            .chain(&safe.products)
            .flat_map(|p| {
                [Some(p.a), Some(p.b), p.result].into_iter().chain(p.added.map(|t| t.map(|(_, at)| at)))
            })
            .flatten()
            .collect();
        for place in places {
            let bytes = 2 * match place {
                orthant::schedule::Place::Square(_) => rows.min(columns).pow(2),
                _ => rows * columns,
            };
            let at = item.at(place, &safe);
            assert!(at.is_multiple_of(128));
            taken.push((at, at + bytes));
        }
    }
    taken.sort_unstable();
    assert!(taken.windows(2).all(|w| w[0].1 <= w[1].0), "two places share bytes");
    assert!(taken.last().is_some_and(|&(_, end)| end <= cohort.needs.bytes));
}

#[test]
fn a_limit_makes_more_cohorts_and_names_what_cannot_be_done() {
    let shapes: Vec<Vec<usize>> = (0..10).map(|i| vec![128 + i, 512]).collect();
    let plan = plan(&shapes, Algorithm::muon());
    let whole = Schedule::new(&plan, None).expect("it fits");
    let limit = whole.space.bytes / 3;
    let parts = Schedule::new(&plan, Some(limit)).expect("it fits");
    assert!(parts.cohorts.len() >= 3 && parts.space.bytes <= limit, "{}", parts.cohorts.len());
    assert_eq!(parts.cohorts.iter().map(|c| c.items.len()).sum::<usize>(), 10);
    assert_eq!(parts.flops(), whole.flops());
    let refused = Schedule::new(&plan, Some(100_000)).expect_err("it is too little").to_string();
    assert!(refused.contains("`p9`") && refused.contains("max_workspace is 100000"), "{refused}");
}

#[test]
fn what_kernels_have_no_numbers_for_is_refused() {
    let refused =
        Schedule::new(&plan(&[vec![64, (1 << 22) + 1]], Algorithm::muon()), None).expect_err("too long");
    assert!(
        refused.to_string().contains("`p0`") && refused.to_string().contains("a side of more than"),
        "{refused}"
    );
    Schedule::new(&plan(&[vec![64, 1 << 22]], Algorithm::muon()), None).expect("the longest");
    let refused =
        Schedule::new(&plan(&[vec![1 << 20, 1 << 16]], Algorithm::muon()), None).expect_err("too large");
    assert!(
        refused.to_string().contains("`p0`")
            && refused.to_string().contains("more than 34359738368 elements"),
        "{refused}"
    );
}

/// Groups may step on streams of their own, at one time.
#[test]
fn groups_share_no_work_space() {
    let shapes: Vec<Vec<usize>> = (0..6).map(|i| vec![64 + i, 300]).collect();
    let mut specs =
        plan(&shapes, Algorithm::muon()).parameters.into_iter().map(|p| p.spec).collect::<Vec<_>>();
    specs.iter_mut().enumerate().for_each(|(i, spec)| spec.name = format!("{}{i}", ["a", "b"][i % 2]));
    let group = |name: &str| Group::new(name, Algorithm::muon()).lr(0.1).params([format!("{name}*")]);
    let plan = Plan::new(vec![group("a"), group("b")], specs, None).expect("a plan");
    for limit in [None, Some(1_500_000)] {
        let schedule = Schedule::new(&plan, limit).expect("it fits");
        assert!(limit.is_none_or(|limit| schedule.space.bytes <= limit && schedule.cohorts.len() > 2));
        for one in &schedule.cohorts {
            for other in schedule.cohorts.iter().filter(|other| other.group > one.group) {
                assert!(one.begins.bytes + one.needs.bytes <= other.begins.bytes);
                assert!(one.begins.squares + one.needs.squares <= other.begins.squares);
                assert!(one.begins.traces + one.needs.traces <= other.begins.traces);
            }
        }
    }
    let refused = Schedule::new(&plan, Some(200_000)).expect_err("too little").to_string();
    assert!(refused.contains("max_workspace is 200000 for 2 groups"), "{refused}");
}

#[cfg(feature = "cuda")]
#[test]
fn many_small_matrices_are_few_launches() {
    for algorithm in [Algorithm::muon(), gram()] {
        let options = StepOptions { max_grad_norm: Some(1.0), ..StepOptions::default() };
        let launches = orthant::cuda::launches(&plan(&small_ones(), algorithm), &options).expect("known");
        assert!(launches <= 25, "{launches}");
    }
}

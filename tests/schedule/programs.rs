//! Programs compute the iteration's polynomial, and no place is written before everybody has read it.

use std::collections::HashMap;

use nalgebra::DMatrix;
use orthant::algorithm::newton_schulz::compose;
use orthant::algorithm::{Coefficients, NewtonSchulz, NsDtype, NsMethod};
use orthant::schedule::{Kind, Place, Product, Program};

use crate::common::Random;

type Places = HashMap<Place, DMatrix<f64>>;

/// A product of matrices whose short side comes first.
fn run_one(product: &Product, places: &Places) -> DMatrix<f64> {
    let at = |place: Place| &places[&place];
    let (a, b) = (at(product.a), at(product.b));
    let mut out = match product.kind {
        Kind::Gram => a * b.transpose(),
        Kind::Square | Kind::Long => a * b,
    } * product.alpha;
    for (factor, place) in product.added.iter().flatten() {
        out += at(*place) * *factor;
    }
    if product.gamma != 0.0 {
        out += DMatrix::identity(out.nrows(), out.ncols()) * product.gamma;
    }
    out
}

/// Runs the products of each phase, forwards or backwards, each seeing what those before it wrote.
fn run(program: &Program, x: &DMatrix<f64>, backwards: bool) -> DMatrix<f64> {
    let mut places = Places::from([(Place::Input, x.clone())]);
    let mut direction = None;
    for phase in 0..program.phases() {
        let mut products: Vec<&Product> = program.products.iter().filter(|p| p.phase == phase).collect();
        assert!(!products.is_empty(), "phase {phase} is empty");
        if backwards {
            products.reverse();
        }
        for product in products {
            let result = run_one(product, &places);
            match product.result {
                Some(place) => drop(places.insert(place, result)),
                None => assert!(direction.replace(result).is_none(), "one product makes the direction"),
            }
        }
    }
    direction.expect("a direction")
}

fn specs() -> Vec<NewtonSchulz> {
    let mut out = vec![];
    for (_, coefficients) in Coefficients::NAMED {
        for steps in [1, 2, 3, 5, 8] {
            for (method, restarts) in [
                (NsMethod::Standard, vec![]),
                (NsMethod::Gram, vec![]),
                (NsMethod::Gram, vec![2]),
                (NsMethod::Gram, vec![1, 3]),
            ] {
                let restarts = Some(restarts.into_iter().filter(|&r| r < steps).collect());
                let coefficients = coefficients.clone();
                out.push(NewtonSchulz { coefficients, steps: Some(steps), method, restarts, dtype: None });
            }
        }
    }
    out
}

/// The polynomial applied to singular values.
fn expected(spec: &NewtonSchulz, x: &DMatrix<f64>) -> DMatrix<f64> {
    let svd = x.clone().svd(true, true);
    let (u, v) = (svd.u.expect("u"), svd.v_t.expect("v"));
    let values = svd.singular_values.map(|s| compose(&spec.schedule(), s));
    u * DMatrix::from_diagonal(&values) * v
}

#[test]
fn programs_are_the_polynomial() {
    let mut random = Random(3);
    let x = random.gaussian(6, 14);
    let x = &x / (1.05 * x.norm());
    for spec in specs() {
        let program = Program::new(&spec, 6, 14);
        let wanted = expected(&spec, &x);
        for backwards in [false, true] {
            let error = (run(&program, &x, backwards) - &wanted).norm();
            assert!(error < 1e-6 * wanted.norm(), "{spec:?}: {error}");
        }
    }
}

#[test]
fn the_safe_iteration_needs_little() {
    let x = Random(4).gaussian(5, 9);
    let x = &x / x.norm();
    let safe = Program::safe();
    assert_eq!((safe.longs, safe.squares), (2, 2));
    let error = (run(&safe, &x, false) - expected(&NewtonSchulz::default(), &x)).norm();
    assert!(error < 1e-9, "{error}");
}

/// Those that are steep at 0 take a second restart: two products with X in the place of three squares, and no phase more.
#[test]
fn restarts_by_coefficients() {
    for (coefficients, longs) in [(Coefficients::Jordan, 4), (Coefficients::PolarExpress, 6)] {
        let spec = NewtonSchulz { coefficients, method: NsMethod::Gram, ..NewtonSchulz::default() };
        let program = Program::new(&spec, 100, 400);
        let with_x = program.products.iter().filter(|p| p.kind != Kind::Square).count();
        assert_eq!((with_x, program.phases()), (longs, 17), "{spec:?}");
    }
}

#[test]
fn every_program_keeps_its_input_and_guards_its_last_iteration() {
    for spec in specs() {
        let program = Program::new(&spec, 6, 14);
        assert!(program.products.iter().all(|p| p.result != Some(Place::Input)), "{spec:?}");
        let guards: Vec<&Product> = program.products.iter().filter(|p| p.guard.is_some()).collect();
        assert_eq!(guards.len(), 1, "{spec:?}");
        // What it is added to is the matrix whose square it makes.
        assert_eq!((guards[0].kind, guards[0].a), (Kind::Square, guards[0].b));
        assert_eq!(guards[0].added[0].map(|(_, place)| place), Some(guards[0].a));
        assert_eq!(guards[0].guard, spec.schedule().last().copied());
    }
}

#[test]
fn gram_is_chosen_by_shape_where_it_is_cheaper_and_accurate() {
    let with = |dtype, coefficients, rows, columns| {
        let spec = NewtonSchulz { dtype, coefficients, ..NewtonSchulz::default() };
        (spec.method_for(rows, columns), Program::new(&spec, rows, columns).ideal_flops(rows, columns), spec)
    };
    for (rows, columns) in [(512, 512), (512, 600), (512, 2048), (2048, 512), (64, 4096), (1, 7)] {
        let (method, flops, spec) = with(Some(NsDtype::F16), Coefficients::PolarExpress, rows, columns);
        let other = match method {
            NsMethod::Gram => NsMethod::Standard,
            _ => NsMethod::Gram,
        };
        let other = Program::new(&NewtonSchulz { method: other, ..spec }, rows, columns);
        assert!(
            0.85 * flops as f64 <= other.ideal_flops(rows, columns) as f64,
            "{rows} x {columns}: {method:?}"
        );
        assert_eq!(
            method == NsMethod::Gram,
            rows.max(columns) >= 2 * rows.min(columns),
            "{rows} x {columns}"
        );
    }
    // In bf16 the Gram iteration is not accurate, for CANS nobody has looked, and what is given may need any restarts.
    for (dtype, coefficients) in [
        (None, Coefficients::PolarExpress),
        (Some(NsDtype::Bf16), Coefficients::PolarExpress),
        (Some(NsDtype::F16), Coefficients::Cans),
        (Some(NsDtype::F16), Coefficients::Explicit(vec![[1.5, -0.5, 0.0]])),
    ] {
        assert_eq!(with(dtype, coefficients, 512, 2048).0, NsMethod::Standard);
    }
}

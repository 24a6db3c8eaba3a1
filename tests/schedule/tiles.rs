//! Tiles cover every block of a result once, and what they cost is near what is needed.

use orthant::algorithm::{NewtonSchulz, NsDtype, NsMethod};
use orthant::schedule::{Extents, Form, Kind, Product, Program, TILE};

fn products(method: NsMethod) -> Vec<Product> {
    let spec = NewtonSchulz { method, dtype: Some(NsDtype::F16), ..NewtonSchulz::default() };
    Program::new(&spec, 512, 2048).products
}

fn gram(n: usize, k: usize) -> Extents {
    products(NsMethod::Standard)[0].extents(n, k)
}

#[test]
fn tiles_cover_the_result_once() {
    for (rows, columns) in [(1, 1), (64, 64), (65, 300), (300, 65), (128, 129), (640, 384)] {
        for product in products(NsMethod::Gram) {
            let extents = product.extents(rows, columns);
            let (down, across) = (extents.m.div_ceil(TILE), extents.n.div_ceil(TILE));
            let mut seen = vec![0; down * across];
            for (row, column) in extents.tiles() {
                seen[row * across + column] += 1;
                if extents.symmetric && row != column {
                    seen[column * across + row] += 1;
                }
            }
            assert!(seen.iter().all(|&times| times == 1), "{rows} x {columns}: {seen:?}");
            assert_eq!(extents.tiles().count(), extents.tile_count());
        }
    }
}

#[test]
fn operands_are_never_transposed() {
    let of = |kind, rows, columns| {
        let product = products(NsMethod::Standard).into_iter().find(|p| p.kind == kind).expect("there");
        let e = product.extents(rows, columns);
        (e.m, e.n, e.k, e.form, e.symmetric, e.swapped)
    };
    assert_eq!(of(Kind::Gram, 3, 8), (3, 3, 8, Form::ByRows, true, false));
    assert_eq!(of(Kind::Gram, 8, 3), (3, 3, 8, Form::ByColumns, true, false));
    assert_eq!(of(Kind::Square, 8, 3), (3, 3, 3, Form::ByRows, true, false));
    assert_eq!(of(Kind::Long, 3, 8), (3, 8, 3, Form::Mixed, false, false));
    assert_eq!(of(Kind::Long, 8, 3), (8, 3, 3, Form::ByRows, false, true));
}

#[test]
fn a_symmetric_product_costs_little_more_than_half() {
    for n in (512usize..=1100).chain([2048, 2049, 4096, 8192]) {
        let tiles = n.div_ceil(64) as f64;
        let extents = gram(n, 4 * n.div_ceil(64) * 64);
        let ratio = extents.executed_flops() as f64 / extents.ideal_flops() as f64;
        assert!(ratio <= (tiles + 1.0) / tiles + 0.005, "{n}: {ratio}");
        assert!(ratio >= 1.0);
    }
}

#[test]
fn the_gram_method_needs_what_its_authors_count() {
    let spec = NewtonSchulz { method: NsMethod::Gram, dtype: Some(NsDtype::F16), ..NewtonSchulz::default() };
    for (n, aspect) in [(1024, 2), (1024, 4), (2048, 3), (4096, 2)] {
        let program = Program::new(&spec, n, n * aspect);
        let wanted = (14 + 6 * aspect as u64) * (n as u64).pow(3);
        assert_eq!(program.ideal_flops(n, n * aspect), wanted);
        let executed = program.executed_flops(n * aspect, n) as f64 / wanted as f64;
        assert!(executed <= 1.05, "{n} x {}: {executed}", n * aspect);
    }
}

//! Bad inputs: each is refused with the right exit code and words, and nothing changes anywhere.

mod api;
mod command_line;
mod extremes;
mod files;
mod fixture;
mod hyperparameters;
#[path = "../checkpoint/model.rs"]
mod model;
mod nonfinite;
mod routing;

use fixture::Case;

/// A table that lost its rows must not pass.
const MIN_ROWS: usize = 200;

fn names_are_unique(cases: &[Case]) {
    let mut seen = std::collections::HashSet::new();
    for case in cases {
        assert!(seen.insert(case.name.as_str()), "two rows are called {}", case.name);
    }
}

#[test]
fn every_bad_input_is_refused_and_changes_nothing() {
    let tables = [hyperparameters::cases(), routing::cases(), files::cases(), command_line::cases()];
    let counts: Vec<usize> = tables.iter().map(Vec::len).collect();
    let cases: Vec<Case> = tables.into_iter().flatten().collect();
    println!("{} rows: hyperparameters, routing, files, command line: {counts:?}", cases.len());
    assert!(cases.len() >= MIN_ROWS, "only {} rows", cases.len());
    names_are_unique(&cases);
    fixture::check(&cases);
}

#[test]
fn every_option_of_another_algorithm_is_refused() {
    let cases = hyperparameters::foreign_options();
    println!("{} pairs of algorithm and foreign option", cases.len());
    assert!(cases.len() >= 100, "only {} pairs", cases.len());
    names_are_unique(&cases);
    fixture::check(&cases);
}

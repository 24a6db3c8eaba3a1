//! Curves: as CSV, as a plot, and the end table.

use std::fmt::Write;

use anyhow::{Context, anyhow};
use comfy_table::{Table, presets};
use plotters::prelude::*;

use crate::run::Outcome;

/// A row of the curve. Row 0 is the untrained model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    pub step: u64,
    /// On the step's batch, before the update.
    pub train: Option<f32>,
    /// After the update.
    pub held_out: Option<f32>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Curve(pub Vec<Point>);

/// First line of the CSV files.
pub const HEADER: &str = "optimizer,step,train_loss,held_out_loss";
/// Steps that the train loss of the table and of the plot is averaged over.
const AVERAGED: usize = 20;

impl Curve {
    /// Rows for `optimizer`, without the header. Numbers are written so that reading them gives the same bits.
    fn rows(&self, optimizer: &str) -> String {
        let mut out = String::new();
        let number = |loss: Option<f32>| loss.map_or_else(String::new, |loss| loss.to_string());
        for p in &self.0 {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{optimizer},{},{},{}", p.step, number(p.train), number(p.held_out));
        }
        out
    }

    pub fn csv(&self, optimizer: &str) -> String {
        format!("{HEADER}\n{}", self.rows(optimizer))
    }

    /// The curve in a file with one optimizer.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let number = |cell: &str| if cell.is_empty() { Ok(None) } else { cell.parse().map(Some) };
        let mut points = vec![];
        for (i, line) in text.lines().enumerate().skip(1) {
            let cells: Vec<&str> = line.split(',').collect();
            let [_, step, train, held_out] = cells.as_slice() else {
                return Err(anyhow!("line {}: {} cells instead of 4", i + 1, cells.len()));
            };
            let context = || format!("line {}: `{line}`", i + 1);
            points.push(Point {
                step: step.parse().with_context(context)?,
                train: number(train).with_context(context)?,
                held_out: number(held_out).with_context(context)?,
            });
        }
        Ok(Self(points))
    }

    fn last_held_out(&self) -> Option<f32> {
        self.0.iter().rev().find_map(|p| p.held_out)
    }

    /// (step, mean train loss of the steps up to it).
    fn smoothed(&self) -> Vec<(f64, f64)> {
        let train: Vec<(u64, f64)> =
            self.0.iter().filter_map(|p| Some((p.step, f64::from(p.train?)))).collect();
        (0..train.len())
            .map(|i| {
                let window = &train[(i + 1).saturating_sub(AVERAGED)..=i];
                let mean = window.iter().map(|(_, loss)| loss).sum::<f64>() / window.len() as f64;
                (train[i].0 as f64, mean)
            })
            .collect()
    }

    fn held_out(&self) -> Vec<(f64, f64)> {
        self.0.iter().filter_map(|p| Some((p.step as f64, f64::from(p.held_out?)))).collect()
    }
}

/// All curves in one file.
pub fn csv(outcomes: &[Outcome]) -> String {
    let rows = outcomes.iter().map(|o| o.curve.rows(&o.progress.settings.optimizer));
    std::iter::once(format!("{HEADER}\n")).chain(rows).collect()
}

pub fn table(outcomes: &[Outcome]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["optimizer", "steps", "train loss", "held-out loss", "steps/s", "time in optimizer"]);
    for o in outcomes {
        let p = &o.progress;
        let number = |value: Option<f64>, digits: usize| match value {
            Some(value) if value.is_finite() => format!("{value:.digits$}"),
            _ => "-".to_owned(),
        };
        table.add_row([
            p.settings.optimizer.clone(),
            p.step.to_string(),
            number(o.curve.smoothed().last().map(|(_, loss)| *loss), 3),
            number(o.curve.last_held_out().map(f64::from), 3),
            number(Some(p.step as f64 / p.train_seconds), 1),
            format!("{} %", number(Some(100.0 * p.optimizer_seconds / p.train_seconds), 1)),
        ]);
    }
    format!(
        "{table}\ntrain loss: mean of the last {AVERAGED} steps; losses in nats per byte (ln 256 = 5.545)"
    )
}

/// Thin lines are train losses, thick ones held-out losses. The text is SVG text: the viewer brings the font.
pub fn svg(outcomes: &[Outcome]) -> anyhow::Result<String> {
    let mut out = String::new();
    draw(outcomes, &mut out).map_err(|e| anyhow!("the plot cannot be drawn: {e}"))?;
    Ok(out)
}

fn draw(outcomes: &[Outcome], out: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let all = || outcomes.iter().flat_map(|o| o.curve.held_out().into_iter().chain(o.curve.smoothed()));
    let steps = all().map(|(step, _)| step).fold(1.0, f64::max);
    let finite = || all().map(|(_, loss)| loss).filter(|loss| loss.is_finite());
    let (low, high) = (finite().fold(f64::INFINITY, f64::min), finite().fold(0.0, f64::max));
    let (low, high) = if low < high { (low - 0.1, high.min(6.0) + 0.1) } else { (0.0, 6.0) };
    let root = SVGBackend::with_string(out, (900, 560)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("Loss in nats per byte: held-out (thick) and train (thin)", ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(42)
        .y_label_area_size(52)
        .build_cartesian_2d(0.0..steps, low..high)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("step")
        .y_desc("loss")
        .x_label_formatter(&|v| format!("{v:.0}"))
        .y_label_formatter(&|v| format!("{v:.1}"))
        .draw()?;
    for (i, o) in outcomes.iter().enumerate() {
        let color = Palette99::pick(i).to_rgba();
        chart.draw_series(LineSeries::new(o.curve.smoothed(), color.mix(0.5)))?;
        chart
            .draw_series(LineSeries::new(o.curve.held_out(), color.stroke_width(3)))?
            .label(o.progress.settings.optimizer.clone())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color.stroke_width(3)));
    }
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
    root.present()?;
    Ok(())
}

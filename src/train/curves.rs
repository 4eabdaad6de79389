//! Plot of the loss curves of a run: one panel per stage.

use std::fs;
use std::path::Path;

use plotters::prelude::*;

use super::run::{failed, write_atomic};
use crate::error::Result;

/// Width and height of one panel in pixels.
const PANEL: (u32, u32) = (640, 300);
/// Number of updates that the thick line averages.
const WINDOW: usize = 25;

/// Writes `curves.svg` from the records of `stages` in `folder`, into the same folder. Stages without a
/// record are left out, as are empty records of a run that was killed at its start.
///
/// # Errors
/// The plot cannot be written.
pub fn write(folder: &Path, stages: &[&str]) -> Result<()> {
    let mut records = Vec::new();
    for stage in stages {
        if let Ok(text) = fs::read_to_string(folder.join(format!("{stage}.csv"))) {
            records.push((*stage, losses(&text)));
        }
    }
    records.retain(|(_, losses)| losses.len() > 1);
    if records.is_empty() {
        return Ok(());
    }
    let mut svg = String::new();
    {
        let size = (PANEL.0, PANEL.1 * records.len() as u32);
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        let drawn = area.fill(&WHITE).map_err(|e| e.to_string()).and_then(|()| {
            let panels = area.split_evenly((records.len(), 1));
            records.iter().zip(&panels).try_for_each(|((stage, losses), panel)| {
                draw(panel, stage, losses).map_err(|e| e.to_string())
            })
        });
        drawn.map_err(|reason| failed(format!("curves.svg: {reason}")))?;
    }
    write_atomic(&folder.join("curves.svg"), svg.as_bytes())
}

/// Reads the column `loss` from complete lines.
fn losses(table: &str) -> Vec<f64> {
    let mut lines = table.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    let column = lines.next().and_then(|names| names.split(',').position(|name| name == "loss"));
    let value = |line: &str| line.split(',').nth(column?)?.parse().ok();
    lines.map_while(value).collect()
}

fn draw(
    panel: &DrawingArea<SVGBackend, plotters::coord::Shift>,
    stage: &str,
    losses: &[f64],
) -> Result<(), Box<dyn std::error::Error>> {
    let highest = losses.iter().copied().fold(f64::MIN, f64::max);
    let mut chart = ChartBuilder::on(panel)
        .caption(stage, ("sans-serif", 18))
        .margin(8)
        .x_label_area_size(28)
        .y_label_area_size(44)
        .build_cartesian_2d(0..losses.len(), 0.0..highest * 1.05)?;
    chart.configure_mesh().x_desc("update").y_desc("loss").light_line_style(TRANSPARENT).draw()?;
    let points = losses.iter().copied().enumerate();
    chart.draw_series(LineSeries::new(points, RGBColor(244, 170, 190)))?;
    let mean = |(i, _): (usize, &f64)| {
        let window = &losses[i.saturating_sub(WINDOW - 1)..=i];
        (i, window.iter().sum::<f64>() / window.len() as f64)
    };
    chart.draw_series(LineSeries::new(
        losses.iter().enumerate().map(mean),
        RGBColor(190, 30, 90).stroke_width(2),
    ))?;
    Ok(())
}

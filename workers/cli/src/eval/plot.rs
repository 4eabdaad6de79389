//! Picture of the accuracy of methods by their number of examples.

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use plotters::prelude::*;

/// Width and height in pixels.
const SIZE: (u32, u32) = (760, 440);
/// Colours that readers with a colour vision deficiency can tell apart (Okabe and Ito).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(60, 60, 60),
];
/// Shift between the points of two methods, so that their intervals do not hide each other; 1 is the distance of two numbers.
const SHIFT: f64 = 0.04;

/// Accuracy of one method.
pub struct Line {
    pub name: &'static str,
    pub points: Vec<Point>,
}

/// Accuracy with a number of examples, with its interval; shares from 0 to 1.
pub struct Point {
    pub examples: usize,
    pub share: f64,
    pub low: f64,
    pub high: f64,
}

/// Parses the path of a picture.
///
/// # Errors
/// Its name does not end in `.svg`.
pub fn parse_path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let is_svg = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("svg"));
    if is_svg {
        Ok(path)
    } else {
        Err("a picture is an SVG file: expected a name that ends in `.svg`".into())
    }
}

/// Writes the picture: a line per method over evenly spaced numbers of examples, with an interval at each point.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, title: &str, lines: &[Line]) -> anyhow::Result<()> {
    let svg = draw(title, lines).map_err(|reason| anyhow!("{}: {reason}", path.display()))?;
    crate::output::write_file(path, svg.as_bytes())
}

fn draw(title: &str, lines: &[Line]) -> Result<String, Box<dyn std::error::Error>> {
    let mut numbers: Vec<usize> =
        lines.iter().flat_map(|line| line.points.iter().map(|point| point.examples)).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let last = numbers.len().saturating_sub(1) as f64;
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .margin_right(24)
        .x_label_area_size(40)
        .y_label_area_size(52)
        .build_cartesian_2d(-0.3..last + 0.3, 0.0..100.0)?;
    // Ticks lie between the numbers too; those have no label.
    let number = |x: &f64| match numbers.get(x.round() as usize) {
        Some(number) if (x - x.round()).abs() < 1e-6 => number.to_string(),
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(2 * numbers.len() + 2)
        .x_label_formatter(&number)
        .y_label_formatter(&|y| format!("{y:.0} %"))
        .x_desc("examples")
        .y_desc("right, with 95 % intervals")
        .draw()?;
    for (n, line) in lines.iter().enumerate() {
        let colour = COLOURS[n % COLOURS.len()];
        let shift = (n as f64 - (lines.len() as f64 - 1.0) / 2.0) * SHIFT;
        let x = |point: &Point| numbers.partition_point(|&known| known < point.examples) as f64 + shift;
        let at = |point: &Point| (x(point), 100.0 * point.share);
        let interval = |point: &Point| {
            let ends = [(x(point), 100.0 * point.low), (x(point), 100.0 * point.high)];
            PathElement::new(ends, colour.mix(0.5))
        };
        chart.draw_series(line.points.iter().map(interval))?;
        chart.draw_series(line.points.iter().map(|point| Circle::new(at(point), 4, colour.filled())))?;
        chart
            .draw_series(LineSeries::new(line.points.iter().map(at), colour.stroke_width(2)))?
            .label(line.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .border_style(RGBColor(200, 200, 200))
        .label_font(("sans-serif", 14))
        .draw()?;
    drop(chart);
    area.present()?;
    drop(area);
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &'static str, examples: &[usize]) -> Line {
        let point = |&examples: &usize| Point { examples, share: 0.5, low: 0.25, high: 0.75 };
        Line { name, points: examples.iter().map(point).collect() }
    }

    #[test]
    fn picture_names_methods_numbers_and_axes() {
        let svg =
            draw("frogs & owls", &[line("neighbours", &[2, 8]), line("in-context", &[0, 2, 32])]).unwrap();
        let texts = ["neighbours", "in-context", "examples", "100 %", "frogs &amp; owls", "95 % intervals"];
        for text in texts.into_iter().chain(["\n0\n", "\n2\n", "\n8\n", "\n32\n"]) {
            assert!(svg.contains(text), "{text}: {svg}");
        }
        assert_eq!(svg.matches("<circle").count(), 5);
    }

    #[test]
    fn only_svg_is_written() {
        assert!(parse_path("a/b.SVG").is_ok());
        for name in ["a.png", "svg", ".svg", "a.svg.gz"] {
            assert!(parse_path(name).is_err(), "{name}");
        }
    }
}

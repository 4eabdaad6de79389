//! Measurements -> throughput next to its floor, as a table and as JSON.

use std::fmt::Write;

use serde_json::{Value, json};

use super::cost::Cost;
use super::peaks::{Bound, Peaks};
use super::stages::Measurement;

/// One line of the table. All values except `repetitions` are per second or per unit.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    pub name: &'static str,
    pub batch: usize,
    pub unit: &'static str,
    /// Throughput at the median time.
    pub value: f64,
    /// Throughput at the quartiles of the times.
    pub spread: (f64, f64),
    pub repetitions: usize,
    /// Operations and bytes per unit.
    pub cost: Cost,
    /// Throughput at the limit of the machine: each stage takes the time of its operations or of its bytes.
    pub floor: f64,
    pub bound: &'static str,
}

impl Line {
    pub fn of(row: &Measurement, peaks: &Peaks) -> Self {
        let mut seconds = row.seconds.clone();
        seconds.sort_by(f64::total_cmp);
        let quantile = |share: f64| seconds[((seconds.len() - 1) as f64 * share).round() as usize];
        let (mut compute, mut memory, mut cost) = (0.0, 0.0, Cost::default());
        for stage in &row.stages {
            match peaks.floor(stage) {
                (seconds, Bound::Compute) => compute += seconds,
                (seconds, Bound::Memory) => memory += seconds,
            }
            cost.operations += stage.operations / row.units;
            cost.bytes += stage.bytes / row.units;
        }
        Self {
            name: row.name,
            batch: row.batch,
            unit: row.unit,
            value: row.units / quantile(0.5),
            spread: (row.units / quantile(0.75), row.units / quantile(0.25)),
            repetitions: seconds.len(),
            cost,
            floor: row.units / (compute + memory),
            bound: if compute >= memory { "compute" } else { "memory" },
        }
    }

    /// Line for the peak memory, with the weights alone as its floor.
    pub fn of_memory(peak: usize, weights: usize) -> Self {
        let (value, floor) = (peak as f64 / 1e6, weights as f64 / 1e6);
        let cost = Cost { operations: 0.0, bytes: 1e6 };
        let (name, unit, bound) = ("peak memory", "MB", "weights");
        Self { name, batch: 1, unit, value, spread: (value, value), repetitions: 1, cost, floor, bound }
    }

    /// Share of the floor that is reached: 1 is the limit of the machine.
    pub fn ratio(&self) -> f64 {
        if self.bound == "weights" { self.floor / self.value } else { self.value / self.floor }
    }

    pub fn json(&self) -> Value {
        json!({
            "row": self.name, "batch": self.batch, "unit": self.unit, "value": self.value,
            "low": self.spread.0, "high": self.spread.1, "repetitions": self.repetitions,
            "operations": self.cost.operations, "bytes": self.cost.bytes,
            "floor": self.floor, "bound": self.bound, "ratio": self.ratio(),
        })
    }
}

/// Formats the table.
pub fn table(lines: &[Line]) -> String {
    let mut text = String::new();
    let heads = ["row", "batch", "value", "", "quartiles", "GFLOP", "MB", "floor", "ratio"];
    let mut rows = vec![heads.map(String::from)];
    for line in lines {
        let (low, high) = line.spread;
        rows.push([
            line.name.into(),
            line.batch.to_string(),
            short(line.value),
            line.unit.into(),
            format!("{} - {}", short(low), short(high)),
            short(line.cost.operations / 1e9),
            short(line.cost.bytes / 1e6),
            format!("{} ({})", short(line.floor), line.bound),
            format!("{:.2}", line.ratio()),
        ]);
    }
    let widths: Vec<usize> =
        (0..heads.len()).map(|i| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0)).collect();
    for row in rows {
        for (i, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let _ = match i {
                0 | 3 => write!(text, "{cell:<width$}  "),
                _ => write!(text, "{cell:>width$}  "),
            };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

/// Formats a number with three significant digits.
fn short(number: f64) -> String {
    match number {
        0.0 => "0".into(),
        n if n >= 100.0 => format!("{n:.0}"),
        n if n >= 10.0 => format!("{n:.1}"),
        n if n >= 1.0 => format!("{n:.2}"),
        n => format!("{n:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line {
        let peaks = Peaks { operations: 1e9, product: 1e9, instruction: None, bandwidth: 1e6 };
        let row = Measurement {
            name: "decode",
            batch: 8,
            unit: "tokens/s",
            units: 8.0,
            seconds: vec![4.0, 1.0, 3.0, 2.0, 5.0],
            // One second of operations, half a second of bytes.
            stages: vec![Cost { operations: 1e9, bytes: 1e5 }, Cost { operations: 2e8, bytes: 5e5 }],
        };
        Line::of(&row, &peaks)
    }

    #[test]
    fn computes_median_quartiles_and_summed_floor() {
        let line = line();
        assert_eq!(line.value, 8.0 / 3.0);
        assert_eq!(line.spread, (2.0, 4.0));
        assert_eq!(line.repetitions, 5);
        assert_eq!(line.cost, Cost { operations: 0.15e9, bytes: 0.75e5 });
        assert_eq!((line.floor, line.bound), (8.0 / 1.5, "compute"));
        assert_eq!(line.ratio(), 0.5);
    }

    #[test]
    fn formats_table_and_json() {
        let lines = [line(), Line::of_memory(400_000_000, 100_000_000)];
        assert_eq!(lines[1].ratio(), 0.25);
        let expected = "\
row          batch  value              quartiles  GFLOP     MB           floor  ratio
decode           8   2.67  tokens/s  2.00 - 4.00  0.150  0.075  5.33 (compute)   0.50
peak memory      1    400  MB          400 - 400      0   1.00   100 (weights)   0.25
";
        assert_eq!(table(&lines), expected);
        let json = lines[0].json();
        assert_eq!(
            (&json["row"], &json["batch"], &json["bound"]),
            (&"decode".into(), &8.into(), &"compute".into())
        );
        assert_eq!(json["ratio"], 0.5);
    }
}

//! `flamingo train`: trains a model, or continues an interrupted training run.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use flamingo::train::config::TrainConfig;
use flamingo::train::recipe::train;
use flamingo::train::run::Progress;
use indicatif::{ProgressBar, ProgressStyle};

use crate::args::{DeviceArgs, UsageError};
use crate::process::restart_with;

#[derive(Debug, Args)]
pub struct Train {
    /// Training configuration (TOML): model, data, stages; see `config/train/`.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Folder for checkpoints and records. With the same folder, training continues from its last checkpoint.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Folder for the finished model [default: `model` in the folder of --out].
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Environment variable of candle's own threads. They wait by spinning, which takes time from the shards that keep every
/// core busy, so training uses one.
const CANDLE_THREADS: &str = "CANDLE_NUM_THREADS";

impl Train {
    pub fn run(self) -> anyhow::Result<bool> {
        self.device.fix_threads()?;
        if std::env::var_os(CANDLE_THREADS).is_none() {
            restart_with(CANDLE_THREADS, "1")?;
        }
        let config = read_config(&self.config)?;
        let model = self.model.unwrap_or_else(|| self.out.join("model"));
        let mut progress = ProgressPrinter::default();
        train(&config, &self.out, &model, &self.device.open()?, &mut |p| progress.show(p))?;
        progress.finish();
        println!("model written to {}", model.display());
        Ok(true)
    }
}

/// Progress of training: a bar per stage on a terminal, else some lines per stage.
#[derive(Default)]
struct ProgressPrinter {
    stage: String,
    bar: Option<ProgressBar>,
    /// Lines printed for this stage.
    lines: u64,
}

/// Maximum number of lines per stage without a terminal.
const MAX_LINES: u64 = 50;

impl ProgressPrinter {
    fn show(&mut self, p: &Progress) {
        if self.stage != p.stage {
            self.finish();
            (self.stage, self.lines) = (p.stage.to_string(), 0);
            self.bar = std::io::stderr().is_terminal().then(|| {
                let style = "{prefix:12} {wide_bar} {pos}/{len} {eta} {msg}";
                let style = ProgressStyle::with_template(style).expect("the template is right");
                ProgressBar::new(p.steps).with_prefix(self.stage.clone()).with_style(style)
            });
        }
        let figures: Vec<String> = [("loss", p.loss)]
            .iter()
            .chain(p.figures)
            .filter(|(_, value)| value.is_finite())
            .map(|(name, value)| format!("{name} {value:.3}"))
            .collect();
        let message = format!("{} {:.1}/s", figures.join(" "), p.throughput);
        let left = p.time_left.as_secs_f64() / 60.0;
        match &self.bar {
            Some(bar) => {
                bar.set_position(p.step);
                bar.set_message(message);
            }
            None if p.step * MAX_LINES / p.steps > self.lines => {
                self.lines = p.step * MAX_LINES / p.steps;
                eprintln!("{} {}/{} {message}, {left:.0} min left", p.stage, p.step, p.steps);
            }
            None => {}
        }
    }

    fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish();
        }
    }
}

/// Reads a training configuration.
///
/// # Errors
/// The file cannot be read; [`UsageError`]: it is no valid configuration.
pub fn read_config(path: &Path) -> anyhow::Result<TrainConfig> {
    let text = std::fs::read_to_string(path).with_context(|| {
        let path = path.display();
        format!("{path}: cannot read the training configuration (--config)")
    })?;
    toml::from_str(&text).map_err(|e| UsageError(config_error(path, &text, &e)).into())
}

/// The parse error of a configuration on one line, with its line number.
fn config_error(path: &Path, text: &str, error: &toml::de::Error) -> String {
    let path = path.display();
    match error.span() {
        Some(span) => {
            let line = text[..span.start].matches('\n').count() + 1;
            format!("{path}: line {line}: {}", error.message())
        }
        None => format!("{path}: {}", error.message()),
    }
}

//! The loop of every stage: evaluate, update, record, and a checkpoint now and then from which a killed run goes on as
//! if nothing had happened.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::{Device, Tensor, Var};

use super::config::Schedule;
use super::optimiser::{AdamW, Gradients};
use crate::error::{Error, Result};
use crate::family::native;
use crate::kernels::pool::in_the_pool;

/// What a stage minimises. Immutable but for its parameters, so that a step is a pure function of them and its number:
/// where the data stand is the number of the step.
pub trait Objective: Sync {
    /// The stage's name, which its files bear.
    fn name(&self) -> &'static str;

    /// What is trained, by name.
    fn parameters(&self) -> BTreeMap<String, Var>;

    /// The gradients of update `step`, and what is recorded of it.
    fn evaluate(&self, step: u64) -> Result<Evaluation>;
}

/// Named numbers.
pub type Figures = Vec<(&'static str, f64)>;

/// One look at the objective.
pub struct Evaluation {
    pub gradients: Gradients,
    pub loss: f64,
    /// Further numbers for the record, the same names at every step.
    pub figures: Figures,
    /// Pictures, clips or rows that were seen.
    pub examples: usize,
}

/// What an onlooker is told after every update.
pub struct Progress<'a> {
    pub stage: &'a str,
    /// Updates done, of `steps`.
    pub step: u64,
    pub steps: u64,
    pub loss: f64,
    pub figures: &'a [(&'static str, f64)],
    /// Examples per second of this update.
    pub throughput: f64,
}

/// Trains `objective` to the end of its schedule in `folder`: from the checkpoint there, if there is one.
///
/// `NAME.safetensors` is the newest checkpoint, `NAME.csv` the record: one row per update. After a `kill -9` the run
/// goes on from the checkpoint, and the record is that of an unbroken run but for its last column, the seconds.
///
/// # Errors
/// The loss is no longer a number, the checkpoint belongs to another configuration (`fingerprint`), or a file cannot be
/// written.
pub fn optimise(
    objective: &dyn Objective,
    schedule: &Schedule,
    folder: &Path,
    fingerprint: &str,
    watch: &mut dyn FnMut(&Progress),
) -> Result<()> {
    let name = objective.name();
    let mut optimiser = AdamW::new(schedule.optimiser, schedule.steps, &objective.parameters())?;
    let checkpoint = Checkpoint { path: folder.join(format!("{name}.safetensors")), fingerprint };
    let first = checkpoint.restore(&mut optimiser)?;
    if first >= schedule.steps {
        return Ok(());
    }
    let mut record = Record::open(folder.join(format!("{name}.csv")), first)?;
    for step in first..schedule.steps {
        let start = Instant::now();
        let (loss, norm, figures, examples) = in_the_pool(|| {
            let Evaluation { gradients, loss, figures, examples } = objective.evaluate(step)?;
            Ok::<_, Error>((loss, optimiser.update(step, gradients)?, figures, examples))
        })?;
        if !(loss.is_finite() && norm.is_finite()) {
            return Err(failed(format!(
                "{name}: at step {step} the loss is {loss} and the gradient's norm {norm}; lower the rate"
            )));
        }
        let seconds = start.elapsed().as_secs_f64();
        let rate = schedule.optimiser.rate_at(step, schedule.steps);
        let columns = [("loss", loss)]
            .into_iter()
            .chain(figures.iter().copied())
            .chain([("norm", norm), ("rate", rate)]);
        record.write(step, columns, seconds)?;
        let throughput = examples as f64 / seconds;
        let done = step + 1;
        watch(&Progress {
            stage: name,
            step: done,
            steps: schedule.steps,
            loss,
            figures: &figures,
            throughput,
        });
        if done == schedule.steps || done % schedule.checkpoint_every.max(1) == 0 {
            record.flush()?;
            checkpoint.write(done, &optimiser)?;
        }
    }
    Ok(())
}

pub(super) fn failed(reason: impl Into<String>) -> Error {
    Error::Training(reason.into())
}

fn at(path: &Path) -> impl Fn(std::io::Error) -> Error {
    let path = path.display().to_string();
    move |e| failed(format!("{path}: {e}"))
}

pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    native::write_whole(path, bytes).map_err(at(path))
}

/// Whether a run of `fingerprint` may go on from the checkpoint of a stage, if there is one.
///
/// # Errors
/// It belongs to another configuration, or is none.
pub(super) fn belongs(folder: &Path, stage: &str, fingerprint: &str) -> Result<()> {
    Checkpoint { path: folder.join(format!("{stage}.safetensors")), fingerprint }.read().map(drop)
}

/// Where a stage's state is kept between updates.
struct Checkpoint<'a> {
    path: PathBuf,
    fingerprint: &'a str,
}

const STEP: &str = "step";
const FINGERPRINT: &str = "fingerprint";

impl Checkpoint<'_> {
    fn write(&self, step: u64, optimiser: &AdamW) -> Result<()> {
        let about = [(STEP, step.to_string()), (FINGERPRINT, self.fingerprint.to_string())]
            .map(|(key, value)| (key.to_string(), value));
        let bytes = safetensors::serialize(optimiser.state(), Some(about.into()))
            .map_err(|e| failed(format!("{}: {e}", self.path.display())))?;
        write_whole(&self.path, &bytes)
    }

    /// The number of updates done, and the file's bytes; `None`: there is no checkpoint yet.
    fn read(&self) -> Result<Option<(u64, Vec<u8>)>> {
        let bytes = match fs::read(&self.path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(at(&self.path))?,
        };
        let (_, header) =
            safetensors::SafeTensors::read_metadata(&bytes).map_err(|e| self.broken(&e.to_string()))?;
        let about = header.metadata().clone().unwrap_or_default();
        if about.get(FINGERPRINT).map(String::as_str) != Some(self.fingerprint) {
            return Err(self.broken(
                "this checkpoint was made with another configuration; train in another folder, or delete it and those of \
                 the stages after it",
            ));
        }
        let step = about.get(STEP).and_then(|s| s.parse().ok());
        let step = step.ok_or_else(|| self.broken("it does not say how many updates were done"))?;
        Ok(Some((step, bytes)))
    }

    fn broken(&self, reason: &str) -> Error {
        failed(format!("{}: {reason}", self.path.display()))
    }

    /// The number of updates done.
    fn restore(&self, optimiser: &mut AdamW) -> Result<u64> {
        let Some((step, bytes)) = self.read()? else { return Ok(0) };
        let state: BTreeMap<String, Tensor> =
            candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)?.into_iter().collect();
        optimiser.restore(&state).map_err(|reason| self.broken(&reason))?;
        Ok(step)
    }
}

/// The table of a stage: a row per update.
struct Record {
    path: PathBuf,
    file: BufWriter<File>,
    empty: bool,
}

impl Record {
    /// Keeps the rows of the first `steps` updates: later ones were written after the checkpoint and come again.
    fn open(path: PathBuf, steps: u64) -> Result<Self> {
        let text = match fs::read_to_string(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            other => other.map_err(at(&path))?,
        };
        let kept: String =
            text.split_inclusive('\n').take(if steps == 0 { 0 } else { steps as usize + 1 }).collect();
        let empty = kept.is_empty();
        write_whole(&path, kept.as_bytes())?;
        let file = File::options().append(true).open(&path).map_err(at(&path))?;
        Ok(Self { path, file: BufWriter::new(file), empty })
    }

    fn write(
        &mut self,
        step: u64,
        columns: impl Iterator<Item = (&'static str, f64)> + Clone,
        seconds: f64,
    ) -> Result<()> {
        let mut text = String::new();
        if std::mem::take(&mut self.empty) {
            let names: Vec<_> = columns.clone().map(|(name, _)| name).collect();
            text = format!("step,{},seconds\n", names.join(","));
        }
        let values: Vec<_> = columns.map(|(_, value)| format!("{value:.6}")).collect();
        text += &format!("{step},{},{seconds:.3}\n", values.join(","));
        self.file.write_all(text.as_bytes()).and_then(|()| self.file.flush()).map_err(at(&self.path))
    }

    fn flush(&mut self) -> Result<()> {
        self.file.get_ref().sync_all().map_err(at(&self.path))
    }
}

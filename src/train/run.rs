//! The training loop of every stage: evaluate, update, record and checkpoint. A killed run resumes from the
//! checkpoint with the same result as an uninterrupted one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor, Var};

use super::config::Schedule;
use super::optimiser::{AdamW, Gradients};
use crate::atomic_file;
use crate::error::{Error, Result};
use crate::kernels::threads::on_rayon;

/// Objective that a stage minimises. Only its parameters change, so a step is a pure function of them and of
/// its number; the number also determines the data.
pub trait Objective: Sync {
    /// Name of the stage and of its files.
    fn name(&self) -> &'static str;

    /// Trained parameters by name.
    fn parameters(&self) -> BTreeMap<String, Var>;

    /// Computes the gradients and figures of update `step`.
    ///
    /// # Errors
    /// The tensor library refused an operation.
    fn evaluate(&self, step: u64) -> Result<Evaluation>;
}

/// Named numbers of the record.
pub type Figures = Vec<(&'static str, f64)>;

/// Gradients, loss and figures of one update.
pub struct Evaluation {
    /// Gradients by parameter name.
    pub gradients: Gradients,
    /// The loss.
    pub loss: f64,
    /// Additional numbers for the record, with the same names at every step.
    pub figures: Figures,
    /// Number of pictures, clips or sequences in the batch.
    pub examples: usize,
}

/// Progress report after an update.
pub struct Progress<'a> {
    /// Name of the stage.
    pub stage: &'a str,
    /// Number of finished updates.
    pub step: u64,
    /// Number of all updates of the stage.
    pub steps: u64,
    /// Loss of this update.
    pub loss: f64,
    /// Figures of this update.
    pub figures: &'a [(&'static str, f64)],
    /// Examples per second of this update.
    pub throughput: f64,
    /// Time that the other updates of the stage will take, at the mean speed of this run.
    pub time_left: Duration,
}

/// Trains `objective` to the end of its schedule. It resumes from the checkpoint in `folder`, if there is
/// one.
///
/// `NAME.safetensors` is the newest checkpoint and `NAME.csv` the record, with one row per update. After a
/// `kill -9` the run resumes from the checkpoint, and its record equals that of an uninterrupted run except
/// for the last column, the seconds.
///
/// # Errors
/// The loss is not finite, the checkpoint belongs to another configuration (`fingerprint`), or a file cannot
/// be written.
pub fn optimise(
    objective: &dyn Objective,
    schedule: &Schedule,
    folder: &Path,
    fingerprint: &str,
    on_progress: &mut dyn FnMut(&Progress),
) -> Result<()> {
    let name = objective.name();
    let mut optimiser = AdamW::new(schedule.optimiser, schedule.steps, &objective.parameters())?;
    let checkpoint = Checkpoint { path: folder.join(format!("{name}.safetensors")), fingerprint };
    let first = checkpoint.restore(&mut optimiser)?;
    if first >= schedule.steps {
        return Ok(());
    }
    let mut record = Record::open(folder.join(format!("{name}.csv")), first)?;
    let begun = Instant::now();
    for step in first..schedule.steps {
        let start = Instant::now();
        let (loss, norm, figures, examples) = on_rayon(|| {
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
        on_progress(&Progress {
            stage: name,
            step: done,
            steps: schedule.steps,
            loss,
            figures: &figures,
            throughput,
            time_left: begun.elapsed().mul_f64((schedule.steps - done) as f64 / (done - first) as f64),
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

/// Writes a file so that readers find the old or the new content, never a part.
pub(super) fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    atomic_file::write_atomic(path, bytes).map_err(at(path))
}

/// Checks that a run with `fingerprint` can resume from the checkpoint of a stage, if there is one.
///
/// # Errors
/// The checkpoint belongs to another configuration, or is malformed.
pub(super) fn check_checkpoint(folder: &Path, stage: &str, fingerprint: &str) -> Result<()> {
    Checkpoint { path: folder.join(format!("{stage}.safetensors")), fingerprint }.read().map(drop)
}

/// File that keeps the state of a stage between updates.
struct Checkpoint<'a> {
    path: PathBuf,
    fingerprint: &'a str,
}

const STEP: &str = "step";
const FINGERPRINT: &str = "fingerprint";

impl Checkpoint<'_> {
    fn write(&self, step: u64, optimiser: &AdamW) -> Result<()> {
        let metadata = [(STEP, step.to_string()), (FINGERPRINT, self.fingerprint.to_string())]
            .map(|(key, value)| (key.to_string(), value));
        let bytes = safetensors::serialize(optimiser.state(), Some(metadata.into()))
            .map_err(|e| failed(format!("{}: {e}", self.path.display())))?;
        write_atomic(&self.path, &bytes)
    }

    /// Reads the number of finished updates and the bytes of the file; `None` if there is no checkpoint yet.
    fn read(&self) -> Result<Option<(u64, Vec<u8>)>> {
        let bytes = match fs::read(&self.path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(at(&self.path))?,
        };
        let (_, header) =
            safetensors::SafeTensors::read_metadata(&bytes).map_err(|e| self.broken(&e.to_string()))?;
        let metadata = header.metadata().clone().unwrap_or_default();
        if metadata.get(FINGERPRINT).map(String::as_str) != Some(self.fingerprint) {
            return Err(self.broken(&format!(
                "the checkpoint belongs to another configuration (the fingerprint of this one is {}); train in another \
                 folder, or delete it and those of the later stages",
                self.fingerprint
            )));
        }
        let step = metadata.get(STEP).and_then(|s| s.parse().ok());
        let step = step.ok_or_else(|| self.broken("the checkpoint has no number of updates"))?;
        Ok(Some((step, bytes)))
    }

    fn broken(&self, reason: &str) -> Error {
        failed(format!("{}: {reason}", self.path.display()))
    }

    /// Restores the state and returns the number of finished updates.
    fn restore(&self, optimiser: &mut AdamW) -> Result<u64> {
        let Some((step, bytes)) = self.read()? else { return Ok(0) };
        let state: BTreeMap<String, Tensor> =
            candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)?.into_iter().collect();
        optimiser.restore(&state).map_err(|reason| self.broken(&reason))?;
        Ok(step)
    }
}

/// CSV record of a stage, with one row per update.
struct Record {
    path: PathBuf,
    file: BufWriter<File>,
    empty: bool,
}

impl Record {
    /// Opens the record and keeps the rows of the first `steps` updates. Later rows were written after the
    /// checkpoint, and the resumed run writes them again.
    fn open(path: PathBuf, steps: u64) -> Result<Self> {
        let text = match fs::read_to_string(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            other => other.map_err(at(&path))?,
        };
        let kept: String =
            text.split_inclusive('\n').take(if steps == 0 { 0 } else { steps as usize + 1 }).collect();
        let empty = kept.is_empty();
        write_atomic(&path, kept.as_bytes())?;
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

//! `flamingo bench`: how fast a model runs on this machine, row by row beside a floor that no program goes below.
//!
//! The floor of a row is the time of its matrix products at the peak of the device, or that of its bytes at the speed of
//! memory, whichever is longer. The peak is the larger of one large product of ours and, on a CPU, its widest multiply-add
//! instruction. All speeds are measured in the same run.

use std::path::{Path, PathBuf};

use anyhow::bail;
use candle_core::{DType, Device, DeviceLocation};
use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};
use flamingo::family::shape::ModelShape;
use serde_json::{Value, json};

use crate::args::{BadUse, ModelArgs, parse_positive};
use crate::output::write;
use fma::Instruction;
use peaks::Peaks;
use rows::{Reader, Row, Timer};
use subject::Subject;
use table::Line;

mod work;
mod fma;
mod peaks;
mod machine;
mod memory;
mod subject;
mod rows;
mod table;

/// The clip of the row from file to answer, if none is named and it is there.
const CLIP: &str = "samples/flamingo.mp4";

#[derive(Debug, Args)]
pub struct Bench {
    /// Videos for the row from file to answer; samples/flamingo.mp4 if it is there.
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    /// A shape without its weights instead of a model directory: numbers of no meaning, dense, in the dtype.
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(ModelShape::NAMES), help_heading = "Bench")]
    shape: Option<String>,
    /// Rows to measure; all by default.
    #[arg(long, value_name = "ROW", value_enum, value_delimiter = ',', help_heading = "Bench")]
    rows: Vec<RowName>,
    /// Sizes of the batches of encoder, prefill and decode.
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 8, 32], help_heading = "Bench")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: Vec<u16>,
    /// Tokens of every prompt.
    #[arg(long, value_name = "N", default_value_t = 64, help_heading = "Bench")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    prompt_tokens: u16,
    /// Seconds per row; slow rows take what three repetitions take, but no more than ten times as long.
    #[arg(long, value_name = "N", default_value = "2", value_parser = parse_positive, help_heading = "Bench")]
    seconds: f64,
    /// Print one JSON object instead of the table.
    #[arg(long, help_heading = "Output")]
    json: bool,
    /// Write the JSON object here as well.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    out: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RowName {
    Encoder,
    Resampler,
    Prefill,
    Decode,
    EndToEnd,
    Memory,
}

impl Bench {
    pub fn run(self) -> anyhow::Result<bool> {
        self.model.device.settle_threads()?;
        let subject = self.subject()?;
        let (device, dtype) = (subject.device(), subject.options.dtype);
        let encodes = self.wants(RowName::Encoder) || self.wants(RowName::EndToEnd);
        if encodes && !rows::convolves(device, dtype) {
            let (dtype, place) = (dtype.as_str(), place(device));
            bail!(BadUse(format!(
                "no convolution in {dtype} on {place}: name another --dtype, or --rows without encoder and end-to-end"
            )));
        }
        memory::check(&subject.shape.name, subject.bytes(), device)?;
        let load = load_average();
        let before = peaks::operations(device, dtype)?;
        let (measured, peak) = self.measure(&subject)?;
        // The better of two: another program may have been busy during one.
        let product = before.max(peaks::operations(device, dtype)?);
        // Last, because the memory for it is not the model's.
        let bandwidth = peaks::bandwidth(device)?;
        let peaks = Peaks::new(device, dtype, product, bandwidth);
        let mut lines: Vec<Line> = measured.iter().map(|row| Line::of(row, &peaks)).collect();
        lines.extend(peak.map(|peak| Line::of_memory(peak, subject.bytes())));
        self.report(&subject, &peaks, &lines, [load, load_average()])
    }

    fn subject(&self) -> anyhow::Result<Subject> {
        let options = self.model.options()?;
        match self.shape.as_deref().and_then(ModelShape::named) {
            Some(shape) => Ok(Subject::of_shape(shape, options)),
            None => {
                self.model.check_directory()?;
                Subject::of_directory(&self.model.model, options)
            }
        }
    }

    /// All rows that were asked for and can be had, and the most bytes that were taken meanwhile.
    fn measure(&self, subject: &Subject) -> anyhow::Result<(Vec<Row>, Option<usize>)> {
        let device = subject.device();
        let timer = Timer { device, seconds: self.seconds };
        let batches = || self.batch.iter().map(|&n| usize::from(n));
        let (mut rows, mut peak) = (Vec::new(), None);
        let mut keep = |row: Row| {
            rows.push(row);
            peak = peak.max(memory::peak(device));
        };
        if self.wants(RowName::Encoder) {
            let encoder = subject.encoder()?;
            for n in batches() {
                keep(rows::encoder(&*encoder, subject, &timer, n)?);
            }
        }
        let (model, media_token) = subject.flamingo()?;
        let prompt_tokens = self.prompt_tokens.into();
        let reader = Reader { model: &model, subject, media_token, prompt_tokens };
        if self.wants(RowName::Resampler) {
            keep(rows::resampler(&model, subject, &timer)?);
        }
        for n in batches().filter(|_| self.wants(RowName::Prefill)) {
            keep(reader.prefill(&timer, n)?);
        }
        for n in batches().filter(|_| self.wants(RowName::Decode)) {
            keep(reader.decode(&timer, n)?);
        }
        if self.wants(RowName::EndToEnd) {
            match self.clips() {
                Ok(files) => keep(reader.end_to_end(&timer, &files)?),
                Err(why) => eprintln!("note: the row from file to answer is left out: {why}"),
            }
        }
        peak = peak.max(memory::peak(device));
        Ok((rows, peak.filter(|_| self.wants(RowName::Memory))))
    }

    fn wants(&self, row: RowName) -> bool {
        self.rows.is_empty() || self.rows.contains(&row)
    }

    fn clips(&self) -> Result<Vec<PathBuf>, String> {
        if !cfg!(feature = "video") {
            return Err("this build decodes no video".into());
        }
        if !self.files.is_empty() {
            return Ok(self.files.clone());
        }
        match Path::new(CLIP) {
            clip if clip.is_file() => Ok(vec![clip.into()]),
            _ => Err(format!("no FILE is named, and {CLIP} is not here")),
        }
    }

    fn report(
        &self,
        subject: &Subject,
        peaks: &Peaks,
        lines: &[Line],
        load: [Option<f64>; 2],
    ) -> anyhow::Result<bool> {
        let device = place(subject.device());
        let dtype = subject.options.dtype.as_str();
        let mut object = description(subject);
        object["device"] = device.clone().into();
        object["peaks"] = json!({
            "operations": peaks.operations,
            "product": peaks.product,
            "instruction": peaks.instruction.map(|(name, operations)| json!({ "name": name, "operations": operations })),
            "bandwidth": peaks.bandwidth,
        });
        if let Some((model, instructions)) = machine::cpu() {
            let peak = |dtype| {
                let instruction = Instruction::widest(dtype)?;
                Some(json!({ "name": instruction.name, "operations": instruction.operations_per_second() }))
            };
            object["cpu"] = json!({
                "model": model,
                "instructions": instructions,
                "avx512_products": cfg!(feature = "avx512"),
                "instruction_peaks": { "f32": peak(DType::F32), "bf16": peak(DType::BF16) },
            });
        }
        object["load"] = json!(load);
        object["prompt_tokens"] = self.prompt_tokens.into();
        object["rows"] = lines.iter().map(Line::json).collect();
        if let Some(path) = &self.out {
            write(path, format!("{}\n", serde_json::to_string_pretty(&object)?).as_bytes())?;
        }
        if self.json {
            println!("{object}");
            return Ok(true);
        }
        println!(
            "{} on {device}, {dtype}, {} language model; {:.1} GFLOP/s ({}), {:.1} GB/s\n",
            subject.shape.name,
            subject.language_weights,
            peaks.operations / 1e9,
            peaks.instruction.map_or("a large product".into(), |(name, operations)| format!(
                "{name} {:.1}, a large product {:.1}",
                operations / 1e9,
                peaks.product / 1e9
            )),
            peaks.bandwidth / 1e9
        );
        print!("{}", table::table(lines));
        Ok(true)
    }
}

/// The device in words.
fn place(device: &Device) -> String {
    match device.location() {
        DeviceLocation::Cpu => format!("cpu with {} threads", candle_core::utils::get_num_threads()),
        DeviceLocation::Cuda { gpu_id } | DeviceLocation::Metal { gpu_id } => format!("gpu {gpu_id}"),
    }
}

/// All that another program needs to build an equal model.
fn description(subject: &Subject) -> Value {
    let ModelShape { name, vision, model, language } = &subject.shape;
    let mut encoder = vision.encoder().describe();
    encoder["size"] = vision.preprocess().size.into();
    let parameters = subject.counter().parameters();
    let layers: Vec<usize> =
        (0..language.layers).filter(|&i| model.cross_attention.placement.has(i)).collect();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "model": name,
        "dtype": subject.options.dtype.as_str(),
        "language_weights": subject.language_weights,
        "threads": candle_core::utils::get_num_threads(),
        "parameters": {
            "vision": parameters.vision, "resampler": parameters.resampler,
            "cross_attention": parameters.cross_attention, "language": parameters.language,
        },
        "shape": {
            "vision": encoder,
            "resampler": model.resampler,
            "cross_attention": model.cross_attention,
            "cross_attention_layers": layers,
            "language": {
                "vocabulary": language.vocabulary, "width": language.width, "ffn_width": language.ffn_width,
                "layers": language.layers, "heads": language.heads, "kv_heads": language.kv_heads,
                "head_width": language.head_width, "tied": language.tied,
            },
        },
    })
}

/// Processes that want to run, on average over the last minute.
fn load_average() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

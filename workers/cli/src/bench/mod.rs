//! `flamingo bench`: measures the throughput of each stage of a model, next to the limit of the machine (the floor).
//!
//! The floor of a stage is the time of its operations at the peak of the device, or the time of its bytes at the memory
//! bandwidth, whichever is longer. The peak is the larger of one large matrix product of ours and, on a CPU, its widest
//! multiply-add instruction. All speeds are measured in the same run.

use std::path::{Path, PathBuf};

use anyhow::bail;
use candle_core::{DType, Device, DeviceLocation};
use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};
use flamingo::family::shape::ModelShape;
use serde_json::{Value, json};

use crate::args::{ModelArgs, UsageError, parse_positive};
use crate::output::write_file;
use fma::Instruction;
use model::BenchModel;
use peaks::Peaks;
use stages::{LanguageBench, Measurement, Timer};
use table::Line;

mod cost;
mod fma;
mod peaks;
mod machine;
mod memory;
mod model;
mod stages;
mod table;

/// Default clip of the end-to-end measurement, if the file exists.
const DEFAULT_CLIP: &str = "samples/flamingo.mp4";

#[derive(Debug, Args)]
pub struct Bench {
    /// Videos of the end-to-end row [default: samples/flamingo.mp4, if it exists].
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    /// Measure a model shape with placeholder weights (dense, in the dtype) instead of a model directory.
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(ModelShape::NAMES), help_heading = "Bench")]
    shape: Option<String>,
    /// Rows to measure, separated by commas [default: all].
    #[arg(long, value_name = "ROW", value_enum, value_delimiter = ',', help_heading = "Bench")]
    rows: Vec<RowName>,
    /// Batch sizes of the rows encoder, prefill and decode, separated by commas.
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 8, 32], help_heading = "Bench")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: Vec<u16>,
    /// Length of every prompt in tokens.
    #[arg(long, value_name = "N", default_value_t = 64, help_heading = "Bench")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    prompt_tokens: u16,
    /// Seconds per row; a slow row runs three times, unless that takes more than ten times as long.
    #[arg(long, value_name = "N", default_value = "2", value_parser = parse_positive, help_heading = "Bench")]
    seconds: f64,
    /// Print one JSON object instead of the table.
    #[arg(long, help_heading = "Output")]
    json: bool,
    /// Write the JSON object to this file too.
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
        self.model.device.fix_threads()?;
        let target = self.target()?;
        let (device, dtype) = (target.device(), target.options.dtype);
        let encodes = self.is_selected(RowName::Encoder) || self.is_selected(RowName::EndToEnd);
        if encodes && !stages::supports_convolution(device, dtype) {
            let (dtype, device) = (dtype.as_str(), device_name(device));
            bail!(UsageError(format!(
                "no convolution in {dtype} on {device}: choose another --dtype, or --rows without encoder and end-to-end"
            )));
        }
        memory::check_fits(&target.shape.name, target.bytes(), device)?;
        let load = load_average();
        let before = peaks::operations(device, dtype)?;
        let (measured, peak) = self.measure(&target)?;
        // The better of two: another program may have used the machine during one of them.
        let product = before.max(peaks::operations(device, dtype)?);
        // Last, because its buffer must not count as memory of the model.
        let bandwidth = peaks::bandwidth(device)?;
        let peaks = Peaks::new(device, dtype, product, bandwidth);
        let mut lines: Vec<Line> = measured.iter().map(|row| Line::of(row, &peaks)).collect();
        lines.extend(peak.map(|peak| Line::of_memory(peak, target.bytes())));
        self.report(&target, &peaks, &lines, [load, load_average()])
    }

    fn target(&self) -> anyhow::Result<BenchModel> {
        let options = self.model.options()?;
        match self.shape.as_deref().and_then(ModelShape::named) {
            Some(shape) => Ok(BenchModel::of_shape(shape, options)),
            None => BenchModel::of_directory(&self.model.directory()?.path, options),
        }
    }

    /// Measures the selected rows. Returns them with the peak memory, if that is selected and known.
    fn measure(&self, target: &BenchModel) -> anyhow::Result<(Vec<Measurement>, Option<usize>)> {
        let device = target.device();
        let timer = Timer { device, seconds: self.seconds };
        let batches = || self.batch.iter().map(|&n| usize::from(n));
        let (mut rows, mut peak) = (Vec::new(), None);
        let mut keep = |row: Measurement| {
            rows.push(row);
            peak = peak.max(memory::peak(device));
        };
        if self.is_selected(RowName::Encoder) {
            let encoder = target.encoder()?;
            for n in batches() {
                keep(stages::encoder(&*encoder, target, &timer, n)?);
            }
        }
        let (model, media_token) = target.flamingo()?;
        let prompt_tokens = self.prompt_tokens.into();
        let language = LanguageBench { model: &model, target, media_token, prompt_tokens };
        if self.is_selected(RowName::Resampler) {
            keep(stages::connector(&model, target, &timer)?);
        }
        for n in batches().filter(|_| self.is_selected(RowName::Prefill)) {
            keep(language.prefill(&timer, n)?);
        }
        for n in batches().filter(|_| self.is_selected(RowName::Decode)) {
            keep(language.decode(&timer, n)?);
        }
        if self.is_selected(RowName::EndToEnd) {
            match self.clips() {
                Ok(files) => keep(language.end_to_end(&timer, &files)?),
                Err(why) => eprintln!("note: the end-to-end row is left out: {why}"),
            }
        }
        peak = peak.max(memory::peak(device));
        Ok((rows, peak.filter(|_| self.is_selected(RowName::Memory))))
    }

    fn is_selected(&self, row: RowName) -> bool {
        self.rows.is_empty() || self.rows.contains(&row)
    }

    fn clips(&self) -> Result<Vec<PathBuf>, String> {
        if !cfg!(feature = "video") {
            return Err("this build has no video decoder".into());
        }
        if !self.files.is_empty() {
            return Ok(self.files.clone());
        }
        match Path::new(DEFAULT_CLIP) {
            clip if clip.is_file() => Ok(vec![clip.into()]),
            _ => Err(format!("no FILE is given, and {DEFAULT_CLIP} does not exist")),
        }
    }

    fn report(
        &self,
        target: &BenchModel,
        peaks: &Peaks,
        lines: &[Line],
        load: [Option<f64>; 2],
    ) -> anyhow::Result<bool> {
        let device = device_name(target.device());
        let dtype = target.options.dtype.as_str();
        let mut object = description(target);
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
            write_file(path, format!("{}\n", serde_json::to_string_pretty(&object)?).as_bytes())?;
        }
        if self.json {
            println!("{object}");
            return Ok(true);
        }
        println!(
            "{} on {device}, {dtype}, {} language model; {:.1} GFLOP/s ({}), {:.1} GB/s\n",
            target.shape.name,
            target.language_weights,
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

/// The name of the device, for the table and the JSON object.
fn device_name(device: &Device) -> String {
    match device.location() {
        DeviceLocation::Cpu => format!("cpu with {} threads", candle_core::utils::get_num_threads()),
        DeviceLocation::Cuda { gpu_id } | DeviceLocation::Metal { gpu_id } => format!("gpu {gpu_id}"),
    }
}

/// JSON description of the model: everything that another program needs to build an equal one.
fn description(target: &BenchModel) -> Value {
    let ModelShape { name, vision, model, language } = &target.shape;
    let language = language.sizes();
    let mut encoder = vision.encoder().describe();
    encoder["size"] = vision.preprocess().size.into();
    let parameters = target.cost_model().parameters();
    let layers: Vec<usize> =
        (0..language.layers).filter(|&i| model.cross_attention.placement.has(i)).collect();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "model": name,
        "dtype": target.options.dtype.as_str(),
        "language_weights": target.language_weights,
        "threads": candle_core::utils::get_num_threads(),
        "parameters": {
            "vision": parameters.vision, "resampler": parameters.connector,
            "cross_attention": parameters.cross_attention, "language": parameters.language,
        },
        "shape": {
            "vision": encoder,
            "resampler": model.connector.resampler(),
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

/// Load average of the machine over the last minute.
fn load_average() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

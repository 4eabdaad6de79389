//! `flamingo frames`: shows which frames of a video are sampled.

use std::path::PathBuf;

use clap::Args;
use inference::context::Cancel;
use inference::decoder::{DecodeRequest, decode};
use inference::report::contact_sheet::{ContactSheet, Layout};

use crate::args::SamplingArgs;
use crate::inputs::local_path;
use crate::output::{printable, write_png};
use crate::process::own_executable;

#[derive(Debug, Args)]
pub struct Frames {
    /// Video or image.
    file: PathBuf,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Write a contact sheet of the frames with their times (PNG).
    #[arg(long, value_name = "PNG", help_heading = "Output")]
    sheet: Option<PathBuf>,
    /// Print one JSON object instead of text.
    #[arg(long, help_heading = "Output")]
    json: bool,
}

impl Frames {
    pub fn run(self) -> anyhow::Result<bool> {
        let path = local_path(&self.file)?;
        let request = DecodeRequest::new(&path, self.sampling.sampling()?);
        let mut frames = decode(&own_executable()?, &path, request, &Cancel::default())?;
        let mut sheet = self.sheet.as_ref().map(|_| ContactSheet::new(Layout::default()));
        let mut times = Vec::new();
        for frame in &mut frames {
            let frame = frame?;
            times.extend(vec![frame.pts; frame.moments.len()]);
            if let Some(sheet) = &mut sheet {
                sheet.add(&frame);
            }
        }
        let (info, summary) = (frames.info(), frames.summary().cloned().unwrap_or_default());
        if self.json {
            let object = serde_json::json!({ "input": self.file.to_string_lossy(), "video": info, "frame_times": times, "summary": summary });
            println!("{object}");
        } else {
            let file = printable(&self.file.display().to_string());
            let (codec, fps) = (&info.codec, info.average_fps);
            println!("{file}: {codec}, {}x{}, {:.3} s, {fps:.3} fps", info.width, info.height, info.duration);
            let shown = |same: &[f64]| match same {
                [time] => format!("{time:.3}"),
                _ => format!("{:.3} ({} times)", same[0], same.len()),
            };
            let list = times.chunk_by(f64::eq).map(shown).collect::<Vec<_>>().join(" ");
            match times.len() {
                0 => println!("no frame in the sampled range"),
                1 => println!("1 frame at {list} s"),
                n => println!("{n} frames at {list} s"),
            }
            println!("{} packets decoded, {} skipped", summary.decoded, summary.skipped);
            for warning in &summary.warnings {
                eprintln!("warning: {file}: {warning}");
            }
        }
        if let (Some(path), Some(sheet)) = (&self.sheet, &sheet) {
            write_png(path, sheet)?;
            if !self.json {
                println!("contact sheet: {}", path.display());
            }
        }
        Ok(true)
    }
}

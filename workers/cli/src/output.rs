//! Reports -> the terminal, and files.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use flamingo::video::{Frame, Sheet};
use indicatif::{ProgressBar, ProgressStyle};
use inference::analysis::human_time;
use inference::decoder::DecoderError;
use inference::report::{Outcome, Report, write_whole};

use crate::inputs::Input;

/// Where reports go.
pub struct Output {
    /// One JSON object per line on standard output instead of text.
    pub json: bool,
    /// A file per report.
    pub folder: Option<PathBuf>,
    /// WebVTT beside it.
    pub web_vtt: bool,
}

impl Output {
    /// Writes the files about one report, if there are to be any.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write(&self, name: &str, report: &Report, sheet: Option<&Sheet>) -> anyhow::Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let file = |extension: &str| folder.join(format!("{name}.{extension}"));
        write(&file("json"), format!("{}\n", serde_json::to_string_pretty(report)?).as_bytes())?;
        if let (Some(sheet), Outcome::Succeeded { .. }) = (sheet, &report.outcome) {
            write_png(&file("png"), sheet)?;
        }
        if let (true, Outcome::Succeeded { .. }) = (self.web_vtt, &report.outcome) {
            write(&file("vtt"), report.web_vtt().as_bytes())?;
        }
        Ok(())
    }

    /// Says everything about one report.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn say(&self, report: &Report) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        if self.json {
            writeln!(out, "{}", serde_json::to_string(report)?)?;
        } else {
            human(&mut out, report)?;
        }
        Ok(out.flush()?)
    }
}

/// An error is said on standard error, where errors belong; its JSON goes where all JSON goes.
fn human(out: &mut impl Write, report: &Report) -> anyhow::Result<()> {
    let inputs = report.input.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ");
    match &report.outcome {
        Outcome::Failed { error, .. } => eprintln!("error[{}]: {}", error.code, shown(&error.message)),
        Outcome::Succeeded { answers } => {
            writeln!(out, "{}", shown(&inputs))?;
            for answer in answers {
                let range = format!("{}-{}", human_time(answer.start), human_time(answer.end.ceil()));
                let question = answer.question.as_ref().map(|q| format!("{} ", shown(q))).unwrap_or_default();
                let text = if answer.text.is_empty() { "(nothing)".into() } else { shown(&answer.text) };
                writeln!(out, "  {range:<12} {question}{text}")?;
            }
        }
    }
    for warning in &report.warnings {
        eprintln!("warning: {}", shown(warning));
    }
    Ok(())
}

/// What ended a command, on one line, with its code where it has one.
pub fn error_line(error: &anyhow::Error) -> String {
    let code = error.chain().find_map(|cause| {
        let decoder = cause.downcast_ref::<DecoderError>().map(DecoderError::code);
        decoder.or_else(|| cause.downcast_ref::<flamingo::Error>().map(flamingo::Error::code))
    });
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        // Many errors say their cause themselves.
        if !text.ends_with(&cause) {
            text = if text.is_empty() { cause } else { format!("{text}: {cause}") };
        }
    }
    let code = code.map(|code| format!("[{code}]")).unwrap_or_default();
    format!("error{code}: {}", shown(&text))
}

/// Answers are the model's words and file names a stranger's: they may not steer the terminal.
pub fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A line on standard output.
///
/// # Errors
/// Nobody reads it any more, or the disk is full.
#[cfg(feature = "service")]
pub fn say(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// Writes a contact sheet as PNG, whole or not at all.
pub fn write_png(path: &Path, sheet: &Sheet) -> anyhow::Result<()> {
    let mut png = std::io::Cursor::new(Vec::new());
    sheet.draw().write_to(&mut png, image::ImageFormat::Png)?;
    write(path, png.get_ref())
}

pub fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    write_whole(path, bytes).with_context(|| format!("{}: cannot be written", path.display()))
}

/// A bar over so many inputs, drawn only on a terminal.
pub fn progress(inputs: usize) -> ProgressBar {
    let bar = ProgressBar::new(inputs as u64);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {wide_msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// Shows that frames are coming.
pub fn show_frame(bar: &ProgressBar, input: &Input, frame: &Frame) {
    bar.set_message(format!("{} {}", input.name, human_time(frame.pts)));
}

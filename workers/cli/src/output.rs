//! Reports -> standard output and files.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use flamingo::atomic_file::write_atomic;
use flamingo::task::{Evidence, Sensitivity, TimedCaption};
use flamingo::video::Frame;
use indicatif::{ProgressBar, ProgressStyle};
use inference::decoder::DecoderError;
use inference::report::contact_sheet::ContactSheet;
use inference::report::{CaptionsAnswerReport, Outcome, Report};
use inference::time::human_time;

use crate::inputs::Input;

/// Destination of reports.
pub struct Output {
    /// One JSON object per line on standard output instead of text.
    pub json: bool,
    /// Folder for one file per report.
    pub folder: Option<PathBuf>,
    /// Whether each report gets a WebVTT file too.
    pub web_vtt: bool,
}

impl Output {
    /// Writes the files of one report, if a folder is set.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write_files(
        &self,
        name: &str,
        report: &Report,
        sheet: Option<&ContactSheet>,
    ) -> anyhow::Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let file = |extension: &str| folder.join(format!("{name}.{extension}"));
        write_file(&file("json"), format!("{}\n", serde_json::to_string_pretty(report)?).as_bytes())?;
        if let (Some(sheet), Outcome::Succeeded { .. }) = (sheet, &report.body.outcome) {
            write_png(&file("png"), sheet)?;
        }
        if let (true, Outcome::Succeeded { .. }) = (self.web_vtt, &report.body.outcome) {
            write_file(&file("vtt"), report.web_vtt().as_bytes())?;
        }
        Ok(())
    }

    /// Prints one report.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn print(&self, report: &Report) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        if self.json {
            writeln!(out, "{}", serde_json::to_string(report)?)?;
        } else {
            print_text(&mut out, report)?;
        }
        Ok(out.flush()?)
    }
}

/// Prints a report as text: answers to `out`, errors and warnings to standard error.
fn print_text(out: &mut impl Write, report: &Report) -> anyhow::Result<()> {
    let inputs = report.input.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ");
    match &report.body.outcome {
        Outcome::Failed { error, .. } => eprintln!("error[{}]: {}", error.code, printable(&error.message)),
        Outcome::Succeeded { answers } => {
            writeln!(out, "{}", printable(&inputs))?;
            for answer in answers {
                let range = format!("{}-{}", human_time(answer.start), human_time(answer.end.ceil()));
                let question =
                    answer.question.as_ref().map(|q| format!("{} ", printable(q))).unwrap_or_default();
                let text = shown(&answer.text);
                let chosen = answer.scores.iter().find(|score| score.text == answer.text);
                let probability = chosen.map(|score| confidence(score.probability, answer.sensitivity));
                writeln!(out, "  {range:<12} {question}{text}{}", probability.unwrap_or_default())?;
                if let Some(answer) = &answer.from_captions {
                    print_from_captions(out, &question, answer)?;
                }
            }
        }
    }
    for warning in &report.body.warnings {
        eprintln!("warning: {}", printable(warning));
    }
    Ok(())
}

/// The probability of an answer, and its spread over the orders of the examples.
fn confidence(probability: f64, sensitivity: Option<Sensitivity>) -> String {
    let percent = 100.0 * probability;
    match sensitivity {
        None => format!(" ({percent:.0} %)"),
        Some(Sensitivity { orders, disagreement, deviation }) => format!(
            " ({percent:.0} %, standard deviation {:.0} %; {:.0} of {orders} orders of the examples give another label)",
            100.0 * deviation,
            disagreement * orders as f64
        ),
    }
}

/// Prints an answer from captions, and the captions on which it rests.
fn print_from_captions(
    out: &mut impl Write,
    question: &str,
    answer: &CaptionsAnswerReport,
) -> anyhow::Result<()> {
    writeln!(out, "  {:<12} {question}{}", "captions", shown(&answer.text))?;
    for Evidence { caption: TimedCaption { start, end, text }, .. } in &answer.rests_on {
        let range = format!("{}-{}", human_time(*start), human_time(end.ceil()));
        writeln!(out, "    rests on {range:<12} {}", shown(text))?;
    }
    Ok(())
}

/// Returns untrusted text as a terminal may show it.
fn shown(text: &str) -> String {
    if text.is_empty() { "(nothing)".into() } else { printable(text) }
}

/// The error of a command on one line, with its code if it has one.
pub fn error_line(error: &anyhow::Error) -> String {
    let code = error.chain().find_map(|cause| {
        let decoder = cause.downcast_ref::<DecoderError>().map(DecoderError::code);
        decoder.or_else(|| cause.downcast_ref::<flamingo::Error>().map(flamingo::Error::code))
    });
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        // Many errors include the text of their cause.
        if !text.ends_with(&cause) {
            text = if text.is_empty() { cause } else { format!("{text}: {cause}") };
        }
    }
    let code = code.map(|code| format!("[{code}]")).unwrap_or_default();
    format!("error{code}: {}", printable(&text))
}

/// Replaces control characters by spaces. Answers and file names are untrusted and must not control the terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Prints a line on standard output.
///
/// # Errors
/// Standard output is closed, or the disk is full.
#[cfg(feature = "service")]
pub fn print_line(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// Writes a contact sheet as PNG, atomically.
///
/// # Errors
/// The file cannot be written.
pub fn write_png(path: &Path, sheet: &ContactSheet) -> anyhow::Result<()> {
    let mut png = std::io::Cursor::new(Vec::new());
    sheet.draw().write_to(&mut png, image::ImageFormat::Png)?;
    write_file(path, png.get_ref())
}

/// Writes a file atomically.
///
/// # Errors
/// The file cannot be written.
pub fn write_file(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    write_atomic(path, bytes).with_context(|| format!("{}: cannot be written", path.display()))
}

/// Creates a folder for results, if it does not exist.
///
/// # Errors
/// The folder cannot be created.
pub fn create_folder(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot create the folder", folder.display()))
}

/// Progress bar over `inputs` inputs, drawn on a terminal only.
pub fn progress(inputs: usize) -> ProgressBar {
    let bar = ProgressBar::new(inputs as u64);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {wide_msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// Shows the name of an input and the time of its latest frame in the progress bar.
pub fn show_frame(bar: &ProgressBar, input: &Input, frame: &Frame) {
    bar.set_message(format!("{} {}", input.name, human_time(frame.pts)));
}

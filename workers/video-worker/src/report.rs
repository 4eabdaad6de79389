//! What is said about a video: one JSON object, versioned, the same from the command line and from the service.

use std::io::Write;
use std::path::{Path, PathBuf};

use flamingo::family::ModelInfo;
use flamingo::generate::Finish;
use flamingo::video::VideoInfo;
use serde::Serialize;

/// The version of [`Report`].
pub const SCHEMA: &str = "flamingo.report/1";

/// The report of one video (or image), or of several that were asked about together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub schema: &'static str,
    #[serde(serialize_with = "readable_paths")]
    pub input: Vec<PathBuf>,
    #[serde(flatten)]
    pub outcome: Outcome,
    pub model: ModelInfo,
    /// What was decoded, per input.
    pub videos: Vec<VideoInfo>,
    pub warnings: Vec<String>,
    /// The video had been looked at before, and was not decoded again.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub recalled: bool,
    pub timing: Timing,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Outcome {
    Succeeded {
        answers: Vec<AnswerReport>,
    },
    /// What had been answered before it failed stands beside the error.
    Failed {
        error: ErrorReport,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        answers: Vec<AnswerReport>,
    },
}

/// One answer; a video that was cut into windows has one per window and question.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AnswerReport {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub question: Option<String>,
    pub text: String,
    /// Seconds of the video that the answer is about.
    pub start: f64,
    pub end: f64,
    /// Seconds of every frame that was looked at, per medium.
    pub frame_times: Vec<Vec<f64>>,
    pub finish: Finish,
    pub log_likelihood: f64,
    pub prompt_tokens: usize,
    pub completion_tokens: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ErrorReport {
    pub code: String,
    pub message: String,
}

/// Seconds spent in each stage. Decoding runs beside the others: its figure is the time waited for the decoder to open
/// the file and to send frames, and for resizing them. Where several videos are looked at side by side, waiting for the
/// others is in each figure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Timing {
    pub decode_s: f64,
    pub encode_s: f64,
    pub answer_s: f64,
    /// From the first look at the file to the last answer.
    pub total_s: f64,
}

/// JSON is Unicode and file names need not be.
fn readable_paths<S: serde::Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| path.to_string_lossy()))
}

impl Report {
    /// As WebVTT: one cue per answer.
    pub fn web_vtt(&self) -> String {
        let mut text = String::from("WEBVTT\n");
        if let Outcome::Succeeded { answers } = &self.outcome {
            for answer in answers {
                // A cue must not be empty, and an image lasts no time.
                let (start, end) = (timestamp(answer.start), timestamp(answer.end.max(answer.start + 0.001)));
                let question = answer.question.as_deref().map(|q| format!("{q}\n")).unwrap_or_default();
                text.push_str(&format!("\n{start} --> {end}\n{}\n", cue_text(&(question + &answer.text))));
            }
        }
        text
    }
}

/// A cue ends at an empty line, a carriage return alone ends a line, and `<`, `&` and `-->` mean something in it.
fn cue_text(text: &str) -> String {
    let escaped = text.replace('\r', "\n").replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    escaped.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
}

fn timestamp(seconds: f64) -> String {
    let ms = (seconds * 1000.0).round() as u64;
    format!("{:02}:{:02}:{:02}.{:03}", ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000)
}

/// Writes a file whole or not at all.
///
/// # Errors
/// The folder cannot be written.
pub fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().permissions(readable()).tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}

/// Temporary files are private by default; results are for others to read, within the user's umask.
fn readable() -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o666)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_texts_of_cues() {
        for (seconds, expected) in
            [(0.0, "00:00:00.000"), (59.9996, "00:01:00.000"), (3723.5, "01:02:03.500")]
        {
            assert_eq!(timestamp(seconds), expected);
        }
        assert_eq!(cue_text("a <b> & c\n\r\n\r d --> e"), "a &lt;b&gt; &amp; c\nd --&gt; e");
    }
}

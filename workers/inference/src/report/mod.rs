//! The report of a video: one versioned JSON object, the same from the command line and from the service.

use std::path::PathBuf;

use flamingo::family::ModelInfo;
use flamingo::generate::Finish;
use flamingo::pipeline::TranscriptAnswer;
use flamingo::task::{Evidence, Sensitivity, TextScore, TimedCaption, Transcript};
use flamingo::video::{SAMPLING_CONTRACT, VideoInfo};
use serde::{Deserialize, Serialize};

pub mod contact_sheet;
mod webvtt;

/// Schema version of [`Report`].
pub const SCHEMA: &str = "flamingo.report/1";

/// Text of an answer that is withheld because of its low grounding.
pub const NOT_SURE: &str = "not sure";

/// Report of one video (or image), or of several in one prompt, as the command line writes it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub schema: &'static str,
    #[serde(serialize_with = "readable_paths")]
    pub input: Vec<PathBuf>,
    #[serde(flatten)]
    pub body: ReportBody,
}

/// Fields that every report has, of the command line and of the service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReportBody {
    #[serde(flatten)]
    pub outcome: Outcome,
    pub model: ModelInfo,
    /// Container and codec facts, per input.
    pub videos: Vec<VideoInfo>,
    pub warnings: Vec<String>,
    /// Captions of all windows of a long video.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub captions: Vec<TimedCaption>,
    /// Whether cached visual tokens were used, so that nothing was decoded. Reports of the version before name it `recalled`.
    #[serde(default, alias = "recalled", skip_serializing_if = "std::ops::Not::not")]
    pub cache_hit: bool,
    /// Version of the rule that chooses the frames, [`SAMPLING_CONTRACT`]. Reports of version 1 do not name it.
    #[serde(default = "first_contract")]
    pub sampling_contract: u32,
    pub timing: Timing,
}

impl ReportBody {
    /// Returns the body of a report about a failure before the analysis.
    pub fn failed(model: ModelInfo, error: ErrorReport) -> Self {
        Self {
            outcome: Outcome::Failed { error, answers: vec![] },
            model,
            videos: vec![],
            warnings: vec![],
            captions: vec![],
            cache_hit: false,
            sampling_contract: SAMPLING_CONTRACT,
            timing: Timing::default(),
        }
    }

    /// Returns the answers; of a failed analysis, those before the error.
    pub fn answers(&self) -> &[AnswerReport] {
        let (Outcome::Succeeded { answers } | Outcome::Failed { answers, .. }) = &self.outcome;
        answers
    }
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

fn first_contract() -> u32 {
    1
}

/// Outcome of an analysis.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Outcome {
    Succeeded {
        answers: Vec<AnswerReport>,
    },
    /// The error, and the answers before it.
    Failed {
        error: ErrorReport,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        answers: Vec<AnswerReport>,
    },
}

/// One answer; a video that is cut into windows has one per window and task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnswerReport {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question: Option<String>,
    pub text: String,
    /// Log-likelihood and probability of every label of a classification.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scores: Vec<TextScore>,
    /// Method of a classification by vision features, without the language model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Spread of the classification over the orders of the examples, if there were several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sensitivity: Option<Sensitivity>,
    /// Start of the answered window, in seconds of the video.
    pub start: f64,
    /// End of the answered window.
    pub end: f64,
    /// Seconds of the frame that is shown at every sampled moment, per medium. A frame that stays is repeated.
    pub frame_times: Vec<Vec<f64>>,
    pub finish: Finish,
    pub log_likelihood: f64,
    /// Log-likelihood over the medium, minus that over frames of the mean colour, if it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grounding: Option<f64>,
    /// Answer with too low a grounding; `text` is [`NOT_SURE`] then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withheld: Option<String>,
    pub prompt_tokens: usize,
    pub completion_tokens: usize,
    /// Names of the few-shot examples in the prompt, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shots: Vec<String>,
    /// Number of chosen examples that were left out because the prompt had no room for them: the first ones.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropped_shots: usize,
    /// Transcripts from which the language model answered in place of media.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub transcripts: Vec<Transcript>,
    /// Answer of the language model from the captions of a long video.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_captions: Option<CaptionsAnswerReport>,
}

/// Answer from the captions of the windows of a long video, without its frames.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaptionsAnswerReport {
    pub text: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scores: Vec<TextScore>,
    /// Captions without which the answer is less likely, up to three, the one with the highest gain first.
    pub rests_on: Vec<Evidence>,
    /// Number of lines of the transcript in the prompt. Equal captions of adjacent windows are one line.
    pub lines: usize,
    /// Number of windows that were left out, because the prompt had no room for their captions.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: usize,
    pub finish: Finish,
    pub log_likelihood: f64,
    pub prompt_tokens: usize,
    pub completion_tokens: usize,
}

impl From<TranscriptAnswer> for CaptionsAnswerReport {
    fn from(TranscriptAnswer { answer, left_out, evidence }: TranscriptAnswer) -> Self {
        Self {
            lines: answer.transcripts.iter().map(|transcript| transcript.0.len()).sum(),
            text: answer.text,
            scores: answer.scores,
            rests_on: evidence,
            left_out,
            finish: answer.finish,
            log_likelihood: answer.log_likelihood,
            prompt_tokens: answer.prompt_tokens,
            completion_tokens: answer.completion_tokens,
        }
    }
}

impl AnswerReport {
    /// Adds the grounding of the answer. The answer is withheld if it is below `minimum`.
    pub fn with_grounding(self, grounding: Option<f64>, minimum: Option<f64>) -> Self {
        let is_low = grounding.zip(minimum).is_some_and(|(grounding, minimum)| grounding < minimum);
        let (text, withheld) = if is_low { (NOT_SURE.into(), Some(self.text)) } else { (self.text, None) };
        Self { text, withheld, grounding, ..self }
    }

    /// Returns the number of sampled moments of all media.
    pub fn frames(&self) -> usize {
        self.frame_times.iter().map(Vec::len).sum()
    }
}

/// Code and message of an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReport {
    pub code: String,
    pub message: String,
}

/// Seconds of each stage. The decoder child runs in parallel: `decode_s` is the time spent waiting for it to open the file
/// and to send frames, and resizing them. With several videos at once, each value includes the wait in the engine's queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    pub decode_s: f64,
    pub encode_s: f64,
    pub answer_s: f64,
    /// From opening the file to the last answer.
    pub total_s: f64,
}

/// Serializes paths with replacement characters: JSON is Unicode and file names need not be.
fn readable_paths<S: serde::Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| path.to_string_lossy()))
}

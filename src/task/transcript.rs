//! Transcript: a text in place of a video. A language model answers from it what it could not see.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

/// A video as captions with their times, in order.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Transcript(pub Vec<TimedCaption>);

/// A caption of a part of a video.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct TimedCaption {
    /// Start of the part, in seconds of the video.
    pub start: f64,
    /// End of the part; of a single frame, its time.
    pub end: f64,
    /// The caption.
    pub text: String,
}

impl Transcript {
    /// Returns the text that a prompt has in place of the video: a numbered line per caption, with its time.
    pub fn text(&self) -> String {
        let mut text = "Captions of a video, with their times in seconds:\n".to_owned();
        for (number, caption) in (1..).zip(&self.0) {
            let TimedCaption { start, end, .. } = caption;
            let time = if start == end { format!("{start:.1}") } else { format!("{start:.1} to {end:.1}") };
            // On one line, so that no caption begins another one.
            let words = caption.text.split_whitespace().collect::<Vec<_>>().join(" ");
            writeln!(text, "{number}. {time}: {words}").expect("a string takes every text");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captions_are_numbered_lines_with_times() {
        let caption = |start, end, text: &str| TimedCaption { start, end, text: text.into() };
        let transcript =
            Transcript(vec![caption(0.0, 0.0, "A dog.\n2. 9.0: A cat."), caption(1.25, 12.0, " It runs. ")]);
        assert_eq!(
            transcript.text(),
            "Captions of a video, with their times in seconds:\n1. 0.0: A dog. 2. 9.0: A cat.\n2. 1.2 to 12.0: It runs.\n"
        );
    }
}

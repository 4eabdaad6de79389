//! WebVTT captions from a report.

use flamingo::task::TimedCaption;

use super::{Outcome, Report};

impl Report {
    /// Returns the report as WebVTT, one cue per answer; of a long video, one per captioned window.
    pub fn web_vtt(&self) -> String {
        let mut text = String::from("WEBVTT\n");
        let Outcome::Succeeded { answers } = &self.body.outcome else { return text };
        if self.body.captions.is_empty() {
            for answer in answers {
                let question = answer.question.as_deref().map(|q| format!("{q}\n")).unwrap_or_default();
                text += &cue(answer.start, answer.end, &(question + &answer.text));
            }
        }
        for TimedCaption { start, end, text: caption } in &self.body.captions {
            text += &cue(*start, *end, caption);
        }
        text
    }
}

fn cue(start: f64, end: f64, text: &str) -> String {
    // A cue must last some time, and an image has no duration.
    let (start, end) = (timestamp(start), timestamp(end.max(start + 0.001)));
    format!("\n{start} --> {end}\n{}\n", cue_text(text))
}

/// Escapes cue text: an empty line ends a cue, a carriage return ends a line, and `<`, `&` and `-->` are syntax.
fn cue_text(text: &str) -> String {
    let escaped = text.replace('\r', "\n").replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    escaped.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
}

fn timestamp(seconds: f64) -> String {
    let ms = (seconds * 1000.0).round() as u64;
    format!("{:02}:{:02}:{:02}.{:03}", ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_cue_times_and_texts() {
        for (seconds, expected) in
            [(0.0, "00:00:00.000"), (59.9996, "00:01:00.000"), (3723.5, "01:02:03.500")]
        {
            assert_eq!(timestamp(seconds), expected);
        }
        assert_eq!(cue_text("a <b> & c\n\r\n\r d --> e"), "a &lt;b&gt; &amp; c\nd --&gt; e");
    }
}

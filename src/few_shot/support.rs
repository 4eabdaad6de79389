//! Support sets: media with the right output for each.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::task::ShotText;

/// Greatest number of examples.
const MAX_EXAMPLES: usize = 100_000;
/// Greatest length of a text in bytes.
const MAX_TEXT_BYTES: usize = 4096;

/// Example of a support set: one line of its file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SupportExample {
    /// Path or URL of a video or image.
    pub media: String,
    /// Question about it, if it differs from that of the query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question: Option<String>,
    /// Text that is written on it, such as that of a meme.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The right output: a caption, an answer or a label.
    pub output: String,
}

/// Examples in order; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SupportSet {
    examples: Vec<SupportExample>,
}

/// Reason why a support set cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SupportError(String);

impl SupportSet {
    /// Checks examples.
    ///
    /// # Errors
    /// There are none or too many; a text is empty, too long or contains U+0000; two outputs differ only in white space.
    pub fn new(examples: Vec<SupportExample>) -> Result<Self, SupportError> {
        if examples.is_empty() || examples.len() > MAX_EXAMPLES {
            let found = examples.len();
            return Err(SupportError(format!("a support set has 1 to {MAX_EXAMPLES} examples, not {found}")));
        }
        for (number, example) in (1..).zip(&examples) {
            let SupportExample { media, question, text, output } = example;
            let optional = [("question", question.as_ref()), ("text", text.as_ref())];
            let texts = [("media", Some(media)), ("output", Some(output))].into_iter().chain(optional);
            for (name, text) in texts.filter_map(|(name, text)| Some((name, text?))) {
                if text.trim().is_empty() || text.len() > MAX_TEXT_BYTES || text.contains('\0') {
                    return Err(SupportError(format!(
                        "example {number}: `{name}` is empty, longer than {MAX_TEXT_BYTES} bytes, or contains U+0000"
                    )));
                }
            }
        }
        check_outputs(&examples)?;
        Ok(Self { examples })
    }

    /// Reads a support set from JSON lines: `{"media": "a.mp4", "output": "a frog"}`. Empty lines are skipped.
    ///
    /// # Errors
    /// A line is no example; the text names it. Else as [`new`](Self::new).
    pub fn from_json_lines(text: &str) -> Result<Self, SupportError> {
        let lines = text.trim_start_matches('\u{feff}').lines().enumerate();
        let lines = lines.filter(|(_, line)| !line.trim().is_empty());
        let example = |(i, line): (usize, &str)| {
            serde_json::from_str(line).map_err(|e| SupportError(format!("line {}: {e}", i + 1)))
        };
        Self::new(lines.map(example).collect::<Result<_, _>>()?)
    }

    /// Returns the set as JSON lines. Equal sets have equal lines, so their hash names the set.
    pub fn to_json_lines(&self) -> String {
        let line = |example| serde_json::to_string(example).expect("texts become JSON") + "\n";
        self.examples.iter().map(line).collect()
    }

    /// The examples, in order.
    pub fn examples(&self) -> &[SupportExample] {
        &self.examples
    }

    /// Returns the different outputs, in the order of the examples.
    pub fn outputs(&self) -> Vec<&str> {
        let mut known = HashSet::new();
        let outputs = self.examples.iter().map(|example| example.output.as_str());
        outputs.filter(|output| known.insert(*output)).collect()
    }
}

/// Refuses outputs that differ only in white space: they would be two labels that a reader takes for one.
fn check_outputs(examples: &[SupportExample]) -> Result<(), SupportError> {
    let mut known: HashMap<String, (usize, &str)> = HashMap::new();
    for (number, SupportExample { output, .. }) in (1..).zip(examples) {
        let words = output.split_whitespace().collect::<Vec<_>>().join(" ");
        let (first, other) = *known.entry(words).or_insert((number, output));
        if other != output {
            return Err(SupportError(format!(
                "examples {first} and {number}: the outputs {other:?} and {output:?} differ only in white space"
            )));
        }
    }
    Ok(())
}

impl SupportExample {
    /// The text that a prompt shows after the medium.
    pub fn text(&self) -> ShotText {
        let Self { question, text, output, .. } = self.clone();
        ShotText { question, text, output }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_examples() {
        let text = "\u{feff}{\"media\":\"a.mp4\",\"output\":\"a frog\"}\r\n\n{\"media\":\"b.png\",\"question\":\"Who?\",\"text\":\"hoo\",\"output\":\"an owl\"}\n";
        let set = SupportSet::from_json_lines(text).unwrap();
        let [first, second] = set.examples() else { panic!("{set:?}") };
        assert_eq!((first.media.as_str(), &first.question), ("a.mp4", &None));
        assert_eq!(
            second.text(),
            ShotText { question: Some("Who?".into()), text: Some("hoo".into()), output: "an owl".into() }
        );
    }

    #[test]
    fn wrong_lines_are_named() {
        for (text, expected) in [
            ("", "1 to 100000 examples, not 0"),
            ("{\"media\":\"a\",\"output\":\"x\"}\n{\"media\":\"b\"}", "line 2: missing field `output`"),
            ("{\"media\":\"a\",\"output\":\"x\",\"label\":1}", "line 1: unknown field `label`"),
            ("{\"media\":\"a\",\"output\":\" \"}", "example 1: `output` is empty"),
            ("a frog", "line 1:"),
            (
                "{\"media\":\"a\",\"output\":\"a frog\"}\n{\"media\":\"b\",\"output\":\"a  frog \"}",
                "examples 1 and 2: the outputs \"a frog\" and \"a  frog \" differ only in white space",
            ),
        ] {
            let error = SupportSet::from_json_lines(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    /// Order of fields, spaces and empty lines of the file do not matter.
    #[test]
    fn equal_sets_have_equal_lines() {
        let text = "{ \"output\": \"a frog\", \"media\": \"a.mp4\" }\n\n{\"media\":\"b.png\",\"question\":\"Who?\",\"output\":\"an owl\"}";
        let set = SupportSet::from_json_lines(text).unwrap();
        let lines = set.to_json_lines();
        assert_eq!(
            lines,
            "{\"media\":\"a.mp4\",\"output\":\"a frog\"}\n{\"media\":\"b.png\",\"question\":\"Who?\",\"output\":\"an owl\"}\n"
        );
        assert_eq!(SupportSet::from_json_lines(&lines).unwrap(), set);
    }

    #[test]
    fn outputs_are_named_once() {
        let line = |output: &str| format!("{{\"media\":\"a\",\"output\":\"{output}\"}}\n");
        let set = SupportSet::from_json_lines(&["owl", "frog", "owl"].map(line).concat()).unwrap();
        assert_eq!(set.outputs(), ["owl", "frog"]);
    }
}

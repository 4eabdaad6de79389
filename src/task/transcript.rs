//! Transcript: a text in place of a video. A language model answers from it what it could not see.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

/// A video as captions with their times, in order.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Transcript(pub Vec<TimedCaption>);

/// Caption of a part of a video.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct TimedCaption {
    /// Start of the part, in seconds of the video.
    pub start: f64,
    /// End of the part; of a single frame, its time.
    pub end: f64,
    /// The caption.
    pub text: String,
}

/// Caption on which an answer rests.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Evidence {
    /// The caption with its times.
    #[serde(flatten)]
    pub caption: TimedCaption,
    /// Log-likelihood of the answer after this and adjacent captions, minus that without this caption, in nats.
    pub gain: f64,
}

impl Transcript {
    /// Returns the transcript with one caption for adjacent parts whose captions are equal, over the times of all of them.
    pub fn merged(&self) -> Self {
        let mut captions: Vec<TimedCaption> = Vec::new();
        for caption in &self.0 {
            match captions.last_mut() {
                Some(last) if last.text == caption.text => last.end = caption.end,
                _ => captions.push(caption.clone()),
            }
        }
        Self(captions)
    }

    /// Returns `count` captions that are spread evenly over the transcript; all of them, if it has fewer.
    pub fn spread(&self, count: usize) -> Self {
        let n = self.0.len();
        let kept = (0..count.min(n)).map(|i| self.0[i * n / count.min(n)].clone());
        Self(kept.collect())
    }

    /// Returns the number of captions whose times are within none of `others`.
    pub fn count_outside(&self, others: &Self) -> usize {
        let within = |caption: &TimedCaption| {
            others.0.iter().any(|other| other.start <= caption.start && caption.end <= other.end)
        };
        self.0.iter().filter(|caption| !within(caption)).count()
    }

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

    fn caption(start: f64, end: f64, text: &str) -> TimedCaption {
        TimedCaption { start, end, text: text.into() }
    }

    #[test]
    fn equal_adjacent_captions_are_one() {
        let windows = [(0.0, "A dog."), (2.0, "A dog."), (4.0, "A cat."), (6.0, "A dog.")];
        let windows = Transcript(windows.map(|(start, text)| caption(start, start + 2.0, text)).into());
        let merged = windows.merged();
        let expected = Transcript(vec![
            caption(0.0, 4.0, "A dog."),
            caption(4.0, 6.0, "A cat."),
            caption(6.0, 8.0, "A dog."),
        ]);
        assert_eq!(merged, expected);
        assert_eq!((windows.count_outside(&merged), Transcript(Vec::new()).merged().0.len()), (0, 0));
        let first = Transcript(vec![expected.0[0].clone()]);
        assert_eq!(windows.count_outside(&first), 2, "two of four windows are in the first line");
    }

    #[test]
    fn spread_captions_keep_the_whole_range() {
        let windows =
            Transcript((0..7).map(|n| caption(f64::from(n), f64::from(n) + 1.0, "A dog.")).collect());
        for (count, expected) in [
            (0, &[][..]),
            (1, &[0.0]),
            (3, &[0.0, 2.0, 4.0]),
            (6, &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
            (9, &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        ] {
            let starts: Vec<f64> = windows.spread(count).0.iter().map(|caption| caption.start).collect();
            assert_eq!(starts, expected, "{count}");
        }
    }

    #[test]
    fn captions_are_numbered_lines_with_times() {
        let transcript =
            Transcript(vec![caption(0.0, 0.0, "A dog.\n2. 9.0: A cat."), caption(1.25, 12.0, " It runs. ")]);
        assert_eq!(
            transcript.text(),
            "Captions of a video, with their times in seconds:\n1. 0.0: A dog. 2. 9.0: A cat.\n2. 1.2 to 12.0: It runs.\n"
        );
    }
}

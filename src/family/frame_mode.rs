//! Frames of a video for a model: all in one medium, in one contact sheet, one medium per frame, or one caption per frame.

use serde::{Deserialize, Serialize};

use crate::model::Flamingo;
use crate::prompt::MediumText;

/// Most frames of a video that a model without temporal training takes.
pub const MOST_FRAMES: usize = 16;

/// Treatment of the frames of a video.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FrameMode {
    /// The connector maps all frames to the visual tokens of one medium: Flamingo.
    #[default]
    Joint,
    /// At most [`MOST_FRAMES`] frames are drawn into one picture, and the prompt lists their times.
    Sheet,
    /// At most [`MOST_FRAMES`] frames are media of their own, one directly after the other, and the prompt lists their times.
    /// Cross-attention sees them as a set: their order is in the text only.
    Sequence,
    /// At most [`MOST_FRAMES`] frames are captioned one by one. The captions with their times are then in the prompt, in place of the
    /// video.
    Captions,
}

/// Treatment of the frames of a medium, as reports name it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Frames {
    /// All frames become one sequence of visual tokens. A temporal embedding tells them apart.
    #[default]
    TemporalEmbedding,
    /// Each frame has visual tokens of its own. The medium has those of all frames, one after another: a model that was trained
    /// on single images.
    Independent,
    /// The frames are drawn into one picture, and the prompt lists their times: a model that was trained on single images.
    Sheet,
    /// The frames are media of their own, one directly after the other, and the prompt lists their times: a model that was trained
    /// on single images.
    Sequence,
    /// Each frame is captioned alone, and the language model answers from the captions with their times: a model that was trained on
    /// single images.
    Captions,
}

impl Frames {
    /// Returns a note for the report of a model that was trained on single images.
    pub fn note(self) -> Option<&'static str> {
        match self {
            Self::TemporalEmbedding => None,
            Self::Independent => Some("no temporal training: each frame is encoded alone"),
            Self::Sheet => Some("no temporal training: the frames are drawn into one picture"),
            Self::Sequence => Some("no temporal training: the frames are pictures of their own"),
            Self::Captions => Some(
                "no temporal training: the frames are captioned one by one, and answers rest on the captions",
            ),
        }
    }
}

impl FrameMode {
    /// Returns the treatment of the frames that `model` gets in this mode.
    pub(super) fn frames(self, model: &Flamingo) -> Frames {
        match self {
            Self::Joint if model.has_temporal_embedding() => Frames::TemporalEmbedding,
            Self::Joint => Frames::Independent,
            Self::Sheet => Frames::Sheet,
            Self::Sequence => Frames::Sequence,
            Self::Captions => Frames::Captions,
        }
    }

    /// Chooses the pictures of a video that the model takes, of `n` different ones: all, or some at equal distances with the
    /// first and the last.
    pub fn choose(self, n: usize) -> Vec<usize> {
        match self {
            Self::Sheet | Self::Sequence | Self::Captions if n > MOST_FRAMES => {
                let last = MOST_FRAMES - 1;
                (0..MOST_FRAMES).map(|i| (2 * i * (n - 1) + last) / (2 * last)).collect()
            }
            Self::Joint | Self::Sheet | Self::Sequence | Self::Captions => (0..n).collect(),
        }
    }

    /// Returns the times of the pictures of a video that the model takes. `times` are the seconds of its frames; a frame that stays
    /// repeats its time.
    pub fn times(self, times: &[f64]) -> Vec<f64> {
        let mut times = times.to_vec();
        times.dedup();
        self.choose(times.len()).into_iter().map(|i| times[i]).collect()
    }

    /// Returns the markers and the text of an encoded medium in a prompt. `times` are the seconds of its frames.
    pub fn describe(self, times: &[f64]) -> MediumText {
        let times = self.times(times);
        let n = times.len();
        let listed = || times.iter().map(|time| format!("{time:.1}")).collect::<Vec<_>>().join(", ");
        match self {
            Self::Sheet if n > 1 => {
                let text = format!(
                    "The picture shows {n} frames of a video, in rows from the top left, at the seconds {}.\n",
                    listed()
                );
                MediumText { markers: 1, text }
            }
            Self::Sequence if n > 1 => {
                let text = format!("The pictures are {n} frames of a video, at the seconds {}.\n", listed());
                MediumText { markers: n, text }
            }
            Self::Joint | Self::Sheet | Self::Sequence | Self::Captions => {
                MediumText { markers: 1, text: String::new() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chooses_frames_at_equal_distances() {
        assert_eq!(FrameMode::Joint.choose(40).len(), 40);
        assert_eq!(FrameMode::Sheet.choose(16), (0..16).collect::<Vec<_>>());
        let chosen = FrameMode::Sequence.choose(31);
        assert_eq!(chosen, (0..16).map(|i| 2 * i).collect::<Vec<_>>());
        assert_eq!(FrameMode::Captions.times(&[0.5, 0.5, 2.0]), [0.5, 2.0]);
        let chosen = FrameMode::Sheet.choose(1000);
        assert_eq!((chosen.len(), chosen[0], chosen[15]), (16, 0, 999));
        assert!(chosen.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn text_lists_times_once() {
        let times = [0.0, 1.0, 1.0, 2.5];
        let sheet = FrameMode::Sheet.describe(&times);
        assert_eq!(sheet.markers, 1);
        assert!(
            sheet
                .text
                .ends_with("3 frames of a video, in rows from the top left, at the seconds 0.0, 1.0, 2.5.\n")
        );
        assert_eq!(FrameMode::Sequence.describe(&times).markers, 3);
        for mode in [FrameMode::Joint, FrameMode::Sheet, FrameMode::Sequence, FrameMode::Captions] {
            assert_eq!(mode.describe(&[0.0]), MediumText { markers: 1, text: String::new() });
        }
        assert_eq!(FrameMode::Joint.describe(&times).markers, 1);
    }
}

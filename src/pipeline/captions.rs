//! Captions of single frames: the transcript of a video for a model that was trained on images.

use super::{Medium, Pipeline, PlannedSequence, PromptMedium};
use crate::error::{Error, Result};
use crate::family::FrameMode;
use crate::generate::{Generation, Output};
use crate::task::{Task, TimedCaption, Transcript};

impl Pipeline {
    /// Returns media as prompts get them: as they are, but in the frame mode [`FrameMode::Captions`], where the frames of a video
    /// are captioned one by one. Passes the sequences of all captions to `run`, which returns an output per sequence, in order.
    ///
    /// # Errors
    /// A caption cannot be generated, or a medium has other frames than visual tokens.
    pub fn prompt_media<E: From<Error>>(
        &self,
        media: &[&Medium],
        generation: &Generation,
        run: &mut impl FnMut(Vec<PlannedSequence>) -> Vec<Result<Output, E>>,
    ) -> Result<Vec<PromptMedium>, E> {
        let pictures = media.iter().map(|medium| self.captioned_pictures(medium));
        let pictures: Vec<Vec<Medium>> = pictures.collect::<Result<_>>()?;
        let mut captions = self.captions(&pictures.concat(), generation, run)?.into_iter();
        let medium = |(medium, pictures): (&&Medium, Vec<Medium>)| match pictures.len() {
            0 => PromptMedium::Encoded((*medium).clone()),
            n => PromptMedium::Transcript(Transcript(captions.by_ref().take(n).collect())),
        };
        Ok(media.iter().zip(pictures).map(medium).collect())
    }

    /// Returns the pictures of a medium that are captioned; none: the medium itself is in the prompt.
    fn captioned_pictures(&self, medium: &Medium) -> Result<Vec<Medium>> {
        match self.loaded.frame_mode {
            FrameMode::Captions if self.loaded.frame_mode.times(&medium.frame_times).len() > 1 => {
                self.pictures(medium)
            }
            FrameMode::Captions | FrameMode::Joint | FrameMode::Sheet | FrameMode::Sequence => Ok(Vec::new()),
        }
    }

    /// Captions media of one frame each, all in one call of `run`.
    fn captions<E: From<Error>>(
        &self,
        pictures: &[Medium],
        generation: &Generation,
        run: &mut impl FnMut(Vec<PlannedSequence>) -> Vec<Result<Output, E>>,
    ) -> Result<Vec<TimedCaption>, E> {
        if pictures.is_empty() {
            return Ok(Vec::new());
        }
        let task = Task::Caption {};
        let sequence = |picture: &Medium| {
            let plan = self.plan(&task, &[], &[&picture.frame_times], generation)?;
            Ok(PlannedSequence { plan, media: vec![picture.clone()] })
        };
        let outputs = run(pictures.iter().map(sequence).collect::<Result<_>>()?);
        let caption = |(picture, output): (&Medium, Result<Output, E>)| {
            let text = self.read(&task, 0, &output?)?.text;
            let time = picture.frame_times.first().copied().unwrap_or(0.0);
            Ok(TimedCaption { start: time, end: time, text })
        };
        pictures.iter().zip(outputs).map(caption).collect()
    }
}

//! Vectors of media that classifiers compare: outputs of attention heads, and vectors of the joint space.

use candle_core::{DType, Tensor};

use super::{Medium, Pipeline};
use crate::error::{Error, Result};
use crate::family::FrameMode;
use crate::generate::Generation;
use crate::kernels::threads::on_rayon;
use crate::model::{JointSpace, RowInput, WithHeads};
use crate::task::Task;

impl Pipeline {
    /// Returns the outputs of all attention heads of the language model at the last position of the prompt of a task about a medium,
    /// layer by layer (head, d). It is one pass over the prompt, without cache and batch, in the calling thread.
    ///
    /// # Errors
    /// The prompt has another number of media markers or is too long, or the medium is a video that the model reads as captions.
    pub fn head_outputs(&self, task: &Task, medium: &Medium) -> Result<Vec<Vec<f32>>> {
        let mode = self.loaded.frame_mode;
        if mode == FrameMode::Captions && mode.times(&medium.frame_times).len() > 1 {
            let text = "captions of frames have no attention heads of their own: use another frame mode";
            return Err(Error::Prompt(text.into()));
        }
        let plan = self.plan(task, &[], &[&medium.frame_times], &Generation::default())?;
        let model = &self.loaded.model;
        plan.check(model)?;
        // Not kept by the medium: that of an example would stay, outside of any budget.
        let request = plan.over(vec![self.project_media(medium)?]);
        let mut heads = Vec::new();
        let mut observe = WithHeads(|name: &str, value: &Tensor| {
            if name.starts_with("heads.") {
                let last = value.narrow(1, value.dim(1)? - 1, 1)?.squeeze(1)?; // (h, d)
                heads.extend(last.to_dtype(DType::F32)?.to_vec2::<f32>()?);
            }
            Ok(())
        });
        let mut row = model.uncached_row(request.media);
        let inputs = &mut [RowInput { ids: &request.plan.prompt, state: &mut row }];
        on_rayon(|| model.forward(inputs, None, Some(&mut observe)))?;
        Ok(heads)
    }

    /// Returns the unit vector (width) of a medium in the joint space of videos and texts.
    ///
    /// # Errors
    /// The model has no joint space.
    pub fn joint_vector(&self, medium: &Medium) -> Result<Vec<f32>> {
        let pooled = medium.visual_tokens.mean_keepdim(0)?;
        Ok(self.video_space()?.of_media(&pooled)?.squeeze(0)?.to_dtype(DType::F32)?.to_vec1()?)
    }

    /// Returns the joint space of whole videos and texts.
    ///
    /// # Errors
    /// The model has none.
    pub fn video_space(&self) -> Result<&JointSpace> {
        let spaces = self.loaded.joint_space.as_ref();
        let none = || Error::Prompt(format!("the model {} has no joint space", self.loaded.info.name));
        spaces.map(|spaces| &spaces.videos).ok_or_else(none)
    }
}

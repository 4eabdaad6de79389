//! Visual tokens stay on the device of the model, unless a cache keeps them.

use std::ops::ControlFlow;

use candle_core::{DType, Device, Tensor};
use flamingo::Task;
use flamingo::generate::{Finish, Generation, Output};
use flamingo::pipeline::{Answer, Medium, Pipeline, PlannedSequence, Shots};
use flamingo::video::Frame;
use inference::analysis::{Analysis, AnalysisError, AnalysisSpec, Source, VideoAnalyzer};
use inference::context::RequestContext;
use inference::decoder::DecoderConfig;
use inference::encoded_video::EncodedWindow;
use inference::model::{Model, ModelError};
use support::clips::clip;

use crate::program::{binary, model};

/// A model whose visual tokens cannot be copied to the host: they lack the shape (q, d).
struct Unreadable(Pipeline);

impl Model for Unreadable {
    fn pipeline(&self) -> &Pipeline {
        &self.0
    }

    fn encode(&self, prepared: Vec<Frame>, _: &RequestContext) -> Result<Medium, ModelError> {
        let tokens = Tensor::zeros(1, DType::F32, &Device::Cpu).expect("a small tensor");
        Ok(Medium::new(tokens, prepared.iter().map(|frame| frame.pts).collect()))
    }

    fn restore(&self, _: &EncodedWindow) -> Result<Medium, ModelError> {
        unreachable!("nothing is cached")
    }

    fn run_sequences(&self, _: Vec<PlannedSequence>, _: &RequestContext) -> Vec<Result<Output, ModelError>> {
        unreachable!("`ask` runs no sequence")
    }

    fn ask(
        &self,
        tasks: &[Task],
        _: Shots,
        _: &[&Medium],
        _: &Generation,
        _: &RequestContext,
    ) -> Vec<Result<Answer, ModelError>> {
        let answer = Answer {
            sensitivity: None,
            text: "an answer".into(),
            scores: Vec::new(),
            shots: 0,
            finish: Finish::Stop,
            log_likelihood: 0.0,
            prompt_tokens: 1,
            completion_tokens: 1,
            transcripts: Vec::new(),
        };
        tasks.iter().map(|_| Ok(answer.clone())).collect()
    }
}

#[test]
fn copies_visual_tokens_to_the_host_only_for_a_cache() {
    let model = Unreadable(Pipeline::load(model(), Device::Cpu).unwrap());
    let analyze = |keep_visual_tokens| -> Analysis {
        let analyzer = VideoAnalyzer {
            model: &model,
            decoder: DecoderConfig::new(binary()),
            keep_visual_tokens,
            support: None,
            classifiers: &[],
        };
        let spec = AnalysisSpec { window: Some(2.0), ..AnalysisSpec::default() };
        let source = Source::file(clip("h264_refresh"));
        analyzer.analyze(&source, &spec, &RequestContext::default(), &mut |_| ControlFlow::Continue(()))
    };
    let uncached = analyze(false);
    assert!(uncached.error.is_none() && uncached.encoded.is_none(), "{:?}", uncached.error);
    assert_eq!(uncached.report.body.answers().len(), 5);
    // A copy fails, so the analysis above made none.
    assert!(matches!(analyze(true).error, Some(AnalysisError::Model { .. })));
}

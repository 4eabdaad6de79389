//! Methods of items that classify by few-shot examples: each learns once per worker and support set.

use std::sync::Arc;

use flamingo::Task;
use flamingo::task::Classification;
use inference::analysis::AnalysisError;
use inference::context::RequestContext;
use inference::method_name::MethodName;
use inference::methods::{FewShotClassification, FittedMethod, MethodError};
use jobs::{Failure, Stopped};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, info_span};

use super::VideoService;
use super::few_shot::chooser;
use super::retry_policy::of_analysis;
use super::run_item::{cancelled, request_context};
use crate::api::{FewShot, Item, SupportVersion, json};
use crate::support::UsableExamples;

impl VideoService {
    /// Returns for each task of an item the method that answers it; `None`: the language model.
    pub(super) async fn methods(
        &self,
        item: &Item,
        few_shot: &FewShot<SupportVersion>,
        examples: &UsableExamples,
        stop: &CancellationToken,
    ) -> Result<Vec<Option<Arc<FittedMethod>>>, Stopped> {
        let mut methods = Vec::with_capacity(item.spec.tasks.len());
        for task in &item.spec.tasks {
            methods.push(match task {
                Task::Classify(classification) if few_shot.options.method != MethodName::InContext => {
                    Some(self.method(item, few_shot, examples, classification, stop).await?)
                }
                _ => None,
            });
        }
        Ok(methods)
    }

    async fn method(
        &self,
        item: &Item,
        few_shot: &FewShot<SupportVersion>,
        examples: &UsableExamples,
        classification: &Classification,
        stop: &CancellationToken,
    ) -> Result<Arc<FittedMethod>, Stopped> {
        let key = json(&(&few_shot.options, classification));
        let context = request_context(item, stop.clone());
        let fit = self.fit(few_shot, examples, classification.clone(), context);
        let fit = examples.get_or_fit(&key, fit.instrument(info_span!("fit method")));
        tokio::select! {
            fitted = fit => fitted,
            () = stop.cancelled() => Err(cancelled()),
        }
    }

    /// Fits a method in a blocking thread.
    async fn fit(
        &self,
        few_shot: &FewShot<SupportVersion>,
        examples: &UsableExamples,
        classification: Classification,
        context: RequestContext,
    ) -> Result<FittedMethod, Stopped> {
        let (engine, support, options) = (self.engine.clone(), chooser(few_shot, examples), few_shot.options);
        let (name, on_cpu, span) = (few_shot.support.to_string(), self.engine.is_on_cpu(), Span::current());
        let work = tokio::task::spawn_blocking(move || {
            let _within = span.enter();
            let classification = FewShotClassification {
                model: &engine,
                support: &support,
                classification: &classification,
                context: &context,
                on_example: &|| {},
            };
            let fitted = classification.fit(options.method, options.seed);
            let fitted = fitted.map_err(|why| stopped(name.clone(), why, on_cpu))?;
            let chosen = fitted.choice.as_ref().map(|choice| choice.reason.as_str());
            tracing::info!(support = %name, method = options.method.name(), chosen, "method fitted");
            Ok(fitted)
        });
        work.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }
}

fn stopped(support: String, why: MethodError, on_cpu: bool) -> Stopped {
    match why {
        MethodError::Examples(_) => {
            Stopped::fail(Failure::new("no_examples", format!("the support set {support}: {why}")))
        }
        MethodError::Model(source) => {
            let error = AnalysisError::Model { path: support.into(), source };
            Stopped::new(of_analysis(&error, on_cpu), Failure::new(error.code(), error.to_string()))
        }
    }
}

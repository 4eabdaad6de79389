//! Answers to all tasks about the media of one window.

use flamingo::Task;
use flamingo::generate::Generation;
use flamingo::pipeline::{Answer, Medium, Shot, Shots};

use super::{AnalysisError, AnalysisSpec, Source, State, VideoAnalyzer, timed};
use crate::context::RequestContext;
use crate::medium_classifier::MediumClassifier;
use crate::method_name::MethodName;
use crate::model::ModelError;
use crate::report::AnswerReport;
use crate::support::EncodedSupport;

/// The answer to a task, and the examples that were chosen for it.
struct TaskAnswer {
    answer: Result<Answer, ModelError>,
    shots: Vec<Shot>,
}

impl VideoAnalyzer<'_> {
    pub(super) fn answer(
        &self,
        source: &Source,
        spec: &AnalysisSpec,
        context: &RequestContext,
        media: &[&Medium],
        (start, end): (f64, f64),
        state: &mut State,
    ) -> Result<(), AnalysisError> {
        if context.cancel.is_cancelled() {
            return Err(AnalysisError::Cancelled { path: source.name.clone() });
        }
        let answers = timed(&mut state.timing.answer_s, || self.answers(spec, media, context));
        let answers = answers.map_err(|e| AnalysisError::model(source, e.into()))?;
        for (i, (task, TaskAnswer { answer, shots })) in spec.tasks.iter().zip(answers).enumerate() {
            let answer = answer.map_err(|e| AnalysisError::model(source, e))?;
            context.progress.answer(answer.completion_tokens);
            let dropped = shots.len() - answer.shots;
            state.warn_of_dropped(source, dropped, shots.len());
            let shots = &shots[dropped..];
            let grounding = match (&spec.grounding, media) {
                (Some(_), [medium]) => Some(timed(&mut state.timing.answer_s, || {
                    self.model.grounding(task, shots, medium, &answer.text, context)
                })),
                _ => None,
            };
            let grounding = grounding.transpose().map_err(|e| AnalysisError::model(source, e))?;
            let report = answer_report(task, answer, media, shots, (start, end));
            let report = AnswerReport { method: self.method(i, task), dropped_shots: dropped, ..report };
            state
                .answers
                .push(report.with_grounding(grounding, spec.grounding.and_then(|spec| spec.minimum)));
        }
        Ok(())
    }

    /// Returns the classifier that answers a task about one medium in place of the language model.
    fn classifier(&self, task: usize) -> Option<&MediumClassifier> {
        self.classifiers.get(task)?.as_ref()?.classifier.as_ref()
    }

    /// Name of the method of a classification by examples or by a classifier.
    fn method(&self, number: usize, task: &Task) -> Option<String> {
        let in_context = matches!(task, Task::Classify(_)) && self.support.is_some();
        let name = self.classifier(number).map(MediumClassifier::name);
        name.or(in_context.then_some(MethodName::InContext.name())).map(String::from)
    }

    /// Answers all tasks. Those that the language model answers after the same examples run in one batch.
    fn answers(
        &self,
        spec: &AnalysisSpec,
        media: &[&Medium],
        context: &RequestContext,
    ) -> flamingo::Result<Vec<TaskAnswer>> {
        let mut answers: Vec<Option<TaskAnswer>> = spec.tasks.iter().map(|_| None).collect();
        let mut asked = Vec::new();
        for (i, answer) in answers.iter_mut().enumerate() {
            match (self.classifier(i), media) {
                (Some(classifier), [query]) => {
                    let found = classifier.answer(self.model.pipeline(), query).map_err(ModelError::from);
                    *answer = Some(TaskAnswer { answer: found, shots: Vec::new() });
                }
                _ => asked.push(i),
            }
        }
        for (shots, group) in self.groups(&spec.tasks, asked, media)? {
            let tasks: Vec<Task> = group.iter().map(|&i| spec.tasks[i].clone()).collect();
            let found = self.ask(&tasks, &shots, media, &spec.generation, context);
            for (i, answer) in group.into_iter().zip(found) {
                answers[i] = Some(TaskAnswer { answer, shots: shots.clone() });
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }

    fn ask(
        &self,
        tasks: &[Task],
        shots: &[Shot],
        media: &[&Medium],
        generation: &Generation,
        context: &RequestContext,
    ) -> Vec<Result<Answer, ModelError>> {
        let ensemble = self.support.map(EncodedSupport::ensemble).unwrap_or_default();
        self.model.ask(tasks, Shots { examples: shots, ensemble }, media, generation, context)
    }

    /// Returns the examples of tasks, each with the tasks that they precede.
    fn groups(
        &self,
        tasks: &[Task],
        asked: Vec<usize>,
        media: &[&Medium],
    ) -> flamingo::Result<Vec<(Vec<Shot>, Vec<usize>)>> {
        let (Some(support), [query]) = (self.support, media) else {
            let group = (Vec::new(), asked);
            return Ok(if group.1.is_empty() { Vec::new() } else { vec![group] });
        };
        let mut groups: Vec<(Option<&str>, Vec<usize>)> = Vec::new();
        for i in asked {
            let question = tasks[i].question().filter(|_| support.compares_questions());
            match groups.iter_mut().find(|(of_group, _)| *of_group == question) {
                Some((_, group)) => group.push(i),
                None => groups.push((question, vec![i])),
            }
        }
        let tokenizer = &self.model.pipeline().loaded().tokenizer;
        let choose = |(question, group)| Ok((support.choose(query, question, tokenizer)?, group));
        groups.into_iter().map(choose).collect()
    }
}

fn answer_report(
    task: &Task,
    answer: Answer,
    media: &[&Medium],
    shots: &[Shot],
    (start, end): (f64, f64),
) -> AnswerReport {
    AnswerReport {
        question: task.question().map(String::from),
        text: answer.text,
        scores: answer.scores,
        sensitivity: answer.sensitivity,
        start,
        end,
        frame_times: media.iter().map(|m| m.frame_times.clone()).collect(),
        finish: answer.finish,
        log_likelihood: answer.log_likelihood,
        grounding: None,
        withheld: None,
        method: None,
        dropped_shots: 0,
        prompt_tokens: answer.prompt_tokens,
        completion_tokens: answer.completion_tokens,
        shots: shots.iter().map(|shot| shot.name.clone()).collect(),
        transcripts: answer.transcripts,
        from_captions: None,
    }
}

//! From tasks to answers: the sequences of each task, and the answer in their outputs.

use super::{Answer, Medium, Pipeline, PlannedSequence, PromptMedium, Shots};
use crate::error::{Error, Result};
use crate::few_shot::classifiers::{Ensemble, LabelScores, PromptScores, most_likely};
use crate::generate::{Finish, Generation, Goal, Output, SequencePlan};
use crate::task::{Classification, ShotText, Task, TextScore, Transcript};

/// Media as prompts get them.
struct PromptMedia {
    shots: Vec<PromptMedium>,
    query: Vec<PromptMedium>,
    /// In place of the query, as many frames of the mean colour; absent if no task is calibrated.
    blank: Option<Vec<PromptMedium>>,
}

/// Sequences of a task. A classification has one for each order of the shots, each followed by the same over the blank query if it is
/// calibrated; any other task has one.
struct TaskSequences {
    sequences: Vec<PlannedSequence>,
    /// Shots that the prompts have room for.
    shown: usize,
    transcripts: Vec<Transcript>,
}

impl Pipeline {
    /// Answers several tasks over media, each after `shots`: plans sequences, passes them to `run`, which returns an output per
    /// sequence, in order, and reads the answers. Returns an answer per task, in order. A classification is answered for every order
    /// of the shots. In the frame mode [`Captions`](crate::family::FrameMode::Captions), the first call of `run` captions the frames of
    /// videos.
    pub fn ask_with<E: From<Error>>(
        &self,
        tasks: &[Task],
        shots: Shots,
        media: &[&Medium],
        generation: &Generation,
        mut run: impl FnMut(Vec<PlannedSequence>) -> Vec<Result<Output, E>>,
    ) -> Vec<Result<Answer, E>> {
        match self.media_of_prompts(tasks, shots, media, generation, &mut run) {
            Ok(media) => self.ask_about(tasks, shots, &media, generation, run),
            Err(error) => {
                let same = || Error::Prompt("the media of the prompt could not be prepared".into());
                let others = tasks.iter().skip(1).map(|_| Err(same().into()));
                std::iter::once(Err(error)).chain(others).take(tasks.len()).collect()
            }
        }
    }

    /// Answers a task over a transcript in place of its medium. A classification is calibrated by one without captions.
    pub(super) fn ask_over_transcript<E: From<Error>>(
        &self,
        task: &Task,
        transcript: Transcript,
        generation: &Generation,
        run: impl FnOnce(Vec<PlannedSequence>) -> Vec<Result<Output, E>>,
    ) -> Result<Answer, E> {
        let query = vec![PromptMedium::Transcript(transcript)];
        let blank = Some(vec![PromptMedium::Transcript(Transcript(Vec::new()))]);
        let media = PromptMedia { shots: Vec::new(), query, blank };
        self.ask_about(std::slice::from_ref(task), Shots::default(), &media, generation, run).remove(0)
    }

    fn media_of_prompts<E: From<Error>>(
        &self,
        tasks: &[Task],
        shots: Shots,
        query: &[&Medium],
        generation: &Generation,
        run: &mut impl FnMut(Vec<PlannedSequence>) -> Vec<Result<Output, E>>,
    ) -> Result<PromptMedia, E> {
        let calibrated = tasks.iter().any(|task| matches!(task, Task::Classify(of) if of.calibrate));
        let blank: Vec<Medium> = match calibrated {
            true => query.iter().map(|medium| self.encode_blank(medium)).collect::<Result<_>>()?,
            false => Vec::new(),
        };
        let of_shots = shots.examples.iter().map(|shot| &shot.medium);
        let all: Vec<&Medium> = of_shots.chain(query.iter().copied()).chain(&blank).collect();
        let mut media = self.prompt_media(&all, generation, run)?;
        let blank = calibrated.then(|| media.split_off(shots.examples.len() + query.len()));
        let query = media.split_off(shots.examples.len());
        Ok(PromptMedia { shots: media, query, blank })
    }

    fn ask_about<E: From<Error>>(
        &self,
        tasks: &[Task],
        shots: Shots,
        media: &PromptMedia,
        generation: &Generation,
        run: impl FnOnce(Vec<PlannedSequence>) -> Vec<Result<Output, E>>,
    ) -> Vec<Result<Answer, E>> {
        let texts: Vec<ShotText> = shots.examples.iter().map(|shot| shot.text.clone()).collect();
        let plan = |task| self.sequences(task, &texts, shots.ensemble, media, generation);
        let planned: Vec<Result<TaskSequences>> = tasks.iter().map(plan).collect();
        let all = planned.iter().flatten().flat_map(|of| of.sequences.clone()).collect();
        let mut outputs = run(all).into_iter();
        let answer = |(task, planned): (&Task, Result<TaskSequences>)| {
            let planned = planned?;
            // All outputs of the task are taken, also behind a failed one.
            let own: Vec<Result<Output, E>> = outputs.by_ref().take(planned.sequences.len()).collect();
            let own = own.into_iter().collect::<Result<Vec<_>, E>>()?;
            let TaskSequences { sequences, shown, transcripts } = planned;
            let plan = &sequences[0].plan;
            let answer = match task {
                Task::Classify(classification) => self.read_labels(classification, plan, own)?,
                _ => self.read(task, plan.prompt.len(), &own[0])?,
            };
            Ok(Answer { shots: shown, transcripts, ..answer })
        };
        tasks.iter().zip(planned).map(answer).collect()
    }

    fn sequences(
        &self,
        task: &Task,
        shots: &[ShotText],
        ensemble: Ensemble,
        media: &PromptMedia,
        generation: &Generation,
    ) -> Result<TaskSequences> {
        let texts = [self.texts(&media.shots), self.texts(&media.query)].concat();
        let (plan, shown) = self.plan_after(task, shots, &texts, generation)?;
        let first = shots.len() - shown;
        let (shots, of_shots) = (&shots[first..], &media.shots[first..]);
        let (encoded, transcripts) = divide(of_shots.iter().chain(&media.query));
        let Task::Classify(classification) = task else {
            let sequences = vec![PlannedSequence { plan, media: encoded }];
            return Ok(TaskSequences { sequences, shown, transcripts });
        };
        let blank = media.blank.as_ref().filter(|_| classification.calibrate);
        let mut sequences = Vec::new();
        for order in ensemble.orders(shown) {
            let shots: Vec<ShotText> = order.iter().map(|&i| shots[i].clone()).collect();
            for query in [Some(&media.query), blank].into_iter().flatten() {
                let media: Vec<&PromptMedium> = order.iter().map(|&i| &of_shots[i]).chain(query).collect();
                let plan =
                    self.plan_with_texts(task, &shots, &self.texts(media.iter().copied()), generation)?;
                sequences.push(PlannedSequence { plan, media: divide(media).0 });
            }
        }
        Ok(TaskSequences { sequences, shown, transcripts })
    }

    /// Reads the answer to a classification from the outputs of its sequences, of which `plan` is the first.
    fn read_labels(
        &self,
        classification: &Classification,
        plan: &SequencePlan,
        outputs: Vec<Output>,
    ) -> Result<Answer> {
        let Goal::Score { continuations } = &plan.goal else {
            return Err(Error::Prompt("a classification generates no text".into()));
        };
        let tokens: Vec<usize> = continuations.iter().map(Vec::len).collect();
        let rows = outputs.into_iter().map(Output::into_log_likelihoods).collect::<Result<Vec<_>>>()?;
        let per_prompt = if classification.calibrate { 2 } else { 1 };
        let prompt =
            |rows: &[Vec<f64>]| PromptScores { query: rows[0].clone(), content_free: rows.get(1).cloned() };
        let prompts: Vec<PromptScores> = rows.chunks(per_prompt).map(prompt).collect();
        let joined = LabelScores::join(&prompts, &tokens, classification.score);
        let joined = joined.map_err(|why| Error::Prompt(why.to_string()))?;
        let LabelScores { scores, probabilities, sensitivity } = joined;
        let best = most_likely(&scores);
        let score = |((text, &log_likelihood), probability): ((&str, &f64), f64)| TextScore {
            text: text.into(),
            log_likelihood,
            probability,
        };
        let labels: Vec<&str> = classification.labels.iter().collect();
        Ok(Answer {
            text: labels[best].into(),
            log_likelihood: scores[best],
            scores: labels.iter().copied().zip(&scores).zip(probabilities).map(score).collect(),
            sensitivity,
            ..Answer::empty(Finish::Stop, plan.prompt.len())
        })
    }
}

/// Divides media into those with visual tokens and transcripts.
pub(super) fn divide<'m>(
    media: impl IntoIterator<Item = &'m PromptMedium>,
) -> (Vec<Medium>, Vec<Transcript>) {
    let (mut encoded, mut transcripts) = (Vec::new(), Vec::new());
    for medium in media {
        match medium {
            PromptMedium::Encoded(medium) => encoded.push(medium.clone()),
            PromptMedium::Transcript(transcript) => transcripts.push(transcript.clone()),
        }
    }
    (encoded, transcripts)
}

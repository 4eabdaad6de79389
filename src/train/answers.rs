//! Stage 2, the training of the Flamingo paper (section 3.3 and appendix B.1.2 of its first version): the
//! vision encoder and the language model are frozen, and the resampler and the gated cross-attention learn to
//! make the answers likely.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use candle_core::{D, Device, Tensor, Var};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, RngExt};
use rayon::prelude::*;

use super::config::{AnswersConfig, DatasetWeights};
use super::contrastive::step_rng;
use super::features::FeatureCache;
use super::optimiser::{Gradients, accumulate, gradients};
use super::run::{Evaluation, Objective};
use super::spriteworld::clip::{NAMING_QUESTION, naming_caption};
use super::spriteworld::questions::{Question, QuestionKind};
use super::spriteworld::words::invented;
use super::spriteworld::{Split, World};
use super::text_states::TextStates;
use crate::error::Result;
use crate::language::Tokenizer;
use crate::model::{Flamingo, RowInput};
use crate::prompt::{Prompt, PromptFormat, PromptTokens};
use crate::task::{caption, question};

/// Dataset of a training sequence; each has its own weight in the loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Dataset {
    Captions,
    Questions,
    Episodes,
}

const DATASETS: [Dataset; 3] = [Dataset::Captions, Dataset::Questions, Dataset::Episodes];

impl DatasetWeights {
    fn of(&self, dataset: Dataset) -> f64 {
        match dataset {
            Dataset::Captions => self.captions,
            Dataset::Questions => self.questions,
            Dataset::Episodes => self.episodes,
        }
    }
}

/// A training sequence.
struct Sequence {
    dataset: Dataset,
    /// Its media: indices into the clips of the shard.
    media: Vec<usize>,
    ids: Vec<u32>,
    /// Tokens that count in the loss, in order.
    answers: Vec<Range<usize>>,
}

impl Sequence {
    /// Positions of the tokens that count in the loss.
    fn targets(&self) -> impl Iterator<Item = usize> + '_ {
        self.answers.iter().cloned().flatten()
    }
}

/// Clips with all sequences that use them. The visual tokens of each clip are computed once.
#[derive(Default)]
struct Shard {
    clips: Vec<u64>,
    sequences: Vec<Sequence>,
}

/// Objective of stage 2: the likelihood of the answers.
pub struct AnswersObjective<'a> {
    /// World of the training clips.
    pub world: &'a World,
    /// Settings of the stage.
    pub config: &'a AnswersConfig,
    /// Cached visual features of the clips.
    pub features: &'a FeatureCache,
    /// The model, with its language model dequantised.
    pub model: &'a Flamingo,
    /// Cached states of the model below the first gated cross-attention.
    pub(super) text_states: TextStates<'a>,
    /// Tokenizer of the language model.
    pub tokenizer: &'a Tokenizer,
    /// Special tokens of prompts.
    pub tokens: &'a PromptTokens,
    /// Prompt format of the model.
    pub format: &'a PromptFormat,
    /// Trained parameters by name.
    pub parameters: BTreeMap<String, Var>,
    /// Device of the model.
    pub device: &'a Device,
    /// Seed of all random choices.
    pub seed: u64,
    /// Parts of a batch that are computed in parallel.
    pub shards: usize,
    /// Cached clips that show a single concept, by the index of the concept.
    pub by_concept: BTreeMap<usize, Vec<u64>>,
}

/// Finds the clips among the first `n` of the training split that show a single concept, by the index of the
/// concept.
pub fn by_concept(world: &World, n: usize) -> BTreeMap<usize, Vec<u64>> {
    let mut clips: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
    for i in 0..n as u64 {
        if let [concept] = world.clip(Split::Train, i).scene().fact.concepts()[..] {
            clips.entry(concept).or_default().push(i);
        }
    }
    clips
}

impl Objective for AnswersObjective<'_> {
    fn name(&self) -> &'static str {
        "answers"
    }

    fn parameters(&self) -> BTreeMap<String, Var> {
        self.parameters.clone()
    }

    fn evaluate(&self, step: u64) -> Result<Evaluation> {
        let shards = self.batch(&mut step_rng(self.seed, self.name(), step))?;
        let mut counts = [0usize; DATASETS.len()];
        for sequence in shards.iter().flat_map(|s| &s.sequences) {
            counts[sequence.dataset as usize] += sequence.targets().count();
        }
        let parts = shards.par_iter().map(|s| self.backward(s, &counts)).collect::<Result<Vec<_>>>()?;
        let mut total = Gradients::new();
        let mut losses = [0f64; DATASETS.len()];
        for (gradients, sums) in parts {
            accumulate(&mut total, gradients)?;
            losses.iter_mut().zip(sums).for_each(|(loss, sum)| *loss += sum);
        }
        let mean = |d: Dataset| losses[d as usize] / counts[d as usize].max(1) as f64;
        Ok(Evaluation {
            gradients: total,
            loss: DATASETS.iter().map(|&d| self.config.weights.of(d) * mean(d)).sum(),
            figures: vec![
                ("captions", mean(Dataset::Captions)),
                ("questions", mean(Dataset::Questions)),
                ("episodes", mean(Dataset::Episodes)),
            ],
            examples: shards.iter().map(|s| s.sequences.len()).sum(),
        })
    }
}

impl AnswersObjective<'_> {
    /// Draws the sequences of one update.
    fn batch(&self, rng: &mut StdRng) -> Result<Vec<Shard>> {
        let mut shards: Vec<Shard> = (0..self.shards).map(|_| Shard::default()).collect();
        let n = shards.len();
        for (i, clip) in self.features.draw(self.config.clips, rng).into_iter().enumerate() {
            self.add_clip(&mut shards[i % n], clip, rng)?;
        }
        for i in 0..self.config.episodes {
            self.add_episode(&mut shards[i % n], rng)?;
        }
        shards.retain(|shard| !shard.sequences.is_empty());
        Ok(shards)
    }

    /// Adds one clip with a caption and some of its questions, of as many kinds as possible.
    fn add_clip(&self, shard: &mut Shard, index: u64, rng: &mut StdRng) -> Result<()> {
        let clip = self.world.clip(Split::Train, index);
        let medium = shard.add(index);
        let captions = clip.captions();
        let caption = captions.choose(rng).expect("a clip has a caption");
        shard.sequences.push(self.sequence(
            Dataset::Captions,
            vec![medium],
            caption::prompt(self.format),
            caption,
        )?);
        let mut kinds: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for question in clip.questions() {
            kinds.entry(question.kind).or_default().push(question);
        }
        // Kinds with more possible answers are drawn more often, because they have more to learn: weighted
        // sampling without replacement (Efraimidis and Spirakis 2006).
        let rank = |of: &Vec<Question>, rng: &mut StdRng| {
            let answers = of[0].choices.len().max(self.config.least_answers) as f64;
            let share = if of[0].kind == QuestionKind::Absent { self.config.absent } else { 1.0 };
            rng.random::<f64>().powf(1.0 / (answers * share))
        };
        let mut kinds: Vec<_> = kinds.into_values().map(|of| (rank(&of, rng), of)).collect();
        kinds.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        for asked in 0..self.config.questions.min(2 * kinds.len()) {
            let (_, of) = &kinds[asked % kinds.len()];
            let question = of.choose(rng).expect("a kind has a question");
            let prompt = question::prompt(self.format, &question.question);
            shard.sequences.push(self.sequence(
                Dataset::Questions,
                vec![medium],
                prompt,
                &question.answer,
            )?);
        }
        Ok(())
    }

    /// Adds an episode: two invented words, examples of both in random order, and a query clip that one of
    /// them names.
    fn add_episode(&self, shard: &mut Shard, rng: &mut StdRng) -> Result<()> {
        let concepts: Vec<&Vec<u64>> = self.by_concept.values().filter(|clips| clips.len() > 1).collect();
        let pair: Vec<&&Vec<u64>> = concepts.sample(rng, 2).collect();
        let words: Vec<&&str> = invented(Split::Train).sample(rng, 2).collect();
        let (&[one, other], &[word, another]) = (&pair[..], &words[..]) else { return Ok(()) };
        let shots = rng.random_range(1..=self.config.shots.max(1));
        let mut examples: Vec<usize> = (0..2 * shots).map(|i| i % 2).collect();
        examples.shuffle(rng);
        let asked = (rng.next_u32() % 2) as usize;
        // The clips differ, if there are enough of them, so the query clip is not among its examples.
        let mut clips = [one, other].map(|of| {
            let mut clips: Vec<u64> = of.sample(rng, shots + 1).copied().collect();
            clips.shuffle(rng);
            clips.into_iter().cycle()
        });
        let mut next_clip = |which: usize| clips[which].next().expect("a concept has clips");
        let query = next_clip(asked);
        let (mut media, mut prompt) = (Vec::new(), Prompt::default());
        for &which in &examples {
            media.push(shard.add(next_clip(which)));
            let caption = naming_caption([word, another][which]);
            prompt = prompt.then(self.format.example(caption::prompt(self.format), &caption));
        }
        media.push(shard.add(query));
        let prompt = prompt.then(question::prompt(self.format, NAMING_QUESTION));
        let mut sequence = self.sequence(Dataset::Episodes, media, prompt, [word, another][asked])?;
        let words: Vec<&str> = examples.iter().map(|&which| *[word, another][which]).collect();
        let repeated = self.repeated_words(&sequence.ids, &words)?;
        sequence.answers.splice(0..0, repeated);
        shard.sequences.push(sequence);
        Ok(())
    }

    /// Finds the tokens of each example's word that an earlier example has defined, so that the clip determines it. `words`
    /// are the words of the examples, one after each media token of `ids`.
    fn repeated_words(&self, ids: &[u32], words: &[&str]) -> Result<Vec<Range<usize>>> {
        let markers = (0..ids.len()).filter(|&i| ids[i] == self.model.media_token());
        let (mut defined, mut repeated) = (BTreeSet::new(), Vec::new());
        for (word, start) in words.iter().zip(markers) {
            if !defined.insert(word) {
                let tokens = self.tokenizer.encode_plain(&format!(" {word}"))?;
                let at = ids[start..].windows(tokens.len()).position(|window| window == tokens);
                repeated.extend(at.map(|at| start + at..start + at + tokens.len()));
            }
        }
        Ok(repeated)
    }

    /// Builds a sequence from the prompt, its answer and the end-of-chunk token. The answer is tokenised
    /// separately, because generation also begins after the prompt.
    fn sequence(
        &self,
        dataset: Dataset,
        media: Vec<usize>,
        prompt: Prompt,
        answer: &str,
    ) -> Result<Sequence> {
        let mut ids = prompt.encode(self.tokenizer, self.tokens, media.len())?.ids;
        let start = ids.len();
        ids.extend(self.tokenizer.encode_plain(&format!("{}{answer}", self.format.before_answer))?);
        ids.push(self.tokens.end_of_chunk);
        let answers = std::iter::once(start..ids.len()).collect();
        Ok(Sequence { dataset, media, ids, answers })
    }

    /// Computes the gradients of a shard's share of the loss, and its summed losses per dataset. `counts` are
    /// the answer tokens per dataset in the whole update.
    fn backward(&self, shard: &Shard, counts: &[usize]) -> Result<(Gradients, [f64; DATASETS.len()])> {
        let losses = self.token_losses(shard)?; // (answer tokens)
        let of_tokens = shard
            .sequences
            .iter()
            .flat_map(|sequence| std::iter::repeat_n(sequence.dataset, sequence.targets().count()));
        let datasets: Vec<Dataset> = of_tokens.collect();
        let weight = |d: &Dataset| (self.config.weights.of(*d) / counts[*d as usize] as f64) as f32;
        let weights: Vec<f32> = datasets.iter().map(weight).collect();
        let weights = Tensor::new(weights, losses.device())?;
        let store = (&losses * weights)?.sum_all()?.backward()?;
        let mut sums = [0f64; DATASETS.len()];
        for (dataset, loss) in datasets.iter().zip(losses.to_vec1::<f32>()?) {
            sums[*dataset as usize] += f64::from(loss);
        }
        Ok((gradients(&self.parameters, &store), sums))
    }

    /// Computes minus the log-likelihood of every answer token of the shard, sequence by sequence: (answer
    /// tokens).
    fn token_losses(&self, shard: &Shard) -> Result<Tensor> {
        let (features, lengths) = self.features.batch(&shard.clips, self.device)?;
        let frames: Vec<Tensor> = lengths
            .iter()
            .enumerate()
            .map(|(i, &n)| features.get(i)?.narrow(0, 0, n))
            .collect::<Result<_, _>>()?;
        let tokens = self.model.connect(&Tensor::cat(&frames, 0)?, &lengths)?; // m of (q, d)
        let media = tokens.iter().map(|tokens| self.model.media_kv(tokens)).collect::<Result<Vec<_>>>()?;
        let mut states: Vec<_> = shard
            .sequences
            .iter()
            .map(|sequence| {
                self.model.uncached_row(sequence.media.iter().map(|&i| media[i].clone()).collect())
            })
            .collect();
        // The last token is predicted only, never an input.
        let input_len = |sequence: &'_ Sequence| sequence.ids.len() - 1;
        let mut inputs: Vec<RowInput> = shard
            .sequences
            .iter()
            .zip(&mut states)
            .map(|(sequence, state)| RowInput { ids: &sequence.ids[..input_len(sequence)], state })
            .collect();
        let hidden = self.text_states.forward(&mut inputs)?; // (n, d)
        let (mut places, mut targets, mut start) = (Vec::new(), Vec::<u32>::new(), 0u32);
        for sequence in &shard.sequences {
            places.extend(sequence.targets().map(|i| start + i as u32 - 1));
            targets.extend(sequence.targets().map(|i| sequence.ids[i]));
            start += input_len(sequence) as u32;
        }
        let hidden = hidden.index_select(&Tensor::new(places, self.device)?, 0)?;
        let log_probabilities = candle_nn::ops::log_softmax(&self.model.logits(&hidden)?, D::Minus1)?;
        let targets = Tensor::new(targets, self.device)?.unsqueeze(1)?;
        Ok(log_probabilities.gather(&targets, 1)?.squeeze(1)?.neg()?)
    }
}

impl Shard {
    /// Adds a clip and returns its index in the shard.
    fn add(&mut self, clip: u64) -> usize {
        self.clips.push(clip);
        self.clips.len() - 1
    }
}

//! Stage 2, Flamingo's own (paper, section 3.3 and appendix B.1.2 of its first version): with the encoder and the
//! language model frozen, resampler and gated cross-attention learn to make the answers likely.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::{D, Device, Tensor, Var};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, RngExt};
use rayon::prelude::*;

use super::config::{AnswersConfig, DatasetWeights};
use super::contrastive::rng_of;
use super::features::FeatureCache;
use super::optimiser::{Gradients, accumulate, gradients};
use super::run::{Evaluation, Objective};
use super::spriteworld::clip::{NAME_IT, naming};
use super::spriteworld::questions::Question;
use super::spriteworld::words::INVENTED;
use super::spriteworld::{Split, World};
use crate::error::Result;
use crate::language::Tokenizer;
use crate::model::{Flamingo, RowInput};
use crate::prompt::{Prompt, PromptFormat, PromptTokens};

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

/// One sequence to learn.
struct Row {
    dataset: Dataset,
    /// Clips it sees, by their place in the shard.
    media: Vec<usize>,
    ids: Vec<u32>,
    /// The tokens whose loss counts.
    answer: Range<usize>,
}

/// Clips with all rows that see them: the visual tokens of each are made once.
#[derive(Default)]
struct Shard {
    clips: Vec<u64>,
    rows: Vec<Row>,
}

/// The stage's objective.
pub struct Answers<'a> {
    pub world: &'a World,
    pub config: &'a AnswersConfig,
    pub features: &'a FeatureCache,
    pub model: &'a Flamingo,
    pub tokenizer: &'a Tokenizer,
    pub tokens: &'a PromptTokens,
    pub format: &'a PromptFormat,
    pub parameters: BTreeMap<String, Var>,
    pub device: &'a Device,
    pub seed: u64,
    pub shards: usize,
    /// Cached clips that show one kind of thing, by the concept's number.
    pub by_concept: BTreeMap<usize, Vec<u64>>,
}

/// Clips among the first `n` of the training split that show one kind of thing, by its number.
pub fn by_concept(world: &World, n: usize) -> BTreeMap<usize, Vec<u64>> {
    let mut clips: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
    for i in 0..n as u64 {
        if let [concept] = world.clip(Split::Train, i).scene().fact.concepts()[..] {
            clips.entry(concept).or_default().push(i);
        }
    }
    clips
}

impl Objective for Answers<'_> {
    fn name(&self) -> &'static str {
        "answers"
    }

    fn parameters(&self) -> BTreeMap<String, Var> {
        self.parameters.clone()
    }

    fn evaluate(&self, step: u64) -> Result<Evaluation> {
        let shards = self.batch(&mut rng_of(self.seed, self.name(), step))?;
        let mut counts = [0usize; DATASETS.len()];
        for row in shards.iter().flat_map(|s| &s.rows) {
            counts[row.dataset as usize] += row.answer.len();
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
            examples: shards.iter().map(|s| s.rows.len()).sum(),
        })
    }
}

impl Answers<'_> {
    /// The rows of one update.
    fn batch(&self, rng: &mut StdRng) -> Result<Vec<Shard>> {
        let mut shards: Vec<Shard> = (0..self.shards).map(|_| Shard::default()).collect();
        let n = shards.len();
        for (i, clip) in self.features.draw(self.config.clips, rng).into_iter().enumerate() {
            self.add_clip(&mut shards[i % n], clip, rng)?;
        }
        for i in 0..self.config.episodes {
            self.add_episode(&mut shards[i % n], rng)?;
        }
        shards.retain(|shard| !shard.rows.is_empty());
        Ok(shards)
    }

    /// One clip with its caption and some of its questions, of as many kinds as there are.
    fn add_clip(&self, shard: &mut Shard, index: u64, rng: &mut StdRng) -> Result<()> {
        let clip = self.world.clip(Split::Train, index);
        let place = shard.add(index);
        let captions = clip.captions();
        let caption = captions.choose(rng).expect("a clip has a caption");
        shard.rows.push(self.row(Dataset::Captions, vec![place], self.format.ask_caption(), caption)?);
        let mut kinds: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for question in clip.questions() {
            kinds.entry(question.kind).or_default().push(question);
        }
        // The more answers are possible, the more there is to learn: a kind comes as often as it has answers (weighted
        // sampling without replacement, Efraimidis and Spirakis 2006).
        let rank = |of: &Vec<Question>, rng: &mut StdRng| {
            rng.random::<f64>().powf(1.0 / of[0].choices.len().max(self.config.least_answers) as f64)
        };
        let mut kinds: Vec<_> = kinds.into_values().map(|of| (rank(&of, rng), of)).collect();
        kinds.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        for asked in 0..self.config.questions.min(2 * kinds.len()) {
            let (_, of) = &kinds[asked % kinds.len()];
            let question = of.choose(rng).expect("a kind has a question");
            let prompt = self.format.ask_question(&question.question);
            shard.rows.push(self.row(Dataset::Questions, vec![place], prompt, &question.answer)?);
        }
        Ok(())
    }

    /// Two invented words, examples of both in any order, and a clip to be named by one of them.
    fn add_episode(&self, shard: &mut Shard, rng: &mut StdRng) -> Result<()> {
        let concepts: Vec<&Vec<u64>> = self.by_concept.values().filter(|clips| clips.len() > 1).collect();
        let things: Vec<&&Vec<u64>> = concepts.sample(rng, 2).collect();
        let words: Vec<&&str> = INVENTED.sample(rng, 2).collect();
        let (&[one, other], &[word, another]) = (&things[..], &words[..]) else { return Ok(()) };
        let shots = rng.random_range(1..=self.config.shots.max(1));
        let mut examples: Vec<usize> = (0..2 * shots).map(|i| i % 2).collect();
        examples.shuffle(rng);
        let asked = (rng.next_u32() % 2) as usize;
        // Different clips, as far as there are enough: what is asked about is none of its examples.
        let mut clips = [one, other].map(|of| {
            let mut clips: Vec<u64> = of.sample(rng, shots + 1).copied().collect();
            clips.shuffle(rng);
            clips.into_iter().cycle()
        });
        let mut pick = |which: usize| clips[which].next().expect("a thing has clips");
        let query = pick(asked);
        let (mut media, mut prompt) = (Vec::new(), Prompt::default());
        for which in examples {
            media.push(shard.add(pick(which)));
            let caption = naming([word, another][which]);
            prompt = prompt.then(self.format.example(self.format.ask_caption(), &caption));
        }
        media.push(shard.add(query));
        let prompt = prompt.then(self.format.ask_question(NAME_IT));
        shard.rows.push(self.row(Dataset::Episodes, media, prompt, [word, another][asked])?);
        Ok(())
    }

    /// The prompt with its answer and the end of the chunk. The answer is tokenised alone, as the model writes it.
    fn row(&self, dataset: Dataset, media: Vec<usize>, prompt: Prompt, answer: &str) -> Result<Row> {
        let mut ids = prompt.encode(self.tokenizer, self.tokens, media.len())?;
        let start = ids.len();
        ids.extend(self.tokenizer.encode_plain(&format!("{}{answer}", self.format.before_answer))?);
        ids.push(self.tokens.end_of_chunk);
        let answer = start..ids.len();
        Ok(Row { dataset, media, ids, answer })
    }

    /// Gradients of a shard's share of the loss, and its summed losses per dataset. `counts` are the answer tokens per
    /// dataset in the whole update.
    fn backward(&self, shard: &Shard, counts: &[usize]) -> Result<(Gradients, [f64; DATASETS.len()])> {
        let losses = self.token_losses(shard)?; // (answer tokens)
        let rows = shard.rows.iter().flat_map(|row| std::iter::repeat_n(row.dataset, row.answer.len()));
        let datasets: Vec<Dataset> = rows.collect();
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

    /// Minus the log-likelihood of every answer token of the shard, row by row.
    fn token_losses(&self, shard: &Shard) -> Result<Tensor> {
        let (features, lengths) = self.features.batch(&shard.clips, self.device)?;
        let frames: Vec<Tensor> = lengths
            .iter()
            .enumerate()
            .map(|(i, &n)| features.get(i)?.narrow(0, 0, n))
            .collect::<Result<_, _>>()?;
        let tokens = self.model.resample(&Tensor::cat(&frames, 0)?, &lengths)?; // (m, q, d)
        let media =
            (0..lengths.len()).map(|i| self.model.media_kv(&tokens.get(i)?)).collect::<Result<Vec<_>>>()?;
        let mut states: Vec<_> = shard
            .rows
            .iter()
            .map(|row| self.model.uncached_row(row.media.iter().map(|&i| media[i].clone()).collect()))
            .collect();
        // The last token is predicted, never read.
        let read = |row: &'_ Row| row.ids.len() - 1;
        let mut inputs: Vec<RowInput> = shard
            .rows
            .iter()
            .zip(&mut states)
            .map(|(row, state)| RowInput { ids: &row.ids[..read(row)], state })
            .collect();
        let hidden = self.model.forward(&mut inputs, None, None)?; // (n, d)
        let (mut places, mut targets, mut start) = (Vec::new(), Vec::<u32>::new(), 0u32);
        for row in &shard.rows {
            places.extend(row.answer.clone().map(|i| start + i as u32 - 1));
            targets.extend(&row.ids[row.answer.clone()]);
            start += read(row) as u32;
        }
        let hidden = hidden.index_select(&Tensor::new(places, self.device)?, 0)?;
        let log_probabilities = candle_nn::ops::log_softmax(&self.model.logits(&hidden)?, D::Minus1)?;
        let targets = Tensor::new(targets, self.device)?.unsqueeze(1)?;
        Ok(log_probabilities.gather(&targets, 1)?.squeeze(1)?.neg()?)
    }
}

impl Shard {
    /// The clip's place in the shard.
    fn add(&mut self, clip: u64) -> usize {
        self.clips.push(clip);
        self.clips.len() - 1
    }
}

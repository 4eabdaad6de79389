//! Metrics of the benchmarks in Flamingo's paper, as pure functions of texts and numbers.
//!
//! | metric | benchmarks | reference |
//! |---|---|---|
//! | [`vqa_accuracy`] | VQAv2, OK-VQA, TextVQA, VizWiz | `vqaEval.py`, in open_flamingo 2.0.1 |
//! | [`OkVqaStemmer`] before [`vqa_accuracy`] | OK-VQA | `ok_vqa_utils.py` in open_flamingo 2.0.1, but for its tagger |
//! | [`exact_match`] | MSVD-QA, MSRVTT-QA | the normalisation of VQA accuracy |
//! | [`ivqa_accuracy`] | iVQA | Just Ask (arXiv 2012.00451) |
//! | [`cider`] | COCO, Flickr30k, VATEX, YouCook2 | pycocoevalcap 1.2 with its tokenizer ([`caption_words`]) |
//! | [`roc_auc`] | Hateful Memes | scikit-learn |
//! | [`top_1_accuracy`] | Kinetics, ImageNet, STAR, NExT-QA (multiple choice) | the share of right answers |
//! | [`WordNet::wups`] | NExT-QA (open answers) | `metrics.py` of NExT-OE with nltk 3.10's WordNet |
//! | [`ndcg`], [`mean_reciprocal_rank`], [`mean_rank`], [`recall_at`] | VisDial; retrieval | VisDial's starter code |
//!
//! `tests/parity/metrics.rs` compares them with their references. Scores are shares from 0 to 1, where papers print
//! per cent; [`cider`] is the only other scale.

mod error;
mod ptb;
mod answers;
mod classification;
mod ranking;
mod cider;
mod wordnet;
mod ok_vqa;

pub use answers::{exact_match, ivqa_accuracy, normalise_answer, vqa_accuracy};
pub use cider::{CaptionedItem, Cider, cider};
pub use classification::{roc_auc, top_1_accuracy};
pub use error::MetricError;
pub use ok_vqa::OkVqaStemmer;
pub use ptb::caption_words;
pub use ranking::{mean_rank, mean_reciprocal_rank, ndcg, rank, recall_at};
pub use wordnet::{WordNet, WordNetError};

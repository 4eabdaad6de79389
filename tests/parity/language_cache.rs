//! Cached = uncached, batch = single, forked = alone: the same ids, log-likelihoods within 1e-5 relative (f32).

use candle_core::Tensor;
use flamingo::language::{KvCache, LanguageModel};
use flamingo::weights::Quantization;
use support::golden;
use support::language_model::{best, log_likelihoods, logits};

use crate::language::{exact, load};

const TOLERANCE: f32 = 1e-5;

/// Rows of different lengths, below the smaller vocabulary.
const ROWS: [&[u32]; 3] = [
    &[17, 3, 88, 41, 5, 99, 12],
    &[64, 9, 30, 77, 2, 51, 8, 93, 26, 14, 70, 33, 60, 19, 84, 45, 7],
    &[29, 100, 11],
];

fn check(what: &str, ids: &[u32], got: &Tensor, want: &Tensor) {
    assert_eq!(best(got).unwrap(), best(want).unwrap(), "{what}: best ids");
    let (got, want) = (log_likelihoods(got, ids).unwrap(), log_likelihoods(want, ids).unwrap());
    let errors = got.iter().zip(&want).map(|(a, b)| (a - b).abs() / b.abs());
    println!("{what}: worst relative error {:.1e}", errors.fold(0.0, f32::max));
    for (i, (a, b)) in got.iter().zip(&want).enumerate() {
        let error = (a - b).abs() / b.abs();
        assert!(
            error <= TOLERANCE,
            "{what}: log-likelihood of token {}: {a} and {b}, relative {error:e}",
            i + 1
        );
    }
}

fn models(run: impl Fn(&str, &dyn LanguageModel)) {
    run("tiny", &*load(&golden::folder().join("tiny_llama"), Quantization::Keep).0);
    run("smollm2", &*exact().0);
}

fn uncached(model: &dyn LanguageModel, ids: &[u32]) -> Tensor {
    logits(model, vec![(ids, &mut KvCache::off(&model.cache_shape()))]).unwrap()
}

/// Feeds `ids` in chunks of the given lengths and joins their logits.
fn feed(model: &dyn LanguageModel, cache: &mut KvCache, ids: &[u32], chunks: &[usize]) -> Tensor {
    let mut rest = ids;
    let mut parts = Vec::new();
    for &len in chunks {
        let (chunk, later) = rest.split_at(len);
        parts.push(logits(model, vec![(chunk, &mut *cache)]).unwrap());
        rest = later;
    }
    assert!(rest.is_empty(), "the chunks cover the row");
    Tensor::cat(&parts, 0).unwrap()
}

#[test]
fn cached_equals_uncached() {
    models(|name, model| {
        let ids = ROWS[1];
        let want = uncached(model, ids);
        for chunks in [vec![17], vec![5, 11, 1], vec![1, 2, 14], vec![1; 17]] {
            let mut cache = KvCache::new(&model.cache_shape(), 23).unwrap();
            let got = feed(model, &mut cache, ids, &chunks);
            check(&format!("{name} in chunks {chunks:?}"), ids, &got, &want);
            assert_eq!((cache.len(), cache.room()), (17, 6));
        }
    });
}

#[test]
fn batch_equals_single() {
    models(|name, model| {
        let mut caches: Vec<_> = (0..3).map(|_| KvCache::new(&model.cache_shape(), 20).unwrap()).collect();
        // The second row is ahead by 4 tokens: prefill and continuation share a pass.
        let head = logits(model, vec![(&ROWS[1][..4], &mut caches[1])]).unwrap();
        let chunks = [ROWS[0], &ROWS[1][4..], ROWS[2]];
        let packed = logits(model, chunks.into_iter().zip(&mut caches).collect()).unwrap();
        let mut start = 0;
        for (i, (row, chunk)) in ROWS.iter().zip(chunks).enumerate() {
            let mut got = packed.narrow(0, start, chunk.len()).unwrap();
            if i == 1 {
                got = Tensor::cat(&[&head, &got], 0).unwrap();
            }
            check(&format!("{name}, row {i} of a batch"), row, &got, &uncached(model, row));
            start += chunk.len();
        }
    });
}

#[test]
fn forked_and_frozen_equal_alone() {
    models(|name, model| {
        let (prefix, ends) = (&ROWS[1][..9], [&ROWS[0][..5], &ROWS[1][9..], ROWS[2]]);
        for freeze in [false, true] {
            let mut trunk = KvCache::new(&model.cache_shape(), 30).unwrap();
            let head = feed(model, &mut trunk, prefix, &[4, 5]);
            if freeze {
                trunk.freeze(12).unwrap();
            }
            let mut forks: Vec<_> = ends.iter().map(|_| trunk.fork().unwrap()).collect();
            for (end, fork) in ends.iter().zip(&mut forks) {
                let tail = feed(model, fork, end, &[2, end.len() - 2]);
                let row = [prefix, end].concat();
                let got = Tensor::cat(&[&head, &tail], 0).unwrap();
                check(&format!("{name}, fork (freeze: {freeze})"), &row, &got, &uncached(model, &row));
            }
            assert_eq!(trunk.len(), 9, "forks leave the trunk alone");
        }
    });
}

#[test]
fn a_full_cache_refuses_more() {
    let model = load(&golden::folder().join("tiny_llama"), Quantization::Keep).0;
    let mut cache = KvCache::new(&model.cache_shape(), 5).unwrap();
    let error = logits(&*model, vec![(&ROWS[0][..6], &mut cache)]).unwrap_err().to_string();
    assert_eq!(error, "prompt: 6 more tokens do not fit the row: it has room for 5");
    let mut cache = KvCache::new(&model.cache_shape(), 200).unwrap();
    let error = logits(&*model, vec![(&[9; 161], &mut cache)]).unwrap_err().to_string();
    assert_eq!(error, "prompt: a row of 161 tokens exceeds the 160 positions of the model");
}

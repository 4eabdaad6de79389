//! Cached = uncached, batch = single, forked = independent: the same ids, log-likelihoods within 1e-5 relative (f32).

use candle_core::Tensor;
use flamingo::language::{KvCache, KvPool, LanguageModel};
use flamingo::weights::Quantization;
use support::golden;
use support::language_model::{best, log_likelihoods, logits};

use crate::language::{exact, load};
use crate::language_models::{self, MODELS};

/// Relative error of the log-likelihood of a row.
const TOLERANCE: f64 = 1e-5;

/// Error of the log-likelihood of one token, relative to the largest logit of its row: the log-likelihood is a difference of
/// logits, so its rounding error grows with them and not with itself. Measured: 5.7e-7 for `tiny`, 6.4e-7 for `smollm2`.
const TOKEN_TOLERANCE: f64 = 3e-6;

/// Rows of different lengths, with ids below the smaller vocabulary.
const ROWS: [&[u32]; 3] = [
    &[17, 3, 88, 41, 5, 99, 12],
    &[64, 9, 30, 77, 2, 51, 8, 93, 26, 14, 70, 33, 60, 19, 84, 45, 7],
    &[29, 100, 11],
];

fn check(what: &str, ids: &[u32], got: &Tensor, want: &Tensor) {
    assert_eq!(best(got).unwrap(), best(want).unwrap(), "{what}: best ids");
    let largest = f64::from(want.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap());
    let of = |logits| log_likelihoods(logits, ids).unwrap().into_iter().map(f64::from).collect::<Vec<_>>();
    let (got, want) = (of(got), of(want));
    let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / largest;
    let (total, expected) = (got.iter().sum::<f64>(), want.iter().sum::<f64>());
    let relative = ((total - expected) / expected).abs();
    println!("{what}: {relative:.1e} of the row, worst token {worst:.1e} of the largest logit {largest:.1}");
    assert!(relative <= TOLERANCE, "{what}: log-likelihoods {total} and {expected}, relative {relative:e}");
    assert!(worst <= TOKEN_TOLERANCE, "{what}: tokens {got:?} and {want:?}, {worst:e} of {largest}");
}

/// Runs a check for every architecture, and for a whole model.
fn models(run: impl Fn(&str, &dyn LanguageModel)) {
    for name in MODELS {
        run(name, &*load(&language_models::folder(name), Quantization::Keep).0);
    }
    run("tiny", &*load(&golden::folder().join("tiny_llama"), Quantization::Keep).0);
    run("smollm2", &*exact().0);
}

fn pool(model: &dyn LanguageModel, blocks: usize) -> KvPool {
    KvPool::new(&model.sizes().cache, blocks).unwrap()
}

fn uncached(model: &dyn LanguageModel, ids: &[u32]) -> Tensor {
    logits(model, vec![(ids, &mut KvCache::off())]).unwrap()
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
            let mut cache = KvCache::new(&pool(model, 2));
            let got = feed(model, &mut cache, ids, &chunks);
            check(&format!("{name} in chunks {chunks:?}"), ids, &got, &want);
            assert_eq!(cache.len(), 17);
        }
    });
}

#[test]
fn batch_equals_single() {
    models(|name, model| {
        let pool = pool(model, 4);
        let mut caches: Vec<_> = (0..3).map(|_| KvCache::new(&pool)).collect();
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

/// Rows of many lengths decode token by token, in one pass each time: rows of similar length attend in one product.
#[test]
fn batched_decode_steps_equal_single() {
    models(|name, model| {
        let pool = pool(model, 20);
        let row =
            |i: usize, n: usize| (0..n).map(|j| ((7 * i + 13 * j + 5 * i * j) % 97 + 1) as u32).collect();
        let rows: Vec<Vec<u32>> = [9, 30, 12, 110, 31].iter().enumerate().map(|(i, &n)| row(i, n)).collect();
        let mut caches: Vec<_> = rows.iter().map(|_| KvCache::new(&pool)).collect();
        let split = |row: &[u32]| row.len() - 4;
        let mut got: Vec<Vec<Tensor>> = rows
            .iter()
            .zip(&mut caches)
            .map(|(row, cache)| vec![feed(model, cache, &row[..split(row)], &[split(row)])])
            .collect();
        for step in 0..4 {
            let next = rows.iter().map(|row| &row[split(row) + step..][..1]);
            let logits = logits(model, next.zip(&mut caches).collect()).unwrap();
            got.iter_mut().enumerate().for_each(|(i, got)| got.push(logits.narrow(0, i, 1).unwrap()));
        }
        for (i, (row, got)) in rows.iter().zip(got).enumerate() {
            let got = Tensor::cat(&got, 0).unwrap();
            check(&format!("{name}, row {i} of five"), row, &got, &uncached(model, row));
        }
    });
}

#[test]
fn forked_equals_independent() {
    models(|name, model| {
        for split in [9, 16] {
            let (prefix, ends) = (&ROWS[1][..split], [&ROWS[0][..5], &ROWS[1][split..], ROWS[2]]);
            let pool = pool(model, 8);
            let mut trunk = KvCache::new(&pool);
            let head = feed(model, &mut trunk, prefix, &[4, split - 4]);
            let mut forks: Vec<_> = ends.iter().map(|_| trunk.clone()).collect();
            // All of them at once, so that each copies what they share.
            let first = logits(model, ends.iter().map(|end| &end[..1]).zip(&mut forks).collect()).unwrap();
            for (i, (end, fork)) in ends.iter().zip(&mut forks).enumerate() {
                let mut parts = vec![head.clone(), first.narrow(0, i, 1).unwrap()];
                if end.len() > 1 {
                    parts.push(feed(model, fork, &end[1..], &[end.len() - 1]));
                }
                let row = [prefix, end].concat();
                let got = Tensor::cat(&parts, 0).unwrap();
                check(&format!("{name}, fork {i} after {split}"), &row, &got, &uncached(model, &row));
            }
            assert_eq!(trunk.len(), split, "forks do not change the trunk");
            drop((trunk, forks));
            assert_eq!(pool.free_blocks(), 8, "all blocks are returned");
        }
    });
}

#[test]
fn full_cache_refuses_more() {
    let model = load(&golden::folder().join("tiny_llama"), Quantization::Keep).0;
    let mut cache = KvCache::new(&pool(&*model, 1));
    let error = logits(&*model, vec![(ROWS[1], &mut cache)]).unwrap_err().to_string();
    assert_eq!(error, "budget: 17 more tokens do not fit: all 1 blocks of 16 tokens are in use");
    let mut cache = KvCache::new(&pool(&*model, 11));
    let error = logits(&*model, vec![(&[9; 161], &mut cache)]).unwrap_err().to_string();
    assert_eq!(error, "prompt: a row of 161 tokens exceeds the 160 positions of the model");
}

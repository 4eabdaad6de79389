//! Attention bias and the outputs of single heads, against attention over one dense mask.

use std::cell::RefCell;

use super::*;
use crate::kernels::finite_differences::random;

const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const WIDTH: usize = 8;
const SCALE: f64 = 0.4;

fn shape() -> CacheShape {
    CacheShape { layers: 1, heads: KV_HEADS, width: WIDTH, dtype: DType::F32, device: Device::Cpu }
}

/// Queries, keys and values of row `row`, tokens `range`.
fn qkv(row: usize, range: Range<usize>) -> (Tensor, Tensor, Tensor) {
    let part = |name: &str, heads: usize| {
        random(&format!("{name} {row}"), &[heads, 40, WIDTH]).narrow(1, range.start, range.len()).unwrap()
    };
    (part("q", HEADS), part("k", KV_HEADS), part("v", KV_HEADS))
}

/// Causal attention of a whole row with ALiBi, head by head in plain operations: (h, n, d).
fn dense(row: usize, n: usize, slopes: &[f32]) -> Tensor {
    let (q, k, v) = qkv(row, 0..n);
    let heads: Vec<Tensor> = (0..HEADS)
        .map(|head| {
            let of = |x: &Tensor| x.get(head / (HEADS / KV_HEADS)).unwrap();
            let scores = q.get(head).unwrap().matmul(&of(&k).t().unwrap()).unwrap();
            let bias = |i: usize, j: usize| match j <= i {
                true => -slopes[head] * (i - j) as f32,
                false => f32::NEG_INFINITY,
            };
            let bias: Vec<f32> = (0..n * n).map(|at| bias(at / n, at % n)).collect();
            let bias = Tensor::from_vec(bias, (n, n), &Device::Cpu).unwrap();
            let scores = ((scores * SCALE).unwrap() + bias).unwrap();
            candle_nn::ops::softmax(&scores, 1).unwrap().matmul(&of(&v)).unwrap()
        })
        .collect();
    Tensor::stack(&heads, 0).unwrap()
}

/// Attends with the new tokens of some rows: (row, tokens).
fn attend(rows: &[(usize, Range<usize>)], caches: &mut [KvCache], bias: &AttentionBias) -> Tensor {
    let parts: Vec<_> = rows.iter().map(|(row, range)| qkv(*row, range.clone())).collect();
    let join = |part: fn(&(Tensor, Tensor, Tensor)) -> &Tensor| {
        Tensor::cat(&parts.iter().map(part).collect::<Vec<_>>(), 1).unwrap()
    };
    let (q, k, v) = (join(|p| &p.0), join(|p| &p.1), join(|p| &p.2));
    let inputs = rows.iter().zip(caches).map(|((_, range), cache)| (range.len(), cache));
    let observed = RefCell::new(Vec::new());
    let observer = |layer: usize, heads: &Tensor| {
        observed.borrow_mut().push((layer, heads.clone()));
        Ok(())
    };
    let batch = PackedBatch::new(inputs, &shape()).unwrap().with_head_observer(&observer);
    let out = batch.attend(0, (&q, &k, &v), SCALE, bias).unwrap();
    batch.advance();
    let [(layer, heads)] = &observed.borrow()[..] else { panic!("one layer has one observation") };
    assert_eq!((*layer, heads.dims()), (0, out.dims()));
    close(heads, &out, "observed heads");
    out
}

fn close(got: &Tensor, expected: &Tensor, what: &str) {
    let apart = (got - expected).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(apart < 1e-5, "{what}: {apart:.1e}");
}

#[test]
fn alibi_equals_dense_reference() {
    let slopes = alibi_slopes(HEADS, 8.0, AlibiHeads::NextPowerOfTwo);
    let bias = AttentionBias::alibi(&slopes, DType::F32, &Device::Cpu).unwrap();
    assert_eq!(slopes, [0.25, 0.0625, 0.015625, 0.00390625]);
    let expected: Vec<Tensor> = [11, 30].iter().enumerate().map(|(row, &n)| dense(row, n, &slopes)).collect();
    let part = |row: usize, range: Range<usize>| expected[row].narrow(1, range.start, range.len()).unwrap();

    let mut uncached = [KvCache::off()];
    close(&attend(&[(0, 0..11)], &mut uncached, &bias), &part(0, 0..11), "uncached");

    let pool = KvPool::new(&shape(), 4).unwrap();
    let mut caches = [KvCache::new(&pool), KvCache::new(&pool)];
    let prefill = attend(&[(0, 0..9), (1, 0..28)], &mut caches, &bias);
    close(&prefill, &Tensor::cat(&[part(0, 0..9), part(1, 0..28)], 1).unwrap(), "prefill");
    for step in 0..2 {
        let (short, long) = (9 + step, 28 + step);
        let got = attend(&[(0, short..short + 1), (1, long..long + 1)], &mut caches, &bias);
        let expected = Tensor::cat(&[part(0, short..short + 1), part(1, long..long + 1)], 1).unwrap();
        close(&got, &expected, "decode step");
    }
}

/// Rows that share a prefix attend to it in one product, also with several new tokens each, with and without ALiBi. A row that
/// shares its prefix with no other one gets the same bits.
#[test]
fn rows_after_a_prefix_equal_dense_reference() {
    let alibi = alibi_slopes(HEADS, 8.0, AlibiHeads::NextPowerOfTwo);
    for (slopes, bias) in [
        (vec![0.0; HEADS], AttentionBias::None),
        (alibi.clone(), AttentionBias::alibi(&alibi, DType::F32, &Device::Cpu).unwrap()),
    ] {
        let expected = dense(0, 31, &slopes);
        let part = |range: Range<usize>| expected.narrow(1, range.start, range.len()).unwrap();
        let pool = KvPool::new(&shape(), 9).unwrap();
        let mut row = KvCache::new(&pool);
        let mut alone = KvCache::new(&pool);
        for row in [&mut row, &mut alone] {
            attend(&[(0, 0..18)], std::slice::from_mut(row), &bias);
            row.end_prefix();
        }
        let mut rows = [row.clone(), row];
        let got = attend(&[(0, 18..25), (0, 18..22)], &mut rows, &bias);
        close(&got, &Tensor::cat(&[part(18..25), part(18..22)], 1).unwrap(), "prefill after the prefix");
        let got = attend(&[(0, 25..26), (0, 22..23)], &mut rows, &bias);
        close(&got, &Tensor::cat(&[part(25..26), part(22..23)], 1).unwrap(), "decode step after the prefix");
        // More tokens after the prefix than in it: each row attends alone, or padded.
        let got = attend(&[(0, 26..30), (0, 23..29)], &mut rows, &bias);
        close(&got, &Tensor::cat(&[part(26..30), part(23..29)], 1).unwrap(), "long rows");
        let got = attend(&[(0, 30..31), (0, 29..30)], &mut rows, &bias);
        close(&got, &Tensor::cat(&[part(30..31), part(29..30)], 1).unwrap(), "decode step of long rows");

        drop(rows);
        // `other` keeps the last block of `shared` from being its own.
        let mut shared = KvCache::new(&pool);
        attend(&[(0, 0..18)], std::slice::from_mut(&mut shared), &bias);
        let other = shared.clone();
        shared.end_prefix();
        let of = |row: KvCache| attend(&[(0, 18..25)], &mut [row], &bias).to_vec3::<f32>().unwrap();
        assert_eq!(of(shared), of(alone), "shared or not");
        drop(other);
    }
}

#[test]
fn slopes_of_six_heads_are_those_of_the_paper() {
    let expected = [2, 4, 6, 8, 1, 3].map(|exponent| 0.5f32.powi(exponent));
    assert_eq!(alibi_slopes(6, 8.0, AlibiHeads::NextPowerOfTwo), expected);
}

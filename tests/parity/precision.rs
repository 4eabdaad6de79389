//! Difference of other number formats to f32, on a trained model: SmolLM2, whose file of 4 bits dequantised is the f32 model.
//! The table of `docs/models.md` is what this test prints.

use std::collections::HashMap;

use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use candle_core::{D, DType, Device, Tensor};
use flamingo::language::{self, KvCache, LanguageModel, LanguageSource, gguf};
use flamingo::weights::{Quantization, Rename, Weights};
use support::golden::{Golden, relative_error};
use support::language_model::{best, logits, smollm2};
use support::target;

use crate::language::exact;
use crate::language_models::{self, MODELS};

/// Returns the dense tensors of SmolLM2, under our names.
fn dequantised() -> HashMap<String, Tensor> {
    let mut file = std::fs::File::open(smollm2()).unwrap();
    let content = gguf_file::Content::read(&mut file).unwrap();
    let tensor = |name: &String| {
        let Rename::To(ours) = gguf::llama_names(name) else { panic!("{name} has a name of ours") };
        let tensor =
            content.tensor(&mut std::fs::File::open(smollm2()).unwrap(), name, &Device::Cpu).unwrap();
        (ours, tensor.dequantize(&Device::Cpu).unwrap())
    };
    content.tensor_infos.keys().map(tensor).collect()
}

/// Rounds a matrix as Q4_K does. Its rows of 576 weights do not divide into blocks of 256, so blocks run over their ends.
fn rounded(tensor: &Tensor) -> Tensor {
    let blocks = tensor.reshape(((), 256)).unwrap();
    let blocks = QTensor::quantize(&blocks, GgmlDType::Q4K).unwrap().dequantize(&Device::Cpu).unwrap();
    blocks.reshape(tensor.dims()).unwrap()
}

/// Prints a row of the table. Returns the relative error of the logits, the mean KL divergence in nats and the part of equal best
/// ids.
fn measure(what: &str, model: &dyn LanguageModel) -> (f64, f64, f64) {
    let golden = Golden::load("language_smollm2");
    let (mut worst, mut divergence, mut agree, mut n) = (0f64, 0.0, 0, 0);
    for prompt in ["short", "middle", "long"] {
        let ids: Vec<u32> = golden.tensor(&format!("{prompt}.ids")).to_vec1().unwrap();
        let run = |model: &dyn LanguageModel| logits(model, vec![(&ids, &mut KvCache::off())]).unwrap();
        let (want, got) = (run(&*exact().0), run(model));
        worst = worst.max(relative_error(&got, &want));
        let log_softmax = |x: &Tensor| x.broadcast_sub(&x.log_sum_exp(D::Minus1)?.unsqueeze(1)?);
        let (p, q) = (log_softmax(&want).unwrap(), log_softmax(&got).unwrap());
        let sum = (p.exp().unwrap() * (p - q).unwrap()).unwrap().sum_all().unwrap();
        divergence += f64::from(sum.to_scalar::<f32>().unwrap());
        agree += best(&want).unwrap().iter().zip(best(&got).unwrap()).filter(|(a, b)| **a == *b).count();
        n += ids.len();
    }
    let mean = divergence / n as f64;
    println!("| {what} | {worst:.1e} | {mean:.1e} | {agree} of {n} |");
    (worst, mean, agree as f64 / n as f64)
}

#[test]
fn smollm2_in_other_formats_stays_close() {
    let tensors = dequantised();
    let source = LanguageSource::open(&smollm2()).unwrap();
    let build = |tensors: &HashMap<String, Tensor>, dtype, quantization| {
        let weights = Weights::from_tensors("smollm2", tensors.clone(), target::device(), dtype);
        language::build(source.config(), &weights.quantized(quantization)).unwrap()
    };
    println!("| format | logits | mean KL | best ids equal |\n|---|---|---|---|");
    let bf16 = measure("bf16", &*build(&tensors, DType::BF16, Quantization::Dequantize));
    let f16 = measure("f16", &*build(&tensors, DType::F16, Quantization::Dequantize));
    let q8_0 = measure("q8_0", &*build(&tensors, DType::F32, Quantization::Q8_0));
    let q4k = measure("q4k, where the rows divide", &*build(&tensors, DType::F32, Quantization::Q4K));
    let with_rounded = |round: &dyn Fn(&str) -> bool| {
        let matrices = tensors.iter().map(|(name, tensor)| match tensor.rank() == 2 && round(name) {
            true => (name.clone(), rounded(tensor)),
            false => (name.clone(), tensor.clone()),
        });
        build(&matrices.collect(), DType::F32, Quantization::Dequantize)
    };
    let layers = measure("q4k, all matrices of the layers", &*with_rounded(&|name| name.contains("layers.")));
    let all = measure("q4k, the embedding too", &*with_rounded(&|_| true));
    for (what, (logits, divergence, agree), limits) in [
        ("bf16", bf16, (0.1, 0.02, 0.9)),
        ("f16", f16, (0.02, 1e-3, 0.95)),
        ("q8_0", q8_0, (0.05, 5e-3, 0.9)),
        ("q4k", q4k, (0.3, 0.1, 0.7)),
        ("q4k of the layers", layers, (0.3, 0.1, 0.7)),
        ("q4k of all", all, (0.4, 0.2, 0.6)),
    ] {
        assert!(logits < limits.0, "{what}: logits {logits:.1e}");
        assert!(divergence.abs() < limits.1, "{what}: KL {divergence:.1e}");
        assert!(agree >= limits.2, "{what}: {agree} of the best ids equal");
    }
}

/// Every architecture computes in half precision.
#[test]
fn half_precision_of_every_architecture_stays_close() {
    for name in MODELS {
        let golden = Golden::load(&format!("language/{name}"));
        let ids: Vec<u32> = golden.tensor("usual.ids").to_vec1().unwrap();
        for (dtype, allowed) in [(DType::BF16, 0.15), (DType::F16, 0.03)] {
            let (model, _) =
                language::load(&language_models::folder(name), target::device(), dtype, Quantization::Keep)
                    .unwrap();
            let got = logits(&*model, vec![(&ids, &mut KvCache::off())]).unwrap();
            let error = relative_error(&got, golden.tensor("usual.logits"));
            println!("{name} in {dtype:?}: logits {error:.1e}");
            assert!(error < allowed, "{name} in {dtype:?}: logits {error:.1e}");
        }
    }
}

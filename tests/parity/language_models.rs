//! Parity of every language model with the code of its authors (`golden/generate_language_models.py`), read from their layout.

use std::path::PathBuf;

use candle_core::{DType, Tensor};
use flamingo::language::{self, KvCache, LanguageConfig, LanguageModel, LanguageSource};
use flamingo::weights::{Quantization, Rename, Weights};
use support::golden::{self, Golden, rms_error};
use support::language_model::{greedy, stages};
use support::target;

/// Models of the golden, by the names of their folders.
pub const MODELS: [&str; 9] =
    ["mosaic_gpt", "mpt", "pythia", "redpajama", "opt", "opt_350m", "llama", "mistral", "qwen2"];
/// Inputs of the golden: any ids, and ids with embeddings of small variance, so that an epsilon shows.
const CASES: [&str; 2] = ["usual", "quiet"];
/// Largest error of a stage in units of its root mean square, in f32.
const STAGE: f64 = 1e-5;
const LOGITS: f64 = 1e-4;
/// Least error of the logits of a wrong variant.
const WRONG: f64 = 5e-4;

pub fn folder(name: &str) -> PathBuf {
    golden::folder().join("language").join(name)
}

fn ids(golden: &Golden, name: &str) -> Vec<u32> {
    golden.tensor(name).to_vec1().expect("ids")
}

/// Returns the stages of a case: after the embedding and every layer, and the logits.
fn run(model: &dyn LanguageModel, golden: &Golden, case: &str) -> Vec<Tensor> {
    let ids = ids(golden, &format!("{case}.ids"));
    stages(model, vec![(&ids, &mut KvCache::off())]).unwrap()
}

#[test]
fn every_stage_equals_the_reference() {
    for name in MODELS {
        let golden = Golden::load(&format!("language/{name}"));
        let (model, _) =
            language::load(&folder(name), target::device(), target::dtype(), Quantization::Keep).unwrap();
        for case in CASES {
            let got = run(&*model, &golden, case);
            let mut checked = Vec::new();
            for (i, x) in got.iter().enumerate() {
                let (stage, tolerance) = match i {
                    0 => ("embeddings".into(), STAGE),
                    i if i + 1 == got.len() => ("logits".into(), LOGITS),
                    i => (format!("layer.{}", i - 1), STAGE),
                };
                let stage = format!("{case}.{stage}");
                // OPT adds positions without a module, so its embeddings have no stage.
                if i > 0 || golden.has(&stage) {
                    checked.push((stage, x, tolerance));
                }
            }
            let checked: Vec<_> =
                checked.iter().map(|(stage, x, tolerance)| (&**stage, *x, *tolerance)).collect();
            golden.compare_rms(&checked);
        }
        let (prompt, expected) = (ids(&golden, "prompt"), ids(&golden, "continuation"));
        assert_eq!(greedy(&*model, &prompt, expected.len()).unwrap(), expected, "{name}: greedy ids");
    }
}

/// Builds a model with a changed configuration from the same files.
fn with_config(name: &str, change: impl Fn(&mut LanguageConfig)) -> Box<dyn LanguageModel> {
    let source = LanguageSource::open(&folder(name)).unwrap();
    let weights = source.weights(target::device(), DType::F32, Quantization::Keep).unwrap();
    let mut config = source.config().clone();
    change(&mut config);
    language::build(&config, &weights).unwrap()
}

/// Builds a model from files with other names.
fn with_names(name: &str, change: impl Fn(String) -> String) -> Box<dyn LanguageModel> {
    let source = LanguageSource::open(&folder(name)).unwrap();
    let rename = |name: &str| match source.rename(name) {
        Rename::To(ours) => Rename::To(change(ours)),
        other => other,
    };
    let files = source.weight_files().unwrap();
    let weights = Weights::open(&files, target::device(), DType::F32, Quantization::Keep, &rename).unwrap();
    language::build(source.config(), &weights).unwrap()
}

fn assert_wrong(name: &str, what: &str, model: &dyn LanguageModel) {
    let golden = Golden::load(&format!("language/{name}"));
    let error = |case: &str| {
        let logits = run(model, &golden, case).pop().unwrap();
        rms_error(&logits, golden.tensor(&format!("{case}.logits")))
    };
    let worst = CASES.into_iter().map(error).fold(0.0, f64::max);
    println!("{name} with {what}: logits {worst:.1e}");
    assert!(worst > WRONG, "{name}: the golden does not notice {what}: {worst:.1e}");
}

/// Descriptions that are wrong in one detail change the logits far more than the tolerance.
#[test]
fn golden_notices_wrong_mpt() {
    use flamingo::language::mpt::MptConfig;
    use flamingo::language::packed_batch::AlibiHeads;
    let mpt = |name: &str, what: &str, change: fn(&mut MptConfig)| {
        let model = with_config(name, |config| match config {
            LanguageConfig::Mpt(config) => change(config),
            other => panic!("{name} is {other:?}"),
        });
        assert_wrong(name, what, &*model);
    };
    mpt("mosaic_gpt", "slopes of the paper", |c| c.alibi_heads = AlibiHeads::NextPowerOfTwo);
    mpt("mosaic_gpt", "no norm of queries and keys", |c| c.qk_norm = false);
    mpt("mosaic_gpt", "ten times the epsilon", |c| c.norm_eps *= 10.0);
    mpt("mosaic_gpt", "more heads", |c| c.heads = 10);
    mpt("mpt", "even slopes", |c| c.alibi_heads = AlibiHeads::Even);
    mpt("mpt", "smaller slopes", |c| c.alibi_max = 6.0);
    mpt("mpt", "no clipping", |c| c.clip_qkv = None);
    mpt("mpt", "ten times the epsilon", |c| c.norm_eps *= 10.0);
    assert_wrong("mpt", "norms exchanged", &*with_names("mpt", exchange("norm_1", "norm_2")));
}

/// Exchanges two parts of names.
fn exchange(one: &str, other: &str) -> impl Fn(String) -> String {
    move |name| match name.contains(one) {
        true => name.replace(one, other),
        false => name.replace(other, one),
    }
}

#[test]
fn golden_notices_wrong_gpt_neox() {
    use flamingo::language::gpt_neox::GptNeoXConfig;
    use flamingo::language::rotary::{RopeScaling, RopeStyle};
    let neox = |name: &str, what: &str, change: fn(&mut GptNeoXConfig)| {
        let model = with_config(name, |config| match config {
            LanguageConfig::GptNeoX(config) => change(config),
            other => panic!("{name} is {other:?}"),
        });
        assert_wrong(name, what, &*model);
    };
    neox("pythia", "all coordinates rotated", |c| c.rotated_width = 10);
    neox("pythia", "another base", |c| c.rope.theta = 10_000.0);
    for name in ["pythia", "redpajama"] {
        neox(name, "the other residual rule", |c| c.parallel_residual = !c.parallel_residual);
        neox(name, "interleaved rotary positions", |c| c.rope.style = RopeStyle::Interleaved);
        neox(name, "scaled rotary positions", |c| c.rope.scaling = RopeScaling::Linear(2.0));
        neox(name, "ten times the epsilon", |c| c.norm_eps *= 10.0);
        neox(name, "fewer heads", |c| c.heads = 2);
    }
    let names = exchange("input_layernorm", "post_attention_layernorm");
    assert_wrong("pythia", "norms exchanged", &*with_names("pythia", names));
}

#[test]
fn golden_notices_wrong_opt() {
    use flamingo::kernels::activation::Activation;
    use flamingo::language::opt::OptConfig;
    let opt = |name: &str, what: &str, change: fn(&mut OptConfig)| {
        let model = with_config(name, |config| match config {
            LanguageConfig::Opt(config) => change(config),
            other => panic!("{name} is {other:?}"),
        });
        assert_wrong(name, what, &*model);
    };
    for name in ["opt", "opt_350m"] {
        opt(name, "GELU", |c| c.activation = Activation::Gelu);
        opt(name, "the other order of norms", |c| c.norm_first = !c.norm_first);
        opt(name, "a hundred times the epsilon", |c| c.norm_eps *= 100.0);
        opt(name, "more heads", |c| c.heads = 8);
    }
    opt("opt", "no last norm", |c| c.final_norm = false);
}

#[test]
fn golden_notices_wrong_llama() {
    use flamingo::language::llama::LlamaConfig;
    use flamingo::language::rotary::{RopeScaling, RopeStyle};
    let llama = |name: &str, what: &str, change: fn(&mut LlamaConfig)| {
        let model = with_config(name, |config| match config {
            LanguageConfig::Llama(config) => change(config),
            other => panic!("{name} is {other:?}"),
        });
        assert_wrong(name, what, &*model);
    };
    for name in ["llama", "mistral", "qwen2"] {
        llama(name, "interleaved rotary positions", |c| c.rope.style = RopeStyle::Interleaved);
        llama(name, "another base", |c| c.rope.theta = 10_000.0);
        llama(name, "ten times the epsilon", |c| c.norm_eps *= 10.0);
    }
    llama("llama", "unscaled rotary positions", |c| c.rope.scaling = RopeScaling::None);
    llama("qwen2", "no biases of queries, keys and values", |c| c.qkv_bias = false);
}

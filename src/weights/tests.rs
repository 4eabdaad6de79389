use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::safetensors;

use super::*;

const UNUSED: Init = Init::Const(0.0);

fn tensor(shape: (usize, usize), start: f32) -> Tensor {
    let n = (shape.0 * shape.1) as f32;
    Tensor::arange(start, start + n, &Device::Cpu).unwrap().reshape(shape).unwrap()
}

/// Writes `tensors` as a safetensors file and opens it, `rename` applied.
fn open_as(
    folder: &std::path::Path,
    tensors: &[(&str, Tensor)],
    rename: &dyn Fn(&str) -> Rename,
) -> Result<Weights> {
    let path = folder.join("model.safetensors");
    let named: HashMap<String, Tensor> =
        tensors.iter().map(|(name, t)| (name.to_string(), t.clone())).collect();
    safetensors::save(&named, &path).unwrap();
    Weights::open(&[path], &Device::Cpu, DType::F32, Quantization::Keep, rename)
}

fn same(name: &str) -> Rename {
    Rename::To(name.into())
}

/// Returns the error of `result` without the path of the temporary folder.
fn message<T>(result: Result<T>, folder: &std::path::Path) -> String {
    let error = result.err().expect("an error").to_string();
    error.replace(&format!("{}/", folder.display()), "")
}

#[test]
fn every_tensor_is_used_once_with_its_shape() {
    let folder = tempfile::tempdir().unwrap();
    let tensors = [("a.weight", tensor((3, 5), 1.0)), ("b.weight", tensor((2, 7), 9.0))];
    let weights = open_as(folder.path(), &tensors, &same).unwrap();

    let missing = weights.pp("c").get((3, 5), "weight", UNUSED);
    assert_eq!(message(missing, folder.path()), "model.safetensors: tensor `c.weight` is missing");
    let misshapen = weights.pp("a").get((5, 3), "weight", UNUSED);
    let expected = "model.safetensors: tensor `a.weight` has shape [3, 5], expected [5, 3]";
    assert_eq!(message(misshapen, folder.path()), expected);
    let misshapen = weights.pp("a").matrix((5, 3), "weight", UNUSED);
    assert_eq!(message(misshapen, folder.path()), expected);

    let fits = weights.pp("a").get((3, 5), "weight", UNUSED).unwrap();
    assert_eq!(fits.to_vec2::<f32>().unwrap(), tensors[0].1.to_vec2::<f32>().unwrap());
    let extra = "model.safetensors: 1 tensors are not part of the model: `b.weight`";
    assert_eq!(message(weights.finish(), folder.path()), extra);
    weights.pp("b").matrix((2, 7), "weight", UNUSED).unwrap();
    weights.finish().unwrap();
}

#[test]
fn aliases_must_agree() {
    let folder = tempfile::tempdir().unwrap();
    let one = |_: &str| Rename::To("embedding".into());
    let equal = [("head", tensor((3, 5), 1.0)), ("tied", tensor((3, 5), 1.0))];
    open_as(folder.path(), &equal, &one).unwrap().get((3, 5), "embedding", UNUSED).unwrap();
    let differ = [("head", tensor((3, 5), 1.0)), ("tied", tensor((3, 5), 2.0))];
    let read = open_as(folder.path(), &differ, &one).unwrap().get((3, 5), "embedding", UNUSED);
    let expected = "model.safetensors: several tensors stand for `embedding` and differ";
    assert_eq!(message(read, folder.path()), expected);
}

#[test]
fn rows_follow_each_other_by_number() {
    let folder = tempfile::tempdir().unwrap();
    let rows = |name: &str| Rename::Rows {
        whole: "embedding".into(),
        index: usize::from(name.starts_with("added")),
    };
    let open = |tensors: &[(&str, Tensor)]| open_as(folder.path(), tensors, &rows);
    let weights = open(&[("added", tensor((1, 5), 2.0)), ("base", tensor((3, 5), 1.0))]).unwrap();
    let whole = weights.get((4, 5), "embedding", UNUSED).unwrap();
    let parts = [tensor((3, 5), 1.0), tensor((1, 5), 2.0)];
    let expected = Tensor::cat(&parts, 0).unwrap().to_vec2::<f32>().unwrap();
    assert_eq!(whole.to_vec2::<f32>().unwrap(), expected);
    weights.finish().unwrap();
    let narrow = open(&[("added", tensor((1, 4), 2.0)), ("base", tensor((3, 5), 1.0))]).unwrap();
    let refused = message(narrow.get((4, 5), "embedding", UNUSED), folder.path());
    assert!(refused.contains("do not follow each other"), "{refused}");
    let missing = message(open(&[("added", tensor((1, 5), 2.0))]), folder.path());
    assert!(missing.contains("embedding (some of its rows)"), "{missing}");
    let aliases =
        [("base", tensor((3, 5), 1.0)), ("base.again", tensor((3, 5), 3.0)), ("added", tensor((1, 5), 2.0))];
    let differ = message(open(&aliases).unwrap().get((4, 5), "embedding", UNUSED), folder.path());
    assert!(differ.contains("several tensors stand for `embedding` and differ"), "{differ}");
}

#[test]
fn flat_tensor_has_one_axis() {
    let folder = tempfile::tempdir().unwrap();
    let flat = |name: &str| Rename::Flat(name.into());
    let weights = open_as(folder.path(), &[("gate", tensor((1, 5), 1.0))], &flat).unwrap();
    assert_eq!(weights.get(5, "gate", UNUSED).unwrap().dims(), [5]);
    assert!(weights.get(4, "gate", UNUSED).is_err());
}

#[test]
fn content_hash_depends_on_named_parts_only() {
    let folder = tempfile::tempdir().unwrap();
    let hash = |vision: f32, language: f32| {
        let tensors = [("vision.a", tensor((3, 5), vision)), ("language.a", tensor((3, 5), language))];
        open_as(folder.path(), &tensors, &same).unwrap().content_sha256(&["vision"]).unwrap()
    };
    assert_eq!(hash(1.0, 2.0), hash(1.0, 3.0));
    assert_ne!(hash(1.0, 2.0), hash(4.0, 2.0));
}

#[test]
fn ignored_tensor_is_not_unused() {
    let folder = tempfile::tempdir().unwrap();
    let ignore = |_: &str| Rename::Ignore;
    open_as(folder.path(), &[("a", tensor((3, 5), 0.0))], &ignore).unwrap().finish().unwrap();
}

#[test]
fn names_missing_or_truncated_file() {
    let folder = tempfile::tempdir().unwrap();
    let open = |name: &str| {
        Weights::open(&[folder.path().join(name)], &Device::Cpu, DType::F32, Quantization::Keep, &same)
    };
    let absent = message(open("absent.safetensors"), folder.path());
    assert!(absent.starts_with("absent.safetensors: No such file"), "{absent}");

    open_as(folder.path(), &[("a", tensor((30, 50), 0.0))], &same).unwrap();
    write_gguf(&folder.path().join("model.gguf"), &[("a", GgmlDType::Q8_0)]);
    for (name, format) in [("model.safetensors", "safetensors"), ("model.gguf", "GGUF")] {
        let whole = std::fs::read(folder.path().join(name)).unwrap();
        for kept in [0, 3, 20, whole.len() / 2, whole.len() - 100] {
            let cut = format!("{kept}-{name}");
            std::fs::write(folder.path().join(&cut), &whole[..kept]).unwrap();
            let found = message(open(&cut), folder.path());
            assert!(found.starts_with(&format!("{cut}: not a readable {format} file: ")), "{found}");
        }
        open(name).unwrap();
    }
}

/// Writes a GGUF file of matrices (6, 64).
fn write_gguf(path: &std::path::Path, tensors: &[(&str, GgmlDType)]) {
    let quantize = |dtype| QTensor::quantize(&tensor((6, 64), 0.0), dtype).unwrap();
    let tensors: Vec<_> = tensors.iter().map(|(name, dtype)| (*name, quantize(*dtype))).collect();
    let tensors: Vec<_> = tensors.iter().map(|(name, q)| (*name, q)).collect();
    let mut file = std::fs::File::create(path).unwrap();
    candle_core::quantized::gguf_file::write(&mut file, &[], &tensors).unwrap();
}

#[test]
fn gguf_matrices_stay_quantised_by_default() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let kinds = [("q8", GgmlDType::Q8_0), ("q4", GgmlDType::Q4_1), ("f", GgmlDType::F32)];
    write_gguf(&path, &kinds);
    let open = |quantization| {
        Weights::open(std::slice::from_ref(&path), &Device::Cpu, DType::F32, quantization, &same).unwrap()
    };
    let (keep, dense) = (open(Quantization::Keep), open(Quantization::Dequantize));
    for (name, kept) in [("q8", true), ("q4", true), ("f", false)] {
        let matrix = keep.matrix((6, 64), name, UNUSED).unwrap();
        assert_eq!(matches!(matrix, Matrix::Quantized(_)), kept, "{name}");
        let matrix = dense.matrix((6, 64), name, UNUSED).unwrap();
        assert!(matches!(matrix, Matrix::Dense(_)), "{name}");
    }
    let misshapen = keep.matrix((64, 6), "q8", UNUSED);
    let expected = "model.gguf: tensor `q8` has shape [6, 64], expected [64, 6]";
    assert_eq!(message(misshapen, folder.path()), expected);
    keep.finish().unwrap();
    dense.finish().unwrap();
}

/// Returns the format of a matrix; `None`: it is dense.
fn format_of(weights: &Weights, shape: (usize, usize), name: &str) -> Option<GgmlDType> {
    match weights.matrix(shape, name, UNUSED).unwrap() {
        Matrix::Quantized(packed) => Some(packed.format),
        Matrix::Dense(_) => None,
    }
}

#[test]
fn dense_matrices_are_quantised_at_load() {
    let folder = tempfile::tempdir().unwrap();
    let columns = [("a", 256), ("b", 96), ("c", 10)];
    let tensors = columns.map(|(name, columns)| (name, tensor((6, columns), -9.0)));
    let weights = open_as(folder.path(), &tensors, &same).unwrap();
    let formats = |weights: &Weights| columns.map(|(name, columns)| format_of(weights, (6, columns), name));
    let (q8, q4) = (Some(GgmlDType::Q8_0), Some(GgmlDType::Q4K));
    assert_eq!(formats(&weights), [None; 3]);
    assert_eq!(formats(&weights.quantized(Quantization::Q8_0)), [q8, q8, None]);
    assert_eq!(formats(&weights.quantized(Quantization::Q4K)), [q4, q8, None]);
    assert_eq!(formats(&weights.quantized(Quantization::Q4K).dense()), [None; 3]);
    assert_eq!(formats(&weights.quantized(Quantization::Q4K).as_stored()), [None; 3]);
    let exact = weights.quantized(Quantization::Q4K).get((6, 256), "a", UNUSED).unwrap();
    assert_eq!(exact.to_vec2::<f32>().unwrap(), tensors[0].1.to_vec2::<f32>().unwrap());
}

#[test]
fn quantised_matrices_of_a_file_do_not_grow() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    write_gguf(&path, &[("q8", GgmlDType::Q8_0), ("q4", GgmlDType::Q4_1), ("f", GgmlDType::F32)]);
    let open = |quantization| {
        Weights::open(std::slice::from_ref(&path), &Device::Cpu, DType::F32, quantization, &same).unwrap()
    };
    let formats = |quantization| ["q8", "q4", "f"].map(|name| format_of(&open(quantization), (6, 64), name));
    let (q8, q4) = (Some(GgmlDType::Q8_0), Some(GgmlDType::Q4_1));
    assert_eq!(formats(Quantization::Q8_0), [q8, q4, q8]);
    assert_eq!(formats(Quantization::Keep), [q8, q4, None]);
}

/// Rejects sizes with an overflowing or zero product, and an alignment of zero.
#[test]
fn rejects_hostile_gguf_header() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostile.gguf");
    let header = |alignment: u32, dims: [u64; 2]| {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend([1u64, 1].map(u64::to_le_bytes).concat()); // tensors, metadata
        bytes.extend(17u64.to_le_bytes());
        bytes.extend(b"general.alignment");
        bytes.extend([4, alignment].map(u32::to_le_bytes).concat());
        bytes.extend(1u64.to_le_bytes());
        bytes.extend(b"a");
        bytes.extend(2u32.to_le_bytes());
        bytes.extend(dims.map(u64::to_le_bytes).concat());
        bytes.extend(0u32.to_le_bytes()); // f32
        bytes.extend(0u64.to_le_bytes());
        bytes.resize(1024, 0);
        bytes
    };
    std::fs::write(&path, header(32, [4, 8])).unwrap();
    open_gguf(&path).unwrap();
    for (alignment, dims) in
        [(32, [1 << 40, 1 << 40]), (32, [1 << 32, 1 << 32]), (32, [0, 8]), (32, [1 << 62, 0]), (0, [4, 8])]
    {
        std::fs::write(&path, header(alignment, dims)).unwrap();
        let error = open_gguf(&path).unwrap_err().to_string();
        assert!(error.contains("hostile.gguf: not a readable GGUF file"), "{error}");
    }
}

#[test]
fn wrong_hash_error_names_both_hashes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("abc");
    std::fs::write(&path, "abc").unwrap();
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    verify_sha256(&path, abc).unwrap();
    verify_sha256(&path, &abc.to_uppercase()).unwrap();
    let other = "0".repeat(64);
    let error = verify_sha256(&path, &other).map_err(Into::into);
    assert_eq!(message(error, folder.path()), format!("abc: SHA-256 is {abc}, expected {other}"));
}

#[test]
fn random_values_depend_on_seed_and_name_only() {
    let init = Init::Randn { mean: 0.0, stdev: 1.0 };
    let take = |seed, names: &[&str]| {
        let weights = Weights::random(seed, &Device::Cpu, DType::F32);
        let value = |name: &&str| weights.pp(name).get(5, "weight", init).unwrap().to_vec1::<f32>().unwrap();
        names.iter().map(value).collect::<Vec<_>>()
    };
    let (one, other) = (take(7, &["a", "b"]), take(7, &["b", "a", "b"]));
    assert_eq!((&one[0], &one[1]), (&other[1], &other[0]));
    assert_eq!(other[0], other[2], "the same name gives the same tensor");
    assert_ne!(one[0], one[1], "names differ");
    assert_ne!(one[0], take(8, &["a"])[0], "seeds differ");
}

#[test]
fn placeholders_are_frozen_and_scaled_as_their_initialisers() {
    let weights = Weights::placeholder(&Device::Cpu, DType::F32).unwrap();
    let get = |name: &str, init| weights.get((300, 700), name, init).unwrap();
    let spread = get("a", Init::Randn { mean: 2.0, stdev: 0.5 });
    assert!(!spread.track_op());
    let mean = spread.mean_all().unwrap().to_scalar::<f32>().unwrap();
    let deviation = (&spread - 2.0).unwrap().sqr().unwrap().mean_all().unwrap().sqrt().unwrap();
    let deviation = deviation.to_scalar::<f32>().unwrap();
    assert!((mean - 2.0).abs() < 0.02 && (deviation - 0.5).abs() < 0.02, "{mean} {deviation}");
    let rows = spread.to_vec2::<f32>().unwrap();
    assert_ne!(rows[0], rows[1]);
    assert_eq!(get("b", Init::Const(1.5)).max_all().unwrap().to_scalar::<f32>().unwrap(), 1.5);
}

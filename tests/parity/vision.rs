//! Parity of NFNet with timm and of preprocessing with Pillow, torchvision and timm.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use flamingo::Error;
use flamingo::error::WeightsError;
use flamingo::vision::nfnet::{Dimensions, Features, NfNet, Variant};
use flamingo::vision::preprocess::{Fit, Preprocess};
use flamingo::vision::resize::{bicubic, bicubic_part};
use flamingo::vision::{VisionConfig, VisionEncoder};
use flamingo::weights::Weights;
use image::RgbImage;
use support::golden::{Golden, folder, relative_error};
use support::random_weights::{self, values};
use support::target;

/// Tolerance of f32 sums in another order.
const TOLERANCE: f64 = 1e-4;

type Shapes = Vec<(String, Vec<usize>)>;

/// Returns names and shapes of a published variant in timm, including the classifier.
fn timm_keys(variant: &str) -> Shapes {
    let text = std::fs::read_to_string(folder().join("nfnet_keys.txt")).unwrap();
    let of_variant = text.lines().filter_map(|line| line.strip_prefix(variant)?.trim_start().split_once(' '));
    let shape = |s: &str| s.split('x').filter(|d| *d != "-").map(|d| d.parse().unwrap()).collect();
    of_variant.map(|(name, s)| (name.to_owned(), shape(s))).collect()
}

/// Returns the keys of a variant with other widths: the tensors that the network gets from a random source.
fn keys(row: &Dimensions) -> Shapes {
    let weights = Weights::random(0, &Device::Cpu, DType::F32);
    NfNet::new(row, Features::FinalConv, &weights).unwrap();
    weights.vars().into_iter().map(|(name, var)| (name, var.dims().to_vec())).collect()
}

fn strict(tensors: HashMap<String, Tensor>) -> Weights {
    Weights::from_tensors("rule", tensors, target::device(), target::dtype())
}

fn ruled(row: &Dimensions, shapes: &Shapes) -> NfNet {
    let weights = strict(random_weights::tensors(shapes).unwrap());
    let net = NfNet::new(row, Features::FinalConv, &weights).unwrap();
    weights.finish().unwrap();
    net
}

fn narrow(variant: Variant) -> Dimensions {
    Dimensions { widths: [32, 64, 192, 192], stem: 16, group: 16, final_width: 384, ..variant.dimensions() }
}

/// Runs the network and compares every stage that the golden has below `prefix`.
fn compare(net: &NfNet, pixels: &Tensor, golden: &Golden, prefix: &str) {
    let mut stages = Vec::new();
    net.forward(pixels, &mut |stage, x| stages.push((format!("{prefix}.{stage}"), x.clone()))).unwrap();
    stages.push((format!("{prefix}.features"), net.encode(pixels).unwrap()));
    let known: Vec<_> =
        stages.iter().filter(|(s, _)| golden.has(s)).map(|(s, x)| (s.as_str(), x, TOLERANCE)).collect();
    assert!(known.len() >= 5, "golden and network share only {} stages", known.len());
    golden.compare(&known);
}

fn pixels(batch: usize, height: usize, width: usize) -> Tensor {
    target::input(&values(&format!("pixels.{height}x{width}"), (batch, 3, height, width), 0.0, 1.75).unwrap())
}

#[test]
fn nfnet_f0_whole() {
    let shapes = timm_keys("f0").into_iter().filter(|(name, _)| !name.starts_with("head.")).collect();
    let net = ruled(&Variant::F0.dimensions(), &shapes).fold().unwrap();
    let golden = Golden::load("nfnet_f0");
    for (h, w) in [(64, 40), (45, 37)] {
        compare(&net, &pixels(1, h, w), &golden, &format!("{h}x{w}"));
        assert_eq!(net.encode(&pixels(1, h, w)).unwrap().dims(), [1, net.patches(h, w), net.width()]);
    }
}

#[test]
fn nfnet_mini_folded_and_unfolded() {
    let row = Variant::Mini.dimensions();
    let golden = Golden::load("nfnet_mini");
    let (unfolded, folded) = (ruled(&row, &keys(&row)), ruled(&row, &keys(&row)).fold().unwrap());
    for (h, w) in [(96, 64), (75, 53)] {
        let x = pixels(2, h, w);
        compare(&unfolded, &x, &golden, &format!("{h}x{w}"));
        compare(&folded, &x, &golden, &format!("{h}x{w}"));
        assert!(
            relative_error(&folded.encode(&x).unwrap(), &unfolded.encode(&x).unwrap())
                < target::tolerance(1e-6)
        );
    }
}

#[test]
fn nfnet_narrow_f1_to_f6() {
    let golden = Golden::load("nfnet_narrow");
    let variants = [Variant::F1, Variant::F2, Variant::F3, Variant::F4, Variant::F5, Variant::F6];
    for (variant, name) in variants.into_iter().zip(["f1", "f2", "f3", "f4", "f5", "f6"]) {
        let row = narrow(variant);
        compare(&ruled(&row, &keys(&row)).fold().unwrap(), &pixels(1, 64, 48), &golden, name);
    }
}

#[test]
fn final_stage_is_the_stream_before_the_final_convolution() {
    let row = Variant::Mini.dimensions();
    let shapes: Shapes = keys(&row).into_iter().filter(|(n, _)| !n.starts_with("final_conv.")).collect();
    let weights = strict(random_weights::tensors(&shapes).unwrap());
    let net = NfNet::new(&row, Features::FinalStage, &weights).unwrap().fold().unwrap();
    weights.finish().unwrap();
    let features = net.encode(&pixels(2, 75, 53)).unwrap().transpose(1, 2).unwrap();
    let grid = features.reshape((2, 384, 3, 2)).unwrap();
    Golden::load("nfnet_mini").compare(&[("75x53.stages.3", &grid, TOLERANCE)]);
}

#[test]
fn keys_and_shapes_of_all_published_variants() {
    let variants = ["f0", "f1", "f2", "f3", "f4", "f5", "f6"];
    let rows = [Variant::F0, Variant::F1, Variant::F2, Variant::F3, Variant::F4, Variant::F5, Variant::F6];
    for (name, variant) in variants.into_iter().zip(rows) {
        for (features, unread) in [("final_conv", "head.fc."), ("final_stage", "final_conv.")] {
            let config = format!(
                r#"{{"encoder": "nfnet", "variant": "{name}", "features": "{features}",
                "preprocess": {{"fit": "crop", "size": 32, "mean": [0, 0, 0], "std": [1, 1, 1]}}}}"#
            );
            let config: VisionConfig = serde_json::from_str(&config).unwrap();
            assert_eq!(config.encoder().describe()["depths"], serde_json::json!(variant.dimensions().depths));
            let all = timm_keys(name);
            assert!(all.iter().any(|(key, _)| key.starts_with(unread)));
            // One zero, broadcast to every shape: 438M parameters take no memory.
            let zero = Tensor::zeros((), DType::F32, &Device::Cpu).unwrap();
            let kept = all.into_iter().filter(|(key, _)| !config.ignores(key));
            let weights = strict(kept.map(|(key, s)| (key, zero.broadcast_as(s).unwrap())).collect());
            config.encoder().build(&weights).unwrap();
            weights.finish().unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }
}

#[test]
fn frame_features_do_not_depend_on_batch() {
    let row = Variant::Mini.dimensions();
    let net = ruled(&row, &keys(&row)).fold().unwrap();
    let x = pixels(3, 75, 96);
    let batched = net.encode(&x).unwrap();
    for i in 0..3 {
        let single = net.encode(&x.narrow(0, i, 1).unwrap()).unwrap();
        // A GPU library chooses its algorithm by the size of the batch.
        let allowed = if x.device().is_cpu() { 0.0 } else { target::tolerance(1e-5) };
        assert!(relative_error(&batched.narrow(0, i, 1).unwrap(), &single) <= allowed);
    }
}

#[test]
fn f16_stays_close() {
    let row = narrow(Variant::F0);
    let tensors = random_weights::tensors(&keys(&row)).unwrap();
    let half = Weights::from_tensors("rule", tensors, target::device(), DType::F16);
    let half = NfNet::new(&row, Features::FinalConv, &half).unwrap().fold().unwrap();
    let x = pixels(2, 41, 64);
    let got = half.encode(&x.to_dtype(DType::F16).unwrap()).unwrap();
    assert_eq!(got.dtype(), DType::F16);
    let error = relative_error(&got, &ruled(&row, &keys(&row)).fold().unwrap().encode(&x).unwrap());
    println!("f16 against f32: relative error {error:.2e}");
    assert!(error < target::tolerance(0.01), "{error}");
}

#[test]
fn every_parameter_has_gradient() {
    let row = narrow(Variant::F0);
    let weights = Weights::random(7, &Device::Cpu, DType::F32);
    let net = NfNet::new(&row, Features::FinalConv, &weights).unwrap();
    for (name, var) in weights.vars() {
        var.set(&random_weights::tensor(&name, var.shape().clone()).unwrap()).unwrap();
    }
    let x = pixels(2, 41, 37).to_device(&Device::Cpu).unwrap().to_dtype(DType::F32).unwrap();
    let loss = net.encode(&x).unwrap().sqr().unwrap().sum_all().unwrap();
    let grads = loss.backward().unwrap();
    for (name, var) in weights.vars() {
        let grad = grads.get(&var).unwrap_or_else(|| panic!("no gradient for {name}"));
        assert_eq!(grad.dims(), var.dims());
        let largest = grad.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(largest > 0.0 && largest.is_finite(), "gradient of {name}: {largest}");
    }
}

#[test]
fn names_wrong_tensor() {
    let row = narrow(Variant::F0);
    let shapes = keys(&row);
    let load = |change: &dyn Fn(&mut HashMap<String, Tensor>)| -> Result<(), Error> {
        let mut tensors = random_weights::tensors(&shapes).unwrap();
        change(&mut tensors);
        let weights = strict(tensors);
        NfNet::new(&row, Features::FinalConv, &weights)?;
        weights.finish()
    };
    load(&|_| ()).unwrap();
    let name = "stages.2.5.conv2b.gain";
    let missing = load(&|t| drop(t.remove(name))).unwrap_err();
    assert!(
        matches!(&missing, Error::Weights(WeightsError::Missing { name: n, .. }) if n == name),
        "{missing}"
    );
    let extra = "stages.2.6.conv1.weight";
    let unused = load(&|t| drop(t.insert(extra.into(), t[name].clone()))).unwrap_err();
    assert!(
        matches!(&unused, Error::Weights(WeightsError::Unused { names, .. }) if names == &[extra]),
        "{unused}"
    );
    let misshapen = load(&|t| drop(t.insert(name.into(), t[name].flatten_all().unwrap()))).unwrap_err();
    assert!(
        matches!(&misshapen, Error::Weights(WeightsError::Shape { name: n, .. }) if n == name),
        "{misshapen}"
    );
}

fn image(t: &Tensor) -> RgbImage {
    let (h, w, _) = t.dims3().unwrap();
    let bytes = t.flatten_all().unwrap().to_vec1::<u8>().unwrap();
    RgbImage::from_raw(w as u32, h as u32, bytes).unwrap()
}

#[test]
fn resize_is_bit_equal_to_pillow() {
    let golden = Golden::load("preprocess");
    let inputs: Vec<String> = golden
        .names()
        .filter(|n| n.starts_with("resize.") && n.ends_with(".in"))
        .map(str::to_owned)
        .collect();
    assert_eq!(inputs.len(), 6);
    for name in inputs {
        let want = image(golden.tensor(&name.replace(".in", ".out")));
        let got = bicubic(&image(golden.tensor(&name)), want.width(), want.height());
        assert!(got.as_raw() == want.as_raw(), "{name}");
    }
}

#[test]
fn resized_part_equals_part_of_whole() {
    let golden = Golden::load("preprocess");
    let from = image(golden.tensor("fit.45x83.in"));
    for size in [(45, 83), (45, 30), (90, 83), (17, 140)] {
        let (x, y) = (size.0 / 4..size.0 / 2, size.1 / 3..size.1 - 2);
        let whole = bicubic(&from, size.0, size.1);
        let want =
            image::imageops::crop_imm(&whole, x.start, y.start, x.len() as u32, y.len() as u32).to_image();
        assert!(bicubic_part(&from, size, x, y) == want, "{size:?}");
    }
}

#[test]
fn transforms_equal_torchvision_and_timm() {
    let golden = Golden::load("preprocess");
    let (mean, std) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    let modes = [
        ("pad", Fit::Pad),
        ("crop", Fit::Crop),
        ("squash", Fit::Squash { crop: 1.0 }),
        ("squash90", Fit::Squash { crop: 0.9 }),
        ("squash95", Fit::Squash { crop: 0.951 }),
    ];
    let sizes = ["120x67", "45x83", "40x40", "23x17", "33x32"];
    for (mode, fit) in modes {
        let preprocess = Preprocess { fit, size: 32, mean, std };
        let frames: Vec<RgbImage> =
            sizes.iter().map(|s| preprocess.frame(&image(golden.tensor(&format!("fit.{s}.in"))))).collect();
        let pixels = preprocess.pixels(&frames, &Device::Cpu, DType::F32).unwrap();
        for (i, size) in sizes.iter().enumerate() {
            let stage = format!("fit.{size}.{mode}");
            golden.compare(&[(&stage, &pixels.get(i).unwrap(), 1e-6)]);
        }
    }
}

#[test]
fn padding_is_exactly_the_mean() {
    let preprocess =
        Preprocess { fit: Fit::Pad, size: 32, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };
    let wide = RgbImage::from_pixel(60, 20, image::Rgb([255, 0, 90]));
    let frame = preprocess.frame(&wide);
    assert_eq!(frame.dimensions(), (32, 11));
    let x = preprocess.pixels(&[frame], &Device::Cpu, DType::F32).unwrap();
    let rows: Vec<f32> = x.abs().unwrap().sum((0, 1, 3)).unwrap().to_vec1().unwrap();
    assert!(rows[..10].iter().chain(&rows[21..]).all(|&r| r == 0.0), "{rows:?}");
    assert!(rows[10..21].iter().all(|&r| r > 0.0), "{rows:?}");
}

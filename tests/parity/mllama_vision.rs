//! Parity of the vision encoder and the preprocessing of Llama 3.2 Vision (`golden/generate_mllama.py`).

use candle_core::{DType, Device, Tensor};
use flamingo::vision::mllama::{Tower, TowerConfig};
use flamingo::vision::{Fit, Preprocess, TileGrid, VisionEncoder};
use flamingo::weights::{Quantization, Rename, Weights};
use image::{Rgb, RgbImage};
use support::golden::{Golden, rms_error};
use support::target;

use crate::mllama::{checkpoint, golden, picture};

const GRIDS: [(u32, u32); 4] = [(1, 1), (1, 2), (2, 2), (4, 1)];

fn config() -> TowerConfig {
    TowerConfig {
        width: 32,
        heads: 4,
        layers: 4,
        global_layers: 2,
        feed_forward_width: 56,
        side: 28,
        patch: 14,
        slots: 4,
        kept: vec![1, 3],
        norm_eps: 2e-3,
    }
}

fn tower(config: TowerConfig) -> Tower {
    let rename = |name: &str| match name.strip_prefix("vision_model.") {
        Some(name) => Rename::To(name.into()),
        None => Rename::Ignore,
    };
    let files = [checkpoint().join("model.safetensors")];
    let weights = Weights::open(&files, target::device(), DType::F32, Quantization::Keep, &rename).unwrap();
    let tower = Tower::new(config, &weights).unwrap();
    weights.finish().unwrap();
    tower
}

#[test]
fn every_stage_equals_the_reference() {
    let tower = tower(config());
    for (rows, columns) in GRIDS {
        let grid = TileGrid { rows, columns };
        let mut stages = Vec::new();
        let tiles = picture("tower", 0, grid);
        let mut observe = |stage: &str, x: &Tensor| {
            stages.push((format!("tower.{rows}x{columns}.{stage}"), x.clone()));
            Ok(())
        };
        let features = tower.picture(&tiles, grid, &mut observe).unwrap();
        assert_eq!(stages.len(), 3 + 4 + 1 + 2 + 1);
        let stages: Vec<_> = stages.iter().map(|(name, x)| (name.as_str(), x, 1e-5)).collect();
        golden().compare_rms(&stages);
        let batch = tower.encode_tiles(&Tensor::stack(&[&tiles, &tiles], 0).unwrap(), &[grid, grid]).unwrap();
        assert_eq!(batch.get(1).unwrap().to_vec2::<f32>().unwrap(), features.to_vec2::<f32>().unwrap());
    }
}

/// Wrong descriptions of the encoder differ from the golden.
#[test]
fn wrong_descriptions_differ() {
    let error = |config: TowerConfig, rows: u32, columns: u32| {
        let (grid, wrong) = (TileGrid { rows: 2, columns: 2 }, TileGrid { rows, columns });
        let features = tower(config).picture(&picture("tower", 0, grid), wrong, &mut |_, _| Ok(())).unwrap();
        rms_error(&features, golden().tensor("tower.2x2.features"))
    };
    assert!(error(config(), 2, 2) <= 1e-5);
    for (what, config, rows, columns) in [
        ("another grid of four tiles", config(), 4, 1),
        ("a tile less", config(), 3, 1),
        ("states a layer later", TowerConfig { kept: vec![2, 4], ..config() }, 2, 2),
        ("states a layer earlier", TowerConfig { kept: vec![0, 2], ..config() }, 2, 2),
        ("states in another order", TowerConfig { kept: vec![3, 1], ..config() }, 2, 2),
        ("epsilon", TowerConfig { norm_eps: 1e-5, ..config() }, 2, 2),
        ("heads", TowerConfig { heads: 2, ..config() }, 2, 2),
    ] {
        let error = error(config, rows, columns);
        println!("{what}: {error:.1e}");
        assert!(error > 1e-3, "{what}: {error:.1e}");
    }
}

fn preprocess(fit: Fit) -> Preprocess {
    Preprocess {
        fit,
        size: 28,
        mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
        std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
    }
}

/// Channel `c` of the picture of the generator.
fn value(x: u32, y: u32, c: u32) -> u8 {
    ((x * 7 + y * 13 + c * 50 + (x * y) % 31 * 5 + (x / 9 + y / 5) % 2 * 90) % 256) as u8
}

fn pattern(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([0, 1, 2].map(|c| value(x, y, c))))
}

/// A transparent picture lies on white when it is decoded, as in the processor.
#[cfg(feature = "video")]
#[test]
fn transparent_pixels_equal_the_reference() {
    let golden = Golden::load("mllama_preprocess");
    let picture = image::RgbaImage::from_fn(40, 25, |x, y| image::Rgba([0, 1, 2, 3].map(|c| value(x, y, c))));
    let preprocess = preprocess(Fit::Tiles { slots: 4 });
    let pixels = |frame: &RgbImage| {
        let frame = preprocess.frame(frame);
        preprocess.pixels(&[frame], &Device::Cpu, DType::F32).unwrap().squeeze(0).unwrap()
    };
    let wanted = golden.tensor("rgba.pixels");
    let error = rms_error(&pixels(&crate::checkpoint::decoded(&picture)), wanted);
    assert!(error <= 1e-5, "{error:.1e}");
    // Without the transparency, the pixels are others.
    let opaque = image::DynamicImage::ImageRgba8(picture).into_rgb8();
    assert!(rms_error(&pixels(&opaque), wanted) > 0.1);
}

#[test]
fn pixels_equal_the_reference() {
    let golden = Golden::load("mllama_preprocess");
    let preprocess = preprocess(Fit::Tiles { slots: 4 });
    let sizes: Vec<&str> = golden.names().filter_map(|name| name.strip_suffix(".grid")).collect();
    assert_eq!(sizes.len(), 9);
    for size in sizes {
        let (width, height) = size.split_once('x').unwrap();
        let frame = preprocess.frame(&pattern(width.parse().unwrap(), height.parse().unwrap()));
        let grids = preprocess.grids(&[&frame]).unwrap().unwrap();
        let expected = golden.tensor(&format!("{size}.grid")).to_vec1::<u32>().unwrap();
        assert_eq!([grids[0].rows, grids[0].columns], expected[..], "{size}");
        let pixels = preprocess.pixels(&[frame], &Device::Cpu, DType::F32).unwrap().squeeze(0).unwrap();
        let wanted = golden.tensor(&format!("{size}.pixels"));
        let flat = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let (pixels, wanted) = (flat(&pixels), flat(wanted));
        // A resized value that differs by one would differ by 0.014.
        let worst = pixels.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= 1e-6, "{size}: {worst}");
        // Empty slots are 0 exactly.
        let empty = grids[0].tiles() * 3 * 28 * 28;
        assert!(pixels[empty..].iter().chain(&wanted[empty..]).all(|&value| value == 0.0), "{size}");
    }
}

#[test]
fn canvas_equals_the_reference() {
    let golden = Golden::load("mllama_preprocess");
    let table = golden.tensor("canvas").to_vec2::<u32>().unwrap();
    assert!(table.len() > 1200);
    for row in table {
        let [side, width, height, rows, columns, to_width, to_height] = row[..] else { panic!("{row:?}") };
        let grid = TileGrid::choose(width, height, side, 4);
        assert_eq!(grid, TileGrid { rows, columns }, "{width}x{height} in tiles of {side}");
        assert_eq!(grid.fit(width, height, side), (to_width, to_height.max(1)), "{width}x{height} in {side}");
    }
}

/// Peak memory of this process in bytes since the last call of [`reset_peak`].
#[cfg(target_os = "linux")]
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[cfg(target_os = "linux")]
fn reset_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

/// A picture of 560 pixels per tile has 6432 tokens. Its scores would take 2.6 GB if they were computed at once. The peak is
/// that of a whole process, so the measured part runs in a process of its own.
#[test]
#[cfg(target_os = "linux")]
fn attention_of_real_size_takes_little_memory() {
    const MEASURES: &str = "FLAMINGO_TEST_MEASURES_MEMORY";
    if std::env::var_os(MEASURES).is_some() {
        return measure_attention_of_real_size();
    }
    let name = "mllama_vision::attention_of_real_size_takes_little_memory";
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(MEASURES, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("MB more at the peak"), "{text}");
}

#[cfg(target_os = "linux")]
fn measure_attention_of_real_size() {
    let config = TowerConfig {
        width: 1280,
        heads: 16,
        layers: 1,
        global_layers: 1,
        feed_forward_width: 5120,
        side: 560,
        patch: 14,
        slots: 4,
        kept: vec![0, 1],
        norm_eps: 1e-5,
    };
    let weights = Weights::placeholder(&Device::Cpu, DType::F32).unwrap();
    let tower = Tower::new(config, &weights).unwrap();
    let tiles = Tensor::rand(-1f32, 1.0, (4, 3, 560, 560), &Device::Cpu).unwrap();
    reset_peak();
    let before = peak();
    let started = std::time::Instant::now();
    let grid = TileGrid { rows: 1, columns: 2 };
    let features = tower.picture(&tiles, grid, &mut |_, _| Ok(())).unwrap();
    assert_eq!(features.dims(), [6404, 3 * 1280]);
    let grown = peak() - before;
    println!(
        "{} MB more at the peak, {:.1} s for two layers",
        grown / 1_000_000,
        started.elapsed().as_secs_f64()
    );
    assert!(grown < 1_000_000_000, "{grown} bytes");
}

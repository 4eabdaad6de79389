//! Prefill and decode speed of a language model, in tokens per second: `language_speed MODEL keep|dequantize`.

use std::time::Instant;

/// Seconds of wall clock and of processor (all threads, Linux) since the start of the process's clocks.
fn clocks(start: Instant) -> (f64, f64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<f64> = stat.split(' ').filter_map(|f| f.parse().ok()).collect();
    (start.elapsed().as_secs_f64(), fields.get(11..13).map_or(0.0, |f| (f[0] + f[1]) / 100.0))
}

use candle_core::{D, DType, Device, Tensor};
use flamingo::language::{self, KvCache, LanguageModel, Rows};
use flamingo::weights::Quantization;

fn pass(model: &dyn LanguageModel, ids: &[u32], cache: &mut KvCache) -> flamingo::Result<u32> {
    let mut rows = Rows::new([(ids.len(), cache)], &Device::Cpu)?;
    let mut x = model.embed(&Tensor::new(ids, &Device::Cpu)?)?;
    for i in 0..model.n_layers() {
        x = model.layer(i, &x, &mut rows)?;
    }
    rows.advance();
    let last = model.head(&x.narrow(0, ids.len() - 1, 1)?)?;
    Ok(last.argmax(D::Minus1)?.to_vec1()?[0])
}

fn main() -> flamingo::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, model, kind] = &arguments[..] else {
        eprintln!("usage: language_speed MODEL keep|dequantize");
        std::process::exit(2);
    };
    let quantization = if kind == "keep" { Quantization::Keep } else { Quantization::Dequantize };
    let start = Instant::now();
    let (model, _) = language::build(model.as_ref(), &Device::Cpu, DType::F32, quantization)?;
    println!("load {:.2} s", start.elapsed().as_secs_f64());
    for n in [32usize, 256] {
        let ids: Vec<u32> = (0..n as u32).map(|i| 300 + i * 37 % 40_000).collect();
        let mut cache = KvCache::new(&model.cache_shape(), n)?;
        let (wall, cpu) = clocks(start);
        pass(&*model, &ids, &mut cache)?;
        report(&format!("prefill {n}"), n, clocks(start), (wall, cpu));
    }
    let ids: Vec<u32> = (0..64).map(|i| 300 + i * 37).collect();
    let mut cache = KvCache::new(&model.cache_shape(), 160)?;
    let mut next = pass(&*model, &ids, &mut cache)?;
    let before = clocks(start);
    for _ in 0..24 {
        next = pass(&*model, &[next], &mut cache)?;
    }
    report("decode 24 after 64", 24, clocks(start), before);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().filter(|l| l.starts_with("VmHWM")).for_each(|l| println!("{l}"));
    Ok(())
}

fn report(what: &str, n: usize, after: (f64, f64), before: (f64, f64)) {
    let (wall, cpu) = (after.0 - before.0, after.1 - before.1);
    println!(
        "{what}: {:.1} tokens/s wall, {:.1} ms processor per token",
        n as f64 / wall,
        1e3 * cpu / n as f64
    );
}

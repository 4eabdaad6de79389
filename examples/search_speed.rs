//! Measures exact search in an index of random unit vectors: `search_speed [WIDTH [WINDOWS]...]`.

use std::time::Instant;

use flamingo::search::{IndexEntry, VideoIndex};

const QUERIES: usize = 15;
const WINDOWS_PER_VIDEO: usize = 100;

/// Pseudo-random numbers by a 64-bit congruential generator.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    }

    fn unit_vector(&mut self, width: usize) -> Vec<f32> {
        let vector: Vec<f32> = (0..width).map(|_| self.next()).collect();
        let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        vector.into_iter().map(|x| x / length).collect()
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<usize> =
        std::env::args().skip(1).map(|text| text.parse()).collect::<Result<_, _>>()?;
    let (width, sizes) = match arguments.split_first() {
        Some((width, sizes)) if !sizes.is_empty() => (*width, sizes.to_vec()),
        width => (width.map_or(256, |(width, _)| *width), vec![10_000, 100_000, 1_000_000]),
    };
    println!(
        "{:>9} {:>9} {:>10} {:>10} {:>10} {:>14}",
        "windows", "add, s", "has, us", "write, s", "read, s", "search, ms"
    );
    for windows in sizes {
        measure(width, windows)?;
    }
    Ok(())
}

fn measure(width: usize, windows: usize) -> Result<(), Box<dyn std::error::Error>> {
    let mut numbers = Numbers(1);
    let window = |n: usize| {
        let name = format!("videos/of/a/usual/folder/{}.mp4", n / WINDOWS_PER_VIDEO);
        let start = (n % WINDOWS_PER_VIDEO) as f64 * 8.0;
        IndexEntry { name, version: "1234567 1700000000.123456789".into(), start, end: start + 8.0 }
    };
    let all = (0..windows).map(|n| (window(n), numbers.unit_vector(width))).collect();
    let mut index = VideoIndex::new("model".into());
    let begun = Instant::now();
    index.add(all)?;
    let add = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    for n in 0..1000 {
        assert!(!index.has(&format!("another {n}.mp4"), "1"));
    }
    let has = begun.elapsed().as_secs_f64() * 1e3;
    let path = std::env::temp_dir().join(format!("search_speed-{}.index", std::process::id()));
    let begun = Instant::now();
    index.write(&path)?;
    let write = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    let index = VideoIndex::read(&path, "model".into())?;
    let read = begun.elapsed().as_secs_f64();
    std::fs::remove_file(&path)?;
    let mut seconds = Vec::new();
    for _ in 0..QUERIES {
        let query = numbers.unit_vector(width);
        let begun = Instant::now();
        assert_eq!(index.nearest(&query, 10).len(), 10);
        seconds.push(begun.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    let (least, median) = (1e3 * seconds[0], 1e3 * seconds[QUERIES / 2]);
    println!(
        "{windows:>9} {add:>9.2} {has:>10.3} {write:>10.2} {read:>10.2} {median:>6.1} (best {least:.1})"
    );
    Ok(())
}

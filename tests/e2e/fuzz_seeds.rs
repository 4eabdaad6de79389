//! The parsers of outside bytes take the seeds of their fuzz targets, and every seed cut short, without a panic.

use std::path::Path;

#[path = "../../fuzz/src/lib.rs"]
mod parsers;

#[test]
fn every_parser_ends_with_every_seed() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    for (target, parse) in parsers::TARGETS {
        assert!(fuzz.join("fuzz_targets").join(target).with_extension("rs").is_file(), "{target}: no target");
        let seeds: Vec<_> = std::fs::read_dir(fuzz.join("seeds").join(target)).unwrap().collect();
        assert!(seeds.len() > 2, "{target}: hardly any seeds");
        for seed in seeds {
            let path = seed.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            for kept in [bytes.len(), bytes.len() / 2, bytes.len() / 3] {
                let ended = std::panic::catch_unwind(|| parse(&bytes[..kept]));
                assert!(ended.is_ok(), "{}, {kept} bytes", path.display());
            }
        }
    }
}

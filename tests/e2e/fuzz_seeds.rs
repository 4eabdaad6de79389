//! The parsers of untrusted bytes do not panic on the seeds of their fuzz targets, whole or truncated.

use std::path::Path;

#[path = "../../fuzz/src/lib.rs"]
mod parsers;

#[test]
fn no_parser_panics_on_a_seed() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    for (target, parse) in parsers::TARGETS {
        assert!(fuzz.join("fuzz_targets").join(target).with_extension("rs").is_file(), "{target}: no target");
        let seeds: Vec<_> = std::fs::read_dir(fuzz.join("seeds").join(target)).unwrap().collect();
        assert!(seeds.len() > 2, "{target}: too few seeds");
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

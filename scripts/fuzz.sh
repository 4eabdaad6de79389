#!/usr/bin/env bash
# Fuzzes each parser of untrusted input for FUZZ_SECONDS (120): scripts/fuzz.sh, or scripts/fuzz.sh message wire
#
# Findings are in target/fuzz/artifacts/TARGET; `cargo fuzz run TARGET FILE` reproduces one. The corpus is in
# target/fuzz/corpus/TARGET, and the next run starts from it.
set -euo pipefail
cd "$(dirname "$0")/.."

version=0.13.2
seconds=${FUZZ_SECONDS:-120}
tools=$PWD/target/tools
out=$PWD/target/fuzz
export PATH=$tools/bin:$PATH
# Coverage and the address sanitizer are unstable compiler options; this variable enables them in a stable compiler.
export RUSTC_BOOTSTRAP=1
export CARGO_TARGET_DIR=${FUZZ_TARGET_DIR:-$out/build}

[ "$(cargo fuzz --version 2>/dev/null)" = "cargo-fuzz $version" ] ||
    CARGO_TARGET_DIR=$out/tools cargo install --quiet --locked --root "$tools" --version "$version" cargo-fuzz

targets=("$@")
[ $# -gt 0 ] || for file in fuzz/fuzz_targets/*.rs; do
    targets+=("$(basename "$file" .rs)")
done
# A target may write a file per input: keep them in memory.
[ ! -w /dev/shm ] || export TMPDIR=/dev/shm

for target in "${targets[@]}"; do
    mkdir -p "$out/corpus/$target" "$out/artifacts/$target"
    echo "== $target"
    cargo fuzz run "$target" "$out/corpus/$target" "fuzz/seeds/$target" -- "-artifact_prefix=$out/artifacts/$target/" \
        -max_total_time="$seconds" -max_len=65536 -timeout=10 -rss_limit_mb=2048 -malloc_limit_mb=512 \
        -print_final_stats=1 -verbosity=0
done

#!/usr/bin/env bash
# Gives each parser of outside bytes odd bytes for FUZZ_SECONDS (120): scripts/fuzz.sh, or scripts/fuzz.sh message wire
#
# What is found lies in target/fuzz/artifacts/TARGET; cargo fuzz run TARGET FILE shows it again. What was learnt lies in
# target/fuzz/corpus/TARGET, and the next run begins there.
set -euo pipefail
cd "$(dirname "$0")/.."

version=0.13.2
seconds=${FUZZ_SECONDS:-120}
tools=$PWD/target/tools
out=$PWD/target/fuzz
export PATH=$tools/bin:$PATH
# Coverage and the address sanitizer are options of nightly compilers; a stable one has them too.
export RUSTC_BOOTSTRAP=1
export CARGO_TARGET_DIR=${FUZZ_TARGET_DIR:-$out/build}

[ "$(cargo fuzz --version 2>/dev/null)" = "cargo-fuzz $version" ] ||
    CARGO_TARGET_DIR=$out/tools cargo install --quiet --locked --root "$tools" --version "$version" cargo-fuzz

targets=("$@")
[ $# -gt 0 ] || for file in fuzz/fuzz_targets/*.rs; do
    targets+=("$(basename "$file" .rs)")
done
# Files that are made for every input are best kept in memory.
[ ! -w /dev/shm ] || export TMPDIR=/dev/shm

for target in "${targets[@]}"; do
    mkdir -p "$out/corpus/$target" "$out/artifacts/$target"
    echo "== $target"
    cargo fuzz run "$target" "$out/corpus/$target" "fuzz/seeds/$target" -- "-artifact_prefix=$out/artifacts/$target/" \
        -max_total_time="$seconds" -max_len=65536 -timeout=10 -rss_limit_mb=2048 -malloc_limit_mb=512 \
        -print_final_stats=1 -verbosity=0
done

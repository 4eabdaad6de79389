#!/usr/bin/env bash
# Captions the SpriteWorld clips in samples/ and asks questions about them. `make demo` runs it after the installation.
set -euo pipefail
cd "$(dirname "$0")/.."

echo "Building Flamingo (the first build takes some minutes)"
# Only the program, but with the features of the whole workspace, so that `make test` does not build the dependencies again.
cargo build --locked --release --quiet --workspace --bin flamingo
flamingo=${CARGO_TARGET_DIR:-target}/release/flamingo
model=models/flamingo-mini
clips=samples/spriteworld
out=out/demo

rm -rf "$out"
mkdir -p "$out"
reports=$out/reports.jsonl
status=0
"$flamingo" caption "$clips" --model "$model" --out "$out" --sheet --json >"$reports" || status=$?
ask() {
    "$flamingo" ask "$clips/$1" --model "$model" --question "$2" --json >>"$reports" || status=$?
}
ask 00000.mp4 "What is the key doing?"
ask 00002.mp4 "What is left of the honeybee?"
ask 00005.mp4 "Where does the mushroom go?"
ask 00007.mp4 "What is this?"
ask 00020.mp4 "In which direction does the flamingo move?"
ask 00030.mp4 "When can the automobile be seen?"

echo
python3 scripts/table.py "$clips/clips.jsonl" <"$reports"
echo

echo "The reports (JSON) and contact sheets of the sampled frames (PNG) are in $out/"
exit $status

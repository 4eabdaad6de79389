#!/usr/bin/env bash
# Captions the sample clips and asks a question about one of them; `make demo` runs it when everything is installed.
set -euo pipefail
cd "$(dirname "$0")/.."

echo "Building Flamingo (some minutes the first time)"
# The whole workspace: a part of it would build the dependencies with other features, and `make test` build them again.
cargo build --locked --release --quiet --workspace
flamingo=${CARGO_TARGET_DIR:-target}/release/flamingo
language=models/language/SmolLM2-135M-Instruct.Q4_1.gguf
model=models/flamingo-mini
out=out/demo

if [ ! -f "$model/config.json" ]; then
    model=out/model
    "$flamingo" model init --language "$language" --out "$model"
fi

rm -rf "$out"
mkdir -p "$out"
reports=$out/reports.jsonl
status=0
"$flamingo" caption samples --model "$model" --out "$out" --sheet --json >"$reports" || status=$?
"$flamingo" ask samples/flamingo.mp4 --model "$model" --question "What animal is this?" --json >>"$reports" || status=$?

echo
python3 scripts/table.py <"$reports"
echo

echo "The reports (JSON) and the frames that were looked at (PNG) are in $out/"
exit $status

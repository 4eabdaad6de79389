#!/bin/sh
# Compares this decoder with FFmpeg's fps filter, PyAV, decord and torchcodec on the same clips. Results: bench/results.
# PYTHON is an interpreter with these packages; without it the script makes a venv in target/.
set -eu
cd "$(dirname "$0")/../.."
venv=target/bench-venv
if [ -z "${PYTHON:-}" ]; then
    [ -x $venv/bin/python ] || python3 -m venv $venv
    $venv/bin/pip install -q -r bench/decode/requirements.txt
    PYTHON=$venv/bin/python
fi
cargo build --locked --release --workspace
bench/decode/clips.sh target/bench-clips
exec "$PYTHON" bench/decode/compare.py --ours target/release/bench-decode --clips target/bench-clips \
    --out bench/results --rounds "${ROUNDS:-5}"

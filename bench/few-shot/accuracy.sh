#!/bin/sh
# Measures the accuracy of every method of few-shot classification by the number of examples, on clips of eight moving things:
#
#     bench/few-shot/accuracy.sh [names|words]
#
# names: the labels are the names of the things. words: they are invented words, which a model can only learn from the examples.
# The clips are not those of the training, but the things are. MODEL is another model; QUERIES and SHOTS change what is measured.
# Result: bench/results/few-shot-accuracy-KIND.md and .svg.
set -eu
cd "$(dirname "$0")/../.."
kind=${1:-names}
model=${MODEL:-models/flamingo-mini}
cargo build --locked --release --workspace
work=target/few-shot-accuracy/$kind
rm -rf "$work"
mkdir -p "$work"
python3 bench/few-shot/clips.py world "$work/world.toml"
target/release/flamingo data spriteworld --config "$work/world.toml" --split train --clips 400 --out "$work/support"
target/release/flamingo data spriteworld --config "$work/world.toml" --split seeds --clips 300 --out "$work/queries"
python3 bench/few-shot/clips.py labels "$kind" "$work/support" 16
python3 bench/few-shot/clips.py labels "$kind" "$work/queries" "$((${QUERIES:-96} / 8))"
{
    cat <<TEXT
# Accuracy of few-shot classification: $kind

Made by \`bench/few-shot/accuracy.sh $kind\` with \`$model\`, $(PYTHONPATH=bench python3 -c 'import machine; print(machine.cpu())'). Clips of eight moving things of
SpriteWorld, which are not those of the training; the chance is 12.5 %. In-context learning shows all examples, the nearest one
last. Times are medians, without decoding and encoding; read them as ratios.

\`\`\`
TEXT
    target/release/flamingo eval few-shot --model "$model" --support "$work/support/labels.jsonl" --queries "$work/queries/labels.jsonl" \
        --shots "${SHOTS:-0,8,16,32,64,128}" --plot "bench/results/few-shot-accuracy-$kind.svg"
    echo '```'
} >"$work/result.md"
mv "$work/result.md" "bench/results/few-shot-accuracy-$kind.md"
cat "bench/results/few-shot-accuracy-$kind.md"

#!/bin/sh
# Measures the time of a query after few-shot examples; result in bench/results/few-shot.md. MODEL and ROUNDS change what is measured.
set -eu
cd "$(dirname "$0")/../.."
cargo build --locked --release --workspace
model=${MODEL:-models/flamingo-mini}
{
    cat <<TEXT
# Time of a query after few-shot examples

Made by \`bench/few-shot/run.sh\` with \`$model\`, $(PYTHONPATH=bench python3 -c 'import machine; print(machine.cpu())'). A query is one image, whose visual
tokens are ready, with a one-token answer. The numbers are times in relation to the same query without examples, medians of
${ROUNDS:-7} rounds (lowest to highest). Cold: the prefix of the examples is not cached. Warm: it is cached. New order: the
examples are in another order than before, as with \`--select nearest\`, so their visual tokens and media K/V are cached, but not
their text. The goal is at most 1.3 for a warm query.

The second table has the first query after the examples in a new process, one query at a time. The visual tokens of the examples
are ready, their media K/V are not. On disk: the setting \`cache.prefixes\` names a folder, and the process before has written
the examples.

TEXT
    target/release/bench-few-shot "$model" "${ROUNDS:-7}"
} >target/few-shot.md
mv target/few-shot.md bench/results/few-shot.md
cat bench/results/few-shot.md

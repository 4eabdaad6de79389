#!/bin/sh
# Measures our engine and PyTorch on the same shape: bench/results/engine.md and engine.json. On the CPU it first measures 200
# clips from file to answer: bench/results/clips.md.
# `bench/engine/run.sh [--device cuda]`. ROUNDS and SECONDS_PER_ROW set the amount; SUBJECTS has one line of arguments of
# `flamingo bench` per measured configuration, all of one shape. PYTHON names an interpreter with requirements.txt installed;
# without it, the script creates a venv in target/.
set -eu
cd "$(dirname "$0")/../.."
device=cpu features=
case "${1:-} ${2:-}" in
"--device cuda"*) device=$2 features="--features flamingo-cli/cuda" ;;
" " | "--device cpu") ;;
*) echo "usage: $0 [--device cuda]" >&2 && exit 2 ;;
esac
venv=target/engine-venv
if [ -z "${PYTHON:-}" ]; then
    [ -x $venv/bin/python ] || python3 -m venv $venv
    $venv/bin/pip install -q -r bench/engine/requirements.txt
    PYTHON=$venv/bin/python
fi
# shellcheck disable=SC2086
cargo build --locked --release --workspace $features
dense="--model models/flamingo-mini --quantize none"
quantised="--model models/flamingo-mini"
subjects=${SUBJECTS:-"$dense
$quantised"}
set --
while IFS= read -r subject; do
    set -- "$@" --subject "$subject"
done <<END
$subjects
END
[ "$device" != cpu ] || "$PYTHON" bench/engine/clips.py --ours target/release/flamingo --out bench/results
exec "$PYTHON" bench/engine/compare.py --ours target/release/flamingo --out bench/results --device "$device" \
    --rounds "${ROUNDS:-3}" --seconds "${SECONDS_PER_ROW:-2}" "$@"

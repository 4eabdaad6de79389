#!/bin/sh
# Runs a checkpoint of real size with random weights within a memory limit, and compares its logits with the original code in f32.
#
#     bench/large/run.sh openflamingo-9b|mllama-11b LIMIT_GB [DIR]
#
# DIR (target/large/KIND) needs 17 or 22 GB. PYTHON is an interpreter with the packages that reference.py names. The limit is a memory
# cgroup, so this needs root.
set -eu
cd "$(dirname "$0")/../.."
kind=${1:?kind of checkpoint}
limit=${2:?limit in GB}
dir=${3:-target/large/$kind}
: "${PYTHON:?an interpreter with torch, transformers and safetensors}"
cargo build --locked --release --workspace
[ -e "$dir/config.json" ] || "$PYTHON" bench/large/checkpoint.py "$kind" "$dir"
out=target/large/$kind-results
mkdir -p "$out"

# limited COMMAND...: runs it in a memory cgroup of LIMIT_GB, page cache included, and prints its peak of anonymous memory.
limited() {
    if [ -w /sys/fs/cgroup/memory ]; then
        group=/sys/fs/cgroup/memory/flamingo-large
        mkdir -p $group
        echo "${limit}000000000" >$group/memory.limit_in_bytes
        procs=$group/cgroup.procs
    else
        group=/sys/fs/cgroup/flamingo-large
        mkdir -p $group
        echo "${limit}000000000" >$group/memory.max
        procs=$group/cgroup.procs
    fi
    sh -c 'echo $$ >"$0"; exec "$@"' "$procs" python3 bench/large/peak.py "$@"
}

question="What happens in this video?"
limited target/release/flamingo ask samples/flamingo.mp4 --model "$dir" --quantize q4k --question "$question" --max-new-tokens 16 --json >"$out/answer.jsonl"
cat "$out/answer.jsonl"
limited target/release/flamingo model trace --model "$dir" --quantize q4k --prompt "<image>Output: a b c d e f" --media samples/flamingo.mp4 --frames 1 \
    --out "$out/trace.safetensors"
"$PYTHON" bench/large/reference.py "$kind" "$dir" "$out/trace.safetensors"

#!/usr/bin/env bash
# Packs the parity suite for CUDA into target/cuda/parity.tar, with its goldens and models. A machine with a GPU then needs only
# NVIDIA's libraries. Variables as in build.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."

scripts/cuda/setup.sh
# shellcheck source=/dev/null
. .venv/cuda/environment
export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-90} CARGO_TARGET_DIR=target/cuda
features=${CUDA_FEATURES:-cudnn}
built=$(cargo test --locked --release -p flamingo-tests --test parity --no-run --no-default-features \
    --features "$features" --message-format json-render-diagnostics)
program=$(python3 -c '
import json, sys
built = map(json.loads, sys.stdin)
print(*(b["executable"] for b in built if b.get("executable") and b["target"]["name"] == "parity"))' <<<"$built")
tar --create --file target/cuda/parity.tar --transform 's,^.*/parity-[0-9a-f]*$,parity,' \
    "${program#"$PWD/"}" tests/parity/golden models/language models/text
echo target/cuda/parity.tar

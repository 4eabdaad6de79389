#!/usr/bin/env bash
# Builds target/cuda/release/flamingo on a machine without CUDA and without a GPU. The program runs with or without a GPU.
#
#   scripts/cuda/build.sh                                          all features
#   scripts/cuda/build.sh --no-default-features --features train   without FFmpeg and the service, for a bare machine
#
#   CUDA_COMPUTE_CAP   target GPUs: 80 is A100, 89 is L4, 90 is H100 and H200 (the default)
#   CUDA_FEATURES      cudnn (the default), or cudnn,flash-attn
set -euo pipefail
cd "$(dirname "$0")/../.."

scripts/cuda/setup.sh
# shellcheck source=/dev/null
. .venv/cuda/environment
export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-90} CARGO_TARGET_DIR=target/cuda
exec cargo build --locked --release -p flamingo-cli --bin flamingo --features "${CUDA_FEATURES:-cudnn}" "$@"

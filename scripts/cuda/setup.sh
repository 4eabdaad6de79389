#!/usr/bin/env bash
# Installs compiler and link archives for NVIDIA GPUs into .venv/cuda, without a CUDA install and without a GPU: the compiler
# comes from Python wheels, and the archives replace NVIDIA's libraries. Then: . .venv/cuda/environment
set -euo pipefail
cd "$(dirname "$0")/../.."

die() {
    echo "$1" >&2
    exit 2
}

[ "$(uname -sm)" = "Linux x86_64" ] || die "scripts/cuda is for Linux on x86_64; elsewhere, build with an installed CUDA 13.0."
for tool in ar g++ git; do
    command -v "$tool" >/dev/null || die "$tool is not installed: apt-get install binutils g++ git"
done

place=$PWD/.venv/cuda
cuda=$place/wheels/nvidia/cu13
version=$(grep -A 1 '^name = "cudarc"$' Cargo.lock | sed -n 's/^version = "\(.*\)"$/\1/p')
state=$(cat scripts/cuda/{setup.sh,requirements.txt,libraries.py,library.c} - <<<"cudarc $version" | sha256sum)
[ "$(cat "$place/state" 2>/dev/null)" != "$state" ] || exit 0

rm -rf "$place"
[ -x .venv/bin/pip ] || python3 -m venv .venv
mkdir -p "$place"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --target "$place/wheels" \
    --require-hashes --only-binary :all: -r scripts/cuda/requirements.txt ||
    die "The CUDA compiler could not be installed: is there a network?"
ln -s lib "$cuda/lib64"
# candle links cudart; the program contains the static version.
ln -s libcudart_static.a "$cuda/lib/libcudart.a"

# candle links the others by name, and no wheel has the library of the driver.
cargo fetch --locked
cudarc=$(ls -d "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/"cudarc-$version")
.venv/bin/python scripts/cuda/libraries.py "$cudarc" "$place/libraries"
mkdir "$cuda/lib/stubs"
mv "$place"/libraries/lib*.a "$cuda/lib/stubs/"

# Flash attention needs a git checkout of CUTLASS at this commit; the wheel has the same files.
cutlass=7d49e6c7e2f8896c47f586706e67e1fb215529dc
checkout=$place/cudaforge/git/checkouts/cutlass-${cutlass:0:16}
mkdir -p "$checkout" "$place/flash"
mv "$place"/wheels/cutlass_library/source/{include,tools} "$checkout/"
git init --quiet "$checkout"
echo $cutlass >"$checkout/.git/HEAD"

# Flash attention without unused features, each of which would double the compile time: candle uses no dropout, and the library
# uses no ALiBi, soft cap or window (calls with these would silently compute plain attention).
left_out=(-DFLASHATTENTION_DISABLE_{DROPOUT,ALIBI,SOFTCAP,LOCAL})
cat >"$place/environment" <<X
export CUDA_HOME=$cuda NVCC=$cuda/bin/nvcc PATH=$cuda/bin:\$PATH
export CUDARC_CUDA_VERSION=13000 CUDAFORGE_THREADS=\${CUDAFORGE_THREADS:-$(nproc)}
export CUDAFORGE_HOME=$place/cudaforge CANDLE_FLASH_ATTN_BUILD_DIR=$place/flash
export NVCC_APPEND_FLAGS="--compress-mode=size ${left_out[*]}"
X
echo "$state" >"$place/state"

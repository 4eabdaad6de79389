#!/usr/bin/env bash
# Checks deploy/ and all shell scripts with linters and schemas. Nothing is started.
set -euo pipefail
cd "$(dirname "$0")/.."

requirements=scripts/requirements_deploy.txt
# Records what is installed, so that a second run is fast.
installed=.venv/requirements_deploy.txt
if ! cmp -s "$requirements" "$installed"; then
    echo "Installing the linters of deploy/"
    if ! .venv/bin/python -m pip install --quiet --disable-pip-version-check \
        --require-hashes --only-binary :all: -r "$requirements"; then
        echo "The linters of deploy/ could not be installed: is there a network, and is this Linux on x86_64 or aarch64?" >&2
        exit 2
    fi
    cp "$requirements" "$installed"
fi

# Some linters start other linters from PATH.
PATH="$PWD/.venv/bin:$PATH"

mapfile -t shell < <(find .ci scripts deploy bench -name '*.sh' -o -path .ci/run)
shellcheck "${shell[@]}"
hadolint deploy/docker/Dockerfile deploy/docker/Dockerfile.cuda
yamllint --strict .yamllint.yaml deploy
check-jsonschema --quiet --builtin-schema vendor.compose-spec deploy/compose.yaml
# The kinds of Kubernetes itself, with unknown fields refused. No package has the schemas of KEDA, the Prometheus operator and
# kustomize, so only yamllint and check_deploy.py check their files.
mapfile -t objects < <(find deploy/kubernetes/base -name '*.yaml' ! -name kustomization.yaml)
kubernetes-validate --quiet --strict --kubernetes-version 1.34 "${objects[@]}"
python scripts/check_deploy.py

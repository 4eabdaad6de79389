#!/usr/bin/env bash
# Reads deploy/ and all shell scripts as the programs do that will run them: linters and schemas, nothing is started.
set -euo pipefail
cd "$(dirname "$0")/.."

requirements=scripts/requirements_deploy.txt
# What was installed, so that the second time takes no time.
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

# Linters that start other linters look for them on the path.
PATH="$PWD/.venv/bin:$PATH"

mapfile -t shell < <(find .ci scripts deploy bench -name '*.sh' -o -path .ci/run)
shellcheck "${shell[@]}"
hadolint deploy/docker/Dockerfile deploy/docker/Dockerfile.cuda
yamllint --strict .yamllint.yaml deploy
check-jsonschema --quiet --builtin-schema vendor.compose-spec deploy/compose.yaml
# Kubernetes' own kinds, unknown fields refused. The schemas of KEDA, the Prometheus operator and kustomize are in no
# package, so their files are held to yamllint and to what check_deploy.py knows.
mapfile -t objects < <(find deploy/kubernetes/base -name '*.yaml' ! -name kustomization.yaml)
kubernetes-validate --quiet --strict --kubernetes-version 1.34 "${objects[@]}"
python scripts/check_deploy.py

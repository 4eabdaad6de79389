#!/usr/bin/env bash
# No password or key stands in any log that the tests left: those of every program they ran, some of them at the level
# `trace`, and those of the servers. Run after the tests, before the servers go.
set -euo pipefail
cd "$(dirname "$0")/.."

# What all passwords and keys of the tests' servers begin with, and those of tests/e2e/service/deployed.rs.
secrets='hunter2-[0-9a-f]{24}|rights0of0a?0'

mapfile -t logs < <(find target/e2e/service target/servers -type f \( -name '*.log' -o -name log \))
# A check that looks at nothing proves nothing.
if [ ${#logs[@]} -lt 20 ] || ! grep -q 'step=Claimed' "${logs[@]}"; then
    echo "check_secrets.sh: only ${#logs[@]} logs of the tests are there: the tests keep them in target/e2e/service" >&2
    exit 1
fi
# Those of the tests that look for secrets say all that they can; the others name the steps only.
loud=$({ grep -l ' TRACE ' "${logs[@]}" || true; } | wc -l)
if [ "$loud" -lt 8 ]; then
    echo "check_secrets.sh: only $loud logs are at the level \`trace\`" >&2
    exit 1
fi
if grep -lE "$secrets" "${logs[@]}" >&2; then
    echo "check_secrets.sh: a password or key stands in the logs named above" >&2
    exit 1
fi
echo "no password and no key in ${#logs[@]} logs, $loud of them at the level trace"

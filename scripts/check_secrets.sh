#!/usr/bin/env bash
# Checks that no log of the tests contains a password or key: the logs of all programs that they ran, some of them at the level `trace`,
# and the logs of the servers. Run it after the tests, before the servers are removed.
set -euo pipefail
cd "$(dirname "$0")/.."

# Prefix of all passwords and keys of the tests' servers, and of those in tests/e2e/service/deployed.rs.
secrets='hunter2-[0-9a-f]{24}|rights0of0a?0'

mapfile -t logs < <(find target/e2e/service target/servers -type f \( -name '*.log' -o -name log \))
# Without logs, the check would prove nothing.
if [ ${#logs[@]} -lt 20 ] || ! grep -q 'step=Claimed' "${logs[@]}"; then
    echo "check_secrets.sh: found only ${#logs[@]} logs of the tests; the tests keep them in target/e2e/service" >&2
    exit 1
fi
# The tests that search for secrets log at the level `trace`.
traced=$({ grep -l ' TRACE ' "${logs[@]}" || true; } | wc -l)
if [ "$traced" -lt 8 ]; then
    echo "check_secrets.sh: only $traced logs are at the level \`trace\`" >&2
    exit 1
fi
if grep -lE "$secrets" "${logs[@]}" >&2; then
    echo "check_secrets.sh: the logs named above contain a password or key" >&2
    exit 1
fi
echo "no password and no key in ${#logs[@]} logs, $traced of them at the level trace"

#!/usr/bin/env bash
# Runs COMMAND with the tests' servers: scripts/with_servers.sh cargo test --workspace -- --include-ignored
#
# RabbitMQ, Postgres and S3 start side by side in target/servers/, COMMAND finds them through its environment. Whatever
# happens, they are stopped at the end, and so are the servers that tests started there themselves.
set -euo pipefail
cd "$(dirname "$0")/.."

servers=target/servers
shared=(rabbitmq postgres s3)
starts=()
command=""

# Every server below the folder, at once.
all() {
    local folder
    for folder in "$servers"/*/; do
        [ ! -d "$folder" ] || scripts/server.sh "$1" "$folder" &
    done
    wait
}

# shellcheck disable=SC2329 # the trap calls it
finish() {
    # A second Ctrl-C must not leave servers behind.
    trap '' INT TERM
    [ -z "$command" ] || kill -TERM -- "-$command" 2>/dev/null || true
    # A start that is under way ends first: it could bring up a server behind our back.
    wait "${starts[@]}" || true
    all stop
}

[ $# -gt 0 ] || { echo "usage: with_servers.sh COMMAND..." >&2 && exit 2; }
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

all remove
mkdir -p "$servers"
for kind in "${shared[@]}"; do
    scripts/server.sh start "$kind" "$servers/$kind" >/dev/null &
    starts+=($!)
done
for start in "${starts[@]}"; do
    wait "$start"
done

set -a
for kind in "${shared[@]}"; do
    # shellcheck source=/dev/null
    . "$servers/$kind/env"
done
set +a

# In the background, for a shell that waits for a foreground command hears no signal; with job control, so that the
# command has a process group of its own, which ends as a whole.
set -m
"$@" &
command=$!
set +m
status=0
wait "$command" || status=$?
exit "$status"

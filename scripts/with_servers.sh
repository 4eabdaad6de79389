#!/usr/bin/env bash
# Runs COMMAND with the tests' servers: scripts/with_servers.sh cargo test --workspace -- --include-ignored
#
# RabbitMQ, Postgres and S3 start concurrently in target/servers/; COMMAND gets their addresses in its environment. At the end,
# in any case, the script stops them and the servers that tests started in that folder.
set -euo pipefail
cd "$(dirname "$0")/.."

servers=target/servers
shared=(rabbitmq postgres s3)
starts=()
command=""

# Runs a command of server.sh for every server in the folder, concurrently.
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
    # Wait for running starts: otherwise a server could start after this.
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

# In the background, because a shell that waits for a foreground command handles no signal; with job control, so that the
# command has its own process group, which can be terminated as a whole.
set -m
"$@" &
command=$!
set +m
status=0
wait "$command" || status=$?
exit "$status"

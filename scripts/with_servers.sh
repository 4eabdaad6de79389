#!/usr/bin/env bash
# Runs COMMAND with the tests' servers: scripts/with_servers.sh cargo test --workspace -- --include-ignored
#
# Starts RabbitMQ, Postgres and S3 concurrently in target/servers/ and passes their addresses to COMMAND as environment
# variables. At the end it always stops them, and the servers that tests have started there.
set -euo pipefail
cd "$(dirname "$0")/.."

servers=target/servers
shared=(rabbitmq postgres s3)
starts=()
command=""

# Applies a verb of server.sh to every server in the folder, concurrently.
all() {
    local folder
    for folder in "$servers"/*/; do
        [ ! -d "$folder" ] || scripts/server.sh "$1" "$folder" &
    done
    wait
}

# shellcheck disable=SC2329 # the trap calls it
finish() {
    # A second Ctrl-C must not interrupt the cleanup.
    trap '' INT TERM
    [ -z "$command" ] || kill -TERM -- "-$command" 2>/dev/null || true
    # Running starts end first: a late start would leave a server running.
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

# In the background: a shell that waits for a foreground command handles no signals. With job control: the command has its
# own process group, which the cleanup can signal as a whole.
set -m
"$@" &
command=$!
set +m
status=0
wait "$command" || status=$?
exit "$status"

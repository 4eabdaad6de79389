#!/usr/bin/env bash
# Runs one private server for the tests. FOLDER has its state, log, ports and password. It listens on 127.0.0.1 only.
#
#   scripts/server.sh start rabbitmq|postgres|s3 FOLDER   prints FOLDER/env: how to reach the server
#   scripts/server.sh stop FOLDER                         stops it gracefully; keeps all data
#   scripts/server.sh kill FOLDER                         kills it, like a crash; keeps all data
#   scripts/server.sh remove FOLDER                       stops it and deletes FOLDER
#
# `start` again on the same FOLDER is a restart: same data, same ports, same password.
# scripts/servers/ has the parts that differ between the three servers: run_as, n_ports, stop_signal, prepare, command, is_ready, cleanup.

# shellcheck disable=SC2034,SC2154 # these files share variables
set -euo pipefail
scripts=$(cd "$(dirname "$0")" && pwd)

die() {
    echo "server.sh: $1" >&2
    exit 2
}

# Exits with an error and the last lines of the log.
fail() {
    tail -n 25 "$folder/log" >&2 || true
    die "$kind in $folder $1; its log is $folder/log"
}

# Below the range of ephemeral ports, so that no other process gets a port while its server is down.
free_ports() {
    python3 - "$1" <<'PYTHON'
import random, socket, sys
held = []
while len(held) < int(sys.argv[1]):
    candidate = socket.socket()
    try:
        candidate.bind(("127.0.0.1", random.randrange(10000, 30000)))
        held.append(candidate)
    except OSError:
        pass
print(*(s.getsockname()[1] for s in held))
PYTHON
}

# Prints the start time of a process in ticks since boot; nothing when it has ended. A pid alone may belong to a new process.
start_time() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
    # The program name in parentheses may contain any character.
    read -ra stat <<<"${stat##*) }"
    [ "${stat[0]}" = Z ] || echo "${stat[19]}"
}

running() {
    [ -f "$folder/pid" ] || return 1
    read -r pid time <"$folder/pid"
    # A process that ended at once has no start time.
    [ -n "$time" ] && [ "$(start_time "$pid")" = "$time" ]
}

# Prints the ids of a process and of all its descendants.
process_tree() {
    local child
    echo "$1"
    # shellcheck disable=SC2013 # one line, many words
    for child in $(cat "/proc/$1/task/$1/children" 2>/dev/null); do
        process_tree "$child"
    done
}

# Waits until the server has ended, at most $1 tenths of a second.
ended_within() {
    local tenth
    for ((tenth = 0; tenth < $1; tenth++)); do
        running || return 0
        sleep 0.1
    done
    return 1
}

load() {
    folder=$(cd "$folder" && pwd)
    kind=$(cat "$folder/kind")
    state=$(readlink -f "$folder/state")
    read -ra ports <"$folder/ports"
    # shellcheck source=/dev/null
    . "$folder/env"
    # shellcheck source=/dev/null
    . "$scripts/servers/$kind.sh"
    # RabbitMQ and Postgres refuse to run as root; when root starts them, they change the user first.
    as_user=()
    if [ -n "$run_as" ] && [ "$(id -u)" -eq 0 ]; then
        as_user=(setpriv "--reuid=$run_as" "--regid=$run_as" --clear-groups)
    fi
}

# Prepares the first start; a restart reuses the result.
create() {
    # shellcheck source=/dev/null
    . "$scripts/servers/$kind.sh"
    mkdir -p "$folder"
    chmod 711 "$folder"
    echo "$kind" >"$folder/kind"
    free_ports "$n_ports" >"$folder/ports"
    mkdir "$folder/state"
    (umask 077 && : >"$folder/env")
    load
    if [ ${#as_user[@]} -gt 0 ]; then
        # The other user has no access below the home of root.
        if ! "${as_user[@]}" test -x "$folder"; then
            rmdir "$folder/state"
            ln -s "$(mktemp -d /tmp/flamingo-server.XXXXXX)" "$folder/state"
            state=$(readlink -f "$folder/state")
        fi
        chown "$run_as:" "$state"
    fi
    # A word that no log contains by chance: a check searches all logs for it.
    (cd "$state" && prepare "hunter2-$(python3 -c 'import secrets; print(secrets.token_hex(12))')") >>"$folder/log" 2>&1 ||
        fail "could not be set up"
}

launch() {
    command
    # Its own process group: a Ctrl-C in the terminal goes to the tests only, and the servers are stopped after them.
    (cd "$state" && exec setsid "${as_user[@]}" "${run[@]}") >>"$folder/log" 2>&1 </dev/null &
    echo "$! $(start_time $!)" >"$folder/pid"
}

# Deletes only folders that this script created.
delete() {
    if [ -f "$folder/kind" ]; then
        if [ -L "$folder/state" ]; then rm -rf "$(readlink -f "$folder/state")"; fi
        rm -rf "$folder"
    elif [ -n "$(ls -A "$folder" 2>/dev/null)" ]; then
        die "$folder does not belong to a server"
    fi
}

start() {
    case $kind in rabbitmq | postgres | s3) ;; *) die "unknown server \`$kind\`; expected rabbitmq, postgres or s3" ;; esac
    if [ ! -f "$folder/created" ]; then
        delete
        create
        touch "$folder/created"
    fi
    load
    if ! running; then
        launch
        local deadline=$((SECONDS + 300))
        until is_ready 2>/dev/null; do
            running || { cleanup && fail "ended while starting"; }
            [ $SECONDS -lt $deadline ] || { end KILL && fail "did not answer within 300 s"; }
            sleep 0.1
        done
    fi
    cat "$folder/env"
}

# Sends a signal and waits; then kills a server that does not react.
end() {
    local members
    if running; then
        members=$(process_tree "$pid")
        if [ "$1" != KILL ]; then
            kill "-$1" "$pid" 2>/dev/null || true
            ended_within 200 || echo "server.sh: $kind in $folder did not stop within 20 s and is killed" >&2
        fi
        # Its descendants too: the remaining processes of a dead Postgres prevent a new start.
        # shellcheck disable=SC2086
        if running; then kill -KILL $members 2>/dev/null || true; fi
        ended_within 100 || fail "could not be killed"
    fi
    rm -f "$folder/pid"
    cleanup
}

usage="usage: server.sh start rabbitmq|postgres|s3 FOLDER, or: server.sh stop|kill|remove FOLDER"
verb=${1:-}
case $verb:$# in
start:3) kind=$2 folder=$3 ;;
stop:2 | kill:2 | remove:2) folder=$2 ;;
*) die "$usage" ;;
esac

if [ "$verb" = start ]; then
    start
elif [ -f "$folder/created" ]; then
    load
    if [ "$verb" = kill ]; then end KILL; else end "$stop_signal"; fi
fi
if [ "$verb" = remove ]; then delete; fi

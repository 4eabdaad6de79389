#!/usr/bin/env bash
# One private server for the tests. Its state, log, ports and password stand in FOLDER; it listens on 127.0.0.1 only.
#
#   scripts/server.sh start rabbitmq|postgres|s3 FOLDER   prints what FOLDER/env holds: how to reach the server
#   scripts/server.sh stop FOLDER                         gracefully; all data stay
#   scripts/server.sh kill FOLDER                         as a crash does it; all data stay
#   scripts/server.sh remove FOLDER                       stops it and deletes FOLDER
#
# `start` again on the same FOLDER is a restart: same data, same ports, same password.
# scripts/servers/ has what differs between the three: run_as, n_ports, stop_signal, prepare, command, answers, after.

# shellcheck disable=SC2034,SC2154 # they pass from one of these files to the other
set -euo pipefail
scripts=$(cd "$(dirname "$0")" && pwd)

say() {
    echo "server.sh: $1" >&2
    exit 2
}

# Ends with a sentence and what the server said last.
fail() {
    tail -n 25 "$folder/log" >&2 || true
    say "$kind in $folder $1; its log is $folder/log"
}

# Below the range from which the kernel takes the ports of outgoing connections: nobody gets one while its server is down.
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

# When a process began, in ticks since boot; nothing when it has ended. A bare pid may by now be somebody else's.
began() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
    # The name of the program, in parentheses, may contain anything.
    read -ra stat <<<"${stat##*) }"
    [ "${stat[0]}" = Z ] || echo "${stat[19]}"
}

running() {
    [ -f "$folder/pid" ] || return 1
    read -r pid time <"$folder/pid"
    # One that ended before it could be asked has no time.
    [ -n "$time" ] && [ "$(began "$pid")" = "$time" ]
}

# A process and all below it.
family() {
    local child
    echo "$1"
    # shellcheck disable=SC2013 # one line, many words
    for child in $(cat "/proc/$1/task/$1/children" 2>/dev/null); do
        family "$child"
    done
}

# Waits for the end of the server, $1 tenths of a second at most.
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
    # RabbitMQ and Postgres want no root; a server that root starts gives it up first.
    as_user=()
    if [ -n "$run_as" ] && [ "$(id -u)" -eq 0 ]; then
        as_user=(setpriv "--reuid=$run_as" "--regid=$run_as" --clear-groups)
    fi
}

# The first start: everything that a restart finds again.
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
        # Below a home of root's the other user gets nowhere.
        if ! "${as_user[@]}" test -x "$folder"; then
            rmdir "$folder/state"
            ln -s "$(mktemp -d /tmp/flamingo-server.XXXXXX)" "$folder/state"
            state=$(readlink -f "$folder/state")
        fi
        chown "$run_as:" "$state"
    fi
    # A word that no log would hold by chance: a test looks for it in all of them.
    (cd "$state" && prepare "hunter2-$(python3 -c 'import secrets; print(secrets.token_hex(12))')") >>"$folder/log" 2>&1 ||
        fail "could not be set up"
}

launch() {
    command
    # A session of its own: a Ctrl-C in the terminal is for the tests, the servers are stopped after them.
    (cd "$state" && exec setsid "${as_user[@]}" "${run[@]}") >>"$folder/log" 2>&1 </dev/null &
    echo "$! $(began $!)" >"$folder/pid"
}

# Only what this script made; a folder given by mistake stays.
delete() {
    if [ -f "$folder/kind" ]; then
        if [ -L "$folder/state" ]; then rm -rf "$(readlink -f "$folder/state")"; fi
        rm -rf "$folder"
    elif [ -n "$(ls -A "$folder" 2>/dev/null)" ]; then
        say "$folder holds something else than a server"
    fi
}

start() {
    case $kind in rabbitmq | postgres | s3) ;; *) say "there is no server \`$kind\`: rabbitmq, postgres, s3" ;; esac
    if [ ! -f "$folder/created" ]; then
        delete
        create
        touch "$folder/created"
    fi
    load
    if ! running; then
        launch
        local deadline=$((SECONDS + 90))
        until answers 2>/dev/null; do
            running || { after && fail "ended at its start"; }
            [ $SECONDS -lt $deadline ] || { end KILL && fail "did not answer within 90 s"; }
            sleep 0.1
        done
    fi
    cat "$folder/env"
}

# Sends a signal and waits; a server that does not listen to it is killed.
end() {
    local members
    if running; then
        members=$(family "$pid")
        if [ "$1" != KILL ]; then
            kill "-$1" "$pid" 2>/dev/null || true
            ended_within 200 || echo "server.sh: $kind in $folder did not stop within 20 s and is killed" >&2
        fi
        # Those below go with it: what is left of a dead Postgres keeps a new one from starting.
        # shellcheck disable=SC2086
        if running; then kill -KILL $members 2>/dev/null || true; fi
        ended_within 100 || fail "could not be killed"
    fi
    rm -f "$folder/pid"
    after
}

usage="usage: server.sh start rabbitmq|postgres|s3 FOLDER, or: server.sh stop|kill|remove FOLDER"
verb=${1:-}
case $verb:$# in
start:3) kind=$2 folder=$3 ;;
stop:2 | kill:2 | remove:2) folder=$2 ;;
*) say "$usage" ;;
esac

if [ "$verb" = start ]; then
    start
elif [ -f "$folder/created" ]; then
    load
    if [ "$verb" = kill ]; then end KILL; else end "$stop_signal"; fi
fi
if [ "$verb" = remove ]; then delete; fi

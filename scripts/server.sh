#!/usr/bin/env bash
# Runs one private server for the tests. FOLDER holds its state, log, ports and password; it listens on 127.0.0.1 only.
#
#   scripts/server.sh start rabbitmq|postgres|s3 FOLDER   prints FOLDER/env: the variables that describe the server
#   scripts/server.sh stop FOLDER                         gracefully; all data stay
#   scripts/server.sh kill FOLDER                         as a crash does it; all data stay
#   scripts/server.sh remove FOLDER                       stops it and deletes FOLDER
#
# `start` again on the same FOLDER is a restart: same data, same ports, same password.
# scripts/servers/ defines for each kind: run_as, n_ports, stop_signal, prepare, command, answers, after.

# shellcheck disable=SC2034,SC2154 # the files in scripts/servers/ set or use these variables
set -euo pipefail
scripts=$(cd "$(dirname "$0")" && pwd)

say() {
    echo "server.sh: $1" >&2
    exit 2
}

# Exits with an error and the end of the server's log.
fail() {
    tail -n 25 "$folder/log" >&2 || true
    say "$kind in $folder $1; its log is $folder/log"
}

# Below the range of ephemeral ports: the kernel gives these ports to no connection while their server is down.
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

# Prints the start time of a process in ticks since boot; nothing if it has ended. A pid alone may belong to a new process.
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
    # A process that ended at once has no start time.
    [ -n "$time" ] && [ "$(began "$pid")" = "$time" ]
}

# Prints a process and all its descendants.
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
    # RabbitMQ and Postgres must not run as root: drop the privileges first.
    as_user=()
    if [ -n "$run_as" ] && [ "$(id -u)" -eq 0 ]; then
        as_user=(setpriv "--reuid=$run_as" "--regid=$run_as" --clear-groups)
    fi
}

# Prepares the first start. A restart uses the same files.
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
        # The other user cannot enter the home folder of root.
        if ! "${as_user[@]}" test -x "$folder"; then
            rmdir "$folder/state"
            ln -s "$(mktemp -d /tmp/flamingo-server.XXXXXX)" "$folder/state"
            state=$(readlink -f "$folder/state")
        fi
        chown "$run_as:" "$state"
    fi
    # The password has a prefix that no log contains by chance: check_secrets.sh searches for it.
    (cd "$state" && prepare "hunter2-$(python3 -c 'import secrets; print(secrets.token_hex(12))')") >>"$folder/log" 2>&1 ||
        fail "could not be set up"
}

launch() {
    command
    # A new session: a Ctrl-C in the terminal ends the tests first, the servers after them.
    (cd "$state" && exec setsid "${as_user[@]}" "${run[@]}") >>"$folder/log" 2>&1 </dev/null &
    echo "$! $(began $!)" >"$folder/pid"
}

# Deletes only folders of this script, no other folder given by mistake.
delete() {
    if [ -f "$folder/kind" ]; then
        if [ -L "$folder/state" ]; then rm -rf "$(readlink -f "$folder/state")"; fi
        rm -rf "$folder"
    elif [ -n "$(ls -A "$folder" 2>/dev/null)" ]; then
        say "$folder contains other files than a server"
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

# Sends a signal and waits; kills the server if it does not end.
end() {
    local members
    if running; then
        members=$(family "$pid")
        if [ "$1" != KILL ]; then
            kill "-$1" "$pid" 2>/dev/null || true
            ended_within 200 || echo "server.sh: $kind in $folder did not stop within 20 s and is killed" >&2
        fi
        # Kill the descendants too: processes of a dead Postgres prevent a new start.
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

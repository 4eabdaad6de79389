# shellcheck shell=bash disable=SC2034,SC2154
# Postgres for scripts/server.sh: the newest version of the Debian packages; their own cluster is not touched.

run_as=postgres
n_ports=1
# "Fast" shutdown: rolls back open transactions and does not wait for clients.
stop_signal=INT

programs() {
    find /usr/lib/postgresql -mindepth 2 -maxdepth 2 -name bin 2>/dev/null | sort -V | tail -n 1
}

prepare() {
    local bin
    bin=$(programs)
    [ -n "$bin" ] || { echo "Postgres is not installed" && return 1; }
    "${as_user[@]}" "$bin/initdb" --pgdata=data --username=postgres --auth=trust --encoding=UTF8 --locale=C --no-sync ||
        return 1
    echo "host all all 127.0.0.1/32 scram-sha-256" >data/pg_hba.conf
    # Single-user mode has no listener: no client can connect before the password is set.
    "${as_user[@]}" "$bin/postgres" --single -D data postgres <<SQL || return 1
CREATE ROLE flamingo LOGIN CREATEDB PASSWORD '$1'
CREATE DATABASE flamingo OWNER flamingo
SQL
    echo "FLAMINGO_TEST_POSTGRES=postgres://flamingo:$1@127.0.0.1:${ports[0]}/flamingo" >>"$folder/env"
}

command() {
    # Called only when the server has ended. Postgres takes a killed server for alive until its process is reaped, which the
    # first process of a container may never do.
    rm -f "$state/data/postmaster.pid"
    run=(
        "$(programs)/postgres" -D "$state/data" -p "${ports[0]}"
        -c listen_addresses=127.0.0.1
        # No Unix socket: the path may be too long.
        -c unix_socket_directories=
        # Writes survive a killed server in the kernel; only a power failure loses them.
        -c fsync=off -c full_page_writes=off
        -c shared_buffers=32MB -c max_connections=200
    )
}

is_ready() {
    [ "$(PGCONNECT_TIMEOUT=5 psql -X -At "$FLAMINGO_TEST_POSTGRES" -c 'SELECT 1')" = 1 ]
}

cleanup() { :; }

# shellcheck shell=bash disable=SC2034,SC2154
# Postgres for scripts/server.sh: the newest version of the Debian packages; it does not use their cluster.

run_as=postgres
n_ports=1
# "Fast": open transactions are rolled back, clients are not waited for.
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
    # A single-user server without a listener: no connection is possible before there is a password.
    "${as_user[@]}" "$bin/postgres" --single -D data postgres <<SQL || return 1
CREATE ROLE flamingo LOGIN CREATEDB PASSWORD '$1'
CREATE DATABASE flamingo OWNER flamingo
SQL
    echo "FLAMINGO_TEST_POSTGRES=postgres://flamingo:$1@127.0.0.1:${ports[0]}/flamingo" >>"$folder/env"
}

command() {
    # Called only when the server has ended. Postgres considers a killed server alive until its parent reaps it, and the
    # first process of a container may never do that.
    rm -f "$state/data/postmaster.pid"
    run=(
        "$(programs)/postgres" -D "$state/data" -p "${ports[0]}"
        -c listen_addresses=127.0.0.1
        # No Unix socket: its path may be too long for one.
        -c unix_socket_directories=
        # After a kill the kernel still has all writes; only a power cut would lose them.
        -c fsync=off -c full_page_writes=off
        -c shared_buffers=32MB -c max_connections=200
    )
}

answers() {
    [ "$(PGCONNECT_TIMEOUT=5 psql -X -At "$FLAMINGO_TEST_POSTGRES" -c 'SELECT 1')" = 1 ]
}

after() { :; }

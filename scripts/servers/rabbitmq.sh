# shellcheck shell=bash disable=SC2034,SC2154
# RabbitMQ for scripts/server.sh, from the Debian package; its own daemon is not touched.
#
#   RABBITMQ_CONSUMER_TIMEOUT_MS   maximum time for which a consumer may hold a message, checked once a second; default 30 minutes
#   RABBITMQ_MEMORY_BYTES          memory above which it blocks publishers; default 4 GB
#   RABBITMQ_MANAGEMENT=1          enables the HTTP API
#   RABBITMQ_CONF=FILE             adds the settings of a rabbitmq.conf; ours override them

run_as=rabbitmq
n_ports=4
stop_signal=TERM

prepare() {
    echo "FLAMINGO_TEST_AMQP=amqp://flamingo:$1@127.0.0.1:${ports[0]}/%2f" >>"$folder/env"
    echo "FLAMINGO_TEST_RABBITMQ_API=http://flamingo:$1@127.0.0.1:${ports[3]}" >>"$folder/env"
}

configuration() {
    local timeout=""
    # RabbitMQ checks once a minute by default, too rarely for a test.
    [ -z "${RABBITMQ_CONSUMER_TIMEOUT_MS:-}" ] ||
        timeout="{consumer_timeout, $RABBITMQ_CONSUMER_TIMEOUT_MS}, {channel_tick_interval, 1000},"
    # Alarms block publishers; a small machine must not raise them.
    cat <<ERLANG
[
  {rabbit, [
    {tcp_listeners, [{"127.0.0.1", ${ports[0]}}]},
    $timeout
    {disk_free_limit, 1000000},
    {vm_memory_high_watermark, {absolute, ${RABBITMQ_MEMORY_BYTES:-4000000000}}}
  ]},
  {rabbitmq_management, [{tcp_config, [{ip, "127.0.0.1"}, {port, ${ports[3]}}]}]}
].
ERLANG
}

command() {
    # Written at each start, because a restart may use another timeout. Erlang's own syntax needs no second file for the
    # interval, and loads faster.
    configuration >"$state/rabbitmq.config"
    local main="$state/rabbitmq.config" over="$state/none"
    if [ -n "${RABBITMQ_CONF:-}" ]; then
        # A copy, because the server's user may have no access to the file. The file in Erlang's syntax overrides it.
        main="$state/main.conf" over="$state/rabbitmq.config"
        install -m 644 "$RABBITMQ_CONF" "$main"
    fi
    echo "[${RABBITMQ_MANAGEMENT:+rabbitmq_management}]." >"$state/enabled_plugins"
    : >"$state/rabbitmq-env.conf"
    local password=${FLAMINGO_TEST_AMQP#*flamingo:}
    local erlang=(
        # Idle schedulers must not spin: that takes CPU time from the tests.
        +S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none
        -kernel inet_dist_use_interface '{127,0,0,1}'
    )
    run=(
        env
        # Otherwise /etc/rabbitmq/rabbitmq-env.conf applies.
        "RABBITMQ_CONF_ENV_FILE=$state/rabbitmq-env.conf"
        "RABBITMQ_CONFIG_FILE=$main"
        "RABBITMQ_ADVANCED_CONFIG_FILE=$over"
        "RABBITMQ_ENABLED_PLUGINS_FILE=$state/enabled_plugins"
        "RABBITMQ_MNESIA_BASE=$state/mnesia"
        "RABBITMQ_LOG_BASE=$state"
        RABBITMQ_LOGS=-
        # Own node name, cookie (in HOME), epmd and port between nodes: so several nodes can run concurrently.
        "HOME=$state"
        "RABBITMQ_NODENAME=flamingo-${ports[0]}@localhost"
        "RABBITMQ_DIST_PORT=${ports[1]}"
        "ERL_EPMD_PORT=${ports[2]}"
        ERL_EPMD_ADDRESS=127.0.0.1
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=${erlang[*]}"
        # In the environment, so that no file holds the password.
        RABBITMQ_DEFAULT_USER=flamingo
        "RABBITMQ_DEFAULT_PASS=${password%@*}"
        # The start script replaces itself by the server instead of supervising it, so signals to its pid reach the server.
        detached=1
        # Not the command of that name in /usr/sbin, which writes its log to /var/log.
        /usr/lib/rabbitmq/bin/rabbitmq-server
    )
}

# The listener opens when the node is ready. It answers a client's protocol header with its first frame, of type 1.
is_ready() {
    local first
    exec 3<>"/dev/tcp/127.0.0.1/${ports[0]}" || return 1
    printf 'AMQP\0\0\11\1' >&3
    LC_ALL=C read -r -N 1 -t 5 first <&3 && [ "$first" = $'\1' ]
    local status=$?
    exec 3>&-
    return $status
}

# Erlang leaves its port mapper (epmd) running.
cleanup() {
    ERL_EPMD_PORT=${ports[2]} epmd -kill >/dev/null 2>&1 || true
}

#!/usr/bin/env bash
# Measures the overhead of the job machinery per item, for three sets of backends; results in bench/results/service.md.
# Starts the servers of the tests (`make servers` installs them). ROUNDS and ITEMS set the amount.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ "${1:-}" = inside ] || {
    cargo build --locked --release --workspace
    exec scripts/with_servers.sh "$0" inside
}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for ((round = 1; round <= ${ROUNDS:-3}; round++)); do
    for slots in 1 16; do
        for backends in memory files servers; do
            name=bench-$backends-$slots-$round
            case $backends in
            memory) urls=(memory:// sqlite::memory: memory://) ;;
            files) urls=(memory:// "sqlite://$folder/$name.db" "file://$folder/$name") ;;
            servers)
                database=${name//-/_}
                psql "$FLAMINGO_TEST_POSTGRES" -qc "CREATE DATABASE $database"
                urls=("$FLAMINGO_TEST_AMQP" "${FLAMINGO_TEST_POSTGRES%/*}/$database" "$FLAMINGO_TEST_S3/$name")
                ;;
            esac
            FLAMINGO__QUEUE__URL=${urls[0]} FLAMINGO__QUEUE__NAME=$name FLAMINGO__DATABASE__URL=${urls[1]} \
                FLAMINGO__STORE__URL=${urls[2]} FLAMINGO__INPUTS__ALLOW=s3://none \
                target/release/bench-service "${ITEMS:-2000}" $slots | tee -a "$folder/all.jsonl"
        done
    done
done
python3 bench/service/table.py <"$folder/all.jsonl" >bench/results/service.md
cat bench/results/service.md

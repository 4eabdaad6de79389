# shellcheck shell=bash disable=SC2034,SC2154
# SeaweedFS, an S3 server, for scripts/server.sh: `weed` from .venv.

# No other user: the program may be in a folder that only the caller can read.
run_as=""
n_ports=8
# A graceful stop waits 15 s for streams between its own parts, which never end. Written data are in the kernel.
stop_signal=KILL

prepare() {
    cat >>"$folder/env" <<ENV
FLAMINGO_TEST_S3=s3://flamingo-test
AWS_ACCESS_KEY_ID=flamingo
AWS_SECRET_ACCESS_KEY=$1
AWS_REGION=us-east-1
AWS_ENDPOINT_URL=http://127.0.0.1:${ports[6]}
AWS_ALLOW_HTTP=true
ENV
}

command() {
    run=(
        # The keys of the administrator come from the environment, so no file holds them.
        env "AWS_ACCESS_KEY_ID=$AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY=$AWS_SECRET_ACCESS_KEY"
        # Number of volumes that the first object of a bucket creates; the default is seven.
        WEED_MASTER_VOLUME_GROWTH_COPY_1=1
        "$scripts/../.venv/bin/weed" -logtostderr server
        -ip=127.0.0.1 -ip.bind=127.0.0.1 "-dir=$state"
        "-master.port=${ports[0]}" "-master.port.grpc=${ports[1]}"
        "-volume.port=${ports[2]}" "-volume.port.grpc=${ports[3]}"
        "-filer.port=${ports[4]}" "-filer.port.grpc=${ports[5]}"
        -s3 "-s3.port=${ports[6]}" "-s3.port.grpc=${ports[7]}"
        # Turn off two services that would listen on 8181 and 9101.
        -s3.port.iceberg=0 -s3.port.lance=0
        # By default in /tmp. Relative to the state folder, in which the server starts: a full path may be too long for a socket.
        -filer.localSocket=filer.sock -s3.localSocket=s3.sock
        # Turn off telemetry, which is on by default.
        -master.telemetry=false
        # Small volumes, as many as the disk has space for; space is allocated on use.
        -volume.max=0 -master.volumeSizeLimitMB=64 -volume.minFreeSpace=100MiB
        # A single master needs no long election.
        -master.electionTimeout=1s
    )
}

# Writes one object through the filer, where buckets are folders, so that bucket and volume exist. S3 is ready when it answers
# an anonymous request for the bucket with 403 (key required) and no longer with "no such bucket".
is_ready() {
    python3 - "${ports[4]}" "${ports[6]}" <<'PYTHON'
import sys, urllib.error, urllib.request
filer, s3 = (f"http://127.0.0.1:{port}" for port in sys.argv[1:])
open_url = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
open_url(urllib.request.Request(f"{filer}/buckets/flamingo-test/.ready", b"yes", method="PUT"), timeout=5)
try:
    open_url(f"{s3}/flamingo-test", timeout=5)
except urllib.error.HTTPError as error:
    sys.exit(error.code != 403)
sys.exit(1)
PYTHON
}

cleanup() { :; }

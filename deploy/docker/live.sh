#!/bin/bash
# Liveness check for HEALTHCHECK. The image has no curl, so bash opens the connection.
set -euo pipefail
address=${1:-127.0.0.1:9464}
exec 3<>"/dev/tcp/${address%:*}/${address##*:}"
printf 'GET /live HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' "$address" >&3
read -r -t 5 _ status _ <&3
[ "$status" = 200 ]

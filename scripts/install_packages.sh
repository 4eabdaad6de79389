#!/usr/bin/env bash
# Installs the Debian packages that building and testing need. When they are installed, it exits quickly.
#
#   scripts/install_packages.sh            packages for every build
#   scripts/install_packages.sh servers    also the servers of the tests, a browser for the pages, and wrong clocks
set -euo pipefail

# gcc links. pkg-config finds FFmpeg, clang and libclang read its headers, and the decoder calls its libraries.
packages=(
    gcc libc6-dev pkg-config clang libclang-dev
    libavcodec-dev libavformat-dev libavutil-dev libswscale-dev libswresample-dev
    ffmpeg # the program: tests and samples make their clips with it
)

[ "${1:-}" != servers ] || packages+=(rabbitmq-server postgresql chromium faketime)

die() {
    echo "$1" >&2
    exit 2
}

command -v python3 >/dev/null || packages+=(python3)
# `python3 -m venv` needs both; Debian has them in a separate package.
python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3-venv)

command -v dpkg-query >/dev/null ||
    die "This is not Debian or Ubuntu: install the equivalents of ${packages[*]}, then use cargo directly."

missing=()
for package in "${packages[@]}"; do
    state=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    sudo -n true 2>/dev/null || die "Please run: sudo apt-get install -y ${missing[*]}"
    as_root=(sudo -n)
fi
apt() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::Retries=3 "$@"
}

# The server packages start system daemons, now and at every boot, but the tests start their own servers. This script keeps
# only newly installed daemons stopped: a daemon that was installed before may be in use.
daemons=()
for package in "${missing[@]}"; do
    case $package in rabbitmq-server | postgresql) daemons+=("$package") ;; esac
done

policy=/usr/sbin/policy-rc.d
mine=""
hold_daemons() {
    # Debian runs this program before a package starts its daemon; status 101 forbids the start. Containers often have one.
    if [ ${#daemons[@]} -gt 0 ] && [ ! -e "$policy" ]; then
        mine=yes
        printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
        "${as_root[@]}" chmod 755 "$policy"
    fi
}
disable_daemons() {
    # An installed daemon is enabled even if it was not started: it would start at the next boot.
    if command -v systemctl >/dev/null && [ ${#daemons[@]} -gt 0 ]; then
        "${as_root[@]}" systemctl disable "${daemons[@]}" >/dev/null 2>&1 || true
    fi
}

echo "Installing ${missing[*]}"
log=$(mktemp)
finish() {
    rm -f "$log"
    [ -z "$mine" ] || "${as_root[@]}" rm -f "$policy"
}
trap finish EXIT
hold_daemons
if ! { apt update && apt install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    tail -n 5 "$log" >&2
    die "The packages ${missing[*]} could not be installed: is there a network?"
fi
disable_daemons

#!/usr/bin/env bash
# Installs the Debian packages that building and testing need. Does nothing, quickly, when they are there.
set -euo pipefail

# gcc links. pkg-config finds FFmpeg, clang and libclang read its headers, the libraries are what the decoder calls.
packages=(
    gcc libc6-dev pkg-config clang libclang-dev
    libavcodec-dev libavformat-dev libavutil-dev libswscale-dev libswresample-dev
    ffmpeg # the program: tests and samples make their clips with it
)

say() {
    echo "$1" >&2
    exit 2
}

command -v python3 >/dev/null || packages+=(python3)
# `python3 -m venv` needs both; Debian keeps them in a package of their own.
python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3-venv)

command -v dpkg-query >/dev/null ||
    say "This is not Debian or Ubuntu: install what matches ${packages[*]}, then use cargo directly."

missing=()
for package in "${packages[@]}"; do
    state=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    sudo -n true 2>/dev/null || say "Please run: sudo apt-get install -y ${missing[*]}"
    as_root=(sudo -n)
fi
apt() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::Retries=3 "$@"
}

echo "Installing ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { apt update && apt install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    tail -n 5 "$log" >&2
    say "The packages ${missing[*]} could not be installed: is there a network?"
fi

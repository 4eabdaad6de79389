#!/usr/bin/env bash
# Is there a Rust that is new enough? With arguments: and do these cargo subcommands exist?
set -euo pipefail
cd "$(dirname "$0")/.."

say() {
    echo "$1" >&2
    exit 2
}

least=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
command -v cargo >/dev/null || say "cargo is not there: Flamingo needs Rust $least or newer."
found=$(rustc --version | cut -d' ' -f2)
oldest=$(printf '%s\n%s\n' "$least" "$found" | sort -V | head -n 1)
[ "$oldest" = "$least" ] || say "Rust $found is too old: Flamingo needs $least or newer."

for tool in "$@"; do
    cargo "$tool" --version >/dev/null 2>&1 ||
        say "cargo $tool is not there; with rustup: rustup component add ${tool/fmt/rustfmt}"
done

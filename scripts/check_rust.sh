#!/usr/bin/env bash
# Checks that Rust is installed and new enough. With arguments: also checks that these cargo subcommands exist.
set -euo pipefail
cd "$(dirname "$0")/.."

die() {
    echo "$1" >&2
    exit 2
}

least=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
command -v cargo >/dev/null || die "cargo is not installed: Flamingo needs Rust $least or newer."
found=$(rustc --version | cut -d' ' -f2)
oldest=$(printf '%s\n%s\n' "$least" "$found" | sort -V | head -n 1)
[ "$oldest" = "$least" ] || die "Rust $found is too old: Flamingo needs $least or newer."

for tool in "$@"; do
    cargo "$tool" --version >/dev/null 2>&1 ||
        die "cargo $tool is not installed; with rustup: rustup component add ${tool/fmt/rustfmt}"
done

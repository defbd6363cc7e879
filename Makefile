# `make` lists the targets. Needs Rust, make and a C compiler; the rest is fetched or named.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# More jobs build faster and want about 1.5 GB of memory each while linking.
export CARGO_BUILD_JOBS ?= 2
TARGET := $(or $(CARGO_TARGET_DIR),target)
VENV := $(TARGET)/venv
# What cargo builds for `make deny` and `make sbom`, in minutes, once.
TOOLS := $(abspath $(TARGET))/tools
export PATH := $(TOOLS)/bin:$(PATH)

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "  make run ORIGIN=http://127.0.0.1:8000 ARGS='--default-ttl 10s' runs it in front of an app."

.PHONY: run
run: build ## Run in front of ORIGIN (one URL or several); without it, in front of a demo site
	@exec $(TARGET)/release/tidegate $(if $(ORIGIN),run $(foreach url,$(ORIGIN),--origin '$(url)'),demo) $(ARGS)

.PHONY: build
build: tools ## Build the release binary
	cargo build --locked --release

.PHONY: test
test: tools venv ## Run all tests, after installing what they need
	@.ci/need chromium faketime openssl redis-server
	@mkdir -p $(TARGET)
	@failed=0; \
	cargo test --locked --no-fail-fast 2>&1 | tee $(TARGET)/test.log || failed=1; \
	echo; \
	grep -E '^ +Running |^ +Doc-tests |^test result:|^error|wire scripts$$' $(TARGET)/test.log || true; \
	exit $$failed

.PHONY: lint
lint: tools ## Check format, clippy, licences and bans
	cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings
	@if command -v cargo-deny >/dev/null; then \
		cargo deny --locked check bans licenses sources; \
	else \
		echo "cargo-deny is not installed: bans, licences and sources skipped; make deny installs it"; \
	fi

.PHONY: deny
deny: tools ## Check bans, licences, sources and advisories, after building cargo-deny
	@command -v cargo-deny >/dev/null || cargo install --locked --root $(TOOLS) cargo-deny@0.20.2
	cargo deny --locked check bans licenses sources
	@if timeout 60 cargo deny fetch db; then \
		cargo deny --locked check --disable-fetch advisories; \
	else \
		echo "the advisory database can't be had: advisories skipped"; \
	fi

# cargo-cyclonedx: by the makers of the format, Apache-2.0, last released in March 2026, and packaged by Fedora and Alpine.
.PHONY: sbom
sbom: tools ## Write what the binary is made of, as CycloneDX, to target/
	@command -v cargo-cyclonedx >/dev/null || cargo install --locked --root $(TOOLS) cargo-cyclonedx@0.5.9
	@mkdir -p $(TARGET)
	cargo cyclonedx --quiet --format json --spec-version 1.5 --describe binaries
	mv tidegate_bin.cdx.json $(TARGET)/tidegate.cdx.json

.PHONY: container-check
container-check: ## Build the container image without Docker and run it; as root, on Debian
	@tests/container/check

.PHONY: coverage
coverage: tools ## Print what is promised against the tests that carry it
	cargo test --locked --quiet --test main -- --coverage

.PHONY: bench bench-spike bench-peers bench-http2 bench-floods bench-crowd bench-outage bench-origin bench-limits bench-fleet bench-upgrade bench-hostile soak
bench: tools ## Measure the rules and the lookup
	cargo bench --locked --bench rules

bench-peers: build ## Measure a hit beside nginx, Varnish and HAProxy
	cargo bench --locked --bench peers -- $(ARGS)

bench-http2: build ## Measure HTTP/2 beside nginx, and idle connections
	@.ci/need h2load=nghttp2-client
	cargo bench --locked --bench http2 -- $(ARGS)

bench-floods: build ## Flood it with HTTP/2 while healthy clients ask
	cargo bench --locked --bench floods -- $(ARGS)

bench-crowd: build ## Send a thousand clients to one cold page
	cargo bench --locked --bench crowd -- $(ARGS)

bench-outage: build ## Break the origin in every way, after warming
	cargo bench --locked --bench outage -- $(ARGS)

bench-spike: build ## Whether the generator tells the truth, within 5 %; then all scenarios of `tidegate bench spike`, beside what of nginx, Varnish and HAProxy is installed (10 min)
	TIDEGATE_STRICT=1 cargo test --locked --test main -- spike::a_stall_is_measured_as_it_was
	@mkdir -p $(TARGET)/bench
	$(TARGET)/release/tidegate bench spike --all --peers tidegate,nginx,varnish,haproxy \
		--json $(TARGET)/bench/spike.json --html $(TARGET)/bench/spike.html $(ARGS)

bench-origin: build ## Overload an origin, let its servers fail, beside nginx and Varnish
	cargo bench --locked --bench origin -- $(ARGS)

bench-limits: build ## Measure what limits cost: a decision, a client, a hit, a refusal
	cargo bench --locked --bench limits -- $(ARGS)

bench-fleet: build ## Share a limit over Redis, for half a minute each way; kill Redis under load (3 min)
	@.ci/need redis-server
	TIDEGATE_SECONDS=30 TIDEGATE_BIN=$(abspath $(TARGET))/release/tidegate \
		cargo test --locked --test main -- fleet:: --test-threads 1

bench-upgrade: build ## Change the config, change the binary and restart it under load
	cargo bench --locked --bench upgrade -- $(ARGS)

bench-hostile: build ## Run the hostile wire scripts against nginx, Varnish and HAProxy too
	cargo bench --locked --bench hostile -- $(ARGS)

soak: build ## Watch resident memory under a million pages and slow readers; then look for stale or mixed pages (10 min)
	cargo bench --locked --bench memory -- $(ARGS)
	TIDEGATE_SECONDS=600 cargo test --locked --test main -- consistency::

.PHONY: differential fuzz
N ?= 100000
differential: tools ## Send N mutated requests (SEED, CASE) through the proxy to a strict origin
	TIDEGATE_DIFFERENTIAL=$(N) TIDEGATE_SEED=$(SEED) TIDEGATE_CASE=$(CASE) \
		cargo test --locked --test main -- differential::

# What is found lands in fuzz/artifacts; new inputs stay below the target directory.
FUZZ_TARGETS := $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs)))
fuzz: SECONDS := 60
fuzz: tools ## Fuzz each parser for SECONDS (or those in FUZZ_TARGETS), one after the other
	@.ci/need c++=g++
	@command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz
	@failed=; \
	for target in $(FUZZ_TARGETS); do \
		mkdir -p $(TARGET)/fuzz/$$target; \
		echo "fuzz $$target"; \
		cargo fuzz run --sanitizer none $$target $(TARGET)/fuzz/$$target fuzz/corpus/$$target -- \
			-max_total_time=$(SECONDS) -timeout=10 -print_final_stats=1 || failed+=" $$target"; \
	done; \
	[[ -z $$failed ]] || { echo "found something:$$failed"; exit 1; }

.PHONY: venv
venv: $(VENV)/.ready ## Prepare the Python app that the end-to-end tests run

$(VENV)/.ready: examples/fastapi-blog/requirements.txt
	@.ci/need python3 venv=python3-venv
	rm -rf $(VENV)
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

# cmake is for zlib-ng, which pingora builds.
.PHONY: tools
tools:
	@.ci/need cargo=rust cc=gcc cmake

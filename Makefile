# One door for people and machines: `make help` lists what there is.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo demo-monitoring test check lint bench bench-attacks bench-failover bench-calm chaos dist schema rig clients clean packages

# What building and testing needs of Debian 12, beside Rust and a C compiler.
BUILD_PACKAGES := gcc protobuf-compiler libprotobuf-dev
TEST_PACKAGES := etcd-server etcd-client redis-server prometheus procps util-linux iproute2 findutils openssl zookeeper default-jre-headless systemd

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## From nothing to a replicated Redis on a local cluster, and back to nothing
	@scripts/need $(BUILD_PACKAGES) redis-server
	@scripts/demo

demo-monitoring: ## Instances with a load, Prometheus with the alert rules, and where to look (DEMO_SECONDS=20)
	@scripts/need $(BUILD_PACKAGES) redis-server prometheus
	@scripts/demo-monitoring

test: packages rig clients ## All tests, on real etcd, Redis and Mesos (installs what they need)
	@if cargo nextest --version >/dev/null 2>&1; then cargo nextest run; \
	else cargo test --quiet -- --test-threads=4; fi

check: ## Does it compile? All targets
	@scripts/need $(BUILD_PACKAGES)
	@cargo check --all-targets

lint: packages ## Format, clippy, licences and sources of dependencies, the source's own rules
	@cargo fmt --check
	@cargo clippy --quiet --all-targets -- -D warnings
	@scripts/cargo-deny --log-level error check bans licenses sources
	@cargo test --quiet --test tidy

bench: packages rig ## Times on the real Mesos beside bare scripts, and 1,000 instances (failover: bench-failover)
	@table=$$(mktemp); trap 'rm -f "$$table"' EXIT; \
	REDISCTL_BENCH_TABLE=$$table cargo bench --bench launch --bench scale --bench placement; \
	printf '\n%-52s %14s  %-34s %-14s %s\n' figure value floors ratio aim; cat "$$table"

ROUNDS ?= 100
bench-failover: packages rig ## Failover beside Redis Sentinel's in the same run (90 minutes; ROUNDS=10: 10)
	@cargo bench --bench failover -- $(ROUNDS)

ATTACK_ROUNDS ?= 5
bench-attacks: packages ## Failover while somebody attacks, beside calm ones of the same run (ATTACK_ROUNDS=20)
	@cargo bench --bench attacks -- $(ATTACK_ROUNDS)

MINUTES ?= 10
bench-calm: packages rig ## Full load, saves and 50 ms stalls: no master may be taken for gone (MINUTES=60 SEED=n)
	@cargo bench --bench failover -- calm $(MINUTES)

chaos: packages rig ## Faults one after the other while clients write; no confirmed write is lost (MINUTES=10 SEED=n)
	@CHAOS_MINUTES=$(MINUTES) CHAOS_SEED=$${SEED:-$$RANDOM} cargo test --quiet --test chaos -- --nocapture

dist: ## An archive with a static binary, man pages, completion and manifests, and its checksum
	@scripts/need $(BUILD_PACKAGES)
	@scripts/dist

schema: ## Writes manifests/ again from the types
	@scripts/need $(BUILD_PACKAGES)
	@cargo run --quiet -- schema >manifests/redisinstance.schema.json

rig: ## Builds the real Mesos for tests below target/ (once, about 15 s)
	@tests/mesos-rig/setup

clients: ## Fetches the Redis clients that others wrote, for tests, below target/ (once)
	@tests/clients/setup

clean: ## Removes everything that was built
	@cargo clean

packages:
	@scripts/need $(BUILD_PACKAGES) $(TEST_PACKAGES)

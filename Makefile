# Ringfence: what one does with this work tree. Everything a target needs, it sets up itself.
.DEFAULT_GOAL := help
CLUSTER ?= demo
TESTBED := tests/cluster/cluster.sh
BINARIES := $(or $(CARGO_TARGET_DIR),target)/debug

.PHONY: help build generate check-generated cluster-up cluster-down install demo test sim fuzz bench bench-agent bench-fan-out bench-e2e lint clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## bin/ringfence, bin/ringfence-controller, bin/cven, bin/cven-cni
	@scripts/build.sh

generate: ## the definitions of the kinds, from the Rust types
	@scripts/generate.sh

check-generated: ## fail if `make generate` would change something
	@scripts/generate.sh --check

cluster-up: ## a real three-node cluster (CLUSTER=demo); last line: export KUBECONFIG=...
	@$(TESTBED) up $(CLUSTER)

cluster-down: ## end it, whatever state it is in
	@$(TESTBED) down $(CLUSTER)

install: ## Ringfence from this work tree onto the cluster of the current KUBECONFIG
	@scripts/install.sh

demo: build ## the whole story on a real cluster: commits in, connections checked
	@$(BINARIES)/demo

test: ## everything, from unit tests to a real cluster of its own; RUNGS="unit chart" for some
	@scripts/test.sh $(RUNGS)

sim: build ## random policy and clusters, the compiler held against the oracle; SECONDS=600 for longer
	@$(BINARIES)/sim --seconds $(or $(SECONDS),60)

fuzz: ## the parser and the compiler with bytes that a fuzzer makes up; a nightly compiler; SECONDS=600 of each for longer
	@FUZZ_SECONDS=$(or $(SECONDS),60) scripts/fuzz.sh

bench: ## how long compiler and agent take, in the shapes that the field publishes, and what an agent costs; built for itself
	@cargo build --quiet --release --locked -p ringfence-sim
	@cargo build --quiet --release --locked -p ringfence-node-agent -p ringfence-cni -p ringfence-tests --bin cven --bin cven-cni --bin bench-agent
	@$(or $(CARGO_TARGET_DIR),target)/release/bench-compile
	@$(or $(CARGO_TARGET_DIR),target)/release/bench-node
	@$(or $(CARGO_TARGET_DIR),target)/release/bench-agent

bench-agent: ## the last part of bench alone: what a node agent costs, in network namespaces; PART=node for some of it
	@cargo build --quiet --release --locked -p ringfence-node-agent -p ringfence-cni -p ringfence-tests --bin cven --bin cven-cni --bin bench-agent
	@$(or $(CARGO_TARGET_DIR),target)/release/bench-agent $(PART)

bench-fan-out: build ## what agents that watch cost a real apiserver, 200 to 2,000 of them
	@$(BINARIES)/bench-fan-out

bench-e2e: build ## how long a change takes from the apiserver, or from git, to the kernel
	@$(BINARIES)/bench-e2e

lint: ## format, shell scripts and clippy, warnings are errors
	@scripts/test.sh fmt shell clippy

clean: ## what was built here; clusters and their programs stay
	rm -rf bin dist
	cargo clean

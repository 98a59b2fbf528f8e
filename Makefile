# Mainstay: one file describes the site, one binary keeps it standing.

SITE ?= examples/1-single/site.toml
BINARY := target/release/mainstay

.PHONY: help up down test lint fmt bench bench-web bench-edge fuzz clean-check

help: ## Show what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

up: ## Install what is missing, build, and bring the example site up (SITE=... for another)
	@scripts/packages up
	cargo build --release --package mainstay
	$(BINARY) up $(SITE)

down: ## Take the site down; its data stays (`target/release/mainstay down --purge` leaves nothing)
	@scripts/packages up
	$(BINARY) down

test: ## Install what is missing and run all tests, those of whole sites included
	@scripts/packages test
	@scripts/test

lint: ## Formatting, clippy without a warning, shell scripts
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	@if command -v cargo-deny >/dev/null; then cargo deny check; else echo "cargo-deny is not installed: licences and advisories were not checked"; fi
	@for script in scripts/packages scripts/test .ci/run; do bash -n $$script; done

fmt: ## Format all code
	cargo fmt --all

bench: bench-web bench-edge ## Run every benchmark beside its peer

bench-web: ## Static files and PHP beside nginx, in the same run
	@scripts/packages bench
	cargo run --release --package mainstay-benches --bin bench-web

bench-edge: ## The load balancer beside HAProxy and nginx, in the same run
	@scripts/packages bench
	cargo run --release --package mainstay-benches --bin bench-edge

fuzz: ## Run every fuzz target for a minute (FUZZ_SECONDS=... for another time)
	@scripts/fuzz

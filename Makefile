# Everything a developer or a machine runs. `make help` lists it.
SHELL := /bin/bash
.DEFAULT_GOAL := help

OUT     := $(abspath $(or $(CARGO_TARGET_DIR),target))
TARGET  := x86_64-unknown-linux-musl
RELEASE := $(OUT)/$(TARGET)/release/herald
DEBUG   := $(OUT)/debug
SIZE_LIMIT := 15000000

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
# What the image is called in its file; a registry's name comes before it when it is pushed.
IMAGE   ?= docker.io/library/herald:$(VERSION)
# `make image ARCHES="amd64 arm64"` installs a cross compiler.
ARCHES  ?= amd64
TARGET_amd64 := $(TARGET)
TARGET_arm64 := aarch64-unknown-linux-musl

export PATH := $(PATH):/usr/sbin:/sbin
export CC_x86_64_unknown_linux_musl ?= musl-gcc
export CC_aarch64_unknown_linux_musl ?= aarch64-linux-gnu-gcc
export CFLAGS_aarch64_unknown_linux_musl ?= -specs /usr/lib/aarch64-linux-musl/musl-gcc.specs
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER ?= aarch64-linux-gnu-gcc
# The same source makes the same bytes wherever it lies: the static binaries name no path of this machine.
REMAP := $(foreach pair,$(or $(CARGO_HOME),$(HOME)/.cargo)=/cargo $(CURDIR)=/herald $(OUT)=/target,--remap-path-prefix=$(pair))
RUSTFLAGS_MUSL := $(REMAP) -Clink-arg=-Wl,-T,$(CURDIR)/release/no-unwind.ld
export CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_RUSTFLAGS ?= $(RUSTFLAGS_MUSL)
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_RUSTFLAGS ?= $(RUSTFLAGS_MUSL)

.PHONY: help
help: ## Lists the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{ printf "  make %-14s %s\n", $$1, $$2 }'

.PHONY: setup
setup: ## Installs what the machine lacks (Debian packages, Rust target)
	@.ci/setup

.PHONY: build
build: setup ## Builds the release binary: static, stripped, at most 15 MB
	@echo "build: herald (release, static)"
	@cargo build --locked --release --target $(TARGET) --package herald
	@size=$$(stat -c %s $(RELEASE)); echo "build: $(RELEASE), $$size bytes"; \
	  if [ $$size -gt $(SIZE_LIMIT) ]; then echo "build: larger than $(SIZE_LIMIT) bytes" >&2; exit 1; fi

.PHONY: image
image: build ## Makes the OCI image (ARCHES="amd64 arm64") and a bill of materials beside it
	@$(if $(filter arm64,$(ARCHES)),.ci/setup arm64)
	@$(foreach arch,$(filter-out amd64,$(ARCHES)),echo "image: herald for $(arch)" && \
	  cargo build --locked --release --target $(TARGET_$(arch)) --package herald &&) true
	@mkdir -p $(OUT)/image
	@set -e; $(foreach arch,$(ARCHES),release/sbom $(TARGET_$(arch)) >$(OUT)/image/herald-$(VERSION)-$(arch).cdx.json;)
	@TITLE=Herald VERSION=$(VERSION) LICENSES=Apache-2.0 REVISION=$$(git describe --always --abbrev=40 --exclude='*' --dirty) \
	  DESCRIPTION="LoadBalancer addresses and the service proxy of a bare-metal Kubernetes cluster" \
	  SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) release/image $(OUT)/image/herald-$(VERSION).tar $(IMAGE) \
	  $(foreach arch,$(ARCHES),$(arch)=$(OUT)/$(TARGET_$(arch))/release/herald)
	@echo "image: $(OUT)/image/herald-$(VERSION).tar, $(IMAGE) for $(ARCHES)"

.PHONY: release
release: image cluster ## Gathers a release in one folder: binaries, image, chart, manifests, changelog, checksums
	@SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) KUBECTL=$$(e2e/cluster/build.sh --where)/kubectl \
	  release/gather $(OUT)/herald-$(VERSION) $(VERSION) $(OUT)/image \
	  $(foreach arch,$(ARCHES),$(arch)=$(OUT)/$(TARGET_$(arch))/release/herald)
	@ls -l $(OUT)/herald-$(VERSION)

.PHONY: cluster
cluster: setup ## Builds the Kubernetes control plane of the labs (once, cached)
	@e2e/cluster/build.sh >/dev/null

.PHONY: demo
demo: build cluster ## Lays out a lab, runs Herald in it, shows a Service that works, and leaves it up
	@echo "demo: the lab's own program"
	@cargo build --locked --package herald-e2e --bin lab
	@HERALD_BIN=$(RELEASE) $(DEBUG)/lab demo

.PHONY: demo-down
demo-down: ## Ends the lab of `make demo` and leaves nothing behind
	@if [ ! -x $(DEBUG)/lab ]; then cargo build --locked --quiet --package herald-e2e --bin lab; fi
	@$(DEBUG)/lab down

.PHONY: test
test: setup cluster ## Runs every test of every level: pure, network namespaces, cluster
	@e2e/peers/build.sh >/dev/null
	@e2e/tools/build.sh >/dev/null
	@HERALD_BIN=$(DEBUG)/herald .ci/test

.PHONY: test-pure
test-pure: ## Runs the tests that need no kernel, no root and no network
	@.ci/test pure

.PHONY: test-netns
test-netns: setup ## Runs the tests that need network namespaces
	@.ci/test netns

.PHONY: test-cluster
test-cluster: setup cluster ## Runs the suites on a real API server
	@e2e/peers/build.sh >/dev/null
	@e2e/tools/build.sh >/dev/null
	@HERALD_BIN=$(DEBUG)/herald .ci/test cluster

.PHONY: test-alerts
test-alerts: setup ## Lets each alert fire with promtool, and checks what alerts and dashboards name
	@e2e/tools/build.sh >/dev/null
	@cargo test --locked --workspace --test offline --quiet monitoring
	@cargo test --locked --workspace --test cluster --quiet -- --ignored monitoring::alerts

.PHONY: test-install
test-install: ARCHES := amd64
test-install: cluster image ## Runs the manifests on three real kubelets with containerd (once 10 minutes more: builds them)
	@.ci/setup kubelet
	@e2e/kubelet/build.sh >/dev/null
	@HERALD_IMAGE=$(OUT)/image/herald-$(VERSION).tar .ci/test install

.PHONY: test-conformance
test-conformance: ARCHES := amd64
test-conformance: cluster image ## Runs Kubernetes' own e2e suite (FOCUS="Conntrack" SLOW=1 NODES=6 OVERLAY=bgp; once 15 minutes more: builds it)
	@.ci/setup kubelet
	@e2e/kubelet/build.sh >/dev/null
	@e2e/conformance/build.sh >/dev/null
	@HERALD_IMAGE=$(OUT)/image/herald-$(VERSION).tar HERALD_CONFORMANCE=$(OUT)/conformance \
	  HERALD_CONFORMANCE_FOCUS='$(FOCUS)' HERALD_CONFORMANCE_SLOW=$(SLOW) HERALD_CONFORMANCE_NODES=$(NODES) \
	  HERALD_CONFORMANCE_OVERLAY=$(OVERLAY) .ci/test conformance

.PHONY: bench-create
bench-create: build cluster ## Times a new Service to its first byte, beside MetalLB and kube-proxy
	@e2e/peers/build.sh >/dev/null
	@cargo build --locked --package herald-e2e --bins
	@HERALD_BIN=$(RELEASE) $(DEBUG)/bench-create

.PHONY: bench-proxy
bench-proxy: build cluster ## Measures the service proxy at scale, beside kube-proxy (ARGS="--only more --sizes 1000")
	@e2e/peers/build.sh >/dev/null
	@echo "bench-proxy: its own programs (release)"
	@cargo build --locked --release --target $(TARGET) --package herald-e2e --bins
	@HERALD_BIN=$(RELEASE) $(dir $(RELEASE))bench-proxy \
	  --json $(OUT)/bench-proxy.json $(ARGS)

.PHONY: bench-l2
bench-l2: build cluster ## Measures layer 2 failover, beside MetalLB and keepalived (ARGS="--only killed --times 10")
	@e2e/peers/build.sh >/dev/null
	@echo "bench-l2: its own programs (release)"
	@cargo build --locked --release --target $(TARGET) --package herald-e2e --bins
	@HERALD_BIN=$(RELEASE) $(dir $(RELEASE))bench-l2 \
	  --json $(OUT)/bench-l2.json $(ARGS)

.PHONY: bench-controller
bench-controller: build cluster ## Measures the controller with ten thousand Services (ARGS="--only more,restart")
	@echo "bench-controller: its own programs (release)"
	@cargo build --locked --release --target $(TARGET) --package herald-e2e --bins
	@HERALD_BIN=$(RELEASE) $(dir $(RELEASE))bench-controller \
	  --json $(OUT)/bench-controller.json $(ARGS)

.PHONY: bench-bgp
bench-bgp: build cluster ## Measures BGP and BFD, beside BIRD, GoBGP and FRR (ARGS="--only bfd,death")
	@echo "bench-bgp: its own programs (release)"
	@cargo build --locked --release --target $(TARGET) --package herald-e2e --bins
	@HERALD_BIN=$(RELEASE) $(dir $(RELEASE))bench-bgp \
	  --json $(OUT)/bench-bgp.json $(ARGS)

.PHONY: bench-status
bench-status: build ## Times herald status with 1,000 Services and 100 nodes
	@HERALD_STATUS_BIN=$(RELEASE) cargo test --locked --workspace --test offline --quiet -- --nocapture scale

.PHONY: fmt
fmt: ## Checks the formatting
	@cargo fmt --all --check

.PHONY: lint
lint: ## Clippy, warnings are errors
	@cargo clippy --locked --workspace --all-targets --quiet -- -D warnings

.PHONY: doc
doc: ## Builds the documentation, warnings are errors
	@RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items --quiet

.PHONY: soak
soak: build cluster ## Runs Herald under churn and load for 30 minutes; a page with plots (ARGS="--minutes 600")
	@cargo build --locked --package herald-e2e --bins
	@HERALD_BIN=$(RELEASE) $(DEBUG)/soak --page $(OUT)/soak.html --json $(OUT)/soak.json $(ARGS)

.PHONY: site
site: ## Builds README and docs as a site (mdBook)
	@.ci/setup site
	@rm -rf $(OUT)/site && mkdir -p $(OUT)/site/src
	@cp -r README.md CONTRIBUTING.md LICENSE docs manifests charts $(OUT)/site/src
	@mv $(OUT)/site/src/docs/book/SUMMARY.md $(OUT)/site/src && mv $(OUT)/site/src/docs/book/book.toml $(OUT)/site
	@rmdir $(OUT)/site/src/docs/book && mdbook build $(OUT)/site
	@echo "site: $(OUT)/site/book/index.html"

.PHONY: gates
gates: ## Checks the arrows between the crates
	@.ci/gates

.PHONY: deny
deny: ## Checks licences, bans and sources of all dependencies
	@.ci/setup deny
	@cargo deny --offline --log-level error check bans licenses sources

.PHONY: ci
# What is built once gains nothing from being built by increments, and they are half of its disk space.
ci: export CARGO_INCREMENTAL := 0
ci: setup fmt gates lint doc build ## What must pass before a change lands
	@cargo fetch --locked --quiet
	$(MAKE) --no-print-directory deny
	@# The one command that the README gives for testing.
	$(MAKE) --no-print-directory test

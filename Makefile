# Only Go is needed; the targets install or build everything else.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
FUZZTIME ?= 10000x
SOAK ?= 1h

.PHONY: help
help: ## Print this list.
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build static binaries for this machine: bin/authserver and bin/operator.
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$(VERSION)" -o bin/ ./cmd/authserver ./cmd/operator

.PHONY: run
run: bin/authserver ## Run the server with its own PostgreSQL until Ctrl-C. EXPOSURE=public adds an application in the browser.
	@go build -o bin/run ./hack/run
	@bin/run

.PHONY: bin/authserver
bin/authserver:
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$(VERSION)" -o bin/ ./cmd/authserver

.PHONY: plugin
plugin: ## Build kubectl authgateway for all platforms and its manifest for krew: bin/plugin. VERSION must be such as v1.2.3.
	go run ./hack/krew -version $(VERSION) -to bin/plugin

.PHONY: release
release: bin/release ## Make the release VERSION in dist/VERSION, signed with RELEASE_KEY, for images in REGISTRY. See docs/release.md.
	@bin/release -version $(VERSION) $(if $(RELEASE_KEY),-key $(RELEASE_KEY)) $(if $(UNSIGNED),-unsigned) $(if $(REGISTRY),-registry $(REGISTRY)) $(RELEASE_FLAGS)

.PHONY: publish
publish: bin/release ## Push the images and the chart of dist/VERSION, with their signatures, to REGISTRY.
	@bin/release publish -registry $(REGISTRY) dist/$(VERSION)

.PHONY: bin/release
bin/release:
	@cd hack/release && CGO_ENABLED=0 go build -trimpath -o ../../bin/ .

.PHONY: bin/kubectl-authgateway
bin/kubectl-authgateway:
	@cd cmd/kubectl-authgateway && CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$(VERSION)" -o ../../bin/ .

.PHONY: up
up: bin/cluster bin/kubectl-authgateway ## Create a Kubernetes cluster on this machine (with kind, or without Docker) and run Auth Gateway in it.
	@bin/cluster up

.PHONY: status
status: bin/cluster ## Show what is running in the cluster.
	@bin/cluster status

.PHONY: down
down: bin/cluster ## Delete the cluster and everything it left on this machine.
	@bin/cluster down

.PHONY: bin/cluster
bin/cluster:
	@cd hack/localcluster && go build -o ../../bin/cluster ./cluster

.PHONY: e2e
e2e: ## Test the operator and real pods in the cluster of make up, or in the one that KUBECONFIG names.
	go test -count=1 -parallel 1 -timeout 40m -v ./test/e2e

.PHONY: cloudnativepg
cloudnativepg: bin/cluster ## Install CloudNativePG in the cluster of make up, and test a gateway over it whose primary fails.
	@bin/cluster cloudnativepg
	go test -count=1 -tags cloudnativepg -run '^TestCloudNativePG$$' -timeout 0 -v ./test/e2e

.PHONY: soak
soak: ## Rotate keys in the same cluster for SOAK (1h), while pods are killed and services verify each token.
	go test -count=1 -tags soak -run '^TestSoak$$' -parallel 4 -timeout 0 -v ./test/e2e -soak $(SOAK)

.PHONY: manifests
manifests: ## Print the operator's manifests (config/default) for kubectl apply.
	@go tool -modfile=hack/tools/kubernetes/go.mod kustomize build config/default

.PHONY: test
test: ## Run all tests except e2e, with a real PostgreSQL and a real Kubernetes API server.
	hack/test.sh

.PHONY: quick
quick: ## Run the tests that need no API server, no browser and no long search.
	hack/test.sh -quick

.PHONY: fuzz
fuzz: ## Run each fuzz target for FUZZTIME (10000x by default).
	hack/fuzz.sh $(FUZZTIME)

.PHONY: lint
lint: bin/golangci-lint ## Run the linters, which also check imports and wording.
	bin/golangci-lint run ./...
	for module in cmd/kubectl-authgateway hack/localcluster hack/release verify verify/bench verify/grpcauth verify/fiberauth verify/fiberv2auth test/consumers test/judges; do \
		(cd $$module && $(CURDIR)/bin/golangci-lint run ./...) || exit; done
	go test ./hack/docstest

bin/golangci-lint: hack/tools/go.mod hack/tools/go.sum hack/tools/golangci-lint/main.go
	@echo "building golangci-lint, once; this takes a few minutes"
	cd hack/tools && go build -o ../../bin/golangci-lint ./golangci-lint

.PHONY: generate
generate: ## Regenerate the generated files.
	go generate ./...

.PHONY: verify
verify: ## Check that generated files, go.mod and formatting are up to date.
	hack/verify.sh

.PHONY: deps
deps: ## List direct requirements that have a newer version.
	@go list -m -u -f '{{with .Update}}{{$$.Path}} {{$$.Version}} -> {{.Version}}{{end}}' $$(go list -m -f '{{if not (or .Indirect .Main)}}{{.Path}}{{end}}' all)

.PHONY: bench
bench: ## Compare the server's throughput with the bare libraries.
	go run ./test/load

.PHONY: clean
clean: ## Delete the binaries, the releases and the data of make run.
	rm -rf bin dist .local

#!/bin/sh
# Runs every test but test/e2e, which needs a whole cluster. What a test needs and the machine lacks is installed where
# this is a Debian and we are root; PostgreSQL the tests get by themselves.
set -eu
cd "$(dirname "$0")/.."

missing=
command -v openssl >/dev/null || missing="$missing openssl"
command -v xz >/dev/null || missing="$missing xz-utils"
command -v curl >/dev/null || missing="$missing curl"
command -v node >/dev/null || missing="$missing nodejs"
command -v npm >/dev/null || missing="$missing npm"
command -v pgbouncer >/dev/null || [ -x /usr/sbin/pgbouncer ] || missing="$missing pgbouncer"
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || missing="$missing chromium"
command -v promtool >/dev/null || missing="$missing prometheus" # for docs/alerts.yaml
command -v lua5.1 >/dev/null || command -v lua5.4 >/dev/null || missing="$missing lua5.1" # for config/argocd
# The proxies of docs/proxies.md. Some of their packages are in /usr/sbin.
for proxy in nginx haproxy caddy; do
	[ -x "/usr/sbin/$proxy" ] || command -v "$proxy" >/dev/null || missing="$missing $proxy"
done
if [ -n "$missing" ]; then
	if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
		apt-get update
		# shellcheck disable=SC2086 # several words
		DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends $missing
	else
		echo "without$missing, the tests that need them are skipped" >&2
	fi
fi

# The race detector needs a C compiler. It is slow, so it watches the packages
# that share something between goroutines; that of the whole server opens keys
# hundreds of times, which takes it a quarter of an hour and adds nothing to these.
if command -v "$(go env CC)" >/dev/null; then
	CGO_ENABLED=1 go test -race -timeout 30m ./internal/httpapi/... ./internal/identity/... ./internal/mail ./internal/postgres/...
else
	echo "there is no C compiler; the race detector is left out" >&2
fi
hack/fuzz.sh

# Those that need no Kubernetes API server come first: to bring one may mean to
# build it, once, which takes minutes.
needs='/(api|controllers|internal/testenv/(localkubernetes|kubernetestest)|test/install|test/scale)(/|$)'
# shellcheck disable=SC2046 # several words
go test -timeout 30m $(go list ./... | grep -Ev "$needs" | grep -Ev '/test/(browser|e2e|public|search|walk)$')
# Alone: one compares times, one drives a browser, one waits for whole programs, one
# searches for as long as it is given.
go test -p 1 -timeout 30m ./test/public ./test/browser ./test/walk ./test/search
(cd hack/kubernetes/image && go test ./...)
(cd test/compose && go test ./...)
# Clients of the API, in Go and TypeScript, are generated first.
(cd test/clients && go generate ./... && go test -timeout 30m ./...)
go run ./internal/testenv/localkubernetes/assets >/dev/null
# Built here, so that it isn't on the clock of the test that runs it.
go tool -modfile=hack/tools/kubernetes/go.mod -n helm >/dev/null
# shellcheck disable=SC2046 # one package at a time: each has a server of its own
go test -p 1 -timeout 30m $(go list ./... | grep -E "$needs")

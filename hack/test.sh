#!/bin/sh
# Runs every test. What a test needs and the machine lacks is installed where
# this is a Debian and we are root; PostgreSQL the tests get by themselves.
set -eu
cd "$(dirname "$0")/.."

if ! command -v openssl >/dev/null; then
	if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
		apt-get update && apt-get install --yes --no-install-recommends openssl
	else
		echo "openssl is missing; the tests that compare the keys' format with it are skipped" >&2
	fi
fi

# The race detector needs a C compiler. It is slow, so it watches what has
# goroutines; keys, token and config compute and return.
if command -v "$(go env CC)" >/dev/null; then
	CGO_ENABLED=1 go test -race ./authserver ./authserver/httpapi/... ./authserver/identity/... ./authserver/postgres/... ./hack/run
else
	echo "there is no C compiler; the race detector is left out" >&2
fi
hack/fuzz.sh
go test ./...

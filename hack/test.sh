#!/bin/sh
# Runs every test but test/e2e, which needs a whole cluster; with -quick only what needs no API server, no browser and
# no long search. Programs that tests need are installed first if this is a Debian and we are root; PostgreSQL is
# downloaded by the tests. What runs beside what, and why, is in hack/tests/main.go.
set -eu
cd "$(dirname "$0")/.."

missing=
command -v openssl >/dev/null || missing="$missing openssl"
command -v xz >/dev/null || missing="$missing xz-utils"
command -v curl >/dev/null || missing="$missing curl"
command -v node >/dev/null || missing="$missing nodejs"
command -v npm >/dev/null || missing="$missing npm"
command -v pgbouncer >/dev/null || [ -x /usr/sbin/pgbouncer ] || missing="$missing pgbouncer"
command -v patroni >/dev/null || missing="$missing patroni python3-etcd" # with etcd and haproxy, for test/failover
command -v etcd >/dev/null || missing="$missing etcd-server"
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || missing="$missing chromium"
command -v promtool >/dev/null || missing="$missing prometheus" # promtool and prometheus, for test/alerts
command -v lua5.1 >/dev/null || command -v lua5.4 >/dev/null || missing="$missing lua5.1" # for config/argocd
# The libraries that verify tokens in test/judges.
if [ ! -x /usr/bin/python3 ] || ! /usr/bin/python3 -c 'import authlib, jwt' 2>/dev/null; then missing="$missing python3-jwt python3-authlib"; fi
ruby -rjwt -e '' 2>/dev/null || missing="$missing ruby ruby-jwt"
perl -MCrypt::JWT -e '' 2>/dev/null || missing="$missing libcrypt-jwt-perl"
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
		echo "the tests that need these are skipped:$missing" >&2
	fi
fi

if [ "${1:-}" != -quick ]; then
	# Built first, because no test should wait for it: the first time, the API server takes minutes.
	go run ./internal/testenv/localkubernetes/assets >/dev/null
	go tool -modfile=hack/tools/kubernetes/go.mod -n helm >/dev/null
fi
exec go run ./hack/tests "$@"

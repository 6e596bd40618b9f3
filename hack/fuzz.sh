#!/bin/sh
# Runs each fuzz target of the repository: hack/fuzz.sh 10000x
# The argument is a count, because before Go 1.27 the end of a duration can be reported as a failure,
# "context deadline exceeded" (https://go.dev/issue/75804).
set -eu
cd "$(dirname "$0")/.."
time=${1:-10000x}

grep -rHoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | sort |
	while IFS=: read -r file declaration; do
		target=${declaration#func }
		echo "$(dirname "$file") $target"
		# `while` runs in a subshell here, and set -e ends the whole script.
		go test -C "$(dirname "$file")" -run '^$' -fuzz "^$target\$" -fuzztime "$time" . </dev/null
	done

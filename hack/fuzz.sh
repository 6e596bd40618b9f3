#!/bin/sh
# Runs each fuzz target of the repository for a while: hack/fuzz.sh 5s
set -eu
cd "$(dirname "$0")/.."
time=${1:-5s}

grep -rHoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | sort |
	while IFS=: read -r file declaration; do
		target=${declaration#func }
		echo "$(dirname "$file") $target"
		# In a subshell of `while`, so that set -e ends the whole script.
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "$(dirname "$file")" </dev/null
	done

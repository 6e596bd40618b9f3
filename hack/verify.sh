#!/usr/bin/env bash
# Checks that generated files match their sources, that go.mod matches the imports, and that the code is formatted.
set -euo pipefail
cd "$(dirname "$0")/.."
failed=0

# Files are generated in a copy, so the check changes nothing in the checkout.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/before" "$scratch/after"
git ls-files -z --cached --others --exclude-standard |
	while IFS= read -r -d '' file; do [ ! -e "$file" ] || printf '%s\0' "$file"; done |
	tar --create --null --files-from - | tee "$scratch/files.tar" | tar --extract --directory "$scratch/before"
tar --extract --file "$scratch/files.tar" --directory "$scratch/after"
(cd "$scratch/after" && go generate ./...)
if ! diff -ru "$scratch/before" "$scratch/after"; then
	echo "generated files are out of date: run make generate" >&2
	failed=1
fi

git ls-files --cached --others --exclude-standard -- go.mod '*/go.mod' | while read -r file; do
	(cd "$(dirname "$file")" && go mod tidy -diff) || { echo "$file: run go mod tidy there" >&2; exit 1; }
done || failed=1

unformatted=$(cd "$scratch/before" && gofmt -l .)
if [ -n "$unformatted" ]; then
	printf 'not formatted, run gofmt -w on:\n%s\n' "$unformatted" >&2
	failed=1
fi
exit $failed

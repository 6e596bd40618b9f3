#!/usr/bin/env bash
# Checks what must follow from something else: generated files from their
# sources, go.mod from the imports, the layout of the code from gofmt.
set -euo pipefail
cd "$(dirname "$0")/.."
failed=0

# Generated anew in a copy, so that a check changes nothing.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/as-is" "$scratch/anew"
git ls-files -z --cached --others --exclude-standard |
	while IFS= read -r -d '' file; do [ ! -e "$file" ] || printf '%s\0' "$file"; done |
	tar --create --null --files-from - | tee "$scratch/files.tar" | tar --extract --directory "$scratch/as-is"
tar --extract --file "$scratch/files.tar" --directory "$scratch/anew"
(cd "$scratch/anew" && go generate ./...)
if ! diff -ru "$scratch/as-is" "$scratch/anew"; then
	echo "generated files are out of date: run make generate" >&2
	failed=1
fi

git ls-files --cached --others --exclude-standard -- go.mod '*/go.mod' | while read -r file; do
	(cd "$(dirname "$file")" && go mod tidy -diff) || { echo "$file: run go mod tidy there" >&2; exit 1; }
done || failed=1

unformatted=$(cd "$scratch/as-is" && gofmt -l .)
if [ -n "$unformatted" ]; then
	printf 'not formatted, run gofmt -w on:\n%s\n' "$unformatted" >&2
	failed=1
fi
exit $failed

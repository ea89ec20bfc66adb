#!/bin/bash
# Every ```diff block of CONTRIBUTING.md applies to the tree, whole and without fuzz; every function that
# docs/architecture.md names is declared, and every file and link of both pages is there.
#   check_docs.sh ROOT
set -uo pipefail
root=$(realpath "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$root" || exit 1

awk -v to="$work" '/^```/ { n += inside = $0 == "```diff"; next } inside { print > (to "/" n ".diff") }' CONTRIBUTING.md
count=$(find "$work" -name '*.diff' | wc -l)
[ "$count" = 5 ] || { echo "FAIL CONTRIBUTING.md has $count diffs, must have 5"; exit 1; }
applies() { patch -p1 --dry-run --batch --forward --fuzz=0 <"$1" >"$work/out" 2>&1; }

# the check itself: a line that is not there must be seen
sed 's/^ .*case KIN_ACT_RELU.*/ no such line/' "$work/1.diff" >"$work/planted"
if applies "$work/planted"; then
    echo "a diff that does not apply was accepted"
    exit 1
fi
failed=0
for ((i = 1; i <= count; i++)); do
    applies "$work/$i.diff" && continue
    echo "FAIL the diff under '$(grep -n -m "$i" '^## ' CONTRIBUTING.md | tail -1 | cut -d' ' -f2-)':"
    sed 's/^/    /' "$work/out"
    failed=1
done
names=$(grep -oE '\bkin_[a-z_]+' docs/architecture.md | sort -u)
for name in $names; do
    header=$(grep -rlwF --include='*.h' "$name" base tensor samplers vision text physics io diffusion training cli | head -1)
    [ -n "$header" ] || { echo "FAIL docs/architecture.md names $name, which is nowhere declared"; failed=1; }
done
[ "$(echo "$names" | wc -l)" -ge 15 ] || { echo "FAIL docs/architecture.md names hardly a function"; failed=1; }
for page in docs/architecture.md CONTRIBUTING.md docs/guide-*.md; do
    for link in $(grep -oE '\]\([^)#]+' "$page" | cut -c3-); do
        case $link in http*) continue ;; esac
        [ -e "$(dirname "$page")/$link" ] || { echo "FAIL $page links to $link"; failed=1; }
    done
done
[ $failed = 0 ] && echo "$count diffs apply; functions and links are there"
exit $failed

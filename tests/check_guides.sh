#!/bin/bash
# Runs every ```sh block of docs/guide-*.md (or of the guides given), each guide in an empty folder, as a user would
# who types it in; any command that fails is an error with its line.
#   check_guides.sh KINEMA ROOT [GUIDE...]
set -uo pipefail
kinema=$(realpath "$1")
root=$(realpath "$2")
shift 2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/bin"
ln -s "$kinema" "$work/bin/kinema"
export PATH=$work/bin:$PATH OMP_WAIT_POLICY=passive

# commands GUIDE: the lines of its sh blocks; the others empty, so that line numbers stay
commands() {
    awk '/^```/ { inside = $0 == "```sh" && !inside; print ""; next } { print inside ? $0 : "" }' "$1"
}

# run GUIDE: in a new folder
run() {
    local name
    name=$(basename "$1" .md)
    mkdir "$work/$name"
    ln -s "$root/scripts" "$work/$name/scripts"
    commands "$1" >"$work/$name.sh"
    (cd "$work/$name" && bash -euo pipefail "$work/$name.sh" >"$work/$name.out" 2>&1 </dev/null)
}

# the check itself: a failing command and an empty guide must be seen
printf '```sh\ntrue\nfalse\ntrue\n```\n' >"$work/planted.md"
if run "$work/planted.md"; then
    echo "a command that fails was accepted"
    exit 1
fi
[ $# != 0 ] || set -- "$root"/docs/guide-*.md
failed=0
for guide in "$@"; do
    count=$(commands "$guide" | grep -c '^kinema ')
    if [ "$count" = 0 ]; then
        echo "FAIL $guide: no command in it"
        failed=1
    elif run "$guide"; then
        echo "$(basename "$guide"): $count calls of kinema"
    else
        echo "FAIL $guide:"
        tail -5 "$work/$(basename "$guide" .md).out" | sed 's/^/    /'
        failed=1
    fi
done
exit $failed

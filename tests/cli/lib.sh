#!/bin/bash
# Shared by the scripts of this folder; sourced. $1 of the script is the program.
set -uo pipefail
# shellcheck disable=SC2034
kinema=$(realpath "$1")
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export here
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
# not the configuration of whoever runs the tests
export XDG_CONFIG_HOME=$work/.config
checks=0
failed=0

# expect CODE WHAT COMMAND...: runs, compares the exit code; stdout in $work/out, stderr in $work/err
expect() {
    local want=$1 what=$2 got
    shift 2
    "$@" >out 2>err </dev/null
    got=$?
    checks=$((checks + 1))
    if [ "$got" != "$want" ]; then
        failed=$((failed + 1))
        echo "FAIL $what: exit code $got, expected $want"
        sed 's/^/    /' err | head -5
    fi
}

# has FILE TEXT: FILE (out, err, ...) holds TEXT
has() {
    checks=$((checks + 1))
    if ! grep -qF -- "$2" "$1"; then
        failed=$((failed + 1))
        echo "FAIL '$2' is not in $1:"
        head -5 "$1" | sed 's/^/    /'
    fi
}

# that WHAT COMMAND...: the command succeeds
that() {
    local what=$1
    shift
    checks=$((checks + 1))
    if ! "$@"; then
        failed=$((failed + 1))
        echo "FAIL $what"
    fi
}

finish() {
    echo "$((checks - failed)) passed, $failed failed"
    [ "$failed" = 0 ]
}

#!/bin/bash
# Compiles every header of the rooms alone, so that each one includes what it uses.
#   check_headers.sh ROOT COMPILER [FLAG...]
# tensor/cpu/simd/ is left out: its headers are templates that need the flags of one instruction set.
set -uo pipefail
root=$1
cc=$2
shift 2
cd "$root" || exit 1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
compile_alone() {
    local out=$1
    shift
    printf '#include "%s"\n#include "%s"\nextern int kin_header_alone;\n' "$1" "$1" >"$out.c"
    "$cc" -std=c17 -D_GNU_SOURCE -Wall -Wextra -Wstrict-prototypes -Werror -fsyntax-only -I. -Iinclude "${@:2}" "$out.c"
}
# the check itself: a header that lacks an include must be refused
mkdir "$scratch/base"
echo 'size_t kin_planted(void);' >"$scratch/base/planted.h"
if compile_alone "$scratch/planted" base/planted.h -I"$scratch" "$@" 2>/dev/null; then
    echo "a header without its includes was accepted"
    exit 1
fi
count=0
bad=0
for h in $(find base tensor samplers vision text physics io diffusion training api cli tests/support -name '*.h' \
    -not -path 'tensor/cpu/simd/*' -not -path 'tensor/cuda/*' | sort); do
    count=$((count + 1))
    compile_alone "$scratch/h" "$h" "$@" || { echo "FAIL $h"; bad=1; }
done
[ "$bad" = 0 ] && echo "$count headers compile alone"
exit $bad

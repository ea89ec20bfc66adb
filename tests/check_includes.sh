#!/bin/bash
# Checks the include table: a room includes only itself and the rooms below it, siblings never each other, and a
# test only the room it tests and what lies below (and tests/).
#   check_includes.sh ROOT        exit 1 and one line per violation
#   check_includes.sh --selftest  plants violations in a scratch tree and expects each to be found
set -euo pipefail

allowed() {
    local middle="base tensor"
    case $1 in
    base) echo "base" ;;
    tensor) echo "$middle" ;;
    samplers | vision | text | physics | io) echo "$middle $1" ;;
    diffusion) echo "$middle samplers vision text physics io diffusion" ;;
    training) echo "$middle samplers vision text physics io diffusion training" ;;
    cli | any) echo "$middle samplers vision text physics io diffusion training cli" ;;
    *) return 1 ;;
    esac
}

# room of a file (path relative to the root), or nothing when the table does not speak of it
room_of() {
    case $1 in
    tests/support/*) echo "tensor" ;;
    tests/golden/* | bench/*) echo "any" ;;
    tests/*/*)
        local r=${1#tests/}
        echo "${r%%/*}"
        ;;
    tests/*) echo "any" ;;
    *) echo "${1%%/*}" ;;
    esac
}

check_tree() {
    local root=$1 bad=0 file line inc target room rooms
    while IFS=: read -r file line inc; do
        target=${inc#*\"}
        target=${target%%\"*}
        room=$(room_of "$file")
        if ! rooms=$(allowed "$room"); then
            echo "$file:$line: folder '$room' is not in the room table"
            bad=1
            continue
        fi
        case $file in tests/* | bench/*) rooms="$rooms tests" ;; esac
        if [[ $target != */* ]]; then
            echo "$file:$line: \"$target\": name the file from the repository's root"
            bad=1
        elif [[ " $rooms " != *" ${target%%/*} "* ]]; then
            echo "$file:$line: $room/ may not include \"$target\""
            bad=1
        fi
    done < <(cd "$root" && find . -path './.*' -prune -o -path './build*' -prune -o -type f \
        \( -name '*.c' -o -name '*.h' -o -name '*.cc' -o -name '*.cu' -o -name '*.inc' \) -print |
        sed 's|^\./||' | sort | xargs -r grep -nE '^[[:space:]]*#[[:space:]]*include[[:space:]]*"' /dev/null || true)
    return $bad
}

selftest() {
    local tree out plant
    tree=$(mktemp -d)
    trap 'rm -rf "$tree"' RETURN
    mkdir -p "$tree"/{base,tensor,io,physics,diffusion,cli,tests/io}
    echo '#include "base/x.h"' >"$tree/tensor/ok.c"
    echo '#include "tests/support/s.h"' >"$tree/tests/io/ok.c"
    check_tree "$tree" || { echo "selftest: a sound tree was refused"; return 1; }
    while read -r file target; do
        plant="$tree/$file"
        printf '\n  #  include "%s"\n' "$target" >"$plant"
        if out=$(check_tree "$tree"); then
            echo "selftest: $file including $target was not found"
            return 1
        fi
        [[ $out == "$file:2:"* ]] || { echo "selftest: wrong place: $out"; return 1; }
        rm "$plant"
    done <<'LIST'
base/up.c tensor/tensor.h
io/sibling.h physics/world.h
tensor/up.h diffusion/block.h
diffusion/up.c training/train.h
io/bare.c png.h
tests/io/up.c diffusion/block.h
physics/test.c tests/support/support.h
LIST
    echo "selftest: all planted violations found"
}

if [ "${1:-}" = --selftest ]; then
    selftest
else
    check_tree "${1:?usage: check_includes.sh ROOT | --selftest}" && echo "include table holds"
fi

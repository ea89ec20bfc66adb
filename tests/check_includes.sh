#!/bin/bash
# Checks the include table: a room includes only itself and the rooms below it, siblings never each other, and a
# test only the room it tests and what lies below (and tests/).
#   check_includes.sh ROOT        exit 1 and one line per violation
#   check_includes.sh --selftest  plants violations in a scratch tree and expects each to be found
set -euo pipefail

check_tree() {
    # shellcheck disable=SC2015
    (cd "$1" && find . -path './.*' -prune -o -path './build*' -prune -o -type f \
        \( -name '*.c' -o -name '*.h' -o -name '*.cc' -o -name '*.cu' -o -name '*.inc' \) -print |
        sed 's|^\./||' | sort | xargs -r grep -nE '^[[:space:]]*#[[:space:]]*include[[:space:]]*"' /dev/null || true) |
        awk '
        BEGIN {
            low = " base tensor "
            middle = low "samplers vision text physics io "
            allowed["base"] = " base "
            allowed["tensor"] = low
            n = split("samplers vision text physics io", sibling, " ")
            for (i = 1; i <= n; i++)
                allowed[sibling[i]] = low sibling[i] " "
            allowed["diffusion"] = middle "diffusion "
            allowed["training"] = middle "diffusion training "
            allowed["api"] = middle "diffusion training api "
            allowed["cli"] = middle "diffusion training cli "
            allowed["any"] = middle "diffusion training api cli "
            # public headers name each other as programs do, <kinema/...>, and nothing of the rooms
            allowed["include"] = allowed["examples"] = " "
        }
        # the room whose rule a file must keep
        function room_of(file, part, n) {
            n = split(file, part, "/")
            if (part[1] == "bench" || (part[1] == "tests" && (n == 2 || part[2] ~ /^(faults|fuzz|golden)$/)))
                return "any"
            if (part[1] == "tests")
                return part[2] == "support" ? "tensor" : part[2]
            return part[1]
        }
        {
            split($0, field, ":")
            file = field[1]
            split($0, quoted, "\"")
            target = quoted[2]
            room = room_of(file)
            top = target
            sub("/.*", "", top)
            rooms = allowed[room]
            if (file ~ "^(tests|bench)/")
                rooms = rooms "tests "
            if (file ~ "^bench/")
                rooms = rooms "bench "
            place = file ":" field[2] ": "
            if (!(room in allowed))
                print place "folder \"" room "\" is not in the room table"
            else if (target !~ "/")
                print place "\"" target "\": name the file from the root of the repository"
            else if (index(rooms, " " top " ") == 0)
                print place room "/ may not include \"" target "\""
            else
                next
            bad = 1
        }
        END { exit bad }'
}

selftest() {
    local tree out plant
    tree=$(mktemp -d)
    trap 'rm -rf "$tree"' RETURN
    mkdir -p "$tree"/{base,tensor,io,physics,diffusion,cli,tests/io,include/kinema}
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
cli/side.c api/sized.h
include/kinema/up.h base/status.h
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

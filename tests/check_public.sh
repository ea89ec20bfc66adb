#!/bin/bash
# The public headers: each compiles alone as C17 and as C++, every prototype stands behind a comment, and libkinema.so
# gives exactly these functions to programs. It keeps no state of its own between calls.
#   check_public.sh ROOT CC CXX LIBRARY
set -uo pipefail
root=$1
cc=$2
cxx=$3
library=$4
bad=0
fail() {
    echo "FAIL $*"
    bad=1
}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

alone() { # INCLUDE-FOLDER HEADER
    printf '#include <kinema/%s>\n#include <kinema/%s>\nextern int alone;\n' "$2" "$2" >"$scratch/h.c"
    "$cc" -std=c17 -pedantic -Wall -Wextra -Wstrict-prototypes -Werror -fsyntax-only -I"$1" "$scratch/h.c" &&
        "$cxx" -x c++ -std=c++11 -pedantic -Wall -Wextra -Werror -fsyntax-only -I"$1" "$scratch/h.c"
}

# "documented NAME" or "bare NAME" for every prototype: a comment must end on the line before it begins
prototypes() {
    awk '
        /^[ \t]*#|^}|^extern "C"|^typedef/ { before = ""; }
        inside { if (/;[ \t]*(\/\*.*)?$/) inside = 0; before = ""; next }
        /^[a-z].*[ *]kin_[a-z0-9_]+\(/ && !/^typedef/ {
            name = $0
            sub(/\(.*/, "", name)
            sub(/.*[ *]/, "", name)
            print (before ~ /\*\/[ \t]*$/ ? "documented " : "bare ") name
            inside = !/;[ \t]*$/
            before = ""
            next
        }
        { before = $0 }' "$@"
}

# the checks themselves
mkdir -p "$scratch/kinema"
printf 'size_t kin_planted(void);\n' >"$scratch/kinema/planted.h"
alone "$scratch" planted.h 2>/dev/null && fail "a header without its includes was accepted"
printf '/* Says it. */\nint kin_good(int a,\n             int b);\n\nint kin_bare(void);\nconst char *kin_other(void);\n' \
    >"$scratch/kinema/planted.h"
found=$(prototypes "$scratch/kinema/planted.h" | tr '\n' ' ')
[ "$found" = "documented kin_good bare kin_bare bare kin_other " ] || fail "the check of prototypes saw '$found'"

cd "$root/include/kinema" || exit 1
for h in *.h; do
    alone "$root/include" "$h" || fail "$h does not compile alone"
    while read -r state name; do
        [ "$state" = documented ] || fail "$h: $name has no comment"
    done < <(prototypes "$h")
done
prototypes ./*.h | cut -d' ' -f2 | sort >"$scratch/declared"
nm -D --defined-only "$library" | awk '$2 ~ /[TDBRVW]/ { sub(/@.*/, "", $3); print $3 }' | sort >"$scratch/given"
[ -s "$scratch/declared" ] || fail "no prototype was found"
diff "$scratch/declared" "$scratch/given" >"$scratch/diff" ||
    fail "declared in headers (<) and given by the library (>) differ: $(grep '^[<>]' "$scratch/diff" | tr '\n' ' ')"
# variables that live as long as the process: what was found out once about the machine (known), FFmpeg made silent
# (once), counters of allocations; Chipmunk's and the compiler's own
state() { objdump -t "$library" | awk '$3 == "O" && $4 ~ /^\.(data|bss)$/ { sub(/\.[0-9]+$/, "", $6); print $6 }' | sort -u; }
if ! nm -D "$library" | grep -qE ' U __(asan|ubsan|tsan)_'; then
    [ -n "$(state)" ] || fail "no variable was found at all"
    for name in $(state | grep -vE '^(_|DW\.ref\.|cp|completed$|done$|klass$|kin_mute_stderr$)'); do
        case $name in
        known | once | count | fail_at) ;;
        *) fail "libkinema.so has a variable '$name' that outlives its handles" ;;
        esac
    done
fi
[ "$bad" = 0 ] && echo "$(wc -l <"$scratch/declared") functions in $(printf '%s\n' *.h | wc -l) headers"
exit $bad

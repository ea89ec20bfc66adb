#!/bin/bash
# kill -9 at random moments of an image batch, again and again: the folder, the archive and the clips end up equal byte
# for byte to those of an undisturbed run. $2: the program random_model, $3: kills of each output.
random_model=$(realpath "$2")
kills=$3
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
export OMP_WAIT_POLICY=passive
RANDOM=${KIN_SEED:-11}
expect 0 "a model with random weights" "$random_model" "$here/tiny-dit.json" m f32
gen=("$kinema" generate -m ../m --steps 25 -q)

# clean DIR: what a run leaves, without the settings that may differ
clean() {
    sed -i -e '/"threads"/d' -e '/"batch"/d' "$1"/*.json
}

# disturb WHAT COUNT OUTPUT...: kills until $kills runs were killed, each time going on; compares finished outputs with
# the folder whole/
disturb() {
    local what=$1 killed=0 runs=0 done=0 code
    shift
    rm -rf whole part
    mkdir whole part
    (cd whole && expect 0 "$what, undisturbed" "${gen[@]}" "$@" -b 4)
    rm -f whole/out whole/err
    clean whole
    while [ $killed -lt "$kills" ] || [ $done = 0 ]; do
        runs=$((runs + 1))
        if [ $killed -lt "$kills" ]; then
            # (the braces swallow the shell's word on each kill)
            { (cd part && exec timeout -s KILL "0.$(printf %03d $((RANDOM % 450 + 30)))" \
                "${gen[@]}" "$@" -b $((RANDOM % 9 + 1)) -t $((RANDOM % 2 + 1))); } 2>err
        else
            (cd part && exec "${gen[@]}" "$@" -b 3)
        fi
        code=$?
        if [ $code = 137 ]; then
            killed=$((killed + 1))
            continue
        fi
        done=$((done + 1))
        that "$what, run $runs ends with $code: $(cat err)" test $code = 0
        clean part
        that "$what after $killed kills" diff -r whole part
        rm -rf part
        mkdir part
        [ $code = 0 ] || return
    done
    echo "$what: $killed kills in $runs runs, $done outputs complete"
}

disturb "images" --count 150 -o "%06d.png"
disturb "archive" --count 500 --npz x.npz
finish

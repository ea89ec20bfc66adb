#!/bin/bash
# kill -9 at random moments of training and caching, again and again: what is there in the end is what a run that
# nothing disturbed makes.
#   check_kills.sh KINEMA RANDOM_MODEL VIDEO_MODEL KILLS      KILLS: half of them in training, a quarter in each cache
random_model=$(realpath "$2")
video_model=$(realpath "$3")
kills=$4
# shellcheck source=tests/faults/lib.sh
. "$(dirname "$0")/lib.sh"
RANDOM=${KIN_SEED:-17}
make_inputs "$random_model" "$video_model"
sed 's/"steps": 2/"steps": 12/; s/"keep": 3/"keep": 2/' train.json >kills.json
expect 0 "more clips" "$kinema" dataset simulate -o more --count 8 --frames 5 -H 16 -W 16 -q
mkdir -p many
cp -r set/. many
for i in $(seq 20); do cp set/train/testsrc/001.png "many/train/testsrc/x$i.png"; done

# one JOB: the command in the present folder
one() {
    local more=()
    case $1 in
    train)
        [ -e run/latest ] && more=(--resume)
        exec "$kinema" train -c ../kills.json --data ../clips -o run -t 1 -q "${more[@]}"
        ;;
    clips) exec "$kinema" dataset cache ../more -m ../wan --frames 5 -H 16 -W 16 -o cache -t 1 -q ;;
    latents) exec "$kinema" dataset cache ../many -m ../ae --size 8 -o cache -t 1 -q ;;
    esac
}

# the times of a log are its own, also those in the event file, of which the size is compared
without_times() {
    find "$1" -name log.jsonl -exec sed -i 's/,"time":{.*/}/' {} +
    find "$1" -name 'events.out.*' -exec sh -c 'stat -c %s "$1" >"$1.size" && rm "$1"' _ {} \;
    rm -f "$1"/*/.lock
}

# disturb JOB COUNT MS: killed after 10 to MS milliseconds, COUNT times
disturb() {
    local name=$1 count=$2 most=$3 killed=0 runs=0 done=0 code
    rm -rf whole part
    mkdir whole part
    (cd whole && one "$name") >out 2>err
    that "$name, undisturbed: $(cat err)" test $? = 0
    without_times whole
    while [ $killed -lt "$count" ] || [ $done = 0 ]; do
        runs=$((runs + 1))
        if [ $killed -lt "$count" ]; then
            # (the braces swallow the shell's word on each kill)
            { (cd part && one_after "$((RANDOM % most + 10))" "$name"); } >out 2>err
        else
            (cd part && one "$name") >out 2>err
        fi
        code=$?
        if [ $code = 137 ]; then
            killed=$((killed + 1))
            continue
        fi
        done=$((done + 1))
        that "$name, run $runs ends with $code: $(cat err)" test $code = 0
        without_times part
        that "$name after $killed kills" diff -r whole part
        rm -rf part
        mkdir part
        [ $code = 0 ] || return
    done
    echo "$name: $killed kills in $runs runs, $done times complete and the same"
}

# one_after MS JOB: the job, killed after so long
one_after() {
    local pid
    one "$2" &
    pid=$!
    sleep "$(printf '%d.%03d' $(($1 / 1000)) $(($1 % 1000)))"
    kill -KILL $pid 2>/dev/null
    wait $pid
}

disturb train $((kills / 2)) 700
disturb clips $((kills / 4)) 300
disturb latents $((kills - kills / 2 - kills / 4)) 150
finish

#!/bin/bash
# Full disks, folders that cannot be written, clocks that are set back, two processes on one folder, kill -9: what the
# user gets, and that the same command then goes on.
#   check_disk.sh KINEMA RANDOM_MODEL VIDEO_MODEL SHIM
random_model=$(realpath "$2")
video_model=$(realpath "$3")
shim=$(realpath "$4")
# mounts of its own, which end with it: as root, or in a user namespace where that is allowed
if [ -z "${KIN_OWN_MOUNTS:-}" ]; then
    export KIN_OWN_MOUNTS=no
    for how in -m -rm; do
        unshare $how true 2>/dev/null && KIN_OWN_MOUNTS=yes exec unshare $how "$BASH" "$0" "$@"
    done
fi
# shellcheck source=tests/faults/lib.sh
. "$(dirname "$0")/lib.sh"
make_inputs "$random_model" "$video_model"

# the jobs: name, folder it writes, command; each runs in a folder of its own
declare -A job
job[pictures]="generate -m $work/dit --class 0-1 --count 30 --steps 1 --seed 5 --allow-flat -q -t 1 -o out/%03d.png"
job[archive]="generate -m $work/dit --class 0-1 --count 60 --steps 1 --seed 5 --allow-flat -q -t 1 --npz x.npz"
job[clip]="generate ball -m $work/native --steps 1 --seed 5 --allow-flat -q -t 1 -o x.mp4"
job[latents]="dataset cache $work/set -m $work/ae --size 8 -o cache -t 1 -q"
job[clips]="dataset cache $work/clips -m $work/wan --frames 5 -H 16 -W 16 -o cache -t 1 -q"
job[convert]="convert $work/run -o model --dtype f32"
job[train]="train -c $work/images.json --data $work/set -o run -t 1 -q"

# run FOLDER JOB [MORE...]: a training that has begun goes on
run() {
    local folder=$1 name=$2 more=()
    shift 2
    [ "$name" = train ] && [ -e "$folder/run/latest" ] && more=(--resume)
    # shellcheck disable=SC2086
    (cd "$folder" && exec "$kinema" ${job[$name]} "${more[@]}" "$@")
}

# same NAME FOLDER: what it made is what an undisturbed run makes; logs hold times, settings the number of threads
for name in "${!job[@]}"; do
    mkdir -p "whole/$name"
    expect 0 "$name, undisturbed" run "whole/$name" "$name"
done
same() {
    that "$1: the same in the end" diff -r -x log.jsonl -x 'events.out.*' -x .lock "whole/$1" "$2"
}

# ---- a full disk: of so many KB, then with room ----
full() {
    local name=$1 kb=$2 code
    mount -t tmpfs -o "size=${kb}k" full disk || return
    run disk "$name" >out 2>err </dev/null
    code=$?
    that "$name on $kb KB ends with $code: $(head -c 300 err)" test $code = 1 -o $code = 0
    if [ $code = 1 ]; then
        refused=$((refused + 1))
        that "$name on $kb KB says why: $(head -c 300 err)" grep -q "No space left\|free space" err
        that "$name on $kb KB leaves nothing half-written" test -z "$(find disk -name '*.tmp*' -o -name '*.partial')"
        mount -o remount,size=64m disk
        expect 0 "$name goes on once there is room" run disk "$name"
    fi
    same "$name" disk
    umount disk
}
mkdir -p disk
if [ "$KIN_OWN_MOUNTS" = yes ] && mount -t tmpfs -o size=64k full disk 2>/dev/null; then
    umount disk
    for name in "${!job[@]}"; do
        refused=0
        case $name in
        train) sizes="64 4200 4500 4800 5100 5400" ;;
        *) sizes="4 8 12 16 24 32 48 64 96 128 192" ;;
        esac
        for kb in $sizes; do full "$name" "$kb"; done
        that "$name met a full disk ($refused times)" test $refused -ge 1
    done
    # ---- a folder that cannot be written ----
    mount -t tmpfs -o size=64k,ro read-only disk
    for name in "${!job[@]}"; do
        expect 1 "$name in a folder that cannot be written" run disk "$name"
        has err "kinema: "
        has err "Read-only file system"
    done
    umount disk
else
    echo "skipped: full disk, read-only folder (nothing can be mounted here)"
fi

# ---- clocks that are set back by an hour, again and again ----
# (ASan wants to be the first library; the shim is before it)
export ASAN_OPTIONS=${ASAN_OPTIONS:-}:verify_asan_link_order=0
for name in train clip pictures; do
    mkdir -p "clock/$name"
    LD_PRELOAD=$shim KIN_FAULT_CLOCK=3600 expect 0 "$name with clocks going back" run "clock/$name" "$name"
    same "$name" "clock/$name"
done
that "times are in the log" grep -q '"time":{' clock/train/run/log.jsonl
that "none of them is negative" test -z "$(grep -o '"time":{[^}]*}' clock/train/run/log.jsonl | grep -- :-)"

# ---- two processes on one folder; the first is stopped while it works, then killed ----
# two NAME MESSAGE MORE...
two() {
    local name=$1 message=$2 pid
    shift 2
    # stopped as soon as it holds a lock; it may be done before that: then again
    for _ in $(seq 50); do
        mkdir -p "two/$name"
        (cd "two/$name" && exec "$kinema" "$@") >/dev/null 2>&1 </dev/null &
        pid=$!
        until grep -q " $pid " /proc/locks || ! kill -0 $pid 2>/dev/null; do :; done
        { kill -STOP $pid && sleep 0.05; } 2>/dev/null
        [ "$(cut -d" " -f3 /proc/$pid/stat 2>/dev/null)" = T ] && break
        rm -rf "two/$name"
    done
    that "$name still runs" test "$(cut -d" " -f3 /proc/$pid/stat)" = T
    (cd "two/$name" && exec "$kinema" "$@") >out 2>err </dev/null
    code=$?
    that "$name: the second process ends with $code" test $code = 1
    has err "process $pid is $message"
    { kill -KILL $pid && wait $pid; } 2>/dev/null
    if [ "$name" = train ]; then # no checkpoint yet: begins again
        (cd "two/$name" && exec timeout 1 "$kinema" "$@") 2>err
        that "$name: the lock of a killed process is in nobody's way" test -z "$(grep 'working on it' err)"
        return
    fi
    expect 0 "$name: the same command goes on after kill -9" run "two/$name" "$name"
    same "$name" "two/$name"
}
sed 's/"steps": 2/"steps": 100000/; s/"every": 1/"every": 100000/' images.json >long.json
two train "working on it" train -c "$work/long.json" --data "$work/set" -o run -t 1 -q
# shellcheck disable=SC2086
two clips "working on it" ${job[clips]}
# shellcheck disable=SC2086
two latents "working on it" ${job[latents]}
# shellcheck disable=SC2086
two pictures "writing this output" ${job[pictures]}
finish

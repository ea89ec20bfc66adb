#!/bin/bash
# The whole main job once: simulate clips, check them, train, be killed in the middle, resume, generate a video, look
# at the video file. The killed and resumed run must end with the same bytes as one that was left alone.
#   scripts/first-light.sh [--small] [--kinema PROGRAM] [--keep DIR]
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
kinema=$root/build/kinema
clips=500
steps=200
keep=""
while [ $# -gt 0 ]; do
    case $1 in
    --small)
        clips=40
        steps=60
        ;;
    --kinema)
        kinema=$(realpath "$2")
        shift
        ;;
    --keep)
        keep=$2
        shift
        ;;
    *)
        echo "first-light: unknown argument '$1'" >&2
        exit 2
        ;;
    esac
    shift
done

if [ -n "$keep" ]; then
    mkdir -p "$keep"
    work=$(cd "$keep" && pwd)
else
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
fi
cd "$work"
# waiting threads that spin would steal each other's core on a busy machine
export OMP_WAIT_POLICY=passive
start=$SECONDS
say() { echo "first light $((SECONDS - start)) s: $*"; }
die() {
    echo "first light: $*" >&2
    exit 1
}

"$kinema" dataset simulate -o clips --count "$clips" --seed 7 -q
"$kinema" dataset check clips --strict -q
say "$clips clips made and checked"

# the checkpoint folder that run/latest names
latest() {
    if [ -L "$1/latest" ]; then
        readlink "$1/latest"
    else
        cat "$1/latest" 2>/dev/null || true
    fi
}

config=$root/scripts/first-light.json
"$kinema" train -c "$config" --data clips -o whole --steps "$steps" -q
say "trained $steps steps in one go"

"$kinema" train -c "$config" --data clips -o run --steps "$steps" -q &
pid=$!
for _ in $(seq 3000); do
    [ -n "$(latest run)" ] && break
    kill -0 $pid 2>/dev/null || break
    sleep 0.02
done
kill -9 $pid 2>/dev/null || die "the run ended before it could be killed"
wait $pid 2>/dev/null || true
killed_at=$(latest run)
[ -n "$killed_at" ] || die "no checkpoint was there when the run was killed"
[ "$killed_at" != "checkpoint-$steps" ] || die "the run was through before it could be killed"
say "killed (-9) behind $killed_at"
"$kinema" train -c "$config" --data clips -o run --steps "$steps" --resume -q
[ "$(latest run)" = "checkpoint-$steps" ] || die "the resumed run ended at '$(latest run)'"
[ -z "$(find run -name '*.tmp*')" ] || die "leftovers: $(find run -name '*.tmp*')"
say "resumed and ended at checkpoint-$steps"

while read -r f; do
    cmp "whole/checkpoint-$steps/$f" "run/checkpoint-$steps/$f" || die "resuming changed $f"
done < <(cd "whole/checkpoint-$steps" && find . -type f -name '*.safetensors')
say "weights, moments and EMA are those of the run in one go, bit for bit"

"$kinema" generate "a red ball falls and bounces on a gray floor" -m run -o ball.mp4 --seed 3 --steps 12 -q
messages=$(ffmpeg -v error -xerror -i ball.mp4 -f null - 2>&1 </dev/null) || die "ffmpeg refuses ball.mp4: $messages"
[ -z "$messages" ] || die "ffmpeg complains about ball.mp4: $messages"
[ -s ball.mp4.json ] || die "no settings were saved beside ball.mp4"

# top-level boxes of the file, in order
boxes() {
    local at=0 size type end
    end=$(stat -c %s "$1")
    while [ "$at" -lt "$end" ]; do
        size=$(od -An -tu4 --endian=big -j "$at" -N 4 "$1" | tr -d ' ')
        type=$(dd if="$1" bs=1 skip=$((at + 4)) count=4 2>/dev/null)
        [ "$size" -ge 8 ] || die "box '$type' of $1 has size $size"
        echo "$type"
        at=$((at + size))
    done
    [ "$at" = "$end" ] || die "the last box of $1 goes beyond the end"
}
order=$(boxes ball.mp4 | tr '\n' ' ')
case $order in
"ftyp "*moov*mdat*) ;;
*) die "boxes of ball.mp4: $order (moov must come before mdat)" ;;
esac
say "ball.mp4 is sound: $order"

"$kinema" generate "a red ball falls and bounces on a gray floor" -m run -o again.mp4 --seed 3 --steps 12 -q -t 1
cmp ball.mp4 again.mp4 || die "another thread count gave another video"
frames=$(ffprobe -v error -count_frames -show_entries stream=nb_read_frames,width,height -of csv=p=0 ball.mp4)
[ "$frames" = "32,32,16" ] || die "ball.mp4 holds $frames, expected 32x32, 16 frames"
say "done: the same bytes with one thread; 16 frames of 32x32"

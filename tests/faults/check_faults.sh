#!/bin/bash
# Every job with one fault after the other: the k-th allocation fails, then the k-th call that opens, reads, writes,
# syncs, renames, cuts or maps a file. What each run must end in is in sweep.c. Every so many-th k is tried, by the
# strides of allocations and of file calls (0: none).
#   check_faults.sh KINEMA_FAULTS RANDOM_MODEL VIDEO_MODEL FAULT_SWEEP SHIM STRIDE STRIDE [JOB...]
random_model=$(realpath "$2")
video_model=$(realpath "$3")
sweep=$(realpath "$4")
KIN_FAULT_SHIM=$(realpath "$5")
export KIN_FAULT_SHIM
declare -A stride=([alloc]=$6 [file]=$7)
jobs=("${@:8}")
# shellcheck source=tests/faults/lib.sh
. "$(dirname "$0")/lib.sh"
# under AddressSanitizer the shim comes before its library
export ASAN_OPTIONS=${ASAN_OPTIONS:-}:verify_asan_link_order=0
make_inputs "$random_model" "$video_model"
mkdir nothing

# job NAME TEMPLATE COMMAND...: both sweeps, or the job is not among those asked for
job() {
    local name=$1 template=$2
    shift 2
    case " ${jobs[*]:-$name} " in *" $name "*) ;; *) return ;; esac
    for kind in alloc file; do
        [ "${stride[$kind]}" = 0 ] && continue
        echo "$name:"
        that "$name under faults of $kind" "$sweep" $kind "${stride[$kind]}" "$template" "$work/scratch" -- "$kinema" "$@"
    done
}
make=(--seed 5 -q -t 1 --allow-flat)
job picture nothing generate -m "$work/dit" --class 1 --steps 2 "${make[@]}" -o x.png
job pictures nothing generate -m "$work/dit" --class 0-1 --count 3 -b 2 --steps 1 "${make[@]}" -o %03d.png
job archive nothing generate -m "$work/dit" --class 0-1 --count 3 --steps 1 "${make[@]}" --npz x.npz
job clip nothing generate "a red ball falls" -m "$work/native" --steps 1 "${make[@]}" -o x.mp4
job latent nothing generate "a red ball falls" -m "$work/wan" --frames 5 -H 16 -W 16 --steps 1 "${make[@]}" -o x.mp4
job train nothing train -c "$work/train.json" --data "$work/clips" -o run -t 1 -q
job images nothing train -c "$work/images.json" --data "$work/set" -o run -t 1 -q
job resume half train -o run --resume --steps 2 -t 1 -q
job latents nothing dataset cache "$work/set" -m "$work/ae" --size 8 -o cache -t 1 -q
job clips nothing dataset cache "$work/clips" -m "$work/wan" --frames 5 -H 16 -W 16 -o cache -t 1 -q
job simulate nothing dataset simulate -o made --count 2 --frames 4 -H 16 -W 16 -t 1 -q
job convert nothing convert "$work/run" -o x.pth --dtype f32
job import nothing convert "$work/x.pth" -o model -c "$work/heads.json" --dtype f32
finish

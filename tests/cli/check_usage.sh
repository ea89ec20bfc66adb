#!/bin/bash
# Exit codes, messages and the separation of data (stdout) and talk (stderr).
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"

expect 0 "--help" "$kinema" --help
has out "dataset simulate"
that "--help is silent on stderr" test ! -s err
expect 0 "--version" "$kinema" --version
has out "kinema "
for verb in generate train "dataset simulate" "dataset check" evaluate inspect "bench ops" "bench model" "bench train" "bench scaling"; do
    # shellcheck disable=SC2086
    expect 0 "$verb --help" "$kinema" $verb --help
    has out "--threads"
done

expect 2 "no verb" "$kinema"
that "five jobs, an example of each" test "$(grep -c '^  kinema ' out)" = 5
that "and nothing else is said" test ! -s err
expect 2 "unknown verb" "$kinema" generat
that "an error is silent on stdout" test ! -s out
has err "did you mean 'generate'?"
expect 2 "unknown flag" "$kinema" generate x --sede 3
has err "did you mean --seed?"
expect 2 "out of range" "$kinema" generate x --steps 0
has err "--steps: 0 must be between 1 and"
expect 2 "environment out of range" env KINEMA_STEPS=0 "$kinema" generate x
has err "KINEMA_STEPS"
expect 2 "output of an unknown kind" "$kinema" generate x -o x.avi
has err "must end in .mp4, .y4m, .gif, .apng, .png or .npz"
expect 2 "several clips into one file" "$kinema" generate x -o x.mp4 --count 3
has err "need a number"
expect 2 "two patterns" "$kinema" generate x -o "a%d-%d.mp4" --count 3
expect 2 "unknown solver" "$kinema" generate x --sampling-method eulr
has err "euler"
expect 2 "steps twice" "$kinema" generate x --steps 9 --timestep-spacing 3,2
has err "give one"
expect 2 "unknown spacing" "$kinema" generate x --timestep-spacing leadin
has err "linspace, leading or trailing"
expect 2 "half an interval" "$kinema" generate x --cfg-interval 300
has err "LO,HI"
expect 2 "phys-cfg without multi" "$kinema" generate x --phys-cfg 2
expect 2 "bad class list" "$kinema" generate --class 3-1
expect 2 "train without folder" "$kinema" train -c x.json
expect 2 "train without configuration" "$kinema" train -o run
expect 2 "evaluate loss without data" "$kinema" evaluate --suite loss
expect 2 "simulate without folder" "$kinema" dataset simulate
expect 2 "unknown kind of clip" "$kinema" dataset simulate -o d --kinds bonce
expect 2 "check without path" "$kinema" dataset check
expect 2 "bench without its part" "$kinema" bench
has err "second word"
expect 2 "bench of an unknown part" "$kinema" bench modle
has err "did you mean 'bench model'?"
expect 2 "bench model without configuration" "$kinema" bench model
expect 2 "bench train without configuration" "$kinema" bench train
expect 2 "bench with a flag of its parts" "$kinema" bench --filter x
expect 2 "bench --calibrate with no place" env KINEMA_CALIBRATION=none "$kinema" bench --calibrate
expect 2 "one thread's time of two" "$kinema" bench ops --cpu-time -t 2

# errors for programs
expect 3 "error as JSON" "$kinema" generate x -m nowhere --progress json
has err '{"error":"model nowhere:'
has err '"exit":3}'

# the user's configuration
mkdir -p .config/kinema
echo '{"model": "nowhere-either"}' >.config/kinema/config.json
expect 3 "a model of the user's configuration" "$kinema" generate x
has err "nowhere-either"
echo '{"modell": "nowhere"}' >.config/kinema/config.json
expect 3 "a wrong key in it" "$kinema" generate x
has err "config.json: 'modell' is no known key; did you mean 'model'?"
rm -r .config
expect 2 "unknown device" "$kinema" generate x --device gpu
has err "must be cpu, cuda, cuda:N or auto"
expect 2 "device with a bad number" "$kinema" generate x --device cuda:x
expect 0 "devices" "$kinema" inspect --device auto
has out "CUDA devices: "
expect 2 "offload on the CPU" "$kinema" generate x --offload --device cpu
has err "--offload: is for --device cuda"
expect 2 "offload of no size" "$kinema" generate x --offload=0
expect 1 "fp8 without a device" "$kinema" inspect --device cpu --dtype fp8
has err "fp8 products are CUDA's"
expect 2 "fp8 in training" "$kinema" bench train -c x --dtype fp8
if ! "$kinema" inspect --device cuda >/dev/null 2>&1; then
    expect 1 "no device" "$kinema" inspect --device cuda
    has err "cuda: no device can be used here"
    expect 2 "offload without a device" "$kinema" generate x --offload 800 --device auto
    has err "no device can be used here"
    expect 1 "offload to a device that is not there" "$kinema" generate x --offload --device cuda
    has err "cuda: no device can be used here"
fi

expect 3 "model that is not there" "$kinema" generate x -m nowhere
has err "nowhere"

# waiting threads sleep soon, unless the user says how they wait
export OMP_DISPLAY_ENV=verbose
expect 3 "start without OMP_WAIT_POLICY" env -u OMP_WAIT_POLICY -u GOMP_SPINCOUNT "$kinema" generate x -m nowhere
has err "GOMP_SPINCOUNT = '1000'"
expect 3 "start with a wait policy" env -u GOMP_SPINCOUNT OMP_WAIT_POLICY=passive "$kinema" generate x -m nowhere
has err "GOMP_SPINCOUNT = '0'"
unset OMP_DISPLAY_ENV
mkdir empty
expect 3 "model folder without a model" "$kinema" generate x -m empty
has err "empty"
expect 3 "settings that are not there" "$kinema" generate x -c nowhere.json
echo '{' >settings.json
expect 3 "settings that are no JSON" "$kinema" generate x -c settings.json
echo '{"sede": 1}' >settings.json
expect 3 "settings with an unknown key" "$kinema" generate x -c settings.json
has err "did you mean 'seed'?"
expect 3 "training configuration that is not there" "$kinema" train -c nowhere.json -o run
echo '{"stepz": 5}' >train.json
expect 3 "training configuration with an unknown key" "$kinema" train -c train.json -o run
has err "steps"
that "a refused configuration leaves no run folder" test ! -e run
expect 3 "data set that is not there" "$kinema" dataset check nowhere
expect 3 "configuration to time that is not there" "$kinema" bench model -c nowhere.json
expect 3 "configuration to time that is none" "$kinema" bench model -c train.json

expect 0 "inspect --cpu" "$kinema" inspect --cpu
has out "instruction set"
expect 3 "inspect --check of nothing" "$kinema" inspect --check nowhere.png
echo hello >x.safetensors
expect 3 "inspect --check of a damaged file" "$kinema" inspect --check x.safetensors
has err "x.safetensors"

# every file of the collection of sound and damaged ones ends as it must
broken=${KINEMA_DATA:-}/broken
if [ -f "$broken/manifest.json" ]; then
    python=$(command -v python3 || true)
    list() { "$python" -c 'import json, sys
for f in json.load(open(sys.argv[1]))["files"]: print(f["must"], f["format"], f["file"])' "$broken/manifest.json"; }
    if [ -n "$python" ]; then
        while read -r must format file; do
            [ "$format" = pth ] && continue
            case $must in
            accept) expect 0 "inspect --check $file" "$kinema" inspect --check "$broken/$file" ;;
            reject) expect 3 "inspect --check $file" "$kinema" inspect --check "$broken/$file" ;;
            *)
                "$kinema" inspect --check "$broken/$file" >out 2>err
                code=$?
                that "inspect --check $file ends in order ($code)" test "$code" = 0 -o "$code" = 3
                ;;
            esac
        done < <(list)
    fi
fi
finish

#!/bin/bash
# train, generate, inspect and evaluate on a tiny model: same bytes for any threads and batch, every kind of output,
# saved settings, interruption, thresholds. The model is trained here; it draws coloured noise.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
export OMP_WAIT_POLICY=passive
config=$here/../../scripts/first-light.json

expect 0 "simulate" "$kinema" dataset simulate -o clips --count 24 --seed 3 -q
expect 0 "dry run of training" "$kinema" train -c "$config" --data clips -o run --steps 12 --dry-run -q
has out "peak memory:"
that "a dry run writes nothing" test ! -e run
expect 0 "train" "$kinema" train -c "$config" --data clips -o run --steps 12
has err "loss"
has err "ETA"
that "progress is not on stdout" test "$(wc -l <out)" = 1
that "configuration is saved" test -s run/config.json
that "log has a line per step" test "$(grep -c '"step"' run/log.jsonl)" -ge 12
expect 2 "a run folder in use is not started over" "$kinema" train -c "$config" --data clips -o run --steps 12 -q

expect 0 "resume with nothing but the folder" "$kinema" train -o run --resume --steps 14 -q
that "the resumed run has 14 steps" test -d run/checkpoint-14

gen=("$kinema" generate "a red ball falls and bounces on a gray floor" -m run --steps 4 --seed 3)
expect 0 "generate" "${gen[@]}" -o a.mp4
has out "a.mp4: 16 frames 32x32"
has err "physics: "
that "a.mp4 decodes in silence" test -z "$(ffmpeg -nostdin -v error -xerror -i a.mp4 -f null - 2>&1)"
that "settings are saved" grep -q '"cfg-scale"' a.mp4.json
expect 0 "quiet" "${gen[@]}" -o q.mp4 -q
that "quiet is quiet" test ! -s out -a ! -s err
that "same call, same bytes" cmp a.mp4 q.mp4
expect 0 "one thread" "${gen[@]}" -o t1.mp4 -q -t 1
that "same bytes with one thread" cmp a.mp4 t1.mp4
expect 0 "settings again" "$kinema" generate -c a.mp4.json -m run -o c.mp4 -q
that "saved settings give the same clip" cmp a.mp4 c.mp4
for b in 1 2 3; do
    expect 0 "three clips, batch $b" "${gen[@]}" --count 3 -b $b -o "b$b/%02d.mp4" -q
done
for i in 00 01 02; do
    that "clip $i: batch 2 as batch 1" cmp b1/$i.mp4 b2/$i.mp4
    that "clip $i: batch 3 as batch 1" cmp b1/$i.mp4 b3/$i.mp4
done
that "clips of one call differ" test "$(cmp -s b1/00.mp4 b1/01.mp4; echo $?)" = 1
that "settings of a pattern" test -s b1/generate.json
expect 0 "another seed" "$kinema" generate "a red ball falls and bounces on a gray floor" -m run --steps 4 --seed 4 -o s.mp4 -q
that "another seed, another clip" test "$(cmp -s a.mp4 s.mp4; echo $?)" = 1
expect 0 "environment" env KINEMA_MODEL=run KINEMA_STEPS=4 KINEMA_SEED=3 "$kinema" generate \
    "a red ball falls and bounces on a gray floor" -o e.mp4 -q
that "the environment says the same" cmp a.mp4 e.mp4
expect 0 "convert" "$kinema" convert run -o small --dtype f32
expect 2 "convert over a folder that is there" "$kinema" convert run -o small
expect 0 "the converted model" "$kinema" generate "a red ball falls and bounces on a gray floor" -m small --steps 4 --seed 3 -o v.mp4 -q
that "f32 weights draw the same clip" cmp a.mp4 v.mp4
expect 0 "convert to bf16" "$kinema" convert run -o half
that "bf16 is smaller" test "$(du -sb half | cut -f1)" -lt "$(du -sb small | cut -f1)"
expect 0 "guidance on physics" "${gen[@]}" -o m.mp4 --cfg-mode multi --phys-cfg 2 -q
for solver in heun unipc dpm++2m; do
    expect 0 "solver $solver" "${gen[@]}" -o $solver.mp4 --sampling-method $solver -q
    that "$solver draws another clip than euler" test "$(cmp -s a.mp4 $solver.mp4; echo $?)" = 1
done
expect 2 "a solver that has no form for flows" "${gen[@]}" -o x.mp4 --sampling-method ddim -q
has err "predicts a flow"
expect 0 "guidance at some times, with its contrast kept" "${gen[@]}" -o i.mp4 --cfg-interval 100,900 --cfg-rescale 0.7 -q
expect 0 "without physics" "${gen[@]}" -o n.mp4 --physics none
has err "physics: none"
if [ -f "${KINEMA_DATA:-}/wisa/example.json" ]; then
    expect 0 "physics from a file" "$kinema" generate -m run --steps 2 --physics "$KINEMA_DATA/wisa/example.json" -o f.mp4
    has err "physics: "
fi
echo '{"n0": 5}' >bad.json
expect 3 "physics from a bad file" "${gen[@]}" --physics bad.json -o x.mp4 -q
that "and no output" test ! -e x.mp4

expect 0 "picture strip" "${gen[@]}" -o strip.png -q
that "strip is 16 frames wide" test "$(od -An -tu4 --endian=big -j 16 -N 8 strip.png | tr -s ' ')" = " 512 32"
that "prompt in the picture" grep -qa "a red ball falls" strip.png
expect 0 "frames as pictures" "${gen[@]}" -o "frames/%03d.png" -q
that "16 pictures" test "$(find frames -name '*.png' | wc -l)" = 16
expect 2 "several clips as frames" "${gen[@]}" --count 2 -o "g/%03d.png" -q
expect 2 "size that the patches do not divide" "${gen[@]}" -W 33 -o x.mp4 -q
has err "width 33"
expect 2 "class for a text model" "${gen[@]}" --class 3 -o x.mp4 -q
expect 2 "no prompt" "$kinema" generate -m run -o x.mp4 -q
expect 0 "bf16" "${gen[@]}" --dtype bf16 -o h.mp4 -q
expect 0 "int8" "${gen[@]}" --dtype int8 -t 1 -o q1.mp4 -q
expect 0 "int8, two threads" "${gen[@]}" --dtype int8 -t 2 -o q2.mp4 -q
that "int8 has the same bytes for any threads" cmp -s q1.mp4 q2.mp4
expect 0 "dry run" "${gen[@]}" --dry-run -o x.mp4
has out "peak memory:"
that "a dry run writes nothing" test ! -e x.mp4
planned=$(grep -o '[0-9]* bytes' out | cut -d' ' -f1)
# the peak of a run of several clips; a sanitizer's own memory would count too
# (ldd into a file: grep -q would end the pipe early, which pipefail takes for "not found")
ldd "$kinema" >libraries
if ! grep -q asan libraries && [ -n "$planned" ] && [ -n "${KIN_PEAK:-}" ]; then
    peak=$("$KIN_PEAK" "${gen[@]}" --count 6 -o "peak%d.mp4" -q)
    that "planned $planned bytes are within a tenth of $peak" test \
        $((planned * 10)) -ge $((peak * 9)) -a $((planned * 10)) -le $((peak * 11))
    rm -f peak?.mp4 generate.json
fi
expect 0 "progress as JSON" "${gen[@]}" -o j.mp4 --progress json
has err '"task":"generate"'

# a folder that cannot be written
expect 1 "no such place" "${gen[@]}" -o /proc/x.mp4 -q
that "no leftovers" test -z "$(find . -name '*.tmp*')"

expect 0 "inspect" "$kinema" inspect run -o routing.png --steps 2
has out "family: kinema"
has out "routing of block 1:"
that "routing map" test "$(head -c 4 routing.png | tail -c 3)" = PNG
expect 0 "inspect --check of weights" "$kinema" inspect --check "$(find run/ -name '*.safetensors' | head -1)"
expect 0 "inspect --check of a clip" "$kinema" inspect --check a.mp4

expect 0 "evaluate physics" "$kinema" evaluate -m run --count 3 --steps 2 -q -o "ev/%d.mp4"
has out '"intact_share"'
that "clips are kept" test -s ev/2.mp4
expect 6 "a missed threshold" "$kinema" evaluate -m run --count 2 --steps 2 -q --min-intact 1
has err "below 1.000"
expect 0 "evaluate loss" "$kinema" evaluate run --suite loss --data clips --count 4 -q
cp out right
expect 0 "evaluate loss, shuffled" "$kinema" evaluate run --suite loss --data clips --count 4 --shuffle-captions -q
that "captions matter" test "$(cmp -s right out; echo $?)" = 1
has out '"exact_match"'
for what in priors quantities; do
    expect 0 "evaluate loss, $what shuffled" "$kinema" evaluate run --suite loss --data clips --count 4 --shuffle-$what -q
    has out "\"shuffled_$what\":	true"
done
expect 0 "evaluate loss without conditions" "$kinema" evaluate run --suite loss --data clips --count 4 --drop-conditions -q
that "conditions matter" test "$(cmp -s right out; echo $?)" = 1
expect 2 "nothing to shuffle" "$kinema" evaluate run --suite loss --data clips --count 4 --drop-conditions --shuffle-priors -q
expect 0 "evaluate loss again" "$kinema" evaluate run --suite loss --data clips --count 4 -q -t 1
grep -v '"threads"' right >r1
grep -v '"threads"' out >r2
that "the loss is the same with one thread" cmp r1 r2

# signals: training saves and says so; generation leaves whole clips
"$kinema" train -c "$config" --data clips -o run2 --steps 100000 -q >out 2>err &
pid=$!
for _ in $(seq 600); do
    [ "$(grep -c '"step"' run2/log.jsonl 2>/dev/null || true)" -ge 3 ] 2>/dev/null && break
    sleep 0.1
done
kill -TERM $pid
kill -TERM $pid 2>/dev/null # as from `timeout`, which tells the process and its group
wait $pid
that "SIGTERM ends training with 143" test $? = 143
expect 0 "what it saved can be used" "$kinema" generate "a red ball" -m run2 --steps 2 --allow-flat -o y.mp4 -q
"$kinema" generate "a red ball" -m run --steps 4 --count 100000 -o "z/%06d.mp4" -q >out 2>err &
pid=$!
for _ in $(seq 600); do
    [ -e z/000002.mp4 ] && break
    sleep 0.1
done
kill -INT $pid
wait $pid
that "SIGINT ends generation with 130" test $? = 130
that "no half clip is left" test -z "$(find z -name '*.tmp*')"
last=$(find z -name '*.mp4' | sort | tail -1)
that "the last clip is whole" test -z "$(ffmpeg -nostdin -v error -xerror -i "$last" -f null - 2>&1)"

# adapters: a file whose values are all 0.0115 ("<<<<"), rank 2, for one matrix of the bundled model
adapter() { # FILE MODULE
    local json
    json="{\"$2.lora_A.weight\":{\"dtype\":\"F32\",\"shape\":[2,192],\"data_offsets\":[0,1536]},"
    json="$json\"$2.lora_B.weight\":{\"dtype\":\"F32\",\"shape\":[192,2],\"data_offsets\":[1536,3072]}}"
    while [ $((${#json} % 8)) != 0 ]; do json="$json "; done
    # shellcheck disable=SC2059
    printf "\\x$(printf %02x $((${#json} % 256)))\\x$(printf %02x $((${#json} / 256)))\\0\\0\\0\\0\\0\\0" >"$1"
    printf '%s' "$json" >>"$1"
    head -c 3072 /dev/zero | tr '\0' '<' >>"$1"
}
adapter a.safetensors transformer.blocks.0.attn1.to_q
adapter b.safetensors transformer.blocks.7.attn1.to_q
clip=("a red ball falls" --steps 3 --allow-flat --seed 4 -q)
expect 0 "a clip of the bundled model" "$kinema" generate "${clip[@]}" -o plain.png
expect 0 "with an adapter" "$kinema" generate "${clip[@]}" --lora a.safetensors:40 -o lora.png
expect 0 "with two of half its strength" "$kinema" generate "${clip[@]}" --lora a.safetensors:20,a.safetensors:20 -o two.png
expect 0 "with strength 0" "$kinema" generate "${clip[@]}" --lora a.safetensors:0 -o zero.png
pixels() { # FILE: its pixels alone
    ffmpeg -v error -i "$1" -f rawvideo -pix_fmt rgb24 - | cksum
}
that "an adapter changes the clip" test "$(pixels plain.png)" != "$(pixels lora.png)"
that "strength 0 does not" test "$(pixels plain.png)" = "$(pixels zero.png)"
expect 0 "adapters are merged" "$kinema" convert --lora a.safetensors:40 --dtype f32 -o merged
expect 0 "a clip of the merged model" "$kinema" generate "${clip[@]}" -m merged -o merged.png
that "merging keeps the adapter" test "$(pixels plain.png)" != "$(pixels merged.png)"
expect 3 "an adapter of another model" "$kinema" generate "${clip[@]}" --lora b.safetensors -o x.png
has err "blocks.7.attn1.to_q"
expect 3 "an adapter that is not there" "$kinema" generate "${clip[@]}" --lora no.safetensors -o x.png
expect 2 "an empty entry" "$kinema" generate "${clip[@]}" --lora a.safetensors, -o x.png
finish

#!/bin/bash
# Fine-tuning of Wan and CogVideoX through the command: clips simulated, encoded (also killed and cut short), trained on,
# and the files that come out used by generate. $2: the program video_model.
video_model=$(realpath "$2")
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
export OMP_WAIT_POLICY=passive KINEMA_TEXT_CACHE=none
spiece=$here/../../models/bundled/tokenizer/spiece.model
size=(--frames 9 -H 32 -W 48)
for kind in wan wan-wisa cogvideox; do
    expect 0 "a model $kind" "$video_model" $kind "$spiece" $kind
done
expect 0 "clips" "$kinema" dataset simulate -o clips --count 5 "${size[@]}" -q

# ---- the cache ----
expect 0 "cache" "$kinema" dataset cache clips -m wan -o cache "${size[@]}"
has out "10 files made, 0 kept"
rm "$(find cache/latents -name '*.safetensors' | head -1)"
head -c 100 "$(find cache/text -name '*.safetensors' | head -1)" >cut && cp cut "$(find cache/text -name '*.safetensors' | head -1)"
expect 0 "what is missing or cut short is made anew" "$kinema" dataset cache clips -m wan -o cache "${size[@]}"
has out "2 files made, 8 kept"
expect 0 "other captions" "$kinema" dataset cache clips -m wan -o cache "${size[@]}" --caption-prefix "PIKA_CRUSH "
has out "5 files made, 5 kept"
expect 3 "clips that are too short" "$kinema" dataset cache clips -m wan -o none "${size[@]}" --filter wisa -q
has err "no usable record"
expect 2 "frames that the VAE cannot make" "$kinema" dataset cache clips -m wan -o none --frames 10 -H 32 -W 48 -q
has err "frames 10 would come back as 9"
expect 3 "clips and a VAE alone" "$kinema" dataset cache clips -m wan/vae -o none "${size[@]}" -q
has err "text encoder"

# ---- training, and what comes of it ----
# config BASE: adapters and physics of dir BASE, three steps
config() {
    echo "{\"init_from\": \"$1\", \"steps\": 3, \"batch_size\": 2, \"lora\": {\"rank\": 2, \"alpha\": 4}," \
        "\"optimizer\": {\"lr\": 0.01, \"warmup_steps\": 1}}" >"$1.json"
}
for base in wan wan-wisa cogvideox; do
    config $base
    [ $base = wan ] || "$kinema" dataset cache clips -m $base -o cache-$base "${size[@]}" -q >/dev/null
    [ $base = wan ] && cache=cache || cache=cache-$base
    expect 0 "train on $base" "$kinema" train -c $base.json --data $cache -o run-$base -q
    files=run-$base/checkpoint-3
    make=("$kinema" generate "a red ball falls" -m $base "${size[@]}" --steps 2 --seed 5 -q)
    expect 0 "generate with what $base learned" "${make[@]}" --lora $files/pytorch_lora_weights.safetensors:2 \
        --phys-weights $files/phys_weights.safetensors -o $base.mp4
    expect 0 "without" "${make[@]}" -o $base-0.mp4
    that "it changes the clip" test "$(cmp -s $base.mp4 $base-0.mp4; echo $?)" = 1
done
expect 0 "memory of a run" "$kinema" train -c wan.json --data cache -o run-x --dry-run
has out "peak memory"
expect 0 "clips of another model" "$kinema" train -c cogvideox.json --data cache -o run-y
has err "the clips were encoded with"
sed 's/"rank": 2/"rank": 2, "target_modules": "nothing"/' wan.json >nothing.json
expect 2 "adapters of nothing" "$kinema" train -c nothing.json --data cache -o run-z -q
has err "matches no matrix"

# ---- six real clips and 200 simulated ones, fifty steps; half of them before a stop ----
if [ -d "${KINEMA_DATA:-}/wisa" ]; then
    real() {
        echo "{\"init_from\": \"wan\", \"steps\": $1, \"batch_size\": 2, \"lora\": {\"rank\": 4, \"alpha\": 8}, \"log_every\": 1," \
            "\"data\": {\"path\": \"$KINEMA_DATA/wisa\", \"simulate\": {\"count\": 200, \"seed\": 3}, \"frames\": 9, \"height\": 32, \"width\": 48}," \
            "\"optimizer\": {\"lr\": 0.003, \"warmup_steps\": 5}, \"checkpoint\": {\"every\": 25}}"
    }
    # mean KEY FIRST LAST: of the log of the whole run
    mean() { sed -n "$2,$3p" whole/log.jsonl | sed "s/.*\"$1\":\([-0-9.e]*\).*/\1/" | awk '{s += $1} END {printf "%.6f", s / NR}'; }
    less() { awk "BEGIN {exit !($1 < $2)}"; }
    real 50 >fifty.json
    real 25 >half.json
    expect 0 "fifty steps" "$kinema" train -c fifty.json -o whole -q
    expect 0 "half of them" "$kinema" train -c half.json -o parts -q
    expect 0 "and the rest" "$kinema" train -c fifty.json -o parts --resume -q
    for f in pytorch_lora_weights phys_weights optimizer; do
        that "$f after the stop" cmp whole/checkpoint-50/$f.safetensors parts/checkpoint-50/$f.safetensors
    done
    that "the loss falls" less "$(mean mse 41 50)" "0.95 * $(mean mse 1 10)"
    that "the classifier learns" less "$(mean bce 41 50)" "0.5 * $(mean bce 1 5)"
    expect 0 "names of peft" "$kinema" inspect --check whole/checkpoint-50/pytorch_lora_weights.safetensors
    has out "transformer.blocks.2.attn2.to_out.0.lora_B.weight"
    expect 0 "a clip of it" "$kinema" generate "a red ball falls" -m wan --lora whole/checkpoint-50/pytorch_lora_weights.safetensors:2 \
        --phys-weights whole/checkpoint-50/phys_weights.safetensors "${size[@]}" --steps 2 -o real.mp4 -q
fi
finish

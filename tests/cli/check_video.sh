#!/bin/bash
# Model directories of Wan and CogVideoX through the command: the reference directory to its frames, latents that outlive
# a kill, broken directories. $2: the program video_model, $3: compare_frames.
video_model=$(realpath "$2")
compare_frames=$(realpath "$3")
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
export OMP_WAIT_POLICY=passive KINEMA_TEXT_CACHE=none
spiece=$here/../../models/bundled/tokenizer/spiece.model
golden=${KINEMA_GOLDEN:-}/video

# ---- the reference: text to frames ----
if [ -d "$golden/wan_tiny" ]; then
    cat >annotation.json <<'EOF'
{"phys_law": " steel &amp; gravity: an ice cube melts on a metal ramp.",
 "n0": "glass: 2.4 to 2.6 g/cm³ floor: 2.1 g/cm³", "n1": "0 to 3 seconds", "n2": "20 to 25 degrees celsius",
 "q0": "collision, rigid body motion", "q1": "no obvious thermodynamic phenomenon", "q2": "reflection, refraction",
 "q3": "no", "q4": "object decomposition and splitting",
 "en_caption": "A glass cup  falls onto the kitchen floor quickly.\n"}
EOF
    expect 0 "wan_tiny" "$kinema" generate -m "$golden/wan_tiny" --physics annotation.json -n "blurry dark room, zebra." \
        -W 48 -H 32 --frames 5 --steps 4 --cfg-scale 6 --flow-shift 3 --max-sequence-length 32 \
        --noise "$golden/wan_tiny_case.safetensors:in.latents" -o "f/%03d.png"
    has err "blocks after layers 1 (insert_gap 42), 58 heads of 10, token and classifier of 29"
    that "frames are the reference's" "$compare_frames" "$golden/wan_tiny_case.safetensors" "f/%03d.png"
fi

# ---- what a model makes by itself ----
for kind in wan wan-wisa cogvideox cogvideox-wisa; do
    expect 0 "a model $kind" "$video_model" $kind "$spiece" $kind
done
wan=("$kinema" generate "a red ball falls" -m wan -W 48 -H 32 --steps 2 --seed 5)
cog=("$kinema" generate "a red ball falls" -m cogvideox --steps 2)
expect 0 "CogVideoX at its own size" "${cog[@]}" -o c.mp4
has out "9 frames 48x32, 8 fps"
expect 0 "its guidance may follow the time" "${cog[@]}" --dynamic-cfg on -o d.mp4 -q
that "which changes the clip" test "$(cmp -s c.mp4 d.mp4; echo $?)" = 1
expect 0 "CogVideoX with WISA" "$kinema" generate "a red ball falls" -m cogvideox-wisa --steps 2 -o w.mp4 --cfg-mode multi --phys-cfg 3
has err "blocks after layers 1 (insert_gap 999), 58 heads of 16"
expect 0 "Wan with WISA" "$kinema" generate "a red ball falls" -m wan-wisa -W 48 -H 32 --frames 5 --steps 2 -o w.mp4 --cfg-mode multi --phys-cfg 3
has err "blocks after layers 0, 2 (insert_gap 2), 58 heads of 12"
expect 0 "one batch or two" "${wan[@]}" --frames 5 --count 3 -b 3 -o "b/%d.mp4" -q
expect 0 "clip by clip" "${wan[@]}" --frames 5 --count 3 -b 1 -o "s/%d.mp4" -q
that "the same bytes" cmp b/2.mp4 s/2.mp4
that "no latents are left" test -z "$(find . -name '*.latents.safetensors')"
expect 2 "frames that the VAE cannot make" "${wan[@]}" --frames 6 -o x.mp4
has err "frames 6 cannot be made by this model, the nearest is 5"
expect 2 "frames of CogVideoX" "${cog[@]}" --frames 10 -o x.mp4
has err "frames 10 cannot be made by this model, the nearest is 9"
expect 2 "a width between" "$kinema" generate "a red ball falls" -m wan -W 50 -H 32 --frames 5 -o x.mp4
has err "width 50 must be a multiple of 16, the nearest is 48"
expect 2 "no text" "$kinema" generate -m wan -W 48 -H 32 --frames 5 -o x.mp4

# ---- latents between sampling and decoding ----
long=(generate "a red ball falls" --steps 2 --seed 5 --frames 17 -W 160 -H 128)
# in_k ARGUMENT...: the long run in the folder k
in_k() { (cd k && "$kinema" "${long[@]}" -m ../wan "$@"); }
mkdir k
expect 0 "whole" "$kinema" "${long[@]}" -m wan -o whole.mp4 --save-latents
expect 0 "from latents" "$kinema" generate --from-latents whole.latents.safetensors -m wan -o again.mp4
that "the same clip" cmp whole.mp4 again.mp4
# (where a setting came from differs: the second run took all of them from the latents)
settings() { sed '/"from":/,/}/d' "$1"; }
that "the same settings" diff <(settings whole.mp4.json | grep -v '"threads"\|"batch"\|"progress"\|"model"\|"count"') <(settings again.mp4.json)
expect 0 "dry run of it" "$kinema" generate --from-latents whole.latents.safetensors -m wan --dry-run -o x.mp4
has out "peak memory:"
expect 2 "nothing to sample" "$kinema" generate --from-latents whole.latents.safetensors -m wan --steps 3 -o x.mp4
has err "--steps is for sampling"
expect 3 "another VAE" "$kinema" generate --from-latents whole.latents.safetensors -m cogvideox -o x.mp4
has err "sampled for another VAE"
expect 3 "no latents" "$kinema" generate --from-latents wan/vae/diffusion_pytorch_model.safetensors -m wan -o x.mp4
has err '"latents"'
that "and no output" test ! -e x.mp4

# kill -9 while it decodes; the same command goes on
(cd k && exec "$kinema" "${long[@]}" -m ../wan -o whole.mp4 -t 1 >/dev/null 2>&1) &
pid=$!
for _ in $(seq 20000); do
    [ -e k/whole.latents.safetensors ] && break
    sleep 0.002
done
kill -9 $pid
wait $pid 2>/dev/null
that "latents survive" test -e k/whole.latents.safetensors -a ! -e k/whole.mp4
cp k/whole.latents.safetensors kept
expect 0 "the second start" in_k -o whole.mp4
has err "sampled by an earlier run"
that "the clip of an undisturbed run" cmp whole.mp4 k/whole.mp4
that "latents are gone" test ! -e k/whole.latents.safetensors
cp kept k/other.latents.safetensors
expect 0 "other settings" in_k --cfg-scale 2 -o other.mp4
has err "not used (cfg-scale was 5, now 2)"
that "sampled anew" test "$(cmp -s whole.mp4 k/other.mp4; echo $?)" = 1
echo broken >k/third.latents.safetensors
expect 0 "broken latents" in_k -o third.mp4
has err "not used (safetensors: third.latents.safetensors"
that "are made again" cmp whole.mp4 k/third.mp4

# the same in a series: the first two clips are sampled when the kill comes
series=("$kinema" generate ball -m ../wan -W 128 -H 96 --frames 13 --steps 2 --count 3 -q -o "%d.mp4")
in_series() { (cd "$1" && "${series[@]}"); }
mkdir undisturbed disturbed
expect 0 "a series" in_series undisturbed
(cd disturbed && exec "${series[@]}" -b 2 -t 1 >/dev/null 2>&1) &
pid=$!
for _ in $(seq 20000); do
    [ -e disturbed/1.latents.safetensors ] && break
    sleep 0.002
done
kill -9 $pid
wait $pid 2>/dev/null
that "latents of two clips" test -e disturbed/1.latents.safetensors -a ! -e disturbed/2.latents.safetensors
expect 0 "the series goes on" in_series disturbed
for i in 0 1 2; do
    that "clip $i after the kill" cmp undisturbed/$i.mp4 disturbed/$i.mp4
done
that "no latents are left of the series" test -z "$(find disturbed -name '*.latents.safetensors')"

# ---- memory: text encoder, transformer and VAE one after the other ----
# planned_is_peak COMMAND...: a dry run names the peak within a tenth (a sanitizer's own memory would count too)
ldd "$kinema" >libraries
planned_is_peak() {
    local planned peak
    expect 0 "dry run" "$@" --dry-run
    planned=$(grep -o '[0-9]* bytes' out | cut -d' ' -f1)
    if grep -q asan libraries || [ -z "${KIN_PEAK:-}" ]; then
        expect 0 "the run" "$@"
        return
    fi
    peak=$("$KIN_PEAK" "$@")
    that "planned $planned bytes are within a tenth of $peak" test \
        $((planned * 10)) -ge $((peak * 9)) -a $((planned * 10)) -le $((peak * 11))
}
expect 0 "a model of middle size" "$video_model" wan-mid "$spiece" mid
mid=("$kinema" generate hello -m mid -W 208 -H 112 --frames 5 --steps 1 --max-sequence-length 128 --allow-flat -q)
planned_is_peak "${mid[@]}" -o m.mp4 --save-latents
planned_is_peak "${mid[@]}" -o m8.mp4 --dtype bf16
planned_is_peak "$kinema" generate --from-latents m.latents.safetensors -m mid --allow-flat -q -o n.mp4
# the same in 8-bit blocks
expect 0 "blocks" "$kinema" convert mid -o mid8 --dtype int8
has out "transformer/blocks.0.ffn.net.2.weight: error 0.003"
has out "text_encoder/encoder.block.1.layer.1.DenseReluDense.wo.weight: error 0.005"
has out "end to end, products in f32: text 0.0"
has out "end to end, products in int8: text 0.0"
blocks=("$kinema" generate hello -m mid8 -W 64 -H 32 --frames 5 --steps 1 --max-sequence-length 128 --allow-flat -q)
planned_is_peak "${blocks[@]}" -o b.mp4
planned_is_peak "${blocks[@]}" -o b8.mp4 --dtype int8
expect 0 "what the blocks stand for" "$kinema" convert mid8 -o back --dtype f32
expect 0 "in blocks again" "$kinema" convert back -o again --dtype int8
has out "end to end, products in f32: text 0.00000, output 0.0000"
LC_ALL=C sed -i 's/blocks.0.ffn.net.2.weight.scale/blocks.0.ffn.net.2.weight.scalE/' mid8/transformer/diffusion_pytorch_model.safetensors
expect 3 "factors are missing" "${blocks[@]}" -o b.mp4
has err 'mid8/transformer: weights: diffusion_pytorch_model.safetensors: "blocks.0.ffn.net.2.weight" has type i8'
rm -rf mid mid8 back again m.mp4 m8.mp4 n.mp4 b.mp4 b8.mp4 m.latents.safetensors

# ---- states of texts that are known ----
KINEMA_TEXT_CACHE=$work/texts
known=("${wan[@]}" --frames 5 -q)
expect 0 "with a folder of states" "${known[@]}" -o k1.mp4
that "a prompt and a negative one" test "$(find texts -name '*.safetensors' | wc -l)" = 2
expect 0 "taken from it" "${known[@]}" -o k2.mp4
that "the same clip" cmp k1.mp4 k2.mp4
for f in texts/*.safetensors; do head -c 90 "$f" >cut && cp cut "$f"; done
expect 0 "made anew where it is cut short" "${known[@]}" -o k3.mp4
that "again the same" cmp k1.mp4 k3.mp4
that "and whole again" test -z "$(find texts -size -91c -name '*.safetensors')"
expect 0 "another way of computing" "${known[@]}" -o k4.mp4 --dtype bf16
that "has its own" test "$(find texts -name '*.safetensors' | wc -l)" = 4
KINEMA_TEXT_CACHE=none

# ---- broken and partial directories ----
# broken FROM WHAT TEXT COMMAND: a copy of the model on which COMMAND was run in place fails with TEXT
broken() {
    rm -rf broken
    cp -r "$1" broken
    (cd broken && eval "$4")
    expect 3 "$2" "$kinema" generate "a red ball falls" -m broken -W 48 -H 32 --frames 5 --steps 2 -o x.mp4 -q
    has err "$3"
    that "$2: one line" test "$(wc -l <err)" = 1
}
weights=diffusion_pytorch_model.safetensors
# damage FILE OLD NEW: equal lengths
damage() { LC_ALL=C sed -i "s/$2/$3/" "$1"; }
broken wan "no transformer" "broken/transformer/$weights" "rm transformer/$weights"
broken wan "no text encoder" "broken/text_encoder/model.safetensors" "rm text_encoder/model.safetensors"
broken wan "no tokenizer" "broken/tokenizer" "rm -r tokenizer"
broken wan "no VAE" "its directory lacks" "rm -r vae"
broken wan "no weights of the VAE" "broken/vae/$weights" "rm vae/$weights"
broken wan "no scheduler" "broken/scheduler/scheduler_config.json" "rm -r scheduler"
for part in transformer vae text_encoder; do
    broken wan "no config of $part" "broken/$part/config.json" "rm $part/config.json"
    broken wan "config of $part is no JSON" "broken/$part/config.json" "echo '{' >$part/config.json"
done
broken wan "a tensor is missing" 'broken/transformer: weights: tensor "proj_out.bias" is missing' \
    "damage transformer/$weights proj_out.bias proj_ouT.bias"
broken wan "a tensor of the VAE is missing" 'broken/vae: weights: tensor "decoder.conv_in.bias" is missing' \
    "damage vae/$weights decoder.conv_in.bias decoder.conv_iN.bias"
broken wan "a tensor of the text encoder is missing" 'broken/text_encoder: weights: tensor "encoder.final_layer_norm.weight"' \
    "damage text_encoder/model.safetensors encoder.final_layer_norm encoder.fiNal_layer_norm"
broken wan "another shape" 'diffusion_pytorch_model.safetensors: "blocks.0.ffn.net.0.proj.weight" is [40, 24] f32, the model needs [41, 24]' \
    "sed -i 's/\"ffn_dim\":.*40/\"ffn_dim\": 41/' transformer/config.json"
broken wan "another type" 'has type' \
    "damage transformer/$weights '\"proj_out.bias\":{\"dtype\":\"F32\"' '\"proj_out.bias\":{\"dtype\":\"I32\"'"
broken wan "cut weights" "broken/transformer/$weights" "truncate -s -8 transformer/$weights"
broken wan "another class" "model_index.json says AutoencoderKLCogVideoX" \
    "sed -i s/AutoencoderKLWan/AutoencoderKLCogVideoX/ model_index.json"
broken wan "an unknown class of VAE" "class AutoencoderTiny is not known" \
    "sed -i s/AutoencoderKLWan/AutoencoderTiny/ model_index.json vae/config.json"
broken wan "a tensor too many" 'belongs to no part of the model' \
    "sed -i 's/\"num_layers\":.*3/\"num_layers\": 2/' transformer/config.json"
broken wan "an unknown scheduler" "scheduler/scheduler_config.json: scheduler: class LCMScheduler" \
    "sed -i s/UniPCMultistepScheduler/LCMScheduler/ model_index.json scheduler/scheduler_config.json"
broken wan "the pipeline of another family" "the transformer of CogVideoXPipeline must be" \
    "sed -i s/WanPipeline/CogVideoXPipeline/ model_index.json"
broken wan-wisa "physics of another place" "follow no insert_gap" \
    "sed -i 's/\"num_layers\":.*3/\"num_layers\": 4/' transformer/config.json"
broken wan-wisa "a physical tensor is missing" 'tensor "phys_token" is missing' \
    "damage phys_weights.safetensors phys_token phys_tokeN"
broken wan-wisa "other heads" "must be those of 58 heads of 10" \
    "sed -i 's/\"attention_head_dim\":.*12/\"attention_head_dim\": 10/' transformer/config.json"
expect 0 "shards" "$kinema" convert wan -o sharded --dtype f32 --max-shard-size 20KB
broken sharded "a missing shard" "-00002-of-" "rm transformer/*-00002-of-*"
expect 0 "the sharded model" "$kinema" generate "a red ball falls" -m sharded -W 48 -H 32 --frames 5 --steps 2 --seed 5 -o h.mp4 -q
that "draws the same" test "$(ffmpeg -v error -i h.mp4 -f md5 - 2>&1)" = \
    "$(ffmpeg -v error -i s/0.mp4 -f md5 - 2>&1)"
finish

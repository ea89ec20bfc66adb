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
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/../cli/lib.sh"
root=$here/../..
# under AddressSanitizer the shim comes before its library
export ASAN_OPTIONS=${ASAN_OPTIONS:-}:verify_asan_link_order=0
export OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 KINEMA_CALIBRATION=none NO_COLOR=1

cat >train.json <<'EOF'
{"transformer": {"_class_name": "KinemaTransformer3DModel", "model": "promoe_tc", "patch_size": [2, 8, 8],
  "MoE_config": {"num_routed_experts": 2, "moe_intermediate_size": 8, "shared_expert_intermediate_size": 8},
  "num_attention_heads": 2, "attention_head_dim": 8, "text_dim": 16, "text_len": 24, "freq_dim": 48, "ffn_dim": 16,
  "num_layers": 1, "phys_heads_per_class": 1, "phys_head_dim": 4, "phys_qk_norm": "layer_norm", "mopa_floor": 0,
  "prediction_type": "sample", "sample_loss_floor": 0.3, "pos_embed": "learned", "sample_frames": 4,
  "sample_height": 16, "sample_width": 16},
 "text_encoder": {"model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2,
  "vocab_size": 80},
 "tokenizer": {"vocab_size": 80, "sentences": 100}, "seed": 3, "steps": 2, "batch_size": 1, "log_every": 1,
 "checkpoint": {"every": 1, "keep": 3}, "samples": {"every": 2, "count": 1, "steps": 1}, "validation": {"every": 2},
 "data": {"frames": 4, "height": 16, "width": 16, "held_out": 1}}
EOF
cat >images.json <<'EOF'
{"transformer": {"_class_name": "DiTTransformer2DModel", "model": "promoe_tc", "input_size": 8, "patch_size": 4,
  "in_channels": 3, "hidden_size": 16, "depth": 2, "num_heads": 2, "num_classes": 2, "learn_sigma": false,
  "MoE_config": {"num_routed_experts": 2, "top_k": 1, "router_weight_mode": "identity", "moe_intermediate_size": 8,
   "shared_expert_intermediate_size": 8, "routing_contrastive_lam": 1, "routing_contrastive_temperature": 0.07}},
 "steps": 2, "batch_size": 2, "log_every": 1, "checkpoint": {"every": 1, "keep": 3}}
EOF
cat >vae.json <<'EOF'
{"vae": {"_class_name": "AutoencoderKL", "block_out_channels": [4, 8], "latent_channels": 2,
  "norm_num_groups": 2, "sample_size": 8,
  "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
  "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"]},
 "objective": {"kind": "vae"}, "steps": 1, "batch_size": 1, "log_every": 1}
EOF
for class in mandelbrot testsrc; do
    mkdir -p "set/train/$class" "set/test/$class"
    ffmpeg -v error -f lavfi -i "$class=size=8x8:rate=2" -frames:v 2 "set/train/$class/%03d.png"
    cp "set/train/$class/001.png" "set/test/$class/001.png"
done
expect 0 "clips" "$kinema" dataset simulate -o clips --count 3 --frames 4 -H 16 -W 16 -q
expect 0 "a model of pictures" "$random_model" "$here/tiny-dit.json" dit f32
expect 0 "a model of clips" "$video_model" wan "$root/models/bundled/tokenizer/spiece.model" wan
expect 0 "a model of clips in pixels" "$kinema" train -c train.json --data clips -o native -q
expect 0 "a run" "$kinema" train -c images.json --data set -o run -q
expect 0 "half a run" "$kinema" train -c images.json --data set -o half/run --steps 1 -q
expect 0 "an autoencoder" "$kinema" train -c vae.json --data set -o ae -q
expect 0 "a .pth" "$kinema" convert run -o x.pth --dtype f32
echo '{"num_heads": 2}' >heads.json
[ $failed = 0 ] || finish
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

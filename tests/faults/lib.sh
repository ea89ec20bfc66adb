#!/bin/bash
# What the scripts of this folder work on: small configurations, data and models in $work, made by make_inputs.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../cli/lib.sh"
root=$here/../..
export OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 KINEMA_CALIBRATION=none NO_COLOR=1

# make_inputs RANDOM_MODEL VIDEO_MODEL
make_inputs() {
    local random_model=$1 video_model=$2 class
    write_configs
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
}

write_configs() {
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
}

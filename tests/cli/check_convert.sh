#!/bin/bash
# .pth files: a run as one, models and runs from it, training that goes on from it.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
export OMP_WAIT_POLICY=passive

for class in mandelbrot testsrc; do
    mkdir -p "set/train/$class" "set/test/$class"
    ffmpeg -v error -f lavfi -i "$class=size=8x8:rate=2" -frames:v 4 "set/train/$class/%03d.png"
    cp "set/train/$class/001.png" "set/test/$class/001.png"
done
cat >c.json <<'EOF'
{"transformer": {"_class_name": "DiTTransformer2DModel", "model": "promoe_tc", "input_size": 8, "patch_size": 4,
  "in_channels": 3, "hidden_size": 32, "depth": 2, "num_heads": 2, "num_classes": 2, "learn_sigma": false,
  "MoE_config": {"num_routed_experts": 3, "top_k": 1, "router_weight_mode": "identity", "moe_intermediate_size": 16,
   "shared_expert_intermediate_size": 16, "routing_contrastive_lam": 1, "routing_contrastive_temperature": 0.07}},
 "steps": 6, "batch_size": 4, "log_every": 2, "checkpoint": {"every": 3}}
EOF
expect 0 "a run" "$kinema" train -c c.json --data set -o run -t 1 -q
expect 0 "a run as .pth" "$kinema" convert run -o x.pth --dtype f32
expect 0 "what it is" "$kinema" inspect --check x.pth
has out "torch.save file, zip form"
has out "step 5"
has out '"ema_model_state_dict.pos_embed" FloatStorage [1, 4, 32]'
expect 3 "heads are not in it" "$kinema" convert x.pth -o y
has err '"num_heads": N'
echo '{"num_heads": 2}' >h.json
expect 0 "a model from it" "$kinema" convert x.pth -o y -c h.json --dtype f32
has err "as published (the file does not say)"
mkdir ae
echo '{"_class_name": "AutoencoderKL"}' >ae/config.json
cp y/transformer/diffusion_pytorch_model.safetensors ae
expect 3 "the file in the place of a model" "$kinema" generate -m x.pth --class 0 -o i.png
has err "kinema convert x.pth -o DIR"
echo '{"init_from": "x.pth", "steps": 6}' >from.json
expect 3 "and to start from" "$kinema" train -c from.json --data set -o started -q
has err "kinema convert"
expect 0 "with an autoencoder" "$kinema" convert x.pth -o withvae -c h.json --vae ae
that "which is copied" cmp ae/diffusion_pytorch_model.safetensors withvae/vae/diffusion_pytorch_model.safetensors
that "and named" grep -q '"AutoencoderKL"' withvae/model_index.json
expect 3 "one without a configuration" "$kinema" convert x.pth -o novae -c h.json --vae set
that "nothing is left of it" test ! -e novae -a ! -e novae.tmp
expect 2 "over what is there" "$kinema" convert x.pth -o y -c h.json
expect 0 "in shards" "$kinema" convert x.pth -o s -c h.json --dtype f32 --max-shard-size 50KB
that "an index of shards" test -f s/transformer/diffusion_pytorch_model.safetensors.index.json
expect 0 "from shards to one file" "$kinema" convert s -o one --dtype f32
for m in run y s one; do
    expect 0 "pictures of $m" "$kinema" generate -m $m --class 0-1 --count 2 --steps 2 --seed 5 --allow-flat -o $m-%d.png -q
    for i in 0 1; do
        that "picture $i of $m" cmp <(ffmpeg -v error -i run-$i.png -f rawvideo -) <(ffmpeg -v error -i $m-$i.png -f rawvideo -)
    done
done
expect 0 "the weights of the last step" "$kinema" convert x.pth -o raw -c h.json --dtype f32 --weights model
that "are others than the averages" test -n "$(cmp y/transformer/*.safetensors raw/transformer/*.safetensors)"
expect 0 "the same from the run" "$kinema" convert run -o raw2 --dtype f32 --weights model
that "are those of the run" cmp raw2/transformer/diffusion_pytorch_model.safetensors raw/transformer/diffusion_pytorch_model.safetensors
expect 0 "bf16 and f16" "$kinema" convert x.pth -o half -c h.json --dtype f16
expect 2 "a size that is none" "$kinema" convert x.pth -o z -c h.json --max-shard-size 2XB
expect 0 "any .pth as safetensors" "$kinema" convert x.pth -o flat.safetensors
expect 0 "which is one" "$kinema" inspect --check flat.safetensors
has out '"optimizer_state_dict.state.1.exp_avg"'

expect 0 "more steps of the run" "$kinema" train -o run --resume --steps 8 -q
expect 0 "the same from the .pth" "$kinema" train -c c.json --data set -o on --resume-from x.pth --steps 8 -q
expect 0 "and by a run folder" "$kinema" convert x.pth -o kept -c h.json --with-optimizer
has out "checkpoint-6"
expect 0 "which goes on" "$kinema" train -c c.json --data set -o kept --resume --steps 8 -q
for f in optimizer.safetensors transformer/diffusion_pytorch_model.safetensors ema/transformer/diffusion_pytorch_model.safetensors; do
    that "on/$f" cmp run/checkpoint-8/$f on/checkpoint-8/$f
    that "kept/$f" cmp run/checkpoint-8/$f kept/checkpoint-8/$f
done
expect 2 "a run that is there" "$kinema" train -c c.json --data set -o on --resume-from x.pth -q
expect 2 "no configuration" "$kinema" train --data set -o on2 --resume-from x.pth -q
head -c 3000 x.pth >cut.pth
expect 3 "a cut file" "$kinema" convert cut.pth -o z -c h.json
that "nothing is left" test ! -e z -a ! -e z.tmp
finish

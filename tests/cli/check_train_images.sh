#!/bin/bash
# image models: trained on class folders and on a tar of them, judged by the loss suite beside the linear denoiser, by
# a classifier trained here and the distance of its features.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
export OMP_WAIT_POLICY=passive

# 24 + 6 pictures of 20x16 in two classes: moving test patterns of two kinds
for part in train:12 test:3; do
    for class in bars mandelbrot; do
        mkdir -p "set/${part%:*}/$class"
        source=$class
        [ $class = bars ] && source=testsrc
        ffmpeg -v error -f lavfi -i "$source=size=20x16:rate=2" -frames:v "${part#*:}" "set/${part%:*}/$class/%03d.png"
    done
done
tar cf set.tar set
cat >c.json <<'EOF'
{"transformer": {"_class_name": "DiTTransformer2DModel", "model": "dense", "input_size": 16, "patch_size": 4,
  "in_channels": 3, "hidden_size": 32, "depth": 2, "num_heads": 2, "num_classes": 2, "learn_sigma": false},
 "steps": 8, "batch_size": 4, "log_every": 4, "validation": {"every": 4}, "checkpoint": {"every": 4}}
EOF
expect 0 "train on class folders" "$kinema" train -c c.json --data set -o run -t 1
has err "24 images of train in 2 classes, 6 held out of test"
expect 0 "train on a tar of them" "$kinema" train -c c.json --data set.tar -o tar -t 2 -q
weights=checkpoint-8/ema/transformer/diffusion_pytorch_model.safetensors
that "folder, tar and threads give the same bytes" cmp run/$weights tar/$weights
that "class names are in the model" grep -q '"mandelbrot"' run/checkpoint-8/ema/model_index.json
expect 0 "half of it" "$kinema" train -c c.json --data set -o half --steps 4 -q
expect 0 "and the rest" "$kinema" train -o half --resume --steps 8 -q
that "a resumed run gives the same bytes" cmp run/$weights half/$weights

expect 0 "loss" "$kinema" evaluate --suite loss -m run --data set -t 1 -q
has out '"images":	6'
has out '"linear_denoiser":	{'
has out '"training_images":	24'
cp out one
expect 0 "loss with two threads" "$kinema" evaluate --suite loss -m run --data set.tar -t 2 -q
that "folder, tar and threads give the same loss" cmp <(grep -A 99 '"images"' one) <(grep -A 99 '"images"' out)
expect 0 "of every so many-th image" "$kinema" evaluate --suite loss -m run --data set/train --count 5 -q
has out '"training_images":	19'
expect 2 "nothing held out" "$kinema" evaluate --suite loss -m run --data set/train -q
has err "test, val or validation"
expect 2 "two configurations" "$kinema" train -c c.json --objective classify --data set -o no -q
expect 2 "nothing to classify" "$kinema" train --objective classify -o no -q
expect 0 "train a classifier" "$kinema" train --objective classify --data set -o classes --steps 6 -t 1 -q
expect 2 "it makes no pictures" "$kinema" generate -m classes --class 0 -o no.png -q
has err "makes nothing"
expect 2 "loss is not for classifiers" "$kinema" evaluate --suite loss -m classes --data set -q
expect 0 "pictures against themselves" "$kinema" evaluate --suite fd -m classes --data set --reference set.tar -q
has out '"made":	30'
has out '"precision":	1,'
expect 0 "pictures against a part" "$kinema" evaluate --suite fd -m classes --data set/test/bars --reference set --part train --nearest 2 -t 1 -q
has out '"made":	3,'
has out '"real":	24,'
cp out one
expect 0 "with two threads and another batch" "$kinema" evaluate --suite fd -m classes --data set/test/bars --reference set --part train --nearest 2 -t 2 -b 5 -q
that "the same figures" cmp <(grep -A 9 '"made"' one) <(grep -A 9 '"made"' out)
expect 2 "pictures without a classifier" "$kinema" evaluate --suite fd --data set --reference set -q
has err "need a classifier"
expect 2 "pictures with another model" "$kinema" evaluate --suite fd -m run --data set --reference set -q
has err "must be an image classifier"
expect 2 "nothing to compare with" "$kinema" evaluate --suite fd --data set -q
expect 3 "a file that is not there" "$kinema" evaluate --suite fd --data no.npz --reference set -q
expect 2 "a cache needs a VAE" "$kinema" dataset cache set -o cache -q
has err "a VAE"
expect 3 "which must be one" "$kinema" dataset cache set -m set -o cache -q
that "nothing is written" test ! -e cache
expect 3 "no images" "$kinema" evaluate --suite loss -m run --data half -q

# routers: thresholds of DiffMoE through checkpoint and resume; the routing suite on own samples and on a set
sed -e 's/"dense"/"diffmoe"/' -e 's/"learn_sigma": false/"learn_sigma": false, "MoE_config": {"num_experts": 4}/' c.json >d.json
expect 0 "train DiffMoE" "$kinema" train -c d.json --data set -o moe -t 2 -q
expect 0 "half of it" "$kinema" train -c d.json --data set -o moe-half --steps 4 -q
expect 0 "and the rest" "$kinema" train -o moe-half --resume --steps 8 -q
that "thresholds are resumed to the bit" cmp moe/$weights moe-half/$weights
expect 0 "routing on own samples" "$kinema" evaluate --suite routing -m moe --count 3 --steps 5 -q
has out "router diffmoe, 4 experts; 3 samples of 16 tokens: own sampling"
expect 0 "routing of a set" "$kinema" evaluate --suite routing -m moe --data set -b 2 --json -o maps.png -q
has out '"samples":	6'
has out '"capacity":'
that "maps are a picture" test -s maps.png
cp out one
expect 0 "in one batch" "$kinema" evaluate --suite routing -m moe --data set -b 6 --json -q
that "the token rule does not see the batch" cmp <(grep -A 999 '"layers"' one) <(grep -A 999 '"layers"' out)
expect 0 "by the published rule" "$kinema" generate -m moe --class 0,1 --count 2 -b 2 --steps 2 --cfg-scale 1 --diffmoe-infer batch --allow-flat -o b%d.png -q
expect 2 "no experts" "$kinema" evaluate --suite routing -m run -q
has err "no experts"

# DDPM: hybrid loss, its scheduler in the model, both loops of ADM
sed 's/"learn_sigma": false/"learn_sigma": true/; s/"steps": 8/"steps": 8, "objective": {"kind": "ddpm"}/' c.json >q.json
expect 0 "train by DDPM" "$kinema" train -c q.json --data set -o ddpm -t 1 -q
that "the bound is logged" grep -q '"vb":' ddpm/log.jsonl
that "the model says how it is sampled" grep -q '"variance_type":.*"learned_range"' ddpm/checkpoint-8/ema/scheduler/scheduler_config.json
that "its index too" grep -q DDPMScheduler ddpm/checkpoint-8/ema/model_index.json
expect 0 "half of it" "$kinema" train -c q.json --data set -o ddpm-half --steps 4 -q
expect 0 "and the rest" "$kinema" train -o ddpm-half --resume --steps 8 -q
that "a resumed DDPM run gives the same bytes" cmp ddpm/$weights ddpm-half/$weights
draw=("$kinema" generate -m ddpm --class 0-1 --count 4 --steps 5 --allow-flat -q)
expect 0 "the chain" "${draw[@]}" -o "a/%d.png"
expect 0 "the chain in batches" "${draw[@]}" -b 3 -t 2 -o "bb/%d.png"
that "batches change no byte" cmp a/3.png bb/3.png
expect 0 "ADM's sections, three guided channels" "$kinema" generate -m ddpm --class 1 --timestep-spacing 3,2,4 --cfg-channels 3 --allow-flat -o s.png -q
expect 0 "ddim" "${draw[@]}" --sampling-method ddim --eta 0.3 -o "c/%d.png"
expect 0 "dpm++2m" "${draw[@]}" --sampling-method dpm++2m -o "ee/%d.png"
expect 2 "a flow shift" "${draw[@]}" --flow-shift 3 -o "ff/%d.png"
expect 0 "its loss" "$kinema" evaluate --suite loss -m ddpm --data set -q
has out '"prediction_error":'
has out '"hybrid":'
has out '"949":' # ten of the thousand steps
cp out one
expect 0 "its loss again" "$kinema" evaluate --suite loss -m ddpm --data set -t 1 -q
that "noise and steps are fixed" cmp <(grep -A 99 '"images"' one) <(grep -A 99 '"images"' out)
sed -e 's/"dense"/"diffmoe"/' -e 's/"learn_sigma": true/"learn_sigma": true, "MoE_config": {"num_experts": 4}/' q.json >qm.json
expect 0 "DDPM with experts" "$kinema" train -c qm.json --data set -o ddpm-moe -q
expect 0 "its routing on own samples" "$kinema" evaluate --suite routing -m ddpm-moe --count 3 --steps 4 -q
has out "own sampling"
expect 0 "and on a set" "$kinema" evaluate --suite routing -m ddpm-moe --data set -q
sed 's/"learn_sigma": true/"learn_sigma": false/' q.json >baq.json
expect 2 "a learned variance without its channels" "$kinema" train -c baq.json --data set -o bad -q
has err "learn_sigma"
sed 's/"kind": "ddpm"/"noise_schedule": "linear"/' q.json >baq.json
expect 2 "a key of DDPM without it" "$kinema" train -c baq.json --data set -o bad -q
has err "kind ddpm"
finish

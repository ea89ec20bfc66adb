/* cli/manual_text.c: what the manual pages say beside the flags. */
#include "cli/help.h"

/* clang-format off */
const kin_manual_section kin_manual_sections[] = {
    {KIN_VERB_GENERATE, "EXAMPLES",
     "A clip, its frames on a sheet, several clips, one file for each frame:\n"
     "\n"
     "  kinema generate \"a red ball falls\" -o ball.mp4\n"
     "  kinema generate \"a red ball falls\" -o sheet.png --grid 4x4\n"
     "  kinema generate \"a red ball falls\" --count 3 -o \"clips/%03d.mp4\"\n"
     "  kinema generate \"a red ball falls\" -o \"frames/%03d.png\"\n"
     "\n"
     "Images, of a class-conditional model (the bundled model makes clips):\n"
     "\n"
     "  kinema generate -m MODEL --class 0-9 --count 50 -o \"out/%06d.png\"\n"
     "\n"
     "The same clip again, from what was saved beside it:\n"
     "\n"
     "  kinema generate -c ball.mp4.json -o again.mp4\n", false},
    {KIN_VERB_GENERATE, "QUEUES",
     "A file given to --prompts holds one job a line: a prompt, or an object with \"prompt\" and names of flags. Empty lines and\n"
     "lines that begin with # are left out. Jobs are counted from 0, and %d in the name of the output is that number; a line may name\n"
     "an \"output\" of its own. Each job makes the clip that the same command alone would make; in .png its frames lie side by side.\n"
     "Started again, the command makes what is missing.\n"
     "\n"
     "  a green ball rolls down a ramp\n"
     "  {\"prompt\": \"a blue ball swings on a spring\", \"seed\": 3, \"steps\": 12}\n", false},
    {KIN_VERB_GENERATE | KIN_VERB_INSPECT, "PHYSICS FILES",
     "--physics FILE is JSON with one record in the form of WISA's data set. en_caption or detail_caption is needed and phys_law\n"
     "follows it; both are text. n1, the time span, is needed; n0 are densities, n2 the temperature, q0 to q4 the phenomena of dynamics,\n"
     "thermodynamics, optics, the camera and the objects, separated by commas. What is not understood is left out, and said.\n"
     "\n"
     "  {\"en_caption\": \"A steel ball falls onto a wooden floor.\",\n"
     "   \"phys_law\": \"a falling body keeps its acceleration until it strikes the floor\",\n"
     "   \"n0\": \"steel: 7.8 g/cm³\", \"n1\": \"0 to 2 seconds\", \"n2\": \"20 to 25 degrees celsius\",\n"
     "   \"q0\": \"rigid body motion, collision\", \"q1\": \"no obvious thermodynamic phenomenon\",\n"
     "   \"q2\": \"no obvious optical phenomenon\", \"q3\": \"no\", \"q4\": \"no change\"}\n", true},
    {KIN_VERB_TRAIN, "CONFIGURATION",
     "-c names a JSON file with the network, the data and how to train; what it leaves out has a default, and a key that nobody\n"
     "knows is an error. The folder of the run holds config.json, the same with every default filled in, which can be given\n"
     "to -c again. A small video model with experts:\n"
     "\n"
     "  {\"transformer\": {\"_class_name\": \"KinemaTransformer3DModel\", \"model\": \"promoe_tc\",\n"
     "     \"MoE_config\": {\"num_routed_experts\": 4, \"moe_intermediate_size\": 64, \"shared_expert_intermediate_size\": 64},\n"
     "     \"patch_size\": [2, 8, 8], \"num_attention_heads\": 2, \"attention_head_dim\": 32, \"num_layers\": 2, \"ffn_dim\": 128,\n"
     "     \"text_dim\": 48, \"text_len\": 48, \"phys_head_dim\": 8, \"pos_embed\": \"learned\",\n"
     "     \"sample_frames\": 16, \"sample_height\": 32, \"sample_width\": 32},\n"
     "   \"text_encoder\": {\"model_type\": \"t5\", \"d_model\": 48, \"d_kv\": 24, \"d_ff\": 96, \"num_layers\": 1, \"num_heads\": 2, \"vocab_size\": 200},\n"
     "   \"tokenizer\": {\"vocab_size\": 200},\n"
     "   \"data\": {\"frames\": 16, \"height\": 32, \"width\": 32, \"held_out\": 2},\n"
     "   \"steps\": 2000, \"batch_size\": 4, \"compute\": \"bf16\", \"seed\": 1,\n"
     "   \"optimizer\": {\"lr\": 1e-3, \"warmup_steps\": 100, \"ema_warmup\": true},\n"
     "   \"validation\": {\"every\": 500}, \"samples\": {\"every\": 500}, \"checkpoint\": {\"every\": 500}}\n"
     "\n"
     "A small image model, for pictures in folders named after their classes:\n"
     "\n"
     "  {\"transformer\": {\"_class_name\": \"DiTTransformer2DModel\", \"model\": \"promoe_tc\", \"input_size\": 32,\n"
     "     \"MoE_config\": {\"num_routed_experts\": 4, \"moe_intermediate_size\": 128, \"shared_expert_intermediate_size\": 128},\n"
     "     \"patch_size\": 2, \"in_channels\": 3, \"hidden_size\": 128, \"depth\": 4, \"num_heads\": 4, \"num_classes\": 10,\n"
     "     \"learn_sigma\": false},\n"
     "   \"steps\": 5000, \"batch_size\": 16, \"optimizer\": {\"lr\": 1e-3}, \"checkpoint\": {\"every\": 1000}}\n"
     "\n"
     "Going on from a model, with other data:\n"
     "\n"
     "  {\"init_from\": \"model\", \"data\": {\"held_out\": 2}, \"steps\": 200, \"batch_size\": 2,\n"
     "   \"optimizer\": {\"lr\": 1e-4, \"ema_warmup\": true}}\n"
     "\n"
     "The tokenizer is trained on the captions of the set: where they are few, both numbers of pieces (vocab_size) have to be smaller.\n"
     "\n"
     "Keys: transformer or init_from; text_encoder, tokenizer, scheduler; seed, steps, batch_size, gradient_accumulation; compute (f32,\n"
     "bf16); checkpointing (less memory, more time); log_every; data (path or simulate, frames, height, width, fps, held_out: clips kept\n"
     "for validation, fewer than there are); optimizer (lr, betas, weight_decay, max_grad_norm, schedule, warmup_steps, ema_decay,\n"
     "ema_warmup); objective (kind: flow or ddpm, weighting_scheme, shift, condition_dropout, classifier_loss); validation, samples\n"
     "(every, count, steps, cfg_scale: also what generate then uses), checkpoint (every, keep). All of them, with their defaults, are in\n"
     "docs/training.md of the documentation.\n"
     "\n"
     "The averages of the weights are what generate takes from a run. With the default ema_decay 0.9999 they follow over some 10,000\n"
     "steps; a short run wants ema_warmup, or convert --weights model.\n", false},
    {KIN_VERB_TRAIN | KIN_VERB_CHECK | KIN_VERB_CACHE, "DATA",
     "A set is a folder with clips and wisa.json, a list of records (or a tar of it, or that file). A record names the clip, its\n"
     "caption and its physics:\n"
     "\n"
     "  [{\"file\": \"videos/0.mp4\", \"captions\": \"a steel ball falls\", \"physical_annotation\":\n"
     "    {\"phys_law\": \"gravity pulls it down\", \"n0\": \"steel: 7.8 g/cm³\", \"n1\": \"0 to 2 seconds\",\n"
     "     \"n2\": \"20 to 25 degrees celsius\", \"q0\": \"rigid body motion\", \"q1\": \"no obvious thermodynamic phenomenon\",\n"
     "     \"q2\": \"no obvious optical phenomenon\", \"q3\": \"no\", \"q4\": \"no change\"}}]\n"
     "\n"
     "file, captions and an annotation with n1 are needed. What a record leaves out beside them (label, width, height, fps, duration,\n"
     "and the numbers of n0 to n2 as quantify_n0 to quantify_n2) is read from the clip or the text, and dataset check says so; a set\n"
     "made by the simulator shows them all.\n"
     "\n"
     "The phenomena are listed in kinema-generate(1). kinema dataset simulate makes such a set, kinema dataset check names what is odd\n"
     "in one. Images lie in folders named after their classes.\n", false},
    {KIN_VERB_TRAIN, "EXAMPLES",
     "  kinema dataset simulate -o clips --count 2000\n"
     "  kinema train -c train.json --data clips -o run\n"
     "  kinema train -o run --resume\n"
     "  kinema plot run -o curves.png\n"
     "  kinema generate \"a red ball falls\" -m run -o ball.mp4\n", false},
    {KIN_VERB_EVALUATE, "EXAMPLES",
     "Errors of velocity, acceleration, restitution and period in clips that the model makes of prompts whose law is known, beside those\n"
     "of simulated clips; the validation loss on a set; loads of the experts; Frechet distance between folders of images:\n"
     "\n"
     "  kinema evaluate -m run --suite physics --count 20\n"
     "  kinema evaluate -m run --suite loss --data clips\n"
     "  kinema evaluate -m run --suite routing -o routing.png\n"
     "  kinema evaluate --suite fd -m classes --data out --reference real\n", false},
    {KIN_VERB_INSPECT, "EXAMPLES",
     "  kinema inspect run\n"
     "  kinema inspect run -p \"a red ball bounces\" -o routing.png\n"
     "  kinema inspect --check clip.mp4\n", false},
    {KIN_VERB_CONVERT, "CHECKPOINTS",
     "A .pth file is read as a checkpoint of a class-conditional image transformer (DiT, DiffMoE, ProMoE) in the form of their\n"
     "official code; -c names what cannot be seen in the weights. Models of other families are written as .pth, but not read from it: to\n"
     "move them, copy their directory. Weights are written as bf16 unless --dtype says f32, which loses nothing; the .pth of a run\n"
     "holds the moments of its optimizer, too.\n"
     "\n"
     "  kinema convert ckpt_step_500000.pth -o promoe-b\n"
     "  kinema convert run -o model\n"
     "  kinema convert model -o half --dtype bf16\n"
     "  kinema convert run -o checkpoint.pth --dtype f32\n"
     "  echo '{\"num_heads\": 4}' >heads.json\n"
     "  kinema convert checkpoint.pth -c heads.json -o back --dtype f32\n", false},
    {KIN_VERB_SIMULATE, "EXAMPLES",
     "  kinema dataset simulate -o clips --count 2000\n"
     "  kinema dataset simulate -o clips --count 8 --kinds \"drop,bounce:2\"\n", false},
    {0, NULL, NULL, false},
};
/* clang-format on */

#include "cli/flags.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "cli/args.h"

#define G KIN_VERB_GENERATE
#define T KIN_VERB_TRAIN
#define S KIN_VERB_SIMULATE
#define C KIN_VERB_CHECK
#define E KIN_VERB_EVALUATE
#define K KIN_VERB_CACHE
#define I KIN_VERB_INSPECT
#define V KIN_VERB_CONVERT
#define P KIN_VERB_PLOT
#define BO KIN_VERB_BENCH_OPS
#define BM KIN_VERB_BENCH_MODEL
#define BT KIN_VERB_BENCH_TRAIN
#define BS KIN_VERB_BENCH_SCALING
#define BC KIN_VERB_BENCH
#define BENCH (BO | BM | BT | BS)

const kin_verb_row kin_verbs[] = {
    {G, "generate", NULL, "[PROMPT]", "prompt", "make a video or images from text"},
    {T, "train", NULL, NULL, NULL, "train a model on labelled clips"},
    {S, "dataset", "simulate", NULL, NULL,
     "make a labelled physics video set, without any download"},
    {C, "dataset", "check", "PATH", NULL,
     "read a data set to its end and name everything odd in it"},
    {K, "dataset", "cache", "PATH", "data",
     "encode images, or clips and their texts, once, for training"},
    {E, "evaluate", NULL, "[MODEL]", "model", "judge a model by measurement"},
    {I, "inspect", NULL, "[MODEL]", "model",
     "show parameters and routing; read any one input file to its end"},
    {P, "plot", NULL, "RUN", NULL, "draw the curves of a training run"},
    {V, "convert", NULL, "[MODEL|FILE.pth]", "model",
     "write a model, a run or a .pth checkpoint as a model directory, a run or a .pth"},
    {BO, "bench", "ops", NULL, NULL, "time every kernel beside the peaks of this machine"},
    {BM, "bench", "model", NULL, NULL,
     "time a forward pass: share of the peak, where the time goes"},
    {BT, "bench", "train", NULL, NULL, "time a training step likewise"},
    {BS, "bench", "scaling", NULL, NULL, "cost against experts, tokens, frames, batch and threads"},
    /* note: after the rows with a second word */
    {BC, "bench", NULL, NULL, NULL, "--calibrate: time the engines of products, write the choice"},
    {KIN_VERB_NONE, NULL, NULL, NULL, NULL, NULL},
};

#define BIG 9007199254740992.0

/* The verbs whose -c has this text take a settings file there. */
static const char settings_help[] = "settings as JSON (names of flags as keys)";

/* clang-format off */
const kin_flag kin_flags[] = {
    /* what */
    {"prompt", 'p', KIN_FLAG_TEXT, "TEXT", NULL, 0, 0, G, true,
     "the prompt (also as plain argument)"},
    {"prompt", 'p', KIN_FLAG_TEXT, "TEXT", NULL, 0, 0, I, true, "the prompt of the routing maps"},
    {"negative-prompt", 'n', KIN_FLAG_TEXT, "TEXT", NULL, 0, 0, G, true,
     "text of the unconditional branch"},
    {"prompts", 0, KIN_FLAG_TEXT, "FILE", NULL, 0, 0, G, false,
     "one job a line: a prompt, or {\"prompt\": ..., \"seed\": 3} with names of flags; -: standard "
     "input; the same command goes on where an earlier one ended"},
    {"class", 0, KIN_FLAG_TEXT, "A-B,C", NULL, 0, 0, G, true,
     "classes (numbers, ranges, names) that images are drawn from evenly; default: all"},
    {"class-file", 0, KIN_FLAG_TEXT, "FILE", NULL, 0, 0, G, true,
     "the class of every image, one a line; makes so many images unless --count says else"},
    {"balanced", 0, KIN_FLAG_BOOL, NULL, NULL, 0, 0, G, true,
     "take the classes in turn, so that each is shown equally often"},
    {"physics", 0, KIN_FLAG_TEXT, "FILE|none", NULL, 0, 0, G | I, true,
     "annotation to give the model; default: rules over the prompt's words"},
    {"model", 'm', KIN_FLAG_TEXT, "DIR", NULL, 0, 0, G | E | I | V, true,
     "model directory or run folder, whose averaged weights are taken; default: the bundled model"},
    {"lora", 0, KIN_FLAG_TEXT, "FILE[:X],...", NULL, 0, 0, G | E | I, true,
     "low-rank adapters, each with its strength (default 1)"},
    {"lora", 0, KIN_FLAG_TEXT, "FILE[:X],...", NULL, 0, 0, V, false,
     "low-rank adapters to add to the weights, each with its strength (default 1)"},
    {"phys-weights", 0, KIN_FLAG_TEXT, "FILE", NULL, 0, 0, G | E | I | V, true,
     "WISA's physical parameters; default: phys_weights.safetensors in the model's folder"},
    {"config", 'c', KIN_FLAG_TEXT, "FILE", NULL, 0, 0, G | S | E, false, settings_help},
    {"config", 'c', KIN_FLAG_TEXT, "FILE", NULL, 0, 0, T, false, "training configuration (JSON)"},
    {"config", 'c', KIN_FLAG_TEXT, "FILE", NULL, 0, 0, V, false,
     "keys of the transformer's config that a .pth cannot tell, e.g. {\"num_heads\": 6}"},
    {"config", 'c', KIN_FLAG_TEXT, "FILE", NULL, 0, 0, BM | BT | BS, false,
     "transformer config.json, training configuration, model directory, or a name like promoe-b"},
    {"filter", 0, KIN_FLAG_TEXT, "TEXT", NULL, 0, 0, BO, false,
     "only rows that hold this in \"op shape dtype\""},
    {"series", 0, KIN_FLAG_CHOICE, "all|experts|tokens|frames|batch|threads", "all", 0, 0, BS, false,
     "what to vary"},
    {"data", 0, KIN_FLAG_TEXT, "PATH", NULL, 0, 0, T | E, false,
     "data set: wisa.json, its folder, or a tar of it; class folders for image models"},
    {"output", 'o', KIN_FLAG_TEXT, "FILE", "output.mp4", 0, 0, G, false,
     "x.mp4, .y4m, .gif, .apng, x.png (frames side by side) or out/%03d.png; x-%03d.mp4 for several "
     "clips; -: y4m on standard output"},
    {"grid", 0, KIN_FLAG_TEXT, "CxR", NULL, 0, 0, G, true,
     "x.png: a sheet of C columns and R rows, of a clip's frames or of all images of a batch"},
    {"animated", 0, KIN_FLAG_BOOL, NULL, NULL, 0, 0, G, true, "x.png: one animated file (APNG)"},
    {"npz", 0, KIN_FLAG_TEXT, "FILE", NULL, 0, 0, G, false,
     "in place of -o: all images in one NumPy archive (arr_0 images, arr_1 classes)"},
    {"from-latents", 0, KIN_FLAG_TEXT, "FILE", NULL, 0, 0, G, false,
     "decode these latents of an earlier run with the model's VAE; nothing is sampled"},
    {"save-latents", 0, KIN_FLAG_BOOL, NULL, NULL, 0, 0, G, false,
     "keep x.latents.safetensors beside x.mp4 (video VAEs); without: until the clip is written"},
    {"output", 'o', KIN_FLAG_TEXT, "DIR", NULL, 0, 0, T | S | K, false, "folder to write"},
    {"output", 'o', KIN_FLAG_TEXT, "DIR|FILE", NULL, 0, 0, V, false,
     "model directory (or run folder) to write; x.pth; x.safetensors for any .pth as it is"},
    {"data", 0, KIN_FLAG_TEXT, "PATH", NULL, 0, 0, K, false,
     "images in class folders, or clips with wisa.json; or a tar (also as plain argument)"},
    {"model", 'm', KIN_FLAG_TEXT, "DIR", NULL, 0, 0, K, false,
     "the VAE: its folder, or a model directory with vae/; clips: a Wan or CogVideoX directory"},
    {"frames", 0, KIN_FLAG_INT, "N", NULL, 1, 4096, K, true,
     "clips: frames, evenly chosen; default: 49"},
    {"height", 'H', KIN_FLAG_INT, "N", NULL, 1, 8192, K, true, "clips: pixels; default: 480"},
    {"width", 'W', KIN_FLAG_INT, "N", NULL, 1, 8192, K, true,
     "clips: pixels; default: 832, CogVideoX 720"},
    {"caption-field", 0, KIN_FLAG_CHOICE, "captions|captions+phys_law", "captions+phys_law", 0, 0,
     K, true, "clips: what of a record is the prompt"},
    {"caption-prefix", 0, KIN_FLAG_TEXT, "TEXT", NULL, 0, 0, K, true,
     "clips: before every caption (WISA: \"PIKA_CRUSH \")"},
    {"filter", 0, KIN_FLAG_CHOICE, "none|wisa|wisa-online", "none", 0, 0, K, true,
     "clips: leave out by duration (from 3 s), or also by width and boxes of text"},
    {"size", 0, KIN_FLAG_INT, "N", NULL, 1, 8192, K, true,
     "side of the pictures; default: the VAE's own"},
    {"part", 0, KIN_FLAG_TEXT, "NAME", NULL, 0, 0, K, true,
     "part of the class folders to train on; default: train, where there is one"},
    {"held-out", 0, KIN_FLAG_INT, "N", NULL, 1, 1000000, K, true,
     "images for validation; default: all of the part test, at most 2048"},
    {"shard", 0, KIN_FLAG_INT, "N", "256", 1, 65536, K, true, "images per file"},
    {"batch", 'b', KIN_FLAG_INT, "N", "8", 1, 65536, K, true, "images per forward pass"},
    {"output", 'o', KIN_FLAG_TEXT, "FILE", NULL, 0, 0, E, false,
     "also keep the generated clips, e.g. clips/%03d.mp4; suite routing: draw its maps into this PNG"},
    {"output", 'o', KIN_FLAG_TEXT, "FILE", NULL, 0, 0, BENCH, false, "write the report as JSON"},
    {"output", 'o', KIN_FLAG_TEXT, "FILE", NULL, 0, 0, BC, false,
     "table to write; default: where kinema looks for it (KINEMA_CALIBRATION, ~/.cache/kinema)"},
    {"calibrate", 0, KIN_FLAG_BOOL, NULL, NULL, 0, 0, BC, false,
     "time own products against oneDNN's and write the table by which they are chosen"},
    {"json", 0, KIN_FLAG_BOOL, NULL, NULL, 0, 0, BENCH, false,
     "print the report as one JSON object"},
    {"output", 'o', KIN_FLAG_TEXT, "FILE", NULL, 0, 0, I, false,
     "draw the routing maps into this PNG"},
    {"output", 'o', KIN_FLAG_TEXT, "FILE", "plot.png", 0, 0, P, false, "x.png or x.svg"},
    {"width", 'W', KIN_FLAG_INT, "N", "1000", 400, 8000, P, false, "pixels"},
    {"suite", 0, KIN_FLAG_CHOICE, "physics|loss|routing|fd", "physics", 0, 0, E, true,
     "physics: clips judged by a tracker; loss: validation loss with fixed noise; routing: loads of the "
     "experts, strength of their choice, likeness of prototypes; fd: Frechet distance"},
    {"reference", 0, KIN_FLAG_TEXT, "PATH", NULL, 0, 0, E, false,
     "fd: real pictures (folder, tar or .npz; needs -m CLASSIFIER) or their features [N,D]"},
    {"part", 0, KIN_FLAG_TEXT, "NAME", NULL, 0, 0, E, true,
     "fd: part of the class folders of --reference, e.g. test; default: all of it"},
    {"nearest", 0, KIN_FLAG_INT, "K", "3", 1, 64, E, true,
     "fd: neighbour whose distance is the radius in precision and recall"},
    {"json", 0, KIN_FLAG_BOOL, NULL, NULL, 0, 0, E, false,
     "suite routing: print one JSON object in place of the table"},
    {"check", 0, KIN_FLAG_TEXT, "FILE", NULL, 0, 0, I, false,
     "read this file to its end and say what it holds"},
    {"cpu", 0, KIN_FLAG_BOOL, NULL, NULL, 0, 0, I, false,
     "show instruction sets, kernels and the precision policy"},
    /* how large, how many */
    {"width", 'W', KIN_FLAG_INT, "N", NULL, 1, 16384, G, true, "pixels; default: the model's own"},
    {"height", 'H', KIN_FLAG_INT, "N", NULL, 1, 16384, G, true, "pixels; default: the model's own"},
    {"frames", 0, KIN_FLAG_INT, "N", NULL, 1, 100000, G, true, "frames; default: the model's own"},
    {"fps", 0, KIN_FLAG_REAL, "X", NULL, 0.01, 1000, G, true,
     "frames per second; default: the model's own"},
    {"width", 'W', KIN_FLAG_INT, "N", NULL, 1, 16384, BM | BT | BS, false,
     "of the model's input; default: the model's own"},
    {"height", 'H', KIN_FLAG_INT, "N", NULL, 1, 16384, BM | BT | BS, false,
     "of the model's input; default: the model's own"},
    {"frames", 0, KIN_FLAG_INT, "N", NULL, 1, 100000, BM | BT | BS, false,
     "of the model's input; default: the model's own"},
    {"width", 'W', KIN_FLAG_INT, "N", "32", 16, 2048, S, true, "pixels"},
    {"height", 'H', KIN_FLAG_INT, "N", "32", 16, 2048, S, true, "pixels"},
    {"frames", 0, KIN_FLAG_INT, "N", "16", 2, 1024, S, true, "frames per clip"},
    {"fps", 0, KIN_FLAG_REAL, "X", "8", 0.01, 1000, S, true, "frames per second"},
    {"fps-jitter", 0, KIN_FLAG_REAL, "X", "0", 0, 0.3, S, true,
     "share by which the rate of each clip varies"},
    {"short-captions", 0, KIN_FLAG_REAL, "X", "0", 0, 1, S, true,
     "share of captions that leave what happens to the physical prior"},
    {"kinds", 0, KIN_FLAG_TEXT, "LIST", NULL, 0, 0, S | E, true,
     "kinds of clip, e.g. drop,bounce:2 or \"elastic motion\"; default: all"},
    {"count", 0, KIN_FLAG_INT, "N", "1", 1, 100000000, G, true, "clips or images to make"},
    {"count", 0, KIN_FLAG_INT, "N", "2000", 1, 100000000, S, true, "clips to make"},
    {"count", 0, KIN_FLAG_INT, "N", "100", 1, 1000000, E, true, "held-out prompts or clips"},
    {"batch", 'b', KIN_FLAG_INT, "N", "1", 1, 65536, G, true,
     "clips per forward pass; never changes the result"},
    {"batch", 'b', KIN_FLAG_INT, "N", "4", 1, 65536, E, true, "clips per forward pass"},
    {"batch", 'b', KIN_FLAG_INT, "N", "1", 1, 65536, BS, false,
     "samples per pass, where it is not what varies"},
    {"batch", 'b', KIN_FLAG_INT, "N", "8", 1, 65536, BM | BT, false,
     "samples per pass (a training configuration brings its own)"},
    {"guided", 0, KIN_FLAG_BOOL, NULL, NULL, 0, 0, BM, false,
     "the second half of the batch without its condition, as guidance runs it"},
    {"rounds", 0, KIN_FLAG_INT, "N", "5", 1, 1000, BENCH | BC, false, "timed rounds; the best counts"},
    {"cpu-time", 0, KIN_FLAG_BOOL, NULL, NULL, 0, 0, BENCH, false,
     "one thread's own CPU time, for machines that do other work"},
    {"steps", 0, KIN_FLAG_INT, "N", NULL, 1, 1000, BT, false,
     "timed steps (the same as --rounds)"},
    /* sampling */
    {"steps", 0, KIN_FLAG_INT, "N", "25", 1, 100000, G | E, true,
     "solver steps; Wan and CogVideoX: 50 where none are given"},
    {"steps", 0, KIN_FLAG_INT, "N", "8", 1, 1000, I, true, "solver steps of the routing maps"},
    {"steps", 0, KIN_FLAG_INT, "N", NULL, 1, BIG, T, false,
     "training steps in place of the configuration's"},
    {"sampling-method", 0, KIN_FLAG_TEXT, "NAME", NULL, 0, 0, G | E, true,
     "solver: euler, euler_a, heun, dpm++2m, unipc, ddim, ddpm; default: the model's scheduler"},
    {"timestep-spacing", 0, KIN_FLAG_TEXT, "NAME", NULL, 0, 0, G | E, true,
     "linspace, leading, trailing; or the kept steps of ddpm and ddim: 250, 3,2,4, ddim50"},
    {"eta", 0, KIN_FLAG_REAL, "X", "0", 0, 1, G | E, true, "noise of ddim; 1 is that of ddpm"},
    {"flow-shift", 0, KIN_FLAG_REAL, "X", NULL, 0.001, 1000, G | E, true,
     "time shift; default: the model's scheduler"},
    {"cfg-scale", 0, KIN_FLAG_REAL, "X", NULL, 0, 1000, G | E, true,
     "guidance; 1 switches it off; default: the model's own, else 3"},
    {"cfg-interval", 0, KIN_FLAG_TEXT, "LO,HI", NULL, 0, 0, G | E, true,
     "guide at these model times alone (1000 noise, 0 clean; 1000 sigma of a flow)"},
    {"cfg-rescale", 0, KIN_FLAG_REAL, "X", "0", 0, 1, G | E, true,
     "share by which guidance keeps the contrast of the conditional branch"},
    {"dynamic-cfg", 0, KIN_FLAG_CHOICE, "auto|on|off", "auto", 0, 0, G | E, true,
     "CogVideoX: guidance that follows the time; auto: with WISA's physics or the DPM solver"},
    {"max-sequence-length", 0, KIN_FLAG_INT, "N", NULL, 2, 65536, G, true,
     "tokens of a prompt; default: the model's own"},
    {"noise", 0, KIN_FLAG_TEXT, "FILE[:NAME]", NULL, 0, 0, G, true,
     "start from this tensor of a .safetensors [N,C,f,h,w] (default: latents), not from --seed"},
    {"cfg-channels", 0, KIN_FLAG_INT, "N", "0", 0, 4096, G, true,
     "class-conditional models: guide the first N channels alone (3: as DiT's DDPM sampler); 0: all"},
    {"phys-cfg", 0, KIN_FLAG_REAL, "X", "0", 0, 1000, G | E, true,
     "guidance on the physics alone (with --cfg-mode multi)"},
    {"cfg-mode", 0, KIN_FLAG_CHOICE, "plain|multi", "plain", 0, 0, G | E, true,
     "one guidance, or text and physics apart"},
    {"seed", 0, KIN_FLAG_INT, "N", "0", 0, BIG, G | S | E | I, true, "seed of all noise and draws"},
    {"shuffle-captions", 0, KIN_FLAG_BOOL, NULL, NULL, 0, 0, E, true,
     "loss: give every clip the caption of another"},
    {"shuffle-priors", 0, KIN_FLAG_BOOL, NULL, NULL, 0, 0, E, true,
     "loss: give every clip the physical prior of another"},
    {"shuffle-quantities", 0, KIN_FLAG_BOOL, NULL, NULL, 0, 0, E, true,
     "loss: give every clip the physical quantities of another"},
    {"drop-conditions", 0, KIN_FLAG_BOOL, NULL, NULL, 0, 0, E, true,
     "loss: no caption, prior or quantities: the classifier has the frames alone"},
    {"min-colour", 0, KIN_FLAG_REAL, "X", NULL, 0, 1, E, true,
     "physics: exit 6 if fewer clips show the asked colour"},
    {"min-intact", 0, KIN_FLAG_REAL, "X", NULL, 0, 1, E, true,
     "physics: exit 6 if fewer clips keep the object intact"},
    /* running */
    {"objective", 0, KIN_FLAG_CHOICE, "classify|vae", NULL, 0, 0, T, false,
     "classify: a small image classifier, whose features judge pictures; vae: an autoencoder"},
    {"resume", 0, KIN_FLAG_BOOL, NULL, NULL, 0, 0, T, false,
     "go on from the newest checkpoint in the folder; configuration and data are those of the run"},
    {"resume-from", 0, KIN_FLAG_TEXT, "FILE.pth", NULL, 0, 0, T, false,
     "start the run with the weights, averages and AdamW moments of an official checkpoint"},
    {"weights", 0, KIN_FLAG_CHOICE, "ema|model", "ema", 0, 0, V, false,
     "which weights of a .pth or a run"},
    {"with-optimizer", 0, KIN_FLAG_BOOL, NULL, NULL, 0, 0, V, false,
     "write a run folder with weights, averages and moments, from which `train --resume` goes on"},
    {"vae", 0, KIN_FLAG_TEXT, "DIR", NULL, 0, 0, V, false,
     "autoencoder of the latents (a vae folder, a model or a run), copied into the model"},
    {"max-shard-size", 0, KIN_FLAG_TEXT, "SIZE", NULL, 0, 0, V, false,
     "split weights into files of at most this, e.g. 2GB, 500MB, 1GiB"},
    {"strict", 0, KIN_FLAG_BOOL, NULL, NULL, 0, 0, C, false, "anything odd is an error (exit 3)"},
    {"threads", 't', KIN_FLAG_INT, "N", "0", 0, 1024, KIN_VERB_ALL, true,
     "threads; 0: all cores; never changes the result"},
    {"device", 0, KIN_FLAG_TEXT, "cpu|cuda[:N]|auto", "cpu", 0, 0, G | E | T | I | K | BM | BT, true,
     "where to compute; auto: a CUDA device that can be used, else the CPU; `inspect --device cuda` "
     "shows it"},
    {"offload", 0, KIN_FLAG_SIZE, "[MB|auto]", NULL, 1, 100000000, G | E | I, true,
     "with --device cuda: weights stay in host memory and come to so much of the device's when used; auto, or no "
     "value: half of what is free there"},
    {"diffmoe-infer", 0, KIN_FLAG_CHOICE, "token|batch", "token", 0, 0, G | E, true,
     "DiffMoE: an expert takes the tokens predicted above its threshold, or as many of the whole "
     "batch by router score, as the published code (the result then depends on --batch)"},
    {"dtype", 0, KIN_FLAG_CHOICE, "f32|bf16|int8|fp8", "f32", 0, 0, G | E | I, true,
     "precision of products and attention; `inspect --cpu` lists it; int8: the CPU's, fp8: CUDA's"},
    {"dtype", 0, KIN_FLAG_CHOICE, "f32|bf16|int8|all", "all", 0, 0, BO, false,
     "type of the products"},
    {"dtype", 0, KIN_FLAG_CHOICE, "f32|bf16|int8|fp8", "f32", 0, 0, BM, false,
     "type of the products"},
    {"dtype", 0, KIN_FLAG_CHOICE, "f32|bf16", "f32", 0, 0, BT | BS, false, "type of the products"},
    {"dtype", 0, KIN_FLAG_CHOICE, "f32|bf16|f16|int8", "bf16", 0, 0, V, true,
     "type of the matrices; all else stays f32; int8: in 8-bit blocks, with the error of each"},
    {"matmul-precision", 0, KIN_FLAG_CHOICE, "highest|high", "highest", 0, 0, G | E | T | I | K | BENCH | BC, true,
     "f32 products; high: as three bf16 products where the machine has AMX, in TF32 on a CUDA device"},
    {"dry-run", 0, KIN_FLAG_BOOL, NULL, NULL, 0, 0, G | T, false,
     "print the planned peak of memory and stop"},
    {"force", 0, KIN_FLAG_BOOL, NULL, NULL, 0, 0, G | T | S | V, false,
     "go on although memory looks short or the folder is there; generate: start over where another "
     "run's files are"},
    {"allow-flat", 0, KIN_FLAG_BOOL, NULL, NULL, 0, 0, G | E, true,
     "let flat or motionless frames pass"},
    {"vae-tiling", 0, KIN_FLAG_BOOL, NULL, NULL, 0, 0, G, true,
     "decode latents in overlapping tiles: less memory for large pictures"},
    {"vae-tile", 0, KIN_FLAG_INT, "N", "0", 0, 65536, G, true,
     "side of a tile in pixels (0: the size the VAE was trained for)"},
    {"progress", 0, KIN_FLAG_CHOICE, "auto|plain|json|none", "auto", 0, 0, KIN_VERB_ALL, true,
     "progress on standard error"},
    {"preview", 0, KIN_FLAG_CHOICE, "auto|kitty|sixel|blocks|none", "auto", 0, 0, G, false,
     "finished clips as pictures on standard error; auto: on terminals, as they can"},
    {"quiet", 'q', KIN_FLAG_BOOL, NULL, NULL, 0, 0, KIN_VERB_ALL, false,
     "nothing but data and errors"},
    {"help", 'h', KIN_FLAG_BOOL, NULL, NULL, 0, 0, KIN_VERB_ALL, false, "this text"},
    {NULL, 0, KIN_FLAG_BOOL, NULL, NULL, 0, 0, 0, false, NULL},
};
/* clang-format on */

#undef G
#undef T
#undef S
#undef C
#undef E
#undef K
#undef I
#undef V
#undef P
#undef BO
#undef BM
#undef BT
#undef BS
#undef BC
#undef BENCH

_Static_assert(sizeof kin_flags / sizeof kin_flags[0] <= KIN_ARGS_MAX, "more flags than values");

const char *kin_verb_text(const kin_verb_row *v, char buf[64])
{
    snprintf(buf, 64, "%s%s%s", v->name, v->second ? " " : "", v->second ? v->second : "");
    return buf;
}

int kin_flag_find(unsigned verb, const char *name)
{
    for (int i = 0; kin_flags[i].name; i++)
        if ((kin_flags[i].verbs & verb) && strcmp(kin_flags[i].name, name) == 0)
            return i;
    return -1;
}

int kin_flag_find_letter(unsigned verb, char letter)
{
    for (int i = 0; kin_flags[i].name; i++)
        if ((kin_flags[i].verbs & verb) && kin_flags[i].letter == letter)
            return i;
    return -1;
}

bool kin_flag_is_settings(const kin_flag *f)
{
    return f->help == settings_help;
}

const char *kin_flag_variable(const kin_flag *f, char buf[96])
{
    size_t n = (size_t)snprintf(buf, 96, "KINEMA_");
    for (const char *p = f->name; *p && n + 1 < 96; p++)
        buf[n++] = *p == '-' ? '_' : (char)toupper((unsigned char)*p);
    buf[n] = 0;
    return buf;
}

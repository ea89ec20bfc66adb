#include "cli/flags.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/text.h"

#define G KIN_VERB_GENERATE
#define T KIN_VERB_TRAIN
#define S KIN_VERB_SIMULATE
#define C KIN_VERB_CHECK
#define E KIN_VERB_EVALUATE
#define K KIN_VERB_CACHE
#define I KIN_VERB_INSPECT
#define V KIN_VERB_CONVERT
#define BO KIN_VERB_BENCH_OPS
#define BM KIN_VERB_BENCH_MODEL
#define BT KIN_VERB_BENCH_TRAIN
#define BS KIN_VERB_BENCH_SCALING
#define BC KIN_VERB_BENCH
#define BENCH (BO | BM | BT | BS)

static const kin_verb_row verb_rows[] = {
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
static const kin_flag flag_rows[] = {
    /* what */
    {"prompt", 'p', KIN_FLAG_TEXT, "TEXT", NULL, 0, 0, G | I, true,
     "the prompt (also as plain argument)"},
    {"negative-prompt", 'n', KIN_FLAG_TEXT, "TEXT", NULL, 0, 0, G, true,
     "text of the unconditional branch"},
    {"class", 0, KIN_FLAG_TEXT, "A-B,C", NULL, 0, 0, G, true,
     "classes (numbers, ranges, names) that images are drawn from evenly; default: all"},
    {"class-file", 0, KIN_FLAG_TEXT, "FILE", NULL, 0, 0, G, true,
     "the class of every image, one a line; makes so many images unless --count says else"},
    {"balanced", 0, KIN_FLAG_BOOL, NULL, NULL, 0, 0, G, true,
     "take the classes in turn, so that each is shown equally often"},
    {"physics", 0, KIN_FLAG_TEXT, "FILE|none", NULL, 0, 0, G | I, true,
     "annotation to give the model; default: rules over the prompt's words"},
    {"model", 'm', KIN_FLAG_TEXT, "DIR", NULL, 0, 0, G | E | I | V, true,
     "model directory or run folder; default: the bundled model"},
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
     "x.mp4, x.png (frames side by side) or out/%03d.png; x-%03d.mp4 for several clips"},
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
     "go on from the newest checkpoint in the folder"},
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
    {"diffmoe-infer", 0, KIN_FLAG_CHOICE, "token|batch", "token", 0, 0, G | E, true,
     "DiffMoE: an expert takes the tokens predicted above its threshold, or as many of the whole "
     "batch by router score, as the published code (the result then depends on --batch)"},
    {"dtype", 0, KIN_FLAG_CHOICE, "f32|bf16|int8", "f32", 0, 0, G | E | I, true,
     "precision of products and attention; `inspect --cpu` lists it"},
    {"dtype", 0, KIN_FLAG_CHOICE, "f32|bf16|int8|all", "all", 0, 0, BO, false,
     "type of the products"},
    {"dtype", 0, KIN_FLAG_CHOICE, "f32|bf16|int8", "f32", 0, 0, BM, false, "type of the products"},
    {"dtype", 0, KIN_FLAG_CHOICE, "f32|bf16", "f32", 0, 0, BT | BS, false, "type of the products"},
    {"dtype", 0, KIN_FLAG_CHOICE, "f32|bf16|f16|int8", "bf16", 0, 0, V, true,
     "type of the matrices; all else stays f32; int8: in 8-bit blocks, with the error of each"},
    {"matmul-precision", 0, KIN_FLAG_CHOICE, "highest|high", "highest", 0, 0, G | E | T | I | K | BENCH | BC, true,
     "f32 products; high: as three bf16 products where the machine has AMX"},
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
    {"quiet", 'q', KIN_FLAG_BOOL, NULL, NULL, 0, 0, KIN_VERB_ALL, false,
     "no progress and no notes"},
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
#undef BO
#undef BM
#undef BT
#undef BS
#undef BC
#undef BENCH

_Static_assert(sizeof flag_rows / sizeof flag_rows[0] <= KIN_ARGS_MAX, "more flags than values");

const kin_flag *kin_flag_table(void)
{
    return flag_rows;
}

const kin_verb_row *kin_verb_table(void)
{
    return verb_rows;
}

/* ---- one value ---- */

static const char *verb_text(const kin_verb_row *v, char buf[64])
{
    snprintf(buf, 64, "%s%s%s", v->name, v->second ? " " : "", v->second ? v->second : "");
    return buf;
}

static bool choice_has(const char *choices, const char *word)
{
    size_t n = strlen(word);
    for (const char *p = choices; *p; p += strcspn(p, "|"), p += *p == '|')
        if (strcspn(p, "|") == n && strncmp(p, word, n) == 0)
            return true;
    return false;
}

/* Checks text against the row's rule. `what` is how the user named it ("--steps", "KINEMA_STEPS",
 * ...). */
static kin_status value_parse(const kin_flag *f, const char *what, const char *text, kin_value *v,
                              kin_error *err)
{
    char *end = NULL;
    if (f->type == KIN_FLAG_BOOL) {
        if (strcmp(text, "true") && strcmp(text, "false"))
            return kin_fail(err, KIN_ERR_ARG, "%s: '%s' must be true or false", what, text);
        v->flag = text[0] == 't';
    } else if (f->type == KIN_FLAG_INT) {
        errno = 0;
        long long n = strtoll(text, &end, 10);
        if (end == text || *end || isspace((unsigned char)text[0]))
            return kin_fail(err, KIN_ERR_ARG, "%s: '%s' must be a whole number", what, text);
        if (errno || (double)n < f->lo || (double)n > f->hi)
            return kin_fail(err, KIN_ERR_ARG, "%s: %s must be between %.0f and %.0f", what, text,
                            f->lo, f->hi);
        v->integer = n;
        v->real = (double)n;
    } else if (f->type == KIN_FLAG_REAL) {
        double x = strtod(text, &end);
        if (end == text || *end || isspace((unsigned char)text[0]) || !isfinite(x))
            return kin_fail(err, KIN_ERR_ARG, "%s: '%s' must be a number", what, text);
        if (x < f->lo || x > f->hi)
            return kin_fail(err, KIN_ERR_ARG, "%s: %s must be between %g and %g", what, text, f->lo,
                            f->hi);
        v->real = x;
    } else if (f->type == KIN_FLAG_CHOICE && !choice_has(f->metavar, text)) {
        return kin_fail(err, KIN_ERR_ARG, "%s: '%s' must be one of %s", what, text, f->metavar);
    }
    return KIN_OK;
}

static kin_status value_set(kin_args *a, int row, kin_source source, const char *what,
                            const char *text, kin_error *err)
{
    kin_value v = {.source = source};
    KIN_TRY(value_parse(&flag_rows[row], what, text, &v, err));
    v.text = kin_strdup(text);
    if (!v.text)
        return kin_fail(err, KIN_ERR_MEM, "%s: out of memory", what);
    kin_free(a->value[row].text);
    a->value[row] = v;
    return KIN_OK;
}

/* ---- finding verbs and flags ---- */

static int row_find(unsigned verb, const char *name)
{
    for (int i = 0; flag_rows[i].name; i++)
        if ((flag_rows[i].verbs & verb) && strcmp(flag_rows[i].name, name) == 0)
            return i;
    return -1;
}

static int row_find_letter(unsigned verb, char letter)
{
    for (int i = 0; flag_rows[i].name; i++)
        if ((flag_rows[i].verbs & verb) && flag_rows[i].letter == letter)
            return i;
    return -1;
}

/* The names of the verb's flags (settings alone when asked), NULL-terminated. */
static void names_of(unsigned verb, bool settings, const char *names[KIN_ARGS_MAX + 1])
{
    int n = 0;
    for (int i = 0; flag_rows[i].name; i++)
        if ((flag_rows[i].verbs & verb) && (!settings || flag_rows[i].setting))
            names[n++] = flag_rows[i].name;
    names[n] = NULL;
}

static kin_status unknown_flag(const kin_verb_row *verb, const char *given, kin_error *err)
{
    const char *names[KIN_ARGS_MAX + 1];
    char name[128], buf[64];
    names_of(verb->verb, false, names);
    snprintf(name, sizeof name, "%.*s", (int)strcspn(given + strspn(given, "-"), "="),
             given + strspn(given, "-"));
    const char *near = kin_nearest_name(name, names);
    if (near)
        return kin_fail(err, KIN_ERR_ARG, "%s: unknown flag '%s'; did you mean --%s?",
                        verb_text(verb, buf), given, near);
    return kin_fail(err, KIN_ERR_ARG, "%s: unknown flag '%s'; see 'kinema %s --help'",
                    verb_text(verb, buf), given, buf);
}

static kin_status unknown_verb(const char *first, const char *second, kin_error *err)
{
    const char *names[16];
    int n = 0;
    for (const kin_verb_row *r = verb_rows; r->name; r++) {
        const char *name = second ? r->second : r->name;
        if (!name || (second && strcmp(r->name, first)))
            continue;
        bool known = false;
        for (int i = 0; i < n; i++)
            known = known || strcmp(names[i], name) == 0;
        if (!known)
            names[n++] = name;
    }
    names[n] = NULL;
    const char *given = second ? second : first, *near = kin_nearest_name(given, names);
    const char *before = second ? first : "", *gap = second ? " " : "";
    if (near)
        return kin_fail(err, KIN_ERR_ARG, "kinema: unknown verb '%s%s%s'; did you mean '%s%s%s'?",
                        before, gap, given, before, gap, near);
    return kin_fail(err, KIN_ERR_ARG, "kinema: unknown verb '%s%s%s'; see 'kinema --help'", before,
                    gap, given);
}

/* Finds the verb in argv; *used counts the words it took. A two-word verb without its second word
 * leaves out->verb NULL with help set. */
static kin_status verb_find(int argc, char *const *argv, kin_args *out, int *used, kin_error *err)
{
    *used = 1;
    if (argc < 2)
        return kin_fail(err, KIN_ERR_ARG, "kinema: no verb given; see 'kinema --help'");
    const char *first = argv[1];
    if (!strcmp(first, "--help") || !strcmp(first, "-h") || !strcmp(first, "help")) {
        out->help = true;
        return KIN_OK;
    }
    if (!strcmp(first, "--version")) {
        out->version = true;
        return KIN_OK;
    }
    for (const kin_verb_row *r = verb_rows; r->name; r++) {
        if (strcmp(r->name, first))
            continue;
        const bool first_row = r == verb_rows || strcmp(r[-1].name, first) != 0;
        if (!r->second && (first_row || (argc > 2 && argv[2][0] == '-'))) {
            *used = 2;
            out->verb = r;
            return KIN_OK;
        }
        if (argc > 2 && (!strcmp(argv[2], "--help") || !strcmp(argv[2], "-h"))) {
            out->help = true;
            return KIN_OK;
        }
        if (argc < 3)
            return kin_fail(err, KIN_ERR_ARG,
                            "kinema: '%s' needs a second word; see 'kinema --help'", first);
        if (r->second && !strcmp(r->second, argv[2])) {
            *used = 3;
            out->verb = r;
            return KIN_OK;
        }
        if (!r[1].name || strcmp(r[1].name, first))
            return unknown_verb(first, argv[2], err);
    }
    return unknown_verb(first, NULL, err);
}

/* ---- flags, environment, file, defaults ---- */

static kin_status parse_flag(int argc, char *const *argv, int *at, kin_args *out, kin_error *err)
{
    const char *word = argv[*at];
    char buf[64], name[128], what[160];
    unsigned verb = out->verb->verb;
    int row = -1;
    const char *inline_value = NULL;
    if (word[1] == '-') {
        inline_value = strchr(word, '=');
        size_t n = inline_value ? (size_t)(inline_value - word) - 2 : strlen(word) - 2;
        if (n < sizeof name) {
            snprintf(name, sizeof name, "%.*s", (int)n, word + 2);
            row = row_find(verb, name);
        }
        inline_value = inline_value ? inline_value + 1 : NULL;
    } else if (!word[2]) {
        row = row_find_letter(verb, word[1]);
    }
    if (row < 0)
        return unknown_flag(out->verb, word, err);
    const kin_flag *f = &flag_rows[row];
    if (!strcmp(f->name, "help")) {
        out->help = true;
        return KIN_OK;
    }
    snprintf(what, sizeof what, "%s: --%s", verb_text(out->verb, buf), f->name);
    if (out->value[row].source == KIN_SOURCE_FLAG)
        return kin_fail(err, KIN_ERR_ARG, "%s is given twice", what);
    if (!inline_value && f->type == KIN_FLAG_BOOL)
        inline_value = "true";
    if (!inline_value) {
        if (*at + 1 >= argc)
            return kin_fail(err, KIN_ERR_ARG, "%s needs a value (%s)", what, f->metavar);
        inline_value = argv[++*at];
    }
    return value_set(out, row, KIN_SOURCE_FLAG, what, inline_value, err);
}

static kin_status read_environment(kin_args *out, kin_error *err)
{
    for (int i = 0; flag_rows[i].name; i++) {
        const kin_flag *f = &flag_rows[i];
        if (!(f->verbs & out->verb->verb) || !f->setting || out->value[i].source == KIN_SOURCE_FLAG)
            continue;
        char name[96] = "KINEMA_";
        size_t n = strlen(name);
        for (const char *p = f->name; *p && n + 1 < sizeof name; p++)
            name[n++] = *p == '-' ? '_' : (char)toupper((unsigned char)*p);
        name[n] = 0;
        const char *text = getenv(name);
        if (text && *text)
            KIN_TRY(value_set(out, i, KIN_SOURCE_ENV, name, text, err));
    }
    return KIN_OK;
}

static kin_status file_value(kin_args *out, int row, const char *what, const cJSON *item,
                             kin_error *err)
{
    char number[64];
    const kin_flag *f = &flag_rows[row];
    const char *text = NULL;
    if (f->type == KIN_FLAG_BOOL && cJSON_IsBool(item)) {
        text = cJSON_IsTrue(item) ? "true" : "false";
    } else if ((f->type == KIN_FLAG_INT || f->type == KIN_FLAG_REAL) && cJSON_IsNumber(item)) {
        snprintf(number, sizeof number,
                 f->type == KIN_FLAG_INT && item->valuedouble == floor(item->valuedouble) ? "%.0f"
                                                                                          : "%.17g",
                 item->valuedouble);
        text = number;
    } else if ((f->type == KIN_FLAG_TEXT || f->type == KIN_FLAG_CHOICE) && cJSON_IsString(item)) {
        text = item->valuestring;
    }
    if (!text)
        return kin_fail(err, KIN_ERR_FORMAT, "%s has the wrong type", what);
    kin_status status = value_set(out, row, KIN_SOURCE_FILE, what, text, err);
    return status == KIN_ERR_ARG ? err->status = KIN_ERR_FORMAT, KIN_ERR_FORMAT : status;
}

static kin_status read_file(kin_args *out, const char *path, kin_error *err)
{
    const char *names[KIN_ARGS_MAX + 1];
    cJSON *json = NULL;
    kin_status status = KIN_OK;
    status = kin_json_read(path, 1 << 20, KIN_JSON_STRICT, &json, err);
    if (status != KIN_OK) {
        /* settings that cannot be read are a bad input file too */
        err->status = status == KIN_ERR_IO ? KIN_ERR_FORMAT : status;
        return err->status;
    }
    if (!cJSON_IsObject(json))
        KIN_GOTO(kin_fail(err, KIN_ERR_FORMAT, "settings %s: must be an object", path));
    names_of(out->verb->verb, true, names);
    for (const cJSON *item = json->child; item; item = item->next) {
        char what[512];
        snprintf(what, sizeof what, "settings %s: '%s'", path, item->string);
        /* note: "kinema" is the part that a saved settings file adds (version, hash of the model)
         */
        if (!strcmp(item->string, "kinema"))
            continue;
        int row = row_find(out->verb->verb, item->string);
        if (row < 0 || !flag_rows[row].setting) {
            const char *near = kin_nearest_name(item->string, names);
            KIN_GOTO(kin_fail(err, KIN_ERR_FORMAT, "%s is no known key%s%s%s", what,
                              near ? "; did you mean '" : "", near ? near : "", near ? "'?" : ""));
        }
        if (out->value[row].source < KIN_SOURCE_FILE)
            KIN_GOTO(file_value(out, row, what, item, err));
    }
done:
    cJSON_Delete(json);
    return status;
}

static kin_status plain_argument(kin_args *out, const char *word, bool *taken, kin_error *err)
{
    char buf[64], what[160];
    const kin_verb_row *verb = out->verb;
    if (!verb->positional || *taken)
        return kin_fail(err, KIN_ERR_ARG, "%s: '%s' is one argument too many", verb_text(verb, buf),
                        word);
    *taken = true;
    if (!verb->stands_for) {
        out->positional = word;
        return KIN_OK;
    }
    int row = row_find(verb->verb, verb->stands_for);
    snprintf(what, sizeof what, "%s: %s", verb_text(verb, buf), verb->stands_for);
    if (out->value[row].source == KIN_SOURCE_FLAG)
        return kin_fail(err, KIN_ERR_ARG, "%s is given twice", what);
    return value_set(out, row, KIN_SOURCE_FLAG, what, word, err);
}

kin_status kin_args_parse(int argc, char *const *argv, kin_args *out, kin_error *err)
{
    int used = 1;
    bool flags_end = false, plain = false;
    KIN_TRY(verb_find(argc, argv, out, &used, err));
    if (!out->verb)
        return KIN_OK;
    for (int i = used; i < argc; i++) {
        const char *word = argv[i];
        if (!flags_end && !strcmp(word, "--")) {
            flags_end = true;
        } else if (!flags_end && word[0] == '-' && word[1]) {
            KIN_TRY(parse_flag(argc, argv, &i, out, err));
            if (out->help)
                return KIN_OK;
        } else {
            KIN_TRY(plain_argument(out, word, &plain, err));
        }
    }
    KIN_TRY(read_environment(out, err));
    int row = row_find(out->verb->verb, "config");
    if (row >= 0 && flag_rows[row].help == settings_help && out->value[row].text)
        KIN_TRY(read_file(out, out->value[row].text, err));
    for (int i = 0; flag_rows[i].name; i++)
        if ((flag_rows[i].verbs & out->verb->verb) && flag_rows[i].standard &&
            !out->value[i].source)
            KIN_TRY(value_set(out, i, KIN_SOURCE_DEFAULT, flag_rows[i].name, flag_rows[i].standard,
                              err));
    return KIN_OK;
}

void kin_args_free(kin_args *a)
{
    for (int i = 0; i < KIN_ARGS_MAX; i++)
        kin_free(a->value[i].text);
    memset(a, 0, sizeof *a);
}

/* ---- reading values ---- */

static const kin_value *value_of(const kin_args *a, const char *name)
{
    int row = row_find(a->verb->verb, name);
    assert(row >= 0);
    return &a->value[row];
}

const char *kin_args_text(const kin_args *a, const char *name)
{
    return value_of(a, name)->text;
}

int64_t kin_args_int(const kin_args *a, const char *name)
{
    return value_of(a, name)->integer;
}

double kin_args_real(const kin_args *a, const char *name)
{
    return value_of(a, name)->real;
}

bool kin_args_bool(const kin_args *a, const char *name)
{
    return value_of(a, name)->flag;
}

kin_source kin_args_source(const kin_args *a, const char *name)
{
    return value_of(a, name)->source;
}

kin_status kin_args_settings(const kin_args *a, cJSON **out, kin_error *err)
{
    cJSON *json = cJSON_CreateObject();
    bool ok = json != NULL;
    for (int i = 0; ok && flag_rows[i].name; i++) {
        const kin_flag *f = &flag_rows[i];
        const kin_value *v = &a->value[i];
        if (!(f->verbs & a->verb->verb) || !f->setting || !v->source)
            continue;
        if (f->type == KIN_FLAG_BOOL)
            ok = cJSON_AddBoolToObject(json, f->name, v->flag);
        else if (f->type == KIN_FLAG_INT || f->type == KIN_FLAG_REAL)
            ok = cJSON_AddNumberToObject(json, f->name, v->real);
        else
            ok = cJSON_AddStringToObject(json, f->name, v->text);
    }
    if (!ok) {
        cJSON_Delete(json);
        return kin_fail(err, KIN_ERR_MEM, "settings: out of memory");
    }
    *out = json;
    return KIN_OK;
}

/* ---- help ---- */

static void help_flag(const kin_flag *f, FILE *to)
{
    char left[96];
    int n = f->letter ? snprintf(left, sizeof left, "  -%c, --%s", f->letter, f->name)
                      : snprintf(left, sizeof left, "      --%s", f->name);
    if (f->metavar && n > 0 && (size_t)n < sizeof left)
        snprintf(left + n, sizeof left - (size_t)n, " %s", f->metavar);
    if (strlen(left) > 32)
        fprintf(to, "%s\n%33s", left, "");
    else
        fprintf(to, "%-33s", left);
    fprintf(to, " %s", f->help);
    if (f->standard)
        fprintf(to, " (default %s)", f->standard);
    fputc('\n', to);
}

void kin_args_help(const kin_verb_row *verb, FILE *to)
{
    char buf[64];
    if (!verb) {
        fputs("kinema: physics-aware image and video generation, and training of the models that "
              "do it\n\n"
              "usage: kinema VERB [FLAGS]\n\n",
              to);
        for (const kin_verb_row *r = verb_rows; r->name; r++)
            fprintf(to, "  %-18s %s\n", verb_text(r, buf), r->summary);
        fputs("\n'kinema VERB --help' lists the flags of a verb; 'kinema --version' prints the "
              "version.\n",
              to);
        return;
    }
    fprintf(to, "kinema %s: %s\n\nusage: kinema %s", verb_text(verb, buf), verb->summary, buf);
    fprintf(to, "%s%s [FLAGS]\n\n", verb->positional ? " " : "",
            verb->positional ? verb->positional : "");
    for (const kin_flag *f = flag_rows; f->name; f++)
        if (f->verbs & verb->verb)
            help_flag(f, to);
    fputs("\nEvery setting can also come from the environment (KINEMA_ and the name, e.g. "
          "KINEMA_STEPS=50).\n"
          "Exit codes: 0 ok, 1 failed, 2 usage, 3 bad input file, 4 out of memory, 5 numeric "
          "failure,\n"
          "6 a threshold was missed, 130 and 143 interrupted.\n",
          to);
}

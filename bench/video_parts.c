/* bench/video_parts.c: times one part of a video model directory as `kinema generate` runs it, for
 * bench/video.py:
 *   video_parts DIR step|decode|text DTYPE THREADS ROUNDS FRAMES HEIGHT WIDTH
 * step: the transformer once, keys and values of the text made before; decode: latents to frames;
 * text: 512 tokens through the streamed text encoder. Prints one JSON object: seconds of wall and
 * CPU time of each round (one before is left out), peak of memory. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "diffusion/decode.h"
#include "diffusion/pipeline_parts.h"
#include "tensor/kernels.h"

enum { TEXT_TOKENS = 512, MAX_ROUNDS = 64 };

typedef struct part {
    kin_ctx *ctx;
    kin_pipeline *p;
    kin_tensor x, t, text, ids, mask, z;
    kin_text_cache cache;
} part;

typedef kin_status (*work)(part *);

static double clock_s(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static kin_status noise(kin_ctx *ctx, int ndim, const int64_t *size, uint64_t seed, kin_tensor *t)
{
    const kin_rng rng = {.seed = seed, .purpose = KIN_RNG_TEST};
    KIN_TRY(kin_ws_tensor(ctx, KIN_DTYPE_F32, ndim, size, t));
    return ctx->k->randn(ctx, &rng, 0, t);
}
#define NOISE(ctx, seed, t, ...) noise((ctx), KIN_DIMS(__VA_ARGS__), (seed), (t))

static kin_status step(part *a)
{
    const kin_model_input in = {.x = &a->x, .t = &a->t, .text = &a->text, .cache = &a->cache};
    kin_model_output out;
    return kin_model_forward(a->ctx, a->p->model, &in, &out);
}

static kin_status decode(part *a)
{
    const kin_decode_options opt = {.allow_flat = true};
    kin_tensor frames;
    return kin_decode_clip(a->ctx, a->p->vae, &opt, &a->z, &frames);
}

static kin_status text(part *a)
{
    kin_tensor states;
    return kin_pipeline_encode_ids(a->p, &a->ids, &a->mask, &states);
}

/* Inputs of the part named, made before the clock runs. */
static kin_status prepare(part *a, const char *what, const int64_t pixels[3], work *out)
{
    const kin_model_info *info = kin_model_get_info(a->p->model);
    kin_ctx *ctx = a->ctx;
    int64_t s[3];
    KIN_TRY(kin_pipeline_latent_size(a->p, pixels, s, &ctx->error));
    if (strcmp(what, "text") == 0) {
        *out = text;
        KIN_TRY(KIN_WS(ctx, &a->ids, KIN_DTYPE_I32, 1, TEXT_TOKENS));
        KIN_TRY(KIN_WS(ctx, &a->mask, KIN_DTYPE_U8, 1, TEXT_TOKENS));
        for (int i = 0; i < TEXT_TOKENS; i++) {
            ((int32_t *)a->ids.data)[i] = 3 + i * 7 % 250;
            ((uint8_t *)a->mask.data)[i] = 1;
        }
        kin_text_encoder_set_streaming(a->p->text, true);
        return KIN_OK;
    }
    if (strcmp(what, "decode") == 0) {
        *out = decode;
        return NOISE(ctx, 2, &a->z, 1, info->in_channels, s[0], s[1], s[2]);
    }
    *out = step;
    KIN_TRY(NOISE(ctx, 1, &a->x, 1, info->in_channels, s[0], s[1], s[2]));
    KIN_TRY(NOISE(ctx, 3, &a->text, 1, kin_pipeline_text_len(a->p), info->text_dim));
    KIN_TRY(KIN_WS(ctx, &a->t, KIN_DTYPE_F32, 1));
    *(float *)a->t.data = 500.0f;
    return kin_model_cache_text(ctx, a->p->model, &a->text, &a->cache);
}

static kin_status run(part *a, char **argv)
{
    const int rounds = atoi(argv[5]) < MAX_ROUNDS ? atoi(argv[5]) : MAX_ROUNDS;
    const int64_t pixels[3] = {atoi(argv[6]), atoi(argv[7]), atoi(argv[8])};
    double wall[MAX_ROUNDS + 1], cpu[MAX_ROUNDS + 1];
    struct rusage usage;
    work fn;
    KIN_TRY(kin_pipeline_load(a->ctx, argv[1], &a->p));
    KIN_TRY(prepare(a, argv[2], pixels, &fn));
    for (int i = 0; i <= rounds; i++) {
        const size_t mark = kin_ws_mark(a->ctx);
        const double w = clock_s(CLOCK_MONOTONIC), c = clock_s(CLOCK_PROCESS_CPUTIME_ID);
        KIN_TRY(fn(a));
        wall[i] = clock_s(CLOCK_MONOTONIC) - w;
        cpu[i] = clock_s(CLOCK_PROCESS_CPUTIME_ID) - c;
        kin_ws_release(a->ctx, mark);
    }
    getrusage(RUSAGE_SELF, &usage);
    printf(
        "{\"work\": \"%s\", \"dtype\": \"%s\", \"threads\": %d, \"isa\": \"%s\", \"peak_rss\": %ld",
        argv[2], argv[3], a->ctx->threads, kin_isa_name(a->ctx->isa), usage.ru_maxrss * 1024);
    for (int k = 0; k < 2; k++) {
        printf(", \"%s\": [", k ? "cpu" : "seconds");
        for (int i = 1; i <= rounds; i++)
            printf("%s%.6f", i > 1 ? ", " : "", (k ? cpu : wall)[i]);
        printf("]");
    }
    printf("}\n");
    return KIN_OK;
}

int main(int argc, char **argv)
{
    part a = {0};
    kin_error err = {0};
    kin_ctx_options o = {.backend = KIN_BACKEND_CPU};
    if (argc != 9) {
        fprintf(stderr,
                "usage: video_parts DIR step|decode|text f32|bf16|int8 THREADS ROUNDS FRAMES "
                "HEIGHT WIDTH\n");
        return 2;
    }
    o.threads = atoi(argv[4]);
    o.compute = strcmp(argv[3], "bf16") == 0   ? KIN_DTYPE_BF16
                : strcmp(argv[3], "int8") == 0 ? KIN_DTYPE_I8
                                               : KIN_DTYPE_F32;
    kin_status status = kin_ctx_create(&o, &a.ctx, &err);
    if (status == KIN_OK && (status = run(&a, argv)) != KIN_OK)
        err = a.ctx->error;
    if (status != KIN_OK)
        fprintf(stderr, "video_parts: %s\n", err.text);
    kin_pipeline_destroy(&a.p);
    kin_ctx_destroy(&a.ctx);
    return status == KIN_OK ? 0 : 1;
}

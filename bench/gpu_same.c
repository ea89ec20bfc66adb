/* bench/gpu_same.c: gpu_same TRAIN.json [--small]: samples from a random ProMoE network on a CUDA
 * device three ways: launched step by step, from recordings (CUDA graphs), with half of its weights
 * on the device; then does training steps of TRAIN.json, which names no compute type, launched and
 * from recordings. The results must have the same bits. JSON on standard output. Exit status: 0, 1
 * (a failure, bits that differ, or recordings that were not played), 77 (no device). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/json.h"
#include "diffusion/guided.h"
#include "tensor/device.h"
#include "tensor/kernels.h"
#include "training/bench.h"

enum { EXIT_SKIPPED = 77, STEPS = 8, BATCH = 2 };

#define MOE                                                                               \
    "\"MoE_config\":{\"num_routed_experts\":%d,\"top_k\":1,\"moe_intermediate_size\":%d," \
    "\"shared_expert_intermediate_size\":%d}"

typedef struct way {
    const char *name, *graphs; /* value of KINEMA_CUDA_GRAPHS */
    bool offload;
} way;
static const way ways[] = {
    {"launches", "0", false}, {"recordings", "1", false}, {"offload", "1", true}};
enum { WAYS = sizeof ways / sizeof *ways };

typedef struct sampling {
    kin_ctx *ctx;
    kin_params *params;
    kin_model *model;
    kin_guided guided;
    kin_tensor x, y; /* [BATCH,C,side,side], host */
    double seconds;  /* of a step, the first two left out */
    long played;
} sampling;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static kin_status make_model(sampling *s, bool small, kin_error *err)
{
    char text[512];
    cJSON *json = NULL;
    snprintf(text, sizeof text,
             "{\"model\":\"promoe_tc\",\"input_size\":%d,\"patch_size\":2,\"in_channels\":4,"
             "\"hidden_size\":%d,\"depth\":%d,\"num_heads\":%d,\"num_classes\":10," MOE "}",
             small ? 8 : 32, small ? 32 : 384, small ? 3 : 12, small ? 2 : 6, small ? 3 : 12,
             small ? 24 : 768, small ? 24 : 768);
    KIN_TRY(kin_params_create(&s->params, err));
    KIN_TRY(kin_json_parse(text, strlen(text), KIN_JSON_STRICT, &json, err));
    kin_status status = kin_model_create(json, s->params, &s->model, err);
    cJSON_Delete(json);
    KIN_TRY(status);
    KIN_TRY(kin_params_alloc(s->params, KIN_DTYPE_F32, false, err));
    kin_model_start(s->model, s->params, 5);
    /* what starts at zero would hide the blocks */
    for (int i = 0; i < s->params->count; i++) {
        kin_param *p = s->params->list[i];
        const kin_rng rng = {.seed = 6, .purpose = KIN_RNG_TEST, .sample = (uint64_t)i};
        float *v = p->value.data;
        if (p->init.kind != KIN_INIT_ZERO || !p->trainable)
            continue;
        kin_rng_normal(&rng, 0, kin_tensor_numel(&p->value), v);
        for (int64_t k = 0; k < kin_tensor_numel(&p->value); k++)
            v[k] *= 0.05f;
    }
    return KIN_OK;
}

static kin_status open_sampling(sampling *s, const way *w, kin_dtype compute, bool small,
                                kin_error *err)
{
    kin_ctx_options opt = {.backend = KIN_BACKEND_CUDA, .compute = compute};
    if (setenv("KINEMA_CUDA_GRAPHS", w->graphs, 1))
        return kin_fail(err, KIN_ERR_MEM, "out of memory");
    KIN_TRY(make_model(s, small, err));
    if (w->offload)
        opt.offload = kin_params_bytes(s->params) / (compute == KIN_DTYPE_BF16 ? 4 : 2);
    KIN_TRY(kin_ctx_create(&opt, &s->ctx, err));
    s->guided = (kin_guided){.model = s->model, .scale = 2.5f};
    return KIN_OK;
}

static void close_sampling(sampling *s)
{
    kin_replay_destroy(&s->guided.replay);
    kin_model_destroy(&s->model);
    kin_params_destroy(&s->params);
    kin_ctx_destroy(&s->ctx);
}

static kin_status prepare(sampling *s, kin_tensor label[2])
{
    const kin_model_info *info = kin_model_get_info(s->model);
    const int64_t size[4] = {BATCH, info->in_channels, info->input_size, info->input_size};
    const kin_rng rng = {.seed = 7, .purpose = KIN_RNG_NOISE};
    KIN_TRY(kin_ws_host(s->ctx, KIN_DTYPE_F32, 4, size, &s->x));
    KIN_TRY(kin_ws_host(s->ctx, KIN_DTYPE_F32, 4, size, &s->y));
    kin_rng_normal(&rng, 0, kin_tensor_numel(&s->x), s->x.data);
    for (int k = 0; k < 2; k++) {
        KIN_TRY(KIN_WS_HOST(s->ctx, &label[k], KIN_DTYPE_I32, BATCH));
        for (int b = 0; b < BATCH; b++)
            ((int32_t *)label[k].data)[b] = k ? (int32_t)info->num_classes : 3 + b;
    }
    s->guided.label = &label[0];
    s->guided.null_label = &label[1];
    return kin_replay_create(s->ctx, &s->guided.replay);
}

/* Euler steps of a flow. */
static kin_status run(sampling *s)
{
    kin_tensor label[2];
    double start = 0;
    KIN_TRY(prepare(s, label));
    float *x = s->x.data;
    const float *v = s->y.data;
    for (int i = 0; i < STEPS; i++) {
        const float sigma = 1.0f - (float)i / STEPS;
        if (i == 2)
            start = now();
        KIN_TRY(kin_guided_output(s->ctx, &s->guided, &s->x, sigma, 1000 * sigma, i, &s->y));
        for (int64_t k = 0; k < kin_tensor_numel(&s->x); k++)
            x[k] -= v[k] / STEPS;
    }
    s->seconds = (now() - start) / (STEPS - 2);
    s->played = kin_replay_count(s->guided.replay).played;
    return KIN_OK;
}

/* One way; the first one's result goes to *wanted (heap), the others are compared with it. */
static kin_status do_way(const way *w, kin_dtype compute, bool small, void **wanted, bool *same,
                         kin_error *err)
{
    sampling s = {0};
    kin_status status = open_sampling(&s, w, compute, small, err);
    if (status == KIN_OK && (status = run(&s)) != KIN_OK)
        *err = s.ctx->error;
    if (status == KIN_OK) {
        const size_t bytes = (size_t)kin_tensor_numel(&s.x) * sizeof(float);
        if (!*wanted && (*wanted = kin_malloc(bytes)))
            memcpy(*wanted, s.x.data, bytes);
        *same = *wanted && memcmp(*wanted, s.x.data, bytes) == 0 &&
                (s.played > 0 || w->offload || strcmp(w->graphs, "0") == 0);
        printf("%s\n  {\"name\": \"%s\", \"dtype\": \"%s\", \"ms_per_step\": %.3f, \"played\": "
               "%ld, \"same_bits\": %s}",
               w == ways && compute == KIN_DTYPE_F32 ? "" : ",", w->name, kin_dtype_name(compute),
               1e3 * s.seconds, s.played, *same ? "true" : "false");
    }
    close_sampling(&s);
    return status;
}

/* --- training --- */

typedef struct training {
    double loss[STEPS], norm[STEPS];
    double seconds; /* of a step, the first two left out */
    long played;
} training;

static double read_clock(void *user)
{
    (void)user;
    return now();
}

static kin_status train(const way *w, const char *config, kin_dtype compute, training *out,
                        kin_error *err)
{
    const kin_ctx_options opt = {.backend = KIN_BACKEND_CUDA, .compute = compute};
    kin_ctx *ctx = NULL;
    kin_train_bench *b = NULL;
    kin_train_phases phases;
    kin_train_bench_info info = {0};
    double start = 0;
    if (setenv("KINEMA_CUDA_GRAPHS", w->graphs, 1))
        return kin_fail(err, KIN_ERR_MEM, "out of memory");
    KIN_TRY(kin_ctx_create(&opt, &ctx, err));
    kin_status status = kin_train_bench_open(ctx, config, read_clock, NULL, &b);
    for (int i = 0; i < STEPS && status == KIN_OK; i++) {
        if (i == 2)
            start = now();
        if ((status = kin_train_bench_step(b, &phases)) == KIN_OK)
            info = kin_train_bench_get_info(b);
        out->loss[i] = info.loss;
        out->norm[i] = info.grad_norm;
    }
    out->seconds = (now() - start) / (STEPS - 2);
    out->played = info.played;
    if (status != KIN_OK)
        *err = ctx->error;
    kin_train_bench_close(&b);
    kin_ctx_destroy(&ctx);
    return status;
}

/* Losses and norms of the gradients, over weights that change with each step. */
static kin_status do_training(const char *config, kin_dtype compute, bool *all, kin_error *err)
{
    training of[2] = {0};
    for (int i = 0; i < 2; i++) {
        KIN_TRY(train(&ways[i], config, compute, &of[i], err));
        const bool same = memcmp(of[0].loss, of[i].loss, sizeof of[i].loss) == 0 &&
                          memcmp(of[0].norm, of[i].norm, sizeof of[i].norm) == 0;
        printf("%s\n  {\"name\": \"%s\", \"dtype\": \"%s\", \"ms_per_step\": %.3f, \"played\": "
               "%ld, \"loss\": %.9g, \"same_bits\": %s}",
               i == 0 && compute == KIN_DTYPE_F32 ? "" : ",", ways[i].name, kin_dtype_name(compute),
               1e3 * of[i].seconds, of[i].played, of[i].loss[STEPS - 1], same ? "true" : "false");
        *all = *all && same && (i == 0 || of[i].played > 0);
    }
    return KIN_OK;
}

int main(int argc, char **argv)
{
    static const kin_dtype types[] = {KIN_DTYPE_F32, KIN_DTYPE_BF16};
    const bool small = argc == 3 && strcmp(argv[2], "--small") == 0;
    kin_error err = {0};
    kin_status status = KIN_OK;
    bool all = true, same = false;
    char text[256];
    if (argc < 2 || argc != 2 + small) {
        fprintf(stderr, "usage: gpu_same TRAIN.json [--small]\n");
        return 2;
    }
    if (kin_cuda_count(text, sizeof text) == 0) {
        fprintf(stderr, "gpu_same: no device: %s\n", text);
        return EXIT_SKIPPED;
    }
    printf("{\"sampling\": [");
    for (int t = 0; t < 2 && status == KIN_OK; t++) {
        void *wanted = NULL;
        for (int i = 0; i < WAYS && status == KIN_OK; i++) {
            status = do_way(&ways[i], types[t], small, &wanted, &same, &err);
            all = all && same;
        }
        kin_free(wanted);
    }
    printf("\n], \"training\": [");
    for (int t = 0; t < 2 && status == KIN_OK; t++)
        status = do_training(argv[1], types[t], &all, &err);
    printf("\n]}\n");
    if (status != KIN_OK)
        fprintf(stderr, "gpu_same: %s\n", err.text);
    return status == KIN_OK && all ? 0 : 1;
}

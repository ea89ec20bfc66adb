/* cli/evaluate_loss.c: `kinema evaluate --suite loss`: squared error of the velocity on clips of a
 * data set, at fixed noise levels with noise fixed by (seed, clip, level), so that two models, or
 * right and shuffled captions, compare. */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "cli/evaluate.h"
#include "cli/signals.h"
#include "diffusion/condition.h"
#include "diffusion/losses.h"
#include "io/dataset.h"
#include "physics/annotation.h"
#include "vision/frames.h"
#include "vision/resize.h"

enum { LEVELS = 6 };
static const float level_sigma[LEVELS] = {0.98f, 0.9f, 0.8f, 0.65f, 0.5f, 0.3f};

typedef struct suite {
    const kin_args *args;
    kin_pipeline *pipeline;
    kin_progress *progress;
    kin_dataset *ds;
    int64_t count;
    kin_physics_prior *priors;        /* [count] */
    int64_t *other;                   /* [count]: whose conditions a shuffled clip gets */
    bool captions, prior, quantities; /* which are shuffled */
    bool drop;
    double sum[LEVELS];
    int64_t exact[LEVELS]; /* clips whose labels the classifier gets right */
    bool classifier;
} suite;

/* A random cycle through all clips (Sattolo), so that none keeps its own caption. */
static void shuffle(int64_t *order, int64_t n, uint64_t seed)
{
    kin_rng rng = {.seed = seed, .purpose = KIN_RNG_DATA};
    for (int64_t i = n - 1; i > 0; i--) {
        int64_t j = (int64_t)kin_rng_index_at(&rng, (uint64_t)i, (uint64_t)i), t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
}

static kin_status open_data(suite *s, kin_error *err)
{
    KIN_TRY(kin_dataset_open(kin_args_text(s->args, "data"), NULL, &s->ds, err));
    int64_t want = kin_args_int(s->args, "count");
    s->count = want < s->ds->count ? want : s->ds->count;
    s->captions = kin_args_bool(s->args, "shuffle-captions");
    s->prior = kin_args_bool(s->args, "shuffle-priors");
    s->quantities = kin_args_bool(s->args, "shuffle-quantities");
    s->drop = kin_args_bool(s->args, "drop-conditions");
    bool shuffled = s->captions || s->prior || s->quantities;
    if (shuffled && s->drop)
        return kin_fail(err, KIN_ERR_ARG,
                        "evaluate: --drop-conditions leaves nothing to be shuffled");
    if (shuffled && s->count < 2)
        return kin_fail(err, KIN_ERR_ARG, "evaluate: shuffling needs at least two clips");
    s->priors = kin_calloc((size_t)s->count, sizeof *s->priors);
    s->other = kin_calloc((size_t)s->count, sizeof *s->other);
    if (!s->priors || !s->other)
        return kin_fail(err, KIN_ERR_MEM, "evaluate: out of memory");
    for (int64_t i = 0; i < s->count; i++) {
        s->other[i] = i;
        if (kin_annotation_read(s->ds->records[i].json, NULL, &s->priors[i], err) != KIN_OK)
            return kin_fail_prefix(err, "record %lld", (long long)s->ds->records[i].index);
        if (!kin_condition_with_law(s->pipeline, true) && s->priors[i].caption)
            s->priors[i].caption[s->priors[i].caption_bytes] = '\0';
    }
    if (shuffled)
        shuffle(s->other, s->count, (uint64_t)kin_args_int(s->args, "seed"));
    return KIN_OK;
}

/* Clip i as x0 [LEVELS,3,F,H,W], the same in every row. */
static kin_status read_clip(const suite *s, int64_t i, const kin_tensor *x0, kin_error *err)
{
    kin_clip clip = {0};
    uint8_t *resized = NULL;
    int64_t F = x0->size[2], H = x0->size[3], W = x0->size[4];
    kin_status status = KIN_OK;
    KIN_TRY(kin_dataset_read_clip(s->ds, i, F, &clip, err));
    kin_tensor frames = kin_clip_tensor(&clip), row = kin_tensor_select(x0, 0, 0);
    if (clip.height != H || clip.width != W) {
        if (!(resized = kin_malloc((size_t)(F * H * W) * 3)))
            KIN_GOTO(kin_fail(err, KIN_ERR_MEM, "evaluate: out of memory"));
        kin_tensor to = KIN_TENSOR(resized, KIN_DTYPE_U8, F, H, W, 3);
        KIN_GOTO(kin_resize_cover(&frames, &to, KIN_RESIZE_AREA, err));
        frames = to;
    }
    KIN_GOTO(kin_frames_to_tensor(&frames, &row, err));
    size_t bytes = (size_t)kin_tensor_numel(&row) * sizeof(float);
    for (int k = 1; k < LEVELS; k++)
        memcpy((char *)x0->data + (size_t)k * bytes, x0->data, bytes);
done:
    kin_free(resized);
    kin_clip_free(&clip);
    return status;
}

static bool labels_right(const float *logits, const kin_physics_prior *truth)
{
    for (int c = 0; c < KIN_PHYS_CATEGORIES; c++)
        if ((logits[c] > 0) != (truth->prior[c] > 0.5f))
            return false;
    return true;
}

/* Share of the clips that have the most frequent set of labels: what a constant answer reaches. */
static double majority(const suite *s)
{
    int64_t best = 0;
    for (int64_t i = 0; i < s->count; i++) {
        int64_t same = 0;
        for (int64_t j = 0; j < s->count; j++)
            same += memcmp(s->priors[i].prior, s->priors[j].prior, sizeof s->priors[i].prior) == 0;
        best = same > best ? same : best;
    }
    return (double)best / (double)s->count;
}

/* The errors of clip i at all levels, added to sum. Fails into ctx->error. */
static kin_status measure(suite *s, int64_t i)
{
    kin_pipeline *p = s->pipeline;
    kin_ctx *ctx = p->ctx;
    const kin_model_info *info = kin_model_get_info(p->model);
    kin_tensor x0, noise, sigma, t, xt, target, text, null, prior, quant, v;
    kin_model_output out;
    const char *prompts[LEVELS];
    const kin_physics_prior *own = &s->priors[i], *other = &s->priors[s->other[i]];
    KIN_TRY(KIN_WS_HOST(ctx, &x0, KIN_DTYPE_F32, LEVELS, info->in_channels, p->frames, p->height,
                        p->width));
    KIN_TRY(KIN_WS_HOST(ctx, &noise, KIN_DTYPE_F32, LEVELS, info->in_channels, p->frames, p->height,
                        p->width));
    KIN_TRY(KIN_WS_HOST(ctx, &sigma, KIN_DTYPE_F32, LEVELS));
    KIN_TRY(KIN_WS_HOST(ctx, &t, KIN_DTYPE_F32, LEVELS));
    KIN_TRY(KIN_WS_HOST(ctx, &prior, KIN_DTYPE_F32, LEVELS, KIN_PHYS_CATEGORIES));
    KIN_TRY(KIN_WS_HOST(ctx, &quant, KIN_DTYPE_F32, LEVELS, KIN_PHYS_QUANTITIES));
    KIN_TRY(kin_fill(ctx, &prior, 0));
    KIN_TRY(kin_fill(ctx, &quant, 0));
    KIN_TRY(read_clip(s, i, &x0, &ctx->error));
    int64_t n = kin_tensor_numel(&x0) / LEVELS;
    for (int k = 0; k < LEVELS; k++) {
        kin_rng rng = {(uint64_t)kin_args_int(s->args, "seed"), KIN_RNG_VALIDATE, (uint64_t)i,
                       (uint32_t)k};
        kin_rng_normal(&rng, 0, n, (float *)noise.data + k * n);
        ((float *)sigma.data)[k] = level_sigma[k];
        ((float *)t.data)[k] = 1000.0f * level_sigma[k];
        prompts[k] = s->drop ? "" : s->captions ? other->caption : own->caption;
        if (s->drop)
            continue;
        memcpy((float *)prior.data + k * KIN_PHYS_CATEGORIES, s->prior ? other->prior : own->prior,
               sizeof own->prior);
        memcpy((float *)quant.data + k * KIN_PHYS_QUANTITIES,
               s->quantities ? other->quant : own->quant, sizeof own->quant);
    }
    KIN_TRY(kin_flow_mix(ctx, &x0, &noise, &sigma, &xt, &target));
    KIN_TRY(kin_pipeline_encode(p, prompts, LEVELS, &text, &null));
    kin_model_input in = {.x = &xt, .t = &t, .text = &text, .null = &null};
    if (info->categories) {
        in.prior = &prior;
        in.quant = &quant;
    }
    KIN_TRY(kin_model_forward(ctx, p->model, &in, &out));
    KIN_TRY(kin_model_velocity(ctx, p->model, &xt, &out.y, &sigma, &v));
    s->classifier = out.logits.data != NULL;
    KIN_TRY(kin_host(ctx, &out.logits, &out.logits));
    KIN_TRY(kin_host(ctx, &v, &v));
    KIN_TRY(kin_host(ctx, &target, &target));
    for (int k = 0; k < LEVELS && s->classifier; k++)
        s->exact[k] += labels_right((const float *)out.logits.data + k * out.logits.stride[0], own);
    for (int k = 0; k < LEVELS; k++) {
        double sum = 0;
        const float *a = (const float *)v.data + k * n, *b = (const float *)target.data + k * n;
        for (int64_t j = 0; j < n; j++)
            sum += ((double)a[j] - b[j]) * ((double)a[j] - b[j]);
        s->sum[k] += sum / (double)n;
    }
    return KIN_OK;
}

static bool report_classifier(const suite *s, cJSON *root)
{
    cJSON *o = cJSON_AddObjectToObject(root, "classifier");
    cJSON *levels = o ? cJSON_AddObjectToObject(o, "exact_match") : NULL;
    bool ok = levels && cJSON_AddNumberToObject(o, "majority", majority(s));
    for (int k = 0; k < LEVELS && ok; k++) {
        char name[32];
        snprintf(name, sizeof name, "%g", (double)level_sigma[k]);
        ok = cJSON_AddNumberToObject(levels, name, (double)s->exact[k] / (double)s->count);
    }
    return ok;
}

static kin_status report(const suite *s, kin_error *err)
{
    cJSON *root;
    double mean = 0;
    KIN_TRY(kin_evaluate_report_open(s->args, "loss", "model_hash", s->pipeline->hash, &root, err));
    cJSON *levels = cJSON_AddObjectToObject(root, "velocity_error");
    bool ok = levels != NULL;
    for (int k = 0; k < LEVELS; k++) {
        char name[32];
        snprintf(name, sizeof name, "%g", (double)level_sigma[k]);
        ok = ok && cJSON_AddNumberToObject(levels, name, s->sum[k] / (double)s->count);
        mean += s->sum[k] / (double)s->count / LEVELS;
    }
    ok = ok && cJSON_AddNumberToObject(root, "mean", mean) &&
         cJSON_AddNumberToObject(root, "clips", (double)s->count) &&
         cJSON_AddBoolToObject(root, "shuffled_captions", s->captions) &&
         cJSON_AddBoolToObject(root, "shuffled_priors", s->prior) &&
         cJSON_AddBoolToObject(root, "shuffled_quantities", s->quantities) &&
         cJSON_AddBoolToObject(root, "dropped_conditions", s->drop) &&
         (!s->classifier || report_classifier(s, root));
    return kin_evaluate_report_close(root, KIN_OK, ok, err);
}

static kin_status run(suite *s, kin_error *err)
{
    kin_ctx *ctx = s->pipeline->ctx;
    KIN_TRY(open_data(s, err));
    kin_progress_begin(s->progress, "evaluate", "clips", s->count);
    for (int64_t i = 0; i < s->count; i++) {
        size_t mark = kin_ws_mark(ctx);
        if (measure(s, i) != KIN_OK) {
            *err = ctx->error;
            return err->status;
        }
        kin_ws_release(ctx, mark);
        KIN_TRY(kin_signals_check("evaluate", err));
        kin_progress_update(s->progress, i + 1, NULL, false);
    }
    kin_progress_end(s->progress);
    for (int k = 0; k < LEVELS; k++)
        if (!(s->sum[k] < 1e30))
            return kin_fail(err, KIN_ERR_NUMERIC, "evaluate: the loss at sigma %g is not finite",
                            (double)level_sigma[k]);
    return report(s, err);
}

kin_status kin_evaluate_loss(const kin_args *args, kin_pipeline *pipeline, kin_progress *progress,
                             kin_error *err)
{
    suite s = {.args = args, .pipeline = pipeline, .progress = progress};
    if (pipeline->frames < 1 || pipeline->width < 1 || pipeline->height < 1)
        return kin_fail(err, KIN_ERR_FORMAT, "evaluate: the model names no clip size");
    kin_status status = run(&s, err);
    for (int64_t i = 0; s.priors && i < s.count; i++)
        kin_physics_prior_free(&s.priors[i]);
    kin_free(s.priors);
    kin_free(s.other);
    kin_dataset_close(&s.ds);
    return status;
}

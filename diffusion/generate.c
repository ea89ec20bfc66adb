/* diffusion/generate.c: from prompts or labels to frames. Noise and gate draws of a clip depend on
 * the seed and the clip's own index alone, so that its bytes are the same in any batch. */
#include <math.h>
#include <string.h>

#include "base/json.h"
#include "diffusion/pipeline_parts.h"
#include "tensor/kernels.h"
#include "vision/frames.h"

enum { BRANCHES = 3 };

typedef struct generation {
    kin_pipeline *p;
    const kin_generate_params *params;
    kin_schedule schedule;
    int calls; /* of the model, for one batch */
    int64_t frames, height, width;
    int64_t first, n; /* clips of the running batch */
    kin_guided guided;
    kin_tensor text, uncond_text, null, uncond_null, prior, quant, label, null_label;
} generation;

kin_generate_params kin_generate_params_default(void)
{
    return (kin_generate_params){.count = 1,
                                 .steps = 25,
                                 .shift = 0.0f,
                                 .cfg_scale = 3.0f,
                                 .phys_cfg = 0.0f,
                                 .cfg_mode = KIN_CFG_PLAIN,
                                 .cfg_interval = {0.0f, INFINITY},
                                 .batch = 1};
}

static uint64_t clip_index(const generation *g, int64_t clip)
{
    return g->params->sample_index ? g->params->sample_index[clip] : (uint64_t)clip;
}

/* --- checks --- */

static kin_status check_size(kin_ctx *ctx, const char *what, int64_t v, int patch)
{
    if (v < 1)
        return kin_fail(&ctx->error, KIN_ERR_ARG,
                        "generate: %s must be given, the model names no size", what);
    if (v % patch)
        return kin_fail(&ctx->error, KIN_ERR_ARG, "generate: %s %lld must be a multiple of %d",
                        what, (long long)v, patch);
    return KIN_OK;
}

static kin_status set_sizes(generation *g)
{
    const kin_pipeline *p = g->p;
    const kin_model_info *info = kin_model_get_info(p->model);
    kin_ctx *ctx = p->ctx;

    g->frames = g->params->frames ? g->params->frames : p->frames;
    g->height = g->params->height ? g->params->height : p->height;
    g->width = g->params->width ? g->params->width : p->width;
    if (info->family == KIN_FAMILY_DIT) {
        const int64_t times = p->vae ? kin_vae_get_info(p->vae->vae)->reduction : 1;

        if (g->frames > 1 || g->height != info->input_size * times ||
            g->width != info->input_size * times)
            return kin_fail(
                &ctx->error, KIN_ERR_ARG, "generate: this model makes one frame of %lldx%lld",
                (long long)(info->input_size * times), (long long)(info->input_size * times));
        g->frames = 1;
        g->height = g->width = info->input_size; /* from here on of what is sampled */
    }
    KIN_TRY(check_size(ctx, "frames", g->frames, info->patch[0]));
    KIN_TRY(check_size(ctx, "height", g->height, info->patch[1]));
    return check_size(ctx, "width", g->width, info->patch[2]);
}

static bool has_vae(const kin_pipeline *p)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(p->index, "vae");

    return cJSON_IsArray(v) && cJSON_IsString(cJSON_GetArrayItem(v, 1));
}

/* What is sampled are pixels, or latents that the model's VAE decodes. */
static kin_status check_space(const generation *g)
{
    const kin_model_info *info = kin_model_get_info(g->p->model);
    const kin_vae_info *vae = g->p->vae ? kin_vae_get_info(g->p->vae->vae) : NULL;
    const int64_t channels = vae ? vae->latent_channels : 3;
    kin_error *err = &g->p->ctx->error;

    if (!vae && (has_vae(g->p) || info->in_channels != 3))
        return kin_fail(err, KIN_ERR_UNSUPPORTED,
                        "generate: this model works in the latents of a VAE, which its directory "
                        "lacks, or whose class this release lacks (AutoencoderKL is known)");
    if (info->in_channels != channels || info->out_channels < channels ||
        (vae && vae->out_channels != 3))
        return kin_fail(err, KIN_ERR_FORMAT,
                        "generate: the transformer works on %lld channels, the VAE's latents have "
                        "%lld and its pictures %lld",
                        (long long)info->in_channels, (long long)channels,
                        vae ? (long long)vae->out_channels : 3LL);
    if (vae && info->family != KIN_FAMILY_DIT)
        return kin_fail(err, KIN_ERR_UNSUPPORTED, "generate: videos with a VAE of pictures");
    return KIN_OK;
}

static kin_status check_params(const generation *g)
{
    const kin_generate_params *a = g->params;
    const kin_model_info *info = kin_model_get_info(g->p->model);
    kin_error *err = &g->p->ctx->error;

    if (info->family == KIN_FAMILY_CLASSIFIER)
        return kin_fail(err, KIN_ERR_ARG,
                        "generate: this model tells classes apart, it makes nothing");
    if (a->count < 1 || a->batch < 1)
        return kin_fail(err, KIN_ERR_ARG, "generate: count %lld and batch %lld must be at least 1",
                        (long long)a->count, (long long)a->batch);
    if (!isfinite(a->cfg_scale) || !isfinite(a->phys_cfg) || !isfinite(a->shift))
        return kin_fail(err, KIN_ERR_ARG, "generate: guidance and shift must be finite");
    if (!(a->cfg_interval[0] <= a->cfg_interval[1]))
        return kin_fail(err, KIN_ERR_ARG, "generate: guidance interval %g,%g must ascend",
                        (double)a->cfg_interval[0], (double)a->cfg_interval[1]);
    if (!(a->cfg_rescale >= 0 && a->cfg_rescale <= 1))
        return kin_fail(err, KIN_ERR_ARG, "generate: guidance rescale %g must lie in 0 to 1",
                        (double)a->cfg_rescale);
    if (a->cfg_channels < 0 || a->cfg_channels > info->in_channels ||
        (a->cfg_channels && info->family != KIN_FAMILY_DIT))
        return kin_fail(err, KIN_ERR_ARG,
                        "generate: guided channels %lld must be at most the %lld of a "
                        "class-conditional model",
                        (long long)a->cfg_channels, (long long)info->in_channels);
    if (!a->emit)
        return kin_fail(err, KIN_ERR_ARG, "generate: a receiver of the clips is needed");
    KIN_TRY(check_space(g));
    if (info->family == KIN_FAMILY_DIT) {
        if (!a->labels)
            return kin_fail(err, KIN_ERR_ARG, "generate: this model needs class labels");
        for (int64_t i = 0; i < a->count; i++) {
            if (a->labels[i] < 0 || a->labels[i] > info->num_classes)
                return kin_fail(err, KIN_ERR_ARG, "generate: class %d must lie in 0 to %lld",
                                a->labels[i], (long long)info->num_classes - 1);
        }
    } else if (!a->prompts) {
        return kin_fail(err, KIN_ERR_ARG, "generate: this model needs prompts");
    }
    return KIN_OK;
}

static kin_status make_schedule(generation *g)
{
    kin_error *err = &g->p->ctx->error;
    const kin_model_info *info = kin_model_get_info(g->p->model);
    const int64_t tokens =
        g->frames / info->patch[0] * (g->height / info->patch[1]) * (g->width / info->patch[2]);
    kin_scheduler cfg;

    KIN_TRY(kin_solver_config(g->p, g->params, &cfg, err));
    return kin_solver_schedule(g->p, g->params, &cfg, (double)tokens, &g->schedule, err);
}

/* --- one batch --- */

/* rows of the caller's [count,width] table, or NULL */
static kin_status rows(generation *g, const float *all, int64_t width, kin_tensor *t,
                       const kin_tensor **out)
{
    kin_ctx *ctx = g->p->ctx;

    *out = NULL;
    if (!all)
        return KIN_OK;
    KIN_TRY(KIN_WS(ctx, t, KIN_DTYPE_F32, g->n, width));
    if (!kin_ctx_is_plan(ctx))
        memcpy(t->data, all + g->first * width, (size_t)(g->n * width) * sizeof(float));
    *out = t;
    return KIN_OK;
}

/* Texts are encoded one by one: a clip's bytes must not depend on its neighbours. Where a text is
 * that of the clip before, so is the result. */
static kin_status encode(generation *g, const char *const *texts, kin_tensor *states,
                         kin_tensor *null)
{
    kin_ctx *ctx = g->p->ctx;
    const kin_model_info *info = kin_model_get_info(g->p->model);
    const int64_t len = kin_pipeline_text_len(g->p);

    KIN_TRY(KIN_WS(ctx, states, KIN_DTYPE_F32, g->n, len, info->text_dim));
    KIN_TRY(KIN_WS(ctx, null, KIN_DTYPE_U8, g->n));
    for (int64_t i = 0; i < g->n; i++) {
        const size_t mark = kin_ws_mark(ctx);
        const char *text = texts && texts[g->first + i] ? texts[g->first + i] : "";
        const char *before = i && texts && texts[g->first + i - 1] ? texts[g->first + i - 1] : "";
        kin_tensor one, flag, at = kin_tensor_slice(states, 0, i, 1);

        if (i && !strcmp(text, before)) {
            one = kin_tensor_slice(states, 0, i - 1, 1);
            KIN_TRY(kin_copy_into(ctx, &one, &at));
            ((uint8_t *)null->data)[i] = ((uint8_t *)null->data)[i - 1];
            continue;
        }
        KIN_TRY(kin_pipeline_encode(g->p, &text, 1, &one, &flag));
        KIN_TRY(kin_copy_into(ctx, &one, &at));
        ((uint8_t *)null->data)[i] = ((const uint8_t *)flag.data)[0];
        kin_ws_release(ctx, mark);
    }
    return KIN_OK;
}

static kin_status draw_flips(kin_ctx *ctx, void *user, int step, kin_branch branch, kin_tensor *u)
{
    const generation *g = user;
    const int64_t layers = u->size[0], batch = u->size[1], heads = u->size[2];

    for (int64_t l = 0; l < layers && !kin_ctx_is_plan(ctx); l++) {
        for (int64_t b = 0; b < batch; b++) {
            const kin_rng rng = {.seed = g->params->seed,
                                 .purpose = KIN_RNG_MOPA,
                                 .sample = clip_index(g, g->first + b),
                                 .step = (uint32_t)(step * BRANCHES + (int)branch)};

            kin_rng_uniform(&rng, (uint64_t)(l * heads), heads,
                            (float *)u->data + (l * batch + b) * heads);
        }
    }
    return KIN_OK;
}

static kin_status set_labels(generation *g)
{
    kin_ctx *ctx = g->p->ctx;
    const int64_t classes = kin_model_get_info(g->p->model)->num_classes;

    KIN_TRY(KIN_WS(ctx, &g->label, KIN_DTYPE_I32, g->n));
    KIN_TRY(KIN_WS(ctx, &g->null_label, KIN_DTYPE_I32, g->n));
    for (int64_t i = 0; i < g->n; i++) {
        ((int32_t *)g->label.data)[i] = g->params->labels[g->first + i];
        ((int32_t *)g->null_label.data)[i] = (int32_t)classes;
    }
    g->guided.label = &g->label;
    g->guided.null_label = &g->null_label;
    return KIN_OK;
}

static kin_status set_conditions(generation *g)
{
    const kin_generate_params *a = g->params;
    const kin_model_info *info = kin_model_get_info(g->p->model);

    g->guided = (kin_guided){.model = g->p->model,
                             .mode = a->cfg_mode,
                             .scale = a->cfg_scale,
                             .phys_scale = a->phys_cfg,
                             .interval = {a->cfg_interval[0], a->cfg_interval[1]},
                             .rescale = a->cfg_rescale,
                             .channels = a->cfg_channels,
                             .raw = g->schedule.cfg.prediction != KIN_PREDICT_FLOW,
                             .user = g};
    if (info->family == KIN_FAMILY_DIT)
        return set_labels(g);
    KIN_TRY(encode(g, a->prompts, &g->text, &g->null));
    KIN_TRY(encode(g, a->negatives, &g->uncond_text, &g->uncond_null));
    g->guided.text = &g->text;
    g->guided.null = &g->null;
    g->guided.uncond_text = &g->uncond_text;
    g->guided.uncond_null = &g->uncond_null;
    if (!info->categories)
        return KIN_OK;
    g->guided.draws = info->mopa_flip_at_inference ? draw_flips : NULL;
    KIN_TRY(rows(g, a->prior, info->categories, &g->prior, &g->guided.prior));
    return rows(g, a->quant, KIN_PIPELINE_QUANTITIES, &g->quant, &g->guided.quant);
}

static kin_status make_noise(generation *g, kin_tensor *x)
{
    kin_ctx *ctx = g->p->ctx;
    const int64_t c = kin_model_get_info(g->p->model)->in_channels;

    if (kin_model_get_info(g->p->model)->family == KIN_FAMILY_DIT)
        KIN_TRY(KIN_WS(ctx, x, KIN_DTYPE_F32, g->n, c, g->height, g->width));
    else
        KIN_TRY(KIN_WS(ctx, x, KIN_DTYPE_F32, g->n, c, g->frames, g->height, g->width));
    for (int64_t i = 0; i < g->n; i++) {
        const kin_rng rng = {.seed = g->params->seed,
                             .purpose = KIN_RNG_NOISE,
                             .sample = clip_index(g, g->first + i)};
        kin_tensor clip = kin_tensor_select(x, 0, i);

        KIN_TRY(ctx->k->randn(ctx, &rng, 0, &clip));
    }
    return KIN_OK;
}

static kin_status output(kin_ctx *ctx, void *user, const kin_tensor *x, float sigma, float t,
                         int step, kin_tensor *y)
{
    const generation *g = user;

    return kin_guided_output(ctx, &g->guided, x, sigma, t, step, y);
}

/* noise of one step of a stochastic solver: each clip from its own stream */
static kin_status step_noise(kin_ctx *ctx, void *user, int step, int draw, kin_tensor *noise)
{
    enum { DRAWS = 2 }; /* at most, within one step */
    const generation *g = user;

    for (int64_t i = 0; i < noise->size[0]; i++) {
        const kin_rng rng = {.seed = g->params->seed,
                             .purpose = KIN_RNG_SOLVER,
                             .sample = clip_index(g, g->first + i),
                             .step = (uint32_t)(step * DRAWS + draw)};
        kin_tensor clip = kin_tensor_select(noise, 0, i);

        KIN_TRY(ctx->k->randn(ctx, &rng, 0, &clip));
    }
    return KIN_OK;
}

static kin_status on_step(kin_ctx *ctx, void *user, int step, const kin_tensor *x)
{
    const generation *g = user;

    (void)ctx;
    (void)x;
    if (!g->params->progress)
        return KIN_OK;
    /* in the caller's steps: solvers may call the model more often, or less */
    return g->params->progress(g->params->user, g->first,
                               (int)((int64_t)(step + 1) * g->params->steps / g->calls),
                               g->params->steps);
}

/* Sample i as pixels [3,F,H,W]. One by one: memory does not follow the batch. */
static kin_status to_pixels(generation *g, const kin_tensor *x, int64_t i, kin_tensor *clip)
{
    kin_ctx *ctx = g->p->ctx;
    const kin_vae_model *m = g->p->vae;
    kin_tensor one = kin_tensor_slice(x, 0, i, 1), z, picture;

    if (!m) {
        *clip = KIN_RESHAPE(&one, 3, g->frames, g->height, g->width);
        return KIN_OK;
    }
    KIN_TRY(kin_vae_denormalize(ctx, m->vae, &one, &z));
    if (g->params->vae_tiling) {
        kin_vae_tiling tiling = kin_vae_tiling_default(m->vae);

        if (g->params->vae_tile)
            tiling.tile = g->params->vae_tile;
        KIN_TRY(kin_vae_decode_tiled(ctx, m->vae, &z, &tiling, &picture));
    } else {
        KIN_TRY(kin_vae_decode(ctx, m->vae, &z, &picture));
    }
    *clip = KIN_RESHAPE(&picture, 3, 1, picture.size[2], picture.size[3]);
    return KIN_OK;
}

static kin_status emit(generation *g, const kin_tensor *x)
{
    kin_ctx *ctx = g->p->ctx;

    for (int64_t i = 0; i < g->n; i++) {
        const size_t mark = kin_ws_mark(ctx);
        kin_tensor clip, frames;

        KIN_TRY(to_pixels(g, x, i, &clip));
        KIN_TRY(KIN_WS(ctx, &frames, KIN_DTYPE_U8, clip.size[1], clip.size[2], clip.size[3], 3));
        if (!kin_ctx_is_plan(ctx)) {
            KIN_TRY(kin_frames_from_tensor(&clip, &frames, &ctx->error));
            if (!g->params->allow_flat &&
                kin_frames_check_flat(&frames, g->frames > 1, &ctx->error) != KIN_OK)
                return kin_fail_prefix(&ctx->error, "generate: clip %lld",
                                       (long long)clip_index(g, g->first + i));
        }
        KIN_TRY(g->params->emit(g->params->user, g->first + i, &frames));
        kin_ws_release(ctx, mark);
    }
    return KIN_OK;
}

static kin_status run_batch(generation *g)
{
    const kin_model_info *info = kin_model_get_info(g->p->model);
    const kin_scheduler *cfg = &g->schedule.cfg;
    const bool learned = cfg->class == KIN_SCHEDULER_DDPM && cfg->variance >= KIN_VARIANCE_LEARNED;
    const kin_sampler_run_args args = {.schedule = &g->schedule,
                                       .model = output,
                                       .hook = on_step,
                                       .noise = step_noise,
                                       .user = g,
                                       .out_channels =
                                           learned ? info->out_channels : info->in_channels};
    kin_ctx *ctx = g->p->ctx;
    kin_tensor x;

    KIN_TRY(set_conditions(g));
    /* the text encoder has done its part; its packed weights may be larger than the transformer */
    if (g->p->text_params && g->first + g->n >= g->params->count)
        ctx->packed -= kin_params_drop_packs(g->p->text_params);
    KIN_TRY(make_noise(g, &x));
    KIN_TRY(kin_sampler_run(ctx, &args, &x));
    return emit(g, &x);
}

kin_status kin_pipeline_generate(kin_pipeline *p, const kin_generate_params *params)
{
    generation g = {.p = p, .params = params};
    const size_t mark = kin_ws_mark(p->ctx);
    kin_status status;

    KIN_TRY(check_params(&g));
    KIN_TRY(set_sizes(&g));
    KIN_GOTO(make_schedule(&g));
    g.calls = g.schedule.n;
    /* every step and batch of a plan has the same shapes */
    if (kin_ctx_is_plan(p->ctx))
        g.schedule.n = 1;
    for (g.first = 0; g.first < params->count; g.first += params->batch) {
        g.n = params->count - g.first < params->batch ? params->count - g.first : params->batch;
        KIN_GOTO(run_batch(&g));
        kin_ws_release(p->ctx, mark);
        if (kin_ctx_is_plan(p->ctx))
            break;
    }
    status = KIN_OK;
done:
    kin_ws_release(p->ctx, mark);
    kin_schedule_free(&g.schedule);
    return status;
}

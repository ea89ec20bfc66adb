/* diffusion/generate.c: from prompts or labels to frames. Noise and gate draws of a clip depend on
 * the seed and the clip's own index alone, so that its bytes are the same in any batch. */
#include <math.h>
#include <string.h>

#include "base/json.h"
#include "diffusion/decode.h"
#include "diffusion/pipeline_parts.h"
#include "tensor/kernels.h"

enum { BRANCHES = 3 };

typedef struct generation {
    kin_pipeline *p;
    const kin_generate_params *params;
    kin_schedule schedule;
    int calls;        /* of the model, for one batch */
    int64_t size[3];  /* frames, height, width of what is sampled */
    int64_t first, n; /* clips of the running batch */
    bool video_vae;   /* sampling and decoding are long: each has the memory to itself */
    /* states [1,T,text_dim] and null flag of the prompt and the negative one, where all clips have
     * the same; data NULL: each batch encodes its own */
    kin_tensor same[2];
    uint8_t same_null[2];
    size_t peak; /* of the phases so far: ctx->peak begins anew with each */
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

static kin_status set_sizes(generation *g)
{
    const kin_generate_params *a = g->params;
    const kin_pipeline *p = g->p;
    const int64_t pixels[3] = {a->frames ? a->frames : p->frames, a->height ? a->height : p->height,
                               a->width ? a->width : p->width};

    return kin_pipeline_latent_size(p, pixels, g->size, &p->ctx->error);
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
        return kin_fail(err, KIN_ERR_FORMAT,
                        "generate: this model works in the latents of a VAE, which its directory "
                        "lacks");
    if (info->in_channels != channels || info->out_channels < channels ||
        (vae && vae->out_channels != 3))
        return kin_fail(err, KIN_ERR_FORMAT,
                        "generate: the transformer works on %lld channels, the VAE's latents have "
                        "%lld and its pictures %lld",
                        (long long)info->in_channels, (long long)channels,
                        vae ? (long long)vae->out_channels : 3LL);
    if (vae && vae->video == (info->family == KIN_FAMILY_DIT))
        return kin_fail(err, KIN_ERR_UNSUPPORTED, "generate: %s with a VAE of %s",
                        vae->video ? "pictures" : "videos", vae->video ? "videos" : "pictures");
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
    if (info->family == KIN_FAMILY_VAE)
        return kin_fail(err, KIN_ERR_ARG,
                        "generate: this model is an autoencoder alone (dataset cache -m, convert "
                        "--vae take it)");
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

/* first latents that the caller gives */
static kin_status check_noise(const generation *g)
{
    const kin_model_info *info = kin_model_get_info(g->p->model);
    const kin_tensor *t = g->params->noise;
    const int64_t want[] = {g->params->count, info->in_channels, g->size[0], g->size[1],
                            g->size[2]};
    char got[96];

    if (!t || info->family == KIN_FAMILY_DIT)
        return KIN_OK;
    for (int i = 0; i < 5; i++) {
        if (t->ndim != 5 || t->size[i] != want[i] || t->dtype != KIN_DTYPE_F32)
            return kin_fail(&g->p->ctx->error, KIN_ERR_SHAPE,
                            "generate: noise is %s, must be f32 [%lld,%lld,%lld,%lld,%lld]",
                            kin_tensor_describe(t, got, sizeof(got)), (long long)want[0],
                            (long long)want[1], (long long)want[2], (long long)want[3],
                            (long long)want[4]);
    }
    return KIN_OK;
}

static kin_status make_schedule(generation *g)
{
    kin_error *err = &g->p->ctx->error;
    const kin_model_info *info = kin_model_get_info(g->p->model);
    const int64_t tokens =
        g->size[0] / info->patch[0] * (g->size[1] / info->patch[1]) * (g->size[2] / info->patch[2]);
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
    KIN_TRY(KIN_WS_HOST(ctx, t, KIN_DTYPE_F32, g->n, width));
    if (!kin_ctx_is_plan(ctx))
        memcpy(t->data, all + g->first * width, (size_t)(g->n * width) * sizeof(float));
    *out = t;
    return KIN_OK;
}

static const char *text_at(const char *const *texts, int64_t i)
{
    return texts && texts[i] ? texts[i] : "";
}

/* Texts are encoded one by one: a clip's bytes must not depend on its neighbours. Where a text is
 * that of the clip before, so is the result. */
static kin_status encode(generation *g, int which, kin_tensor *states, kin_tensor *null)
{
    const char *const *texts = which ? g->params->negatives : g->params->prompts;
    kin_ctx *ctx = g->p->ctx;
    const int64_t len = kin_pipeline_text_len(g->p);
    kin_tensor one = g->same[which], flag;

    KIN_TRY(
        KIN_WS(ctx, states, KIN_DTYPE_F32, g->n, len, kin_model_get_info(g->p->model)->text_dim));
    KIN_TRY(KIN_WS_HOST(ctx, null, KIN_DTYPE_U8, g->n));
    for (int64_t i = 0; i < g->n; i++) {
        const size_t mark = kin_ws_mark(ctx);
        const char *text = text_at(texts, g->first + i);
        kin_tensor at = kin_tensor_slice(states, 0, i, 1);
        uint8_t *to = (uint8_t *)null->data + i;

        if (g->same[which].data) {
            *to = g->same_null[which];
        } else if (i && !strcmp(text, text_at(texts, g->first + i - 1))) {
            one = kin_tensor_slice(states, 0, i - 1, 1);
            *to = to[-1];
        } else {
            KIN_TRY(kin_pipeline_encode(g->p, &text, 1, &one, &flag));
            kin_tap(ctx, &one, which ? "negative_prompt_embeds" : "prompt_embeds");
            *to = *(const uint8_t *)flag.data;
        }
        KIN_TRY(kin_copy_into(ctx, &one, &at));
        kin_ws_release(ctx, mark);
    }
    return KIN_OK;
}

/* The texts of all clips at once, where they are the same, as from the command line. */
static kin_status encode_same(generation *g)
{
    const kin_generate_params *a = g->params;
    kin_tensor states[2], null[2];

    if (!g->p->text_params || a->count <= a->batch)
        return KIN_OK; /* one batch does it itself */
    for (int64_t i = 1; i < a->count; i++) {
        if (strcmp(text_at(a->prompts, i), text_at(a->prompts, 0)) != 0 ||
            strcmp(text_at(a->negatives, i), text_at(a->negatives, 0)) != 0)
            return KIN_OK;
    }
    g->n = 1;
    for (int k = 0; k < 2; k++)
        KIN_TRY(encode(g, k, &states[k], &null[k]));
    for (int k = 0; k < 2; k++) {
        g->same[k] = states[k];
        g->same_null[k] = *(const uint8_t *)null[k].data;
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

    KIN_TRY(KIN_WS_HOST(ctx, &g->label, KIN_DTYPE_I32, g->n));
    KIN_TRY(KIN_WS_HOST(ctx, &g->null_label, KIN_DTYPE_I32, g->n));
    for (int64_t i = 0; i < g->n; i++) {
        ((int32_t *)g->label.data)[i] = g->params->labels[g->first + i];
        ((int32_t *)g->null_label.data)[i] = (int32_t)classes;
    }
    g->guided.label = &g->label;
    g->guided.null_label = &g->null_label;
    return KIN_OK;
}

/* steps of CogVideoX's dynamic guidance, 0: constant */
static int dynamic_steps(const generation *g)
{
    const kin_model_info *info = kin_model_get_info(g->p->model);
    const bool published = info->family == KIN_FAMILY_COGVIDEOX &&
                           (info->categories || g->schedule.cfg.class == KIN_SCHEDULER_COG_DPM);
    const kin_dynamic_cfg mode = g->params->dynamic_cfg;

    return mode == KIN_DYNAMIC_ON || (mode == KIN_DYNAMIC_AUTO && published) ? g->params->steps : 0;
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
                             .dynamic_steps = dynamic_steps(g),
                             .channels = a->cfg_channels,
                             .raw = g->schedule.cfg.prediction != KIN_PREDICT_FLOW,
                             .user = g};
    if (info->family == KIN_FAMILY_DIT)
        return set_labels(g);
    KIN_TRY(encode(g, 0, &g->text, &g->null));
    KIN_TRY(encode(g, 1, &g->uncond_text, &g->uncond_null));
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

    const bool picture = kin_model_get_info(g->p->model)->family == KIN_FAMILY_DIT;

    if (picture)
        KIN_TRY(KIN_WS(ctx, x, KIN_DTYPE_F32, g->n, c, g->size[1], g->size[2]));
    else
        KIN_TRY(KIN_WS(ctx, x, KIN_DTYPE_F32, g->n, c, g->size[0], g->size[1], g->size[2]));
    if (g->params->noise) {
        const kin_tensor given = kin_tensor_slice(g->params->noise, 0, g->first, g->n);

        return kin_copy_into(ctx, &given, x);
    }
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

        /* note: solvers compute on the host, whatever the device */
        if (ctx->device)
            kin_rng_normal(&rng, 0, kin_tensor_numel(&clip), clip.data);
        else
            KIN_TRY(ctx->k->randn(ctx, &rng, 0, &clip));
    }
    return KIN_OK;
}

static kin_status on_step(kin_ctx *ctx, void *user, int step, const kin_tensor *x)
{
    const generation *g = user;

    kin_tap(ctx, x, "latents.%d", step);
    if (!g->params->progress)
        return KIN_OK;
    /* in the caller's steps: solvers may call the model more often, or less */
    return g->params->progress(g->params->user, g->first,
                               (int)((int64_t)(step + 1) * g->params->steps / g->calls),
                               g->params->steps);
}

/* One by one: memory does not follow the batch. */
static kin_status emit(const kin_pipeline *p, const kin_generate_params *a, int64_t clip,
                       uint64_t name, const kin_tensor *z)
{
    const kin_decode_options opt = {
        .tiling = a->vae_tiling, .tile = a->vae_tile, .allow_flat = a->allow_flat};
    kin_ctx *ctx = p->ctx;
    const size_t mark = kin_ws_mark(ctx);
    kin_tensor frames;

    if (kin_decode_clip(ctx, p->vae, &opt, z, &frames) != KIN_OK)
        return kin_fail_prefix(&ctx->error, "generate: clip %lld", (long long)name);
    KIN_TRY(a->emit(a->user, clip, &frames));
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

static kin_status emit_all(const generation *g, const kin_tensor *x)
{
    const kin_generate_params *a = g->params;
    kin_tensor all;

    KIN_TRY(kin_host(g->p->ctx, x, &all));
    for (int64_t i = 0; i < g->n && a->sampled && g->video_vae; i++) {
        const kin_tensor z = kin_tensor_select(&all, 0, i);

        KIN_TRY(a->sampled(a->user, g->first + i, &z));
    }
    for (int64_t i = 0; i < g->n; i++) {
        const kin_tensor z = kin_tensor_slice(&all, 0, i, 1);

        KIN_TRY(emit(g->p, a, g->first + i, clip_index(g, g->first + i), &z));
    }
    return KIN_OK;
}

kin_status kin_pipeline_decode(kin_pipeline *p, const kin_generate_params *params, int64_t clip,
                               const kin_tensor *latents)
{
    const kin_tensor z = KIN_RESHAPE(latents, 1, latents->size[0], latents->size[1],
                                     latents->size[2], latents->size[3]);

    return emit(p, params, clip, params->sample_index ? params->sample_index[clip] : (uint64_t)clip,
                &z);
}

/* --- memory: text encoder, transformer and VAE one after the other --- */

/* Bytes of values beside their packed forms: what lies in memory of its own, and with `mapped` what
 * is read of mapped files. */
static size_t value_bytes(const kin_params *params, bool mapped)
{
    size_t n = 0;

    if (params && mapped)
        return kin_params_resident_bytes(params) - kin_params_pack_bytes(params);
    for (int i = 0; params && i < params->count; i++) {
        const kin_tensor *t = &params->list[i]->value;

        if (!params->list[i]->mapped)
            n += (size_t)kin_tensor_numel(t) * kin_dtype_size(t->dtype);
    }
    return n;
}

static kin_params *vae_params(const kin_pipeline *p)
{
    return p->vae ? p->vae->params : NULL;
}

/* What was used since the last call counts with the values of these tables, and those that stay. */
static void end_phase(generation *g, const kin_params *a, const kin_params *b)
{
    const kin_params *all[] = {g->p->text_params, g->p->params, vae_params(g->p)};
    kin_ctx *ctx = g->p->ctx;
    size_t bytes = ctx->peak;

    for (int i = 0; i < 3; i++)
        bytes += value_bytes(all[i], all[i] == a || all[i] == b);
    g->p->planned = bytes > g->p->planned ? bytes : g->p->planned;
    g->peak = ctx->peak > g->peak ? ctx->peak : g->peak;
    ctx->peak = ctx->ws.peak + ctx->packed;
}

/* Packed forms and pages read of a part that has done its work. */
static void let_go(kin_ctx *ctx, kin_params *params)
{
    ctx->packed -= kin_params_drop_packs(params);
    for (int i = 0; i < params->count && !kin_ctx_is_plan(ctx); i++)
        kin_param_drop_pages(params->list[i]);
}

static void end_text(generation *g)
{
    const bool last = g->same[0].data || g->first + g->n >= g->params->count;

    if (!g->p->text_params)
        return;
    end_phase(g, g->p->text_params, NULL);
    if (last || g->video_vae)
        let_go(g->p->ctx, g->p->text_params);
    g->p->ctx->peak = g->p->ctx->ws.peak + g->p->ctx->packed;
}

static void end_sampling(generation *g)
{
    if (!g->video_vae)
        return; /* pictures: many batches, each decoded at once */
    end_phase(g, g->p->params, NULL);
    let_go(g->p->ctx, g->p->params);
    g->p->ctx->peak = g->p->ctx->ws.peak + g->p->ctx->packed;
}

static void end_decoding(generation *g)
{
    end_phase(g, vae_params(g->p), g->video_vae ? NULL : g->p->params);
    if (g->video_vae)
        let_go(g->p->ctx, vae_params(g->p));
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
    kin_status status;

    KIN_TRY(set_conditions(g));
    end_text(g);
    KIN_TRY(make_noise(g, &x));
    KIN_TRY(kin_guided_cache(ctx, &g->guided, &x));
    KIN_TRY(kin_replay_create(ctx, &g->guided.replay));
    status = kin_sampler_run(ctx, &args, &x);
    kin_replay_destroy(&g->guided.replay);
    KIN_TRY(status);
    end_sampling(g);
    KIN_TRY(emit_all(g, &x));
    end_decoding(g);
    return KIN_OK;
}

kin_status kin_pipeline_generate(kin_pipeline *p, const kin_generate_params *params)
{
    generation g = {
        .p = p, .params = params, .video_vae = p->vae && kin_vae_get_info(p->vae->vae)->video};
    const size_t start = kin_ws_mark(p->ctx);
    size_t mark;
    kin_status status;

    p->planned = 0;
    /* note: a prompt and a negative one; its weights are used no more often than that */
    if (p->text && g.video_vae)
        kin_text_encoder_set_streaming(p->text, true);

    KIN_TRY(check_params(&g));
    KIN_TRY(set_sizes(&g));
    KIN_GOTO(check_noise(&g));
    KIN_GOTO(make_schedule(&g));
    g.calls = g.schedule.n;
    /* every step and batch of a plan has the same shapes */
    if (kin_ctx_is_plan(p->ctx))
        g.schedule.n = 1;
    KIN_GOTO(encode_same(&g));
    mark = kin_ws_mark(p->ctx);
    for (g.first = 0; g.first < params->count; g.first += params->batch) {
        g.n = params->count - g.first < params->batch ? params->count - g.first : params->batch;
        KIN_GOTO(run_batch(&g));
        kin_ws_release(p->ctx, mark);
        if (kin_ctx_is_plan(p->ctx))
            break;
    }
    status = KIN_OK;
done:
    p->ctx->peak = g.peak > p->ctx->peak ? g.peak : p->ctx->peak;
    kin_ws_release(p->ctx, start);
    kin_schedule_free(&g.schedule);
    return status;
}

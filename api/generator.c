/* api/generator.c: the pipeline behind kinema/generator.h: defaults that the model names, the
 * prompt's physics, callbacks. */
#include <kinema/generator.h>

#include <math.h>
#include <string.h>

#include "api/sized.h"
#include "base/alloc.h"
#include "diffusion/condition.h"
#include "diffusion/pipeline.h"
#include "io/video.h"

enum { DEFAULT_FPS = 8, MAX_STEPS = 100000, CRF = 12 };

struct kin_generator {
    kin_ctx *ctx;
    kin_pipeline *pipeline;
};

/* One request on its way. */
typedef struct making {
    kin_generator *g;
    kin_request request;
    kin_generate_params params;
    kin_physics_prior condition;
    /* per clip */
    const char **prompts, **negatives;
    float *prior, *quant;
    int32_t *labels;
    double fps;
} making;

/* ---- loading ---- */

void kin_generator_options_init(kin_generator_options *o, size_t size)
{
    const kin_generator_options standard = {.dtype = "f32"};
    kin_sized_put(o, size, &standard, sizeof standard);
}

static kin_status context_options(const kin_generator_options *o, kin_ctx_options *out,
                                  kin_error *err)
{
    *out = (kin_ctx_options){.backend = KIN_BACKEND_CPU, .threads = o->threads};
    if (!o->dtype || strcmp(o->dtype, "f32") == 0)
        out->compute = KIN_DTYPE_F32;
    else if (strcmp(o->dtype, "bf16") == 0)
        out->compute = KIN_DTYPE_BF16;
    else if (strcmp(o->dtype, "int8") == 0)
        out->compute = KIN_DTYPE_I8;
    else
        return kin_fail(err, KIN_ERR_ARG, "generator: dtype '%s' must be f32, bf16 or int8",
                        o->dtype);
    out->ws_limit = (size_t)o->max_memory;
    return KIN_OK;
}

static kin_status load(kin_generator *g, const char *model, kin_error *err)
{
    if (kin_pipeline_load(g->ctx, model, &g->pipeline) == KIN_OK)
        return KIN_OK;
    /* whatever is wrong with a model's files: the input is bad */
    *err = g->ctx->error;
    if (err->status != KIN_ERR_MEM && err->status != KIN_ERR_IO &&
        err->status != KIN_ERR_UNSUPPORTED)
        err->status = KIN_ERR_FORMAT;
    return err->status;
}

kin_status kin_generator_create(const char *model, const kin_generator_options *options,
                                kin_generator **out, kin_error *err)
{
    kin_generator_options o;
    kin_ctx_options ctx;
    kin_error why = {0};
    kin_status status = KIN_OK;
    kin_generator *g = kin_calloc(1, sizeof *g);
    *out = NULL;
    kin_generator_options_init(&o, sizeof o);
    if (!g)
        KIN_GOTO(kin_fail(&why, KIN_ERR_MEM, "generator: out of memory"));
    if (!model)
        KIN_GOTO(kin_fail(&why, KIN_ERR_ARG, "generator: a model must be named"));
    if (options)
        KIN_GOTO(kin_sized_get(&o, sizeof o, options, "generator options", &why));
    KIN_GOTO(context_options(&o, &ctx, &why));
    KIN_GOTO(kin_ctx_create(&ctx, &g->ctx, &why));
    KIN_GOTO(load(g, model, &why));
    *out = g;
    return KIN_OK;
done:
    kin_generator_destroy(&g);
    return kin_sized_error(&why, err);
}

void kin_generator_destroy(kin_generator **g)
{
    if (!g || !*g)
        return;
    kin_pipeline_destroy(&(*g)->pipeline);
    kin_ctx_destroy(&(*g)->ctx);
    kin_free(*g);
    *g = NULL;
}

void kin_generator_get_info(const kin_generator *g, kin_generator_info *info, size_t size)
{
    const kin_pipeline *p = g->pipeline;
    const kin_model_info *model = kin_model_get_info(p->model);
    const kin_generator_info all = {.frames = p->frames,
                                    .height = p->height,
                                    .width = p->width,
                                    .fps = p->fps,
                                    .classes = model->num_classes,
                                    .physics = model->categories > 0};
    kin_sized_put(info, size, &all, sizeof all);
}

/* ---- a request ---- */

void kin_request_init(kin_request *r, size_t size)
{
    const kin_request standard = {.class_id = -1, .count = 1, .batch = 1, .cfg_scale = -1};
    kin_sized_put(r, size, &standard, sizeof standard);
}

static kin_status check(const kin_request *r, kin_error *err)
{
    if (r->count < 1 || r->batch < 1)
        return kin_fail(err, KIN_ERR_ARG, "request: count %lld and batch %lld must be at least 1",
                        (long long)r->count, (long long)r->batch);
    if (r->frames < 0 || r->height < 0 || r->width < 0)
        return kin_fail(err, KIN_ERR_ARG, "request: sizes must not be negative");
    if (r->steps < 0 || r->steps > MAX_STEPS)
        return kin_fail(err, KIN_ERR_ARG, "request: steps %d must be between 0 and %d", r->steps,
                        MAX_STEPS);
    if (!(r->fps >= 0 && r->fps <= 1000))
        return kin_fail(err, KIN_ERR_ARG, "request: fps %g must be between 0 and 1000", r->fps);
    if (!isfinite(r->cfg_scale))
        return kin_fail(err, KIN_ERR_ARG, "request: cfg_scale must be finite");
    if (!r->result)
        return kin_fail(err, KIN_ERR_ARG, "request: a receiver of the clips must be given");
    return KIN_OK;
}

/* Stops what runs on ctx. */
static kin_status stopped(kin_ctx *ctx)
{
    kin_fail(&ctx->error, KIN_ERR_INTERRUPTED, "generate: stopped by the caller");
    ctx->error.signal = 0;
    return KIN_ERR_INTERRUPTED;
}

static kin_status on_progress(void *user, int64_t clips_done, int step, int steps)
{
    const making *m = user;
    const int64_t left = m->params.count - clips_done;
    const int64_t in_flight = left < m->params.batch ? left : m->params.batch;
    if (m->request.progress &&
        m->request.progress(m->request.user, clips_done * steps + step * in_flight,
                            m->params.count * steps))
        return stopped(m->g->ctx);
    return KIN_OK;
}

static kin_status on_clip(void *user, int64_t clip, const kin_tensor *frames)
{
    const making *m = user;
    const kin_result result = {.clip = clip,
                               .frames = frames->size[0],
                               .height = frames->size[1],
                               .width = frames->size[2],
                               .fps = m->fps,
                               .rgb = frames->data};
    return m->request.result(m->request.user, &result) ? stopped(m->g->ctx) : KIN_OK;
}

static void set_params(making *m)
{
    const kin_request *r = &m->request;
    const kin_pipeline *p = m->g->pipeline;
    kin_generate_params *q = &m->params;
    *q = kin_generate_params_default();
    q->count = r->count;
    q->batch = r->batch < r->count ? r->batch : r->count;
    q->frames = r->frames ? r->frames : p->frames;
    q->height = r->height ? r->height : p->height;
    q->width = r->width ? r->width : p->width;
    q->steps = r->steps ? r->steps : p->steps ? p->steps : q->steps;
    q->sampler = r->sampler;
    q->cfg_scale = r->cfg_scale >= 0  ? (float)r->cfg_scale
                   : p->cfg_scale > 0 ? (float)p->cfg_scale
                                      : q->cfg_scale;
    q->seed = r->seed;
    q->vae_tiling = r->vae_tiling;
    q->allow_flat = r->allow_flat;
    q->progress = on_progress;
    q->emit = on_clip;
    q->user = m;
    m->fps = r->fps > 0 ? r->fps : p->fps > 0 ? p->fps : DEFAULT_FPS;
}

static kin_status set_labels(making *m, int64_t classes, kin_error *err)
{
    const int64_t n = m->params.count, one = m->request.class_id;
    if (one < -1 || one >= classes)
        return kin_fail(err, KIN_ERR_ARG,
                        "request: class %lld must be between 0 and %lld, or -1 for all",
                        (long long)one, (long long)classes - 1);
    if (!(m->labels = kin_calloc((size_t)n, sizeof *m->labels)))
        return kin_fail(err, KIN_ERR_MEM, "request: out of memory");
    for (int64_t i = 0; i < n; i++)
        m->labels[i] = (int32_t)(one >= 0 ? one : i % classes);
    m->params.labels = m->labels;
    return KIN_OK;
}

/* The prompt and its physics, the same for every clip. */
static kin_status set_texts(making *m, kin_error *err)
{
    const kin_request *r = &m->request;
    const kin_pipeline *p = m->g->pipeline;
    const size_t n = (size_t)m->params.count;
    const char *physics = kin_condition_physics(r->physics, p);
    const bool law = kin_condition_with_law(p, physics && strcmp(physics, "none") != 0);
    KIN_TRY(kin_condition_make(r->prompt, physics, (double)m->params.frames / m->fps, law, NULL,
                               &m->condition, err));
    m->prompts = kin_calloc(n, sizeof *m->prompts);
    m->negatives = kin_calloc(n, sizeof *m->negatives);
    m->prior = kin_calloc(n, sizeof m->condition.prior);
    m->quant = kin_calloc(n, sizeof m->condition.quant);
    if (!m->prompts || !m->negatives || !m->prior || !m->quant)
        return kin_fail(err, KIN_ERR_MEM, "request: out of memory");
    for (size_t i = 0; i < n; i++) {
        m->prompts[i] = m->condition.caption ? m->condition.caption : "";
        m->negatives[i] = r->negative ? r->negative : "";
        memcpy(m->prior + i * KIN_PHYS_CATEGORIES, m->condition.prior, sizeof m->condition.prior);
        memcpy(m->quant + i * KIN_PHYS_QUANTITIES, m->condition.quant, sizeof m->condition.quant);
    }
    m->params.prompts = m->prompts;
    m->params.negatives = m->negatives;
    if (kin_model_get_info(p->model)->categories) {
        m->params.prior = m->prior;
        m->params.quant = m->quant;
    }
    return KIN_OK;
}

static kin_status make(making *m, const kin_request *request, kin_error *err)
{
    const int64_t classes = kin_model_get_info(m->g->pipeline->model)->num_classes;
    KIN_TRY(kin_sized_get(&m->request, sizeof m->request, request, "request", err));
    KIN_TRY(check(&m->request, err));
    set_params(m);
    KIN_TRY(classes > 0 ? set_labels(m, classes, err) : set_texts(m, err));
    m->g->ctx->error = (kin_error){0};
    const size_t mark = kin_ws_mark(m->g->ctx);
    const kin_status status = kin_pipeline_generate(m->g->pipeline, &m->params);
    if (status != KIN_OK)
        *err = m->g->ctx->error;
    kin_ws_release(m->g->ctx, mark);
    return status;
}

kin_status kin_generator_run(kin_generator *g, const kin_request *request, kin_error *err)
{
    making m = {.g = g};
    kin_error why = {0};
    kin_request_init(&m.request, sizeof m.request);
    const kin_status status = make(&m, request, &why);
    kin_physics_prior_free(&m.condition);
    kin_free(m.prompts);
    kin_free(m.negatives);
    kin_free(m.prior);
    kin_free(m.quant);
    kin_free(m.labels);
    return status == KIN_OK ? KIN_OK : kin_sized_error(&why, err);
}

/* ---- files ---- */

kin_status kin_result_save(const kin_result *r, const char *path, kin_error *err)
{
    kin_video_params params = kin_video_params_default();
    kin_error why = {0};
    kin_status status = kin_video_fps(r->fps, &params.fps_num, &params.fps_den, &why);
    if (status == KIN_OK && (r->frames < 1 || r->height < 1 || r->width < 1 || !r->rgb))
        status = kin_fail(&why, KIN_ERR_ARG, "save: a clip without frames");
    if (status == KIN_OK) {
        kin_tensor frames =
            KIN_TENSOR((void *)r->rgb, KIN_DTYPE_U8, r->frames, r->height, r->width, 3);
        params.height = r->height;
        params.width = r->width;
        params.crf = CRF;
        status = kin_video_write(path, &params, &frames, &why);
    }
    return status == KIN_OK ? KIN_OK : kin_sized_error(&why, err);
}

#include "training/routing.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "diffusion/guided.h"
#include "samplers/sampler.h"
#include "training/validate.h"

enum { LEVELS = KIN_ROUTING_LEVELS };
const float kin_routing_sigma[LEVELS] = {0.9f, 0.7f, 0.5f, 0.3f, 0.1f};

typedef struct probe {
    const kin_routing_options *opt;
    kin_routing_report *out;
    kin_pipeline *pipe;
    const kin_model_info *info;
    kin_routing_stats *stats;
    int64_t done;
    /* samples from a source */
    kin_train_task task;
    kin_ddpm ddpm; /* of task.ddpm */
    kin_source *source;
    bool held_out;
    kin_batch batch;
    /* own samples */
    kin_guided guided;
} probe;

/* --- samples of a data set, or simulated --- */

static kin_status open_source(probe *s, kin_error *err)
{
    const kin_pipeline *p = s->pipe;
    const bool images = s->info->family == KIN_FAMILY_DIT;
    const char *data = s->opt->data;
    kin_train_config *c = kin_calloc(1, sizeof *c);
    if (!c)
        return kin_fail(err, KIN_ERR_MEM, "routing: out of memory");
    c->data.frames = images ? 1 : p->frames;
    c->data.height = images ? s->info->input_size : p->height;
    c->data.width = images ? s->info->input_size : p->width;
    c->data.fps = p->fps;
    if (data) {
        snprintf(c->data.path, sizeof c->data.path, "%s", data);
    } else {
        c->data.simulate = true;
        kin_sim_options_default(&c->data.sim);
        c->data.sim.frames = (int)c->data.frames;
        c->data.sim.width = (int)c->data.width;
        c->data.sim.height = (int)c->data.height;
        c->data.sim.fps = p->fps > 0 ? p->fps : c->data.sim.fps;
        c->data.sim_seed = s->opt->seed;
        c->data.held_out = s->out->samples;
    }
    kin_status status = data ? KIN_OK : kin_sim_options_check(&c->data.sim, err);
    if (status == KIN_OK)
        status = kin_source_open(c, images, NULL, NULL, &s->source, err);
    kin_free(c);
    KIN_TRY(status);
    s->out->from = data ? data : "simulated clips";
    s->held_out = kin_source_held_out(s->source) > 0;
    int64_t have = s->held_out ? kin_source_held_out(s->source) : kin_source_count(s->source);
    s->out->samples = have && have < s->out->samples ? have : s->out->samples;
    if (!images)
        kin_source_set_tokenizer(s->source, p->tokenizer, kin_pipeline_text_len(p));
    return kin_source_classes(s->source) <= s->info->num_classes || !images
               ? KIN_OK
               : kin_fail(err, KIN_ERR_ARG,
                          "routing: %lld classes in the data must be at most the model's %lld",
                          (long long)kin_source_classes(s->source),
                          (long long)s->info->num_classes);
}

static kin_status read_batch(probe *s, int64_t n, kin_error *err)
{
    s->batch.size = n;
    s->batch.first = (uint64_t)s->done;
    for (int64_t b = 0; b < n; b++) {
        kin_sample out = kin_batch_sample(&s->batch, b);
        KIN_TRY(s->held_out ? kin_source_read_held_out(s->source, s->done + b, &out, err)
                            : kin_source_read(s->source, s->done + b, &out, err));
    }
    return KIN_OK;
}

static kin_status run_levels(probe *s, int64_t n)
{
    for (int k = 0; k < LEVELS; k++) {
        kin_validation_options opt = {
            .sigmas = 1, .sigma = {kin_routing_sigma[k]}, .batch = n, .seed = s->opt->seed};
        kin_validation_result result;
        s->stats->level = k;
        KIN_TRY(kin_validate(s->pipe->ctx, &s->task, &s->batch, &opt, &result));
    }
    return KIN_OK;
}

/* --- own samples --- */

static int nearest_level(float sigma)
{
    int best = 0;
    for (int k = 1; k < LEVELS; k++)
        if (fabsf(kin_routing_sigma[k] - sigma) < fabsf(kin_routing_sigma[best] - sigma))
            best = k;
    return best;
}

static kin_status own_velocity(kin_ctx *ctx, void *user, const kin_tensor *x, float sigma, float t,
                               int step, kin_tensor *v)
{
    probe *s = user;
    if (s->opt->progress)
        KIN_TRY(s->opt->progress(s->opt->user, s->done, s->out->samples, &ctx->error));
    s->stats->level = nearest_level(t / (s->task.ddpm ? (float)s->ddpm.process.n - 1 : 1000.0f));
    return kin_guided_output(ctx, &s->guided, x, sigma, t, step, v);
}

/* Classes in turn from noise to picture, without guidance. */
static kin_status run_own(probe *s, int64_t n, kin_schedule *schedule)
{
    kin_ctx *ctx = s->pipe->ctx;
    const int64_t side = s->info->input_size;
    const kin_sampler_run_args args = {.schedule = schedule, .model = own_velocity, .user = s};
    kin_tensor x, label;
    KIN_TRY(KIN_WS(ctx, &x, KIN_DTYPE_F32, n, s->info->in_channels, side, side));
    KIN_TRY(KIN_WS_HOST(ctx, &label, KIN_DTYPE_I32, n));
    for (int64_t b = 0; b < n; b++) {
        const kin_rng rng = {s->opt->seed, KIN_RNG_VALIDATE, (uint64_t)(s->done + b), 0};
        kin_tensor row = kin_tensor_select(&x, 0, b);
        KIN_TRY(ctx->k->randn(ctx, &rng, 0, &row));
        ((int32_t *)label.data)[b] = (int32_t)((s->done + b) % s->info->num_classes);
    }
    s->guided = (kin_guided){
        .model = s->pipe->model, .raw = s->task.ddpm != NULL, .scale = 1, .label = &label};
    return kin_sampler_run(ctx, &args, &x);
}

/* --- the whole --- */

static kin_status run_part(probe *s, int64_t n, kin_schedule *schedule, kin_error *err)
{
    kin_ctx *ctx = s->pipe->ctx;
    const size_t mark = kin_ws_mark(ctx);
    if (s->source)
        KIN_TRY(read_batch(s, n, err));
    ctx->tap = kin_routing_stats_tap;
    ctx->tap_user = s->stats;
    kin_status status = s->source ? run_levels(s, n) : run_own(s, n, schedule);
    ctx->tap = NULL;
    ctx->tap_user = NULL;
    kin_ws_release(ctx, mark);
    if (status != KIN_OK)
        *err = ctx->error;
    return status;
}

/* A flow as the options say; a DDPM by DDIM, which draws nothing. */
static kin_status own_schedule(const probe *s, kin_schedule *schedule, kin_error *err)
{
    const kin_schedule_request request = {.steps = s->opt->steps};
    kin_scheduler own, ddim;
    if (!s->task.ddpm)
        return kin_schedule_flow(s->opt->steps, s->opt->shift, schedule, err);
    KIN_TRY(kin_scheduler_read(s->pipe->scheduler_config, &own, err));
    KIN_TRY(kin_sampler_choose("ddim", s->pipe->scheduler_config, &own, &ddim, err));
    ddim.eta = 0;
    return kin_schedule_make(&ddim, &request, schedule, err);
}

static kin_status run_all(probe *s, kin_schedule *schedule, kin_error *err)
{
    const int64_t samples = s->out->samples,
                  most = s->opt->batch < samples ? s->opt->batch : samples;
    if (s->source) {
        const kin_sample_shape shape = kin_source_shape(s->source);
        KIN_TRY(kin_batch_alloc(&shape, most, &s->batch, err));
    } else {
        KIN_TRY(own_schedule(s, schedule, err));
    }
    while (s->done < samples) {
        const int64_t n = samples - s->done < most ? samples - s->done : most;
        KIN_TRY(run_part(s, n, schedule, err));
        s->done += n;
        if (s->opt->progress)
            KIN_TRY(s->opt->progress(s->opt->user, s->done, samples, err));
    }
    return s->stats->odd || !s->stats->layers
               ? kin_fail(err, KIN_ERR_UNSUPPORTED,
                          "routing: the model's forward reports no routing of %lld tokens",
                          (long long)s->stats->tokens)
               : KIN_OK;
}

static kin_status make_grid(const probe *s, kin_error *err)
{
    const bool images = s->info->family == KIN_FAMILY_DIT;
    int64_t *grid = s->out->grid;
    grid[0] = images ? 1 : s->pipe->frames / s->info->patch[0];
    grid[1] = (images ? s->info->input_size : s->pipe->height) / s->info->patch[1];
    grid[2] = (images ? s->info->input_size : s->pipe->width) / s->info->patch[2];
    return grid[0] * grid[1] * grid[2] > 0
               ? KIN_OK
               : kin_fail(err, KIN_ERR_FORMAT, "routing: the model names no clip size");
}

kin_status kin_routing_measure(kin_pipeline *pipeline, const kin_routing_options *opt,
                               kin_routing_report *out, kin_error *err)
{
    kin_schedule schedule = {0};
    probe s = {.opt = opt,
               .out = out,
               .pipe = pipeline,
               .info = kin_model_get_info(pipeline->model),
               .stats = &out->stats,
               .task = {.pipe = pipeline, .seed = opt->seed}};
    kin_status status;
    *out = (kin_routing_report){.samples = opt->count};
    KIN_GOTO(kin_train_process(pipeline, &s.ddpm, &s.task, err));
    KIN_GOTO(make_grid(&s, err));
    KIN_GOTO(kin_routing_stats_init(s.stats, s.info, pipeline->params, LEVELS,
                                    out->grid[0] * out->grid[1] * out->grid[2] + s.info->has_token,
                                    err));
    if (s.info->family == KIN_FAMILY_DIT && !opt->data)
        out->from = "own sampling";
    else
        KIN_GOTO(open_source(&s, err));
    status = run_all(&s, &schedule, err);
done:
    kin_schedule_free(&schedule);
    kin_ddpm_free(&s.ddpm);
    kin_batch_free(&s.batch);
    kin_source_close(&s.source);
    return status;
}

void kin_routing_report_free(kin_routing_report *r)
{
    kin_routing_stats_free(&r->stats);
}

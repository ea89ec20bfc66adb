#include "cli/bench_step.h"

#include <string.h>

#include "base/json.h"
#include "diffusion/losses.h"
#include "diffusion/preset.h"
#include "tensor/ops.h"

kin_status kin_bench_is_training(const char *path, bool *out, kin_error *err)
{
    cJSON *json = NULL;
    *out = false;
    if (kin_path_is_dir(path) || (!kin_path_exists(path) && kin_preset_is_name(path)))
        return KIN_OK;
    KIN_TRY(kin_cli_need_input("bench", path, err));
    kin_status status = kin_json_read(path, 1 << 20, KIN_JSON_STRICT, &json, err);
    if (status != KIN_OK)
        return status == KIN_ERR_IO ? err->status = KIN_ERR_FORMAT, KIN_ERR_FORMAT : status;
    *out = cJSON_HasObjectItem(json, "data") || cJSON_HasObjectItem(json, "optimizer");
    cJSON_Delete(json);
    return KIN_OK;
}

/* A model with random weights, and AdamW with clipping and averages over them. */
static kin_status open_model(kin_bench_step *s, const char *path)
{
    static const char *const prefixes[] = {""};
    kin_error *err = &s->ctx->error;
    kin_optimizer_options opt = kin_optimizer_options_default();
    const bool plan = kin_ctx_is_plan(s->ctx);
    cJSON *config = NULL;
    opt.lr = 1e-6; /* the weights stay near their start however many steps are timed */
    KIN_TRY(kin_bench_config_read(path, &config, err));
    kin_status status = kin_bench_model_make(config, plan, true, &s->model, err);
    cJSON_Delete(config);
    KIN_TRY(status);
    kin_params *const tables[] = {s->model.params};
    if (s->ctx->device)
        KIN_TRY(kin_replay_create(s->ctx, &s->replay));
    KIN_TRY(kin_optimizer_create(&opt, tables, prefixes, 1, plan, &s->optim, err));
    return kin_optimizer_settle(s->ctx, s->optim);
}

kin_status kin_bench_step_open(kin_ctx *ctx, const char *path, const kin_bench_size *size,
                               double (*clock)(void *user), void *user, kin_bench_step *s)
{
    bool training;
    *s = (kin_bench_step){.ctx = ctx, .clock = clock, .user = user, .size = *size};
    KIN_TRY(kin_bench_is_training(path, &training, &ctx->error));
    if (training) {
        KIN_TRY(kin_train_bench_open(ctx, path, clock, user, &s->run));
        s->info = kin_train_bench_get_info(s->run);
        s->params = s->info.pipe->params;
        s->text_params = s->info.pipe->text_params;
        return KIN_OK;
    }
    KIN_TRY(open_model(s, path));
    s->params = s->model.params;
    s->info.batch = size->batch;
    s->info.optimizer_bytes = s->optim->bytes;
    return KIN_OK;
}

void kin_bench_step_close(kin_bench_step *s)
{
    kin_train_bench_close(&s->run);
    kin_replay_destroy(&s->replay);
    kin_optimizer_destroy(&s->optim);
    kin_bench_model_free(&s->model);
}

/* Noised data, times and the target of the velocity. */
typedef struct sample {
    kin_bench_input in;
    kin_tensor noise, sigma, xt, target;
} sample;

static kin_status draw(kin_bench_step *s, sample *a)
{
    kin_ctx *ctx = s->ctx;
    KIN_TRY(kin_bench_input_make(ctx, s->model.model, &s->size, &a->in));
    KIN_TRY(kin_ws_tensor(ctx, KIN_DTYPE_F32, a->in.x.ndim, a->in.x.size, &a->noise));
    const kin_rng rng = {.seed = 1, .purpose = KIN_RNG_NOISE, .step = s->steps};
    KIN_TRY(ctx->k->randn(ctx, &rng, 0, &a->noise));
    KIN_TRY(kin_scale(ctx, &a->in.t, 1e-3f, &a->sigma));
    KIN_TRY(kin_flow_mix(ctx, &a->in.x, &a->noise, &a->sigma, &a->xt, &a->target));
    a->in.in.x = &a->xt;
    return KIN_OK;
}

typedef struct denoising {
    kin_bench_step *s;
    sample *a;
    kin_objective_terms terms;
    double forward_done;
} denoising;

static kin_status taped(denoising *d)
{
    kin_bench_step *s = d->s;
    sample *a = d->a;
    const kin_objective_options opt = kin_objective_options_default();
    const kin_model *model = s->model.model;
    kin_model_output out;
    kin_objective_input in = {
        .xt = &a->xt, .x0 = &a->in.x, .target = &a->target, .sigma = &a->sigma};
    if (kin_model_get_info(model)->has_classifier)
        in.prior = &a->in.prior;
    KIN_TRY(kin_model_forward(s->ctx, model, &a->in.in, &out));
    KIN_TRY(kin_objective(s->ctx, model, &opt, &in, &out, &d->terms));
    d->forward_done = s->clock(s->user);
    return kin_tape_backward(s->ctx, &d->terms.total, NULL, 1);
}

static kin_status run_denoising(kin_ctx *ctx, void *user)
{
    KIN_TRY(kin_tape_begin(ctx));
    const kin_status status = taped(user);
    kin_tape_end(ctx);
    return status;
}

/* Forward and backward, played where they were recorded: then both count as backward. */
static kin_status denoise(denoising *d)
{
    const kin_bench_input *in = &d->a->in;
    const kin_params *const tables[] = {d->s->params};
    const kin_tensor *const reads[] = {&d->a->xt,  &in->x,    &d->a->target, &d->a->sigma,
                                       &in->t,     &in->text, &in->label,    &in->null,
                                       &in->prior, &in->quant};
    d->forward_done = d->s->clock(d->s->user);
    return kin_replay_run(d->s->replay, d->s->ctx,
                          &(kin_replay_work){.fn = run_denoising,
                                             .user = d,
                                             .reads = reads,
                                             .count = sizeof reads / sizeof *reads,
                                             .params = tables,
                                             .tables = 1,
                                             .result = &d->terms,
                                             .bytes = sizeof d->terms});
}

static kin_status model_step(kin_bench_step *s, kin_train_phases *out)
{
    kin_ctx *ctx = s->ctx;
    const size_t mark = kin_ws_mark(ctx);
    kin_optimizer_report report;
    double t[5] = {s->clock(s->user)};
    sample a;
    denoising d = {.s = s, .a = &a};
    kin_status status;
    KIN_GOTO(draw(s, &a));
    s->info.tokens = a.in.tokens;
    t[1] = s->clock(s->user);
    KIN_GOTO(denoise(&d));
    t[2] = d.forward_done;
    t[3] = s->clock(s->user);
    KIN_GOTO(kin_optimizer_step(ctx, s->optim, 1.0, &report)); /* leaves the gradients at 0 */
    t[4] = s->clock(s->user);
    s->steps++;
    *out = (kin_train_phases){.data = t[1] - t[0],
                              .forward = t[2] - t[1],
                              .backward = t[3] - t[2],
                              .optimizer = t[4] - t[3]};
done:
    kin_ws_release(ctx, mark);
    return status;
}

kin_status kin_bench_step_run(kin_bench_step *s, kin_train_phases *phases)
{
    return s->run ? kin_train_bench_step(s->run, phases) : model_step(s, phases);
}

long kin_bench_step_played(const kin_bench_step *s)
{
    return s->run ? kin_train_bench_get_info(s->run).played : kin_replay_count(s->replay).played;
}

#include "training/objective.h"

#include <math.h>
#include <string.h>

#include "training/recording.h"
#include "vision/frames.h"

static kin_status check_model(kin_ctx *ctx, const kin_model_info *info, const kin_batch *batch)
{
    const kin_sample_shape *s = &batch->shape;
    const int64_t size[3] = {s->frames, s->height, s->width};
    const int64_t channels = s->latent ? s->latent : 3;
    if (info->in_channels != channels)
        return kin_fail(&ctx->error, KIN_ERR_ARG, "train: in_channels %lld must be %lld (%s)",
                        (long long)info->in_channels, (long long)channels,
                        s->latent ? "those of the cached latents" : "pixel space");
    for (int i = 0; i < 3; i++)
        if (size[i] % info->patch[i])
            return kin_fail(&ctx->error, KIN_ERR_ARG,
                            "train: clip size %lld must be a multiple of patch %d",
                            (long long)size[i], info->patch[i]);
    return KIN_OK;
}

static kin_status make_x0(kin_ctx *ctx, const kin_batch *batch, bool image, kin_tensor *x0)
{
    const kin_sample_shape *s = &batch->shape;
    const int64_t n = batch->size;
    KIN_TRY(KIN_WS_HOST(ctx, x0, KIN_DTYPE_F32, n, 3, s->frames, s->height, s->width));
    for (int64_t b = 0; b < n && !kin_ctx_is_plan(ctx); b++) {
        kin_tensor frames = KIN_TENSOR(batch->frames + (size_t)b * kin_sample_frame_bytes(s),
                                       KIN_DTYPE_U8, s->frames, s->height, s->width, 3);
        kin_tensor x = kin_tensor_select(x0, 0, b);
        KIN_TRY(kin_frames_to_tensor(&frames, &x, &ctx->error));
    }
    if (image)
        *x0 = KIN_RESHAPE(x0, n, 3, s->height, s->width);
    return KIN_OK;
}

void kin_train_posterior(const kin_train_task *task, const kin_sample_shape *shape,
                         const float *moments, float *z)
{
    const int64_t plane = shape->frames * shape->height * shape->width,
                  half = shape->latent * plane;
    for (int64_t c = 0; c < shape->latent; c++) {
        const float offset = task->latent_mean ? task->latent_mean[c] : 0.0f,
                    factor = task->latent_inv_std ? task->latent_inv_std[c] : 1.0f;
        for (int64_t i = c * plane; i < (c + 1) * plane; i++) {
            const float mean = (moments[i] - offset) * factor,
                        logvar = (moments[half + i] - offset) * factor;
            const float deviation = expf(0.5f * fminf(fmaxf(logvar, -30.0f), 20.0f));
            z[i] = (mean + deviation * z[i] - task->latent_shift) * task->latent_scale;
        }
    }
}

/* x0 drawn from the cached posterior of each sample: images [B,C,h,w], clips [B,C,f,h,w]. */
static kin_status draw_latents(kin_ctx *ctx, const kin_train_task *task, const kin_batch *batch,
                               uint32_t step, bool image, kin_tensor *x0)
{
    const kin_sample_shape *s = &batch->shape;
    if (image)
        KIN_TRY(KIN_WS_HOST(ctx, x0, KIN_DTYPE_F32, batch->size, s->latent, s->height, s->width));
    else
        KIN_TRY(KIN_WS_HOST(ctx, x0, KIN_DTYPE_F32, batch->size, s->latent, s->frames, s->height,
                            s->width));
    for (int64_t b = 0; b < batch->size; b++) {
        const kin_rng rng = {task->seed, KIN_RNG_LATENT, batch->first + (uint64_t)b, step};
        kin_tensor z = kin_tensor_select(x0, 0, b);
        KIN_TRY(ctx->k->randn(ctx, &rng, 0, &z));
        if (!kin_ctx_is_plan(ctx))
            kin_train_posterior(task, s, batch->moments + b * kin_sample_moments(s), z.data);
    }
    return KIN_OK;
}

kin_status kin_train_process(const kin_pipeline *p, kin_ddpm *ddpm, kin_train_task *task,
                             kin_error *err)
{
    kin_scheduler s;
    bool flow;
    task->ddpm = NULL;
    KIN_TRY(kin_pipeline_is_flow(p, &flow, err));
    if (flow)
        return KIN_OK;
    KIN_TRY(kin_scheduler_read(p->scheduler_config, &s, err));
    KIN_TRY(kin_ddpm_of_scheduler(&s, ddpm, err));
    task->ddpm = ddpm;
    return KIN_OK;
}

/* A workspace copy of host values. */
static kin_status upload(kin_ctx *ctx, kin_dtype dtype, const void *data, int64_t a, int64_t b,
                         kin_tensor *out)
{
    if (b > 0)
        KIN_TRY(KIN_WS_HOST(ctx, out, dtype, a, b));
    else
        KIN_TRY(KIN_WS_HOST(ctx, out, dtype, a));
    if (!kin_ctx_is_plan(ctx))
        memcpy(out->data, data, (size_t)kin_tensor_numel(out) * kin_dtype_size(dtype));
    return KIN_OK;
}

kin_status kin_train_clean(kin_ctx *ctx, const kin_train_task *task, const kin_batch *batch,
                           uint32_t step, kin_train_inputs *in)
{
    const kin_model_info *info = kin_model_get_info(task->pipe->model);
    const int64_t n = batch->size, text = batch->shape.text_len;
    memset(in, 0, sizeof *in);
    KIN_TRY(check_model(ctx, info, batch));
    KIN_TRY(batch->shape.latent
                ? draw_latents(ctx, task, batch, step, info->input_size > 0, &in->x0)
                : make_x0(ctx, batch, info->input_size > 0, &in->x0));
    if (info->family == KIN_FAMILY_VAE)
        return KIN_OK;
    if (info->input_size)
        return upload(ctx, KIN_DTYPE_I32, batch->label, n, 0, &in->label);
    if (batch->shape.state_dim) {
        KIN_TRY(upload(ctx, KIN_DTYPE_F32, batch->states, n, text * batch->shape.state_dim,
                       &in->states));
        in->states = KIN_RESHAPE(&in->states, n, text, batch->shape.state_dim);
    } else {
        KIN_TRY(upload(ctx, KIN_DTYPE_I32, batch->ids, n, text, &in->ids));
        KIN_TRY(upload(ctx, KIN_DTYPE_U8, batch->mask, n, text, &in->mask));
    }
    KIN_TRY(upload(ctx, KIN_DTYPE_U8, batch->empty, n, 0, &in->null));
    if (info->categories == 0)
        return KIN_OK;
    KIN_TRY(upload(ctx, KIN_DTYPE_F32, batch->prior, n, KIN_PHYS_CATEGORIES, &in->true_prior));
    KIN_TRY(upload(ctx, KIN_DTYPE_F32, batch->prior, n, KIN_PHYS_CATEGORIES, &in->prior));
    return upload(ctx, KIN_DTYPE_F32, batch->quant, n, KIN_PHYS_QUANTITIES, &in->quant);
}

static void drop_text(const kin_train_task *task, kin_train_inputs *in, int64_t b)
{
    const int64_t n = in->ids.size[1];
    memcpy((int32_t *)in->ids.data + b * n, task->null_text.ids, (size_t)n * sizeof(int32_t));
    memcpy((uint8_t *)in->mask.data + b * n, task->null_text.mask, (size_t)n);
    ((uint8_t *)in->null.data)[b] = 1;
}

static void zero_row(const kin_tensor *t, int64_t b)
{
    if (t->data)
        memset((float *)t->data + b * t->size[1], 0, (size_t)t->size[1] * sizeof(float));
}

static void drop_conditions(const kin_train_task *task, const kin_batch *batch, uint32_t step,
                            kin_train_inputs *in)
{
    const kin_model_info *info = kin_model_get_info(task->pipe->model);
    for (int64_t b = 0; b < batch->size; b++) {
        const kin_rng rng = {task->seed, KIN_RNG_DROPOUT, batch->first + (uint64_t)b, step};
        const kin_condition_drop d = kin_condition_dropout_draw(&task->objective, &rng);
        if (d.all && in->label.data)
            ((int32_t *)in->label.data)[b] = (int32_t)info->num_classes;
        if (d.all && in->ids.data)
            drop_text(task, in, b);
        if (d.prior)
            zero_row(&in->prior, b);
        if (d.quant)
            zero_row(&in->quant, b);
    }
}

static void set_step(const kin_train_task *task, kin_train_inputs *in, int64_t b, int32_t index)
{
    const kin_process *p = &task->ddpm->process;
    ((int32_t *)in->index.data)[b] = index;
    ((float *)in->t.data)[b] = (float)p->time[index];
    ((float *)in->sigma.data)[b] = (float)sqrt(1.0 - p->ab[index]);
}

static kin_status make_times(kin_ctx *ctx, int64_t batch, kin_train_inputs *in)
{
    KIN_TRY(KIN_WS_HOST(ctx, &in->sigma, KIN_DTYPE_F32, batch));
    KIN_TRY(KIN_WS_HOST(ctx, &in->t, KIN_DTYPE_F32, batch));
    return KIN_WS_HOST(ctx, &in->index, KIN_DTYPE_I32, batch);
}

kin_status kin_train_mix(kin_ctx *ctx, const kin_train_task *task, kin_train_inputs *in)
{
    if (task->levels && task->levels->ab) {
        in->target = in->x0;
        return kin_levels_mix(ctx, task->levels, &in->x0, &in->noise, &in->t, &in->ab, &in->xt);
    }
    if (task->ddpm)
        return kin_ddpm_mix(ctx, task->ddpm, &in->x0, &in->noise, in->index.data, &in->xt,
                            &in->target);
    return kin_flow_mix(ctx, &in->x0, &in->noise, &in->sigma, &in->xt, &in->target);
}

kin_status kin_train_noise_at(kin_ctx *ctx, const kin_train_task *task, float sigma,
                              kin_train_inputs *in)
{
    KIN_TRY(make_times(ctx, in->x0.size[0], in));
    for (int64_t b = 0; b < in->x0.size[0] && !kin_ctx_is_plan(ctx); b++) {
        if (task->ddpm) {
            set_step(task, in, b, (int32_t)lrintf(sigma * (float)(task->ddpm->process.n - 1)));
            continue;
        }
        float *level = (float *)in->sigma.data + b, *t = (float *)in->t.data + b;
        if (task->levels)
            kin_levels_at(task->levels, 1.0f - sigma, level, t);
        else {
            *level = sigma;
            *t = 1000.0f * sigma;
        }
    }
    return kin_train_mix(ctx, task, in);
}

static void draw_times(const kin_train_task *task, const kin_batch *batch, uint32_t step,
                       kin_train_inputs *in)
{
    for (int64_t b = 0; b < batch->size; b++) {
        const kin_rng rng = {task->seed, KIN_RNG_TIME, batch->first + (uint64_t)b, step};
        if (task->ddpm) {
            set_step(task, in, b,
                     (int32_t)kin_rng_index_at(&rng, 0, (uint64_t)task->ddpm->process.n));
            continue;
        }
        const float u = kin_time_draw(&task->objective, &rng);
        float *sigma = (float *)in->sigma.data + b, *t = (float *)in->t.data + b;
        if (task->levels) {
            kin_levels_at(task->levels, u, sigma, t);
            continue;
        }
        *sigma = kin_time_sigma(task->objective.shift, u);
        *t = 1000.0f * *sigma;
    }
}

static kin_status draw_noise(kin_ctx *ctx, const kin_train_task *task, const kin_batch *batch,
                             uint32_t step, kin_train_inputs *in)
{
    KIN_TRY(kin_ws_tensor(ctx, KIN_DTYPE_F32, in->x0.ndim, in->x0.size, &in->noise));
    for (int64_t b = 0; b < batch->size; b++) {
        const kin_rng rng = {task->seed, KIN_RNG_NOISE, batch->first + (uint64_t)b, step};
        kin_tensor y = kin_tensor_select(&in->noise, 0, b);
        KIN_TRY(ctx->k->randn(ctx, &rng, 0, &y));
    }
    return KIN_OK;
}

static kin_status draw_flips(kin_ctx *ctx, const kin_train_task *task, const kin_batch *batch,
                             uint32_t step, kin_train_inputs *in)
{
    const kin_model_info *info = kin_model_get_info(task->pipe->model);
    const int64_t heads = info->phys_heads, n = batch->size;
    if (info->phys_blocks == 0 || info->mopa_flip <= 0)
        return KIN_OK;
    KIN_TRY(KIN_WS_HOST(ctx, &in->u, KIN_DTYPE_F32, info->phys_blocks, n, heads));
    for (int64_t b = 0; b < n && !kin_ctx_is_plan(ctx); b++) {
        const kin_rng rng = {task->seed, KIN_RNG_MOPA, batch->first + (uint64_t)b, step};
        for (int64_t l = 0; l < info->phys_blocks; l++)
            kin_rng_uniform(&rng, (uint64_t)(l * heads), heads,
                            (float *)in->u.data + (l * n + b) * heads);
    }
    return KIN_OK;
}

kin_status kin_train_draw(kin_ctx *ctx, const kin_train_task *task, const kin_batch *batch,
                          uint32_t step, kin_train_inputs *in)
{
    KIN_TRY(kin_train_clean(ctx, task, batch, step, in));
    KIN_TRY(make_times(ctx, batch->size, in));
    if (!kin_ctx_is_plan(ctx)) {
        draw_times(task, batch, step, in);
        drop_conditions(task, batch, step, in);
    }
    KIN_TRY(draw_flips(ctx, task, batch, step, in));
    KIN_TRY(draw_noise(ctx, task, batch, step, in));
    return kin_train_mix(ctx, task, in);
}

kin_status kin_train_encode(kin_ctx *ctx, const kin_train_task *task, const kin_train_inputs *in,
                            kin_tensor *states)
{
    (void)ctx;
    *states = in->states;
    if (in->keep.data)
        return kin_pipeline_encode_kept(task->pipe, &in->ids, &in->mask, &in->keep, states);
    return in->ids.data ? kin_pipeline_encode_ids(task->pipe, &in->ids, &in->mask, states) : KIN_OK;
}

static const kin_tensor *maybe(const kin_tensor *t)
{
    return t->data ? t : NULL;
}

kin_status kin_train_forward(kin_ctx *ctx, const kin_train_task *task, const kin_train_inputs *in,
                             const kin_tensor *text, kin_model_output *out)
{
    const kin_model_input args = {.x = &in->xt,
                                  .t = &in->t,
                                  .label = maybe(&in->label),
                                  .text = maybe(text),
                                  .null = maybe(&in->null),
                                  .prior = maybe(&in->prior),
                                  .quant = maybe(&in->quant),
                                  .u = maybe(&in->u),
                                  .gates = maybe(&in->gates)};
    return kin_model_forward(ctx, task->pipe->model, &args, out);
}

/* n terms of a loss together (0 for one without data); the first is the loss itself, which must be
 * finite. */
static kin_status read_terms(kin_ctx *ctx, const kin_tensor *const *t, int n, double *v)
{
    KIN_TRY(kin_scalars(ctx, t, n, v));
    return isfinite(v[0]) ? KIN_OK
                          : kin_fail(&ctx->error, KIN_ERR_NUMERIC, "loss %g must be finite", v[0]);
}

static kin_status add_losses(kin_ctx *ctx, const kin_objective_terms *terms, kin_train_losses *sum)
{
    const kin_tensor *const all[] = {&terms->total, &terms->flow,       &terms->vb,
                                     &terms->bce,   &terms->classifier, &terms->aux};
    enum { TERMS = sizeof all / sizeof *all };
    double v[TERMS];
    KIN_TRY(read_terms(ctx, all, TERMS, v));
    sum->total += v[0];
    sum->flow += v[1];
    sum->vb += v[2];
    sum->bce += v[3];
    sum->classifier += v[4];
    sum->aux += v[5];
    sum->has_flow = true;
    sum->has_vb |= terms->vb.data != NULL;
    sum->has_bce |= terms->bce.data != NULL;
    sum->has_aux |= terms->aux.data != NULL;
    return KIN_OK;
}

static kin_status run_backward(kin_ctx *ctx, const kin_train_task *task, const kin_train_inputs *in,
                               const kin_tensor *text, kin_objective_terms *terms)
{
    kin_model_output out;
    const kin_objective_input objective = {.xt = &in->xt,
                                           .x0 = &in->x0,
                                           .target = &in->target,
                                           .sigma = &in->sigma,
                                           .weight = maybe(&in->weight),
                                           .ddpm = task->ddpm,
                                           .index = in->index.data,
                                           .ab = maybe(&in->ab),
                                           .prior = maybe(&in->true_prior)};
    KIN_TRY(kin_train_forward(ctx, task, in, text, &out));
    KIN_TRY(kin_objective(ctx, task->pipe->model, &task->objective, &objective, &out, terms));
    if (task->forward_done)
        task->forward_done(task->user);
    return kin_tape_backward(ctx, &terms->total, NULL, 1);
}

kin_status kin_train_backward(kin_ctx *ctx, const kin_train_task *task, const kin_train_inputs *in,
                              const kin_tensor *text, kin_train_losses *sum)
{
    kin_objective_terms terms;
    KIN_TRY(run_backward(ctx, task, in, text, &terms));
    /* note: only now: a device would wait for the backward pass to be launched */
    return kin_ctx_is_plan(ctx) ? KIN_OK : add_losses(ctx, &terms, sum);
}

typedef struct denoising {
    const kin_train_task *task;
    const kin_train_inputs *in;
    kin_objective_terms terms;
} denoising;

/* Forward, loss, backward, with a tape of their own. */
static kin_status run_denoising(kin_ctx *ctx, void *user)
{
    denoising *d = user;
    kin_tensor text;
    KIN_TRY(kin_tape_begin(ctx));
    kin_status status = kin_train_encode(ctx, d->task, d->in, &text);
    if (status == KIN_OK)
        status = run_backward(ctx, d->task, d->in, &text, &d->terms);
    kin_tape_end(ctx);
    return status;
}

/* The same, played where it was recorded. */
static kin_status replay_denoising(kin_ctx *ctx, denoising *d, kin_train_inputs *in)
{
    const kin_tensor *reads[KIN_TRAIN_READS];
    const kin_params *const tables[] = {d->task->pipe->params, d->task->pipe->text_params};
    KIN_TRY(kin_train_settle(ctx, d->task, in, reads));
    if (d->task->forward_done)
        d->task->forward_done(d->task->user);
    return kin_replay_run(d->task->replay, ctx,
                          &(kin_replay_work){.fn = run_denoising,
                                             .user = d,
                                             .reads = reads,
                                             .count = KIN_TRAIN_READS,
                                             .params = tables,
                                             .tables = 2,
                                             .result = &d->terms,
                                             .bytes = sizeof d->terms});
}

static kin_status denoise(kin_ctx *ctx, const kin_train_task *task, kin_train_inputs *in,
                          kin_train_losses *sum)
{
    denoising d = {.task = task, .in = in};
    KIN_TRY(kin_train_recordable(ctx, task) ? replay_denoising(ctx, &d, in)
                                            : run_denoising(ctx, &d));
    /* note: only now: a device would wait for the backward pass to be launched */
    return kin_ctx_is_plan(ctx) ? KIN_OK : add_losses(ctx, &d.terms, sum);
}

int64_t kin_train_right_labels(const kin_tensor *logits, const int32_t *label)
{
    const int64_t n = logits->size[1];
    int64_t right = 0;
    for (int64_t b = 0; b < logits->size[0]; b++) {
        const float *x = (const float *)logits->data + b * n;
        int64_t best = 0;
        for (int64_t c = 1; c < n; c++)
            best = x[c] > x[best] ? c : best;
        right += best == label[b];
    }
    return right;
}

static kin_status classify(kin_ctx *ctx, const kin_train_task *task, const kin_train_inputs *in,
                           kin_train_losses *sum)
{
    const kin_model_input args = {.x = &in->x0};
    kin_model_output out;
    kin_tensor loss;
    KIN_TRY(kin_model_forward(ctx, task->pipe->model, &args, &out));
    KIN_TRY(kin_cross_entropy(ctx, &out.logits, &in->label, NULL, &loss));
    if (!kin_ctx_is_plan(ctx)) {
        const kin_tensor *const all[] = {&loss};
        kin_tensor logits;
        double total;
        KIN_TRY(read_terms(ctx, all, 1, &total));
        sum->total += total;
        KIN_TRY(kin_host(ctx, &out.logits, &logits));
        sum->accuracy +=
            (double)kin_train_right_labels(&logits, in->label.data) / (double)in->label.size[0];
        sum->has_accuracy = true;
    }
    if (task->forward_done)
        task->forward_done(task->user);
    return kin_tape_backward(ctx, &loss, NULL, 1);
}

/* noise [B,L,...] of the posterior, sample by sample */
static kin_status latent_noise(kin_ctx *ctx, const kin_train_task *task, const kin_batch *batch,
                               uint32_t step, const kin_tensor *x, kin_tensor *noise)
{
    KIN_TRY(kin_vae_objective_shape(ctx, kin_model_vae(task->pipe->model), x, noise));
    for (int64_t b = 0; b < batch->size; b++) {
        const kin_rng rng = {task->seed, KIN_RNG_LATENT, batch->first + (uint64_t)b, step};
        kin_tensor z = kin_tensor_select(noise, 0, b);
        KIN_TRY(ctx->k->randn(ctx, &rng, 0, &z));
    }
    return KIN_OK;
}

static kin_status reconstruct(kin_ctx *ctx, const kin_train_task *task, const kin_train_inputs *in,
                              kin_train_losses *sum)
{
    kin_vae_losses l;
    KIN_TRY(kin_vae_objective_losses(ctx, kin_model_vae(task->pipe->model), &task->vae, &in->x0,
                                     &in->noise, &l));
    if (!kin_ctx_is_plan(ctx)) {
        const kin_tensor *const all[] = {&l.total, &l.rec, &l.kl};
        double v[3];
        KIN_TRY(read_terms(ctx, all, 3, v));
        sum->total += v[0];
        sum->rec += v[1];
        sum->kl += v[2];
        sum->has_rec = true;
    }
    if (task->forward_done)
        task->forward_done(task->user);
    return kin_tape_backward(ctx, &l.total, NULL, 1);
}

static kin_status draw_inputs(kin_ctx *ctx, const kin_train_task *task, const kin_batch *batch,
                              uint32_t step, kin_train_inputs *in)
{
    const kin_family family = kin_model_get_info(task->pipe->model)->family;
    if (family != KIN_FAMILY_CLASSIFIER && family != KIN_FAMILY_VAE)
        return kin_train_draw(ctx, task, batch, step, in);
    KIN_TRY(kin_train_clean(ctx, task, batch, step, in));
    return family == KIN_FAMILY_VAE ? latent_noise(ctx, task, batch, step, &in->x0, &in->noise)
                                    : KIN_OK;
}

/* Classifiers and autoencoders, whose losses the host looks at. */
static kin_status run_other(kin_ctx *ctx, const kin_train_task *task, const kin_train_inputs *in,
                            kin_train_losses *sum)
{
    const bool vae = kin_model_get_info(task->pipe->model)->family == KIN_FAMILY_VAE;
    KIN_TRY(kin_tape_begin(ctx));
    const kin_status status = vae ? reconstruct(ctx, task, in, sum) : classify(ctx, task, in, sum);
    kin_tape_end(ctx);
    return status;
}

kin_status kin_train_micro_step(kin_ctx *ctx, const kin_train_task *task, const kin_batch *batch,
                                uint32_t step, kin_train_losses *sum)
{
    const size_t mark = kin_ws_mark(ctx);
    kin_train_inputs in;
    kin_status status = KIN_OK;
    KIN_GOTO(draw_inputs(ctx, task, batch, step, &in));
    switch (kin_model_get_info(task->pipe->model)->family) {
    case KIN_FAMILY_CLASSIFIER:
    case KIN_FAMILY_VAE: status = run_other(ctx, task, &in, sum); break;
    default: status = denoise(ctx, task, &in, sum); break;
    }
done:
    kin_ws_release(ctx, mark);
    return status;
}

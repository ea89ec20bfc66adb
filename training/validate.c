#include "training/validate.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "physics/quantity.h"

kin_status kin_validation_read(kin_source *source, kin_batch *out, kin_error *err)
{
    const kin_sample_shape shape = kin_source_shape(source);
    const int64_t n = kin_source_held_out(source);
    memset(out, 0, sizeof *out);
    if (n == 0)
        return KIN_OK;
    KIN_TRY(kin_batch_alloc(&shape, n, out, err));
    for (int64_t i = 0; i < n; i++) {
        kin_sample s = kin_batch_sample(out, i);
        kin_status status = kin_source_read_held_out(source, i, &s, err);
        if (status != KIN_OK) {
            kin_batch_free(out);
            return status;
        }
    }
    return KIN_OK;
}

kin_batch kin_batch_part(const kin_batch *all, int64_t at, int64_t n)
{
    const kin_sample s = kin_batch_sample(all, at);
    kin_batch part = *all;
    part.size = n;
    part.first = all->first + (uint64_t)at;
    part.frames = s.frames;
    part.moments = s.moments;
    part.ids = s.ids;
    part.mask = s.mask;
    part.prior = s.prior;
    part.quant = s.quant;
    part.empty = s.empty;
    part.label = s.label;
    part.block = NULL;
    return part;
}

/* Prompts (labels) of the following samples instead of their own. */
static void take_next(const kin_batch *all, int64_t at, kin_train_inputs *in)
{
    const int64_t n = in->x0.size[0], len = all->shape.text_len;
    for (int64_t b = 0; b < n; b++) {
        const kin_sample s = kin_batch_sample(all, (at + b + 1) % all->size);
        if (in->label.data)
            ((int32_t *)in->label.data)[b] = *s.label;
        if (!in->ids.data)
            continue;
        memcpy((int32_t *)in->ids.data + b * len, s.ids, (size_t)len * sizeof(int32_t));
        memcpy((uint8_t *)in->mask.data + b * len, s.mask, (size_t)len);
        ((uint8_t *)in->null.data)[b] = *s.empty;
    }
}

static kin_status fixed_noise(kin_ctx *ctx, uint64_t seed, const kin_batch *part,
                              kin_train_inputs *in)
{
    KIN_TRY(kin_ws_tensor(ctx, KIN_DTYPE_F32, in->x0.ndim, in->x0.size, &in->noise));
    for (int64_t b = 0; b < part->size; b++) {
        const kin_rng rng = {seed, KIN_RNG_VALIDATE, part->first + (uint64_t)b, 0};
        kin_tensor y = kin_tensor_select(&in->noise, 0, b);
        KIN_TRY(ctx->k->randn(ctx, &rng, 0, &y));
    }
    return KIN_OK;
}

static kin_status error_at(kin_ctx *ctx, const kin_train_task *task, kin_train_inputs *in,
                           const kin_tensor *text, float sigma, double *error, double *vb)
{
    const size_t mark = kin_ws_mark(ctx);
    const int64_t n = in->x0.size[0];
    kin_model_output out;
    kin_tensor v, loss;
    double value;
    kin_status status = KIN_OK;
    KIN_GOTO(kin_train_noise_at(ctx, task, sigma, in));
    KIN_GOTO(kin_train_forward(ctx, task, in, text, &out));
    if (task->ddpm) {
        kin_ddpm_terms terms;
        const kin_ddpm_input ddpm = {
            .x0 = &in->x0, .xt = &in->xt, .target = &in->target, .index = in->index.data};
        KIN_GOTO(kin_ddpm_loss(ctx, task->ddpm, &ddpm, &out.y, &terms));
        loss = terms.mse;
        if (terms.vb.data && !kin_ctx_is_plan(ctx)) {
            KIN_GOTO(kin_scalar(ctx, &terms.vb, &value));
            *vb += value * (double)n;
        }
    } else if (in->ab.data) {
        KIN_GOTO(kin_clean_of_v(ctx, &in->xt, &out.y, &in->ab, &v));
        KIN_GOTO(kin_mse(ctx, &v, &in->x0, NULL, &loss));
    } else {
        KIN_GOTO(kin_model_velocity(ctx, task->pipe->model, &in->xt, &out.y, &in->sigma, &v));
        KIN_GOTO(kin_mse(ctx, &v, &in->target, NULL, &loss));
    }
    if (!kin_ctx_is_plan(ctx)) {
        KIN_GOTO(kin_scalar(ctx, &loss, &value));
        *error += value * (double)n;
    }
done:
    kin_ws_release(ctx, mark);
    return status;
}

static kin_status validate_part(kin_ctx *ctx, const kin_train_task *task, const kin_batch *all,
                                int64_t at, int64_t n, const kin_validation_options *opt,
                                kin_validation_result *sum)
{
    const size_t mark = kin_ws_mark(ctx);
    const kin_batch part = kin_batch_part(all, at, n);
    kin_train_inputs in;
    kin_tensor text;
    kin_status status = KIN_OK;
    KIN_GOTO(kin_train_clean(ctx, task, &part, 0, &in));
    if (opt->shuffled && !kin_ctx_is_plan(ctx))
        take_next(all, at, &in);
    KIN_GOTO(fixed_noise(ctx, opt->seed, &part, &in));
    KIN_GOTO(kin_train_encode(ctx, task, &in, &text));
    for (int i = 0; i < opt->sigmas; i++)
        KIN_GOTO(error_at(ctx, task, &in, &text, opt->sigma[i], &sum->at[i], &sum->vb[i]));
done:
    kin_ws_release(ctx, mark);
    return status;
}

kin_status kin_validate(kin_ctx *ctx, const kin_train_task *task, const kin_batch *held_out,
                        const kin_validation_options *opt, kin_validation_result *out)
{
    *out = (kin_validation_result){0};
    for (int64_t at = 0; at < held_out->size; at += opt->batch) {
        const int64_t left = held_out->size - at;
        KIN_TRY(validate_part(ctx, task, held_out, at, left < opt->batch ? left : opt->batch, opt,
                              out));
    }
    for (int i = 0; i < opt->sigmas; i++) {
        out->at[i] /= (double)held_out->size;
        out->vb[i] /= (double)held_out->size;
        out->mean += out->at[i] / opt->sigmas;
    }
    return KIN_OK;
}

static kin_status classes_of_part(kin_ctx *ctx, const kin_train_task *task, const kin_batch *part,
                                  double *loss, int64_t *right)
{
    const size_t mark = kin_ws_mark(ctx);
    kin_train_inputs in;
    kin_model_output out;
    kin_tensor mean;
    kin_status status = KIN_OK;
    KIN_GOTO(kin_train_clean(ctx, task, part, 0, &in));
    const kin_model_input args = {.x = &in.x0};
    KIN_GOTO(kin_model_forward(ctx, task->pipe->model, &args, &out));
    KIN_GOTO(kin_cross_entropy(ctx, &out.logits, &in.label, NULL, &mean));
    *loss += kin_tensor_get(&mean, 0) * (double)part->size;
    *right += kin_train_right_labels(&out.logits, part->label);
done:
    kin_ws_release(ctx, mark);
    return status;
}

kin_status kin_validate_classes(kin_ctx *ctx, const kin_train_task *task, const kin_batch *held_out,
                                int64_t batch, double *loss, double *accuracy)
{
    const int64_t n = held_out->size;
    int64_t right = 0;
    *loss = 0;
    for (int64_t at = 0; at < n; at += batch) {
        const kin_batch part = kin_batch_part(held_out, at, n - at < batch ? n - at : batch);
        KIN_TRY(classes_of_part(ctx, task, &part, loss, &right));
    }
    *loss /= (double)n;
    *accuracy = (double)right / (double)n;
    return KIN_OK;
}

static kin_status vae_of_part(kin_ctx *ctx, const kin_train_task *task, const kin_batch *part,
                              double sum[3])
{
    const size_t mark = kin_ws_mark(ctx);
    const kin_vae *vae = kin_model_vae(task->pipe->model);
    kin_train_inputs in;
    kin_vae_losses l;
    kin_status status = KIN_OK;
    KIN_GOTO(kin_train_clean(ctx, task, part, 0, &in));
    KIN_GOTO(kin_vae_objective_shape(ctx, vae, &in.x0, &in.noise));
    KIN_GOTO(kin_fill(ctx, &in.noise, 0));
    KIN_GOTO(kin_vae_objective_losses(ctx, vae, &task->vae, &in.x0, &in.noise, &l));
    const kin_tensor *const loss[3] = {&l.total, &l.rec, &l.kl};
    for (int i = 0; i < 3 && !kin_ctx_is_plan(ctx); i++)
        sum[i] += kin_tensor_get(loss[i], 0) * (double)part->size;
done:
    kin_ws_release(ctx, mark);
    return status;
}

kin_status kin_validate_vae(kin_ctx *ctx, const kin_train_task *task, const kin_batch *held_out,
                            int64_t batch, double *total, double *rec, double *kl)
{
    const int64_t n = held_out->size;
    double sum[3] = {0};
    for (int64_t at = 0; at < n; at += batch) {
        const kin_batch part = kin_batch_part(held_out, at, n - at < batch ? n - at : batch);
        KIN_TRY(vae_of_part(ctx, task, &part, sum));
    }
    *total = sum[0] / (double)n;
    *rec = sum[1] / (double)n;
    *kl = sum[2] / (double)n;
    return KIN_OK;
}

/* Statistics of SiLU(h), h [n,units]. */
static void layer_stats(const kin_tensor *h, double *mean, double *spread)
{
    const int64_t n = h->size[0], units = h->size[1];
    const float *x = h->data;
    double total = 0, var = 0;
    for (int64_t j = 0; j < units; j++) {
        double s = 0, s2 = 0;
        for (int64_t i = 0; i < n; i++) {
            const double v = (double)x[i * units + j], a = v / (1 + exp(-v));
            total += v;
            s += a;
            s2 += a * a;
        }
        var += fmax(0, s2 / (double)n - s / (double)n * (s / (double)n));
    }
    *mean = total / (double)(n * units);
    *spread = sqrt(var / (double)units);
}

static kin_status time_health(kin_ctx *ctx, kin_param *w, kin_param *b, kin_mlp_health *out)
{
    enum { TIMES = 16 };
    kin_tensor t, freq, h;
    KIN_TRY(KIN_WS_HOST(ctx, &t, KIN_DTYPE_F32, TIMES, 1));
    for (int i = 0; i < TIMES && !kin_ctx_is_plan(ctx); i++)
        ((float *)t.data)[i] = 1000.0f * ((float)i + 0.5f) / TIMES;
    KIN_TRY(kin_sinusoid(ctx, &t, w->value.size[1] / 2, w->value.size[1], &freq));
    KIN_TRY(kin_linear(ctx, &freq, w, b, &h));
    out->has_time = true;
    KIN_TRY(kin_host(ctx, &h, &h));
    if (!kin_ctx_is_plan(ctx))
        layer_stats(&h, &out->time_mean, &out->time_spread);
    return KIN_OK;
}

static kin_status quant_health(kin_ctx *ctx, kin_param *w, kin_param *b, const kin_batch *held_out,
                               kin_mlp_health *out)
{
    kin_tensor quant, code, h;
    KIN_TRY(KIN_WS_HOST(ctx, &quant, KIN_DTYPE_F32, held_out->size, KIN_PHYS_QUANTITIES));
    if (!kin_ctx_is_plan(ctx))
        memcpy(quant.data, held_out->quant,
               (size_t)held_out->size * KIN_PHYS_QUANTITIES * sizeof(float));
    KIN_TRY(kin_quantity_encode(ctx, &quant, w->value.size[1], &code));
    KIN_TRY(kin_linear(ctx, &code, w, b, &h));
    out->has_quant = true;
    KIN_TRY(kin_host(ctx, &h, &h));
    if (!kin_ctx_is_plan(ctx))
        layer_stats(&h, &out->quant_mean, &out->quant_spread);
    return KIN_OK;
}

kin_status kin_train_health(kin_ctx *ctx, const kin_train_task *task, const kin_batch *held_out,
                            kin_mlp_health *out)
{
    const kin_params *params = task->pipe->params;
    const size_t mark = kin_ws_mark(ctx);
    kin_param *tw = kin_params_find(params, "condition_embedder.time_embedder.linear_1.weight"),
              *tb = kin_params_find(params, "condition_embedder.time_embedder.linear_1.bias"),
              *qw = kin_params_find(params, "phys_quantify_embedder.quantify_proj.weight"),
              *qb = kin_params_find(params, "phys_quantify_embedder.quantify_proj.bias");
    kin_status status = KIN_OK;
    *out = (kin_mlp_health){0};
    if (tw && tb)
        KIN_GOTO(time_health(ctx, tw, tb, out));
    if (qw && held_out->size > 0)
        KIN_GOTO(quant_health(ctx, qw, qb, held_out, out));
done:
    kin_ws_release(ctx, mark);
    return status;
}

/* Kinds of golden/video that fine-tune: wan_train (the WISA trainer's loop) and cogvideox_train
 * (one step of it), by the parts of training/. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "diffusion/lora.h"
#include "diffusion/weights.h"
#include "tests/golden/golden.h"
#include "tests/golden/models.h"
#include "training/objective.h"
#include "training/optimizer.h"

/* keys of the trainer and the scheduler, which are not the transformer's */
static const char *const extra[] = {"rank",
                                    "lora_alpha",
                                    "target_modules",
                                    "batch_size",
                                    "steps",
                                    "lr",
                                    "beta1",
                                    "beta2",
                                    "epsilon",
                                    "weight_decay",
                                    "max_grad_norm",
                                    "lr_scheduler",
                                    "lr_warmup_steps",
                                    "flow_weighting_scheme",
                                    "flow_logit_mean",
                                    "flow_logit_std",
                                    "vae_scaling_factor",
                                    "invert_scale_latents",
                                    "beta_start",
                                    "beta_end",
                                    "beta_schedule",
                                    "rescale_betas_zero_snr",
                                    "snr_shift_scale",
                                    "prediction_type",
                                    NULL};

/* w.NAME or, for a matrix with an adapter, peft's w.MODULE.base_layer.weight */
static kin_status bind(kin_golden_case *c, kin_params *params)
{
    for (int i = 0; i < params->count; i++) {
        kin_param *p = params->list[i];
        const char *dot = strrchr(p->name, '.');
        char name[400];
        kin_tensor t;

        snprintf(name, sizeof(name), "w.%s", p->name);
        if (!kin_golden_has(c, name) && dot)
            snprintf(name, sizeof(name), "w.%.*s.base_layer%s", (int)(dot - p->name), p->name, dot);
        KIN_TRY(kin_golden_tensor(c, name, &t));
        KIN_TRY(kin_params_bind(p, &t, &c->ctx->error));
    }
    return KIN_OK;
}

/* a frozen base with adapters and physics that are trained */
static kin_status open_model(kin_golden_case *c, const char *class_name, kin_golden_model *m)
{
    kin_error *err = &c->ctx->error;

    KIN_TRY(kin_golden_model_create(c, c->config, class_name, extra, m));
    KIN_TRY(kin_lora_create(m->params, kin_golden_string(c, "target_modules"),
                            (int64_t)kin_golden_number(c, "rank", 0),
                            kin_golden_number(c, "lora_alpha", 0), "default", NULL, err));
    for (int i = 0; i < m->params->count; i++) {
        kin_param *p = m->params->list[i];

        p->trainable = strstr(p->name, ".lora_") || strstr(p->name, "phys");
    }
    KIN_TRY(bind(c, m->params));
    KIN_TRY(kin_weights_own(m->params, true, false, err));
    KIN_TRY(kin_params_alloc_grads(m->params, false, err));
    kin_model_set_checkpointing(m->model, true);
    return KIN_OK;
}

/* one step's inputs and what comes out */
typedef struct step_data {
    kin_train_inputs in;
    kin_tensor moments, text, draws;
    kin_train_losses losses;
} step_data;

/* entry `step` of an input with a leading axis of steps, or (step < 0) the whole input */
static kin_status take(kin_golden_case *c, const char *name, int step, kin_tensor *out)
{
    return step < 0 ? kin_golden_input(c, name, out) : kin_golden_entry(c, name, step, out);
}

static kin_status read_step(kin_golden_case *c, int step, step_data *d)
{
    *d = (step_data){0};
    KIN_TRY(take(c, "in.latent_moments", step, &d->moments));
    KIN_TRY(take(c, "in.encoder_hidden_states", step, &d->text));
    KIN_TRY(take(c, "in.dropout_draws", step, &d->draws));
    KIN_TRY(take(c, "in.posterior_noise", step, &d->in.x0));
    KIN_TRY(take(c, "in.noise", step, &d->in.noise));
    KIN_TRY(take(c, "in.priori", step, &d->in.prior));
    KIN_TRY(take(c, "in.priori", step, &d->in.true_prior));
    KIN_TRY(take(c, "in.quantify_priori", step, &d->in.quant));
    KIN_TRY(take(c, "in.mopa_u", step, &d->in.u));
    KIN_TRY(KIN_WS_HOST(c->ctx, &d->in.sigma, KIN_DTYPE_F32, d->in.x0.size[0]));
    return KIN_WS_HOST(c->ctx, &d->in.t, KIN_DTYPE_F32, d->in.x0.size[0]);
}

/* the draw of a step holds for the whole batch */
static void drop(const kin_train_task *task, step_data *d)
{
    const float *draw = d->draws.data, u[3] = {1.0f, draw[1], draw[0]};
    const kin_condition_drop drop = kin_condition_dropout(&task->objective, u);

    if (drop.prior)
        memset(d->in.prior.data, 0, (size_t)kin_tensor_numel(&d->in.prior) * sizeof(float));
    if (drop.quant)
        memset(d->in.quant.data, 0, (size_t)kin_tensor_numel(&d->in.quant) * sizeof(float));
}

static void draw_levels(const kin_train_task *task, const float *n, step_data *d)
{
    for (int64_t b = 0; b < d->in.x0.size[0]; b++)
        kin_levels_at(task->levels, kin_time_u(&task->objective, n[b]),
                      (float *)d->in.sigma.data + b, (float *)d->in.t.data + b);
}

/* latents from moments [B,2C,F,H,W] */
static void posterior(const kin_train_task *task, step_data *d)
{
    const int64_t *n = d->in.x0.size;
    const kin_sample_shape shape = {.frames = n[2], .height = n[3], .width = n[4], .latent = n[1]};

    for (int64_t b = 0; b < n[0]; b++) {
        const kin_tensor m = kin_tensor_select(&d->moments, 0, b),
                         z = kin_tensor_select(&d->in.x0, 0, b);

        kin_train_posterior(task, &shape, m.data, z.data);
    }
}

static kin_train_task make_task(const kin_levels *levels)
{
    kin_train_task task = {
        .levels = levels, .objective = kin_objective_options_default(), .latent_scale = 1};

    task.objective.condition_dropout = 0;
    task.objective.prior_dropout = task.objective.quant_dropout = 0.1f;
    return task;
}

/* the gates that the model made */
static void on_gates(void *user, const char *name, const kin_tensor *t)
{
    if (!strcmp(name, "mopa_gates"))
        *(kin_tensor *)user = *t;
}

/* prediction (of the clean sample, where the model predicts v) and gates, without recording */
static kin_status predict(kin_golden_case *c, const kin_train_task *task, const step_data *d,
                          kin_tensor *y, kin_tensor *gates)
{
    kin_model_output out;

    c->ctx->tap = on_gates;
    c->ctx->tap_user = gates;
    KIN_TRY(kin_train_forward(c->ctx, task, &d->in, &d->text, &out));
    c->ctx->tap = NULL;
    *y = out.y;
    return d->in.ab.data ? kin_clean_of_v(c->ctx, &d->in.xt, &out.y, &d->in.ab, y) : KIN_OK;
}

static kin_status learn(kin_golden_case *c, const kin_train_task *task, step_data *d)
{
    KIN_TRY(kin_tape_begin(c->ctx));
    KIN_TRY(kin_train_backward(c->ctx, task, &d->in, &d->text, &d->losses));
    kin_tape_end(c->ctx);
    return KIN_OK;
}

/* --- wan_train --- */

/* what is compared, one entry per step */
typedef struct wan_results {
    kin_tensor sigmas, timesteps, target, pred, gates, loss, aux, norm, lr;
} wan_results;

static kin_status make_results(kin_golden_case *c, wan_results *r)
{
    KIN_TRY(kin_golden_like(c, "out.sigmas", &r->sigmas));
    KIN_TRY(kin_golden_like(c, "out.timesteps", &r->timesteps));
    KIN_TRY(kin_golden_like(c, "out.target", &r->target));
    KIN_TRY(kin_golden_like(c, "out.pred", &r->pred));
    KIN_TRY(kin_golden_like(c, "out.mopa_gates", &r->gates));
    KIN_TRY(kin_golden_like(c, "out.loss", &r->loss));
    KIN_TRY(kin_golden_like(c, "out.aux_loss", &r->aux));
    KIN_TRY(kin_golden_like(c, "out.grad_norm", &r->norm));
    return kin_golden_like(c, "out.lr", &r->lr);
}

static void check_results(kin_golden_case *c, const wan_results *r)
{
    kin_golden_check(c, "out.sigmas", &r->sigmas, 1e-7);
    kin_golden_check(c, "out.timesteps", &r->timesteps, 0);
    kin_golden_check(c, "out.target", &r->target, 1e-5);
    kin_golden_check(c, "out.pred", &r->pred, 1e-4);
    kin_golden_check(c, "out.mopa_gates", &r->gates, 1e-6);
    kin_golden_check(c, "out.loss", &r->loss, 1e-5);
    kin_golden_check(c, "out.aux_loss", &r->aux, 1e-5);
    kin_golden_check(c, "out.grad_norm", &r->norm, 1e-4);
    kin_golden_check(c, "out.lr", &r->lr, 1e-6);
}

static kin_status wan_step(kin_golden_case *c, const kin_train_task *task, kin_optimizer *optim,
                           int step, wan_results *r)
{
    const size_t mark = kin_ws_mark(c->ctx);
    kin_optimizer_report update;
    kin_tensor n, pred, gates = {0};
    step_data d;

    KIN_TRY(read_step(c, step, &d));
    KIN_TRY(kin_golden_entry(c, "in.logit_normal", step, &n));
    posterior(task, &d);
    draw_levels(task, n.data, &d);
    drop(task, &d);
    KIN_TRY(kin_train_mix(c->ctx, task, &d.in));
    KIN_TRY(predict(c, task, &d, &pred, &gates));
    KIN_TRY(learn(c, task, &d));
    KIN_TRY(kin_optimizer_step(c->ctx, optim, 1.0, &update));
    KIN_TRY(kin_golden_store(c, &r->sigmas, step, &d.in.sigma));
    KIN_TRY(kin_golden_store(c, &r->timesteps, step, &d.in.t));
    KIN_TRY(kin_golden_store(c, &r->target, step, &d.in.target));
    KIN_TRY(kin_golden_store(c, &r->pred, step, &pred));
    KIN_TRY(kin_golden_store(c, &r->gates, step, &gates));
    kin_tensor_set(&r->loss, step, d.losses.total);
    kin_tensor_set(&r->aux, step, d.losses.bce);
    kin_tensor_set(&r->norm, step, update.grad_norm);
    kin_tensor_set(&r->lr, step, update.lr);
    kin_ws_release(c->ctx, mark);
    return KIN_OK;
}

/* out.final.NAME, and how far NAME went from w.NAME */
static kin_status check_final(kin_golden_case *c, const kin_params *params)
{
    for (int i = 0; i < params->count; i++) {
        const kin_param *p = params->list[i];
        const int64_t n = kin_tensor_numel(&p->value);
        char name[400], start_name[400];
        kin_tensor start, want, moved[2];

        if (!p->trainable)
            continue;
        snprintf(name, sizeof(name), "out.final.%s", p->name);
        snprintf(start_name, sizeof(start_name), "w.%s", p->name);
        kin_golden_check(c, name, &p->value, 1e-4);
        KIN_TRY(kin_golden_tensor(c, start_name, &start));
        KIN_TRY(kin_golden_tensor(c, name, &want));
        for (int k = 0; k < 2; k++)
            KIN_TRY(KIN_WS_HOST(c->ctx, &moved[k], KIN_DTYPE_F64, n));
        for (int64_t k = 0; k < n; k++) {
            kin_tensor_set(&moved[0], k, kin_tensor_get(&want, k) - kin_tensor_get(&start, k));
            kin_tensor_set(&moved[1], k, kin_tensor_get(&p->value, k) - kin_tensor_get(&start, k));
        }
        kin_golden_check_values(c, start_name, moved[0].data, moved[1].data, n, 1e-2);
    }
    return KIN_OK;
}

static kin_status make_optimizer(kin_golden_case *c, kin_params *params, kin_optimizer **out)
{
    static const char *const prefix[] = {""};
    kin_optimizer_options o = kin_optimizer_options_default();

    o.lr = kin_golden_number(c, "lr", 0);
    o.beta1 = kin_golden_number(c, "beta1", 0);
    o.beta2 = kin_golden_number(c, "beta2", 0);
    o.eps = kin_golden_number(c, "epsilon", 0);
    o.weight_decay = kin_golden_number(c, "weight_decay", 0);
    o.max_grad_norm = kin_golden_number(c, "max_grad_norm", 0);
    o.schedule = KIN_LR_FROM_ZERO;
    o.warmup_steps = (int64_t)kin_golden_number(c, "lr_warmup_steps", 0);
    o.no_ema = true;
    return kin_optimizer_create(&o, &params, prefix, 1, false, out, &c->ctx->error);
}

static kin_status run_wan(kin_golden_case *c, kin_golden_model *m, kin_optimizer **optim)
{
    const kin_levels levels = kin_levels_flow(1);
    kin_train_task task = make_task(&levels);
    kin_pipeline pipe = {0};
    kin_tensor mean, inv_std;
    wan_results r;

    KIN_TRY(open_model(c, "WanTransformer3DModel", m));
    pipe.model = m->model;
    task.pipe = &pipe;
    task.objective.logit_mean = (float)kin_golden_number(c, "flow_logit_mean", 0);
    task.objective.logit_std = (float)kin_golden_number(c, "flow_logit_std", 1);
    KIN_TRY(kin_golden_input(c, "in.latents_mean", &mean));
    KIN_TRY(kin_golden_input(c, "in.latents_inv_std", &inv_std));
    task.latent_mean = mean.data;
    task.latent_inv_std = inv_std.data;
    KIN_TRY(make_optimizer(c, m->params, optim));
    KIN_TRY(make_results(c, &r));
    for (int i = 0; i < (int)kin_golden_number(c, "steps", 0); i++)
        KIN_TRY(wan_step(c, &task, *optim, i, &r));
    check_results(c, &r);
    return check_final(c, m->params);
}

static kin_status kind_wan_train(kin_golden_case *c)
{
    kin_golden_model m = {0};
    kin_optimizer *optim = NULL;
    const kin_status status = run_wan(c, &m, &optim);

    c->ctx->tap = NULL;
    kin_optimizer_destroy(&optim);
    kin_golden_model_free(&m);
    return status;
}

/* --- cogvideox_train: frames stand before the channels --- */

static kin_status swap(kin_golden_case *c, kin_tensor *x)
{
    const kin_tensor view = kin_tensor_transpose(x, 1, 2);
    kin_tensor y;

    KIN_TRY(kin_contiguous(c->ctx, &view, &y));
    return kin_host(c->ctx, &y, x);
}

static kin_status make_levels(kin_golden_case *c, kin_levels *out)
{
    static const char *const keys[] = {
        "beta_start",      "beta_end", "beta_schedule", "rescale_betas_zero_snr", "snr_shift_scale",
        "prediction_type", NULL};
    cJSON *j = cJSON_CreateObject();
    kin_scheduler s;
    kin_status status;

    cJSON_AddStringToObject(j, "_class_name", "CogVideoXDDIMScheduler");
    for (int i = 0; keys[i]; i++)
        cJSON_AddItemToObject(
            j, keys[i],
            cJSON_Duplicate(cJSON_GetObjectItemCaseSensitive(c->config, keys[i]), true));
    status = kin_scheduler_read(j, &s, &c->ctx->error);
    if (status == KIN_OK)
        status = kin_levels_cogvideox(&s, out, &c->ctx->error);
    cJSON_Delete(j);
    return status;
}

static double grad_norm(kin_golden_case *c, const kin_params *params)
{
    double sum = 0;

    for (int i = 0; i < params->count; i++) {
        const kin_tensor *g = &params->list[i]->grad;
        double one = 0;
        kin_adamw_part part = {.n = g->data ? kin_tensor_numel(g) : 0, .g = g->data};

        if (g->data && c->ctx->k->sumsq(c->ctx, &part, 1, &one) == KIN_OK)
            sum += one;
    }
    return sqrt(sum);
}

static kin_status check_cog(kin_golden_case *c, const kin_params *params, const kin_levels *levels,
                            step_data *d, kin_tensor *pred, const kin_tensor *gates)
{
    kin_tensor table, scalar;

    KIN_TRY(KIN_WS_HOST(c->ctx, &table, KIN_DTYPE_F32, KIN_LEVELS));
    KIN_TRY(kin_ws_host(c->ctx, KIN_DTYPE_F32, 0, NULL, &scalar));
    for (int i = 0; i < KIN_LEVELS; i++)
        kin_tensor_set(&table, i, levels->ab[i]);
    kin_golden_check(c, "out.alphas_cumprod", &table, 1e-6);
    kin_golden_check(c, "out.sigmas", &d->in.sigma, 1e-7);
    kin_golden_check(c, "out.timesteps", &d->in.t, 0);
    kin_golden_check(c, "out.mopa_gates", gates, 1e-6);
    KIN_TRY(swap(c, &d->in.target));
    KIN_TRY(swap(c, pred));
    kin_golden_check(c, "out.target", &d->in.target, 1e-5);
    kin_golden_check(c, "out.pred", pred, 1e-5);
    kin_tensor_set(&scalar, 0, d->losses.total);
    kin_golden_check(c, "out.loss", &scalar, 1e-5);
    kin_tensor_set(&scalar, 0, d->losses.bce);
    kin_golden_check(c, "out.aux_loss", &scalar, 1e-5);
    kin_tensor_set(&scalar, 0, grad_norm(c, params));
    kin_golden_check(c, "out.grad_norm", &scalar, 1e-4);
    kin_golden_check_grads(c, params, 1e-4);
    return KIN_OK;
}

static kin_status run_cog(kin_golden_case *c, kin_golden_model *m, kin_levels *levels)
{
    kin_train_task task = make_task(levels);
    kin_pipeline pipe = {0};
    kin_tensor n, pred, gates = {0};
    step_data d;

    KIN_TRY(make_levels(c, levels));
    KIN_TRY(open_model(c, "CogVideoXTransformer3DModel", m));
    pipe.model = m->model;
    task.pipe = &pipe;
    task.objective.scheme = KIN_TIME_UNIFORM;
    task.latent_scale = (float)kin_golden_number(c, "vae_scaling_factor", 1);
    KIN_TRY(read_step(c, -1, &d));
    KIN_TRY(kin_golden_input(c, "in.u", &n));
    KIN_TRY(swap(c, &d.moments));
    KIN_TRY(swap(c, &d.in.x0));
    KIN_TRY(swap(c, &d.in.noise));
    posterior(&task, &d);
    draw_levels(&task, n.data, &d);
    drop(&task, &d);
    KIN_TRY(kin_train_mix(c->ctx, &task, &d.in));
    KIN_TRY(predict(c, &task, &d, &pred, &gates));
    KIN_TRY(learn(c, &task, &d));
    return check_cog(c, m->params, levels, &d, &pred, &gates);
}

static kin_status kind_cogvideox_train(kin_golden_case *c)
{
    kin_golden_model m = {0};
    kin_levels levels = {0};
    const kin_status status = run_cog(c, &m, &levels);

    c->ctx->tap = NULL;
    kin_levels_free(&levels);
    kin_golden_model_free(&m);
    return status;
}

extern const kin_golden_kind kin_golden_kinds_finetune[];
const kin_golden_kind kin_golden_kinds_finetune[] = {
    {"wan_train", kind_wan_train},
    {"cogvideox_train", kind_cogvideox_train},
    {NULL, NULL},
};

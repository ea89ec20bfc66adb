/* Kinds of golden/image: networks (dit, promoe, tc_dit, ec_dit, diffmoe), promoe_cfg, promoe_train,
 * flow_sample. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "diffusion/guided.h"
#include "diffusion/losses.h"
#include "samplers/guidance.h"
#include "samplers/sampler.h"
#include "tests/golden/golden.h"
#include "tests/golden/models.h"

static kin_status forward(kin_golden_case *c, const kin_golden_model *m, const kin_tensor *x,
                          const kin_tensor *t, const kin_tensor *label, kin_model_output *out)
{
    const kin_model_input in = {.x = x, .t = t, .label = label};

    return kin_model_forward(c->ctx, m->model, &in, out);
}

/* in.y is in.y_raw with the dropped labels replaced by the null id */
static kin_status check_labels(kin_golden_case *c, const kin_golden_model *m, const kin_tensor *y)
{
    kin_tensor raw, u;
    const double p = kin_golden_number(c, "class_dropout_prob", 0.1);
    const int64_t classes = kin_model_get_info(m->model)->num_classes;

    KIN_TRY(kin_golden_input(c, "in.y_raw", &raw));
    KIN_TRY(kin_golden_input(c, "in.drop_u", &u));
    for (int64_t b = 0; b < kin_tensor_numel(y); b++) {
        const bool drop = kin_tensor_get(&u, b) < p;
        const int64_t want = drop ? classes : (int64_t)kin_tensor_get(&raw, b);

        kin_golden_expect(c, (int64_t)kin_tensor_get(y, b) == want, "label %lld after dropout",
                          (long long)b);
    }
    return KIN_OK;
}

/* gradients that are zero in exact arithmetic hold rounding noise: compared with 1e-5 absolute */
static void check_noise_grads(kin_golden_case *c, const kin_golden_model *m, char names[][64],
                              int most)
{
    int n = 0;

    for (int i = 0; i < m->params->count && n < most; i++) {
        const kin_param *p = m->params->list[i];

        if (!strstr(p->name, "attn.k_norm.bias"))
            continue;
        snprintf(names[n], 64, "grad.%s", p->name);
        kin_golden_check_abs(c, names[n], &p->grad, 1e-5);
        kin_golden_tolerance(c, names[n], 1e30); /* judged by the line above */
        n++;
    }
}

/* names in out.* of what an evaluation shows */
static void eval_name(const char *tapped, char *out, size_t bytes)
{
    snprintf(out, bytes, "eval.%s", tapped);
}

/* Evaluation by the published rule, where the case has one: DiffMoE with the thresholds that the
 * forward above has moved. */
static kin_status run_eval(kin_golden_case *c, const kin_golden_model *m, const kin_tensor *x,
                           const kin_tensor *t, const kin_tensor *y)
{
    kin_model_output out;

    if (!kin_golden_has(c, "out.eval.y"))
        return KIN_OK;
    kin_golden_taps(c, 1e-5, eval_name);
    kin_model_set_diffmoe_infer(m->model, true);
    KIN_TRY(forward(c, m, x, t, y, &out));
    kin_golden_check(c, "out.eval.y", &out.y, 1e-5);
    return KIN_OK;
}

static kin_status run_network(kin_golden_case *c, kin_golden_model *m)
{
    static char names[8][64];
    kin_tensor x, t, y, dout, ones, outs[2], grads[2], gx;
    kin_model_output out;
    int n = 1;

    /* thresholds move: the weights are copies there */
    if (!strcmp(c->kind, "diffmoe"))
        KIN_TRY(kin_golden_model_open_train(c, c->config, NULL, NULL, m));
    else
        KIN_TRY(kin_golden_model_open(c, c->config, NULL, NULL, true, m));
    KIN_TRY(kin_golden_input(c, "in.x", &x));
    KIN_TRY(kin_golden_input(c, "in.t", &t));
    KIN_TRY(kin_golden_input(c, "in.y", &y));
    KIN_TRY(kin_golden_input(c, "in.dout", &dout));
    KIN_TRY(check_labels(c, m, &y));
    kin_golden_tolerance(c, "out.t_freq", 1e-4);
    kin_golden_taps(c, 1e-5, NULL);
    KIN_TRY(kin_tape_begin(c->ctx));
    KIN_TRY(kin_tape_watch(c->ctx, &x));
    KIN_TRY(forward(c, m, &x, &t, &y, &out));
    kin_golden_check(c, "out.y", &out.y, 1e-5);
    outs[0] = out.y;
    grads[0] = dout;
    if (out.aux.data) {
        KIN_TRY(kin_ws_host(c->ctx, KIN_DTYPE_F32, 0, NULL, &ones));
        KIN_TRY(kin_fill(c->ctx, &ones, 1));
        outs[n] = out.aux;
        grads[n++] = ones;
    }
    KIN_TRY(kin_tape_backward(c->ctx, outs, grads, n));
    gx = kin_tape_grad(c->ctx, &x);
    kin_golden_check(c, "grad_in.x", &gx, 1e-4);
    check_noise_grads(c, m, names, 8);
    kin_golden_check_grads(c, m->params, 1e-4);
    kin_tape_end(c->ctx);
    return run_eval(c, m, &x, &t, &y);
}

static kin_status kind_network(kin_golden_case *c)
{
    kin_golden_model m = {0};
    const kin_status status = run_network(c, &m);

    kin_golden_model_free(&m);
    return status;
}

/* --- promoe_cfg --- */

static kin_status null_labels(kin_golden_case *c, const kin_golden_model *m, int64_t batch,
                              kin_tensor *null)
{
    KIN_TRY(KIN_WS_HOST(c->ctx, null, KIN_DTYPE_I32, batch));
    for (int64_t b = 0; b < batch; b++)
        ((int32_t *)null->data)[b] = (int32_t)kin_model_get_info(m->model)->num_classes;
    return KIN_OK;
}

static kin_status run_cfg(kin_golden_case *c, kin_golden_model *m)
{
    static const char *const extra[] = {"guide_scale", NULL};
    const double w = kin_golden_number(c, "guide_scale", 1);
    kin_tensor x, t, y, null, v;
    kin_model_output cond, uncond;

    KIN_TRY(kin_golden_model_open(c, c->config, NULL, extra, false, m));
    KIN_TRY(kin_golden_input(c, "in.x", &x));
    KIN_TRY(kin_golden_input(c, "in.t", &t));
    KIN_TRY(kin_golden_input(c, "in.y", &y));
    KIN_TRY(null_labels(c, m, x.size[0], &null));
    KIN_TRY(forward(c, m, &x, &t, &y, &cond));
    kin_golden_check(c, "out.y_cond", &cond.y, 1e-5);
    v = cond.y;
    if (w > 1) {
        KIN_TRY(forward(c, m, &x, &t, &null, &uncond));
        kin_golden_check(c, "out.y_uncond", &uncond.y, 1e-5);
        KIN_TRY(kin_guidance_mix(c->ctx, &uncond.y, &cond.y, (float)w, &v));
    }
    KIN_TRY(kin_model_velocity(c->ctx, m->model, &x, &v, &t, &v));
    kin_golden_check(c, "out.y", &v, 1e-5);
    return KIN_OK;
}

static kin_status kind_cfg(kin_golden_case *c)
{
    kin_golden_model m = {0};
    const kin_status status = run_cfg(c, &m);

    kin_golden_model_free(&m);
    return status;
}

/* --- flow_sample --- */

typedef struct flow_run {
    kin_golden_case *c;
    kin_guided guided;
    kin_tensor steps; /* [N,B,C,H,H] */
} flow_run;

static kin_status flow_velocity(kin_ctx *ctx, void *user, const kin_tensor *x, float sigma, float t,
                                int step, kin_tensor *v)
{
    flow_run *r = user;

    return kin_guided_output(ctx, &r->guided, x, sigma, t, step, v);
}

static kin_status flow_step(kin_ctx *ctx, void *user, int step, const kin_tensor *x)
{
    flow_run *r = user;

    (void)ctx;
    return kin_golden_store(r->c, &r->steps, step, x);
}

static kin_status check_schedule(kin_golden_case *c, const kin_schedule *s)
{
    const kin_tensor sigma = KIN_TENSOR(s->sigma, KIN_DTYPE_F32, s->n + 1);
    const kin_tensor t = KIN_TENSOR(s->t, KIN_DTYPE_F32, s->n);

    kin_golden_check(c, "out.sigmas", &sigma, 1e-6);
    kin_golden_check(c, "out.timesteps", &t, 1e-6);
    return KIN_OK;
}

static kin_status run_flow(kin_golden_case *c, kin_golden_model *m, kin_schedule *schedule)
{
    static const char *const extra[] = {"sample_steps", "sample_shift", "shift", "guide_scale",
                                        NULL};
    flow_run run = {.c = c};
    const kin_sampler_run_args args = {
        .schedule = schedule, .model = flow_velocity, .hook = flow_step, .user = &run};
    kin_tensor x, y, null, decoded;

    KIN_TRY(kin_golden_model_open(c, c->config, NULL, extra, false, m));
    KIN_TRY(kin_golden_input(c, "in.noise", &x));
    KIN_TRY(kin_golden_input(c, "in.y", &y));
    KIN_TRY(null_labels(c, m, x.size[0], &null));
    KIN_TRY(kin_golden_like(c, "out.x", &run.steps));
    KIN_TRY(kin_schedule_promoe((int)kin_golden_number(c, "sample_steps", 0),
                                kin_golden_number(c, "sample_shift", 1),
                                kin_golden_number(c, "shift", 1), schedule, &c->ctx->error));
    KIN_TRY(check_schedule(c, schedule));
    run.guided = (kin_guided){.model = m->model,
                              .scale = (float)kin_golden_number(c, "guide_scale", 1),
                              .label = &y,
                              .null_label = &null};
    KIN_TRY(kin_sampler_run(c->ctx, &args, &x));
    kin_golden_check(c, "out.x", &run.steps, 5e-5);
    kin_golden_check(c, "out.latents", &x, 5e-5);
    KIN_TRY(kin_scale(c->ctx, &x, (float)(1 / 0.18215), &decoded));
    kin_golden_check(c, "out.decoder_in", &decoded, 5e-5);
    return KIN_OK;
}

static kin_status kind_flow(kin_golden_case *c)
{
    kin_golden_model m = {0};
    kin_schedule schedule = {0};
    const kin_status status = run_flow(c, &m, &schedule);

    kin_schedule_free(&schedule);
    kin_golden_model_free(&m);
    return status;
}

/* --- promoe_train --- */

/* z = 0.18215 (mean + exp(0.5 clamp(logvar)) noise) */
static kin_status posterior(kin_golden_case *c, int step, kin_tensor *z)
{
    kin_tensor moments, noise;
    int64_t per, channels;

    KIN_TRY(kin_golden_entry(c, "in.moments", step, &moments));
    KIN_TRY(kin_golden_entry(c, "in.posterior_noise", step, &noise));
    KIN_TRY(kin_ws_host(c->ctx, KIN_DTYPE_F32, noise.ndim, noise.size, z));
    channels = noise.size[1];
    per = channels * noise.size[2] * noise.size[3];
    for (int64_t b = 0; b < noise.size[0]; b++) {
        const float *mean = (const float *)moments.data + b * 2 * per, *logvar = mean + per;

        for (int64_t i = 0; i < per; i++) {
            const double lv = fmin(fmax((double)logvar[i], -30.0), 20.0);

            kin_tensor_set(
                z, b * per + i,
                0.18215 * ((double)mean[i] + exp(0.5 * lv) * kin_tensor_get(&noise, b * per + i)));
        }
    }
    return KIN_OK;
}

typedef struct train_log {
    kin_tensor xt, t, y, loss, norm;
} train_log;

static kin_status train_objective(kin_golden_case *c, kin_objective_options *o)
{
    *o = kin_objective_options_default();
    o->logit_mean = (float)kin_golden_number(c, "logit_mean", 0);
    o->logit_std = (float)kin_golden_number(c, "logit_std", 1);
    o->sigmoid_scale = (float)kin_golden_number(c, "sigmoid_scale", 1);
    o->mode_scale = (float)kin_golden_number(c, "mode_scale", 1.29);
    o->shift = (float)kin_golden_number(c, "shift", 1);
    return kin_time_scheme_parse(kin_golden_string(c, "weighting_scheme"), &o->scheme,
                                 &c->ctx->error);
}

static kin_status train_step(kin_golden_case *c, kin_golden_model *m, const kin_golden_adamw *opt,
                             const kin_objective_options *o, int step, train_log *log)
{
    kin_tensor z, noise, n, y, sigma, t, xt, target, backed[1];
    kin_model_output out;
    kin_objective_terms terms;
    double norm;

    KIN_TRY(posterior(c, step, &z));
    KIN_TRY(kin_golden_entry(c, "in.noise", step, &noise));
    KIN_TRY(kin_golden_entry(c, "in.n", step, &n));
    KIN_TRY(kin_golden_entry(c, "in.y", step, &y));
    KIN_TRY(kin_golden_times(c, o, &n, &sigma, &t));
    KIN_TRY(kin_flow_mix(c->ctx, &z, &noise, &sigma, &xt, &target));
    KIN_TRY(kin_tape_begin(c->ctx));
    KIN_TRY(forward(c, m, &xt, &t, &y, &out));
    KIN_TRY(kin_objective(
        c->ctx, m->model, o,
        &(kin_objective_input){.xt = &xt, .x0 = &z, .target = &target, .sigma = &sigma}, &out,
        &terms));
    backed[0] = terms.total;
    KIN_TRY(kin_tape_backward(c->ctx, backed, NULL, 1));
    kin_tape_end(c->ctx);
    KIN_TRY(kin_golden_adamw_step(c, m, opt, step + 1, &norm));
    double flow;

    KIN_TRY(kin_scalar(c->ctx, &terms.flow, &flow));
    kin_tensor_set(&log->loss, step, flow);
    kin_tensor_set(&log->norm, step, norm);
    KIN_TRY(kin_golden_store(c, &log->xt, step, &xt));
    KIN_TRY(kin_golden_store(c, &log->t, step, &t));
    return kin_golden_store(c, &log->y, step, &out.y);
}

/* The k third of attn.qkv.bias has a gradient of rounding noise, which AdamW blows up: it takes the
 * file's values. */
static kin_status check_table(kin_golden_case *c, const kin_params *table, const char *prefix,
                              double tol, bool absolute)
{
    for (int i = 0; i < table->count; i++) {
        const kin_param *p = table->list[i];
        kin_tensor got = p->value, want;
        char name[300];

        snprintf(name, sizeof(name), "%s%s", prefix, p->name);
        if (!kin_golden_has(c, name))
            continue;
        if (strstr(p->name, "attn.qkv.bias")) {
            const int64_t d = p->value.size[0] / 3;

            KIN_TRY(kin_golden_tensor(c, name, &want));
            KIN_TRY(kin_contiguous(c->ctx, &p->value, &got));
            KIN_TRY(kin_host(c->ctx, &got, &got));
            for (int64_t k = d; k < 2 * d; k++)
                kin_tensor_set(&got, k, kin_tensor_get(&want, k));
        }
        if (absolute)
            kin_golden_check_abs(c, name, &got, tol);
        else
            kin_golden_check(c, name, &got, tol);
    }
    return KIN_OK;
}

static kin_status run_train(kin_golden_case *c, kin_golden_model *m)
{
    kin_objective_options o;
    const kin_golden_adamw opt = kin_golden_adamw_options(c);
    train_log log;

    KIN_TRY(kin_golden_model_open_train(c, c->config, NULL, kin_golden_train_keys, m));
    KIN_TRY(train_objective(c, &o));
    KIN_TRY(kin_golden_like(c, "out.xt", &log.xt));
    KIN_TRY(kin_golden_like(c, "out.t", &log.t));
    KIN_TRY(kin_golden_like(c, "out.y", &log.y));
    KIN_TRY(kin_golden_like(c, "out.loss", &log.loss));
    KIN_TRY(kin_golden_like(c, "out.grad_norm", &log.norm));
    for (int step = 0; step < (int)log.loss.size[0]; step++)
        KIN_TRY(train_step(c, m, &opt, &o, step, &log));
    kin_golden_check(c, "out.xt", &log.xt, 1e-5);
    kin_golden_check(c, "out.t", &log.t, 1e-5);
    kin_golden_check(c, "out.loss", &log.loss, 1e-5);
    kin_golden_check(c, "out.y", &log.y, 1e-4);
    kin_golden_check(c, "out.grad_norm", &log.norm, 1e-4);
    KIN_TRY(check_table(c, m->params, "out.w4.", 1e-4, true));
    KIN_TRY(check_table(c, m->ema, "out.ema4.", 1e-4, true));
    KIN_TRY(check_table(c, m->m, "out.exp_avg.", 1e-3, false));
    return check_table(c, m->v, "out.exp_avg_sq.", 1e-3, false);
}

static kin_status kind_train(kin_golden_case *c)
{
    kin_golden_model m = {0};
    const kin_status status = run_train(c, &m);

    kin_golden_model_free(&m);
    return status;
}

/* --- params --- */

/* The file has no `model` key: ProMoE_L_EC has expert choice, the others what their keys say. */
static kin_status published_model(kin_golden_case *c, const cJSON *entry, kin_params **params,
                                  kin_model **model)
{
    kin_error *err = &c->ctx->error;
    const size_t len = strlen(entry->string);
    cJSON *config = cJSON_Duplicate(cJSON_GetObjectItemCaseSensitive(entry, "config"), 1);
    kin_status status;

    if (len > 3 && !strcmp(entry->string + len - 3, "_EC"))
        cJSON_AddStringToObject(config, "model", "promoe_ec");
    KIN_GOTO(kin_params_create(params, err));
    KIN_GOTO(kin_model_create(config, *params, model, err));
done:
    cJSON_Delete(config);
    return status;
}

/* Totals, and every tensor by name and shape; no value is allocated. */
static void compare_params(kin_golden_case *c, const cJSON *entry, const kin_params *params)
{
    const cJSON *tensors = cJSON_GetObjectItemCaseSensitive(entry, "tensors"), *t;
    int64_t trainable = 0;

    for (int i = 0; i < params->count; i++)
        trainable += params->list[i]->trainable ? kin_tensor_numel(&params->list[i]->value) : 0;
    kin_golden_expect(c,
                      (double)kin_params_numel(params) ==
                          cJSON_GetNumberValue(cJSON_GetObjectItem(entry, "total")),
                      "%s: total", entry->string);
    kin_golden_expect(
        c, (double)trainable == cJSON_GetNumberValue(cJSON_GetObjectItem(entry, "trainable")),
        "%s: trainable", entry->string);
    kin_golden_expect(c, params->count == cJSON_GetArraySize(tensors), "%s: number of tensors",
                      entry->string);
    cJSON_ArrayForEach(t, tensors)
    {
        const kin_param *p = kin_params_find(params, t->string);
        bool same = p && p->value.ndim == cJSON_GetArraySize(t);

        for (int i = 0; same && i < p->value.ndim; i++)
            same = (double)p->value.size[i] == cJSON_GetNumberValue(cJSON_GetArrayItem(t, i));
        kin_golden_expect(c, same, "%s: %s", entry->string, t->string);
    }
}

static kin_status kind_params(kin_golden_case *c)
{
    const cJSON *entry;

    cJSON_ArrayForEach(entry, cJSON_GetObjectItemCaseSensitive(c->config, "models"))
    {
        kin_params *params = NULL;
        kin_model *model = NULL;
        const kin_status status = published_model(c, entry, &params, &model);

        if (status == KIN_OK)
            compare_params(c, entry, params);
        kin_model_destroy(&model);
        kin_params_destroy(&params);
        KIN_TRY(status);
    }
    return KIN_OK;
}

extern const kin_golden_kind kin_golden_kinds_dit[];
const kin_golden_kind kin_golden_kinds_dit[] = {
    {"promoe", kind_network},   {"dit", kind_network},
    {"tc_dit", kind_network},   {"ec_dit", kind_network},
    {"diffmoe", kind_network},  {"promoe_cfg", kind_cfg},
    {"flow_sample", kind_flow}, {"promoe_train", kind_train},
    {"params", kind_params},    {NULL, NULL},
};

/* Kinds of golden/native: native, native_train, native_sample. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "diffusion/guided.h"
#include "diffusion/losses.h"
#include "samplers/sampler.h"
#include "tests/golden/golden.h"
#include "tests/golden/models.h"

static const cJSON *transformer(const kin_golden_case *c)
{
    return cJSON_GetObjectItemCaseSensitive(c->config, "transformer");
}

static kin_classifier_loss_kind loss_kind(const kin_golden_case *c)
{
    const char *name = kin_golden_string(c, "classifier_loss");

    return name && !strcmp(name, "plain") ? KIN_CLASSIFIER_LOSS_PLAIN : KIN_CLASSIFIER_LOSS_WISA;
}

/* u8 mask as numbers, the form of kin_objective */
static kin_status as_float(kin_golden_case *c, const kin_tensor *mask, kin_tensor *out)
{
    KIN_TRY(kin_ws_host(c->ctx, KIN_DTYPE_F32, mask->ndim, mask->size, out));
    for (int64_t i = 0; i < kin_tensor_numel(mask); i++)
        kin_tensor_set(out, i, kin_tensor_get(mask, i));
    return KIN_OK;
}

/* --- native --- */

typedef struct native_in {
    kin_tensor x, t, text, null, prior, quant, has_prior, u, dout;
} native_in;

static kin_status read_native(kin_golden_case *c, native_in *n)
{
    kin_tensor mask;

    KIN_TRY(kin_golden_input(c, "in.x", &n->x));
    KIN_TRY(kin_golden_input(c, "in.t", &n->t));
    KIN_TRY(kin_golden_input(c, "in.text", &n->text));
    KIN_TRY(kin_golden_input(c, "in.null", &n->null));
    KIN_TRY(kin_golden_input(c, "in.prior", &n->prior));
    KIN_TRY(kin_golden_input(c, "in.quant", &n->quant));
    KIN_TRY(kin_golden_input(c, "in.has_prior", &mask));
    KIN_TRY(as_float(c, &mask, &n->has_prior));
    KIN_TRY(kin_golden_input_optional(c, "in.u", &n->u));
    return kin_golden_input(c, "in.dout", &n->dout);
}

/* sum(in.dout * y) + c(a) + aux, and the backward pass from these three */
static kin_status native_objective(kin_golden_case *c, const native_in *n,
                                   const kin_model_output *out)
{
    kin_tensor outs[3] = {out->y}, grads[3] = {n->dout}, one, product, loss, bce, term, sum;
    int count = 1;

    KIN_TRY(kin_ws_host(c->ctx, KIN_DTYPE_F32, 0, NULL, &one));
    KIN_TRY(kin_fill(c->ctx, &one, 1));
    KIN_TRY(kin_mul(c->ctx, &out->y, &n->dout, 1.0f, &product));
    KIN_TRY(kin_sum(c->ctx, &product, 1.0f, &loss));
    if (out->logits.data) {
        KIN_TRY(kin_bce_logits(c->ctx, &out->logits, &n->prior, &n->has_prior, &bce));
        kin_golden_check(c, "out.bce", &bce, 2e-5);
        KIN_TRY(kin_classifier_loss(c->ctx, loss_kind(c), &bce, &term));
        kin_golden_check(c, "out.classifier_loss", &term, 2e-5);
        KIN_TRY(kin_add(c->ctx, &loss, &term, 1.0f, &sum));
        loss = sum;
        outs[count] = term;
        grads[count++] = one;
    }
    if (out->aux.data) {
        kin_golden_check_abs(c, "out.aux", &out->aux, 5e-5);
        KIN_TRY(kin_add(c->ctx, &loss, &out->aux, 1.0f, &sum));
        loss = sum;
        outs[count] = out->aux;
        grads[count++] = one;
    }
    kin_golden_check_abs(c, "out.loss", &loss, 5e-5);
    return kin_tape_backward(c->ctx, outs, grads, count);
}

static kin_status run_native(kin_golden_case *c, kin_golden_model *m)
{
    native_in n = {0};
    kin_model_output out;
    kin_tensor g;

    KIN_TRY(kin_golden_model_open(c, transformer(c), NULL, NULL, true, m));
    KIN_TRY(read_native(c, &n));
    kin_golden_taps(c, 2e-5, NULL);
    KIN_TRY(kin_tape_begin(c->ctx));
    KIN_TRY(kin_tape_watch(c->ctx, &n.x));
    KIN_TRY(kin_tape_watch(c->ctx, &n.text));
    KIN_TRY(kin_model_forward(c->ctx, m->model,
                              &(kin_model_input){.x = &n.x,
                                                 .t = &n.t,
                                                 .text = &n.text,
                                                 .null = &n.null,
                                                 .prior = &n.prior,
                                                 .quant = &n.quant,
                                                 .u = n.u.data ? &n.u : NULL},
                              &out));
    kin_golden_check(c, "out.y", &out.y, 2e-5);
    KIN_TRY(native_objective(c, &n, &out));
    g = kin_tape_grad(c->ctx, &n.x);
    kin_golden_check(c, "grad_in.x", &g, 1e-4);
    g = kin_tape_grad(c->ctx, &n.text);
    kin_golden_check(c, "grad_in.text", &g, 1e-4);
    kin_golden_check_grads(c, m->params, 1e-4);
    kin_tape_end(c->ctx);
    return KIN_OK;
}

static kin_status kind_native(kin_golden_case *c)
{
    kin_golden_model m = {0};
    const kin_status status = run_native(c, &m);

    kin_golden_model_free(&m);
    return status;
}

/* --- native_train --- */

enum { TERM_MSE, TERM_BCE, TERM_CLASSIFIER, TERM_AUX, TERM_LOSS, TERM_NORM, TERMS };
static const char *const term_names[TERMS] = {"out.mse", "out.bce",  "out.classifier_loss",
                                              "out.aux", "out.loss", "out.grad_norm"};

typedef struct train_log {
    kin_golden_case *c;
    int step;
    kin_tensor sigma, t, xt, y, null, prior, quant, logits, terms[TERMS];
    kin_tensor assign, rcl;
} train_log;

/* what the step's conditions are after dropout */
typedef struct train_conditions {
    kin_tensor text, null, prior, quant, true_prior, has_prior, u;
} train_conditions;

/* a writable copy of one step's entry */
static kin_status entry_copy(kin_golden_case *c, const char *name, int step, kin_tensor *out)
{
    kin_tensor t;

    KIN_TRY(kin_golden_entry(c, name, step, &t));
    KIN_TRY(kin_ws_host(c->ctx, t.dtype, t.ndim, t.size, out));
    memcpy(out->data, t.data, (size_t)kin_tensor_numel(&t) * kin_dtype_size(t.dtype));
    return KIN_OK;
}

static void zero_row(kin_tensor *t, int64_t b)
{
    kin_tensor row = kin_tensor_select(t, 0, b);

    for (int64_t i = 0; i < kin_tensor_numel(&row); i++)
        kin_tensor_set(&row, i, 0);
}

static kin_status drop_conditions(kin_golden_case *c, int step, const kin_objective_options *o,
                                  train_conditions *d)
{
    kin_tensor draws, null_text, mask;

    KIN_TRY(entry_copy(c, "in.text", step, &d->text));
    KIN_TRY(entry_copy(c, "in.null", step, &d->null));
    KIN_TRY(entry_copy(c, "in.prior", step, &d->prior));
    KIN_TRY(entry_copy(c, "in.prior", step, &d->true_prior));
    KIN_TRY(entry_copy(c, "in.quant", step, &d->quant));
    KIN_TRY(entry_copy(c, "in.u", step, &d->u));
    KIN_TRY(kin_golden_entry(c, "in.has_prior", step, &mask));
    KIN_TRY(as_float(c, &mask, &d->has_prior));
    KIN_TRY(kin_golden_entry(c, "in.drop_u", step, &draws));
    KIN_TRY(kin_golden_input(c, "in.null_text", &null_text));
    for (int64_t b = 0; b < d->null.size[0]; b++) {
        const float u[3] = {(float)kin_tensor_get(&draws, 3 * b),
                            (float)kin_tensor_get(&draws, 3 * b + 1),
                            (float)kin_tensor_get(&draws, 3 * b + 2)};
        const kin_condition_drop drop = kin_condition_dropout(o, u);

        if (drop.all) {
            kin_tensor row = kin_tensor_select(&d->text, 0, b);

            memcpy(row.data, null_text.data, (size_t)kin_tensor_numel(&row) * sizeof(float));
            kin_tensor_set(&d->null, b, 1);
        }
        if (drop.prior)
            zero_row(&d->prior, b);
        if (drop.quant)
            zero_row(&d->quant, b);
    }
    return KIN_OK;
}

static void train_tap(void *user, const char *name, const kin_tensor *t)
{
    train_log *log = user;

    if (!strcmp(name, "layers.1.assign"))
        (void)kin_golden_store(log->c, &log->assign, log->step, t);
    else if (!strcmp(name, "layers.1.rcl"))
        (void)kin_golden_store(log->c, &log->rcl, log->step, t);
}

static kin_status mix_times(kin_golden_case *c, int step, const kin_objective_options *o,
                            train_log *log, kin_tensor *x0, kin_tensor *sigma, kin_tensor *t,
                            kin_tensor *xt, kin_tensor *target)
{
    kin_tensor noise, n;

    KIN_TRY(kin_golden_entry(c, "in.x0", step, x0));
    KIN_TRY(kin_golden_entry(c, "in.noise", step, &noise));
    KIN_TRY(kin_golden_entry(c, "in.n", step, &n));
    KIN_TRY(kin_golden_times(c, o, &n, sigma, t));
    KIN_TRY(kin_flow_mix(c->ctx, x0, &noise, sigma, xt, target));
    KIN_TRY(kin_golden_store(c, &log->sigma, step, sigma));
    KIN_TRY(kin_golden_store(c, &log->t, step, t));
    return kin_golden_store(c, &log->xt, step, xt);
}

static kin_status log_step(kin_golden_case *c, train_log *log, int step, const train_conditions *d,
                           const kin_model_output *out, const kin_objective_terms *terms,
                           double norm)
{
    const kin_tensor *const value[TERM_NORM] = {&terms->flow, &terms->bce, &terms->classifier,
                                                &terms->aux, &terms->total};

    for (int i = 0; i < TERM_NORM; i++) {
        double v;

        KIN_TRY(kin_scalar(c->ctx, value[i], &v));
        kin_tensor_set(&log->terms[i], step, v);
    }
    kin_tensor_set(&log->terms[TERM_NORM], step, norm);
    KIN_TRY(kin_golden_store(c, &log->null, step, &d->null));
    KIN_TRY(kin_golden_store(c, &log->prior, step, &d->prior));
    KIN_TRY(kin_golden_store(c, &log->quant, step, &d->quant));
    KIN_TRY(kin_golden_store(c, &log->logits, step, &out->logits));
    return kin_golden_store(c, &log->y, step, &out->y);
}

static kin_status train_step(kin_golden_case *c, kin_golden_model *m, const kin_golden_adamw *opt,
                             const kin_objective_options *o, int step, train_log *log)
{
    train_conditions d;
    kin_tensor x0, sigma, t, xt, target;
    kin_model_output out;
    kin_objective_terms terms;
    double norm;

    log->step = step;
    KIN_TRY(drop_conditions(c, step, o, &d));
    KIN_TRY(mix_times(c, step, o, log, &x0, &sigma, &t, &xt, &target));
    KIN_TRY(kin_tape_begin(c->ctx));
    KIN_TRY(kin_model_forward(c->ctx, m->model,
                              &(kin_model_input){.x = &xt,
                                                 .t = &t,
                                                 .text = &d.text,
                                                 .null = &d.null,
                                                 .prior = &d.prior,
                                                 .quant = &d.quant,
                                                 .u = &d.u},
                              &out));
    KIN_TRY(kin_objective(c->ctx, m->model, o,
                          &(kin_objective_input){.xt = &xt,
                                                 .x0 = &x0,
                                                 .target = &target,
                                                 .sigma = &sigma,
                                                 .prior = &d.true_prior,
                                                 .has_prior = &d.has_prior},
                          &out, &terms));
    KIN_TRY(kin_tape_backward(c->ctx, &terms.total, NULL, 1));
    kin_tape_end(c->ctx);
    KIN_TRY(kin_golden_adamw_step(c, m, opt, step + 1, &norm));
    return log_step(c, log, step, &d, &out, &terms, norm);
}

static kin_status open_log(kin_golden_case *c, train_log *log)
{
    log->c = c;
    KIN_TRY(kin_golden_like(c, "out.sigma", &log->sigma));
    KIN_TRY(kin_golden_like(c, "out.t", &log->t));
    KIN_TRY(kin_golden_like(c, "out.xt", &log->xt));
    KIN_TRY(kin_golden_like(c, "out.y", &log->y));
    KIN_TRY(kin_golden_like(c, "out.null", &log->null));
    KIN_TRY(kin_golden_like(c, "out.prior", &log->prior));
    KIN_TRY(kin_golden_like(c, "out.quant", &log->quant));
    KIN_TRY(kin_golden_like(c, "out.logits", &log->logits));
    KIN_TRY(kin_golden_like(c, "out.layers.1.assign", &log->assign));
    KIN_TRY(kin_golden_like(c, "out.layers.1.rcl", &log->rcl));
    for (int i = 0; i < TERMS; i++)
        KIN_TRY(kin_golden_like(c, term_names[i], &log->terms[i]));
    return KIN_OK;
}

static void check_log(kin_golden_case *c, const train_log *log)
{
    kin_golden_check(c, "out.sigma", &log->sigma, 1e-5);
    kin_golden_check(c, "out.t", &log->t, 1e-5);
    kin_golden_check(c, "out.xt", &log->xt, 1e-5);
    kin_golden_check(c, "out.y", &log->y, 1e-4);
    kin_golden_check(c, "out.null", &log->null, 0);
    kin_golden_check(c, "out.prior", &log->prior, 0);
    kin_golden_check(c, "out.quant", &log->quant, 1e-6);
    kin_golden_check(c, "out.logits", &log->logits, 1e-4);
    kin_golden_check(c, "out.layers.1.assign", &log->assign, 0);
    kin_golden_check_abs(c, "out.layers.1.rcl", &log->rcl, 5e-5);
    for (int i = 0; i < TERMS; i++) {
        if (i == TERM_AUX)
            kin_golden_check_abs(c, term_names[i], &log->terms[i], 5e-5);
        else
            kin_golden_check(c, term_names[i], &log->terms[i], 1e-4);
    }
}

static void check_table(kin_golden_case *c, const kin_params *table, const char *prefix, double tol)
{
    for (int i = 0; i < table->count; i++) {
        char name[300];

        snprintf(name, sizeof(name), "%s%s", prefix, table->list[i]->name);
        kin_golden_check_abs(c, name, &table->list[i]->value, tol);
    }
}

static kin_status run_train(kin_golden_case *c, kin_golden_model *m)
{
    kin_objective_options o = kin_objective_options_default();
    const kin_golden_adamw opt = kin_golden_adamw_options(c);
    train_log log = {0};

    KIN_TRY(
        kin_time_scheme_parse(kin_golden_string(c, "weighting_scheme"), &o.scheme, &c->ctx->error));
    o.shift = (float)kin_golden_number(c, "shift", 1);
    o.condition_dropout = (float)kin_golden_number(c, "condition_dropout", 0);
    o.classifier_loss = loss_kind(c);
    KIN_TRY(kin_golden_model_open_train(c, transformer(c), NULL, NULL, m));
    KIN_TRY(open_log(c, &log));
    c->ctx->tap = train_tap;
    c->ctx->tap_user = &log;
    for (int step = 0; step < (int)kin_golden_number(c, "steps", 0); step++)
        KIN_TRY(train_step(c, m, &opt, &o, step, &log));
    c->ctx->tap = NULL;
    check_log(c, &log);
    check_table(c, m->params, "out.w3.", 0.1 * opt.lr);
    check_table(c, m->ema, "out.ema3.", 0.1 * opt.lr);
    return KIN_OK;
}

static kin_status kind_train(kin_golden_case *c)
{
    kin_golden_model m = {0};
    const kin_status status = run_train(c, &m);

    c->ctx->tap = NULL;
    kin_golden_model_free(&m);
    return status;
}

/* --- native_sample --- */

enum { TRACE_COND, TRACE_TEXT, TRACE_UNCOND, TRACE_GUIDED, TRACES };
static const char *const trace_names[TRACES] = {"model_cond", "model_text", "model_uncond",
                                                "guided"};

typedef struct sample_run {
    kin_golden_case *c;
    kin_guided guided;
    int step;
    kin_tensor u;             /* [N,branches,L,B,P] or data NULL */
    kin_tensor trace[TRACES]; /* data NULL where the case has none */
    kin_tensor x;
} sample_run;

static kin_status sample_draws(kin_ctx *ctx, void *user, int step, kin_branch branch, kin_tensor *u)
{
    const sample_run *r = user;
    const kin_tensor of_step = kin_tensor_select(&r->u, 0, step);
    /* branches in the order c, (m,) u */
    const int64_t at = branch == KIN_BRANCH_UNCOND ? of_step.size[0] - 1 : (int64_t)branch;
    const kin_tensor draws = kin_tensor_select(&of_step, 0, at);

    return kin_copy_into(ctx, &draws, u);
}

static void sample_tap(void *user, const char *name, const kin_tensor *t)
{
    sample_run *r = user;

    for (int i = 0; i < TRACES; i++) {
        if (r->trace[i].data && !strcmp(name, trace_names[i]))
            (void)kin_golden_store(r->c, &r->trace[i], r->step, t);
    }
}

static kin_status sample_velocity(kin_ctx *ctx, void *user, const kin_tensor *x, float sigma,
                                  float t, int step, kin_tensor *v)
{
    sample_run *r = user;

    r->step = step;
    return kin_guided_output(ctx, &r->guided, x, sigma, t, step, v);
}

static kin_status sample_step(kin_ctx *ctx, void *user, int step, const kin_tensor *x)
{
    sample_run *r = user;

    (void)ctx;
    return kin_golden_store(r->c, &r->x, step, x);
}

/* one row for the whole batch */
static kin_status repeat(kin_golden_case *c, const char *name, int64_t batch, bool has_row_dim,
                         kin_tensor *out)
{
    kin_tensor t;
    int64_t size[KIN_MAX_DIMS] = {batch};
    size_t bytes;
    int ndim = 1;

    KIN_TRY(kin_golden_input(c, name, &t));
    for (int i = has_row_dim ? 1 : 0; i < t.ndim; i++)
        size[ndim++] = t.size[i];
    bytes = (size_t)kin_tensor_numel(&t) * kin_dtype_size(t.dtype);
    KIN_TRY(kin_ws_host(c->ctx, t.dtype, ndim, size, out));
    for (int64_t b = 0; b < batch; b++)
        memcpy((char *)out->data + (size_t)b * bytes, t.data, bytes);
    return KIN_OK;
}

typedef struct sample_in {
    kin_tensor x, text, null, prior, quant, uncond_text, uncond_null;
} sample_in;

static kin_status open_sample(kin_golden_case *c, const kin_golden_model *m, sample_in *in,
                              sample_run *r)
{
    const char *mode = kin_golden_string(c, "mode");

    KIN_TRY(kin_golden_input(c, "in.noise", &in->x));
    KIN_TRY(kin_golden_input(c, "in.text", &in->text));
    KIN_TRY(kin_golden_input(c, "in.null", &in->null));
    KIN_TRY(kin_golden_input(c, "in.prior", &in->prior));
    KIN_TRY(kin_golden_input(c, "in.quant", &in->quant));
    KIN_TRY(repeat(c, "in.uncond_text", in->x.size[0], false, &in->uncond_text));
    KIN_TRY(repeat(c, "in.uncond_null", in->x.size[0], true, &in->uncond_null));
    KIN_TRY(kin_golden_input_optional(c, "in.u", &r->u));
    KIN_TRY(kin_golden_like(c, "out.x", &r->x));
    for (int i = 0; i < TRACES; i++) {
        char name[40];

        snprintf(name, sizeof(name), "out.%s", trace_names[i]);
        if (kin_golden_has(c, name))
            KIN_TRY(kin_golden_like(c, name, &r->trace[i]));
    }
    r->guided = (kin_guided){.model = m->model,
                             .mode = mode && !strcmp(mode, "multi") ? KIN_CFG_MULTI : KIN_CFG_PLAIN,
                             .scale = (float)kin_golden_number(c, "guidance_scale", 1),
                             .phys_scale = (float)kin_golden_number(c, "phys_guidance_scale", 1),
                             .text = &in->text,
                             .uncond_text = &in->uncond_text,
                             .null = &in->null,
                             .uncond_null = &in->uncond_null,
                             .prior = &in->prior,
                             .quant = &in->quant,
                             .draws = r->u.data ? sample_draws : NULL,
                             .user = r};
    return KIN_OK;
}

static kin_status check_sample(kin_golden_case *c, const sample_run *r, const kin_tensor *x)
{
    kin_tensor frames;

    for (int i = 0; i < TRACES; i++) {
        char name[40];

        snprintf(name, sizeof(name), "out.%s", trace_names[i]);
        if (r->trace[i].data)
            kin_golden_check(c, name, &r->trace[i], 1e-4);
    }
    kin_golden_check(c, "out.x", &r->x, 1e-4);
    KIN_TRY(kin_ws_host(c->ctx, KIN_DTYPE_F32, x->ndim, x->size, &frames));
    for (int64_t i = 0; i < kin_tensor_numel(x); i++)
        kin_tensor_set(&frames, i, fmin(fmax((kin_tensor_get(x, i) + 1) / 2, 0), 1));
    kin_golden_check(c, "out.frames", &frames, 1e-4);
    return KIN_OK;
}

static kin_status run_sample(kin_golden_case *c, kin_golden_model *m, kin_schedule *schedule)
{
    sample_run run = {.c = c};
    sample_in in;
    const kin_sampler_run_args args = {
        .schedule = schedule, .model = sample_velocity, .hook = sample_step, .user = &run};
    kin_tensor sigmas, times;

    KIN_TRY(kin_golden_model_open(c, transformer(c), NULL, NULL, false, m));
    KIN_TRY(open_sample(c, m, &in, &run));
    KIN_TRY(kin_schedule_flow((int)kin_golden_number(c, "num_inference_steps", 0),
                              kin_golden_number(c, "shift", 1), schedule, &c->ctx->error));
    sigmas = KIN_TENSOR(schedule->sigma, KIN_DTYPE_F32, schedule->n + 1);
    times = KIN_TENSOR(schedule->t, KIN_DTYPE_F32, schedule->n);
    kin_golden_check(c, "out.sigmas", &sigmas, 1e-6);
    kin_golden_check(c, "out.t", &times, 1e-6);
    c->ctx->tap = sample_tap;
    c->ctx->tap_user = &run;
    KIN_TRY(kin_sampler_run(c->ctx, &args, &in.x));
    c->ctx->tap = NULL;
    return check_sample(c, &run, &in.x);
}

static kin_status kind_sample(kin_golden_case *c)
{
    kin_golden_model m = {0};
    kin_schedule schedule = {0};
    const kin_status status = run_sample(c, &m, &schedule);

    c->ctx->tap = NULL;
    kin_schedule_free(&schedule);
    kin_golden_model_free(&m);
    return status;
}

extern const kin_golden_kind kin_golden_kinds_native[];
const kin_golden_kind kin_golden_kinds_native[] = {
    {"native", kind_native},
    {"native_train", kind_train},
    {"native_sample", kind_sample},
    {NULL, NULL},
};

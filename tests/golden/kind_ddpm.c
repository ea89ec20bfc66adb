/* tests/golden/kind_ddpm.c: kinds posterior, ddpm_train, ddpm_sample: the discrete process, its
 * hybrid loss and its sampling loops. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "diffusion/ddpm.h"
#include "diffusion/guided.h"
#include "samplers/sampler.h"
#include "tensor/kernels.h"
#include "tests/golden/golden.h"
#include "tests/golden/models.h"

extern const kin_golden_kind kin_golden_kinds_ddpm[];

/* --- posterior --- */

static kin_beta_schedule schedule_of(const char *name)
{
    if (!name)
        return KIN_BETA_COSINE;
    if (!strcmp(name, "scaled_linear"))
        return KIN_BETA_SCALED_LINEAR;
    if (!strcmp(name, "sigmoid"))
        return KIN_BETA_SIGMOID;
    return !strcmp(name, "linear") ? KIN_BETA_LINEAR : KIN_BETA_COSINE;
}

static kin_scheduler posterior_scheduler(const kin_golden_case *c)
{
    kin_scheduler s = kin_scheduler_default(KIN_SCHEDULER_DDPM);

    s.beta_schedule = schedule_of(kin_golden_string(c, "beta_schedule"));
    s.train_steps = (int)kin_golden_number(c, "num_train_timesteps", 1000);
    s.beta_start = kin_golden_number(c, "beta_start", 1e-4);
    s.beta_end = kin_golden_number(c, "beta_end", 0.02);
    s.zero_snr = kin_golden_bool(c, "rescale_betas_zero_snr", false);
    return s;
}

/* arrays of a process; tol f64 or f32 */
static void check_process(kin_golden_case *c, const kin_process *p, double tol)
{
    const struct {
        const char *name;
        double *at;
    } rows[] = {{"out.betas", p->beta},
                {"out.alphas_cumprod", p->ab},
                {"out.alphas_cumprod_prev", p->ab_prev},
                {"out.posterior_variance", p->variance},
                {"out.posterior_log_variance_clipped", p->log_variance},
                {"out.posterior_mean_coef1", p->coef1},
                {"out.posterior_mean_coef2", p->coef2}};

    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        const kin_tensor t = KIN_TENSOR(rows[i].at, KIN_DTYPE_F64, p->n);

        kin_golden_check(c, rows[i].name, &t, tol);
    }
    if (kin_golden_has(c, "out.timestep_map")) {
        const kin_tensor t = KIN_TENSOR(p->time, KIN_DTYPE_I32, p->n);

        kin_golden_check(c, "out.timestep_map", &t, 0);
    }
}

/* variances of DDPMScheduler over all its steps */
static kin_status check_f32(kin_golden_case *c, kin_scheduler cfg)
{
    const int T = cfg.train_steps;
    kin_schedule s = {0};
    kin_tensor v[5];
    const char *names[] = {"out.f32.fixed_small", "out.f32.fixed_small_log", "out.f32.fixed_large",
                           "out.f32.log_small", "out.f32.log_large"};
    double *beta, *ab = NULL;
    kin_tensor betas;

    KIN_TRY(KIN_WS_HOST(c->ctx, &betas, KIN_DTYPE_F64, T));
    beta = betas.data;
    KIN_TRY(kin_alphas_cumprod(&cfg, beta, &ab, &c->ctx->error));
    const kin_tensor products = KIN_TENSOR(ab, KIN_DTYPE_F64, T);
    kin_golden_check(c, "out.f32.betas", &betas, 2e-6);
    kin_golden_check(c, "out.f32.alphas_cumprod", &products, 2e-6);
    kin_free(ab);
    KIN_TRY(kin_schedule_make(&cfg, &(kin_schedule_request){.steps = T}, &s, &c->ctx->error));
    for (int k = 0; k < 5; k++)
        KIN_TRY(KIN_WS_HOST(c->ctx, &v[k], KIN_DTYPE_F64, T));
    for (int i = 0; i < T; i++) {
        const kin_ddpm_variance var = kin_ddpm_variance_at(&s, T - 1 - i);
        const double values[] = {var.small, sqrt(var.small), var.large, log(var.small),
                                 log(var.large)};

        for (int k = 0; k < 5; k++)
            kin_tensor_set(&v[k], i, values[k]);
    }
    for (int k = 0; k < 5; k++)
        kin_golden_check(c, names[k], &v[k], k < 3 ? 5e-5 : 3e-4);
    kin_schedule_free(&s);
    return KIN_OK;
}

static kin_status run_posterior(kin_golden_case *c)
{
    const kin_scheduler cfg = posterior_scheduler(c);
    const char *from = kin_golden_string(c, "betas_from");
    const char *respacing = kin_golden_string(c, "timestep_respacing");
    const int T = cfg.train_steps;
    double *beta = kin_malloc((size_t)T * sizeof(*beta));
    int *kept = kin_malloc((size_t)T * sizeof(*kept)), n = 0;
    kin_process p = {0};
    kin_tensor given;
    kin_error *err = &c->ctx->error;
    kin_status status;

    KIN_GOTO(beta && kept ? KIN_OK : kin_fail(err, KIN_ERR_MEM, "case: out of memory"));
    KIN_GOTO(from && respacing ? KIN_OK
                               : kin_fail(err, KIN_ERR_FORMAT, "case: betas_from is missing"));
    if (!strcmp(from, "diffusers")) {
        /* note: the file's betas are f32 roots and exponentials of its machine, good to some ulp;
         * ours are held against them below, the process to 1e-12 is of theirs */
        KIN_GOTO(kin_golden_tensor(c, "out.f32.betas", &given));
        for (int i = 0; i < T; i++)
            beta[i] = kin_tensor_get(&given, i);
    } else {
        KIN_GOTO(kin_betas_exact(cfg.beta_schedule, T, cfg.beta_start, cfg.beta_end, beta, err));
    }
    KIN_GOTO(kin_respacing_parse(respacing, T, kept, &n, err));
    KIN_GOTO(kin_process_make(beta, T, *respacing ? kept : NULL, n, &p, err));
    check_process(c, &p, 1e-12);
    if (kin_golden_bool(c, "f32", false))
        KIN_GOTO(check_f32(c, cfg));
done:
    kin_process_free(&p);
    kin_free(beta);
    kin_free(kept);
    return status;
}

/* --- ddpm_train --- */

static kin_ddpm_options options_of(const kin_golden_case *c)
{
    kin_ddpm_options o = kin_ddpm_options_default();

    o.schedule = schedule_of(kin_golden_string(c, "noise_schedule"));
    o.steps = (int)kin_golden_number(c, "diffusion_steps", 1000);
    o.prediction =
        kin_golden_bool(c, "predict_xstart", false) ? KIN_PREDICT_SAMPLE : KIN_PREDICT_EPSILON;
    o.variance = kin_golden_bool(c, "learn_sigma", true)    ? KIN_VARIANCE_LEARNED_RANGE
                 : kin_golden_bool(c, "sigma_small", false) ? KIN_VARIANCE_FIXED_SMALL
                                                            : KIN_VARIANCE_FIXED_LARGE;
    o.rescale = kin_golden_bool(c, "rescale_learned_sigmas", false);
    return o;
}

/* the mean square of each sample, of the first channels */
static kin_status check_mse(kin_golden_case *c, const kin_tensor *made, const kin_tensor *wanted)
{
    kin_tensor y_here, target_here;
    const kin_tensor *y = &y_here, *target = &target_here;

    KIN_TRY(kin_host(c->ctx, made, &y_here));
    KIN_TRY(kin_host(c->ctx, wanted, &target_here));
    float mse[16];
    const int64_t batch = target->size[0], n = kin_tensor_numel(target) / batch;
    const int64_t wide = kin_tensor_numel(y) / batch;
    const kin_tensor t = KIN_TENSOR(mse, KIN_DTYPE_F32, batch);

    for (int64_t b = 0; b < batch && b < 16; b++) {
        double sum = 0;

        for (int64_t i = 0; i < n; i++)
            sum += pow(kin_tensor_get(y, b * wide + i) - kin_tensor_get(target, b * n + i), 2);
        mse[b] = (float)(sum / (double)n);
    }
    kin_golden_check(c, "out.mse", &t, 1e-5);
    return KIN_OK;
}

/* output of the network at times t: the file's, or that of a DiT */
static kin_status network(kin_golden_case *c, kin_golden_model *m, const kin_tensor *xt,
                          const kin_tensor *t, kin_tensor *y)
{
    kin_tensor label, times;
    kin_model_output out;

    if (!m->model) {
        KIN_TRY(kin_golden_input(c, "in.model_output", y));
        return kin_tape_watch(c->ctx, y);
    }
    KIN_TRY(kin_golden_input(c, "in.y", &label));
    KIN_TRY(KIN_WS_HOST(c->ctx, &times, KIN_DTYPE_F32, t->size[0]));
    for (int64_t b = 0; b < t->size[0]; b++)
        kin_tensor_set(&times, b, kin_tensor_get(t, b));
    KIN_TRY(kin_model_forward(c->ctx, m->model,
                              &(kin_model_input){.x = xt, .t = &times, .label = &label}, &out));
    *y = out.y;
    kin_golden_check(c, "out.model_output", y, 1e-5);
    return KIN_OK;
}

static kin_status train(kin_golden_case *c, const kin_ddpm *d, kin_golden_model *m)
{
    kin_tensor x0, noise, t, xt, target, y, gy;
    kin_ddpm_terms terms;

    KIN_TRY(kin_golden_input(c, "in.x_start", &x0));
    KIN_TRY(kin_golden_input(c, "in.noise", &noise));
    KIN_TRY(kin_golden_input(c, "in.t", &t));
    KIN_TRY(kin_ddpm_mix(c->ctx, d, &x0, &noise, t.data, &xt, &target));
    kin_golden_check(c, "out.x_t", &xt, 1e-5);
    kin_golden_check(c, "out.model_t", &t, 0);
    KIN_TRY(kin_tape_begin(c->ctx));
    KIN_TRY(network(c, m, &xt, &t, &y));
    const kin_ddpm_input in = {.x0 = &x0, .xt = &xt, .target = &target, .index = t.data};
    KIN_TRY(kin_ddpm_loss(c->ctx, d, &in, &y, &terms));
    KIN_TRY(check_mse(c, &y, &target));
    kin_golden_check(c, "out.loss", &terms.total, terms.vb.data ? 1e-4 : 1e-5);
    if (terms.vb.data)
        kin_golden_check(c, "out.vb", &terms.vb_of, 1e-4);
    KIN_TRY(kin_tape_backward(c->ctx, &terms.total, NULL, 1));
    gy = kin_tape_grad(c->ctx, &y);
    kin_golden_check(c, "grad_in.model_output", &gy, 1e-4);
    if (m->model)
        kin_golden_check_grads(c, m->params, 1e-4);
    kin_tape_end(c->ctx);
    return KIN_OK;
}

/* The configuration of the DiT within a case, in the place of the case's own. */
static kin_status open_model(kin_golden_case *c, bool grads, kin_golden_model *m)
{
    const cJSON *config = cJSON_GetObjectItemCaseSensitive(c->config, "model_config");

    return config ? kin_golden_model_open(c, config, NULL, NULL, grads, m) : KIN_OK;
}

static kin_status run_train(kin_golden_case *c)
{
    const kin_ddpm_options o = options_of(c);
    kin_golden_model m = {0};
    kin_ddpm d = {0};
    kin_status status;

    KIN_GOTO(kin_ddpm_make(&o, &d, &c->ctx->error));
    check_process(c, &d.process, 1e-5);
    KIN_GOTO(open_model(c, true, &m));
    KIN_GOTO(train(c, &d, &m));
done:
    kin_ddpm_free(&d);
    kin_golden_model_free(&m);
    return status;
}

/* --- ddpm_sample --- */

typedef struct sample_run {
    kin_golden_case *c;
    kin_guided guided;
    int64_t batch; /* of the run; the file may hold it twice, the halves with noise of their own */
    kin_tensor x, x0, mean, log_variance, output; /* [N,B,...] as in the file */
} sample_run;

/* entry `step` of a tensor [N,>=B,...], its first B samples, into out */
static kin_status entry(sample_run *r, const char *name, int step, kin_tensor *out)
{
    kin_tensor all;

    KIN_TRY(kin_golden_entry(r->c, name, step, &all));
    all = kin_tensor_slice(&all, 0, 0, out->size[0]);
    return kin_copy_into(r->c->ctx, &all, out);
}

static kin_status sample_output(kin_ctx *ctx, void *user, const kin_tensor *x, float sigma, float t,
                                int step, kin_tensor *y)
{
    sample_run *r = user;

    if (!r->guided.model)
        return entry(r, "in.model_output", step, y);
    KIN_TRY(kin_guided_output(ctx, &r->guided, x, sigma, t, step, y));
    kin_tensor at = kin_tensor_select(&r->output, 0, step);
    at = kin_tensor_slice(&at, 0, 0, r->batch);
    return kin_copy_into(ctx, y, &at);
}

static kin_status sample_noise(kin_ctx *ctx, void *user, int step, int draw, kin_tensor *noise)
{
    (void)ctx, (void)draw;
    return entry(user, "in.step_noise", step, noise);
}

/* what the solver taps, gathered by step; the file's other half is its own run */
static void gather(void *user, const char *name, const kin_tensor *t)
{
    sample_run *r = user;
    const struct {
        const char *prefix;
        kin_tensor *to;
    } rows[] = {{"x0.", &r->x0}, {"mean.", &r->mean}, {"log_variance.", &r->log_variance}};

    for (size_t i = 0; i < 3; i++) {
        const size_t n = strlen(rows[i].prefix);
        int step;

        if (strncmp(name, rows[i].prefix, n) || sscanf(name + n, "%d", &step) != 1)
            continue;
        kin_tensor at = kin_tensor_select(rows[i].to, 0, step);
        at = kin_tensor_slice(&at, 0, 0, r->batch);
        if (kin_copy_into(r->c->ctx, t, &at) != KIN_OK)
            kin_golden_fail(r->c, "%s", r->c->ctx->error.text);
    }
}

static kin_status sample_step(kin_ctx *ctx, void *user, int step, const kin_tensor *x)
{
    sample_run *r = user;
    kin_tensor at = kin_tensor_select(&r->x, 0, step);

    at = kin_tensor_slice(&at, 0, 0, r->batch);
    return kin_copy_into(ctx, x, &at);
}

/* The file's values, of which the run overwrites the samples that it has. */
static kin_status open_result(kin_golden_case *c, const char *name, kin_tensor *t)
{
    return kin_golden_input(c, name, t);
}

/* As ADM samples: the kept steps of a process in f64, no noise at time 0. */
static kin_status sample_schedule(kin_golden_case *c, const kin_ddpm_options *o, kin_schedule *s)
{
    const bool ddim = !strcmp(kin_golden_string(c, "method"), "ddim");
    kin_scheduler cfg = kin_scheduler_default(ddim ? KIN_SCHEDULER_DDIM : KIN_SCHEDULER_DDPM);
    const kin_schedule_request r = {.respacing = kin_golden_string(c, "timestep_respacing")};

    cfg.train_steps = o->steps;
    cfg.beta_schedule = o->schedule;
    cfg.prediction = o->prediction;
    cfg.variance = o->variance;
    cfg.clip = kin_golden_bool(c, "clip_denoised", false);
    cfg.eta = kin_golden_number(c, "eta", 0);
    cfg.clipped_output = true;
    return kin_schedule_make(&cfg, &r, s, &c->ctx->error);
}

static kin_status check_kept(kin_golden_case *c, const kin_ddpm_options *o)
{
    double *beta = kin_malloc((size_t)o->steps * sizeof(*beta));
    int *kept = kin_malloc((size_t)o->steps * sizeof(*kept)), n = 0;
    kin_process p = {0};
    kin_error *err = &c->ctx->error;
    kin_status status;

    KIN_GOTO(beta && kept ? KIN_OK : kin_fail(err, KIN_ERR_MEM, "case: out of memory"));
    KIN_GOTO(kin_betas_exact(o->schedule, o->steps, 1e-4, 0.02, beta, err));
    KIN_GOTO(
        kin_respacing_parse(kin_golden_string(c, "timestep_respacing"), o->steps, kept, &n, err));
    KIN_GOTO(kin_process_make(beta, o->steps, kept, n, &p, err));
    check_process(c, &p, 1e-5);
done:
    kin_process_free(&p);
    kin_free(beta);
    kin_free(kept);
    return status;
}

static kin_status guide(sample_run *r, const kin_golden_model *m, kin_tensor *y, kin_tensor *null)
{
    kin_golden_case *c = r->c;

    KIN_TRY(kin_golden_input(c, "in.y", y));
    KIN_TRY(KIN_WS_HOST(c->ctx, null, KIN_DTYPE_I32, r->batch));
    for (int64_t b = 0; b < r->batch; b++)
        ((int32_t *)null->data)[b] = (int32_t)kin_model_get_info(m->model)->num_classes;
    r->guided = (kin_guided){.model = m->model,
                             .scale = (float)kin_golden_number(c, "cfg_scale", 1),
                             .channels = 3,
                             .raw = true,
                             .label = y,
                             .null_label = null};
    return KIN_OK;
}

static kin_status sample(kin_golden_case *c, const kin_ddpm_options *o, kin_golden_model *m,
                         kin_schedule *schedule)
{
    sample_run r = {.c = c};
    kin_tensor x, y, null;
    const bool ddim = !strcmp(kin_golden_string(c, "method"), "ddim");

    KIN_TRY(check_kept(c, o));
    KIN_TRY(sample_schedule(c, o, schedule));
    KIN_TRY(kin_golden_input(c, "in.noise", &x));
    r.batch = x.size[0];
    KIN_TRY(open_result(c, "out.x", &r.x));
    KIN_TRY(open_result(c, "out.pred_xstart", &r.x0));
    KIN_TRY(open_result(c, "out.mean", &r.mean));
    KIN_TRY(open_result(c, "out.log_variance", &r.log_variance));
    if (m->model) {
        KIN_TRY(open_result(c, "out.model_output", &r.output));
        KIN_TRY(guide(&r, m, &y, &null));
    }
    const bool learned = o->variance == KIN_VARIANCE_LEARNED_RANGE;
    const kin_sampler_run_args args = {.schedule = schedule,
                                       .model = sample_output,
                                       .hook = sample_step,
                                       .noise = sample_noise,
                                       .user = &r,
                                       .out_channels = x.size[1] * (learned ? 2 : 1)};
    c->ctx->tap = gather;
    c->ctx->tap_user = &r;
    KIN_TRY(kin_sampler_run(c->ctx, &args, &x));
    c->ctx->tap = NULL;
    kin_golden_check(c, "out.x", &r.x, 5e-5);
    kin_golden_check(c, "out.pred_xstart", &r.x0, 5e-5);
    kin_golden_check(c, "out.latents", &x, 5e-5);
    if (ddim) {
        /* the official loop computes the chain's mean and variance there without using them */
        kin_golden_ignore(c, "out.mean");
        kin_golden_ignore(c, "out.log_variance");
    } else {
        kin_golden_check(c, "out.mean", &r.mean, 5e-5);
        kin_golden_check(c, "out.log_variance", &r.log_variance, 5e-5);
    }
    if (m->model)
        kin_golden_check(c, "out.model_output", &r.output, 5e-5);
    return KIN_OK;
}

static kin_status run_sample(kin_golden_case *c)
{
    const kin_ddpm_options o = options_of(c);
    kin_golden_model m = {0};
    kin_schedule schedule = {0};
    kin_status status;

    KIN_GOTO(open_model(c, false, &m));
    KIN_GOTO(sample(c, &o, &m, &schedule));
done:
    kin_schedule_free(&schedule);
    kin_golden_model_free(&m);
    return status;
}

const kin_golden_kind kin_golden_kinds_ddpm[] = {
    {"posterior", run_posterior},
    {"ddpm_train", run_train},
    {"ddpm_sample", run_sample},
    {NULL, NULL},
};

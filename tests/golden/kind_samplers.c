/* tests/golden/kind_samplers.c: kinds scheduler, schedule, forward_noise, timestep_density,
 * wan_cfg. */
#include "tests/golden/golden.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "samplers/betas.h"
#include "samplers/density.h"
#include "samplers/guidance.h"
#include "samplers/sampler.h"
#include "samplers/schedule.h"
#include "tensor/kernels.h"

extern const kin_golden_kind kin_golden_kinds_samplers[];

/* --- set_timesteps --- */

static kin_status number_list(const cJSON *args, const char *key, double **out, int *n,
                              kin_error *err)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(args, key), *v;
    *out = NULL;
    *n = 0;
    if (!list || cJSON_IsNull(list))
        return KIN_OK;
    *out = kin_malloc(((size_t)cJSON_GetArraySize(list) + 1) * sizeof **out);
    if (!*out)
        return kin_fail(err, KIN_ERR_MEM, "case: out of memory");
    cJSON_ArrayForEach(v, list)
    {
        (*out)[(*n)++] = v->valuedouble;
    }
    return KIN_OK;
}

static kin_status read_scheduler(kin_golden_case *c, kin_scheduler *cfg)
{
    return kin_scheduler_read(cJSON_GetObjectItemCaseSensitive(c->config, "scheduler"), cfg,
                              &c->ctx->error);
}

/* The schedule of one call; args: num_inference_steps (may be in `steps` instead), sigmas,
 * timesteps, mu. */
static kin_status make_schedule(kin_golden_case *c, const kin_scheduler *cfg, const cJSON *args,
                                const cJSON *steps, kin_schedule *out)
{
    kin_error *err = &c->ctx->error;
    double *sigmas = NULL, *timesteps = NULL;
    kin_schedule_request r = {0};
    kin_status status;
    KIN_GOTO(number_list(args, "sigmas", &sigmas, &r.n_sigmas, err));
    KIN_GOTO(number_list(args, "timesteps", &timesteps, &r.n_timesteps, err));
    const cJSON *n = cJSON_GetObjectItemCaseSensitive(args, "num_inference_steps");
    const cJSON *mu = cJSON_GetObjectItemCaseSensitive(args, "mu");
    r.steps = cJSON_IsNumber(n) ? n->valueint : cJSON_IsNumber(steps) ? steps->valueint : 0;
    r.has_mu = cJSON_IsNumber(mu);
    r.mu = r.has_mu ? mu->valuedouble : 0.0;
    r.sigmas = sigmas;
    r.timesteps = timesteps;
    KIN_GOTO(kin_schedule_make(cfg, &r, out, err));
done:
    kin_free(sigmas);
    kin_free(timesteps);
    return status;
}

static void check_if_there(kin_golden_case *c, const char *name, const kin_tensor *t, double tol)
{
    if (kin_golden_has(c, name))
        kin_golden_check(c, name, t, tol);
}

static void check_schedule(kin_golden_case *c, const kin_schedule *s, const char *suffix,
                           double tol)
{
    char name[64];
    kin_tensor sigma = KIN_TENSOR(s->sigma, KIN_DTYPE_F32, s->sigmas);
    kin_tensor t = KIN_TENSOR(s->t, KIN_DTYPE_F32, s->n);
    snprintf(name, sizeof name, "out.sigmas%s", suffix);
    check_if_there(c, name, &sigma, tol);
    snprintf(name, sizeof name, "out.timesteps%s", suffix);
    kin_golden_check(c, name, &t, tol);
}

/* --- scheduler --- */

/* What the README of the reference set grants. */
static double scheduler_tolerance(const kin_scheduler *s)
{
    const bool euler = s->class == KIN_SCHEDULER_EULER || s->class == KIN_SCHEDULER_EULER_ANCESTRAL;
    const bool betas = !kin_scheduler_is_flow(s);
    if (betas && (s->beta_schedule == KIN_BETA_COSINE || s->beta_schedule == KIN_BETA_EXP))
        return 3e-4;
    if ((euler && s->zero_snr) ||
        (s->class == KIN_SCHEDULER_UNIPC && s->flow_sigmas && s->curve == KIN_CURVE_KARRAS))
        return 3e-4;
    return s->prediction == KIN_PREDICT_EPSILON ? 1e-4 : 2e-5;
}

typedef struct scheduler_run {
    kin_golden_case *c;
    double tol, feedback;
} scheduler_run;

/* The model output: table plus feedback times x, on x's channels. */
static kin_status model(kin_ctx *ctx, void *user, const kin_tensor *x, float sigma, float t,
                        int step, kin_tensor *v)
{
    (void)sigma, (void)t;
    scheduler_run *r = user;
    char name[64];
    kin_tensor table;
    snprintf(name, sizeof name, "in.table.%d", step);
    KIN_TRY(kin_golden_input(r->c, name, &table));
    KIN_TRY(ctx->k->copy(ctx, &table, v, false));
    const int64_t rows = x->size[0], n = kin_tensor_numel(x) / rows;
    const int64_t wide = kin_tensor_numel(v) / rows;
    for (int64_t i = 0; i < rows * n; i++)
        ((float *)v->data)[i / n * wide + i % n] +=
            (float)r->feedback * ((const float *)x->data)[i];
    snprintf(name, sizeof name, "in.model_output.%d", step);
    kin_golden_check(r->c, name, v, r->tol);
    return KIN_OK;
}

static kin_status noise(kin_ctx *ctx, void *user, int step, int draw, kin_tensor *out)
{
    scheduler_run *r = user;
    char name[64];
    kin_tensor t;
    snprintf(name, sizeof name, draw ? "in.noise.%d.%d" : "in.noise.%d", step, draw);
    KIN_TRY(kin_golden_input(r->c, name, &t));
    return ctx->k->copy(ctx, &t, out, false);
}

static kin_status after_step(kin_ctx *ctx, void *user, int step, const kin_tensor *x)
{
    (void)ctx;
    scheduler_run *r = user;
    char name[64];
    snprintf(name, sizeof name, "out.x.%d", step);
    kin_golden_check(r->c, name, x, r->tol);
    return KIN_OK;
}

/* further arguments of step() */
static void step_arguments(const kin_golden_case *c, kin_scheduler *cfg)
{
    const cJSON *item, *args = cJSON_GetObjectItemCaseSensitive(c->config, "step");
    const struct {
        const char *name;
        double *at;
    } rows[] = {{"eta", &cfg->eta},
                {"s_churn", &cfg->s_churn},
                {"s_tmin", &cfg->s_tmin},
                {"s_tmax", &cfg->s_tmax},
                {"s_noise", &cfg->s_noise}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        item = cJSON_GetObjectItemCaseSensitive(args, rows[i].name);
        if (cJSON_IsNumber(item))
            *rows[i].at = item->valuedouble;
    }
    cfg->clipped_output =
        cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(args, "use_clipped_model_output"));
}

static kin_status run_scheduler(kin_golden_case *c)
{
    const cJSON *cfg = c->config;
    kin_scheduler s;
    kin_schedule schedule = {0};
    kin_tensor x, first;
    kin_status status;
    KIN_GOTO(read_scheduler(c, &s));
    step_arguments(c, &s);
    scheduler_run run = {c, scheduler_tolerance(&s), kin_golden_number(c, "feedback", 0.0)};
    KIN_GOTO(make_schedule(c, &s, cJSON_GetObjectItemCaseSensitive(cfg, "set_timesteps"),
                           cJSON_GetObjectItemCaseSensitive(cfg, "num_inference_steps"),
                           &schedule));
    check_schedule(c, &schedule, "", run.tol);
    float init = (float)schedule.init_sigma;
    const kin_tensor scale = KIN_TENSOR(&init, KIN_DTYPE_F32, 1);
    check_if_there(c, "out.init_noise_sigma", &scale, run.tol);
    KIN_GOTO(kin_golden_input(c, "in.x_T", &x));
    KIN_GOTO(kin_golden_input(c, "in.table.0", &first));
    kin_golden_taps(c, run.tol, NULL);
    const kin_sampler_run_args args = {.schedule = &schedule,
                                       .model = model,
                                       .hook = after_step,
                                       .noise = noise,
                                       .user = &run,
                                       .out_channels = first.size[1]};
    KIN_GOTO(kin_sampler_run(c->ctx, &args, &x));
done:
    kin_schedule_free(&schedule);
    return status;
}

/* --- schedule --- */

static kin_status check_tables(kin_golden_case *c, const kin_scheduler *s)
{
    const int64_t T = s->train_steps;
    double *ab = NULL, *beta;
    kin_tensor t;
    if (!kin_golden_has(c, "out.betas"))
        return KIN_OK;
    KIN_TRY(KIN_WS_HOST(c->ctx, &t, KIN_DTYPE_F64, T));
    beta = t.data;
    KIN_TRY(kin_alphas_cumprod(s, beta, &ab, &c->ctx->error));
    const kin_tensor products = KIN_TENSOR(ab, KIN_DTYPE_F64, T);
    kin_golden_check(c, "out.betas", &t, 1e-5);
    kin_golden_check(c, "out.alphas_cumprod", &products, 1e-5);
    kin_free(ab);
    return KIN_OK;
}

static kin_status run_schedule(kin_golden_case *c)
{
    const cJSON *args;
    kin_scheduler cfg;
    int j = 0;
    KIN_TRY(read_scheduler(c, &cfg));
    KIN_TRY(check_tables(c, &cfg));
    cJSON_ArrayForEach(args, cJSON_GetObjectItemCaseSensitive(c->config, "runs"))
    {
        char suffix[24];
        kin_schedule s = {0};
        KIN_TRY(make_schedule(c, &cfg, args, NULL, &s));
        snprintf(suffix, sizeof suffix, ".%d", j++);
        check_schedule(c, &s, suffix, 1e-5);
        kin_schedule_free(&s);
    }
    return KIN_OK;
}

/* --- forward_noise --- */

static kin_status noise_schedule(kin_golden_case *c, kin_schedule *s)
{
    const cJSON *args = cJSON_GetObjectItemCaseSensitive(c->config, "set_timesteps");
    kin_scheduler cfg;
    KIN_TRY(read_scheduler(c, &cfg));
    return cJSON_IsNull(args) ? kin_schedule_train(&cfg, s, &c->ctx->error)
                              : make_schedule(c, &cfg, args, NULL, s);
}

static kin_status run_forward_noise(kin_golden_case *c)
{
    enum { MAX_BATCH = 16 };
    kin_schedule s = {0};
    kin_tensor x0, n, t, y;
    double times[MAX_BATCH];
    kin_status status;
    KIN_GOTO(noise_schedule(c, &s));
    KIN_GOTO(kin_golden_input(c, "in.x0", &x0));
    KIN_GOTO(kin_golden_input(c, "in.noise", &n));
    KIN_GOTO(kin_golden_input_f32(c, "in.timesteps", &t));
    /* one time may stand for the whole batch */
    for (int64_t i = 0; i < x0.size[0] && i < MAX_BATCH; i++)
        times[i] = kin_tensor_get(&t, t.size[0] > 1 ? i : 0);
    KIN_GOTO(kin_ws_host(c->ctx, KIN_DTYPE_F32, x0.ndim, x0.size, &y));
    KIN_GOTO(kin_schedule_noise(c->ctx, &s, &x0, &n, times, &y));
    kin_golden_check(c, "out.noisy", &y, 1e-5);
    if (kin_golden_has(c, "out.velocity")) {
        KIN_GOTO(kin_schedule_velocity(c->ctx, &s, &x0, &n, times, &y));
        kin_golden_check(c, "out.velocity", &y, 1e-5);
    }
done:
    kin_schedule_free(&s);
    return status;
}

/* --- timestep_density --- */

static kin_status run_density(kin_golden_case *c)
{
    kin_density d = kin_density_default();
    kin_tensor draw, u;
    const char *name = kin_golden_string(c, "weighting_scheme");
    KIN_TRY(kin_density_parse(name ? name : "", &d.kind, &c->ctx->error));
    d.logit_mean = kin_golden_number(c, "logit_mean", d.logit_mean);
    d.logit_std = kin_golden_number(c, "logit_std", d.logit_std);
    d.mode_scale = kin_golden_number(c, "mode_scale", d.mode_scale);
    KIN_TRY(
        kin_golden_input(c, kin_density_wants_normal(d.kind) ? "in.normal" : "in.uniform", &draw));
    KIN_TRY(kin_ws_host(c->ctx, KIN_DTYPE_F32, draw.ndim, draw.size, &u));
    kin_density_apply(&d, draw.data, kin_tensor_numel(&draw), u.data);
    kin_golden_check(c, "out.u", &u, 1e-5);
    return KIN_OK;
}

/* --- wan_cfg: all steps at once, as the mix is elementwise --- */

static kin_status run_wan_cfg(kin_golden_case *c)
{
    kin_tensor cond, text, uncond, y;
    float g = (float)kin_golden_number(c, "guidance_scale", 1.0);
    float gp = (float)kin_golden_number(c, "phys_guidance_scale", 0.0);
    const char *mode = kin_golden_string(c, "mode");
    KIN_TRY(kin_golden_input(c, "in.noise_cond", &cond));
    KIN_TRY(kin_golden_input(c, "in.noise_uncond", &uncond));
    KIN_TRY(kin_ws_host(c->ctx, KIN_DTYPE_F32, cond.ndim, cond.size, &y));
    if (mode && strcmp(mode, "multi") == 0) {
        KIN_TRY(kin_golden_input(c, "in.noise_text", &text));
        KIN_TRY(kin_guidance_mix_multi(c->ctx, &uncond, &text, &cond, g, gp, &y));
    } else {
        KIN_TRY(kin_guidance_mix(c->ctx, &uncond, &cond, g, &y));
    }
    kin_golden_check(c, "out.guided", &y, 1e-5);
    return KIN_OK;
}

/* --- guidance_rescale --- */

static kin_status run_rescale(kin_golden_case *c)
{
    kin_tensor cond, uncond, y;
    KIN_TRY(kin_golden_input(c, "in.cond", &cond));
    KIN_TRY(kin_golden_input(c, "in.uncond", &uncond));
    KIN_TRY(kin_ws_host(c->ctx, KIN_DTYPE_F32, cond.ndim, cond.size, &y));
    KIN_TRY(kin_guidance_mix(c->ctx, &uncond, &cond,
                             (float)kin_golden_number(c, "guidance_scale", 1.0), &y));
    kin_golden_check(c, "out.cfg", &y, 1e-5);
    KIN_TRY(kin_guidance_rescale(c->ctx, &cond, cond.size[1],
                                 (float)kin_golden_number(c, "guidance_rescale", 0.0), &y));
    kin_golden_check(c, "out.rescaled", &y, 1e-5);
    return KIN_OK;
}

/* --- loss_weighting_sd3 --- */

static kin_status run_weighting(kin_golden_case *c)
{
    kin_tensor sigma, w;
    const char *name = kin_golden_string(c, "weighting_scheme");
    kin_loss_weighting kind;
    KIN_TRY(kin_loss_weighting_parse(name ? name : "", &kind, &c->ctx->error));
    KIN_TRY(kin_golden_input(c, "in.sigmas", &sigma));
    KIN_TRY(kin_ws_host(c->ctx, KIN_DTYPE_F32, sigma.ndim, sigma.size, &w));
    for (int64_t i = 0; i < kin_tensor_numel(&sigma); i++)
        kin_tensor_set(&w, i, kin_loss_weight(kind, kin_tensor_get(&sigma, i)));
    kin_golden_check(c, "out.weighting", &w, 1e-5);
    return KIN_OK;
}

const kin_golden_kind kin_golden_kinds_samplers[] = {
    {"guidance_rescale", run_rescale},
    {"loss_weighting_sd3", run_weighting},
    {"scheduler", run_scheduler},
    {"schedule", run_schedule},
    {"forward_noise", run_forward_noise},
    {"timestep_density", run_density},
    {"wan_cfg", run_wan_cfg},
    {NULL, NULL},
};

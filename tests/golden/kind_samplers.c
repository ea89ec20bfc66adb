/* tests/golden/kind_samplers.c: kinds scheduler, schedule, forward_noise (class
 * FlowMatchEulerDiscreteScheduler), timestep_density, wan_cfg. */
#include "tests/golden/golden.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
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

/* The schedule of one call; args: num_inference_steps (may be in `steps` instead), sigmas,
 * timesteps, mu. */
static kin_status make_schedule(kin_golden_case *c, const cJSON *args, const cJSON *steps,
                                kin_schedule *out)
{
    kin_error *err = &c->ctx->error;
    kin_flow_scheduler s;
    double *sigmas = NULL, *timesteps = NULL;
    kin_flow_request r = {0};
    kin_status status;
    KIN_GOTO(
        kin_flow_scheduler_read(cJSON_GetObjectItemCaseSensitive(c->config, "scheduler"), &s, err));
    KIN_GOTO(number_list(args, "sigmas", &sigmas, &r.n_sigmas, err));
    KIN_GOTO(number_list(args, "timesteps", &timesteps, &r.n_timesteps, err));
    const cJSON *n = cJSON_GetObjectItemCaseSensitive(args, "num_inference_steps");
    const cJSON *mu = cJSON_GetObjectItemCaseSensitive(args, "mu");
    r.steps = cJSON_IsNumber(n) ? n->valueint : cJSON_IsNumber(steps) ? steps->valueint : 0;
    r.has_mu = cJSON_IsNumber(mu);
    r.mu = r.has_mu ? mu->valuedouble : 0.0;
    r.sigmas = sigmas;
    r.timesteps = timesteps;
    KIN_GOTO(kin_schedule_flow_match(&s, &r, out, err));
done:
    kin_free(sigmas);
    kin_free(timesteps);
    return status;
}

static void check_schedule(kin_golden_case *c, const kin_schedule *s, const char *suffix,
                           double tol)
{
    char name[64];
    kin_tensor sigma = KIN_TENSOR(s->sigma, KIN_DTYPE_F32, s->n + 1);
    kin_tensor t = KIN_TENSOR(s->t, KIN_DTYPE_F32, s->n);
    snprintf(name, sizeof name, "out.sigmas%s", suffix);
    kin_golden_check(c, name, &sigma, tol);
    snprintf(name, sizeof name, "out.timesteps%s", suffix);
    kin_golden_check(c, name, &t, tol);
}

/* --- scheduler --- */

/* The model output: table plus feedback times x. */
static kin_status model(kin_ctx *ctx, void *user, const kin_tensor *x, float sigma, float t,
                        int step, kin_tensor *v)
{
    (void)sigma, (void)t;
    kin_golden_case *c = user;
    char name[64];
    kin_tensor table;
    snprintf(name, sizeof name, "in.table.%d", step);
    KIN_TRY(kin_golden_input(c, name, &table));
    KIN_TRY(kin_sampler_axpy(ctx, &table, x, (float)kin_golden_number(c, "feedback", 0.0), v));
    snprintf(name, sizeof name, "in.model_output.%d", step);
    kin_golden_check(c, name, v, 2e-5);
    return KIN_OK;
}

static kin_status noise(kin_ctx *ctx, void *user, int step, int draw, kin_tensor *out)
{
    char name[64];
    kin_tensor t;
    snprintf(name, sizeof name, draw ? "in.noise.%d.%d" : "in.noise.%d", step, draw);
    KIN_TRY(kin_golden_input(user, name, &t));
    return ctx->k->copy(ctx, &t, out, false);
}

static kin_status after_step(kin_ctx *ctx, void *user, int step, const kin_tensor *x)
{
    (void)ctx;
    char name[64];
    snprintf(name, sizeof name, "out.x.%d", step);
    kin_golden_check(user, name, x, 2e-5);
    return KIN_OK;
}

static kin_status run_scheduler(kin_golden_case *c)
{
    const cJSON *cfg = c->config;
    const kin_sampler *euler;
    kin_flow_scheduler s;
    kin_schedule schedule = {0};
    kin_tensor x;
    kin_status status;
    KIN_GOTO(kin_flow_scheduler_read(cJSON_GetObjectItemCaseSensitive(cfg, "scheduler"), &s,
                                     &c->ctx->error));
    KIN_GOTO(kin_sampler_find("euler", &euler, &c->ctx->error));
    KIN_GOTO(make_schedule(c, cJSON_GetObjectItemCaseSensitive(cfg, "set_timesteps"),
                           cJSON_GetObjectItemCaseSensitive(cfg, "num_inference_steps"),
                           &schedule));
    check_schedule(c, &schedule, "", 2e-5);
    KIN_GOTO(kin_golden_input(c, "in.x_T", &x));
    kin_sampler_run_args args = {.schedule = &schedule,
                                 .model = model,
                                 .hook = after_step,
                                 .noise = noise,
                                 .user = c,
                                 .stochastic = s.stochastic_sampling};
    KIN_GOTO(kin_sampler_run(c->ctx, euler, &args, &x));
done:
    kin_schedule_free(&schedule);
    return status;
}

/* --- schedule --- */

static kin_status run_schedule(kin_golden_case *c)
{
    const cJSON *args;
    int j = 0;
    cJSON_ArrayForEach(args, cJSON_GetObjectItemCaseSensitive(c->config, "runs"))
    {
        char suffix[24];
        kin_schedule s = {0};
        KIN_TRY(make_schedule(c, args, NULL, &s));
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
    kin_flow_scheduler cfg;
    if (!cJSON_IsNull(args))
        return make_schedule(c, args, NULL, s);
    KIN_TRY(kin_flow_scheduler_read(cJSON_GetObjectItemCaseSensitive(c->config, "scheduler"), &cfg,
                                    &c->ctx->error));
    return kin_schedule_flow_match_train(&cfg, s, &c->ctx->error);
}

static kin_status run_forward_noise(kin_golden_case *c)
{
    kin_schedule s = {0};
    kin_tensor x0, n, t, sigma, y;
    kin_status status;
    KIN_GOTO(noise_schedule(c, &s));
    KIN_GOTO(kin_golden_input(c, "in.x0", &x0));
    KIN_GOTO(kin_golden_input(c, "in.noise", &n));
    KIN_GOTO(kin_golden_input_f32(c, "in.timesteps", &t));
    KIN_GOTO(kin_ws_tensor(c->ctx, KIN_DTYPE_F32, 1, t.size, &sigma));
    for (int64_t i = 0; i < t.size[0]; i++)
        KIN_GOTO(
            kin_schedule_find(&s, ((float *)t.data)[i], (float *)sigma.data + i, &c->ctx->error));
    KIN_GOTO(kin_ws_tensor(c->ctx, KIN_DTYPE_F32, x0.ndim, x0.size, &y));
    KIN_GOTO(kin_flow_noise(c->ctx, &x0, &n, &sigma, &y));
    kin_golden_check(c, "out.noisy", &y, 1e-5);
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
    KIN_TRY(kin_ws_tensor(c->ctx, KIN_DTYPE_F32, draw.ndim, draw.size, &u));
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
    KIN_TRY(kin_ws_tensor(c->ctx, KIN_DTYPE_F32, cond.ndim, cond.size, &y));
    if (mode && strcmp(mode, "multi") == 0) {
        KIN_TRY(kin_golden_input(c, "in.noise_text", &text));
        KIN_TRY(kin_guidance_mix_multi(c->ctx, &uncond, &text, &cond, g, gp, &y));
    } else {
        KIN_TRY(kin_guidance_mix(c->ctx, &uncond, &cond, g, &y));
    }
    kin_golden_check(c, "out.guided", &y, 1e-5);
    return KIN_OK;
}

const kin_golden_kind kin_golden_kinds_samplers[] = {
    {"scheduler", run_scheduler},
    {"schedule", run_schedule},
    {"forward_noise", run_forward_noise},
    {"timestep_density", run_density},
    {"wan_cfg", run_wan_cfg},
    {NULL, NULL},
};

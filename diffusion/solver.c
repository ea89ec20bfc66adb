/* diffusion/solver.c: which solver, options and times a generation runs with: the model's
 * scheduler_config.json, then what the caller asks for. */
#include <ctype.h>
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "diffusion/pipeline_parts.h"

/* the model's own scheduler: a plain flow where it names none */
static kin_status own_scheduler(const kin_pipeline *p, kin_scheduler *cfg, kin_error *err)
{
    *cfg = kin_scheduler_default(KIN_SCHEDULER_FLOW_EULER);
    if (!p->scheduler_config || kin_scheduler_read(p->scheduler_config, cfg, err) == KIN_OK)
        return KIN_OK;
    return err ? kin_fail_prefix(err, "scheduler/scheduler_config.json") : KIN_ERR_FORMAT;
}

kin_status kin_pipeline_is_flow(const kin_pipeline *p, bool *flow, kin_error *err)
{
    kin_scheduler cfg;

    KIN_TRY(own_scheduler(p, &cfg, err));
    *flow = kin_scheduler_is_flow(&cfg);
    return KIN_OK;
}

/* What the network gives must be what the scheduler reads. */
static kin_status check_prediction(const kin_pipeline *p, const kin_scheduler *cfg, kin_error *err)
{
    const kin_model_info *info = kin_model_get_info(p->model);

    if (info->predicts_sample && cfg->prediction != KIN_PREDICT_SAMPLE &&
        cfg->prediction != KIN_PREDICT_FLOW)
        return kin_fail(err, KIN_ERR_FORMAT,
                        "generate: this model predicts the sample; its scheduler's "
                        "prediction_type must be sample, or a flow");
    return KIN_OK;
}

bool kin_solver_is_respacing(const char *spacing)
{
    return spacing && (isdigit((unsigned char)spacing[0]) || !strncmp(spacing, "ddim", 4));
}

static kin_status apply_options(const kin_generate_params *a, kin_scheduler *cfg, kin_error *err)
{
    if (a->shift > 0) {
        if (!kin_scheduler_is_flow(cfg))
            return kin_fail(err, KIN_ERR_ARG, "generate: a flow shift is for flow models");
        cfg->shift = (double)a->shift;
        cfg->dynamic_shift = false;
    }
    if (a->eta > 0) {
        if (cfg->class != KIN_SCHEDULER_DDIM)
            return kin_fail(err, KIN_ERR_ARG, "generate: eta %g works with ddim alone",
                            (double)a->eta);
        cfg->eta = (double)a->eta;
    }
    if (!a->spacing || kin_solver_is_respacing(a->spacing))
        return KIN_OK;
    if (kin_scheduler_is_flow(cfg))
        return kin_fail(err, KIN_ERR_ARG, "generate: timestep spacing %s is not for flow models",
                        a->spacing);
    return kin_time_spacing_parse(a->spacing, &cfg->spacing, err);
}

kin_status kin_solver_config(const kin_pipeline *p, const kin_generate_params *a,
                             kin_scheduler *cfg, kin_error *err)
{
    const kin_model_info *info = kin_model_get_info(p->model);
    kin_scheduler own;

    KIN_TRY(own_scheduler(p, &own, err));
    /* note: WISA runs on diffusers 0.33, whose levels start below those of later versions */
    own.early_sigmas =
        own.class == KIN_SCHEDULER_UNIPC && info->categories && info->family == KIN_FAMILY_WAN;
    *cfg = own;
    if (a->sampler)
        KIN_TRY(kin_sampler_choose(a->sampler, p->scheduler_config, &own, cfg, err));
    KIN_TRY(apply_options(a, cfg, err));
    return check_prediction(p, cfg, err);
}

/* Flows that kinema spaces itself: linspace(1,0,n+1) without its end, then all that the scheduler
 * does with given sigmas (one shift). Heun of its own class keeps the class's levels. */
static bool spaces_itself(const kin_pipeline *p, const kin_scheduler *cfg)
{
    kin_scheduler own;

    if (cfg->class == KIN_SCHEDULER_FLOW_EULER)
        return true;
    return cfg->class == KIN_SCHEDULER_FLOW_HEUN && own_scheduler(p, &own, NULL) == KIN_OK &&
           own.class != cfg->class;
}

kin_status kin_solver_schedule(const kin_pipeline *p, const kin_generate_params *a,
                               const kin_scheduler *cfg, double tokens, kin_schedule *out,
                               kin_error *err)
{
    kin_schedule_request r = {.steps = a->steps,
                              .has_mu = cfg->dynamic_shift,
                              .mu = cfg->dynamic_shift ? kin_scheduler_mu(cfg, tokens) : 0};
    double *sigmas = NULL;
    kin_status status;

    if (kin_solver_is_respacing(a->spacing)) {
        r.respacing = a->spacing;
        r.steps = 0;
    }
    if (spaces_itself(p, cfg) && a->steps > 0 && a->steps <= KIN_SCHEDULE_MAX_STEPS) {
        sigmas = kin_malloc((size_t)a->steps * sizeof(*sigmas));
        if (!sigmas)
            return kin_fail(err, KIN_ERR_MEM, "generate: no memory for %d steps", a->steps);
        for (int i = 0; i < a->steps; i++)
            sigmas[i] = 1.0 - (double)i / a->steps;
        r.sigmas = sigmas;
        r.n_sigmas = a->steps;
    }
    status = kin_schedule_make(cfg, &r, out, err);
    kin_free(sigmas);
    return status;
}

/* samplers/sampler.h: the solvers: from noise to a sample along a schedule. The model is seen as a
 * callback only. A solver is one file and one row of the table in sampler.c; its step is that of
 * the class of diffusers (0.39.0) of the same name. */
#ifndef KIN_SAMPLERS_SAMPLER_H
#define KIN_SAMPLERS_SAMPLER_H

#include "samplers/schedule.h"
#include "tensor/ctx.h"

enum { KIN_SAMPLER_MAX_HISTORY = 4 };

/* Writes the (guided) output of the model for x (scaled where the class scales it) at model time t
 * into y [B,out_channels,...] (allocated); sigma: the schedule's level of this call. The workspace
 * is released to its mark afterwards. */
typedef kin_status (*kin_sampler_model)(kin_ctx *ctx, void *user, const kin_tensor *x, float sigma,
                                        float t, int step, kin_tensor *y);
/* Called after call i = 0..n-1 with the sample; anything but KIN_OK stops the run with that status.
 */
typedef kin_status (*kin_sampler_hook)(kin_ctx *ctx, void *user, int step, const kin_tensor *x);
/* Standard normal noise for a stochastic step into `noise` (x's shape); draw counts the draws
 * within one step. */
typedef kin_status (*kin_sampler_noise)(kin_ctx *ctx, void *user, int step, int draw,
                                        kin_tensor *noise);

typedef struct kin_sampler_run_args {
    const kin_schedule *schedule; /* its cfg chooses the solver and its options */
    kin_sampler_model model;
    kin_sampler_hook hook;   /* or NULL */
    kin_sampler_noise noise; /* needed where kin_sampler_draws says so */
    void *user;              /* of all three */
    int64_t out_channels;    /* of the model's output: x's (also 0), or twice as many for learned
                                variances */
} kin_sampler_run_args;

/* What a solver's step sees. All tensors live through the whole run. */
typedef struct kin_sampler_state {
    kin_ctx *ctx;
    const kin_sampler_run_args *args;
    const kin_schedule *schedule;
    const kin_scheduler *cfg;
    kin_tensor *x;
    kin_tensor out;                              /* output of the model for this call */
    kin_tensor x0, noise;                        /* x's shape, scratch of a step */
    kin_tensor history[KIN_SAMPLER_MAX_HISTORY]; /* as many as the row asks for, x's shape */
} kin_sampler_state;

typedef struct kin_sampler {
    kin_scheduler_class class;
    const char *name;  /* "euler": of --sampling-method; one name may stand for a flow class and one
                          with betas */
    const char *about; /* one line for --help */
    int history;       /* buffers of x's shape */
    bool scales_input; /* the model sees x / sqrt(sigma^2 + 1) */
    kin_status (*step)(kin_sampler_state *s, int i);
} kin_sampler;

/* The table, ended by a row without a name. */
extern const kin_sampler kin_samplers[];
/* A row of that name; KIN_ERR_ARG names the nearest. */
kin_status kin_sampler_find(const char *name, const kin_sampler **out, kin_error *err);
/* cfg for the solver of that name: unchanged where it is the class's own, else converted (config:
 * the JSON that cfg was read from, or NULL). Fails: ARG (no such name; no form for this model). */
kin_status kin_sampler_choose(const char *name, const cJSON *config, const kin_scheduler *cfg,
                              kin_scheduler *out, kin_error *err);
/* Whether a run draws noise. */
bool kin_sampler_draws(const kin_scheduler *cfg);

/* Integrates x in place (in: standard normal noise; out: the sample). x f32 [B,C,...], contiguous.
 * Buffers come from the workspace, which is left as it was found; nothing is allocated on the heap.
 * Samples do not influence one another. Taps model_input.I, x0.I, converted.I, corrected.I.
 * Recording must be off. Fails: SHAPE, ARG (a schedule that cannot be run), MEM, NUMERIC (a value
 * that is not finite, with its step), what the callbacks return. */
kin_status kin_sampler_run(kin_ctx *ctx, const kin_sampler_run_args *args, kin_tensor *x);

/* --- for solvers: step.c --- */

/* One term of a sum: c times a tensor whose sample b starts at data + b*stride. */
typedef struct kin_term {
    double c;
    const kin_tensor *t; /* [B, at least x's channels, ...] */
} kin_term;
/* y = sum of terms with c != 0, in double, rounded once; y may be one of them. */
void kin_sampler_sum(kin_sampler_state *s, const kin_term *term, int n, kin_tensor *y);
/* How x = alpha x0 + sigma eps at a level. */
typedef struct kin_level {
    double alpha, sigma;
} kin_level;
/* The same of level i of the schedule in log space: lambda = log(alpha / sigma), as DPM-Solver and
 * UniPC step in it. */
typedef struct kin_point {
    double alpha, sigma, lambda;
} kin_point;
kin_point kin_sampler_point(const kin_sampler_state *s, int i);
/* The clean estimate of the model's output into x0, thresholded or clipped as cfg says; the noise
 * estimate into eps (x's shape), from the output itself. */
void kin_sampler_x0(kin_sampler_state *s, kin_level level, kin_tensor *x0);
void kin_sampler_eps(kin_sampler_state *s, kin_level level, kin_tensor *eps);
void kin_sampler_clip(kin_sampler_state *s, kin_tensor *x0);
/* y = a + alpha*b elementwise, y may be a or b; f32 of one shape. */
kin_status kin_sampler_axpy(kin_ctx *ctx, const kin_tensor *a, const kin_tensor *b, float alpha,
                            kin_tensor *y);
/* Standard normal noise of this step into s->noise. */
kin_status kin_sampler_draw(kin_sampler_state *s, int i, int draw);

/* --- steps --- */
kin_status kin_flow_euler_step(kin_sampler_state *s, int i);
kin_status kin_euler_step(kin_sampler_state *s, int i);
kin_status kin_euler_ancestral_step(kin_sampler_state *s, int i);
kin_status kin_heun_step(kin_sampler_state *s, int i);
kin_status kin_flow_heun_step(kin_sampler_state *s, int i);
kin_status kin_dpm_step(kin_sampler_state *s, int i);
kin_status kin_unipc_step(kin_sampler_state *s, int i);
kin_status kin_ddim_step(kin_sampler_state *s, int i);
kin_status kin_ddpm_step(kin_sampler_state *s, int i);
kin_status kin_cog_ddim_step(kin_sampler_state *s, int i);
kin_status kin_cog_dpm_step(kin_sampler_state *s, int i);

/* samplers/ddpm.c: variances of the step of call i. */
typedef struct kin_ddpm_variance {
    double small; /* of the posterior, at least 1e-20 */
    double large; /* beta */
} kin_ddpm_variance;
kin_ddpm_variance kin_ddpm_variance_at(const kin_schedule *s, int i);

#endif

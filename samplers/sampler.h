/* samplers/sampler.h: solvers of the probability-flow equation dx/dsigma = v. The model is seen as
 * a callback only. A solver is one file and one row of the table in sampler.c. */
#ifndef KIN_SAMPLERS_SAMPLER_H
#define KIN_SAMPLERS_SAMPLER_H

#include "samplers/schedule.h"
#include "tensor/ctx.h"

enum { KIN_SAMPLER_MAX_HISTORY = 4 };

/* Writes the (guided) velocity of x at noise level sigma, model time t, into v (x's shape,
 * allocated). The workspace is released to its mark afterwards. */
typedef kin_status (*kin_sampler_model)(kin_ctx *ctx, void *user, const kin_tensor *x, float sigma,
                                        float t, int step, kin_tensor *v);
/* Called after step i = 0..n-1 with the sample; anything but KIN_OK stops the run with that status.
 */
typedef kin_status (*kin_sampler_hook)(kin_ctx *ctx, void *user, int step, const kin_tensor *x);
/* Standard normal noise for a stochastic step into `noise` (x's shape); draw counts the draws
 * within one step. */
typedef kin_status (*kin_sampler_noise)(kin_ctx *ctx, void *user, int step, int draw,
                                        kin_tensor *noise);

typedef struct kin_sampler_run_args {
    const kin_schedule *schedule;
    kin_sampler_model model;
    kin_sampler_hook hook;   /* or NULL */
    kin_sampler_noise noise; /* needed where stochastic is set */
    void *user;              /* of all three */
    bool stochastic; /* Euler: fresh noise in every step instead of the deterministic path */
} kin_sampler_run_args;

/* What a solver's step sees. x and the buffers live through the whole run. */
typedef struct kin_sampler_state {
    kin_ctx *ctx;
    const kin_sampler_run_args *args;
    kin_tensor *x;
    kin_tensor v;                                /* model output */
    kin_tensor history[KIN_SAMPLER_MAX_HISTORY]; /* as many as the row asks for, x's shape */
} kin_sampler_state;

typedef struct kin_sampler {
    const char *name;  /* "euler" */
    const char *about; /* one line for --help */
    int history;       /* buffers of x's shape */
    kin_status (*step)(kin_sampler_state *s, int i);
} kin_sampler;

/* The table, ended by a row without a name. */
extern const kin_sampler kin_samplers[];
/* The row of that name; KIN_ERR_ARG names the nearest. */
kin_status kin_sampler_find(const char *name, const kin_sampler **out, kin_error *err);

/* Integrates x (in: noise at sigma[0]; out: the sample at sigma[n]) in place. x f32, contiguous.
 * Buffers come from the workspace, which is left as it was found; nothing is allocated on the heap.
 * Recording must be off. Fails: SHAPE, ARG, MEM, NUMERIC (a value that is not finite, with its
 * step), what the callbacks return. */
kin_status kin_sampler_run(kin_ctx *ctx, const kin_sampler *sampler,
                           const kin_sampler_run_args *args, kin_tensor *x);

/* For solvers: calls the model at (sigma, t) into v with the workspace restored, and checks that v
 * is finite. */
kin_status kin_sampler_call(kin_sampler_state *s, const kin_tensor *x, float sigma, float t,
                            int step, kin_tensor *v);
/* y = a + alpha*b elementwise, y may be a or b; f32 of one shape. */
kin_status kin_sampler_axpy(kin_ctx *ctx, const kin_tensor *a, const kin_tensor *b, float alpha,
                            kin_tensor *y);

/* samplers/euler.c */
kin_status kin_euler_step(kin_sampler_state *s, int i);

#endif

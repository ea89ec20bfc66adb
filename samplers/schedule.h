/* samplers/schedule.h: which times and noise levels a run visits: set_timesteps of the classes of
 * diffusers (0.39.0), kinema's own flow schedule, respaced processes; and the noising of clean
 * samples at those levels. */
#ifndef KIN_SAMPLERS_SCHEDULE_H
#define KIN_SAMPLERS_SCHEDULE_H

#include "samplers/scheduler.h"
#include "tensor/ctx.h"

enum { KIN_SCHEDULE_MAX_STEPS = 100000 };

/* n model calls. Call i is at time t[i]; where the class works by sigmas, its step goes from
 * sigma[i] to sigma[i+1]; by alphas_cumprod, from ab[i] to ab_prev[i]. */
typedef struct kin_schedule {
    kin_scheduler cfg;
    int n;
    int sigmas;   /* entries of sigma: n+1, log_linear Euler n+2; at least n+1 */
    float *t;     /* [n]: 0 (clean) to about 1000 (noise) in all classes but continuous Euler */
    float *sigma; /* [sigmas]; in classes that work by alphas_cumprod sqrt(1 - ab) */
    double *ab, *ab_prev; /* [n], NULL where the class works by sigmas */
    double *table;        /* alphas_cumprod [cfg.train_steps], NULL for flows without betas */
    double init_sigma;    /* standard normal noise times this is the first x */
    bool respaced;        /* the process of the kept steps, as in ADM: the variance of its last
                             step is that of the step before */
} kin_schedule;
/* Frees the arrays and zeroes *s; a zeroed one is fine. */
void kin_schedule_free(kin_schedule *s);

/* s u / (1 + (s-1) u): moves time towards the noise for s > 1. u in [0,1], s > 0. */
double kin_flow_shift(double shift, double u);

/* kinema's own: linspace(1,0,steps+1), shifted once; t = 1000 sigma. The arrays are the caller's.
 * Fails: ARG (steps outside 1..KIN_SCHEDULE_MAX_STEPS, shift not positive), MEM. */
kin_status kin_schedule_flow(int steps, double shift, kin_schedule *out, kin_error *err);
/* ProMoE's sampling script: linspace(1,0,steps+1) without its end, shifted by sample_shift, then
 * again by the scheduler's own shift, 0 appended. Fails as above. */
kin_status kin_schedule_promoe(int steps, double sample_shift, double shift, kin_schedule *out,
                               kin_error *err);

/* Arguments of set_timesteps. */
typedef struct kin_schedule_request {
    int steps;            /* 0: the length of sigmas or timesteps */
    const double *sigmas; /* [n_sigmas] or NULL. Flows: still shifted once; Euler: with the end */
    int n_sigmas;
    const double *timesteps; /* [n_timesteps] or NULL; kept as they are */
    int n_timesteps;
    bool has_mu;
    double mu;
    /* DDPM, DDIM: the kept steps of kin_respacing_parse, or NULL. The process is then that of ADM:
     * betas in f64, the previous step of each is the next one kept. */
    const char *respacing;
} kin_schedule_request;
/* The schedule that set_timesteps makes. Fails: ARG (lengths that differ, no steps, an argument
 * that the class does not take, dynamic shifting without mu), FORMAT (betas), MEM. */
kin_status kin_schedule_make(const kin_scheduler *cfg, const kin_schedule_request *request,
                             kin_schedule *out, kin_error *err);
/* The schedule before any set_timesteps, which noises training samples: all training times,
 * descending. note: DPMSolver and UniPC pair them with ascending sigmas. Fails: FORMAT, MEM. */
kin_status kin_schedule_train(const kin_scheduler *cfg, kin_schedule *out, kin_error *err);

/* x0 times *alpha plus noise times *sigma is the sample at time t, which must be one of s->t (any
 * step of the table where the class works by alphas_cumprod). Fails: ARG. */
kin_status kin_schedule_level(const kin_schedule *s, double t, double *alpha, double *sigma,
                              kin_error *err);
/* x = alpha_b x0 + sigma_b noise for times t[B]. x0, noise, x [B,...] f32 contiguous; x may be x0
 * or noise. No tape. Fails: SHAPE, ARG. */
kin_status kin_schedule_noise(kin_ctx *ctx, const kin_schedule *s, const kin_tensor *x0,
                              const kin_tensor *noise, const double *t, kin_tensor *x);
/* v = sqrt(ab) noise - sqrt(1-ab) x0 likewise. note: the Euler class takes ab at the position of t
 * in the schedule, as its get_velocity does. Fails: SHAPE, ARG (a flow). */
kin_status kin_schedule_velocity(kin_ctx *ctx, const kin_schedule *s, const kin_tensor *x0,
                                 const kin_tensor *noise, const double *t, kin_tensor *v);

/* For schedule.c: curves.c. Replaces sigma[0..n) by the curve from `first` to `last`. */
void kin_sigma_curve_fill(kin_sigma_curve curve, double first, double last, int n, double *sigma);
/* The time whose sigma in the table of T alphas_cumprod is nearest, interpolated in log sigma. */
double kin_sigma_to_time(const double *table, int T, double sigma);
/* sigma = sqrt((1-ab)/ab) in f32 arithmetic. */
double kin_sigma_of(double ab);

#endif

/* samplers/schedule.h: noise levels of rectified flow, x_sigma = (1-sigma) x_0 + sigma n, and when
 * they are visited. Holds kinema's own schedule and FlowMatchEulerDiscreteScheduler of diffusers
 * (0.39.0) with its whole configuration. */
#ifndef KIN_SAMPLERS_SCHEDULE_H
#define KIN_SAMPLERS_SCHEDULE_H

#include <stdbool.h>

#include <cjson/cJSON.h>

#include "base/json.h"
#include "tensor/ctx.h"

enum { KIN_SCHEDULE_MAX_STEPS = 100000 };

/* n solver steps: step i goes from sigma[i] to sigma[i+1] and gives the model the time t[i]. */
typedef struct kin_schedule {
    int n;
    float *sigma; /* [n+1] */
    float *t;     /* [n], 0..1000 */
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

typedef enum kin_flow_spacing {
    KIN_FLOW_PLAIN = 0,
    KIN_FLOW_KARRAS,      /* Karras et al. 2022, eq. 5, rho 7 */
    KIN_FLOW_EXPONENTIAL, /* even in log sigma */
    KIN_FLOW_BETA         /* quantiles of Beta(0.6, 0.6), Lee et al. 2024 */
} kin_flow_spacing;

/* scheduler_config.json of FlowMatchEulerDiscreteScheduler. */
typedef struct kin_flow_scheduler {
    int num_train_timesteps;
    double shift;
    bool use_dynamic_shifting; /* mu of the request takes the place of shift */
    double base_shift, max_shift, base_image_seq_len,
        max_image_seq_len; /* for kin_flow_scheduler_mu */
    bool invert_sigmas;
    bool has_shift_terminal;
    double shift_terminal; /* the last non-zero sigma is stretched to this */
    kin_flow_spacing spacing;
    bool time_shift_linear; /* time_shift_type "linear" (else "exponential") */
    bool stochastic_sampling;
} kin_flow_scheduler;
kin_flow_scheduler kin_flow_scheduler_default(void);

/* Reads the keys of config over the defaults; an unknown key is an error that names the nearest.
 * Fails: FORMAT (a value outside its rule, two spacings at once), UNSUPPORTED (another
 * _class_name). */
kin_status kin_flow_scheduler_read(const cJSON *config, kin_flow_scheduler *out, kin_error *err);

/* mu for an image of `tokens` tokens: the line through (base_image_seq_len, base_shift),
 * (max_image_seq_len, max_shift). */
double kin_flow_scheduler_mu(const kin_flow_scheduler *s, double tokens);

/* Arguments of set_timesteps. */
typedef struct kin_flow_request {
    int steps;            /* 0: the length of sigmas or timesteps */
    const double *sigmas; /* [n_sigmas] or NULL; still shifted once */
    int n_sigmas;
    const double *timesteps; /* [n_timesteps] or NULL; kept as they are */
    int n_timesteps;
    bool has_mu;
    double mu;
} kin_flow_request;
/* The schedule that set_timesteps makes. Fails: ARG (lengths that differ, no steps, dynamic
 * shifting without mu), MEM. */
kin_status kin_schedule_flow_match(const kin_flow_scheduler *s, const kin_flow_request *request,
                                   kin_schedule *out, kin_error *err);
/* The schedule before any set_timesteps: the num_train_timesteps shifted training levels, without a
 * final 0 (sigma[n] repeats sigma[n-1]). Fails: MEM. */
kin_status kin_schedule_flow_match_train(const kin_flow_scheduler *s, kin_schedule *out,
                                         kin_error *err);
/* The sigma of a time that is exactly one of s->t. Fails: ARG. */
kin_status kin_schedule_find(const kin_schedule *s, float t, float *sigma, kin_error *err);

/* x = (1-sigma_b) x0 + sigma_b noise. x0, noise, x [B,...] f32 contiguous, sigma [B] f32; x may be
 * x0 or noise. No tape. Fails: SHAPE. */
kin_status kin_flow_noise(kin_ctx *ctx, const kin_tensor *x0, const kin_tensor *noise,
                          const kin_tensor *sigma, kin_tensor *x);

#endif

/* samplers/betas.h: the discrete diffusion process: betas, their cumulative products, the posterior
 * q(x_{t-1} | x_t, x_0), and processes that keep some of the steps. Ho et al. 2020
 * (arXiv 2006.11239), Nichol & Dhariwal 2021 (arXiv 2102.09672). */
#ifndef KIN_SAMPLERS_BETAS_H
#define KIN_SAMPLERS_BETAS_H

#include "samplers/scheduler.h"

/* T alphas_cumprod as the class of diffusers has them: f32 arithmetic (CogVideoX: f64), zero
 * terminal SNR and SNR shift applied; betas (or NULL) likewise, before the shift. *out: T doubles,
 * kin_free. Fails: FORMAT (betas outside [0,1]), MEM. */
kin_status kin_alphas_cumprod(const kin_scheduler *s, double *betas, double **out, kin_error *err);

/* Betas of ADM and its descendants in f64: LINEAR scaled by 1000/T, COSINE, SCALED_LINEAR; beta[T].
 * Fails: ARG (another schedule). */
kin_status kin_betas_exact(kin_beta_schedule schedule, int T, double start, double end,
                           double *beta, kin_error *err);

/* Which of T steps are kept: "" all; "10" or "3,2,4": so many of each equal section, from its first
 * to its last step; "ddim25": every k-th, k the first stride that gives 25. kept[T] ascending.
 * Fails: ARG. */
kin_status kin_respacing_parse(const char *text, int T, int *kept, int *n, kin_error *err);

/* A process of n steps in f64; arrays of one block. */
typedef struct kin_process {
    int n;
    int *time; /* [n] the step of the training process: what the network is told */
    double *beta, *ab, *ab_prev;
    double *variance, *log_variance; /* of the posterior; the log of entry 0 is that of entry 1 */
    double *coef1, *coef2;           /* posterior mean = coef1 x_0 + coef2 x_t */
} kin_process;
/* The process over the kept steps (NULL: all T) of one with these betas. Free with
 * kin_process_free. Fails: MEM. */
kin_status kin_process_make(const double *beta, int T, const int *kept, int n, kin_process *out,
                            kin_error *err);
void kin_process_free(kin_process *p);

#endif

/* training/levels.h: noise levels of the published fine-tuning of Wan and CogVideoX (finetrainers,
 * as 360CVGroup/WISA runs it): one of 1000 discrete levels per sample, looked up by a draw. */
#ifndef KIN_TRAINING_LEVELS_H
#define KIN_TRAINING_LEVELS_H

#include "samplers/scheduler.h"
#include "tensor/ops.h"

enum { KIN_LEVELS = 1000 };

typedef struct kin_levels {
    float shift; /* Wan: sigma = shift s / (1 + (shift-1) s) of s = (1000-i)/1000 */
    double *ab;  /* [1000] alphas_cumprod of CogVideoX's process, which predicts v; NULL: Wan */
} kin_levels;

/* Rectified flow; nothing to free. */
kin_levels kin_levels_flow(float shift);
/* CogVideoX: the table of a scheduler's betas (rescaled to zero terminal SNR where it says so).
 * Fails: ARG (a flow, another number of steps, another prediction than v), FORMAT, MEM. */
kin_status kin_levels_cogvideox(const kin_scheduler *s, kin_levels *out, kin_error *err);
void kin_levels_free(kin_levels *l);

/* Level of a draw u in [0,1): i = trunc(1000 u); sigma = (1000-i)/1000 (CogVideoX: (999-i)/1000)
 * in f32, *t = trunc(1000 sigma) in f32, which for some sigmas is one less than 1000 sigma. */
void kin_levels_at(const kin_levels *l, float u, float *sigma, float *t);

/* CogVideoX: x_t = sqrt(ab) x0 + sqrt(1-ab) noise with ab [B] of the times t [B]; the target is x0.
 * No gradient. Fails: SHAPE, MEM. */
kin_status kin_levels_mix(kin_ctx *ctx, const kin_levels *l, const kin_tensor *x0,
                          const kin_tensor *noise, const kin_tensor *t, kin_tensor *ab,
                          kin_tensor *xt);

#endif

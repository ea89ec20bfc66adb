/* samplers/guidance.h: how the branches of a guided model are mixed. Classifier-free guidance: Ho &
 * Salimans 2022; physical multi-guidance: WISA (arXiv 2503.08153). */
#ifndef KIN_SAMPLERS_GUIDANCE_H
#define KIN_SAMPLERS_GUIDANCE_H

#include "tensor/ctx.h"

/* y = u + g (c - u). u without the condition, c with it; all of one shape, f32, contiguous; y
 * caller's, may be u or c. g 1 gives c, g 0 gives u, up to rounding. No tape. Scratch: one tensor
 * of that shape. Fails: SHAPE, MEM. */
kin_status kin_guidance_mix(kin_ctx *ctx, const kin_tensor *u, const kin_tensor *c, float g,
                            kin_tensor *y);

/* y = u + g (m - u) + gp (c - m): u nothing, m text alone, c text and physics. y may be u, m or c.
 * Scratch: two tensors. */
kin_status kin_guidance_mix_multi(kin_ctx *ctx, const kin_tensor *u, const kin_tensor *m,
                                  const kin_tensor *c, float g, float gp, kin_tensor *y);

/* CogVideoX's guidance that follows the time, of diffusers' use_dynamic_cfg and WISA: 1 + g (1 -
 * cos(pi ((N-t)/N)^5)) / 2. note: t is the raw time, up to 999, and N the number of steps, so that
 * the base is negative and large for most t. */
double kin_guidance_dynamic(double g, double t, int steps);

/* Lin et al. 2023 (arXiv 2305.08891), section 3.4: y <- phi y std(c)/std(y) + (1-phi) y, the
 * standard deviations (n-1) of each sample over its first `channels` channels, which alone change.
 * y, c [B,C,...] f32, contiguous, of one shape. No tape. Fails: SHAPE. */
kin_status kin_guidance_rescale(kin_ctx *ctx, const kin_tensor *c, int64_t channels, float phi,
                                kin_tensor *y);

#endif

/* diffusion/rope.h: tables of the 3-D rotary embedding of Wan (Su et al. 2021 applied per axis). */
#ifndef KIN_DIFFUSION_ROPE_H
#define KIN_DIFFUSION_ROPE_H

#include "tensor/ops.h"

/* What the row of the physical token holds. */
typedef enum kin_rope_token {
    KIN_ROPE_NO_TOKEN = 0, /* there is none */
    KIN_ROPE_IDENTITY,     /* cos 1, sin 0 */
    KIN_ROPE_ZERO          /* cos 0, sin 0: query and key become the zero vector (WISA) */
} kin_rope_token;

/* Tables cos, sin [(token) + F'*H'*W', d/2] in the workspace, type dtype. The head of size d (even)
 * is split into w = h = 2*floor(d/6) and t = d - 2h, in the order t, h, w; part of size m at
 * position p turns by p * theta^(-2k/m), k < m/2. */
kin_status kin_rope_tables(kin_ctx *ctx, const int64_t grid[3], int64_t d, double theta,
                           kin_rope_token token, kin_dtype dtype, kin_tensor *cos_out,
                           kin_tensor *sin_out);

#endif

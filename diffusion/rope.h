/* diffusion/rope.h: tables of the 3-D rotary embeddings of Wan and CogVideoX (Su et al. 2021
 * applied per axis). */
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

/* CogVideoX (arXiv 2408.06072): tables [text + (token) + F'*H'*W', d/2]. The text rows turn
 * nothing. d is split into frame d/4, row 3d/8, column 3d/8 (d a multiple of 16). A frame's
 * position is its index; rows and columns of a grid that differs from the configured base (height,
 * width in patches) are spread over the part of it that keeps the aspect. theta 10000. */
kin_status kin_rope_tables_cog(kin_ctx *ctx, const int64_t grid[3], const int64_t base[2],
                               int64_t d, int64_t text, bool token, kin_dtype dtype,
                               kin_tensor *cos_out, kin_tensor *sin_out);

#endif

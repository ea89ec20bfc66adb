/* diffusion/embed.h: two-layer embeddings of time and text, position tables. */
#ifndef KIN_DIFFUSION_EMBED_H
#define KIN_DIFFUSION_EMBED_H

#include "tensor/ops.h"

/* y = W2 act(W1 x + b1) + b2 */
typedef struct kin_mlp {
    kin_param *w1, *b1, *w2, *b2;
    kin_act act;
} kin_mlp;

/* Registers FIRST.weight [hidden,in], FIRST.bias, SECOND.weight [out,hidden], SECOND.bias, all
 * weights started by `init`. */
void kin_mlp_register(kin_params *params, const char *first, const char *second, int64_t in,
                      int64_t hidden, int64_t out, kin_act act, kin_init init, kin_mlp *mlp);
kin_status kin_mlp_forward(kin_ctx *ctx, const kin_mlp *mlp, const kin_tensor *x, kin_tensor *y);

/* t [B] -> sinusoid [B,freq] = [cos(t f_j) | sin(t f_j)], f_j = 10000^(-j/(freq/2)) in f32; freq
 * even. */
kin_status kin_time_sinusoid(kin_ctx *ctx, const kin_tensor *t, int64_t freq, kin_tensor *y);

/* Learned absolute positions: one table per axis, added to the video tokens, started as
 * N(0, start_deviation^2). */
typedef struct kin_positions {
    kin_param *frame, *row, *column; /* [F',D], [H',D], [W',D]; frame NULL: none */
} kin_positions;
void kin_positions_register(kin_params *params, const char *prefix, const int64_t grid[3],
                            int64_t width, float start_deviation, kin_positions *p);
/* y = tokens [B,N,D] + frame[f] + row[h] + column[w]. Fails: ARG when grid is larger than the
 * tables. */
kin_status kin_positions_add(kin_ctx *ctx, const kin_positions *p, const kin_tensor *tokens,
                             const int64_t grid[3], kin_tensor *y);

/* The fixed 2-D table of DiT into out [S,D] (f32): first D/2 columns from the column index, last
 * D/2 from the row index, each [sin | cos] of pos * 10000^(-i/(D/4)). D a multiple of 4. */
void kin_sincos_2d(int64_t side, int64_t width, float *out);

/* The fixed table of CogVideoX, [1,text+F'*H'*W',D] in the workspace: text rows 0; row (f,y,x) of
 * the video = [s(D/4, f/scale_time) | s(3D/8, x/scale_space) | s(3D/8, y/scale_space)], s(m,p) =
 * [sin(p w_k) | cos(p w_k)], w_k = 10000^(-k/(m/2)). D a multiple of 16. */
kin_status kin_sincos_3d(kin_ctx *ctx, const int64_t grid[3], int64_t width, int64_t text,
                         double scale_space, double scale_time, kin_dtype dtype, kin_tensor *table);

#endif

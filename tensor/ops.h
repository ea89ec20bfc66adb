/* tensor/ops.h: public ops. Each checks shapes, allocates its result in the workspace, calls one
 * kernel of the context's table and, while recording, notes how to go back. Results are f32 (f64
 * for f64 operands) and live until the workspace mark below them is released. Every op fails with
 * KIN_ERR_SHAPE or KIN_ERR_ARG (text names op, shapes and rule) and KIN_ERR_MEM. Letters: see
 * tensor.h. */
#ifndef KIN_TENSOR_OPS_H
#define KIN_TENSOR_OPS_H

#include "tensor/ctx.h"
#include "tensor/kernels.h"
#include "tensor/params.h"
#include "tensor/tape.h"

typedef struct kin_linear_options {
    kin_act act;
    const kin_tensor *residual, *gate; /* see kin_linear_residual; NULL: none */
    bool operand;                      /* products alone read y, see kin_linear_operand */
    /* Hints, without effect while recording: columns of y that are not live may be left unwritten;
     * columns of x that are not live hold zeros. */
    kin_live out, in;
} kin_linear_options;
/* The linear layer with all that may follow it; opt NULL: nothing. */
kin_status kin_linear_with(kin_ctx *ctx, const kin_tensor *x, kin_param *w, kin_param *b,
                           const kin_linear_options *opt, kin_tensor *y);
/* y [..., n] = x [..., k] w^T + b. w [n, k] or more dims seen flat as [size0, rest] (patch
 * convolutions); b [n] or NULL. */
kin_status kin_linear(kin_ctx *ctx, const kin_tensor *x, kin_param *w, kin_param *b, kin_tensor *y);
/* The same followed by an activation. */
kin_status kin_linear_act(kin_ctx *ctx, const kin_tensor *x, kin_param *w, kin_param *b,
                          kin_act act, kin_tensor *y);
/* The same for a y that products alone read (kin_linear*, kin_conv, kin_attention): kept in
 * kin_operand_dtype. With an activation one product alone (kin_linear*), whose gradient then comes
 * with the activation's: backward fails (ARG) where a second one reads y. */
kin_status kin_linear_operand(kin_ctx *ctx, const kin_tensor *x, kin_param *w, kin_param *b,
                              kin_act act, kin_tensor *y);
/* y = residual + gate * (x w^T + b). residual [..., n]; gate [B, n] (any row stride; row b serves
 * sample b: the rows are cut into B equal parts) or NULL for factor 1. */
kin_status kin_linear_residual(kin_ctx *ctx, const kin_tensor *x, kin_param *w, kin_param *b,
                               const kin_tensor *residual, const kin_tensor *gate, kin_tensor *y);

/* y = residual + gate * x, all [..., n], gate [B, n] as there. */
kin_status kin_gated_add(kin_ctx *ctx, const kin_tensor *x, const kin_tensor *residual,
                         const kin_tensor *gate, kin_tensor *y);

/* LayerNorm over the last dim, x [..., D], biased variance: a = n*gamma + beta (each NULL: 1, 0), y
 * = a*(1+scale)+shift with scale, shift [B, D] (both NULL: none); row b serves the b-th of B equal
 * parts of the rows. */
kin_status kin_layernorm(kin_ctx *ctx, const kin_tensor *x, kin_param *gamma, kin_param *beta,
                         const kin_tensor *scale, const kin_tensor *shift, float eps,
                         kin_tensor *y);
/* The same for a y that products alone read, see kin_linear_operand. */
kin_status kin_layernorm_operand(kin_ctx *ctx, const kin_tensor *x, kin_param *gamma,
                                 kin_param *beta, const kin_tensor *scale, const kin_tensor *shift,
                                 float eps, kin_tensor *y);
/* y = x / sqrt(mean(x^2) + eps) * gamma over the last dim (gamma NULL: 1). */
kin_status kin_rmsnorm(kin_ctx *ctx, const kin_tensor *x, kin_param *gamma, float eps,
                       kin_tensor *y);

typedef struct kin_head_norm_options {
    int64_t heads;
    bool per_head;           /* LayerNorm of each head, else RMSNorm over all heads of a token */
    kin_param *gamma, *beta; /* [d] per head, else gamma [A*d]; each may be NULL */
    float eps;
    const kin_tensor *cos, *sin; /* [N,d/2]: turned after the norm (kin_rope); NULL: not */
    bool operand;                /* products alone read y, see kin_linear_operand */
    kin_live live; /* per head alone, without effect while recording: heads that are not live may be
                      left unwritten */
} kin_head_norm_options;
/* The norm of queries or keys x [B,N,A*d] and their rotary turn in one pass -> y [B,N,A,d]. */
kin_status kin_head_norm(kin_ctx *ctx, const kin_tensor *x, const kin_head_norm_options *opt,
                         kin_tensor *y);

/* 3-D rotary application: x [B,N,A,d], tables cos, sin [N, d/2]. */
kin_status kin_rope(kin_ctx *ctx, const kin_tensor *x, const kin_tensor *cos, const kin_tensor *sin,
                    kin_tensor *y);

typedef struct kin_attention_options {
    const kin_tensor *bias; /* [A,Nq,Nk]: gets a gradient */
    const kin_tensor *mask; /* u8 [B,Nk] */
    const kin_tensor *gate; /* [B,A], no gradient */
    float scale;            /* 0: 1/sqrt(d) */
    bool operand;           /* products alone read o, see kin_linear_operand */
} kin_attention_options;
/* o [B,Nq,A,d] from q [B,Nq,A,d], k, v [B,Nk,A,d]; the score matrix is never stored. opt NULL:
 * defaults. */
kin_status kin_attention(kin_ctx *ctx, const kin_tensor *q, const kin_tensor *k,
                         const kin_tensor *v, const kin_attention_options *opt, kin_tensor *o);

typedef struct kin_conv_options {
    int stride;                   /* of height and width: 1 or 2; 0: 1 */
    int up;                       /* 2: x is doubled in height and width first (nearest); 0: 1 */
    int front;                    /* frames of zeros before the first (causal kernels) */
    int top, bottom, left, right; /* rows and columns of zeros */
    bool in_place;                /* y takes the residual's place, unless recording; an input of a
                                     checkpoint must stay as it is */
} kin_conv_options;
/* y = conv(x, w) + b + residual, channels last: x [B,H,W,in] or [B,F,H,W,in], contiguous; w
 * [out,in,kh,kw] or [out,in,kt,kh,kw]; b [out], residual as y, opt: each may be NULL. */
kin_status kin_conv(kin_ctx *ctx, const kin_tensor *x, kin_param *w, kin_param *b,
                    const kin_conv_options *opt, const kin_tensor *residual, kin_tensor *y);
/* y = act(n * gamma + beta), n = x normalised over all pixels and the channels of a group of one
 * sample. x [B,...,C] contiguous; gamma, beta [C]; groups divides C. */
kin_status kin_groupnorm(kin_ctx *ctx, const kin_tensor *x, int64_t groups, kin_param *gamma,
                         kin_param *beta, kin_act act, float eps, kin_tensor *y);
/* The same for a y that products alone read, see kin_linear_operand. */
kin_status kin_groupnorm_operand(kin_ctx *ctx, const kin_tensor *x, int64_t groups,
                                 kin_param *gamma, kin_param *beta, kin_act act, float eps,
                                 kin_tensor *y);
/* z = mean + exp(v/2) * noise with v = logvar clamped to [lo, hi]; where v lies on or beyond a
 * limit the gradient of logvar is 0. All of one shape [B,...]; a sample is contiguous. */
kin_status kin_posterior_sample(kin_ctx *ctx, const kin_tensor *mean, const kin_tensor *logvar,
                                const kin_tensor *noise, float lo, float hi, kin_tensor *z);
/* kl [B]: divergence of every sample's distribution from the standard normal one, summed. */
kin_status kin_posterior_kl(kin_ctx *ctx, const kin_tensor *mean, const kin_tensor *logvar,
                            float lo, float hi, kin_tensor *kl);
/* logvar = clamp(logvar, lo, hi) in its own place, without an entry on the tape: for values whose
 * further use is sample and kl with the same limits. */
kin_status kin_posterior_clamp(kin_ctx *ctx, kin_tensor *logvar, float lo, float hi);

/* rows of table [V,D] for ids i32 [...] -> [..., D]. Fails: ARG for an id outside [0,V); ids
 * that lie on a device are not looked at: whoever brought them there knows them. */
kin_status kin_embedding(kin_ctx *ctx, kin_param *table, const kin_tensor *ids, kin_tensor *y);

/* video [B,C,F,H,W] -> tokens [B,N,C*pt*ph*pw] and back. channel_last: see kin_patch_args. Sizes
 * must divide. */
kin_status kin_patchify(kin_ctx *ctx, const kin_tensor *video, const int patch[3],
                        bool channel_last, kin_tensor *tokens);
kin_status kin_unpatchify(kin_ctx *ctx, const kin_tensor *tokens, const int patch[3],
                          bool channel_last, int64_t channels, int64_t frames, int64_t height,
                          int64_t width, kin_tensor *video);

/* Cosine similarity of tokens x [T,D] to prototypes [E,D] -> z [T,E]; differentiable in both. */
kin_status kin_cosine(kin_ctx *ctx, const kin_tensor *x, kin_param *proto, kin_tensor *z);
/* K best of scores [T,E]: idx i32 [T,K], w [T,K] (raw scores, differentiable). null u8 [B] or NULL:
 * those samples' tokens get null_expert in all slots and weight 1,0,... */
kin_status kin_topk(kin_ctx *ctx, const kin_tensor *scores, int64_t k, const kin_tensor *null,
                    int64_t null_expert, kin_tensor *idx, kin_tensor *w);
/* Scores of tokens x [T,D] against the rows of a gate [E,D] -> x.gate [T,E], in f32 whatever the
 * context's compute type; differentiable in both. */
kin_status kin_gate_scores(kin_ctx *ctx, const kin_tensor *x, kin_param *gate, kin_tensor *z);

/* Which tokens each expert takes, see kin_choose_args. */
typedef struct kin_choose_options {
    kin_take rule;
    int64_t pools;
    int64_t k;              /* TOP, kth: 1..T/pools */
    const kin_tensor *null; /* u8 [pools] or NULL */
    int64_t null_expert;
    const kin_tensor *gate;      /* [T,E], no gradient */
    const kin_tensor *threshold; /* [E] */
    kin_tensor *kth; /* NULL, or gets [E]: the k-th largest gate of each expert; pools 1 */
} kin_choose_options;
/* Experts take tokens by their scores [T,E]: idx i32 [T,E] (slot e is e or -1), w [T,E] (raw
 * scores, differentiable). */
kin_status kin_choose(kin_ctx *ctx, const kin_tensor *scores, const kin_choose_options *opt,
                      kin_tensor *idx, kin_tensor *w);

/* Sorts pairs of token and expert by expert. idx [T,K], w [T,K] from kin_topk or kin_choose; groups
 * = number of experts including the null expert; rows = the most pairs there can be, 0: T*K. */
kin_status kin_dispatch_build(kin_ctx *ctx, const kin_tensor *idx, const kin_tensor *w,
                              int64_t groups, int64_t null_expert, int64_t rows, kin_dispatch *d);
/* One layer of experts. gather: x [T,k] tokens, else x [R,k] sorted rows -> y [R,n] sorted rows. w,
 * b (or NULL): arrays of d->groups parameters that must outlive backward. */
kin_status kin_linear_grouped(kin_ctx *ctx, const kin_tensor *x, const kin_dispatch *d, bool gather,
                              kin_param *const *w, kin_param *const *b, kin_act act, kin_tensor *y);
/* The same for a y that products alone read, see kin_linear_operand; with an activation
 * kin_linear_grouped alone. */
kin_status kin_linear_grouped_operand(kin_ctx *ctx, const kin_tensor *x, const kin_dispatch *d,
                                      bool gather, kin_param *const *w, kin_param *const *b,
                                      kin_act act, kin_tensor *y);
/* y [T,n] = base (or 0) + sum_k weight[t,k] z[inverse[t,k]]; differentiable in base, z and
 * d->weight. */
kin_status kin_combine(kin_ctx *ctx, const kin_tensor *z, const kin_dispatch *d,
                       const kin_tensor *base, kin_tensor *y);

/* Routing contrastive loss (scalar) of tokens x [T,D], assignment idx [T,K] of which the first
 * `slots` count; entries outside [0,E) take no part. parts: see kin_rcl_args. */
kin_status kin_rcl(kin_ctx *ctx, const kin_tensor *x, kin_param *proto, const kin_tensor *idx,
                   int64_t slots, int64_t parts, float tau, kin_tensor *loss);
/* Load-balance loss (scalar) of probabilities p [T,E]; shares are constants. */
kin_status kin_load_balance(kin_ctx *ctx, const kin_tensor *p, const kin_tensor *idx,
                            const kin_tensor *null, int64_t samples, bool per_sequence, float coef,
                            kin_tensor *loss);

/* Sinusoidal embedding of v [B,n] -> [B, dim]: n pieces [cos|sin] of 2*half values, zeros up to
 * dim. No gradient. */
kin_status kin_sinusoid(kin_ctx *ctx, const kin_tensor *v, int64_t half, int64_t dim,
                        kin_tensor *y);

/* Losses -> scalar. x and target of one shape, first dim B; weight [B] or NULL: see kin_loss_args.
 */
kin_status kin_mse(kin_ctx *ctx, const kin_tensor *x, const kin_tensor *target,
                   const kin_tensor *weight, kin_tensor *loss);
/* Mean of |x - target|, weighted as there. */
kin_status kin_l1(kin_ctx *ctx, const kin_tensor *x, const kin_tensor *target,
                  const kin_tensor *weight, kin_tensor *loss);
kin_status kin_bce_logits(kin_ctx *ctx, const kin_tensor *x, const kin_tensor *target,
                          const kin_tensor *weight, kin_tensor *loss);
/* logits [B,n], target i32 [B]. */
kin_status kin_cross_entropy(kin_ctx *ctx, const kin_tensor *x, const kin_tensor *target,
                             const kin_tensor *weight, kin_tensor *loss);

/* y = a + alpha*b and y = alpha*a*b, with PyTorch broadcasting (shapes aligned at the right, size 1
 * stretches; <= 4 dims after joining); differentiable in both. Also for scalars. */
kin_status kin_add(kin_ctx *ctx, const kin_tensor *a, const kin_tensor *b, float alpha,
                   kin_tensor *y);
kin_status kin_mul(kin_ctx *ctx, const kin_tensor *a, const kin_tensor *b, float alpha,
                   kin_tensor *y);
/* The same where the second operand is a parameter: y = a + alpha*p (broadcast as above). */
kin_status kin_add_param(kin_ctx *ctx, const kin_tensor *a, kin_param *p, float alpha,
                         kin_tensor *y);
/* A parameter as a node: its gradient goes to the table. The view has the parameter's shape (f32).
 */
kin_status kin_param_tensor(kin_ctx *ctx, kin_param *p, kin_tensor *y);
kin_status kin_activation(kin_ctx *ctx, const kin_tensor *x, kin_act act, kin_tensor *y);
kin_status kin_scale(kin_ctx *ctx, const kin_tensor *x, float alpha, kin_tensor *y);
kin_status kin_softmax(kin_ctx *ctx, const kin_tensor *x, kin_tensor *y); /* last dim */
kin_status kin_sum(kin_ctx *ctx, const kin_tensor *x, float alpha,
                   kin_tensor *y); /* alpha * sum of all -> scalar */
/* Concatenation of n tensors along dim (other sizes equal; a size-1 first dim of a part may be
 * expanded by the caller). */
kin_status kin_concat(kin_ctx *ctx, const kin_tensor *parts, int n, int dim, kin_tensor *y);
/* A contiguous copy (differentiable). */
kin_status kin_contiguous(kin_ctx *ctx, const kin_tensor *x, kin_tensor *y);
/* y [n,m] = x [m,n]^T. */
kin_status kin_transpose(kin_ctx *ctx, const kin_tensor *x, kin_tensor *y);
/* dst = src without tape (no gradient); any float dtypes. */
kin_status kin_copy_into(kin_ctx *ctx, const kin_tensor *src, kin_tensor *dst);
kin_status kin_fill(kin_ctx *ctx, kin_tensor *dst, double value);

#endif

/* tensor/kernels.h: the kernel table. One slot per kernel, one table per backend; tensor/ref/ is
 * the definition (accumulates in double, any of f32/f64 operands), tensor/cpu/ the fast one (f32
 * operands), the plan table does nothing. Ops (tensor/op_*.c) have checked shapes before a slot is
 * called; kernels never allocate beyond the scratch of the workspace and never touch rows outside
 * the views they are given.
 *
 * Conventions: all float operands f32 (ref also f64, all of one kind) unless said otherwise.
 * Matrices are 2-D views [rows, cols], cols contiguous, any row stride. `acc` true adds to the
 * destination, false overwrites it. A group g of rows: rows r*(m/g)... share one row of a [g,n]
 * operand (row r uses r / (m/g)). Parameter gradients (p->grad) are always added to; a parameter
 * whose grad.data is NULL is skipped. A NULL pointer or a tensor with data NULL among outputs
 * means: not wanted. Operands (kin_operand_dtype) may be bf16 where that says so: x of linear,
 * grouped and conv, q, k, v and o of attention, and y of linear, grouped and of the norms; their
 * gradients are f32. So may pre, past, and what is the gradient of a product's result alone (dy of
 * linear and grouped, their dx with past, dx of unary, dlin). Determinism: the result of a row does
 * not depend on thread count nor on other rows; reductions over rows have a fixed shape. Weights
 * may be f32, bf16 or f16 (f64 in ref); ctx->compute BF16 rounds both operands of linear, grouped
 * and attention products to bf16 (round to nearest even) and accumulates in f32. ctx->compute I8
 * (forward only): products that kin_product_dtype names are done in 8-bit integers, attention as
 * under BF16, the others as under F32. A row of x or w becomes q = nearest integer (ties to even)
 * to x*(127/amax) in f32, amax its largest magnitude; a product is step(x row) * step(w row) * sum
 * q q with step = amax/127 and the sum exact. Rows below 1e-30 are zeros; a row that is not finite
 * gives NaN. ctx->compute F8 (CUDA, forward only): dense products with a matrix that may lose
 * precision (kin_param.int8) and n, k multiples of 16 are done in e4m3: x and w each become e4m3(v
 * * (448/amax)) with one amax for the whole operand, the product is amax_x/448 * amax_w/448 * the
 * f32 sum; an operand that is not finite gives NaN. The others, and attention, as under BF16. */
#ifndef KIN_TENSOR_KERNELS_H
#define KIN_TENSOR_KERNELS_H

#include "tensor/ctx.h"
#include "tensor/params.h"
#include "tensor/rng.h"

typedef enum kin_act {
    KIN_ACT_NONE = 0,
    KIN_ACT_GELU_TANH,
    KIN_ACT_SILU,
    KIN_ACT_SIGMOID,
    KIN_ACT_RELU,
    KIN_ACT_WISA_LOSS /* f(x) (1 + x), the gradient of f stopped: f = (x > 1 ? 0.10 : 0.05 x) /
                         (1 + x + 1e-5), 0 below 0 (physics/classifier.h) */
} kin_act;

/* Pairs of token and expert, sorted by expert. T tokens, K slots each, G groups (experts), R rows:
 * the most pairs there can be (T*K where every slot may be in use). */
typedef struct kin_dispatch {
    int64_t tokens, slots, groups, rows;
    kin_tensor order;   /* i32 [R]: flat (token*K+slot), sorted by expert, stable; only the first
                           offset[G] are set */
    kin_tensor offset;  /* i32 [G+1] */
    kin_tensor inverse; /* i32 [T*K]: row of (token,slot) in the sorted list, -1 = slot unused */
    kin_tensor weight;  /* [T,K] */
} kin_dispatch;

/* Which of `parts` equal pieces of a dimension matter. A hint: what is not live may be computed all
 * the same. */
typedef struct kin_live {
    const uint8_t *part; /* [parts], host memory; NULL: all */
    int64_t parts;
} kin_live;

typedef struct kin_linear_args { /* pre = x w^T + b;  y = residual + gate * act(pre) */
    int64_t m, n, k;
    const kin_tensor *x; /* [m,k] */
    kin_param *w, *b;    /* [n,k] (more dims: flat view [size0, rest]); b [n] or NULL */
    kin_act act;
    const kin_tensor *residual; /* [m,n] or NULL */
    const kin_tensor *gate;     /* [g,n] or NULL (then factor 1); never together with act */
    kin_tensor *pre;            /* [m,n] or NULL: kept for backward */
    kin_tensor *y;              /* [m,n] */
    kin_live out;               /* columns of y, of which those not live may be left as they are */
    kin_live in;                /* columns of x, of which those not live hold zeros */
} kin_linear_args;

typedef struct kin_linear_bwd_args {
    int64_t m, n, k;
    const kin_tensor *dy; /* [m,n]: gradient of pre */
    const kin_tensor *x;  /* [m,k], for dw */
    kin_param *w, *b;
    kin_tensor *dx; /* [m,k], for dx */
    bool acc;
    kin_act act; /* for dx, with past: dx = (dy w) * act'(past), what the layer before gave its */
    const kin_tensor *past; /* activation, [m,k]; NULL: none. Never with acc */
} kin_linear_bwd_args;

typedef struct kin_grouped_args { /* for rows s of group e: y[s] = act(pre[s] = x[row(s)] w[e]^T +
                                     b[e]) */
    int64_t n, k;
    const kin_dispatch *d;
    bool gather; /* true: row(s) = order[s] / K of x [T,k]; false: row(s) = s of x [R,k] */
    const kin_tensor *x;
    kin_param *const *w, *const *b; /* [groups], each [n,k] and [n], no two the same; b or NULL */
    kin_act act;
    kin_tensor *pre, *y; /* [R,n]; pre NULL or kept; rows >= offset[G] untouched */
} kin_grouped_args;

typedef struct kin_grouped_bwd_args {
    int64_t n, k;
    const kin_dispatch *d;
    bool gather;
    const kin_tensor *dy; /* [R,n] */
    const kin_tensor *x;  /* for dw */
    kin_param *const *w, *const *b;
    kin_tensor *dx;         /* [R,k], sorted rows, overwritten (rows < offset[G]) */
    kin_act act;            /* as in kin_linear_bwd_args */
    const kin_tensor *past; /* [R,k] or NULL */
} kin_grouped_bwd_args;

typedef struct kin_combine_args {
    const kin_dispatch *d;
    int64_t n;
    const kin_tensor *z;    /* [R,n] sorted rows */
    const kin_tensor *base; /* [T,n] or NULL */
    bool weighted;          /* false: factor 1 (gradient of a gather) */
    kin_tensor *y; /* fwd: y[t] = base[t] + sum_k weight[t,k] z[inverse[t,k]], slots in order */
    bool acc;      /* fwd: y += instead of = (base NULL) */
    const kin_tensor *dy; /* bwd [T,n] */
    kin_tensor *dz;       /* bwd: dz[inverse[t,k]] = weight[t,k] dy[t], overwritten */
    kin_tensor *dweight;  /* bwd [T,K] or NULL: (+)= <dy[t], z[inverse[t,k]]>; unused slots 0 */
} kin_combine_args;

typedef struct kin_norm_args { /* LayerNorm: n = (x-mean)*rstd; a = n*gamma+beta; y =
                                  a*(1+scale)+shift.  RMS: y = x*rstd*gamma */
    int64_t rows, d;
    float eps;
    const kin_tensor *x;             /* [rows,d] */
    kin_param *gamma, *beta;         /* [d] or NULL */
    const kin_tensor *scale, *shift; /* [g,d] or NULL (both or none) */
    kin_tensor *y;
    kin_tensor *mean, *rstd;     /* [rows] f32 (f64 in f64 runs); mean unused by RMS */
    const kin_tensor *cos, *sin; /* NULL, or [N,h/2]: y is then turned (kin_rope_args) in pieces of
                                    h columns, h dividing d; row r by row r / turn_rows % N */
    int64_t turn_rows;
    kin_live live; /* rows r of the pieces r % parts; forward alone */
    /* backward */
    const kin_tensor *dy;
    kin_tensor *dx;
    bool acc_dx;
    kin_tensor *dscale, *dshift; /* [g,d] or NULL */
    bool acc_dscale, acc_dshift;
} kin_norm_args;

typedef struct kin_rope_args {   /* neighbouring pairs (x_2k, x_2k+1) rotated by (cos,sin)[n,k];
                                  * inverse: by the transpose.   note: with cos = sin = 0 both
                                  * directions give 0 */
    const kin_tensor *x;         /* [B,N,A,d] */
    const kin_tensor *cos, *sin; /* [N,d/2] */
    bool inverse, acc;
    kin_tensor *y; /* [B,N,A,d] */
} kin_rope_args;

typedef struct kin_attention_args { /* o = gate * softmax(scale q k^T + bias, masked) v */
    const kin_tensor *q, *k, *v;    /* [B,Nq,A,d], [B,Nk,A,d] x2; any strides, last contiguous */
    const kin_tensor *bias;         /* [A,Nq,Nk] or NULL */
    const kin_tensor *
        mask; /* u8 [B,Nk] or NULL: 0 excludes the key (added lowest float: all masked = uniform) */
    const kin_tensor *gate; /* [B,A] or NULL; no gradient; 0 skips the head (o = 0) */
    float scale;
    kin_tensor *o; /* [B,Nq,A,d] */
    kin_tensor
        *lse; /* [B,A,Nq] f32 (f64): log-sum-exp of the scaled, biased scores; NULL: not kept */
    /* backward: reads q,k,v,bias,mask,gate,o,lse */
    const kin_tensor *dout;   /* [B,Nq,A,d] */
    kin_tensor *dq, *dk, *dv; /* or NULL */
    bool acc_dq, acc_dk, acc_dv;
    kin_tensor *dbias; /* [A,Nq,Nk], added to, or NULL */
} kin_attention_args;

typedef struct kin_embedding_args {
    kin_param *table;      /* [V,D] */
    const kin_tensor *ids; /* i32 [n], checked to lie in [0,V) by the op */
    kin_tensor *y;         /* [n,D] */
    const kin_tensor *dy;  /* bwd: table->grad[ids[i]] += dy[i], in order of i */
} kin_embedding_args;

typedef struct kin_patch_args { /* video [B,C,F,H,W] <-> tokens [B,N,V], N in order (f,h,w), V =
                                   C*pt*ph*pw */
    const kin_tensor *src;
    kin_tensor *dst;
    int pt, ph, pw;
    bool channel_last; /* V in order (pt,ph,pw,C), else (C,pt,ph,pw) */
    bool to_tokens;
    bool acc;
} kin_patch_args;

typedef struct kin_cosine_args { /* z = x.p / (max(|x|,1e-12) max(|p|,1e-12)); plain: z = x.p, with
                                    1 for both inverse norms */
    bool plain;
    const kin_tensor *x;     /* [T,D] */
    kin_param *proto;        /* [E,D] */
    kin_tensor *z;           /* [T,E] */
    kin_tensor *xinv, *pinv; /* [T], [E]: 1/max(norm,1e-12) */
    const kin_tensor *dz;    /* bwd */
    kin_tensor *dx;
    bool acc;
} kin_cosine_args;

typedef struct kin_topk_args { /* K best of each row, descending, ties to the lower index */
    const kin_tensor *scores;  /* [T,E] */
    const kin_tensor *null; /* u8 [B] or NULL; sample b owns rows b*(T/B)...: idx = null_expert in
                               all slots, w = 1,0,0.. */
    int64_t null_expert;
    int64_t k;
    kin_tensor *idx;      /* i32 [T,K] */
    kin_tensor *w;        /* [T,K] */
    const kin_tensor *dw; /* bwd: dscores[t, idx[t,k]] (+)= dw[t,k] for rows that are not null;
                             entries below 0 (kin_choose_args) take no part */
    kin_tensor *dscores;
    bool acc;
} kin_topk_args;

typedef enum kin_take {
    KIN_TAKE_TOP = 0, /* each expert takes its k best tokens */
    KIN_TAKE_COUNT,   /* as many of its best as have gate > threshold */
    KIN_TAKE_ABOVE    /* exactly those with gate > threshold */
} kin_take;

typedef struct kin_choose_args { /* expert choice: experts take tokens by score, ties to the lower
                                    token */
    const kin_tensor *scores;    /* [T,E] */
    int64_t pools; /* the tokens are cut into this many equal pools, chosen from one by one */
    const kin_tensor *null; /* u8 [pools] or NULL: the tokens of such a pool have null_expert in
                               slot 0 with weight 1 and nothing else */
    int64_t null_expert;
    kin_take rule;
    int64_t k;                   /* TOP, and rank of kth */
    const kin_tensor *gate;      /* [T,E]: COUNT, ABOVE and kth */
    const kin_tensor *threshold; /* [E]: COUNT, ABOVE */
    kin_tensor *idx;             /* i32 [T,E]: slot e = e where expert e takes the token, else -1 */
    kin_tensor *w;               /* [T,E]: the score where taken, else 0; gradient: topk_bwd */
    kin_tensor *kth;             /* [E] or NULL: k-th largest gate of each expert; one pool */
} kin_choose_args;

typedef struct kin_dispatch_args { /* counting sort, stable */
    const kin_tensor *idx;         /* i32 [T,K]; entries outside [0,G) are no pair */
    int64_t null_expert; /* of a token whose slot 0 is this expert only slot 0 is used; -1: none */
    kin_dispatch *d;     /* tensors allocated, sizes set; fills order, offset, inverse */
} kin_dispatch_args;

typedef struct kin_rcl_args { /* routing contrastive loss: ProMoE section 2.3 */
    const kin_tensor *x;      /* [T,D] */
    kin_param *proto;         /* [E,D] */
    const kin_tensor *idx;    /* i32 [T,K]; entries outside [0,E) (unconditional expert, unused
                                 slots) take no part */
    int64_t parts; /* the tokens are cut into this many equal parts, each with a loss of its own;
                      the result is their mean over parts with a token that has an expert */
    int64_t slots; /* slots that count for membership: K or 1; a token is in the mean of j once */
    float tau;
    kin_tensor *loss;        /* [] ; a part is 0 when fewer than two experts have tokens */
    kin_tensor *count;       /* i32 [parts,E] or NULL: tokens of each expert */
    const kin_tensor *dloss; /* [] bwd */
    kin_tensor *dx;          /* bwd, [T,D] */
    bool acc;
} kin_rcl_args;

typedef struct kin_balance_args { /* load balance: coef * sum_e mean(P_e) * E * share_e over tokens
                                     of samples with null 0 */
    const kin_tensor *p;          /* [T,E] probabilities */
    const kin_tensor *idx;        /* i32 [T,K] */
    const kin_tensor *null;       /* u8 [B] or NULL */
    bool per_sequence;            /* per sample, then mean over conditional samples */
    int64_t samples;              /* B */
    float coef;
    kin_tensor *loss; /* []; 0 when no sample is conditional */
    const kin_tensor *dloss;
    kin_tensor *dp;
    bool acc;
} kin_balance_args;

typedef struct kin_sinusoid_args { /* y[b,i,:] = [cos(v w_j) | sin(v w_j)], w_j = 10000^(-j/half),
                                    * in f32 arithmetic as the references: f_j = expf(-logf(10000) *
                                    * j / half), argument v*f_j rounded to f32 */
    const kin_tensor *v;           /* [B,n] */
    int64_t half;
    kin_tensor *y; /* [B,n,2*half], strided */
} kin_sinusoid_args;

typedef enum kin_loss_kind {
    KIN_LOSS_MSE,
    KIN_LOSS_L1,
    KIN_LOSS_BCE_LOGITS,
    KIN_LOSS_CROSS_ENTROPY
} kin_loss_kind;
typedef struct kin_loss_args {
    kin_loss_kind kind;
    const kin_tensor *x;      /* MSE, L1, BCE: [B,n]; cross entropy: logits [B,n] */
    const kin_tensor *target; /* MSE, L1, BCE: [B,n]; cross entropy: i32 [B] */
    const kin_tensor *weight; /* [B] or NULL. MSE, L1: factor per row, mean over all B*n. BCE: rows
                               * with weight 0 are left out of sum and count, others count 1. Cross
                               * entropy: as BCE. No rows: loss 0 */
    kin_tensor *loss;         /* [] */
    const kin_tensor *dloss;
    kin_tensor *dx;
    bool acc;
} kin_loss_args;

typedef enum kin_binary_kind { KIN_BINARY_ADD, KIN_BINARY_MUL } kin_binary_kind;
typedef struct kin_binary_args { /* ADD: y = a + alpha*b; MUL: y = alpha*a*b. All operands have y's
                                  * shape (<= 4 dims); a, b may have stride 0 in any dimension (the
                                  * last stride may be 0 here too) */
    kin_binary_kind kind;
    float alpha;
    const kin_tensor *a, *b;
    kin_tensor *y;
    bool acc;
} kin_binary_args;

typedef struct kin_reduce_args { /* y (+)= alpha * sum over the broadcast dims of x * other. x,
                                  * other have one shape (<= 4 dims; other may broadcast, or NULL =
                                  * 1); y is a view of that shape whose 0 strides mark the summed
                                  * dims */
    const kin_tensor *x, *other;
    float alpha;
    kin_tensor *y;
    bool acc;
} kin_reduce_args;

typedef struct kin_unary_args { /* fwd: y = act(x) ; bwd: dx (+)= dy * act'(x). NONE: y = alpha * x
                                 */
    kin_act act;
    float alpha;
    const kin_tensor *x; /* contiguous rows: [rows,cols] */
    kin_tensor *y;
    const kin_tensor *dy;
    kin_tensor *dx;
    bool acc;
} kin_unary_args;

typedef struct kin_gated_add_args {   /* y = residual + gate*lin; gate row of a group */
    const kin_tensor *lin, *residual; /* [m,n] */
    const kin_tensor *gate;           /* [g,n] */
    kin_tensor *y;                    /* [m,n] */
} kin_gated_add_args;

typedef struct kin_gate_bwd_args { /* y = residual + gate*lin:  dlin = gate*dy;  dgate (+)= sum over
                                      the group of dy*lin */
    const kin_tensor *dy, *lin;    /* [m,n] */
    const kin_tensor *gate;        /* [g,n] or NULL (dlin is then not asked for) */
    kin_tensor *dlin;              /* overwritten, or NULL */
    kin_tensor *dgate;             /* [g,n] or NULL */
    bool acc_dgate;
} kin_gate_bwd_args;

typedef struct kin_conv_shape {               /* y[b,f,i,j,o] = sum over t,u,v,c of w[o,c,t,u,v] *
                                               * X[b, f+t-front, i*stride+u-top, j*stride+v-left, c] */
    int64_t batch, frames, height, width, in; /* of x, channels last */
    int64_t out_frames, out_height, out_width, out;
    int kt, kh, kw; /* kernel */
    int stride;     /* of height and width: 1 or 2 */
    int up;         /* 1: X is x; 2: every pixel of x is 2x2 pixels of X (nearest) */
    int front, top,
        left; /* frames, rows and columns of zeros before X; after it as many as needed */
} kin_conv_shape;
typedef struct kin_conv_args { /* y = conv(x, w) + b + residual */
    kin_conv_shape s;
    const kin_tensor *x;        /* [batch*frames*height*width, in] contiguous */
    kin_param *w, *b;           /* [out,in,kh,kw] or [out,in,kt,kh,kw]; b [out] or NULL */
    const kin_tensor *residual; /* as y, or NULL */
    kin_tensor *y;              /* [batch*out_frames*out_height*out_width, out] contiguous */
    const kin_tensor *dy;       /* bwd: gradient of y */
    kin_tensor *dx;             /* for dx */
    bool acc;
} kin_conv_args;

typedef struct kin_groupnorm_args { /* y = act(n*gamma + beta), n = (x-mean)*rstd over the pixels
                                     * and the channels of one group of one sample */
    int64_t batch, pixels, channels, groups;
    float eps;
    kin_act act;
    const kin_tensor *x;     /* [batch*pixels, channels] contiguous, as y, dy, dx */
    kin_param *gamma, *beta; /* [channels] */
    kin_tensor *y;
    kin_tensor *mean, *rstd; /* [batch,groups], kept */
    const kin_tensor *dy;    /* bwd */
    kin_tensor *dx;
    bool acc;
} kin_groupnorm_args;

typedef struct kin_posterior_args { /* a normal distribution per value: v = clamp(logvar, lo, hi),
                                     * z = mean + exp(v/2)*noise, kl = sum over a row of
                                     * (mean^2 + exp(v) - 1 - v)/2 */
    const kin_tensor *mean, *logvar, *noise; /* [B,n], any row stride; noise NULL: no z, no dz */
    float lo, hi;
    kin_tensor *clamped, *z, *kl; /* v [B,n] (may be logvar itself), [B,n], [B]; each may be NULL */
    const kin_tensor *dz, *dkl;   /* bwd; each may be NULL */
    kin_tensor *dmean, *dlogvar; /* [B,n] or NULL; where v lies on or beyond a limit dlogvar is 0 */
    bool acc_dmean, acc_dlogvar;
} kin_posterior_args;

typedef struct kin_softmax_args {
    const kin_tensor *x; /* [rows,n] */
    kin_tensor *y;
    const kin_tensor *dy; /* bwd: dx (+)= y*(dy - <dy,y>) ; reads y through `x` = NULL, y */
    kin_tensor *dx;
    bool acc;
} kin_softmax_args;

typedef struct kin_adamw_part { /* one parameter, n values each */
    int64_t n;
    float *w, *m, *v, *ema; /* ema may be NULL */
    float *g;
    float lr, weight_decay;
} kin_adamw_part;
typedef struct kin_adamw_args { /* one pass over all parameters: g * grad_scale, moments, bias
                                 * correction, decoupled decay, then EMA; g becomes 0 */
    const kin_adamw_part *part;
    int64_t parts;
    float beta1, beta2, eps, grad_scale, ema_decay;
    int64_t step; /* 1-based */
} kin_adamw_args;

/* Products in 8-bit integers: sums of k terms fit in 32 bits up to this k. */
enum { KIN_INT8_MIN = 64, KIN_INT8_MAX_K = 65536 };

/* The type of the products of attention: F32 or BF16. */
static inline kin_dtype kin_attention_dtype(const kin_ctx *ctx)
{
    const bool eight = ctx->compute == KIN_DTYPE_I8 || ctx->compute == KIN_DTYPE_F8;
    return eight ? KIN_DTYPE_BF16 : ctx->compute;
}
/* How the product of x with w [n,k] is done under the context's compute type: F32, BF16 or I8.
 * Experts of one layer are treated alike, as the first of them. */
static inline kin_dtype kin_product_dtype(const kin_ctx *ctx, const kin_param *w, int64_t n,
                                          int64_t k)
{
    if (ctx->compute != KIN_DTYPE_I8)
        return ctx->compute == KIN_DTYPE_F8 ? KIN_DTYPE_BF16 : ctx->compute;
    return w->int8 && n >= KIN_INT8_MIN && k >= KIN_INT8_MIN && k <= KIN_INT8_MAX_K ? KIN_DTYPE_I8
                                                                                    : KIN_DTYPE_F32;
}

/* The type in which a result that attention or products in bf16 or 8-bit integers alone read is
 * kept: bf16 where the CPU backend has AMX tiles, else f32. No product in bf16 changes a bit; 8-bit
 * integers are made of the rounded values. */
static inline kin_dtype kin_operand_dtype(const kin_ctx *ctx)
{
    bool tiles = ctx->isa >= KIN_ISA_AMX_EMULATED &&
                 (ctx->backend == KIN_BACKEND_CPU || ctx->backend == KIN_BACKEND_PLAN);
    return tiles ? kin_attention_dtype(ctx) : KIN_DTYPE_F32;
}

struct kin_kernels {
    kin_status (*linear)(kin_ctx *, const kin_linear_args *);
    kin_status (*linear_dx)(kin_ctx *, const kin_linear_bwd_args *);
    kin_status (*linear_dw)(
        kin_ctx *, const kin_linear_bwd_args *); /* w->grad += dy^T x, b->grad += column sums */
    kin_status (*grouped)(kin_ctx *, const kin_grouped_args *);
    kin_status (*grouped_dx)(kin_ctx *, const kin_grouped_bwd_args *);
    kin_status (*grouped_dw)(kin_ctx *, const kin_grouped_bwd_args *);
    kin_status (*combine)(kin_ctx *, const kin_combine_args *);
    kin_status (*combine_bwd)(kin_ctx *, const kin_combine_args *);
    kin_status (*layernorm)(kin_ctx *, const kin_norm_args *);
    kin_status (*layernorm_bwd)(kin_ctx *, const kin_norm_args *);
    kin_status (*rmsnorm)(kin_ctx *, const kin_norm_args *);
    kin_status (*rmsnorm_bwd)(kin_ctx *, const kin_norm_args *);
    kin_status (*rope)(kin_ctx *, const kin_rope_args *);
    kin_status (*attention)(kin_ctx *, const kin_attention_args *);
    kin_status (*attention_bwd)(kin_ctx *, const kin_attention_args *);
    kin_status (*embedding)(kin_ctx *, const kin_embedding_args *);
    kin_status (*embedding_bwd)(kin_ctx *, const kin_embedding_args *);
    kin_status (*patch)(kin_ctx *, const kin_patch_args *);
    kin_status (*cosine)(kin_ctx *, const kin_cosine_args *);
    kin_status (*cosine_bwd)(kin_ctx *, const kin_cosine_args *); /* proto->grad added to */
    kin_status (*topk)(kin_ctx *, const kin_topk_args *);
    kin_status (*topk_bwd)(kin_ctx *, const kin_topk_args *);
    kin_status (*choose)(kin_ctx *, const kin_choose_args *);
    kin_status (*dispatch)(kin_ctx *, const kin_dispatch_args *);
    kin_status (*rcl)(kin_ctx *, const kin_rcl_args *);
    kin_status (*rcl_bwd)(kin_ctx *, const kin_rcl_args *); /* proto->grad added to */
    kin_status (*balance)(kin_ctx *, const kin_balance_args *);
    kin_status (*balance_bwd)(kin_ctx *, const kin_balance_args *);
    kin_status (*sinusoid)(kin_ctx *, const kin_sinusoid_args *);
    kin_status (*loss)(kin_ctx *, const kin_loss_args *);
    kin_status (*loss_bwd)(kin_ctx *, const kin_loss_args *);
    kin_status (*binary)(kin_ctx *, const kin_binary_args *);
    kin_status (*reduce)(kin_ctx *, const kin_reduce_args *);
    kin_status (*unary)(kin_ctx *, const kin_unary_args *);
    kin_status (*unary_bwd)(kin_ctx *, const kin_unary_args *);
    kin_status (*gated_add)(kin_ctx *, const kin_gated_add_args *);
    kin_status (*gate_bwd)(kin_ctx *, const kin_gate_bwd_args *);
    kin_status (*conv)(kin_ctx *, const kin_conv_args *);
    kin_status (*conv_dx)(kin_ctx *, const kin_conv_args *);
    kin_status (*conv_dw)(kin_ctx *, const kin_conv_args *); /* w->grad and b->grad added to */
    kin_status (*groupnorm)(kin_ctx *, const kin_groupnorm_args *);
    kin_status (*groupnorm_bwd)(kin_ctx *, const kin_groupnorm_args *); /* gamma, beta added to */
    kin_status (*posterior)(kin_ctx *, const kin_posterior_args *);
    kin_status (*posterior_bwd)(kin_ctx *, const kin_posterior_args *);
    kin_status (*softmax)(kin_ctx *, const kin_softmax_args *);
    kin_status (*softmax_bwd)(kin_ctx *, const kin_softmax_args *);
    /* dst (+)= src, same shape (<= 6 dims, src may broadcast with stride 0), float dtypes converted
     */
    kin_status (*copy)(kin_ctx *, const kin_tensor *src, kin_tensor *dst, bool acc);
    kin_status (*fill)(kin_ctx *, kin_tensor *dst, double value);
    /* y[n,m] (+)= x[m,n]^T */
    kin_status (*transpose)(kin_ctx *, const kin_tensor *x, kin_tensor *y, bool acc);
    /* y f32/f64, any shape, contiguous: standard normal elements [first, ...) of the stream */
    kin_status (*randn)(kin_ctx *, const kin_rng *rng, uint64_t first, kin_tensor *y);
    kin_status (*adamw)(kin_ctx *, const kin_adamw_args *);
    /* *out = sum of squares of g of all parts, fixed-shape reduction in double */
    kin_status (*sumsq)(kin_ctx *, const kin_adamw_part *part, int64_t parts, double *out);
};

/* Fill a whole table. ref fills every slot; cpu overwrites what it does faster at `isa`; plan fills
 * every slot. */
void kin_kernels_init_ref(kin_kernels *k);
void kin_kernels_init_cpu(kin_kernels *k, kin_isa isa);
void kin_kernels_init_plan(kin_kernels *k);

#endif

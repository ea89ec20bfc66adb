/* tensor/cpu/cpu.h: inside the CPU backend: dense products by own packed kernels, helpers shared by
 * its files. Work is split into tasks that write disjoint ranges; nothing depends on which thread
 * runs a task. */
#ifndef KIN_CPU_CPU_H
#define KIN_CPU_CPU_H

#include "tensor/cpu/simd/simd.h"
#include "tensor/kernels.h"

/* Routines of the context's ISA level. */
const kin_simd *kin_cpu_simd(const kin_ctx *ctx);
/* How products of a compute type (F32, BF16, I8) are done: ISA level, what this processor is fast
 * at. */
kin_product kin_cpu_product_of(const kin_ctx *ctx, kin_dtype compute);
/* How this context's products of two activations are done, attention apart (I8: as F32). */
kin_product kin_cpu_product(const kin_ctx *ctx);
/* The same of a weight that stays in f32 or bf16: in f32 arithmetic a bf16 weight is kept as it is.
 */
kin_product kin_cpu_weight_product(const kin_ctx *ctx, const kin_param *w);
/* Packing and tile of a mode that this level has. */
const kin_engine *kin_cpu_engine(const kin_ctx *ctx, kin_product mode);
/* True where vdpbf16ps gives more than the f32 multiply-add: see tensor/cpu/isa.c. */
bool kin_isa_fast_dot(void);
/* True where AVX-512 has vpdpbusd. */
bool kin_isa_have_vnni(void);

/* c [m,n] (+)= A B with A [m,k] rows a[i*lda...] (a_rows: row i is a_rows[i]) and B [k,n] in packed
 * panels (kin_cpu_pack), or, where b_pack is NULL, as it lies in b: rows [k] of n columns where
 * b_steps is set, else columns [n] of k elements; each task then packs the panels it needs. epi:
 * instead of c. One element is one chain of sums over k. */
typedef struct kin_gemm {
    int64_t m, n, k;
    const void *a; /* floats, or bf16 where a_half is set */
    bool a_half;
    int64_t lda;
    const int32_t *a_rows;
    const float *b_pack;
    const void *b; /* floats, or bf16 where b_half is set */
    int64_t ldb;
    bool b_steps, b_half;
    float *c;
    int64_t ldc;
    bool acc;
    const kin_epilogue *epi;
    const kin_dequant *deq;  /* products in 8-bit integers (with epi), or NULL */
    kin_live live_n, live_k; /* columns of c that are wanted; elements of A that are not 0 */
} kin_gemm;

/* Runs `count` products, split over all threads together. Scratch from the workspace, released on
 * return. */
kin_status kin_cpu_gemm(kin_ctx *ctx, const kin_gemm *g, int64_t count, kin_product mode);

/* c [m,n] += A^T B with A [k,m] and B [k,n] in rows (b_rows: row i of B is b_rows[i]). */
typedef struct kin_gemm_tn {
    int64_t m, n, k;
    int64_t k_max; /* most rows that data can make of it: what the scratch is taken for; 0: k */
    const void *a, *b;
    bool a_half, b_half; /* bf16, else floats */
    int64_t lda, ldb;
    const int32_t *b_rows;
    float *c;
    int64_t ldc;
} kin_gemm_tn;
/* Runs `count` products one after the other in one parallel region; each is split over all threads.
 */
kin_status kin_cpu_gemm_tn(kin_ctx *ctx, const kin_gemm_tn *g, int64_t count, kin_product mode);

/* Packed panels of weight w seen as [n,k]: transposed false for x w^T (k is summed), true for dy w
 * (n is summed). Made once per version of w. Fails: MEM. */
kin_status kin_cpu_pack(kin_ctx *ctx, kin_param *w, int64_t n, int64_t k, bool transposed,
                        kin_product mode, const float **out);
/* Sets the right operand of g. Weights that are trained (they have a gradient) change at every
 * step, others are used once: products with few rows read them as they lie instead of writing
 * packed panels first. The rest as kin_cpu_pack. The bits are the same. */
kin_status kin_cpu_right(kin_ctx *ctx, kin_param *w, int64_t n, int64_t k, bool transposed,
                         kin_product mode, kin_gemm *g);
/* Room for a packed form of w (kin_param_pack_get); a plan only counts it. Fails: MEM. */
kin_status kin_cpu_pack_get(kin_ctx *ctx, kin_param *w, uint64_t key, size_t bytes, kin_pack **out);
/* Values [at, at+n) of a contiguous float tensor or matrix in blocks, as f32. */
void kin_cpu_values(const kin_simd *s, const kin_tensor *t, int64_t at, int64_t n, float *out);
/* p's n values as f32: its own memory, or a copy in the workspace (bf16, f16). p NULL: *out = NULL.
 */
kin_status kin_cpu_param_f32(kin_ctx *ctx, const kin_param *p, int64_t n, const float **out);

/* dst[c] += sums over rows [row0, row0+rows) of columns [c0, c0+cols) of t, cols at most 128. */
void kin_cpu_column_sums(const kin_simd *s, const kin_tensor *t, int64_t row0, int64_t rows,
                         int64_t c0, int64_t cols, float *dst);

/* What follows the product of a linear layer. A bias that is not f32 is copied into the workspace.
 */
kin_status kin_cpu_linear_epilogue(kin_ctx *ctx, const kin_linear_args *a, kin_epilogue *epi);

/* What follows the product of a gradient dx from row row0 on: times act'(past). */
void kin_cpu_past_epilogue(kin_act act, const kin_tensor *past, int64_t row0, const kin_tensor *dx,
                           kin_epilogue *epi);

static inline float *kin_f32(const kin_tensor *t)
{
    return t ? (float *)t->data : NULL;
}
/* Row `row` of a matrix of any type. */
static inline void *kin_rows_at(const kin_tensor *t, int64_t row)
{
    return (char *)t->data + row * t->stride[0] * (int64_t)kin_dtype_size(t->dtype);
}
static inline int64_t kin_ld(const kin_tensor *t)
{
    return t ? t->stride[0] : 0;
}

static inline bool kin_is_f32(const kin_tensor *t)
{
    return !t || !t->data || t->dtype == KIN_DTYPE_F32;
}
static inline bool kin_is_half(const kin_tensor *t)
{
    return t && t->dtype == KIN_DTYPE_BF16;
}
/* f32 or bf16: what products take (kin_operand_dtype). */
static inline bool kin_is_operand(const kin_tensor *t)
{
    return kin_is_f32(t) || kin_is_half(t);
}
/* Where a kernel has taken its scratch: on a plan context that was all (true; the scratch is given
 * back), so that a dry run counts what a run takes, by the same lines. So scratch depends on
 * shapes, types, level and threads alone, never on data such as routed rows. */
static inline bool kin_cpu_planned(kin_ctx *ctx, size_t mark)
{
    if (kin_ctx_is_plan(ctx))
        kin_ws_release(ctx, mark);
    return kin_ctx_is_plan(ctx);
}
/* Threads for `work` elementary steps: 1 where starting the others would cost more. */
static inline int kin_cpu_threads(const kin_ctx *ctx, int64_t work)
{
    return work < 32768 ? 1 : ctx->threads;
}

/* The slots, as tensor/kernels.h. Operands that are not f32 go to tensor/ref/. */
kin_status kin_cpu_linear(kin_ctx *ctx, const kin_linear_args *a);
kin_status kin_cpu_linear_dx(kin_ctx *ctx, const kin_linear_bwd_args *a);
kin_status kin_cpu_linear_dw(kin_ctx *ctx, const kin_linear_bwd_args *a);
kin_status kin_cpu_grouped(kin_ctx *ctx, const kin_grouped_args *a);
kin_status kin_cpu_grouped_dx(kin_ctx *ctx, const kin_grouped_bwd_args *a);
kin_status kin_cpu_grouped_dw(kin_ctx *ctx, const kin_grouped_bwd_args *a);
kin_status kin_cpu_attention(kin_ctx *ctx, const kin_attention_args *a);
kin_status kin_cpu_attention_bwd(kin_ctx *ctx, const kin_attention_args *a);
kin_status kin_cpu_layernorm(kin_ctx *ctx, const kin_norm_args *a);
kin_status kin_cpu_layernorm_bwd(kin_ctx *ctx, const kin_norm_args *a);
kin_status kin_cpu_rmsnorm(kin_ctx *ctx, const kin_norm_args *a);
kin_status kin_cpu_rmsnorm_bwd(kin_ctx *ctx, const kin_norm_args *a);
kin_status kin_cpu_conv(kin_ctx *ctx, const kin_conv_args *a);
kin_status kin_cpu_conv_dx(kin_ctx *ctx, const kin_conv_args *a);
kin_status kin_cpu_conv_dw(kin_ctx *ctx, const kin_conv_args *a);
kin_status kin_cpu_groupnorm(kin_ctx *ctx, const kin_groupnorm_args *a);
kin_status kin_cpu_groupnorm_bwd(kin_ctx *ctx, const kin_groupnorm_args *a);
kin_status kin_cpu_rope(kin_ctx *ctx, const kin_rope_args *a);
kin_status kin_cpu_embedding(kin_ctx *ctx, const kin_embedding_args *a);
kin_status kin_cpu_embedding_bwd(kin_ctx *ctx, const kin_embedding_args *a);
kin_status kin_cpu_patch(kin_ctx *ctx, const kin_patch_args *a);
kin_status kin_cpu_unary(kin_ctx *ctx, const kin_unary_args *a);
kin_status kin_cpu_unary_bwd(kin_ctx *ctx, const kin_unary_args *a);
kin_status kin_cpu_binary(kin_ctx *ctx, const kin_binary_args *a);
kin_status kin_cpu_copy(kin_ctx *ctx, const kin_tensor *src, kin_tensor *dst, bool acc);
kin_status kin_cpu_fill(kin_ctx *ctx, kin_tensor *dst, double value);
kin_status kin_cpu_transpose(kin_ctx *ctx, const kin_tensor *x, kin_tensor *y, bool acc);
kin_status kin_cpu_softmax(kin_ctx *ctx, const kin_softmax_args *a);
kin_status kin_cpu_softmax_bwd(kin_ctx *ctx, const kin_softmax_args *a);
kin_status kin_cpu_gated_add(kin_ctx *ctx, const kin_gated_add_args *a);
kin_status kin_cpu_gate_bwd(kin_ctx *ctx, const kin_gate_bwd_args *a);
kin_status kin_cpu_reduce(kin_ctx *ctx, const kin_reduce_args *a);
kin_status kin_cpu_adamw(kin_ctx *ctx, const kin_adamw_args *a);
kin_status kin_cpu_sumsq(kin_ctx *ctx, const kin_adamw_part *part, int64_t parts, double *out);
kin_status kin_cpu_randn(kin_ctx *ctx, const kin_rng *rng, uint64_t first, kin_tensor *y);
kin_status kin_cpu_loss(kin_ctx *ctx, const kin_loss_args *a);
kin_status kin_cpu_loss_bwd(kin_ctx *ctx, const kin_loss_args *a);
kin_status kin_cpu_grouped(kin_ctx *ctx, const kin_grouped_args *a);
kin_status kin_cpu_grouped_dx(kin_ctx *ctx, const kin_grouped_bwd_args *a);
kin_status kin_cpu_grouped_dw(kin_ctx *ctx, const kin_grouped_bwd_args *a);
kin_status kin_cpu_combine(kin_ctx *ctx, const kin_combine_args *a);
kin_status kin_cpu_combine_bwd(kin_ctx *ctx, const kin_combine_args *a);
kin_status kin_cpu_cosine(kin_ctx *ctx, const kin_cosine_args *a);
kin_status kin_cpu_cosine_bwd(kin_ctx *ctx, const kin_cosine_args *a);
kin_status kin_cpu_topk(kin_ctx *ctx, const kin_topk_args *a);
kin_status kin_cpu_topk_bwd(kin_ctx *ctx, const kin_topk_args *a);
kin_status kin_cpu_choose(kin_ctx *ctx, const kin_choose_args *a);
kin_status kin_cpu_dispatch(kin_ctx *ctx, const kin_dispatch_args *a);
kin_status kin_cpu_balance(kin_ctx *ctx, const kin_balance_args *a);
kin_status kin_cpu_balance_bwd(kin_ctx *ctx, const kin_balance_args *a);
kin_status kin_cpu_rcl(kin_ctx *ctx, const kin_rcl_args *a);
kin_status kin_cpu_rcl_bwd(kin_ctx *ctx, const kin_rcl_args *a);

#endif

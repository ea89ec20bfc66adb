/* tensor/op_common.h: shared by the op_*.c files: row views, shape errors, saved records. */
#ifndef KIN_TENSOR_OP_COMMON_H
#define KIN_TENSOR_OP_COMMON_H

#include "tensor/ops.h"
#include "tensor/tape_internal.h"

/* x [..., n] as a 2-D view [rows, n]; SHAPE error naming `op` when the leading dimensions do not
 * join. A NULL x gives a zero tensor. */
kin_status kin_op_rows(kin_ctx *ctx, const char *op, const kin_tensor *x, kin_tensor *rows);
/* KIN_ERR_SHAPE with both shapes in the text. */
kin_status kin_op_mismatch(kin_ctx *ctx, const char *op, const kin_tensor *a, const kin_tensor *b,
                           const char *rule);
/* Result type of an op on x: f64 for f64, else f32; fails (ARG) for types that are not computed
 * with. */
kin_status kin_op_dtype(kin_ctx *ctx, const char *op, const kin_tensor *x, kin_dtype *out);
/* The same for operands of products, which may be bf16 where kin_operand_dtype says so. */
kin_status kin_op_product_dtype(kin_ctx *ctx, const char *op, const kin_tensor *x, kin_dtype *out);
/* The type of a result of type `dtype` that products alone read, if `operand`. */
static inline kin_dtype kin_op_kept(const kin_ctx *ctx, kin_dtype dtype, bool operand)
{
    return operand && dtype == KIN_DTYPE_F32 ? kin_operand_dtype(ctx) : dtype;
}
/* Whether the product with w [n,k] reads and may leave such operands as they are. */
static inline bool kin_op_takes_kept(const kin_ctx *ctx, const kin_param *w, int64_t n, int64_t k)
{
    return kin_product_dtype(ctx, w, n, k) != KIN_DTYPE_F32;
}
/* x, or a copy of it in f32 in the workspace where it is bf16 and the product with w [n,k] takes
 * f32 alone (8-bit integers: matrices that keep their precision; forward only). */
kin_status kin_op_widened(kin_ctx *ctx, const kin_param *w, int64_t n, int64_t k, kin_tensor *x);
/* NULL for a tensor without data. */
static inline const kin_tensor *kin_op_opt(const kin_tensor *t)
{
    return t && t->data ? t : NULL;
}
/* The start of a backward with one input: dy of y and the place of x's gradient (*acc: to add to).
 * dx without data: nothing is to be done. */
kin_status kin_op_grads(kin_ctx *ctx, const kin_tensor *y, const kin_tensor *x, kin_tensor *dy,
                        kin_tensor *dx, bool *acc);
/* A zeroed record in the workspace. */
void *kin_op_record(kin_ctx *ctx, size_t bytes);
/* p as flat matrix sizes: n = size 0, k = the rest. */
void kin_op_matrix(const kin_param *p, int64_t *n, int64_t *k);

#endif

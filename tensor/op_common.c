#include "tensor/op_common.h"

#include <string.h>

kin_status kin_op_rows(kin_ctx *ctx, const char *op, const kin_tensor *x, kin_tensor *rows)
{
    *rows = (kin_tensor){0};
    if (!x)
        return KIN_OK;
    if (x->ndim == 0) {
        *rows = *x;
        rows->ndim = 2;
        rows->size[0] = rows->size[1] = rows->stride[0] = rows->stride[1] = 1;
        return KIN_OK;
    }
    int64_t n = x->size[x->ndim - 1], count = 1, stride = 0;
    if (n > 1 && x->stride[x->ndim - 1] != 1) {
        char text[96];
        return kin_fail(&ctx->error, KIN_ERR_SHAPE,
                        "%s: %s: the last dimension must be contiguous (make it so)", op,
                        kin_tensor_describe(x, text, sizeof text));
    }
    for (int i = x->ndim - 2; i >= 0; i--) {
        if (x->size[i] == 1)
            continue;
        if (count == 1)
            stride = x->stride[i];
        else if (x->stride[i] != stride * count) {
            char text[96];
            return kin_fail(&ctx->error, KIN_ERR_SHAPE,
                            "%s: %s: leading dimensions must join to rows (make it contiguous)", op,
                            kin_tensor_describe(x, text, sizeof text));
        }
        count *= x->size[i];
    }
    *rows = *x;
    rows->ndim = 2;
    rows->size[0] = count;
    rows->size[1] = n;
    rows->stride[0] = count == 1 ? n : stride;
    rows->stride[1] = 1;
    return KIN_OK;
}

kin_status kin_op_mismatch(kin_ctx *ctx, const char *op, const kin_tensor *a, const kin_tensor *b,
                           const char *rule)
{
    char ta[96], tb[96];
    return kin_fail(&ctx->error, KIN_ERR_SHAPE, "%s: %s and %s: %s", op,
                    kin_tensor_describe(a, ta, sizeof ta), kin_tensor_describe(b, tb, sizeof tb),
                    rule);
}

kin_status kin_op_dtype(kin_ctx *ctx, const char *op, const kin_tensor *x, kin_dtype *out)
{
    if (x->dtype != KIN_DTYPE_F32 && x->dtype != KIN_DTYPE_F64)
        return kin_fail(&ctx->error, KIN_ERR_ARG, "%s: type %s must be f32", op,
                        kin_dtype_name(x->dtype));
    *out = x->dtype;
    return KIN_OK;
}

kin_status kin_op_product_dtype(kin_ctx *ctx, const char *op, const kin_tensor *x, kin_dtype *out)
{
    if (x->dtype != KIN_DTYPE_BF16 || kin_operand_dtype(ctx) != KIN_DTYPE_BF16)
        return kin_op_dtype(ctx, op, x, out);
    *out = KIN_DTYPE_F32;
    return KIN_OK;
}

kin_status kin_op_widened(kin_ctx *ctx, const kin_param *w, int64_t n, int64_t k, kin_tensor *x)
{
    const kin_tensor kept = *x;

    if (x->dtype != KIN_DTYPE_BF16 || kin_op_takes_kept(ctx, w, n, k))
        return KIN_OK;
    KIN_TRY(kin_ws_tensor(ctx, KIN_DTYPE_F32, kept.ndim, kept.size, x));
    return ctx->k->copy(ctx, &kept, x, false);
}

kin_status kin_op_grads(kin_ctx *ctx, const kin_tensor *y, const kin_tensor *x, kin_tensor *dy,
                        kin_tensor *dx, bool *acc)
{
    *dx = (kin_tensor){0};
    *acc = false;
    *dy = kin_tape_grad_in(ctx, y);
    return dy->data ? kin_tape_grad_slot(ctx, x, dx, acc) : KIN_OK;
}

void *kin_op_record(kin_ctx *ctx, size_t bytes)
{
    void *p = kin_ws_bytes(ctx, bytes);
    if (p)
        memset(p, 0, bytes);
    return p;
}

void kin_op_matrix(const kin_param *p, int64_t *n, int64_t *k)
{
    *n = p->value.ndim > 0 ? p->value.size[0] : 1;
    *k = 1;
    for (int i = 1; i < p->value.ndim; i++)
        *k *= p->value.size[i];
}

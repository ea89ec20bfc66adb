/* Broadcasting add and multiply, activations, scaling, sums, softmax, copies. */
#include <string.h>

#include "tensor/op_common.h"

enum { BINARY_DIMS = 4 };

/* The three operands of a binary op over one shape of at most BINARY_DIMS dimensions. */
typedef struct saved_binary {
    kin_tensor a, b, y; /* expanded views: a and b carry 0 strides where they are broadcast */
    kin_binary_kind kind;
    float alpha;
} saved_binary;

/* t seen with `shape` (ndim dims), broadcast with 0 strides; false when it does not fit. */
static bool expand_to(const kin_tensor *t, int ndim, const int64_t *shape, kin_tensor *out)
{
    *out = *t;
    out->ndim = ndim;
    for (int i = 0; i < ndim; i++) {
        int j = i - (ndim - t->ndim);
        int64_t size = j < 0 ? 1 : t->size[j];
        if (size != shape[i] && size != 1)
            return false;
        out->size[i] = shape[i];
        out->stride[i] = size == 1 && shape[i] != 1 ? 0 : j < 0 ? 1 : t->stride[j];
    }
    return true;
}

/* Drops size-1 dims and joins neighbours that all operands walk through evenly. */
static void collapse(kin_tensor *const *t, int count)
{
    int n = 0, ndim = t[0]->ndim;
    for (int i = 0; i < ndim; i++) {
        if (t[0]->size[i] == 1)
            continue;
        bool join = n > 0;
        for (int c = 0; c < count && join; c++)
            join = t[c]->stride[n - 1] == t[c]->stride[i] * t[c]->size[i];
        for (int c = 0; c < count; c++) {
            if (join) {
                t[c]->size[n - 1] *= t[c]->size[i];
                t[c]->stride[n - 1] = t[c]->stride[i];
            } else {
                int64_t size = t[c]->size[i], stride = t[c]->stride[i];
                t[c]->size[n] = size;
                t[c]->stride[n] = stride;
            }
        }
        n += !join;
    }
    if (n == 0) {
        for (int c = 0; c < count; c++) {
            t[c]->size[0] = 1;
            t[c]->stride[0] = 1;
        }
        n = 1;
    }
    for (int c = 0; c < count; c++)
        t[c]->ndim = n;
}

/* (+)= alpha * sum over broadcast dims of dy * other into the gradient of `operand`. */
static kin_status operand_bwd(kin_ctx *ctx, const saved_binary *s, const kin_tensor *operand,
                              const kin_tensor *other)
{
    kin_tensor grad, dy = kin_tape_grad_in(ctx, &s->y);
    bool acc;
    KIN_TRY(kin_tape_grad_slot(ctx, operand, &grad, &acc));
    if (!grad.data)
        return KIN_OK;
    float alpha = s->kind == KIN_BINARY_MUL || operand == &s->b ? s->alpha : 1.0f;
    kin_reduce_args r = {.x = &dy,
                         .other = s->kind == KIN_BINARY_MUL ? other : NULL,
                         .alpha = alpha,
                         .y = &grad,
                         .acc = acc};
    return ctx->k->reduce(ctx, &r);
}

static kin_status binary_bwd(kin_ctx *ctx, void *saved)
{
    saved_binary *s = saved;
    if (!kin_tape_grad_in(ctx, &s->y).data)
        return KIN_OK;
    KIN_TRY(operand_bwd(ctx, s, &s->b, &s->a));
    /* the first summand takes over the buffer where it can: dy has no other reader left */
    if (s->kind == KIN_BINARY_ADD && kin_tape_grad_give(ctx, &s->y, &s->a))
        return KIN_OK;
    return operand_bwd(ctx, s, &s->a, &s->b);
}

static kin_status binary(kin_ctx *ctx, const char *op, kin_binary_kind kind, const kin_tensor *a,
                         const kin_tensor *b, float alpha, kin_tensor *y)
{
    kin_dtype dtype;
    KIN_TRY(kin_op_dtype(ctx, op, a, &dtype));
    if (b->dtype != dtype)
        return kin_op_mismatch(ctx, op, a, b, "operands must have one type");
    int ndim = a->ndim > b->ndim ? a->ndim : b->ndim;
    int64_t shape[KIN_MAX_DIMS];
    for (int i = 0; i < ndim; i++) {
        int ja = i - (ndim - a->ndim), jb = i - (ndim - b->ndim);
        int64_t sa = ja < 0 ? 1 : a->size[ja], sb = jb < 0 ? 1 : b->size[jb];
        shape[i] = sa == 1 ? sb : sa;
    }
    saved_binary *s = kin_op_record(ctx, sizeof *s);
    if (!s)
        return KIN_ERR_MEM;
    s->kind = kind;
    s->alpha = alpha;
    if (!expand_to(a, ndim, shape, &s->a) || !expand_to(b, ndim, shape, &s->b))
        return kin_op_mismatch(ctx, op, a, b, "shapes must broadcast");
    KIN_TRY(kin_ws_tensor(ctx, dtype, ndim, shape, y));
    s->y = *y;
    collapse((kin_tensor *[]){&s->y, &s->a, &s->b}, 3);
    if (s->y.ndim > BINARY_DIMS)
        return kin_op_mismatch(ctx, op, a, b, "more than 4 separate dimensions");
    kin_binary_args args = {.kind = kind, .alpha = alpha, .a = &s->a, .b = &s->b, .y = &s->y};
    KIN_TRY(ctx->k->binary(ctx, &args));
    if (!kin_tape_needs(ctx, a) && !kin_tape_needs(ctx, b))
        return KIN_OK;
    KIN_TRY(kin_tape_add(ctx, y, binary_bwd, s));
    s->y.id = y->id;
    return KIN_OK;
}

kin_status kin_add(kin_ctx *ctx, const kin_tensor *a, const kin_tensor *b, float alpha,
                   kin_tensor *y)
{
    return binary(ctx, "add", KIN_BINARY_ADD, a, b, alpha, y);
}

kin_status kin_mul(kin_ctx *ctx, const kin_tensor *a, const kin_tensor *b, float alpha,
                   kin_tensor *y)
{
    return binary(ctx, "mul", KIN_BINARY_MUL, a, b, alpha, y);
}

kin_status kin_param_tensor(kin_ctx *ctx, kin_param *p, kin_tensor *y)
{
    *y = p->value;
    y->id = 0;
    /* note: on a device the table's memory is not the kernels' */
    if (ctx->device || (p->value.dtype != KIN_DTYPE_F32 && p->value.dtype != KIN_DTYPE_F64)) {
        KIN_TRY(kin_ws_tensor(ctx, KIN_DTYPE_F32, p->value.ndim, p->value.size, y));
        KIN_TRY(ctx->k->copy(ctx, &p->value, y, false));
        if (p->value.dtype != KIN_DTYPE_F32)
            return KIN_OK;
    }
    return kin_tape_needs_param(ctx, p) ? kin_tape_add_param(ctx, y, p) : KIN_OK;
}

kin_status kin_add_param(kin_ctx *ctx, const kin_tensor *a, kin_param *p, float alpha,
                         kin_tensor *y)
{
    kin_tensor t;
    KIN_TRY(kin_param_tensor(ctx, p, &t));
    return kin_add(ctx, a, &t, alpha, y);
}

/* --- one operand --- */

typedef struct saved_unary {
    kin_tensor x, y; /* row views */
    kin_act act;
    float alpha;
} saved_unary;

static kin_status unary_bwd(kin_ctx *ctx, void *saved)
{
    saved_unary *s = saved;
    kin_tensor dy, dx;
    bool acc;
    KIN_TRY(kin_op_grads(ctx, &s->y, &s->x, &dy, &dx, &acc));
    if (!dx.data)
        return KIN_OK;
    kin_unary_args a = {
        .act = s->act, .alpha = s->alpha, .x = &s->x, .dy = &dy, .dx = &dx, .acc = acc};
    return ctx->k->unary_bwd(ctx, &a);
}

static kin_status unary(kin_ctx *ctx, const char *op, const kin_tensor *x, kin_act act, float alpha,
                        kin_tensor *y)
{
    kin_dtype dtype;
    KIN_TRY(kin_op_dtype(ctx, op, x, &dtype));
    saved_unary *s = kin_op_record(ctx, sizeof *s);
    if (!s)
        return KIN_ERR_MEM;
    s->act = act;
    s->alpha = alpha;
    KIN_TRY(kin_op_rows(ctx, op, x, &s->x));
    KIN_TRY(kin_ws_tensor(ctx, dtype, x->ndim, x->size, y));
    KIN_TRY(kin_op_rows(ctx, op, y, &s->y));
    kin_unary_args a = {.act = act, .alpha = alpha, .x = &s->x, .y = &s->y};
    KIN_TRY(ctx->k->unary(ctx, &a));
    if (!kin_tape_needs(ctx, x))
        return KIN_OK;
    KIN_TRY(kin_tape_add(ctx, y, unary_bwd, s));
    s->y.id = y->id;
    return KIN_OK;
}

kin_status kin_activation(kin_ctx *ctx, const kin_tensor *x, kin_act act, kin_tensor *y)
{
    return unary(ctx, "activation", x, act, 1.0f, y);
}

kin_status kin_scale(kin_ctx *ctx, const kin_tensor *x, float alpha, kin_tensor *y)
{
    return unary(ctx, "scale", x, KIN_ACT_NONE, alpha, y);
}

static kin_status softmax_bwd(kin_ctx *ctx, void *saved)
{
    saved_unary *s = saved;
    kin_tensor dy, dx;
    bool acc;
    KIN_TRY(kin_op_grads(ctx, &s->y, &s->x, &dy, &dx, &acc));
    if (!dx.data)
        return KIN_OK;
    kin_softmax_args a = {.y = &s->y, .dy = &dy, .dx = &dx, .acc = acc};
    return ctx->k->softmax_bwd(ctx, &a);
}

kin_status kin_softmax(kin_ctx *ctx, const kin_tensor *x, kin_tensor *y)
{
    kin_dtype dtype;
    KIN_TRY(kin_op_dtype(ctx, "softmax", x, &dtype));
    saved_unary *s = kin_op_record(ctx, sizeof *s);
    if (!s)
        return KIN_ERR_MEM;
    KIN_TRY(kin_op_rows(ctx, "softmax", x, &s->x));
    KIN_TRY(kin_ws_tensor(ctx, dtype, x->ndim, x->size, y));
    KIN_TRY(kin_op_rows(ctx, "softmax", y, &s->y));
    kin_softmax_args a = {.x = &s->x, .y = &s->y};
    KIN_TRY(ctx->k->softmax(ctx, &a));
    if (!kin_tape_needs(ctx, x))
        return KIN_OK;
    KIN_TRY(kin_tape_add(ctx, y, softmax_bwd, s));
    s->y.id = y->id;
    return KIN_OK;
}

/* --- sums --- */

/* The scalar y seen over the shape of x. */
static kin_tensor scalar_over(const kin_tensor *y, const kin_tensor *x)
{
    kin_tensor t = *y;
    t.ndim = x->ndim;
    for (int i = 0; i < x->ndim; i++) {
        t.size[i] = x->size[i];
        t.stride[i] = 0;
    }
    return t;
}

static kin_status sum_bwd(kin_ctx *ctx, void *saved)
{
    saved_unary *s = saved;
    kin_tensor dy, dx, scaled;
    bool acc;
    KIN_TRY(kin_op_grads(ctx, &s->y, &s->x, &dy, &dx, &acc));
    if (!dx.data)
        return KIN_OK;
    size_t mark = kin_ws_mark(ctx);
    KIN_TRY(KIN_WS(ctx, &scaled, dy.dtype, 1, 1));
    dy = KIN_RESHAPE(&dy, 1, 1);
    kin_unary_args a = {.act = KIN_ACT_NONE, .alpha = s->alpha, .x = &dy, .y = &scaled};
    KIN_TRY(ctx->k->unary(ctx, &a));
    kin_tensor wide = scalar_over(&scaled, &dx);
    KIN_TRY(ctx->k->copy(ctx, &wide, &dx, acc));
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

kin_status kin_sum(kin_ctx *ctx, const kin_tensor *x, float alpha, kin_tensor *y)
{
    kin_dtype dtype;
    KIN_TRY(kin_op_dtype(ctx, "sum", x, &dtype));
    saved_unary *s = kin_op_record(ctx, sizeof *s);
    if (!s)
        return KIN_ERR_MEM;
    s->alpha = alpha;
    KIN_TRY(kin_op_rows(ctx, "sum", x, &s->x));
    KIN_TRY(kin_ws_tensor(ctx, dtype, 0, NULL, y));
    kin_tensor wide = scalar_over(y, &s->x);
    kin_reduce_args r = {.x = &s->x, .alpha = alpha, .y = &wide};
    KIN_TRY(ctx->k->reduce(ctx, &r));
    if (!kin_tape_needs(ctx, x))
        return KIN_OK;
    KIN_TRY(kin_tape_add(ctx, y, sum_bwd, s));
    s->y = *y;
    return KIN_OK;
}

/* --- copies --- */

typedef struct saved_concat {
    kin_tensor y;
    int n, dim;
    kin_tensor part[];
} saved_concat;

static kin_status concat_bwd(kin_ctx *ctx, void *saved)
{
    saved_concat *s = saved;
    kin_tensor dy = kin_tape_grad_in(ctx, &s->y);
    if (!dy.data)
        return KIN_OK;
    int64_t at = 0;
    for (int i = 0; i < s->n; i++) {
        kin_tensor piece = kin_tensor_slice(&dy, s->dim, at, s->part[i].size[s->dim]), dx;
        at += s->part[i].size[s->dim];
        bool acc;
        KIN_TRY(kin_tape_grad_slot(ctx, &s->part[i], &dx, &acc));
        if (!dx.data)
            continue;
        collapse((kin_tensor *[]){&piece, &dx}, 2);
        if (piece.ndim > BINARY_DIMS)
            return kin_op_mismatch(ctx, "concat", &piece, &dx, "more than 4 separate dimensions");
        /* reduce, because a part may have been expanded with stride 0 */
        kin_reduce_args r = {.x = &piece, .alpha = 1, .y = &dx, .acc = acc};
        KIN_TRY(ctx->k->reduce(ctx, &r));
    }
    return KIN_OK;
}

kin_status kin_concat(kin_ctx *ctx, const kin_tensor *parts, int n, int dim, kin_tensor *y)
{
    kin_dtype dtype;
    if (n < 1 || dim < 0 || dim >= parts[0].ndim)
        return kin_fail(&ctx->error, KIN_ERR_ARG, "concat: dimension %d of %d parts", dim, n);
    KIN_TRY(kin_op_dtype(ctx, "concat", &parts[0], &dtype));
    int64_t sizes[KIN_MAX_DIMS];
    memcpy(sizes, parts[0].size, sizeof sizes);
    bool grad = kin_tape_needs(ctx, &parts[0]);
    for (int i = 1; i < n; i++) {
        sizes[dim] += parts[i].size[dim];
        for (int j = 0; j < parts[0].ndim; j++)
            if (parts[i].ndim != parts[0].ndim || (j != dim && parts[i].size[j] != sizes[j]))
                return kin_op_mismatch(ctx, "concat", &parts[0], &parts[i],
                                       "sizes must agree in the other dimensions");
        grad |= kin_tape_needs(ctx, &parts[i]);
    }
    KIN_TRY(kin_ws_tensor(ctx, dtype, parts[0].ndim, sizes, y));
    int64_t at = 0;
    for (int i = 0; i < n; i++) {
        kin_tensor piece = kin_tensor_slice(y, dim, at, parts[i].size[dim]);
        KIN_TRY(ctx->k->copy(ctx, &parts[i], &piece, false));
        at += parts[i].size[dim];
    }
    if (!grad)
        return KIN_OK;
    saved_concat *s = kin_op_record(ctx, sizeof *s + (size_t)n * sizeof *parts);
    if (!s)
        return KIN_ERR_MEM;
    s->n = n;
    s->dim = dim;
    memcpy(s->part, parts, (size_t)n * sizeof *parts);
    KIN_TRY(kin_tape_add(ctx, y, concat_bwd, s));
    s->y = *y;
    return KIN_OK;
}

kin_status kin_contiguous(kin_ctx *ctx, const kin_tensor *x, kin_tensor *y)
{
    if (x->ndim == 0) {
        *y = *x;
        return KIN_OK;
    }
    return kin_concat(ctx, x, 1, 0, y);
}

static kin_status transpose_bwd(kin_ctx *ctx, void *saved)
{
    saved_unary *s = saved;
    kin_tensor dy = kin_tape_grad_in(ctx, &s->y), dx;
    bool acc;
    if (!dy.data)
        return KIN_OK;
    KIN_TRY(kin_tape_grad_slot(ctx, &s->x, &dx, &acc));
    return dx.data ? ctx->k->transpose(ctx, &dy, &dx, acc) : KIN_OK;
}

kin_status kin_transpose(kin_ctx *ctx, const kin_tensor *x, kin_tensor *y)
{
    kin_dtype dtype;
    KIN_TRY(kin_op_dtype(ctx, "transpose", x, &dtype));
    if (x->ndim != 2)
        return kin_fail(&ctx->error, KIN_ERR_SHAPE, "transpose: %d dimensions, must be 2", x->ndim);
    saved_unary *s = kin_op_record(ctx, sizeof *s);
    if (!s)
        return KIN_ERR_MEM;
    KIN_TRY(KIN_WS(ctx, y, dtype, x->size[1], x->size[0]));
    KIN_TRY(ctx->k->transpose(ctx, x, y, false));
    if (!kin_tape_needs(ctx, x))
        return KIN_OK;
    s->x = *x;
    KIN_TRY(kin_tape_add(ctx, y, transpose_bwd, s));
    s->y = *y;
    return KIN_OK;
}

kin_status kin_copy_into(kin_ctx *ctx, const kin_tensor *src, kin_tensor *dst)
{
    if (!kin_tensor_same_shape(src, dst))
        return kin_op_mismatch(ctx, "copy", src, dst, "shapes must agree");
    return ctx->k->copy(ctx, src, dst, false);
}

kin_status kin_fill(kin_ctx *ctx, kin_tensor *dst, double value)
{
    return ctx->k->fill(ctx, dst, value);
}

/* tensor/cuda/linear.cu: dense products and products of experts, forward and backward, as
 * descriptions for kin_product_run. */
#include "tensor/cuda/product.cuh"

/* The weight as the product wants it: in bf16 where the operands are rounded to it anyway. */
static kin_tensor weight_of(kin_cuda_call *c, kin_param *w)
{
    return kin_cuda_in_bf16(c->ctx) ? kin_cuda_value_bf16(c, w) : kin_cuda_value(c, w);
}

/* Element (i, l) of a flat weight [n,k]. */
static kin_matrix weight_matrix(const kin_tensor &w, int64_t k)
{
    kin_matrix m = {w.data, w.dtype, k, 1};
    return m;
}

/* True if this product is one for e4m3: a matrix that may lose precision (as for int8), sizes that
 * the library takes. */
static bool fits_fp8(const kin_ctx *ctx, const kin_linear_args *a, const kin_tensor &x)
{
    return ctx->compute == KIN_DTYPE_F8 && a->w->int8 && a->m > 0 && a->n % 16 == 0 &&
           a->k % 16 == 0 && x.dtype == KIN_DTYPE_F32;
}

extern "C" kin_status kin_cuda_linear(kin_ctx *ctx, const kin_linear_args *a)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "linear");
    const kin_tensor x = kin_cuda_in(&c, a->x);
    const bool fp8 = fits_fp8(ctx, a, x);
    /* note: before the bias, so that the larger one finds its place first (offload.h) */
    const kin_tensor w = fp8 ? kin_tensor{} : weight_of(&c, a->w);
    const kin_tensor b = kin_cuda_value(&c, a->b);
    kin_product p = {};
    p.m = a->m;
    p.n = a->n;
    p.k = a->k;
    p.a = kin_rows_of(x);
    p.bias = b.data;
    p.bias_dtype = b.dtype;
    p.act = a->act;
    p.gate = kin_cuda_in(&c, a->gate);
    p.gate_rows = p.gate.data && p.gate.size[0] ? a->m / p.gate.size[0] : 1;
    p.residual = kin_cuda_in(&c, a->residual);
    p.pre = kin_cuda_out(&c, a->pre, false);
    p.y = kin_cuda_out(&c, a->y, false);
    if (!fp8 || !kin_library_fp8(&c, &p, a->w)) {
        p.b = weight_matrix(fp8 ? weight_of(&c, a->w) : w, a->k);
        kin_product_run(&c, &p, kin_cuda_in_bf16(ctx));
    }
    return kin_cuda_end(&c);
}

extern "C" kin_status kin_cuda_linear_dx(kin_ctx *ctx, const kin_linear_bwd_args *a)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "linear dx");
    const kin_tensor dy = kin_cuda_in(&c, a->dy), w = weight_of(&c, a->w);
    kin_product p = {};
    p.m = a->m;
    p.n = a->k;
    p.k = a->n;
    p.a = kin_rows_of(dy);
    p.b = kin_turned(weight_matrix(w, a->k));
    p.act = a->past ? a->act : KIN_ACT_NONE;
    p.past = kin_cuda_in(&c, a->past);
    p.y = kin_cuda_out(&c, a->dx, a->acc);
    p.acc = a->acc;
    kin_product_run(&c, &p, kin_cuda_in_bf16(ctx));
    return kin_cuda_end(&c);
}

/* dy^T x, added to w's gradient; true: the column sums of dy were added to db as well. */
static bool weight_gradient(kin_cuda_call *c, const kin_linear_bwd_args *a, const kin_tensor &dy,
                            const kin_tensor &grad, const kin_tensor &db)
{
    const kin_tensor x = kin_cuda_in(c, a->x);
    const int64_t sizes[2] = {a->n, a->k};
    const bool bf16 = kin_cuda_in_bf16(c->ctx);
    kin_product p = {};
    p.m = a->n;
    p.n = a->k;
    p.k = a->m;
    p.a = kin_turned(kin_rows_of(dy));
    p.b = kin_turned(kin_rows_of(x));
    p.y = kin_tensor_of(grad.data, KIN_DTYPE_F32, 2, sizes);
    p.acc = true;
    if (c->status == KIN_OK && db.data && !bf16 && kin_library_sums(c, &p, (float *)db.data))
        return true;
    kin_product_run(c, &p, bf16);
    return false;
}

extern "C" kin_status kin_cuda_linear_dw(kin_ctx *ctx, const kin_linear_bwd_args *a)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "linear dw");
    const kin_tensor dy = kin_cuda_in(&c, a->dy);
    const kin_tensor grad = kin_cuda_grad(&c, a->w), db = kin_cuda_grad(&c, a->b);
    const bool summed = grad.data && a->m > 0 && weight_gradient(&c, a, dy, grad, db);
    if (db.data && a->m > 0 && !summed) {
        float *one = (float *)db.data;
        float *const *dst = (float *const *)kin_cuda_bytes(&c, &one, sizeof one);
        kin_column_sums(&c, dy, a->m, NULL, 1, dst);
    }
    return kin_cuda_end(&c);
}

/* --- experts --- */

/* Device addresses of the experts' parameters, as a list on the device. All of one type; *aligned
 * (or NULL): at multiples of 16 bytes. */
static const void *const *weights_of(kin_cuda_call *c, kin_param *const *w, int64_t groups,
                                     bool product, int *dtype, bool *aligned)
{
    const void **list = (const void **)kin_ws_bytes(c->ctx, (size_t)groups * sizeof *list);
    *dtype = KIN_DTYPE_F32;
    bool even = true;
    if (!list) {
        c->status = c->ctx->error.status;
        return NULL;
    }
    bool any = false;
    for (int64_t e = 0; e < groups && c->status == KIN_OK; e++) {
        const kin_tensor t = product ? weight_of(c, w[e]) : kin_cuda_value(c, w[e]);
        list[e] = t.data;
        even = even && (uintptr_t)t.data % 16 == 0;
        if (t.data && any && t.dtype != *dtype)
            kin_cuda_fail(c, KIN_ERR_UNSUPPORTED, "experts must have one type of weight");
        if (t.data)
            *dtype = t.dtype;
        any = any || t.data;
    }
    if (aligned)
        *aligned = even;
    return (const void *const *)kin_cuda_bytes(c, list, (size_t)groups * sizeof *list);
}

/* The same of their gradients; *any: one is wanted. */
static float *const *gradients_of(kin_cuda_call *c, kin_param *const *w, int64_t groups, bool *any)
{
    float **list = (float **)kin_ws_bytes(c->ctx, (size_t)groups * sizeof *list);
    *any = false;
    if (!list) {
        c->status = c->ctx->error.status;
        return NULL;
    }
    for (int64_t e = 0; e < groups && c->status == KIN_OK; e++) {
        list[e] = (float *)kin_cuda_grad(c, w[e]).data;
        *any = *any || list[e];
    }
    return (float *const *)kin_cuda_bytes(c, list, (size_t)groups * sizeof *list);
}

static void use_dispatch(kin_cuda_call *c, const kin_dispatch *d, bool gather, kin_product *p)
{
    p->offset = (const int32_t *)kin_cuda_in(c, &d->offset).data;
    p->groups = d->groups;
    p->order = gather ? (const int32_t *)kin_cuda_in(c, &d->order).data : NULL;
    p->slots = d->slots;
    p->gathered = d->tokens;
}

extern "C" kin_status kin_cuda_grouped(kin_ctx *ctx, const kin_grouped_args *a)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "experts");
    kin_product p = {};
    use_dispatch(&c, a->d, a->gather, &p);
    p.m = a->d->rows;
    p.n = a->n;
    p.k = a->k;
    p.a = kin_rows_of(kin_cuda_in(&c, a->x));
    p.b.row = a->k;
    p.b.col = 1;
    p.bs = weights_of(&c, a->w, p.groups, true, &p.b.dtype, &p.aligned);
    if (a->b)
        p.biases = weights_of(&c, a->b, p.groups, false, &p.bias_dtype, NULL);
    p.act = a->act;
    /* note: rows of no pair stay as they are */
    p.pre = kin_cuda_out(&c, a->pre, true);
    p.y = kin_cuda_out(&c, a->y, true);
    kin_product_run(&c, &p, kin_cuda_in_bf16(ctx));
    return kin_cuda_end(&c);
}

extern "C" kin_status kin_cuda_grouped_dx(kin_ctx *ctx, const kin_grouped_bwd_args *a)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "experts dx");
    kin_product p = {};
    use_dispatch(&c, a->d, false, &p);
    p.m = a->d->rows;
    p.n = a->k;
    p.k = a->n;
    p.a = kin_rows_of(kin_cuda_in(&c, a->dy));
    p.b.row = 1;
    p.b.col = a->k;
    p.bs = weights_of(&c, a->w, p.groups, true, &p.b.dtype, &p.aligned);
    p.act = a->past ? a->act : KIN_ACT_NONE;
    p.past = kin_cuda_in(&c, a->past);
    p.y = kin_cuda_out(&c, a->dx, true);
    kin_product_run(&c, &p, kin_cuda_in_bf16(ctx));
    return kin_cuda_end(&c);
}

extern "C" kin_status kin_cuda_grouped_dw(kin_ctx *ctx, const kin_grouped_bwd_args *a)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "experts dw");
    const kin_tensor dy = kin_cuda_in(&c, a->dy);
    kin_product p = {};
    bool any;
    use_dispatch(&c, a->d, a->gather, &p);
    p.over_rows = true;
    p.m = a->n;
    p.n = a->k;
    p.k = a->d->rows;
    p.a = kin_turned(kin_rows_of(dy));
    p.acc = true;
    p.ys = gradients_of(&c, a->w, p.groups, &any);
    if (any) {
        p.b = kin_turned(kin_rows_of(kin_cuda_in(&c, a->x)));
        kin_product_run(&c, &p, kin_cuda_in_bf16(ctx));
    }
    if (a->b) {
        float *const *db = gradients_of(&c, a->b, p.groups, &any);
        if (any)
            kin_column_sums(&c, dy, a->d->rows, p.offset, p.groups, db);
    }
    return kin_cuda_end(&c);
}

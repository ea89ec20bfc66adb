/* tensor/ref/elementwise.c: elementwise operations, sums over broadcast dimensions, softmax,
 * copies. */
#include "tensor/ref/ref.h"

/* Position of flat index i of `shape` in a view of that shape (dimensions of stride 0 repeat). */
static int64_t at(const kin_tensor *shape, const kin_tensor *t, int64_t i)
{
    int64_t pos = 0;
    for (int d = shape->ndim - 1; d >= 0; d--) {
        pos += i % shape->size[d] * t->stride[d];
        i /= shape->size[d];
    }
    return pos;
}

kin_status kin_ref_binary(kin_ctx *ctx, const kin_binary_args *a)
{
    int64_t n = kin_tensor_numel(a->y);
    (void)ctx;
    for (int64_t i = 0; i < n; i++) {
        double u = kin_ref_load(a->a, at(a->y, a->a, i)), v = kin_ref_load(a->b, at(a->y, a->b, i));
        double y = a->kind == KIN_BINARY_ADD ? u + (double)a->alpha * v : (double)a->alpha * u * v;
        kin_ref_put(a->y, at(a->y, a->y, i), y, a->acc);
    }
    return KIN_OK;
}

/* Sum of x * other over the dimensions in which y has stride 0, for the entry of y at flat index i
 * of x (whose indices in those dimensions are 0). */
static double reduce_entry(const kin_reduce_args *a, int64_t i)
{
    const kin_tensor *x = a->x;
    int64_t first[KIN_MAX_DIMS], summed = 1;
    double sum = 0;
    for (int d = x->ndim - 1; d >= 0; d--) {
        first[d] = i % x->size[d];
        i /= x->size[d];
        summed *= a->y->stride[d] == 0 ? x->size[d] : 1;
    }
    for (int64_t s = 0; s < summed; s++) {
        int64_t rest = s, xat = 0, oat = 0;
        for (int d = x->ndim - 1; d >= 0; d--) {
            int64_t c = first[d];
            if (a->y->stride[d] == 0) {
                c = rest % x->size[d];
                rest /= x->size[d];
            }
            xat += c * x->stride[d];
            oat += kin_ref_has(a->other) ? c * a->other->stride[d] : 0;
        }
        sum += kin_ref_load(x, xat) * (kin_ref_has(a->other) ? kin_ref_load(a->other, oat) : 1);
    }
    return sum;
}

kin_status kin_ref_reduce(kin_ctx *ctx, const kin_reduce_args *a)
{
    int64_t n = kin_tensor_numel(a->x);
    (void)ctx;
    for (int64_t i = 0; i < n; i++) {
        int64_t rest = i;
        bool first = true;
        for (int d = a->x->ndim - 1; d >= 0; d--) {
            first = first && (a->y->stride[d] != 0 || rest % a->x->size[d] == 0);
            rest /= a->x->size[d];
        }
        if (first)
            kin_ref_put(a->y, at(a->x, a->y, i), (double)a->alpha * reduce_entry(a, i), a->acc);
    }
    return KIN_OK;
}

kin_status kin_ref_unary(kin_ctx *ctx, const kin_unary_args *a)
{
    (void)ctx;
    for (int64_t r = 0; r < a->y->size[0]; r++) {
        for (int64_t c = 0; c < a->y->size[1]; c++) {
            double x = kin_ref_get2(a->x, r, c);
            kin_ref_put2(a->y, r, c,
                         a->act == KIN_ACT_NONE ? (double)a->alpha * x : kin_ref_act(a->act, x),
                         false);
        }
    }
    return KIN_OK;
}

kin_status kin_ref_unary_bwd(kin_ctx *ctx, const kin_unary_args *a)
{
    (void)ctx;
    for (int64_t r = 0; r < a->dx->size[0]; r++) {
        for (int64_t c = 0; c < a->dx->size[1]; c++) {
            double slope = a->act == KIN_ACT_NONE
                               ? (double)a->alpha
                               : kin_ref_act_grad(a->act, kin_ref_get2(a->x, r, c));
            kin_ref_put2(a->dx, r, c, kin_ref_get2(a->dy, r, c) * slope, a->acc);
        }
    }
    return KIN_OK;
}

kin_status kin_ref_gated_add(kin_ctx *ctx, const kin_gated_add_args *a)
{
    int64_t m = a->y->size[0];
    (void)ctx;
    for (int64_t r = 0; r < m; r++) {
        for (int64_t c = 0; c < a->y->size[1]; c++)
            kin_ref_put2(a->y, r, c,
                         kin_ref_get2(a->residual, r, c) +
                             kin_ref_get2(a->gate, kin_ref_group(a->gate, r, m), c) *
                                 kin_ref_get2(a->lin, r, c),
                         false);
    }
    return KIN_OK;
}

kin_status kin_ref_gate_bwd(kin_ctx *ctx, const kin_gate_bwd_args *a)
{
    int64_t m = a->dy->size[0], n = a->dy->size[1];
    (void)ctx;
    for (int64_t r = 0; r < m && kin_ref_has(a->dlin); r++) {
        for (int64_t c = 0; c < n; c++)
            kin_ref_put2(a->dlin, r, c,
                         kin_ref_get2(a->dy, r, c) *
                             kin_ref_get2(a->gate, kin_ref_group(a->gate, r, m), c),
                         false);
    }
    for (int64_t g = 0; kin_ref_has(a->dgate) && g < a->dgate->size[0]; g++) {
        int64_t per = m / a->dgate->size[0];
        for (int64_t c = 0; c < n; c++) {
            double sum = 0;
            for (int64_t r = g * per; r < (g + 1) * per; r++)
                sum += kin_ref_get2(a->dy, r, c) * kin_ref_get2(a->lin, r, c);
            kin_ref_put2(a->dgate, g, c, sum, a->acc_dgate);
        }
    }
    return KIN_OK;
}

kin_status kin_ref_softmax(kin_ctx *ctx, const kin_softmax_args *a)
{
    int64_t n = a->x->size[1];
    (void)ctx;
    for (int64_t r = 0; r < a->x->size[0]; r++) {
        double largest = -INFINITY, sum = 0;
        for (int64_t c = 0; c < n; c++)
            largest = fmax(largest, kin_ref_get2(a->x, r, c));
        for (int64_t c = 0; c < n; c++)
            sum += exp(kin_ref_get2(a->x, r, c) - largest);
        for (int64_t c = 0; c < n; c++)
            kin_ref_put2(a->y, r, c, exp(kin_ref_get2(a->x, r, c) - largest) / sum, false);
    }
    return KIN_OK;
}

kin_status kin_ref_softmax_bwd(kin_ctx *ctx, const kin_softmax_args *a)
{
    (void)ctx;
    for (int64_t r = 0; r < a->y->size[0]; r++) {
        double dot = 0;
        for (int64_t c = 0; c < a->y->size[1]; c++)
            dot += kin_ref_get2(a->dy, r, c) * kin_ref_get2(a->y, r, c);
        for (int64_t c = 0; c < a->y->size[1]; c++)
            kin_ref_put2(a->dx, r, c, kin_ref_get2(a->y, r, c) * (kin_ref_get2(a->dy, r, c) - dot),
                         a->acc);
    }
    return KIN_OK;
}

kin_status kin_ref_copy(kin_ctx *ctx, const kin_tensor *src, kin_tensor *dst, bool acc)
{
    int64_t n = kin_tensor_numel(dst);
    (void)ctx;
    for (int64_t i = 0; i < n; i++)
        kin_ref_put(dst, at(dst, dst, i), kin_ref_load(src, at(dst, src, i)), acc);
    return KIN_OK;
}

kin_status kin_ref_fill(kin_ctx *ctx, kin_tensor *dst, double value)
{
    int64_t n = kin_tensor_numel(dst);
    (void)ctx;
    for (int64_t i = 0; i < n; i++)
        kin_ref_store(dst, at(dst, dst, i), value);
    return KIN_OK;
}

kin_status kin_ref_transpose(kin_ctx *ctx, const kin_tensor *x, kin_tensor *y, bool acc)
{
    (void)ctx;
    for (int64_t r = 0; r < x->size[0]; r++) {
        for (int64_t c = 0; c < x->size[1]; c++)
            kin_ref_put2(y, c, r, kin_ref_get2(x, r, c), acc);
    }
    return KIN_OK;
}

/* tensor/ref/grouped.c: one layer of experts over tokens sorted by expert, and the weighted sum
 * back to tokens. */
#include "tensor/ref/ref.h"

static const int32_t *i32(const kin_tensor *t)
{
    return t->data;
}

/* Row of x that belongs to sorted row s. */
static int64_t source_row(const kin_dispatch *d, bool gather, int64_t s)
{
    return gather ? i32(&d->order)[s] / d->slots : s;
}

/* The rows of x that are in use. */
static kin_status quantize_rows(kin_ctx *ctx, const kin_grouped_args *a, kin_ref_int8 *q)
{
    int64_t rows = a->gather ? a->d->tokens : i32(&a->d->offset)[a->d->groups];
    kin_tensor used = kin_tensor_slice(a->x, 0, 0, rows);
    return kin_ref_int8_make(ctx, &used, q);
}

kin_status kin_ref_grouped(kin_ctx *ctx, const kin_grouped_args *a)
{
    const int32_t *offset = i32(&a->d->offset);
    size_t mark = kin_ws_mark(ctx);
    kin_ref_int8 qx = {0}, qw = {0};
    for (int64_t e = 0; e < a->d->groups; e++) {
        const kin_tensor *w = &a->w[e]->value;
        bool int8 = kin_product_dtype(ctx, a->w[0], a->n, a->k) == KIN_DTYPE_I8;
        if (int8) {
            kin_ws_release(ctx, mark);
            KIN_TRY(quantize_rows(ctx, a, &qx));
            KIN_TRY(kin_ref_int8_weight(ctx, a->w[e], a->n, a->k, &qw));
        }
        for (int64_t s = offset[e]; s < offset[e + 1]; s++) {
            int64_t r = source_row(a->d, a->gather, s);
            for (int64_t j = 0; j < a->n; j++) {
                double sum = int8 ? kin_ref_int8_dot(&qx, r, &qw, j) : 0;
                for (int64_t c = 0; c < a->k && !int8; c++) {
                    sum += kin_ref_operand(ctx, kin_ref_get2(a->x, r, c)) *
                           kin_ref_operand(ctx, kin_ref_load(w, kin_ref_flat(w, j, c)));
                }
                if (a->b && a->b[e])
                    sum += kin_ref_load(&a->b[e]->value, j);
                if (kin_ref_has(a->pre))
                    kin_ref_put2(a->pre, s, j, sum, false);
                kin_ref_put2(a->y, s, j, kin_ref_act(a->act, sum), false);
            }
        }
    }
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

kin_status kin_ref_grouped_dx(kin_ctx *ctx, const kin_grouped_bwd_args *a)
{
    const int32_t *offset = i32(&a->d->offset);
    for (int64_t e = 0; e < a->d->groups; e++) {
        const kin_tensor *w = &a->w[e]->value;
        for (int64_t s = offset[e]; s < offset[e + 1]; s++) {
            for (int64_t c = 0; c < a->k; c++) {
                double sum = 0;
                for (int64_t j = 0; j < a->n; j++) {
                    sum += kin_ref_operand(ctx, kin_ref_get2(a->dy, s, j)) *
                           kin_ref_operand(ctx, kin_ref_load(w, kin_ref_flat(w, j, c)));
                }
                if (kin_ref_has(a->past))
                    sum *= kin_ref_act_grad(a->act, kin_ref_get2(a->past, s, c));
                kin_ref_put2(a->dx, s, c, sum, false);
            }
        }
    }
    return KIN_OK;
}

/* dw of one expert over its rows [s0, s1). */
static void expert_dw(kin_ctx *ctx, const kin_grouped_bwd_args *a, int64_t e, int64_t s0,
                      int64_t s1)
{
    kin_param *b = a->b ? a->b[e] : NULL;
    for (int64_t j = 0; j < a->n; j++) {
        for (int64_t c = 0; c < a->k && kin_ref_wants_grad(a->w[e]); c++) {
            double sum = 0;
            for (int64_t s = s0; s < s1; s++) {
                int64_t r = source_row(a->d, a->gather, s);
                sum += kin_ref_operand(ctx, kin_ref_get2(a->dy, s, j)) *
                       kin_ref_operand(ctx, kin_ref_get2(a->x, r, c));
            }
            kin_ref_grad_add(a->w[e], j, c, sum);
        }
        if (kin_ref_wants_grad(b)) {
            double sum = 0;
            for (int64_t s = s0; s < s1; s++)
                sum += kin_ref_get2(a->dy, s, j);
            kin_ref_grad_add(b, 0, j, sum);
        }
    }
}

kin_status kin_ref_grouped_dw(kin_ctx *ctx, const kin_grouped_bwd_args *a)
{
    const int32_t *offset = i32(&a->d->offset);
    for (int64_t e = 0; e < a->d->groups; e++) {
        if (offset[e] < offset[e + 1])
            expert_dw(ctx, a, e, offset[e], offset[e + 1]);
    }
    return KIN_OK;
}

kin_status kin_ref_combine(kin_ctx *ctx, const kin_combine_args *a)
{
    const kin_dispatch *d = a->d;
    const int32_t *inverse = i32(&d->inverse);
    (void)ctx;
    for (int64_t t = 0; t < d->tokens; t++) {
        for (int64_t j = 0; j < a->n; j++) {
            double sum = kin_ref_has(a->base) ? kin_ref_get2(a->base, t, j) : 0;
            for (int64_t k = 0; k < d->slots; k++) {
                int64_t s = inverse[t * d->slots + k];
                if (s >= 0)
                    sum += (a->weighted ? kin_ref_get2(&d->weight, t, k) : 1.0) *
                           kin_ref_get2(a->z, s, j);
            }
            kin_ref_put2(a->y, t, j, sum, a->acc);
        }
    }
    return KIN_OK;
}

kin_status kin_ref_combine_bwd(kin_ctx *ctx, const kin_combine_args *a)
{
    const kin_dispatch *d = a->d;
    const int32_t *inverse = i32(&d->inverse);
    (void)ctx;
    for (int64_t t = 0; t < d->tokens; t++) {
        for (int64_t k = 0; k < d->slots; k++) {
            int64_t s = inverse[t * d->slots + k];
            double dot = 0;
            for (int64_t j = 0; j < a->n && s >= 0; j++) {
                double dy = kin_ref_get2(a->dy, t, j);
                if (kin_ref_has(a->dz))
                    kin_ref_put2(a->dz, s, j,
                                 (a->weighted ? kin_ref_get2(&d->weight, t, k) : 1.0) * dy, false);
                if (kin_ref_has(a->dweight))
                    dot += dy * kin_ref_get2(a->z, s, j);
            }
            if (kin_ref_has(a->dweight))
                kin_ref_put2(a->dweight, t, k, dot, a->acc);
        }
    }
    return KIN_OK;
}

/* tensor/ref/linear.c: y = residual + gate * act(x w^T + b), and its gradients. */
#include "tensor/ref/ref.h"

kin_status kin_ref_linear(kin_ctx *ctx, const kin_linear_args *a)
{
    const kin_tensor *w = &a->w->value;
    bool int8 = kin_product_dtype(ctx, a->w, a->n, a->k) == KIN_DTYPE_I8;
    size_t mark = kin_ws_mark(ctx);
    kin_ref_int8 qx, qw;
    if (int8) {
        KIN_TRY(kin_ref_int8_make(ctx, a->x, &qx));
        KIN_TRY(kin_ref_int8_weight(ctx, a->w, a->n, a->k, &qw));
    }
    for (int64_t i = 0; i < a->m; i++) {
        for (int64_t j = 0; j < a->n; j++) {
            double sum = int8 ? kin_ref_int8_dot(&qx, i, &qw, j) : 0, y;
            for (int64_t c = 0; c < a->k && !int8; c++) {
                sum += kin_ref_operand(ctx, kin_ref_get2(a->x, i, c)) *
                       kin_ref_operand(ctx, kin_ref_load(w, kin_ref_flat(w, j, c)));
            }
            if (a->b)
                sum += kin_ref_load(&a->b->value, j);
            if (kin_ref_has(a->pre))
                kin_ref_put2(a->pre, i, j, sum, false);
            y = kin_ref_act(a->act, sum);
            if (kin_ref_has(a->gate))
                y *= kin_ref_get2(a->gate, kin_ref_group(a->gate, i, a->m), j);
            if (kin_ref_has(a->residual))
                y += kin_ref_get2(a->residual, i, j);
            kin_ref_put2(a->y, i, j, y, false);
        }
    }
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

kin_status kin_ref_linear_dx(kin_ctx *ctx, const kin_linear_bwd_args *a)
{
    const kin_tensor *w = &a->w->value;
    for (int64_t i = 0; i < a->m; i++) {
        for (int64_t c = 0; c < a->k; c++) {
            double sum = 0;
            for (int64_t j = 0; j < a->n; j++) {
                sum += kin_ref_operand(ctx, kin_ref_get2(a->dy, i, j)) *
                       kin_ref_operand(ctx, kin_ref_load(w, kin_ref_flat(w, j, c)));
            }
            if (kin_ref_has(a->past))
                sum *= kin_ref_act_grad(a->act, kin_ref_get2(a->past, i, c));
            kin_ref_put2(a->dx, i, c, sum, a->acc);
        }
    }
    return KIN_OK;
}

kin_status kin_ref_linear_dw(kin_ctx *ctx, const kin_linear_bwd_args *a)
{
    for (int64_t j = 0; j < a->n; j++) {
        for (int64_t c = 0; c < a->k && kin_ref_wants_grad(a->w); c++) {
            double sum = 0;
            for (int64_t i = 0; i < a->m; i++) {
                sum += kin_ref_operand(ctx, kin_ref_get2(a->dy, i, j)) *
                       kin_ref_operand(ctx, kin_ref_get2(a->x, i, c));
            }
            kin_ref_grad_add(a->w, j, c, sum);
        }
        if (kin_ref_wants_grad(a->b)) {
            double sum = 0;
            for (int64_t i = 0; i < a->m; i++)
                sum += kin_ref_get2(a->dy, i, j);
            kin_ref_grad_add(a->b, 0, j, sum);
        }
    }
    return KIN_OK;
}

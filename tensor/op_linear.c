/* Dense products: y = residual + gate * act(x w^T + b); residual + gate * x without a product. */
#include "tensor/op_common.h"

typedef struct saved_linear {
    kin_tensor x, y, pre, residual, gate; /* 2-D views; pre is act's input or the gated value */
    kin_param *w, *b;
    kin_act act;
    bool shared; /* other products read x, too */
    int64_t m, n, k;
} saved_linear;

/* Gradient of the product's result: dy itself, act'(pre)*dy, or gate*dy (with the gate's own
 * gradient). */
static kin_status grad_of_product(kin_ctx *ctx, const saved_linear *s, const kin_tensor *dy,
                                  kin_tensor *dpre)
{
    if (s->act != KIN_ACT_NONE && !kin_tape_is_past(ctx, &s->y)) {
        KIN_TRY(KIN_WS(ctx, dpre, kin_op_kept(ctx, dy->dtype, true), s->m, s->n));
        kin_unary_args a = {.act = s->act, .alpha = 1, .x = &s->pre, .dy = dy, .dx = dpre};
        return ctx->k->unary_bwd(ctx, &a);
    }
    *dpre = *dy;
    return KIN_OK;
}

/* past: the activation that gave x, where dx is the gradient before it; or NULL. */
static kin_status product_bwd(kin_ctx *ctx, const saved_linear *s, const kin_tensor *dpre,
                              kin_tensor *dx, bool acc, const kin_tape_past *past)
{
    kin_linear_bwd_args a = {.m = s->m,
                             .n = s->n,
                             .k = s->k,
                             .dy = dpre,
                             .x = &s->x,
                             .w = s->w,
                             .b = s->b,
                             .act = past ? past->act : KIN_ACT_NONE,
                             .past = past ? &past->pre : NULL};
    if ((s->w->grad.data) || (s->b && s->b->grad.data))
        KIN_TRY(ctx->k->linear_dw(ctx, &a));
    if (dx->data) {
        a.dx = dx;
        a.acc = acc;
        KIN_TRY(ctx->k->linear_dx(ctx, &a));
    }
    return KIN_OK;
}

static kin_status linear_bwd(kin_ctx *ctx, void *saved)
{
    saved_linear *s = saved;
    kin_tensor dy = kin_tape_grad_in(ctx, &s->y), dx, dgate = {0}, dlin = {0}, dpre;
    bool acc, acc_gate = false;
    const kin_tape_past *past = NULL;
    if (!dy.data)
        return KIN_OK;
    if (s->shared)
        KIN_TRY(kin_tape_grad_slot(ctx, &s->x, &dx, &acc));
    else
        KIN_TRY(kin_tape_grad_slot_past(ctx, &s->x, kin_op_kept(ctx, dy.dtype, true), &dx, &acc,
                                        &past));
    if (s->gate.data)
        KIN_TRY(kin_tape_grad_slot(ctx, &s->gate, &dgate, &acc_gate));
    kin_tensor dres = {0};
    bool acc_res = false;
    if (s->residual.data && !kin_tape_grad_give(ctx, &s->y, &s->residual))
        KIN_TRY(kin_tape_grad_slot(ctx, &s->residual, &dres, &acc_res));
    size_t mark = kin_ws_mark(ctx);
    if (s->gate.data) {
        KIN_TRY(KIN_WS(ctx, &dlin, kin_op_kept(ctx, dy.dtype, true), s->m, s->n));
        kin_gate_bwd_args g = {.dy = &dy,
                               .lin = &s->pre,
                               .gate = &s->gate,
                               .dlin = &dlin,
                               .dgate = dgate.data ? &dgate : NULL,
                               .acc_dgate = acc_gate};
        KIN_TRY(ctx->k->gate_bwd(ctx, &g));
        dpre = dlin;
    } else {
        KIN_TRY(grad_of_product(ctx, s, &dy, &dpre));
    }
    KIN_TRY(product_bwd(ctx, s, &dpre, &dx, acc, past));
    /* note: after dx, which may be the same node and was told to overwrite */
    if (dres.data)
        KIN_TRY(ctx->k->copy(ctx, &dy, &dres, acc_res));
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

static kin_status linear_check(kin_ctx *ctx, const kin_tensor *x, kin_param *w, kin_param *b,
                               const kin_tensor *residual, const kin_tensor *gate, saved_linear *s)
{
    kin_op_matrix(w, &s->n, &s->k);
    if (x->ndim < 1)
        return kin_op_mismatch(ctx, w->name, x, &w->value, "x must have a last dimension");
    KIN_TRY(kin_op_rows(ctx, "linear", x, &s->x));
    KIN_TRY(kin_op_rows(ctx, "linear", residual, &s->residual));
    KIN_TRY(kin_op_rows(ctx, "linear", gate, &s->gate));
    s->m = s->x.size[0];
    if (s->x.size[1] != s->k)
        return kin_op_mismatch(ctx, w->name, x, &w->value,
                               "the last size of x must be the weight's inner size");
    if (b && kin_tensor_numel(&b->value) != s->n)
        return kin_op_mismatch(ctx, b->name, &b->value, &w->value,
                               "a bias has one entry per row of the weight");
    if (residual && (s->residual.size[0] != s->m || s->residual.size[1] != s->n))
        return kin_op_mismatch(ctx, w->name, residual, x,
                               "the residual must have the product's shape");
    if (gate && (s->gate.size[1] != s->n || s->gate.size[0] == 0 || s->m % s->gate.size[0] != 0))
        return kin_op_mismatch(ctx, w->name, gate, x,
                               "gate rows must divide the rows and have the product's width");
    return KIN_OK;
}

static kin_status linear_run(kin_ctx *ctx, const kin_tensor *x, kin_param *w, kin_param *b,
                             const kin_linear_options *o, bool shared, kin_tensor *y)
{
    saved_linear *s = kin_op_record(ctx, sizeof *s);
    if (!s)
        return KIN_ERR_MEM;
    KIN_TRY(linear_check(ctx, x, w, b, o->residual, o->gate, s));
    kin_dtype dtype;
    KIN_TRY(kin_op_product_dtype(ctx, w->name, x, &dtype));
    KIN_TRY(kin_op_widened(ctx, w, s->n, s->k, &s->x));
    bool grad = kin_tape_needs(ctx, x) || kin_tape_needs(ctx, o->residual) ||
                kin_tape_needs(ctx, o->gate) || kin_tape_needs_param(ctx, w) ||
                kin_tape_needs_param(ctx, b);
    int64_t sizes[KIN_MAX_DIMS] = {0};
    for (int i = 0; i < x->ndim - 1; i++)
        sizes[i] = x->size[i];
    sizes[x->ndim - 1] = s->n;
    const bool kept = o->operand && kin_op_takes_kept(ctx, w, s->n, s->k);
    KIN_TRY(kin_ws_tensor(ctx, kin_op_kept(ctx, dtype, kept), x->ndim, sizes, y));
    KIN_TRY(kin_op_rows(ctx, "linear", y, &s->y));
    bool keep = grad && (o->act != KIN_ACT_NONE || o->gate);
    if (keep)
        KIN_TRY(KIN_WS(ctx, &s->pre, kin_op_kept(ctx, dtype, !o->gate), s->m, s->n));
    kin_linear_args a = {.m = s->m,
                         .n = s->n,
                         .k = s->k,
                         .x = &s->x,
                         .w = w,
                         .b = b,
                         .act = o->act,
                         .residual = o->residual ? &s->residual : NULL,
                         .gate = o->gate ? &s->gate : NULL,
                         .pre = keep ? &s->pre : NULL,
                         .y = &s->y};
    if (!kin_tape_recording(ctx)) {
        a.out = o->out;
        a.in = o->in;
    }
    KIN_TRY(ctx->k->linear(ctx, &a));
    if (!grad)
        return KIN_OK;
    s->w = w;
    s->b = b;
    s->act = o->act;
    s->shared = shared;
    KIN_TRY(kin_tape_add(ctx, y, linear_bwd, s));
    s->y.id = y->id;
    return o->operand && o->act != KIN_ACT_NONE ? kin_tape_note_past(ctx, y, o->act, &s->pre)
                                                : KIN_OK;
}

/* The product with w's adapters: what the epilogue does follows as ops of its own. */
static kin_status linear_adapted(kin_ctx *ctx, const kin_tensor *x, kin_param *w, kin_param *b,
                                 const kin_linear_options *o, kin_tensor *y)
{
    const kin_linear_options plain = {.in = o->in}, inner = {.in = o->in, .operand = true},
                             last = {0};
    kin_tensor sum;
    KIN_TRY(linear_run(ctx, x, w, b, &plain, true, &sum));
    for (const kin_adapter *a = w->adapters; a; a = a->next) {
        kin_tensor low, high, before = sum;
        KIN_TRY(linear_run(ctx, x, a->a, NULL, &inner, true, &low));
        KIN_TRY(linear_run(ctx, &low, a->b, NULL, &last, false, &high));
        KIN_TRY(kin_add(ctx, &before, &high, a->scale, &sum));
    }
    if (o->act != KIN_ACT_NONE)
        return kin_activation(ctx, &sum, o->act, y);
    if (o->gate)
        return kin_gated_add(ctx, &sum, o->residual, o->gate, y);
    if (o->residual)
        return kin_add(ctx, o->residual, &sum, 1.0f, y);
    *y = sum;
    return KIN_OK;
}

kin_status kin_linear_with(kin_ctx *ctx, const kin_tensor *x, kin_param *w, kin_param *b,
                           const kin_linear_options *opt, kin_tensor *y)
{
    static const kin_linear_options none = {0};

    opt = opt ? opt : &none;
    return w->adapters ? linear_adapted(ctx, x, w, b, opt, y)
                       : linear_run(ctx, x, w, b, opt, false, y);
}

kin_status kin_linear(kin_ctx *ctx, const kin_tensor *x, kin_param *w, kin_param *b, kin_tensor *y)
{
    return kin_linear_with(ctx, x, w, b, NULL, y);
}

kin_status kin_linear_act(kin_ctx *ctx, const kin_tensor *x, kin_param *w, kin_param *b,
                          kin_act act, kin_tensor *y)
{
    return kin_linear_with(ctx, x, w, b, &(kin_linear_options){.act = act}, y);
}

kin_status kin_linear_operand(kin_ctx *ctx, const kin_tensor *x, kin_param *w, kin_param *b,
                              kin_act act, kin_tensor *y)
{
    return kin_linear_with(ctx, x, w, b, &(kin_linear_options){.act = act, .operand = true}, y);
}

kin_status kin_linear_residual(kin_ctx *ctx, const kin_tensor *x, kin_param *w, kin_param *b,
                               const kin_tensor *residual, const kin_tensor *gate, kin_tensor *y)
{
    return kin_linear_with(ctx, x, w, b, &(kin_linear_options){.residual = residual, .gate = gate},
                           y);
}

/* --- without a product --- */

typedef struct saved_gated {
    kin_tensor x, residual, gate, y;
} saved_gated;

static kin_status gated_bwd(kin_ctx *ctx, void *saved)
{
    saved_gated *s = saved;
    kin_tensor dy = kin_tape_grad_in(ctx, &s->y), dx, dgate, dres = {0}, dlin;
    bool acc, acc_gate, acc_res = false;
    if (!dy.data)
        return KIN_OK;
    KIN_TRY(kin_tape_grad_slot(ctx, &s->x, &dx, &acc));
    KIN_TRY(kin_tape_grad_slot(ctx, &s->gate, &dgate, &acc_gate));
    if (!kin_tape_grad_give(ctx, &s->y, &s->residual))
        KIN_TRY(kin_tape_grad_slot(ctx, &s->residual, &dres, &acc_res));
    size_t mark = kin_ws_mark(ctx);
    dlin = dx;
    if (dx.data && acc)
        KIN_TRY(KIN_WS(ctx, &dlin, dy.dtype, dx.size[0], dx.size[1]));
    kin_gate_bwd_args a = {.dy = &dy,
                           .lin = &s->x,
                           .gate = &s->gate,
                           .dlin = dx.data ? &dlin : NULL,
                           .dgate = dgate.data ? &dgate : NULL,
                           .acc_dgate = acc_gate};
    KIN_TRY(ctx->k->gate_bwd(ctx, &a));
    if (dx.data && acc)
        KIN_TRY(ctx->k->copy(ctx, &dlin, &dx, true));
    if (dres.data)
        KIN_TRY(ctx->k->copy(ctx, &dy, &dres, acc_res));
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

kin_status kin_gated_add(kin_ctx *ctx, const kin_tensor *x, const kin_tensor *residual,
                         const kin_tensor *gate, kin_tensor *y)
{
    kin_dtype dtype;
    KIN_TRY(kin_op_dtype(ctx, "gated add", x, &dtype));
    saved_gated *s = kin_op_record(ctx, sizeof *s);
    if (!s)
        return KIN_ERR_MEM;
    KIN_TRY(kin_op_rows(ctx, "gated add", x, &s->x));
    KIN_TRY(kin_op_rows(ctx, "gated add", residual, &s->residual));
    KIN_TRY(kin_op_rows(ctx, "gated add", gate, &s->gate));
    if (!kin_tensor_same_shape(&s->x, &s->residual) || s->gate.size[1] != s->x.size[1] ||
        s->gate.size[0] < 1 || s->x.size[0] % s->gate.size[0] != 0)
        return kin_op_mismatch(ctx, "gated add", x, gate,
                               "x and residual have one shape, gate rows divide theirs");
    KIN_TRY(kin_ws_tensor(ctx, dtype, x->ndim, x->size, y));
    KIN_TRY(kin_op_rows(ctx, "gated add", y, &s->y));
    kin_gated_add_args a = {.lin = &s->x, .residual = &s->residual, .gate = &s->gate, .y = &s->y};
    KIN_TRY(ctx->k->gated_add(ctx, &a));
    if (!kin_tape_needs(ctx, x) && !kin_tape_needs(ctx, residual) && !kin_tape_needs(ctx, gate))
        return KIN_OK;
    KIN_TRY(kin_tape_add(ctx, y, gated_bwd, s));
    s->y.id = y->id;
    return KIN_OK;
}

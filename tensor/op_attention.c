/* Attention without a stored score matrix, and rotary positions. */
#include <math.h>

#include "tensor/op_common.h"

typedef struct saved_attention {
    kin_tensor q, k, v, bias, mask, gate, o, lse;
    float scale;
} saved_attention;

static kin_attention_args attention_args(saved_attention *s)
{
    return (kin_attention_args){.q = &s->q,
                                .k = &s->k,
                                .v = &s->v,
                                .bias = kin_op_opt(&s->bias),
                                .mask = kin_op_opt(&s->mask),
                                .gate = kin_op_opt(&s->gate),
                                .scale = s->scale,
                                .o = &s->o,
                                .lse = kin_op_opt(&s->lse) ? &s->lse : NULL};
}

/* True if q, k, v are the three parts of one tensor [B,N,3,A,d], in any order: *all views it. */
static bool fused_parts(const saved_attention *s, kin_tensor *all)
{
    const kin_tensor *part[3] = {&s->q, &s->k, &s->v};
    const int64_t *size = s->q.size, row = size[2] * size[3];
    char *base = s->q.data;
    int seen = 0;
    for (int i = 1; i < 3; i++)
        base = (char *)part[i]->data < base ? part[i]->data : base;
    for (int i = 0; i < 3; i++) {
        const kin_tensor *t = part[i];
        const int64_t at = ((char *)t->data - base) / (int64_t)kin_dtype_size(s->q.dtype);
        if (t->id != s->q.id || t->dtype != s->q.dtype || !kin_tensor_same_shape(t, &s->q) ||
            t->stride[3] != 1 || t->stride[2] != size[3] || t->stride[1] != 3 * row ||
            t->stride[0] != size[1] * 3 * row || at % row != 0 || at / row > 2)
            return false;
        seen |= 1 << at / row;
    }
    *all = KIN_TENSOR(base, s->q.dtype, size[0], size[1], 3 * row);
    all->id = s->q.id;
    return seen == 7;
}

static kin_status attention_bwd(kin_ctx *ctx, void *saved)
{
    saved_attention *s = saved;
    kin_tensor dout = kin_tape_grad_in(ctx, &s->o), dq, dk, dv, dbias = {0};
    if (!dout.data)
        return KIN_OK;
    kin_attention_args a = attention_args(s);
    a.dout = &dout;
    /* two operands may be views of one tensor: then all of them add to a zeroed gradient */
    bool shared = s->q.data == s->k.data || s->k.data == s->v.data || s->q.data == s->v.data;
    if (shared) {
        KIN_TRY(kin_tape_grad_slot_add(ctx, &s->q, &dq));
        KIN_TRY(kin_tape_grad_slot_add(ctx, &s->k, &dk));
        KIN_TRY(kin_tape_grad_slot_add(ctx, &s->v, &dv));
        a.acc_dq = a.acc_dk = a.acc_dv = true;
    } else {
        /* the parts of one tensor make up its whole gradient: nothing has to be zeroed */
        kin_tensor all, whole;
        bool acc = false, fused = fused_parts(s, &all);
        if (fused)
            KIN_TRY(kin_tape_grad_slot(ctx, &all, &whole, &acc));
        KIN_TRY(kin_tape_grad_slot(ctx, &s->q, &dq, &a.acc_dq));
        KIN_TRY(kin_tape_grad_slot(ctx, &s->k, &dk, &a.acc_dk));
        KIN_TRY(kin_tape_grad_slot(ctx, &s->v, &dv, &a.acc_dv));
        if (fused)
            a.acc_dq = a.acc_dk = a.acc_dv = acc;
    }
    if (s->bias.data)
        KIN_TRY(kin_tape_grad_slot_add(ctx, &s->bias, &dbias));
    a.dq = dq.data ? &dq : NULL;
    a.dk = dk.data ? &dk : NULL;
    a.dv = dv.data ? &dv : NULL;
    a.dbias = dbias.data ? &dbias : NULL;
    return ctx->k->attention_bwd(ctx, &a);
}

static kin_status attention_check(kin_ctx *ctx, const saved_attention *s)
{
    const kin_tensor *q = &s->q, *k = &s->k;
    if (q->ndim != 4 || k->ndim != 4 || !kin_tensor_same_shape(k, &s->v) ||
        q->size[0] != k->size[0] || q->size[2] != k->size[2] || q->size[3] != k->size[3])
        return kin_op_mismatch(ctx, "attention", q, k, "q is [B,Nq,A,d], k and v are [B,Nk,A,d]");
    int64_t B = q->size[0], A = q->size[2];
    if (k->size[1] < 1 || q->size[3] < 1)
        return kin_op_mismatch(ctx, "attention", q, k, "keys and head size must not be empty");
    if (s->bias.data && (s->bias.ndim != 3 || s->bias.size[0] != A ||
                         s->bias.size[1] != q->size[1] || s->bias.size[2] != k->size[1]))
        return kin_op_mismatch(ctx, "attention", &s->bias, q, "the bias is [A,Nq,Nk]");
    if (s->mask.data && (s->mask.ndim != 2 || s->mask.dtype != KIN_DTYPE_U8 ||
                         s->mask.size[0] != B || s->mask.size[1] != k->size[1]))
        return kin_op_mismatch(ctx, "attention", &s->mask, k, "the key mask is u8 [B,Nk]");
    if (s->gate.data && (s->gate.ndim != 2 || s->gate.size[0] != B || s->gate.size[1] != A))
        return kin_op_mismatch(ctx, "attention", &s->gate, q, "the gate is [B,A]");
    return KIN_OK;
}

kin_status kin_attention(kin_ctx *ctx, const kin_tensor *q, const kin_tensor *k,
                         const kin_tensor *v, const kin_attention_options *opt, kin_tensor *o)
{
    saved_attention *s = kin_op_record(ctx, sizeof *s);
    if (!s)
        return KIN_ERR_MEM;
    s->q = *q;
    s->k = *k;
    s->v = *v;
    if (opt) {
        s->scale = opt->scale;
        s->bias = opt->bias ? *opt->bias : (kin_tensor){0};
        s->mask = opt->mask ? *opt->mask : (kin_tensor){0};
        s->gate = opt->gate ? *opt->gate : (kin_tensor){0};
    }
    KIN_TRY(attention_check(ctx, s));
    if (s->scale == 0.0f)
        s->scale = 1.0f / sqrtf((float)q->size[3]);
    kin_dtype dtype;
    KIN_TRY(kin_op_product_dtype(ctx, "attention", q, &dtype));
    KIN_TRY(kin_op_product_dtype(ctx, "attention", k, &dtype));
    KIN_TRY(kin_op_product_dtype(ctx, "attention", v, &dtype));
    KIN_TRY(kin_ws_tensor(ctx, kin_op_kept(ctx, dtype, opt && opt->operand), 4, q->size, o));
    bool grad = kin_tape_needs(ctx, q) || kin_tape_needs(ctx, k) || kin_tape_needs(ctx, v) ||
                kin_tape_needs(ctx, &s->bias);
    if (grad)
        KIN_TRY(KIN_WS(ctx, &s->lse, dtype, q->size[0], q->size[2], q->size[1]));
    s->o = *o;
    kin_attention_args a = attention_args(s);
    KIN_TRY(ctx->k->attention(ctx, &a));
    if (!grad)
        return KIN_OK;
    KIN_TRY(kin_tape_add(ctx, o, attention_bwd, s));
    s->o.id = o->id;
    return KIN_OK;
}

typedef struct saved_rope {
    kin_tensor x, cos, sin, y;
} saved_rope;

static kin_status rope_bwd(kin_ctx *ctx, void *saved)
{
    saved_rope *s = saved;
    kin_tensor dy, dx;
    bool acc;
    KIN_TRY(kin_op_grads(ctx, &s->y, &s->x, &dy, &dx, &acc));
    if (!dx.data)
        return KIN_OK;
    kin_rope_args a = {
        .x = &dy, .cos = &s->cos, .sin = &s->sin, .inverse = true, .acc = acc, .y = &dx};
    return ctx->k->rope(ctx, &a);
}

kin_status kin_rope(kin_ctx *ctx, const kin_tensor *x, const kin_tensor *cos, const kin_tensor *sin,
                    kin_tensor *y)
{
    if (x->ndim != 4 || x->size[3] % 2 != 0)
        return kin_op_mismatch(ctx, "rope", x, cos, "x is [B,N,A,d] with even d");
    if (cos->ndim != 2 || cos->size[0] != x->size[1] || 2 * cos->size[1] != x->size[3] ||
        !kin_tensor_same_shape(cos, sin))
        return kin_op_mismatch(ctx, "rope", x, cos, "the tables are [N,d/2]");
    kin_dtype dtype;
    KIN_TRY(kin_op_dtype(ctx, "rope", x, &dtype));
    KIN_TRY(kin_ws_tensor(ctx, dtype, 4, x->size, y));
    kin_rope_args a = {.x = x, .cos = cos, .sin = sin, .y = y};
    KIN_TRY(ctx->k->rope(ctx, &a));
    if (!kin_tape_needs(ctx, x))
        return KIN_OK;
    saved_rope *s = kin_op_record(ctx, sizeof *s);
    if (!s)
        return KIN_ERR_MEM;
    *s = (saved_rope){*x, *cos, *sin, {0}};
    KIN_TRY(kin_tape_add(ctx, y, rope_bwd, s));
    s->y = *y;
    return KIN_OK;
}

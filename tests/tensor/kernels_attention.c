/* Cases of attention and attention_bwd. */
#include "tests/tensor/rig.h"

typedef struct shape {
    int64_t b, nq, nk, heads, d;
} shape;

static const shape shapes[] = {{1, 1, 1, 1, 1},     {1, 3, 5, 2, 7},     {2, 17, 17, 2, 32},
                               {1, 129, 64, 1, 64}, {2, 5, 131, 3, 18},  {1, 65, 129, 2, 16},
                               {1, 300, 77, 1, 72}, {2, 64, 64, 2, 128}, {1, 7, 260, 1, 40},
                               {1, 20, 33, 1, 512}};
enum { SHAPES = sizeof(shapes) / sizeof(shapes[0]) };

typedef struct variant {
    const char *name;
    bool fused; /* q, k, v are columns of one buffer [B,N,3,A,d] (self-attention) */
    bool bias, mask, all_masked, gate, acc;
    double spread;
} variant;

static const variant variants[] = {
    {"plain", false, false, false, false, false, false, 1},
    {"fused", true, false, false, false, false, true, 1},
    {"bias", false, true, false, false, false, false, 1},
    {"mask", false, false, true, false, false, true, 1},
    {"mask and bias", false, true, true, false, false, false, 1},
    {"sample with no key", false, false, true, true, false, false, 1},
    {"gate", true, false, false, false, true, true, 1},
    {"all", false, true, true, false, true, false, 1},
    {"peaked", false, false, false, false, false, false, 8},
};
enum { VARIANTS = sizeof(variants) / sizeof(variants[0]) };

typedef struct operands {
    kin_tensor q, k, v, bias, mask, gate, dout;
} operands;

/* [B,N,A,d] as slot `which` of a [B,N,3*A*d] buffer. */
static kin_tensor column(const kin_tensor *buffer, int which, int64_t heads, int64_t d)
{
    int64_t sizes[4] = {buffer->size[0], buffer->size[1], heads, d};
    kin_tensor t = kin_tensor_of(buffer->data, buffer->dtype, 4, sizes);
    t.data = (float *)buffer->data + which * heads * d;
    t.stride[1] = 3 * heads * d;
    t.stride[0] = buffer->size[1] * 3 * heads * d;
    return t;
}

static void draw_mask(operands *o, const variant *v)
{
    for (int64_t b = 0; b < o->mask.size[0]; b++) {
        int64_t nk = o->mask.size[1];
        /* the first key stays, so that only the chosen sample is empty */
        kin_tensor_set(&o->mask, b * nk, 1);
        for (int64_t j = 0; j < nk && v->all_masked && b == 0; j++)
            kin_tensor_set(&o->mask, b * nk + j, 0);
    }
}

static operands draw(rig *r, shape s, const variant *v)
{
    operands o = {0};
    if (v->fused && s.nq == s.nk) {
        kin_tensor qkv = rig_in(r, v->spread, 0, KIN_DIMS(s.b, s.nq, 3 * s.heads * s.d));
        o.q = column(&qkv, 0, s.heads, s.d);
        o.k = column(&qkv, 1, s.heads, s.d);
        o.v = column(&qkv, 2, s.heads, s.d);
    } else {
        o.q = rig_in(r, v->spread, 0, KIN_DIMS(s.b, s.nq, s.heads, s.d));
        o.k = rig_in(r, v->spread, v->bias ? 3 : 0, KIN_DIMS(s.b, s.nk, s.heads, s.d));
        o.v = rig_in(r, 1, v->bias ? 3 : 0, KIN_DIMS(s.b, s.nk, s.heads, s.d));
    }
    o.dout = rig_in(r, 1, 0, KIN_DIMS(s.b, s.nq, s.heads, s.d));
    if (v->bias)
        o.bias = rig_in(r, 1, 2, KIN_DIMS(s.heads, s.nq, s.nk));
    if (v->mask) {
        kin_tensor drawn = rig_ints(r, KIN_DTYPE_U8, 0, 2, KIN_DIMS(s.b, s.nk));
        pair m = rig_out(r, KIN_DTYPE_U8, false, 0, KIN_DIMS(s.b, s.nk));
        for (int64_t i = 0; i < s.b * s.nk; i++)
            kin_tensor_set(&m.t[0], i, kin_tensor_get(&drawn, i));
        o.mask = m.t[0];
        draw_mask(&o, v);
    }
    if (v->gate) {
        kin_tensor drawn = rig_in(r, 1, 0, KIN_DIMS(s.b, s.heads));
        pair g = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(s.b, s.heads));
        for (int64_t i = 0; i < s.b * s.heads; i++)
            kin_tensor_set(&g.t[0], i, i % 3 == 1 ? 0 : kin_tensor_get(&drawn, i));
        o.gate = g.t[0];
    }
    return o;
}

static kin_attention_args args_of(const operands *o, shape s, kin_tensor *out, kin_tensor *lse)
{
    return (kin_attention_args){.q = &o->q,
                                .k = &o->k,
                                .v = &o->v,
                                .bias = o->bias.data ? &o->bias : NULL,
                                .mask = o->mask.data ? &o->mask : NULL,
                                .gate = o->gate.data ? &o->gate : NULL,
                                .scale = 1.0f / (float)(s.d > 1 ? s.d / 2 : 1),
                                .o = out,
                                .lse = lse,
                                .dout = &o->dout};
}

/* The log-sum-exp of a closed head is nobody's: both sides to 0 there. */
static void clear_closed(const operands *o, pair *lse)
{
    int64_t nq = lse->t[0].size[2];
    for (int64_t i = 0; o->gate.data && i < kin_tensor_numel(&o->gate); i++) {
        for (int64_t q = 0; q < nq && kin_tensor_get(&o->gate, i) == 0; q++) {
            kin_tensor_set(&lse->t[0], i * nq + q, 0);
            kin_tensor_set(&lse->t[1], i * nq + q, 0);
        }
    }
}

static kin_near_bound attention_bound(const rig *r, const variant *v, double length)
{
    kin_near_bound b = kin_near_f32(length, 0);
    b.eps_out = 0x1p-18 * v->spread;
    bool high = r->ctx[1]->precision == KIN_PRECISION_HIGH, rounded = rig_is_bf16(r) || high;
    if (high)
        b.eps_out = 0x1p-13 * v->spread;           /* of scores, so of their exponentials */
    b.scale_min = (rounded ? 1 : 0.1) * v->spread; /* of one term of a gradient, q or k in it */
    return rig_bf16(r, b, 4);
}

static void run(rig *r, shape s, const variant *v)
{
    rig_begin(r, "attention %s B=%d Nq=%d Nk=%d A=%d d=%d", v->name, (int)s.b, (int)s.nq, (int)s.nk,
              (int)s.heads, (int)s.d);
    operands o = draw(r, s, v);
    pair out = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(s.b, s.nq, s.heads, s.d));
    pair lse = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(s.b, s.heads, s.nq));
    pair dq = rig_out(r, KIN_DTYPE_F32, v->acc, 2, KIN_DIMS(s.b, s.nq, s.heads, s.d));
    pair dk = rig_out(r, KIN_DTYPE_F32, v->acc, 0, KIN_DIMS(s.b, s.nk, s.heads, s.d));
    pair dv = rig_out(r, KIN_DTYPE_F32, v->acc, 0, KIN_DIMS(s.b, s.nk, s.heads, s.d));
    pair dbias = rig_out(r, KIN_DTYPE_F32, true, 0, KIN_DIMS(s.heads, s.nq, s.nk));
    for (int side = 0; side < 2; side++) {
        kin_attention_args a = args_of(&o, s, &out.t[side], &lse.t[side]);
        RIG_CALL(r, side, attention, &a);
        a.dq = &dq.t[side];
        a.dk = &dk.t[side];
        a.dv = &dv.t[side];
        a.acc_dq = a.acc_dk = a.acc_dv = v->acc;
        a.dbias = v->bias ? &dbias.t[side] : NULL;
        RIG_CALL(r, side, attention_bwd, &a);
    }
    clear_closed(&o, &lse);
    rig_near(r, "o", &out, attention_bound(r, v, (double)s.nk));
    if (!v->all_masked)
        rig_near(r, "lse", &lse, attention_bound(r, v, (double)s.nk));
    rig_near(r, "dq", &dq, attention_bound(r, v, (double)s.nk));
    rig_near(r, "dk", &dk, attention_bound(r, v, (double)s.nq));
    rig_near(r, "dv", &dv, attention_bound(r, v, (double)s.nq));
    if (v->bias)
        rig_near(r, "dbias", &dbias, attention_bound(r, v, (double)s.d));
    rig_end(r);
}

/* No log-sum-exp wanted; only some gradients wanted. */
static void partial(rig *r)
{
    shape s = {2, 9, 21, 2, 16};
    rig_begin(r, "attention: not all results wanted");
    operands o = draw(r, s, &variants[0]);
    pair out = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(s.b, s.nq, s.heads, s.d));
    pair lse = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(s.b, s.heads, s.nq));
    pair dq = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(s.b, s.nq, s.heads, s.d));
    pair dv = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(s.b, s.nk, s.heads, s.d));
    for (int side = 0; side < 2; side++) {
        kin_attention_args a = args_of(&o, s, &out.t[side], NULL);
        RIG_CALL(r, side, attention, &a);
        a.lse = &lse.t[side];
        RIG_CALL(r, side, attention, &a);
        a.dq = &dq.t[side];
        RIG_CALL(r, side, attention_bwd, &a);
        a.dq = NULL;
        a.dv = &dv.t[side];
        RIG_CALL(r, side, attention_bwd, &a);
    }
    rig_near(r, "o", &out, attention_bound(r, &variants[0], 21));
    rig_near(r, "dq", &dq, attention_bound(r, &variants[0], 21));
    rig_near(r, "dv", &dv, attention_bound(r, &variants[0], 9));
    rig_end(r);
}

void kernels_attention(rig *r)
{
    for (int i = 0; i < SHAPES; i++) {
        for (int v = 0; v < VARIANTS; v++) {
            if (i >= 6 && v >= 3 && v != 7)
                continue;
            run(r, shapes[i], &variants[v]);
        }
    }
    partial(r);
}

/* One thread, and the first sample or the first queries alone: the same bits. */
void kernels_attention_rows(rig *r)
{
    static const shape big[] = {{3, 70, 65, 2, 32}, {2, 140, 130, 1, 18}, {2, 33, 300, 2, 64}};
    for (int i = 0; i < 3; i++) {
        shape s = big[i];
        rig_begin(r, "attention rows B=%d Nq=%d Nk=%d d=%d", (int)s.b, (int)s.nq, (int)s.nk,
                  (int)s.d);
        operands o = draw(r, s, &variants[0]), part = o;
        pair out[4], dq[2], dk[2], dv[2], lse;
        for (int j = 0; j < 4; j++)
            out[j] = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(s.b, s.nq, s.heads, s.d));
        for (int j = 0; j < 2; j++) {
            dq[j] = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(s.b, s.nq, s.heads, s.d));
            dk[j] = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(s.b, s.nk, s.heads, s.d));
            dv[j] = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(s.b, s.nk, s.heads, s.d));
        }
        lse = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(s.b, s.heads, s.nq));
        for (int j = 0; j < 2; j++) {
            kin_attention_args a = args_of(&o, s, &out[j].t[1], &lse.t[j]);
            a.dq = &dq[j].t[1];
            a.dk = &dk[j].t[1];
            a.dv = &dv[j].t[1];
            if (j == 0) {
                RIG_CALL(r, 1, attention, &a);
                RIG_CALL(r, 1, attention_bwd, &a);
            } else {
                RIG_CALL_ONE(r, attention, &a);
                RIG_CALL_ONE(r, attention_bwd, &a);
            }
        }
        rig_same(r, "o by one thread", &out[1].t[1], &out[0].t[1]);
        rig_same(r, "dq by one thread", &dq[1].t[1], &dq[0].t[1]);
        rig_same(r, "dk by one thread", &dk[1].t[1], &dk[0].t[1]);
        rig_same(r, "dv by one thread", &dv[1].t[1], &dv[0].t[1]);
        part.q = kin_tensor_slice(&o.q, 0, 0, 1);
        part.k = kin_tensor_slice(&o.k, 0, 0, 1);
        part.v = kin_tensor_slice(&o.v, 0, 0, 1);
        kin_tensor small = kin_tensor_slice(&out[2].t[1], 0, 0, 1);
        kin_tensor head = kin_tensor_slice(&out[0].t[1], 0, 0, 1);
        kin_attention_args a = args_of(&part, s, &small, NULL);
        RIG_CALL(r, 1, attention, &a);
        rig_same(r, "o of the first sample", &small, &head);
        part.q = kin_tensor_slice(&o.q, 1, 0, 5);
        part.k = o.k;
        part.v = o.v;
        small = kin_tensor_slice(&out[3].t[1], 1, 0, 5);
        head = kin_tensor_slice(&out[0].t[1], 1, 0, 5);
        a = args_of(&part, s, &small, NULL);
        RIG_CALL(r, 1, attention, &a);
        rig_same(r, "o of the first queries", &small, &head);
        rig_end(r);
    }
}

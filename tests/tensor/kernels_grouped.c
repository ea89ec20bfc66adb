/* Cases of grouped, grouped_dx, grouped_dw, combine, combine_bwd. */
#include "tests/tensor/rig.h"

typedef struct shape {
    int64_t tokens, slots, groups, n, k;
    int64_t null_tokens; /* the last ones: all slots are the last expert, only slot 0 counts */
    int64_t idle;        /* experts below this index get no token */
} shape;

static const shape shapes[] = {
    {1, 1, 1, 1, 1, 0, 0},     {7, 1, 3, 5, 7, 0, 0},       {17, 2, 4, 33, 20, 4, 0},
    {64, 1, 5, 48, 96, 16, 2}, {129, 2, 7, 97, 64, 29, 3},  {33, 1, 2, 16, 131, 33, 1},
    {40, 3, 6, 64, 32, 0, 1},  {300, 1, 13, 24, 40, 60, 0}, {290, 1, 2, 152, 72, 3, 0}};
enum { SHAPES = sizeof(shapes) / sizeof(shapes[0]) };

enum { MAX_EXPERTS = 16 };

typedef struct setup {
    kin_dispatch d;
    param_pair w[MAX_EXPERTS], b[MAX_EXPERTS];
    kin_param *wp[2][MAX_EXPERTS], *bp[2][MAX_EXPERTS];
} setup;

/* Builds a dispatch by hand (order and inverse from the definition), not by the kernel under test.
 */
static void dispatch_make(rig *r, shape s, kin_dispatch *d)
{
    kin_tensor pick = rig_ints(r, KIN_DTYPE_I32, 0, 1 << 20, KIN_DIMS(s.tokens, s.slots));
    pair order = rig_out(r, KIN_DTYPE_I32, false, 0, KIN_DIMS(s.tokens * s.slots));
    pair inverse = rig_out(r, KIN_DTYPE_I32, false, 0, KIN_DIMS(s.tokens * s.slots));
    pair offset = rig_out(r, KIN_DTYPE_I32, false, 0, KIN_DIMS(s.groups + 1));
    kin_tensor weight = rig_in(r, 1, 0, KIN_DIMS(s.tokens, s.slots));
    int64_t routed = s.null_tokens ? s.groups - 1 : s.groups, used = routed - s.idle, at = 0;
    *d = (kin_dispatch){s.tokens,   s.slots,     s.groups,     s.tokens * s.slots,
                        order.t[0], offset.t[0], inverse.t[0], weight};
    for (int64_t i = 0; i < s.tokens * s.slots; i++)
        kin_tensor_set(&d->inverse, i, -1);
    for (int64_t e = 0; e < s.groups; e++) {
        kin_tensor_set(&d->offset, e, (double)at);
        for (int64_t i = 0; i < s.tokens * s.slots; i++) {
            int64_t t = i / s.slots, k = i % s.slots, expert = s.groups - 1;
            if (t < s.tokens - s.null_tokens)
                expert = s.idle + ((int64_t)kin_tensor_get(&pick, t * s.slots) + k) % used;
            else if (k > 0)
                continue;
            if (expert != e)
                continue;
            kin_tensor_set(&d->order, at, (double)i);
            kin_tensor_set(&d->inverse, i, (double)at++);
        }
    }
    kin_tensor_set(&d->offset, s.groups, (double)at);
}

static int64_t rows_of(const setup *u)
{
    return (int64_t)kin_tensor_get(&u->d.offset, u->d.groups);
}

static void setup_make(rig *r, shape s, kin_dtype weights, setup *u)
{
    dispatch_make(r, s, &u->d);
    for (int64_t e = 0; e < s.groups; e++) {
        u->w[e] = rig_param(r, weights, 1, true, KIN_DIMS(s.n, s.k));
        u->b[e] = rig_param(r, weights, 1, true, KIN_DIMS(s.n));
        for (int side = 0; side < 2; side++) {
            u->wp[side][e] = u->w[e].p[side];
            u->bp[side][e] = u->b[e].p[side];
        }
    }
}

/* Compares the rows that are set; those behind must still hold the NaN they started with. */
static void near_rows(rig *r, const char *name, const pair *p, int64_t used, kin_near_bound bound)
{
    pair head = *p;
    for (int side = 0; side < 2; side++)
        head.t[side] = kin_tensor_slice(&p->t[side], 0, 0, used);
    rig_near(r, name, &head, bound);
    kin_tensor tail = kin_tensor_slice(&p->t[1], 0, used, p->t[1].size[0] - used);
    for (int64_t i = 0; i < kin_tensor_numel(&tail); i++) {
        double v = kin_tensor_get(&tail, i);
        if (v == v)
            RIG_FAIL(r, "%s: a row behind the last used one was written", name);
    }
}

static void forward(rig *r, shape s, bool gather, kin_act act, kin_dtype weights)
{
    setup u;
    rig_begin(r, "grouped T=%d K=%d G=%d n=%d k=%d null=%d gather=%d act=%d w=%s", (int)s.tokens,
              (int)s.slots, (int)s.groups, (int)s.n, (int)s.k, (int)s.null_tokens, gather, act,
              kin_dtype_name(weights));
    int64_t rows = s.tokens * s.slots;
    kin_tensor x = rig_in(r, 1, gather ? 3 : 0, KIN_DIMS(gather ? s.tokens : rows, s.k));
    pair y = rig_out(r, KIN_DTYPE_F32, false, 2, KIN_DIMS(rows, s.n)), pre;
    pre = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(rows, s.n));
    setup_make(r, s, weights, &u);
    for (int side = 0; side < 2; side++) {
        kin_grouped_args a = {.n = s.n,
                              .k = s.k,
                              .d = &u.d,
                              .gather = gather,
                              .x = &x,
                              .w = u.wp[side],
                              .b = u.bp[side],
                              .act = act,
                              .pre = act == KIN_ACT_NONE ? NULL : &pre.t[side],
                              .y = &y.t[side]};
        RIG_CALL(r, side, grouped, &a);
    }
    kin_near_bound bound = kin_near_f32((double)s.k + 2, 1);
    if (act != KIN_ACT_NONE) {
        near_rows(r, "pre", &pre, rows_of(&u), bound);
        bound.eps_out = 0x1p-20;
    }
    near_rows(r, "y", &y, rows_of(&u), bound);
    rig_end(r);
}

/* act: dx is the gradient before this activation. */
static void backward(rig *r, shape s, bool gather, kin_dtype weights, kin_act act)
{
    setup u;
    rig_begin(r, "grouped backward T=%d K=%d G=%d n=%d k=%d null=%d gather=%d w=%s act=%d",
              (int)s.tokens, (int)s.slots, (int)s.groups, (int)s.n, (int)s.k, (int)s.null_tokens,
              gather, kin_dtype_name(weights), act);
    int64_t rows = s.tokens * s.slots;
    kin_tensor x = rig_in(r, 1, 0, KIN_DIMS(gather ? s.tokens : rows, s.k));
    kin_tensor dy = rig_in(r, 1, 4, KIN_DIMS(rows, s.n));
    pair dx = rig_out(r, KIN_DTYPE_F32, false, 1, KIN_DIMS(rows, s.k));
    kin_tensor past = {0};
    if (act != KIN_ACT_NONE)
        past = rig_in(r, 1, 2, KIN_DIMS(rows, s.k));
    setup_make(r, s, weights, &u);
    for (int side = 0; side < 2; side++) {
        kin_grouped_bwd_args a = {.n = s.n,
                                  .k = s.k,
                                  .d = &u.d,
                                  .gather = gather,
                                  .dy = &dy,
                                  .x = &x,
                                  .w = u.wp[side],
                                  .b = u.bp[side],
                                  .dx = &dx.t[side],
                                  .act = act,
                                  .past = past.data ? &past : NULL};
        RIG_CALL(r, side, grouped_dx, &a);
        a.dx = NULL;
        RIG_CALL(r, side, grouped_dw, &a);
    }
    near_rows(r, "dx", &dx, rows_of(&u), kin_near_f32((double)s.n + 2, 1));
    for (int64_t e = 0; e < s.groups; e++) {
        rig_near(r, "dw", &u.w[e].grad, kin_near_f32((double)s.tokens + 2, 1));
        rig_near(r, "db", &u.b[e].grad, kin_near_f32((double)s.tokens + 2, 1));
    }
    rig_end(r);
}

void kernels_grouped(rig *r)
{
    for (int i = 0; i < SHAPES; i++) {
        for (int gather = 0; gather < 2; gather++) {
            forward(r, shapes[i], gather, KIN_ACT_NONE, KIN_DTYPE_F32);
            forward(r, shapes[i], gather, KIN_ACT_GELU_TANH, KIN_DTYPE_F32);
            forward(r, shapes[i], gather, KIN_ACT_SILU, KIN_DTYPE_BF16);
            backward(r, shapes[i], gather, KIN_DTYPE_F32, KIN_ACT_NONE);
            backward(r, shapes[i], gather, KIN_DTYPE_BF16, KIN_ACT_NONE);
            backward(r, shapes[i], gather, KIN_DTYPE_F32, KIN_ACT_GELU_TANH);
        }
    }
}

/* A token's result depends neither on threads nor on the other tokens: the tokens of one expert
 * computed alone. */
void kernels_grouped_rows(rig *r)
{
    for (int i = 2; i < SHAPES; i++) {
        shape s = shapes[i];
        setup u;
        rig_begin(r, "grouped rows T=%d K=%d n=%d k=%d", (int)s.tokens, (int)s.slots, (int)s.n,
                  (int)s.k);
        int64_t rows = s.tokens * s.slots;
        kin_tensor x = rig_in(r, 1, 0, KIN_DIMS(s.tokens, s.k));
        pair y = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(rows, s.n));
        pair z = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(rows, s.n));
        setup_make(r, s, KIN_DTYPE_F32, &u);
        kin_grouped_args a = {.n = s.n,
                              .k = s.k,
                              .d = &u.d,
                              .gather = true,
                              .x = &x,
                              .w = u.wp[1],
                              .b = u.bp[1],
                              .act = KIN_ACT_GELU_TANH,
                              .y = &y.t[0]};
        RIG_CALL(r, 1, grouped, &a);
        a.y = &y.t[1];
        RIG_CALL_ONE(r, grouped, &a);
        int64_t used = rows_of(&u), last = used;
        kin_tensor g0 = kin_tensor_slice(&y.t[0], 0, 0, used);
        kin_tensor g1 = kin_tensor_slice(&y.t[1], 0, 0, used);
        rig_same(r, "y by one thread", &g1, &g0);
        /* all experts cut to their first row: the rest of the list is empty */
        for (int64_t e = 0; e < s.groups; e++) {
            int64_t first = (int64_t)kin_tensor_get(&u.d.offset, e);
            kin_dispatch cut = u.d;
            pair offset = rig_out(r, KIN_DTYPE_I32, false, 0, KIN_DIMS(s.groups + 1));
            last = (int64_t)kin_tensor_get(&u.d.offset, e + 1);
            if (first == last)
                continue;
            for (int64_t f = 0; f <= s.groups; f++)
                kin_tensor_set(&offset.t[0], f, f <= e ? 0 : 1);
            cut.offset = offset.t[0];
            cut.order = kin_tensor_slice(&u.d.order, 0, first, last - first);
            a.d = &cut;
            a.y = &z.t[1];
            RIG_CALL(r, 1, grouped, &a);
            g1 = kin_tensor_slice(&z.t[1], 0, 0, 1);
            g0 = kin_tensor_slice(&y.t[0], 0, first, 1);
            rig_same(r, "y of a row alone", &g1, &g0);
        }
        rig_end(r);
    }
}

/* forward and dx into y and dx of `side`. */
static void both_products(rig *r, shape s, const setup *u, const kin_tensor *x,
                          const kin_tensor *dy, pair *y, pair *dx, int side)
{
    kin_grouped_args a = {.n = s.n, .k = s.k, .d = &u->d, .gather = true, .x = x};
    kin_grouped_bwd_args b = {.n = s.n, .k = s.k, .d = &u->d, .x = x, .dy = dy};
    a.w = b.w = u->wp[1];
    a.b = u->bp[1];
    a.y = &y->t[side];
    b.dx = &dx->t[side];
    RIG_CALL(r, 1, grouped, &a);
    RIG_CALL(r, 1, grouped_dx, &b);
}

/* Weights that are trained are read as they lie, others are packed before: the same bits. */
void kernels_grouped_trained(rig *r)
{
    static const shape wide[] = {{150, 1, 2, 70, 1600, 0, 0}, {150, 1, 2, 1600, 70, 0, 0}};
    for (int i = 0; i < SHAPES + 2; i++) {
        shape s = i < SHAPES ? shapes[i] : wide[i - SHAPES];
        setup u;
        rig_begin(r, "grouped, weights packed before or not, T=%d G=%d n=%d k=%d", (int)s.tokens,
                  (int)s.groups, (int)s.n, (int)s.k);
        int64_t rows = s.tokens * s.slots;
        kin_tensor x = rig_in(r, 1, 0, KIN_DIMS(s.tokens, s.k));
        kin_tensor dy = rig_in(r, 1, 0, KIN_DIMS(rows, s.n));
        pair y = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(rows, s.n));
        pair dx = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(rows, s.k));
        setup_make(r, s, KIN_DTYPE_F32, &u);
        both_products(r, s, &u, &x, &dy, &y, &dx, 0);
        for (int64_t e = 0; e < s.groups; e++) {
            /* note: a device has a copy of every weight */
            if (!r->ctx[1]->device && kin_param_pack_bytes(u.wp[1][e]) > 0)
                RIG_FAIL(r, "a trained weight was packed to be kept");
            u.wp[1][e]->grad.data = NULL;
        }
        both_products(r, s, &u, &x, &dy, &y, &dx, 1);
        for (int64_t e = 0; e < s.groups; e++)
            u.wp[1][e]->grad.data = u.w[e].grad.t[1].data;
        for (int side = 0; side < 2; side++) {
            y.t[side] = kin_tensor_slice(&y.t[side], 0, 0, rows_of(&u));
            dx.t[side] = kin_tensor_slice(&dx.t[side], 0, 0, rows_of(&u));
        }
        rig_same(r, "y", &y.t[1], &y.t[0]);
        rig_same(r, "dx", &dx.t[1], &dx.t[0]);
        rig_end(r);
    }
}

static void combine(rig *r, shape s, bool base, bool weighted, bool acc)
{
    kin_dispatch d;
    rig_begin(r, "combine T=%d K=%d n=%d null=%d base=%d weighted=%d acc=%d", (int)s.tokens,
              (int)s.slots, (int)s.n, (int)s.null_tokens, base, weighted, acc);
    dispatch_make(r, s, &d);
    int64_t rows = s.tokens * s.slots;
    kin_tensor z = rig_in(r, 1, 1, KIN_DIMS(rows, s.n)), b = {0};
    pair y = rig_out(r, KIN_DTYPE_F32, acc, 2, KIN_DIMS(s.tokens, s.n));
    if (base)
        b = rig_in(r, 1, 3, KIN_DIMS(s.tokens, s.n));
    for (int side = 0; side < 2; side++) {
        kin_combine_args a = {.d = &d,
                              .n = s.n,
                              .z = &z,
                              .base = base ? &b : NULL,
                              .weighted = weighted,
                              .y = &y.t[side],
                              .acc = acc};
        RIG_CALL(r, side, combine, &a);
    }
    rig_near(r, "y", &y, kin_near_f32((double)s.slots + 1, 1));
    rig_end(r);
}

static void combine_back(rig *r, shape s, bool want_dz, bool want_dw, bool acc)
{
    kin_dispatch d;
    setup u;
    rig_begin(r, "combine backward T=%d K=%d n=%d null=%d dz=%d dw=%d acc=%d", (int)s.tokens,
              (int)s.slots, (int)s.n, (int)s.null_tokens, want_dz, want_dw, acc);
    dispatch_make(r, s, &d);
    u.d = d;
    int64_t rows = s.tokens * s.slots;
    kin_tensor z = rig_in(r, 1, 1, KIN_DIMS(rows, s.n)),
               dy = rig_in(r, 1, 0, KIN_DIMS(s.tokens, s.n));
    pair dz = rig_out(r, KIN_DTYPE_F32, false, 2, KIN_DIMS(rows, s.n));
    pair dw = rig_out(r, KIN_DTYPE_F32, acc, 0, KIN_DIMS(s.tokens, s.slots));
    for (int side = 0; side < 2; side++) {
        kin_combine_args a = {.d = &d,
                              .n = s.n,
                              .z = &z,
                              .weighted = true,
                              .dy = &dy,
                              .dz = want_dz ? &dz.t[side] : NULL,
                              .dweight = want_dw ? &dw.t[side] : NULL,
                              .acc = acc};
        RIG_CALL(r, side, combine_bwd, &a);
    }
    if (want_dz)
        near_rows(r, "dz", &dz, rows_of(&u), kin_near_f32(1, 1));
    if (want_dw)
        rig_near(r, "dweight", &dw, kin_near_f32((double)s.n, 1));
    rig_end(r);
}

void kernels_combine(rig *r)
{
    for (int i = 0; i < SHAPES; i++) {
        combine(r, shapes[i], true, true, false);
        combine(r, shapes[i], false, true, false);
        combine(r, shapes[i], false, false, true);
        combine_back(r, shapes[i], true, true, false);
        combine_back(r, shapes[i], true, false, false);
        combine_back(r, shapes[i], false, true, true);
    }
}

/* Cases of cosine, topk, choose, dispatch, rcl, balance. */
#include <math.h>

#include "tests/tensor/rig.h"

static const int64_t shapes[][3] = {/* tokens, experts, width */
                                    {1, 1, 1},
                                    {7, 3, 5},
                                    {34, 12, 48},
                                    {129, 5, 97},
                                    {300, 13, 64}};
enum { SHAPES = sizeof(shapes) / sizeof(shapes[0]) };

static void cosine(rig *r, const int64_t *shape, bool plain, double spread, bool acc, int pad)
{
    int64_t t = shape[0], e = shape[1], d = shape[2];
    rig_begin(r, "cosine T=%d E=%d D=%d plain=%d spread=%g acc=%d", (int)t, (int)e, (int)d, plain,
              spread, acc);
    kin_tensor x = rig_in(r, spread, pad, KIN_DIMS(t, d)), dz = rig_in(r, 1, 0, KIN_DIMS(t, e));
    param_pair proto = rig_param(r, KIN_DTYPE_F32, 1, true, KIN_DIMS(e, d));
    pair z = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(t, e));
    pair xinv = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(t));
    pair pinv = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(e));
    pair dx = rig_out(r, KIN_DTYPE_F32, acc, pad, KIN_DIMS(t, d));
    for (int side = 0; side < 2; side++) {
        kin_cosine_args a = {.plain = plain,
                             .x = &x,
                             .proto = proto.p[side],
                             .z = &z.t[side],
                             .xinv = &xinv.t[side],
                             .pinv = &pinv.t[side],
                             .dz = &dz,
                             .dx = &dx.t[side],
                             .acc = acc};
        RIG_CALL(r, side, cosine, &a);
        RIG_CALL(r, side, cosine_bwd, &a);
    }
    kin_near_bound b = kin_near_f32((double)d, 0);
    b.scale_min = 1;
    rig_near(r, "z", &z, b);
    rig_near(r, "xinv", &xinv, kin_near_f32((double)d, 0));
    rig_near(r, "pinv", &pinv, kin_near_f32((double)d, 0));
    /* note: with D = 1 the gradient is the difference of two equal numbers */
    b.scale_min = 1 / spread;
    b.length = (double)(d + e);
    b.eps_acc *= d == 1 ? 1000 : 4;
    rig_near(r, "dx", &dx, b);
    b.scale_min = 1;
    b.length = (double)(t + d);
    rig_near(r, "dproto", &proto.grad, b);
    rig_end(r);
}

/* Rows of zeros: the norm's floor. */
static void cosine_zero(rig *r)
{
    rig_begin(r, "cosine of zero rows");
    kin_tensor x = rig_in(r, 0, 0, KIN_DIMS(3, 8));
    param_pair proto = rig_param(r, KIN_DTYPE_F32, 0, false, KIN_DIMS(2, 8));
    pair z = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(3, 2));
    pair xinv = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(3));
    pair pinv = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(2));
    for (int side = 0; side < 2; side++) {
        kin_cosine_args a = {.x = &x,
                             .proto = proto.p[side],
                             .z = &z.t[side],
                             .xinv = &xinv.t[side],
                             .pinv = &pinv.t[side]};
        RIG_CALL(r, side, cosine, &a);
    }
    rig_near(r, "z", &z, kin_near_f32(8, 0));
    rig_near(r, "xinv", &xinv, kin_near_f32(8, 0));
    rig_end(r);
}

void kernels_cosine(rig *r)
{
    for (int i = 0; i < SHAPES; i++) {
        cosine(r, shapes[i], false, 1, false, 0);
        cosine(r, shapes[i], false, 1e-4, true, 3);
        cosine(r, shapes[i], false, 1e4, false, 1);
        cosine(r, shapes[i], true, 1, true, 2);
    }
    cosine_zero(r);
}

/* Scores with ties: quarters of small integers. */
static kin_tensor tied_scores(rig *r, int64_t t, int64_t e)
{
    pair s = rig_out(r, KIN_DTYPE_F32, false, 1, KIN_DIMS(t, e));
    kin_tensor n = rig_ints(r, KIN_DTYPE_I32, -3, 4, KIN_DIMS(t, e));
    for (int64_t i = 0; i < t * e; i++)
        kin_tensor_set(&s.t[0], i, 0.25 * kin_tensor_get(&n, i));
    return s.t[0];
}

static void topk(rig *r, int64_t t, int64_t e, int64_t k, bool nulls, bool ties, bool acc)
{
    int64_t samples = t % 3 == 0 ? 3 : 1;
    rig_begin(r, "topk T=%d E=%d K=%d nulls=%d ties=%d acc=%d", (int)t, (int)e, (int)k, nulls, ties,
              acc);
    kin_tensor s = ties ? tied_scores(r, t, e) : rig_in(r, 1, 2, KIN_DIMS(t, e));
    kin_tensor null = rig_ints(r, KIN_DTYPE_U8, 0, 2, KIN_DIMS(samples));
    kin_tensor dw = rig_in(r, 1, 0, KIN_DIMS(t, k));
    pair idx = rig_out(r, KIN_DTYPE_I32, false, 0, KIN_DIMS(t, k));
    pair w = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(t, k));
    pair ds = rig_out(r, KIN_DTYPE_F32, acc, 1, KIN_DIMS(t, e));
    for (int side = 0; side < 2; side++) {
        kin_topk_args a = {.scores = &s,
                           .null = nulls ? &null : NULL,
                           .null_expert = e,
                           .k = k,
                           .idx = &idx.t[side],
                           .w = &w.t[side],
                           .dw = &dw,
                           .dscores = &ds.t[side],
                           .acc = acc};
        RIG_CALL(r, side, topk, &a);
        RIG_CALL(r, side, topk_bwd, &a);
    }
    rig_same(r, "idx", &idx.t[1], &idx.t[0]);
    rig_same(r, "w", &w.t[1], &w.t[0]);
    rig_near(r, "dscores", &ds, kin_near_f32(1, 0));
    rig_end(r);
}

enum { NAN_T = 6, NAN_E = 4, NAN_K = 2 };

/* Scores of which a row, a column and one more are NaN. */
static kin_tensor nan_scores(rig *r)
{
    float v[NAN_T * NAN_E];
    for (int i = 0; i < NAN_T * NAN_E; i++)
        v[i] = i / NAN_E == 1 || i % NAN_E == 2 || i == 0 ? NAN : (float)(i * 7 % 11);
    const kin_tensor all = KIN_TENSOR(v, KIN_DTYPE_F32, NAN_T, NAN_E);
    return rig_copy(r, &all);
}

/* NaN among the scores: every slot gets an expert, no expert twice, no expert more tokens than it
 * may: lists stay within their bounds, and the loss can say what happened. */
static void nan_stays_inside(rig *r)
{
    rig_begin(r, "topk and choose of NaN");
    kin_tensor s = nan_scores(r);
    pair idx = rig_out(r, KIN_DTYPE_I32, false, 0, KIN_DIMS(NAN_T, NAN_K));
    pair w = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(NAN_T, NAN_K));
    pair taken = rig_out(r, KIN_DTYPE_I32, false, 0, KIN_DIMS(NAN_T, NAN_E));
    pair score = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(NAN_T, NAN_E));
    for (int side = 0; side < 2; side++) {
        kin_topk_args a = {
            .scores = &s, .null_expert = -1, .k = NAN_K, .idx = &idx.t[side], .w = &w.t[side]};
        kin_choose_args c = {.scores = &s,
                             .pools = 1,
                             .null_expert = -1,
                             .rule = KIN_TAKE_TOP,
                             .k = NAN_K,
                             .idx = &taken.t[side],
                             .w = &score.t[side]};
        RIG_CALL(r, side, topk, &a);
        RIG_CALL(r, side, choose, &c);
        for (int t = 0; t < NAN_T; t++) {
            const int32_t *e = (const int32_t *)idx.t[side].data + t * NAN_K;
            if (e[0] < 0 || e[0] >= NAN_E || e[1] < 0 || e[1] >= NAN_E || e[0] == e[1])
                RIG_FAIL(r, "row %d went to experts %d and %d", t, (int)e[0], (int)e[1]);
        }
        for (int e = 0; e < NAN_E; e++) {
            int n = 0;
            for (int t = 0; t < NAN_T; t++)
                n += ((const int32_t *)taken.t[side].data)[t * NAN_E + e] == e;
            if (n != NAN_K)
                RIG_FAIL(r, "expert %d takes %d tokens", e, n);
        }
    }
    rig_end(r);
}

void kernels_topk(rig *r)
{
    for (int i = 0; i < SHAPES; i++) {
        for (int64_t k = 1; k <= 3 && k <= shapes[i][1]; k++) {
            topk(r, shapes[i][0], shapes[i][1], k, false, false, false);
            topk(r, shapes[i][0], shapes[i][1], k, true, true, true);
        }
    }
    topk(r, 9, 4, 4, true, true, false);
    nan_stays_inside(r);
}

/* pools, nulls: some pools are null; gate NULL-like for rule TOP; kth with one pool */
static void choose(rig *r, int64_t t, int64_t e, int64_t pools, kin_take rule, int64_t k,
                   bool nulls, bool ties, bool kth)
{
    rig_begin(r, "choose T=%d E=%d pools=%d rule=%d k=%d nulls=%d ties=%d kth=%d", (int)t, (int)e,
              (int)pools, (int)rule, (int)k, nulls, ties, kth);
    kin_tensor s = ties ? tied_scores(r, t, e) : rig_in(r, 1, 2, KIN_DIMS(t, e));
    kin_tensor gate = ties ? tied_scores(r, t, e) : rig_in(r, 1, 1, KIN_DIMS(t, e));
    kin_tensor threshold = rig_in(r, 0.5, 0, KIN_DIMS(e));
    kin_tensor null = rig_ints(r, KIN_DTYPE_U8, 0, 2, KIN_DIMS(pools));
    kin_tensor dw = rig_in(r, 1, 0, KIN_DIMS(t, e));
    pair idx = rig_out(r, KIN_DTYPE_I32, false, 0, KIN_DIMS(t, e));
    pair w = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(t, e));
    pair rank = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(e));
    pair ds = rig_out(r, KIN_DTYPE_F32, true, 1, KIN_DIMS(t, e));
    if (ties) /* both zeros are one value */
        kin_tensor_set(&s, 0, -0.0);
    for (int side = 0; side < 2; side++) {
        kin_choose_args a = {.scores = &s,
                             .pools = pools,
                             .null = nulls ? &null : NULL,
                             .null_expert = e,
                             .rule = rule,
                             .k = k,
                             .gate = &gate,
                             .threshold = &threshold,
                             .idx = &idx.t[side],
                             .w = &w.t[side],
                             .kth = kth ? &rank.t[side] : NULL};
        kin_topk_args b = {.scores = &s,
                           .null = a.null,
                           .null_expert = e,
                           .k = e,
                           .idx = &idx.t[side],
                           .dw = &dw,
                           .dscores = &ds.t[side],
                           .acc = true};
        RIG_CALL(r, side, choose, &a);
        RIG_CALL(r, side, topk_bwd, &b);
    }
    rig_same(r, "idx", &idx.t[1], &idx.t[0]);
    rig_same(r, "w", &w.t[1], &w.t[0]);
    rig_same(r, "dscores", &ds.t[1], &ds.t[0]);
    if (kth)
        rig_same(r, "kth", &rank.t[1], &rank.t[0]);
    rig_end(r);
}

void kernels_choose(rig *r)
{
    choose(r, 1, 1, 1, KIN_TAKE_TOP, 1, false, false, true);
    choose(r, 7, 3, 1, KIN_TAKE_TOP, 7, false, true, true);
    choose(r, 75, 4, 3, KIN_TAKE_TOP, 6, true, false, false);
    choose(r, 512, 12, 2, KIN_TAKE_TOP, 21, true, true, false);
    choose(r, 300, 13, 1, KIN_TAKE_TOP, 23, false, true, true);
    choose(r, 300, 13, 1, KIN_TAKE_COUNT, 0, false, false, false);
    choose(r, 129, 5, 1, KIN_TAKE_COUNT, 0, false, true, false);
    choose(r, 64, 8, 4, KIN_TAKE_ABOVE, 0, false, false, false);
    choose(r, 64, 8, 4, KIN_TAKE_ABOVE, 0, true, true, false);
}

static void dispatch(rig *r, int64_t t, int64_t k, int64_t groups, bool nulls, int lo)
{
    rig_begin(r, "dispatch T=%d K=%d G=%d nulls=%d from=%d", (int)t, (int)k, (int)groups, nulls,
              lo);
    kin_tensor drawn = rig_ints(r, KIN_DTYPE_I32, lo, (int)groups, KIN_DIMS(t, k));
    kin_tensor weight = rig_in(r, 1, 0, KIN_DIMS(t, k)), idx;
    pair fixed = rig_out(r, KIN_DTYPE_I32, false, 0, KIN_DIMS(t, k)), order, offset, inverse;
    idx = fixed.t[0];
    for (int64_t i = 0; i < t * k; i++) {
        /* a null token has the null expert in all slots */
        int64_t first = (int64_t)kin_tensor_get(&drawn, i / k * k);
        bool null = nulls && first == groups - 1;
        kin_tensor_set(&idx, i, null ? (double)first : kin_tensor_get(&drawn, i));
    }
    order = rig_out(r, KIN_DTYPE_I32, false, 0, KIN_DIMS(t * k));
    inverse = rig_out(r, KIN_DTYPE_I32, false, 0, KIN_DIMS(t * k));
    offset = rig_out(r, KIN_DTYPE_I32, false, 0, KIN_DIMS(groups + 1));
    for (int side = 0; side < 2; side++) {
        kin_dispatch d = {t,     k, groups, t * k, order.t[side], offset.t[side], inverse.t[side],
                          weight};
        kin_dispatch_args a = {.idx = &idx, .null_expert = nulls ? groups - 1 : -1, .d = &d};
        RIG_CALL(r, side, dispatch, &a);
    }
    int64_t used = (int64_t)kin_tensor_get(&offset.t[0], groups);
    for (int side = 0; side < 2; side++)
        order.t[side] = kin_tensor_slice(&order.t[side], 0, 0, used);
    rig_same(r, "offset", &offset.t[1], &offset.t[0]);
    rig_same(r, "inverse", &inverse.t[1], &inverse.t[0]);
    rig_same(r, "order", &order.t[1], &order.t[0]);
    rig_end(r);
}

void kernels_dispatch(rig *r)
{
    dispatch(r, 1, 1, 1, false, 0);
    dispatch(r, 7, 2, 3, false, 0);
    dispatch(r, 129, 1, 13, true, 0);
    dispatch(r, 300, 2, 5, true, 2);
    dispatch(r, 17, 3, 4, true, 3);
    dispatch(r, 1000, 2, 14, true, 0);
    dispatch(r, 60, 5, 5, false, -4); /* most slots unused */
}

static void rcl(rig *r, int64_t t, int64_t e, int64_t d, int64_t k, int64_t slots, int64_t parts,
                int lo, int hi, bool acc)
{
    rig_begin(r, "rcl T=%d E=%d D=%d K=%d slots=%d parts=%d experts %d..%d acc=%d", (int)t, (int)e,
              (int)d, (int)k, (int)slots, (int)parts, lo, hi, acc);
    kin_tensor x = rig_in(r, 1, 2, KIN_DIMS(t, d));
    kin_tensor idx = rig_ints(r, KIN_DTYPE_I32, lo, hi, KIN_DIMS(t, k));
    param_pair proto = rig_param(r, KIN_DTYPE_F32, 1, true, KIN_DIMS(e, d));
    kin_tensor dloss = rig_in(r, 1, 0, 0, NULL);
    pair loss = rig_out(r, KIN_DTYPE_F32, false, 0, 0, NULL);
    pair count = rig_out(r, KIN_DTYPE_I32, false, 0, KIN_DIMS(parts, e));
    pair dx = rig_out(r, KIN_DTYPE_F32, acc, 1, KIN_DIMS(t, d));
    for (int side = 0; side < 2; side++) {
        kin_rcl_args a = {.x = &x,
                          .proto = proto.p[side],
                          .idx = &idx,
                          .parts = parts,
                          .slots = slots,
                          .tau = 0.07f,
                          .loss = &loss.t[side],
                          .count = &count.t[side],
                          .dloss = &dloss,
                          .dx = &dx.t[side],
                          .acc = acc};
        RIG_CALL(r, side, rcl, &a);
        RIG_CALL(r, side, rcl_bwd, &a);
    }
    /* note: cosines over tau = 0.07 magnify rounding by 14, once in the loss and once more in its
     * gradient */
    kin_near_bound b = kin_near_f32((double)(t + d), 0);
    b.eps_acc *= 32;
    b.eps_out = 0x1p-17;
    rig_same(r, "count", &count.t[1], &count.t[0]);
    rig_near(r, "loss", &loss, b);
    b.scale_min = 1e-6;
    rig_near(r, "dx", &dx, b);
    rig_near(r, "dproto", &proto.grad, b);
    rig_end(r);
}

void kernels_rcl(rig *r)
{
    rcl(r, 17, 3, 7, 1, 1, 1, 0, 3, false);
    rcl(r, 64, 5, 48, 2, 2, 1, 0, 5, true);
    rcl(r, 64, 5, 48, 2, 1, 1, 0, 5, false);
    rcl(r, 129, 12, 64, 1, 1, 1, 0, 13, true); /* some tokens on the unconditional expert */
    rcl(r, 40, 6, 33, 2, 2, 1, 2, 5, false);   /* idle experts */
    rcl(r, 9, 4, 16, 1, 1, 1, 2, 3, false);    /* one expert only: no loss */
    rcl(r, 9, 4, 16, 1, 1, 1, 4, 5, true);     /* none at all */
    rcl(r, 48, 5, 40, 5, 5, 3, -1, 5, true);   /* unused slots, parts */
    rcl(r, 6, 3, 16, 1, 1, 6, -1, 4, false);   /* parts of one token, some without an expert */
}

static void balance(rig *r, int64_t samples, int64_t per, int64_t e, int64_t k, bool sequence,
                    int nulls, bool acc)
{
    int64_t t = samples * per;
    rig_begin(r, "balance B=%d tokens=%d E=%d K=%d sequence=%d nulls=%d acc=%d", (int)samples,
              (int)t, (int)e, (int)k, sequence, nulls, acc);
    kin_tensor p = rig_in(r, 1, 2, KIN_DIMS(t, e));
    kin_tensor idx = rig_ints(r, KIN_DTYPE_I32, 0, (int)e, KIN_DIMS(t, k));
    /* nulls 0: no mask, 1: some samples, 2: all samples */
    kin_tensor null = rig_ints(r, KIN_DTYPE_U8, nulls == 2, 2, KIN_DIMS(samples));
    kin_tensor dloss = rig_in(r, 1, 0, 0, NULL);
    pair loss = rig_out(r, KIN_DTYPE_F32, false, 0, 0, NULL);
    pair dp = rig_out(r, KIN_DTYPE_F32, acc, 2, KIN_DIMS(t, e));
    for (int side = 0; side < 2; side++) {
        kin_balance_args a = {.p = &p,
                              .idx = &idx,
                              .null = nulls ? &null : NULL,
                              .per_sequence = sequence,
                              .samples = samples,
                              .coef = 0.01f,
                              .loss = &loss.t[side],
                              .dloss = &dloss,
                              .dp = &dp.t[side],
                              .acc = acc};
        RIG_CALL(r, side, balance, &a);
        RIG_CALL(r, side, balance_bwd, &a);
    }
    kin_near_bound b = kin_near_f32((double)(t + e), 0);
    b.scale_min = 1e-3;
    rig_near(r, "loss", &loss, b);
    rig_near(r, "dp", &dp, b);
    rig_end(r);
}

void kernels_balance(rig *r)
{
    for (int v = 0; v < 6; v++) {
        balance(r, 1, 1, 1, 1, v & 1, v / 2, false);
        balance(r, 3, 17, 5, 2, v & 1, v / 2, true);
        balance(r, 4, 33, 12, 1, v & 1, v / 2, false);
    }
}

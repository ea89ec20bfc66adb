/* Cases of loss, adamw, sumsq, randn. */
#include "tests/tensor/rig.h"

#include <math.h>

static void loss(rig *r, kin_loss_kind kind, int64_t b, int64_t n, int weighted, bool acc,
                 double spread)
{
    bool classes = kind == KIN_LOSS_CROSS_ENTROPY;
    rig_begin(r, "loss kind=%d B=%d n=%d weighted=%d acc=%d spread=%g", kind, (int)b, (int)n,
              weighted, acc, spread);
    kin_tensor x = rig_in(r, spread, 0, KIN_DIMS(b, n)), dloss = rig_in(r, 1, 0, 0, NULL);
    kin_tensor target = classes ? rig_ints(r, KIN_DTYPE_I32, 0, (int)n, KIN_DIMS(b))
                                : rig_in(r, 1, 0, KIN_DIMS(b, n));
    /* weighted 1: some rows left out, 2: all */
    kin_tensor drawn = rig_in(r, 1, 0, KIN_DIMS(b));
    pair weight = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(b));
    for (int64_t i = 0; i < b; i++) {
        double w = fabs(kin_tensor_get(&drawn, i)) + 0.1;
        kin_tensor_set(&weight.t[0], i, weighted == 2 || i % 3 == 2 ? 0 : w);
    }
    pair l = rig_out(r, KIN_DTYPE_F32, false, 0, 0, NULL);
    pair dx = rig_out(r, KIN_DTYPE_F32, acc, 0, KIN_DIMS(b, n));
    for (int side = 0; side < 2; side++) {
        kin_loss_args a = {.kind = kind,
                           .x = &x,
                           .target = &target,
                           .weight = weighted ? &weight.t[0] : NULL,
                           .loss = &l.t[side],
                           .dloss = &dloss,
                           .dx = &dx.t[side],
                           .acc = acc};
        RIG_CALL(r, side, loss, &a);
        RIG_CALL(r, side, loss_bwd, &a);
    }
    kin_near_bound bound = kin_near_f32((double)n, 0);
    bound.eps_out = 0x1p-19;
    bound.scale_min = 1e-6;
    rig_near(r, "loss", &l, bound);
    rig_near(r, "dx", &dx, bound);
    rig_end(r);
}

void kernels_loss(rig *r)
{
    static const int64_t sizes[][2] = {{1, 1}, {3, 7}, {17, 131}, {2, 5000}};
    for (kin_loss_kind kind = KIN_LOSS_MSE; kind <= KIN_LOSS_CROSS_ENTROPY; kind++) {
        for (int i = 0; i < 4; i++) {
            for (int weighted = 0; weighted < 3; weighted++)
                loss(r, kind, sizes[i][0], sizes[i][1], weighted, weighted & 1, 1);
            loss(r, kind, sizes[i][0], sizes[i][1], 0, false, 60);
        }
    }
}

/* Three parts, the middle one small; ema: the last has none. */
static void adamw(rig *r, int64_t n, int64_t step, bool ema, float decay, float grad_scale)
{
    enum { PARTS = 3 };
    rig_begin(r, "adamw n=%d step=%d ema=%d decay=%g", (int)n, (int)step, ema, (double)decay);
    pair w[PARTS], m[PARTS], v[PARTS], e[PARTS], g[PARTS];
    kin_adamw_part part[2][PARTS];
    for (int i = 0; i < PARTS; i++) {
        int64_t len = i == 1 ? 5 : n + i;
        pair *const out[] = {&w[i], &m[i], &v[i], &e[i], &g[i]};
        for (int j = 0; j < 5; j++)
            *out[j] = rig_out(r, KIN_DTYPE_F32, true, 0, KIN_DIMS(len));
        for (int side = 0; side < 2; side++) {
            for (int64_t j = 0; j < len; j++) /* second moments are squares; the first one is 0 */
                kin_tensor_set(&v[i].t[side], j, j ? fabs(kin_tensor_get(&v[i].t[side], j)) : 0);
            part[side][i] = (kin_adamw_part){.n = len,
                                             .w = w[i].t[side].data,
                                             .m = m[i].t[side].data,
                                             .v = v[i].t[side].data,
                                             .ema = ema || i < 2 ? e[i].t[side].data : NULL,
                                             .g = g[i].t[side].data,
                                             .lr = 1e-3f * (float)(i + 1),
                                             .weight_decay = decay * (float)i};
        }
    }
    for (int side = 0; side < 2; side++) {
        kin_adamw_args a = {.part = part[side],
                            .parts = PARTS,
                            .beta1 = 0.9f,
                            .beta2 = 0.999f,
                            .eps = 1e-8f,
                            .grad_scale = grad_scale,
                            .ema_decay = 0.99f,
                            .step = step};
        RIG_CALL(r, side, adamw, &a);
    }
    for (int i = 0; i < PARTS; i++) {
        static const char *const name[] = {"w", "m", "v", "ema"};
        const pair *const got[] = {&w[i], &m[i], &v[i], &e[i]};
        for (int j = 0; j < 4; j++)
            rig_near(r, name[j], got[j], kin_near_f32(4, 0));
        rig_same(r, "g", &g[i].t[1], &g[i].t[0]);
        if (kin_tensor_get(&g[i].t[1], 0) != 0)
            RIG_FAIL(r, "gradient of part %d is not cleared", i);
    }
    rig_end(r);
}

static void sumsq(rig *r, int64_t n, double spread)
{
    rig_begin(r, "sumsq n=%d spread=%g", (int)n, spread);
    kin_tensor x = rig_in(r, spread, 0, KIN_DIMS(n)), y = rig_in(r, spread, 0, KIN_DIMS(3));
    const kin_adamw_part part[2] = {{.n = n, .g = x.data}, {.n = 3, .g = y.data}};
    double out[3] = {NAN, NAN, NAN};
    for (int side = 0; side < 2; side++)
        RIG_CALL(r, side, sumsq, part, 2, &out[side]);
    RIG_CALL_ONE(r, sumsq, part, 2, &out[2]);
    if (!kin_near_value(out[1], out[0], 1e-7, 0))
        RIG_FAIL(r, "got %.17g want %.17g", out[1], out[0]);
    if (out[2] != out[1])
        RIG_FAIL(r, "one thread gives %.17g, two give %.17g", out[2], out[1]);
    rig_end(r);
}

void kernels_optim(rig *r)
{
    adamw(r, 1, 1, true, 0, 1);
    adamw(r, 131, 1, true, 0.1f, 0.5f);
    adamw(r, 4097, 1000, true, 0.01f, 1);
    adamw(r, 70001, 7, false, 0.1f, 1e-3f);
    sumsq(r, 1, 1);
    sumsq(r, 131, 1e-10);
    sumsq(r, 100003, 1);
    sumsq(r, 5000, 1e18);
}

/* The stream itself, whatever backend, thread count or start. */
void kernels_randn(rig *r)
{
    static const int64_t sizes[] = {1, 7, 255, 257, 5003, 70001};
    for (int i = 0; i < 6; i++) {
        int64_t n = sizes[i];
        kin_rng rng = {.seed = kin_test_seed(), .purpose = KIN_RNG_TEST, .sample = 99, .step = 3};
        rig_begin(r, "randn n=%d", (int)n);
        pair y = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(n));
        pair z = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(n));
        for (int side = 0; side < 2; side++)
            RIG_CALL(r, side, randn, &rng, (uint64_t)(n / 3), &y.t[side]);
        RIG_CALL_ONE(r, randn, &rng, (uint64_t)(n / 3), &z.t[1]);
        rig_same(r, "y", &y.t[1], &y.t[0]);
        rig_same(r, "y by one thread", &z.t[1], &y.t[0]);
        rig_end(r);
    }
}

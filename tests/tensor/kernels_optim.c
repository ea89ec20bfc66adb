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

static void adamw(rig *r, int64_t n, int64_t step, bool ema, float decay, float grad_scale)
{
    rig_begin(r, "adamw n=%d step=%d ema=%d decay=%g", (int)n, (int)step, ema, (double)decay);
    kin_tensor g = rig_in(r, 1, 0, KIN_DIMS(n));
    pair w = rig_out(r, KIN_DTYPE_F32, true, 0, KIN_DIMS(n));
    pair m = rig_out(r, KIN_DTYPE_F32, true, 0, KIN_DIMS(n));
    pair v = rig_out(r, KIN_DTYPE_F32, true, 0, KIN_DIMS(n));
    pair e = rig_out(r, KIN_DTYPE_F32, true, 0, KIN_DIMS(n));
    for (int side = 0; side < 2; side++) {
        for (int64_t i = 0; i < n; i++) /* second moments are squares; the first one is 0 */
            kin_tensor_set(&v.t[side], i, i ? fabs(kin_tensor_get(&v.t[side], i)) : 0);
        kin_adamw_args a = {.n = n,
                            .w = w.t[side].data,
                            .m = m.t[side].data,
                            .v = v.t[side].data,
                            .ema = ema ? e.t[side].data : NULL,
                            .g = g.data,
                            .lr = 1e-3f,
                            .beta1 = 0.9f,
                            .beta2 = 0.999f,
                            .eps = 1e-8f,
                            .weight_decay = decay,
                            .grad_scale = grad_scale,
                            .ema_decay = 0.99f,
                            .step = step};
        RIG_CALL(r, side, adamw, &a);
    }
    kin_near_bound b = kin_near_f32(4, 0);
    rig_near(r, "w", &w, b);
    rig_near(r, "m", &m, b);
    rig_near(r, "v", &v, b);
    rig_near(r, "ema", &e, b);
    rig_end(r);
}

static void sumsq(rig *r, int64_t n, double spread)
{
    rig_begin(r, "sumsq n=%d spread=%g", (int)n, spread);
    kin_tensor x = rig_in(r, spread, 0, KIN_DIMS(n));
    double out[3] = {NAN, NAN, NAN};
    for (int side = 0; side < 2; side++)
        RIG_CALL(r, side, sumsq, x.data, n, &out[side]);
    RIG_CALL_ONE(r, sumsq, x.data, n, &out[2]);
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

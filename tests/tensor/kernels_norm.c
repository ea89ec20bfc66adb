/* Cases of layernorm, rmsnorm and their gradients. */
#include "tests/tensor/rig.h"

typedef struct variant {
    const char *name;
    bool gamma, beta, modulated, acc, dx;
    int pad;
    double spread, shift; /* of x */
} variant;

static const variant variants[] = {
    {"plain", false, false, false, false, true, 0, 1, 0},
    {"affine", true, true, false, true, true, 3, 1, 0},
    {"modulated", false, false, true, false, true, 0, 1, 0},
    {"affine modulated", true, true, true, true, true, 5, 1, 0},
    {"gamma only", true, false, false, false, false, 0, 1, 0},
    {"large", true, true, false, false, true, 0, 1e8, 0},
    {"shifted", true, true, false, false, true, 0, 1, 50},
};
enum { VARIANTS = sizeof(variants) / sizeof(variants[0]) };

static const int64_t shapes[][3] = {/* groups, rows in a group, width */
                                    {1, 1, 1},   {1, 3, 7},    {2, 17, 64},  {3, 1, 97},
                                    {2, 5, 131}, {1, 129, 48}, {4, 16, 256}, {2, 33, 16}};
enum { SHAPES = sizeof(shapes) / sizeof(shapes[0]) };

static kin_near_bound norm_bound(const variant *v, int64_t d)
{
    kin_near_bound b = kin_near_f32((double)d, 0);
    /* note: a mean far from 0 costs digits of x - mean before any kernel begins; one shape has d =
     * 1, where the result is rounding divided by sqrt(eps) */
    b.eps_out = 0x1p-19 * (1 + v->shift);
    b.scale_min = 1;
    return b;
}

static void run(rig *r, bool rms, const int64_t *shape, const variant *v)
{
    int64_t groups = shape[0], rows = groups * shape[1], d = shape[2];
    bool mod = v->modulated && !rms;
    rig_begin(r, "%s %s groups=%d rows=%d d=%d", rms ? "rmsnorm" : "layernorm", v->name,
              (int)groups, (int)rows, (int)d);
    kin_tensor x0 = rig_in(r, v->spread, v->pad, KIN_DIMS(rows, d)), dy;
    pair x = rig_out(r, KIN_DTYPE_F32, false, v->pad, KIN_DIMS(rows, d));
    for (int64_t i = 0; i < rows * d; i++) {
        kin_tensor_set(&x.t[0], i, kin_tensor_get(&x0, i) + v->shift);
        kin_tensor_set(&x.t[1], i, kin_tensor_get(&x0, i) + v->shift);
    }
    dy = rig_in(r, 1, v->pad, KIN_DIMS(rows, d));
    kin_tensor scale = {0}, shift = {0};
    param_pair gamma = {0}, beta = {0};
    if (v->gamma)
        gamma = rig_param(r, KIN_DTYPE_F32, 1, true, KIN_DIMS(d));
    if (v->beta && !rms)
        beta = rig_param(r, KIN_DTYPE_F32, 1, true, KIN_DIMS(d));
    if (mod) {
        /* chunks of one wide row, as the modulation makes them */
        scale = rig_in(r, 1, (int)(5 * d), KIN_DIMS(groups, d));
        shift = rig_in(r, 1, (int)(5 * d), KIN_DIMS(groups, d));
    }
    pair y = rig_out(r, KIN_DTYPE_F32, false, v->pad, KIN_DIMS(rows, d));
    pair mean = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(rows));
    pair rstd = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(rows));
    pair dx = rig_out(r, KIN_DTYPE_F32, v->acc, v->pad, KIN_DIMS(rows, d));
    pair dscale = rig_out(r, KIN_DTYPE_F32, v->acc, 0, KIN_DIMS(groups, d));
    pair dshift = rig_out(r, KIN_DTYPE_F32, v->acc, 7, KIN_DIMS(groups, d));
    for (int side = 0; side < 2; side++) {
        kin_norm_args a = {.rows = rows,
                           .d = d,
                           .eps = 1e-5f,
                           .x = &x.t[side],
                           .gamma = gamma.p[side],
                           .beta = beta.p[side],
                           .scale = mod ? &scale : NULL,
                           .shift = mod ? &shift : NULL,
                           .y = &y.t[side],
                           .mean = &mean.t[side],
                           .rstd = &rstd.t[side],
                           .dy = &dy,
                           .dx = v->dx ? &dx.t[side] : NULL,
                           .acc_dx = v->acc,
                           .dscale = mod ? &dscale.t[side] : NULL,
                           .dshift = mod ? &dshift.t[side] : NULL,
                           .acc_dscale = v->acc,
                           .acc_dshift = v->acc};
        if (rms) {
            RIG_CALL(r, side, rmsnorm, &a);
            RIG_CALL(r, side, rmsnorm_bwd, &a);
        } else {
            RIG_CALL(r, side, layernorm, &a);
            RIG_CALL(r, side, layernorm_bwd, &a);
        }
    }
    kin_near_bound bound = norm_bound(v, d);
    rig_near(r, "y", &y, bound);
    rig_near(r, "rstd", &rstd, bound);
    if (!rms)
        rig_near(r, "mean", &mean, kin_near_f32((double)d, 0));
    if (v->dx) {
        kin_near_bound b = bound;
        b.scale_min = 1 / v->spread;
        /* note: with d = 1 the gradient is 0 times 1/sqrt(eps) */
        b.eps_out *= d == 1 ? 1000 : 1;
        rig_near(r, "dx", &dx, b);
    }
    bound.length = (double)rows;
    bound.eps_acc *= 4;
    if (gamma.p[0])
        rig_near(r, "dgamma", &gamma.grad, bound);
    if (beta.p[0])
        rig_near(r, "dbeta", &beta.grad, bound);
    if (mod) {
        rig_near(r, "dscale", &dscale, bound);
        rig_near(r, "dshift", &dshift, bound);
    }
    rig_end(r);
}

/* Queries and keys: norm over all heads (RMS) or each (LayerNorm), then the turn by position. */
static void turned(rig *r, bool rms, int64_t batch, int64_t n, int64_t heads, int64_t h, bool acc)
{
    int64_t rows = rms ? batch * n : batch * n * heads, d = rms ? heads * h : h;
    rig_begin(r, "%s turned B=%d N=%d A=%d h=%d acc=%d", rms ? "rmsnorm" : "layernorm", (int)batch,
              (int)n, (int)heads, (int)h, acc);
    kin_tensor x = rig_in(r, 1, 0, KIN_DIMS(rows, d)), dy = rig_in(r, 1, 0, KIN_DIMS(rows, d));
    kin_tensor c = rig_in(r, 1, 1, KIN_DIMS(n, h / 2)), s = rig_in(r, 1, 3, KIN_DIMS(n, h / 2));
    param_pair gamma = rig_param(r, KIN_DTYPE_F32, 1, true, KIN_DIMS(d));
    param_pair beta = rig_param(r, KIN_DTYPE_F32, 1, true, KIN_DIMS(d));
    pair y = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(rows, d));
    pair mean = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(rows));
    pair rstd = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(rows));
    pair dx = rig_out(r, KIN_DTYPE_F32, acc, 0, KIN_DIMS(rows, d));
    for (int side = 0; side < 2; side++) {
        kin_norm_args a = {.rows = rows,
                           .d = d,
                           .eps = 1e-5f,
                           .x = &x,
                           .gamma = gamma.p[side],
                           .beta = rms ? NULL : beta.p[side],
                           .y = &y.t[side],
                           .mean = &mean.t[side],
                           .rstd = &rstd.t[side],
                           .cos = &c,
                           .sin = &s,
                           .turn_rows = rms ? 1 : heads,
                           .dy = &dy,
                           .dx = &dx.t[side],
                           .acc_dx = acc};
        if (rms) {
            RIG_CALL(r, side, rmsnorm, &a);
            RIG_CALL(r, side, rmsnorm_bwd, &a);
        } else {
            RIG_CALL(r, side, layernorm, &a);
            RIG_CALL(r, side, layernorm_bwd, &a);
        }
    }
    kin_near_bound bound = kin_near_f32((double)d, 0);
    bound.eps_out = 0x1p-18;
    bound.scale_min = 1;
    rig_near(r, "y", &y, bound);
    rig_near(r, "dx", &dx, bound);
    bound.length = (double)rows;
    rig_near(r, "dgamma", &gamma.grad, bound);
    if (!rms)
        rig_near(r, "dbeta", &beta.grad, bound);
    rig_end(r);
}

static void all_turned(rig *r, bool rms)
{
    turned(r, rms, 1, 1, 1, 2, false);
    turned(r, rms, 2, 5, 3, 6, true);
    turned(r, rms, 2, 33, 3, 64, false);
    turned(r, rms, 1, 67, 29, 16, true);
}

/* Inference asks for no statistics. */
static void bare(rig *r, bool rms)
{
    rig_begin(r, "%s without statistics", rms ? "rmsnorm" : "layernorm");
    kin_tensor x = rig_in(r, 1, 0, KIN_DIMS(9, 33));
    pair y = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(9, 33));
    for (int side = 0; side < 2; side++) {
        kin_norm_args a = {.rows = 9, .d = 33, .eps = 1e-6f, .x = &x, .y = &y.t[side]};
        if (rms)
            RIG_CALL(r, side, rmsnorm, &a);
        else
            RIG_CALL(r, side, layernorm, &a);
    }
    rig_near(r, "y", &y, norm_bound(&variants[0], 33));
    rig_end(r);
}

void kernels_norm(rig *r)
{
    for (int rms = 0; rms < 2; rms++) {
        for (int i = 0; i < SHAPES; i++) {
            for (int v = 0; v < VARIANTS; v++)
                run(r, rms, shapes[i], &variants[v]);
        }
        bare(r, rms);
        all_turned(r, rms);
    }
}

/* One thread, and fewer rows: the same bits. */
void kernels_norm_rows(rig *r)
{
    for (int rms = 0; rms < 2; rms++) {
        int64_t rows = 67, d = 97, few = 5;
        rig_begin(r, "%s rows", rms ? "rmsnorm" : "layernorm");
        kin_tensor x = rig_in(r, 1, 0, KIN_DIMS(rows, d)), dy = rig_in(r, 1, 0, KIN_DIMS(rows, d));
        param_pair gamma = rig_param(r, KIN_DTYPE_F32, 1, true, KIN_DIMS(d));
        pair y[3], dx[3], stat[2];
        for (int i = 0; i < 3; i++) {
            y[i] = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(rows, d));
            dx[i] = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(rows, d));
        }
        stat[0] = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(rows));
        stat[1] = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(rows));
        for (int i = 0; i < 3; i++) {
            int64_t m = i == 2 ? few : rows;
            kin_tensor xs = kin_tensor_slice(&x, 0, 0, m), ds = kin_tensor_slice(&dy, 0, 0, m);
            kin_tensor ys = kin_tensor_slice(&y[i].t[1], 0, 0, m);
            kin_tensor dxs = kin_tensor_slice(&dx[i].t[1], 0, 0, m);
            kin_tensor ms = kin_tensor_slice(&stat[0].t[1], 0, 0, m);
            kin_tensor rs = kin_tensor_slice(&stat[1].t[1], 0, 0, m);
            kin_norm_args a = {.rows = m,
                               .d = d,
                               .eps = 1e-6f,
                               .x = &xs,
                               .gamma = gamma.p[i == 1 ? 0 : 1],
                               .y = &ys,
                               .mean = &ms,
                               .rstd = &rs,
                               .dy = &ds,
                               .dx = &dxs};
            const kin_kernels *k = i == 1 ? r->one->k : r->ctx[1]->k;
            kin_ctx *ctx = i == 1 ? r->one : r->ctx[1];
            if (i == 2)
                a.gamma->grad.data = NULL;
            assert_int_equal(rms ? k->rmsnorm(ctx, &a) : k->layernorm(ctx, &a), KIN_OK);
            assert_int_equal(rms ? k->rmsnorm_bwd(ctx, &a) : k->layernorm_bwd(ctx, &a), KIN_OK);
        }
        kin_tensor head = kin_tensor_slice(&y[0].t[1], 0, 0, few);
        kin_tensor part = kin_tensor_slice(&y[2].t[1], 0, 0, few);
        rig_same(r, "y by one thread", &y[1].t[1], &y[0].t[1]);
        rig_same(r, "y of fewer rows", &part, &head);
        rig_same(r, "dx by one thread", &dx[1].t[1], &dx[0].t[1]);
        head = kin_tensor_slice(&dx[0].t[1], 0, 0, few);
        part = kin_tensor_slice(&dx[2].t[1], 0, 0, few);
        rig_same(r, "dx of fewer rows", &part, &head);
        rig_same(r, "dgamma by one thread", &gamma.grad.t[0], &gamma.grad.t[1]);
        rig_end(r);
    }
}

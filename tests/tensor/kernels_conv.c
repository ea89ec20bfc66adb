/* Cases of conv, groupnorm, posterior and their gradients. */
#include "tests/tensor/rig.h"

typedef struct shape {
    int64_t batch, frames, height, width, in, out;
    int kt, k, stride, up, front, before, after; /* zeros before and after, in height and width */
    int type;                                    /* of the weight */
} shape;

enum { F, H };
static const kin_dtype types[] = {[F] = KIN_DTYPE_F32, [H] = KIN_DTYPE_BF16};
/* one pixel, odd and prime sizes, channels below and above a vector, wide enough for every way of
 * doing a 3x3 kernel, each stride and doubling, zeros on one side, frames */
static const shape shapes[] = {
    {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, F},    {2, 1, 5, 7, 3, 5, 1, 1, 1, 1, 0, 0, 0, H},
    {1, 1, 1, 1, 2, 3, 1, 3, 1, 1, 0, 1, 1, F},    {2, 1, 7, 5, 3, 8, 1, 3, 1, 1, 0, 1, 1, F},
    {1, 1, 3, 33, 17, 20, 1, 3, 1, 1, 0, 1, 1, H}, {1, 1, 9, 8, 4, 6, 1, 3, 2, 1, 0, 0, 1, F},
    {2, 1, 6, 7, 19, 5, 1, 3, 2, 1, 0, 1, 1, F},   {1, 1, 5, 6, 7, 9, 1, 3, 1, 2, 0, 1, 1, F},
    {1, 1, 9, 11, 32, 48, 1, 3, 1, 1, 0, 1, 1, F}, {2, 1, 4, 8, 40, 32, 1, 3, 1, 1, 0, 1, 1, F},
    {1, 1, 5, 4, 33, 36, 1, 3, 1, 2, 0, 1, 1, F},  {1, 1, 5, 6, 33, 65, 1, 3, 1, 1, 0, 0, 0, F},
    {1, 1, 5, 5, 40, 36, 1, 3, 1, 1, 0, 1, 0, H},  {1, 1, 6, 7, 5, 3, 1, 2, 1, 1, 0, 0, 1, F},
    {1, 4, 4, 3, 3, 7, 3, 3, 1, 1, 2, 1, 1, F},    {1, 2, 4, 5, 32, 33, 3, 3, 1, 1, 2, 1, 1, F},
    {1, 5, 2, 3, 6, 6, 3, 1, 1, 1, 0, 0, 0, F},    {1, 2, 2, 150, 5, 9, 1, 3, 1, 1, 0, 1, 1, F},
};
enum { SHAPES = sizeof(shapes) / sizeof(shapes[0]) };

static kin_conv_shape full(const shape *s)
{
    const int64_t grow = s->before + s->after - s->k;
    return (kin_conv_shape){.batch = s->batch,
                            .frames = s->frames,
                            .height = s->height,
                            .width = s->width,
                            .in = s->in,
                            .out_frames = s->frames + s->front - s->kt + 1,
                            .out_height = (s->height * s->up + grow) / s->stride + 1,
                            .out_width = (s->width * s->up + grow) / s->stride + 1,
                            .out = s->out,
                            .kt = s->kt,
                            .kh = s->k,
                            .kw = s->k,
                            .stride = s->stride,
                            .up = s->up,
                            .front = s->front,
                            .top = s->before,
                            .left = s->before};
}

static int64_t rows_in(const kin_conv_shape *c)
{
    return c->batch * c->frames * c->height * c->width;
}

static int64_t rows_out(const kin_conv_shape *c)
{
    return c->batch * c->out_frames * c->out_height * c->out_width;
}

static param_pair weight(rig *r, const shape *s)
{
    if (s->kt > 1)
        return rig_param(r, types[s->type], 1, true, KIN_DIMS(s->out, s->in, s->kt, s->k, s->k));
    return rig_param(r, types[s->type], 1, true, KIN_DIMS(s->out, s->in, s->k, s->k));
}

/* Sums of `terms` products; the sums of a Winograd transform are four times as many. */
static kin_near_bound sum_bound(double terms)
{
    kin_near_bound b = kin_near_f32(terms + 2, 1);
    b.eps_out *= 4;
    return b;
}

/* The same where cuDNN may round the result to bf16. */
static kin_near_bound result_bound(const rig *r, double terms)
{
    const kin_near_bound b = sum_bound(terms);
    return rig_has_cudnn(r) ? rig_bf16(r, b, 2) : b;
}

static void conv(rig *r, const shape *s, bool bias, bool residual, bool acc)
{
    const kin_conv_shape c = full(s);
    const double taps = (double)s->kt * s->k * s->k;
    rig_begin(r, "conv %dx%dx%dx%d %d->%d k=%d,%d s=%d up=%d w=%s bias=%d residual=%d acc=%d",
              (int)s->batch, (int)s->frames, (int)s->height, (int)s->width, (int)s->in, (int)s->out,
              s->kt, s->k, s->stride, s->up, kin_dtype_name(types[s->type]), bias, residual, acc);
    kin_tensor x = rig_in(r, 1, 0, KIN_DIMS(rows_in(&c), s->in));
    kin_tensor dy = rig_in(r, 1, 0, KIN_DIMS(rows_out(&c), s->out)), rest = {0};
    param_pair w = weight(r, s), b = {0};
    pair y = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(rows_out(&c), s->out));
    pair dx = rig_out(r, KIN_DTYPE_F32, acc, 0, KIN_DIMS(rows_in(&c), s->in));
    if (bias)
        b = rig_param(r, KIN_DTYPE_F32, 1, true, KIN_DIMS(s->out));
    if (residual)
        rest = rig_in(r, 1, 0, KIN_DIMS(rows_out(&c), s->out));
    for (int side = 0; side < 2; side++) {
        kin_conv_args a = {.s = c,
                           .x = &x,
                           .w = w.p[side],
                           .b = b.p[side],
                           .residual = residual ? &rest : NULL,
                           .y = &y.t[side],
                           .dy = &dy,
                           .dx = &dx.t[side],
                           .acc = acc};
        RIG_CALL(r, side, conv, &a);
        /* a second call finds the packed weight of the first */
        RIG_CALL(r, side, conv, &a);
        RIG_CALL(r, side, conv_dx, &a);
        RIG_CALL(r, side, conv_dw, &a);
    }
    rig_near(r, "y", &y, result_bound(r, taps * (double)s->in));
    rig_near(r, "dx", &dx, result_bound(r, taps * (double)(s->out * s->up * s->up)));
    rig_near(r, "dw", &w.grad, result_bound(r, (double)rows_out(&c)));
    if (bias)
        rig_near(r, "db", &b.grad, kin_near_f32((double)rows_out(&c) + 2, 1));
    rig_end(r);
}

void kernels_conv(rig *r)
{
    for (int i = 0; i < SHAPES; i++) {
        conv(r, &shapes[i], false, false, false);
        conv(r, &shapes[i], true, true, true);
    }
}

/* Same bits for one and two threads, and for one picture of a batch. */
static void rows(rig *r, const shape *s)
{
    const kin_conv_shape all = full(s);
    kin_conv_shape one = all;
    one.batch = 1;
    rig_begin(r, "conv rows %dx%dx%d %d->%d k=%d,%d s=%d up=%d", (int)s->batch, (int)s->height,
              (int)s->width, (int)s->in, (int)s->out, s->kt, s->k, s->stride, s->up);
    kin_tensor x = rig_in(r, 1, 0, KIN_DIMS(rows_in(&all), s->in));
    kin_tensor dy = rig_in(r, 1, 0, KIN_DIMS(rows_out(&all), s->out));
    param_pair w = weight(r, s), b = rig_param(r, KIN_DTYPE_F32, 1, true, KIN_DIMS(s->out));
    pair y[3], dx[3];
    for (int i = 0; i < 3; i++) {
        const kin_conv_shape *c = i == 2 ? &one : &all;
        const int64_t skip = i == 2 ? s->batch - 1 : 0; /* the last picture alone */
        y[i] = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(rows_out(c), s->out));
        dx[i] = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(rows_in(c), s->in));
        kin_tensor xs = kin_tensor_slice(&x, 0, skip * rows_in(&one), rows_in(c));
        kin_tensor ds = kin_tensor_slice(&dy, 0, skip * rows_out(&one), rows_out(c));
        kin_conv_args a = {.s = *c,
                           .x = &xs,
                           .w = w.p[i == 1],
                           .b = b.p[i == 1],
                           .y = &y[i].t[1],
                           .dy = &ds,
                           .dx = &dx[i].t[1]};
        if (i == 1) {
            RIG_CALL_ONE(r, conv, &a);
            RIG_CALL_ONE(r, conv_dx, &a);
            RIG_CALL_ONE(r, conv_dw, &a);
        } else {
            RIG_CALL(r, 1, conv, &a);
            RIG_CALL(r, 1, conv_dx, &a);
        }
        if (i == 0)
            RIG_CALL(r, 1, conv_dw, &a);
    }
    kin_tensor last =
        kin_tensor_slice(&y[0].t[1], 0, (s->batch - 1) * rows_out(&one), rows_out(&one));
    rig_same(r, "y by one thread", &y[1].t[1], &y[0].t[1]);
    rig_same(r, "dx by one thread", &dx[1].t[1], &dx[0].t[1]);
    rig_same(r, "dw by one thread", &w.grad.t[1], &w.grad.t[0]);
    rig_same(r, "db by one thread", &b.grad.t[1], &b.grad.t[0]);
    rig_same(r, "y of one picture", &y[2].t[1], &last);
    last = kin_tensor_slice(&dx[0].t[1], 0, (s->batch - 1) * rows_in(&one), rows_in(&one));
    rig_same(r, "dx of one picture", &dx[2].t[1], &last);
    rig_end(r);
}

void kernels_conv_rows(rig *r)
{
    static const shape some[] = {
        {3, 1, 9, 20, 12, 20, 1, 3, 1, 1, 0, 1, 1, F},
        {2, 1, 13, 17, 40, 33, 1, 3, 1, 1, 0, 1, 1, F},
        {4, 1, 6, 9, 33, 34, 1, 3, 1, 2, 0, 1, 1, F},
        {2, 1, 10, 12, 20, 9, 1, 3, 2, 1, 0, 0, 1, F},
        {2, 3, 5, 6, 36, 8, 3, 3, 1, 1, 2, 1, 1, F},
    };
    for (size_t i = 0; i < sizeof some / sizeof *some; i++)
        rows(r, &some[i]);
}

/* --- group norm --- */

static void groupnorm(rig *r, int64_t batch, int64_t pixels, int64_t channels, int64_t groups,
                      kin_act act, double shift, bool acc)
{
    const int64_t n = batch * pixels;
    rig_begin(r, "groupnorm %dx%d %d in %d act=%d shift=%g acc=%d", (int)batch, (int)pixels,
              (int)channels, (int)groups, act, shift, acc);
    kin_tensor x0 = rig_in(r, 1, 0, KIN_DIMS(n, channels));
    kin_tensor dy = rig_in(r, 1, 0, KIN_DIMS(n, channels));
    pair x = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(n, channels));
    for (int64_t i = 0; i < n * channels; i++)
        for (int side = 0; side < 2; side++)
            kin_tensor_set(&x.t[side], i, kin_tensor_get(&x0, i) + shift);
    param_pair gamma = rig_param(r, KIN_DTYPE_F32, 1, true, KIN_DIMS(channels));
    param_pair beta = rig_param(r, KIN_DTYPE_F32, 1, true, KIN_DIMS(channels));
    pair y = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(n, channels));
    pair dx = rig_out(r, KIN_DTYPE_F32, acc, 0, KIN_DIMS(n, channels));
    pair mean = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(batch, groups));
    pair rstd = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(batch, groups));
    for (int side = 0; side < 2; side++) {
        kin_groupnorm_args a = {.batch = batch,
                                .pixels = pixels,
                                .channels = channels,
                                .groups = groups,
                                .eps = 1e-4f,
                                .act = act,
                                .x = &x.t[side],
                                .gamma = gamma.p[side],
                                .beta = beta.p[side],
                                .y = &y.t[side],
                                .mean = &mean.t[side],
                                .rstd = &rstd.t[side],
                                .dy = &dy,
                                .dx = &dx.t[side],
                                .acc = acc};
        RIG_CALL(r, side, groupnorm, &a);
        RIG_CALL(r, side, groupnorm_bwd, &a);
    }
    kin_near_bound b = kin_near_f32(16, 1);
    /* note: one value a group is rounding divided by sqrt(eps); a mean far from 0 costs digits */
    b.eps_out = 0x1p-19 * (1 + shift) * (pixels * channels == groups ? 100 : 1);
    rig_near(r, "y", &y, b);
    rig_near(r, "mean", &mean, kin_near_f32(16, 1 + shift));
    rig_near(r, "rstd", &rstd, b);
    rig_near(r, "dx", &dx, b);
    b.length = (double)n;
    rig_near(r, "dgamma", &gamma.grad, b);
    rig_near(r, "dbeta", &beta.grad, b);
    rig_end(r);
}

/* Same bits for one and two threads, and for one picture of a batch. */
static void groupnorm_rows(rig *r, int64_t pixels, int64_t channels, int64_t groups)
{
    rig_begin(r, "groupnorm rows %d %d in %d", (int)pixels, (int)channels, (int)groups);
    kin_tensor x = rig_in(r, 1, 0, KIN_DIMS(3 * pixels, channels));
    kin_tensor dy = rig_in(r, 1, 0, KIN_DIMS(3 * pixels, channels));
    param_pair gamma = rig_param(r, KIN_DTYPE_F32, 1, true, KIN_DIMS(channels));
    param_pair beta = rig_param(r, KIN_DTYPE_F32, 1, true, KIN_DIMS(channels));
    pair y[3], dx[3], mean[3], rstd[3];
    for (int i = 0; i < 3; i++) {
        const int64_t n = i == 2 ? 1 : 3;
        kin_tensor xs = kin_tensor_slice(&x, 0, (3 - n) * pixels, n * pixels);
        kin_tensor ds = kin_tensor_slice(&dy, 0, (3 - n) * pixels, n * pixels);
        y[i] = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(n * pixels, channels));
        dx[i] = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(n * pixels, channels));
        mean[i] = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(n, groups));
        rstd[i] = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(n, groups));
        kin_groupnorm_args a = {.batch = n,
                                .pixels = pixels,
                                .channels = channels,
                                .groups = groups,
                                .eps = 1e-6f,
                                .act = KIN_ACT_SILU,
                                .x = &xs,
                                .gamma = gamma.p[i == 1],
                                .beta = beta.p[i == 1],
                                .y = &y[i].t[1],
                                .mean = &mean[i].t[1],
                                .rstd = &rstd[i].t[1],
                                .dy = &ds,
                                .dx = &dx[i].t[1]};
        if (i == 1) {
            RIG_CALL_ONE(r, groupnorm, &a);
            RIG_CALL_ONE(r, groupnorm_bwd, &a);
        } else {
            RIG_CALL(r, 1, groupnorm, &a);
        }
        if (i == 0)
            RIG_CALL(r, 1, groupnorm_bwd, &a);
    }
    kin_tensor last = kin_tensor_slice(&y[0].t[1], 0, 2 * pixels, pixels);
    rig_same(r, "y by one thread", &y[1].t[1], &y[0].t[1]);
    rig_same(r, "dx by one thread", &dx[1].t[1], &dx[0].t[1]);
    rig_same(r, "dgamma by one thread", &gamma.grad.t[1], &gamma.grad.t[0]);
    rig_same(r, "y of one picture", &y[2].t[1], &last);
    for (int k = 0; k < 2; k++) /* what the third call does not write */
        kin_tensor_set(&dx[2].t[1], k, 0);
    rig_end(r);
}

void kernels_groupnorm(rig *r)
{
    static const int64_t sizes[][4] = {{1, 1, 1, 1},    {1, 6, 8, 4},     {2, 35, 12, 3},
                                       {1, 130, 64, 8}, {3, 77, 96, 32},  {1, 4, 130, 13},
                                       {2, 300, 16, 1}, {1, 1000, 40, 4}, {2, 64, 32, 32}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const int64_t *s = sizes[i];
        groupnorm(r, s[0], s[1], s[2], s[3], KIN_ACT_NONE, 0, false);
        groupnorm(r, s[0], s[1], s[2], s[3], KIN_ACT_SILU, 0, true);
        groupnorm(r, s[0], s[1], s[2], s[3], KIN_ACT_NONE, 30, false);
    }
    groupnorm_rows(r, 333, 64, 8);
    groupnorm_rows(r, 35, 12, 4);
}

/* --- posterior --- */

static void posterior(rig *r, int64_t batch, int64_t n, int pad, bool acc)
{
    rig_begin(r, "posterior %dx%d pad=%d acc=%d", (int)batch, (int)n, pad, acc);
    kin_tensor mean = rig_in(r, 1, pad, KIN_DIMS(batch, n));
    kin_tensor logvar = rig_in(r, 4, pad, KIN_DIMS(batch, n)); /* limits at 6: some lie beyond */
    kin_tensor noise = rig_in(r, 1, 0, KIN_DIMS(batch, n));
    kin_tensor dz = rig_in(r, 1, 0, KIN_DIMS(batch, n)), dkl = rig_in(r, 1, 0, KIN_DIMS(batch));
    pair v = rig_out(r, KIN_DTYPE_F32, false, pad, KIN_DIMS(batch, n));
    pair z = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(batch, n));
    pair kl = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(batch));
    pair dm = rig_out(r, KIN_DTYPE_F32, acc, pad, KIN_DIMS(batch, n));
    pair dv = rig_out(r, KIN_DTYPE_F32, acc, pad, KIN_DIMS(batch, n));
    for (int side = 0; side < 2; side++) {
        kin_posterior_args a = {.mean = &mean,
                                .logvar = &logvar,
                                .noise = &noise,
                                .lo = -6,
                                .hi = 6,
                                .clamped = &v.t[side],
                                .z = &z.t[side],
                                .kl = &kl.t[side],
                                .dz = &dz,
                                .dkl = &dkl,
                                .dmean = &dm.t[side],
                                .dlogvar = &dv.t[side],
                                .acc_dmean = acc,
                                .acc_dlogvar = acc};
        RIG_CALL(r, side, posterior, &a);
        RIG_CALL(r, side, posterior_bwd, &a);
    }
    kin_near_bound b = kin_near_f32(4, 1);
    b.eps_out = 0x1p-20;
    rig_same(r, "clamped", &v.t[1], &v.t[0]);
    rig_near(r, "z", &z, b);
    rig_near(r, "dmean", &dm, b);
    rig_near(r, "dlogvar", &dv, b);
    b.length = (double)n;
    rig_near(r, "kl", &kl, b);
    rig_end(r);
}

void kernels_posterior(rig *r)
{
    posterior(r, 1, 1, 0, false);
    posterior(r, 3, 37, 5, true);
    posterior(r, 2, 1200, 0, false);
}

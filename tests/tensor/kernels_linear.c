/* Cases of linear, linear_dx, linear_dw. */
#include <math.h>

#include "tensor/device.h"
#include "tests/tensor/rig.h"

typedef struct shape {
    int64_t m, n, k;
} shape;

/* one, odd, prime, larger than a tile, and sizes around vector widths */
static const shape shapes[] = {{1, 1, 1},      {1, 5, 7},     {3, 16, 64},  {17, 97, 131},
                               {129, 256, 64}, {1, 256, 131}, {17, 1, 64},  {129, 5, 1},
                               {3, 97, 7},     {64, 32, 32},  {65, 33, 31}, {2, 130, 260},
                               {5, 48, 48},    {31, 63, 65},  {128, 64, 96}};
enum { SHAPES = sizeof(shapes) / sizeof(shapes[0]) };

static const kin_dtype weight_types[] = {KIN_DTYPE_F32, KIN_DTYPE_BF16, KIN_DTYPE_F16};

typedef struct variant {
    const char *name;
    kin_act act;
    int pad; /* rows apart in x, residual, y */
    bool bias, residual, pre;
    int groups; /* of the gate; 0: none, -1: one per row */
    double spread;
} variant;

static const variant variants[] = {
    {"plain", KIN_ACT_NONE, 0, false, false, false, 0, 1},
    {"bias strided", KIN_ACT_NONE, 5, true, false, false, 0, 1},
    {"gelu kept", KIN_ACT_GELU_TANH, 0, true, false, true, 0, 1},
    {"silu", KIN_ACT_SILU, 3, true, false, false, 0, 1},
    {"sigmoid", KIN_ACT_SIGMOID, 0, false, false, true, 0, 1},
    {"relu", KIN_ACT_RELU, 0, true, false, false, 0, 1},
    {"residual", KIN_ACT_NONE, 0, true, true, false, 0, 1},
    {"gated residual", KIN_ACT_NONE, 4, true, true, true, 1, 1},
    {"gate per row", KIN_ACT_NONE, 0, true, true, false, -1, 1},
    {"gate without residual", KIN_ACT_NONE, 0, false, false, true, 1, 1},
    {"large values", KIN_ACT_NONE, 0, true, false, false, 0, 1e15},
    {"small values", KIN_ACT_NONE, 0, true, false, false, 0, 1e-15},
    {"large into gelu", KIN_ACT_GELU_TANH, 0, true, false, false, 0, 1e4},
};
enum { VARIANTS = sizeof(variants) / sizeof(variants[0]) };

static void forward(rig *r, shape s, const variant *v, kin_dtype weights)
{
    int64_t groups = v->groups < 0 ? s.m : v->groups;
    rig_begin(r, "linear %s m=%d n=%d k=%d w=%s", v->name, (int)s.m, (int)s.n, (int)s.k,
              kin_dtype_name(weights));
    double wspread = weights == KIN_DTYPE_F16 && v->spread < 1 ? 1 : v->spread;
    kin_tensor x = rig_in(r, v->spread, v->pad, KIN_DIMS(s.m, s.k)), residual = {0}, gate = {0};
    param_pair w = rig_param(r, weights, v->spread > 1 ? 1 : wspread, false, KIN_DIMS(s.n, s.k));
    param_pair b = {0};
    pair pre = {0}, y = rig_out(r, KIN_DTYPE_F32, false, v->pad, KIN_DIMS(s.m, s.n));
    if (v->bias)
        b = rig_param(r, weights, v->spread > 1 ? 1 : wspread, false, KIN_DIMS(s.n));
    if (v->residual)
        residual = rig_in(r, 1, v->pad, KIN_DIMS(s.m, s.n));
    if (v->groups != 0)
        gate = rig_in(r, 1, 2 * v->pad, KIN_DIMS(groups, s.n));
    if (v->pre)
        pre = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(s.m, s.n));
    for (int side = 0; side < 2; side++) {
        kin_linear_args a = {.m = s.m,
                             .n = s.n,
                             .k = s.k,
                             .x = &x,
                             .w = w.p[side],
                             .b = b.p[side],
                             .act = v->act,
                             .residual = v->residual ? &residual : NULL,
                             .gate = v->groups ? &gate : NULL,
                             .pre = v->pre ? &pre.t[side] : NULL,
                             .y = &y.t[side]};
        RIG_CALL(r, side, linear, &a);
        /* a second call finds the packed weight of the first */
        RIG_CALL(r, side, linear, &a);
    }
    kin_near_bound bound = kin_near_f32((double)s.k + 2, v->spread);
    if (v->act != KIN_ACT_NONE) {
        /* note: a library's GELU in bf16 may be a coarser tanh (tensor/cuda/library.cu) */
        const kin_device *d = r->ctx[1]->device;
        bound.eps_out = d && d->library && rig_is_bf16(r) ? 0x1p-10 : 0x1p-20;
        bound.scale_min = fmax(v->spread, 1e-3);
    }
    rig_near(r, "y", &y, bound);
    if (v->pre)
        rig_near(r, "pre", &pre, kin_near_f32((double)s.k + 2, v->spread));
    rig_end(r);
}

void kernels_linear(rig *r)
{
    for (int i = 0; i < SHAPES; i++) {
        for (int v = 0; v < VARIANTS; v++)
            forward(r, shapes[i], &variants[v], KIN_DTYPE_F32);
        for (int t = 1; t < 3; t++) {
            forward(r, shapes[i], &variants[1], weight_types[t]);
            forward(r, shapes[i], &variants[2], weight_types[t]);
        }
    }
    /* a gate row for each of two halves of an even number of rows */
    variant halves = {"gate per half", KIN_ACT_NONE, 2, true, true, true, 2, 1};
    forward(r, (shape){64, 32, 32}, &halves, KIN_DTYPE_F32);
    forward(r, (shape){6, 97, 33}, &halves, KIN_DTYPE_BF16);
}

/* act: dx is the gradient before this activation. */
static void backward(rig *r, shape s, bool acc, bool bias, int pad, kin_dtype weights, kin_act act)
{
    rig_begin(r, "linear backward m=%d n=%d k=%d acc=%d bias=%d pad=%d w=%s act=%d", (int)s.m,
              (int)s.n, (int)s.k, acc, bias, pad, kin_dtype_name(weights), act);
    kin_tensor x = rig_in(r, 1, pad, KIN_DIMS(s.m, s.k)),
               dy = rig_in(r, 1, pad, KIN_DIMS(s.m, s.n));
    param_pair w = rig_param(r, weights, 1, true, KIN_DIMS(s.n, s.k)), b = {0};
    pair dx = rig_out(r, KIN_DTYPE_F32, acc, pad, KIN_DIMS(s.m, s.k));
    kin_tensor past = {0};
    if (act != KIN_ACT_NONE)
        past = rig_in(r, 1, pad, KIN_DIMS(s.m, s.k));
    if (bias)
        b = rig_param(r, weights, 1, true, KIN_DIMS(s.n));
    for (int side = 0; side < 2; side++) {
        kin_linear_bwd_args a = {.m = s.m,
                                 .n = s.n,
                                 .k = s.k,
                                 .dy = &dy,
                                 .x = &x,
                                 .w = w.p[side],
                                 .b = b.p[side],
                                 .dx = &dx.t[side],
                                 .acc = acc,
                                 .act = act,
                                 .past = past.data ? &past : NULL};
        RIG_CALL(r, side, linear_dx, &a);
        a.dx = NULL;
        RIG_CALL(r, side, linear_dw, &a);
    }
    rig_near(r, "dx", &dx, kin_near_f32((double)s.n + 2, 1));
    rig_near(r, "dw", &w.grad, kin_near_f32((double)s.m + 2, 1));
    if (bias)
        rig_near(r, "db", &b.grad, kin_near_f32((double)s.m + 2, 1));
    rig_end(r);
}

/* Weight frozen, bias not; and the other way round. */
static void frozen(rig *r, bool weight)
{
    shape s = {17, 33, 20};
    rig_begin(r, "linear_dw with frozen %s", weight ? "weight" : "bias");
    kin_tensor x = rig_in(r, 1, 0, KIN_DIMS(s.m, s.k)), dy = rig_in(r, 1, 0, KIN_DIMS(s.m, s.n));
    param_pair w = rig_param(r, KIN_DTYPE_F32, 1, !weight, KIN_DIMS(s.n, s.k));
    param_pair b = rig_param(r, KIN_DTYPE_F32, 1, weight, KIN_DIMS(s.n));
    for (int side = 0; side < 2; side++) {
        kin_linear_bwd_args a = {
            .m = s.m, .n = s.n, .k = s.k, .dy = &dy, .x = &x, .w = w.p[side], .b = b.p[side]};
        RIG_CALL(r, side, linear_dw, &a);
    }
    rig_near(r, "gradient", weight ? &b.grad : &w.grad, kin_near_f32((double)s.m + 2, 1));
    rig_end(r);
}

/* A weight that changed must not be served from its old packed form. */
static void repacked(rig *r)
{
    shape s = {9, 40, 24};
    rig_begin(r, "linear after the weight changed");
    kin_tensor x = rig_in(r, 1, 0, KIN_DIMS(s.m, s.k)), dy = rig_in(r, 1, 0, KIN_DIMS(s.m, s.n));
    param_pair w = rig_param(r, KIN_DTYPE_F32, 1, false, KIN_DIMS(s.n, s.k));
    pair y = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(s.m, s.n));
    pair dx = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(s.m, s.k));
    kin_tensor changed = rig_in(r, 1, 0, KIN_DIMS(s.n, s.k));
    for (int round = 0; round < 2; round++) {
        for (int side = 0; side < 2; side++) {
            kin_linear_args a = {
                .m = s.m, .n = s.n, .k = s.k, .x = &x, .w = w.p[side], .y = &y.t[side]};
            kin_linear_bwd_args g = {
                .m = s.m, .n = s.n, .k = s.k, .dy = &dy, .w = w.p[side], .dx = &dx.t[side]};
            RIG_CALL(r, side, linear, &a);
            RIG_CALL(r, side, linear_dx, &g);
            w.p[side]->value.data = changed.data;
            kin_param_touch(w.p[side]);
        }
        rig_near(r, "y", &y, kin_near_f32((double)s.k, 1));
        rig_near(r, "dx", &dx, kin_near_f32((double)s.n, 1));
    }
    rig_end(r);
}

/* A patch convolution's weight [n, C, p, p] seen flat. */
static void flat_view(rig *r)
{
    rig_begin(r, "linear with a weight of four dimensions");
    kin_tensor x = rig_in(r, 1, 0, KIN_DIMS(11, 12)), dy = rig_in(r, 1, 0, KIN_DIMS(11, 10));
    param_pair w = rig_param(r, KIN_DTYPE_F32, 1, true, KIN_DIMS(10, 3, 2, 2));
    pair y = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(11, 10));
    pair dx = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(11, 12));
    for (int side = 0; side < 2; side++) {
        kin_linear_args a = {.m = 11, .n = 10, .k = 12, .x = &x, .w = w.p[side], .y = &y.t[side]};
        kin_linear_bwd_args g = {
            .m = 11, .n = 10, .k = 12, .dy = &dy, .x = &x, .w = w.p[side], .dx = &dx.t[side]};
        RIG_CALL(r, side, linear, &a);
        RIG_CALL(r, side, linear_dx, &g);
        RIG_CALL(r, side, linear_dw, &g);
    }
    rig_near(r, "y", &y, kin_near_f32(12, 1));
    rig_near(r, "dx", &dx, kin_near_f32(10, 1));
    rig_near(r, "dw", &w.grad, kin_near_f32(11, 1));
    rig_end(r);
}

void kernels_linear_bwd(rig *r)
{
    for (int i = 0; i < SHAPES; i++) {
        backward(r, shapes[i], false, true, 0, KIN_DTYPE_F32, KIN_ACT_NONE);
        backward(r, shapes[i], true, false, 3, KIN_DTYPE_F32, KIN_ACT_NONE);
        backward(r, shapes[i], false, true, 0, KIN_DTYPE_BF16, KIN_ACT_NONE);
        backward(r, shapes[i], false, true, 0, KIN_DTYPE_F32, KIN_ACT_GELU_TANH);
        backward(r, shapes[i], false, false, 5, KIN_DTYPE_BF16, KIN_ACT_SILU);
    }
    /* more of n than one pass takes, columns beyond a group of panels */
    backward(r, (shape){33, 1600, 70}, false, false, 0, KIN_DTYPE_F32, KIN_ACT_GELU_TANH);
    backward(r, (shape){35, 60, 300}, false, false, 0, KIN_DTYPE_F32, KIN_ACT_RELU);
    frozen(r, true);
    frozen(r, false);
    repacked(r);
    flat_view(r);
}

/* Same bits for one and two threads, and for the first rows of a larger batch. */
static void rows(rig *r, shape s, int64_t few, kin_dtype weights)
{
    rig_begin(r, "linear rows m=%d of %d n=%d k=%d w=%s", (int)few, (int)s.m, (int)s.n, (int)s.k,
              kin_dtype_name(weights));
    kin_tensor x = rig_in(r, 1, 0, KIN_DIMS(s.m, s.k)), dy = rig_in(r, 1, 0, KIN_DIMS(s.m, s.n));
    param_pair w = rig_param(r, weights, 1, true, KIN_DIMS(s.n, s.k));
    param_pair b = rig_param(r, weights, 1, true, KIN_DIMS(s.n));
    pair y[3], dx[3];
    for (int i = 0; i < 3; i++) {
        y[i] = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(s.m, s.n));
        dx[i] = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(s.m, s.k));
    }
    for (int i = 0; i < 3; i++) {
        int64_t m = i == 2 ? few : s.m;
        kin_linear_args a = {.m = m,
                             .n = s.n,
                             .k = s.k,
                             .x = &(kin_tensor){0},
                             .w = w.p[1],
                             .b = b.p[1],
                             .act = KIN_ACT_GELU_TANH,
                             .y = &y[i].t[1]};
        kin_linear_bwd_args g = {
            .m = m, .n = s.n, .k = s.k, .w = w.p[1], .b = b.p[1], .dx = &dx[i].t[1]};
        kin_tensor xs = kin_tensor_slice(&x, 0, 0, m), ds = kin_tensor_slice(&dy, 0, 0, m);
        y[i].t[1] = kin_tensor_slice(&y[i].t[1], 0, 0, m);
        dx[i].t[1] = kin_tensor_slice(&dx[i].t[1], 0, 0, m);
        a.x = g.x = &xs;
        g.dy = &ds;
        if (i == 1) {
            RIG_CALL_ONE(r, linear, &a);
            RIG_CALL_ONE(r, linear_dx, &g);
        } else {
            RIG_CALL(r, 1, linear, &a);
            RIG_CALL(r, 1, linear_dx, &g);
        }
    }
    kin_tensor head = kin_tensor_slice(&y[0].t[1], 0, 0, few);
    rig_same(r, "y by one thread", &y[1].t[1], &y[0].t[1]);
    rig_same(r, "dx by one thread", &dx[1].t[1], &dx[0].t[1]);
    rig_same(r, "y of fewer rows", &y[2].t[1], &head);
    head = kin_tensor_slice(&dx[0].t[1], 0, 0, few);
    rig_same(r, "dx of fewer rows", &dx[2].t[1], &head);
    rig_end(r);
}

/* dw and db: same bits for one and two threads. */
static void sums(rig *r, shape s)
{
    rig_begin(r, "linear_dw threads m=%d n=%d k=%d", (int)s.m, (int)s.n, (int)s.k);
    kin_tensor x = rig_in(r, 1, 0, KIN_DIMS(s.m, s.k)), dy = rig_in(r, 1, 0, KIN_DIMS(s.m, s.n));
    param_pair w = rig_param(r, KIN_DTYPE_F32, 1, true, KIN_DIMS(s.n, s.k));
    param_pair b = rig_param(r, KIN_DTYPE_F32, 1, true, KIN_DIMS(s.n));
    for (int side = 0; side < 2; side++) {
        kin_linear_bwd_args g = {
            .m = s.m, .n = s.n, .k = s.k, .dy = &dy, .x = &x, .w = w.p[side], .b = b.p[side]};
        if (side == 0)
            RIG_CALL_ONE(r, linear_dw, &g);
        else
            RIG_CALL(r, 1, linear_dw, &g);
    }
    rig_same(r, "dw by one thread", &w.grad.t[0], &w.grad.t[1]);
    rig_same(r, "db by one thread", &b.grad.t[0], &b.grad.t[1]);
    rig_end(r);
}

void kernels_linear_rows(rig *r)
{
    static const shape big[] = {{129, 256, 64}, {200, 97, 131}, {67, 40, 300}, {300, 16, 16}};
    static const int64_t few[] = {1, 2, 7, 16, 33, 64};
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 6; j++)
            rows(r, big[i], few[j], j % 2 ? KIN_DTYPE_F32 : KIN_DTYPE_BF16);
        rows(r, big[i], 1, KIN_DTYPE_F32);
        sums(r, big[i]);
    }
}

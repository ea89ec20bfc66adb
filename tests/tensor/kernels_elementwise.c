/* Cases of binary, reduce, unary, gated_add, gate_bwd, softmax, copy, fill, transpose. */
#include "tests/tensor/rig.h"

#include <math.h>

enum { DIMS = 4 };

static const int64_t shapes[][DIMS] = {{1, 1, 1, 1},    {1, 1, 3, 7},   {2, 3, 5, 17},
                                       {1, 1, 129, 64}, {3, 2, 1, 131}, {2, 4, 33, 16}};
enum { SHAPES = sizeof(shapes) / sizeof(shapes[0]) };

/* An input of `shape` with stride 0 in the dimensions of `mask` (bit d: dimension d is broadcast).
 */
static kin_tensor broadcast(rig *r, const int64_t *shape, unsigned mask, int pad)
{
    int64_t size[DIMS];
    for (int d = 0; d < DIMS; d++)
        size[d] = mask >> d & 1 ? 1 : shape[d];
    kin_tensor t = rig_in(r, 1, pad, DIMS, size);
    for (int d = 0; d < DIMS; d++) {
        t.size[d] = shape[d];
        t.stride[d] = mask >> d & 1 ? 0 : t.stride[d];
    }
    return t;
}

static void binary(rig *r, const int64_t *shape, kin_binary_kind kind, unsigned ma, unsigned mb,
                   bool acc, int pad)
{
    rig_begin(r, "binary kind=%d [%d,%d,%d,%d] broadcast a=%x b=%x acc=%d pad=%d", kind,
              (int)shape[0], (int)shape[1], (int)shape[2], (int)shape[3], ma, mb, acc, pad);
    kin_tensor a = broadcast(r, shape, ma, pad), b = broadcast(r, shape, mb, 2 * pad);
    pair y = rig_out(r, KIN_DTYPE_F32, acc, pad, DIMS, shape);
    for (int side = 0; side < 2; side++) {
        kin_binary_args args = {
            .kind = kind, .alpha = -1.75f, .a = &a, .b = &b, .y = &y.t[side], .acc = acc};
        RIG_CALL(r, side, binary, &args);
    }
    rig_near(r, "y", &y, kin_near_f32(2, 1));
    rig_end(r);
}

/* Two dimensions or fewer, as the ops hand them over after joining. */
static void binary_flat(rig *r, int64_t n, kin_binary_kind kind)
{
    rig_begin(r, "binary kind=%d flat n=%d", kind, (int)n);
    kin_tensor a = rig_in(r, 1, 0, KIN_DIMS(n)), b = rig_in(r, 1, 0, KIN_DIMS(n));
    pair y = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(n));
    for (int side = 0; side < 2; side++) {
        kin_binary_args args = {.kind = kind, .alpha = 0.5f, .a = &a, .b = &b, .y = &y.t[side]};
        RIG_CALL(r, side, binary, &args);
    }
    rig_near(r, "y", &y, kin_near_f32(2, 1));
    rig_end(r);
}

void kernels_binary(rig *r)
{
    static const unsigned masks[][2] = {{0, 0}, {0, 1},  {0, 2}, {0, 6},
                                        {8, 0}, {15, 0}, {0, 7}, {12, 3}};
    for (int i = 0; i < SHAPES; i++) {
        for (int m = 0; m < 8; m++) {
            binary(r, shapes[i], KIN_BINARY_ADD, masks[m][0], masks[m][1], m & 1, m % 3);
            binary(r, shapes[i], KIN_BINARY_MUL, masks[m][0], masks[m][1], !(m & 1), m % 3);
        }
    }
    binary_flat(r, 1, KIN_BINARY_ADD);
    binary_flat(r, 5003, KIN_BINARY_ADD);
    binary_flat(r, 70001, KIN_BINARY_MUL);
}

static void reduce(rig *r, const int64_t *shape, unsigned summed, int other, bool acc, int pad)
{
    int64_t size[DIMS], terms = 1;
    rig_begin(r, "reduce [%d,%d,%d,%d] summed=%x other=%d acc=%d pad=%d", (int)shape[0],
              (int)shape[1], (int)shape[2], (int)shape[3], summed, other, acc, pad);
    kin_tensor x = rig_in(r, 1, pad, DIMS, shape), o = {0};
    if (other)
        o = broadcast(r, shape, other == 1 ? 0 : ~summed & 15, pad);
    for (int d = 0; d < DIMS; d++) {
        size[d] = summed >> d & 1 ? 1 : shape[d];
        terms *= summed >> d & 1 ? shape[d] : 1;
    }
    pair y = rig_out(r, KIN_DTYPE_F32, acc, 0, DIMS, size);
    for (int side = 0; side < 2; side++) {
        kin_tensor view = y.t[side];
        for (int d = 0; d < DIMS; d++) {
            view.size[d] = shape[d];
            view.stride[d] = summed >> d & 1 ? 0 : view.stride[d];
        }
        kin_reduce_args a = {
            .x = &x, .other = other ? &o : NULL, .alpha = 0.75f, .y = &view, .acc = acc};
        RIG_CALL(r, side, reduce, &a);
    }
    kin_near_bound b = kin_near_f32((double)terms, 1);
    b.scale_min = 0.1;
    rig_near(r, "y", &y, b);
    rig_end(r);
}

void kernels_reduce(rig *r)
{
    static const unsigned summed[] = {0, 1, 2, 3, 4, 6, 7, 8, 12, 15, 9, 5};
    for (int i = 0; i < SHAPES; i++) {
        for (int m = 0; m < 12; m++)
            reduce(r, shapes[i], summed[m], m % 3, m & 1, m % 4 == 3 ? 2 : 0);
    }
}

static void unary(rig *r, kin_act act, int64_t rows, int64_t cols, double spread, bool acc, int pad)
{
    rig_begin(r, "unary act=%d [%d,%d] spread=%g acc=%d pad=%d", act, (int)rows, (int)cols, spread,
              acc, pad);
    kin_tensor x = rig_in(r, spread, pad, KIN_DIMS(rows, cols));
    kin_tensor dy = rig_in(r, 1, 2 * pad, KIN_DIMS(rows, cols));
    pair y = rig_out(r, KIN_DTYPE_F32, false, pad, KIN_DIMS(rows, cols));
    pair dx = rig_out(r, KIN_DTYPE_F32, acc, 0, KIN_DIMS(rows, cols));
    for (int side = 0; side < 2; side++) {
        kin_unary_args a = {.act = act,
                            .alpha = 1.5f,
                            .x = &x,
                            .y = &y.t[side],
                            .dy = &dy,
                            .dx = &dx.t[side],
                            .acc = acc};
        RIG_CALL(r, side, unary, &a);
        RIG_CALL(r, side, unary_bwd, &a);
    }
    kin_near_bound b = kin_near_f32(1, 1);
    b.eps_out = 0x1p-20;
    b.scale_min = spread > 10 ? 1 : 1e-3;
    rig_near(r, "y", &y, b);
    b.scale_min = 1;
    b.eps_out = 0x1p-19;
    rig_near(r, "dx", &dx, b);
    rig_end(r);
}

/* Every act at values from -100 to 100 and at both ends of the floats, one by one: relative error.
 */
static void unary_range(rig *r, kin_act act)
{
    enum { N = 4001 };
    rig_begin(r, "unary act=%d over its range", act);
    pair x = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(1, N + 4));
    pair y = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(1, N + 4));
    pair dx = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(1, N + 4));
    pair one = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(1, N + 4));
    static const double ends[4] = {1e30, -1e12, 1e-30, -3e38};
    for (int i = 0; i < N + 4; i++) {
        kin_tensor_set(&x.t[0], i, i < N ? -100 + 0.05 * i : ends[i - N]);
        kin_tensor_set(&one.t[0], i, 1);
    }
    for (int side = 0; side < 2; side++) {
        kin_unary_args a = {.act = act,
                            .alpha = 1,
                            .x = &x.t[0],
                            .y = &y.t[side],
                            .dy = &one.t[0],
                            .dx = &dx.t[side]};
        RIG_CALL(r, side, unary, &a);
        RIG_CALL(r, side, unary_bwd, &a);
    }
    for (int i = 0; i < N + 4; i++) {
        double v = kin_tensor_get(&x.t[0], i);
        double got[2] = {kin_tensor_get(&y.t[1], i), kin_tensor_get(&dx.t[1], i)};
        double want[2] = {kin_tensor_get(&y.t[0], i), kin_tensor_get(&dx.t[0], i)};
        /* note: in f32 1 + tanh cancels in the left tail, so errors are measured against x there */
        if (!(fabs(got[0] - want[0]) <= 2e-7 * fmax(fabs(v), 1) + 2e-6 * fabs(want[0])))
            RIG_FAIL(r, "act(%g) = %.9g, want %.9g", v, got[0], want[0]);
        /* note: beyond 1e18 the square inside the derivative of GELU overflows, as it does in
         * PyTorch */
        if (fabs(v) < 1e18 && !(fabs(got[1] - want[1]) <= 4e-6))
            RIG_FAIL(r, "act'(%g) = %.9g, want %.9g", v, got[1], want[1]);
    }
    rig_end(r);
}

void kernels_unary(rig *r)
{
    for (kin_act act = KIN_ACT_NONE; act <= KIN_ACT_WISA_LOSS; act++) {
        unary(r, act, 1, 1, 1, false, 0);
        unary(r, act, 17, 33, 1, true, 3);
        unary(r, act, 129, 64, 3, false, 0);
        unary(r, act, 3, 1031, 50, true, 1);
        unary_range(r, act);
    }
}

static void gate(rig *r, int64_t m, int64_t n, int64_t groups, bool dlin, bool dgate, bool acc,
                 int pad)
{
    rig_begin(r, "gate_bwd m=%d n=%d groups=%d dlin=%d dgate=%d acc=%d pad=%d", (int)m, (int)n,
              (int)groups, dlin, dgate, acc, pad);
    kin_tensor dy = rig_in(r, 1, pad, KIN_DIMS(m, n)), lin = rig_in(r, 1, 0, KIN_DIMS(m, n));
    kin_tensor g = rig_in(r, 1, 3 * pad, KIN_DIMS(groups, n));
    pair dl = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(m, n));
    pair dg = rig_out(r, KIN_DTYPE_F32, acc, 2 * pad, KIN_DIMS(groups, n));
    for (int side = 0; side < 2; side++) {
        kin_gate_bwd_args a = {.dy = &dy,
                               .lin = &lin,
                               .gate = &g,
                               .dlin = dlin ? &dl.t[side] : NULL,
                               .dgate = dgate ? &dg.t[side] : NULL,
                               .acc_dgate = acc};
        RIG_CALL(r, side, gate_bwd, &a);
    }
    if (dlin)
        rig_near(r, "dlin", &dl, kin_near_f32(1, 1));
    if (dgate)
        rig_near(r, "dgate", &dg, kin_near_f32((double)(m / groups) + 1, 1));
    rig_end(r);
}

static void gated_add(rig *r, int64_t m, int64_t n, int64_t groups, int pad)
{
    rig_begin(r, "gated_add m=%d n=%d groups=%d pad=%d", (int)m, (int)n, (int)groups, pad);
    kin_tensor lin = rig_in(r, 1, pad, KIN_DIMS(m, n)), res = rig_in(r, 1, 0, KIN_DIMS(m, n));
    kin_tensor g = rig_in(r, 1, 3 * pad, KIN_DIMS(groups, n));
    pair y = rig_out(r, KIN_DTYPE_F32, false, 2 * pad, KIN_DIMS(m, n));
    for (int side = 0; side < 2; side++) {
        kin_gated_add_args a = {.lin = &lin, .residual = &res, .gate = &g, .y = &y.t[side]};
        RIG_CALL(r, side, gated_add, &a);
    }
    rig_near(r, "y", &y, kin_near_f32(2, 1));
    rig_end(r);
}

void kernels_gate(rig *r)
{
    gated_add(r, 1, 1, 1, 0);
    gated_add(r, 34, 33, 2, 3);
    gated_add(r, 258, 192, 2, 0);
    gate(r, 1, 1, 1, true, true, false, 0);
    gate(r, 34, 33, 2, true, true, true, 3);
    gate(r, 129, 64, 3, true, true, false, 0);
    gate(r, 258, 97, 1, false, true, false, 1);
    gate(r, 16, 131, 16, true, false, false, 0);
}

static void softmax(rig *r, int64_t rows, int64_t n, double spread, bool acc, int pad)
{
    rig_begin(r, "softmax [%d,%d] spread=%g acc=%d pad=%d", (int)rows, (int)n, spread, acc, pad);
    kin_tensor x = rig_in(r, spread, pad, KIN_DIMS(rows, n));
    kin_tensor dy = rig_in(r, 1, pad, KIN_DIMS(rows, n));
    pair y = rig_out(r, KIN_DTYPE_F32, false, pad, KIN_DIMS(rows, n));
    pair dx = rig_out(r, KIN_DTYPE_F32, acc, 0, KIN_DIMS(rows, n));
    for (int side = 0; side < 2; side++) {
        kin_softmax_args a = {.x = &x, .y = &y.t[side]};
        RIG_CALL(r, side, softmax, &a);
        a = (kin_softmax_args){.y = &y.t[side], .dy = &dy, .dx = &dx.t[side], .acc = acc};
        RIG_CALL(r, side, softmax_bwd, &a);
    }
    kin_near_bound b = kin_near_f32((double)n, 1);
    b.eps_out = 0x1p-20;
    rig_near(r, "y", &y, b);
    b.scale_min = 0.1;
    b.eps_out = 0x1p-18;
    rig_near(r, "dx", &dx, b);
    rig_end(r);
}

void kernels_softmax(rig *r)
{
    softmax(r, 1, 1, 1, false, 0);
    softmax(r, 3, 7, 1, true, 2);
    softmax(r, 17, 131, 4, false, 0);
    softmax(r, 129, 64, 1, true, 0);
    softmax(r, 5, 1000, 80, false, 1);
    softmax(r, 4, 12, 1e30, false, 0);
}

/* Copies between all pairs of float types, strided and broadcast sources. */
static void copy(rig *r, kin_dtype from, kin_dtype to, bool acc, unsigned mask, int pad)
{
    static const int64_t shape[6] = {2, 1, 3, 2, 5, 17};
    rig_begin(r, "copy %s to %s acc=%d broadcast=%x pad=%d", kin_dtype_name(from),
              kin_dtype_name(to), acc, mask, pad);
    int64_t size[6];
    for (int d = 0; d < 6; d++)
        size[d] = mask >> d & 1 ? 1 : shape[d];
    kin_tensor drawn = rig_in(r, 1, 0, 6, size);
    pair src = rig_out(r, from, false, pad, 6, size);
    pair dst = rig_out(r, to, acc, 2 * pad, 6, shape);
    for (int64_t i = 0; i < kin_tensor_numel(&drawn); i++)
        kin_tensor_set(&src.t[0], i, kin_tensor_get(&drawn, i));
    kin_tensor view = src.t[0];
    for (int d = 0; d < 6; d++) {
        view.size[d] = shape[d];
        view.stride[d] = mask >> d & 1 ? 0 : view.stride[d];
    }
    for (int side = 0; side < 2; side++)
        RIG_CALL(r, side, copy, &view, &dst.t[side], acc);
    if (acc)
        rig_near(r, "dst", &dst, kin_near_f32(1, 1));
    else
        rig_same(r, "dst", &dst.t[1], &dst.t[0]);
    rig_end(r);
}

static void fill(rig *r, kin_dtype type, double value, int pad)
{
    rig_begin(r, "fill %s with %g pad=%d", kin_dtype_name(type), value, pad);
    pair dst = rig_out(r, type, false, pad, KIN_DIMS(3, 5, 17));
    for (int side = 0; side < 2; side++)
        RIG_CALL(r, side, fill, &dst.t[side], value);
    rig_same(r, "dst", &dst.t[1], &dst.t[0]);
    rig_end(r);
}

void kernels_copy(rig *r)
{
    static const kin_dtype types[] = {KIN_DTYPE_F32, KIN_DTYPE_BF16, KIN_DTYPE_F16, KIN_DTYPE_F64};
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 4; j++) {
            copy(r, types[i], types[j], false, 0, 0);
            copy(r, types[i], types[j], false, 5, 3);
        }
    }
    copy(r, KIN_DTYPE_F32, KIN_DTYPE_F32, true, 0, 0);
    copy(r, KIN_DTYPE_F32, KIN_DTYPE_F32, true, 32, 2);
    copy(r, KIN_DTYPE_BF16, KIN_DTYPE_F32, true, 0, 1);
    fill(r, KIN_DTYPE_F32, 0, 0);
    fill(r, KIN_DTYPE_F32, -1.25, 3);
    fill(r, KIN_DTYPE_BF16, 0.1, 1);
}

void kernels_transpose(rig *r)
{
    static const int64_t sizes[][2] = {{1, 1}, {3, 7}, {17, 64}, {129, 97}, {256, 5}};
    for (int i = 0; i < 5; i++) {
        for (int acc = 0; acc < 2; acc++) {
            int64_t m = sizes[i][0], n = sizes[i][1];
            rig_begin(r, "transpose [%d,%d] acc=%d", (int)m, (int)n, acc);
            kin_tensor x = rig_in(r, 1, 3 * acc, KIN_DIMS(m, n));
            pair y = rig_out(r, KIN_DTYPE_F32, acc, 2 * acc, KIN_DIMS(n, m));
            for (int side = 0; side < 2; side++)
                RIG_CALL(r, side, transpose, &x, &y.t[side], acc);
            rig_near(r, "y", &y, kin_near_f32(1, 1));
            rig_end(r);
        }
    }
}

/* Cases of rope, embedding, patch, sinusoid. */
#include "tests/tensor/rig.h"

static void rope(rig *r, int64_t b, int64_t n, int64_t heads, int64_t d, bool inverse, bool acc,
                 int pad)
{
    rig_begin(r, "rope B=%d N=%d A=%d d=%d inverse=%d acc=%d pad=%d", (int)b, (int)n, (int)heads,
              (int)d, inverse, acc, pad);
    kin_tensor x = rig_in(r, 1, pad, KIN_DIMS(b, n, heads, d));
    kin_tensor c = rig_in(r, 1, pad, KIN_DIMS(n, d / 2)), s = rig_in(r, 1, pad, KIN_DIMS(n, d / 2));
    pair y = rig_out(r, KIN_DTYPE_F32, acc, 2 * pad, KIN_DIMS(b, n, heads, d));
    for (int side = 0; side < 2; side++) {
        kin_rope_args a = {
            .x = &x, .cos = &c, .sin = &s, .inverse = inverse, .acc = acc, .y = &y.t[side]};
        RIG_CALL(r, side, rope, &a);
    }
    rig_near(r, "y", &y, kin_near_f32(3, 1));
    rig_end(r);
}

void kernels_rope(rig *r)
{
    static const int64_t shapes[][4] = {
        {1, 1, 1, 2}, {2, 5, 3, 6}, {1, 17, 2, 64}, {2, 33, 1, 18}, {1, 129, 2, 128}};
    for (int i = 0; i < 5; i++) {
        for (int v = 0; v < 4; v++)
            rope(r, shapes[i][0], shapes[i][1], shapes[i][2], shapes[i][3], v & 1, v & 2,
                 v == 3 ? 4 : 0);
    }
}

static void embedding(rig *r, int64_t v, int64_t d, int64_t n, kin_dtype type)
{
    rig_begin(r, "embedding V=%d D=%d n=%d %s", (int)v, (int)d, (int)n, kin_dtype_name(type));
    param_pair table = rig_param(r, type, 1, true, KIN_DIMS(v, d));
    kin_tensor ids = rig_ints(r, KIN_DTYPE_I32, 0, (int)v, KIN_DIMS(n));
    kin_tensor dy = rig_in(r, 1, 3, KIN_DIMS(n, d));
    pair y = rig_out(r, KIN_DTYPE_F32, false, 2, KIN_DIMS(n, d));
    for (int side = 0; side < 2; side++) {
        kin_embedding_args a = {.table = table.p[side], .ids = &ids, .y = &y.t[side], .dy = &dy};
        RIG_CALL(r, side, embedding, &a);
        RIG_CALL(r, side, embedding_bwd, &a);
    }
    rig_same(r, "y", &y.t[1], &y.t[0]);
    rig_near(r, "gradient of the table", &table.grad, kin_near_f32((double)n, 1));
    rig_end(r);
}

void kernels_embedding(rig *r)
{
    embedding(r, 1, 1, 1, KIN_DTYPE_F32);
    embedding(r, 7, 33, 40, KIN_DTYPE_F32);
    embedding(r, 97, 64, 17, KIN_DTYPE_BF16);
    embedding(r, 3, 5, 129, KIN_DTYPE_F16);
}

static void patch(rig *r, const int64_t v[5], const int p[3], bool channel_last, bool to_tokens,
                  bool acc, int pad)
{
    int64_t n = v[2] / p[0] * (v[3] / p[1]) * (v[4] / p[2]), width = v[1] * p[0] * p[1] * p[2];
    rig_begin(r, "patch B=%d C=%d F=%d H=%d W=%d p=%d,%d,%d last=%d to=%d acc=%d pad=%d", (int)v[0],
              (int)v[1], (int)v[2], (int)v[3], (int)v[4], p[0], p[1], p[2], channel_last, to_tokens,
              acc, pad);
    kin_tensor src;
    pair dst;
    if (to_tokens) {
        src = rig_in(r, 1, pad, 5, v);
        dst = rig_out(r, KIN_DTYPE_F32, acc, pad, KIN_DIMS(v[0], n, width));
    } else {
        src = rig_in(r, 1, pad, KIN_DIMS(v[0], n, width));
        dst = rig_out(r, KIN_DTYPE_F32, acc, pad, 5, v);
    }
    for (int side = 0; side < 2; side++) {
        kin_patch_args a = {.src = &src,
                            .dst = &dst.t[side],
                            .pt = p[0],
                            .ph = p[1],
                            .pw = p[2],
                            .channel_last = channel_last,
                            .to_tokens = to_tokens,
                            .acc = acc};
        RIG_CALL(r, side, patch, &a);
    }
    rig_near(r, "dst", &dst, kin_near_f32(1, 1));
    rig_end(r);
}

void kernels_patch(rig *r)
{
    static const int64_t videos[][5] = {
        {1, 1, 1, 1, 1}, {2, 3, 1, 4, 6}, {1, 4, 4, 6, 8}, {2, 5, 2, 9, 3}};
    static const int patches[][3] = {{1, 1, 1}, {1, 2, 2}, {2, 2, 4}, {1, 3, 3}};
    for (int i = 0; i < 4; i++) {
        for (int v = 0; v < 8; v++)
            patch(r, videos[i], patches[i], v & 1, v & 2, v & 4, v % 3);
    }
}

void kernels_sinusoid(rig *r)
{
    static const int64_t shapes[][3] = {{1, 1, 1}, {3, 2, 5}, {2, 1, 128}, {5, 3, 33}};
    for (int i = 0; i < 4; i++) {
        int64_t b = shapes[i][0], n = shapes[i][1], half = shapes[i][2];
        rig_begin(r, "sinusoid B=%d n=%d half=%d", (int)b, (int)n, (int)half);
        kin_tensor v = rig_in(r, i == 2 ? 500 : 3, 2, KIN_DIMS(b, n));
        pair y = rig_out(r, KIN_DTYPE_F32, false, 3, KIN_DIMS(b, n, 2 * half));
        for (int side = 0; side < 2; side++) {
            kin_sinusoid_args a = {.v = &v, .half = half, .y = &y.t[side]};
            RIG_CALL(r, side, sinusoid, &a);
        }
        /* note: one ulp of a frequency moves the phase of a large v; see kin_sinusoid_args */
        kin_near_bound bound = kin_near_f32(1, 1);
        bound.eps_out = i == 2 ? 2e-4 : 2e-6;
        bound.scale_min = 1;
        rig_near(r, "y", &y, bound);
        rig_end(r);
    }
}

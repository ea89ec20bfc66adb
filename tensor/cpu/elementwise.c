/* tensor/cpu/elementwise.c: elementwise operations, copies, softmax and sums over broadcast
 * dimensions. */
#include <omp.h>
#include <string.h>

#include "tensor/cpu/cpu.h"
#include "tensor/nd.h"
#include "tensor/ref/ref.h"

/* longest piece of a row that one task takes */
enum { PIECE = 8192 };

static int64_t pieces_of(int64_t n)
{
    return (n + PIECE - 1) / PIECE;
}

kin_status kin_cpu_unary(kin_ctx *ctx, const kin_unary_args *a)
{
    if (!kin_is_f32(a->x) || !kin_is_f32(a->y))
        return kin_ref_unary(ctx, a);
    const kin_simd *s = kin_cpu_simd(ctx);
    const kin_tensor *const v[KIN_ND_VIEWS] = {a->x, a->y, NULL};
    kin_nd nd;
    kin_nd_init(&nd, a->y, v);
    int64_t n = nd.size[nd.ndim - 1], pieces = pieces_of(n);
#pragma omp parallel for num_threads(kin_cpu_threads(ctx, nd.rows *n)) schedule(static)
    for (int64_t i = 0; i < nd.rows * pieces; i++) {
        int64_t at[KIN_ND_VIEWS], c = i % pieces * PIECE, len = n - c < PIECE ? n - c : PIECE;
        kin_nd_row(&nd, i / pieces, at);
        s->unary(a->act, a->alpha, kin_f32(a->x) + at[0] + c, len, kin_f32(a->y) + at[1] + c);
    }
    return KIN_OK;
}

/* The gradient where x or dx (then overwritten) is bf16, by way of short stretches of floats. */
static void half_unary_bwd(const kin_simd *s, const kin_unary_args *a, const kin_tensor *x,
                           int64_t x0, int64_t dy0, int64_t dx0, int64_t n)
{
    enum { STRETCH = 512 };
    float in[STRETCH], out[STRETCH];
    for (int64_t i = 0; i < n; i += STRETCH) {
        const int64_t len = n - i < STRETCH ? n - i : STRETCH;
        const float *from = in;
        const bool half = kin_is_half(a->dx);
        if (kin_is_half(x))
            s->to_f32((const uint16_t *)x->data + x0 + i, KIN_DTYPE_BF16, len, in);
        else
            from = kin_f32(x) + x0 + i;
        s->unary_bwd(a->act, a->alpha, from, kin_f32(a->dy) + dy0 + i, len,
                     half ? out : kin_f32(a->dx) + dx0 + i, !half && a->acc);
        if (half)
            s->to_bf16(out, len, (uint16_t *)a->dx->data + dx0 + i);
    }
}

kin_status kin_cpu_unary_bwd(kin_ctx *ctx, const kin_unary_args *a)
{
    const kin_tensor *x = a->x && a->x->data ? a->x : a->dy;
    if (!kin_is_operand(x) || !kin_is_f32(a->dy) || !kin_is_operand(a->dx))
        return kin_ref_unary_bwd(ctx, a);
    const kin_simd *s = kin_cpu_simd(ctx);
    const kin_tensor *const v[KIN_ND_VIEWS] = {x, a->dy, a->dx};
    kin_nd nd;
    kin_nd_init(&nd, a->dx, v);
    int64_t n = nd.size[nd.ndim - 1], pieces = pieces_of(n);
#pragma omp parallel for num_threads(kin_cpu_threads(ctx, nd.rows *n)) schedule(static)
    for (int64_t i = 0; i < nd.rows * pieces; i++) {
        int64_t at[KIN_ND_VIEWS], c = i % pieces * PIECE, len = n - c < PIECE ? n - c : PIECE;
        kin_nd_row(&nd, i / pieces, at);
        if (kin_is_half(x) || kin_is_half(a->dx))
            half_unary_bwd(s, a, x, at[0] + c, at[1] + c, at[2] + c, len);
        else
            s->unary_bwd(a->act, a->alpha, kin_f32(x) + at[0] + c, kin_f32(a->dy) + at[1] + c, len,
                         kin_f32(a->dx) + at[2] + c, a->acc);
    }
    return KIN_OK;
}

static bool row_stride(int64_t stride)
{
    return stride == 0 || stride == 1;
}

kin_status kin_cpu_binary(kin_ctx *ctx, const kin_binary_args *a)
{
    const kin_tensor *const v[KIN_ND_VIEWS] = {a->a, a->b, a->y};
    kin_nd nd;
    kin_nd_init(&nd, a->y, v);
    int last = nd.ndim - 1;
    int64_t n = nd.size[last], sa = nd.stride[0][last], sb = nd.stride[1][last],
            pieces = pieces_of(n);
    if (!kin_is_f32(a->a) || !kin_is_f32(a->b) || !kin_is_f32(a->y) || !row_stride(sa) ||
        !row_stride(sb) || (nd.stride[2][last] != 1 && n > 1))
        return kin_ref_binary(ctx, a);
    const kin_simd *s = kin_cpu_simd(ctx);
#pragma omp parallel for num_threads(kin_cpu_threads(ctx, nd.rows *n)) schedule(static)
    for (int64_t i = 0; i < nd.rows * pieces; i++) {
        int64_t at[KIN_ND_VIEWS], c = i % pieces * PIECE, len = n - c < PIECE ? n - c : PIECE;
        kin_nd_row(&nd, i / pieces, at);
        s->binary(a->kind == KIN_BINARY_MUL, a->alpha, kin_f32(a->a) + at[0] + c * sa, sa,
                  kin_f32(a->b) + at[1] + c * sb, sb, len, kin_f32(a->y) + at[2] + c, a->acc);
    }
    return KIN_OK;
}

kin_status kin_cpu_copy(kin_ctx *ctx, const kin_tensor *src, kin_tensor *dst, bool acc)
{
    const kin_tensor *const v[KIN_ND_VIEWS] = {src, dst, NULL};
    kin_nd nd;
    if (!acc && src->dtype == dst->dtype && src->dtype != KIN_DTYPE_F32 &&
        kin_tensor_is_contiguous(src) && kin_tensor_is_contiguous(dst)) {
        memmove(dst->data, src->data, (size_t)kin_tensor_numel(src) * kin_dtype_size(src->dtype));
        return KIN_OK;
    }
    kin_nd_init(&nd, dst, v);
    int last = nd.ndim - 1;
    int64_t n = nd.size[last], ss = nd.stride[0][last], pieces = pieces_of(n);
    bool half = src->dtype == KIN_DTYPE_BF16 || src->dtype == KIN_DTYPE_F16;
    bool rows =
        row_stride(ss) && (nd.stride[1][last] == 1 || n == 1) && dst->dtype == KIN_DTYPE_F32;
    if (!rows || !(src->dtype == KIN_DTYPE_F32 || (half && ss == 1 && !acc)))
        return kin_ref_copy(ctx, src, dst, acc);
    const kin_simd *s = kin_cpu_simd(ctx);
    static const float zero = 0.0f;
#pragma omp parallel for num_threads(kin_cpu_threads(ctx, nd.rows *n)) schedule(static)
    for (int64_t i = 0; i < nd.rows * pieces; i++) {
        int64_t at[KIN_ND_VIEWS], c = i % pieces * PIECE, len = n - c < PIECE ? n - c : PIECE;
        kin_nd_row(&nd, i / pieces, at);
        float *d = kin_f32(dst) + at[1] + c;
        if (half)
            s->to_f32((const uint16_t *)src->data + at[0] + c, src->dtype, len, d);
        else if (ss == 1 && !acc)
            memmove(d, kin_f32(src) + at[0] + c, (size_t)len * sizeof(float));
        else
            s->binary(false, 0.0f, kin_f32(src) + at[0] + c * ss, ss, &zero, 0, len, d, acc);
    }
    return KIN_OK;
}

kin_status kin_cpu_fill(kin_ctx *ctx, kin_tensor *dst, double value)
{
    if (!kin_is_f32(dst) || !kin_tensor_is_contiguous(dst))
        return kin_ref_fill(ctx, dst, value);
    int64_t n = kin_tensor_numel(dst), pieces = pieces_of(n);
    float *d = dst->data, f = (float)value;
#pragma omp parallel for num_threads(kin_cpu_threads(ctx, n)) schedule(static)
    for (int64_t p = 0; p < pieces; p++) {
        int64_t end = (p + 1) * PIECE < n ? (p + 1) * PIECE : n;
        for (int64_t i = p * PIECE; i < end; i++)
            d[i] = f;
    }
    return KIN_OK;
}

kin_status kin_cpu_transpose(kin_ctx *ctx, const kin_tensor *x, kin_tensor *y, bool acc)
{
    enum { SIDE = 32 };
    if (!kin_is_f32(x) || !kin_is_f32(y))
        return kin_ref_transpose(ctx, x, y, acc);
    int64_t m = x->size[0], n = x->size[1], cols = (n + SIDE - 1) / SIDE,
            rows = (m + SIDE - 1) / SIDE;
#pragma omp parallel for num_threads(kin_cpu_threads(ctx, m *n)) schedule(static)
    for (int64_t t = 0; t < rows * cols; t++) {
        int64_t r0 = t / cols * SIDE, c0 = t % cols * SIDE;
        int64_t r1 = r0 + SIDE < m ? r0 + SIDE : m, c1 = c0 + SIDE < n ? c0 + SIDE : n;
        for (int64_t c = c0; c < c1; c++) {
            float *d = kin_f32(y) + c * kin_ld(y);
            for (int64_t r = r0; r < r1; r++)
                d[r] = (acc ? d[r] : 0.0f) + kin_f32(x)[r * kin_ld(x) + c];
        }
    }
    return KIN_OK;
}

kin_status kin_cpu_softmax(kin_ctx *ctx, const kin_softmax_args *a)
{
    if (!kin_is_f32(a->x) || a->x->size[1] == 0)
        return kin_ref_softmax(ctx, a);
    const kin_simd *s = kin_cpu_simd(ctx);
    int64_t rows = a->x->size[0], n = a->x->size[1];
#pragma omp parallel for num_threads(kin_cpu_threads(ctx, 4 * rows * n)) schedule(static)
    for (int64_t r = 0; r < rows; r++)
        s->softmax_row(kin_f32(a->x) + r * kin_ld(a->x), n, kin_f32(a->y) + r * kin_ld(a->y));
    return KIN_OK;
}

kin_status kin_cpu_softmax_bwd(kin_ctx *ctx, const kin_softmax_args *a)
{
    if (!kin_is_f32(a->y))
        return kin_ref_softmax_bwd(ctx, a);
    const kin_simd *s = kin_cpu_simd(ctx);
    int64_t rows = a->y->size[0], n = a->y->size[1];
#pragma omp parallel for num_threads(kin_cpu_threads(ctx, 2 * rows * n)) schedule(static)
    for (int64_t r = 0; r < rows; r++)
        s->softmax_row_bwd(kin_f32(a->y) + r * kin_ld(a->y), kin_f32(a->dy) + r * kin_ld(a->dy), n,
                           kin_f32(a->dx) + r * kin_ld(a->dx), a->acc);
    return KIN_OK;
}

kin_status kin_cpu_gated_add(kin_ctx *ctx, const kin_gated_add_args *a)
{
    enum { ROWS = 16 };
    if (!kin_is_f32(a->y))
        return kin_ref_gated_add(ctx, a);
    const kin_simd *s = kin_cpu_simd(ctx);
    int64_t m = a->y->size[0], n = a->y->size[1];
    /* what follows a product, with nothing but gate and residual */
    const kin_epilogue e = {.residual = kin_f32(a->residual),
                            .ld_residual = kin_ld(a->residual),
                            .gate = kin_f32(a->gate),
                            .ld_gate = kin_ld(a->gate),
                            .group_rows = m / a->gate->size[0],
                            .y = kin_f32(a->y),
                            .ld_y = kin_ld(a->y)};
#pragma omp parallel for num_threads(kin_cpu_threads(ctx, m *n)) schedule(static)
    for (int64_t r = 0; r < m; r += ROWS)
        s->epilogue(&e, NULL, r, 0, (int)(m - r < ROWS ? m - r : ROWS), (int)n,
                    kin_f32(a->lin) + r * kin_ld(a->lin), kin_ld(a->lin));
    return KIN_OK;
}

/* Rows of group g, columns [c0, c0+cn), where dlin is bf16, by way of a few rows of floats. */
static void half_gate_rows(const kin_simd *s, const kin_gate_bwd_args *a, int64_t g, int64_t per,
                           int64_t c0, int64_t cn, float *sums)
{
    enum { ROWS = 32, COLS = 64 };
    float part[ROWS * COLS], own[COLS];
    for (int64_t c = 0; sums && c < cn; c++)
        sums[c] = 0.0f;
    for (int64_t i = 0; i < per; i += ROWS) {
        const int64_t n = per - i < ROWS ? per - i : ROWS, r = g * per + i;
        s->gate_rows(kin_f32(a->dy) + r * kin_ld(a->dy) + c0, kin_ld(a->dy),
                     sums ? kin_f32(a->lin) + r * kin_ld(a->lin) + c0 : NULL, kin_ld(a->lin),
                     kin_f32(a->gate) + g * kin_ld(a->gate) + c0, n, cn, part, COLS,
                     sums ? own : NULL);
        for (int64_t c = 0; sums && c < cn; c++)
            sums[c] += own[c];
        for (int64_t j = 0; j < n; j++)
            s->to_bf16(part + j * COLS, cn,
                       (uint16_t *)a->dlin->data + (r + j) * kin_ld(a->dlin) + c0);
    }
}

kin_status kin_cpu_gate_bwd(kin_ctx *ctx, const kin_gate_bwd_args *a)
{
    enum { STRIP = 64 };
    if (!kin_is_f32(a->dy))
        return kin_ref_gate_bwd(ctx, a);
    const kin_simd *s = kin_cpu_simd(ctx);
    bool want_lin = a->dlin && a->dlin->data, want_gate = a->dgate && a->dgate->data;
    int64_t m = a->dy->size[0], n = a->dy->size[1];
    int64_t groups = want_gate                  ? a->dgate->size[0]
                     : a->gate && a->gate->data ? a->gate->size[0]
                                                : 1;
    if (m == 0 || n == 0 || groups == 0)
        return KIN_OK;
    /* note: gate and dgate have the same number of rows unless one of them is not there */
    if (want_lin && a->gate->size[0] != groups)
        return kin_ref_gate_bwd(ctx, a);
    int64_t per = m / groups, strips = (n + STRIP - 1) / STRIP;
#pragma omp parallel for num_threads(kin_cpu_threads(ctx, m *n)) schedule(static)
    for (int64_t i = 0; i < groups * strips; i++) {
        int64_t g = i / strips, c0 = i % strips * STRIP, cn = n - c0 < STRIP ? n - c0 : STRIP,
                r0 = g * per;
        float sums[STRIP];
        if (want_lin && kin_is_half(a->dlin)) {
            half_gate_rows(s, a, g, per, c0, cn, want_gate ? sums : NULL);
        } else
            s->gate_rows(kin_f32(a->dy) + r0 * kin_ld(a->dy) + c0, kin_ld(a->dy),
                         want_gate ? kin_f32(a->lin) + r0 * kin_ld(a->lin) + c0 : NULL,
                         kin_ld(a->lin),
                         want_lin ? kin_f32(a->gate) + g * kin_ld(a->gate) + c0 : NULL, per, cn,
                         want_lin ? kin_f32(a->dlin) + r0 * kin_ld(a->dlin) + c0 : NULL,
                         kin_ld(a->dlin), want_gate ? sums : NULL);
        for (int64_t c = 0; c < cn && want_gate; c++) {
            float *d = kin_f32(a->dgate) + g * kin_ld(a->dgate) + c0 + c;
            *d = a->acc_dgate ? *d + sums[c] : sums[c];
        }
    }
    return KIN_OK;
}

/* tensor/cpu/grouped.c: expert layers over tokens sorted by expert. All experts' products go to the
 * threads together, as tasks of (expert, rows, columns); rows are gathered while the left operand
 * is packed. */
#include <omp.h>

#include "tensor/cpu/quant.h"
#include "tensor/ref/ref.h"

static const int32_t *ints(const kin_tensor *t)
{
    return t->data;
}

/* Rows of group e in sorted order: *first and their number. A plan has no data and takes the most
 * there can be. */
static int64_t group_rows(const kin_ctx *ctx, const kin_dispatch *d, int64_t e, int64_t *first)
{
    if (kin_ctx_is_plan(ctx)) {
        *first = 0;
        return d->rows;
    }
    *first = ints(&d->offset)[e];
    return ints(&d->offset)[e + 1] - *first;
}

/* Rows of x [T,k] in sorted order, or NULL where x is sorted itself. */
static kin_status source_rows(kin_ctx *ctx, const kin_dispatch *d, bool gather, const int32_t **out)
{
    *out = NULL;
    if (!gather)
        return KIN_OK;
    if (d->slots == 1) {
        *out = ints(&d->order);
        return KIN_OK;
    }
    int32_t *rows = kin_ws_bytes(ctx, (size_t)(d->rows + 1) * sizeof(int32_t));
    if (!rows)
        return ctx->error.status;
    int64_t n = kin_ctx_is_plan(ctx) ? 0 : ints(&d->offset)[d->groups];
    for (int64_t i = 0; i < n; i++)
        rows[i] = ints(&d->order)[i] / (int32_t)d->slots;
    *out = rows;
    return KIN_OK;
}

/* One way for all experts: weights stay in bf16 where all of them are. */
static kin_product grouped_product(const kin_ctx *ctx, kin_param *const *w, int64_t groups)
{
    kin_product mode = kin_cpu_product(ctx);
    for (int64_t e = 0; e < groups; e++)
        if (kin_cpu_weight_product(ctx, w[e]) == mode)
            return mode;
    return KIN_PRODUCT_W16;
}

/* What expert e does with its sums of rows [s0, s0+m). */
static kin_status expert_epilogue(kin_ctx *ctx, const kin_grouped_args *a, int64_t e, int64_t s0,
                                  int64_t m, kin_epilogue *epi)
{
    *epi = (kin_epilogue){.act = a->act,
                          .group_rows = m,
                          .ld_pre = kin_ld(a->pre),
                          .y = kin_rows_at(a->y, s0),
                          .half = kin_is_half(a->y),
                          .ld_y = kin_ld(a->y)};
    if (a->pre && a->pre->data) {
        epi->pre = kin_rows_at(a->pre, s0);
        epi->pre_half = kin_is_half(a->pre);
    }
    return kin_cpu_param_f32(ctx, a->b ? a->b[e] : NULL, a->n, &epi->bias);
}

/* All rows of x that experts read, in 8-bit integers; room for the most there can be. */
static kin_status quantize(kin_ctx *ctx, const kin_grouped_args *a, kin_int8_left *left)
{
    int64_t room = a->gather ? a->d->tokens : a->d->rows, rows = room;
    if (!a->gather && !kin_ctx_is_plan(ctx))
        rows = ints(&a->d->offset)[a->d->groups];
    return kin_cpu_int8_left(ctx, a->x, rows, room, a->k, left);
}

kin_status kin_cpu_grouped(kin_ctx *ctx, const kin_grouped_args *a)
{
    if (!kin_is_operand(a->x))
        return kin_ref_grouped(ctx, a);
    size_t mark = kin_ws_mark(ctx);
    int64_t groups = a->d->groups, s0;
    kin_product mode = grouped_product(ctx, a->w, groups);
    bool int8 = kin_product_dtype(ctx, a->w[0], a->n, a->k) == KIN_DTYPE_I8;
    const int32_t *rows;
    kin_gemm *g = kin_ws_bytes(ctx, (size_t)groups * sizeof(*g));
    kin_epilogue *epi = kin_ws_bytes(ctx, (size_t)groups * sizeof(*epi));
    kin_dequant *deq = kin_ws_bytes(ctx, (size_t)groups * sizeof(*deq));
    kin_int8_left left;
    if (!g || !epi || !deq)
        return ctx->error.status;
    KIN_TRY(source_rows(ctx, a->d, a->gather, &rows));
    if (int8)
        KIN_TRY(quantize(ctx, a, &left));
    for (int64_t e = 0; e < groups; e++) {
        int64_t m = group_rows(ctx, a->d, e, &s0);
        const int32_t *mine = rows ? rows + s0 : NULL;
        g[e] = (kin_gemm){0};
        if (m == 0)
            continue;
        g[e] = (kin_gemm){.m = m, .n = a->n, .k = a->k, .a_rows = mine, .epi = &epi[e]};
        g[e].a = kin_rows_at(a->x, rows ? 0 : s0);
        g[e].a_half = kin_is_half(a->x);
        g[e].lda = kin_ld(a->x);
        KIN_TRY(expert_epilogue(ctx, a, e, s0, m, &epi[e]));
        if (int8)
            KIN_TRY(kin_cpu_int8_gemm(ctx, &left, mine, s0, a->w[e], a->n, a->k, &deq[e], &g[e]));
        else
            KIN_TRY(kin_cpu_right(ctx, a->w[e], a->n, a->k, false, mode, &g[e]));
    }
    KIN_TRY(kin_cpu_gemm(ctx, g, groups, int8 ? left.mode : mode));
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

kin_status kin_cpu_grouped_dx(kin_ctx *ctx, const kin_grouped_bwd_args *a)
{
    if (!kin_is_operand(a->dy))
        return kin_ref_grouped_dx(ctx, a);
    size_t mark = kin_ws_mark(ctx);
    int64_t groups = a->d->groups, s0;
    kin_product mode = grouped_product(ctx, a->w, groups);
    kin_gemm *g = kin_ws_bytes(ctx, (size_t)groups * sizeof(*g));
    kin_epilogue *epi = kin_ws_bytes(ctx, (size_t)groups * sizeof(*epi));
    if (!g || !epi)
        return ctx->error.status;
    for (int64_t e = 0; e < groups; e++) {
        int64_t m = group_rows(ctx, a->d, e, &s0);
        g[e] = (kin_gemm){0};
        if (m == 0)
            continue;
        g[e] = (kin_gemm){.m = m,
                          .n = a->k,
                          .k = a->n,
                          .a = kin_rows_at(a->dy, s0),
                          .a_half = kin_is_half(a->dy),
                          .lda = kin_ld(a->dy),
                          .c = kin_f32(a->dx) + s0 * kin_ld(a->dx),
                          .ldc = kin_ld(a->dx)};
        if (a->past) {
            kin_cpu_past_epilogue(a->act, a->past, s0, a->dx, &epi[e]);
            g[e].epi = &epi[e];
        }
        KIN_TRY(kin_cpu_right(ctx, a->w[e], a->n, a->k, true, mode, &g[e]));
    }
    KIN_TRY(kin_cpu_gemm(ctx, g, groups, mode));
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

static void bias_sums(kin_ctx *ctx, const kin_grouped_bwd_args *a)
{
    enum { STRIP = 128 };
    const kin_simd *s = kin_cpu_simd(ctx);
    const int32_t *offset = ints(&a->d->offset);
    int64_t strips = (a->n + STRIP - 1) / STRIP;
#pragma omp parallel for num_threads(kin_cpu_threads(ctx, offset[a->d->groups] * a->n)) \
    schedule(dynamic, 4)
    for (int64_t i = 0; i < a->d->groups * strips; i++) {
        int64_t e = i / strips, c0 = i % strips * STRIP, cn = a->n - c0 < STRIP ? a->n - c0 : STRIP;
        kin_param *b = a->b ? a->b[e] : NULL;
        if (b && b->grad.data && offset[e] < offset[e + 1])
            kin_cpu_column_sums(s, a->dy, offset[e], offset[e + 1] - offset[e], c0, cn,
                                (float *)b->grad.data + c0);
    }
}

kin_status kin_cpu_grouped_dw(kin_ctx *ctx, const kin_grouped_bwd_args *a)
{
    if (!kin_is_operand(a->dy))
        return kin_ref_grouped_dw(ctx, a);
    size_t mark = kin_ws_mark(ctx);
    const int32_t *rows;
    int64_t s0, jobs = 0;
    kin_gemm_tn *g = kin_ws_bytes(ctx, (size_t)a->d->groups * sizeof(*g));
    if (!g)
        return ctx->error.status;
    KIN_TRY(source_rows(ctx, a->d, a->gather, &rows));
    for (int64_t e = 0; e < a->d->groups; e++) {
        int64_t m = group_rows(ctx, a->d, e, &s0);
        if (m == 0 || !a->w[e]->grad.data)
            continue;
        g[jobs++] = (kin_gemm_tn){.m = a->n,
                                  .n = a->k,
                                  .k = m,
                                  .k_max = a->d->rows,
                                  .a = kin_rows_at(a->dy, s0),
                                  .a_half = kin_is_half(a->dy),
                                  .lda = kin_ld(a->dy),
                                  .b = kin_rows_at(a->x, rows ? 0 : s0),
                                  .b_half = kin_is_half(a->x),
                                  .ldb = kin_ld(a->x),
                                  .b_rows = rows ? rows + s0 : NULL,
                                  .c = a->w[e]->grad.data,
                                  .ldc = a->k};
    }
    KIN_TRY(kin_cpu_gemm_tn(ctx, g, jobs, kin_cpu_product(ctx)));
    if (kin_cpu_planned(ctx, mark))
        return KIN_OK;
    bias_sums(ctx, a);
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

static float slot_weight(const kin_combine_args *a, int64_t t, int64_t k)
{
    const kin_tensor *w = &a->d->weight;
    return a->weighted ? kin_f32(w)[t * w->stride[0] + k * w->stride[1]] : 1.0f;
}

kin_status kin_cpu_combine(kin_ctx *ctx, const kin_combine_args *a)
{
    if (!kin_is_f32(a->z) || !kin_is_f32(a->y))
        return kin_ref_combine(ctx, a);
    const kin_simd *s = kin_cpu_simd(ctx);
    const kin_dispatch *d = a->d;
    const int32_t *inverse = ints(&d->inverse);
    static const float zero = 0.0f;
#pragma omp parallel for num_threads(kin_cpu_threads(ctx, d->tokens * a->n)) schedule(static)
    for (int64_t t = 0; t < d->tokens; t++) {
        float *y = kin_f32(a->y) + t * kin_ld(a->y);
        bool acc = a->acc;
        if (a->base && a->base->data) {
            s->put_rows(1, a->n, 1.0f, kin_f32(a->base) + t * kin_ld(a->base), 0, y, 0, acc);
            acc = true;
        }
        for (int64_t k = 0; k < d->slots; k++) {
            int64_t row = inverse[t * d->slots + k];
            if (row < 0)
                continue;
            s->put_rows(1, a->n, slot_weight(a, t, k), kin_f32(a->z) + row * kin_ld(a->z), 0, y, 0,
                        acc);
            acc = true;
        }
        if (!acc)
            s->binary(false, 0.0f, &zero, 0, &zero, 0, a->n, y, false);
    }
    return KIN_OK;
}

kin_status kin_cpu_combine_bwd(kin_ctx *ctx, const kin_combine_args *a)
{
    if (!kin_is_f32(a->dy))
        return kin_ref_combine_bwd(ctx, a);
    const kin_simd *s = kin_cpu_simd(ctx);
    const kin_dispatch *d = a->d;
    const int32_t *inverse = ints(&d->inverse);
    bool want_z = a->dz && a->dz->data, want_w = a->dweight && a->dweight->data;
#pragma omp parallel for num_threads(kin_cpu_threads(ctx, d->tokens * a->n)) schedule(static)
    for (int64_t i = 0; i < d->tokens * d->slots; i++) {
        int64_t t = i / d->slots, k = i % d->slots, row = inverse[i];
        const float *dy = kin_f32(a->dy) + t * kin_ld(a->dy);
        float dot = 0.0f;
        if (row >= 0 && want_z)
            s->put_rows(1, a->n, slot_weight(a, t, k), dy, 0, kin_f32(a->dz) + row * kin_ld(a->dz),
                        0, false);
        if (row >= 0 && want_w)
            dot = s->dot(dy, kin_f32(a->z) + row * kin_ld(a->z), a->n);
        if (want_w) {
            float *w = kin_f32(a->dweight) + t * a->dweight->stride[0] + k * a->dweight->stride[1];
            *w = a->acc ? *w + dot : dot;
        }
    }
    return KIN_OK;
}

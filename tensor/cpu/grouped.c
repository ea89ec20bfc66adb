/* tensor/cpu/grouped.c: the experts' products: one packed product per expert, all split over the
 * threads together. Rows are gathered while A is packed; an expert without rows costs nothing. */
#include <string.h>

#include "tensor/cpu/cpu.h"

/* Row of the token matrix for every sorted row, or NULL without gathering. */
static kin_status token_rows(kin_ctx *ctx, const kin_dispatch *d, bool gather, const int32_t **out)
{
    *out = NULL;
    if (!gather)
        return KIN_OK;
    const int32_t *order = d->order.data, *offset = d->offset.data;
    if (d->slots == 1) {
        *out = order;
        return KIN_OK;
    }
    int32_t *rows = kin_ws_bytes(ctx, (size_t)(d->tokens * d->slots) * sizeof(*rows));
    if (!rows)
        return ctx->error.status;
    for (int32_t i = 0; i < offset[d->groups]; i++)
        rows[i] = order[i] / (int32_t)d->slots;
    *out = rows;
    return KIN_OK;
}

static kin_gemm *gemm_list(kin_ctx *ctx, int64_t count)
{
    kin_gemm *g = kin_ws_bytes(ctx, (size_t)count * sizeof(*g));
    if (g)
        memset(g, 0, (size_t)count * sizeof(*g));
    return g;
}

kin_status kin_cpu_grouped(kin_ctx *ctx, const kin_grouped_args *a)
{
    size_t mark = kin_ws_mark(ctx);
    kin_product mode = kin_cpu_product(ctx);
    const kin_dispatch *d = a->d;
    const int32_t *offset = d->offset.data, *rows;
    KIN_TRY(token_rows(ctx, d, a->gather, &rows));
    kin_gemm *g = gemm_list(ctx, d->groups);
    kin_epilogue *epi = kin_ws_bytes(ctx, (size_t)d->groups * sizeof(*epi));
    if (!g || !epi)
        return ctx->error.status;
    for (int64_t e = 0; e < d->groups; e++) {
        int64_t r0 = offset[e];
        g[e].m = offset[e + 1] - r0;
        if (g[e].m == 0)
            continue;
        const float *bias;
        KIN_TRY(kin_cpu_pack(ctx, a->w[e], a->n, a->k, false, mode, &g[e].b_pack));
        KIN_TRY(kin_cpu_param_f32(ctx, a->b[e], a->n, &bias));
        epi[e] = (kin_epilogue){.bias = bias,
                                .act = a->act,
                                .group_rows = g[e].m,
                                .pre = a->pre ? kin_f32(a->pre) + r0 * kin_ld(a->pre) : NULL,
                                .ld_pre = kin_ld(a->pre),
                                .y = kin_f32(a->y) + r0 * kin_ld(a->y),
                                .ld_y = kin_ld(a->y)};
        g[e].n = a->n;
        g[e].k = a->k;
        g[e].a = kin_f32(a->x) + (rows ? 0 : r0 * kin_ld(a->x));
        g[e].a_rows = rows ? rows + r0 : NULL;
        g[e].lda = kin_ld(a->x);
        g[e].epi = &epi[e];
    }
    KIN_TRY(kin_cpu_gemm(ctx, g, d->groups, mode));
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

kin_status kin_cpu_grouped_dx(kin_ctx *ctx, const kin_grouped_bwd_args *a)
{
    size_t mark = kin_ws_mark(ctx);
    kin_product mode = kin_cpu_product(ctx);
    const kin_dispatch *d = a->d;
    const int32_t *offset = d->offset.data;
    kin_gemm *g = gemm_list(ctx, d->groups);
    if (!g)
        return ctx->error.status;
    for (int64_t e = 0; e < d->groups; e++) {
        int64_t r0 = offset[e];
        g[e].m = offset[e + 1] - r0;
        if (g[e].m == 0)
            continue;
        KIN_TRY(kin_cpu_pack(ctx, a->w[e], a->n, a->k, true, mode, &g[e].b_pack));
        g[e].n = a->k;
        g[e].k = a->n;
        g[e].a = kin_f32(a->dy) + r0 * kin_ld(a->dy);
        g[e].lda = kin_ld(a->dy);
        g[e].c = kin_f32(a->dx) + r0 * kin_ld(a->dx);
        g[e].ldc = kin_ld(a->dx);
    }
    KIN_TRY(kin_cpu_gemm(ctx, g, d->groups, mode));
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

kin_status kin_cpu_grouped_dw(kin_ctx *ctx, const kin_grouped_bwd_args *a)
{
    size_t mark = kin_ws_mark(ctx);
    const kin_simd *s = kin_cpu_simd(ctx);
    const kin_dispatch *d = a->d;
    const int32_t *offset = d->offset.data, *rows;
    KIN_TRY(token_rows(ctx, d, a->gather, &rows));
    kin_gemm *g = gemm_list(ctx, d->groups);
    if (!g)
        return ctx->error.status;
    for (int64_t e = 0; e < d->groups; e++) {
        int64_t r0 = offset[e], m = offset[e + 1] - r0;
        if (m == 0 || !a->w[e]->grad.data)
            continue;
        g[e] = (kin_gemm){.m = a->n,
                          .n = a->k,
                          .k = m,
                          .a = kin_f32(a->dy) + r0 * kin_ld(a->dy),
                          .lda = kin_ld(a->dy),
                          .a_kmajor = true,
                          .b = kin_f32(a->x) + (rows ? 0 : r0 * kin_ld(a->x)),
                          .b_rows = rows ? rows + r0 : NULL,
                          .ldb = kin_ld(a->x),
                          .c = a->w[e]->grad.data,
                          .ldc = a->k,
                          .acc = true};
    }
    KIN_TRY(kin_cpu_gemm(ctx, g, d->groups, kin_cpu_product(ctx)));
#pragma omp parallel for num_threads(ctx->threads) if (ctx->threads > 1) schedule(dynamic, 1)
    for (int64_t e = 0; e < d->groups; e++) {
        int64_t r0 = offset[e], m = offset[e + 1] - r0;
        if (m > 0 && a->b[e] && a->b[e]->grad.data)
            s->column_sums(kin_f32(a->dy) + r0 * kin_ld(a->dy), kin_ld(a->dy), m, a->n,
                           a->b[e]->grad.data);
    }
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

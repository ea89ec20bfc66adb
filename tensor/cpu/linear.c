/* tensor/cpu/linear.c: linear layers and their gradients on the packed products. */
#include "tensor/cpu/cpu.h"
#include "tensor/cpu/choose.h"
#include "tensor/cpu/onednn.h"
#include "tensor/cpu/quant.h"
#include "tensor/ref/ref.h"

kin_status kin_cpu_linear_epilogue(kin_ctx *ctx, const kin_linear_args *a, kin_epilogue *epi)
{
    *epi = (kin_epilogue){.act = a->act,
                          .residual = kin_f32(a->residual),
                          .ld_residual = kin_ld(a->residual),
                          .gate = kin_f32(a->gate),
                          .ld_gate = kin_ld(a->gate),
                          .group_rows = a->m,
                          .pre = a->pre ? a->pre->data : NULL,
                          .pre_half = kin_is_half(a->pre),
                          .ld_pre = kin_ld(a->pre),
                          .y = a->y->data,
                          .half = kin_is_half(a->y),
                          .ld_y = kin_ld(a->y)};
    if (epi->gate && a->gate->size[0] > 0)
        epi->group_rows = a->m / a->gate->size[0];
    return kin_cpu_param_f32(ctx, a->b, a->n, &epi->bias);
}

void kin_cpu_past_epilogue(kin_act act, const kin_tensor *past, int64_t row0, const kin_tensor *dx,
                           kin_epilogue *epi)
{
    *epi = (kin_epilogue){.act = act,
                          .past = kin_rows_at(past, row0),
                          .past_half = kin_is_half(past),
                          .ld_past = kin_ld(past),
                          .y = kin_rows_at(dx, row0),
                          .half = kin_is_half(dx),
                          .ld_y = kin_ld(dx)};
}

kin_status kin_cpu_linear(kin_ctx *ctx, const kin_linear_args *a)
{
    if (!kin_is_operand(a->x))
        return kin_ref_linear(ctx, a);
    if (!a->w->once && kin_cpu_use_onednn(ctx, a->w, a->n, a->k) && kin_is_f32(a->x) &&
        kin_is_f32(a->y))
        return kin_onednn_linear(ctx, a);
    size_t mark = kin_ws_mark(ctx);
    kin_product mode = kin_cpu_weight_product(ctx, a->w);
    bool int8 = kin_product_dtype(ctx, a->w, a->n, a->k) == KIN_DTYPE_I8;
    kin_epilogue epi;
    kin_dequant deq;
    KIN_TRY(kin_cpu_linear_epilogue(ctx, a, &epi));
    bool plain =
        !epi.bias && a->act == KIN_ACT_NONE && !epi.residual && !epi.gate && !epi.pre && !epi.half;
    kin_gemm g = {.m = a->m,
                  .n = a->n,
                  .k = a->k,
                  .a = a->x->data,
                  .a_half = kin_is_half(a->x),
                  .lda = kin_ld(a->x),
                  .c = epi.y,
                  .ldc = epi.ld_y,
                  .epi = plain && !int8 ? NULL : &epi};
    if (int8) {
        kin_int8_left left;
        KIN_TRY(kin_cpu_int8_left(ctx, a->x, a->m, a->m, a->k, &left));
        KIN_TRY(kin_cpu_int8_gemm(ctx, &left, NULL, 0, a->w, a->n, a->k, &deq, &g));
        mode = left.mode;
    } else {
        KIN_TRY(a->w->once ? kin_cpu_right(ctx, a->w, a->n, a->k, false, mode, &g)
                           : kin_cpu_pack(ctx, a->w, a->n, a->k, false, mode, &g.b_pack));
        g.live_n = a->out;
        g.live_k = a->in;
    }
    KIN_TRY(kin_cpu_gemm(ctx, &g, 1, mode));
    if (g.b && !kin_ctx_is_plan(ctx))
        kin_param_drop_pages(a->w);
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

kin_status kin_cpu_linear_dx(kin_ctx *ctx, const kin_linear_bwd_args *a)
{
    if (!kin_is_operand(a->dy))
        return kin_ref_linear_dx(ctx, a);
    if (!a->past && kin_cpu_use_onednn(ctx, a->w, a->n, a->k) && kin_is_f32(a->dy))
        return kin_onednn_linear_dx(ctx, a);
    kin_product mode = kin_cpu_weight_product(ctx, a->w);
    kin_epilogue epi;
    const float *pack;
    KIN_TRY(kin_cpu_pack(ctx, a->w, a->n, a->k, true, mode, &pack));
    kin_gemm g = {.m = a->m,
                  .n = a->k,
                  .k = a->n,
                  .a = a->dy->data,
                  .a_half = kin_is_half(a->dy),
                  .lda = kin_ld(a->dy),
                  .b_pack = pack,
                  .c = kin_f32(a->dx),
                  .ldc = kin_ld(a->dx),
                  .acc = a->acc};
    if (a->past) {
        kin_cpu_past_epilogue(a->act, a->past, 0, a->dx, &epi);
        g.epi = &epi;
    }
    return kin_cpu_gemm(ctx, &g, 1, mode);
}

void kin_cpu_column_sums(const kin_simd *s, const kin_tensor *t, int64_t row0, int64_t rows,
                         int64_t c0, int64_t cols, float *dst)
{
    enum { ROWS = 16, COLS = 128 };
    const int64_t ld = kin_ld(t);
    if (!kin_is_half(t)) {
        s->column_sums(kin_f32(t) + row0 * ld + c0, ld, rows, cols, dst);
        return;
    }
    float part[ROWS * COLS];
    for (int64_t r = 0; r < rows; r += ROWS) {
        const int64_t n = rows - r < ROWS ? rows - r : ROWS;
        const uint16_t *src = (const uint16_t *)t->data + (row0 + r) * ld + c0;
        for (int64_t i = 0; i < n; i++)
            s->to_f32(src + i * ld, KIN_DTYPE_BF16, cols, part + i * COLS);
        s->column_sums(part, COLS, n, cols, dst);
    }
}

kin_status kin_cpu_linear_dw(kin_ctx *ctx, const kin_linear_bwd_args *a)
{
    if (!kin_is_operand(a->dy))
        return kin_ref_linear_dw(ctx, a);
    const kin_simd *s = kin_cpu_simd(ctx);
    if (a->w && a->w->grad.data) {
        kin_gemm_tn g = {.m = a->n,
                         .n = a->k,
                         .k = a->m,
                         .a = a->dy->data,
                         .a_half = kin_is_half(a->dy),
                         .lda = kin_ld(a->dy),
                         .b = a->x->data,
                         .b_half = kin_is_half(a->x),
                         .ldb = kin_ld(a->x),
                         .c = a->w->grad.data,
                         .ldc = a->k};
        KIN_TRY(kin_cpu_gemm_tn(ctx, &g, 1, kin_cpu_product(ctx)));
    }
    if (a->b && a->b->grad.data && !kin_ctx_is_plan(ctx)) {
        enum { STRIP = 128 };
        int64_t strips = (a->n + STRIP - 1) / STRIP;
        float *db = a->b->grad.data;
#pragma omp parallel for num_threads(ctx->threads) if (ctx->threads > 1 && a->m * a->n > 16384)
        for (int64_t i = 0; i < strips; i++) {
            int64_t c0 = i * STRIP, cn = a->n - c0 < STRIP ? a->n - c0 : STRIP;
            kin_cpu_column_sums(s, a->dy, 0, a->m, c0, cn, db + c0);
        }
    }
    return KIN_OK;
}

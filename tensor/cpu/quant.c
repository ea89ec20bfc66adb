#include "tensor/cpu/quant.h"

#include <math.h>
#include <omp.h>
#include <string.h>

static int64_t words_of(kin_product mode, int64_t k)
{
    return mode == KIN_PRODUCT_I8 ? (k + 3) / 4 : k;
}

/* One row, offset: bytes unsigned, 128 more. Returns what the product's sums are too large by when
 * the other operand has that offset. */
static int32_t quantize(const kin_simd *s, kin_product mode, const void *x, bool half, int64_t k,
                        kin_quant q, bool offset, float *dst)
{
    /* a step that is not a number makes the whole row so, whatever its integers */
    if (!isfinite(q.step)) {
        memset(dst, 0, (size_t)words_of(mode, k) * sizeof(float));
        return 0;
    }
    if (mode == KIN_PRODUCT_I8)
        return 128 * s->quant_bytes(x, half, k, q, offset, dst);
    s->quant_floats(x, k, q, dst);
    return 0;
}

kin_status kin_cpu_int8_left(kin_ctx *ctx, const kin_tensor *x, int64_t rows, int64_t room,
                             int64_t k, kin_int8_left *out)
{
    const kin_simd *s = kin_cpu_simd(ctx);
    kin_product mode = kin_cpu_product_of(ctx, KIN_DTYPE_I8);
    int64_t ld = words_of(mode, k);
    float *q = kin_ws_bytes(ctx, (size_t)(room * ld + 16) * sizeof(float));
    float *step = kin_ws_bytes(ctx, (size_t)(room + 1) * sizeof(float));
    int32_t *shift = kin_ws_bytes(ctx, (size_t)(room + 1) * sizeof(int32_t));
    const bool half = kin_is_half(x);
    if (!q || !step || !shift)
        return ctx->error.status;
    *out = (kin_int8_left){.mode = mode,
                           .k = ld,
                           .ld = ld,
                           .rows = q,
                           .step = step,
                           .shift = mode == KIN_PRODUCT_I8 ? shift : NULL};
    if (kin_ctx_is_plan(ctx))
        return KIN_OK;
#pragma omp parallel for num_threads(kin_cpu_threads(ctx, rows *k)) schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        const void *row = kin_rows_at(x, r);
        kin_quant how = s->quant_scale(row, half, k);
        step[r] = how.step;
        shift[r] = quantize(s, mode, row, half, k, how, false, q + r * ld);
    }
    return KIN_OK;
}

/* Panel of columns [c0, c0+cn) of w [n,k]. tmp: nr rows of words and one of k floats. */
static void pack_panel(const kin_simd *s, const kin_engine *e, kin_product mode, const kin_param *w,
                       int64_t k, int64_t c0, int64_t cn, float *tmp, float *dst, float *step)
{
    int64_t ld = words_of(mode, k);
    float *row = tmp + e->nr * ld;
    for (int64_t c = 0; c < cn; c++) {
        kin_cpu_values(s, &w->value, (c0 + c) * k, k, row);
        kin_quant how = s->quant_scale(row, false, k);
        step[c] = how.step;
        quantize(s, mode, row, false, k, how, true, tmp + c * ld);
    }
    for (int64_t c = cn; c < e->nr; c++)
        step[c] = 0;
    e->right_rows(tmp, ld, NULL, cn, e->nr, ld, dst);
}

/* *panels and, behind them, *step [panels * nr]. */
static kin_status pack_weight(kin_ctx *ctx, kin_param *w, int64_t n, int64_t k, kin_product mode,
                              const float **panels, const float **step)
{
    const kin_simd *s = kin_cpu_simd(ctx);
    const kin_engine *e = kin_cpu_engine(ctx, mode);
    uint64_t key = UINT64_C(0x800000) + (uint64_t)e->nr * 64u + (uint64_t)mode;
    key += (uint64_t)e->align << 32; /* the AMX level pads k */
    int64_t ld = words_of(mode, k), count = (n + e->nr - 1) / e->nr;
    int64_t words = kin_engine_steps(e, ld) * e->right_words, all = count * words + 16;
    kin_pack *pack = kin_param_pack_find(w, key);
    if (!pack) {
        int threads = kin_cpu_threads(ctx, n * k);
        size_t mark = kin_ws_mark(ctx), per_thread = (size_t)(e->nr * ld + k + 16);
        float *tmp = kin_ws_bytes(ctx, (size_t)threads * per_thread * sizeof(float));
        if (!tmp)
            return ctx->error.status;
        KIN_TRY(
            kin_cpu_pack_get(ctx, w, key, (size_t)(all + count * e->nr) * sizeof(float), &pack));
        float *dst = pack->data;
        *panels = *step = dst;
        if (kin_cpu_planned(ctx, mark))
            return KIN_OK;
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
        for (int64_t p = 0; p < count; p++) {
            int64_t c0 = p * e->nr, cn = n - c0 < e->nr ? n - c0 : e->nr;
            pack_panel(s, e, mode, w, k, c0, cn, tmp + (size_t)omp_get_thread_num() * per_thread,
                       dst + p * words, dst + all + c0);
        }
        kin_ws_release(ctx, mark);
        kin_param_drop_pages(w);
    }
    *panels = pack->data;
    *step = *panels ? *panels + all : NULL; /* a plan keeps no data */
    return KIN_OK;
}

kin_status kin_cpu_int8_gemm(kin_ctx *ctx, const kin_int8_left *left, const int32_t *rows,
                             int64_t first, kin_param *w, int64_t n, int64_t k, kin_dequant *deq,
                             kin_gemm *g)
{
    KIN_TRY(pack_weight(ctx, w, n, k, left->mode, &g->b_pack, &deq->col_step));
    first = rows ? 0 : first;
    deq->rows = rows;
    deq->row_step = left->step + first;
    deq->row_shift = left->shift ? left->shift + first : NULL;
    g->a = left->rows + first * left->ld;
    g->a_half = false;
    g->lda = left->ld;
    g->a_rows = rows;
    g->k = left->k;
    g->deq = deq;
    return KIN_OK;
}

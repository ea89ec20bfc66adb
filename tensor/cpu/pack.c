/* tensor/cpu/pack.c: packed forms of weights, made once per version and kept with the parameter:
 * the engine's panels of nr columns, the last one padded with zeros. */
#include <omp.h>

#include "tensor/cpu/cpu.h"

enum { CHUNK = 256 };

/* q[0..n) times the factor of their block; whole blocks have a loop of fixed length. */
static void unpack_block(const int8_t *q, float scale, int64_t n, float *out)
{
    if (n == KIN_BLOCK)
        for (int j = 0; j < KIN_BLOCK; j++)
            out[j] = scale * (float)q[j];
    else
        for (int64_t j = 0; j < n; j++)
            out[j] = scale * (float)q[j];
}

void kin_cpu_values(const kin_simd *s, const kin_tensor *t, int64_t at, int64_t n, float *out)
{
    if (!t->scale) {
        s->to_f32((const char *)t->data + (size_t)at * kin_dtype_size(t->dtype), t->dtype, n, out);
        return;
    }
    const int64_t k = t->size[t->ndim - 1];
    for (int64_t end = at + n, len; at < end; at += len, out += len) {
        const int64_t in_row = at % k, row_left = k - in_row, left = KIN_BLOCK - in_row % KIN_BLOCK;
        len = left < row_left ? left : row_left;
        len = len < end - at ? len : end - at;
        unpack_block((const int8_t *)t->data + at, kin_block_scale(t, at), len, out);
    }
}

static void pack_panel(const kin_simd *s, const kin_engine *e, const kin_param *w, int64_t n,
                       int64_t k, bool transposed, int64_t panel, float *tmp, float *dst)
{
    int64_t cols = transposed ? k : n, depth = transposed ? n : k;
    int64_t c0 = panel * e->nr, cn = cols - c0 < e->nr ? cols - c0 : e->nr;
    for (int64_t d0 = 0; d0 < depth; d0 += CHUNK) {
        int64_t dn = depth - d0 < CHUNK ? depth - d0 : CHUNK;
        float *out = dst + kin_engine_steps(e, d0) * e->right_words;
        const int64_t first = transposed ? d0 * k + c0 : c0 * k + d0;
        const float *f = tmp;
        int64_t ld = k;
        if (w->value.dtype == KIN_DTYPE_BF16 && e->half.right_rows) {
            const uint16_t *h = (const uint16_t *)w->value.data + first;
            if (transposed)
                e->half.right_steps(h, k, NULL, cn, e->nr, dn, 0, out);
            else
                e->half.right_rows(h, k, NULL, cn, e->nr, dn, out);
            continue;
        }
        if (w->value.dtype == KIN_DTYPE_F32) {
            f = (const float *)w->value.data + first;
        } else {
            int64_t rows = transposed ? dn : cn, len = transposed ? cn : dn;
            for (int64_t r = 0; r < rows; r++)
                kin_cpu_values(s, &w->value, first + r * k, len, tmp + r * len);
            ld = len;
        }
        if (transposed)
            e->right_steps(f, ld, NULL, cn, e->nr, dn, 0, out);
        else
            e->right_rows(f, ld, NULL, cn, e->nr, dn, out);
    }
}

kin_status kin_cpu_pack_get(kin_ctx *ctx, kin_param *w, uint64_t key, size_t bytes, kin_pack **out)
{
    const size_t before = kin_param_pack_bytes(w);
    *out = kin_param_pack_get(w, key, bytes, kin_ctx_is_plan(ctx));
    if (!*out)
        return kin_fail(&ctx->error, KIN_ERR_MEM, "pack: %s: out of memory",
                        w->name ? w->name : "weight");
    kin_ctx_add_packed(ctx, kin_param_pack_bytes(w) - before);
    return KIN_OK;
}

kin_status kin_cpu_pack(kin_ctx *ctx, kin_param *w, int64_t n, int64_t k, bool transposed,
                        kin_product mode, const float **out)
{
    const kin_simd *s = kin_cpu_simd(ctx);
    const kin_engine *e = kin_cpu_engine(ctx, mode);
    uint64_t key = 0x100u + (uint64_t)e->nr * 64u + (uint64_t)mode * 2u + (transposed ? 1u : 0u);
    kin_pack *pack = kin_param_pack_find(w, key);
    if (pack) {
        *out = pack->data;
        return KIN_OK;
    }
    int64_t cols = transposed ? k : n, depth = transposed ? n : k;
    int64_t panels = (cols + e->nr - 1) / e->nr;
    int64_t words = kin_engine_steps(e, depth) * e->right_words;
    KIN_TRY(kin_cpu_pack_get(ctx, w, key, (size_t)(panels * words + 16) * sizeof(float), &pack));
    int threads = panels * depth * e->nr < 65536 ? 1 : ctx->threads;
    size_t mark = kin_ws_mark(ctx), per_thread = (size_t)(CHUNK * e->nr);
    float *tmp = kin_ws_bytes(ctx, (size_t)threads * per_thread * sizeof(float));
    if (!tmp)
        return ctx->error.status;
    *out = pack->data;
    if (kin_cpu_planned(ctx, mark))
        return KIN_OK;
    float *dst = pack->data;
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t p = 0; p < panels; p++)
        pack_panel(s, e, w, n, k, transposed, p, tmp + (size_t)omp_get_thread_num() * per_thread,
                   dst + p * words);
    kin_ws_release(ctx, mark);
    kin_param_drop_pages(w);
    return KIN_OK;
}

kin_status kin_cpu_right(kin_ctx *ctx, kin_param *w, int64_t n, int64_t k, bool transposed,
                         kin_product mode, kin_gemm *g)
{
    const bool half =
        w->value.dtype == KIN_DTYPE_BF16 && kin_cpu_engine(ctx, mode)->half.right_rows;
    if ((!w->grad.data && !w->once) || (w->value.dtype != KIN_DTYPE_F32 && !half))
        return kin_cpu_pack(ctx, w, n, k, transposed, mode, &g->b_pack);
    g->b = w->value.data;
    g->b_half = half;
    g->ldb = k;
    g->b_steps = transposed;
    return KIN_OK;
}

kin_status kin_cpu_param_f32(kin_ctx *ctx, const kin_param *p, int64_t n, const float **out)
{
    *out = NULL;
    if (!p)
        return KIN_OK;
    if (p->value.dtype == KIN_DTYPE_F32) {
        *out = p->value.data;
        return KIN_OK;
    }
    float *copy = kin_ws_bytes(ctx, (size_t)n * sizeof(float));
    if (!copy)
        return ctx->error.status;
    if (!kin_ctx_is_plan(ctx))
        kin_cpu_values(kin_cpu_simd(ctx), &p->value, 0, n, copy);
    *out = copy;
    return KIN_OK;
}

/* tensor/cpu/gemm.c: blocking and threading of the packed products. A task is a range of row blocks
 * times a range of column panels of one product; it packs its rows of A (L2), then runs panel by
 * panel. k is cut every KC packed steps from 0, whatever the shape, so a row's bits depend on k
 * alone. */
#include <omp.h>
#include <string.h>

#include "tensor/cpu/cpu.h"

enum { KC = 512, MC_PACKED = 12, MC_FLY = 16 };

const kin_simd *kin_cpu_simd(const kin_ctx *ctx)
{
    return ctx->isa >= KIN_ISA_AVX512 ? &kin_avx512_simd : &kin_avx2_simd;
}

kin_product kin_cpu_product(const kin_ctx *ctx)
{
    if (ctx->compute != KIN_DTYPE_BF16)
        return KIN_PRODUCT_F32;
    return ctx->isa >= KIN_ISA_AVX512 && kin_isa_fast_dot() ? KIN_PRODUCT_DOT : KIN_PRODUCT_ROUND;
}

/* How one product is cut. */
typedef struct split {
    int64_t blocks, block_step,
        mtasks; /* row blocks (<= mr rows each), blocks per task, tasks over rows */
    int64_t panels, panel_step, ptasks;
} split;

static split split_of(const kin_gemm *g, const kin_simd *s, int64_t want)
{
    split p;
    p.blocks = (g->m + s->mr - 1) / s->mr;
    p.panels = (g->n + s->nr - 1) / s->nr;
    int64_t cap = g->b_pack ? MC_PACKED : MC_FLY;
    p.block_step = (p.blocks + want - 1) / want;
    if (p.block_step > cap)
        p.block_step = cap;
    if (p.block_step < 4)
        p.block_step = p.blocks < 4 ? p.blocks : 4;
    p.mtasks = (p.blocks + p.block_step - 1) / p.block_step;
    p.ptasks = (want + p.mtasks - 1) / p.mtasks;
    if (p.ptasks > p.panels)
        p.ptasks = p.panels;
    p.panel_step = (p.panels + p.ptasks - 1) / p.ptasks;
    p.ptasks = (p.panels + p.panel_step - 1) / p.panel_step;
    return p;
}

typedef struct thread_scratch {
    float *a, *b, *tile;
} thread_scratch;

/* Rows [*row0, *row0 + result) of row block i. */
static int64_t block_rows(const kin_gemm *g, const split *p, int64_t i, int64_t *row0)
{
    *row0 = i * g->m / p->blocks;
    return (i + 1) * g->m / p->blocks - *row0;
}

static void pack_a(const kin_gemm *g, const kin_simd *s, kin_product mode, int64_t row0,
                   int64_t rows, int64_t k0, int64_t kn, float *dst)
{
    bool dot = mode == KIN_PRODUCT_DOT;
    if (g->a_kmajor)
        (dot ? s->pack_n16 : s->pack_n)(g->a + k0 * g->lda + row0, g->lda, NULL, rows, s->mr, kn,
                                        dst);
    else if (g->a_rows)
        (dot ? s->pack_t16 : s->pack_t)(g->a + k0, g->lda, g->a_rows + row0, rows, s->mr, kn, dst);
    else
        (dot ? s->pack_t16 : s->pack_t)(g->a + row0 * g->lda + k0, g->lda, NULL, rows, s->mr, kn,
                                        dst);
    if (mode == KIN_PRODUCT_ROUND)
        s->round_bf16(dst, kn * s->mr);
}

/* Panel p of B for steps [k0, k0+kn). */
static const float *panel_of(const kin_gemm *g, const kin_simd *s, kin_product mode, int64_t p,
                             int64_t k0, int64_t kn, float *buf)
{
    bool dot = mode == KIN_PRODUCT_DOT;
    if (g->b_pack) {
        int64_t steps = dot ? (g->k + 1) / 2 : g->k;
        return g->b_pack + (p * steps + (dot ? k0 / 2 : k0)) * s->nr;
    }
    const float *src = g->b + p * s->nr + (g->b_rows ? 0 : k0 * g->ldb);
    (dot ? s->pack_n16 : s->pack_n)(src, g->ldb, g->b_rows ? g->b_rows + k0 : NULL,
                                    g->n - p * s->nr, s->nr, kn, buf);
    if (mode == KIN_PRODUCT_ROUND)
        s->round_bf16(buf, kn * s->nr);
    return buf;
}

static void copy_tile(int rows, int64_t cols, const float *src, int64_t ld_src, float *dst,
                      int64_t ld_dst)
{
    for (int r = 0; r < rows; r++)
        memcpy(dst + r * ld_dst, src + r * ld_src, (size_t)cols * sizeof(float));
}

typedef struct tile_place {
    int64_t row0, rows, col0;
    int64_t steps;
    bool first, last;
} tile_place;

static void run_tile(const kin_gemm *g, const kin_simd *s, kin_product mode, const tile_place *t,
                     const float *a, const float *b, float *tile)
{
    float *c = g->epi ? g->epi->y : g->c;
    int64_t ldc = g->epi ? g->epi->ld_y : g->ldc;
    bool acc = !t->first || (!g->epi && g->acc);
    bool finish = g->epi && t->last;
    int64_t cols = g->n - t->col0 < s->nr ? g->n - t->col0 : s->nr;
    int rows = (int)t->rows;
    void (*run)(int, int64_t, const float *, const float *, float *, int64_t, bool) =
        mode == KIN_PRODUCT_DOT ? s->tile16 : s->tile;
    c += t->row0 * ldc + t->col0;
    if (!finish && cols == s->nr) {
        run(rows, t->steps, a, b, c, ldc, acc);
        return;
    }
    if (acc)
        copy_tile(rows, cols, c, ldc, tile, s->nr);
    run(rows, t->steps, a, b, tile, s->nr, acc);
    if (finish)
        s->epilogue(g->epi, t->row0, t->col0, rows, (int)cols, tile, s->nr);
    else
        copy_tile(rows, cols, tile, s->nr, c, ldc);
}

static void run_task(const kin_gemm *g, const kin_simd *s, kin_product mode, const split *sp,
                     int64_t task, const thread_scratch *w)
{
    int64_t b0 = task % sp->mtasks * sp->block_step, p0 = task / sp->mtasks * sp->panel_step;
    int64_t b1 = b0 + sp->block_step < sp->blocks ? b0 + sp->block_step : sp->blocks;
    int64_t p1 = p0 + sp->panel_step < sp->panels ? p0 + sp->panel_step : sp->panels;
    int64_t kc = mode == KIN_PRODUCT_DOT ? 2 * KC : KC;
    for (int64_t k0 = 0; k0 == 0 || k0 < g->k; k0 += kc) {
        int64_t kn = g->k - k0 < kc ? g->k - k0 : kc;
        tile_place t = {.steps = mode == KIN_PRODUCT_DOT ? (kn + 1) / 2 : kn,
                        .first = k0 == 0,
                        .last = k0 + kn >= g->k};
        int64_t block_floats = t.steps * s->mr;
        for (int64_t i = b0; i < b1; i++) {
            t.rows = block_rows(g, sp, i, &t.row0);
            pack_a(g, s, mode, t.row0, t.rows, k0, kn, w->a + (i - b0) * block_floats);
        }
        for (int64_t p = p0; p < p1; p++) {
            const float *b = panel_of(g, s, mode, p, k0, kn, w->b);
            t.col0 = p * s->nr;
            for (int64_t i = b0; i < b1; i++) {
                t.rows = block_rows(g, sp, i, &t.row0);
                run_tile(g, s, mode, &t, w->a + (i - b0) * block_floats, b, w->tile);
            }
        }
    }
}

kin_status kin_cpu_gemm(kin_ctx *ctx, const kin_gemm *g, int64_t count, kin_product mode)
{
    const kin_simd *s = kin_cpu_simd(ctx);
    size_t mark = kin_ws_mark(ctx);
    split *sp = kin_ws_bytes(ctx, (size_t)count * sizeof(*sp));
    int64_t *first = kin_ws_bytes(ctx, (size_t)(count + 1) * sizeof(*first));
    if (!sp || !first)
        return ctx->error.status;
    int64_t rows = 0;
    for (int64_t i = 0; i < count; i++)
        rows += g[i].m;
    first[0] = 0;
    for (int64_t i = 0; i < count; i++) {
        /* each product gets tasks in proportion to its rows */
        int64_t want =
            ctx->threads == 1 || rows == 0 ? 1 : (4 * ctx->threads * g[i].m + rows - 1) / rows;
        bool empty = g[i].m <= 0 || g[i].n <= 0;
        if (!empty)
            sp[i] = split_of(&g[i], s, want > 0 ? want : 1);
        first[i + 1] = first[i] + (empty ? 0 : sp[i].mtasks * sp[i].ptasks);
    }
    size_t a_floats = (size_t)MC_FLY * KC * (size_t)s->mr + 16,
           b_floats = (size_t)KC * (size_t)s->nr + 16;
    size_t t_floats = (size_t)s->mr * (size_t)s->nr;
    size_t per_thread = (a_floats + b_floats + t_floats + 15) / 16 * 16;
    int threads = first[count] < ctx->threads ? (int)first[count] : ctx->threads;
    if (threads > 0) {
        float *work = kin_ws_bytes(ctx, (size_t)threads * per_thread * sizeof(float));
        if (!work)
            return ctx->error.status;
#pragma omp parallel num_threads(threads) if (threads > 1)
        {
            float *mine = work + (size_t)omp_get_thread_num() * per_thread;
            thread_scratch w = {mine, mine + a_floats, mine + a_floats + b_floats};
            int64_t e = 0;
#pragma omp for schedule(dynamic, 1)
            for (int64_t t = 0; t < first[count]; t++) {
                while (t >= first[e + 1])
                    e++;
                while (t < first[e])
                    e--;
                run_task(&g[e], s, mode, &sp[e], t - first[e], &w);
            }
        }
    }
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

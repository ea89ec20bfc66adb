/* tensor/cpu/gemm.c: blocking and threading of the packed products. A task is a range of row blocks
 * times a range of column panels of one product; it packs its rows of A (L2), then runs panel by
 * panel. k is cut every pass of the engine from 0, whatever the shape, so a row's bits depend on k
 * alone. */
#include <omp.h>
#include <string.h>

#include "tensor/cpu/cpu.h"

/* Panels of B taken together where one pass does (see run_group). */
enum { GROUP_FLOATS = 65536, GROUP_MAX = 8 };
/* Words of B from which on the next panel is fetched while one is used: less stays in the L2 cache.
 */
enum { FAR_WORDS = 196608 };

const kin_simd *kin_cpu_simd(const kin_ctx *ctx)
{
    return ctx->isa >= KIN_ISA_AVX512 ? &kin_avx512_simd : &kin_avx2_simd;
}

kin_product kin_cpu_product_of(const kin_ctx *ctx, kin_dtype compute)
{
    bool tiles = ctx->isa >= KIN_ISA_AMX_EMULATED;
    if (compute == KIN_DTYPE_I8)
        return ctx->isa >= KIN_ISA_AVX512 && kin_isa_have_vnni() ? KIN_PRODUCT_I8 : KIN_PRODUCT_W16;
    if (compute != KIN_DTYPE_BF16)
        return tiles && ctx->precision == KIN_PRECISION_HIGH ? KIN_PRODUCT_HIGH : KIN_PRODUCT_F32;
    if (tiles)
        return KIN_PRODUCT_AMX;
    return ctx->isa >= KIN_ISA_AVX512 && kin_isa_fast_dot() ? KIN_PRODUCT_DOT : KIN_PRODUCT_ROUND;
}

kin_product kin_cpu_product(const kin_ctx *ctx)
{
    return kin_cpu_product_of(ctx, ctx->compute == KIN_DTYPE_I8 ? KIN_DTYPE_F32 : ctx->compute);
}

kin_product kin_cpu_weight_product(const kin_ctx *ctx, const kin_param *w)
{
    kin_product mode = kin_cpu_product(ctx);
    return mode == KIN_PRODUCT_F32 && w->value.dtype == KIN_DTYPE_BF16 ? KIN_PRODUCT_W16 : mode;
}

const kin_engine *kin_cpu_engine(const kin_ctx *ctx, kin_product mode)
{
    if (mode == KIN_PRODUCT_AMX || mode == KIN_PRODUCT_HIGH)
        return ctx->isa == KIN_ISA_AMX ? &kin_amx_engines[mode] : &kin_amx_emulated_engines[mode];
    return &kin_cpu_simd(ctx)->engines[mode];
}

/* One product and how it is cut: row blocks of <= mr rows, blocks per task, tasks over rows; the
 * same of column panels. */
typedef struct job {
    const kin_gemm *g;
    const kin_simd *s;
    const kin_engine *e;
    int64_t blocks, block_step, mtasks;
    int64_t panels, panel_step, ptasks;
} job;

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static void job_cut(job *j, int64_t want)
{
    j->blocks = ceil_div(j->g->m, j->e->mr);
    j->panels = ceil_div(j->g->n, j->e->nr);
    j->block_step = ceil_div(j->blocks, want);
    if (j->block_step > j->e->blocks)
        j->block_step = j->e->blocks;
    if (j->block_step < 4)
        j->block_step = j->blocks < 4 ? j->blocks : 4;
    j->mtasks = ceil_div(j->blocks, j->block_step);
    j->ptasks = ceil_div(want, j->mtasks);
    if (j->ptasks > j->panels)
        j->ptasks = j->panels;
    j->panel_step = ceil_div(j->panels, j->ptasks);
    j->ptasks = ceil_div(j->panels, j->panel_step);
}

typedef struct thread_scratch {
    float *a, *tile;
} thread_scratch;

/* Row blocks [b0, b1) of A for elements [k0, k0+kn). */
static void pack_a(const job *j, int64_t b0, int64_t b1, int64_t k0, int64_t kn, float *dst)
{
    const kin_gemm *g = j->g;
    int64_t words = kin_engine_steps(j->e, kn) * j->e->mr, row0;
    for (int64_t i = b0; i < b1; i++, dst += words) {
        int64_t rows = kin_engine_block_rows(j->e, g->m, j->blocks, i, &row0);
        const float *src = g->a + k0 + (g->a_rows ? 0 : row0 * g->lda);
        j->e->left_rows(src, g->lda, g->a_rows ? g->a_rows + row0 : NULL, rows, j->e->mr, kn, dst);
    }
}

static void copy_tile(int64_t rows, int64_t cols, const float *src, int64_t ld_src, float *dst,
                      int64_t ld_dst)
{
    for (int64_t r = 0; r < rows; r++)
        memcpy(dst + r * ld_dst, src + r * ld_src, (size_t)cols * sizeof(float));
}

/* Panels taken together: B of a group stays in the L2 cache, a row block of them in the L1 cache.
 */
static int64_t group_panels(const kin_engine *e, int64_t steps)
{
    int64_t n = GROUP_FLOATS / (steps * e->right_words + 1);
    return n < 1 ? 1 : n > GROUP_MAX ? GROUP_MAX : n;
}

/* block of the task's `blocks`; ahead: words from a panel to the one that is needed next in its
 * place, 0 where B stays near. */
typedef struct tile_place {
    int64_t row0, rows, col0;
    int64_t steps, block, blocks, ahead;
    bool first, last;
} tile_place;

/* Sums of t's rows, columns [col0, col0+cols), into the result. */
static void finish_tile(const job *j, const tile_place *t, int64_t col0, int64_t cols, float *tile,
                        int64_t ld)
{
    int rows = (int)t->rows;
    if (j->g->deq)
        j->s->dequant(j->g->deq, t->row0, col0, rows, cols, tile, ld);
    j->s->epilogue(j->g->epi, t->row0, col0, rows, (int)cols, tile, ld);
}

static kin_ahead ahead_of(const job *j, const tile_place *t, const float *b)
{
    return t->ahead ? kin_engine_ahead(j->e, b + t->ahead, t->steps, t->block, t->blocks)
                    : kin_ahead_none(b);
}

/* Asks for the lines that a tile will be written to. */
static void fetch_rows(const float *c, int64_t ldc, int64_t rows, int64_t cols)
{
    for (int64_t r = 0; r < rows; r++, c += ldc) {
        __builtin_prefetch(c, 1);
        if (cols > 16)
            __builtin_prefetch(c + 16, 1);
    }
}

static void run_tile(const job *j, const tile_place *t, const float *a, const float *b, float *tile)
{
    const kin_gemm *g = j->g;
    int64_t nr = j->e->nr, ldc = g->epi ? g->epi->ld_y : g->ldc;
    float *c = (g->epi ? g->epi->y : g->c) + t->row0 * ldc + t->col0;
    bool acc = !t->first || (!g->epi && g->acc);
    bool finish = g->epi && t->last;
    int64_t cols = g->n - t->col0 < nr ? g->n - t->col0 : nr;
    kin_tile run = cols <= nr / 2 ? j->e->tile_half : j->e->tile;
    kin_ahead next = ahead_of(j, t, b);
    /* of the next row block */
    fetch_rows(c + t->rows * ldc, ldc, t->rows, cols);
    if (!finish && cols == nr) {
        run((int)t->rows, t->steps, a, b, c, ldc, acc, next);
        return;
    }
    if (acc)
        copy_tile(t->rows, cols, c, ldc, tile, nr);
    run((int)t->rows, t->steps, a, b, tile, nr, acc, next);
    if (finish)
        finish_tile(j, t, t->col0, cols, tile, nr);
    else
        copy_tile(t->rows, cols, tile, nr, c, ldc);
}

/* Panels [p0, p1) of one row block whose sum takes a single pass: through a buffer in the L1 cache,
 * so that what follows the product runs over long rows. */
static void run_group(const job *j, const tile_place *t, const float *a, const float *b,
                      int64_t b_step, int64_t p0, int64_t p1, float *buf)
{
    const kin_gemm *g = j->g;
    int64_t nr = j->e->nr, col0 = p0 * nr, end = p1 * nr < g->n ? p1 * nr : g->n;
    int64_t ld = (p1 - p0) * nr, ldc = g->epi ? g->epi->ld_y : g->ldc;
    const float *out = (g->epi ? g->epi->y : g->c) + t->row0 * ldc + col0;
    for (int64_t p = p0; p < p1; p++, b += b_step) {
        kin_tile run = end - p * nr <= nr / 2 ? j->e->tile_half : j->e->tile;
        kin_ahead next = ahead_of(j, t, b);
        fetch_rows(out + (p - p0) * nr, ldc, t->rows, end - p * nr);
        run((int)t->rows, t->steps, a, b, buf + (p - p0) * nr, ld, false, next);
    }
    if (g->epi)
        finish_tile(j, t, col0, end - col0, buf, ld);
    else
        j->s->put_rows(t->rows, end - col0, 1.0f, buf, ld, g->c + t->row0 * g->ldc + col0, g->ldc,
                       g->acc);
}

static void run_task(const job *j, int64_t task, const thread_scratch *w)
{
    const kin_engine *e = j->e;
    int64_t b0 = task % j->mtasks * j->block_step, p0 = task / j->mtasks * j->panel_step;
    int64_t b1 = b0 + j->block_step < j->blocks ? b0 + j->block_step : j->blocks;
    int64_t p1 = p0 + j->panel_step < j->panels ? p0 + j->panel_step : j->panels;
    int64_t k = j->g->k, kc = kin_engine_pass(e), b_step = kin_engine_steps(e, k) * e->right_words;
    for (int64_t k0 = 0; k0 == 0 || k0 < k; k0 += kc) {
        int64_t kn = k - k0 < kc ? k - k0 : kc;
        tile_place t = {.steps = kin_engine_steps(e, kn), .first = k0 == 0, .last = k0 + kn >= k};
        pack_a(j, b0, b1, k0, kn, w->a);
        const float *b = j->g->b_pack + p0 * b_step + kin_engine_steps(e, k0) * e->right_words;
        bool group = t.first && t.last;
        int64_t step = group ? group_panels(e, t.steps) : 1;
        t.ahead = (p1 - p0) * b_step > FAR_WORDS ? step * b_step : 0;
        t.blocks = b1 - b0;
        for (int64_t p = p0; p < p1; p += step, b += step * b_step) {
            int64_t end = p + step < p1 ? p + step : p1;
            t.col0 = p * e->nr;
            for (int64_t i = b0; i < b1; i++) {
                const float *a = w->a + (i - b0) * t.steps * e->mr;
                t.block = i - b0;
                t.rows = kin_engine_block_rows(e, j->g->m, j->blocks, i, &t.row0);
                if (group)
                    run_group(j, &t, a, b, b_step, p, end, w->tile);
                else
                    run_tile(j, &t, a, b, w->tile);
            }
        }
    }
}

/* Inside a parallel region; work: one piece per thread. Task t belongs to the job whose range of
 * first[] holds it. */
static void run_jobs(const job *jobs, const int64_t *first, int64_t count, float *work,
                     size_t a_floats, size_t per_thread)
{
    float *mine = work + (size_t)omp_get_thread_num() * per_thread;
    thread_scratch w = {mine, mine + a_floats};
    int64_t e = 0;
    kin_engine_enter(jobs->e);
#pragma omp for schedule(dynamic, 1)
    for (int64_t t = 0; t < first[count]; t++) {
        while (t >= first[e + 1])
            e++;
        while (t < first[e])
            e--;
        run_task(&jobs[e], t - first[e], &w);
    }
    kin_engine_leave(jobs->e);
}

kin_status kin_cpu_gemm(kin_ctx *ctx, const kin_gemm *g, int64_t count, kin_product mode)
{
    const kin_engine *e = kin_cpu_engine(ctx, mode);
    size_t mark = kin_ws_mark(ctx);
    job *jobs = kin_ws_bytes(ctx, (size_t)count * sizeof(*jobs));
    int64_t *first = kin_ws_bytes(ctx, (size_t)(count + 1) * sizeof(*first));
    if (!jobs || !first)
        return ctx->error.status;
    /* the most a task can take, so that the need does not follow the rows of each product */
    int64_t blocks = e->blocks > 4 ? e->blocks : 4;
    size_t a_floats = (size_t)(blocks * e->mr * e->pass + 32 + 15) / 16 * 16;
    size_t per_thread = (a_floats + (size_t)(e->mr * e->nr * GROUP_MAX) + 15) / 16 * 16;
    float *work = kin_ws_bytes(ctx, (size_t)ctx->threads * per_thread * sizeof(float));
    if (!work)
        return ctx->error.status;
    if (kin_cpu_planned(ctx, mark))
        return KIN_OK;
    int64_t rows = 0;
    for (int64_t i = 0; i < count; i++)
        rows += g[i].m;
    first[0] = 0;
    for (int64_t i = 0; i < count; i++) {
        /* each product gets tasks in proportion to its rows */
        int64_t want =
            ctx->threads == 1 || rows == 0 ? 1 : ceil_div(4 * ctx->threads * g[i].m, rows);
        jobs[i] = (job){.g = &g[i], .s = kin_cpu_simd(ctx), .e = e};
        first[i + 1] = first[i];
        if (g[i].m <= 0 || g[i].n <= 0)
            continue;
        job_cut(&jobs[i], want > 0 ? want : 1);
        first[i + 1] += jobs[i].mtasks * jobs[i].ptasks;
    }
    int threads = first[count] < ctx->threads ? (int)first[count] : ctx->threads;
    if (threads > 0) {
#pragma omp parallel num_threads(threads) if (threads > 1)
        run_jobs(jobs, first, count, work, a_floats, per_thread);
    }
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

/* tensor/cpu/reduce.c: sums over broadcast dimensions. The dimensions are joined and sorted into
 * kept and summed ones; the order of every sum follows from the shape alone. */
#include <omp.h>
#include <string.h>

#include "tensor/cpu/cpu.h"
#include "tensor/nd.h"
#include "tensor/ref/ref.h"

enum { STRIP = 128, ROWS = 64, PARTS = 64 };

/* Views: 0 x, 1 other, 2 y. */
typedef struct plan {
    kin_nd nd;
    bool inner_summed;
    int64_t kept, summed; /* number of outer index tuples of each kind */
    const float *x, *other;
    float *y;
    float alpha;
    bool acc, has_other;
} plan;

/* Offsets of outer tuple `k` of the kept dimensions (summed false) or of the summed ones. */
static void offsets(const plan *p, int64_t k, bool summed, int64_t at[KIN_ND_VIEWS])
{
    at[0] = at[1] = at[2] = 0;
    for (int i = p->nd.ndim - 2; i >= 0; i--) {
        if ((p->nd.stride[2][i] == 0) != summed)
            continue;
        int64_t c = k % p->nd.size[i];
        k /= p->nd.size[i];
        for (int v = 0; v < KIN_ND_VIEWS; v++)
            at[v] += c * p->nd.stride[v][i];
    }
}

static void store(const plan *p, int64_t at, double v)
{
    p->y[at] = (p->acc ? p->y[at] : 0.0f) + (float)v;
}

/* Inner dimension kept: a strip of columns of one kept tuple. f32 over 64 rows, f32 sums of those.
 */
static void kept_strip(const plan *p, const kin_simd *s, int64_t k, int64_t c0)
{
    int last = p->nd.ndim - 1;
    int64_t n = p->nd.size[last] - c0 < STRIP ? p->nd.size[last] - c0 : STRIP,
            sx = p->nd.stride[0][last];
    int64_t so = p->nd.stride[1][last], base[KIN_ND_VIEWS], at[KIN_ND_VIEWS];
    float total[STRIP], part[STRIP];
    static const float one = 1.0f;
    memset(total, 0, sizeof total);
    offsets(p, k, false, base);
    for (int64_t r0 = 0; r0 < p->summed; r0 += ROWS) {
        int64_t r1 = r0 + ROWS < p->summed ? r0 + ROWS : p->summed;
        memset(part, 0, sizeof part);
        for (int64_t r = r0; r < r1; r++) {
            offsets(p, r, true, at);
            s->mul_add(p->x + base[0] + at[0] + c0 * sx, sx,
                       p->has_other ? p->other + base[1] + at[1] + c0 * so : &one,
                       p->has_other ? so : 0, n, part);
        }
        s->mul_add(part, 1, &one, 0, n, total);
    }
    for (int64_t c = 0; c < n; c++)
        store(p, base[2] + (c0 + c) * p->nd.stride[2][last], (double)p->alpha * (double)total[c]);
}

/* Inner dimension summed: rows [r0, r1) of one kept tuple. */
static double summed_rows(const plan *p, const kin_simd *s, int64_t k, int64_t r0, int64_t r1,
                          int64_t c0, int64_t c1)
{
    int last = p->nd.ndim - 1;
    int64_t sx = p->nd.stride[0][last], so = p->nd.stride[1][last], base[KIN_ND_VIEWS],
            at[KIN_ND_VIEWS];
    static const float one = 1.0f;
    double sum = 0;
    offsets(p, k, false, base);
    for (int64_t r = r0; r < r1; r++) {
        offsets(p, r, true, at);
        sum += s->sum(p->x + base[0] + at[0] + c0 * sx, sx,
                      p->has_other ? p->other + base[1] + at[1] + c0 * so : &one,
                      p->has_other ? so : 0, c1 - c0);
    }
    return sum;
}

static void run_summed(kin_ctx *ctx, const plan *p, const kin_simd *s)
{
    int64_t n = p->nd.size[p->nd.ndim - 1], work = p->kept * p->summed * n, base[KIN_ND_VIEWS];
    if (p->kept > 1) {
#pragma omp parallel for num_threads(kin_cpu_threads(ctx, work)) schedule(static)
        for (int64_t k = 0; k < p->kept; k++) {
            int64_t at[KIN_ND_VIEWS];
            offsets(p, k, false, at);
            store(p, at[2], (double)p->alpha * summed_rows(p, s, k, 0, p->summed, 0, n));
        }
        return;
    }
    /* one result: fixed parts of the rows, or of the one row */
    double parts[PARTS], sum = 0;
    bool by_rows = p->summed > 1;
    int64_t span = by_rows ? p->summed : n;
#pragma omp parallel for num_threads(kin_cpu_threads(ctx, work)) schedule(static)
    for (int64_t i = 0; i < PARTS; i++) {
        int64_t i0 = i * span / PARTS, i1 = (i + 1) * span / PARTS;
        parts[i] = i0 == i1  ? 0.0
                   : by_rows ? summed_rows(p, s, 0, i0, i1, 0, n)
                             : summed_rows(p, s, 0, 0, 1, i0, i1);
    }
    for (int i = 0; i < PARTS; i++)
        sum += parts[i];
    offsets(p, 0, false, base);
    store(p, base[2], (double)p->alpha * sum);
}

kin_status kin_cpu_reduce(kin_ctx *ctx, const kin_reduce_args *a)
{
    const kin_simd *s = kin_cpu_simd(ctx);
    plan p = {.has_other = a->other && a->other->data, .alpha = a->alpha, .acc = a->acc};
    const kin_tensor *const v[KIN_ND_VIEWS] = {a->x, p.has_other ? a->other : a->x, a->y};
    if (!kin_is_f32(a->x) || !kin_is_f32(a->other) || !kin_is_f32(a->y))
        return kin_ref_reduce(ctx, a);
    kin_nd_init(&p.nd, a->x, v);
    int last = p.nd.ndim - 1;
    int64_t sx = p.nd.stride[0][last], so = p.nd.stride[1][last], n = p.nd.size[last];
    if ((sx != 0 && sx != 1) || (so != 0 && so != 1) || n * p.nd.rows == 0)
        return kin_ref_reduce(ctx, a);
    p.x = kin_f32(a->x);
    p.other = p.has_other ? kin_f32(a->other) : NULL;
    p.y = kin_f32(a->y);
    p.inner_summed = p.nd.stride[2][last] == 0;
    p.kept = p.summed = 1;
    for (int i = 0; i < last; i++)
        *(p.nd.stride[2][i] == 0 ? &p.summed : &p.kept) *= p.nd.size[i];
    if (p.inner_summed) {
        run_summed(ctx, &p, s);
        return KIN_OK;
    }
    int64_t strips = (n + STRIP - 1) / STRIP;
#pragma omp parallel for num_threads(kin_cpu_threads(ctx, p.nd.rows *n)) schedule(static)
    for (int64_t i = 0; i < p.kept * strips; i++)
        kept_strip(&p, s, i / strips, i % strips * STRIP);
    return KIN_OK;
}

/* tensor/cpu/optim.c: AdamW, norms, noise, the mean square error. */
#include <math.h>
#include <omp.h>

#include "tensor/cpu/cpu.h"
#include "tensor/ref/ref.h"

enum { PIECE = 16384 };

/* All parts in pieces of at most PIECE values, so that threads share them evenly: first[i] is the
 * number of pieces before part i. */
static int64_t *cut(kin_ctx *ctx, const kin_adamw_part *part, int64_t parts)
{
    int64_t *first = kin_ws_bytes(ctx, (size_t)(parts + 1) * sizeof *first), at = 0;
    for (int64_t i = 0; first && i < parts; i++) {
        first[i] = at;
        at += (part[i].n + PIECE - 1) / PIECE;
    }
    if (first)
        first[parts] = at;
    return first;
}

/* The part that piece p belongs to, and its values [*i0, *i1). */
static int64_t find(const int64_t *first, const kin_adamw_part *part, int64_t parts, int64_t p,
                    int64_t *i0, int64_t *i1)
{
    int64_t lo = 0, hi = parts - 1;
    while (lo < hi) {
        int64_t mid = (lo + hi + 1) / 2;
        if (first[mid] <= p)
            lo = mid;
        else
            hi = mid - 1;
    }
    *i0 = (p - first[lo]) * PIECE;
    *i1 = *i0 + PIECE < part[lo].n ? *i0 + PIECE : part[lo].n;
    return lo;
}

kin_status kin_cpu_adamw(kin_ctx *ctx, const kin_adamw_args *a)
{
    const kin_simd *s = kin_cpu_simd(ctx);
    size_t mark = kin_ws_mark(ctx);
    const int64_t *first = cut(ctx, a->part, a->parts);
    if (!first)
        return ctx->error.status;
    double bias1 = 1.0 - pow((double)a->beta1, (double)a->step);
    double bias2 = sqrt(1.0 - pow((double)a->beta2, (double)a->step));
    int64_t pieces = first[a->parts];
#pragma omp parallel for num_threads(kin_cpu_threads(ctx, pieces *PIECE)) schedule(dynamic, 4)
    for (int64_t p = 0; p < pieces; p++) {
        int64_t i0, i1;
        const kin_adamw_part *part = &a->part[find(first, a->part, a->parts, p, &i0, &i1)];
        s->adamw(a, part, (float)((double)part->lr / bias1), (float)(1.0 / bias2), i0, i1);
    }
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

kin_status kin_cpu_sumsq(kin_ctx *ctx, const kin_adamw_part *part, int64_t parts, double *out)
{
    const kin_simd *s = kin_cpu_simd(ctx);
    size_t mark = kin_ws_mark(ctx);
    const int64_t *first = cut(ctx, part, parts);
    double *sums = first ? kin_ws_bytes(ctx, (size_t)(first[parts] + 1) * sizeof *sums) : NULL;
    if (!sums)
        return ctx->error.status;
    int64_t pieces = first[parts];
#pragma omp parallel for num_threads(kin_cpu_threads(ctx, pieces *PIECE)) schedule(dynamic, 4)
    for (int64_t p = 0; p < pieces; p++) {
        int64_t i0, i1, i = find(first, part, parts, p, &i0, &i1);
        sums[p] = s->sumsq(part[i].g + i0, i1 - i0);
    }
    *out = 0;
    for (int64_t p = 0; p < pieces; p++)
        *out += sums[p];
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

kin_status kin_cpu_randn(kin_ctx *ctx, const kin_rng *rng, uint64_t first, kin_tensor *y)
{
    if (!kin_is_f32(y))
        return kin_ref_randn(ctx, rng, first, y);
    int64_t n = kin_tensor_numel(y), pieces = (n + PIECE - 1) / PIECE;
#pragma omp parallel for num_threads(kin_cpu_threads(ctx, 16 * n)) schedule(static)
    for (int64_t p = 0; p < pieces; p++) {
        int64_t i0 = p * PIECE, i1 = i0 + PIECE < n ? i0 + PIECE : n;
        kin_rng_normal(rng, first + (uint64_t)i0, i1 - i0, kin_f32(y) + i0);
    }
    return KIN_OK;
}

static float row_weight(const kin_loss_args *a, int64_t b)
{
    return a->weight && a->weight->data ? kin_f32(a->weight)[b * a->weight->stride[0]] : 1.0f;
}

kin_status kin_cpu_loss(kin_ctx *ctx, const kin_loss_args *a)
{
    if (a->kind != KIN_LOSS_MSE || !kin_is_f32(a->x))
        return kin_ref_loss(ctx, a);
    const kin_simd *s = kin_cpu_simd(ctx);
    int64_t rows = a->x->size[0], n = a->x->size[1], pieces = (n + PIECE - 1) / PIECE;
    size_t mark = kin_ws_mark(ctx);
    double *parts = kin_ws_bytes(ctx, (size_t)(rows * pieces + 1) * sizeof(double)), sum = 0;
    if (!parts)
        return ctx->error.status;
    if (kin_cpu_planned(ctx, mark))
        return KIN_OK;
#pragma omp parallel for num_threads(kin_cpu_threads(ctx, rows *n)) schedule(static)
    for (int64_t i = 0; i < rows * pieces; i++) {
        int64_t b = i / pieces, c = i % pieces * PIECE, len = n - c < PIECE ? n - c : PIECE;
        float w = row_weight(a, b);
        parts[i] = w == 0.0f
                       ? 0.0
                       : (double)w * s->mse(kin_f32(a->x) + b * kin_ld(a->x) + c,
                                            kin_f32(a->target) + b * kin_ld(a->target) + c, len);
    }
    for (int64_t i = 0; i < rows * pieces; i++)
        sum += parts[i];
    *kin_f32(a->loss) = rows * n > 0 ? (float)(sum / (double)(rows * n)) : 0.0f;
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

kin_status kin_cpu_loss_bwd(kin_ctx *ctx, const kin_loss_args *a)
{
    if (a->kind != KIN_LOSS_MSE || !kin_is_f32(a->x))
        return kin_ref_loss_bwd(ctx, a);
    const kin_simd *s = kin_cpu_simd(ctx);
    int64_t rows = a->x->size[0], n = a->x->size[1], pieces = (n + PIECE - 1) / PIECE;
    static const float zero = 0.0f;
#pragma omp parallel for num_threads(kin_cpu_threads(ctx, rows *n)) schedule(static)
    for (int64_t i = 0; i < rows * pieces; i++) {
        int64_t b = i / pieces, c = i % pieces * PIECE, len = n - c < PIECE ? n - c : PIECE;
        float w = row_weight(a, b);
        float *dx = kin_f32(a->dx) + b * kin_ld(a->dx) + c;
        double f = 2.0 * (double)*kin_f32(a->dloss) * (double)w / ((double)rows * (double)n);
        if (w == 0.0f && a->acc)
            continue;
        if (w == 0.0f)
            s->binary(false, 0.0f, &zero, 0, &zero, 0, len, dx, false);
        else
            s->mse_bwd(kin_f32(a->x) + b * kin_ld(a->x) + c,
                       kin_f32(a->target) + b * kin_ld(a->target) + c, (float)f, len, dx, a->acc);
    }
    return KIN_OK;
}

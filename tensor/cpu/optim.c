/* tensor/cpu/optim.c: AdamW, norms, noise, the mean square error. */
#include <math.h>
#include <omp.h>

#include "tensor/cpu/cpu.h"
#include "tensor/ref/ref.h"

enum { PIECE = 16384, PARTS = 128 };

kin_status kin_cpu_adamw(kin_ctx *ctx, const kin_adamw_args *a)
{
    const kin_simd *s = kin_cpu_simd(ctx);
    double b1 = (double)a->beta1, b2 = (double)a->beta2;
    float size = (float)((double)a->lr / (1.0 - pow(b1, (double)a->step)));
    float bias2 = (float)sqrt(1.0 - pow(b2, (double)a->step));
    float decay = (float)(1.0 - (double)a->lr * (double)a->weight_decay);
    float ema = (float)(1.0 - (double)a->ema_decay);
    int64_t pieces = (a->n + PIECE - 1) / PIECE;
#pragma omp parallel for num_threads(kin_cpu_threads(ctx, 4 * a->n)) schedule(static)
    for (int64_t p = 0; p < pieces; p++)
        s->adamw(a, size, bias2, decay, ema, p * PIECE,
                 (p + 1) * PIECE < a->n ? (p + 1) * PIECE : a->n);
    return KIN_OK;
}

kin_status kin_cpu_sumsq(kin_ctx *ctx, const float *x, int64_t n, double *out)
{
    const kin_simd *s = kin_cpu_simd(ctx);
    double parts[PARTS], sum = 0;
#pragma omp parallel for num_threads(kin_cpu_threads(ctx, n)) schedule(static)
    for (int64_t i = 0; i < PARTS; i++) {
        int64_t i0 = i * n / PARTS, i1 = (i + 1) * n / PARTS;
        parts[i] = s->sumsq(x + i0, i1 - i0);
    }
    for (int i = 0; i < PARTS; i++)
        sum += parts[i];
    *out = sum;
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

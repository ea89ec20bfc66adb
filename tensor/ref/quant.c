/* tensor/ref/quant.c: products in 8-bit integers: the rule of tensor/kernels.h in plain loops. */
#include "tensor/ref/ref.h"

/* note: in f32, as every backend does it, so that all of them round to the same integers */
static void quantize_row(const kin_tensor *t, int64_t r, int8_t *q, double *step)
{
    int64_t k = t->size[1];
    float amax = 0, inverse;
    for (int64_t c = 0; c < k; c++) {
        float v = fabsf((float)kin_ref_get2(t, r, c));
        if (!isfinite(v))
            amax = INFINITY;
        else if (v > amax)
            amax = v;
    }
    *step = isfinite(amax) ? (double)(amax / 127.0f) : NAN;
    inverse = isfinite(amax) ? 127.0f / amax : 0;
    if (amax < 1e-30f)
        *step = inverse = 0;
    for (int64_t c = 0; c < k; c++) {
        float v = (float)kin_ref_get2(t, r, c) * inverse;
        q[c] = isfinite(v) ? (int8_t)rintf(v) : 0;
    }
}

kin_status kin_ref_int8_make(kin_ctx *ctx, const kin_tensor *t, kin_ref_int8 *out)
{
    int64_t rows = t->size[0], k = t->size[1];
    *out = (kin_ref_int8){.k = k,
                          .q = kin_ws_bytes(ctx, (size_t)(rows * k) + 1),
                          .step = kin_ws_bytes(ctx, (size_t)(rows + 1) * sizeof(double))};
    if (!out->q || !out->step)
        return ctx->error.status;
    for (int64_t r = 0; r < rows; r++)
        quantize_row(t, r, out->q + r * k, &out->step[r]);
    return KIN_OK;
}

kin_status kin_ref_int8_weight(kin_ctx *ctx, const kin_param *w, int64_t n, int64_t k,
                               kin_ref_int8 *out)
{
    kin_tensor flat = KIN_RESHAPE(&w->value, n, k);
    return kin_ref_int8_make(ctx, &flat, out);
}

double kin_ref_int8_dot(const kin_ref_int8 *x, int64_t r, const kin_ref_int8 *w, int64_t j)
{
    int64_t sum = 0;
    for (int64_t c = 0; c < x->k; c++)
        sum += x->q[r * x->k + c] * w->q[j * w->k + c];
    return x->step[r] * w->step[j] * (double)sum;
}

#include "diffusion/rope.h"

#include <math.h>

static void put(kin_tensor *t, int64_t i, double v)
{
    if (t->dtype == KIN_DTYPE_F64)
        ((double *)t->data)[i] = v;
    else
        ((float *)t->data)[i] = (float)v;
}

static void fill_axis(kin_tensor *c, kin_tensor *s, const int64_t grid[3], int axis, int64_t first,
                      int64_t column, int64_t half_m, double theta)
{
    const int64_t half = c->size[1];
    const int64_t inner = axis == 0 ? grid[1] * grid[2] : axis == 1 ? grid[2] : 1;
    const int64_t cells = grid[0] * grid[1] * grid[2];

    for (int64_t k = 0; k < half_m; k++) {
        const double f = pow(theta, -(double)k / (double)half_m);

        for (int64_t p = 0; p < grid[axis]; p++) {
            const double cv = cos((double)p * f), sv = sin((double)p * f);

            /* every cell whose index along the axis is p */
            for (int64_t base = p * inner; base < cells; base += inner * grid[axis]) {
                for (int64_t j = 0; j < inner; j++) {
                    put(c, (first + base + j) * half + column + k, cv);
                    put(s, (first + base + j) * half + column + k, sv);
                }
            }
        }
    }
}

kin_status kin_rope_tables(kin_ctx *ctx, const int64_t grid[3], int64_t d, double theta,
                           kin_rope_token token, kin_dtype dtype, kin_tensor *cos_out,
                           kin_tensor *sin_out)
{
    const int64_t first = token == KIN_ROPE_NO_TOKEN ? 0 : 1;
    const int64_t rows = first + grid[0] * grid[1] * grid[2];
    const int64_t h = 2 * (d / 6), t = d - 2 * h;

    KIN_TRY(KIN_WS(ctx, cos_out, dtype, rows, d / 2));
    KIN_TRY(KIN_WS(ctx, sin_out, dtype, rows, d / 2));
    if (kin_ctx_is_plan(ctx))
        return KIN_OK;
    for (int64_t k = 0; first && k < d / 2; k++) {
        put(cos_out, k, token == KIN_ROPE_IDENTITY ? 1.0 : 0.0);
        put(sin_out, k, 0.0);
    }
    fill_axis(cos_out, sin_out, grid, 0, first, 0, t / 2, theta);
    fill_axis(cos_out, sin_out, grid, 1, first, t / 2, h / 2, theta);
    fill_axis(cos_out, sin_out, grid, 2, first, t / 2 + h / 2, h / 2, theta);
    return KIN_OK;
}

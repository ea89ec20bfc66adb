#include "diffusion/rope.h"

#include <math.h>

static void put(kin_tensor *t, int64_t i, double v)
{
    if (t->dtype == KIN_DTYPE_F64)
        ((double *)t->data)[i] = v;
    else
        ((float *)t->data)[i] = (float)v;
}

/* One axis of the tables: its columns column..column+half_m-1 of every cell, which stand from row
 * `first` on. Index p along the axis is at position start + p * step. */
typedef struct axis_part {
    int axis;
    int64_t column, half_m;
    double start, step;
} axis_part;

static void fill_axis(kin_tensor *c, kin_tensor *s, const int64_t grid[3], int64_t first,
                      const axis_part *a, double theta)
{
    const int axis = a->axis;
    const int64_t half = c->size[1];
    const int64_t inner = axis == 0 ? grid[1] * grid[2] : axis == 1 ? grid[2] : 1;
    const int64_t cells = grid[0] * grid[1] * grid[2];

    for (int64_t k = 0; k < a->half_m; k++) {
        const double f = pow(theta, -(double)k / (double)a->half_m);

        for (int64_t p = 0; p < grid[axis]; p++) {
            const double angle = (a->start + (double)p * a->step) * f;
            const double cv = cos(angle), sv = sin(angle);

            /* every cell whose index along the axis is p */
            for (int64_t base = p * inner; base < cells; base += inner * grid[axis]) {
                for (int64_t j = 0; j < inner; j++) {
                    put(c, (first + base + j) * half + a->column + k, cv);
                    put(s, (first + base + j) * half + a->column + k, sv);
                }
            }
        }
    }
}

/* rows [from, to) that turn nothing (1, 0) or vanish (0, 0) */
static void fill_rows(kin_tensor *c, kin_tensor *s, int64_t from, int64_t to, double cosine)
{
    for (int64_t i = from * c->size[1]; i < to * c->size[1]; i++) {
        put(c, i, cosine);
        put(s, i, 0.0);
    }
}

kin_status kin_rope_tables(kin_ctx *ctx, const int64_t grid[3], int64_t d, double theta,
                           kin_rope_token token, kin_dtype dtype, kin_tensor *cos_out,
                           kin_tensor *sin_out)
{
    const int64_t first = token == KIN_ROPE_NO_TOKEN ? 0 : 1;
    const int64_t rows = first + grid[0] * grid[1] * grid[2];
    const int64_t h = 2 * (d / 6), t = d - 2 * h;
    const axis_part part[3] = {
        {0, 0, t / 2, 0, 1}, {1, t / 2, h / 2, 0, 1}, {2, t / 2 + h / 2, h / 2, 0, 1}};

    KIN_TRY(KIN_WS_HOST(ctx, cos_out, dtype, rows, d / 2));
    KIN_TRY(KIN_WS_HOST(ctx, sin_out, dtype, rows, d / 2));
    if (kin_ctx_is_plan(ctx))
        return KIN_OK;
    fill_rows(cos_out, sin_out, 0, first, token == KIN_ROPE_IDENTITY ? 1.0 : 0.0);
    for (int i = 0; i < 3; i++)
        fill_axis(cos_out, sin_out, grid, first, &part[i], theta);
    KIN_TRY(kin_settle(ctx, cos_out));
    return kin_settle(ctx, sin_out);
}

/* Rows and columns of a grid h x w in a base of bh x bw: the largest centred part of the base with
 * the grid's aspect, h and w positions from its start on. */
static void crop(const int64_t base[2], int64_t h, int64_t w, axis_part *row, axis_part *column)
{
    const double bh = (double)base[0], bw = (double)base[1], ratio = (double)h / (double)w;
    const bool tall = ratio > bh / bw;
    const double rh = tall ? bh : rint(bw / (double)w * (double)h);
    const double rw = tall ? rint(bh / (double)h * (double)w) : bw;
    const double top = rint((bh - rh) / 2), left = rint((bw - rw) / 2);

    row->start = top;
    row->step = h > 1 ? ((top + rh) * (double)(h - 1) / (double)h - top) / (double)(h - 1) : 0;
    column->start = left;
    column->step = w > 1 ? ((left + rw) * (double)(w - 1) / (double)w - left) / (double)(w - 1) : 0;
}

kin_status kin_rope_tables_cog(kin_ctx *ctx, const int64_t grid[3], const int64_t base[2],
                               int64_t d, int64_t text, bool token, kin_dtype dtype,
                               kin_tensor *cos_out, kin_tensor *sin_out)
{
    const int64_t first = text + (token ? 1 : 0), rows = first + grid[0] * grid[1] * grid[2];
    axis_part part[3] = {{0, 0, d / 8, 0, 1},
                         {1, d / 8, 3 * d / 16, 0, 1},
                         {2, d / 8 + 3 * d / 16, 3 * d / 16, 0, 1}};

    KIN_TRY(KIN_WS_HOST(ctx, cos_out, dtype, rows, d / 2));
    KIN_TRY(KIN_WS_HOST(ctx, sin_out, dtype, rows, d / 2));
    if (kin_ctx_is_plan(ctx))
        return KIN_OK;
    crop(base, grid[1], grid[2], &part[1], &part[2]);
    fill_rows(cos_out, sin_out, 0, text, 1.0);
    fill_rows(cos_out, sin_out, text, first, 0.0);
    for (int i = 0; i < 3; i++)
        fill_axis(cos_out, sin_out, grid, first, &part[i], 10000.0);
    KIN_TRY(kin_settle(ctx, cos_out));
    return kin_settle(ctx, sin_out);
}

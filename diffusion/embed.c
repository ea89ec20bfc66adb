#include "diffusion/embed.h"

#include <math.h>

void kin_mlp_register(kin_params *params, const char *first, const char *second, int64_t in,
                      int64_t hidden, int64_t out, kin_act act, kin_init init, kin_mlp *mlp)
{
    const kin_init zero = KIN_INIT(KIN_INIT_ZERO, 0);

    mlp->act = act;
    mlp->w1 = kin_params_add(params, init, KIN_DIMS(hidden, in), "%s.weight", first);
    mlp->b1 = kin_params_add(params, zero, KIN_DIMS(hidden), "%s.bias", first);
    mlp->w2 = kin_params_add(params, init, KIN_DIMS(out, hidden), "%s.weight", second);
    mlp->b2 = kin_params_add(params, zero, KIN_DIMS(out), "%s.bias", second);
}

kin_status kin_mlp_forward(kin_ctx *ctx, const kin_mlp *mlp, const kin_tensor *x, kin_tensor *y)
{
    kin_tensor hidden;

    KIN_TRY(kin_linear_act(ctx, x, mlp->w1, mlp->b1, mlp->act, &hidden));
    return kin_linear(ctx, &hidden, mlp->w2, mlp->b2, y);
}

kin_status kin_time_sinusoid(kin_ctx *ctx, const kin_tensor *t, int64_t freq, kin_tensor *y)
{
    const kin_tensor column = KIN_RESHAPE(t, t->size[0], 1);

    return kin_sinusoid(ctx, &column, freq / 2, freq, y);
}

void kin_positions_register(kin_params *params, const char *prefix, const int64_t grid[3],
                            int64_t width, float start_deviation, kin_positions *p)
{
    const kin_init start = KIN_INIT(KIN_INIT_NORMAL, start_deviation);

    p->frame = kin_params_add(params, start, KIN_DIMS(grid[0], width), "%sframe", prefix);
    p->row = kin_params_add(params, start, KIN_DIMS(grid[1], width), "%srow", prefix);
    p->column = kin_params_add(params, start, KIN_DIMS(grid[2], width), "%scolumn", prefix);
}

kin_status kin_positions_add(kin_ctx *ctx, const kin_positions *p, const kin_tensor *tokens,
                             const int64_t grid[3], kin_tensor *y)
{
    static const char *const what[3] = {"frames", "height", "width"};
    kin_param *const table[3] = {p->frame, p->row, p->column};
    const int64_t width = tokens->size[2], cells = grid[0] * grid[1] * grid[2];
    kin_tensor axis[3], plane, pos;

    for (int i = 0; i < 3; i++) {
        kin_tensor all;

        if (grid[i] > table[i]->value.size[0])
            return kin_fail(&ctx->error, KIN_ERR_ARG,
                            "%s: the model knows %lld patches at most, not %lld (table %s)",
                            what[i], (long long)table[i]->value.size[0], (long long)grid[i],
                            table[i]->name);
        KIN_TRY(kin_param_tensor(ctx, table[i], &all));
        axis[i] = kin_tensor_slice(&all, 0, 0, grid[i]);
    }
    axis[0] = KIN_RESHAPE(&axis[0], grid[0], 1, width);
    axis[1] = KIN_RESHAPE(&axis[1], 1, grid[1], width);
    KIN_TRY(kin_add(ctx, &axis[0], &axis[1], 1.0f, &plane));
    plane = KIN_RESHAPE(&plane, grid[0] * grid[1], 1, width);
    axis[2] = KIN_RESHAPE(&axis[2], 1, grid[2], width);
    KIN_TRY(kin_add(ctx, &plane, &axis[2], 1.0f, &pos));
    pos = KIN_RESHAPE(&pos, 1, cells, width);
    return kin_add(ctx, tokens, &pos, 1.0f, y);
}

void kin_sincos_2d(int64_t side, int64_t width, float *out)
{
    const int64_t quarter = width / 4;

    for (int64_t r = 0; r < side; r++) {
        for (int64_t c = 0; c < side; c++) {
            float *row = out + (r * side + c) * width;

            for (int64_t i = 0; i < quarter; i++) {
                const double f = pow(10000.0, -(double)i / (double)quarter);

                row[i] = (float)sin((double)c * f);
                row[quarter + i] = (float)cos((double)c * f);
                row[2 * quarter + i] = (float)sin((double)r * f);
                row[3 * quarter + i] = (float)cos((double)r * f);
            }
        }
    }
}

/* out[p][0..size) = [sin | cos] of p / scale * 10000^(-2k/size) */
static void axis_table(int64_t count, int64_t size, double scale, float *out)
{
    const int64_t half = size / 2;

    for (int64_t p = 0; p < count; p++) {
        for (int64_t k = 0; k < half; k++) {
            const double a = (double)p / scale * pow(10000.0, -(double)k / (double)half);

            out[p * size + k] = (float)sin(a);
            out[p * size + half + k] = (float)cos(a);
        }
    }
}

kin_status kin_sincos_3d(kin_ctx *ctx, const int64_t grid[3], int64_t width, int64_t text,
                         double scale_space, double scale_time, kin_dtype dtype, kin_tensor *table)
{
    const int64_t cells = grid[0] * grid[1] * grid[2];
    const int64_t size[3] = {width / 4, 3 * width / 8, 3 * width / 8};
    const double scale[3] = {scale_time, scale_space, scale_space};
    const int64_t count[3] = {grid[0], grid[2], grid[1]};
    float *axis[3];
    int64_t at = text * width;

    KIN_TRY(KIN_WS_HOST(ctx, table, dtype, 1, text + cells, width));
    for (int i = 0; i < 3; i++) {
        axis[i] = kin_ws_bytes(ctx, (size_t)(count[i] * size[i]) * sizeof(float));
        if (!axis[i])
            return ctx->error.status;
    }
    if (kin_ctx_is_plan(ctx))
        return KIN_OK;
    KIN_TRY(kin_fill(ctx, table, 0));
    for (int i = 0; i < 3; i++)
        axis_table(count[i], size[i], scale[i], axis[i]);
    for (int64_t n = 0; n < cells; n++) {
        const int64_t index[3] = {n / (grid[1] * grid[2]), n % grid[2], n / grid[2] % grid[1]};

        for (int i = 0; i < 3; i++) {
            for (int64_t k = 0; k < size[i]; k++)
                kin_tensor_set(table, at++, (double)axis[i][index[i] * size[i] + k]);
        }
    }
    return kin_settle(ctx, table);
}

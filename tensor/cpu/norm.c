/* tensor/cpu/norm.c: LayerNorm with modulation, RMSNorm. Rows are cut into groups (those that share
 * a row of scale and shift) and pieces of at most 64 rows; sums over rows are made per piece, then
 * over pieces in order. */
#include <omp.h>
#include <string.h>

#include "tensor/cpu/cpu.h"
#include "tensor/ref/ref.h"

enum { PIECE_ROWS = 64 };

static kin_status job_of(kin_ctx *ctx, const kin_norm_args *a, bool rms, kin_norm_job *j)
{
    *j = (kin_norm_job){.rms = rms,
                        .d = a->d,
                        .eps = a->eps,
                        .x = kin_f32(a->x),
                        .ld_x = kin_ld(a->x),
                        .scale = rms ? NULL : kin_f32(a->scale),
                        .ld_scale = kin_ld(a->scale),
                        .shift = kin_f32(a->shift),
                        .ld_shift = kin_ld(a->shift),
                        .group_rows = a->rows,
                        .y = kin_is_half(a->y) ? NULL : kin_f32(a->y),
                        .ld_y = kin_ld(a->y),
                        .mean = kin_f32(a->mean),
                        .rstd = kin_f32(a->rstd),
                        .step_mean = kin_ld(a->mean),
                        .step_rstd = kin_ld(a->rstd),
                        .dy = kin_f32(a->dy),
                        .ld_dy = kin_ld(a->dy),
                        .dx = kin_f32(a->dx),
                        .ld_dx = kin_ld(a->dx),
                        .acc_dx = a->acc_dx};
    if (a->cos) {
        j->cos = kin_f32(a->cos);
        j->sin = kin_f32(a->sin);
        j->ld_cos = kin_ld(a->cos);
        j->ld_sin = kin_ld(a->sin);
        j->turn_n = a->cos->size[0];
        j->turn_d = 2 * a->cos->size[1];
        j->turn_rows = a->turn_rows;
    }
    if (j->scale)
        j->group_rows = a->rows / a->scale->size[0];
    KIN_TRY(kin_cpu_param_f32(ctx, a->gamma, a->d, &j->gamma));
    return kin_cpu_param_f32(ctx, rms ? NULL : a->beta, a->d, &j->beta);
}

/* Rows into y in bf16, by way of one row of floats. */
static void half_rows(const kin_simd *s, const kin_norm_job *j, int64_t r0, int64_t r1, float *row,
                      const kin_tensor *y)
{
    kin_norm_job one = *j;
    one.y = row;
    one.ld_y = 0;
    for (int64_t r = r0; r < r1; r++) {
        s->norm_rows(&one, r, r + 1);
        s->to_bf16(row, j->d, kin_rows_at(y, r));
    }
}

/* The end of the run of live rows at or after *r, at most r1. */
static int64_t live_rows(const kin_live *live, int64_t *r, int64_t r1)
{
    if (!live->part)
        return r1;
    while (*r < r1 && !live->part[*r % live->parts])
        (*r)++;
    int64_t end = *r;
    while (end < r1 && live->part[end % live->parts])
        end++;
    return end;
}

static kin_status forward(kin_ctx *ctx, const kin_norm_args *a, bool rms)
{
    const kin_simd *s = kin_cpu_simd(ctx);
    size_t mark = kin_ws_mark(ctx);
    kin_norm_job j;
    KIN_TRY(job_of(ctx, a, rms, &j));
    float *rows = NULL;
    if (kin_is_half(a->y)) {
        rows = kin_ws_bytes(ctx, (size_t)(ctx->threads * a->d) * sizeof(float));
        if (!rows)
            return ctx->error.status;
    }
    if (kin_cpu_planned(ctx, mark))
        return KIN_OK;
    int64_t pieces = (a->rows + PIECE_ROWS - 1) / PIECE_ROWS;
#pragma omp parallel for num_threads(kin_cpu_threads(ctx, 2 * a->rows * a->d)) schedule(static)
    for (int64_t p = 0; p < pieces; p++) {
        int64_t r0 = p * PIECE_ROWS, r1 = r0 + PIECE_ROWS < a->rows ? r0 + PIECE_ROWS : a->rows;
        float *row = rows ? rows + omp_get_thread_num() * a->d : NULL;
        while (r0 < r1) {
            int64_t end = live_rows(&a->live, &r0, r1);
            if (row)
                half_rows(s, &j, r0, end, row, a->y);
            else
                s->norm_rows(&j, r0, end);
            r0 = end;
        }
    }
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

/* dst [d] (+)= sum of column sums `which` over pieces [p0, p1). */
static void gather(const float *sums, int64_t d, int which, int64_t p0, int64_t p1, float *dst,
                   bool acc)
{
    for (int64_t c = 0; c < d; c++) {
        float v = 0.0f;
        for (int64_t p = p0; p < p1; p++)
            v += sums[(p * 4 + which) * d + c];
        dst[c] = acc ? dst[c] + v : v;
    }
}

static void gather_all(const kin_norm_args *a, bool rms, const float *sums, int64_t groups,
                       int64_t per_group)
{
    for (int64_t g = 0; g < groups; g++) {
        if (a->dshift && a->dshift->data)
            gather(sums, a->d, 0, g * per_group, (g + 1) * per_group,
                   kin_f32(a->dshift) + g * kin_ld(a->dshift), a->acc_dshift);
        if (a->dscale && a->dscale->data)
            gather(sums, a->d, 1, g * per_group, (g + 1) * per_group,
                   kin_f32(a->dscale) + g * kin_ld(a->dscale), a->acc_dscale);
    }
    if (a->gamma && a->gamma->grad.data)
        gather(sums, a->d, 2, 0, groups * per_group, a->gamma->grad.data, true);
    if (!rms && a->beta && a->beta->grad.data)
        gather(sums, a->d, 3, 0, groups * per_group, a->beta->grad.data, true);
}

static kin_status backward(kin_ctx *ctx, const kin_norm_args *a, bool rms)
{
    const kin_simd *s = kin_cpu_simd(ctx);
    size_t mark = kin_ws_mark(ctx);
    kin_norm_job j;
    KIN_TRY(job_of(ctx, a, rms, &j));
    const kin_tensor *mod = a->dscale && a->dscale->data ? a->dscale : a->dshift;
    j.want_modulation = mod && mod->data;
    j.want_affine = (a->gamma && a->gamma->grad.data) || (!rms && a->beta && a->beta->grad.data);
    int64_t groups = j.want_modulation ? mod->size[0] : 1;
    int64_t rows = groups > 0 ? a->rows / groups : 0,
            per_group = (rows + PIECE_ROWS - 1) / PIECE_ROWS;
    float *sums = NULL;
    if (j.want_modulation || j.want_affine) {
        sums = kin_ws_bytes(ctx, (size_t)(groups * per_group * 4 * a->d + 1) * sizeof(float));
        if (!sums)
            return ctx->error.status;
    }
    int threads = kin_cpu_threads(ctx, 3 * a->rows * a->d);
    int64_t each = KIN_NORM_BLOCK * ((a->d + 15) & ~15);
    float *work = kin_ws_bytes(ctx, a->cos ? (size_t)(threads * each) * sizeof(float) : 1);
    if (!work)
        return ctx->error.status;
    if (kin_cpu_planned(ctx, mark))
        return KIN_OK;
    if (sums)
        memset(sums, 0, (size_t)(groups * per_group * 4 * a->d) * sizeof(float));
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t p = 0; p < groups * per_group; p++) {
        int64_t first = p / per_group * rows, r0 = first + p % per_group * PIECE_ROWS;
        int64_t r1 = r0 + PIECE_ROWS < first + rows ? r0 + PIECE_ROWS : first + rows;
        s->norm_rows_bwd(&j, r0, r1, sums ? sums + p * 4 * a->d : NULL,
                         work + omp_get_thread_num() * each);
    }
    if (sums)
        gather_all(a, rms, sums, groups, per_group);
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

kin_status kin_cpu_layernorm(kin_ctx *ctx, const kin_norm_args *a)
{
    return kin_is_f32(a->x) ? forward(ctx, a, false) : kin_ref_layernorm(ctx, a);
}

kin_status kin_cpu_layernorm_bwd(kin_ctx *ctx, const kin_norm_args *a)
{
    return kin_is_f32(a->x) ? backward(ctx, a, false) : kin_ref_layernorm_bwd(ctx, a);
}

kin_status kin_cpu_rmsnorm(kin_ctx *ctx, const kin_norm_args *a)
{
    return kin_is_f32(a->x) ? forward(ctx, a, true) : kin_ref_rmsnorm(ctx, a);
}

kin_status kin_cpu_rmsnorm_bwd(kin_ctx *ctx, const kin_norm_args *a)
{
    return kin_is_f32(a->x) ? backward(ctx, a, true) : kin_ref_rmsnorm_bwd(ctx, a);
}

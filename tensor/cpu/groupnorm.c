/* tensor/cpu/groupnorm.c: group norm with channels last. A sample is cut into pieces of pixels;
 * every piece has its own mean and squares per group, which are put together in order in double
 * (Chan et al. 1979), so nothing depends on threads and a mean far from 0 costs no digits. */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "tensor/cpu/cpu.h"
#include "tensor/ref/ref.h"

enum { PIECE = 64, HALF_ROWS = 8 };

typedef struct job {
    const kin_groupnorm_args *a;
    const kin_simd *s;
    const float *gamma, *beta;
    int64_t pieces, width; /* of a sample; channels of a group */
    double *mean, *square; /* [batch*pieces][groups], of the pieces */
    float *columns;        /* [batch][mean, scale, p, q][channels] */
    float *sums;           /* backward: [batch*pieces][db, dg][channels] */
    float *work;           /* [threads][work_rows][channels] */
    int64_t work_rows;     /* 2 of measure, HALF_ROWS of a result in bf16 */
    int threads;
} job;

enum { MEAN, SCALE, P, Q, COLUMNS };

static float *column(const job *j, int64_t b, int which)
{
    return j->columns + (b * COLUMNS + which) * j->a->channels;
}

static kin_status job_init(kin_ctx *ctx, const kin_groupnorm_args *a, bool backward, job *j)
{
    const int64_t C = a->channels;
    *j = (job){.a = a,
               .s = kin_cpu_simd(ctx),
               .pieces = (a->pixels + PIECE - 1) / PIECE,
               .width = C / a->groups,
               .work_rows = !backward && kin_is_half(a->y) ? HALF_ROWS : 2,
               .threads = kin_cpu_threads(ctx, 4 * a->batch * a->pixels * C)};
    const int64_t all = a->batch * j->pieces;
    KIN_TRY(kin_cpu_param_f32(ctx, a->gamma, C, &j->gamma));
    KIN_TRY(kin_cpu_param_f32(ctx, a->beta, C, &j->beta));
    j->columns = kin_ws_bytes(ctx, (size_t)(a->batch * COLUMNS * C) * sizeof(float));
    j->work = kin_ws_bytes(ctx, (size_t)(j->threads * j->work_rows * C) * sizeof(float));
    if (backward) {
        j->sums = kin_ws_bytes(ctx, (size_t)(all * 2 * C) * sizeof(float));
    } else {
        j->mean = kin_ws_bytes(ctx, (size_t)(all * a->groups) * sizeof(double));
        j->square = kin_ws_bytes(ctx, (size_t)(all * a->groups) * sizeof(double));
    }
    return j->columns && j->work && (backward ? j->sums != NULL : j->mean && j->square)
               ? KIN_OK
               : ctx->error.status;
}

static float *work_of(const job *j)
{
    return j->work + omp_get_thread_num() * j->work_rows * j->a->channels;
}

typedef struct piece {
    int64_t b, first, rows; /* sample, first row of the matrix */
} piece;

static piece piece_of(const job *j, int64_t i)
{
    const int64_t b = i / j->pieces, at = i % j->pieces * PIECE, rest = j->a->pixels - at;
    return (piece){b, b * j->a->pixels + at, rest < PIECE ? rest : PIECE};
}

static double group_sum(const float *x, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)x[i];
    return sum;
}

static void measure(const job *j, int64_t i)
{
    const kin_groupnorm_args *a = j->a;
    const piece p = piece_of(j, i);
    const int64_t C = a->channels;
    const float *x = kin_f32(a->x) + p.first * C;
    float *sum = work_of(j), *mid = sum + C;
    double *mean = j->mean + i * a->groups, *square = j->square + i * a->groups;
    memset(sum, 0, (size_t)C * sizeof(float));
    j->s->column_sums(x, C, p.rows, C, sum);
    for (int64_t g = 0; g < a->groups; g++) {
        mean[g] = group_sum(sum + g * j->width, j->width) / (double)(p.rows * j->width);
        for (int64_t c = g * j->width; c < (g + 1) * j->width; c++)
            mid[c] = (float)mean[g];
    }
    memset(sum, 0, (size_t)C * sizeof(float));
    j->s->columns_square(x, p.rows, C, mid, sum);
    for (int64_t g = 0; g < a->groups; g++)
        square[g] = group_sum(sum + g * j->width, j->width);
}

/* Mean and 1/deviation of one group of one sample, from its pieces. */
static void put_together(const job *j, int64_t b, int64_t g)
{
    const kin_groupnorm_args *a = j->a;
    double n = 0, mean = 0, square = 0;
    for (int64_t i = b * j->pieces; i < (b + 1) * j->pieces; i++) {
        const double k = (double)(piece_of(j, i).rows * j->width);
        const double d = j->mean[i * a->groups + g] - mean;
        mean += d * k / (n + k);
        square += j->square[i * a->groups + g] + d * d * n * k / (n + k);
        n += k;
    }
    kin_f32(a->mean)[b * kin_ld(a->mean) + g] = (float)mean;
    kin_f32(a->rstd)[b * kin_ld(a->rstd) + g] = (float)(1 / sqrt(square / n + (double)a->eps));
}

/* Mean and gamma/deviation by channel. */
static void set_columns(const job *j, int64_t b)
{
    const kin_groupnorm_args *a = j->a;
    for (int64_t c = 0; c < a->channels; c++) {
        const int64_t g = c / j->width;
        column(j, b, MEAN)[c] = kin_f32(a->mean)[b * kin_ld(a->mean) + g];
        column(j, b, SCALE)[c] = kin_f32(a->rstd)[b * kin_ld(a->rstd) + g] * j->gamma[c];
    }
}

static void normalise(const job *j, int64_t i)
{
    const kin_groupnorm_args *a = j->a;
    const piece p = piece_of(j, i);
    const int64_t C = a->channels;
    const bool half = kin_is_half(a->y);
    const float *mean = column(j, p.b, MEAN), *scale = column(j, p.b, SCALE);
    for (int64_t r = 0, n; r < p.rows; r += n) {
        n = !half || p.rows - r < HALF_ROWS ? p.rows - r : HALF_ROWS;
        const int64_t at = (p.first + r) * C;
        float *y = half ? work_of(j) : kin_f32(a->y) + at;
        j->s->columns_norm(kin_f32(a->x) + at, n, C, mean, scale, j->beta, a->act, y);
        if (half)
            j->s->to_bf16(y, n * C, (uint16_t *)a->y->data + at);
    }
}

kin_status kin_cpu_groupnorm(kin_ctx *ctx, const kin_groupnorm_args *a)
{
    if (!kin_is_f32(a->x))
        return kin_ref_groupnorm(ctx, a);
    const size_t mark = kin_ws_mark(ctx);
    job j;
    KIN_TRY(job_init(ctx, a, false, &j));
    if (kin_cpu_planned(ctx, mark))
        return KIN_OK;
    const int64_t all = a->batch * j.pieces;
#pragma omp parallel num_threads(j.threads) if (j.threads > 1)
    {
#pragma omp for schedule(static)
        for (int64_t i = 0; i < all; i++)
            measure(&j, i);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < a->batch * a->groups; i++)
            put_together(&j, i / a->groups, i % a->groups);
#pragma omp for schedule(static)
        for (int64_t b = 0; b < a->batch; b++)
            set_columns(&j, b);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < all; i++)
            normalise(&j, i);
    }
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

static void slope_sums(const job *j, int64_t i)
{
    const kin_groupnorm_args *a = j->a;
    const piece p = piece_of(j, i);
    const int64_t C = a->channels;
    float *db = j->sums + i * 2 * C;
    memset(db, 0, (size_t)(2 * C) * sizeof(float));
    j->s->columns_norm_sums(kin_f32(a->x) + p.first * C, kin_f32(a->dy) + p.first * C, p.rows, C,
                            column(j, p.b, MEAN), column(j, p.b, SCALE), j->beta, a->act, db,
                            db + C);
}

/* dx = scale d - P - Q (x - mean), from the sums of sample b; its share of dgamma and dbeta. */
static void set_slopes(const job *j, int64_t b)
{
    const kin_groupnorm_args *a = j->a;
    const int64_t C = a->channels;
    const double count = (double)(a->pixels * j->width);
    for (int64_t g = 0; g < a->groups; g++) {
        const double rstd = (double)kin_f32(a->rstd)[b * kin_ld(a->rstd) + g];
        double s1 = 0, s2 = 0;
        for (int64_t c = g * j->width; c < (g + 1) * j->width; c++) {
            double db = 0, dg = 0;
            for (int64_t i = b * j->pieces; i < (b + 1) * j->pieces; i++) {
                db += (double)j->sums[i * 2 * C + c];
                dg += (double)j->sums[(i * 2 + 1) * C + c];
            }
            s1 += db * (double)j->gamma[c];
            s2 += dg * (double)j->gamma[c];
            if (a->beta->grad.data)
                ((float *)a->beta->grad.data)[c] += (float)db;
            if (a->gamma->grad.data)
                ((float *)a->gamma->grad.data)[c] += (float)(dg * rstd);
        }
        for (int64_t c = g * j->width; c < (g + 1) * j->width; c++) {
            column(j, b, P)[c] = (float)(rstd * s1 / count);
            column(j, b, Q)[c] = (float)(rstd * rstd * rstd * s2 / count);
        }
    }
}

kin_status kin_cpu_groupnorm_bwd(kin_ctx *ctx, const kin_groupnorm_args *a)
{
    if (!kin_is_f32(a->x))
        return kin_ref_groupnorm_bwd(ctx, a);
    const size_t mark = kin_ws_mark(ctx);
    job j;
    KIN_TRY(job_init(ctx, a, true, &j));
    if (kin_cpu_planned(ctx, mark))
        return KIN_OK;
    const int64_t all = a->batch * j.pieces, C = a->channels;
    for (int64_t b = 0; b < a->batch; b++)
        set_columns(&j, b);
#pragma omp parallel for num_threads(j.threads) schedule(static) if (j.threads > 1)
    for (int64_t i = 0; i < all; i++)
        slope_sums(&j, i);
    for (int64_t b = 0; b < a->batch; b++)
        set_slopes(&j, b);
    const bool want = a->dx && a->dx->data;
#pragma omp parallel for num_threads(j.threads) schedule(static) if (j.threads > 1)
    for (int64_t i = 0; i < (want ? all : 0); i++) {
        const piece p = piece_of(&j, i);
        j.s->columns_norm_bwd(kin_f32(a->x) + p.first * C, kin_f32(a->dy) + p.first * C, p.rows, C,
                              column(&j, p.b, MEAN), column(&j, p.b, SCALE), j.beta, a->act,
                              column(&j, p.b, P), column(&j, p.b, Q), kin_f32(a->dx) + p.first * C,
                              a->acc);
    }
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

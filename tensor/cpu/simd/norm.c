/* tensor/cpu/simd/norm.c: LayerNorm with modulation and RMSNorm on ranges of rows, with the rotary
 * turn that follows the norm of queries and keys. The mean is taken first, then the squares of the
 * differences, as in tensor/ref/. Sums over a row run in four chains: a short row costs latency,
 * not arithmetic. */
#include "tensor/cpu/simd/simd.h"
#include "tensor/cpu/simd/turn.h"
#include "tensor/cpu/simd/vec.h"

/* Chains of a row's sums; rows of the backward pass that share a walk over the columns. */
enum { CHAINS = 4, BLOCK = KIN_NORM_BLOCK };

static void statistics(const kin_norm_job *a, const float *x, float *mean, float *rstd)
{
    int64_t d = a->d, i = 0;
    vf s[CHAINS] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};
    vf q[CHAINS] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};
    *mean = 0.0f;
    if (!a->rms) {
        for (; i + CHAINS * VL <= d; i += CHAINS * VL)
            for (int j = 0; j < CHAINS; j++)
                s[j] = vf_add(s[j], vf_load(x + i + j * VL));
        for (; i < d; i += VL)
            s[0] = vf_add(s[0], vf_loadn(x + i, d - i));
        *mean = vf_sum(vf_add(vf_add(s[0], s[1]), vf_add(s[2], s[3]))) / (float)d;
    }
    vf m = vf_set(*mean);
    for (i = 0; i + CHAINS * VL <= d; i += CHAINS * VL) {
        for (int j = 0; j < CHAINS; j++) {
            vf v = vf_sub(vf_load(x + i + j * VL), m);
            q[j] = vf_fma(v, v, q[j]);
        }
    }
    for (; i < d; i += VL) {
        vf v = vf_first(vf_sub(vf_loadn(x + i, d - i), m), d - i, vf_zero());
        q[0] = vf_fma(v, v, q[0]);
    }
    float sum = vf_sum(vf_add(vf_add(q[0], q[1]), vf_add(q[2], q[3])));
    *rstd = (float)(1.0 / __builtin_sqrt((double)sum / (double)d + (double)a->eps));
}

/* scale of row r, NULL: none */
VINL const float *scale_of(const kin_norm_job *a, int64_t r)
{
    return a->scale ? a->scale + r / a->group_rows * a->ld_scale : NULL;
}

/* Row r turned from x to y (one and the same allowed). */
VINL void turn_row(const kin_norm_job *a, int64_t r, bool inverse, const float *x, float *y)
{
    int64_t p = r / a->turn_rows % a->turn_n, h = a->turn_d;
    vf_turn_heads(x, h, a->d / h, a->cos + p * a->ld_cos, a->sin + p * a->ld_sin, h, inverse, y, h,
                  false);
}

VINL void put_normal(const kin_norm_job *a, const float *x, const float *sc, const float *sh, vf m,
                     vf rs, float *y, int64_t i, int64_t n)
{
    vf v = vf_mul(vf_sub(vf_loadn(x + i, n), m), rs);
    if (a->gamma)
        v = vf_mul(v, vf_loadn(a->gamma + i, n));
    if (a->beta)
        v = vf_add(v, vf_loadn(a->beta + i, n));
    if (sc)
        v = vf_fma(v, vf_add(vf_set(1.0f), vf_loadn(sc + i, n)), vf_loadn(sh + i, n));
    vf_storen(y + i, v, n);
}

void KIN_SIMD(norm_rows)(const kin_norm_job *a, int64_t r0, int64_t r1)
{
    for (int64_t r = r0; r < r1; r++) {
        const float *x = a->x + r * a->ld_x, *sc = scale_of(a, r);
        const float *sh = sc ? a->shift + r / a->group_rows * a->ld_shift : NULL;
        float *y = a->y + r * a->ld_y, mean, rstd;
        int64_t i = 0;
        statistics(a, x, &mean, &rstd);
        if (a->mean)
            a->mean[r * a->step_mean] = mean;
        if (a->rstd)
            a->rstd[r * a->step_rstd] = rstd;
        vf m = vf_set(mean), rs = vf_set(rstd);
        for (; i + VL <= a->d; i += VL)
            put_normal(a, x, sc, sh, m, rs, y, i, VL);
        if (i < a->d)
            put_normal(a, x, sc, sh, m, rs, y, i, a->d - i);
        if (a->cos)
            turn_row(a, r, false, y, y);
    }
}

/* Up to BLOCK rows of one group. */
typedef struct block {
    const float *x[BLOCK], *dy[BLOCK], *scale;
    float *dx[BLOCK];
    float mean[BLOCK], rstd[BLOCK], c1[BLOCK], c2[BLOCK]; /* dx = rstd dn - c1 - n c2 */
} block;

/* (1 + scale) gamma at column i */
VINL vf factor_at(const kin_norm_job *a, const float *sc, int64_t i, int64_t n)
{
    vf f = vf_set(1.0f);
    if (sc)
        f = vf_add(f, vf_loadn(sc + i, n));
    return a->gamma ? vf_mul(f, vf_loadn(a->gamma + i, n)) : f;
}

/* With n = (x - mean) rstd and dn = dy (1 + scale) gamma: the means of dn and dn n of row j. */
static void row_means(const kin_norm_job *a, block *b, int j)
{
    vf m = vf_set(b->mean[j]), rs = vf_set(b->rstd[j]);
    vf sum[2] = {vf_zero(), vf_zero()}, dot[2] = {vf_zero(), vf_zero()};
    for (int64_t i = 0; i < a->d; i += 2 * VL) {
        for (int k = 0; k < 2; k++) {
            int64_t at = i + k * VL, n = a->d - at;
            if (n <= 0)
                break;
            vf dn = vf_mul(vf_loadn(b->dy[j] + at, n), factor_at(a, b->scale, at, n));
            vf v = vf_mul(vf_sub(vf_loadn(b->x[j] + at, n), m), rs);
            sum[k] = vf_add(sum[k], dn);
            dot[k] = vf_fma(dn, v, dot[k]);
        }
    }
    float mean = a->rms ? 0.0f : vf_sum(vf_add(sum[0], sum[1])) / (float)a->d;
    b->c1[j] = b->rstd[j] * mean;
    b->c2[j] = b->rstd[j] * (vf_sum(vf_add(dot[0], dot[1])) / (float)a->d);
}

/* Columns [i, i+n) of all rows of the block: dx, and the four column sums dy, dy a (a = n gamma +
 * beta), dy (1+scale) n, dy (1+scale), rows in order. */
VINL void block_columns(const kin_norm_job *a, const block *b, int rows, int64_t i, int64_t n,
                        float *sums)
{
    bool want[4] = {sums && a->want_modulation, sums && a->want_modulation, sums && a->want_affine,
                    sums && a->want_affine};
    vf one = vf_set(1.0f), f = factor_at(a, b->scale, i, n), s[4];
    vf scale = b->scale ? vf_add(one, vf_loadn(b->scale + i, n)) : one;
    vf gamma = a->gamma ? vf_loadn(a->gamma + i, n) : one;
    vf beta = a->beta ? vf_loadn(a->beta + i, n) : vf_zero();
    for (int k = 0; k < 4; k++)
        s[k] = want[k] ? vf_loadn(sums + k * a->d + i, n) : vf_zero();
    for (int j = 0; j < rows; j++) {
        vf g = vf_loadn(b->dy[j] + i, n), rs = vf_set(b->rstd[j]);
        vf v = vf_mul(vf_sub(vf_loadn(b->x[j] + i, n), vf_set(b->mean[j])), rs);
        if (a->dx) {
            vf o = vf_sub(vf_mul(rs, vf_mul(g, f)), vf_set(b->c1[j]));
            o = vf_fnma(v, vf_set(b->c2[j]), o);
            vf_storen(b->dx[j] + i, a->acc_dx ? vf_add(vf_loadn(b->dx[j] + i, n), o) : o, n);
        }
        s[0] = vf_add(s[0], g);
        s[1] = vf_fma(g, vf_fma(v, gamma, beta), s[1]);
        g = vf_mul(g, scale);
        s[2] = vf_fma(g, v, s[2]);
        s[3] = vf_add(s[3], g);
    }
    for (int k = 0; k < 4; k++)
        if (want[k])
            vf_storen(sums + k * a->d + i, s[k], n);
}

VINL void block_bwd(const kin_norm_job *a, const block *b, int rows, float *sums)
{
    int64_t i = 0;
    for (; i + VL <= a->d; i += VL)
        block_columns(a, b, rows, i, VL, sums);
    if (i < a->d)
        block_columns(a, b, rows, i, a->d - i, sums);
}

/* Rows [r, r + rows) with their statistics; work holds dy turned back. */
static __attribute__((noinline)) void block_open(const kin_norm_job *a, int64_t r, int rows,
                                                 float *work, block *b)
{
    bool stored = a->rstd && (a->rms || a->mean);
    b->scale = scale_of(a, r);
    for (int j = 0; j < rows; j++, r++) {
        b->x[j] = a->x + r * a->ld_x;
        b->dy[j] = a->dy + r * a->ld_dy;
        b->dx[j] = a->dx ? a->dx + r * a->ld_dx : NULL;
        if (a->cos) {
            turn_row(a, r, true, b->dy[j], work + j * a->d);
            b->dy[j] = work + j * a->d;
        }
        if (stored) {
            b->rstd[j] = a->rstd[r * a->step_rstd];
            b->mean[j] = a->rms ? 0.0f : a->mean[r * a->step_mean];
        } else {
            statistics(a, b->x[j], &b->mean[j], &b->rstd[j]);
        }
        if (a->dx)
            row_means(a, b, j);
    }
}

void KIN_SIMD(norm_rows_bwd)(const kin_norm_job *a, int64_t r0, int64_t r1, float *sums,
                             float *work)
{
    block b;
    /* note: longer rows one at a time; two or four rows of 768 at once took 1.5 times as long */
    int64_t most = a->d <= 416 ? BLOCK : 1;
    for (int64_t r = r0, rows; r < r1; r += rows) {
        int64_t same = a->group_rows - r % a->group_rows;
        rows = r1 - r < most ? r1 - r : most;
        rows = rows < same ? rows : same;
        block_open(a, r, (int)rows, work, &b);
        if (rows == BLOCK)
            block_bwd(a, &b, BLOCK, sums);
        else
            block_bwd(a, &b, (int)rows, sums);
    }
}

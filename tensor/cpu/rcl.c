/* tensor/cpu/rcl.c: routing contrastive loss (ProMoE): with m_j the mean of the tokens of expert j
 * and V the experts that have tokens, L = 1/|V| sum_{i in V} (log sum_{j in V}
 * exp(cos(P_i,m_j)/tau) - cos(P_i,m_i)/tau), of each part of the tokens; the mean over parts. */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "tensor/cpu/cpu.h"
#include "tensor/ref/ref.h"

typedef struct rcl {
    int64_t t0, t1, parts; /* tokens of the part at hand; parts that count */
    int64_t experts, d, used;
    const float *proto;
    int64_t *count;
    double *mean;                  /* [E][D] */
    double *pinv, *minv, *cos, *g; /* [E], [E], [E][E], [E][E] */
    float *dmean, *part;           /* [E][D]: divided by the counts; sums of a stretch of tokens */
} rcl;

static kin_status rcl_alloc(kin_ctx *ctx, const kin_rcl_args *a, rcl *r)
{
    size_t e = (size_t)a->proto->value.size[0], d = (size_t)a->x->size[1];
    *r = (rcl){.experts = (int64_t)e, .d = (int64_t)d};
    KIN_TRY(kin_cpu_param_f32(ctx, a->proto, (int64_t)(e * d), &r->proto));
    r->count = kin_ws_bytes(ctx, e * sizeof(int64_t));
    r->mean = kin_ws_bytes(ctx, e * d * sizeof(double));
    r->pinv = kin_ws_bytes(ctx, e * sizeof(double));
    r->minv = kin_ws_bytes(ctx, e * sizeof(double));
    r->cos = kin_ws_bytes(ctx, e * e * sizeof(double));
    r->g = kin_ws_bytes(ctx, e * e * sizeof(double));
    r->dmean = kin_ws_bytes(ctx, e * d * sizeof(float));
    r->part = kin_ws_bytes(ctx, e * d * sizeof(float));
    return r->count && r->mean && r->pinv && r->minv && r->cos && r->g && r->dmean && r->part
               ? KIN_OK
               : ctx->error.status;
}

/* True when slot k of token t is the first one that names expert idx[k]. */
static bool first_mention(const int32_t *idx, int64_t k)
{
    for (int64_t i = 0; i < k; i++) {
        if (idx[i] == idx[k])
            return false;
    }
    return true;
}

static const int32_t *row_of(const kin_rcl_args *a, int64_t t)
{
    return (const int32_t *)a->idx->data + t * a->idx->stride[0];
}

enum { STRIP = 64, FOLD = 64 }; /* columns of a task, tokens summed in f32 at a time */

/* Sums of the tokens of each expert over `cn` columns from c0 on, in the order of tokens. */
static void mean_columns(const kin_simd *s, const kin_rcl_args *a, rcl *r, int64_t c0, int64_t cn)
{
    float *part = r->part + c0 * r->experts;
    for (int64_t e = 0; e < r->experts; e++)
        memset(r->mean + e * r->d + c0, 0, (size_t)cn * sizeof(double));
    for (int64_t t0 = r->t0; t0 < r->t1; t0 += FOLD) {
        int64_t t1 = t0 + FOLD < r->t1 ? t0 + FOLD : r->t1;
        memset(part, 0, (size_t)(r->experts * cn) * sizeof(float));
        for (int64_t t = t0; t < t1; t++) {
            const int32_t *idx = row_of(a, t);
            const float *x = kin_f32(a->x) + t * kin_ld(a->x) + c0;
            for (int64_t k = 0; k < a->slots; k++)
                if (idx[k] >= 0 && idx[k] < r->experts && first_mention(idx, k))
                    s->put_rows(1, cn, 1.0f, x, 0, part + idx[k] * cn, 0, true);
        }
        for (int64_t e = 0; e < r->experts; e++)
            for (int64_t c = 0; c < cn; c++)
                r->mean[e * r->d + c0 + c] += (double)part[e * cn + c];
    }
    for (int64_t e = 0; e < r->experts; e++) {
        for (int64_t c = c0; c < c0 + cn && r->count[e]; c++)
            r->mean[e * r->d + c] /= (double)r->count[e];
    }
}

/* Goes to part i of the tokens and counts those of each expert; false if there are none. */
static bool part_open(const kin_rcl_args *a, rcl *r, int64_t i)
{
    int64_t per = a->x->size[0] / a->parts, all = 0;
    r->t0 = i * per;
    r->t1 = (i + 1) * per;
    memset(r->count, 0, (size_t)r->experts * sizeof(int64_t));
    for (int64_t t = r->t0; t < r->t1; t++) {
        const int32_t *idx = row_of(a, t);
        for (int64_t k = 0; k < a->slots; k++) {
            if (idx[k] >= 0 && idx[k] < r->experts && first_mention(idx, k)) {
                r->count[idx[k]]++;
                all++;
            }
        }
    }
    return all > 0;
}

static void rcl_prepare(kin_ctx *ctx, const kin_rcl_args *a, rcl *r)
{
    const kin_simd *s = kin_cpu_simd(ctx);
    r->used = 0;
    int64_t strips = (r->d + STRIP - 1) / STRIP;
#pragma omp parallel for num_threads(kin_cpu_threads(ctx, (r->t1 - r->t0) * r->d)) schedule(static)
    for (int64_t i = 0; i < strips; i++)
        mean_columns(s, a, r, i * STRIP, r->d - i * STRIP < STRIP ? r->d - i * STRIP : STRIP);
    for (int64_t e = 0; e < r->experts; e++) {
        double p2 = 0, m2 = 0;
        r->used += r->count[e] > 0;
        for (int64_t c = 0; c < r->d; c++) {
            double p = (double)r->proto[e * r->d + c], m = r->mean[e * r->d + c];
            p2 += p * p;
            m2 += m * m;
        }
        r->pinv[e] = 1 / fmax(sqrt(p2), 1e-12);
        r->minv[e] = 1 / fmax(sqrt(m2), 1e-12);
    }
    for (int64_t i = 0; i < r->experts * r->experts; i++) {
        const float *p = r->proto + i / r->experts * r->d;
        const double *m = r->mean + i % r->experts * r->d;
        double dot = 0;
        for (int64_t c = 0; c < r->d; c++)
            dot += (double)p[c] * m[c];
        r->cos[i] = dot * r->pinv[i / r->experts] * r->minv[i % r->experts];
    }
}

static double row_lse(const rcl *r, int64_t i, double tau)
{
    double top = -INFINITY, sum = 0;
    for (int64_t j = 0; j < r->experts; j++) {
        if (r->count[j])
            top = fmax(top, r->cos[i * r->experts + j] / tau);
    }
    for (int64_t j = 0; j < r->experts; j++) {
        if (r->count[j])
            sum += exp(r->cos[i * r->experts + j] / tau - top);
    }
    return top + log(sum);
}

kin_status kin_cpu_rcl(kin_ctx *ctx, const kin_rcl_args *a)
{
    if (!kin_is_f32(a->x) || a->proto->value.dtype == KIN_DTYPE_F64)
        return kin_ref_rcl(ctx, a);
    size_t mark = kin_ws_mark(ctx);
    double loss = 0;
    rcl r;
    KIN_TRY(rcl_alloc(ctx, a, &r));
    if (kin_cpu_planned(ctx, mark))
        return KIN_OK;
    for (int64_t i = 0; i < a->parts; i++) {
        double sum = 0;
        r.parts += part_open(a, &r, i);
        for (int64_t e = 0; e < r.experts && a->count && a->count->data; e++)
            ((int32_t *)a->count->data)[i * kin_ld(a->count) + e] = (int32_t)r.count[e];
        rcl_prepare(ctx, a, &r);
        for (int64_t e = 0; e < r.experts && r.used >= 2; e++) {
            if (r.count[e])
                sum += row_lse(&r, e, (double)a->tau) - r.cos[e * r.experts + e] / (double)a->tau;
        }
        loss += r.used >= 2 ? sum / (double)r.used : 0;
    }
    *kin_f32(a->loss) = r.parts ? (float)(loss / (double)r.parts) : 0.0f;
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

/* d cos(u,v) / du_c, without the term of the norm where it lies under its floor */
static double cosine_du(double u, double uinv, double v, double vinv, double cosine)
{
    return (v * vinv - (uinv >= 1e12 ? 0 : u * uinv * cosine)) * uinv;
}

/* Gradients of prototypes (added to the table) and of the means, of expert e. */
static void expert_bwd(const kin_rcl_args *a, rcl *r, int64_t e)
{
    int64_t n = r->experts;
    float *grad = a->proto->grad.data;
    for (int64_t c = 0; c < r->d; c++) {
        double dp = 0, dm = 0, p = (double)r->proto[e * r->d + c], m = r->mean[e * r->d + c];
        for (int64_t f = 0; f < n; f++) {
            dp += r->g[e * n + f] *
                  cosine_du(p, r->pinv[e], r->mean[f * r->d + c], r->minv[f], r->cos[e * n + f]);
            dm += r->g[f * n + e] * cosine_du(m, r->minv[e], (double)r->proto[f * r->d + c],
                                              r->pinv[f], r->cos[f * n + e]);
        }
        if (grad)
            grad[e * r->d + c] += (float)dp;
        r->dmean[e * r->d + c] = r->count[e] ? (float)(dm / (double)r->count[e]) : 0.0f;
    }
}

static void score_gradients(const kin_rcl_args *a, rcl *r)
{
    double factor =
        (double)*kin_f32(a->dloss) / ((double)r->used * (double)a->tau * (double)r->parts);
    for (int64_t i = 0; i < r->experts; i++) {
        double lse = r->count[i] ? row_lse(r, i, (double)a->tau) : 0;
        for (int64_t j = 0; j < r->experts; j++) {
            double p = exp(r->cos[i * r->experts + j] / (double)a->tau - lse);
            r->g[i * r->experts + j] = r->count[i] && r->count[j] ? factor * (p - (i == j)) : 0;
        }
    }
}

/* The part at hand. */
static void part_bwd(kin_ctx *ctx, const kin_rcl_args *a, rcl *r)
{
    const kin_simd *s = kin_cpu_simd(ctx);
    rcl_prepare(ctx, a, r);
    bool active = r->used >= 2;
    if (active) {
        score_gradients(a, r);
#pragma omp parallel for num_threads(kin_cpu_threads(ctx, r->experts * r->experts * r->d)) \
    schedule(static)
        for (int64_t e = 0; e < r->experts; e++)
            expert_bwd(a, r, e);
    }
    if (!a->dx || !a->dx->data)
        return;
#pragma omp parallel for num_threads(kin_cpu_threads(ctx, (r->t1 - r->t0) * r->d)) schedule(static)
    for (int64_t t = r->t0; t < r->t1; t++) {
        const int32_t *idx = row_of(a, t);
        float *dx = kin_f32(a->dx) + t * kin_ld(a->dx);
        if (!a->acc)
            memset(dx, 0, (size_t)r->d * sizeof(float));
        for (int64_t k = 0; k < a->slots && active; k++) {
            if (idx[k] >= 0 && idx[k] < r->experts && first_mention(idx, k))
                s->put_rows(1, r->d, 1.0f, r->dmean + idx[k] * r->d, 0, dx, 0, true);
        }
    }
}

kin_status kin_cpu_rcl_bwd(kin_ctx *ctx, const kin_rcl_args *a)
{
    if (!kin_is_f32(a->x) || a->proto->value.dtype == KIN_DTYPE_F64)
        return kin_ref_rcl_bwd(ctx, a);
    size_t mark = kin_ws_mark(ctx);
    rcl r;
    KIN_TRY(rcl_alloc(ctx, a, &r));
    if (kin_cpu_planned(ctx, mark))
        return KIN_OK;
    for (int64_t i = 0; i < a->parts; i++)
        r.parts += part_open(a, &r, i);
    for (int64_t i = 0; i < a->parts; i++) {
        part_open(a, &r, i);
        part_bwd(ctx, a, &r);
    }
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

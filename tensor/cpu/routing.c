/* tensor/cpu/routing.c: cosine scores, choice of experts, sorting of tokens, load balance. */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "tensor/cpu/cpu.h"
#include "tensor/ref/ref.h"

enum { PIECE = 128 };

static const float floor_norm = 1e-12f;

/* 1 / max(norm, 1e-12), or 1 */
static float inverse_norm(const kin_simd *s, bool plain, const float *x, int64_t n)
{
    if (plain)
        return 1.0f;
    double norm = sqrt(s->sumsq(x, n));
    return (float)(1.0 / (norm > 1e-12 ? norm : 1e-12));
}

static bool floored(float inverse)
{
    return inverse >= 1.0f / floor_norm;
}

/* Inverse norms of the rows of x: the kept ones, or made again into out. */
static const float *inverses(kin_ctx *ctx, bool plain, const kin_tensor *kept, const float *x,
                             int64_t ld, int64_t rows, int64_t n, bool make, float *out)
{
    const kin_simd *s = kin_cpu_simd(ctx);
    if (kept && kept->data && !make && kept->stride[0] == 1)
        return kin_f32(kept);
#pragma omp parallel for num_threads(kin_cpu_threads(ctx, rows *n)) schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        out[r] = inverse_norm(s, plain, x + r * ld, n);
        if (make && kept && kept->data)
            kin_f32(kept)[r * kept->stride[0]] = out[r];
    }
    return out;
}

kin_status kin_cpu_cosine(kin_ctx *ctx, const kin_cosine_args *a)
{
    const kin_simd *s = kin_cpu_simd(ctx);
    int64_t tokens = a->x->size[0], d = a->x->size[1], experts = a->proto->value.size[0];
    if (!kin_is_f32(a->x) || a->proto->value.dtype == KIN_DTYPE_F64)
        return kin_ref_cosine(ctx, a);
    size_t mark = kin_ws_mark(ctx);
    const float *p;
    KIN_TRY(kin_cpu_param_f32(ctx, a->proto, experts * d, &p));
    float *xi = kin_ws_bytes(ctx, (size_t)(tokens + 1) * sizeof(float));
    float *pi = kin_ws_bytes(ctx, (size_t)(experts + 1) * sizeof(float));
    if (!xi || !pi)
        return ctx->error.status;
    if (kin_cpu_planned(ctx, mark))
        return KIN_OK;
    inverses(ctx, a->plain, a->xinv, kin_f32(a->x), kin_ld(a->x), tokens, d, true, xi);
    inverses(ctx, a->plain, a->pinv, p, d, experts, d, true, pi);
#pragma omp parallel for num_threads(kin_cpu_threads(ctx, tokens *experts *d)) schedule(static)
    for (int64_t t = 0; t < tokens; t++) {
        for (int64_t e = 0; e < experts; e++)
            kin_f32(a->z)[t * kin_ld(a->z) + e] =
                s->dot(kin_f32(a->x) + t * kin_ld(a->x), p + e * d, d) * xi[t] * pi[e];
    }
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

/* dx[t] = xinv (sum_e dz pinv p_e - x xinv sum_e dz z) */
static void cosine_row(const kin_cosine_args *a, const kin_simd *s, int64_t t, const float *p,
                       float xinv, const float *pinv, float *row)
{
    int64_t d = a->x->size[1], experts = a->proto->value.size[0];
    const float *dz = kin_f32(a->dz) + t * kin_ld(a->dz), *z = kin_f32(a->z) + t * kin_ld(a->z);
    float sum = 0.0f;
    memset(row, 0, (size_t)d * sizeof(float));
    for (int64_t e = 0; e < experts; e++) {
        s->put_rows(1, d, dz[e] * pinv[e] * xinv, p + e * d, 0, row, 0, true);
        sum += dz[e] * z[e];
    }
    if (!a->plain && !floored(xinv))
        s->put_rows(1, d, -sum * xinv * xinv, kin_f32(a->x) + t * kin_ld(a->x), 0, row, 0, true);
    s->put_rows(1, d, 1.0f, row, 0, kin_f32(a->dx) + t * kin_ld(a->dx), 0, a->acc);
}

/* Tokens [t0, t1): part[e] += dz xinv x_t; dots[e] += dz z */
static void cosine_part(const kin_cosine_args *a, const kin_simd *s, int64_t t0, int64_t t1,
                        const float *xinv, float *part, float *dots)
{
    int64_t d = a->x->size[1], experts = a->proto->value.size[0];
    memset(part, 0, (size_t)(experts * d) * sizeof(float));
    memset(dots, 0, (size_t)experts * sizeof(float));
    for (int64_t t = t0; t < t1; t++) {
        const float *dz = kin_f32(a->dz) + t * kin_ld(a->dz), *z = kin_f32(a->z) + t * kin_ld(a->z);
        for (int64_t e = 0; e < experts; e++) {
            if (dz[e] == 0.0f)
                continue;
            s->put_rows(1, d, dz[e] * xinv[t], kin_f32(a->x) + t * kin_ld(a->x), 0, part + e * d, 0,
                        true);
            dots[e] += dz[e] * z[e];
        }
    }
}

static kin_status cosine_proto(kin_ctx *ctx, const kin_cosine_args *a, const float *p,
                               const float *xinv, const float *pinv)
{
    const kin_simd *s = kin_cpu_simd(ctx);
    int64_t tokens = a->x->size[0], d = a->x->size[1], experts = a->proto->value.size[0];
    int64_t pieces = (tokens + PIECE - 1) / PIECE, each = experts * (d + 1);
    float *parts = kin_ws_bytes(ctx, (size_t)(pieces * each + 1) * sizeof(float)),
          *grad = a->proto->grad.data;
    if (!parts || kin_ctx_is_plan(ctx))
        return parts ? KIN_OK : ctx->error.status;
#pragma omp parallel for num_threads(kin_cpu_threads(ctx, tokens *experts *d)) schedule(static)
    for (int64_t i = 0; i < pieces; i++)
        cosine_part(a, s, i * PIECE, (i + 1) * PIECE < tokens ? (i + 1) * PIECE : tokens, xinv,
                    parts + i * each, parts + i * each + experts * d);
    for (int64_t e = 0; e < experts; e++) {
        float sum = 0.0f;
        for (int64_t i = 0; i < pieces; i++) {
            s->put_rows(1, d, pinv[e], parts + i * each + e * d, 0, grad + e * d, 0, true);
            sum += parts[i * each + experts * d + e];
        }
        if (!a->plain && !floored(pinv[e]))
            s->put_rows(1, d, -sum * pinv[e] * pinv[e], p + e * d, 0, grad + e * d, 0, true);
    }
    return KIN_OK;
}

kin_status kin_cpu_cosine_bwd(kin_ctx *ctx, const kin_cosine_args *a)
{
    const kin_simd *s = kin_cpu_simd(ctx);
    int64_t tokens = a->x->size[0], d = a->x->size[1], experts = a->proto->value.size[0];
    if (!kin_is_f32(a->x) || a->proto->value.dtype == KIN_DTYPE_F64)
        return kin_ref_cosine_bwd(ctx, a);
    size_t mark = kin_ws_mark(ctx), row = ((size_t)d + 15) / 16 * 16;
    const float *p, *xinv, *pinv;
    KIN_TRY(kin_cpu_param_f32(ctx, a->proto, experts * d, &p));
    float *xi = kin_ws_bytes(ctx, (size_t)(tokens + 1) * sizeof(float));
    float *pi = kin_ws_bytes(ctx, (size_t)(experts + 1) * sizeof(float));
    float *rows = kin_ws_bytes(ctx, (size_t)ctx->threads * row * sizeof(float));
    if (!xi || !pi || !rows)
        return ctx->error.status;
    if (kin_ctx_is_plan(ctx)) {
        if (a->proto->grad.data)
            KIN_TRY(cosine_proto(ctx, a, p, xi, pi));
        kin_ws_release(ctx, mark);
        return KIN_OK;
    }
    xinv = inverses(ctx, a->plain, a->xinv, kin_f32(a->x), kin_ld(a->x), tokens, d, false, xi);
    pinv = inverses(ctx, a->plain, a->pinv, p, d, experts, d, false, pi);
    if (a->dx && a->dx->data) {
#pragma omp parallel for num_threads(kin_cpu_threads(ctx, tokens *experts *d)) schedule(static)
        for (int64_t t = 0; t < tokens; t++)
            cosine_row(a, s, t, p, xinv[t], pinv, rows + (size_t)omp_get_thread_num() * row);
    }
    if (a->proto->grad.data)
        KIN_TRY(cosine_proto(ctx, a, p, xinv, pinv));
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

static bool null_row(const kin_tensor *null, int64_t t, int64_t tokens)
{
    return null && null->data &&
           ((const uint8_t *)null->data)[t / (tokens / null->size[0]) * null->stride[0]] != 0;
}

static void topk_row(const kin_topk_args *a, int64_t t)
{
    int64_t experts = a->scores->size[1];
    const float *score = kin_f32(a->scores) + t * kin_ld(a->scores);
    int32_t *idx = (int32_t *)a->idx->data + t * kin_ld(a->idx);
    float *w = kin_f32(a->w) + t * kin_ld(a->w);
    int64_t have = 0;
    if (null_row(a->null, t, a->scores->size[0])) {
        for (int64_t k = 0; k < a->k; k++) {
            idx[k] = (int32_t)a->null_expert;
            w[k] = k == 0 ? 1.0f : 0.0f;
        }
        return;
    }
    /* insertion; a later equal score stays behind */
    for (int64_t e = 0; e < experts; e++) {
        int64_t at = have < a->k ? have++ : a->k;
        while (at > 0 && score[e] > w[at - 1]) {
            if (at < a->k) {
                w[at] = w[at - 1];
                idx[at] = idx[at - 1];
            }
            at--;
        }
        if (at < a->k) {
            w[at] = score[e];
            idx[at] = (int32_t)e;
        }
    }
}

kin_status kin_cpu_topk(kin_ctx *ctx, const kin_topk_args *a)
{
    if (!kin_is_f32(a->scores))
        return kin_ref_topk(ctx, a);
    int64_t tokens = a->scores->size[0];
#pragma omp parallel for num_threads(kin_cpu_threads(ctx, 4 * tokens * a->scores->size[1])) \
    schedule(static)
    for (int64_t t = 0; t < tokens; t++)
        topk_row(a, t);
    return KIN_OK;
}

kin_status kin_cpu_topk_bwd(kin_ctx *ctx, const kin_topk_args *a)
{
    if (!kin_is_f32(a->dscores))
        return kin_ref_topk_bwd(ctx, a);
    int64_t tokens = a->dscores->size[0], experts = a->dscores->size[1];
#pragma omp parallel for num_threads(kin_cpu_threads(ctx, 4 * tokens * experts)) schedule(static)
    for (int64_t t = 0; t < tokens; t++) {
        float *ds = kin_f32(a->dscores) + t * kin_ld(a->dscores);
        const float *dw = kin_f32(a->dw) + t * kin_ld(a->dw);
        const int32_t *idx = (const int32_t *)a->idx->data + t * kin_ld(a->idx);
        if (!a->acc)
            memset(ds, 0, (size_t)experts * sizeof(float));
        for (int64_t k = 0; k < a->k && !null_row(a->null, t, tokens); k++) {
            if (idx[k] >= 0)
                ds[idx[k]] += dw[k];
        }
    }
    return KIN_OK;
}

kin_status kin_cpu_dispatch(kin_ctx *ctx, const kin_dispatch_args *a)
{
    kin_dispatch *d = a->d;
    int32_t *order = d->order.data, *offset = d->offset.data, *inverse = d->inverse.data;
    size_t mark = kin_ws_mark(ctx);
    int32_t *next = kin_ws_bytes(ctx, (size_t)(d->groups + 1) * sizeof(int32_t));
    if (!next)
        return ctx->error.status;
    if (kin_cpu_planned(ctx, mark))
        return KIN_OK;
    memset(next, 0, (size_t)(d->groups + 1) * sizeof(int32_t));
    for (int pass = 0; pass < 2; pass++) {
        for (int64_t t = 0; t < d->tokens; t++) {
            const int32_t *idx = (const int32_t *)a->idx->data + t * kin_ld(a->idx);
            bool null = a->null_expert >= 0 && idx[0] == a->null_expert;
            for (int64_t k = 0; k < d->slots; k++) {
                int64_t i = t * d->slots + k;
                bool used = (k == 0 || !null) && idx[k] >= 0 && idx[k] < d->groups;
                if (pass == 0) {
                    next[idx[k] >= 0 && used ? idx[k] : d->groups] += used;
                    inverse[i] = -1;
                } else if (used) {
                    order[next[idx[k]]] = (int32_t)i;
                    inverse[i] = next[idx[k]]++;
                }
            }
        }
        if (pass == 0) {
            int32_t at = 0;
            for (int64_t e = 0; e < d->groups; e++) {
                int32_t n = next[e];
                offset[e] = next[e] = at;
                at += n;
            }
            offset[d->groups] = at;
        }
    }
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

/* What both directions of the balance loss need: per part (sample, or the whole batch) the rows
 * that count and the number of slots of each expert. */
typedef struct balance {
    int64_t parts, per, used;
    int64_t *rows; /* [parts] */
    int64_t *hits; /* [parts][E] */
} balance;

static kin_status balance_count(kin_ctx *ctx, const kin_balance_args *a, balance *b)
{
    int64_t tokens = a->p->size[0], experts = a->p->size[1];
    b->parts = a->per_sequence ? a->samples : 1;
    b->per = tokens / b->parts;
    b->used = 0;
    b->rows = kin_ws_bytes(ctx, (size_t)b->parts * sizeof(int64_t));
    b->hits = kin_ws_bytes(ctx, (size_t)(b->parts * experts + 1) * sizeof(int64_t));
    if (!b->rows || !b->hits)
        return ctx->error.status;
    if (kin_ctx_is_plan(ctx))
        return KIN_OK;
    memset(b->hits, 0, (size_t)(b->parts * experts) * sizeof(int64_t));
    for (int64_t i = 0; i < b->parts; i++) {
        b->rows[i] = 0;
        for (int64_t t = i * b->per; t < (i + 1) * b->per; t++) {
            const int32_t *idx = (const int32_t *)a->idx->data + t * kin_ld(a->idx);
            if (null_row(a->null, t, tokens))
                continue;
            b->rows[i]++;
            for (int64_t k = 0; k < a->idx->size[1]; k++) {
                if (idx[k] >= 0 && idx[k] < experts)
                    b->hits[i * experts + idx[k]]++;
            }
        }
        b->used += b->rows[i] > 0;
    }
    return KIN_OK;
}

/* d loss / d p of expert e in part i, without coef */
static double balance_slope(const kin_balance_args *a, const balance *b, int64_t i, int64_t e)
{
    int64_t experts = a->p->size[1];
    double share = (double)b->hits[i * experts + e] / (double)(b->rows[i] * a->idx->size[1]);
    return (double)experts * share / (double)b->rows[i] / (double)b->used;
}

kin_status kin_cpu_balance(kin_ctx *ctx, const kin_balance_args *a)
{
    if (!kin_is_f32(a->p))
        return kin_ref_balance(ctx, a);
    size_t mark = kin_ws_mark(ctx);
    balance b;
    double loss = 0;
    KIN_TRY(balance_count(ctx, a, &b));
    if (kin_cpu_planned(ctx, mark))
        return KIN_OK;
    for (int64_t i = 0; i < b.parts; i++) {
        for (int64_t e = 0; e < a->p->size[1] && b.rows[i] > 0; e++) {
            double sum = 0;
            for (int64_t t = i * b.per; t < (i + 1) * b.per; t++)
                sum += null_row(a->null, t, a->p->size[0])
                           ? 0
                           : (double)kin_f32(a->p)[t * kin_ld(a->p) + e];
            loss += sum * balance_slope(a, &b, i, e);
        }
    }
    *kin_f32(a->loss) = (float)((double)a->coef * loss);
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

kin_status kin_cpu_balance_bwd(kin_ctx *ctx, const kin_balance_args *a)
{
    if (!kin_is_f32(a->dp))
        return kin_ref_balance_bwd(ctx, a);
    size_t mark = kin_ws_mark(ctx);
    int64_t tokens = a->p->size[0], experts = a->p->size[1];
    balance b;
    KIN_TRY(balance_count(ctx, a, &b));
    if (kin_cpu_planned(ctx, mark))
        return KIN_OK;
    double dloss = (double)*kin_f32(a->dloss) * (double)a->coef;
    for (int64_t t = 0; t < tokens; t++) {
        float *dp = kin_f32(a->dp) + t * kin_ld(a->dp);
        int64_t i = t / b.per;
        bool counts = i < b.parts && !null_row(a->null, t, tokens);
        for (int64_t e = 0; e < experts; e++) {
            float g = counts ? (float)(dloss * balance_slope(a, &b, i, e)) : 0.0f;
            dp[e] = a->acc ? dp[e] + g : g;
        }
    }
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

/* tensor/ref/attention.c: o = gate * softmax(scale q k^T + bias, masked) v, one query at a time,
 * and its gradients from recomputed probabilities. A masked key has the lowest float as its score,
 * whatever q and k are: it passes no gradient to them, and a row with only masked keys is uniform.
 */
#include "tensor/ref/ref.h"

#include <float.h>
#include <string.h>

typedef struct head {
    const kin_attention_args *a;
    kin_ctx *ctx;
    int64_t b, h; /* sample and head */
    double gate;
    double *p;       /* [Nk] scores, then probabilities of one query */
    double *dp;      /* [Nk] their gradients, then those of the scores */
    double *dk, *dv; /* [Nk,d] of one head */
} head;

static int64_t at(const kin_tensor *t, int64_t b, int64_t i, int64_t h, int64_t c)
{
    return b * t->stride[0] + i * t->stride[1] + h * t->stride[2] + c * t->stride[3];
}

/* Element [b, i, h, c] as an operand of a product. */
static double operand(const head *s, const kin_tensor *t, int64_t i, int64_t c)
{
    return kin_ref_attention_operand(s->ctx, kin_ref_load(t, at(t, s->b, i, s->h, c)));
}

static bool masked(const head *s, int64_t j)
{
    const kin_tensor *m = s->a->mask;
    return kin_ref_has(m) && kin_ref_load(m, s->b * m->stride[0] + j * m->stride[1]) == 0;
}

static int64_t bias_at(const kin_tensor *t, int64_t h, int64_t i, int64_t j)
{
    return h * t->stride[0] + i * t->stride[1] + j * t->stride[2];
}

/* Fills s->p with exp(score - largest), returns their sum; *lse = log-sum-exp. */
static double weights(const head *s, int64_t i, double *lse)
{
    const kin_attention_args *a = s->a;
    int64_t nk = a->k->size[1], d = a->q->size[3];
    double largest = -INFINITY, sum = 0;
    for (int64_t j = 0; j < nk; j++) {
        double dot = 0;
        for (int64_t c = 0; c < d; c++)
            dot += operand(s, a->q, i, c) * operand(s, a->k, j, c);
        dot *= (double)a->scale;
        if (kin_ref_has(a->bias))
            dot += kin_ref_load(a->bias, bias_at(a->bias, s->h, i, j));
        s->p[j] = masked(s, j) ? -(double)FLT_MAX : dot;
        largest = fmax(largest, s->p[j]);
    }
    for (int64_t j = 0; j < nk; j++) {
        s->p[j] = exp(s->p[j] - largest);
        sum += s->p[j];
    }
    *lse = largest + log(sum);
    return sum;
}

static void query_fwd(const head *s, int64_t i)
{
    const kin_attention_args *a = s->a;
    int64_t nk = a->k->size[1], d = a->v->size[3];
    double lse = 0, sum = 1;
    if (s->gate != 0)
        sum = weights(s, i, &lse);
    for (int64_t c = 0; c < d; c++) {
        double o = 0;
        for (int64_t j = 0; j < nk && s->gate != 0; j++)
            o += kin_ref_attention_operand(s->ctx, s->p[j]) * operand(s, a->v, j, c);
        kin_ref_store(a->o, at(a->o, s->b, i, s->h, c), s->gate * o / sum);
    }
    if (kin_ref_has(a->lse))
        kin_ref_store(a->lse,
                      s->b * a->lse->stride[0] + s->h * a->lse->stride[1] + i * a->lse->stride[2],
                      lse);
}

/* One query's share: dv_j += p_j gate dO,  dp_j = gate <dO, v_j>,  ds_j = p_j (dp_j - sum_l p_l
 * dp_l), dq += scale sum_j ds_j k_j,  dk_j += scale ds_j q,  dbias += ds. dk and dv gather in
 * double buffers. */
static void query_bwd(const head *s, int64_t i)
{
    const kin_attention_args *a = s->a;
    int64_t nk = a->k->size[1], d = a->q->size[3];
    double lse, sum = weights(s, i, &lse), delta = 0;
    for (int64_t j = 0; j < nk; j++) {
        s->p[j] /= sum;
        s->dp[j] = 0;
        for (int64_t c = 0; c < d; c++)
            s->dp[j] += s->gate * operand(s, a->dout, i, c) * operand(s, a->v, j, c);
        delta += s->p[j] * s->dp[j];
    }
    for (int64_t j = 0; j < nk; j++) {
        double ds = masked(s, j) ? 0 : s->p[j] * (s->dp[j] - delta);
        double p = kin_ref_attention_operand(s->ctx, s->p[j]);
        if (kin_ref_has(a->dbias))
            kin_ref_put(a->dbias, bias_at(a->dbias, s->h, i, j), ds, true);
        s->dp[j] = kin_ref_attention_operand(s->ctx, ds);
        for (int64_t c = 0; c < d; c++) {
            s->dv[j * d + c] += s->gate * p * operand(s, a->dout, i, c);
            s->dk[j * d + c] += (double)a->scale * s->dp[j] * operand(s, a->q, i, c);
        }
    }
    for (int64_t c = 0; c < d && kin_ref_has(a->dq); c++) {
        double dq = 0;
        for (int64_t j = 0; j < nk; j++)
            dq += (double)a->scale * s->dp[j] * operand(s, a->k, j, c);
        kin_ref_put(a->dq, at(a->dq, s->b, i, s->h, c), dq, a->acc_dq);
    }
}

/* Writes one head's buffer [Nk,d] into dk or dv and clears it. */
static void flush(const head *s, const kin_tensor *dst, double *buf, bool acc)
{
    int64_t nk = s->a->k->size[1], d = s->a->k->size[3];
    for (int64_t j = 0; j < nk; j++) {
        for (int64_t c = 0; c < d; c++) {
            if (kin_ref_has(dst))
                kin_ref_put(dst, at(dst, s->b, j, s->h, c), buf[j * d + c], acc);
            buf[j * d + c] = 0;
        }
    }
}

/* Calls `query` for every query of the head in s. */
static void each_query(head *s, void (*query)(const head *, int64_t))
{
    const kin_attention_args *a = s->a;
    s->gate = kin_ref_has(a->gate) ? kin_ref_get2(a->gate, s->b, s->h) : 1;
    for (int64_t i = 0; i < a->q->size[1]; i++)
        query(s, i);
}

kin_status kin_ref_attention(kin_ctx *ctx, const kin_attention_args *a)
{
    size_t mark = kin_ws_mark(ctx);
    head s = {.a = a, .ctx = ctx};
    s.p = kin_ws_bytes(ctx, (size_t)a->k->size[1] * sizeof(double));
    if (!s.p)
        return ctx->error.status;
    for (s.b = 0; s.b < a->q->size[0]; s.b++) {
        for (s.h = 0; s.h < a->q->size[2]; s.h++)
            each_query(&s, query_fwd);
    }
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

kin_status kin_ref_attention_bwd(kin_ctx *ctx, const kin_attention_args *a)
{
    size_t mark = kin_ws_mark(ctx), row = (size_t)a->k->size[1] * sizeof(double);
    size_t head_bytes = row * (size_t)a->k->size[3];
    head s = {.a = a, .ctx = ctx};
    s.p = kin_ws_bytes(ctx, row);
    s.dp = kin_ws_bytes(ctx, row);
    s.dk = kin_ws_bytes(ctx, head_bytes);
    s.dv = kin_ws_bytes(ctx, head_bytes);
    if (!s.p || !s.dp || !s.dk || !s.dv)
        return ctx->error.status;
    memset(s.dk, 0, head_bytes);
    memset(s.dv, 0, head_bytes);
    for (s.b = 0; s.b < a->q->size[0]; s.b++) {
        for (s.h = 0; s.h < a->q->size[2]; s.h++) {
            each_query(&s, query_bwd);
            flush(&s, a->dk, s.dk, a->acc_dk);
            flush(&s, a->dv, s.dv, a->acc_dv);
        }
    }
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

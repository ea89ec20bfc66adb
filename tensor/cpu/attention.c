/* tensor/cpu/attention.c: attention without a stored score matrix, after FlashAttention (Dao et al.
 * 2022): a running maximum and sum per query, keys in blocks that stay in the L2 cache. A task is a
 * range of queries of one head of one sample; a query's bits depend on its own operands and the cut
 * of the keys alone. */
#include <float.h>
#include <math.h>
#include <omp.h>
#include <string.h>

#include "tensor/cpu/attention.h"
#include "tensor/ref/ref.h"

/* Queries of a task: each packs all keys and values of its head. */
enum { MAX_QUERIES = 1024, MIN_QUERIES = 56 };

typedef struct fwd_scratch {
    float *q, *k, *v; /* packed; q where it is turned */
    float *p, *left;  /* one row block of scores, and one row block as left operand */
    float *o, *max, *sum, *factor, *keep;
} fwd_scratch;

typedef struct fwd_task {
    int64_t b, head, q0, q1;
} fwd_task;

static size_t padded(int64_t floats)
{
    return ((size_t)floats + 31) / 16 * 16;
}

/* Cuts `base` (NULL: only counts) into the scratch of one thread; returns floats. */
static size_t fwd_carve(const kin_head_maths *h, int64_t queries, int64_t keys, float *base,
                        fwd_scratch *w)
{
    int64_t blocks = kin_head_blocks(h, queries), mr = h->e->mr;
    int64_t longest = h->key_pad > h->d ? h->key_pad : h->d;
    size_t at = 0;
    const struct {
        float **p;
        int64_t n;
    } parts[] = {{&w->q, h->flat ? 0 : blocks * mr * h->d_steps},
                 {&w->k, h->key_pad / h->e->nr * h->d_steps * h->e->right_words},
                 {&w->v, kin_head_steps(h, h->key_pad) * h->d_pad / h->e->nr * h->e->right_words},
                 {&w->p, mr * h->ld_score},
                 {&w->left, kin_head_left(h, longest)},
                 {&w->o, (queries + mr) * h->d_pad},
                 {&w->max, queries},
                 {&w->sum, queries},
                 {&w->factor, mr},
                 {&w->keep, keys}};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        *parts[i].p = base ? base + at : NULL;
        at += padded(parts[i].n);
    }
    return at;
}

static void zero_head(const kin_attention_args *a, const fwd_task *t)
{
    for (int64_t i = t->q0; i < t->q1; i++) {
        memset((void *)kin_head_at(a->o, t->b, i, t->head).data, 0,
               (size_t)a->q->size[3] * kin_dtype_size(a->o->dtype));
        if (a->lse && a->lse->data)
            ((float *)a->lse->data)[t->b * a->lse->stride[0] + t->head * a->lse->stride[1] +
                                    i * a->lse->stride[2]] = 0.0f;
    }
}

/* One row block against the packed key block at key k0. */
static void fwd_block(const kin_attention_args *a, const kin_head_maths *h, const fwd_task *t,
                      const fwd_scratch *w, int64_t block, int64_t row0, int64_t rows, int64_t k0,
                      int64_t kn)
{
    const kin_simd *s = h->s;
    kin_score sc = {.scale = a->scale, .keep = a->mask && a->mask->data ? w->keep + k0 : NULL};
    if (a->bias && a->bias->data) {
        sc.bias = (const float *)a->bias->data + t->head * a->bias->stride[0] +
                  (t->q0 + row0) * a->bias->stride[1] + k0;
        sc.ld_bias = a->bias->stride[1];
    }
    if (h->flat)
        kin_head_rows(h, kin_head_at(a->q, t->b, t->q0 + row0, t->head), rows, h->d, w->left, w->k,
                      kn, w->p, h->ld_score, false);
    else
        kin_head_product(h, rows, h->d_steps, w->q + block * h->d_steps * h->e->mr, w->k, kn, w->p,
                         h->ld_score, false);
    float *o = w->o + row0 * h->d_pad, *max = w->max + row0, *sum = w->sum + row0;
    if (h->e->softmax)
        h->e->softmax(&sc, (int)rows, kn, w->p, h->ld_score, max, sum, w->factor, w->left);
    else
        s->softmax_block(&sc, (int)rows, kn, w->p, h->ld_score, max, sum, w->factor);
    if (k0 > 0)
        s->scale_rows(rows, h->d_pad, 1.0f, w->factor, o, h->d_pad);
    if (h->e->softmax)
        kin_head_product(h, rows, kin_head_steps(h, kn), w->left, w->v, h->d, o, h->d_pad, k0 > 0);
    else
        kin_head_rows(h, kin_head_floats(w->p, h->ld_score), rows, kn, w->left, w->v, h->d, o,
                      h->d_pad, k0 > 0);
}

static void fwd_run(const kin_attention_args *a, const kin_head_maths *h, const fwd_task *t,
                    const fwd_scratch *w)
{
    float gate = kin_head_gate(a->gate, t->b, t->head);
    int64_t n = t->q1 - t->q0, nk = a->k->size[1], blocks = kin_head_blocks(h, n), row0;
    if (gate == 0.0f) {
        zero_head(a, t);
        return;
    }
    if (!h->flat)
        kin_head_pack_left(h, kin_head_at(a->q, t->b, t->q0, t->head), n, h->d, w->q);
    for (int64_t i = 0; i < n; i++) {
        w->max[i] = -INFINITY;
        w->sum[i] = 0.0f;
    }
    if (a->mask && a->mask->data)
        kin_head_keep(a->mask, t->b, nk, w->keep);
    for (int64_t k0 = 0; k0 < nk; k0 += h->key_block) {
        int64_t kn = nk - k0 < h->key_block ? nk - k0 : h->key_block;
        kin_head_pack_rows(h, kin_head_at(a->k, t->b, k0, t->head), kn, w->k);
        kin_head_pack_steps(h, kin_head_at(a->v, t->b, k0, t->head), kn, w->v);
        for (int64_t i = 0; i < blocks; i++) {
            int64_t rows = kin_engine_block_rows(h->e, n, blocks, i, &row0);
            fwd_block(a, h, t, w, i, row0, rows, k0, kn);
        }
    }
    for (int64_t i = 0; i < n; i++) {
        const kin_head_part o = kin_head_at(a->o, t->b, t->q0 + i, t->head);
        float *sums = w->o + i * h->d_pad;
        h->s->put_rows(1, h->d, gate / w->sum[i], sums, 0, o.half ? sums : (float *)o.data, 0,
                       false);
        if (o.half)
            h->s->to_bf16(sums, h->d, (uint16_t *)o.data);
        if (a->lse && a->lse->data)
            ((float *)a->lse->data)[t->b * a->lse->stride[0] + t->head * a->lse->stride[1] +
                                    (t->q0 + i) * a->lse->stride[2]] = w->max[i] + logf(w->sum[i]);
    }
}

kin_status kin_cpu_attention(kin_ctx *ctx, const kin_attention_args *a)
{
    kin_head_maths h;
    if (!kin_is_operand(a->q))
        return kin_ref_attention(ctx, a);
    kin_head_maths_init(ctx, a, &h);
    int64_t nb = a->q->size[0], nq = a->q->size[1], heads = a->q->size[2], units = nb * heads;
    if (units == 0 || nq == 0)
        return KIN_OK;
    /* whole heads where they are enough for all threads, else pieces of queries */
    int64_t step = nq;
    if (units < 4 * (int64_t)ctx->threads && ctx->threads > 1)
        step = nq * units / (4 * (int64_t)ctx->threads);
    step = step < MIN_QUERIES ? MIN_QUERIES : step > MAX_QUERIES ? MAX_QUERIES : step;
    int64_t pieces = (nq + step - 1) / step, tasks = units * pieces;
    step = (nq + pieces - 1) / pieces;
    int threads = tasks < ctx->threads ? (int)tasks : ctx->threads;
    fwd_scratch probe;
    size_t each = fwd_carve(&h, step < nq ? step : nq, a->k->size[1], NULL, &probe),
           mark = kin_ws_mark(ctx);
    float *work = kin_ws_bytes(ctx, (size_t)threads * each * sizeof(float));
    if (!work)
        return ctx->error.status;
    if (kin_cpu_planned(ctx, mark))
        return KIN_OK;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        fwd_scratch w;
        kin_engine_enter(h.e);
        fwd_carve(&h, step < nq ? step : nq, a->k->size[1],
                  work + (size_t)omp_get_thread_num() * each, &w);
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < tasks; i++) {
            int64_t unit = i / pieces, q0 = i % pieces * step;
            fwd_task t = {unit / heads, unit % heads, q0, q0 + step < nq ? q0 + step : nq};
            fwd_run(a, &h, &t, &w);
        }
        kin_engine_leave(h.e);
    }
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

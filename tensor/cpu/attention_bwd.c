/* tensor/cpu/attention_bwd.c: gradients of attention from the stored log-sum-exp; probabilities are
 * made again block by block. One pass gives dk and dv per block of keys (queries summed in order)
 * and dq per query (blocks of keys summed in order); where heads are too few for the threads the
 * two are separate passes over the same blocks in the same order, with the same bits. dbias is
 * summed over samples in order by its owner. */
#include <omp.h>
#include <string.h>

#include "tensor/cpu/attention.h"
#include "tensor/ref/ref.h"

typedef struct bwd_scratch {
    float *q_right, *do_right;        /* one block of queries, packed */
    float *k_rows, *v_rows, *k_steps; /* one block of keys, packed */
    float *p, *ds, *left;
    float *dq, *dk, *dv;
    float *delta, *lse, *keep;
} bwd_scratch;

typedef struct bwd_task {
    int64_t b, head, q0, q1, k0, k1;
    bool want_q, want_kv, want_bias;
    float gate, uniform;
} bwd_task;

static size_t bwd_carve(const kin_head_maths *h, int64_t queries, int64_t keys, float *base,
                        bwd_scratch *w)
{
    int64_t mr = h->e->mr, qb = h->query_block + mr;
    int64_t longest = h->key_pad > h->d ? h->key_pad : h->d;
    int64_t turned = mr * kin_head_steps(h, qb), left = kin_head_left(h, longest);
    /* words of a right operand: keys as columns of d steps, or as steps of d columns */
    int64_t panels = h->d_pad / h->e->nr * h->e->right_words;
    int64_t as_rows = h->key_pad / h->e->nr * h->d_steps * h->e->right_words;
    size_t at = 0;
    const struct {
        float **p;
        int64_t n;
    } parts[] = {{&w->q_right, kin_head_steps(h, qb) * panels},
                 {&w->do_right, kin_head_steps(h, qb) * panels},
                 {&w->k_rows, as_rows},
                 {&w->v_rows, as_rows},
                 {&w->k_steps, kin_head_steps(h, h->key_pad) * panels},
                 {&w->p, qb * h->ld_score},
                 {&w->ds, qb * h->ld_score},
                 {&w->left, left > turned ? left : turned},
                 {&w->dq, queries * h->d_pad},
                 {&w->dk, h->key_pad * h->d_pad},
                 {&w->dv, h->key_pad * h->d_pad},
                 {&w->delta, queries},
                 {&w->lse, queries},
                 {&w->keep, keys}};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        *parts[i].p = base ? base + at : NULL;
        at += ((size_t)parts[i].n + 31) / 16 * 16;
    }
    return at;
}

/* p and ds of queries [i0, i0+n) against the packed keys [k0, k0+kn). */
static void bwd_scores(const kin_attention_args *a, const kin_head_maths *h, const bwd_task *t,
                       const bwd_scratch *w, int64_t i0, int64_t n, int64_t k0, int64_t kn)
{
    const kin_simd *s = h->s;
    int64_t blocks = kin_head_blocks(h, n), row0;
    for (int64_t i = 0; i < blocks; i++) {
        int64_t rows = kin_engine_block_rows(h->e, n, blocks, i, &row0), r = i0 - t->q0 + row0;
        float *p = w->p + row0 * h->ld_score, *ds = w->ds + row0 * h->ld_score;
        kin_score sc = {.scale = a->scale, .keep = a->mask && a->mask->data ? w->keep + k0 : NULL};
        if (a->bias && a->bias->data) {
            sc.bias = (const float *)a->bias->data + t->head * a->bias->stride[0] +
                      (i0 + row0) * a->bias->stride[1] + k0;
            sc.ld_bias = a->bias->stride[1];
        }
        kin_head_rows(h, kin_head_at(a->q, t->b, i0 + row0, t->head), rows, h->d, w->left,
                      w->k_rows, kn, p, h->ld_score, false);
        kin_head_rows(h, kin_head_at(a->dout, t->b, i0 + row0, t->head), rows, h->d, w->left,
                      w->v_rows, kn, ds, h->ld_score, false);
        s->softmax_block_bwd(&sc, (int)rows, kn, p, ds, h->ld_score, w->lse + r, w->delta + r,
                             t->gate, t->uniform);
    }
}

/* dst[keys][d] += x^T right for x [n queries][keys]. */
static void bwd_keys(const kin_head_maths *h, const bwd_scratch *w, const float *x, int64_t n,
                     int64_t kn, const float *right, float *dst, bool acc)
{
    int64_t blocks = kin_head_blocks(h, kn), row0;
    for (int64_t i = 0; i < blocks; i++) {
        int64_t rows = kin_engine_block_rows(h->e, kn, blocks, i, &row0);
        kin_head_pack_left_cols(h, x + row0, h->ld_score, rows, n, w->left);
        kin_head_product(h, rows, kin_head_steps(h, n), w->left, right, h->d, dst + row0 * h->d_pad,
                         h->d_pad, acc);
    }
}

static void bwd_block(const kin_attention_args *a, const kin_head_maths *h, const bwd_task *t,
                      const bwd_scratch *w, int64_t i0, int64_t n, int64_t k0, int64_t kn)
{
    bwd_scores(a, h, t, w, i0, n, k0, kn);
    if (t->want_bias) {
        float *db =
            (float *)a->dbias->data + t->head * a->dbias->stride[0] + i0 * a->dbias->stride[1] + k0;
        h->s->put_rows(n, kn, 1.0f, w->ds, h->ld_score, db, a->dbias->stride[1], true);
    }
    if (t->want_kv) {
        kin_head_pack_steps(h, kin_head_at(a->q, t->b, i0, t->head), n, w->q_right);
        kin_head_pack_steps(h, kin_head_at(a->dout, t->b, i0, t->head), n, w->do_right);
        bwd_keys(h, w, w->p, n, kn, w->do_right, w->dv, i0 > t->q0);
        bwd_keys(h, w, w->ds, n, kn, w->q_right, w->dk, i0 > t->q0);
    }
    if (t->want_q) {
        int64_t blocks = kin_head_blocks(h, n), row0;
        for (int64_t i = 0; i < blocks; i++) {
            int64_t rows = kin_engine_block_rows(h->e, n, blocks, i, &row0);
            kin_head_rows(h, kin_head_floats(w->ds + row0 * h->ld_score, h->ld_score), rows, kn,
                          w->left, w->k_steps, h->d, w->dq + (i0 - t->q0 + row0) * h->d_pad,
                          h->d_pad, k0 > t->k0);
        }
    }
}

static void put(const kin_head_maths *h, const kin_tensor *dst, const bwd_task *t, int64_t i0,
                int64_t n, const float *src, float alpha, bool acc)
{
    if (dst && dst->data && n > 0)
        h->s->put_rows(n, h->d, alpha, src, h->d_pad,
                       (float *)kin_head_at(dst, t->b, i0, t->head).data, dst->stride[1], acc);
}

/* A head that is switched off passes no gradient. */
static void bwd_zero(const kin_attention_args *a, const kin_head_maths *h, const bwd_task *t,
                     const bwd_scratch *w)
{
    int64_t nk = t->k1 - t->k0;
    if (t->want_q && !a->acc_dq) {
        memset(w->dq, 0, (size_t)((t->q1 - t->q0) * h->d_pad) * sizeof(float));
        put(h, a->dq, t, t->q0, t->q1 - t->q0, w->dq, 1.0f, false);
    }
    if (!t->want_kv)
        return;
    memset(w->dk, 0, (size_t)(h->key_pad * h->d_pad) * sizeof(float));
    for (int64_t k0 = 0; k0 < nk; k0 += h->key_block) {
        int64_t kn = nk - k0 < h->key_block ? nk - k0 : h->key_block;
        if (!a->acc_dk)
            put(h, a->dk, t, t->k0 + k0, kn, w->dk, 1.0f, false);
        if (!a->acc_dv)
            put(h, a->dv, t, t->k0 + k0, kn, w->dk, 1.0f, false);
    }
}

static void bwd_run(const kin_attention_args *a, const kin_head_maths *h, bwd_task *t,
                    const bwd_scratch *w)
{
    t->gate = kin_head_gate(a->gate, t->b, t->head);
    if (t->gate == 0.0f) {
        bwd_zero(a, h, t, w);
        return;
    }
    int64_t nk = a->k->size[1];
    t->uniform = 0.0f;
    /* note: with every key masked the log-sum-exp loses log(nk) to rounding; the weights are 1/nk
     */
    if (a->mask && a->mask->data && kin_head_keep(a->mask, t->b, nk, w->keep))
        t->uniform = 1.0f / (float)nk;
    for (int64_t i = t->q0; i < t->q1; i++) {
        /* note: <dout, o> = sum p dp; dout rounded as in dp, so that the two cancel where they
         * should */
        const kin_head_part o = kin_head_at(a->o, t->b, i, t->head);
        w->delta[i - t->q0] = (h->e->rounded ? h->s->dot_bf16 : h->s->dot)(
            kin_head_at(a->dout, t->b, i, t->head).data, kin_head_row(h, o, w->dq), h->d);
        w->lse[i - t->q0] =
            ((const float *)a->lse->data)[t->b * a->lse->stride[0] + t->head * a->lse->stride[1] +
                                          i * a->lse->stride[2]];
    }
    for (int64_t k0 = t->k0; k0 < t->k1; k0 += h->key_block) {
        int64_t kn = t->k1 - k0 < h->key_block ? t->k1 - k0 : h->key_block;
        kin_head_pack_rows(h, kin_head_at(a->k, t->b, k0, t->head), kn, w->k_rows);
        kin_head_pack_rows(h, kin_head_at(a->v, t->b, k0, t->head), kn, w->v_rows);
        if (t->want_q)
            kin_head_pack_steps(h, kin_head_at(a->k, t->b, k0, t->head), kn, w->k_steps);
        for (int64_t i = t->q0; i < t->q1; i += h->query_block)
            bwd_block(a, h, t, w, i, t->q1 - i < h->query_block ? t->q1 - i : h->query_block, k0,
                      kn);
        if (t->want_kv) {
            put(h, a->dk, t, k0, kn, w->dk, a->scale, a->acc_dk);
            put(h, a->dv, t, k0, kn, w->dv, 1.0f, a->acc_dv);
        }
    }
    if (t->want_q)
        put(h, a->dq, t, t->q0, t->q1 - t->q0, w->dq, a->scale, a->acc_dq);
}

/* One pass over the heads: pieces of q_step queries times pieces of k_step keys. With dbias a task
 * takes all samples of its head, in order. */
typedef struct bwd_pass {
    bool want_q, want_kv, want_bias;
    int64_t q_step, k_step;
} bwd_pass;

static kin_status run_pass(kin_ctx *ctx, const kin_attention_args *a, const kin_head_maths *h,
                           const bwd_pass *p)
{
    int64_t nb = a->q->size[0], nq = a->q->size[1], heads = a->q->size[2], nk = a->k->size[1];
    int64_t qp = (nq + p->q_step - 1) / p->q_step, kp = (nk + p->k_step - 1) / p->k_step;
    int64_t units = (p->want_bias ? heads : nb * heads), tasks = units * qp * kp;
    int threads = tasks < ctx->threads ? (int)tasks : ctx->threads;
    bwd_scratch probe;
    size_t each = bwd_carve(h, p->q_step, nk, NULL, &probe), mark = kin_ws_mark(ctx);
    float *work = kin_ws_bytes(ctx, (size_t)threads * each * sizeof(float));
    if (!work)
        return ctx->error.status;
    if (kin_cpu_planned(ctx, mark))
        return KIN_OK;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        bwd_scratch w;
        kin_engine_enter(h->e);
        bwd_carve(h, p->q_step, nk, work + (size_t)omp_get_thread_num() * each, &w);
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < tasks; i++) {
            int64_t unit = i / (qp * kp), q0 = i / kp % qp * p->q_step, k0 = i % kp * p->k_step;
            bwd_task t = {.head = unit % heads,
                          .q0 = q0,
                          .q1 = q0 + p->q_step < nq ? q0 + p->q_step : nq,
                          .k0 = k0,
                          .k1 = k0 + p->k_step < nk ? k0 + p->k_step : nk,
                          .want_q = p->want_q,
                          .want_kv = p->want_kv,
                          .want_bias = p->want_bias};
            int64_t b0 = p->want_bias ? 0 : unit / heads, b1 = p->want_bias ? nb : b0 + 1;
            for (t.b = b0; t.b < b1; t.b++)
                bwd_run(a, h, &t, &w);
        }
        kin_engine_leave(h->e);
    }
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

kin_status kin_cpu_attention_bwd(kin_ctx *ctx, const kin_attention_args *a)
{
    kin_head_maths h;
    if (!kin_is_operand(a->q))
        return kin_ref_attention_bwd(ctx, a);
    kin_head_maths_init(ctx, a, &h);
    int64_t nb = a->q->size[0], nq = a->q->size[1], heads = a->q->size[2], nk = a->k->size[1];
    if (nb * heads == 0 || nq == 0 || nk == 0)
        return KIN_OK;
    bool want_q = a->dq && a->dq->data, want_bias = a->dbias && a->dbias->data;
    bool want_kv = (a->dk && a->dk->data) || (a->dv && a->dv->data);
    int64_t units = want_bias ? heads : nb * heads;
    bwd_pass all = {want_q, want_kv, want_bias, nq, nk};
    if (ctx->threads == 1 || units >= 2 * (int64_t)ctx->threads)
        return run_pass(ctx, a, &h, &all);
    bwd_pass keys = {false, want_kv, false, nq, h.key_block};
    bwd_pass queries = {want_q, false, want_bias, h.query_block, nk};
    if (want_kv)
        KIN_TRY(run_pass(ctx, a, &h, &keys));
    if (want_q || want_bias)
        KIN_TRY(run_pass(ctx, a, &h, &queries));
    return KIN_OK;
}

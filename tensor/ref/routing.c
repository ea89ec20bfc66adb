/* tensor/ref/routing.c: scores, choice and sorting of tokens by expert, and the load-balance loss.
 */
#include "tensor/ref/ref.h"

static const double floor_norm = 1e-12;

/* 1 / max(norm, 1e-12) of row r, or 1. */
static double row_inverse(const kin_tensor *x, int64_t r, bool plain)
{
    double sq = 0;
    if (plain)
        return 1;
    for (int64_t c = 0; c < x->size[1]; c++) {
        double v = kin_ref_get2(x, r, c);
        sq += v * v;
    }
    return 1 / fmax(sqrt(sq), floor_norm);
}

kin_status kin_ref_cosine(kin_ctx *ctx, const kin_cosine_args *a)
{
    const kin_tensor *x = a->x, *p = &a->proto->value;
    (void)ctx;
    for (int64_t e = 0; e < p->size[0] && kin_ref_has(a->pinv); e++)
        kin_ref_put(a->pinv, e * a->pinv->stride[0], row_inverse(p, e, a->plain), false);
    for (int64_t t = 0; t < x->size[0]; t++) {
        double xinv = row_inverse(x, t, a->plain);
        if (kin_ref_has(a->xinv))
            kin_ref_put(a->xinv, t * a->xinv->stride[0], xinv, false);
        for (int64_t e = 0; e < p->size[0]; e++) {
            double dot = 0;
            for (int64_t c = 0; c < x->size[1]; c++)
                dot += kin_ref_get2(x, t, c) * kin_ref_get2(p, e, c);
            kin_ref_put2(a->z, t, e, dot * xinv * row_inverse(p, e, a->plain), false);
        }
    }
    return KIN_OK;
}

/* The same in backward: what forward kept, if it did. */
static double kept_inverse(const kin_cosine_args *a, const kin_tensor *kept, const kin_tensor *x,
                           int64_t r)
{
    return kin_ref_has(kept) ? kin_ref_load(kept, r * kept->stride[0])
                             : row_inverse(x, r, a->plain);
}

/* Gradient of z = u.v uinv vinv to row u: (v vinv - u uinv z) uinv, without the second term where
 * the norm is none (plain) or lies under its floor. */
static double cosine_du(bool plain, double u, double uinv, double v, double vinv, double z)
{
    bool constant = plain || uinv >= 1 / floor_norm;
    return (v * vinv - (constant ? 0 : u * uinv * z)) * uinv;
}

kin_status kin_ref_cosine_bwd(kin_ctx *ctx, const kin_cosine_args *a)
{
    const kin_tensor *x = a->x, *p = &a->proto->value;
    int64_t tokens = x->size[0], experts = p->size[0], d = x->size[1];
    (void)ctx;
    for (int64_t t = 0; t < tokens && kin_ref_has(a->dx); t++) {
        double xinv = kept_inverse(a, a->xinv, x, t);
        for (int64_t c = 0; c < d; c++) {
            double sum = 0;
            for (int64_t e = 0; e < experts; e++)
                sum += kin_ref_get2(a->dz, t, e) *
                       cosine_du(a->plain, kin_ref_get2(x, t, c), xinv, kin_ref_get2(p, e, c),
                                 kept_inverse(a, a->pinv, p, e), kin_ref_get2(a->z, t, e));
            kin_ref_put2(a->dx, t, c, sum, a->acc);
        }
    }
    for (int64_t e = 0; e < experts && kin_ref_wants_grad(a->proto); e++) {
        double pinv = kept_inverse(a, a->pinv, p, e);
        for (int64_t c = 0; c < d; c++) {
            double sum = 0;
            for (int64_t t = 0; t < tokens; t++)
                sum += kin_ref_get2(a->dz, t, e) *
                       cosine_du(a->plain, kin_ref_get2(p, e, c), pinv, kin_ref_get2(x, t, c),
                                 kept_inverse(a, a->xinv, x, t), kin_ref_get2(a->z, t, e));
            kin_ref_grad_add(a->proto, e, c, sum);
        }
    }
    return KIN_OK;
}

static bool null_row(const kin_tensor *null, int64_t t, int64_t tokens)
{
    return kin_ref_has(null) &&
           kin_ref_load(null, kin_ref_group(null, t, tokens) * null->stride[0]) != 0;
}

/* Whether v at place i comes before w at place j: larger first, NaN before all, ties to the lower
 * place; so ranks are 0, 1, 2, ... whatever the values. */
static bool before(double v, int64_t i, double w, int64_t j)
{
    if (isnan(v) || isnan(w))
        return isnan(v) && isnan(w) ? i < j : isnan(v);
    return v > w || (v == w && i < j);
}

kin_status kin_ref_topk(kin_ctx *ctx, const kin_topk_args *a)
{
    const kin_tensor *s = a->scores;
    (void)ctx;
    for (int64_t t = 0; t < s->size[0]; t++) {
        if (null_row(a->null, t, s->size[0])) {
            for (int64_t k = 0; k < a->k; k++) {
                kin_ref_put2(a->idx, t, k, (double)a->null_expert, false);
                kin_ref_put2(a->w, t, k, k == 0 ? 1 : 0, false);
            }
            continue;
        }
        for (int64_t e = 0; e < s->size[1]; e++) {
            int64_t rank = 0;
            for (int64_t f = 0; f < s->size[1]; f++)
                rank += before(kin_ref_get2(s, t, f), f, kin_ref_get2(s, t, e), e);
            if (rank < a->k) {
                kin_ref_put2(a->idx, t, rank, (double)e, false);
                kin_ref_put2(a->w, t, rank, kin_ref_get2(s, t, e), false);
            }
        }
    }
    return KIN_OK;
}

kin_status kin_ref_topk_bwd(kin_ctx *ctx, const kin_topk_args *a)
{
    int64_t tokens = a->dscores->size[0];
    if (!a->acc)
        KIN_TRY(kin_ref_fill(ctx, a->dscores, 0));
    for (int64_t t = 0; t < tokens; t++) {
        for (int64_t k = 0; k < a->k && !null_row(a->null, t, tokens); k++) {
            int64_t e = (int64_t)kin_ref_get2(a->idx, t, k);
            if (e >= 0)
                kin_ref_put2(a->dscores, t, e, kin_ref_get2(a->dw, t, k), true);
        }
    }
    return KIN_OK;
}

/* Tokens of [t0, t1) that stand before token t in column e: larger value, ties to the lower token.
 */
static int64_t column_rank(const kin_tensor *x, int64_t t0, int64_t t1, int64_t t, int64_t e)
{
    double own = kin_ref_get2(x, t, e);
    int64_t rank = 0;
    for (int64_t u = t0; u < t1; u++)
        rank += before(kin_ref_get2(x, u, e), u, own, t);
    return rank;
}

static bool above(const kin_choose_args *a, int64_t t, int64_t e)
{
    return kin_ref_get2(a->gate, t, e) > kin_ref_load(a->threshold, e * a->threshold->stride[0]);
}

/* What expert e takes of the tokens [t0, t1). */
static void choose_column(const kin_choose_args *a, int64_t t0, int64_t t1, int64_t e)
{
    int64_t k = a->k;
    if (a->rule == KIN_TAKE_COUNT) {
        k = 0;
        for (int64_t t = t0; t < t1; t++)
            k += above(a, t, e);
    }
    for (int64_t t = t0; t < t1; t++) {
        bool takes =
            a->rule == KIN_TAKE_ABOVE ? above(a, t, e) : column_rank(a->scores, t0, t1, t, e) < k;
        kin_ref_put2(a->idx, t, e, takes ? (double)e : -1, false);
        kin_ref_put2(a->w, t, e, takes ? kin_ref_get2(a->scores, t, e) : 0, false);
        if (kin_ref_has(a->kth) && column_rank(a->gate, t0, t1, t, e) == a->k - 1)
            kin_ref_put(a->kth, e * a->kth->stride[0], kin_ref_get2(a->gate, t, e), false);
    }
}

kin_status kin_ref_choose(kin_ctx *ctx, const kin_choose_args *a)
{
    int64_t tokens = a->scores->size[0], experts = a->scores->size[1], per = tokens / a->pools;
    (void)ctx;
    for (int64_t p = 0; p < a->pools; p++) {
        bool null = null_row(a->null, p * per, tokens);
        for (int64_t e = 0; e < experts; e++) {
            if (!null)
                choose_column(a, p * per, (p + 1) * per, e);
            for (int64_t t = p * per; t < (p + 1) * per && null; t++) {
                kin_ref_put2(a->idx, t, e, e == 0 ? (double)a->null_expert : -1, false);
                kin_ref_put2(a->w, t, e, e == 0 ? 1 : 0, false);
            }
        }
    }
    return KIN_OK;
}

kin_status kin_ref_dispatch(kin_ctx *ctx, const kin_dispatch_args *a)
{
    kin_dispatch *d = a->d;
    int32_t *order = d->order.data, *offset = d->offset.data, *inverse = d->inverse.data;
    int32_t at = 0;
    (void)ctx;
    for (int64_t i = 0; i < d->tokens * d->slots; i++)
        inverse[i] = -1;
    for (int64_t e = 0; e < d->groups; e++) {
        offset[e] = at;
        for (int64_t t = 0; t < d->tokens; t++) {
            bool null =
                a->null_expert >= 0 && (int64_t)kin_ref_get2(a->idx, t, 0) == a->null_expert;
            for (int64_t k = 0; k < (null ? 1 : d->slots); k++) {
                if ((int64_t)kin_ref_get2(a->idx, t, k) != e)
                    continue;
                order[at] = (int32_t)(t * d->slots + k);
                inverse[t * d->slots + k] = at++;
            }
        }
    }
    offset[d->groups] = at;
    return KIN_OK;
}

/* Fraction of the slots of rows [t0, t1) (null rows left out) that expert e has; *rows = rows that
 * count. */
static double share_of(const kin_balance_args *a, int64_t t0, int64_t t1, int64_t e, int64_t *rows)
{
    int64_t hits = 0, slots = a->idx->size[1];
    *rows = 0;
    for (int64_t t = t0; t < t1; t++) {
        if (null_row(a->null, t, a->p->size[0]))
            continue;
        *rows += 1;
        for (int64_t k = 0; k < slots; k++)
            hits += (int64_t)kin_ref_get2(a->idx, t, k) == e;
    }
    return *rows ? (double)hits / (double)(*rows * slots) : 0;
}

/* Number of samples (batch form: of batches, 0 or 1) that have a row that counts. */
static int64_t parts_of(const kin_balance_args *a, int64_t parts)
{
    int64_t used = 0, rows, per = a->p->size[0] / parts;
    for (int64_t b = 0; b < parts; b++) {
        share_of(a, b * per, (b + 1) * per, 0, &rows);
        used += rows > 0;
    }
    return used;
}

kin_status kin_ref_balance(kin_ctx *ctx, const kin_balance_args *a)
{
    int64_t experts = a->p->size[1], parts = a->per_sequence ? a->samples : 1;
    int64_t per = a->p->size[0] / parts, used = parts_of(a, parts), rows;
    double loss = 0;
    (void)ctx;
    for (int64_t b = 0; b < parts; b++) {
        for (int64_t e = 0; e < experts; e++) {
            double share = share_of(a, b * per, (b + 1) * per, e, &rows), sum = 0;
            for (int64_t t = b * per; t < (b + 1) * per && rows > 0; t++)
                sum += null_row(a->null, t, a->p->size[0]) ? 0 : kin_ref_get2(a->p, t, e);
            if (rows > 0)
                loss += sum / (double)rows * (double)experts * share / (double)used;
        }
    }
    kin_ref_put(a->loss, 0, (double)a->coef * loss, false);
    return KIN_OK;
}

kin_status kin_ref_balance_bwd(kin_ctx *ctx, const kin_balance_args *a)
{
    int64_t experts = a->p->size[1], parts = a->per_sequence ? a->samples : 1;
    int64_t per = a->p->size[0] / parts, used = parts_of(a, parts), rows;
    double dloss = kin_ref_load(a->dloss, 0) * (double)a->coef;
    if (!a->acc)
        KIN_TRY(kin_ref_fill(ctx, a->dp, 0));
    for (int64_t b = 0; b < parts; b++) {
        for (int64_t e = 0; e < experts; e++) {
            double share = share_of(a, b * per, (b + 1) * per, e, &rows);
            for (int64_t t = b * per; t < (b + 1) * per; t++) {
                if (!null_row(a->null, t, a->p->size[0]))
                    kin_ref_put2(a->dp, t, e,
                                 dloss * (double)experts * share / (double)rows / (double)used,
                                 true);
            }
        }
    }
    return KIN_OK;
}

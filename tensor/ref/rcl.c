/* tensor/ref/rcl.c: routing contrastive loss (ProMoE): with m_j the mean of the tokens of expert j
 * and V the experts that have tokens,  L = 1/|V| sum_{i in V} ( log sum_{j in V}
 * exp(cos(P_i,m_j)/tau) - cos(P_i,m_i)/tau ), of each part of the tokens; the mean over parts. */
#include "tensor/ref/ref.h"

static const double floor_norm = 1e-12;

/* True when token t belongs to expert e. */
static bool member(const kin_rcl_args *a, int64_t t, int64_t e)
{
    for (int64_t k = 0; k < a->slots; k++) {
        if ((int64_t)kin_ref_get2(a->idx, t, k) == e)
            return true;
    }
    return false;
}

static int64_t count_of(const kin_rcl_args *a, int64_t e)
{
    int64_t n = 0;
    for (int64_t t = 0; t < a->x->size[0]; t++)
        n += member(a, t, e);
    return n;
}

/* The arguments of one part of the tokens. */
typedef struct part {
    kin_rcl_args a;
    kin_tensor x, idx, dx;
} part;

static void part_open(const kin_rcl_args *a, int64_t i, part *p)
{
    int64_t per = a->x->size[0] / a->parts;
    p->a = *a;
    p->x = kin_tensor_slice(a->x, 0, i * per, per);
    p->idx = kin_tensor_slice(a->idx, 0, i * per, per);
    p->a.x = &p->x;
    p->a.idx = &p->idx;
    if (kin_ref_has(a->dx)) {
        p->dx = kin_tensor_slice(a->dx, 0, i * per, per);
        p->a.dx = &p->dx;
    }
}

/* Parts with a token that has an expert. */
static int64_t parts_used(const kin_rcl_args *a)
{
    int64_t used = 0;
    for (int64_t i = 0; i < a->parts; i++) {
        part p;
        int64_t n = 0;
        part_open(a, i, &p);
        for (int64_t e = 0; e < a->proto->value.size[0] && n == 0; e++)
            n = count_of(&p.a, e);
        used += n > 0;
    }
    return used;
}

/* Scratch of both directions, all double. */
typedef struct rcl {
    const kin_rcl_args *a; /* of one part */
    int64_t experts, d, used;
    int64_t *count;      /* [E] */
    double *mean;        /* [E,D] */
    double *pinv, *minv; /* [E] */
    double *cosine;      /* [E,E] */
} rcl;

static double proto_at(const rcl *s, int64_t e, int64_t c)
{
    return kin_ref_get2(&s->a->proto->value, e, c);
}

/* Means, norms and cosines. */
static kin_status prepare(kin_ctx *ctx, const kin_rcl_args *a, rcl *s)
{
    int64_t E = a->proto->value.size[0], D = a->x->size[1];
    *s = (rcl){.a = a, .experts = E, .d = D};
    s->count = kin_ws_bytes(ctx, (size_t)E * sizeof(int64_t));
    s->mean = kin_ws_bytes(ctx, (size_t)(E * D) * sizeof(double));
    s->pinv = kin_ws_bytes(ctx, (size_t)E * sizeof(double));
    s->minv = kin_ws_bytes(ctx, (size_t)E * sizeof(double));
    s->cosine = kin_ws_bytes(ctx, (size_t)(E * E) * sizeof(double));
    if (!s->count || !s->mean || !s->pinv || !s->minv || !s->cosine)
        return ctx->error.status;
    for (int64_t e = 0; e < E; e++) {
        double p2 = 0, m2 = 0;
        s->count[e] = count_of(a, e);
        s->used += s->count[e] > 0;
        for (int64_t c = 0; c < D; c++) {
            double sum = 0, p = proto_at(s, e, c);
            for (int64_t t = 0; t < a->x->size[0]; t++)
                sum += member(a, t, e) ? kin_ref_get2(a->x, t, c) : 0;
            s->mean[e * D + c] = s->count[e] ? sum / (double)s->count[e] : 0;
            p2 += p * p;
            m2 += s->mean[e * D + c] * s->mean[e * D + c];
        }
        s->pinv[e] = 1 / fmax(sqrt(p2), floor_norm);
        s->minv[e] = 1 / fmax(sqrt(m2), floor_norm);
    }
    for (int64_t i = 0; i < E * E; i++) {
        double dot = 0;
        for (int64_t c = 0; c < D; c++)
            dot += proto_at(s, i / E, c) * s->mean[i % E * D + c];
        s->cosine[i] = dot * s->pinv[i / E] * s->minv[i % E];
    }
    return KIN_OK;
}

/* log sum over used j of exp(cos(P_i, m_j) / tau). */
static double row_lse(const rcl *s, int64_t i)
{
    double largest = -INFINITY, sum = 0;
    for (int64_t j = 0; j < s->experts; j++) {
        if (s->count[j])
            largest = fmax(largest, s->cosine[i * s->experts + j] / (double)s->a->tau);
    }
    for (int64_t j = 0; j < s->experts; j++) {
        if (s->count[j])
            sum += exp(s->cosine[i * s->experts + j] / (double)s->a->tau - largest);
    }
    return largest + log(sum);
}

kin_status kin_ref_rcl(kin_ctx *ctx, const kin_rcl_args *a)
{
    size_t mark = kin_ws_mark(ctx);
    int64_t used = parts_used(a);
    double loss = 0;
    for (int64_t i = 0; i < a->parts; i++) {
        part p;
        rcl s;
        double sum = 0;
        part_open(a, i, &p);
        KIN_TRY(prepare(ctx, &p.a, &s));
        for (int64_t e = 0; e < s.experts; e++) {
            if (kin_ref_has(a->count))
                kin_ref_put2(a->count, i, e, (double)s.count[e], false);
            if (s.count[e] && s.used >= 2)
                sum += row_lse(&s, e) - s.cosine[e * s.experts + e] / (double)a->tau;
        }
        loss += s.used >= 2 ? sum / (double)s.used / (double)used : 0;
        kin_ws_release(ctx, mark);
    }
    kin_ref_put(a->loss, 0, loss, false);
    return KIN_OK;
}

/* Turns s->cosine [i,j] into dL/dcos(P_i,m_j) in g [E,E]; parts: number of used ones. */
static void score_gradients(const rcl *s, int64_t parts, double *g)
{
    double factor =
        kin_ref_load(s->a->dloss, 0) / ((double)s->used * (double)s->a->tau * (double)parts);
    int64_t E = s->experts;
    for (int64_t i = 0; i < E; i++) {
        double lse = s->count[i] ? row_lse(s, i) : 0;
        for (int64_t j = 0; j < E; j++) {
            double p = exp(s->cosine[i * E + j] / (double)s->a->tau - lse);
            g[i * E + j] = s->count[i] && s->count[j] ? factor * (p - (i == j)) : 0;
        }
    }
}

/* d cos(u,v) / du_c, without the term of the norm where it lies under its floor. */
static double cosine_du(double u, double uinv, double v, double vinv, double cosine)
{
    return (v * vinv - (uinv >= 1 / floor_norm ? 0 : u * uinv * cosine)) * uinv;
}

/* Column c of the gradients: prototypes into the table, means (divided by their counts) into dm
 * [E]. */
static void column_bwd(const rcl *s, const double *g, int64_t c, double *dm)
{
    int64_t E = s->experts, D = s->d;
    for (int64_t e = 0; e < E; e++) {
        double dp = 0, p = proto_at(s, e, c), m = s->mean[e * D + c];
        dm[e] = 0;
        for (int64_t f = 0; f < E; f++) {
            dp += g[e * E + f] *
                  cosine_du(p, s->pinv[e], s->mean[f * D + c], s->minv[f], s->cosine[e * E + f]);
            dm[e] += g[f * E + e] *
                     cosine_du(m, s->minv[e], proto_at(s, f, c), s->pinv[f], s->cosine[f * E + e]);
        }
        if (kin_ref_wants_grad(s->a->proto))
            kin_ref_grad_add(s->a->proto, e, c, dp);
        dm[e] = s->count[e] ? dm[e] / (double)s->count[e] : 0;
    }
}

static kin_status part_bwd(kin_ctx *ctx, const kin_rcl_args *a, int64_t parts)
{
    double *g, *dm;
    rcl s;
    KIN_TRY(prepare(ctx, a, &s));
    g = kin_ws_bytes(ctx, (size_t)(s.experts * s.experts) * sizeof(double));
    dm = kin_ws_bytes(ctx, (size_t)s.experts * sizeof(double));
    if (!g || !dm)
        return ctx->error.status;
    if (s.used >= 2)
        score_gradients(&s, parts, g);
    for (int64_t c = 0; c < s.d && s.used >= 2; c++) {
        column_bwd(&s, g, c, dm);
        for (int64_t t = 0; t < a->x->size[0] && kin_ref_has(a->dx); t++) {
            double sum = 0;
            for (int64_t e = 0; e < s.experts; e++)
                sum += member(a, t, e) ? dm[e] : 0;
            kin_ref_put2(a->dx, t, c, sum, true);
        }
    }
    return KIN_OK;
}

kin_status kin_ref_rcl_bwd(kin_ctx *ctx, const kin_rcl_args *a)
{
    size_t mark = kin_ws_mark(ctx);
    int64_t used = parts_used(a);
    if (kin_ref_has(a->dx) && !a->acc)
        KIN_TRY(kin_ref_fill(ctx, a->dx, 0));
    for (int64_t i = 0; i < a->parts; i++) {
        part p;
        part_open(a, i, &p);
        KIN_TRY(part_bwd(ctx, &p.a, used));
        kin_ws_release(ctx, mark);
    }
    return KIN_OK;
}

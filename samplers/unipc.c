/* samplers/unipc.c: UniPC, a predictor and a corrector of orders 1 to 3 from the same outputs. Zhao
 * et al. 2023 (arXiv 2302.04867). */
#include <math.h>

#include "samplers/sampler.h"

/* history: converted outputs, newest first, and the sample before the last predictor */
enum { MAX_ORDER = 3, LAST_X = 3 };

/* Solves a x = b for n <= 3 by elimination with pivots. */
static void solve(double a[MAX_ORDER][MAX_ORDER], double *b, int n)
{
    for (int c = 0; c < n; c++) {
        int p = c;
        for (int r = c + 1; r < n; r++)
            p = fabs(a[r][c]) > fabs(a[p][c]) ? r : p;
        for (int k = 0; k < n; k++) {
            const double t = a[c][k];
            a[c][k] = a[p][k];
            a[p][k] = t;
        }
        const double t = b[c];
        b[c] = b[p];
        b[p] = t;
        for (int r = 0; r < n; r++) {
            const double f = r == c ? 0.0 : a[r][c] / a[c][c];
            for (int k = c; k < n && f != 0.0; k++)
                a[r][k] -= f * a[c][k];
            b[r] -= f * b[c];
        }
    }
    for (int c = 0; c < n; c++)
        b[c] /= a[c][c];
}

/* One step from level `from` to level `to`: x' = x*base - scale*B(h)*(sum of rho_k D_k) with
 * D_k = (m_k - m_0)/r_k of the older outputs and, in the corrector, m_t - m_0. */
typedef struct step {
    double base, first; /* of the sample, of m_0 */
    double b;           /* scale B(h) */
    double r[MAX_ORDER], rho[MAX_ORDER];
} step;

/* rho: of `unknowns` equations of the order conditions */
static void weights(const kin_scheduler *c, double h, const double *r, int order, int unknowns,
                    double *big, double *rho)
{
    const double hh = c->predict_x0 ? -h : h, e = expm1(hh);
    double phi = e / hh - 1.0, factorial = 1.0, matrix[MAX_ORDER][MAX_ORDER];
    *big = c->bh1 ? hh : e;
    for (int i = 1; i <= order; i++) {
        for (int k = 0; k < order; k++)
            matrix[i - 1][k] = pow(r[k], i - 1);
        rho[i - 1] = phi * factorial / *big;
        factorial *= i + 1;
        phi = phi / hh - 1.0 / factorial;
    }
    if (unknowns == 1)
        rho[0] = 0.5; /* both parts take one half here, whatever the equations say */
    else if (unknowns > 1)
        solve(matrix, rho, unknowns);
}

/* from, to: levels of the schedule; older outputs lie at levels from-1, from-2 */
static step make_step(const kin_sampler_state *s, int from, int to, int order, bool corrector)
{
    const kin_scheduler *c = s->cfg;
    const kin_point a = kin_sampler_point(s, from), b = kin_sampler_point(s, to);
    const double h = b.lambda - a.lambda;
    step st = {0};
    double big = 0.0;
    for (int k = 1; k < order; k++)
        st.r[k - 1] = (kin_sampler_point(s, from - k).lambda - a.lambda) / h;
    st.r[order - 1] = 1.0;
    if (corrector || order > 1)
        weights(c, h, st.r, order, corrector ? order : order - 1, &big, st.rho);
    st.base = c->predict_x0 ? b.sigma / a.sigma : b.alpha / a.alpha;
    st.first = c->predict_x0 ? -b.alpha * expm1(-h) : -b.sigma * expm1(h);
    st.b = -(c->predict_x0 ? b.alpha : b.sigma) * big;
    return st;
}

/* y = base x + ...; m: outputs from m_0 on; newest: m_t of the corrector or NULL */
static void apply(kin_sampler_state *s, const step *st, int order, const kin_tensor *x,
                  const kin_tensor *m, const kin_tensor *newest, kin_tensor *y)
{
    double zero = st->first;
    kin_term sum[5] = {{st->base, x}, {0.0, &m[0]}};
    int n = 2;
    for (int k = 1; k < order; k++) {
        const double c = st->b * st->rho[k - 1] / st->r[k - 1];
        sum[n++] = (kin_term){c, &m[k]};
        zero -= c;
    }
    if (newest) {
        const double c = st->b * st->rho[order - 1];
        sum[n++] = (kin_term){c, newest};
        zero -= c;
    }
    sum[1].c = zero;
    kin_sampler_sum(s, sum, n, y);
}

static int order_at(const kin_sampler_state *s, int i)
{
    const kin_scheduler *c = s->cfg;
    const int left = s->schedule->n - i;
    int order = c->lower_order_final && left < c->order ? left : c->order;
    return order < i + 1 ? order : i + 1;
}

static bool corrects(const kin_sampler_state *s, int i)
{
    const cJSON *item;
    if (i == 0)
        return false;
    cJSON_ArrayForEach(item, s->cfg->disable_corrector)
    {
        if (item->valueint == i - 1)
            return false;
    }
    return true;
}

kin_status kin_unipc_step(kin_sampler_state *s, int i)
{
    const kin_point p = kin_sampler_point(s, i);
    const kin_level level = {p.alpha, p.sigma};
    kin_tensor *m = s->history;
    /* the new output lies in x0 until the corrector has used the older ones */
    if (s->cfg->predict_x0)
        kin_sampler_x0(s, level, &s->x0);
    else
        kin_sampler_eps(s, level, &s->x0);
    kin_tap(s->ctx, &s->x0, "converted.%d", i);
    if (corrects(s, i)) {
        const int order = order_at(s, i - 1);
        const step st = make_step(s, i - 1, i, order, true);
        apply(s, &st, order, &m[LAST_X], m, &s->x0, s->x);
    }
    kin_tap(s->ctx, s->x, "corrected.%d", i);
    const kin_tensor oldest = m[MAX_ORDER - 1];
    for (int k = MAX_ORDER - 1; k > 0; k--)
        m[k] = m[k - 1];
    m[0] = oldest;
    const kin_term keep = {1.0, s->x}, copy = {1.0, &s->x0};
    kin_sampler_sum(s, &copy, 1, &m[0]);
    kin_sampler_sum(s, &keep, 1, &m[LAST_X]);
    const int order = order_at(s, i);
    const step st = make_step(s, i, i + 1, order, false);
    apply(s, &st, order, &m[LAST_X], m, NULL, s->x);
    return KIN_OK;
}

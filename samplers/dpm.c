/* samplers/dpm.c: DPM-Solver and DPM-Solver++ multistep, orders 1 to 3, also as SDE. Lu et al. 2022
 * (arXiv 2206.00927, 2211.01095). All weights are those of the class, in double. */
#include <math.h>

#include "samplers/sampler.h"

static bool in_noise_space(const kin_scheduler *c)
{
    return c->algorithm == KIN_DPM_NOISE || c->algorithm == KIN_DPM_SDE_NOISE;
}

static bool is_sde(const kin_scheduler *c)
{
    return c->algorithm == KIN_DPM_SDE_PLUS || c->algorithm == KIN_DPM_SDE_NOISE;
}

/* the model's output as x0, or as noise, into history[0] */
static void convert(kin_sampler_state *s, int i)
{
    const kin_point p = kin_sampler_point(s, i);
    const kin_level level = {p.alpha, p.sigma};
    kin_tensor *m = &s->history[0];
    if (!in_noise_space(s->cfg)) {
        kin_sampler_x0(s, level, m);
    } else if (!s->cfg->threshold) {
        kin_sampler_eps(s, level, m);
    } else {
        kin_sampler_eps(s, level, m);
        const kin_term clean[] = {{1.0 / p.alpha, s->x}, {-p.sigma / p.alpha, m}};
        kin_sampler_sum(s, clean, 2, &s->x0);
        kin_sampler_clip(s, &s->x0);
        const kin_term back[] = {{1.0 / p.sigma, s->x}, {-p.alpha / p.sigma, &s->x0}};
        kin_sampler_sum(s, back, 2, m);
    }
    kin_tap(s->ctx, m, "converted.%d", i);
}

/* x' = x*X + d0*D0 + d1*D1 + d2*D2 + noise*N, D0 the newest output, D1 and D2 its first and second
 * differences */
typedef struct weights {
    double x, d[3], noise;
} weights;

/* the integrals over one step of length h: of 1, of the first and of the second order term */
static weights step_weights(const kin_scheduler *c, kin_point to, kin_point from, int order)
{
    const double h = to.lambda - from.lambda;
    /* data prediction runs in -h, noise prediction in h; SDEs in twice that for data */
    const bool noise = in_noise_space(c), sde = is_sde(c);
    const double g = noise ? h : sde ? -2.0 * h : -h, e = expm1(g);
    const double scale = noise ? (sde ? 2.0 : 1.0) * to.sigma : to.alpha;
    weights w = {.x = noise ? to.alpha / from.alpha : to.sigma / from.sigma};
    if (!noise && sde)
        w.x *= exp(-h);
    w.d[0] = -scale * e;
    if (order == 2 && !c->heun_type)
        w.d[1] = 0.5 * w.d[0];
    else if (order >= 2)
        w.d[1] = noise ? -scale * (e / g - 1.0) : scale * (e / -g + 1.0);
    /* note: the sign of the half differs in the official SDE form */
    if (order == 3)
        w.d[2] = -scale * ((e - g) / (g * g) + (sde ? 0.5 : -0.5));
    if (sde)
        w.noise = to.sigma * sqrt(noise ? expm1(2.0 * h) : -expm1(-2.0 * h));
    return w;
}

static kin_status update(kin_sampler_state *s, int i, int order)
{
    const kin_point to = kin_sampler_point(s, i + 1), from = kin_sampler_point(s, i);
    const double h = to.lambda - from.lambda;
    const weights w = step_weights(s->cfg, to, from, order);
    /* weights of the newest output and of the two before it */
    double m[3] = {w.d[0], 0.0, 0.0};
    if (order >= 2) {
        const kin_point before = kin_sampler_point(s, i - 1);
        const double r0 = (from.lambda - before.lambda) / h;
        if (order == 2) {
            m[0] += w.d[1] / r0;
            m[1] -= w.d[1] / r0;
        } else {
            const double r1 = (before.lambda - kin_sampler_point(s, i - 2).lambda) / h;
            /* D1 = a + r0/(r0+r1) (a-b), D2 = (a-b)/(r0+r1), a = (m0-m1)/r0, b = (m1-m2)/r1 */
            const double a = w.d[1] * (1.0 + r0 / (r0 + r1)) + w.d[2] / (r0 + r1);
            const double b = -(w.d[1] * r0 + w.d[2]) / (r0 + r1);
            m[0] += a / r0;
            m[1] += b / r1 - a / r0;
            m[2] -= b / r1;
        }
    }
    if (is_sde(s->cfg))
        KIN_TRY(kin_sampler_draw(s, i, 0));
    const kin_term sum[] = {{w.x, s->x},
                            {m[0], &s->history[0]},
                            {m[1], &s->history[1]},
                            {m[2], &s->history[2]},
                            {w.noise, &s->noise}};
    kin_sampler_sum(s, sum, 5, s->x);
    return KIN_OK;
}

static int order_at(const kin_sampler_state *s, int i)
{
    const kin_scheduler *c = s->cfg;
    const int n = s->schedule->n;
    const bool few = c->lower_order_final && n < 15;
    int order = c->order < i + 1 ? c->order : i + 1;
    if (i == n - 1 && (c->euler_at_final || few || !c->final_sigma_min))
        order = 1;
    if (i == n - 2 && few && order > 2)
        order = 2;
    return order;
}

kin_status kin_dpm_step(kin_sampler_state *s, int i)
{
    const kin_tensor oldest = s->history[2];
    s->history[2] = s->history[1];
    s->history[1] = s->history[0];
    s->history[0] = oldest;
    convert(s, i);
    return update(s, i, order_at(s, i));
}

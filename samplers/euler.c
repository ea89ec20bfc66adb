/* samplers/euler.c: first order. FlowMatchEuler: x += (sigma' - sigma) v; stochastic: x0 = x -
 * sigma v, x = (1-sigma') x0 + sigma' noise. Euler and Euler ancestral: Karras et al. 2022
 * (arXiv 2206.00364) on x = x0 + sigma eps. */
#include <math.h>

#include "samplers/sampler.h"

kin_status kin_flow_euler_step(kin_sampler_state *s, int i)
{
    const double sigma = (double)s->schedule->sigma[i], next = (double)s->schedule->sigma[i + 1];
    if (!s->cfg->stochastic) {
        const kin_term sum[] = {{1.0, s->x}, {next - sigma, &s->out}};
        kin_sampler_sum(s, sum, 2, s->x);
        return KIN_OK;
    }
    KIN_TRY(kin_sampler_draw(s, i, 0));
    const kin_term sum[] = {
        {1.0 - next, s->x}, {-(1.0 - next) * sigma, &s->out}, {next, &s->noise}};
    kin_sampler_sum(s, sum, 3, s->x);
    return KIN_OK;
}

/* x0 on x = x0 + sigma eps; noise_level: of the part of the output that counts as noise */
static void clean(kin_sampler_state *s, double sigma, double noise_level)
{
    const double r = sigma * sigma + 1.0;
    kin_term sum[2] = {{1.0, s->x}, {-noise_level, &s->out}};
    if (s->cfg->prediction == KIN_PREDICT_V) {
        sum[0].c = 1.0 / r;
        sum[1].c = -sigma / sqrt(r);
    } else if (s->cfg->prediction == KIN_PREDICT_SAMPLE) {
        sum[0].c = 0.0;
        sum[1].c = 1.0;
    }
    kin_sampler_sum(s, sum, 2, &s->x0);
}

kin_status kin_euler_step(kin_sampler_state *s, int i)
{
    const kin_scheduler *c = s->cfg;
    const double sigma = (double)s->schedule->sigma[i], next = (double)s->schedule->sigma[i + 1];
    const bool churn = sigma >= c->s_tmin && sigma <= c->s_tmax;
    const double gamma =
        churn ? fmin(c->s_churn / (s->schedule->sigmas - 1), sqrt(2.0) - 1.0) : 0.0;
    const double hat = sigma * (gamma + 1.0), step = (next - hat) / hat;
    if (gamma > 0) {
        KIN_TRY(kin_sampler_draw(s, i, 0));
        const kin_term sum[] = {{1.0, s->x},
                                {c->s_noise * sqrt(hat * hat - sigma * sigma), &s->noise}};
        kin_sampler_sum(s, sum, 2, s->x);
    }
    /* note: v is read at sigma, noise at the raised level */
    clean(s, sigma, hat);
    kin_tap(s->ctx, &s->x0, "x0.%d", i);
    const kin_term sum[] = {{1.0 + step, s->x}, {-step, &s->x0}};
    kin_sampler_sum(s, sum, 2, s->x);
    return KIN_OK;
}

kin_status kin_euler_ancestral_step(kin_sampler_state *s, int i)
{
    const double from = (double)s->schedule->sigma[i], to = (double)s->schedule->sigma[i + 1];
    const double up = sqrt(to * to * (from * from - to * to) / (from * from));
    const double down = sqrt(fmax(to * to - up * up, 0.0)), step = (down - from) / from;
    clean(s, from, from);
    kin_tap(s->ctx, &s->x0, "x0.%d", i);
    KIN_TRY(kin_sampler_draw(s, i, 0));
    const kin_term sum[] = {{1.0 + step, s->x}, {-step, &s->x0}, {up, &s->noise}};
    kin_sampler_sum(s, sum, 3, s->x);
    return KIN_OK;
}

/* samplers/heun.c: second order, two model calls per step but the last: call 2k tries the Euler
 * step, call 2k+1 corrects it with the slope at its end. Karras et al. 2022 (arXiv 2206.00364),
 * algorithms 1 and 2. */
#include <math.h>

#include "samplers/sampler.h"

/* history: the slope of the first call, and the sample it started from */
enum { SLOPE, START };

static void first_half(kin_sampler_state *s, double step)
{
    const kin_term keep = {1.0, s->x};
    const kin_term sum[] = {{1.0, s->x}, {step, &s->history[SLOPE]}};
    kin_sampler_sum(s, &keep, 1, &s->history[START]);
    kin_sampler_sum(s, sum, 2, s->x);
}

kin_status kin_heun_step(kin_sampler_state *s, int i)
{
    const float *sigmas = s->schedule->sigma + (i & ~1);
    const bool first = !(i & 1);
    const double sigma = (double)sigmas[0], next = (double)sigmas[1];
    const double at = first ? sigma : next, r = at * at + 1.0;
    const double dt = next - sigma;
    kin_term clean[2] = {{1.0, s->x}, {-at, &s->out}};
    if (s->cfg->prediction == KIN_PREDICT_V) {
        clean[0].c = 1.0 / r;
        clean[1].c = -at / sqrt(r);
    } else if (s->cfg->prediction == KIN_PREDICT_SAMPLE) {
        clean[0].c = 0.0;
        clean[1].c = 1.0;
    }
    kin_sampler_sum(s, clean, 2, &s->x0);
    kin_sampler_clip(s, &s->x0);
    kin_tap(s->ctx, &s->x0, "x0.%d", i);
    if (first) {
        const kin_term slope[] = {{1.0 / at, s->x}, {-1.0 / at, &s->x0}};
        kin_sampler_sum(s, slope, 2, &s->history[SLOPE]);
        first_half(s, dt);
        return KIN_OK;
    }
    const kin_term sum[] = {{1.0, &s->history[START]},
                            {dt / 2.0, &s->history[SLOPE]},
                            {dt / 2.0 / at, s->x},
                            {-dt / 2.0 / at, &s->x0}};
    kin_sampler_sum(s, sum, 4, s->x);
    return KIN_OK;
}

kin_status kin_flow_heun_step(kin_sampler_state *s, int i)
{
    const kin_scheduler *c = s->cfg;
    const float *sigmas = s->schedule->sigma + (i & ~1);
    const double sigma = (double)sigmas[0], next = (double)sigmas[1];
    const bool churn = sigma >= c->s_tmin && sigma <= c->s_tmax;
    const double gamma =
        churn ? fmin(c->s_churn / (s->schedule->sigmas - 1), sqrt(2.0) - 1.0) : 0.0;
    const double hat = sigma * (gamma + 1.0), dt = next - hat;
    /* note: the official class draws in the second call too, where the noise cancels */
    if (i & 1) {
        const kin_term sum[] = {
            {1.0, &s->history[START]}, {dt / 2.0, &s->history[SLOPE]}, {dt / 2.0, &s->out}};
        kin_sampler_sum(s, sum, 3, s->x);
        return KIN_OK;
    }
    if (gamma > 0) {
        KIN_TRY(kin_sampler_draw(s, i, 0));
        const kin_term sum[] = {{1.0, s->x},
                                {c->s_noise * sqrt(hat * hat - sigma * sigma), &s->noise}};
        kin_sampler_sum(s, sum, 2, s->x);
    }
    const kin_term slope = {sigma / hat, &s->out};
    kin_sampler_sum(s, &slope, 1, &s->history[SLOPE]);
    first_half(s, dt);
    return KIN_OK;
}

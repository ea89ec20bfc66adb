/* samplers/cogvideox_dpm.c: stochastic DPM-Solver++ of second order as CogVideoX runs it. */
#include <math.h>

#include "samplers/sampler.h"

enum { LAST_X0 };

static double lambda(double ab)
{
    return 0.5 * (log(ab) - log1p(-ab));
}

kin_status kin_cog_dpm_step(kin_sampler_state *s, int i)
{
    const kin_schedule *sch = s->schedule;
    const double ab = sch->ab[i], prev = sch->ab_prev[i];
    const bool ends = (int)sch->t[i] - sch->cfg.train_steps / sch->n < 0;
    const bool second = i > 0 && !ends;
    const double h = lambda(prev) - lambda(ab); /* note: infinite at ab 0 and at prev 1 */
    const double keep = sqrt((1.0 - prev) / (1.0 - ab)) * exp(-h);
    const double gain = -expm1(-2.0 * h) * sqrt(prev);
    const double noise = sqrt(1.0 - prev) * sqrt(-expm1(-2.0 * h));
    double more = 0.0;
    kin_sampler_x0(s, (kin_level){sqrt(ab), sqrt(1.0 - ab)}, &s->x0);
    kin_tap(s->ctx, &s->x0, "x0.%d", i);
    KIN_TRY(kin_sampler_draw(s, i, 0));
    if (second) {
        const double r = (lambda(ab) - lambda(sch->ab[i - 1])) / h;
        more = 1.0 / (2.0 * r);
        /* note: the official class draws twice and uses the second draw */
        KIN_TRY(kin_sampler_draw(s, i, 1));
    }
    const kin_term sum[] = {{keep, s->x},
                            {gain * (1.0 + more), &s->x0},
                            {-gain * more, &s->history[LAST_X0]},
                            {noise, &s->noise}};
    const kin_term last = {1.0, &s->x0};
    kin_sampler_sum(s, sum, 4, s->x);
    kin_sampler_sum(s, &last, 1, &s->history[LAST_X0]);
    return KIN_OK;
}

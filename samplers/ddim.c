/* samplers/ddim.c: Song et al. 2020 (arXiv 2010.02502), eq. 12, and the form of CogVideoX. */
#include <math.h>

#include "samplers/sampler.h"

enum { EPS };

kin_status kin_ddim_step(kin_sampler_state *s, int i)
{
    const double ab = s->schedule->ab[i], prev = s->schedule->ab_prev[i], eta = s->cfg->eta;
    const kin_level level = {sqrt(ab), sqrt(1.0 - ab)};
    const double variance = (1.0 - prev) / (1.0 - ab) * (1.0 - ab / prev);
    const double std = eta * sqrt(fmax(variance, 0.0));
    kin_tensor *eps = &s->history[EPS];
    kin_sampler_x0(s, level, &s->x0);
    kin_tap(s->ctx, &s->x0, "x0.%d", i);
    if (s->cfg->clipped_output) {
        const kin_term sum[] = {{1.0 / level.sigma, s->x}, {-level.alpha / level.sigma, &s->x0}};
        kin_sampler_sum(s, sum, 2, eps);
    } else {
        kin_sampler_eps(s, level, eps);
    }
    if (eta > 0)
        KIN_TRY(kin_sampler_draw(s, i, 0));
    const kin_term sum[] = {{sqrt(prev), &s->x0},
                            {sqrt(fmax(1.0 - prev - std * std, 0.0)), eps},
                            {eta > 0 ? std : 0.0, &s->noise}};
    kin_sampler_sum(s, sum, 3, s->x);
    return KIN_OK;
}

kin_status kin_cog_ddim_step(kin_sampler_state *s, int i)
{
    const double ab = s->schedule->ab[i], prev = s->schedule->ab_prev[i];
    const double a = sqrt((1.0 - prev) / (1.0 - ab)), b = sqrt(prev) - sqrt(ab) * a;
    kin_sampler_x0(s, (kin_level){sqrt(ab), sqrt(1.0 - ab)}, &s->x0);
    kin_tap(s->ctx, &s->x0, "x0.%d", i);
    const kin_term sum[] = {{a, s->x}, {b, &s->x0}};
    kin_sampler_sum(s, sum, 2, s->x);
    return KIN_OK;
}

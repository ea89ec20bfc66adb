/* samplers/ddpm.c: the reversed chain, Ho et al. 2020 (arXiv 2006.11239), eq. 6 and 7, with fixed
 * and learned variances (Nichol & Dhariwal 2021, eq. 15). */
#include <math.h>

#include "samplers/sampler.h"

kin_ddpm_variance kin_ddpm_variance_at(const kin_schedule *s, int i)
{
    /* a respaced process copies the variance of its last step from the one before */
    const int at = s->respaced && i + 1 == s->n && i > 0 ? i - 1 : i;
    kin_ddpm_variance v;
    v.large = 1.0 - s->ab[i] / s->ab_prev[i];
    v.small = (1.0 - s->ab_prev[at]) / (1.0 - s->ab[at]) * (1.0 - s->ab[at] / s->ab_prev[at]);
    v.small = fmax(v.small, 1e-20);
    if (at != i && s->cfg.variance == KIN_VARIANCE_FIXED_LARGE)
        v.large = v.small;
    return v;
}

/* logs of the variance of every element into noise's memory-shaped tensor t */
static void log_variances(kin_sampler_state *s, int i, kin_tensor *t)
{
    const kin_ddpm_variance v = kin_ddpm_variance_at(s->schedule, i);
    const double low = log(v.small), high = log(v.large);
    const int64_t n = t->size[0] ? kin_tensor_numel(t) / t->size[0] : 0;
    if (kin_ctx_is_plan(s->ctx))
        return;
    for (int64_t b = 0; b < t->size[0]; b++) {
        const float *learned = (const float *)s->out.data + (2 * b + 1) * n;
        float *to = (float *)t->data + b * n;
        for (int64_t k = 0; k < n; k++) {
            switch (s->cfg->variance) {
            case KIN_VARIANCE_FIXED_SMALL:
            case KIN_VARIANCE_FIXED_SMALL_LOG: to[k] = (float)low; break;
            case KIN_VARIANCE_FIXED_LARGE: to[k] = (float)high; break;
            case KIN_VARIANCE_LEARNED: to[k] = logf(learned[k]); break;
            case KIN_VARIANCE_LEARNED_RANGE: {
                const double share = ((double)learned[k] + 1.0) / 2.0;
                to[k] = (float)(share * high + (1.0 - share) * low);
                break;
            }
            }
        }
    }
}

/* x += exp(log variance / 2) noise */
static void add_noise(kin_sampler_state *s, const kin_tensor *log_variance)
{
    float *x = s->x->data;
    const float *lv = log_variance->data, *noise = s->noise.data;
    for (int64_t k = 0; k < kin_tensor_numel(s->x) && !kin_ctx_is_plan(s->ctx); k++)
        x[k] = (float)((double)x[k] + exp(0.5 * (double)lv[k]) * (double)noise[k]);
}

kin_status kin_ddpm_step(kin_sampler_state *s, int i)
{
    const kin_schedule *sch = s->schedule;
    const double ab = sch->ab[i], prev = sch->ab_prev[i];
    const double alpha = ab / prev, beta = 1.0 - alpha;
    kin_sampler_x0(s, (kin_level){sqrt(ab), sqrt(1.0 - ab)}, &s->x0);
    kin_tap(s->ctx, &s->x0, "x0.%d", i);
    const kin_term mean[] = {{sqrt(prev) * beta / (1.0 - ab), &s->x0},
                             {sqrt(alpha) * (1.0 - prev) / (1.0 - ab), s->x}};
    kin_sampler_sum(s, mean, 2, s->x);
    kin_tap(s->ctx, s->x, "mean.%d", i);
    /* x0 has done its work */
    log_variances(s, i, &s->x0);
    kin_tap(s->ctx, &s->x0, "log_variance.%d", i);
    /* note: drawn by the time, not by the position: no noise at time 0 alone */
    if (!(sch->t[i] > 0))
        return KIN_OK;
    KIN_TRY(kin_sampler_draw(s, i, 0));
    add_noise(s, &s->x0);
    return KIN_OK;
}

/* samplers/euler.c: x += (sigma' - sigma) v; stochastic: x_0 = x - sigma v, x = (1-sigma') x_0 +
 * sigma' noise (stochastic_sampling of diffusers' FlowMatchEulerDiscreteScheduler). */
#include "samplers/sampler.h"

#include "tensor/kernels.h"

static kin_status renoise(kin_sampler_state *s, int i, float sigma, float next)
{
    KIN_TRY(kin_sampler_axpy(s->ctx, s->x, &s->v, -sigma, s->x));
    /* v has done its work and holds the noise now */
    KIN_TRY(s->args->noise(s->ctx, s->args->user, i, 0, &s->v));
    kin_tensor x0;
    KIN_TRY(kin_ws_tensor(s->ctx, KIN_DTYPE_F32, s->x->ndim, s->x->size, &x0));
    KIN_TRY(s->ctx->k->copy(s->ctx, s->x, &x0, false));
    /* x0 + sigma' (noise - x0) */
    KIN_TRY(kin_sampler_axpy(s->ctx, &s->v, &x0, -1.0f, &s->v));
    return kin_sampler_axpy(s->ctx, &x0, &s->v, next, s->x);
}

kin_status kin_euler_step(kin_sampler_state *s, int i)
{
    const kin_schedule *sch = s->args->schedule;
    float sigma = sch->sigma[i], next = sch->sigma[i + 1];
    KIN_TRY(kin_sampler_call(s, s->x, sigma, sch->t[i], i, &s->v));
    if (s->args->stochastic)
        return renoise(s, i, sigma, next);
    return kin_sampler_axpy(s->ctx, s->x, &s->v, next - sigma, s->x);
}

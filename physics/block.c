#include "physics/block.h"

#include <math.h>
#include <stdio.h>

void kin_phys_block_register(kin_params *params, const char *prefix, const kin_mopa_config *cfg,
                             kin_phys_block *b)
{
    const kin_init start = KIN_INIT(KIN_INIT_NORMAL, 1.0f / sqrtf((float)cfg->width));
    char name[128];

    b->eps = cfg->eps;
    b->table =
        kin_params_add(params, start, KIN_DIMS(1, 3, cfg->width), "%sscale_shift_table", prefix);
    snprintf(name, sizeof(name), "%sphys_attn.", prefix);
    kin_mopa_register(params, name, cfg, &b->mopa);
}

kin_status kin_phys_block_forward(kin_ctx *ctx, const kin_phys_block *b, const kin_tensor *h,
                                  const kin_tensor *ptemb, const kin_tensor *cos,
                                  const kin_tensor *sin, const kin_tensor *gates, kin_tensor *y)
{
    kin_tensor mod, shift, scale, gate, v;

    KIN_TRY(kin_add_param(ctx, ptemb, b->table, 1.0f, &mod));
    shift = kin_tensor_select(&mod, 1, 0);
    scale = kin_tensor_select(&mod, 1, 1);
    gate = kin_tensor_select(&mod, 1, 2);
    KIN_TRY(kin_layernorm(ctx, h, NULL, NULL, &scale, &shift, b->eps, &v));
    return kin_mopa_forward(ctx, &b->mopa, &v, cos, sin, gates, h, &gate, y);
}

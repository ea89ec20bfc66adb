#include "physics/block.h"

#include <math.h>
#include <stdio.h>

static void register_attention(kin_params *params, const char *prefix, const kin_mopa_config *cfg,
                               kin_phys_block *b)
{
    char name[128];

    b->eps = cfg->eps;
    snprintf(name, sizeof(name), "%sphys_attn.", prefix);
    kin_mopa_register(params, name, cfg, &b->mopa);
}

void kin_phys_block_register(kin_params *params, const char *prefix, const kin_mopa_config *cfg,
                             kin_phys_block *b)
{
    const kin_init start = KIN_INIT(KIN_INIT_NORMAL, 1.0f / sqrtf((float)cfg->width));

    *b = (kin_phys_block){0};
    b->table =
        kin_params_add(params, start, KIN_DIMS(1, 3, cfg->width), "%sscale_shift_table", prefix);
    register_attention(params, prefix, cfg, b);
}

void kin_phys_block_register_cog(kin_params *params, const char *prefix, const kin_mopa_config *cfg,
                                 kin_phys_block *b)
{
    const kin_init start = KIN_INIT(KIN_INIT_NORMAL, 1.0f / sqrtf((float)cfg->width)),
                   zero = KIN_INIT(KIN_INIT_ZERO, 0), one = KIN_INIT(KIN_INIT_ONE, 1);

    *b = (kin_phys_block){0};
    b->norm_w = kin_params_add(params, one, KIN_DIMS(cfg->width), "%snorm1.weight", prefix);
    b->norm_b = kin_params_add(params, zero, KIN_DIMS(cfg->width), "%snorm1.bias", prefix);
    b->table =
        kin_params_add(params, start, KIN_DIMS(3, cfg->width), "%sphys_scale_shift_table", prefix);
    register_attention(params, prefix, cfg, b);
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
    KIN_TRY(kin_layernorm_operand(ctx, h, b->norm_w, b->norm_b, &scale, &shift, b->eps, &v));
    return kin_mopa_forward(ctx, &b->mopa, &v, cos, sin, gates, h, &gate, y);
}

#include "diffusion/cogvideox.h"

#include <stdio.h>

static const kin_init xavier = KIN_INIT(KIN_INIT_XAVIER, 1), zero = KIN_INIT(KIN_INIT_ZERO, 0),
                      one = KIN_INIT(KIN_INIT_ONE, 1);

static void register_affine(kin_params *params, const kin_cog_model *m, const char *name,
                            kin_param **w, kin_param **b)
{
    if (!m->cfg.affine)
        return;
    *w = kin_params_add(params, one, KIN_DIMS(m->width), "%s.weight", name);
    *b = kin_params_add(params, zero, KIN_DIMS(m->width), "%s.bias", name);
}

static void register_linear(kin_params *params, kin_init init, const char *name, int64_t out,
                            int64_t in, bool bias, kin_param **w, kin_param **b)
{
    *w = kin_params_add(params, init, KIN_DIMS(out, in), "%s.weight", name);
    if (bias)
        *b = kin_params_add(params, zero, KIN_DIMS(out), "%s.bias", name);
}

static void register_norm(kin_params *params, const kin_cog_model *m, int64_t i, const char *which,
                          kin_cog_norm *n)
{
    char name[64];

    snprintf(name, sizeof(name), "transformer_blocks.%lld.%s.linear", (long long)i, which);
    register_linear(params, zero, name, 6 * m->width, m->cfg.time_dim, true, &n->mod_w, &n->mod_b);
    snprintf(name, sizeof(name), "transformer_blocks.%lld.%s.norm", (long long)i, which);
    register_affine(params, m, name, &n->w, &n->b);
}

static void register_attention(kin_params *params, const kin_cog_model *m, int64_t i,
                               kin_cog_block *b)
{
    const kin_cog_config *c = &m->cfg;
    const struct {
        const char *name;
        kin_param **w, **b;
        bool bias;
    } map[] = {{"to_q", &b->q_w, &b->q_b, c->attention_bias},
               {"to_k", &b->k_w, &b->k_b, c->attention_bias},
               {"to_v", &b->v_w, &b->v_b, c->attention_bias},
               {"to_out.0", &b->o_w, &b->o_b, true}};
    const int64_t d = m->width;
    char name[64];

    for (size_t k = 0; k < sizeof(map) / sizeof(map[0]); k++) {
        snprintf(name, sizeof(name), "transformer_blocks.%lld.attn1.%s", (long long)i, map[k].name);
        register_linear(params, xavier, name, d, d, map[k].bias, map[k].w, map[k].b);
    }
    snprintf(name, sizeof(name), "transformer_blocks.%lld.attn1.norm_q", (long long)i);
    b->nq_w = kin_params_add(params, one, KIN_DIMS(c->head_dim), "%s.weight", name);
    b->nq_b = kin_params_add(params, zero, KIN_DIMS(c->head_dim), "%s.bias", name);
    snprintf(name, sizeof(name), "transformer_blocks.%lld.attn1.norm_k", (long long)i);
    b->nk_w = kin_params_add(params, one, KIN_DIMS(c->head_dim), "%s.weight", name);
    b->nk_b = kin_params_add(params, zero, KIN_DIMS(c->head_dim), "%s.bias", name);
    kin_params_allow_int8((kin_param *[]){b->q_w, b->k_w, b->v_w, b->o_w}, 4);
}

static void register_block(kin_params *params, kin_cog_model *m, int64_t i)
{
    const int64_t d = m->width;
    kin_cog_block *b = &m->blocks[i];
    char name[64];

    register_norm(params, m, i, "norm1", &b->norm1);
    register_attention(params, m, i, b);
    register_norm(params, m, i, "norm2", &b->norm2);
    snprintf(name, sizeof(name), "transformer_blocks.%lld.ff.net.0.proj", (long long)i);
    register_linear(params, xavier, name, 4 * d, d, true, &b->up_w, &b->up_b);
    snprintf(name, sizeof(name), "transformer_blocks.%lld.ff.net.2", (long long)i);
    register_linear(params, xavier, name, d, 4 * d, true, &b->down_w, &b->down_b);
    kin_params_allow_int8((kin_param *[]){b->up_w, b->down_w}, 2);
}

static kin_status register_physics(kin_params *params, kin_cog_model *m, kin_error *err)
{
    const kin_cog_config *c = &m->cfg;

    for (int64_t i = 0; i < c->layers; i++) {
        char prefix[64];

        if (m->blocks[i].phys < 0)
            continue;
        snprintf(prefix, sizeof(prefix), "phys_transformer_blocks.%lld.", (long long)i);
        kin_phys_block_register_cog(params, prefix, &c->mopa, &m->phys[m->blocks[i].phys]);
    }
    KIN_TRY(kin_quantity_register(params, "phys_quantify_embedder.", c->time_dim, 2 * c->time_dim,
                                  3 * m->width, &m->quantity, err));
    if (c->classifier) {
        m->token = kin_params_add(params, KIN_INIT(KIN_INIT_NORMAL, 1), KIN_DIMS(1, 1, m->width),
                                  "phys_token");
        kin_classifier_register(params, "phys_classifier.", m->width, c->mopa.categories,
                                &m->classifier);
    }
    return KIN_OK;
}

kin_status kin_cog_register(kin_params *params, kin_cog_model *m, kin_error *err)
{
    const kin_init small = KIN_INIT(KIN_INIT_NORMAL, 0.02f);
    const kin_cog_config *c = &m->cfg;
    const int64_t d = m->width, p = c->patch;

    m->patch_w = kin_params_add(params, xavier, KIN_DIMS(d, c->in_channels, p, p),
                                "patch_embed.proj.weight");
    if (c->patch_bias)
        m->patch_b = kin_params_add(params, zero, KIN_DIMS(d), "patch_embed.proj.bias");
    register_linear(params, xavier, "patch_embed.text_proj", d, c->text_dim, true, &m->text_w,
                    &m->text_b);
    if (c->learned) {
        const int64_t rows = c->text_len + c->sample[0] * (c->sample[1] / p) * (c->sample[2] / p);

        m->pos = kin_params_add(params, small, KIN_DIMS(1, rows, d), "patch_embed.pos_embedding");
    }
    kin_mlp_register(params, "time_embedding.linear_1", "time_embedding.linear_2", d, c->time_dim,
                     c->time_dim, KIN_ACT_SILU, small, &m->time);
    for (int64_t i = 0; i < c->layers; i++)
        register_block(params, m, i);
    register_affine(params, m, "norm_final", &m->final_w, &m->final_b);
    register_linear(params, zero, "norm_out.linear", 2 * d, c->time_dim, true, &m->out_mod_w,
                    &m->out_mod_b);
    register_affine(params, m, "norm_out.norm", &m->out_w, &m->out_b);
    register_linear(params, zero, "proj_out", c->out_channels * p * p, d, true, &m->proj_w,
                    &m->proj_b);
    if (c->physics)
        KIN_TRY(register_physics(params, m, err));
    if (params->failed != KIN_OK)
        return kin_fail(err, params->failed, "CogVideoX: registering parameters failed");
    return KIN_OK;
}

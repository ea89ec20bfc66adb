/* diffusion/dit.c: family `dit`: class-conditional image transformer with adaLN-zero (Peebles and
 * Xie 2023, arXiv 2212.09748), dense or with the experts of any router (moe.h). Names and numbers
 * as ali-vilab/ProMoE. */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "diffusion/attention.h"
#include "diffusion/config.h"
#include "diffusion/embed.h"
#include "diffusion/family.h"
#include "diffusion/moe.h"

enum { DIT_FREQ = 256 };

typedef struct dit_config {
    int64_t input_size, patch, channels, width, depth, heads, head_dim, classes;
    double mlp_ratio, class_dropout;
    bool qk_norm, swiglu, learn_sigma;
    kin_moe_config moe; /* router NONE: dense */
} dit_config;

typedef struct dit_block {
    kin_dit_attention attn;
    kin_param *mod_w, *mod_b;
    bool is_moe;
    kin_ffn ffn;
    kin_moe moe;
} dit_block;

typedef struct dit_model {
    kin_model base;
    dit_config cfg;
    kin_param *patch_w, *patch_b, *pos, *labels;
    kin_mlp time;
    dit_block *blocks;
    kin_param *final_w, *final_b, *final_mod_w, *final_mod_b;
} dit_model;

/* --- configuration --- */

static int64_t dense_hidden(const dit_config *c)
{
    return (int64_t)((double)c->width * c->mlp_ratio);
}

/* The keys of the router; the rest of *c is set and checked. */
static kin_status parse_router(const cJSON *j, dit_config *c, kin_error *err)
{
    const cJSON *moe = cJSON_GetObjectItemCaseSensitive(j, "MoE_config");
    const char *model = NULL;
    kin_router_kind router;

    if (cJSON_IsNull(moe))
        moe = NULL;
    KIN_TRY(kin_json_get_str(j, "model", &model, err));
    KIN_TRY(kin_config_router(model ? model : moe ? "promoe_tc" : "dense", &router, err));
    if (router != KIN_ROUTER_NONE)
        c->moe = kin_config_moe_default(router, c->width, dense_hidden(c), c->swiglu);
    KIN_TRY(kin_config_predictor_weight(j, &c->moe, err));
    if (router == KIN_ROUTER_NONE)
        return moe ? kin_fail(err, KIN_ERR_ARG, "config: MoE_config must be absent for model dense")
                   : KIN_OK;
    return moe ? kin_config_moe(moe, c->width, &c->moe, err)
               : kin_fail(err, KIN_ERR_FORMAT, "config: MoE_config is missing for model %s",
                          kin_config_router_name(router));
}

static kin_status parse_config(const cJSON *j, dit_config *c, kin_error *err)
{
    static const char *const known[] = {"_class_name",
                                        "_diffusers_version",
                                        "_name_or_path",
                                        "model",
                                        "input_size",
                                        "patch_size",
                                        "in_channels",
                                        "hidden_size",
                                        "depth",
                                        "num_heads",
                                        "mlp_ratio",
                                        "head_dim",
                                        "qk_norm",
                                        "num_classes",
                                        "class_dropout_prob",
                                        "use_swiglu",
                                        "learn_sigma",
                                        "MoE_config",
                                        "CapacityPred_loss_weight",
                                        NULL};

    *c = (dit_config){.input_size = 32,
                      .patch = 2,
                      .channels = 4,
                      .width = 1152,
                      .depth = 28,
                      .heads = 16,
                      .classes = 1000,
                      .mlp_ratio = 4.0,
                      .class_dropout = 0.1,
                      .learn_sigma = true};
    KIN_TRY(kin_json_known_keys(j, known, "config", err));
    KIN_TRY(kin_json_get_i64(j, "input_size", 1, 1 << 14, &c->input_size, err));
    KIN_TRY(kin_json_get_i64(j, "patch_size", 1, 1024, &c->patch, err));
    KIN_TRY(kin_json_get_i64(j, "in_channels", 1, 4096, &c->channels, err));
    KIN_TRY(kin_json_get_i64(j, "hidden_size", 4, 1 << 16, &c->width, err));
    KIN_TRY(kin_json_get_i64(j, "depth", 1, 1024, &c->depth, err));
    KIN_TRY(kin_json_get_i64(j, "num_heads", 1, 1024, &c->heads, err));
    KIN_TRY(kin_json_get_i64(j, "head_dim", 1, 4096, &c->head_dim, err));
    KIN_TRY(kin_json_get_i64(j, "num_classes", 1, 1 << 24, &c->classes, err));
    KIN_TRY(kin_json_get_f64(j, "mlp_ratio", &c->mlp_ratio, err));
    KIN_TRY(kin_json_get_f64(j, "class_dropout_prob", &c->class_dropout, err));
    KIN_TRY(kin_json_get_bool(j, "qk_norm", &c->qk_norm, err));
    KIN_TRY(kin_json_get_bool(j, "use_swiglu", &c->swiglu, err));
    return kin_json_get_bool(j, "learn_sigma", &c->learn_sigma, err);
}

static kin_status check_config(dit_config *c, kin_error *err)
{
    if (c->input_size % c->patch)
        return kin_fail(err, KIN_ERR_ARG,
                        "config: input_size %lld must be a multiple of patch_size %lld",
                        (long long)c->input_size, (long long)c->patch);
    if (c->width % 4)
        return kin_fail(err, KIN_ERR_ARG, "config: hidden_size %lld must be a multiple of 4",
                        (long long)c->width);
    if (!c->head_dim && c->width % c->heads)
        return kin_fail(err, KIN_ERR_ARG,
                        "config: hidden_size %lld must be a multiple of num_heads %lld",
                        (long long)c->width, (long long)c->heads);
    if (!c->head_dim)
        c->head_dim = c->width / c->heads;
    if (!(c->mlp_ratio > 0 && c->mlp_ratio <= 64) || dense_hidden(c) < 1)
        return kin_fail(err, KIN_ERR_ARG, "config: mlp_ratio %g must lie in 0 to 64", c->mlp_ratio);
    if (!(c->class_dropout >= 0 && c->class_dropout <= 1))
        return kin_fail(err, KIN_ERR_ARG, "config: class_dropout_prob %g must lie in 0 to 1",
                        c->class_dropout);
    return KIN_OK;
}

static kin_status check_router(const dit_config *c, kin_error *err)
{
    const int64_t side = c->input_size / c->patch;

    KIN_TRY(kin_config_bounds(c->width, c->patch * c->patch * c->channels * 2, c->depth,
                              c->moe.experts, err));
    if (c->moe.router == KIN_ROUTER_EC &&
        (double)(side * side) / (double)c->moe.experts * c->moe.capacity < 1)
        return kin_fail(err, KIN_ERR_ARG,
                        "MoE_config: %lld tokens at capacity %g leave none for each of %lld "
                        "experts",
                        (long long)(side * side), c->moe.capacity, (long long)c->moe.experts);
    return KIN_OK;
}

/* --- parameters --- */

static kin_status register_block(kin_params *params, const dit_config *c, int64_t i, dit_block *b,
                                 kin_error *err)
{
    const kin_init zero = KIN_INIT(KIN_INIT_ZERO, 0);
    const int64_t d = c->width;
    char prefix[64];

    snprintf(prefix, sizeof(prefix), "blocks.%lld.attn.", (long long)i);
    kin_dit_attention_register(params, prefix, d, c->heads, c->head_dim, c->qk_norm, &b->attn);
    b->is_moe = kin_config_is_moe(&c->moe, i);
    snprintf(prefix, sizeof(prefix), "blocks.%lld.mlp.", (long long)i);
    if (b->is_moe)
        KIN_TRY(kin_moe_register(params, prefix, d, &c->moe, &b->moe, err));
    else
        kin_ffn_register(params, prefix, c->swiglu ? KIN_FFN_SWIGLU : KIN_FFN_FC, d,
                         dense_hidden(c), &b->ffn);
    b->mod_w = kin_params_add(params, zero, KIN_DIMS(6 * d, d),
                              "blocks.%lld.adaLN_modulation.1.weight", (long long)i);
    b->mod_b = kin_params_add(params, zero, KIN_DIMS(6 * d), "blocks.%lld.adaLN_modulation.1.bias",
                              (long long)i);
    return KIN_OK;
}

static kin_status register_all(kin_params *params, dit_model *m, kin_error *err)
{
    const kin_init xavier = KIN_INIT(KIN_INIT_XAVIER, 1), zero = KIN_INIT(KIN_INIT_ZERO, 0),
                   small = KIN_INIT(KIN_INIT_NORMAL, 0.02f);
    const dit_config *c = &m->cfg;
    const int64_t d = c->width, p = c->patch, side = c->input_size / p;
    const int64_t rows = c->classes + (c->class_dropout > 0 ? 1 : 0);
    const int64_t vector = p * p * m->base.info.out_channels;

    m->pos = kin_params_add(params, zero, KIN_DIMS(1, side * side, d), "pos_embed");
    if (m->pos)
        m->pos->trainable = false;
    m->patch_w =
        kin_params_add(params, xavier, KIN_DIMS(d, c->channels, p, p), "x_embedder.proj.weight");
    m->patch_b = kin_params_add(params, zero, KIN_DIMS(d), "x_embedder.proj.bias");
    kin_mlp_register(params, "t_embedder.mlp.0", "t_embedder.mlp.2", DIT_FREQ, d, d, KIN_ACT_SILU,
                     small, &m->time);
    m->labels =
        kin_params_add(params, small, KIN_DIMS(rows, d), "y_embedder.embedding_table.weight");
    for (int64_t i = 0; i < c->depth; i++)
        KIN_TRY(register_block(params, c, i, &m->blocks[i], err));
    m->final_w = kin_params_add(params, zero, KIN_DIMS(vector, d), "final_layer.linear.weight");
    m->final_b = kin_params_add(params, zero, KIN_DIMS(vector), "final_layer.linear.bias");
    m->final_mod_w =
        kin_params_add(params, zero, KIN_DIMS(2 * d, d), "final_layer.adaLN_modulation.1.weight");
    m->final_mod_b =
        kin_params_add(params, zero, KIN_DIMS(2 * d), "final_layer.adaLN_modulation.1.bias");
    if (params->failed != KIN_OK)
        return kin_fail(err, params->failed, "dit: registering parameters failed");
    return KIN_OK;
}

static void dit_fill_tables(const kin_model *model)
{
    const dit_model *m = (const dit_model *)model;

    if (m->pos->value.data && m->pos->value.dtype == KIN_DTYPE_F32) {
        kin_sincos_2d(m->cfg.input_size / m->cfg.patch, m->cfg.width, m->pos->value.data);
        kin_param_touch(m->pos);
    }
}

static void dit_destroy(kin_model *model)
{
    dit_model *m = (dit_model *)model;

    for (int64_t i = 0; m->blocks && i < m->cfg.depth; i++)
        kin_moe_free(&m->blocks[i].moe);
    kin_free(m->blocks);
    kin_free(m);
}

/* --- forward --- */

typedef struct dit_layer {
    const dit_model *m;
    int index;
    bool want_aux, counted; /* see kin_moe_call */
    kin_tensor null;        /* u8 [B] */
} dit_layer;

static kin_status feed_forward(kin_ctx *ctx, dit_layer *l, const kin_tensor *x,
                               const kin_tensor *residual, const kin_tensor *gate, kin_tensor *out)
{
    const dit_block *b = &l->m->blocks[l->index];
    const kin_moe_call call = {.layer = l->index,
                               .null = &l->null,
                               .want_aux = l->want_aux,
                               .infer_batch = l->m->base.infer_batch,
                               .counted = &l->counted};
    kin_tensor hidden;

    if (b->is_moe)
        return kin_moe_forward(ctx, &b->moe, &call, x, residual, gate, &out[0], &out[1]);
    KIN_TRY(kin_ffn_hidden(ctx, &b->ffn, x, &hidden));
    return kin_linear_residual(ctx, &hidden, b->ffn.w2, b->ffn.b2, residual, gate, &out[0]);
}

/* in: hidden state [B,S,D], silu(c) [B,D] */
static kin_status dit_block_run(kin_ctx *ctx, void *arg, const kin_tensor *in, kin_tensor *out)
{
    dit_layer *l = arg;
    const dit_block *b = &l->m->blocks[l->index];
    const int64_t d = l->m->cfg.width;
    kin_tensor mod, v[6], x, h;

    KIN_TRY(kin_linear(ctx, &in[1], b->mod_w, b->mod_b, &mod));
    for (int i = 0; i < 6; i++)
        v[i] = kin_tensor_slice(&mod, 1, i * d, d);
    KIN_TRY(kin_layernorm_operand(ctx, &in[0], NULL, NULL, &v[1], &v[0], 1e-6f, &x));
    KIN_TRY(kin_dit_attention_forward(ctx, &b->attn, &x, &in[0], &v[2], &h));
    /* routers read the tokens, too */
    KIN_TRY((b->is_moe ? kin_layernorm : kin_layernorm_operand)(ctx, &h, NULL, NULL, &v[4], &v[3],
                                                                1e-6f, &x));
    KIN_TRY(feed_forward(ctx, l, &x, &h, &v[5], out));
    kin_tap(ctx, &out[0], "blocks.%d", l->index);
    return KIN_OK;
}

static kin_status check_input(kin_ctx *ctx, const dit_model *m, const kin_model_input *in)
{
    const kin_tensor *x = in->x;
    const int64_t side = m->cfg.input_size;

    if (x->ndim != 4 || x->size[1] != m->cfg.channels || x->size[2] != side || x->size[3] != side)
        return kin_fail(&ctx->error, KIN_ERR_SHAPE, "dit: x must be [B,%lld,%lld,%lld]",
                        (long long)m->cfg.channels, (long long)side, (long long)side);
    if (!in->label || in->label->ndim != 1 || in->label->size[0] != x->size[0] ||
        in->label->dtype != KIN_DTYPE_I32)
        return kin_fail(&ctx->error, KIN_ERR_SHAPE, "dit: label must be i32 [B]");
    return KIN_OK;
}

/* null samples carry the label num_classes */
static kin_status null_mask(kin_ctx *ctx, const dit_model *m, const kin_tensor *label,
                            kin_tensor *null)
{
    KIN_TRY(KIN_WS_HOST(ctx, null, KIN_DTYPE_U8, label->size[0]));
    const size_t mark = kin_ws_mark(ctx);
    kin_tensor known;

    KIN_TRY(kin_host(ctx, label, &known));
    for (int64_t b = 0; b < label->size[0] && !kin_ctx_is_plan(ctx); b++)
        ((uint8_t *)null->data)[b] = ((const int32_t *)known.data)[b] == m->cfg.classes;
    kin_ws_release(ctx, mark);
    return kin_settle(ctx, null);
}

/* c = time MLP + label row; s = silu(c) */
static kin_status condition(kin_ctx *ctx, const dit_model *m, const kin_model_input *in,
                            kin_tensor *s)
{
    kin_tensor freq, t, label, c;

    KIN_TRY(kin_time_sinusoid(ctx, in->t, DIT_FREQ, &freq));
    kin_tap(ctx, &freq, "t_freq");
    KIN_TRY(kin_mlp_forward(ctx, &m->time, &freq, &t));
    KIN_TRY(kin_embedding(ctx, m->labels, in->label, &label));
    KIN_TRY(kin_add(ctx, &t, &label, 1.0f, &c));
    kin_tap(ctx, &c, "c");
    return kin_activation(ctx, &c, KIN_ACT_SILU, s);
}

static kin_status run_blocks(kin_ctx *ctx, const dit_model *m, const kin_tensor *in,
                             const kin_tensor *null, kin_tensor *h, kin_tensor *aux)
{
    const bool want_aux = kin_moe_has_aux(ctx, &m->cfg.moe);
    const size_t depth = (size_t)m->cfg.depth;
    dit_layer *args = kin_ws_bytes(ctx, depth * sizeof(*args));
    bool *has_aux = kin_ws_bytes(ctx, depth * sizeof(*has_aux));

    if (!args || !has_aux)
        return ctx->error.status;
    for (size_t i = 0; i < depth; i++) {
        args[i] = (dit_layer){.m = m, .index = (int)i, .want_aux = want_aux, .null = *null};
        has_aux[i] = want_aux && m->blocks[i].is_moe;
    }
    return kin_layers_run(ctx,
                          &(kin_layers){.fn = dit_block_run,
                                        .args = (char *)args,
                                        .arg_bytes = sizeof(*args),
                                        .count = m->cfg.depth,
                                        .n_in = 2,
                                        .in = in,
                                        .has_aux = has_aux,
                                        .checkpoint = m->base.checkpoint},
                          h, aux);
}

static kin_status head(kin_ctx *ctx, const dit_model *m, const kin_tensor *h, const kin_tensor *s,
                       kin_tensor *y)
{
    const int64_t d = m->cfg.width, side = m->cfg.input_size;
    const int patch[3] = {1, (int)m->cfg.patch, (int)m->cfg.patch};
    const int64_t channels = m->base.info.out_channels;
    kin_tensor mod, shift, scale, x, v, video;

    KIN_TRY(kin_linear(ctx, s, m->final_mod_w, m->final_mod_b, &mod));
    shift = kin_tensor_slice(&mod, 1, 0, d);
    scale = kin_tensor_slice(&mod, 1, d, d);
    KIN_TRY(kin_layernorm(ctx, h, NULL, NULL, &scale, &shift, 1e-6f, &x));
    KIN_TRY(kin_linear(ctx, &x, m->final_w, m->final_b, &v));
    KIN_TRY(kin_unpatchify(ctx, &v, patch, true, channels, 1, side, side, &video));
    *y = KIN_RESHAPE(&video, h->size[0], channels, side, side);
    return KIN_OK;
}

static kin_status dit_forward(kin_ctx *ctx, const kin_model *model, const kin_model_input *input,
                              kin_model_output *out)
{
    const dit_model *m = (const dit_model *)model;
    const int64_t side = m->cfg.input_size;
    const int patch[3] = {1, (int)m->cfg.patch, (int)m->cfg.patch};
    kin_tensor video, vectors, tokens, null, in[2], h;

    KIN_TRY(check_input(ctx, m, input));
    KIN_TRY(null_mask(ctx, m, input->label, &null));
    video = KIN_RESHAPE(input->x, input->x->size[0], m->cfg.channels, 1, side, side);
    KIN_TRY(kin_patchify(ctx, &video, patch, false, &vectors));
    KIN_TRY(kin_linear(ctx, &vectors, m->patch_w, m->patch_b, &tokens));
    KIN_TRY(kin_add_param(ctx, &tokens, m->pos, 1.0f, &in[0]));
    KIN_TRY(condition(ctx, m, input, &in[1]));
    KIN_TRY(run_blocks(ctx, m, in, &null, &h, &out->aux));
    return head(ctx, m, &h, &in[1], &out->y);
}

/* --- creation --- */

static void fill_info(dit_model *m)
{
    const dit_config *c = &m->cfg;

    m->base.info = (kin_model_info){.family = KIN_FAMILY_DIT,
                                    .in_channels = c->channels,
                                    .out_channels = c->channels * (c->learn_sigma ? 2 : 1),
                                    .patch = {1, (int)c->patch, (int)c->patch},
                                    .num_classes = c->classes,
                                    .class_dropout = (float)c->class_dropout,
                                    .experts = c->moe.experts,
                                    .router = kin_config_router_name(c->moe.router),
                                    .num_layers = c->depth,
                                    .input_size = c->input_size,
                                    .inner = c->width};
    m->base.forward = dit_forward;
    m->base.fill_tables = dit_fill_tables;
    m->base.destroy = dit_destroy;
}

kin_status kin_dit_create(const cJSON *config, kin_params *params, kin_model **out, kin_error *err)
{
    dit_model *m = kin_calloc(1, sizeof(*m));
    kin_model *base = (kin_model *)m;
    kin_status status;

    *out = NULL;
    if (!m)
        return kin_fail(err, KIN_ERR_MEM, "dit: out of memory");
    m->base.destroy = dit_destroy;
    KIN_GOTO(parse_config(config, &m->cfg, err));
    KIN_GOTO(check_config(&m->cfg, err));
    KIN_GOTO(parse_router(config, &m->cfg, err));
    KIN_GOTO(check_router(&m->cfg, err));
    fill_info(m);
    m->blocks = kin_calloc((size_t)m->cfg.depth, sizeof(*m->blocks));
    KIN_GOTO(m->blocks ? KIN_OK : kin_fail(err, KIN_ERR_MEM, "dit: out of memory"));
    KIN_GOTO(register_all(params, m, err));
    *out = base;
    return KIN_OK;
done:
    kin_model_destroy(&base);
    return status;
}

#include "diffusion/video.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"

typedef struct video_block {
    kin_wan_attention attn1, attn2;
    kin_param *norm2_w, *norm2_b; /* NULL: identity */
    kin_param *table;             /* scale_shift_table [1,6,D] */
    bool is_moe;
    kin_param *up_w, *up_b, *down_w, *down_b; /* dense ffn.net.0.proj, ffn.net.2 */
    kin_moe moe;
    int phys; /* index in the list of physical blocks, -1: none follows */
} video_block;

typedef struct video_model {
    kin_model base;
    kin_video_config cfg;
    int64_t width;
    kin_param *patch_w, *patch_b, *table, *proj_w, *proj_b, *token;
    kin_param *time_proj_w, *time_proj_b, *all_w, *all_b;
    kin_mlp time, text;
    kin_positions positions;
    kin_quantity quantity;
    kin_classifier classifier;
    video_block *blocks;
    kin_phys_block *phys;
    int64_t phys_count;
} video_model;

/* --- parameters --- */

static void register_embedding(kin_params *params, video_model *m)
{
    const kin_init xavier = KIN_INIT(KIN_INIT_XAVIER, 1), zero = KIN_INIT(KIN_INIT_ZERO, 0),
                   small = KIN_INIT(KIN_INIT_NORMAL, 0.02f);
    const kin_video_config *c = &m->cfg;
    const int64_t d = m->width;

    m->patch_w = kin_params_add(params, xavier,
                                KIN_DIMS(d, c->in_channels, c->patch[0], c->patch[1], c->patch[2]),
                                "patch_embedding.weight");
    m->patch_b = kin_params_add(params, zero, KIN_DIMS(d), "patch_embedding.bias");
    kin_mlp_register(params, "condition_embedder.time_embedder.linear_1",
                     "condition_embedder.time_embedder.linear_2", c->freq_dim, d, d, KIN_ACT_SILU,
                     small, &m->time);
    m->time_proj_w =
        kin_params_add(params, zero, KIN_DIMS(6 * d, d), "condition_embedder.time_proj.weight");
    m->time_proj_b =
        kin_params_add(params, zero, KIN_DIMS(6 * d), "condition_embedder.time_proj.bias");
    kin_mlp_register(params, "condition_embedder.text_embedder.linear_1",
                     "condition_embedder.text_embedder.linear_2", c->text_dim, d, d,
                     KIN_ACT_GELU_TANH, c->text_xavier ? xavier : small, &m->text);
    if (c->positions) {
        const int64_t grid[3] = {c->sample[0] / c->patch[0], c->sample[1] / c->patch[1],
                                 c->sample[2] / c->patch[2]};

        kin_positions_register(params, "pos_embed.", grid, d, c->pos_start, &m->positions);
    }
}

static kin_status register_block(kin_params *params, video_model *m, int64_t i, kin_error *err)
{
    const kin_init xavier = KIN_INIT(KIN_INIT_XAVIER, 1), zero = KIN_INIT(KIN_INIT_ZERO, 0),
                   one = KIN_INIT(KIN_INIT_ONE, 1);
    const kin_video_config *c = &m->cfg;
    const int64_t d = m->width;
    const long long n = (long long)i;
    kin_init start = KIN_INIT(KIN_INIT_NORMAL, 1.0f / sqrtf((float)d));
    video_block *b = &m->blocks[i];
    char prefix[64];

    if (c->gate_start != 0.0f) {
        start.add = c->gate_start;
        start.row_a = 2;
        start.row_b = 5;
    }
    b->table = kin_params_add(params, start, KIN_DIMS(1, 6, d), "blocks.%lld.scale_shift_table", n);
    snprintf(prefix, sizeof(prefix), "blocks.%lld.attn1.", n);
    kin_wan_attention_register(params, prefix, d, c->heads, c->eps, &b->attn1);
    snprintf(prefix, sizeof(prefix), "blocks.%lld.attn2.", n);
    kin_wan_attention_register(params, prefix, d, c->heads, c->eps, &b->attn2);
    if (c->cross_attn_norm) {
        b->norm2_w = kin_params_add(params, one, KIN_DIMS(d), "blocks.%lld.norm2.weight", n);
        b->norm2_b = kin_params_add(params, zero, KIN_DIMS(d), "blocks.%lld.norm2.bias", n);
    }
    b->is_moe = kin_config_is_moe(&c->moe, i);
    if (b->is_moe) {
        snprintf(prefix, sizeof(prefix), "blocks.%lld.ffn.", n);
        return kin_moe_register(params, prefix, d, &c->moe, &b->moe, err);
    }
    b->up_w = kin_params_add(params, xavier, KIN_DIMS(c->ffn_dim, d),
                             "blocks.%lld.ffn.net.0.proj.weight", n);
    b->up_b =
        kin_params_add(params, zero, KIN_DIMS(c->ffn_dim), "blocks.%lld.ffn.net.0.proj.bias", n);
    b->down_w =
        kin_params_add(params, xavier, KIN_DIMS(d, c->ffn_dim), "blocks.%lld.ffn.net.2.weight", n);
    b->down_b = kin_params_add(params, zero, KIN_DIMS(d), "blocks.%lld.ffn.net.2.bias", n);
    kin_params_allow_int8((kin_param *[]){b->up_w, b->down_w}, 2);
    return KIN_OK;
}

/* True where a physical block follows block i. */
static bool phys_follows(const kin_video_config *c, int64_t i)
{
    if (!c->physics)
        return false;
    return i == c->num_layers - 1 || (c->insert_gap != KIN_ONLY_LAST && i % c->insert_gap == 0);
}

static kin_status register_physics(kin_params *params, video_model *m, kin_error *err)
{
    const kin_init zero = KIN_INIT(KIN_INIT_ZERO, 0);
    const kin_video_config *c = &m->cfg;
    const int64_t d = m->width;

    for (int64_t i = 0; i < c->num_layers; i++) {
        char prefix[64];

        if (m->blocks[i].phys < 0)
            continue;
        snprintf(prefix, sizeof(prefix), "phys_blocks.%lld.", (long long)i);
        kin_phys_block_register(params, prefix, &c->mopa, &m->phys[m->blocks[i].phys]);
    }
    KIN_TRY(kin_quantity_register(params, "phys_quantify_embedder.", d, 2 * c->freq_dim, 3 * d,
                                  &m->quantity, err));
    if (c->quantity_all) {
        m->all_w = kin_params_add(params, zero, KIN_DIMS(6 * d, d),
                                  "phys_quantify_embedder.linear_all.weight");
        m->all_b =
            kin_params_add(params, zero, KIN_DIMS(6 * d), "phys_quantify_embedder.linear_all.bias");
    }
    if (c->classifier) {
        m->token =
            kin_params_add(params, KIN_INIT(KIN_INIT_NORMAL, 1), KIN_DIMS(1, 1, d), "phys_token");
        kin_classifier_register(params, "phys_classifier.", d, KIN_CATEGORIES, &m->classifier);
    }
    return KIN_OK;
}

static kin_status register_all(kin_params *params, video_model *m, kin_error *err)
{
    const kin_init zero = KIN_INIT(KIN_INIT_ZERO, 0);
    const kin_video_config *c = &m->cfg;
    const int64_t d = m->width;
    const int64_t vector = c->out_channels * c->patch[0] * c->patch[1] * c->patch[2];

    register_embedding(params, m);
    for (int64_t i = 0; i < c->num_layers; i++)
        KIN_TRY(register_block(params, m, i, err));
    if (c->physics)
        KIN_TRY(register_physics(params, m, err));
    m->table = kin_params_add(params, KIN_INIT(KIN_INIT_NORMAL, 1.0f / sqrtf((float)d)),
                              KIN_DIMS(1, 2, d), "scale_shift_table");
    m->proj_w = kin_params_add(params, zero, KIN_DIMS(vector, d), "proj_out.weight");
    m->proj_b = kin_params_add(params, zero, KIN_DIMS(vector), "proj_out.bias");
    if (params->failed != KIN_OK)
        return kin_fail(err, params->failed, "video transformer: registering parameters failed");
    return KIN_OK;
}

/* --- taps: golden/video and golden/native name some tensors differently --- */

typedef enum tap_name { TAP_BLOCK, TAP_PHYS_BLOCK, TAP_GATES } tap_name;

static void tap(kin_ctx *ctx, const video_model *m, tap_name name, int index, const kin_tensor *t)
{
    const bool wan = m->base.info.family == KIN_FAMILY_WAN;

    switch (name) {
    case TAP_BLOCK: kin_tap(ctx, t, wan ? "block%d" : "blocks.%d", index); break;
    case TAP_PHYS_BLOCK: kin_tap(ctx, t, wan ? "phys_block%d" : "phys_blocks.%d", index); break;
    case TAP_GATES: kin_tap(ctx, t, wan ? "mopa_gates" : "gates"); break;
    }
}

/* --- one block --- */

typedef struct video_layer {
    const video_model *m;
    int index;
    bool want_aux, counted; /* see kin_moe_call */
    kin_tensor null;        /* u8 [B]; data NULL: no null samples */
    const kin_tensor *kv;   /* keys and values of the text, made before; NULL: made here */
    kin_tensor cos, sin, phys_cos, phys_sin,
        gates; /* gates [B,P] of the physical block that follows */
} video_layer;

static kin_status feed_forward(kin_ctx *ctx, video_layer *l, const kin_tensor *v,
                               const kin_tensor *h, const kin_tensor *gate, kin_tensor *out)
{
    const video_block *b = &l->m->blocks[l->index];
    const kin_moe_call call = {.layer = l->index,
                               .null = l->null.data && b->moe.cfg.uncond ? &l->null : NULL,
                               .want_aux = l->want_aux,
                               .infer_batch = l->m->base.infer_batch,
                               .counted = &l->counted};
    kin_tensor hidden;

    if (b->is_moe)
        return kin_moe_forward(ctx, &b->moe, &call, v, h, gate, &out[0], &out[1]);
    KIN_TRY(kin_linear_operand(ctx, v, b->up_w, b->up_b, KIN_ACT_GELU_TANH, &hidden));
    return kin_linear_residual(ctx, &hidden, b->down_w, b->down_b, h, gate, &out[0]);
}

/* in: h [B,N',D], tp [B,6,D], text [B,T,D], ptemb [B,3,D] where there is physics */
static kin_status block_run(kin_ctx *ctx, void *arg, const kin_tensor *in, kin_tensor *out)
{
    video_layer *l = arg;
    const video_block *b = &l->m->blocks[l->index];
    const float eps = l->m->cfg.eps;
    kin_tensor mod, m[6], x, a, n, h, text = in[2];

    /* note: keys and values of a block share one node, so that their gradients are summed before
     * they meet those of the other blocks, as they are where blocks are recomputed: both ways give
     * the same bits */
    if (kin_tape_needs(ctx, &in[2]))
        KIN_TRY(kin_contiguous(ctx, &in[2], &text));
    KIN_TRY(kin_add_param(ctx, &in[1], b->table, 1.0f, &mod));
    for (int i = 0; i < 6; i++)
        m[i] = kin_tensor_select(&mod, 1, i);
    KIN_TRY(kin_layernorm_operand(ctx, &in[0], NULL, NULL, &m[1], &m[0], eps, &x));
    KIN_TRY(
        kin_wan_attention_forward(ctx, &b->attn1, &x, NULL, &l->cos, &l->sin, &in[0], &m[2], &a));
    n = a;
    if (b->norm2_w)
        KIN_TRY(kin_layernorm_operand(ctx, &a, b->norm2_w, b->norm2_b, NULL, NULL, eps, &n));
    if (l->kv)
        KIN_TRY(kin_wan_attention_cross(ctx, &b->attn2, &n, &l->kv[0], &l->kv[1], &a, &h));
    else
        KIN_TRY(kin_wan_attention_forward(ctx, &b->attn2, &n, &text, NULL, NULL, &a, NULL, &h));
    /* routers read the tokens, too */
    KIN_TRY((b->is_moe ? kin_layernorm : kin_layernorm_operand)(ctx, &h, NULL, NULL, &m[4], &m[3],
                                                                eps, &x));
    KIN_TRY(feed_forward(ctx, l, &x, &h, &m[5], out));
    tap(ctx, l->m, TAP_BLOCK, l->index, &out[0]);
    if (b->phys < 0)
        return KIN_OK;
    KIN_TRY(kin_phys_block_forward(ctx, &l->m->phys[b->phys], &out[0], &in[3], &l->phys_cos,
                                   &l->phys_sin, &l->gates, &h));
    tap(ctx, l->m, TAP_PHYS_BLOCK, l->index, &h);
    out[0] = h;
    return KIN_OK;
}

/* --- forward --- */

typedef struct video_pass {
    int64_t batch, grid[3], cells;
    kin_tensor h, tp, temb, text, ptemb; /* ptemb: data NULL without physics */
    kin_tensor cos, sin, phys_cos, phys_sin, gates;
} video_pass;

static kin_status check_input(kin_ctx *ctx, const video_model *m, const kin_model_input *in,
                              video_pass *p)
{
    const kin_video_config *c = &m->cfg;
    const kin_tensor *x = in->x, *text = in->text;

    if (x->ndim != 5 || x->size[1] != c->in_channels)
        return kin_fail(&ctx->error, KIN_ERR_SHAPE, "video transformer: x must be [B,%lld,F,H,W]",
                        (long long)c->in_channels);
    p->batch = x->size[0];
    p->cells = 1;
    for (int i = 0; i < 3; i++) {
        static const char *const axis[] = {"frames", "height", "width"};

        if (x->size[2 + i] < 1 || x->size[2 + i] % c->patch[i])
            return kin_fail(&ctx->error, KIN_ERR_SHAPE,
                            "video transformer: %s %lld must be a multiple of %d", axis[i],
                            (long long)x->size[2 + i], c->patch[i]);
        p->grid[i] = x->size[2 + i] / c->patch[i];
        p->cells *= p->grid[i];
        if (p->grid[i] > c->rope_max)
            return kin_fail(
                &ctx->error, KIN_ERR_ARG,
                "video transformer: %lld patches of %s must be at most rope_max_seq_len %lld",
                (long long)p->grid[i], axis[i], (long long)c->rope_max);
    }
    if (!text || text->ndim != 3 || text->size[0] != p->batch || text->size[2] != c->text_dim ||
        (c->text_len && text->size[1] != c->text_len))
        return kin_fail(&ctx->error, KIN_ERR_SHAPE,
                        "video transformer: text must be [%lld,%lld,%lld]", (long long)p->batch,
                        (long long)c->text_len, (long long)c->text_dim);
    if (in->cache && in->cache->kv && (ctx->tape || in->cache->rows != p->batch))
        return kin_fail(&ctx->error, KIN_ERR_ARG,
                        "video transformer: a text cache of %lld rows for %lld samples%s",
                        (long long)in->cache->rows, (long long)p->batch,
                        ctx->tape ? ", while recording" : "");
    if (in->u && (in->u->ndim != 3 || in->u->size[0] != m->phys_count))
        return kin_fail(&ctx->error, KIN_ERR_SHAPE, "video transformer: u must be [%lld,%lld,%lld]",
                        (long long)m->phys_count, (long long)p->batch, (long long)c->mopa.heads);
    return KIN_OK;
}

/* [token; patches] */
static kin_status embed_tokens(kin_ctx *ctx, const video_model *m, const kin_model_input *in,
                               video_pass *p)
{
    const kin_video_config *c = &m->cfg;
    kin_tensor vectors, tokens, placed, zeros, part[2];

    KIN_TRY(kin_patchify(ctx, in->x, c->patch, false, &vectors));
    KIN_TRY(kin_linear(ctx, &vectors, m->patch_w, m->patch_b, &tokens));
    placed = tokens;
    if (m->positions.frame)
        KIN_TRY(kin_positions_add(ctx, &m->positions, &tokens, p->grid, &placed));
    if (!m->token) {
        p->h = placed;
        return KIN_OK;
    }
    KIN_TRY(KIN_WS(ctx, &zeros, placed.dtype, p->batch, 1, m->width));
    KIN_TRY(kin_fill(ctx, &zeros, 0));
    KIN_TRY(kin_add_param(ctx, &zeros, m->token, 1.0f, &part[0]));
    part[1] = placed;
    return kin_concat(ctx, part, 2, 1, &p->h);
}

static kin_status embed_condition(kin_ctx *ctx, const video_model *m, const kin_model_input *in,
                                  video_pass *p)
{
    kin_tensor freq, s, tp;

    KIN_TRY(kin_time_sinusoid(ctx, in->t, m->cfg.freq_dim, &freq));
    kin_tap(ctx, &freq, "time_sinusoid");
    KIN_TRY(kin_mlp_forward(ctx, &m->time, &freq, &p->temb));
    kin_tap(ctx, &p->temb, "temb");
    KIN_TRY(kin_activation(ctx, &p->temb, KIN_ACT_SILU, &s));
    KIN_TRY(kin_linear(ctx, &s, m->time_proj_w, m->time_proj_b, &tp));
    kin_tap(ctx, &tp, "timestep_proj");
    p->tp = KIN_RESHAPE(&tp, p->batch, 6, m->width);
    p->text = *in->text;
    if (in->cache && in->cache->kv)
        return KIN_OK; /* the blocks do without */
    KIN_TRY(kin_mlp_forward(ctx, &m->text, in->text, &p->text));
    kin_tap(ctx, &p->text, "text");
    return KIN_OK;
}

/* quantities -> ptemb, and with quantity_modulation "all" also into the six vectors */
static kin_status embed_quantities(kin_ctx *ctx, const video_model *m, const kin_model_input *in,
                                   video_pass *p)
{
    kin_tensor q, all, moved, first;

    KIN_TRY(kin_quantity_embed(ctx, &m->quantity, in->quant, p->batch, in->x->dtype, &q));
    if (m->all_w) {
        KIN_TRY(kin_linear(ctx, &q, m->all_w, m->all_b, &all));
        all = KIN_RESHAPE(&all, p->batch, 6, m->width);
        KIN_TRY(kin_add(ctx, &p->tp, &all, 1.0f, &moved));
        p->tp = moved;
    }
    first = kin_tensor_slice(&p->tp, 1, 0, 3);
    KIN_TRY(kin_quantity_modulate(ctx, &m->quantity, &q, &first, &p->ptemb));
    kin_tap(ctx, &p->ptemb, "ptemb");
    return KIN_OK;
}

static kin_status make_tables(kin_ctx *ctx, const video_model *m, video_pass *p, kin_dtype dtype)
{
    const kin_video_config *c = &m->cfg;
    const int64_t first = m->token ? 1 : 0;
    kin_tensor rows;

    KIN_TRY(kin_rope_tables(ctx, p->grid, c->head_dim, (double)c->rope_theta, c->token_rope, dtype,
                            &p->cos, &p->sin));
    rows = kin_tensor_slice(&p->cos, 0, first, p->cells);
    kin_tap(ctx, &rows, "rope_cos");
    rows = kin_tensor_slice(&p->sin, 0, first, p->cells);
    kin_tap(ctx, &rows, "rope_sin");
    if (!c->physics)
        return KIN_OK;
    p->phys_cos = p->cos;
    p->phys_sin = p->sin;
    if (c->mopa.head_dim != c->head_dim)
        KIN_TRY(kin_rope_tables(ctx, p->grid, c->mopa.head_dim, (double)c->rope_theta,
                                c->token_rope, dtype, &p->phys_cos, &p->phys_sin));
    kin_tap(ctx, &p->phys_cos, "phys_rope_cos");
    kin_tap(ctx, &p->phys_sin, "phys_rope_sin");
    return KIN_OK;
}

static kin_status run_blocks(kin_ctx *ctx, const video_model *m, const kin_model_input *input,
                             const video_pass *p, kin_tensor *h, kin_tensor *aux)
{
    const bool want_aux = kin_moe_has_aux(ctx, &m->cfg.moe);
    const size_t count = (size_t)m->cfg.num_layers;
    const kin_tensor in[4] = {p->h, p->tp, p->text, p->ptemb};
    video_layer *args = kin_ws_bytes(ctx, count * sizeof(*args));
    bool *has_aux = kin_ws_bytes(ctx, count * sizeof(*has_aux));

    if (!args || !has_aux)
        return ctx->error.status;
    for (size_t i = 0; i < count; i++) {
        args[i] = (video_layer){.m = m,
                                .index = (int)i,
                                .want_aux = want_aux,
                                .cos = p->cos,
                                .sin = p->sin,
                                .phys_cos = p->phys_cos,
                                .phys_sin = p->phys_sin};
        if (input->null)
            args[i].null = *input->null;
        if (input->cache && input->cache->kv)
            args[i].kv = &input->cache->kv[2 * i];
        if (m->blocks[i].phys >= 0)
            args[i].gates = kin_tensor_select(&p->gates, 0, m->blocks[i].phys);
        has_aux[i] = want_aux && m->blocks[i].is_moe;
    }
    return kin_layers_run(ctx,
                          &(kin_layers){.fn = block_run,
                                        .args = (char *)args,
                                        .arg_bytes = sizeof(*args),
                                        .count = m->cfg.num_layers,
                                        .n_in = m->cfg.physics ? 4 : 3,
                                        .in = in,
                                        .has_aux = has_aux,
                                        .checkpoint = m->base.checkpoint},
                          h, aux);
}

/* logits from the token; y from the video tokens */
static kin_status head(kin_ctx *ctx, const video_model *m, const kin_model_input *in,
                       const video_pass *p, const kin_tensor *h, kin_model_output *out)
{
    const kin_video_config *c = &m->cfg;
    const kin_tensor temb = KIN_RESHAPE(&p->temb, p->batch, 1, m->width), *x = in->x;
    kin_tensor video = *h, mod, shift, scale, n, v;

    if (m->token) {
        const kin_tensor token = kin_tensor_select(h, 1, 0);
        const kin_tensor rest = kin_tensor_slice(h, 1, 1, p->cells);

        KIN_TRY(kin_classifier_forward(ctx, &m->classifier, &token, &out->logits));
        kin_tap(ctx, &out->logits, "logits");
        KIN_TRY(kin_contiguous(ctx, &rest, &video));
    }
    KIN_TRY(kin_add_param(ctx, &temb, m->table, 1.0f, &mod));
    shift = kin_tensor_select(&mod, 1, 0);
    scale = kin_tensor_select(&mod, 1, 1);
    KIN_TRY(kin_layernorm(ctx, &video, NULL, NULL, &scale, &shift, c->eps, &n));
    KIN_TRY(kin_linear(ctx, &n, m->proj_w, m->proj_b, &v));
    return kin_unpatchify(ctx, &v, c->patch, true, c->out_channels, x->size[2], x->size[3],
                          x->size[4], &out->y);
}

static kin_status video_forward(kin_ctx *ctx, const kin_model *model, const kin_model_input *in,
                                kin_model_output *out)
{
    const video_model *m = (const video_model *)model;
    video_pass p = {0};
    kin_tensor h;

    KIN_TRY(check_input(ctx, m, in, &p));
    KIN_TRY(embed_tokens(ctx, m, in, &p));
    KIN_TRY(embed_condition(ctx, m, in, &p));
    KIN_TRY(make_tables(ctx, m, &p, in->x->dtype));
    if (m->cfg.physics) {
        KIN_TRY(embed_quantities(ctx, m, in, &p));
        if (in->gates)
            p.gates = *in->gates;
        else
            KIN_TRY(kin_mopa_gates_of_blocks(ctx, &m->cfg.mopa, m->phys_count, in->prior, in->u,
                                             p.batch, in->x->dtype, &p.gates));
        tap(ctx, m, TAP_GATES, 0, &p.gates);
    }
    KIN_TRY(run_blocks(ctx, m, in, &p, &h, &out->aux));
    return head(ctx, m, in, &p, &h, out);
}

static kin_status video_cache_text(kin_ctx *ctx, const kin_model *model, const kin_tensor *text,
                                   kin_text_cache *cache)
{
    const video_model *m = (const video_model *)model;
    const int64_t heads = m->cfg.heads;
    const kin_dtype kept = text->dtype == KIN_DTYPE_F32 ? kin_operand_dtype(ctx) : text->dtype;
    size_t mark;
    kin_tensor tokens;

    for (int64_t i = 0; i < 2 * m->cfg.num_layers; i++)
        KIN_TRY(KIN_WS(ctx, &cache->kv[i], kept, text->size[0], text->size[1], heads,
                       m->width / heads));
    mark = kin_ws_mark(ctx);
    KIN_TRY(kin_mlp_forward(ctx, &m->text, text, &tokens));
    kin_tap(ctx, &tokens, "text");
    for (int64_t i = 0; i < m->cfg.num_layers; i++) {
        const size_t inner = kin_ws_mark(ctx);
        kin_tensor k, v;

        KIN_TRY(kin_wan_attention_keys(ctx, &m->blocks[i].attn2, &tokens, &k, &v));
        KIN_TRY(kin_copy_into(ctx, &k, &cache->kv[2 * i]));
        KIN_TRY(kin_copy_into(ctx, &v, &cache->kv[2 * i + 1]));
        kin_ws_release(ctx, inner);
    }
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

/* --- creation --- */

static void video_destroy(kin_model *model)
{
    video_model *m = (video_model *)model;

    for (int64_t i = 0; m->blocks && i < m->cfg.num_layers; i++)
        kin_moe_free(&m->blocks[i].moe);
    kin_free(m->blocks);
    kin_free(m->phys);
    kin_free(m);
}

static void fill_info(video_model *m, kin_family family)
{
    const kin_video_config *c = &m->cfg;

    m->base.info = (kin_model_info){.family = family,
                                    .in_channels = c->in_channels,
                                    .out_channels = c->out_channels,
                                    .patch = {c->patch[0], c->patch[1], c->patch[2]},
                                    .text_dim = c->text_dim,
                                    .text_len = c->text_len,
                                    .categories = c->physics ? KIN_CATEGORIES : 0,
                                    .phys_blocks = m->phys_count,
                                    .phys_heads = c->physics ? c->mopa.heads : 0,
                                    .mopa_flip = c->mopa.flip,
                                    .mopa_floor = c->mopa.floor,
                                    .mopa_flip_at_inference = c->flip_at_inference,
                                    .predicts_sample = c->predicts_sample,
                                    .sample_loss_floor = c->sample_loss_floor,
                                    .has_classifier = c->classifier,
                                    .experts = c->moe.experts,
                                    .router = kin_config_router_name(c->moe.router),
                                    .num_layers = c->num_layers,
                                    .sample = {c->sample[0], c->sample[1], c->sample[2]},
                                    .inner = m->width,
                                    .has_token = c->classifier};
    m->base.mopa = c->physics ? &c->mopa : NULL;
    m->base.forward = video_forward;
    m->base.cache_text = video_cache_text;
}

static kin_status build(video_model *m, kin_family family, kin_params *params, kin_error *err)
{
    const kin_video_config *c = &m->cfg;
    const int64_t channels = c->in_channels > c->out_channels ? c->in_channels : c->out_channels;

    KIN_TRY(kin_config_bounds(m->width, channels * c->patch[0] * c->patch[1] * c->patch[2],
                              c->num_layers, c->moe.experts, err));
    m->blocks = kin_calloc((size_t)c->num_layers, sizeof(*m->blocks));
    m->phys = kin_calloc((size_t)c->num_layers, sizeof(*m->phys));
    if (!m->blocks || !m->phys)
        return kin_fail(err, KIN_ERR_MEM, "video transformer: out of memory");
    for (int64_t i = 0; i < c->num_layers; i++)
        m->blocks[i].phys = phys_follows(c, i) ? (int)m->phys_count++ : -1;
    fill_info(m, family);
    return register_all(params, m, err);
}

kin_status kin_video_create(kin_family family, const kin_video_config *cfg, kin_params *params,
                            kin_model **out, kin_error *err)
{
    video_model *m = kin_calloc(1, sizeof(*m));
    kin_model *base = (kin_model *)m;
    kin_status status;

    *out = NULL;
    if (!m)
        return kin_fail(err, KIN_ERR_MEM, "video transformer: out of memory");
    m->base.destroy = video_destroy;
    m->cfg = *cfg;
    m->width = cfg->heads * cfg->head_dim;
    m->cfg.mopa.width = m->width;
    m->cfg.mopa.eps = cfg->eps;
    KIN_GOTO(build(m, family, params, err));
    *out = base;
    return KIN_OK;
done:
    kin_model_destroy(&base);
    return status;
}

/* diffusion/cogvideox.c: family `cogvideox`: CogVideoX text-to-video (Yang et al. 2024, arXiv
 * 2408.06072), plain or with WISA's physics (arXiv 2503.08153), by the names and numbers of
 * diffusers. The hidden state holds the text of all samples, then the video of all samples, so that
 * each stream is one block of rows; they meet in the attention alone. */
#include "diffusion/cogvideox.h"

#include "base/alloc.h"
#include "diffusion/rope.h"

#define COG_HEAD_NORM_EPS 1e-6f /* whatever norm_eps says */

/* --- one block --- */

/* Rows of the hidden state [B*T + B*N', D]. */
typedef struct cog_shape {
    int64_t batch, text, video, width;
} cog_shape;

static kin_tensor text_rows(const cog_shape *s, const kin_tensor *h)
{
    const kin_tensor rows = kin_tensor_slice(h, 0, 0, s->batch * s->text);

    return KIN_RESHAPE(&rows, s->batch, s->text, s->width);
}

static kin_tensor video_rows(const cog_shape *s, const kin_tensor *h)
{
    const kin_tensor rows = kin_tensor_slice(h, 0, s->batch * s->text, s->batch * s->video);

    return KIN_RESHAPE(&rows, s->batch, s->video, s->width);
}

static kin_status join(kin_ctx *ctx, const cog_shape *s, const kin_tensor *text,
                       const kin_tensor *video, kin_tensor *h)
{
    const kin_tensor part[2] = {KIN_RESHAPE(text, s->batch * s->text, s->width),
                                KIN_RESHAPE(video, s->batch * s->video, s->width)};

    return kin_concat(ctx, part, 2, 0, h);
}

/* Both streams of one sublayer: [0] video, [1] text. */
typedef struct cog_streams {
    kin_tensor x[2], n[2], gate[2];
} cog_streams;

/* n = LN(x)(1 + scale) + shift per stream; the six vectors are shift, scale, gate of the video,
 * then of the text */
static kin_status modulate(kin_ctx *ctx, const kin_cog_model *m, const kin_cog_norm *norm,
                           const kin_tensor *silu, cog_streams *s)
{
    kin_tensor mod;

    KIN_TRY(kin_linear(ctx, silu, norm->mod_w, norm->mod_b, &mod));
    mod = KIN_RESHAPE(&mod, silu->size[0], 6, m->width);
    for (int i = 0; i < 2; i++) {
        const kin_tensor shift = kin_tensor_select(&mod, 1, 3 * i),
                         scale = kin_tensor_select(&mod, 1, 3 * i + 1);

        s->gate[i] = kin_tensor_select(&mod, 1, 3 * i + 2);
        KIN_TRY(
            kin_layernorm(ctx, &s->x[i], norm->w, norm->b, &scale, &shift, m->cfg.eps, &s->n[i]));
    }
    return KIN_OK;
}

typedef struct cog_layer {
    const kin_cog_model *m;
    int index;
    cog_shape shape;
    kin_tensor cos, sin;           /* [T+N', d/2]; data NULL: no rotary */
    kin_tensor phys_cos, phys_sin; /* their rows of the video stream */
    kin_tensor gates;              /* [B,P] of the physical block that follows */
} cog_layer;

static const kin_tensor *given(const kin_tensor *t)
{
    return t->data ? t : NULL;
}

static kin_status head(kin_ctx *ctx, const cog_layer *l, const kin_tensor *n, kin_param *w,
                       kin_param *b, kin_param *nw, kin_param *nb, kin_tensor *y)
{
    const kin_head_norm_options opt = {.heads = l->m->cfg.heads,
                                       .per_head = true,
                                       .gamma = nw,
                                       .beta = nb,
                                       .eps = COG_HEAD_NORM_EPS,
                                       .cos = given(&l->cos),
                                       .sin = given(&l->sin),
                                       .operand = true};
    kin_tensor z;

    KIN_TRY(kin_linear(ctx, n, w, b, &z));
    return kin_head_norm(ctx, &z, &opt, y);
}

/* rows [from, from + count) of every sample of o [B,S,D], as one block of rows */
static kin_status part_of(kin_ctx *ctx, const kin_tensor *o, int64_t from, int64_t count,
                          kin_tensor *y)
{
    const kin_tensor part = kin_tensor_slice(o, 1, from, count);

    *y = part;
    return o->size[0] == 1 ? KIN_OK : kin_contiguous(ctx, &part, y);
}

/* x += gate * to_out(attention over [text | video]) */
static kin_status attend(kin_ctx *ctx, const cog_layer *l, cog_streams *s)
{
    const kin_cog_block *b = &l->m->blocks[l->index];
    const kin_cog_config *c = &l->m->cfg;
    const kin_tensor part[2] = {s->n[1], s->n[0]};
    const cog_shape *sh = &l->shape;
    kin_tensor n, q, k, v, o, own[2];

    KIN_TRY(kin_concat(ctx, part, 2, 1, &n));
    KIN_TRY(head(ctx, l, &n, b->q_w, b->q_b, b->nq_w, b->nq_b, &q));
    KIN_TRY(head(ctx, l, &n, b->k_w, b->k_b, b->nk_w, b->nk_b, &k));
    KIN_TRY(kin_linear_operand(ctx, &n, b->v_w, b->v_b, KIN_ACT_NONE, &v));
    v = KIN_RESHAPE(&v, sh->batch, sh->text + sh->video, c->heads, c->head_dim);
    KIN_TRY(kin_attention(ctx, &q, &k, &v, NULL, &o));
    o = KIN_RESHAPE(&o, sh->batch, sh->text + sh->video, sh->width);
    KIN_TRY(part_of(ctx, &o, sh->text, sh->video, &own[0]));
    KIN_TRY(part_of(ctx, &o, 0, sh->text, &own[1]));
    for (int i = 0; i < 2; i++) {
        const kin_tensor x = s->x[i];

        KIN_TRY(kin_linear_residual(ctx, &own[i], b->o_w, b->o_b, &x, &s->gate[i], &s->x[i]));
    }
    return KIN_OK;
}

static kin_status feed_forward(kin_ctx *ctx, const cog_layer *l, cog_streams *s)
{
    const kin_cog_block *b = &l->m->blocks[l->index];

    for (int i = 0; i < 2; i++) {
        const kin_tensor x = s->x[i];
        kin_tensor hidden;

        KIN_TRY(kin_linear_operand(ctx, &s->n[i], b->up_w, b->up_b, KIN_ACT_GELU_TANH, &hidden));
        KIN_TRY(kin_linear_residual(ctx, &hidden, b->down_w, b->down_b, &x, &s->gate[i], &s->x[i]));
    }
    return KIN_OK;
}

static void tap_streams(kin_ctx *ctx, const char *name, int index, const cog_streams *s)
{
    kin_tap(ctx, &s->x[0], "%s%d.0", name, index);
    kin_tap(ctx, &s->x[1], "%s%d.1", name, index);
}

/* in: h [B*T + B*N', D], silu(temb) [B,time], ptemb [B,3,D] where there is physics */
static kin_status block_run(kin_ctx *ctx, void *arg, const kin_tensor *in, kin_tensor *out)
{
    const cog_layer *l = arg;
    const kin_cog_block *b = &l->m->blocks[l->index];
    cog_streams s = {.x = {video_rows(&l->shape, &in[0]), text_rows(&l->shape, &in[0])}};
    kin_tensor silu = in[1];

    /* note: both norms of a block share one node, so that recomputed blocks give the same bits */
    if (kin_tape_needs(ctx, &in[1]))
        KIN_TRY(kin_contiguous(ctx, &in[1], &silu));
    KIN_TRY(modulate(ctx, l->m, &b->norm1, &silu, &s));
    KIN_TRY(attend(ctx, l, &s));
    KIN_TRY(modulate(ctx, l->m, &b->norm2, &silu, &s));
    KIN_TRY(feed_forward(ctx, l, &s));
    tap_streams(ctx, "block", l->index, &s);
    if (b->phys >= 0) {
        const kin_tensor x = s.x[0];

        KIN_TRY(kin_phys_block_forward(ctx, &l->m->phys[b->phys], &x, &in[2], given(&l->phys_cos),
                                       given(&l->phys_sin), &l->gates, &s.x[0]));
        tap_streams(ctx, "phys_block", l->index, &s);
    }
    return join(ctx, &l->shape, &s.x[1], &s.x[0], &out[0]);
}

/* --- forward --- */

typedef struct cog_pass {
    cog_shape shape;
    int64_t grid[3], cells;
    kin_tensor h, temb, silu, ptemb;
    kin_tensor cos, sin, gates;
} cog_pass;

static kin_status check_input(kin_ctx *ctx, const kin_cog_model *m, const kin_model_input *in,
                              cog_pass *p)
{
    const kin_cog_config *c = &m->cfg;
    const kin_tensor *x = in->x, *text = in->text;

    if (x->ndim != 5 || x->size[1] != c->in_channels || x->size[2] < 1 || x->size[3] < 1 ||
        x->size[4] < 1 || x->size[3] % c->patch || x->size[4] % c->patch)
        return kin_fail(&ctx->error, KIN_ERR_SHAPE,
                        "CogVideoX: x must be [B,%lld,F,H,W] with H and W multiples of %lld",
                        (long long)c->in_channels, (long long)c->patch);
    if (!text || text->ndim != 3 || text->size[0] != x->size[0] || text->size[2] != c->text_dim ||
        (c->table && text->size[1] != c->text_len))
        return kin_fail(&ctx->error, KIN_ERR_SHAPE, "CogVideoX: text must be [%lld,%lld,%lld]",
                        (long long)x->size[0], (long long)c->text_len, (long long)c->text_dim);
    if (in->u && (in->u->ndim != 3 || in->u->size[0] != m->phys_count))
        return kin_fail(&ctx->error, KIN_ERR_SHAPE, "CogVideoX: u must be [%lld,%lld,%lld]",
                        (long long)m->phys_count, (long long)x->size[0], (long long)c->mopa.heads);
    p->grid[0] = x->size[2];
    p->grid[1] = x->size[3] / c->patch;
    p->grid[2] = x->size[4] / c->patch;
    p->cells = p->grid[0] * p->grid[1] * p->grid[2];
    p->shape = (cog_shape){.batch = x->size[0],
                           .text = text->size[1],
                           .video = p->cells + (m->token ? 1 : 0),
                           .width = m->width};
    return KIN_OK;
}

static kin_status add_positions(kin_ctx *ctx, const kin_cog_model *m, const cog_pass *p,
                                kin_tensor *x)
{
    const kin_tensor plain = *x;
    kin_tensor table;

    if (m->pos) {
        if (m->pos->value.size[1] != x->size[1])
            return kin_fail(
                &ctx->error, KIN_ERR_SHAPE,
                "CogVideoX: %lld rows of text and video must be the %lld of the learned "
                "patch_embed.pos_embedding",
                (long long)x->size[1], (long long)m->pos->value.size[1]);
        return kin_add_param(ctx, &plain, m->pos, 1.0f, x);
    }
    KIN_TRY(kin_sincos_3d(ctx, p->grid, m->width, p->shape.text, m->cfg.scale_space,
                          m->cfg.scale_time, x->dtype, &table));
    kin_tap(ctx, &table, "pos_embedding");
    return kin_add(ctx, &plain, &table, 1.0f, x);
}

/* tokens of patches and text, positions, the physical token -> h */
static kin_status embed_tokens(kin_ctx *ctx, const kin_cog_model *m, const kin_model_input *in,
                               cog_pass *p)
{
    const int patch[3] = {1, (int)m->cfg.patch, (int)m->cfg.patch};
    const int64_t T = p->shape.text;
    kin_tensor vectors, part[2], both, text, video, token[2];

    KIN_TRY(kin_patchify(ctx, in->x, patch, false, &vectors));
    KIN_TRY(kin_linear(ctx, in->text, m->text_w, m->text_b, &part[0]));
    KIN_TRY(kin_linear(ctx, &vectors, m->patch_w, m->patch_b, &part[1]));
    KIN_TRY(kin_concat(ctx, part, 2, 1, &both));
    if (m->cfg.table)
        KIN_TRY(add_positions(ctx, m, p, &both));
    kin_tap(ctx, &both, "patch_embed");
    KIN_TRY(part_of(ctx, &both, 0, T, &text));
    KIN_TRY(part_of(ctx, &both, T, p->cells, &video));
    if (m->token) {
        kin_tensor zeros;

        KIN_TRY(KIN_WS(ctx, &zeros, video.dtype, p->shape.batch, 1, m->width));
        KIN_TRY(kin_fill(ctx, &zeros, 0));
        KIN_TRY(kin_add_param(ctx, &zeros, m->token, 1.0f, &token[0]));
        token[1] = video;
        KIN_TRY(kin_concat(ctx, token, 2, 1, &video));
    }
    return join(ctx, &p->shape, &text, &video, &p->h);
}

static kin_status embed_condition(kin_ctx *ctx, const kin_cog_model *m, const kin_model_input *in,
                                  cog_pass *p)
{
    kin_tensor freq, q, flat;

    KIN_TRY(kin_time_sinusoid(ctx, in->t, m->width, &freq));
    kin_tap(ctx, &freq, "time_sinusoid");
    KIN_TRY(kin_mlp_forward(ctx, &m->time, &freq, &p->temb));
    kin_tap(ctx, &p->temb, "temb");
    KIN_TRY(kin_activation(ctx, &p->temb, KIN_ACT_SILU, &p->silu));
    if (!m->cfg.physics)
        return KIN_OK;
    KIN_TRY(kin_quantity_embed(ctx, &m->quantity, in->quant, p->shape.batch, in->x->dtype, &q));
    KIN_TRY(kin_quantity_modulate_sum(ctx, &m->quantity, &q, &p->temb, &p->ptemb));
    flat = KIN_RESHAPE(&p->ptemb, p->shape.batch, 3 * m->width);
    kin_tap(ctx, &flat, "ptemb");
    return KIN_OK;
}

static kin_status make_tables(kin_ctx *ctx, const kin_cog_model *m, cog_pass *p, kin_dtype dtype)
{
    const kin_cog_config *c = &m->cfg;
    const int64_t base[2] = {c->sample[1] / c->patch, c->sample[2] / c->patch};
    kin_tensor rows;

    if (!c->rotary)
        return KIN_OK;
    KIN_TRY(kin_rope_tables_cog(ctx, p->grid, base, c->head_dim, p->shape.text, m->token != NULL,
                                dtype, &p->cos, &p->sin));
    rows = kin_tensor_slice(&p->cos, 0, p->cos.size[0] - p->cells, p->cells);
    kin_tap(ctx, &rows, "rope_cos");
    rows = kin_tensor_slice(&p->sin, 0, p->sin.size[0] - p->cells, p->cells);
    kin_tap(ctx, &rows, "rope_sin");
    return KIN_OK;
}

static kin_status run_blocks(kin_ctx *ctx, const kin_cog_model *m, const cog_pass *p, kin_tensor *h)
{
    const size_t count = (size_t)m->cfg.layers;
    const kin_tensor in[3] = {p->h, p->silu, p->ptemb};
    cog_layer *args = kin_ws_bytes(ctx, count * sizeof(*args));
    bool *has_aux = kin_ws_bytes(ctx, count * sizeof(*has_aux));
    kin_tensor aux;

    if (!args || !has_aux)
        return ctx->error.status;
    for (size_t i = 0; i < count; i++) {
        args[i] =
            (cog_layer){.m = m, .index = (int)i, .shape = p->shape, .cos = p->cos, .sin = p->sin};
        has_aux[i] = false;
        if (m->blocks[i].phys < 0)
            continue;
        args[i].gates = kin_tensor_select(&p->gates, 0, m->blocks[i].phys);
        if (p->cos.data) {
            args[i].phys_cos = kin_tensor_slice(&p->cos, 0, p->shape.text, p->shape.video);
            args[i].phys_sin = kin_tensor_slice(&p->sin, 0, p->shape.text, p->shape.video);
        }
    }
    return kin_layers_run(ctx,
                          &(kin_layers){.fn = block_run,
                                        .args = (char *)args,
                                        .arg_bytes = sizeof(*args),
                                        .count = m->cfg.layers,
                                        .n_in = m->cfg.physics ? 3 : 2,
                                        .in = in,
                                        .has_aux = has_aux,
                                        .checkpoint = m->base.checkpoint},
                          h, &aux);
}

/* logits from the token; y from the video tokens */
static kin_status output(kin_ctx *ctx, const kin_cog_model *m, const kin_model_input *in,
                         const cog_pass *p, const kin_tensor *h, kin_model_output *out)
{
    const int patch[3] = {1, (int)m->cfg.patch, (int)m->cfg.patch};
    const kin_tensor *x = in->x;
    kin_tensor video = video_rows(&p->shape, h), mod, shift, scale, n, v;

    if (m->token) {
        const kin_tensor token = kin_tensor_select(&video, 1, 0);

        KIN_TRY(kin_classifier_forward(ctx, &m->classifier, &token, &out->logits));
        kin_tap(ctx, &out->logits, "logits");
        KIN_TRY(part_of(ctx, &video, 1, p->cells, &video));
    }
    KIN_TRY(kin_layernorm(ctx, &video, m->final_w, m->final_b, NULL, NULL, m->cfg.eps, &n));
    KIN_TRY(kin_linear(ctx, &p->silu, m->out_mod_w, m->out_mod_b, &mod));
    mod = KIN_RESHAPE(&mod, p->shape.batch, 2, m->width);
    shift = kin_tensor_select(&mod, 1, 0);
    scale = kin_tensor_select(&mod, 1, 1);
    KIN_TRY(kin_layernorm(ctx, &n, m->out_w, m->out_b, &scale, &shift, m->cfg.eps, &v));
    KIN_TRY(kin_linear(ctx, &v, m->proj_w, m->proj_b, &n));
    return kin_unpatchify(ctx, &n, patch, false, m->cfg.out_channels, x->size[2], x->size[3],
                          x->size[4], &out->y);
}

static kin_status cog_forward(kin_ctx *ctx, const kin_model *model, const kin_model_input *in,
                              kin_model_output *out)
{
    const kin_cog_model *m = (const kin_cog_model *)model;
    cog_pass p = {0};
    kin_tensor h;

    KIN_TRY(check_input(ctx, m, in, &p));
    KIN_TRY(embed_tokens(ctx, m, in, &p));
    KIN_TRY(embed_condition(ctx, m, in, &p));
    KIN_TRY(make_tables(ctx, m, &p, in->x->dtype));
    if (m->cfg.physics) {
        KIN_TRY(kin_mopa_gates_of_blocks(ctx, &m->cfg.mopa, m->phys_count, in->prior, in->u,
                                         p.shape.batch, in->x->dtype, &p.gates));
        kin_tap(ctx, &p.gates, "mopa_gates");
    }
    KIN_TRY(run_blocks(ctx, m, &p, &h));
    return output(ctx, m, in, &p, &h, out);
}

/* --- creation --- */

static void cog_destroy(kin_model *model)
{
    kin_cog_model *m = (kin_cog_model *)model;

    kin_free(m->blocks);
    kin_free(m->phys);
    kin_free(m);
}

static bool phys_follows(const kin_cog_config *c, int64_t i)
{
    if (!c->physics)
        return false;
    return i == c->layers - 1 || (c->insert_gap != KIN_COG_ONLY_LAST && i % c->insert_gap == 0);
}

static void fill_info(kin_cog_model *m)
{
    const kin_cog_config *c = &m->cfg;

    m->base.info = (kin_model_info){.family = KIN_FAMILY_COGVIDEOX,
                                    .in_channels = c->in_channels,
                                    .out_channels = c->out_channels,
                                    .patch = {1, (int)c->patch, (int)c->patch},
                                    .text_dim = c->text_dim,
                                    .text_len = c->table ? c->text_len : 0,
                                    .categories = c->physics ? c->mopa.categories : 0,
                                    .phys_blocks = m->phys_count,
                                    .phys_heads = c->physics ? c->mopa.heads : 0,
                                    .mopa_flip = c->mopa.flip,
                                    .mopa_floor = c->mopa.floor,
                                    .has_classifier = c->classifier,
                                    .num_layers = c->layers,
                                    .sample = {c->sample[0], c->sample[1], c->sample[2]},
                                    .inner = m->width,
                                    .has_token = c->classifier};
    m->base.forward = cog_forward;
}

static kin_status build(kin_cog_model *m, const cJSON *config, kin_params *params, kin_error *err)
{
    KIN_TRY(kin_cog_config_read(config, &m->cfg, err));
    m->width = m->cfg.heads * m->cfg.head_dim;
    m->blocks = kin_calloc((size_t)m->cfg.layers, sizeof(*m->blocks));
    m->phys = kin_calloc((size_t)m->cfg.layers, sizeof(*m->phys));
    if (!m->blocks || !m->phys)
        return kin_fail(err, KIN_ERR_MEM, "CogVideoX: out of memory");
    for (int64_t i = 0; i < m->cfg.layers; i++)
        m->blocks[i].phys = phys_follows(&m->cfg, i) ? (int)m->phys_count++ : -1;
    fill_info(m);
    return kin_cog_register(params, m, err);
}

kin_status kin_cogvideox_create(const cJSON *config, kin_params *params, kin_model **out,
                                kin_error *err)
{
    kin_cog_model *m = kin_calloc(1, sizeof(*m));
    kin_model *base = (kin_model *)m;
    kin_status status;

    *out = NULL;
    if (!m)
        return kin_fail(err, KIN_ERR_MEM, "CogVideoX: out of memory");
    m->base.destroy = cog_destroy;
    KIN_GOTO(build(m, config, params, err));
    *out = base;
    return KIN_OK;
done:
    kin_model_destroy(&base);
    return status;
}

#include "text/encoder.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"

enum { MAX_BLOCKS = 256, INT8_LEAST_WIDTH = 512 };

typedef struct text_block {
    kin_param *norm1, *q, *k, *v, *o;
    kin_param *bias;                     /* NULL: the one of block 0 (T5) */
    kin_param *norm2, *wi_0, *wi_1, *wo; /* wi_1 NULL: not gated */
} text_block;

struct kin_text_encoder {
    int64_t width, head, ff, layers, heads, vocab;
    int buckets, max_distance;
    bool umt5;
    kin_act act;
    bool gated, streaming;
    float eps;
    double factor; /* initializer_factor */
    kin_param *shared, *final_norm;
    text_block *block;
};

int kin_text_encoder_bucket(int r, int num_buckets, int max_distance)
{
    int half = num_buckets / 2, bucket = r > 0 ? half : 0;
    int a = r < 0 ? -r : r, exact = half / 2;
    if (a < exact)
        return bucket + a;
    double step = log((double)a / exact) / log((double)max_distance / exact) * (half - exact);
    int large = exact + (int)step;
    return bucket + (large < half - 1 ? large : half - 1);
}

/* --- configuration --- */

static kin_status read_class(const cJSON *config, kin_text_encoder *e, kin_error *err)
{
    const char *type = NULL;
    KIN_TRY(kin_json_get_str(config, "model_type", &type, err));
    if (!type) {
        const cJSON *list = cJSON_GetObjectItemCaseSensitive(config, "architectures");
        const char *name = cJSON_GetStringValue(cJSON_GetArrayItem(list, 0));
        type = !name                                   ? "none"
               : strcmp(name, "T5EncoderModel") == 0   ? "t5"
               : strcmp(name, "UMT5EncoderModel") == 0 ? "umt5"
                                                       : name;
    }
    e->umt5 = strcmp(type, "umt5") == 0;
    if (!e->umt5 && strcmp(type, "t5") != 0)
        return kin_fail(err, KIN_ERR_FORMAT, "text encoder: model type %s must be t5 or umt5",
                        type);
    return KIN_OK;
}

static kin_status read_activation(const cJSON *config, kin_text_encoder *e, kin_error *err)
{
    const char *name = "relu";
    KIN_TRY(kin_json_get_str(config, "feed_forward_proj", &name, err));
    e->gated = strcmp(name, "gated-gelu") == 0;
    e->act = e->gated ? KIN_ACT_GELU_TANH : KIN_ACT_RELU;
    if (!e->gated && strcmp(name, "relu") != 0)
        return kin_fail(err, KIN_ERR_FORMAT,
                        "text encoder: feed_forward_proj \"%s\" must be relu or gated-gelu", name);
    return KIN_OK;
}

static kin_status need_i64(const cJSON *config, const char *key, int64_t hi, int64_t *out,
                           kin_error *err)
{
    *out = 0;
    KIN_TRY(kin_json_get_i64(config, key, 1, hi, out, err));
    if (*out == 0)
        return kin_fail(err, KIN_ERR_FORMAT, "text encoder: the key %s is missing", key);
    return KIN_OK;
}

static kin_status read_config(const cJSON *config, kin_text_encoder *e, kin_error *err)
{
    int64_t buckets = 32, distance = 128;
    double eps = 1e-6;
    e->factor = 1.0;
    KIN_TRY(read_class(config, e, err));
    KIN_TRY(need_i64(config, "d_model", 1 << 20, &e->width, err));
    KIN_TRY(need_i64(config, "d_kv", 1 << 16, &e->head, err));
    KIN_TRY(need_i64(config, "d_ff", 1 << 20, &e->ff, err));
    KIN_TRY(need_i64(config, "num_layers", MAX_BLOCKS, &e->layers, err));
    KIN_TRY(need_i64(config, "num_heads", 1 << 12, &e->heads, err));
    KIN_TRY(need_i64(config, "vocab_size", 1 << 24, &e->vocab, err));
    KIN_TRY(kin_json_get_i64(config, "relative_attention_num_buckets", 4, 1 << 16, &buckets, err));
    /* the logarithmic buckets start at a quarter of them */
    KIN_TRY(kin_json_get_i64(config, "relative_attention_max_distance", buckets / 4 + 1, 1 << 24,
                             &distance, err));
    KIN_TRY(kin_json_get_f64(config, "layer_norm_epsilon", &eps, err));
    KIN_TRY(kin_json_get_f64(config, "initializer_factor", &e->factor, err));
    KIN_TRY(read_activation(config, e, err));
    e->buckets = (int)buckets;
    e->max_distance = (int)distance;
    e->eps = (float)eps;
    if (!(eps > 0.0))
        return kin_fail(err, KIN_ERR_FORMAT, "text encoder: layer_norm_epsilon %g must be positive",
                        eps);
    return KIN_OK;
}

/* --- parameters: names of transformers, start values of its T5 --- */

static kin_param *matrix(kin_params *params, const kin_text_encoder *e, int64_t rows, int64_t cols,
                         double variance, int i, const char *name)
{
    return kin_params_add(params, KIN_INIT(KIN_INIT_NORMAL, (float)(e->factor * sqrt(variance))),
                          KIN_DIMS(rows, cols), "encoder.block.%d.%s.weight", i, name);
}

static kin_param *norm(kin_params *params, const kin_text_encoder *e, int i, int layer)
{
    return kin_params_add(params, KIN_INIT(KIN_INIT_ONE, 0.0f), KIN_DIMS(e->width),
                          "encoder.block.%d.layer.%d.layer_norm.weight", i, layer);
}

static void register_block(kin_params *params, const kin_text_encoder *e, int i, text_block *b)
{
    int64_t d = e->width, inner = e->heads * e->head;
    double per_width = 1.0 / (double)d;
    b->q = matrix(params, e, inner, d, per_width / (double)e->head, i, "layer.0.SelfAttention.q");
    b->k = matrix(params, e, inner, d, per_width, i, "layer.0.SelfAttention.k");
    b->v = matrix(params, e, inner, d, per_width, i, "layer.0.SelfAttention.v");
    b->o = matrix(params, e, d, inner, 1.0 / (double)inner, i, "layer.0.SelfAttention.o");
    if (e->umt5 || i == 0)
        b->bias = matrix(params, e, e->buckets, e->heads, per_width, i,
                         "layer.0.SelfAttention.relative_attention_bias");
    b->norm1 = norm(params, e, i, 0);
    if (e->gated) {
        b->wi_0 = matrix(params, e, e->ff, d, per_width, i, "layer.1.DenseReluDense.wi_0");
        b->wi_1 = matrix(params, e, e->ff, d, per_width, i, "layer.1.DenseReluDense.wi_1");
    } else {
        b->wi_0 = matrix(params, e, e->ff, d, per_width, i, "layer.1.DenseReluDense.wi");
    }
    b->wo = matrix(params, e, d, e->ff, 1.0 / (double)e->ff, i, "layer.1.DenseReluDense.wo");
    b->norm2 = norm(params, e, i, 1);
    /* note: what goes into wo has a few columns far above the others (the published models keep it
     * in f32), of which an 8-bit row would leave nothing else; the matrix itself has none. A small
     * encoder costs nothing, and the model behind it may take each of its bits seriously: 1 % of
     * error in the states of the bundled one are 10 % in the velocity. */
    if (d >= INT8_LEAST_WIDTH)
        kin_params_allow_int8((kin_param *[]){b->q, b->k, b->v, b->o, b->wi_0, b->wi_1}, 6);
    if (b->wo)
        b->wo->blocks = b->q && b->q->blocks;
}

kin_status kin_text_encoder_create(const cJSON *config, kin_params *params, kin_text_encoder **out,
                                   kin_error *err)
{
    *out = NULL;
    kin_text_encoder read = {0};
    KIN_TRY(read_config(config, &read, err));
    kin_text_encoder *e = kin_calloc(1, sizeof *e);
    text_block *block = kin_calloc((size_t)read.layers, sizeof *block);
    if (!e || !block) {
        kin_free(e);
        kin_free(block);
        return kin_fail(err, KIN_ERR_MEM, "text encoder: out of memory");
    }
    *e = read;
    e->block = block;
    e->shared = kin_params_add(params, KIN_INIT(KIN_INIT_NORMAL, (float)e->factor),
                               KIN_DIMS(e->vocab, e->width), "shared.weight");
    for (int i = 0; i < (int)e->layers; i++)
        register_block(params, e, i, &e->block[i]);
    e->final_norm = kin_params_add(params, KIN_INIT(KIN_INIT_ONE, 0.0f), KIN_DIMS(e->width),
                                   "encoder.final_layer_norm.weight");
    if (params->failed != KIN_OK) {
        kin_text_encoder_destroy(&e);
        return kin_fail(err, params->failed, "text encoder: registration of parameters failed");
    }
    *out = e;
    return KIN_OK;
}

void kin_text_encoder_destroy(kin_text_encoder **enc)
{
    if (!*enc)
        return;
    kin_free((*enc)->block);
    kin_free(*enc);
    *enc = NULL;
}

enum { BLOCK_MATRICES = 7 };

/* Of a block, in the order of their use; NULL where it has none. */
static void matrices(const text_block *b, kin_param *p[BLOCK_MATRICES])
{
    kin_param *const all[BLOCK_MATRICES] = {b->q, b->k, b->v, b->o, b->wi_0, b->wi_1, b->wo};
    memcpy(p, all, sizeof all);
}

void kin_text_encoder_set_streaming(kin_text_encoder *enc, bool on)
{
    enc->streaming = on;
    for (int i = 0; i < enc->layers; i++) {
        kin_param *p[BLOCK_MATRICES];
        matrices(&enc->block[i], p);
        for (int k = 0; k < BLOCK_MATRICES; k++)
            if (p[k])
                p[k]->once = on;
    }
}

int64_t kin_text_encoder_width(const kin_text_encoder *enc)
{
    return enc->width;
}

int64_t kin_text_encoder_vocab(const kin_text_encoder *enc)
{
    return enc->vocab;
}

/* --- forward --- */

/* The bias [A,n,n] of a table, by the bucket of key - query. */
static kin_status position_bias(kin_ctx *ctx, const kin_text_encoder *e, kin_param *table,
                                int64_t n, kin_tensor *bias)
{
    kin_tensor ids, rows, flat;
    KIN_TRY(KIN_WS_HOST(ctx, &ids, KIN_DTYPE_I32, n * n));
    if (!kin_ctx_is_plan(ctx)) {
        int32_t *id = ids.data;
        for (int64_t q = 0; q < n; q++)
            for (int64_t k = 0; k < n; k++)
                id[q * n + k] = kin_text_encoder_bucket((int)(k - q), e->buckets, e->max_distance);
    }
    KIN_TRY(kin_embedding(ctx, table, &ids, &rows));
    KIN_TRY(kin_transpose(ctx, &rows, &flat));
    *bias = KIN_RESHAPE(&flat, e->heads, n, n);
    return KIN_OK;
}

static kin_status attention_part(kin_ctx *ctx, const kin_text_encoder *e, const text_block *b,
                                 const kin_tensor *x, const kin_tensor *bias,
                                 const kin_tensor *mask, kin_tensor *y)
{
    int64_t batch = x->size[0], n = x->size[1];
    kin_tensor h, q, k, v, o;
    KIN_TRY(kin_rmsnorm(ctx, x, b->norm1, e->eps, &h));
    KIN_TRY(kin_linear_operand(ctx, &h, b->q, NULL, KIN_ACT_NONE, &q));
    KIN_TRY(kin_linear_operand(ctx, &h, b->k, NULL, KIN_ACT_NONE, &k));
    KIN_TRY(kin_linear_operand(ctx, &h, b->v, NULL, KIN_ACT_NONE, &v));
    q = KIN_RESHAPE(&q, batch, n, e->heads, e->head);
    k = KIN_RESHAPE(&k, batch, n, e->heads, e->head);
    v = KIN_RESHAPE(&v, batch, n, e->heads, e->head);
    /* note: T5 does not divide the scores by sqrt(d) */
    kin_attention_options opt = {.bias = bias, .mask = mask, .scale = 1.0f, .operand = true};
    KIN_TRY(kin_attention(ctx, &q, &k, &v, &opt, &o));
    o = KIN_RESHAPE(&o, batch, n, e->heads * e->head);
    return kin_linear_residual(ctx, &o, b->o, NULL, x, NULL, y);
}

static kin_status feed_forward_part(kin_ctx *ctx, const kin_text_encoder *e, const text_block *b,
                                    const kin_tensor *x, kin_tensor *y)
{
    kin_tensor h, a, g;
    KIN_TRY(kin_rmsnorm(ctx, x, b->norm2, e->eps, &h));
    KIN_TRY(kin_linear_act(ctx, &h, b->wi_0, NULL, e->act, &a));
    if (e->gated) {
        kin_tensor act = a;
        KIN_TRY(kin_linear(ctx, &h, b->wi_1, NULL, &g));
        KIN_TRY(kin_mul(ctx, &act, &g, 1.0f, &a));
    }
    return kin_linear_residual(ctx, &a, b->wo, NULL, x, NULL, y);
}

/* The memory of packed forms goes to the next block (NULL: back), pages to the system. */
static kin_status pass_on(kin_ctx *ctx, const text_block *b, const text_block *next)
{
    kin_param *from[BLOCK_MATRICES], *to[BLOCK_MATRICES];
    matrices(b, from);
    if (next)
        matrices(next, to);
    for (int i = 0; i < BLOCK_MATRICES; i++) {
        size_t freed = 0;
        if (!from[i])
            continue;
        if (next)
            KIN_TRY(kin_param_give_packs(from[i], to[i], &freed, &ctx->error));
        else
            freed = kin_param_drop_packs(from[i]);
        ctx->packed -= freed;
        if (!kin_ctx_is_plan(ctx))
            kin_param_drop_pages(from[i]);
    }
    return KIN_OK;
}

/* One block. Without a tape its result moves into x's memory and the rest is released. */
static kin_status run_block(kin_ctx *ctx, const kin_text_encoder *e, const text_block *b,
                            const kin_tensor *shared_bias, const kin_tensor *mask, kin_tensor *x)
{
    size_t mark = kin_ws_mark(ctx);
    kin_tensor own, h, y;
    const kin_tensor *bias = shared_bias;
    if (e->umt5) {
        KIN_TRY(position_bias(ctx, e, b->bias, x->size[1], &own));
        bias = &own;
    }
    KIN_TRY(attention_part(ctx, e, b, x, bias, mask, &h));
    KIN_TRY(feed_forward_part(ctx, e, b, &h, &y));
    if (ctx->tape) {
        *x = y;
        return KIN_OK;
    }
    KIN_TRY(kin_copy_into(ctx, &y, x));
    kin_ws_release(ctx, mark);
    if (e->streaming)
        return pass_on(ctx, b, b + 1 < e->block + e->layers ? b + 1 : NULL);
    return KIN_OK;
}

static kin_status check_input(kin_ctx *ctx, const kin_tensor *ids, const kin_tensor *mask)
{
    char a[96];
    if (ids->ndim != 2 || ids->dtype != KIN_DTYPE_I32 || ids->size[1] < 1 || ids->size[1] > 1 << 15)
        return kin_fail(&ctx->error, KIN_ERR_SHAPE,
                        "text encoder: ids %s must be i32 [B,n] with n from 1 to 32768",
                        kin_tensor_describe(ids, a, sizeof a));
    if (mask && (mask->dtype != KIN_DTYPE_U8 || !kin_tensor_same_shape(mask, ids)))
        return kin_fail(&ctx->error, KIN_ERR_SHAPE, "text encoder: mask %s must be u8 like the ids",
                        kin_tensor_describe(mask, a, sizeof a));
    return KIN_OK;
}

kin_status kin_text_encoder_run(kin_ctx *ctx, const kin_text_encoder *enc, const kin_tensor *ids,
                                const kin_tensor *mask, kin_tensor *states)
{
    kin_tensor x, bias = {0};
    KIN_TRY(check_input(ctx, ids, mask));
    KIN_TRY(kin_embedding(ctx, enc->shared, ids, &x));
    if (!enc->umt5)
        KIN_TRY(position_bias(ctx, enc, enc->block[0].bias, ids->size[1], &bias));
    for (int i = 0; i < (int)enc->layers; i++) {
        kin_tap(ctx, &x, "hidden.%d", i);
        KIN_TRY(run_block(ctx, enc, &enc->block[i], &bias, mask, &x));
    }
    KIN_TRY(kin_rmsnorm(ctx, &x, enc->final_norm, enc->eps, states));
    kin_tap(ctx, states, "last_hidden_state");
    return KIN_OK;
}

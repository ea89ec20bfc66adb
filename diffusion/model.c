#include "diffusion/model.h"

#include <math.h>
#include <string.h>

#include "base/json.h"
#include "diffusion/config.h"
#include "diffusion/family.h"

typedef struct family_row {
    const char *class_name;
    kin_status (*create)(const cJSON *, kin_params *, kin_model **, kin_error *);
} family_row;

static const family_row families[] = {
    {"KinemaTransformer3DModel", kin_kinema_create},
    {"WanTransformer3DModel", kin_wan_create},
    {"CogVideoXTransformer3DModel", kin_cogvideox_create},
    {"DiTTransformer2DModel", kin_dit_create},
    {"KinemaImageClassifier", kin_classifier_model_create},
    {"AutoencoderKL", kin_autoencoder_create},
    {"AutoencoderKLWan", kin_autoencoder_create},
    {"AutoencoderKLCogVideoX", kin_autoencoder_create},
};

const char *kin_family_name(kin_family family)
{
    static const char *const names[] = {"dit", "wan", "cogvideox", "kinema", "classifier", "vae"};

    return names[family];
}

kin_status kin_model_create(const cJSON *config, kin_params *params, kin_model **out,
                            kin_error *err)
{
    const char *name = NULL;

    *out = NULL;
    if (!cJSON_IsObject(config))
        return kin_fail(err, KIN_ERR_FORMAT, "model: config must be a JSON object");
    KIN_TRY(kin_json_get_str(config, "_class_name", &name, err));
    if (!name) {
        if (cJSON_GetObjectItemCaseSensitive(config, "input_size"))
            return kin_dit_create(config, params, out, err);
        return kin_fail(err, KIN_ERR_FORMAT,
                        "model: config has neither _class_name nor input_size");
    }
    for (size_t i = 0; i < sizeof(families) / sizeof(families[0]); i++) {
        if (!strcmp(name, families[i].class_name))
            return families[i].create(config, params, out, err);
    }
    return kin_fail(err, KIN_ERR_UNSUPPORTED,
                    "model: _class_name \"%s\" must be KinemaTransformer3DModel, "
                    "WanTransformer3DModel, CogVideoXTransformer3DModel, DiTTransformer2DModel, "
                    "KinemaImageClassifier, AutoencoderKL, AutoencoderKLWan or "
                    "AutoencoderKLCogVideoX",
                    name);
}

void kin_model_destroy(kin_model **model)
{
    if (model && *model) {
        (*model)->destroy(*model);
        *model = NULL;
    }
}

const kin_model_info *kin_model_get_info(const kin_model *model)
{
    return &model->info;
}

void kin_model_set_checkpointing(kin_model *model, bool on)
{
    model->checkpoint = on;
    if (model->set_checkpointing)
        model->set_checkpointing(model);
}

void kin_model_set_diffmoe_infer(kin_model *model, bool batch)
{
    model->infer_batch = batch;
}

bool kin_model_pools_batch(const kin_model *model)
{
    return model->infer_batch &&
           !strcmp(model->info.router, kin_config_router_name(KIN_ROUTER_DIFFMOE));
}

void kin_model_fill_tables(const kin_model *model)
{
    if (model->fill_tables)
        model->fill_tables(model);
}

void kin_model_start(const kin_model *model, kin_params *params, uint64_t seed)
{
    kin_params_init(params, seed);
    kin_model_fill_tables(model);
}

kin_status kin_model_forward(kin_ctx *ctx, const kin_model *model, const kin_model_input *in,
                             kin_model_output *out)
{
    const int64_t batch = in->x ? in->x->size[0] : 0;

    *out = (kin_model_output){0};
    if ((model->info.family == KIN_FAMILY_CLASSIFIER || model->info.family == KIN_FAMILY_VAE) &&
        batch > 0)
        return model->forward(ctx, model, in, out);
    if (!in->x || !in->t || batch < 1)
        return kin_fail(&ctx->error, KIN_ERR_ARG, "model: x and t must be given");
    if (in->t->ndim != 1 || in->t->size[0] != batch)
        return kin_fail(&ctx->error, KIN_ERR_SHAPE, "model: t must be [%lld]", (long long)batch);
    if (in->null && (in->null->ndim != 1 || in->null->size[0] != batch))
        return kin_fail(&ctx->error, KIN_ERR_SHAPE, "model: null must be [%lld]", (long long)batch);
    return model->forward(ctx, model, in, out);
}

typedef struct forward_call {
    const kin_model *model;
    const kin_model_input *in;
    kin_model_output *out;
} forward_call;

static kin_status run_forward(kin_ctx *ctx, void *user)
{
    const forward_call *f = user;

    return kin_model_forward(ctx, f->model, f->in, f->out);
}

kin_status kin_model_replay(kin_ctx *ctx, kin_replay *replay, const kin_model *model,
                            const kin_model_input *in, kin_model_output *out)
{
    const kin_tensor *const own[] = {in->x,     in->t,     in->label, in->text, in->null,
                                     in->prior, in->quant, in->u,     in->gates};
    enum { OWN = sizeof(own) / sizeof(*own) };
    const int64_t cached = in->cache ? 2 * model->info.num_layers : 0;
    const kin_tensor **reads = kin_ws_bytes(ctx, (size_t)(OWN + cached) * sizeof(*reads));
    forward_call f = {model, in, out};

    if (!reads)
        return ctx->error.status;
    memcpy(reads, own, sizeof(own));
    for (int64_t i = 0; i < cached; i++)
        reads[OWN + i] = &in->cache->kv[i];
    return kin_replay_run(replay, ctx,
                          &(kin_replay_work){.fn = run_forward,
                                             .user = &f,
                                             .reads = reads,
                                             .count = (int)(OWN + cached),
                                             .result = out,
                                             .bytes = sizeof(*out)});
}

kin_status kin_model_null_of(kin_ctx *ctx, const kin_model *model, const kin_tensor *label,
                             kin_tensor *null)
{
    kin_tensor known;

    KIN_TRY(KIN_WS_HOST(ctx, null, KIN_DTYPE_U8, label->size[0]));
    const size_t mark = kin_ws_mark(ctx);

    KIN_TRY(kin_host(ctx, label, &known));
    for (int64_t b = 0; b < label->size[0] && !kin_ctx_is_plan(ctx); b++)
        ((uint8_t *)null->data)[b] =
            ((const int32_t *)known.data)[b] == (int32_t)model->info.num_classes;
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

kin_status kin_model_gates(kin_ctx *ctx, const kin_model *model, const kin_tensor *prior,
                           const kin_tensor *u, int64_t batch, kin_tensor *gates)
{
    return kin_mopa_gates_of_blocks(ctx, model->mopa, model->info.phys_blocks, prior, u, batch,
                                    KIN_DTYPE_F32, gates);
}

kin_status kin_model_cache_text(kin_ctx *ctx, const kin_model *model, const kin_tensor *text,
                                kin_text_cache *out)
{
    *out = (kin_text_cache){.rows = text->size[0]};
    if (!model->cache_text)
        return KIN_OK;
    if (ctx->tape)
        return kin_fail(&ctx->error, KIN_ERR_ARG, "model: a text cache is for inference");
    if (text->ndim != 3 || text->size[2] != model->info.text_dim)
        return kin_fail(&ctx->error, KIN_ERR_SHAPE, "model: text must be [B,T,%lld]",
                        (long long)model->info.text_dim);
    out->kv = kin_ws_bytes(ctx, 2 * (size_t)model->info.num_layers * sizeof(*out->kv));
    return out->kv ? model->cache_text(ctx, model, text, out) : ctx->error.status;
}

kin_status kin_text_cache_rows(kin_ctx *ctx, const kin_model *model, const kin_text_cache *cache,
                               int64_t first, int64_t n, kin_text_cache *out)
{
    const int64_t count = 2 * model->info.num_layers;

    *out = *cache;
    if (!cache->kv || (first == 0 && n == cache->rows))
        return KIN_OK;
    out->rows = n;
    out->kv = kin_ws_bytes(ctx, (size_t)count * sizeof(*out->kv));
    if (!out->kv)
        return ctx->error.status;
    for (int64_t i = 0; i < count; i++)
        out->kv[i] = kin_tensor_slice(&cache->kv[i], 0, first, n);
    return KIN_OK;
}

/* inv[b] = 1 / max(sigma[b], 0.05) */
static kin_status inverse_sigma(kin_ctx *ctx, const kin_tensor *sigma, kin_tensor *inv)
{
    kin_tensor level;

    KIN_TRY(KIN_WS_HOST(ctx, inv, sigma->dtype, sigma->size[0], 1));
    KIN_TRY(kin_host(ctx, sigma, &level));
    for (int64_t b = 0; b < sigma->size[0] && !kin_ctx_is_plan(ctx); b++)
        kin_tensor_set(inv, b, 1.0 / fmax(kin_tensor_get(&level, b), 0.05));
    return KIN_OK;
}

kin_status kin_model_velocity(kin_ctx *ctx, const kin_model *model, const kin_tensor *x,
                              const kin_tensor *y, const kin_tensor *sigma, kin_tensor *v)
{
    const kin_model_info *info = &model->info;
    const int64_t batch = x->size[0];
    kin_tensor cut = *y, flat_x, flat_y, diff, inv;

    if (info->out_channels > info->in_channels) {
        const kin_tensor part = kin_tensor_slice(y, 1, 0, info->in_channels);

        KIN_TRY(kin_contiguous(ctx, &part, &cut));
    }
    if (!kin_tensor_same_shape(x, &cut))
        return kin_fail(&ctx->error, KIN_ERR_SHAPE,
                        "velocity: %lld output channels do not fit %lld input channels",
                        (long long)info->out_channels, (long long)info->in_channels);
    if (!info->predicts_sample) {
        *v = cut;
        return KIN_OK;
    }
    flat_x = KIN_RESHAPE(x, batch, -1);
    flat_y = KIN_RESHAPE(&cut, batch, -1);
    KIN_TRY(inverse_sigma(ctx, sigma, &inv));
    KIN_TRY(kin_add(ctx, &flat_x, &flat_y, -1.0f, &diff));
    KIN_TRY(kin_mul(ctx, &diff, &inv, 1.0f, v));
    *v = kin_tensor_reshape(v, x->ndim, x->size);
    return KIN_OK;
}

kin_status kin_sum_scalar(kin_ctx *ctx, kin_tensor *sum, const kin_tensor *b)
{
    kin_tensor y;

    if (!b->data)
        return KIN_OK;
    if (!sum->data) {
        *sum = *b;
        return KIN_OK;
    }
    KIN_TRY(kin_add(ctx, sum, b, 1.0f, &y));
    *sum = y;
    return KIN_OK;
}

enum { MAX_LAYER_INPUTS = 6 };

/* Inference: the hidden state stays in one buffer, everything else of a layer is given back. */
static kin_status run_released(kin_ctx *ctx, const kin_layers *l, kin_tensor *y, kin_tensor *aux)
{
    kin_tensor in[MAX_LAYER_INPUTS], state, total = {0};
    bool any = false;

    memcpy(in, l->in, (size_t)l->n_in * sizeof(*in));
    KIN_TRY(kin_ws_tensor(ctx, in[0].dtype, in[0].ndim, in[0].size, &state));
    KIN_TRY(kin_ws_tensor(ctx, in[0].dtype, 0, NULL, &total));
    KIN_TRY(kin_fill(ctx, &total, 0));
    for (int64_t i = 0; i < l->count; i++) {
        const size_t mark = kin_ws_mark(ctx);
        kin_tensor out[2] = {{0}, {0}}, sum;

        KIN_TRY(l->fn(ctx, l->args + (size_t)i * l->arg_bytes, in, out));
        if (l->has_aux[i]) {
            KIN_TRY(kin_add(ctx, &total, &out[1], 1.0f, &sum));
            KIN_TRY(kin_copy_into(ctx, &sum, &total));
            any = true;
        }
        KIN_TRY(kin_copy_into(ctx, &out[0], &state));
        kin_ws_release(ctx, mark);
        in[0] = state;
    }
    *y = l->count ? state : l->in[0];
    *aux = any ? total : (kin_tensor){0};
    return KIN_OK;
}

kin_status kin_layers_run(kin_ctx *ctx, const kin_layers *l, kin_tensor *y, kin_tensor *aux)
{
    kin_tensor in[MAX_LAYER_INPUTS];

    if (l->n_in > MAX_LAYER_INPUTS)
        return kin_fail(&ctx->error, KIN_ERR_ARG, "layers: %d inputs, at most %d", l->n_in,
                        (int)MAX_LAYER_INPUTS);
    if (!ctx->tape)
        return run_released(ctx, l, y, aux);
    memcpy(in, l->in, (size_t)l->n_in * sizeof(*in));
    *aux = (kin_tensor){0};
    for (int64_t i = 0; i < l->count; i++) {
        char *arg = l->args + (size_t)i * l->arg_bytes;
        kin_tensor out[2] = {{0}, {0}};

        if (l->checkpoint)
            KIN_TRY(kin_checkpoint(ctx, l->fn, arg, in, l->n_in, out, l->has_aux[i] ? 2 : 1));
        else
            KIN_TRY(l->fn(ctx, arg, in, out));
        KIN_TRY(kin_sum_scalar(ctx, aux, &out[1]));
        in[0] = out[0];
    }
    *y = in[0];
    return KIN_OK;
}

/* cli/bench_config.c: models and inputs to be measured, from a configuration alone. */
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "cli/bench.h"
#include "diffusion/config.h"
#include "diffusion/preset.h"
#include "tensor/ops.h"

/* ---- the configuration ---- */

static kin_status read_json(const char *path, cJSON **out, kin_error *err)
{
    KIN_TRY(kin_cli_need_input("bench", path, err));
    kin_status status = kin_json_read(path, 1 << 20, KIN_JSON_STRICT, out, err);
    return status == KIN_ERR_IO ? err->status = KIN_ERR_FORMAT, KIN_ERR_FORMAT : status;
}

kin_status kin_bench_config_read(const char *path, cJSON **out, kin_error *err)
{
    char file[KIN_PATH_MAX];
    cJSON *json = NULL;
    if (kin_path_is_dir(path)) {
        KIN_TRY(kin_path_join(file, path, "transformer/config.json", err));
        return read_json(file, out, err);
    }
    if (!kin_path_exists(path) && kin_preset_is_name(path))
        return kin_preset_config(path, out, err);
    KIN_TRY(read_json(path, &json, err));
    cJSON *inner = cJSON_DetachItemFromObjectCaseSensitive(json, "transformer");
    const cJSON *from = cJSON_GetObjectItemCaseSensitive(json, "init_from");
    if (inner || !cJSON_IsString(from)) {
        if (inner)
            cJSON_Delete(json);
        *out = inner ? inner : json;
        kin_status status = kin_preset_expand(*out, err);
        if (status != KIN_OK) {
            cJSON_Delete(*out);
            *out = NULL;
        }
        return status;
    }
    /* a training configuration that starts from a model: that model's */
    char dir[KIN_PATH_MAX], model[KIN_PATH_MAX];
    kin_status status = kin_path_dir(dir, path, err);
    if (status == KIN_OK)
        status = kin_path_join(model, dir, from->valuestring, err);
    cJSON_Delete(json);
    KIN_TRY(status);
    KIN_TRY(kin_path_join(file, model, "transformer/config.json", err));
    return read_json(file, out, err);
}

/* ---- the model ---- */

/* Matrices that training starts at zero get small numbers, so that nothing is measured on zeros. */
static void fill_zeros(kin_params *params)
{
    for (int i = 0; i < params->count; i++) {
        kin_param *p = params->list[i];
        const kin_rng rng = {.seed = 7, .purpose = KIN_RNG_TEST, .sample = (uint64_t)i};
        if (p->init.kind != KIN_INIT_ZERO || p->value.ndim < 2 || !p->trainable)
            continue;
        const int64_t n = kin_tensor_numel(&p->value);
        float *v = p->value.data;
        kin_rng_normal(&rng, 0, n, v);
        for (int64_t k = 0; k < n; k++)
            v[k] *= 0.02f;
        kin_param_touch(p);
    }
}

kin_status kin_bench_model_make(const cJSON *config, bool plan, bool grads, kin_bench_model *m,
                                kin_error *err)
{
    kin_status status;
    *m = (kin_bench_model){0};
    KIN_TRY(kin_params_create(&m->params, err));
    KIN_GOTO(kin_model_create(config, m->params, &m->model, err));
    KIN_GOTO(kin_params_alloc(m->params, KIN_DTYPE_F32, plan, err));
    if (grads)
        KIN_GOTO(kin_params_alloc_grads(m->params, plan, err));
    if (!plan) {
        kin_model_start(m->model, m->params, 1);
        fill_zeros(m->params);
    }
    return KIN_OK;
done:
    kin_bench_model_free(m);
    return status;
}

void kin_bench_model_free(kin_bench_model *m)
{
    if (m->pipe) {
        kin_pipeline_destroy(&m->pipe);
    } else {
        kin_model_destroy(&m->model);
        kin_params_destroy(&m->params);
    }
    *m = (kin_bench_model){0};
}

const char *kin_bench_family(const kin_model *model)
{
    return kin_family_name(kin_model_get_info(model)->family);
}

/* ---- its input ---- */

/* Noise, but nothing on a plan context. */
static kin_status noise(kin_ctx *ctx, kin_tensor *t, int ndim, const int64_t *sizes)
{
    return kin_ctx_is_plan(ctx) ? kin_ws_tensor(ctx, KIN_DTYPE_F32, ndim, sizes, t)
                                : kin_bench_noise(ctx, t, ndim, sizes);
}
#define NOISE(ctx, t, ...) noise((ctx), (t), KIN_DIMS(__VA_ARGS__))

static void choose_size(const kin_model_info *info, kin_bench_size *s)
{
    if (info->family == KIN_FAMILY_DIT) {
        s->frames = 1;
        s->height = s->width = info->input_size;
        return;
    }
    /* note: a model without sizes of its own (wan) gets 4 x 16 x 16 patches */
    const int64_t own[3] = {info->sample[0] ? info->sample[0] : 4 * info->patch[0],
                            info->sample[1] ? info->sample[1] : 16 * info->patch[1],
                            info->sample[2] ? info->sample[2] : 16 * info->patch[2]};
    s->frames = s->frames ? s->frames : own[0];
    s->height = s->height ? s->height : own[1];
    s->width = s->width ? s->width : own[2];
}

static kin_status check_size(kin_ctx *ctx, const kin_model_info *info, const kin_bench_size *s)
{
    const int64_t size[3] = {s->frames, s->height, s->width};
    static const char *const names[3] = {"frames", "height", "width"};
    for (int i = 0; i < 3; i++)
        if (size[i] % info->patch[i])
            return kin_fail(&ctx->error, KIN_ERR_ARG,
                            "bench: %s %lld must be a multiple of the patch size %d", names[i],
                            (long long)size[i], info->patch[i]);
    return KIN_OK;
}

/* Times spread over the whole range, classes in turn; nobody is unconditional unless guided. */
static void fill_conditions(const kin_model_info *info, int64_t batch, bool guided,
                            kin_bench_input *in)
{
    for (int64_t b = 0; b < batch; b++) {
        const bool null = guided && b >= batch / 2;
        ((float *)in->t.data)[b] = 1000.0f * ((float)b + 0.5f) / (float)batch;
        if (in->label.data)
            ((int32_t *)in->label.data)[b] =
                (int32_t)(null ? info->num_classes : (b * 37 + 5) % info->num_classes);
        if (in->null.data)
            ((uint8_t *)in->null.data)[b] = null;
        for (int i = 0; in->prior.data && i < 29; i++)
            ((float *)in->prior.data)[b * 29 + i] = (float)((i + b) % 5 == 0);
    }
}

static kin_status make_conditions(kin_ctx *ctx, const kin_model_info *info, int64_t batch,
                                  kin_bench_input *in)
{
    if (info->family == KIN_FAMILY_DIT) {
        KIN_TRY(KIN_WS_HOST(ctx, &in->label, KIN_DTYPE_I32, batch));
        in->in.label = &in->label;
        return KIN_OK;
    }
    KIN_TRY(NOISE(ctx, &in->text, batch, info->text_len ? info->text_len : 512, info->text_dim));
    in->in.text = &in->text;
    if (info->family == KIN_FAMILY_KINEMA) {
        KIN_TRY(KIN_WS_HOST(ctx, &in->null, KIN_DTYPE_U8, batch));
        in->in.null = &in->null;
    }
    if (info->categories) {
        KIN_TRY(KIN_WS_HOST(ctx, &in->prior, KIN_DTYPE_F32, batch, 29));
        KIN_TRY(NOISE(ctx, &in->quant, batch, 18));
        in->in.prior = &in->prior;
        in->in.quant = &in->quant;
    }
    return KIN_OK;
}

kin_status kin_bench_input_make(kin_ctx *ctx, const kin_model *model, kin_bench_size *size,
                                kin_bench_input *in)
{
    const kin_model_info *info = kin_model_get_info(model);
    const int64_t batch = size->batch;
    *in = (kin_bench_input){0};
    choose_size(info, size);
    KIN_TRY(check_size(ctx, info, size));
    if (info->family == KIN_FAMILY_DIT)
        KIN_TRY(NOISE(ctx, &in->x, batch, info->in_channels, size->height, size->width));
    else
        KIN_TRY(
            NOISE(ctx, &in->x, batch, info->in_channels, size->frames, size->height, size->width));
    KIN_TRY(KIN_WS_HOST(ctx, &in->t, KIN_DTYPE_F32, batch));
    in->in.x = &in->x;
    in->in.t = &in->t;
    KIN_TRY(make_conditions(ctx, info, batch, in));
    if (!kin_ctx_is_plan(ctx))
        fill_conditions(info, batch, size->guided, in);
    in->tokens = size->frames / info->patch[0] * (size->height / info->patch[1]) *
                 (size->width / info->patch[2]);
    return KIN_OK;
}

kin_status kin_bench_plan(const cJSON *config, const kin_bench_size *size, kin_dtype compute,
                          kin_cost *cost, size_t *workspace, kin_error *err)
{
    const kin_ctx_options opt = {.backend = KIN_BACKEND_PLAN, .threads = 1, .compute = compute};
    kin_ctx *ctx = NULL;
    kin_bench_model m;
    kin_bench_input in;
    kin_model_output out;
    kin_bench_size s = *size;
    KIN_TRY(kin_ctx_create(&opt, &ctx, err));
    kin_status status = kin_bench_model_make(config, true, false, &m, err);
    if (status == KIN_OK) {
        status = kin_bench_input_make(ctx, m.model, &s, &in);
        ctx->cost = (kin_cost){0};
        if (status == KIN_OK)
            status = kin_model_forward(ctx, m.model, &in.in, &out);
        *cost = ctx->cost;
        *workspace = ctx->ws.peak;
        if (status != KIN_OK)
            *err = ctx->error;
    }
    kin_bench_model_free(&m);
    kin_ctx_destroy(&ctx);
    return status;
}

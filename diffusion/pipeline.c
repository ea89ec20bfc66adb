/* diffusion/pipeline.c: creation and text; loading is loader.c, saving saver.c, generation
 * generate.c. */
#include "diffusion/weights.h"
#include "diffusion/lora.h"
#include "diffusion/pipeline.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "diffusion/embeds.h"
#include "diffusion/pipeline_parts.h"
#include "diffusion/tokenizer_dir.h"
#include "text/clean.h"

static const char pipeline_index[] =
    "{\"_class_name\": \"KinemaPipeline\", \"transformer\": [\"kinema\", null],"
    " \"scheduler\": [\"diffusers\", \"FlowMatchEulerDiscreteScheduler\"], \"vae\": [null, null]}";

void kin_pipeline_destroy(kin_pipeline **pp)
{
    kin_pipeline *p = pp ? *pp : NULL;

    if (!p)
        return;
    kin_model_destroy(&p->model);
    kin_params_destroy(&p->params);
    kin_text_encoder_destroy(&p->text);
    kin_params_destroy(&p->text_params);
    kin_tokenizer_destroy(&p->tokenizer);
    kin_tokenizer_files_free(&p->tokenizer_files);
    kin_vae_model_destroy(&p->vae);
    cJSON_Delete(p->transformer_config);
    cJSON_Delete(p->text_config);
    cJSON_Delete(p->scheduler_config);
    cJSON_Delete(p->index);
    kin_files_free(&p->files);
    for (int i = 0; i < p->loras; i++)
        kin_safetensors_close(&p->lora[i]);
    kin_free(p->merged);
    kin_free(p);
    *pp = NULL;
}

/* --- adapters --- */

kin_status kin_pipeline_add_lora(kin_pipeline *p, const char *path, double strength)
{
    kin_error *err = &p->ctx->error;
    char name[16];
    kin_status status;

    if (p->loras == KIN_LORA_FILES)
        return kin_fail(err, KIN_ERR_ARG, "%s: at most %d adapter files are taken", path,
                        KIN_LORA_FILES);
    KIN_TRY(kin_safetensors_open(path, &p->lora[p->loras], err));
    snprintf(name, sizeof(name), "%d", p->loras);
    status = kin_lora_load(p->params, p->lora[p->loras++], strength, name, NULL, err);
    if (status != KIN_OK) {
        const kin_error why = *err;

        return kin_fail(err, status, "%s: %s", path, why.text);
    }
    if (!kin_ctx_is_plan(p->ctx))
        snprintf(p->hash, sizeof(p->hash), "%016llx",
                 (unsigned long long)kin_weights_hash(strtoull(p->hash, NULL, 16),
                                                      p->lora[p->loras - 1]));
    return KIN_OK;
}

kin_status kin_pipeline_merge_loras(kin_pipeline *p)
{
    return p->loras && !p->merged ? kin_lora_merge(p->params, &p->merged, &p->ctx->error) : KIN_OK;
}

kin_status kin_pipeline_check_text(const kin_pipeline *p)
{
    kin_error *err = &p->ctx->error;
    const kin_model_info *info = kin_model_get_info(p->model);

    if (!info->text_dim)
        return KIN_OK;
    if (!p->text || !p->tokenizer)
        return kin_fail(err, KIN_ERR_FORMAT,
                        "pipeline: the transformer needs a text encoder and a tokenizer");
    if (kin_text_encoder_width(p->text) != info->text_dim)
        return kin_fail(err, KIN_ERR_FORMAT,
                        "pipeline: text encoder width %lld must be text_dim %lld",
                        (long long)kin_text_encoder_width(p->text), (long long)info->text_dim);
    if (kin_tokenizer_vocab(p->tokenizer) > kin_text_encoder_vocab(p->text))
        return kin_fail(
            err, KIN_ERR_FORMAT, "pipeline: %d pieces of the tokenizer exceed the vocabulary %lld",
            kin_tokenizer_vocab(p->tokenizer), (long long)kin_text_encoder_vocab(p->text));
    return KIN_OK;
}

/* --- a new pipeline --- */

static kin_status duplicate(const cJSON *from, cJSON **to, kin_error *err)
{
    if (!from)
        return KIN_OK;
    *to = cJSON_Duplicate(from, 1);
    return *to ? KIN_OK : kin_fail(err, KIN_ERR_MEM, "pipeline: out of memory");
}

const char *kin_pipeline_part(const kin_pipeline *p)
{
    return kin_model_vae(p->model) ? "vae" : "transformer";
}

/* model_index.json of an autoencoder alone */
static kin_status vae_index(kin_pipeline *p)
{
    const char *const pair[] = {"diffusers", kin_vae_get_info(kin_model_vae(p->model))->class_name};

    p->index = cJSON_CreateObject();
    if (!p->index || !cJSON_AddStringToObject(p->index, "_class_name", "KinemaPipeline") ||
        !kin_json_put(p->index, "vae", cJSON_CreateStringArray(pair, 2)))
        return kin_fail(&p->ctx->error, KIN_ERR_MEM, "pipeline: out of memory");
    return KIN_OK;
}

kin_status kin_pipeline_make_index(kin_pipeline *p)
{
    kin_error *err = &p->ctx->error;
    const char *name = NULL;
    cJSON *pair;

    if (kin_model_vae(p->model))
        return vae_index(p);
    KIN_TRY(
        kin_json_parse(pipeline_index, strlen(pipeline_index), KIN_JSON_STRICT, &p->index, err));
    KIN_TRY(kin_json_get_str(p->transformer_config, "_class_name", &name, err));
    pair = cJSON_GetObjectItemCaseSensitive(p->index, "transformer");
    if (!cJSON_ReplaceItemInArray(pair, 1,
                                  cJSON_CreateString(name ? name : "DiTTransformer2DModel")))
        return kin_fail(err, KIN_ERR_MEM, "pipeline: out of memory");
    name = NULL;
    KIN_TRY(kin_json_get_str(p->scheduler_config, "_class_name", &name, err));
    pair = cJSON_GetObjectItemCaseSensitive(p->index, "scheduler");
    if (name && !cJSON_ReplaceItemInArray(pair, 1, cJSON_CreateString(name)))
        return kin_fail(err, KIN_ERR_MEM, "pipeline: out of memory");
    if (p->text) {
        const char *const text[] = {"transformers", "T5EncoderModel"};
        const char *const tokenizer[] = {"transformers", "T5Tokenizer"};
        const cJSON *type = cJSON_GetObjectItemCaseSensitive(p->text_config, "model_type");
        const bool umt5 = cJSON_IsString(type) && !strcmp(type->valuestring, "umt5");
        const char *const umt5_text[] = {"transformers", "UMT5EncoderModel"};

        if (!kin_json_put(p->index, "text_encoder",
                          cJSON_CreateStringArray(umt5 ? umt5_text : text, 2)) ||
            !kin_json_put(p->index, "tokenizer", cJSON_CreateStringArray(tokenizer, 2)))
            return kin_fail(err, KIN_ERR_MEM, "pipeline: out of memory");
    }
    return KIN_OK;
}

static kin_status alloc_start(kin_params *params, bool plan, kin_error *err)
{
    KIN_TRY(kin_params_alloc(params, KIN_DTYPE_F32, plan, err));
    return kin_params_alloc_grads(params, plan, err);
}

static kin_status create_parts(kin_pipeline *p, const cJSON *transformer, const cJSON *text_encoder,
                               const void *spiece, size_t spiece_bytes, const cJSON *scheduler,
                               uint64_t seed)
{
    kin_error *err = &p->ctx->error;
    const bool plan = kin_ctx_is_plan(p->ctx);
    const kin_model_info *info;

    KIN_TRY(duplicate(transformer, &p->transformer_config, err));
    KIN_TRY(duplicate(text_encoder, &p->text_config, err));
    KIN_TRY(duplicate(scheduler, &p->scheduler_config, err));
    KIN_TRY(kin_params_create(&p->params, err));
    KIN_TRY(kin_model_create(p->transformer_config, p->params, &p->model, err));
    KIN_TRY(alloc_start(p->params, plan, err));
    if (!plan)
        kin_model_start(p->model, p->params, seed);
    if (text_encoder) {
        KIN_TRY(kin_params_create(&p->text_params, err));
        KIN_TRY(kin_text_encoder_create(p->text_config, p->text_params, &p->text, err));
        KIN_TRY(alloc_start(p->text_params, plan, err));
        /* note: another seed, else both tables would draw the same numbers */
        if (!plan)
            kin_params_init(p->text_params, seed ^ UINT64_C(0x74657874));
    }
    if (spiece)
        KIN_TRY(kin_tokenizer_create(spiece, spiece_bytes, NULL, &p->tokenizer, err));
    KIN_TRY(kin_pipeline_check_text(p));
    info = kin_model_get_info(p->model);
    p->frames = info->sample[0];
    p->height = info->sample[1] ? info->sample[1] : info->input_size;
    p->width = info->sample[2] ? info->sample[2] : info->input_size;
    return kin_pipeline_make_index(p);
}

kin_status kin_pipeline_create(kin_ctx *ctx, const cJSON *transformer, const cJSON *text_encoder,
                               const void *spiece, size_t spiece_bytes, const cJSON *scheduler,
                               uint64_t seed, kin_pipeline **out)
{
    kin_pipeline *p = kin_calloc(1, sizeof(*p));
    kin_status status;

    *out = NULL;
    if (!p)
        return kin_fail(&ctx->error, KIN_ERR_MEM, "pipeline: out of memory");
    p->ctx = ctx;
    status = create_parts(p, transformer, text_encoder, spiece, spiece_bytes, scheduler, seed);
    if (status != KIN_OK) {
        kin_pipeline_destroy(&p);
        return status;
    }
    *out = p;
    return KIN_OK;
}

kin_status kin_pipeline_make_trainable(kin_pipeline *p)
{
    kin_error *err = &p->ctx->error;
    const bool plan = kin_ctx_is_plan(p->ctx);

    if (!p->files)
        return KIN_OK; /* made by kin_pipeline_create: trainable already */
    KIN_TRY(kin_weights_make_trainable(p->params, plan, err));
    if (p->text_params)
        KIN_TRY(kin_weights_make_trainable(p->text_params, plan, err));
    kin_files_free(&p->files);
    return KIN_OK;
}

/* --- classes --- */

const char *kin_pipeline_class_name(const kin_pipeline *p, int64_t class_id)
{
    char key[24];
    const cJSON *name;

    snprintf(key, sizeof(key), "%lld", (long long)class_id);
    name = cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(p->index, "id2label"),
                                            key);
    return cJSON_IsString(name) ? name->valuestring : NULL;
}

kin_status kin_pipeline_name_class(kin_pipeline *p, int64_t class_id, const char *name)
{
    kin_error *err = &p->ctx->error;
    char key[24];
    cJSON *names = cJSON_GetObjectItemCaseSensitive(p->index, "id2label");

    if (!names)
        names = cJSON_AddObjectToObject(p->index, "id2label");
    else if (!cJSON_IsObject(names))
        return kin_fail(err, KIN_ERR_FORMAT, "model_index.json: id2label must be an object");
    snprintf(key, sizeof(key), "%lld", (long long)class_id);
    cJSON_DeleteItemFromObjectCaseSensitive(names, key);
    return names && cJSON_AddStringToObject(names, key, name)
               ? KIN_OK
               : kin_fail(err, KIN_ERR_MEM, "pipeline: out of memory");
}

/* --- text --- */

int64_t kin_pipeline_text_len(const kin_pipeline *p)
{
    const kin_model_info *info = kin_model_get_info(p->model);

    if (p->text_len || info->text_len)
        return p->text_len ? p->text_len : info->text_len;
    if (info->family != KIN_FAMILY_COGVIDEOX)
        return KIN_PIPELINE_WAN_TEXT_LEN;
    return info->categories ? KIN_PIPELINE_COG_WISA_TEXT_LEN : KIN_PIPELINE_COG_TEXT_LEN;
}

kin_status kin_pipeline_set_text_len(kin_pipeline *p, int64_t tokens)
{
    const int64_t fixed = kin_model_get_info(p->model)->text_len;

    if (tokens < 2 || (fixed && tokens != fixed))
        return kin_fail(&p->ctx->error, KIN_ERR_ARG,
                        "generate: text length %lld must be %s %lld tokens for this model",
                        (long long)tokens, fixed ? "the" : "at least",
                        (long long)(fixed ? fixed : 2));
    p->text_len = tokens;
    return KIN_OK;
}

/* One prompt of Wan: no token sees the padding behind it, whose states are zero, so that only the
 * others are computed (a plan counts all). */
static kin_status encode_short(kin_pipeline *p, const kin_tensor *ids, const kin_tensor *mask,
                               kin_tensor *states)
{
    kin_ctx *ctx = p->ctx;
    const int64_t len = ids->size[1], width = kin_text_encoder_width(p->text);
    kin_tensor first, to, made;
    int64_t n = 0;
    size_t mark;

    while (n < len && ((const uint8_t *)mask->data)[n])
        n++;
    KIN_TRY(KIN_WS_HOST(ctx, states, KIN_DTYPE_F32, 1, len, width));
    memset(states->data, 0, (size_t)(len * width) * sizeof(float));
    mark = kin_ws_mark(ctx);
    KIN_TRY(KIN_WS_HOST(ctx, &first, KIN_DTYPE_I32, 1, n));
    memcpy(first.data, ids->data, (size_t)n * sizeof(int32_t));
    KIN_TRY(kin_text_encoder_run(ctx, p->text, &first, NULL, &made));
    to = kin_tensor_slice(states, 1, 0, n);
    KIN_TRY(kin_copy_into(ctx, &made, &to));
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

/* [n,T,1] of this type: 1 where the mask is set, else 0 */
static kin_status keep_rows(kin_ctx *ctx, const kin_tensor *mask, kin_dtype dtype, kin_tensor *keep)
{
    const int64_t n = mask->size[0], len = mask->size[1];

    KIN_TRY(KIN_WS_HOST(ctx, keep, dtype, n, len, 1));
    for (int64_t i = 0; i < n * len && !kin_ctx_is_plan(ctx); i++)
        kin_tensor_set(keep, i, ((const uint8_t *)mask->data)[i] ? 1.0 : 0.0);
    return KIN_OK;
}

kin_status kin_pipeline_keep(kin_pipeline *p, const kin_tensor *mask, kin_tensor *keep)
{
    return keep_rows(p->ctx, mask, KIN_DTYPE_F32, keep);
}

kin_status kin_pipeline_encode_kept(kin_pipeline *p, const kin_tensor *ids, const kin_tensor *mask,
                                    const kin_tensor *keep, kin_tensor *states)
{
    kin_tensor all;

    KIN_TRY(kin_text_encoder_run(p->ctx, p->text, ids, mask, &all));
    return kin_mul(p->ctx, &all, keep, 1.0f, states);
}

kin_status kin_pipeline_encode_ids(kin_pipeline *p, const kin_tensor *ids, const kin_tensor *mask,
                                   kin_tensor *states)
{
    kin_ctx *ctx = p->ctx;
    kin_tensor all, keep;

    if (kin_model_get_info(p->model)->family == KIN_FAMILY_COGVIDEOX)
        return kin_text_encoder_run(ctx, p->text, ids, NULL, states);
    if (kin_model_get_info(p->model)->family == KIN_FAMILY_WAN && ids->size[0] == 1 && !ctx->tape &&
        !kin_ctx_is_plan(ctx))
        return encode_short(p, ids, mask, states);
    KIN_TRY(kin_text_encoder_run(ctx, p->text, ids, mask, &all));
    KIN_TRY(keep_rows(ctx, mask, all.dtype, &keep));
    return kin_mul(ctx, &all, &keep, 1.0f, states);
}

/* The ids of a prompt; Wan's pipeline cleans it first. */
static kin_status ids_of(const kin_pipeline *p, const char *text, int64_t len, int32_t *ids,
                         uint8_t *mask)
{
    kin_error *err = &p->ctx->error;
    kin_strbuf clean = {0};
    kin_status status = KIN_OK;

    if (kin_model_get_info(p->model)->family == KIN_FAMILY_WAN) {
        status = kin_prompt_clean(text, strlen(text), &clean, err);
        text = clean.data ? clean.data : "";
    }
    if (status == KIN_OK)
        status =
            kin_tokenizer_encode_padded(p->tokenizer, text, strlen(text), (int)len, ids, mask, err);
    kin_strbuf_free(&clean);
    return status;
}

kin_status kin_pipeline_encode(kin_pipeline *p, const char *const *prompts, int n,
                               kin_tensor *states, kin_tensor *null_out)
{
    kin_ctx *ctx = p->ctx;
    const int64_t len = kin_pipeline_text_len(p);
    kin_tensor ids, mask;

    if (!p->text || !p->tokenizer)
        return kin_fail(&ctx->error, KIN_ERR_ARG, "encode: this model has no text encoder");
    KIN_TRY(KIN_WS_HOST(ctx, null_out, KIN_DTYPE_U8, n));
    KIN_TRY(KIN_WS_HOST(ctx, &ids, KIN_DTYPE_I32, n, len));
    KIN_TRY(KIN_WS_HOST(ctx, &mask, KIN_DTYPE_U8, n, len));
    for (int i = 0; i < n; i++) {
        int32_t *row = (int32_t *)ids.data + i * len;

        KIN_TRY(ids_of(p, prompts[i] ? prompts[i] : "", len, row, (uint8_t *)mask.data + i * len));
        /* no piece before the end: the text is empty */
        ((uint8_t *)null_out->data)[i] = row[0] == KIN_PIPELINE_EOS;
    }
    if (n == 1 && !ctx->tape && kin_embeds_find(p, &ids, states))
        return KIN_OK;
    KIN_TRY(kin_pipeline_encode_ids(p, &ids, &mask, states));
    if (n == 1 && !ctx->tape)
        kin_embeds_keep(p, &ids, states);
    return KIN_OK;
}

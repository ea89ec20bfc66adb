/* tests/cli/video_model.c: a model directory in the layout of the published video models with
 * random weights: video_model wan|wan-wisa|wan-mid|wan-1.3b|cogvideox|cogvideox-wisa SPIECE OUT.
 * The -wisa kinds have their physics in phys_weights.safetensors, and no word of it in config.json.
 */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/path.h"
#include "diffusion/pipeline.h"

#define WAN_SIZES                                                                                 \
    "\"num_attention_heads\": 2, \"attention_head_dim\": 12, \"ffn_dim\": 40, \"text_dim\": 32, " \
    "\"num_layers\": 3, \"freq_dim\": 32"
#define WAN "{\"_class_name\": \"WanTransformer3DModel\", \"in_channels\": 4, \"out_channels\": 4, "
#define COG                                                                                        \
    "{\"_class_name\": \"CogVideoXTransformer3DModel\", \"in_channels\": 4, \"out_channels\": 4, " \
    "\"num_attention_heads\": 2, \"attention_head_dim\": 16, \"time_embed_dim\": 24, "             \
    "\"text_embed_dim\": 32, \"num_layers\": 2, \"sample_height\": 4, \"sample_width\": 6, "       \
    "\"sample_frames\": 9, \"max_text_seq_length\": 16, \"use_rotary_positional_embeddings\": "    \
    "true"
#define TEXT(kind, width, ff) TEXT_OF(kind, width, ff, "16", "2")
#define TEXT_OF(kind, width, ff, head, heads)                                                     \
    "{\"model_type\": \"" kind "\", \"vocab_size\": 320, \"d_model\": " width ", \"d_kv\": " head \
    ", \"d_ff\": " ff ", \"num_layers\": 2, \"num_heads\": " heads ", "                           \
    "\"relative_attention_num_buckets\": 8, \"relative_attention_max_distance\": 20, "            \
    "\"feed_forward_proj\": \"gated-gelu\", \"layer_norm_epsilon\": 1e-06}"
#define WAN_VAE(width)                                                                           \
    "{\"_class_name\": \"AutoencoderKLWan\", \"base_dim\": " width ", \"dim_mult\": [1,2,2,2], " \
    "\"num_res_blocks\": 1, \"temperal_downsample\": [false,true,true], \"z_dim\": 4, "          \
    "\"latents_mean\": [-0.1,0.02,-0.17,0.38], \"latents_std\": [1.86,1.66,1.11,1.38]}"
#define COG_VAE                                                                           \
    "{\"_class_name\": \"AutoencoderKLCogVideoX\", \"block_out_channels\": [8,8,16,16], " \
    "\"latent_channels\": 4, \"layers_per_block\": 1, \"norm_num_groups\": 4, "           \
    "\"sample_height\": 32, \"sample_width\": 48, \"scaling_factor\": 1.15}"
#define UNIPC                                                                                   \
    "{\"_class_name\": \"UniPCMultistepScheduler\", \"prediction_type\": \"flow_prediction\", " \
    "\"use_flow_sigmas\": true, \"flow_shift\": 3.0}"
#define COG_DDIM                                                                                \
    "{\"_class_name\": \"CogVideoXDDIMScheduler\", \"prediction_type\": \"v_prediction\", "     \
    "\"timestep_spacing\": \"trailing\", \"rescale_betas_zero_snr\": true, "                    \
    "\"snr_shift_scale\": 1.0, \"beta_schedule\": \"scaled_linear\", \"beta_start\": 0.00085, " \
    "\"beta_end\": 0.012, \"clip_sample\": false, \"set_alpha_to_one\": true}"

static const struct kind {
    const char *name, *pipeline, *transformer, *text, *vae, *scheduler;
} kinds[] = {
    {"wan", "WanPipeline", WAN WAN_SIZES "}", TEXT("umt5", "32", "48"), WAN_VAE("4"), UNIPC},
    {"wan-wisa", "WanPipeline", WAN WAN_SIZES ", \"insert_gap\": 2}", TEXT("umt5", "32", "48"),
     WAN_VAE("4"), UNIPC},
    {"wan-mid", "WanPipeline",
     WAN "\"num_attention_heads\": 6, \"attention_head_dim\": 128, \"ffn_dim\": 3072, "
         "\"text_dim\": 512, \"num_layers\": 6}",
     TEXT("umt5", "512", "2048"), WAN_VAE("32"), UNIPC},
    /* Wan2.1-T2V-1.3B; of its text encoder two of 24 blocks and a table of 320 rows */
    {"wan-1.3b", "WanPipeline",
     "{\"_class_name\": \"WanTransformer3DModel\", \"in_channels\": 16, \"out_channels\": 16, "
     "\"num_attention_heads\": 12, \"attention_head_dim\": 128, \"ffn_dim\": 8960, "
     "\"text_dim\": 4096, \"num_layers\": 30}",
     TEXT_OF("umt5", "4096", "10240", "64", "64"),
     "{\"_class_name\": \"AutoencoderKLWan\", \"base_dim\": 96, \"z_dim\": 16, "
     "\"latents_mean\": [0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0], "
     "\"latents_std\": [1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}",
     UNIPC},
    {"cogvideox", "CogVideoXPipeline", COG "}", TEXT("t5", "32", "48"), COG_VAE, COG_DDIM},
    {"cogvideox-wisa", "CogVideoXPipeline", COG ", \"insert_gap\": 999}", TEXT("t5", "32", "48"),
     COG_VAE, COG_DDIM},
};

static void randomize(kin_params *params, uint64_t seed)
{
    for (int i = 0; i < params->count; i++) {
        kin_param *p = params->list[i];
        const int64_t n = kin_tensor_numel(&p->value);
        const kin_rng rng = {.seed = seed, .purpose = KIN_RNG_INIT, .sample = (uint64_t)i};
        float *v = p->value.data;

        if (p->init.kind != KIN_INIT_ZERO)
            continue; /* started at random by its own rule */
        kin_rng_normal(&rng, 0, n, v);
        for (int64_t k = 0; k < n; k++)
            v[k] *= 0.1f;
    }
}

/* Class names of the published index, in the place of our own. */
static kin_status write_index(const char *dir, const struct kind *k, const kin_pipeline *p,
                              kin_error *err)
{
    const char *umt5 = strstr(k->text, "umt5");
    char path[KIN_PATH_MAX], *text;
    cJSON *j = cJSON_CreateObject();
    const char *const parts[][3] = {
        {"transformer", "diffusers",
         cJSON_GetStringValue(cJSON_GetObjectItem(p->transformer_config, "_class_name"))},
        {"vae", "diffusers", kin_vae_get_info(p->vae->vae)->class_name},
        {"scheduler", "diffusers",
         cJSON_GetStringValue(cJSON_GetObjectItem(p->scheduler_config, "_class_name"))},
        {"text_encoder", "transformers", umt5 ? "UMT5EncoderModel" : "T5EncoderModel"},
        {"tokenizer", "transformers", "T5Tokenizer"}};
    kin_status status;

    cJSON_AddStringToObject(j, "_class_name", k->pipeline);
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
        cJSON_AddItemToObject(j, parts[i][0], cJSON_CreateStringArray(parts[i] + 1, 2));
    KIN_TRY(kin_path_join(path, dir, "model_index.json", err));
    text = cJSON_Print(j);
    status = kin_file_write(path, text, strlen(text), err);
    cJSON_free(text);
    cJSON_Delete(j);
    return status;
}

/* The physics into a file of its own, and out of the config. */
static kin_status split(const char *dir, kin_pipeline *p, kin_dtype dtype, kin_error *err)
{
    kin_item *items = kin_calloc(2 * (size_t)p->params->count, sizeof(*items));
    int64_t n[2] = {0, 0};
    char folder[KIN_PATH_MAX], path[KIN_PATH_MAX], *text;
    kin_status status;

    if (!items)
        return kin_fail(err, KIN_ERR_MEM, "no memory");
    for (int i = 0; i < p->params->count; i++) {
        const kin_param *w = p->params->list[i];
        const int which = strncmp(w->name, "phys_", 5) == 0;

        items[which * p->params->count + n[which]++] = kin_item_of(w->name, &w->value, dtype);
    }
    KIN_GOTO(kin_path_join(folder, dir, "transformer", err));
    KIN_GOTO(kin_safetensors_write_dir(folder, "diffusion_pytorch_model.safetensors", items, n[0],
                                       0, NULL, err));
    KIN_GOTO(kin_path_join(path, dir, "phys_weights.safetensors", err));
    if (n[1])
        KIN_GOTO(kin_safetensors_write_items(path, items + p->params->count, n[1], NULL, err));
    cJSON_DeleteItemFromObject(p->transformer_config, "insert_gap");
    KIN_GOTO(kin_path_join(path, folder, "config.json", err));
    text = cJSON_Print(p->transformer_config);
    status = kin_file_write(path, text, strlen(text), err);
    cJSON_free(text);
done:
    kin_free(items);
    return status;
}

static kin_status parse(const char *text, cJSON **out, kin_error *err)
{
    return kin_json_parse(text, strlen(text), KIN_JSON_STRICT, out, err);
}

static kin_status make(kin_ctx *ctx, const struct kind *k, const char *spiece, const char *out)
{
    const kin_dtype dtype =
        strstr(k->name, "mid") || strstr(k->name, "1.3b") ? KIN_DTYPE_BF16 : KIN_DTYPE_F32;
    kin_error *err = &ctx->error;
    cJSON *transformer = NULL, *text = NULL, *vae = NULL, *scheduler = NULL;
    kin_pipeline *p = NULL;
    char *model = NULL;
    size_t bytes = 0;
    kin_status status;

    KIN_GOTO(parse(k->transformer, &transformer, err));
    KIN_GOTO(parse(k->text, &text, err));
    KIN_GOTO(parse(k->vae, &vae, err));
    KIN_GOTO(parse(k->scheduler, &scheduler, err));
    KIN_GOTO(kin_file_read(spiece, 1 << 24, &model, &bytes, err));
    KIN_GOTO(kin_pipeline_create(ctx, transformer, text, model, bytes, scheduler, 1, &p));
    KIN_GOTO(kin_vae_model_create(ctx, vae, 2, &p->vae));
    randomize(p->params, 3);
    randomize(p->text_params, 4);
    randomize(p->vae->params, 5);
    KIN_GOTO(kin_pipeline_save(p, out, dtype, NULL, NULL, err));
    KIN_GOTO(write_index(out, k, p, err));
    status = split(out, p, dtype, err);
done:
    kin_pipeline_destroy(&p);
    kin_free(model);
    cJSON_Delete(transformer);
    cJSON_Delete(text);
    cJSON_Delete(vae);
    cJSON_Delete(scheduler);
    return status;
}

int main(int argc, char **argv)
{
    const struct kind *k = NULL;
    kin_ctx *ctx = NULL;
    kin_error err = {0};
    kin_status status;

    for (size_t i = 0; argc == 4 && i < sizeof(kinds) / sizeof(kinds[0]); i++)
        k = strcmp(argv[1], kinds[i].name) == 0 ? &kinds[i] : k;
    if (!k) {
        fprintf(stderr, "usage: video_model wan|wan-wisa|wan-mid|wan-1.3b|cogvideox|cogvideox-wisa "
                        "SPIECE OUT\n");
        return 2;
    }
    status = kin_ctx_create(&(kin_ctx_options){.backend = KIN_BACKEND_CPU}, &ctx, &err);
    if (status == KIN_OK && (status = make(ctx, k, argv[2], argv[3])) != KIN_OK)
        err = ctx->error;
    if (status != KIN_OK)
        fprintf(stderr, "video_model: %s\n", err.text);
    kin_ctx_destroy(&ctx);
    return status == KIN_OK ? 0 : 1;
}

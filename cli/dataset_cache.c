/* cli/dataset_cache.c: `kinema dataset cache`: images through a VAE's encoder into shards that
 * training reads (training/latents.h), or clips and their texts through the encoders of a video
 * model (training/clips.h). Started again it goes on with what is missing. */
#include <stdio.h>
#include <stdlib.h>

#include "cli/common.h"
#include "cli/signals.h"
#include "training/config.h"
#include "training/clips.h"
#include "training/latents.h"

static kin_status on_progress(void *user, int64_t done, int64_t total, kin_error *err)
{
    kin_progress *p = user;
    if (p->total != total)
        kin_progress_begin(p, "cache", "images", total);
    kin_progress_update(p, done, NULL, false);
    return kin_signals_check("dataset cache", err);
}

static void on_message(void *user, const char *text)
{
    kin_progress_note(user, "%s", text);
}

/* Folder of the VAE: DIR itself, its vae/, or the newest averages of a run. */
static kin_status find_vae(const char *dir, char out[KIN_PATH_MAX], kin_error *err)
{
    char folder[KIN_PATH_MAX], *real;
    KIN_TRY(kin_cli_need_input("VAE", dir, err));
    const kin_status status = kin_pipeline_vae_folder(dir, folder, err);
    if (status != KIN_OK)
        return err->status = status == KIN_ERR_MEM ? status : KIN_ERR_FORMAT;
    /* note: the whole path is noted in the cache, so that training finds it from any folder */
    real = realpath(folder, NULL);
    if (!real || snprintf(out, KIN_PATH_MAX, "%s", real) >= KIN_PATH_MAX) {
        free(real);
        return kin_fail(err, KIN_ERR_IO, "dataset cache: %s: no such folder", dir);
    }
    free(real);
    return KIN_OK;
}

static kin_status make(const kin_args *args, kin_vae_model *vae, const char *folder, kin_error *err)
{
    kin_progress progress;
    kin_cli_progress(args, &progress);
    kin_latents_options opt = {
        .data = args->positional ? args->positional : kin_args_text(args, "data"),
        .split = kin_args_text(args, "part") ? kin_args_text(args, "part") : "",
        .vae = folder,
        .out = kin_args_text(args, "output"),
        .held_out = kin_args_int(args, "held-out"),
        .size = kin_args_source(args, "size") ? kin_args_int(args, "size")
                                              : kin_vae_get_info(vae->vae)->sample_size,
        .batch = kin_args_int(args, "batch"),
        .shard = kin_args_int(args, "shard"),
        .progress = on_progress,
        .message = on_message,
        .user = &progress};
    kin_status status = kin_latents_make(vae, &opt, err);
    kin_progress_end(&progress);
    if (status == KIN_OK)
        kin_cli_say(args, "%s: %lld shards made, %lld kept\n", opt.out, (long long)opt.made,
                    (long long)opt.kept);
    return status;
}

/* --- clips --- */

static kin_status on_clip(void *user, const char *what, int64_t done, int64_t total, kin_error *err)
{
    kin_progress *p = user;
    if (done == 1)
        kin_progress_begin(p, "cache", what, total);
    kin_progress_update(p, done, NULL, false);
    return kin_signals_check("dataset cache", err);
}

/* The flags as a training configuration of this model, which knows the defaults. */
static kin_status clip_config(const kin_args *args, const char *data, const char *model,
                              kin_train_config *out, kin_error *err)
{
    static const char *const sizes[] = {"frames", "height", "width"};
    static const char *const texts[][2] = {{"caption-field", "caption_field"},
                                           {"caption-prefix", "caption_prefix"},
                                           {"filter", "filter"}};
    cJSON *j = cJSON_CreateObject(), *d = cJSON_AddObjectToObject(j, "data");
    bool ok = d && cJSON_AddStringToObject(j, "init_from", model) &&
              cJSON_AddStringToObject(d, "path", data);
    for (int i = 0; ok && i < 3; i++) {
        if (kin_args_source(args, sizes[i]))
            ok = cJSON_AddNumberToObject(d, sizes[i], (double)kin_args_int(args, sizes[i]));
        if (ok && kin_args_text(args, texts[i][0]))
            ok = cJSON_AddStringToObject(d, texts[i][1], kin_args_text(args, texts[i][0]));
    }
    kin_status status = ok ? kin_train_config_parse(j, NULL, NULL, out, err)
                           : kin_fail(err, KIN_ERR_MEM, "dataset cache: out of memory");
    cJSON_Delete(j);
    if (status == KIN_OK && !out->base) {
        kin_train_config_free(out);
        return kin_fail(err, KIN_ERR_FORMAT,
                        "dataset cache: clips need a directory of Wan or CogVideoX (-m), whose "
                        "text encoder they are encoded with too");
    }
    return status;
}

static kin_status make_clips(const kin_args *args, kin_ctx *ctx, const char *data, kin_error *err)
{
    kin_progress progress;
    kin_train_config config;
    char *model = realpath(kin_args_text(args, "model"), NULL);
    kin_cli_progress(args, &progress);
    if (!model)
        return kin_fail(err, KIN_ERR_FORMAT, "dataset cache: %s: no such folder",
                        kin_args_text(args, "model"));
    kin_status status = clip_config(args, data, model, &config, err);
    if (status == KIN_OK) {
        kin_clips_options opt = {.data = &config,
                                 .model = model,
                                 .out = kin_args_text(args, "output"),
                                 .progress = on_clip,
                                 .message = on_message,
                                 .user = &progress};
        status = kin_clips_make(ctx, &opt, err);
        kin_progress_end(&progress);
        if (status == KIN_OK)
            kin_cli_say(args, "%s: %lld files made, %lld kept\n", opt.out, (long long)opt.made,
                        (long long)opt.kept);
        kin_train_config_free(&config);
    }
    free(model);
    return status;
}

kin_status kin_cmd_cache(const kin_args *args, kin_error *err)
{
    const char *data = args->positional ? args->positional : kin_args_text(args, "data");
    char folder[KIN_PATH_MAX];
    kin_ctx *ctx = NULL;
    kin_vae_model *vae = NULL;
    if (!data || !kin_args_text(args, "model") || !kin_args_text(args, "output"))
        return kin_fail(err, KIN_ERR_ARG,
                        "dataset cache: needs images or clips (PATH), a VAE (-m DIR) and a folder "
                        "to write (-o DIR)");
    KIN_TRY(kin_cli_need_input("data set", data, err));
    KIN_TRY(find_vae(kin_args_text(args, "model"), folder, err));
    KIN_TRY(kin_cli_context(args, false, &ctx, err));
    kin_status status = kin_vae_model_load(ctx, folder, &vae);
    if (status != KIN_OK) {
        *err = ctx->error;
        /* note: an input that is not there is a bad input file */
        status = err->status = status == KIN_ERR_IO ? KIN_ERR_FORMAT : status;
    } else if (kin_vae_get_info(vae->vae)->video) {
        kin_vae_model_destroy(&vae);
        status = make_clips(args, ctx, data, err);
    } else {
        status = make(args, vae, folder, err);
    }
    kin_vae_model_destroy(&vae);
    kin_ctx_destroy(&ctx);
    return status;
}

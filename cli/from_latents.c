#include "cli/from_latents.h"

#include <string.h>

#include "cli/sampled.h"
#include "diffusion/decode.h"

typedef struct decoding {
    const kin_args *args;
    kin_progress progress;
    kin_output output;
    kin_sampled in;
    kin_ctx *ctx;
    kin_vae_model *vae;
    kin_decode_options opt;
    char folder[KIN_PATH_MAX];
    double started;
} decoding;

static kin_status check_flags(const kin_args *a, kin_error *err)
{
    static const char *const sampling[] = {
        "prompt", "negative-prompt", "physics", "class", "noise", "lora",         "steps", "seed",
        "width",  "height",          "frames",  "count", "npz",   "phys-weights", NULL};
    for (int i = 0; sampling[i]; i++)
        if (kin_args_source(a, sampling[i]) == KIN_SOURCE_FLAG)
            return kin_fail(err, KIN_ERR_ARG,
                            "generate: --%s is for sampling, --from-latents only decodes",
                            sampling[i]);
    return kin_cli_need_input("latents", kin_args_text(a, "from-latents"), err);
}

/* DIR/vae, or DIR itself */
static kin_status find_vae(decoding *d, kin_error *err)
{
    char dir[KIN_PATH_MAX];
    KIN_TRY(kin_cli_model(d->args, dir, err));
    KIN_TRY(kin_path_join(d->folder, dir, "vae", err));
    return kin_path_is_dir(d->folder) ? KIN_OK : kin_path_join(d->folder, NULL, dir, err);
}

static double setting(const decoding *d, const char *key, double fallback)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(d->in.settings, key);
    return cJSON_IsNumber(v) ? v->valuedouble : fallback;
}

static const char *text_setting(const cJSON *object, const char *key)
{
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, key));
}

/* What the file says of its run goes into the clip's metadata. */
static void set_output(decoding *d)
{
    d->output.fps = kin_args_source(d->args, "fps") == KIN_SOURCE_FLAG
                        ? kin_args_real(d->args, "fps")
                        : setting(d, "fps", 16);
    d->output.settings = d->in.text;
    d->output.prompt = text_setting(d->in.settings, "prompt");
    d->output.hash =
        text_setting(cJSON_GetObjectItemCaseSensitive(d->in.settings, "kinema"), "model_hash");
    d->output.seed = (uint64_t)setting(d, "seed", 0);
}

static kin_status load(decoding *d, bool plan, kin_error *err)
{
    const kin_tensor *z = &d->in.latents;
    KIN_TRY(kin_cli_context(d->args, plan, &d->ctx, err));
    if (kin_vae_model_load(d->ctx, d->folder, &d->vae) != KIN_OK) {
        *err = d->ctx->error;
        return err->status = err->status == KIN_ERR_IO ? KIN_ERR_FORMAT : err->status;
    }
    const kin_vae_info *info = kin_vae_get_info(d->vae->vae);
    if (!info->video || info->latent_channels != z->size[0])
        return kin_fail(err, KIN_ERR_FORMAT, "%s: %lld channels of latents are none of %s's",
                        kin_args_text(d->args, "from-latents"), (long long)z->size[0],
                        info->class_name);
    if (!plan && d->in.vae_hash && d->in.vae_hash != d->vae->hash)
        return kin_fail(err, KIN_ERR_FORMAT,
                        "%s: sampled for another VAE than %s (its weights differ)",
                        kin_args_text(d->args, "from-latents"), d->folder);
    return KIN_OK;
}

static void unload(decoding *d)
{
    kin_vae_model_destroy(&d->vae);
    kin_ctx_destroy(&d->ctx);
}

static kin_status decode(decoding *d, kin_tensor *frames, kin_error *err)
{
    const kin_tensor *t = &d->in.latents;
    const kin_tensor z = KIN_RESHAPE(t, 1, t->size[0], t->size[1], t->size[2], t->size[3]);
    if (kin_decode_clip(d->ctx, d->vae, &d->opt, &z, frames) == KIN_OK)
        return KIN_OK;
    *err = d->ctx->error;
    return err->status;
}

static kin_status plan(decoding *d, uint64_t *peak, kin_error *err)
{
    kin_tensor frames;
    kin_status status = load(d, true, err);
    if (status == KIN_OK)
        status = decode(d, &frames, err);
    if (status == KIN_OK)
        *peak = kin_cli_memory_used() + d->ctx->peak +
                kin_output_bytes(&d->output, frames.size[0], frames.size[1], frames.size[2]) +
                kin_params_resident_bytes(d->vae->params) - kin_params_pack_bytes(d->vae->params);
    unload(d);
    return status;
}

/* Tiles where memory is short without. */
static kin_status plan_all(decoding *d, uint64_t *peak, kin_error *err)
{
    const uint64_t left = kin_cli_memory_left();
    uint64_t less = 0;
    KIN_TRY(plan(d, peak, err));
    if (d->opt.tiling || !left || *peak <= left)
        return KIN_OK;
    d->opt.tiling = true;
    KIN_TRY(plan(d, &less, err));
    d->opt.tiling = less < *peak;
    *peak = d->opt.tiling ? less : *peak;
    if (d->opt.tiling)
        kin_progress_note(&d->progress, "memory is short: decoding in tiles");
    return KIN_OK;
}

static kin_status write_clip(decoding *d, kin_error *err)
{
    char path[KIN_PATH_MAX];
    kin_tensor frames;
    KIN_TRY(load(d, false, err));
    KIN_TRY(kin_output_prepare(&d->output, err));
    KIN_TRY(decode(d, &frames, err));
    KIN_TRY(kin_output_check_frames(&d->output, frames.size[0], err));
    KIN_TRY(kin_output_put(&d->output, 0, &frames, err));
    if (!kin_args_bool(d->args, "quiet"))
        fprintf(d->output.piped ? stderr : stdout,
                "%s: %lld frames %lldx%lld, %g fps, from latents, %.2f s\n", d->output.name,
                (long long)frames.size[0], (long long)frames.size[2], (long long)frames.size[1],
                d->output.fps, kin_clock_s() - d->started);
    if (!d->in.settings || d->output.piped)
        return KIN_OK;
    KIN_TRY(kin_output_settings_path(&d->output, path, err));
    return kin_cli_write_json(path, d->in.settings, err);
}

static kin_status run(decoding *d, kin_error *err)
{
    const kin_args *a = d->args;
    uint64_t peak = 0;
    KIN_TRY(check_flags(a, err));
    KIN_TRY(kin_cli_output(a, kin_args_text(a, "output"), 1, &d->output, err));
    KIN_TRY(kin_sampled_open(kin_args_text(a, "from-latents"), &d->in, err));
    KIN_TRY(find_vae(d, err));
    set_output(d);
    KIN_TRY(plan_all(d, &peak, err));
    if (kin_args_bool(a, "dry-run")) {
        printf("peak memory: %llu bytes (%.1f MB)\n", (unsigned long long)peak, (double)peak / 1e6);
        return KIN_OK;
    }
    KIN_TRY(kin_cli_check_memory("generate", peak, kin_args_bool(a, "force"), err));
    return write_clip(d, err);
}

kin_status kin_generate_from_latents(const kin_args *args, kin_error *err)
{
    decoding d = {.args = args,
                  .started = kin_clock_s(),
                  .opt = {.tiling = kin_args_bool(args, "vae-tiling"),
                          .tile = kin_args_int(args, "vae-tile"),
                          .allow_flat = kin_args_bool(args, "allow-flat")}};
    kin_cli_progress(args, &d.progress);
    kin_status status = run(&d, err);
    unload(&d);
    kin_sampled_close(&d.in);
    kin_output_close(&d.output);
    return status;
}

#include "cli/sampled.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "cli/record.h"

#define SUFFIX ".latents.safetensors"

kin_status kin_sampled_path(const kin_output *o, int64_t clip, char path[KIN_PATH_MAX],
                            kin_error *err)
{
    char whole[KIN_PATH_MAX];
    if (o->pattern && o->kind == KIN_OUTPUT_PNG && !o->columns)
        KIN_TRY(kin_output_settings_path(o, whole, err));
    else
        KIN_TRY(kin_output_path(o, clip, whole, err));
    const char *ext = kin_path_ext(whole);
    const int n = snprintf(path, KIN_PATH_MAX, "%.*s" SUFFIX, (int)(ext - 1 - whole), whole);
    return n < KIN_PATH_MAX ? KIN_OK : kin_fail(err, KIN_ERR_ARG, "output: the name is too long");
}

kin_status kin_sampled_write(const char *path, const kin_tensor *latents, const char *settings,
                             uint64_t vae_hash, kin_error *err)
{
    static const char *const names[] = {"latents"};
    char hash[17];
    const char *const metadata[] = {"settings", settings, "vae_hash", hash, NULL};
    snprintf(hash, sizeof hash, "%016" PRIx64, vae_hash);
    return kin_safetensors_write(path, names, latents, NULL, 1, metadata, err);
}

void kin_sampled_close(kin_sampled *s)
{
    cJSON_Delete(s->settings);
    kin_safetensors_close(&s->file);
    memset(s, 0, sizeof *s);
}

static kin_status read_parts(kin_sampled *s, kin_error *err)
{
    const char *hash;
    KIN_TRY(kin_safetensors_get(s->file, "latents", &s->latents, err));
    if (s->latents.ndim == 5 && s->latents.size[0] == 1)
        s->latents = kin_tensor_select(&s->latents, 0, 0);
    if (s->latents.ndim != 4 || s->latents.dtype != KIN_DTYPE_F32)
        return kin_fail(err, KIN_ERR_FORMAT, "latents must be f32 [C,f,h,w]");
    s->text = kin_safetensors_metadata(s->file, "settings");
    if (s->text)
        KIN_TRY(kin_json_parse(s->text, strlen(s->text), KIN_JSON_STRICT, &s->settings, err));
    hash = kin_safetensors_metadata(s->file, "vae_hash");
    s->vae_hash = hash ? strtoull(hash, NULL, 16) : 0;
    return KIN_OK;
}

kin_status kin_sampled_open(const char *path, kin_sampled *out, kin_error *err)
{
    memset(out, 0, sizeof *out);
    KIN_TRY(kin_safetensors_open(path, &out->file, err));
    return read_parts(out, err) == KIN_OK ? KIN_OK : kin_fail_prefix(err, "%s", path);
}

bool kin_sampled_matches(const kin_sampled *s, const cJSON *settings, char *text, size_t bytes)
{
    static const char *const ignored[] = {"threads",  "batch",      "progress", "model",
                                          "count",    "output",     "isa",      "vae-tiling",
                                          "vae-tile", "allow-flat", NULL};
    if (!s->settings) {
        snprintf(text, bytes, "no settings in it");
        return false;
    }
    return !kin_record_differs(s->settings, settings, ignored, text, bytes);
}

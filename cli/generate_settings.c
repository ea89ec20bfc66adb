/* cli/generate_settings.c: what is saved beside the output of `kinema generate` and in its
 * metadata.
 */
#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "cli/generation.h"

/* The settings without what may not change the bytes of a clip: threads, batch, how many there are,
 * where the model lies. */
static char *text_without_place(const cJSON *settings)
{
    static const char *const left_out[] = {"threads", "batch", "progress", "model", "count"};
    cJSON *copy = cJSON_Duplicate(settings, true);
    for (size_t i = 0; copy && i < sizeof left_out / sizeof left_out[0]; i++)
        cJSON_DeleteItemFromObject(copy, left_out[i]);
    cJSON_DeleteItemFromObject(cJSON_GetObjectItem(copy, "kinema"), "model");
    cJSON_DeleteItemFromObject(cJSON_GetObjectItem(copy, "kinema"), "from");
    char *text = copy ? cJSON_PrintUnformatted(copy) : NULL;
    cJSON_Delete(copy);
    return text;
}

static uint64_t hash_tensor(const kin_tensor *t)
{
    const size_t bytes = (size_t)kin_tensor_numel(t) * kin_dtype_size(t->dtype);
    return kin_fnv1a(KIN_FNV1A_START, t->data, bytes);
}

/* own: where every setting comes from; sizes that nobody gave are the model's. */
static kin_status add_origins(const kin_generation *g, cJSON *own, kin_error *err)
{
    static const char *const sizes[] = {"frames", "width", "height", "fps", "cfg-scale"};
    cJSON *from = NULL;
    bool ok = true;
    KIN_TRY(kin_args_origins(g->args, &from, err));
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        if (!kin_args_source(g->args, sizes[i]))
            ok = ok && cJSON_AddStringToObject(from, sizes[i], "model");
    if (ok && cJSON_AddItemToObject(own, "from", from))
        return KIN_OK;
    cJSON_Delete(from);
    return kin_fail(err, KIN_ERR_MEM, "generate: out of memory");
}

kin_status kin_generation_make_settings(kin_generation *g, const char *model_dir, kin_error *err)
{
    char buf[512];
    KIN_TRY(kin_args_settings(g->args, &g->settings, err));
    cJSON *own = cJSON_AddObjectToObject(g->settings, "kinema");
    bool ok = own && cJSON_AddStringToObject(own, "version", KIN_VERSION) &&
              cJSON_AddStringToObject(own, "model", model_dir) &&
              cJSON_AddStringToObject(own, "model_hash", g->pipeline->hash);
    if (ok)
        KIN_TRY(add_origins(g, own, err));
    if (g->condition.caption)
        ok = ok && cJSON_AddStringToObject(own, "text", g->condition.caption) &&
             cJSON_AddStringToObject(own, "physics",
                                     kin_prior_describe(&g->condition, buf, sizeof buf));
    if (g->classes.n) {
        snprintf(buf, sizeof buf, "%016llx", (unsigned long long)kin_classes_hash(&g->classes));
        ok = ok && cJSON_AddStringToObject(own, "classes", buf);
    }
    const struct {
        const char *name;
        double value;
    } sizes[] = {{"count", (double)g->count},
                 {"frames", (double)g->params.frames},
                 {"width", (double)g->params.width},
                 {"height", (double)g->params.height},
                 {"fps", g->fps},
                 {"cfg-scale", (double)g->params.cfg_scale}};
    if (cJSON_HasObjectItem(g->settings, "steps"))
        cJSON_SetNumberValue(cJSON_GetObjectItem(g->settings, "steps"), g->params.steps);
    for (size_t i = 0; ok && i < sizeof sizes / sizeof sizes[0]; i++) {
        cJSON_DeleteItemFromObject(g->settings, sizes[i].name);
        ok = cJSON_AddNumberToObject(g->settings, sizes[i].name, sizes[i].value);
    }
    if (g->params.noise) {
        snprintf(buf, sizeof buf, "%016llx", (unsigned long long)hash_tensor(&g->noise));
        ok = ok && cJSON_AddStringToObject(own, "noise_hash", buf);
    }
    if (ok && g->tiled) {
        cJSON_DeleteItemFromObject(g->settings, "vae-tiling");
        ok = cJSON_AddBoolToObject(g->settings, "vae-tiling", true);
    }
    g->settings_text = ok ? text_without_place(g->settings) : NULL;
    if (!g->settings_text)
        return kin_fail(err, KIN_ERR_MEM, "generate: out of memory");
    /* the record of a series compares these too; they are no part of a clip's metadata */
    if (g->series && (!cJSON_AddStringToObject(own, "output", kin_path_base(g->output.name)) ||
                      !cJSON_AddStringToObject(own, "isa", kin_isa_name(g->pipeline->ctx->isa))))
        return kin_fail(err, KIN_ERR_MEM, "generate: out of memory");
    g->output.settings = g->settings_text;
    g->output.prompt = kin_args_text(g->args, "prompt");
    g->output.hash = g->pipeline->hash;
    g->output.seed = g->params.seed;
    return KIN_OK;
}

#include "diffusion/condition.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/text.h"
#include "physics/prior_rules.h"

/* Puts the prompt in the place of the record's caption; the law stays behind it. */
static kin_status replace_caption(kin_physics_prior *p, const char *prompt, kin_error *err)
{
    const char *law = p->caption ? p->caption + p->caption_bytes : "";
    size_t n = strlen(prompt), m = strlen(law);
    char *text = kin_malloc(n + m + 1);
    if (!text)
        return kin_fail(err, KIN_ERR_MEM, "prompt: out of memory");
    memcpy(text, prompt, n);
    memcpy(text + n, law, m + 1);
    kin_free(p->caption);
    p->caption = text;
    p->caption_bytes = n;
    return KIN_OK;
}

static kin_status from_file(const char *path, const char *prompt,
                            const kin_annotation_options *options, kin_physics_prior *out,
                            kin_error *err)
{
    cJSON *json = NULL;
    kin_status status = KIN_OK;
    if (access(path, R_OK))
        return kin_fail(err, KIN_ERR_FORMAT,
                        "physics %s: cannot be read: no such file, or no right to read it", path);
    KIN_TRY(kin_json_read(path, 16 << 20, KIN_JSON_ALLOW_BOM, &json, err));
    const cJSON *record = cJSON_IsArray(json) ? json->child : json;
    if (!cJSON_IsObject(record))
        KIN_GOTO(kin_fail(err, KIN_ERR_FORMAT, "physics %s: must hold an annotation record", path));
    KIN_GOTO(kin_annotation_read(record, options, out, err));
    if (prompt)
        KIN_GOTO(replace_caption(out, prompt, err));
done:
    cJSON_Delete(json);
    if (status == KIN_ERR_FORMAT && !strstr(err->text, path))
        kin_fail_prefix(err, "physics %s", path);
    return status;
}

static bool is_published(const kin_pipeline *p)
{
    const kin_family family = kin_model_get_info(p->model)->family;
    return family == KIN_FAMILY_WAN || family == KIN_FAMILY_COGVIDEOX;
}

const char *kin_condition_physics(const char *said, const kin_pipeline *p)
{
    return !said && is_published(p) && !kin_model_get_info(p->model)->categories ? "none" : said;
}

bool kin_condition_with_law(const kin_pipeline *p, bool file)
{
    const cJSON *own = cJSON_GetObjectItemCaseSensitive(p->index, "kinema");
    const cJSON *field = cJSON_GetObjectItemCaseSensitive(own, "caption_field");
    if (cJSON_IsString(field))
        return strcmp(field->valuestring, "captions+phys_law") == 0;
    return file && is_published(p);
}

static kin_status make(const char *prompt, const char *physics, double seconds,
                       const kin_annotation_options *options, kin_physics_prior *out,
                       kin_error *err)
{
    bool none = physics && strcmp(physics, "none") == 0;
    if (physics && !none)
        return from_file(physics, prompt, options, out, err);
    if (!prompt)
        return kin_fail(err, KIN_ERR_ARG, "prompt: none given (as plain argument or -p TEXT)");
    if (!none)
        return kin_prior_from_text(prompt, seconds, out, err);
    out->caption = kin_strdup(prompt);
    out->caption_bytes = strlen(prompt);
    return out->caption ? KIN_OK : kin_fail(err, KIN_ERR_MEM, "prompt: out of memory");
}

kin_status kin_condition_make(const char *prompt, const char *physics, double seconds, bool law,
                              const kin_annotation_options *options, kin_physics_prior *out,
                              kin_error *err)
{
    memset(out, 0, sizeof *out);
    if (prompt && !kin_utf8_valid(prompt, strlen(prompt)))
        return kin_fail(err, KIN_ERR_ARG, "prompt: must be UTF-8");
    KIN_TRY(make(prompt, physics, seconds, options, out, err));
    if (!law && out->caption)
        out->caption[out->caption_bytes] = '\0';
    return KIN_OK;
}

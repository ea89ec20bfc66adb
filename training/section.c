#include "training/section.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

kin_status kin_section_put(const kin_section *s, const char *key, cJSON *value)
{
    return kin_json_put(s->obj, key, value)
               ? KIN_OK
               : kin_fail(s->err, KIN_ERR_MEM, "train config: out of memory");
}

kin_status kin_section_i64(const kin_section *s, const char *key, int64_t lo, int64_t hi,
                           int64_t *v)
{
    KIN_TRY(kin_json_get_i64(s->obj, key, lo, hi, v, s->err));
    return kin_section_put(s, key, cJSON_CreateNumber((double)*v));
}

kin_status kin_section_f64(const kin_section *s, const char *key, double lo, double hi, double *v)
{
    KIN_TRY(kin_json_get_f64(s->obj, key, v, s->err));
    if (!(*v >= lo && *v <= hi))
        return kin_fail(s->err, KIN_ERR_ARG, "train config: %s.%s %g must be between %g and %g",
                        s->name, key, *v, lo, hi);
    return kin_section_put(s, key, cJSON_CreateNumber(*v));
}

kin_status kin_section_f32(const kin_section *s, const char *key, double lo, double hi, float *v)
{
    double d = (double)*v;
    char text[32];
    /* the shortest decimal form, so that a default such as 0.1f is written as 0.1 */
    snprintf(text, sizeof text, "%.7g", d);
    sscanf(text, "%lf", &d);
    KIN_TRY(kin_section_f64(s, key, lo, hi, &d));
    *v = (float)d;
    return KIN_OK;
}

kin_status kin_section_bool(const kin_section *s, const char *key, bool *v)
{
    KIN_TRY(kin_json_get_bool(s->obj, key, v, s->err));
    return kin_section_put(s, key, cJSON_CreateBool(*v));
}

kin_status kin_section_str(const kin_section *s, const char *key, char *out, size_t bytes,
                           bool keep)
{
    const char *text = NULL;
    KIN_TRY(kin_json_get_str(s->obj, key, &text, s->err));
    if (text && strlen(text) >= bytes)
        return kin_fail(s->err, KIN_ERR_ARG, "train config: %s.%s must be shorter than %zu bytes",
                        s->name, key, bytes);
    if (text)
        memcpy(out, text, strlen(text) + 1);
    return text || !keep ? KIN_OK : kin_section_put(s, key, cJSON_CreateString(out));
}

kin_status kin_section_path(const kin_section *s, const char *key, const char *dir,
                            char out[KIN_PATH_MAX])
{
    char name[KIN_PATH_MAX] = "";
    KIN_TRY(kin_section_str(s, key, name, sizeof name, false));
    char joined[KIN_PATH_MAX], real[PATH_MAX];
    out[0] = '\0';
    if (!name[0])
        return KIN_OK;
    KIN_TRY(kin_path_join(joined, dir, name, s->err));
    /* absolute, so that the resolved configuration means the same from any folder */
    const char *found = realpath(joined, real);
    if (found && strlen(found) < KIN_PATH_MAX)
        memcpy(joined, found, strlen(found) + 1);
    memcpy(out, joined, sizeof joined);
    return kin_section_put(s, key, cJSON_CreateString(out));
}

kin_status kin_section_child(const kin_section *s, const char *key, const char *const *known,
                             kin_section *out)
{
    cJSON *obj = cJSON_GetObjectItemCaseSensitive(s->obj, key);
    if (!obj || cJSON_IsNull(obj)) {
        KIN_TRY(kin_section_put(s, key, cJSON_CreateObject()));
        obj = cJSON_GetObjectItemCaseSensitive(s->obj, key);
    }
    if (!cJSON_IsObject(obj))
        return kin_fail(s->err, KIN_ERR_FORMAT, "train config: %s must be an object", key);
    *out = (kin_section){obj, key, s->err};
    return kin_json_known_keys(obj, known, key, s->err);
}

kin_status kin_section_object(const kin_section *s, const char *key, const cJSON **out)
{
    const cJSON *obj = cJSON_GetObjectItemCaseSensitive(s->obj, key);
    *out = NULL;
    if (!obj || cJSON_IsNull(obj))
        return KIN_OK;
    if (!cJSON_IsObject(obj))
        return kin_fail(s->err, KIN_ERR_FORMAT, "train config: %s must be an object", key);
    *out = obj;
    return KIN_OK;
}

kin_status kin_section_pick(const kin_section *s, const char *key, const char *const *names,
                            int *at)
{
    char text[32], list[128] = "";
    snprintf(text, sizeof text, "%s", names[*at]);
    KIN_TRY(kin_section_str(s, key, text, sizeof text, true));
    for (int i = 0; names[i]; i++) {
        if (strcmp(names[i], text) == 0) {
            *at = i;
            return KIN_OK;
        }
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i ? ", " : "", names[i]);
    }
    return kin_fail(s->err, KIN_ERR_ARG, "train config: %s.%s \"%s\" must be one of %s", s->name,
                    key, text, list);
}

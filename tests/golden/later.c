/* tests/golden/later.c: what belongs to later work, by kind and, where a kind has classes, by the
 * value of one key of its config. A case listed here fails when it is named directly; the walk over
 * a folder of cases prints it as skipped. */
#include "tests/golden/golden.h"

#include <string.h>

typedef struct later_row {
    const char *kind;
    const char *key;   /* NULL: every case of the kind. "a.b": key b of the object a */
    const char *value; /* "true" for a boolean */
    const char *why;
} later_row;

static const later_row rows[] = {
    {"prompt_clean", NULL, NULL, "prompt cleaning belongs to later work"},
};

/* "a.b" in nested objects. */
static const cJSON *lookup(const cJSON *config, const char *key)
{
    char part[64];
    const char *dot = strchr(key, '.');
    if (!dot)
        return cJSON_GetObjectItemCaseSensitive(config, key);
    size_t n = (size_t)(dot - key);
    if (n >= sizeof part)
        return NULL;
    memcpy(part, key, n);
    part[n] = '\0';
    return lookup(cJSON_GetObjectItemCaseSensitive(config, part), dot + 1);
}

const char *kin_golden_later(const char *kind, const cJSON *config)
{
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const later_row *r = &rows[i];
        if (strcmp(r->kind, kind) != 0)
            continue;
        if (!r->key)
            return r->why;
        const cJSON *v = lookup(config, r->key);
        const char *text = cJSON_IsTrue(v) ? "true" : cJSON_GetStringValue(v);
        if (text && strcmp(text, r->value) == 0)
            return r->why;
    }
    return NULL;
}

#include "diffusion/wisa.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

enum { CATEGORIES = 29, MAX_LAYERS = 1024 };

/* how a family spells its physical blocks */
typedef struct naming {
    const char *class_name, *blocks;
    int64_t layers, head_dim; /* what diffusers assumes */
    int64_t only_last;        /* insert_gap of a block after the last one alone */
} naming;

static const naming namings[] = {
    {"WanTransformer3DModel", "phys_blocks.", 40, 128, 42},
    {"CogVideoXTransformer3DModel", "phys_transformer_blocks.", 30, 64, 999},
};

static const naming *naming_of(const cJSON *config)
{
    const char *name =
        cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(config, "_class_name"));

    for (size_t i = 0; name && i < sizeof(namings) / sizeof(namings[0]); i++) {
        if (!strcmp(name, namings[i].class_name))
            return &namings[i];
    }
    return NULL;
}

typedef struct found {
    bool any, classifier;
    bool block[MAX_LAYERS];
    int64_t rows;        /* of a physical to_q */
    int64_t classes;     /* of the classifier, 0: none */
    int64_t quantity[2]; /* rows and columns of quantify_proj */
    bool two_maps;       /* linear_adaln.0 and .2 */
} found;

/* what one name tells */
static kin_status look_at(const naming *n, const kin_safetensors_entry *e, int64_t layers, found *f,
                          kin_error *err)
{
    const size_t prefix = strlen(n->blocks);
    char *end;

    if (!strncmp(e->name, n->blocks, prefix)) {
        const long long i = strtoll(e->name + prefix, &end, 10);

        if (end == e->name + prefix || *end != '.' || i < 0 || i >= layers)
            return kin_fail(err, KIN_ERR_FORMAT,
                            "physics: \"%.100s\" follows no layer of 0 to %lld", e->name,
                            (long long)layers - 1);
        f->any = f->block[i] = true;
        if (!strcmp(end, ".phys_attn.to_q.weight") && e->ndim == 2)
            f->rows = e->size[0];
        return KIN_OK;
    }
    if (strncmp(e->name, "phys_", 5) != 0)
        return KIN_OK;
    f->any = true;
    if (!strcmp(e->name, "phys_token") || !strncmp(e->name, "phys_classifier.", 16))
        f->classifier = true;
    if (!strcmp(e->name, "phys_classifier.2.weight") && e->ndim == 2)
        f->classes = e->size[0];
    if (!strcmp(e->name, "phys_quantify_embedder.quantify_proj.weight") && e->ndim == 2)
        memcpy(f->quantity, e->size, sizeof(f->quantity));
    if (!strcmp(e->name, "phys_quantify_embedder.linear_adaln.0.weight"))
        f->two_maps = true;
    return KIN_OK;
}

static bool follows(const naming *n, int64_t i, int64_t gap, int64_t layers)
{
    return i == layers - 1 || (gap != n->only_last && i % gap == 0);
}

/* The insert_gap that puts blocks where they are, 0: none does. */
static int64_t find_gap(const naming *n, const found *f, int64_t layers)
{
    for (int64_t k = 0; k <= layers; k++) {
        const int64_t gap = k ? k : n->only_last;
        int64_t i = 0;

        while (i < layers && f->block[i] == follows(n, i, gap, layers))
            i++;
        if (i == layers && (k == 0 || gap != n->only_last))
            return gap;
    }
    return 0;
}

/* "39" or "0, 20, 39" */
static void list_blocks(const found *f, int64_t layers, char *text, size_t bytes)
{
    size_t used = 0;

    text[0] = '\0';
    for (int64_t i = 0; i < layers && used + 1 < bytes; i++) {
        if (f->block[i])
            used += (size_t)snprintf(text + used, bytes - used, "%s%lld", used ? ", " : "",
                                     (long long)i);
    }
}

static kin_status complete(const naming *n, const found *f, int64_t layers, int64_t head_dim,
                           cJSON *config, char *text, size_t bytes, kin_error *err)
{
    const int64_t gap = find_gap(n, f, layers);
    char list[80], classifier[48] = "no classifier";

    list_blocks(f, layers, list, sizeof(list));
    if (!gap)
        return kin_fail(err, KIN_ERR_FORMAT,
                        "physics: blocks after layers %s of %lld follow no insert_gap",
                        list[0] ? list : "(none)", (long long)layers);
    if (f->rows != 2 * CATEGORIES * head_dim || (f->classes && f->classes != CATEGORIES))
        return kin_fail(err, KIN_ERR_UNSUPPORTED,
                        "physics: %lld rows of to_q and %lld classes must be those of %d heads of "
                        "%lld and %d classes",
                        (long long)f->rows, (long long)f->classes, 2 * CATEGORIES,
                        (long long)head_dim, CATEGORIES);
    if (!cJSON_AddNumberToObject(config, "insert_gap", (double)gap) ||
        !cJSON_AddBoolToObject(config, "whether_classifier", f->classifier))
        return kin_fail(err, KIN_ERR_MEM, "physics: out of memory");
    if (f->classifier)
        snprintf(classifier, sizeof(classifier), "token and classifier of %d", CATEGORIES);
    snprintf(text, bytes,
             "physics, from the names of tensors: blocks after layers %s (insert_gap %lld), %d "
             "heads of %lld, %s, quantities %lld to %lld and %s",
             list, (long long)gap, 2 * CATEGORIES, (long long)head_dim, classifier,
             (long long)f->quantity[1], (long long)f->quantity[0],
             f->two_maps ? "two maps" : "one map");
    return KIN_OK;
}

kin_status kin_wisa_infer(const kin_safetensors *const files[2], cJSON *config, char *text,
                          size_t bytes, kin_error *err)
{
    const naming *n = naming_of(config);
    int64_t layers, head_dim;
    found f = {0};

    text[0] = '\0';
    if (!n || cJSON_GetObjectItemCaseSensitive(config, "insert_gap") ||
        cJSON_GetObjectItemCaseSensitive(config, "whether_classifier"))
        return KIN_OK;
    layers = n->layers;
    head_dim = n->head_dim;
    KIN_TRY(kin_json_get_i64(config, "num_layers", 1, MAX_LAYERS, &layers, err));
    KIN_TRY(kin_json_get_i64(config, "attention_head_dim", 2, 1024, &head_dim, err));
    for (int k = 0; k < 2; k++) {
        for (int64_t i = 0; files[k] && i < kin_safetensors_count(files[k]); i++)
            KIN_TRY(look_at(n, kin_safetensors_at(files[k], i), layers, &f, err));
    }
    return f.any ? complete(n, &f, layers, head_dim, config, text, bytes, err) : KIN_OK;
}

#include "training/latents.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/path.h"
#include "io/safetensors.h"

enum { MAX_INDEX = 256 << 20, MAX_SHARDS = 1 << 20 };

typedef struct shard {
    kin_safetensors *file;
    const float *moments; /* [n,2,2C,h,w] */
    const int32_t *label; /* [n] */
} shard;

struct kin_latents {
    char path[KIN_PATH_MAX];
    cJSON *index;
    kin_latents_info info;
    int64_t per_shard;
    const cJSON *classes;
    shard *shards[2];
    int64_t shard_count[2];
};

bool kin_latents_is(const char *path)
{
    char index[KIN_PATH_MAX];
    return kin_path_is_dir(path) && kin_path_join(index, path, "latents.json", NULL) == KIN_OK &&
           kin_path_exists(index);
}

static kin_status check_index(kin_latents *l, kin_error *err)
{
    static const char *const known[] = {
        "version", "key",  "image_size", "channels", "height",         "width",        "shard",
        "train",   "held", "classes",    "vae",      "scaling_factor", "shift_factor", NULL};
    const cJSON *j = l->index;
    kin_latents_info *n = &l->info;
    const char *key = NULL;
    int64_t version = 0;
    double scale = 0, shift = 0;
    KIN_TRY(kin_json_known_keys(j, known, "latents.json", err));
    KIN_TRY(kin_json_get_i64(j, "version", 1, 1, &version, err));
    KIN_TRY(kin_json_get_i64(j, "image_size", 1, 16384, &n->image_size, err));
    KIN_TRY(kin_json_get_i64(j, "channels", 1, 4096, &n->channels, err));
    KIN_TRY(kin_json_get_i64(j, "height", 1, 16384, &n->height, err));
    KIN_TRY(kin_json_get_i64(j, "width", 1, 16384, &n->width, err));
    KIN_TRY(kin_json_get_i64(j, "shard", 1, 1 << 20, &l->per_shard, err));
    KIN_TRY(kin_json_get_i64(j, "train", 1, INT64_C(1) << 40, &n->count[0], err));
    KIN_TRY(kin_json_get_i64(j, "held", 0, INT64_C(1) << 40, &n->count[1], err));
    KIN_TRY(kin_json_get_f64(j, "scaling_factor", &scale, err));
    KIN_TRY(kin_json_get_f64(j, "shift_factor", &shift, err));
    KIN_TRY(kin_json_get_str(j, "vae", &n->vae, err));
    KIN_TRY(kin_json_get_str(j, "key", &key, err));
    l->classes = cJSON_GetObjectItemCaseSensitive(j, "classes");
    n->classes = cJSON_GetArraySize(l->classes);
    n->scale = (float)scale;
    n->shift = (float)shift;
    n->key = key ? strtoull(key, NULL, 16) : 0;
    if (version != 1 || !n->image_size || !n->channels || !n->height || !n->width ||
        !l->per_shard || !n->count[0] || !n->vae || !key || !cJSON_IsArray(l->classes) ||
        n->classes < 1 || !(scale > 0))
        return kin_fail(err, KIN_ERR_FORMAT, "latents.json: a member is missing");
    for (const cJSON *c = l->classes->child; c; c = c->next)
        if (!cJSON_IsString(c))
            return kin_fail(err, KIN_ERR_FORMAT, "latents.json: classes must be names");
    for (int k = 0; k < 2; k++) {
        l->shard_count[k] = (n->count[k] + l->per_shard - 1) / l->per_shard;
        if (l->shard_count[k] > MAX_SHARDS)
            return kin_fail(err, KIN_ERR_FORMAT, "latents.json: more than %d shards",
                            (int)MAX_SHARDS);
    }
    return KIN_OK;
}

static kin_status open_shard(const kin_latents *l, int part, int64_t i, shard *s, kin_error *err)
{
    const kin_latents_info *n = &l->info;
    const int64_t left = n->count[part] - i * l->per_shard,
                  rows = left < l->per_shard ? left : l->per_shard,
                  want[5] = {rows, 2, 2 * n->channels, n->height, n->width};
    char name[64], path[KIN_PATH_MAX];
    kin_tensor moments, label;
    snprintf(name, sizeof name, "%s-%06" PRId64 ".safetensors", part ? "held" : "train", i);
    KIN_TRY(kin_path_join(path, l->path, name, err));
    KIN_TRY(kin_safetensors_open(path, &s->file, err));
    KIN_TRY(kin_safetensors_get(s->file, "moments", &moments, err));
    KIN_TRY(kin_safetensors_get(s->file, "label", &label, err));
    bool ok = moments.ndim == 5 && moments.dtype == KIN_DTYPE_F32 && label.ndim == 1 &&
              label.dtype == KIN_DTYPE_I32 && label.size[0] == rows;
    for (int d = 0; ok && d < 5; d++)
        ok = moments.size[d] == want[d];
    for (int64_t b = 0; ok && b < rows; b++)
        ok = ((const int32_t *)label.data)[b] >= 0 && ((const int32_t *)label.data)[b] < n->classes;
    if (!ok)
        return kin_fail(err, KIN_ERR_FORMAT, "%s: does not fit latents.json", path);
    s->moments = moments.data;
    s->label = label.data;
    return KIN_OK;
}

static kin_status open_all(kin_latents *l, kin_error *err)
{
    char path[KIN_PATH_MAX];
    KIN_TRY(kin_path_join(path, l->path, "latents.json", err));
    KIN_TRY(kin_json_read(path, MAX_INDEX, KIN_JSON_STRICT, &l->index, err));
    KIN_TRY(check_index(l, err));
    for (int k = 0; k < 2; k++) {
        l->shards[k] = kin_calloc((size_t)l->shard_count[k] + 1, sizeof *l->shards[k]);
        if (!l->shards[k])
            return kin_fail(err, KIN_ERR_MEM, "latents: out of memory");
        for (int64_t i = 0; i < l->shard_count[k]; i++)
            KIN_TRY(open_shard(l, k, i, &l->shards[k][i], err));
    }
    return KIN_OK;
}

kin_status kin_latents_open(const char *path, kin_latents **out, kin_error *err)
{
    *out = NULL;
    kin_latents *l = kin_calloc(1, sizeof *l);
    if (!l)
        return kin_fail(err, KIN_ERR_MEM, "latents: out of memory");
    snprintf(l->path, sizeof l->path, "%s", path);
    kin_status status = open_all(l, err);
    if (status != KIN_OK) {
        kin_latents_close(&l);
        return status;
    }
    *out = l;
    return KIN_OK;
}

void kin_latents_close(kin_latents **pl)
{
    kin_latents *l = *pl;
    if (!l)
        return;
    for (int k = 0; k < 2; k++) {
        for (int64_t i = 0; l->shards[k] && i < l->shard_count[k]; i++)
            kin_safetensors_close(&l->shards[k][i].file);
        kin_free(l->shards[k]);
    }
    cJSON_Delete(l->index);
    kin_free(l);
    *pl = NULL;
}

const kin_latents_info *kin_latents_get_info(const kin_latents *l)
{
    return &l->info;
}

const char *kin_latents_class_name(const kin_latents *l, int64_t class_id)
{
    return cJSON_GetArrayItem(l->classes, (int)class_id)->valuestring;
}

int32_t kin_latents_label(const kin_latents *l, bool held_out, int64_t i)
{
    return l->shards[held_out][i / l->per_shard].label[i % l->per_shard];
}

const float *kin_latents_moments(const kin_latents *l, bool held_out, int64_t i, bool mirrored)
{
    const kin_latents_info *n = &l->info;
    const int64_t one = 2 * n->channels * n->height * n->width;
    return l->shards[held_out][i / l->per_shard].moments +
           (2 * (i % l->per_shard) + mirrored) * one;
}

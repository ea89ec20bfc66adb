#include "training/clips.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "io/safetensors.h"

enum { MAX_INDEX = 512 << 20, KEY_DIGITS = 16 };

typedef struct clip_record {
    const char *text, *latents, *prompt; /* keys; in the index */
    float prior[KIN_PHYS_CATEGORIES], quant[KIN_PHYS_QUANTITIES];
} clip_record;

struct kin_clips {
    char path[KIN_PATH_MAX];
    cJSON *index;
    kin_clips_info info;
    float *norm; /* mean [C], inv_std [C] */
    clip_record *records;
};

kin_status kin_clips_path(char out[KIN_PATH_MAX], const char *folder, const char *kind,
                          const char *key, kin_error *err)
{
    char name[64];
    snprintf(name, sizeof name, "%s/%.2s/%s.safetensors", kind, key, key);
    return kin_path_join(out, folder, name, err);
}

bool kin_clips_is(const char *path)
{
    char index[KIN_PATH_MAX];
    return kin_path_is_dir(path) && kin_path_join(index, path, "clips.json", NULL) == KIN_OK &&
           kin_path_exists(index);
}

/* --- the index --- */

static bool is_key(const char *s)
{
    return s && strlen(s) == KEY_DIGITS && strspn(s, "0123456789abcdef") == KEY_DIGITS;
}

/* `n` numbers of a list, or false. */
static bool numbers(const cJSON *list, int64_t n, float *out)
{
    const cJSON *m = cJSON_IsArray(list) ? list->child : NULL;
    for (int64_t i = 0; i < n; i++, m = m->next) {
        if (!m || !cJSON_IsNumber(m) || !isfinite(m->valuedouble))
            return false;
        out[i] = (float)m->valuedouble;
    }
    return m == NULL;
}

static const char *text_of(const cJSON *obj, const char *key)
{
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(obj, key));
}

static kin_status read_record(const cJSON *j, int64_t i, clip_record *r, kin_error *err)
{
    static const char *const known[] = {"text", "latents", "prompt", "prior", "quant", NULL};
    KIN_TRY(kin_json_known_keys(j, known, "clips.json: record", err));
    r->text = text_of(j, "text");
    r->latents = text_of(j, "latents");
    r->prompt = text_of(j, "prompt");
    const cJSON *prior = cJSON_GetObjectItemCaseSensitive(j, "prior");
    bool ok = is_key(r->text) && is_key(r->latents) && r->prompt && cJSON_IsArray(prior) &&
              numbers(cJSON_GetObjectItemCaseSensitive(j, "quant"), KIN_PHYS_QUANTITIES, r->quant);
    for (const cJSON *m = ok ? prior->child : NULL; m; m = m->next) {
        const double at = cJSON_IsNumber(m) ? m->valuedouble : -1;
        ok = ok && at >= 0 && at < KIN_PHYS_CATEGORIES && at == floor(at);
        if (ok)
            r->prior[(int)at] = 1;
    }
    return ok ? KIN_OK
              : kin_fail(err, KIN_ERR_FORMAT, "clips.json: record %" PRId64 " is damaged", i);
}

static kin_status read_sizes(kin_clips *c, kin_error *err)
{
    static const char *const known[] = {
        "version",      "key",      "model",    "frames",       "height",      "width",
        "latent",       "text_len", "text_dim", "latents_mean", "latents_std", "scaling_factor",
        "shift_factor", "records",  NULL};
    const cJSON *j = c->index;
    kin_clips_info *n = &c->info;
    int64_t version = 0;
    double scale = 0, shift = 0;
    float latent[4] = {0};
    KIN_TRY(kin_json_known_keys(j, known, "clips.json", err));
    KIN_TRY(kin_json_get_i64(j, "version", 1, 1, &version, err));
    KIN_TRY(kin_json_get_i64(j, "frames", 1, 4096, &n->pixels[0], err));
    KIN_TRY(kin_json_get_i64(j, "height", 1, 16384, &n->pixels[1], err));
    KIN_TRY(kin_json_get_i64(j, "width", 1, 16384, &n->pixels[2], err));
    KIN_TRY(kin_json_get_i64(j, "text_len", 1, 1 << 16, &n->text_len, err));
    KIN_TRY(kin_json_get_i64(j, "text_dim", 1, 1 << 16, &n->text_dim, err));
    KIN_TRY(kin_json_get_f64(j, "scaling_factor", &scale, err));
    KIN_TRY(kin_json_get_f64(j, "shift_factor", &shift, err));
    bool ok = version == 1 && n->pixels[0] && n->pixels[1] && n->pixels[2] && n->text_len &&
              n->text_dim && scale > 0 &&
              numbers(cJSON_GetObjectItemCaseSensitive(j, "latent"), 4, latent);
    for (int i = 0; i < 4; i++)
        ok = ok && latent[i] >= 1 && latent[i] <= 16384;
    n->model = text_of(j, "model");
    if (!ok || !n->model || !is_key(text_of(j, "key")))
        return kin_fail(err, KIN_ERR_FORMAT, "clips.json: a member is missing or out of range");
    n->channels = (int64_t)latent[0];
    n->frames = (int64_t)latent[1];
    n->height = (int64_t)latent[2];
    n->width = (int64_t)latent[3];
    n->scale = (float)scale;
    n->shift = (float)shift;
    n->key = strtoull(text_of(j, "key"), NULL, 16);
    return KIN_OK;
}

/* The VAE's mean and deviation per channel, where it has them. */
static kin_status read_norm(kin_clips *c, kin_error *err)
{
    const cJSON *mean = cJSON_GetObjectItemCaseSensitive(c->index, "latents_mean"),
                *std = cJSON_GetObjectItemCaseSensitive(c->index, "latents_std");
    const int64_t n = c->info.channels;
    if (!mean && !std)
        return KIN_OK;
    c->norm = kin_malloc(2 * (size_t)n * sizeof *c->norm);
    if (!c->norm)
        return kin_fail(err, KIN_ERR_MEM, "clips: out of memory");
    bool ok = numbers(mean, n, c->norm) && numbers(std, n, c->norm + n);
    for (int64_t i = 0; ok && i < n; i++) {
        ok = c->norm[n + i] > 0;
        c->norm[n + i] = 1.0f / c->norm[n + i];
    }
    c->info.mean = c->norm;
    c->info.inv_std = c->norm + n;
    return ok ? KIN_OK
              : kin_fail(err, KIN_ERR_FORMAT,
                         "clips.json: latents_mean and latents_std must be %" PRId64
                         " numbers, the latter above 0",
                         n);
}

static kin_status open_all(kin_clips *c, kin_error *err)
{
    char path[KIN_PATH_MAX];
    KIN_TRY(kin_path_join(path, c->path, "clips.json", err));
    KIN_TRY(kin_json_read(path, MAX_INDEX, KIN_JSON_STRICT, &c->index, err));
    KIN_TRY(read_sizes(c, err));
    KIN_TRY(read_norm(c, err));
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(c->index, "records");
    c->info.count = cJSON_GetArraySize(list);
    if (!cJSON_IsArray(list) || c->info.count < 1)
        return kin_fail(err, KIN_ERR_FORMAT, "%s: lists no records", path);
    c->records = kin_calloc((size_t)c->info.count, sizeof *c->records);
    if (!c->records)
        return kin_fail(err, KIN_ERR_MEM, "clips: out of memory");
    int64_t i = 0;
    for (const cJSON *m = list->child; m; m = m->next, i++)
        KIN_TRY(read_record(m, i, &c->records[i], err));
    return KIN_OK;
}

kin_status kin_clips_open(const char *path, kin_clips **out, kin_error *err)
{
    *out = NULL;
    kin_clips *c = kin_calloc(1, sizeof *c);
    if (!c)
        return kin_fail(err, KIN_ERR_MEM, "clips: out of memory");
    snprintf(c->path, sizeof c->path, "%s", path);
    kin_status status = open_all(c, err);
    if (status != KIN_OK) {
        kin_clips_close(&c);
        return status;
    }
    *out = c;
    return KIN_OK;
}

void kin_clips_close(kin_clips **pc)
{
    kin_clips *c = *pc;
    if (!c)
        return;
    cJSON_Delete(c->index);
    kin_free(c->norm);
    kin_free(c->records);
    kin_free(c);
    *pc = NULL;
}

const kin_clips_info *kin_clips_get_info(const kin_clips *c)
{
    return &c->info;
}

const char *kin_clips_prompt(const kin_clips *c, int64_t i)
{
    return c->records[i].prompt;
}

/* --- the files --- */

/* Tensor `name` of a file of the cache, at most `most` values of rows of `row`, into out; the rest
 * of out is zeroed. exact: all of them. */
static kin_status read_values(const kin_clips *c, const char *kind, const char *key,
                              const char *name, int64_t row, int64_t most, bool exact, float *out,
                              kin_error *err)
{
    char path[KIN_PATH_MAX];
    kin_safetensors *st = NULL;
    kin_tensor t;
    kin_status status;
    KIN_TRY(kin_clips_path(path, c->path, kind, key, err));
    KIN_TRY(kin_safetensors_open(path, &st, err));
    status = kin_safetensors_get(st, name, &t, err);
    const int64_t n = status == KIN_OK ? kin_tensor_numel(&t) : 0;
    if (status == KIN_OK &&
        (t.dtype != KIN_DTYPE_F32 || n > most || n % row || (exact && n != most)))
        status = kin_fail(err, KIN_ERR_FORMAT, "%s: does not fit clips.json", path);
    if (status == KIN_OK) {
        memcpy(out, t.data, (size_t)n * sizeof *out);
        memset(out + n, 0, (size_t)(most - n) * sizeof *out);
    }
    kin_safetensors_close(&st);
    return status;
}

kin_status kin_clips_read(const kin_clips *c, int64_t i, const kin_clips_sample *out,
                          kin_error *err)
{
    const clip_record *r = &c->records[i];
    const kin_clips_info *n = &c->info;
    memcpy(out->prior, r->prior, sizeof r->prior);
    memcpy(out->quant, r->quant, sizeof r->quant);
    KIN_TRY(read_values(c, "text", r->text, "states", n->text_dim, n->text_len * n->text_dim, false,
                        out->states, err));
    return read_values(c, "latents", r->latents, "moments", 1,
                       2 * n->channels * n->frames * n->height * n->width, true, out->moments, err);
}

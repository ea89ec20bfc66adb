/* training/latents_make.c: pictures through a VAE's encoder into the shards of a cache. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/lock.h"
#include "base/path.h"
#include "io/safetensors.h"
#include "training/images.h"
#include "training/latents.h"
#include "vision/frames.h"

typedef struct maker {
    kin_vae_model *vae;
    kin_lock lock; /* of the folder */
    kin_latents_options *opt;
    kin_images *images;
    int64_t channels, side; /* C, h = w */
    uint8_t *pixels;        /* [shard,s,s,3] */
    float *moments;         /* [shard,2,2C,h,h] */
    int32_t *label;         /* [shard] */
    uint64_t key;           /* of all shards so far */
    int64_t done;
} maker;

static size_t picture_bytes(const maker *m)
{
    return (size_t)(m->opt->size * m->opt->size) * 3;
}

/* Pictures and labels [at, at+n) of a part, and their key. */
static kin_status read_pictures(maker *m, bool held, int64_t at, int64_t n, uint64_t *key,
                                kin_error *err)
{
    const int64_t size = m->opt->size;
    *key = kin_fnv1a(KIN_FNV1A_START, &m->vae->hash, sizeof m->vae->hash);
    *key = kin_fnv1a(*key, &size, sizeof size);
    for (int64_t b = 0; b < n; b++) {
        uint8_t *to = m->pixels + (size_t)b * picture_bytes(m);
        kin_tensor dst = KIN_TENSOR(to, KIN_DTYPE_U8, size, size, 3);
        KIN_TRY(kin_images_read(m->images, held, at + b, &dst, err));
        m->label[b] = kin_images_label(m->images, held, at + b);
        *key = kin_fnv1a(*key, &m->label[b], sizeof m->label[b]);
        *key = kin_fnv1a(*key, to, picture_bytes(m));
    }
    return KIN_OK;
}

/* True if the shard is there and has this key. */
static bool is_made(const char *path, const char *key)
{
    kin_safetensors *st;
    if (!kin_path_exists(path) || kin_safetensors_open(path, &st, NULL) != KIN_OK)
        return false;
    const char *have = kin_safetensors_metadata(st, "key");
    const bool same = have && strcmp(have, key) == 0;
    kin_safetensors_close(&st);
    return same;
}

/* Moments of n pictures of the shard from number `at` on, as they are (mirrored 0) or mirrored. */
static kin_status encode(maker *m, int64_t at, int64_t n, int mirrored)
{
    kin_ctx *ctx = m->vae->ctx;
    const int64_t size = m->opt->size, half = m->channels * m->side * m->side;
    const size_t mark = kin_ws_mark(ctx);
    kin_tensor x, mean, logvar;
    kin_status status = KIN_OK;
    KIN_GOTO(KIN_WS_HOST(ctx, &x, KIN_DTYPE_F32, n, 3, size, size));
    for (int64_t b = 0; b < n; b++) {
        kin_tensor from = KIN_TENSOR(m->pixels + (size_t)(at + b) * picture_bytes(m), KIN_DTYPE_U8,
                                     1, size, size, 3);
        kin_tensor to =
            KIN_TENSOR((float *)x.data + b * 3 * size * size, KIN_DTYPE_F32, 3, 1, size, size);
        KIN_GOTO(kin_frames_to_tensor(&from, &to, &ctx->error));
    }
    KIN_GOTO(kin_vae_encode(ctx, m->vae->vae, &x, &mean, &logvar));
    KIN_GOTO(kin_host(ctx, &mean, &mean));
    KIN_GOTO(kin_host(ctx, &logvar, &logvar));
    for (int64_t b = 0; b < n; b++) {
        float *to = m->moments + (2 * (at + b) + mirrored) * 2 * half;
        const kin_tensor a = kin_tensor_select(&mean, 0, b), v = kin_tensor_select(&logvar, 0, b);
        memcpy(to, a.data, (size_t)half * sizeof *to);
        memcpy(to + half, v.data, (size_t)half * sizeof *to);
    }
done:
    kin_ws_release(ctx, mark);
    return status;
}

static kin_status encode_shard(maker *m, int64_t n, int64_t total, kin_error *err)
{
    const kin_latents_options *o = m->opt;
    for (int64_t at = 0; at < n; at += o->batch) {
        const int64_t part = n - at < o->batch ? n - at : o->batch;
        for (int mirrored = 0; mirrored < 2; mirrored++) {
            if (encode(m, at, part, mirrored) != KIN_OK) {
                *err = m->vae->ctx->error;
                return err->status;
            }
            kin_images_flip(m->pixels + (size_t)at * picture_bytes(m), part * o->size, o->size);
        }
        if (o->progress)
            KIN_TRY(o->progress(o->user, m->done + at + part, total, err));
    }
    return KIN_OK;
}

static kin_status make_shard(maker *m, bool held, int64_t number, int64_t n, kin_error *err)
{
    static const char *const names[] = {"moments", "label"};
    const int64_t total = kin_images_count(m->images, false) + kin_images_count(m->images, true);
    char name[64], path[KIN_PATH_MAX], text[24];
    uint64_t key;
    snprintf(name, sizeof name, "%s-%06" PRId64 ".safetensors", held ? "held" : "train", number);
    KIN_TRY(kin_path_join(path, m->opt->out, name, err));
    KIN_TRY(read_pictures(m, held, number * m->opt->shard, n, &key, err));
    m->key = kin_fnv1a(m->key, &key, sizeof key);
    snprintf(text, sizeof text, "%016" PRIx64, key);
    if (is_made(path, text)) {
        m->opt->kept++;
    } else {
        KIN_TRY(encode_shard(m, n, total, err));
        const kin_tensor tensors[] = {
            KIN_TENSOR(m->moments, KIN_DTYPE_F32, n, 2, 2 * m->channels, m->side, m->side),
            KIN_TENSOR(m->label, KIN_DTYPE_I32, n)};
        const char *const metadata[] = {"key", text, NULL};
        KIN_TRY(kin_safetensors_write(path, names, tensors, NULL, 2, metadata, err));
        m->opt->made++;
    }
    m->done += n;
    return m->opt->progress ? m->opt->progress(m->opt->user, m->done, total, err) : KIN_OK;
}

static kin_status write_index(const maker *m, kin_error *err)
{
    const kin_vae_info *v = kin_vae_get_info(m->vae->vae);
    char path[KIN_PATH_MAX], key[24];
    cJSON *j = cJSON_CreateObject(), *classes = cJSON_AddArrayToObject(j, "classes");
    snprintf(key, sizeof key, "%016" PRIx64, m->key);
    bool ok = classes && cJSON_AddNumberToObject(j, "version", 1) &&
              cJSON_AddStringToObject(j, "key", key) &&
              cJSON_AddNumberToObject(j, "image_size", (double)m->opt->size) &&
              cJSON_AddNumberToObject(j, "channels", (double)m->channels) &&
              cJSON_AddNumberToObject(j, "height", (double)m->side) &&
              cJSON_AddNumberToObject(j, "width", (double)m->side) &&
              cJSON_AddNumberToObject(j, "shard", (double)m->opt->shard) &&
              cJSON_AddNumberToObject(j, "train", (double)kin_images_count(m->images, false)) &&
              cJSON_AddNumberToObject(j, "held", (double)kin_images_count(m->images, true)) &&
              cJSON_AddStringToObject(j, "vae", m->opt->vae) &&
              cJSON_AddNumberToObject(j, "scaling_factor", (double)v->scaling_factor) &&
              cJSON_AddNumberToObject(j, "shift_factor", (double)v->shift_factor);
    for (int64_t i = 0; ok && i < kin_images_classes(m->images); i++)
        ok = kin_json_append(classes, cJSON_CreateString(kin_images_class_name(m->images, i)));
    char *text = ok ? cJSON_Print(j) : NULL;
    cJSON_Delete(j);
    if (!text)
        return kin_fail(err, KIN_ERR_MEM, "latents: out of memory");
    kin_status status = kin_path_join(path, m->opt->out, "latents.json", err);
    if (status == KIN_OK)
        status = kin_file_write(path, text, strlen(text), err);
    cJSON_free(text);
    return status;
}

static kin_status prepare(maker *m, kin_error *err)
{
    const kin_latents_options *o = m->opt;
    const kin_vae_info *v = kin_vae_get_info(m->vae->vae);
    char index[KIN_PATH_MAX];
    if (v->in_channels != 3 || o->size < v->reduction || o->size % v->reduction)
        return kin_fail(err, KIN_ERR_ARG,
                        "latents: size %" PRId64 " must be a multiple of %" PRId64, o->size,
                        v->reduction);
    m->channels = v->latent_channels;
    m->side = kin_vae_latent_size(m->vae->vae, o->size);
    const size_t n = (size_t)o->shard, moments = (size_t)(4 * m->channels * m->side * m->side);
    m->pixels = kin_malloc(n * picture_bytes(m));
    m->moments = kin_malloc(n * moments * sizeof *m->moments);
    m->label = kin_malloc(n * sizeof *m->label);
    if (!m->pixels || !m->moments || !m->label)
        return kin_fail(err, KIN_ERR_MEM, "latents: out of memory for a shard");
    KIN_TRY(kin_images_open(o->data, o->split, o->held_out, o->message, o->user, &m->images, err));
    KIN_TRY(kin_path_make_dirs(o->out, err));
    KIN_TRY(kin_lock_folder(&m->lock, o->out, err));
    /* the index of a complete cache does not stand beside shards that are being made anew */
    KIN_TRY(kin_path_join(index, o->out, "latents.json", err));
    if (kin_path_exists(index) && remove(index) != 0)
        return kin_fail(err, KIN_ERR_IO, "%s: cannot be removed", index);
    return KIN_OK;
}

kin_status kin_latents_make(kin_vae_model *vae, kin_latents_options *opt, kin_error *err)
{
    maker m = {.vae = vae, .opt = opt, .key = KIN_FNV1A_START, .lock = KIN_LOCK_NONE};
    opt->made = opt->kept = 0;
    kin_status status = prepare(&m, err);
    for (int held = 0; held < 2 && status == KIN_OK; held++) {
        const int64_t n = kin_images_count(m.images, held);
        for (int64_t i = 0; i * opt->shard < n && status == KIN_OK; i++) {
            const int64_t left = n - i * opt->shard;
            status = make_shard(&m, held, i, left < opt->shard ? left : opt->shard, err);
        }
    }
    if (status == KIN_OK)
        status = write_index(&m, err);
    kin_lock_release(&m.lock);
    kin_images_close(&m.images);
    kin_free(m.pixels);
    kin_free(m.moments);
    kin_free(m.label);
    return status;
}

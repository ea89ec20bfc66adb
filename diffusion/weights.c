#include "diffusion/weights.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/path.h"
#include "tensor/tensor.h"

enum { HASHED_AT_ONCE = 64 << 20, HASHED_OF_TEXT = 4096, SLOT_TEXT = 1 };

void kin_files_free(kin_files **files)
{
    if (!*files)
        return;
    for (int i = 0; i < KIN_FILES_MAX; i++) {
        kin_safetensors_close(&(*files)->file[i]);
        kin_safetensors_close(&(*files)->beside[i]);
        kin_free((*files)->widened[i]);
    }
    kin_free(*files);
    *files = NULL;
}

static bool ends_with(const char *s, const char *end)
{
    const size_t n = strlen(s), m = strlen(end);

    return n >= m && !strcmp(s + n - m, end);
}

bool kin_weight_is_matrix(const kin_param *p)
{
    return p->value.ndim >= 2 && ends_with(p->name, ".weight");
}

static uint64_t mix(uint64_t h, uint64_t v)
{
    h ^= v;
    h *= 0x9E3779B97F4A7C15u;
    return h ^ (h >> 29);
}

/* 64 bits over name and the first `bytes` bytes, in order */
static uint64_t hash_entry(uint64_t h, const kin_safetensors_entry *e, size_t bytes)
{
    const unsigned char *p = e->data;
    uint64_t word, lane[4] = {h, h + 1, h + 2, h + 3};
    size_t i = 0, kept = 0;

    for (const char *c = e->name; *c; c++)
        lane[0] = mix(lane[0], (unsigned char)*c);
    for (; i + 32 <= bytes; i += 32) {
        for (int k = 0; k < 4; k++) {
            memcpy(&word, p + i + 8 * k, sizeof(word));
            lane[k] = mix(lane[k], word);
        }
        /* a large tensor is never resident as a whole */
        if (e->mapped && i - kept == HASHED_AT_ONCE) {
            kin_mapped_drop(p + kept, HASHED_AT_ONCE);
            kept = i;
        }
    }
    for (; i < bytes; i++)
        lane[i % 4] = mix(lane[i % 4], p[i]);
    return mix(mix(lane[0], lane[1]), mix(lane[2], lane[3]));
}

uint64_t kin_weights_hash(uint64_t h, const kin_safetensors *file)
{
    for (int64_t i = 0; i < kin_safetensors_count(file); i++) {
        const kin_safetensors_entry *e = kin_safetensors_at(file, i);

        h = hash_entry(h, e, e->bytes);
        if (e->mapped)
            kin_mapped_drop(e->data, e->bytes);
    }
    return h;
}

/* The files of one part, and which of their tensors some parameter took. */
typedef struct source {
    const kin_safetensors *st[2]; /* those that go first; [0] may be NULL */
    bool *used[2];
} source;

/* where a parameter lies */
typedef struct place {
    int file;
    int64_t index;
} place;

static bool find_name(const source *s, const char *name, place *at)
{
    for (at->file = 0; at->file < 2; at->file++) {
        at->index = s->st[at->file] ? kin_safetensors_find(s->st[at->file], name) : -1;
        if (at->index >= 0)
            return true;
    }
    return false;
}

/* The factors of a matrix in 8-bit blocks, which lie beside it as NAME.scale. */
static kin_status find_factors(const source *s, const kin_param *p, const place *at, kin_tensor *t,
                               kin_error *err)
{
    const kin_safetensors *st = s->st[at->file];
    const kin_safetensors_entry *e = kin_safetensors_at(st, at->index);
    const char *path = kin_path_base(e->path);
    char name[256], got[80];
    kin_tensor factors;
    int64_t index = -1;

    if (snprintf(name, sizeof(name), "%s.scale", e->name) < (int)sizeof(name))
        index = kin_safetensors_find(st, name);
    if (!kin_weight_is_matrix(p) || p->value.ndim != 2 || index < 0)
        return kin_fail(err, KIN_ERR_FORMAT,
                        "weights: %s: \"%s\" has type i8, which needs a matrix and its factors "
                        "\"%s.scale\"",
                        path, e->name, e->name);
    KIN_TRY(kin_safetensors_tensor(st, index, &factors, err));
    if (factors.dtype != KIN_DTYPE_F16 || factors.ndim != 2 || factors.size[0] != t->size[0] ||
        factors.size[1] != kin_blocks_of(t->size[1]))
        return kin_fail(err, KIN_ERR_SHAPE, "weights: %s: \"%s\" is %s, must be [%lld, %lld] f16",
                        path, name, kin_tensor_describe(&factors, got, sizeof(got)),
                        (long long)t->size[0], (long long)kin_blocks_of(t->size[1]));
    s->used[at->file][index] = true;
    t->scale = factors.data;
    return KIN_OK;
}

static kin_status find(const source *s, const kin_param *p, kin_weight_alias alias, kin_tensor *t,
                       place *at, kin_error *err)
{
    const char *other = alias ? alias(p->name) : NULL, *path;
    char want[80], got[80];

    if (!find_name(s, p->name, at) && !(other && find_name(s, other, at)))
        return kin_fail(err, KIN_ERR_FORMAT, "weights: tensor \"%s\" is missing", p->name);
    path = kin_path_base(kin_safetensors_at(s->st[at->file], at->index)->path);
    KIN_TRY(kin_safetensors_tensor(s->st[at->file], at->index, t, err));
    if (!kin_tensor_same_shape(t, &p->value))
        return kin_fail(err, KIN_ERR_SHAPE, "weights: %s: \"%s\" is %s, the model needs %s", path,
                        p->name, kin_tensor_describe(t, got, sizeof(got)),
                        kin_tensor_describe(&p->value, want, sizeof(want)));
    if (t->dtype == KIN_DTYPE_I8)
        return find_factors(s, p, at, t, err);
    if (t->dtype != KIN_DTYPE_F32 && t->dtype != KIN_DTYPE_BF16 && t->dtype != KIN_DTYPE_F16 &&
        t->dtype != KIN_DTYPE_F64)
        return kin_fail(err, KIN_ERR_UNSUPPORTED,
                        "weights: %s: \"%s\" has type %s, not a float type", path, p->name,
                        kin_dtype_name(t->dtype));
    return KIN_OK;
}

static bool stays_mapped(const kin_param *p, const kin_tensor *t)
{
    if (t->dtype == KIN_DTYPE_F32 || t->scale)
        return true;
    return kin_weight_is_matrix(p) && (t->dtype == KIN_DTYPE_BF16 || t->dtype == KIN_DTYPE_F16);
}

static size_t padded(const kin_param *p)
{
    return ((size_t)kin_tensor_numel(&p->value) * sizeof(float) + 63) & ~(size_t)63;
}

static void widen(const kin_tensor *t, float *out)
{
    const int64_t n = kin_tensor_numel(t);

    for (int64_t i = 0; i < n; i++)
        out[i] = (float)kin_tensor_get(t, i);
}

static kin_status check_left_over(const source *s, kin_error *err)
{
    for (int f = 0; f < 2; f++) {
        for (int64_t i = 0; s->st[f] && i < kin_safetensors_count(s->st[f]); i++) {
            const kin_safetensors_entry *e = kin_safetensors_at(s->st[f], i);

            /* note: what the file beside replaces is left over by right */
            if (!s->used[f][i] &&
                !(f == 1 && s->st[0] && kin_safetensors_find(s->st[0], e->name) >= 0))
                return kin_fail(err, KIN_ERR_FORMAT,
                                "weights: %s: tensor \"%s\" belongs to no part of the model",
                                kin_path_base(e->path), e->name);
        }
    }
    return KIN_OK;
}

/* How much of a tensor the hash of the model reads. Of text encoders, the largest part of published
 * models, the beginnings: so a run whose texts are known already (embeds.h) leaves them on disk. */
static size_t hashed(int slot, const kin_safetensors_entry *e)
{
    return slot == SLOT_TEXT && e->bytes > HASHED_OF_TEXT ? HASHED_OF_TEXT : e->bytes;
}

/* one parameter to its tensor, or to its f32 copy at *at, which moves on */
static kin_status bind_one(kin_files *files, int slot, const source *s, kin_param *p,
                           kin_weight_alias alias, bool plan, char **at, kin_error *err)
{
    const kin_safetensors_entry *entry;
    kin_tensor t, wide;
    place where;

    KIN_TRY(find(s, p, alias, &t, &where, err));
    entry = kin_safetensors_at(s->st[where.file], where.index);
    if (!plan)
        files->hash = hash_entry(files->hash, entry, hashed(slot, entry));
    if (!stays_mapped(p, &t)) {
        /* note: in a plan the mapped data stands for the copy that is not made; nothing reads it */
        wide = kin_tensor_of(plan ? t.data : (void *)*at, KIN_DTYPE_F32, t.ndim, t.size);
        if (!plan)
            widen(&t, (float *)(void *)*at);
        *at += plan ? 0 : padded(p);
        t = wide;
    }
    KIN_TRY(kin_params_bind(p, &t, err));
    p->mapped = entry->mapped && t.data == entry->data;
    /* note: the file has been read once, for the hash; what is used is read again */
    if (entry->mapped && !plan)
        kin_mapped_drop(entry->data, entry->bytes);
    return KIN_OK;
}

static kin_status bind_all(kin_files *files, int slot, const source *s, kin_params *params,
                           kin_weight_alias alias, bool plan, kin_error *err)
{
    size_t bytes = 0;
    char *at;

    for (int i = 0; i < params->count; i++) {
        kin_tensor t;
        place where;

        KIN_TRY(find(s, params->list[i], alias, &t, &where, err));
        s->used[where.file][where.index] = true;
        if (!stays_mapped(params->list[i], &t))
            bytes += padded(params->list[i]);
    }
    KIN_TRY(check_left_over(s, err));
    if (!plan) {
        files->widened[slot] = kin_malloc(bytes);
        if (!files->widened[slot])
            return kin_fail(err, KIN_ERR_MEM, "weights: %zu bytes do not fit", bytes);
    }
    at = files->widened[slot];
    for (int i = 0; i < params->count; i++)
        KIN_TRY(bind_one(files, slot, s, params->list[i], alias, plan, &at, err));
    return KIN_OK;
}

kin_status kin_weights_bind(kin_files *files, int slot, kin_params *params, kin_weight_alias alias,
                            bool plan, kin_error *err)
{
    source s = {.st = {files->beside[slot], files->file[slot]}};
    kin_status status;

    for (int f = 0; f < 2; f++) {
        const int64_t count = s.st[f] ? kin_safetensors_count(s.st[f]) : 0;

        s.used[f] = kin_calloc((size_t)count + 1, sizeof(bool));
        if (!s.used[f])
            KIN_GOTO(kin_fail(err, KIN_ERR_MEM, "weights: out of memory"));
    }
    status = bind_all(files, slot, &s, params, alias, plan, err);
done:
    kin_free(s.used[0]);
    kin_free(s.used[1]);
    return status;
}

kin_status kin_weights_own(kin_params *params, bool trainable_only, bool plan, kin_error *err)
{
    kin_param *old = kin_calloc((size_t)params->count + 1, sizeof(*old));
    kin_status status;

    if (!old)
        return kin_fail(err, KIN_ERR_MEM, "weights: out of memory");
    for (int i = 0; i < params->count; i++) {
        kin_param *p = params->list[i];

        old[i] = *p;
        if (!p->owned && (p->trainable || !trainable_only))
            p->value = kin_tensor_of(NULL, KIN_DTYPE_F32, old[i].value.ndim, old[i].value.size);
    }
    KIN_GOTO(kin_params_alloc(params, KIN_DTYPE_F32, plan, err));
    for (int i = 0; i < params->count; i++) {
        kin_param *p = params->list[i];

        if (p->value.data == old[i].value.data || !old[i].value.data)
            continue;
        if (!plan)
            widen(&old[i].value, p->value.data);
        kin_param_drop_pages(&old[i]);
        kin_param_touch(p);
    }
done:
    kin_free(old);
    return status;
}

kin_status kin_weights_make_trainable(kin_params *params, bool plan, kin_error *err)
{
    KIN_TRY(kin_weights_own(params, false, plan, err));
    return kin_params_alloc_grads(params, plan, err);
}

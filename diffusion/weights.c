#include "diffusion/weights.h"

#include <string.h>

#include "base/alloc.h"
#include "tensor/tensor.h"

void kin_files_free(kin_files **files)
{
    if (!*files)
        return;
    for (int i = 0; i < KIN_FILES_MAX; i++) {
        kin_safetensors_close(&(*files)->file[i]);
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

/* 64 bits over name and bytes, in order */
static uint64_t hash_entry(uint64_t h, const kin_safetensors_entry *e)
{
    const unsigned char *p = e->data;
    uint64_t word, lane[4] = {h, h + 1, h + 2, h + 3};
    size_t i = 0;

    for (const char *c = e->name; *c; c++)
        lane[0] = mix(lane[0], (unsigned char)*c);
    for (; i + 32 <= e->bytes; i += 32) {
        for (int k = 0; k < 4; k++) {
            memcpy(&word, p + i + 8 * k, sizeof(word));
            lane[k] = mix(lane[k], word);
        }
    }
    for (; i < e->bytes; i++)
        lane[i % 4] = mix(lane[i % 4], p[i]);
    return mix(mix(lane[0], lane[1]), mix(lane[2], lane[3]));
}

uint64_t kin_weights_hash(uint64_t h, const kin_safetensors *file)
{
    for (int64_t i = 0; i < kin_safetensors_count(file); i++) {
        const kin_safetensors_entry *e = kin_safetensors_at(file, i);

        h = hash_entry(h, e);
        if (e->mapped)
            kin_mapped_drop(e->data, e->bytes);
    }
    return h;
}

static kin_status find(const kin_safetensors *st, const kin_param *p, kin_weight_alias alias,
                       kin_tensor *t, int64_t *index, kin_error *err)
{
    const char *other = alias ? alias(p->name) : NULL;
    char want[80], got[80];

    *index = kin_safetensors_find(st, p->name);
    if (*index < 0 && other)
        *index = kin_safetensors_find(st, other);
    if (*index < 0)
        return kin_fail(err, KIN_ERR_FORMAT, "weights: tensor \"%s\" is missing", p->name);
    KIN_TRY(kin_safetensors_tensor(st, *index, t, err));
    if (!kin_tensor_same_shape(t, &p->value))
        return kin_fail(err, KIN_ERR_SHAPE, "weights: \"%s\" is %s, the model needs %s", p->name,
                        kin_tensor_describe(t, got, sizeof(got)),
                        kin_tensor_describe(&p->value, want, sizeof(want)));
    if (t->dtype != KIN_DTYPE_F32 && t->dtype != KIN_DTYPE_BF16 && t->dtype != KIN_DTYPE_F16 &&
        t->dtype != KIN_DTYPE_F64)
        return kin_fail(err, KIN_ERR_UNSUPPORTED, "weights: \"%s\" has type %s, not a float type",
                        p->name, kin_dtype_name(t->dtype));
    return KIN_OK;
}

static bool stays_mapped(const kin_param *p, const kin_tensor *t)
{
    if (t->dtype == KIN_DTYPE_F32)
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

static kin_status check_left_over(const kin_safetensors *st, const bool *used, kin_error *err)
{
    for (int64_t i = 0; i < kin_safetensors_count(st); i++) {
        if (!used[i])
            return kin_fail(err, KIN_ERR_FORMAT,
                            "weights: tensor \"%s\" belongs to no part of the model",
                            kin_safetensors_at(st, i)->name);
    }
    return KIN_OK;
}

static kin_status bind_all(kin_files *files, int slot, kin_params *params, kin_weight_alias alias,
                           bool plan, bool *used, kin_error *err)
{
    const kin_safetensors *st = files->file[slot];
    size_t bytes = 0;
    char *at;

    for (int i = 0; i < params->count; i++) {
        kin_tensor t;
        int64_t index;

        KIN_TRY(find(st, params->list[i], alias, &t, &index, err));
        used[index] = true;
        if (!stays_mapped(params->list[i], &t))
            bytes += padded(params->list[i]);
    }
    KIN_TRY(check_left_over(st, used, err));
    if (!plan) {
        files->widened[slot] = kin_malloc(bytes);
        if (!files->widened[slot])
            return kin_fail(err, KIN_ERR_MEM, "weights: %zu bytes do not fit", bytes);
    }
    at = files->widened[slot];
    for (int i = 0; i < params->count; i++) {
        const kin_safetensors_entry *entry;
        kin_param *p = params->list[i];
        kin_tensor t, wide;
        int64_t index;

        KIN_TRY(find(st, p, alias, &t, &index, err));
        entry = kin_safetensors_at(st, index);
        if (!plan)
            files->hash = hash_entry(files->hash, entry);
        if (!stays_mapped(p, &t)) {
            /* note: in a plan the mapped data stands for the copy that is not made; nothing reads
             * it */
            wide = kin_tensor_of(plan ? t.data : (void *)at, KIN_DTYPE_F32, t.ndim, t.size);
            if (!plan)
                widen(&t, (float *)(void *)at);
            at += plan ? 0 : padded(p);
            t = wide;
        }
        KIN_TRY(kin_params_bind(p, &t, err));
        p->mapped = entry->mapped && t.data == entry->data;
        /* note: the file has been read once, for the hash; what is used is read again */
        if (entry->mapped && !plan)
            kin_mapped_drop(entry->data, entry->bytes);
    }
    return KIN_OK;
}

kin_status kin_weights_bind(kin_files *files, int slot, kin_params *params, kin_weight_alias alias,
                            bool plan, kin_error *err)
{
    const int64_t count = kin_safetensors_count(files->file[slot]);
    bool *used = kin_calloc((size_t)count + 1, sizeof(*used));
    kin_status status;

    if (!used)
        return kin_fail(err, KIN_ERR_MEM, "weights: out of memory");
    status = bind_all(files, slot, params, alias, plan, used, err);
    kin_free(used);
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

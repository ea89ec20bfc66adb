#include "tensor/params.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "tensor/rng.h"

/* Where the values and gradients of a plan lie: an address that is never touched. */
#define PLAN_ADDRESS ((char *)(uintptr_t)4096)

kin_status kin_params_create(kin_params **out, kin_error *err)
{
    *out = kin_calloc(1, sizeof **out);
    return *out ? KIN_OK : kin_fail(err, KIN_ERR_MEM, "parameters: out of memory");
}

static void pack_free(kin_pack *pack)
{
    if (pack->free_extra)
        pack->free_extra(pack->extra);
    kin_free(pack->data);
    kin_free(pack);
}

static void adapters_free(kin_param *p)
{
    while (p->adapters) {
        kin_adapter *next = p->adapters->next;
        kin_free(p->adapters);
        p->adapters = next;
    }
}

static void param_free(kin_param *p)
{
    adapters_free(p);
    while (p->packs) {
        kin_pack *next = p->packs->next;
        pack_free(p->packs);
        p->packs = next;
    }
    kin_free(p->name);
    kin_free(p);
}

void kin_params_destroy(kin_params **pparams)
{
    kin_params *params = *pparams;
    if (!params)
        return;
    for (int i = 0; i < params->count; i++)
        param_free(params->list[i]);
    kin_free(params->list);
    kin_free(params->slot);
    kin_free(params->block);
    kin_free(params->grad_block);
    kin_free(params);
    *pparams = NULL;
}

void kin_params_allow_int8(kin_param *const *list, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (list[i])
            list[i]->int8 = list[i]->blocks = true;
}

/* Where the name is, or would be. note: half of the slots are free */
static int *slot_of(const kin_params *params, const char *name)
{
    const uint64_t mask = 2 * (uint64_t)params->cap - 1;
    uint64_t h = kin_fnv1a(KIN_FNV1A_START, name, strlen(name));
    int *slot = &params->slot[h & mask];
    for (; *slot && strcmp(params->list[*slot - 1]->name, name) != 0;
         slot = &params->slot[++h & mask]) {
    }
    return slot;
}

static void fill_slots(kin_params *params)
{
    memset(params->slot, 0, 2 * (size_t)params->cap * sizeof *params->slot);
    for (int i = 0; i < params->count; i++)
        *slot_of(params, params->list[i]->name) = i + 1;
}

kin_param *kin_params_find(const kin_params *params, const char *name)
{
    const int at = params->cap ? *slot_of(params, name) : 0;
    return at ? params->list[at - 1] : NULL;
}

static bool list_grow(kin_params *params)
{
    if (params->count < params->cap)
        return true;
    int cap = params->cap ? 2 * params->cap : 64;
    int *slot = kin_calloc(2 * (size_t)cap, sizeof *slot);
    kin_param **list = slot ? kin_realloc(params->list, (size_t)cap * sizeof *list) : NULL;
    if (!list) {
        kin_free(slot);
        return false;
    }
    kin_free(params->slot);
    params->list = list;
    params->slot = slot;
    params->cap = cap;
    fill_slots(params);
    return true;
}

kin_param *kin_params_add(kin_params *params, kin_init init, int ndim, const int64_t *sizes,
                          const char *fmt, ...)
{
    char name[256];
    va_list ap;
    va_start(ap, fmt);
    int len = vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    if (len < 0 || (size_t)len >= sizeof name || kin_params_find(params, name)) {
        params->failed = KIN_ERR_ARG;
        return NULL;
    }
    kin_param *p = kin_calloc(1, sizeof *p);
    if (p)
        p->name = kin_strdup(name);
    if (!p || !p->name || !list_grow(params)) {
        if (p)
            kin_free(p->name);
        kin_free(p);
        params->failed = KIN_ERR_MEM;
        return NULL;
    }
    p->value = kin_tensor_of(NULL, KIN_DTYPE_F32, ndim, sizes);
    p->grad = p->value;
    p->trainable = true;
    p->init = init;
    p->index = params->count;
    *slot_of(params, name) = params->count + 1;
    params->list[params->count++] = p;
    return p;
}

kin_status kin_params_adapt(kin_params *params, kin_param *w, int64_t rank, float scale,
                            const char *name, kin_error *err)
{
    const size_t length = strlen(w->name), tail = strlen(".weight");
    const int stem = (int)(length - tail);
    if (length <= tail || strcmp(w->name + stem, ".weight") != 0 || w->value.ndim != 2 || rank < 1)
        return kin_fail(err, KIN_ERR_ARG,
                        "adapter: %s must be a matrix NAME.weight and the rank %lld at least 1",
                        w->name, (long long)rank);
    kin_adapter *made = kin_calloc(1, sizeof *made);
    if (!made)
        return kin_fail(err, KIN_ERR_MEM, "adapter: out of memory");
    const int64_t n = w->value.size[0], k = w->value.size[1];
    made->scale = scale;
    made->a = kin_params_add(params, KIN_INIT(KIN_INIT_UNIFORM, 1.0f / sqrtf((float)k)),
                             KIN_DIMS(rank, k), "%.*s.lora_A.%s.weight", stem, w->name, name);
    made->b = kin_params_add(params, KIN_INIT(KIN_INIT_ZERO, 0), KIN_DIMS(n, rank),
                             "%.*s.lora_B.%s.weight", stem, w->name, name);
    if (!made->a || !made->b) {
        kin_free(made);
        return kin_fail(err, params->failed, "adapter: %s cannot take another adapter \"%s\"",
                        w->name, name);
    }
    kin_adapter **at = &w->adapters;
    while (*at)
        at = &(*at)->next;
    *at = made;
    return KIN_OK;
}

void kin_params_drop_adapters(kin_params *params)
{
    int kept = 0;
    for (int i = 0; i < params->count; i++) {
        for (kin_adapter *a = params->list[i]->adapters; a; a = a->next)
            a->a->index = a->b->index = -1;
        adapters_free(params->list[i]);
    }
    /* note: adapters are registered after the matrices they belong to */
    for (int i = 0; i < params->count; i++) {
        kin_param *p = params->list[i];
        if (p->index < 0) {
            param_free(p);
            continue;
        }
        p->index = kept;
        params->list[kept++] = p;
    }
    params->count = kept;
    if (params->cap)
        fill_slots(params);
}

int64_t kin_params_numel(const kin_params *params)
{
    int64_t n = 0;
    for (int i = 0; i < params->count; i++)
        n += kin_tensor_numel(&params->list[i]->value);
    return n;
}

size_t kin_params_bytes(const kin_params *params)
{
    size_t n = 0;
    for (int i = 0; i < params->count; i++)
        n += (size_t)kin_tensor_numel(&params->list[i]->value) *
             kin_dtype_size(params->list[i]->value.dtype);
    return n;
}

/* Bytes of one tensor in a block, each part on its own cache lines. */
static size_t padded_bytes(const kin_tensor *t, kin_dtype dtype)
{
    return ((size_t)kin_tensor_numel(t) * kin_dtype_size(dtype) + 63) & ~(size_t)63;
}

kin_status kin_params_alloc(kin_params *params, kin_dtype dtype, bool plan, kin_error *err)
{
    if (params->failed != KIN_OK)
        return kin_fail(err, params->failed, "parameters: registration failed (%s)",
                        kin_status_name(params->failed));
    if (params->block)
        return kin_fail(err, KIN_ERR_ARG, "parameters: allocated twice");
    size_t total = 0;
    for (int i = 0; i < params->count; i++)
        if (!params->list[i]->value.data)
            total += padded_bytes(&params->list[i]->value, dtype);
    char *block = plan ? PLAN_ADDRESS : kin_calloc(total ? total : 1, 1);
    if (!block)
        return kin_fail(err, KIN_ERR_MEM, "parameters: %zu bytes do not fit", total);
    if (!plan)
        params->block = block;
    for (int i = 0; i < params->count; i++) {
        kin_param *p = params->list[i];
        if (p->value.data)
            continue;
        p->value.dtype = dtype;
        p->value.data = block;
        p->owned = true;
        p->mapped = false;
        p->version++;
        block += padded_bytes(&p->value, dtype);
    }
    return KIN_OK;
}

kin_status kin_params_alloc_grads(kin_params *params, bool plan, kin_error *err)
{
    if (params->grad_block)
        return kin_fail(err, KIN_ERR_ARG, "parameters: gradients allocated twice");
    size_t total = 0;
    for (int i = 0; i < params->count; i++) {
        kin_param *p = params->list[i];
        if (!p->trainable)
            continue;
        p->grad.dtype = p->value.dtype == KIN_DTYPE_F64 ? KIN_DTYPE_F64 : KIN_DTYPE_F32;
        total += padded_bytes(&p->grad, p->grad.dtype);
    }
    char *block = plan ? PLAN_ADDRESS : kin_calloc(total ? total : 1, 1);
    if (!block)
        return kin_fail(err, KIN_ERR_MEM, "parameters: %zu bytes of gradients do not fit", total);
    if (!plan)
        params->grad_block = block;
    params->grad_bytes = total;
    for (int i = 0; i < params->count; i++) {
        kin_param *p = params->list[i];
        if (!p->trainable)
            continue;
        p->grad.data = block;
        block += padded_bytes(&p->grad, p->grad.dtype);
    }
    return KIN_OK;
}

void kin_params_zero_grads(kin_params *params)
{
    if (params->grad_block)
        memset(params->grad_block, 0, params->grad_bytes);
}

kin_status kin_params_bind(kin_param *p, const kin_tensor *value, kin_error *err)
{
    char a[96], b[96];
    if (!kin_tensor_same_shape(&p->value, value) || !kin_tensor_is_contiguous(value))
        return kin_fail(err, KIN_ERR_SHAPE, "parameter %s: the file holds %s, the model needs %s",
                        p->name, kin_tensor_describe(value, b, sizeof b),
                        kin_tensor_describe(&p->value, a, sizeof a));
    if (value->dtype != KIN_DTYPE_F32 && value->dtype != KIN_DTYPE_F64 &&
        value->dtype != KIN_DTYPE_BF16 && value->dtype != KIN_DTYPE_F16 && !value->scale)
        return kin_fail(err, KIN_ERR_FORMAT,
                        "parameter %s: type %s must be f32, bf16, f16 or 8-bit blocks", p->name,
                        kin_dtype_name(value->dtype));
    p->value.dtype = value->dtype;
    p->value.data = value->data;
    p->value.scale = value->scale;
    p->owned = false;
    p->mapped = false;
    p->version++;
    return KIN_OK;
}

void kin_param_drop_pages(const kin_param *p)
{
    const kin_tensor *t = &p->value;
    if (!p->mapped)
        return;
    kin_mapped_drop(t->data, (size_t)kin_tensor_numel(t) * kin_dtype_size(t->dtype));
    if (t->scale)
        kin_mapped_drop(t->scale,
                        (size_t)t->size[0] * (size_t)kin_blocks_of(t->size[1]) * sizeof *t->scale);
}

static double xavier_bound(const kin_tensor *t, int64_t n)
{
    int64_t fan_out = t->ndim > 0 ? t->size[0] : 1;
    int64_t fan_in = n / (fan_out ? fan_out : 1);
    return sqrt(6.0 / (double)(fan_in + fan_out));
}

static void put(kin_tensor *t, int64_t i, double v)
{
    if (t->dtype == KIN_DTYPE_F32) /* note: parameters are contiguous */
        ((float *)t->data)[i] = (float)v;
    else
        kin_tensor_set(t, i, v);
}

/* Uniform in [-scale, scale), or normal of that deviation. */
static void init_drawn(const kin_rng *rng, kin_tensor *t, int64_t n, bool normal, double scale)
{
    float draw[256];
    for (int64_t i = 0; i < n; i += 256) {
        const int64_t m = n - i < 256 ? n - i : 256;
        if (normal)
            kin_rng_normal(rng, (uint64_t)i, m, draw);
        else
            kin_rng_uniform(rng, (uint64_t)i, m, draw);
        for (int64_t j = 0; j < m; j++)
            put(t, i + j, (normal ? (double)draw[j] : 2.0 * (double)draw[j] - 1.0) * scale);
    }
}

void kin_param_init(kin_param *p, uint64_t seed)
{
    kin_rng rng = {seed, KIN_RNG_INIT, (uint64_t)p->index, 0};
    int64_t n = kin_tensor_numel(&p->value);
    switch (p->init.kind) {
    case KIN_INIT_XAVIER: init_drawn(&rng, &p->value, n, false, xavier_bound(&p->value, n)); break;
    case KIN_INIT_UNIFORM: init_drawn(&rng, &p->value, n, false, (double)p->init.scale); break;
    case KIN_INIT_NORMAL: init_drawn(&rng, &p->value, n, true, (double)p->init.scale); break;
    case KIN_INIT_ZERO:
    case KIN_INIT_ONE:
    case KIN_INIT_CONST: {
        double v = p->init.kind == KIN_INIT_ONE     ? 1.0
                   : p->init.kind == KIN_INIT_CONST ? (double)p->init.scale
                                                    : 0.0;
        for (int64_t i = 0; i < n; i++)
            put(&p->value, i, v);
        break;
    }
    }
    if (p->init.add != 0.0f && p->value.ndim >= 2) {
        int64_t d = p->value.size[p->value.ndim - 1];
        for (int64_t i = 0; i < n; i++) {
            int64_t row = i / d % p->value.size[p->value.ndim - 2];
            if (row == p->init.row_a || row == p->init.row_b)
                kin_tensor_set(&p->value, i, kin_tensor_get(&p->value, i) + (double)p->init.add);
        }
    }
    kin_param_touch(p);
}

void kin_params_init(kin_params *params, uint64_t seed)
{
    for (int i = 0; i < params->count; i++)
        kin_param_init(params->list[i], seed);
}

void kin_param_touch(kin_param *p)
{
    p->version++;
}

static kin_pack *pack_by_key(const kin_param *p, uint64_t key)
{
    for (kin_pack *pack = p->packs; pack; pack = pack->next)
        if (pack->key == key)
            return pack;
    return NULL;
}

kin_pack *kin_param_pack_find(const kin_param *p, uint64_t key)
{
    kin_pack *pack = pack_by_key(p, key);
    return pack && pack->version == p->version ? pack : NULL;
}

kin_pack *kin_param_pack_get(kin_param *p, uint64_t key, size_t bytes, bool plan)
{
    kin_pack *pack = pack_by_key(p, key);
    if (!pack) {
        pack = kin_calloc(1, sizeof *pack);
        if (!pack)
            return NULL;
        pack->key = key;
        pack->next = p->packs;
        p->packs = pack;
    }
    if (plan) {
        pack->bytes = bytes;
    } else if (pack->bytes < bytes || !pack->data) {
        kin_free(pack->data);
        pack->data = kin_malloc(bytes);
        pack->bytes = pack->data ? bytes : 0;
        if (!pack->data)
            return NULL;
    }
    pack->version = p->version;
    return pack;
}

size_t kin_param_drop_packs(kin_param *p)
{
    const size_t n = kin_param_pack_bytes(p);
    for (kin_pack *pack = p->packs; pack; pack = pack->next) {
        /* note: a form without data of its own is its object (a device's memory) */
        if (!pack->data && pack->extra && pack->free_extra) {
            pack->free_extra(pack->extra);
            pack->extra = NULL;
        }
        kin_free(pack->data);
        pack->data = NULL;
        pack->bytes = 0;
        pack->version = p->version - 1;
    }
    return n;
}

kin_status kin_param_give_packs(kin_param *p, kin_param *next, size_t *freed, kin_error *err)
{
    for (kin_pack *pack = p->packs; pack; pack = pack->next) {
        kin_pack *to = pack_by_key(next, pack->key);
        if (!to) {
            to = kin_calloc(1, sizeof *to);
            if (!to)
                return kin_fail(err, KIN_ERR_MEM, "pack: %s: out of memory", next->name);
            to->key = pack->key;
            to->next = next->packs;
            next->packs = to;
        }
        /* note: a form without data of its own is its object (a device's memory) */
        const bool object = pack->bytes && !pack->data && pack->extra;
        if (to->bytes) {
            if (object)
                pack->free_extra(pack->extra);
            kin_free(pack->data);
            *freed += pack->bytes;
        } else {
            to->data = pack->data;
            to->bytes = pack->bytes;
            to->version = next->version - 1;
            if (object) {
                to->extra = pack->extra;
                to->free_extra = pack->free_extra;
            }
        }
        if (object)
            pack->extra = NULL;
        pack->data = NULL;
        pack->bytes = 0;
        pack->version = p->version - 1;
    }
    return KIN_OK;
}

size_t kin_params_drop_packs(kin_params *params)
{
    size_t n = 0;
    for (int i = 0; i < params->count; i++)
        n += kin_param_drop_packs(params->list[i]);
    return n;
}

size_t kin_param_pack_bytes(const kin_param *p)
{
    size_t n = 0;
    for (const kin_pack *pack = p->packs; pack; pack = pack->next)
        n += pack->bytes;
    return n;
}

size_t kin_params_pack_bytes(const kin_params *params)
{
    size_t n = 0;
    for (int i = 0; i < params->count; i++)
        n += kin_param_pack_bytes(params->list[i]);
    return n;
}

size_t kin_params_resident_bytes(const kin_params *params)
{
    /* note: of a mapped table rows are read here and there; more than this would be a surprise */
    enum { TABLE_MOST = 1 << 20 };
    size_t n = params->grad_bytes + kin_params_pack_bytes(params), largest = 0;
    for (int i = 0; i < params->count; i++) {
        const kin_param *p = params->list[i];
        size_t bytes = (size_t)kin_tensor_numel(&p->value) * kin_dtype_size(p->value.dtype);
        if (p->mapped && p->packs)
            continue;
        if (p->mapped && p->once)
            largest = bytes > largest ? bytes : largest;
        else
            n += p->mapped && bytes > TABLE_MOST ? TABLE_MOST : bytes;
    }
    return n + largest;
}

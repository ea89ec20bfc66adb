#include "io/elements.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "tensor/e4m3.h"

static bool is_float(kin_dtype t)
{
    return t == KIN_DTYPE_F32 || t == KIN_DTYPE_F64 || t == KIN_DTYPE_BF16 || t == KIN_DTYPE_F16;
}

bool kin_elements_can(kin_dtype type, kin_dtype as)
{
    if (type == as)
        return true;
    return is_float(as) && (is_float(type) || as == KIN_DTYPE_F64 || as == KIN_DTYPE_F32);
}

static double load(const char *p, kin_dtype type)
{
    union {
        double f64;
        float f32;
        uint16_t u16;
        int32_t i32;
        int64_t i64;
        int8_t i8;
        uint8_t u8;
    } v;
    memcpy(&v, p, kin_dtype_size(type));
    switch (type) {
    case KIN_DTYPE_F64: return v.f64;
    case KIN_DTYPE_F32: return (double)v.f32;
    case KIN_DTYPE_BF16: return (double)kin_bf16_to_f32(v.u16);
    case KIN_DTYPE_F16: return (double)kin_f16_to_f32(v.u16);
    case KIN_DTYPE_I32: return v.i32;
    case KIN_DTYPE_I64: return (double)v.i64;
    case KIN_DTYPE_I8: return v.i8;
    case KIN_DTYPE_F8: return (double)kin_e4m3_to_f32(v.u8);
    case KIN_DTYPE_U8: break;
    }
    return v.u8;
}

static void store(char *p, kin_dtype type, double v)
{
    const float f = (float)v;
    const uint16_t half = type == KIN_DTYPE_BF16  ? kin_f32_to_bf16(f)
                          : type == KIN_DTYPE_F16 ? kin_f32_to_f16(f)
                                                  : 0;
    if (type == KIN_DTYPE_F64)
        memcpy(p, &v, sizeof v);
    else if (type == KIN_DTYPE_F32)
        memcpy(p, &f, sizeof f);
    else
        memcpy(p, &half, sizeof half);
}

/* note: the two pairs of large models get loops of their own, the others are rare */
void kin_elements_convert(const void *from, kin_dtype type, int64_t n, kin_dtype as, void *out)
{
    const char *p = from;
    char *q = out;
    const size_t in = kin_dtype_size(type), step = kin_dtype_size(as);
    if (type == as) {
        memcpy(q, p, (size_t)n * in);
        return;
    }
    if (type == KIN_DTYPE_F32 && as == KIN_DTYPE_BF16) {
        for (int64_t i = 0; i < n; i++) {
            float v;
            memcpy(&v, p + 4 * i, 4);
            const uint16_t h = kin_f32_to_bf16(v);
            memcpy(q + 2 * i, &h, 2);
        }
        return;
    }
    if (type == KIN_DTYPE_BF16 && as == KIN_DTYPE_F32) {
        for (int64_t i = 0; i < n; i++) {
            uint16_t h;
            memcpy(&h, p + 2 * i, 2);
            const float v = kin_bf16_to_f32(h);
            memcpy(q + 4 * i, &v, 4);
        }
        return;
    }
    for (int64_t i = 0; i < n; i++)
        store(q + step * (size_t)i, as, load(p + in * (size_t)i, type));
}

int64_t kin_item_numel(const kin_item *item)
{
    int64_t n = 1;
    for (int d = 0; d < item->ndim; d++)
        n *= item->size[d];
    return n;
}

static void read_tensor(const void *user, int64_t at, int64_t n, kin_dtype as, void *out)
{
    const kin_tensor *t = user;
    kin_elements_convert((const char *)t->data + (size_t)at * kin_dtype_size(t->dtype), t->dtype, n,
                         as, out);
}

static void read_mapped(const void *user, int64_t at, int64_t n, kin_dtype as, void *out)
{
    const kin_tensor *t = user;
    const size_t size = kin_dtype_size(t->dtype);
    read_tensor(user, at, n, as, out);
    kin_mapped_drop((const char *)t->data + (size_t)at * size, (size_t)n * size);
}

/* a matrix in blocks as the floats it stands for */
static void read_blocks(const void *user, int64_t at, int64_t n, kin_dtype as, void *out)
{
    const kin_tensor *t = user;
    for (int64_t i = 0; i < n; i++) {
        const float v = (float)((const int8_t *)t->data)[at + i] * kin_block_scale(t, at + i);
        kin_elements_convert(&v, KIN_DTYPE_F32, 1, as,
                             (char *)out + (size_t)i * kin_dtype_size(as));
    }
}

kin_item kin_item_of(const char *name, const kin_tensor *t, kin_dtype store_as)
{
    kin_item item = {.name = name,
                     .ndim = t->ndim,
                     .type = t->dtype,
                     .store = store_as,
                     .read = read_tensor,
                     .user = t};
    memcpy(item.size, t->size, (size_t)t->ndim * sizeof *t->size);
    if (t->scale) {
        item.type = KIN_DTYPE_F32;
        item.read = read_blocks;
    }
    return item;
}

kin_item kin_item_of_mapped(const char *name, const kin_tensor *t, kin_dtype store_as)
{
    kin_item item = kin_item_of(name, t, store_as);
    if (!t->scale)
        item.read = read_mapped;
    return item;
}

/* --- 8-bit blocks --- */

/* The block that element `at` lies in: its values into v, their number into *n. Returns its
 * factor. */
static float block_at(const kin_item *source, int64_t at, float v[KIN_BLOCK], int64_t *first,
                      int64_t *n)
{
    const int64_t k = source->size[1], column = at % k / KIN_BLOCK * KIN_BLOCK;
    float most = 0.0f;
    *first = at / k * k + column;
    *n = k - column < KIN_BLOCK ? k - column : KIN_BLOCK;
    source->read(source->user, *first, *n, KIN_DTYPE_F32, v);
    for (int64_t j = 0; j < *n; j++)
        most = fabsf(v[j]) > most || isnan(v[j]) ? fabsf(v[j]) : most;
    return kin_f16_to_f32(kin_f32_to_f16(most / 127.0f));
}

/* Elements [at, at+n) of the source have been read. */
static void drop_read(const kin_blocks *b, int64_t at, int64_t n)
{
    if (b->mapped) {
        const size_t size = kin_dtype_size(b->mapped->dtype);
        kin_mapped_drop((const char *)b->mapped->data + (size_t)at * size, (size_t)n * size);
    }
}

static void read_integers(const void *user, int64_t at, int64_t n, kin_dtype as, void *out)
{
    kin_blocks *b = (kin_blocks *)(uintptr_t)user;
    int8_t *q = out;
    float v[KIN_BLOCK];
    (void)as;
    for (int64_t i = 0, first, count; i < n; i = first + count - at) {
        const float factor = block_at(&b->source, at + i, v, &first, &count);
        for (int64_t j = at + i - first; j < count && first + j < at + n; j++) {
            const float want = factor > 0.0f ? rintf(v[j] / factor) : 0.0f;
            const float held = want > 127.0f ? 127.0f : want < -127.0f ? -127.0f : want;
            const double off = (double)v[j] - (double)(held * factor);
            q[first + j - at] = isfinite(held) ? (int8_t)held : 0;
            b->error2 += off * off;
            b->value2 += (double)v[j] * (double)v[j];
            b->worst = fabs(off) > b->worst ? fabs(off) : b->worst;
        }
    }
    drop_read(b, at, n);
}

static void read_factors(const void *user, int64_t at, int64_t n, kin_dtype as, void *out)
{
    const kin_blocks *b = user;
    const int64_t k = b->source.size[1], per_row = kin_blocks_of(k);
    float v[KIN_BLOCK];
    (void)as;
    for (int64_t i = 0, first, count; i < n; i++) {
        const int64_t row = (at + i) / per_row, column = (at + i) % per_row * KIN_BLOCK;
        ((uint16_t *)out)[i] =
            kin_f32_to_f16(block_at(&b->source, row * k + column, v, &first, &count));
    }
    drop_read(b, at / per_row * k, (at + n) / per_row * k - at / per_row * k);
}

kin_status kin_blocks_init(kin_blocks *b, const kin_item *source, kin_item *values,
                           kin_item *factors, kin_error *err)
{
    const size_t length = strlen(source->name) + sizeof ".scale";
    *b = (kin_blocks){.source = *source, .name = kin_malloc(length)};
    if (!b->name)
        return kin_fail(err, KIN_ERR_MEM, "safetensors: out of memory");
    if (source->read == read_mapped) {
        b->mapped = source->user;
        b->source.read = read_tensor;
    }
    snprintf(b->name, length, "%s.scale", source->name);
    *values = *source;
    values->type = values->store = KIN_DTYPE_I8;
    values->read = read_integers;
    values->user = b;
    *factors = *values;
    factors->name = b->name;
    factors->size[1] = kin_blocks_of(source->size[1]);
    factors->type = factors->store = KIN_DTYPE_F16;
    factors->read = read_factors;
    return KIN_OK;
}

void kin_blocks_free(kin_blocks *b)
{
    kin_free(b->name);
    *b = (kin_blocks){0};
}

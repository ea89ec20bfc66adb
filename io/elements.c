#include "io/elements.h"

#include <string.h>

#include "base/alloc.h"

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

kin_item kin_item_of(const char *name, const kin_tensor *t, kin_dtype store_as)
{
    kin_item item = {.name = name,
                     .ndim = t->ndim,
                     .type = t->dtype,
                     .store = store_as,
                     .read = read_tensor,
                     .user = t};
    memcpy(item.size, t->size, (size_t)t->ndim * sizeof *t->size);
    return item;
}

kin_item kin_item_of_mapped(const char *name, const kin_tensor *t, kin_dtype store_as)
{
    kin_item item = kin_item_of(name, t, store_as);
    item.read = read_mapped;
    return item;
}

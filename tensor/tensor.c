/* tensor/tensor.c: views, descriptions and element conversions of the tensor value type. */
#include "tensor/tensor.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "tensor/e4m3.h"

static const struct {
    const char *name;
    size_t size;
} dtypes[] = {
    [KIN_DTYPE_F32] = {"f32", 4}, [KIN_DTYPE_F64] = {"f64", 8}, [KIN_DTYPE_BF16] = {"bf16", 2},
    [KIN_DTYPE_F16] = {"f16", 2}, [KIN_DTYPE_I8] = {"i8", 1},   [KIN_DTYPE_U8] = {"u8", 1},
    [KIN_DTYPE_I32] = {"i32", 4}, [KIN_DTYPE_I64] = {"i64", 8}, [KIN_DTYPE_F8] = {"fp8", 1},
};
enum { DTYPE_COUNT = sizeof(dtypes) / sizeof(dtypes[0]) };

size_t kin_dtype_size(kin_dtype dtype)
{
    assert((unsigned)dtype < DTYPE_COUNT);
    return dtypes[dtype].size;
}

const char *kin_dtype_name(kin_dtype dtype)
{
    return (unsigned)dtype < DTYPE_COUNT ? dtypes[dtype].name : "?";
}

bool kin_dtype_parse(const char *name, kin_dtype *out)
{
    for (int i = 0; i < DTYPE_COUNT; i++) {
        if (strcmp(name, dtypes[i].name) == 0) {
            *out = (kin_dtype)i;
            return true;
        }
    }
    return false;
}

bool kin_shape_numel(int ndim, const int64_t *sizes, size_t *numel)
{
    size_t span = 1; /* with 1 for 0 */
    bool empty = false;
    for (int i = 0; i < ndim; i++) {
        empty = empty || sizes[i] == 0;
        if (sizes[i] && !kin_mul_size(span, (size_t)sizes[i], &span))
            return false;
    }
    *numel = empty ? 0 : span;
    return span <= INT64_MAX;
}

kin_tensor kin_tensor_of(void *data, kin_dtype dtype, int ndim, const int64_t *sizes)
{
    assert(ndim >= 0 && ndim <= KIN_MAX_DIMS);
    kin_tensor t = {.data = data, .dtype = dtype, .ndim = ndim};
    int64_t stride = 1;
    for (int i = ndim - 1; i >= 0; i--) {
        assert(sizes[i] >= 0);
        t.size[i] = sizes[i];
        t.stride[i] = stride;
        stride *= sizes[i];
    }
    return t;
}

int64_t kin_tensor_numel(const kin_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->ndim; i++)
        n *= t->size[i];
    return n;
}

bool kin_tensor_is_contiguous(const kin_tensor *t)
{
    int64_t stride = 1;
    if (kin_tensor_numel(t) == 0)
        return true;
    for (int i = t->ndim - 1; i >= 0; i--) {
        if (t->size[i] != 1 && t->stride[i] != stride)
            return false;
        stride *= t->size[i];
    }
    return true;
}

bool kin_tensor_same_shape(const kin_tensor *a, const kin_tensor *b)
{
    if (a->ndim != b->ndim)
        return false;
    for (int i = 0; i < a->ndim; i++) {
        if (a->size[i] != b->size[i])
            return false;
    }
    return true;
}

kin_tensor kin_tensor_reshape(const kin_tensor *t, int ndim, const int64_t *sizes)
{
    int64_t numel = kin_tensor_numel(t), known = 1, full[KIN_MAX_DIMS];
    int open = -1;
    assert(ndim >= 0 && ndim <= KIN_MAX_DIMS);
    assert(kin_tensor_is_contiguous(t));
    for (int i = 0; i < ndim; i++) {
        full[i] = sizes[i];
        if (sizes[i] == -1) {
            assert(open < 0);
            open = i;
        } else {
            known *= sizes[i];
        }
    }
    if (open >= 0) {
        assert(known > 0 && numel % known == 0);
        full[open] = numel / known;
        known = numel;
    }
    assert(known == numel);
    kin_tensor r = kin_tensor_of(t->data, t->dtype, ndim, full);
    r.id = t->id;
    r.scale = t->scale;
    assert(!r.scale || r.size[r.ndim - 1] == t->size[t->ndim - 1]);
    return r;
}

/* Moves the data pointer by `elements`; a tensor without data (a plan) stays without. */
static void advance(kin_tensor *t, int64_t elements)
{
    if (t->scale) {
        assert(elements % t->size[t->ndim - 1] == 0);
        t->scale += elements / t->size[t->ndim - 1] * kin_blocks_of(t->size[t->ndim - 1]);
    }
    if (t->data)
        t->data = (char *)t->data + elements * (int64_t)kin_dtype_size(t->dtype);
}

kin_tensor kin_tensor_slice(const kin_tensor *t, int dim, int64_t start, int64_t len)
{
    assert(dim >= 0 && dim < t->ndim);
    assert(start >= 0 && len >= 0 && start + len <= t->size[dim]);
    kin_tensor r = *t;
    advance(&r, start * t->stride[dim]);
    r.size[dim] = len;
    return r;
}

kin_tensor kin_tensor_select(const kin_tensor *t, int dim, int64_t index)
{
    kin_tensor r = kin_tensor_slice(t, dim, index, 1);
    for (int i = dim; i + 1 < r.ndim; i++) {
        r.size[i] = r.size[i + 1];
        r.stride[i] = r.stride[i + 1];
    }
    r.ndim--;
    r.size[r.ndim] = r.stride[r.ndim] = 0;
    return r;
}

kin_tensor kin_tensor_transpose(const kin_tensor *t, int a, int b)
{
    assert(a >= 0 && a < t->ndim && b >= 0 && b < t->ndim);
    kin_tensor r = *t;
    r.size[a] = t->size[b];
    r.stride[a] = t->stride[b];
    r.size[b] = t->size[a];
    r.stride[b] = t->stride[a];
    /* note: a row of kernels is contiguous; use kin_transpose to move the last dimension */
    assert(r.size[r.ndim - 1] <= 1 || r.stride[r.ndim - 1] == t->stride[t->ndim - 1]);
    return r;
}

kin_tensor kin_tensor_expand(const kin_tensor *t, int dim, int64_t size)
{
    assert(t->ndim < KIN_MAX_DIMS && dim >= 0 && dim <= t->ndim && size >= 0);
    kin_tensor r = *t;
    for (int i = t->ndim; i > dim; i--) {
        r.size[i] = t->size[i - 1];
        r.stride[i] = t->stride[i - 1];
    }
    r.size[dim] = size;
    r.stride[dim] = 0;
    r.ndim++;
    return r;
}

const char *kin_tensor_describe(const kin_tensor *t, char *buf, size_t bytes)
{
    size_t used = 0;
    if (bytes == 0)
        return buf;
    buf[0] = '\0';
    for (int i = 0; i < t->ndim && used < bytes; i++) {
        used += (size_t)snprintf(buf + used, bytes - used, "%s%lld", i == 0 ? "[" : ", ",
                                 (long long)t->size[i]);
    }
    if (used < bytes)
        snprintf(buf + used, bytes - used, "%s] %s%s", t->ndim == 0 ? "[" : "",
                 kin_dtype_name(t->dtype), t->scale ? " in blocks" : "");
    return buf;
}

float kin_bf16_to_f32(uint16_t v)
{
    uint32_t bits = (uint32_t)v << 16;
    float f;
    memcpy(&f, &bits, sizeof(f));
    return f;
}

uint16_t kin_f32_to_bf16(float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof(bits));
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((bits >> 16) | 0x40u); /* quiet NaN, payload's top bits kept */
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float kin_f16_to_f32(uint16_t v)
{
    uint32_t sign = (uint32_t)(v & 0x8000u) << 16, exponent = (v >> 10) & 31u, mant = v & 1023u;
    uint32_t bits;
    float f;
    if (exponent == 31) {
        bits = sign | 0x7f800000u | (mant << 13);
    } else if (exponent != 0) {
        bits = sign | ((exponent + 112) << 23) | (mant << 13);
    } else {
        /* zero or subnormal: mant * 2^-24 is exact in f32 */
        f = (float)mant * 0x1p-24f;
        return sign ? -f : f;
    }
    memcpy(&f, &bits, sizeof(f));
    return f;
}

uint16_t kin_f32_to_f16(float v)
{
    uint32_t bits, mag, sign;
    memcpy(&bits, &v, sizeof(bits));
    sign = (bits >> 16) & 0x8000u;
    mag = bits & 0x7fffffffu;
    if (mag > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | ((mag >> 13) & 0x3ffu));
    if (mag >= 0x477ff000u) /* 65520 and more round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    if (mag < 0x38800000u) {
        /* below 2^-14: adding 0.5 leaves the count of 2^-24 steps, rounded to even, in the last
         * bits */
        float f;
        uint32_t r;
        memcpy(&f, &mag, sizeof(f));
        f += 0.5f;
        memcpy(&r, &f, sizeof(r));
        return (uint16_t)(sign | (r - 0x3f000000u));
    }
    mag += 0xc8000000u + 0xfffu + ((mag >> 13) & 1u); /* exponent - 112, then round */
    return (uint16_t)(sign | (mag >> 13));
}

/* Position, in elements, of flat index i. */
static int64_t offset_of(const kin_tensor *t, int64_t i)
{
    int64_t at = 0;
    for (int d = t->ndim - 1; d >= 0; d--) {
        at += (i % t->size[d]) * t->stride[d];
        i /= t->size[d];
    }
    return at;
}

double kin_tensor_get(const kin_tensor *t, int64_t i)
{
    int64_t at = offset_of(t, i);
    switch (t->dtype) {
    case KIN_DTYPE_F32: return ((const float *)t->data)[at];
    case KIN_DTYPE_F64: return ((const double *)t->data)[at];
    case KIN_DTYPE_BF16: return kin_bf16_to_f32(((const uint16_t *)t->data)[at]);
    case KIN_DTYPE_F16: return kin_f16_to_f32(((const uint16_t *)t->data)[at]);
    case KIN_DTYPE_I8:
        return ((const int8_t *)t->data)[at] * (t->scale ? (double)kin_block_scale(t, at) : 1.0);
    case KIN_DTYPE_U8: return ((const uint8_t *)t->data)[at];
    case KIN_DTYPE_I32: return ((const int32_t *)t->data)[at];
    case KIN_DTYPE_I64: return (double)((const int64_t *)t->data)[at];
    case KIN_DTYPE_F8: return kin_e4m3_to_f32(((const uint8_t *)t->data)[at]);
    }
    assert(!"kin_tensor_get: dtype");
    return 0;
}

void kin_tensor_set(const kin_tensor *t, int64_t i, double v)
{
    int64_t at = offset_of(t, i);
    switch (t->dtype) {
    case KIN_DTYPE_F32: ((float *)t->data)[at] = (float)v; return;
    case KIN_DTYPE_F64: ((double *)t->data)[at] = v; return;
    case KIN_DTYPE_BF16: ((uint16_t *)t->data)[at] = kin_f32_to_bf16((float)v); return;
    case KIN_DTYPE_F16: ((uint16_t *)t->data)[at] = kin_f32_to_f16((float)v); return;
    case KIN_DTYPE_I8: ((int8_t *)t->data)[at] = (int8_t)v; return;
    case KIN_DTYPE_U8: ((uint8_t *)t->data)[at] = (uint8_t)v; return;
    case KIN_DTYPE_I32: ((int32_t *)t->data)[at] = (int32_t)v; return;
    case KIN_DTYPE_I64: ((int64_t *)t->data)[at] = (int64_t)v; return;
    case KIN_DTYPE_F8: ((uint8_t *)t->data)[at] = kin_f32_to_e4m3((float)v); return;
    }
    assert(!"kin_tensor_set: dtype");
}

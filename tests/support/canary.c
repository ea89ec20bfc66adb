#include "tests/support/canary.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"

enum { GUARD = 256, PATTERN = 0xA5, UNSET = 0x7B };

bool kin_canary_open(kin_canary *c, kin_dtype dtype, int pad, int ndim, const int64_t *sizes)
{
    int64_t full[KIN_MAX_DIMS];
    *c = (kin_canary){0};
    for (int i = 0; i < ndim; i++)
        full[i] = sizes[i] + (i == ndim - 1 ? pad : 0);
    c->t = kin_tensor_of(NULL, dtype, ndim, full);
    c->bytes = (size_t)kin_tensor_numel(&c->t) * kin_dtype_size(dtype);
    c->block = kin_malloc(c->bytes + 2 * GUARD);
    if (!c->block)
        return false;
    memset(c->block, PATTERN, c->bytes + 2 * GUARD);
    c->t.data = c->block + GUARD;
    if (ndim > 0)
        c->t.size[ndim - 1] = sizes[ndim - 1];
    for (int64_t i = 0; i < kin_tensor_numel(&c->t); i++) {
        bool real = dtype == KIN_DTYPE_F32 || dtype == KIN_DTYPE_F64;
        kin_tensor_set(&c->t, i, real ? NAN : (double)UNSET);
    }
    return true;
}

bool kin_canary_intact(const kin_canary *c, char *why, size_t bytes)
{
    int64_t row = c->t.ndim > 0 ? c->t.size[c->t.ndim - 1] : 1;
    int64_t step = c->t.ndim > 1 ? c->t.stride[c->t.ndim - 2] : row;
    size_t size = kin_dtype_size(c->t.dtype);
    for (size_t i = 0; i < c->bytes + 2 * GUARD; i++) {
        bool inside = i >= GUARD && i < GUARD + c->bytes;
        if (inside) {
            /* rows of the view lie `step` elements apart, whatever the leading dimensions are */
            int64_t element = (int64_t)((i - GUARD) / size);
            inside = step > 0 && element % step < row;
        }
        if (!inside && c->block[i] != PATTERN) {
            snprintf(why, bytes, "memory beside the view was written, byte %lld from its start",
                     (long long)i - GUARD);
            return false;
        }
    }
    return true;
}

void kin_canary_close(kin_canary *c)
{
    kin_free(c->block);
    *c = (kin_canary){0};
}

/* tests/support/canary.h: output memory that notices writes beside a view: guards on both sides and
 * in the gaps between strided rows. */
#ifndef KIN_TESTS_CANARY_H
#define KIN_TESTS_CANARY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tensor/tensor.h"

typedef struct kin_canary {
    unsigned char *block; /* guard, data, guard */
    size_t bytes;         /* of data */
    kin_tensor t;         /* the view, into block */
} kin_canary;

/* A tensor whose rows (last dimension) lie `pad` elements apart from each other; f32 and f64
 * elements start as NaN, integers as their lowest pattern byte 0x7B. Returns false when out of
 * memory. Freed by kin_canary_close. */
bool kin_canary_open(kin_canary *c, kin_dtype dtype, int pad, int ndim, const int64_t *sizes);
/* True when nothing outside the view changed; else `why` tells where. */
bool kin_canary_intact(const kin_canary *c, char *why, size_t bytes);
void kin_canary_close(kin_canary *c);

#endif

/* base/hash.h: FNV-1a over bytes, 64 bits, for names of cached files, fingerprints and tables. Some
 * of its values lie on disk: they may not change. Not for what somebody could forge. */
#ifndef KIN_BASE_HASH_H
#define KIN_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

/* The hash of nothing, where a chain begins. */
#define KIN_FNV1A_START UINT64_C(14695981039346656037)

/* h with the n bytes of data after what it stands for. */
static inline uint64_t kin_fnv1a(uint64_t h, const void *data, size_t n)
{
    const unsigned char *p = (const unsigned char *)data;
    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * UINT64_C(1099511628211);
    return h;
}

#endif

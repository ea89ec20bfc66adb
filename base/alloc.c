#include "base/alloc.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* note: the counters are the only mutable globals of the library; they serve tests and have no
 * effect on results. The size sits in a 64-byte header so that realloc keeps the alignment. */
static atomic_uint_fast64_t count;
static atomic_uint_fast64_t fail_at;

enum { HEADER = 64, LARGE = 4 << 20 };

static bool should_fail(void)
{
    atomic_fetch_add_explicit(&count, 1, memory_order_relaxed);
    uint64_t k = atomic_load_explicit(&fail_at, memory_order_relaxed);
    if (k == 0)
        return false;
    return atomic_fetch_sub_explicit(&fail_at, 1, memory_order_relaxed) == 1;
}

void kin_large_pages(void *p, size_t bytes)
{
    const uintptr_t page = (uintptr_t)2 << 20, at = (uintptr_t)p;
    const uintptr_t from = (at + page - 1) & ~(page - 1), to = (at + bytes) & ~(page - 1);
    if (to > from)
        (void)madvise((char *)p + (from - at), to - from, MADV_HUGEPAGE);
}

void *kin_malloc(size_t bytes)
{
    size_t total;
    if (should_fail() || !kin_add_size(bytes, HEADER + 63, &total))
        return NULL;
    char *p = aligned_alloc(64, total & ~(size_t)63);
    if (!p)
        return NULL;
    memcpy(p, &bytes, sizeof bytes);
    if (bytes >= LARGE)
        kin_large_pages(p, bytes);
    return p + HEADER;
}

void *kin_calloc(size_t n, size_t size)
{
    size_t bytes;
    if (!kin_mul_size(n, size, &bytes))
        return NULL;
    void *p = kin_malloc(bytes);
    if (p)
        memset(p, 0, bytes);
    return p;
}

void *kin_realloc(void *p, size_t bytes)
{
    if (!p)
        return kin_malloc(bytes);
    size_t old;
    memcpy(&old, (char *)p - HEADER, sizeof old);
    void *q = kin_malloc(bytes);
    if (!q)
        return NULL;
    memcpy(q, p, old < bytes ? old : bytes);
    kin_free(p);
    return q;
}

void kin_free(void *p)
{
    if (p)
        free((char *)p - HEADER);
}

char *kin_strdup(const char *s)
{
    size_t n = strlen(s) + 1;
    char *p = kin_malloc(n);
    if (p)
        memcpy(p, s, n);
    return p;
}

void kin_mapped_drop(const void *data, size_t bytes)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), at = (uintptr_t)data & ~(page - 1);
    if (bytes > 0)
        madvise((void *)at, (uintptr_t)data + bytes - at, MADV_DONTNEED);
}

uint64_t kin_alloc_count(void)
{
    return atomic_load(&count);
}

void kin_alloc_fail_at(uint64_t k)
{
    atomic_store(&fail_at, k);
}

bool kin_mul_size(size_t a, size_t b, size_t *out)
{
    size_t r;
    if (__builtin_mul_overflow(a, b, &r))
        return false;
    *out = r;
    return true;
}

bool kin_add_size(size_t a, size_t b, size_t *out)
{
    size_t r;
    if (__builtin_add_overflow(a, b, &r))
        return false;
    *out = r;
    return true;
}

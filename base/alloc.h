/* base/alloc.h: all heap memory of kinema goes through these calls, so that tests can count them
 * and make the k-th one fail. They never abort; NULL means out of memory. */
#ifndef KIN_BASE_ALLOC_H
#define KIN_BASE_ALLOC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void *kin_malloc(size_t bytes);              /* 64-byte aligned; bytes 0 gives a valid pointer */
void *kin_calloc(size_t count, size_t size); /* zeroed; NULL too when count*size overflows */
void *kin_realloc(void *p, size_t bytes);    /* p from kin_malloc/kin_calloc/kin_realloc or NULL */
void kin_free(void *p);                      /* NULL does nothing */
char *kin_strdup(const char *s);

/* Gives the pages that [data, data+bytes) of a read-only file mapping touches back to the system:
 * they no longer count as resident and come from the file again when read. Never for other memory,
 * which would lose its contents. */
void kin_mapped_drop(const void *data, size_t bytes);

/* Asks for pages of 2 MB within the range, before it is first touched: with 4 KB ones, passes over
 * much memory lose time to address translation. A refusal changes nothing. kin_malloc does it for
 * blocks of 4 MB and more. */
void kin_large_pages(void *p, size_t bytes);

/* Number of kin_malloc/kin_calloc/kin_realloc calls so far in this process. */
uint64_t kin_alloc_count(void);
/* Test hook: the k-th allocation from now (1 = next) fails once; 0 switches off. */
void kin_alloc_fail_at(uint64_t k);

/* out = a*b or a+b; false on overflow (out untouched). */
bool kin_mul_size(size_t a, size_t b, size_t *out);
bool kin_add_size(size_t a, size_t b, size_t *out);

#endif

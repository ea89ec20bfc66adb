/* base/text.h: small text services: UTF-8 check, growing string buffer, nearest name. */
#ifndef KIN_BASE_TEXT_H
#define KIN_BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

/* True if s[0..n) is well-formed UTF-8 (no overlong forms, no surrogates, at most U+10FFFF). */
bool kin_utf8_valid(const char *s, size_t n);

/* A growing, always zero-terminated string; {0} is a valid empty one. `failed` stays set after out
 * of memory. */
typedef struct kin_strbuf {
    char *data;
    size_t len, cap;
    bool failed;
} kin_strbuf;
void kin_strbuf_add(kin_strbuf *b, const char *s);
void kin_strbuf_add_bytes(kin_strbuf *b, const char *s, size_t n);
void kin_strbuf_addf(kin_strbuf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void kin_strbuf_add_json(kin_strbuf *b, const char *s); /* s as a quoted JSON string */
void kin_strbuf_free(kin_strbuf *b);

/* The entry of `names` (NULL-terminated) with the smallest edit distance to `name`, or NULL when
 * none is near (distance > max(2, length/3)). */
const char *kin_nearest_name(const char *name, const char *const *names);

#endif

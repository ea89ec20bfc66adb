/* text/unicode.h: characters of UTF-8 text for the tokenizers and the cleaning of prompts; normal
 * forms by libutf8proc. Ill-formed bytes count as one character U+FFFD each. */
#ifndef KIN_TEXT_UNICODE_H
#define KIN_TEXT_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/text.h"

/* The character at s (n >= 1 bytes left) and how many bytes it takes. */
size_t kin_unicode_next(const char *s, size_t n, int32_t *c);
/* Appends one character (1 to U+10FFFF, no surrogate; 0 as a NUL byte). */
void kin_unicode_put(kin_strbuf *b, int32_t c);

/* White space as the Unicode property has it (regular expressions, Rust). */
bool kin_unicode_is_space(int32_t c);
/* The same with U+001C..001F, as Python's str.isspace. */
bool kin_unicode_is_blank(int32_t c);

/* Bytes of the characters for which `is` holds at the start of s; s without those at its end. */
size_t kin_unicode_leading(const char *s, size_t n, bool (*is)(int32_t c));
size_t kin_unicode_trimmed(const char *s, size_t n, bool (*is)(int32_t c));

/* Bytes of the extended grapheme cluster at s (UAX 29). */
size_t kin_unicode_cluster(const char *s, size_t n);

typedef enum kin_unicode_form { KIN_UNICODE_NFC, KIN_UNICODE_NFKC } kin_unicode_form;
/* s in a normal form, appended to out. Fails: MEM. */
kin_status kin_unicode_normalize(const char *s, size_t n, kin_unicode_form form, kin_strbuf *out,
                                 kin_error *err);

#endif

/* text/charsmap.h: sentencepiece's precompiled table of character replacements (nmt_nfkc), applied
 * as the `Precompiled` normalizer of tokenizer.json does: by grapheme cluster, and the shortest
 * entry that begins a cluster replaces all of it. */
#ifndef KIN_TEXT_CHARSMAP_H
#define KIN_TEXT_CHARSMAP_H

#include <stddef.h>

#include "base/status.h"
#include "base/text.h"

typedef struct kin_charsmap kin_charsmap;

/* blob: u32 bytes of the double array (little endian), the array, replacements each ended by a zero
 * byte (copied). Fails: FORMAT, MEM. */
kin_status kin_charsmap_create(const void *blob, size_t bytes, kin_charsmap **out, kin_error *err);
void kin_charsmap_destroy(kin_charsmap **map);

/* Appends the normal form of s to out (out->failed when out of memory). */
void kin_charsmap_apply(const kin_charsmap *map, const char *s, size_t n, kin_strbuf *out);

#endif

/* text/entities.h: character references of HTML5 in plain text, as html.unescape of Python's
 * library resolves them. The names are those of libgumbo. */
#ifndef KIN_TEXT_ENTITIES_H
#define KIN_TEXT_ENTITIES_H

#include <stddef.h>
#include <stdint.h>

#include "base/text.h"

/* A byte of windows-1252 as a character; the five bytes without one stand for themselves. */
int32_t kin_entities_cp1252(int32_t c);

/* s with every reference resolved, appended to out: names with and, for the old ones, without
 * semicolon (longest name first), decimal and hexadecimal numbers. Out of memory: out->failed. */
void kin_entities_unescape(const char *s, size_t n, kin_strbuf *out);

/* The same for references that end in a semicolon alone, also by a name in capitals (&EACUTE;), as
 * ftfy 6 resolves them. */
void kin_entities_unescape_whole(const char *s, size_t n, kin_strbuf *out);

#endif

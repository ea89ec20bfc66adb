/* physics/annotation_text.h: the free-text number readings that both forms of the annotation parser
 * share. Private to physics/annotation*.c. */
#ifndef KIN_PHYSICS_ANNOTATION_TEXT_H
#define KIN_PHYSICS_ANNOTATION_TEXT_H

#include <stdbool.h>
#include <stddef.h>

/* A piece of text, not zero-terminated. */
typedef struct kin_span {
    const char *s;
    size_t n;
} kin_span;

/* Python's float(str): whitespace around, sign, underscores between digits, exponent, inf, nan. */
bool kin_py_float(kin_span t, double *out);

/* Python's str.split(" "): the next word from *rest, false at the end. Double blanks give empty
 * words. */
typedef struct kin_words {
    kin_span rest;
    bool done;
} kin_words;
kin_words kin_words_of(kin_span t);
bool kin_words_next(kin_words *w, kin_span *word);

/* The official rule for n1 and n2: numbers around the first word "to"; false: no value. */
bool kin_span_read_range(kin_span t, double out[2]);

typedef enum kin_density_result {
    KIN_DENSITY_NONE, /* too few words: nothing is tried */
    KIN_DENSITY_BAD,  /* tried and not numbers */
    KIN_DENSITY_VALUE
} kin_density_result;
/* The official rule for one piece of n0 (the text before one "g/cm³"). */
kin_density_result kin_span_read_density(kin_span piece, double out[2]);

/* Walks the pieces of n0 before each "g/cm³"; the text after the last one is not a piece. */
bool kin_n0_next(kin_span *rest, kin_span *piece);

#endif

/* text/piece_set.h: a set of strings with ids, for longest matches at a place in a text. */
#ifndef KIN_TEXT_PIECE_SET_H
#define KIN_TEXT_PIECE_SET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct kin_piece {
    const char *text;
    size_t bytes;
    int32_t id;
} kin_piece;

typedef struct kin_piece_set {
    kin_piece *list; /* after sorting: by text, no text twice */
    size_t n, cap;
} kin_piece_set; /* {0}: empty */

/* Adds a text (borrowed, not empty). Fails: MEM. */
kin_status kin_piece_set_add(kin_piece_set *set, const char *text, size_t bytes, int32_t id,
                             kin_error *err);
/* To be called once after the last add: of equal texts the one added last stays. */
void kin_piece_set_sort(kin_piece_set *set);
void kin_piece_set_free(kin_piece_set *set);

/* Id of the text, -1 if it is not in the set. */
int32_t kin_piece_set_find(const kin_piece_set *set, const char *text, size_t bytes);

/* Walk over the members that are a prefix of a text, shortest first. */
typedef struct kin_piece_walk {
    const kin_piece_set *set;
    const char *text;
    size_t left, depth; /* bytes of the text, and of them matched */
    size_t lo, hi;      /* members that agree so far */
} kin_piece_walk;
kin_piece_walk kin_piece_walk_start(const kin_piece_set *set, const char *text, size_t bytes);
const kin_piece *kin_piece_walk_next(kin_piece_walk *w); /* NULL: no more */

#endif

/* physics/prompt_words.h: a prompt as lower-case words, and what kind of clip they describe.
 * Private to physics/. */
#ifndef KIN_PHYSICS_PROMPT_WORDS_H
#define KIN_PHYSICS_PROMPT_WORDS_H

#include <stdbool.h>

#include "base/status.h"
#include "physics/simulate.h"

enum { KIN_WORD_MAX = 31 };

typedef struct kin_prompt_words {
    char (*word)[KIN_WORD_MAX + 1]; /* letters, digits and bytes >= 0x80; longer words are cut */
    int count;
} kin_prompt_words;
kin_status kin_prompt_split(const char *prompt, kin_prompt_words *out, kin_error *err);
void kin_prompt_free(kin_prompt_words *w);

/* Word i, "" outside. */
const char *kin_prompt_at(const kin_prompt_words *w, int i);
/* True if word is one of a list "a|b|c*" (a trailing * matches any ending). */
bool kin_word_in(const char *word, const char *list);
/* First position >= from of a word of the list, or -1. */
int kin_prompt_find(const kin_prompt_words *w, int from, const char *list);

/* A thing that can move (ball, box, block, ...), KIN_SIM_BOX for angular ones; -1: no such noun. */
int kin_noun_shape(const char *word);
bool kin_noun_is_ground(const char *word); /* floor, ramp, table, ... */
/* First word of the noun phrase whose noun is at i: goes back over at most six adjectives, not past
 * an article, another noun or a preposition. */
int kin_phrase_start(const kin_prompt_words *w, int noun);

/* The simulator's kind that the words describe, or -1. */
int kin_prompt_kind(const kin_prompt_words *w);

#endif

/* text/unigram.h: the best split of a word into pieces by their log probabilities (Viterbi; Kudo
 * 2018, arXiv 1804.10959, section 3.2), with the rules of tokenizer.json's `Unigram`: all pieces
 * match, also those of controls and bytes; a run of unknown characters is one. */
#ifndef KIN_TEXT_UNIGRAM_H
#define KIN_TEXT_UNIGRAM_H

#include "text/piece_set.h"

typedef struct kin_unigram {
    kin_piece_set pieces; /* texts borrowed */
    double *score;        /* by id */
    int32_t count;        /* ids */
    int32_t unk;          /* -1: none */
    bool byte_fallback;   /* an unknown text becomes its byte pieces <0xNN> where all exist */
    double min_score;
    int32_t byte_id[256]; /* of <0xNN>, -1: none */
} kin_unigram;            /* {0}: empty */

typedef bool (*kin_id_put)(void *user, int32_t id); /* false: out of memory */

/* Adds the piece with the next id. text: borrowed, not empty. Fails: MEM. */
kin_status kin_unigram_add(kin_unigram *u, const char *text, size_t bytes, double score,
                           kin_error *err);
/* After the last piece. Fails: FORMAT if unk is no id. */
kin_status kin_unigram_finish(kin_unigram *u, int32_t unk, kin_error *err);
void kin_unigram_free(kin_unigram *u);

/* Ids of one word (well-formed UTF-8). Fails: FORMAT (an unknown character and no unk), MEM. */
kin_status kin_unigram_encode(const kin_unigram *u, const char *word, size_t bytes, kin_id_put put,
                              void *user, kin_error *err);

#endif

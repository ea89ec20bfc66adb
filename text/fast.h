/* text/fast.h: transformers' T5TokenizerFast: added tokens are cut out, what lies between them is
 * normalized, split at blanks, and each word goes to a unigram model. Made from tokenizer.json
 * (fast_json.c) or from a sentencepiece model (fast_spiece.c), as the library does. For
 * text/tokenizer.c. */
#ifndef KIN_TEXT_FAST_H
#define KIN_TEXT_FAST_H

#include "text/charsmap.h"
#include "text/piece_set.h"
#include "text/unigram.h"

enum { KIN_FAST_STEPS = 16, KIN_FAST_AFFIX = 8 };

typedef enum kin_fast_step_kind {
    KIN_FAST_CHARSMAP,
    KIN_FAST_NFC,
    KIN_FAST_NFKC,
    KIN_FAST_STRIP,   /* white space at the left, right */
    KIN_FAST_REPLACE, /* every `from` becomes `to` */
    KIN_FAST_RUNS,    /* every run of two or more blanks becomes `to` */
    KIN_FAST_PREPEND  /* `to` before a text that is not empty */
} kin_fast_step_kind;

typedef struct kin_fast_step {
    kin_fast_step_kind kind;
    kin_charsmap *map;
    bool left, right;
    const char *from, *to; /* borrowed */
} kin_fast_step;

typedef enum kin_fast_prepend { KIN_FAST_NEVER, KIN_FAST_FIRST, KIN_FAST_ALWAYS } kin_fast_prepend;

/* A token that is cut out of the text. */
typedef struct kin_fast_added {
    const char *text; /* borrowed */
    int32_t id;
    bool left, right; /* takes the white space on that side too */
    bool normalized;  /* looked for in the normalized text */
} kin_fast_added;

typedef struct kin_fast {
    kin_fast_step step[KIN_FAST_STEPS];
    int steps;
    bool split_blanks;        /* WhitespaceSplit */
    const char *replacement;  /* of a blank (borrowed); NULL: words are not marked */
    kin_fast_prepend prepend; /* a replacement before the stretch */
    bool split;               /* a word starts at each replacement */
    kin_unigram unigram;
    kin_fast_added *added;
    size_t added_count;
    kin_piece_set added_set[2]; /* ids are indices into added: not normalized, normalized */
    int32_t before[KIN_FAST_AFFIX], after[KIN_FAST_AFFIX]; /* ids round the text's own */
    int before_count, after_count;
    char *text;  /* what the strings point into, or */
    void *tree;  /* a cJSON */
    char **made; /* normalized added tokens */
    size_t made_count;
    int32_t largest; /* id */
} kin_fast;

/* bytes of a tokenizer.json. Fails: FORMAT; UNSUPPORTED for parts that no T5 tokenizer has; MEM. */
kin_status kin_fast_from_json(const char *json, size_t bytes, kin_fast **out, kin_error *err);
/* bytes of a sentencepiece model with T5's first three pieces; extra_ids as T5Tokenizer's; prepend:
 * ALWAYS, or FIRST for legacy false. */
kin_status kin_fast_from_spiece(const void *model, size_t bytes, int extra_ids,
                                kin_fast_prepend prepend, kin_fast **out, kin_error *err);
void kin_fast_destroy(kin_fast **fast);

/* For the two makers: adds a token (the text stays the caller's); after the last one. */
kin_status kin_fast_add(kin_fast *f, const kin_fast_added *token, kin_error *err);
kin_status kin_fast_finish(kin_fast *f, kin_error *err);

/* Ids of the text's own, without `before` and `after`. */
kin_status kin_fast_encode(const kin_fast *f, const char *text, size_t bytes, kin_id_put put,
                           void *user, kin_error *err);

#endif

/* text/tokenizer.h: tokenizers with the T5 conventions (pad 0, eos 1, unk 2) of transformers 4.57:
 * T5Tokenizer over the sentencepiece library, through one shim, and T5TokenizerFast (text/fast.h).
 * Takes bytes, reads no files. */
#ifndef KIN_TEXT_TOKENIZER_H
#define KIN_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct kin_tokenizer kin_tokenizer;

/* A token that is cut out of the text by its exact spelling; left, right: it takes the blanks on
 * that side too. */
typedef struct kin_added_token {
    const char *text;
    int32_t id;
    bool left, right;
} kin_added_token;

typedef struct kin_tokenizer_options {
    int extra_ids; /* <extra_id_i> has id vocabulary + extra_ids - 1 - i; 0 for none */
    bool legacy; /* T5Tokenizer's `legacy`: each stretch between special tokens gets its own leading
                    marker */
    bool no_byte_fallback; /* a run of unknown characters becomes one unk even if the model has byte
                            * pieces */
    bool fast;             /* T5TokenizerFast as it is made from a sentencepiece model; `added` and
                              no_byte_fallback have no meaning */
    const kin_added_token *added; /* more than pad, eos, unk and the extra ids (copied) */
    int added_count;
} kin_tokenizer_options;

/* model: bytes of a sentencepiece .model (copied). opt NULL: no extra ids, legacy. Fails: FORMAT,
 * MEM. */
kin_status kin_tokenizer_create(const void *model, size_t bytes, const kin_tokenizer_options *opt,
                                kin_tokenizer **out, kin_error *err);
/* T5TokenizerFast from the bytes of its tokenizer.json: a Unigram model with the normalizers,
 * pre-tokenizers and template that T5 and UMT5 models use. Truncation and padding of the file have
 * no meaning. Fails: FORMAT, UNSUPPORTED (other parts), MEM. */
kin_status kin_tokenizer_create_json(const char *json, size_t bytes, kin_tokenizer **out,
                                     kin_error *err);
void kin_tokenizer_destroy(kin_tokenizer **tok);
int kin_tokenizer_vocab(const kin_tokenizer *tok); /* pieces; extra ids only where they are some */

/* Plain sentencepiece ids of the whole text, no eos. *ids is the caller's (kin_free). Fails:
 * UNSUPPORTED for a fast tokenizer. */
kin_status kin_tokenizer_pieces(const kin_tokenizer *tok, const char *text, size_t bytes,
                                int32_t **ids, int *n, kin_error *err);
/* Special tokens cut out first, eos added at the end (by the slow one unless the last id already is
 * eos). */
kin_status kin_tokenizer_encode(const kin_tokenizer *tok, const char *text, size_t bytes,
                                int32_t **ids, int *n, kin_error *err);
/* The same padded with 0 or cut to max_length (a cut text still ends in eos): ids i32 [max_length],
 * mask u8 [max_length] or NULL. */
kin_status kin_tokenizer_encode_padded(const kin_tokenizer *tok, const char *text, size_t bytes,
                                       int max_length, int32_t *ids, uint8_t *mask, kin_error *err);
/* Bytes of the underlying .model file (borrowed); NULL and 0 for one made from tokenizer.json. */
const void *kin_tokenizer_model(const kin_tokenizer *tok, size_t *bytes);

/* Trains a unigram model (pad 0, eos 1, unk 2, no bos, nmt_nfkc) of vocab_size pieces on n
 * sentences; byte_fallback as named. *model is the caller's (kin_free). Same input, same bytes.
 * Prints nothing. Fails: ARG (vocabulary too large for the text), BACKEND. */
kin_status kin_tokenizer_train(const char *const *sentences, int n, int vocab_size,
                               bool byte_fallback, void **model, size_t *bytes, kin_error *err);
/* The same with a model type: "unigram", or "bpe", which makes whole words of a small closed
 * vocabulary (unigram only takes pieces that several different words share). Fails: ARG for another
 * type. */
kin_status kin_tokenizer_train_type(const char *type, const char *const *sentences, int n,
                                    int vocab_size, bool byte_fallback, void **model, size_t *bytes,
                                    kin_error *err);

#endif

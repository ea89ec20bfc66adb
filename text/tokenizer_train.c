/* text/tokenizer_train.c: training of a sentencepiece model. */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "text/spm_shim.h"
#include "text/tokenizer.h"

enum { MESSAGE = 400 };

typedef struct model_bytes {
    void *data;
    size_t bytes;
} model_bytes;

static bool model_give(void *user, const void *data, size_t bytes)
{
    model_bytes *m = user;
    m->data = kin_malloc(bytes);
    m->bytes = bytes;
    if (m->data)
        memcpy(m->data, data, bytes);
    return m->data != NULL;
}

kin_status kin_tokenizer_train(const char *const *sentences, int n, int vocab_size,
                               bool byte_fallback, void **model, size_t *bytes, kin_error *err)
{
    return kin_tokenizer_train_type("unigram", sentences, n, vocab_size, byte_fallback, model,
                                    bytes, err);
}

kin_status kin_tokenizer_train_type(const char *type, const char *const *sentences, int n,
                                    int vocab_size, bool byte_fallback, void **model, size_t *bytes,
                                    kin_error *err)
{
    *model = NULL;
    *bytes = 0;
    if (strcmp(type, "unigram") != 0 && strcmp(type, "bpe") != 0)
        return kin_fail(err, KIN_ERR_ARG,
                        "tokenizer training: type \"%.40s\" must be unigram or bpe", type);
    if (n < 1 || vocab_size < 4)
        return kin_fail(err, KIN_ERR_ARG,
                        "tokenizer training: %d sentences must be at least 1, %d pieces at least 4",
                        n, vocab_size);
    char vocab[40];
    snprintf(vocab, sizeof vocab, "vocab_size=%d", vocab_size);
    /* note: one thread, because the sums of several depend on their number; minloglevel 3 keeps
     * stderr empty */
    const char *args[] = {vocab,
                          byte_fallback ? "byte_fallback=true" : "byte_fallback=false",
                          strcmp(type, "bpe") == 0 ? "model_type=bpe" : "model_type=unigram",
                          "normalization_rule_name=nmt_nfkc",
                          "character_coverage=1.0",
                          "pad_id=0",
                          "eos_id=1",
                          "unk_id=2",
                          "bos_id=-1",
                          "num_threads=1",
                          "max_sentence_length=65536",
                          "minloglevel=3",
                          NULL};
    char message[MESSAGE] = "";
    model_bytes m = {0};
    kin_spm_code code = kin_spm_train(sentences, n, args, model_give, &m, message, sizeof message);
    if (code == KIN_SPM_FAILED)
        return kin_fail(err, KIN_ERR_ARG, "tokenizer training: %d pieces from %d sentences: %s",
                        vocab_size, n, message);
    if (code == KIN_SPM_MEM)
        return kin_fail(err, KIN_ERR_MEM, "tokenizer training: out of memory");
    *model = m.data;
    *bytes = m.bytes;
    return KIN_OK;
}

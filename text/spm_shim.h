/* text/spm_shim.h: the C face of the sentencepiece library (C++). No exception leaves these
 * functions; a failure returns a code and writes a line into message[bytes]. For text/tokenizer.c
 * only. */
#ifndef KIN_TEXT_SPM_SHIM_H
#define KIN_TEXT_SPM_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum kin_spm_code { KIN_SPM_OK = 0, KIN_SPM_MEM, KIN_SPM_FAILED } kin_spm_code;

typedef struct kin_spm kin_spm;

/* Processor over the bytes of a .model (copied). dummy_prefix false: no marker is put before the
 * text. byte_fallback false: a run of unknown characters gives one unk even if the model has byte
 * pieces. */
kin_spm_code kin_spm_create(const void *model, size_t bytes, bool dummy_prefix, bool byte_fallback,
                            kin_spm **out, char *message, size_t message_bytes);
void kin_spm_destroy(kin_spm *spm);
int kin_spm_size(const kin_spm *spm);
/* Ids of the text, handed over in order: every id goes to put(user, id); put returns false when it
 * is out of memory. by_piece: ids are looked up from the spelling of the pieces, as Python's
 * T5Tokenizer does. skip: leading pieces left out (all are kept if there are fewer). */
kin_spm_code kin_spm_encode(const kin_spm *spm, const char *text, size_t bytes, bool by_piece,
                            int skip, bool (*put)(void *user, int32_t id), void *user,
                            char *message, size_t message_bytes);
/* Id of the lone marker U+2581 (unk where the model has none). */
int kin_spm_marker_id(const kin_spm *spm);

/* Trains on n sentences; the model goes to give(user, data, bytes). args: "key=value" pairs ended
 * by NULL, as spm_train's flags. */
kin_spm_code kin_spm_train(const char *const *sentences, int n, const char *const *args,
                           bool (*give)(void *user, const void *data, size_t bytes), void *user,
                           char *message, size_t message_bytes);

#ifdef __cplusplus
}
#endif

#endif

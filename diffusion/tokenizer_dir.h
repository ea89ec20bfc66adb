/* diffusion/tokenizer_dir.h: the tokenizer/ folder of a model in the diffusers layout
 * (tokenizer_config.json, tokenizer.json, spiece.model and what else lies there), read as
 * transformers chooses, and written back unchanged. Internal to diffusion/. */
#ifndef KIN_DIFFUSION_TOKENIZER_DIR_H
#define KIN_DIFFUSION_TOKENIZER_DIR_H

#include "text/tokenizer.h"

enum { KIN_TOKENIZER_FILES = 5 };

/* The files as they were read, in the order of the .c file's table; NULL: not there. */
typedef struct kin_tokenizer_files {
    char *data[KIN_TOKENIZER_FILES];
    size_t bytes[KIN_TOKENIZER_FILES];
} kin_tokenizer_files;

/* Reads DIR. class_name: the tokenizer's class in model_index.json, or NULL. "T5Tokenizer" is the
 * slow tokenizer of spiece.model; every other class (T5TokenizerFast, AutoTokenizer) the fast one
 * of tokenizer.json or, where there is none, of spiece.model. Without a class, or with one file
 * alone, tokenizer.json goes before spiece.model. *files may be NULL. Fails: IO, FORMAT,
 * UNSUPPORTED, MEM; names the folder. */
kin_status kin_tokenizer_dir_load(const char *dir, const char *class_name, kin_tokenizer **out,
                                  kin_tokenizer_files **files, kin_error *err);
/* Writes the files into a new folder; files NULL: spiece.model of tok and a tokenizer_config.json.
 */
kin_status kin_tokenizer_dir_save(const char *dir, const kin_tokenizer *tok,
                                  const kin_tokenizer_files *files, kin_error *err);
void kin_tokenizer_files_free(kin_tokenizer_files **files);

#endif

/* io/safetensors.h: safetensors files, read by mapping and written as the official library writes
 * them. Format: https://github.com/huggingface/safetensors (8-byte length, JSON header, data). */
#ifndef KIN_IO_SAFETENSORS_H
#define KIN_IO_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "io/elements.h"
#include "tensor/tensor.h"

enum {
    KIN_SAFETENSORS_MAX_HEADER = 100000000,
    KIN_SAFETENSORS_MAX_TENSORS = 100000,
    KIN_SAFETENSORS_MAX_DIMS = 8,
    KIN_SAFETENSORS_MAX_SHARDS = 1000
};

/* One tensor as the file describes it. */
typedef struct kin_safetensors_entry {
    const char *name;
    const char *dtype; /* "F32", "BOOL", ... */
    int ndim;
    int64_t size[KIN_SAFETENSORS_MAX_DIMS];
    const void *data; /* aligned to its element size */
    size_t bytes;
    bool mapped;      /* data lies in the mapped file itself, see kin_mapped_drop */
    const char *path; /* of the file it lies in, as opened */
} kin_safetensors_entry;

/* An open file, or the shards of one index. Tensors, names and metadata live until close. */
typedef struct kin_safetensors kin_safetensors;

/* Opens one file. The whole header is checked (names, dtypes, shapes, ranges without overlap, hole
 * or rest); data pages are not touched. Fails: KIN_ERR_IO; KIN_ERR_FORMAT; KIN_ERR_MEM; the text
 * names the file. */
kin_status kin_safetensors_open(const char *path, kin_safetensors **out, kin_error *err);

/* Opens dir/name ("model.safetensors") or, if there is none, the shards that dir/name.index.json
 * lists (bare names in dir). */
kin_status kin_safetensors_open_dir(const char *dir, const char *name, kin_safetensors **out,
                                    kin_error *err);

void kin_safetensors_close(kin_safetensors **st);

int64_t kin_safetensors_count(const kin_safetensors *st);
/* Entry i, in the order of the data (shards in the order of their names). */
const kin_safetensors_entry *kin_safetensors_at(const kin_safetensors *st, int64_t i);
/* Index of the tensor `name`, -1 if there is none. */
int64_t kin_safetensors_find(const kin_safetensors *st, const char *name);

/* A read-only view of tensor i (BOOL as u8). Fails: KIN_ERR_UNSUPPORTED for a dtype kinema does not
 * compute with; KIN_ERR_SHAPE for more than KIN_MAX_DIMS dimensions. */
kin_status kin_safetensors_tensor(const kin_safetensors *st, int64_t i, kin_tensor *out,
                                  kin_error *err);
/* The same by name; KIN_ERR_FORMAT if there is no such tensor. */
kin_status kin_safetensors_get(const kin_safetensors *st, const char *name, kin_tensor *out,
                               kin_error *err);

/* The value of a metadata key of the (first) file, NULL if there is none. */
const char *kin_safetensors_metadata(const kin_safetensors *st, const char *key);
int64_t kin_safetensors_metadata_count(const kin_safetensors *st);
/* Key and value of metadata pair i. */
const char *kin_safetensors_metadata_at(const kin_safetensors *st, int64_t i, const char **value);

/* Writes n contiguous tensors; complete or not at all. Data order as the official library: larger
 * element types first, then by name; header padded with blanks to 8 bytes. Nothing is copied but
 * one conversion buffer. store: dtype to write tensor i with (float types convert into each other,
 * round to nearest even), NULL: as they are. metadata: {key, value, key, value, ..., NULL} or NULL.
 * Fails: KIN_ERR_ARG (name twice or not UTF-8, view not contiguous, conversion); KIN_ERR_IO;
 * KIN_ERR_MEM. */
kin_status kin_safetensors_write(const char *path, const char *const *names,
                                 const kin_tensor *tensors, const kin_dtype *store, int64_t n,
                                 const char *const *metadata, kin_error *err);
/* The same from items, each read once, piece by piece. */
kin_status kin_safetensors_write_items(const char *path, const kin_item *items, int64_t n,
                                       const char *const *metadata, kin_error *err);
/* Writes dir/name, or where the tensors take more than max_bytes (0: no limit)
 * dir/name-00001-of-0000N and so on with dir/name.index.json, as kin_safetensors_open_dir reads
 * them. The shards take the items in their order. */
kin_status kin_safetensors_write_dir(const char *dir, const char *name, const kin_item *items,
                                     int64_t n, uint64_t max_bytes, const char *const *metadata,
                                     kin_error *err);

#endif

/* io/blob.h: the bytes of one input file, mapped read-only. Readers of hostile formats work on such
 * a span. */
#ifndef KIN_IO_BLOB_H
#define KIN_IO_BLOB_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct kin_blob {
    const uint8_t *data; /* never NULL after open */
    size_t bytes;
} kin_blob;

/* Maps a regular file. Fails: KIN_ERR_IO, naming the file. */
kin_status kin_blob_open(const char *path, kin_blob *out, kin_error *err);
void kin_blob_close(kin_blob *blob); /* sets {0}; safe on {0} */

#endif

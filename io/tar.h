/* io/tar.h: index of an uncompressed tar file (ustar, with GNU long names and pax path and size
 * records). Regular files only; the rest is passed over. */
#ifndef KIN_IO_TAR_H
#define KIN_IO_TAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct kin_tar_entry {
    const char *name; /* relative, cannot leave the folder */
    const uint8_t *data;
    size_t bytes;
} kin_tar_entry;

typedef struct kin_tar kin_tar;

/* Maps and indexes the file. Every header's checksum, name and size is checked. Fails: KIN_ERR_IO,
 * KIN_ERR_FORMAT (names the file; also for two members of one name), KIN_ERR_MEM. */
kin_status kin_tar_open(const char *path, kin_tar **out, kin_error *err);
void kin_tar_close(kin_tar **tar);
int64_t kin_tar_count(const kin_tar *tar);
const kin_tar_entry *kin_tar_at(const kin_tar *tar, int64_t i); /* in the order of names (bytes) */
const kin_tar_entry *kin_tar_find(const kin_tar *tar, const char *name); /* NULL: none */

/* True if the first block is a tar header with a right checksum. */
bool kin_tar_detect(const void *data, size_t bytes);

#endif

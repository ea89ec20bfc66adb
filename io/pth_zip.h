/* io/pth_zip.h: the zip container of a .pth file, over libzip, with the place of stored entries in
 * the mapped file. Internal to io/. */
#ifndef KIN_IO_PTH_ZIP_H
#define KIN_IO_PTH_ZIP_H

#include <stdbool.h>

#include "io/blob.h"

typedef struct kin_pth_zip kin_pth_zip;

/* Reads the directory of entries of *blob, which must outlive *out. Fails: FORMAT (no zip file, not
 * one of torch.save), UNSUPPORTED (big-endian), MEM. */
kin_status kin_pth_zip_open(const kin_blob *blob, kin_pth_zip **out, kin_error *err);
void kin_pth_zip_close(kin_pth_zip **zip);

/* The pickle, its checksum verified; *data is the caller's: kin_free. */
kin_status kin_pth_zip_pickle(kin_pth_zip *zip, uint8_t **data, size_t *bytes, kin_error *err);
/* Bytes of the storage `key` [n characters] in the mapped file. */
kin_status kin_pth_zip_storage(kin_pth_zip *zip, const char *key, size_t n, const uint8_t **data,
                               size_t *bytes, kin_error *err);
/* Reads every entry against its checksum. */
kin_status kin_pth_zip_verify(kin_pth_zip *zip, kin_error *err);

#endif

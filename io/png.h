/* io/png.h: PNG through libpng. */
#ifndef KIN_IO_PNG_H
#define KIN_IO_PNG_H

#include "base/text.h"
#include "io/image.h"

/* Writes rgb u8 [H,W,3] (contiguous); complete or not at all; same input, same bytes.
 * metadata: {key, value, ..., NULL} or NULL, as tEXt (ASCII values) or iTXt (UTF-8). Keys: 1..79
 * ASCII characters. Fails: KIN_ERR_SHAPE, KIN_ERR_ARG, KIN_ERR_IO, KIN_ERR_MEM. */
kin_status kin_png_write(const char *path, const kin_tensor *rgb, const char *const *metadata,
                         kin_error *err);

/* Any PNG as RGB8: gray and palette expanded, 16 bits scaled to 8, alpha dropped. Sides at most
 * KIN_IMAGE_MAX_SIDE, pixels at most KIN_IMAGE_MAX_PIXELS. Fails: KIN_ERR_FORMAT naming `where`;
 * KIN_ERR_MEM. */
kin_status kin_png_decode(const void *data, size_t bytes, const char *where, kin_image *out,
                          kin_error *err);
kin_status kin_png_read(const char *path, kin_image *out, kin_error *err);

/* Appends the text stored under `key` in the PNG file to *out; nothing when there is none. */
kin_status kin_png_read_text(const char *path, const char *key, kin_strbuf *out, kin_error *err);

#endif

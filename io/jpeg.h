/* io/jpeg.h: JPEG decoding through libavcodec. */
#ifndef KIN_IO_JPEG_H
#define KIN_IO_JPEG_H

#include "io/image.h"

/* Whole JPEG (baseline or progressive, gray or YCbCr) as RGB8. A damaged or cut one is refused,
 * never patched up. Fails: KIN_ERR_FORMAT naming `where`; KIN_ERR_MEM. */
kin_status kin_jpeg_decode(const void *data, size_t bytes, const char *where, kin_image *out,
                           kin_error *err);
kin_status kin_jpeg_read(const char *path, kin_image *out, kin_error *err);

#endif

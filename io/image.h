/* io/image.h: a decoded picture, and reading one whatever its format. */
#ifndef KIN_IO_IMAGE_H
#define KIN_IO_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "tensor/tensor.h"

enum { KIN_IMAGE_MAX_SIDE = 16384, KIN_IMAGE_MAX_PIXELS = 64 * 1024 * 1024 };

typedef struct kin_image {
    int64_t width, height;
    uint8_t *rgb; /* [H,W,3], kin_malloc */
} kin_image;

void kin_image_free(kin_image *image);               /* sets {0}; safe on {0} */
kin_tensor kin_image_tensor(const kin_image *image); /* view u8 [H,W,3] */

/* Decodes PNG or JPEG bytes, told apart by their first bytes. `where` names them in errors.
 * Fails: KIN_ERR_FORMAT; KIN_ERR_MEM. Free: kin_image_free. */
kin_status kin_image_decode(const void *data, size_t bytes, const char *where, kin_image *out,
                            kin_error *err);
kin_status kin_image_read(const char *path, kin_image *out, kin_error *err);

#endif

#include "io/image.h"

#include <string.h>

#include "base/alloc.h"
#include "io/blob.h"
#include "io/jpeg.h"
#include "io/png.h"

void kin_image_free(kin_image *image)
{
    kin_free(image->rgb);
    *image = (kin_image){0};
}

kin_tensor kin_image_tensor(const kin_image *image)
{
    return KIN_TENSOR(image->rgb, KIN_DTYPE_U8, image->height, image->width, 3);
}

kin_status kin_image_decode(const void *data, size_t bytes, const char *where, kin_image *out,
                            kin_error *err)
{
    *out = (kin_image){0};
    if (bytes >= 4 && memcmp(data, "\x89PNG", 4) == 0)
        return kin_png_decode(data, bytes, where, out, err);
    if (bytes >= 2 && memcmp(data, "\xFF\xD8", 2) == 0)
        return kin_jpeg_decode(data, bytes, where, out, err);
    return kin_fail(err, KIN_ERR_FORMAT, "image: %s: must be PNG or JPEG", where);
}

kin_status kin_image_read(const char *path, kin_image *out, kin_error *err)
{
    kin_blob blob;
    *out = (kin_image){0};
    KIN_TRY(kin_blob_open(path, &blob, err));
    kin_status status = kin_image_decode(blob.data, blob.bytes, path, out, err);
    kin_blob_close(&blob);
    return status;
}

#include "cli/sheet.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "io/png.h"

kin_status kin_sheet_parse(const char *text, int64_t *columns, int64_t *rows, kin_error *err)
{
    int c = 0, r = 0, end = 0;
    if (sscanf(text, "%4dx%4d%n", &c, &r, &end) != 2 || text[end] || c < 1 || r < 1 ||
        c > KIN_SHEET_SIDE || r > KIN_SHEET_SIDE)
        return kin_fail(err, KIN_ERR_ARG,
                        "--grid: '%s' must be columns x rows, e.g. 4x4, each 1 to %d", text,
                        KIN_SHEET_SIDE);
    *columns = c;
    *rows = r;
    return KIN_OK;
}

kin_status kin_sheet_write(const char *path, const kin_tensor *pictures, int64_t columns,
                           int64_t rows, const char *const *metadata, kin_error *err)
{
    const int64_t n = pictures->size[0], H = pictures->size[1], W = pictures->size[2];
    const int64_t cells = columns * rows, used = n < cells ? n : cells;
    const size_t line = (size_t)(columns * W) * 3;
    size_t bytes;
    if (columns * W > KIN_IMAGE_MAX_SIDE || rows * H > KIN_IMAGE_MAX_SIDE ||
        !kin_mul_size(line, (size_t)(rows * H), &bytes))
        return kin_fail(err, KIN_ERR_ARG, "output: a picture of %lldx%lld is too large",
                        (long long)(columns * W), (long long)(rows * H));
    uint8_t *rgb = kin_calloc(bytes, 1);
    if (!rgb)
        return kin_fail(err, KIN_ERR_MEM, "output: out of memory");
    for (int64_t i = 0; i < used; i++) {
        /* the nearest to i * (n - 1) / (used - 1) */
        const int64_t from = used > 1 ? (2 * i * (n - 1) + used - 1) / (2 * (used - 1)) : 0;
        const uint8_t *in = (const uint8_t *)pictures->data + (size_t)(from * H * W) * 3;
        uint8_t *to = rgb + (size_t)(i / columns * H) * line + (size_t)(i % columns * W) * 3;
        for (int64_t y = 0; y < H; y++)
            memcpy(to + (size_t)y * line, in + (size_t)(y * W) * 3, (size_t)W * 3);
    }
    const kin_tensor sheet = KIN_TENSOR(rgb, KIN_DTYPE_U8, rows * H, columns * W, 3);
    const kin_status status = kin_png_write(path, &sheet, metadata, err);
    kin_free(rgb);
    return status;
}

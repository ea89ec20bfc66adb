/* tests/fuzz/target_media.c: pictures and clips. */
#include <string.h>

#include <zlib.h>

#include "base/alloc.h"
#include "io/jpeg.h"
#include "io/png.h"
#include "io/video.h"
#include "tests/fuzz/targets.h"

enum { PIXELS_MAX = 1 << 20 }; /* larger pictures are left out: they only cost time */

static uint32_t be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void decode_png(const uint8_t *data, size_t bytes)
{
    kin_error err;
    kin_image image;
    kin_strbuf text = {0};
    if (bytes >= 24 && (uint64_t)be32(data + 16) * be32(data + 20) > PIXELS_MAX)
        return;
    if (kin_png_decode(data, bytes, "x", &image, &err) == KIN_OK)
        kin_image_free(&image);
    const char *path = kin_fuzz_file(data, bytes);
    if (path)
        kin_png_read_text(path, "prompt", &text, &err);
    kin_strbuf_free(&text);
}

/* Once as it is and once with the checksum of every chunk made right, which no mutation hits. */
int kin_fuzz_png(const uint8_t *data, size_t bytes)
{
    decode_png(data, bytes);
    uint8_t *copy = kin_malloc(bytes);
    if (!copy)
        return 0;
    memcpy(copy, data, bytes);
    for (size_t at = 8; bytes - at >= 12 && at < bytes;) {
        const size_t n = be32(copy + at);
        if (n > bytes - at - 12)
            break;
        const uint32_t crc = (uint32_t)crc32(0, copy + at + 4, (uInt)(n + 4));
        for (int k = 0; k < 4; k++)
            copy[at + 8 + n + (size_t)k] = (uint8_t)(crc >> (24 - 8 * k));
        at += 12 + n;
    }
    decode_png(copy, bytes);
    kin_free(copy);
    return 0;
}

int kin_fuzz_jpeg(const uint8_t *data, size_t bytes)
{
    kin_error err;
    kin_image image;
    if (kin_jpeg_decode(data, bytes, "x", &image, &err) == KIN_OK)
        kin_image_free(&image);
    return 0;
}

int kin_fuzz_video(const uint8_t *data, size_t bytes)
{
    const kin_video_select few = {.num_frames = 3, .max_frames = 64, .max_bytes = 4 << 20};
    kin_error err;
    kin_clip clip;
    if (kin_video_decode(data, bytes, "x", &few, &clip, &err) == KIN_OK)
        kin_clip_free(&clip);
    return 0;
}

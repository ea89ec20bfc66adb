/* note: libpng reports errors by longjmp. Each function that sets the jump holds only plain
 * pointers and volatile state of its caller's struct, so that nothing is lost or read indeterminate
 * after it. */
#include "io/png.h"

#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include <png.h>

#include "base/alloc.h"
#include "base/path.h"
#include "io/blob.h"

enum { CHUNK_MAX_BYTES = 8 * 1024 * 1024, CHUNKS_MAX = 128 };

/* One read or write in progress; survives the jump because it lives in the caller's frame. */
typedef struct job {
    png_structp png;
    png_infop info;
    char message[160];
    const uint8_t *data; /* reading: what is left */
    size_t bytes;
    png_bytep *rows;
    uint8_t *rgb;
    kin_image image;
} job;

static void on_error(png_structp png, png_const_charp text)
{
    job *j = png_get_error_ptr(png);
    snprintf(j->message, sizeof j->message, "%s", text);
    png_longjmp(png, 1);
}

static void on_warning(png_structp png, png_const_charp text)
{
    (void)png;
    (void)text;
}

static void on_read(png_structp png, png_bytep out, size_t n)
{
    job *j = png_get_io_ptr(png);
    if (n > j->bytes)
        png_error(png, "file ends too early");
    memcpy(out, j->data, n);
    j->data += n;
    j->bytes -= n;
}

static void job_free(job *j, bool writing)
{
    if (writing)
        png_destroy_write_struct(&j->png, &j->info);
    else
        png_destroy_read_struct(&j->png, &j->info, NULL);
    kin_free(j->rows);
    kin_free(j->rgb);
}

static bool start_read(job *j)
{
    j->png = png_create_read_struct(PNG_LIBPNG_VER_STRING, j, on_error, on_warning);
    j->info = j->png ? png_create_info_struct(j->png) : NULL;
    return j->info != NULL;
}

/* Header and limits. Separate, so that sizes are known before memory is taken. */
static bool read_header(job *j)
{
    if (setjmp(png_jmpbuf(j->png)))
        return false;
    png_set_user_limits(j->png, KIN_IMAGE_MAX_SIDE, KIN_IMAGE_MAX_SIDE);
    png_set_chunk_malloc_max(j->png, CHUNK_MAX_BYTES);
    png_set_chunk_cache_max(j->png, CHUNKS_MAX);
    png_set_read_fn(j->png, j, on_read);
    png_read_info(j->png, j->info);
    j->image.width = (int64_t)png_get_image_width(j->png, j->info);
    j->image.height = (int64_t)png_get_image_height(j->png, j->info);
    if (j->image.width * j->image.height > KIN_IMAGE_MAX_PIXELS)
        png_error(j->png, "too many pixels");
    /* everything to RGB8 */
    png_set_expand(j->png);
    png_set_scale_16(j->png);
    png_set_strip_alpha(j->png);
    png_set_gray_to_rgb(j->png);
    png_set_interlace_handling(j->png);
    png_read_update_info(j->png, j->info);
    if (png_get_rowbytes(j->png, j->info) != (size_t)j->image.width * 3)
        png_error(j->png, "pixels must become RGB8");
    return true;
}

static bool read_rows(job *j)
{
    if (setjmp(png_jmpbuf(j->png)))
        return false;
    png_read_image(j->png, j->rows);
    png_read_end(j->png, j->info);
    return true;
}

/* rgb and one pointer per row */
static bool take_rows(job *j)
{
    size_t w = (size_t)j->image.width, h = (size_t)j->image.height;
    j->rgb = kin_malloc(w * h * 3);
    j->rows = kin_malloc(h * sizeof *j->rows);
    if (!j->rgb || !j->rows)
        return false;
    for (size_t i = 0; i < h; i++)
        j->rows[i] = j->rgb + i * w * 3;
    return true;
}

kin_status kin_png_decode(const void *data, size_t bytes, const char *where, kin_image *out,
                          kin_error *err)
{
    job j = {.data = data, .bytes = bytes};
    kin_status status = KIN_OK;
    *out = (kin_image){0};
    if (!start_read(&j))
        status = kin_fail(err, KIN_ERR_MEM, "png: %s: no memory", where);
    else if (!read_header(&j))
        status = kin_fail(err, KIN_ERR_FORMAT, "png: %s: %s", where, j.message);
    else if (!take_rows(&j))
        status = kin_fail(err, KIN_ERR_MEM, "png: %s: no memory for %lld x %lld pixels", where,
                          (long long)j.image.width, (long long)j.image.height);
    else if (!read_rows(&j))
        status = kin_fail(err, KIN_ERR_FORMAT, "png: %s: %s", where, j.message);
    if (status == KIN_OK) {
        *out = j.image;
        out->rgb = j.rgb;
        j.rgb = NULL;
    }
    job_free(&j, false);
    return status;
}

kin_status kin_png_read(const char *path, kin_image *out, kin_error *err)
{
    kin_blob blob;
    *out = (kin_image){0};
    KIN_TRY(kin_blob_open(path, &blob, err));
    kin_status status = kin_png_decode(blob.data, blob.bytes, path, out, err);
    kin_blob_close(&blob);
    return status;
}

kin_status kin_png_read_text(const char *path, const char *key, kin_strbuf *out, kin_error *err)
{
    kin_blob blob;
    job j = {0};
    kin_status status = KIN_OK;
    KIN_TRY(kin_blob_open(path, &blob, err));
    j.data = blob.data;
    j.bytes = blob.bytes;
    if (!start_read(&j))
        status = kin_fail(err, KIN_ERR_MEM, "png: %s: no memory", path);
    else if (!read_header(&j))
        status = kin_fail(err, KIN_ERR_FORMAT, "png: %s: %s", path, j.message);
    png_textp text = NULL;
    int n = 0;
    if (status == KIN_OK)
        png_get_text(j.png, j.info, &text, &n);
    for (int i = 0; i < n; i++)
        if (strcmp(text[i].key, key) == 0)
            kin_strbuf_add(out, text[i].text);
    job_free(&j, false);
    kin_blob_close(&blob);
    return status;
}

static bool is_ascii(const char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s >= 0x80)
            return false;
    return true;
}

static void set_text(job *j, const char *const *metadata)
{
    for (size_t i = 0; metadata && metadata[i]; i += 2) {
        /* note: png_set_text copies; its members are only not const */
        png_text t = {.compression = is_ascii(metadata[i + 1]) ? PNG_TEXT_COMPRESSION_NONE
                                                               : PNG_ITXT_COMPRESSION_NONE,
                      .key = (char *)(uintptr_t)metadata[i],
                      .text = (char *)(uintptr_t)metadata[i + 1]};
        png_set_text(j->png, j->info, &t, 1);
    }
}

static bool write_rows(job *j, FILE *fp, const char *const *metadata)
{
    if (setjmp(png_jmpbuf(j->png)))
        return false;
    png_init_io(j->png, fp);
    png_set_IHDR(j->png, j->info, (png_uint_32)j->image.width, (png_uint_32)j->image.height, 8,
                 PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
                 PNG_FILTER_TYPE_DEFAULT);
    set_text(j, metadata);
    png_write_info(j->png, j->info);
    png_write_image(j->png, j->rows);
    png_write_end(j->png, NULL);
    return true;
}

static kin_status check_write(const kin_tensor *rgb, const char *const *metadata, kin_error *err)
{
    char text[128];
    if (rgb->ndim != 3 || rgb->dtype != KIN_DTYPE_U8 || rgb->size[2] != 3 ||
        !kin_tensor_is_contiguous(rgb) || rgb->size[0] < 1 || rgb->size[1] < 1 ||
        rgb->size[0] > KIN_IMAGE_MAX_SIDE || rgb->size[1] > KIN_IMAGE_MAX_SIDE)
        return kin_fail(err, KIN_ERR_SHAPE, "png: %s must be [H,W,3] u8 with sides 1 to %d",
                        kin_tensor_describe(rgb, text, sizeof text), KIN_IMAGE_MAX_SIDE);
    for (size_t i = 0; metadata && metadata[i]; i += 2) {
        const char *key = metadata[i], *value = metadata[i + 1];
        size_t n = strlen(key);
        if (n < 1 || n > 79 || !is_ascii(key) || !kin_utf8_valid(value, strlen(value)))
            return kin_fail(
                err, KIN_ERR_ARG,
                "png: metadata \"%.80s\" must have a key of 1 to 79 ASCII characters and "
                "a UTF-8 value",
                key);
    }
    return KIN_OK;
}

kin_status kin_png_write(const char *path, const kin_tensor *rgb, const char *const *metadata,
                         kin_error *err)
{
    kin_status status;
    kin_file_out f = {0};
    job j = {0};
    KIN_TRY(check_write(rgb, metadata, err));
    j.image.height = rgb->size[0];
    j.image.width = rgb->size[1];
    j.png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &j, on_error, on_warning);
    j.info = j.png ? png_create_info_struct(j.png) : NULL;
    j.rows = kin_malloc((size_t)j.image.height * sizeof *j.rows);
    if (!j.info || !j.rows) {
        status = kin_fail(err, KIN_ERR_MEM, "png: %s: no memory", path);
        goto done;
    }
    for (int64_t i = 0; i < j.image.height; i++)
        j.rows[i] = (uint8_t *)rgb->data + i * j.image.width * 3;
    KIN_GOTO(kin_file_out_open(&f, path, err));
    if (!write_rows(&j, f.fp, metadata)) {
        status = kin_fail(err, KIN_ERR_IO, "png: %s: %s", path, j.message);
        goto done;
    }
    status = kin_file_out_commit(&f, err);
done:
    kin_file_out_abort(&f);
    job_free(&j, true);
    return status;
}

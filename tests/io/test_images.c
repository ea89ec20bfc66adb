#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/path.h"
#include "io/jpeg.h"
#include "io/png.h"
#include "io/tar.h"
#include "tests/support/folder.h"
#include "tests/support/support.h"

static void png_round_trip(void **state)
{
    (void)state;
    enum { H = 37, W = 53 };
    kin_error err = {0};
    uint8_t rgb[H * W * 3];
    for (size_t i = 0; i < sizeof rgb; i++)
        rgb[i] = (uint8_t)(i * i / 7);
    kin_tensor t = KIN_TENSOR(rgb, KIN_DTYPE_U8, H, W, 3);
    const char *meta[] = {"prompt", "a red ball \xE2\x98\xBA", "seed", "42", "empty", "", NULL};
    assert_ok(kin_png_write(kin_test_path("a.png"), &t, meta, &err), &err);
    kin_image image;
    assert_ok(kin_png_read(kin_test_path("a.png"), &image, &err), &err);
    assert_int_equal(image.width, W);
    assert_int_equal(image.height, H);
    assert_memory_equal(image.rgb, rgb, sizeof rgb);
    kin_tensor view = kin_image_tensor(&image);
    assert_true(kin_tensor_same_shape(&view, &t));
    kin_image_free(&image);
    kin_strbuf text = {0};
    assert_ok(kin_png_read_text(kin_test_path("a.png"), "prompt", &text, &err), &err);
    assert_string_equal(text.data, meta[1]);
    kin_strbuf_add(&text, "|");
    assert_ok(kin_png_read_text(kin_test_path("a.png"), "seed", &text, &err), &err);
    assert_ok(kin_png_read_text(kin_test_path("a.png"), "none", &text, &err), &err);
    assert_string_equal(text.data, "a red ball \xE2\x98\xBA|42");
    kin_strbuf_free(&text);
    /* the same bytes again */
    char *a, *b;
    size_t na, nb;
    assert_ok(kin_png_write(kin_test_path("b.png"), &t, meta, &err), &err);
    assert_ok(kin_file_read(kin_test_path("a.png"), 1 << 20, &a, &na, &err), &err);
    assert_ok(kin_file_read(kin_test_path("b.png"), 1 << 20, &b, &nb, &err), &err);
    assert_int_equal(na, nb);
    assert_memory_equal(a, b, na);
    kin_free(a);
    kin_free(b);
}

static void png_bad_arguments(void **state)
{
    (void)state;
    kin_error err = {0};
    uint8_t rgb[48];
    kin_tensor t = KIN_TENSOR(rgb, KIN_DTYPE_U8, 4, 4, 3),
               gray = KIN_TENSOR(rgb, KIN_DTYPE_U8, 4, 4, 1);
    const char *no_key[] = {"", "x", NULL}, *no_utf8[] = {"k", "\xFF", NULL};
    assert_int_equal(kin_png_write(kin_test_path("c.png"), &gray, NULL, &err), KIN_ERR_SHAPE);
    assert_int_equal(kin_png_write(kin_test_path("c.png"), &t, no_key, &err), KIN_ERR_ARG);
    assert_int_equal(kin_png_write(kin_test_path("c.png"), &t, no_utf8, &err), KIN_ERR_ARG);
    assert_false(kin_path_exists(kin_test_path("c.png")));
    assert_int_equal(kin_png_write(kin_test_path("no/c.png"), &t, NULL, &err), KIN_ERR_IO);
    kin_image image;
    assert_int_equal(kin_image_read(kin_test_path("none.png"), &image, &err), KIN_ERR_IO);
    assert_int_equal(kin_image_decode("GIF89a", 6, "x", &image, &err), KIN_ERR_FORMAT);
    for (uint64_t k = 1; k <= 2; k++) {
        assert_ok(kin_png_write(kin_test_path("m.png"), &t, NULL, &err), &err);
        kin_alloc_fail_at(k);
        assert_int_equal(kin_png_read(kin_test_path("m.png"), &image, &err), KIN_ERR_MEM);
        kin_alloc_fail_at(0);
    }
}

/* 16 bits, alpha, interlace are reached through files made by hand: an 1x1 RGBA16 picture. */
static void png_rgba16(void **state)
{
    (void)state;
    static const uint8_t bytes[] = {
        0x89, 0x50, 0x4E, 0x47, 0x0D, 0x0A, 0x1A, 0x0A, 0x00, 0x00, 0x00, 0x0D, 0x49,
        0x48, 0x44, 0x52, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x01, 0x10, 0x06,
        0x00, 0x00, 0x00, 0x4F, 0x85, 0x18, 0xCA, 0x00, 0x00, 0x00, 0x14, 0x49, 0x44,
        0x41, 0x54, 0x78, 0x01, 0x01, 0x09, 0x00, 0xF6, 0xFF, 0x00, 0xFF, 0xFF, 0x80,
        0x80, 0x00, 0x00, 0x12, 0x34, 0x14, 0xD2, 0x03, 0x45, 0x37, 0xAF, 0x75, 0x49,
        0x00, 0x00, 0x00, 0x00, 0x49, 0x45, 0x4E, 0x44, 0xAE, 0x42, 0x60, 0x82};
    kin_error err = {0};
    kin_image image;
    assert_ok(kin_png_decode(bytes, sizeof bytes, "rgba16", &image, &err), &err);
    assert_int_equal(image.rgb[0], 255);
    assert_int_equal(image.rgb[1], 128);
    assert_int_equal(image.rgb[2], 0);
    kin_image_free(&image);
}

/* Real JPEG files decode whole. Cut anywhere they are refused; with an end marker put behind the
 * cut they are refused where half of the scan or more is missing (the decoder looks for the end of
 * the data once per 16x16 pixels). */
static void jpeg_cut(void **state)
{
    (void)state;
    const char *data = kin_test_data_dir();
    kin_error err = {0};
    kin_image image;
    kin_tar *tar;
    char path[KIN_PATH_MAX];
    if (!data)
        skip();
    kin_path_join(path, data, "cifar10.tar", NULL);
    assert_ok(kin_tar_open(path, &tar, &err), &err);
    for (int64_t i = 0; i < kin_tar_count(tar); i += 1500) {
        const kin_tar_entry *e = kin_tar_at(tar, i);
        uint8_t *copy = kin_malloc(e->bytes + 2);
        const uint8_t *start = memmem(e->data, e->bytes, "\xFF\xDA", 2);
        size_t scan = (size_t)(start - e->data);
        assert_ok(kin_jpeg_decode(e->data, e->bytes, e->name, &image, &err), &err);
        assert_int_equal(image.width, 32);
        assert_int_equal(image.height, 32);
        kin_image_free(&image);
        for (size_t cut = 0; cut < e->bytes - 2; cut += 29) {
            memcpy(copy, e->data, cut);
            if (kin_jpeg_decode(copy, cut, "cut", &image, &err) == KIN_OK)
                fail_msg("%s: accepted when cut to %zu of %zu bytes", e->name, cut, e->bytes);
            memcpy(copy + cut, "\xFF\xD9", 2);
            if (kin_jpeg_decode(copy, cut + 2, "cut", &image, &err) == KIN_OK) {
                kin_image_free(&image);
                assert_true(cut > scan + (e->bytes - scan) / 2);
            }
        }
        kin_free(copy);
    }
    kin_tar_close(&tar);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(png_round_trip),
        cmocka_unit_test(png_bad_arguments),
        cmocka_unit_test(png_rgba16),
        cmocka_unit_test(jpeg_cut),
    };
    return cmocka_run_group_tests(tests, kin_test_folder_make, kin_test_folder_remove);
}

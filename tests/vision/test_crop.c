/* tests/vision/test_crop.c: ADM's centre crop against guided-diffusion's center_crop_arr on Pillow
 * 13 (the same arithmetic since 3.4). */
#include "tests/support/support.h"

#include <string.h>

#include "vision/crop.h"

typedef struct crop_case {
    int64_t height, width;
    uint8_t want[48];
} crop_case;

/* To 4x4. Halved twice and shrunk; shrunk; enlarged; only cut. */
static const crop_case cases[] = {
    {21, 17, {102, 121, 124, 133, 110, 129, 137, 108, 143, 154, 125, 112, 128, 131, 118, 99,
              134, 169, 125, 112, 147, 154, 109, 144, 112, 147, 107, 107, 112, 161, 126, 91,
              153, 155, 132, 97,  124, 111, 130, 111, 115, 150, 122, 125, 144, 137, 108, 127}},
    {9, 13, {128, 83,  102, 138, 93,  112, 147, 102, 121, 93,  112, 131, 83,  166, 121, 138,
             136, 134, 115, 112, 153, 155, 67,  150, 161, 116, 71,  33,  116, 199, 126, 145,
             164, 62,  145, 164, 131, 86,  105, 141, 96,  115, 150, 105, 124, 96,  115, 134}},
    {3, 5, {27,  109, 218, 72,  166, 188, 114, 210, 24,  165, 48,  57,  54,  160, 138, 120,
            173, 81,  179, 83,  71,  93,  55,  145, 103, 138, 109, 148, 104, 46,  134, 38,
            139, 62,  113, 140, 143, 57,  148, 139, 2,   104, 7,   103, 186, 91,  186, 43}},
    {7, 4, {37, 120, 203, 116, 199, 26,  195, 22, 105, 18,  101, 184, 74,  157, 240, 173,
            0,  83,  16,  99,  182, 115, 198, 25, 111, 194, 21,  230, 57,  140, 93,  176,
            3,  72,  155, 238, 148, 231, 58,  31, 114, 197, 30,  113, 196, 169, 252, 79}},
};

static void as_guided_diffusion_crops(void **state)
{
    kin_error err = {0};
    uint8_t from[32 * 32 * 3], got[48];
    (void)state;
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        const crop_case *t = &cases[k];
        for (int64_t y = 0; y < t->height; y++)
            for (int64_t x = 0; x < t->width; x++)
                for (int64_t c = 0; c < 3; c++)
                    from[(y * t->width + x) * 3 + c] =
                        (uint8_t)(y * 37 + x * 59 + c * 83 + x * y % 7 * 20);
        kin_tensor src = KIN_TENSOR(from, KIN_DTYPE_U8, t->height, t->width, 3),
                   dst = KIN_TENSOR(got, KIN_DTYPE_U8, 4, 4, 3);
        memset(got, 1, sizeof got);
        assert_ok(kin_adm_crop(&src, &dst, &err), &err);
        assert_memory_equal(got, t->want, sizeof got);
    }
}

static void refuses_what_it_cannot_do(void **state)
{
    kin_error err = {0};
    static uint8_t from[16384 * 3], got[256 * 256 * 3];
    kin_tensor strip = KIN_TENSOR(from, KIN_DTYPE_U8, 1, 16384, 3),
               oblong = KIN_TENSOR(got, KIN_DTYPE_U8, 4, 5, 3),
               flat = KIN_TENSOR(from, KIN_DTYPE_U8, 16, 16),
               square = KIN_TENSOR(got, KIN_DTYPE_U8, 256, 256, 3);
    (void)state;
    assert_int_equal(kin_adm_crop(&strip, &oblong, &err), KIN_ERR_SHAPE);
    assert_int_equal(kin_adm_crop(&flat, &square, &err), KIN_ERR_SHAPE);
    /* 256 x 4194304 in between */
    assert_int_equal(kin_adm_crop(&strip, &square, &err), KIN_ERR_SHAPE);
    assert_non_null(strstr(err.text, "too narrow"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_guided_diffusion_crops),
        cmocka_unit_test(refuses_what_it_cannot_do),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "vision/resize.h"

#include <stdlib.h>
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "tests/support/support.h"

static uint8_t clamp_round(double v)
{
    v = floor(v + 0.5);
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

/* PyTorch's bicubic written out: 16 clamped neighbours, coefficients of cubic convolution, in
 * double. */
static double bicubic_at(const uint8_t *p, int h, int w, double y, double x, int c)
{
    const double a = -0.75;
    int iy = (int)floor(y), ix = (int)floor(x);
    double sum = 0, ty = y - iy, tx = x - ix;
    for (int m = -1; m <= 2; m++)
        for (int n = -1; n <= 2; n++) {
            double d[2] = {fabs(m - ty), fabs(n - tx)}, k = 1;
            for (int i = 0; i < 2; i++)
                k *= d[i] <= 1 ? (a + 2) * pow(d[i], 3) - (a + 3) * pow(d[i], 2) + 1
                               : a * pow(d[i], 3) - 5 * a * pow(d[i], 2) + 8 * a * d[i] - 4 * a;
            int yy = iy + m < 0 ? 0 : iy + m >= h ? h - 1 : iy + m;
            int xx = ix + n < 0 ? 0 : ix + n >= w ? w - 1 : ix + n;
            sum += k * p[(yy * w + xx) * 3 + c];
        }
    return sum;
}

static void bicubic_as_pytorch(void **state)
{
    (void)state;
    static const int sizes[][4] = {
        {7, 9, 13, 5}, {1, 1, 4, 4}, {8, 8, 8, 8}, {2, 3, 1, 1}, {31, 17, 6, 40}};
    kin_error err = {0};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        int h = sizes[k][0], w = sizes[k][1], H = sizes[k][2], W = sizes[k][3];
        uint8_t src[2 * 31 * 17 * 3], dst[2 * 13 * 40 * 3];
        srand(5);
        for (size_t i = 0; i < sizeof src; i++)
            src[i] = (uint8_t)(rand() % 3 ? rand() : 255 * (rand() % 2));
        kin_tensor s = KIN_TENSOR(src, KIN_DTYPE_U8, 2, h, w, 3),
                   d = KIN_TENSOR(dst, KIN_DTYPE_U8, 2, H, W, 3);
        assert_ok(kin_resize(&s, &d, KIN_RESIZE_BICUBIC, &err), &err);
        for (int f = 0; f < 2; f++)
            for (int y = 0; y < H; y++)
                for (int x = 0; x < W; x++)
                    for (int c = 0; c < 3; c++) {
                        double v = bicubic_at(src + f * h * w * 3, h, w, (y + 0.5) * h / H - 0.5,
                                              (x + 0.5) * w / W - 0.5, c);
                        int got = dst[((f * H + y) * W + x) * 3 + c];
                        /* a value at .5 may fall to either side in f32 */
                        if (got != clamp_round(v - 1e-3) && got != clamp_round(v + 1e-3))
                            fail_msg("case %zu (%d,%d,%d): %d, not %g", k, y, x, c, got, v);
                    }
    }
}

/* Floats are neither rounded nor clamped, and lie channels first. */
static void floats_are_the_same_before_rounding(void **state)
{
    enum { H = 13, W = 5, SH = 7, SW = 9 };
    uint8_t src[2 * SH * SW * 3];
    float dst[3 * 2 * H * W];
    kin_error err = {0};
    (void)state;
    srand(6);
    for (size_t i = 0; i < sizeof src; i++)
        src[i] = (uint8_t)(255 * (rand() % 2));
    kin_tensor s = KIN_TENSOR(src, KIN_DTYPE_U8, 2, SH, SW, 3),
               d = KIN_TENSOR(dst, KIN_DTYPE_F32, 3, 2, H, W);
    bool beyond = false;
    assert_ok(kin_resize_float(&s, &d, &err), &err);
    for (int i = 0; i < 3 * 2 * H * W; i++) {
        const int x = i % W, y = i / W % H, f = i / (W * H) % 2, c = i / (2 * W * H);
        const double v = bicubic_at(src + f * SH * SW * 3, SH, SW, (y + 0.5) * SH / H - 0.5,
                                    (x + 0.5) * SW / W - 0.5, c);
        beyond = beyond || fabsf(dst[i]) > 1.01f;
        if (fabs((double)dst[i] - (v / 127.5 - 1)) > 1e-5)
            fail_msg("(%d,%d,%d,%d): %g, not %g", c, f, y, x, (double)dst[i], v / 127.5 - 1);
    }
    assert_true(beyond);
    d = KIN_TENSOR(dst, KIN_DTYPE_F32, 2, 3, H, W);
    assert_int_equal(kin_resize_float(&s, &d, &err), KIN_ERR_SHAPE);
}

static void area_is_the_mean(void **state)
{
    (void)state;
    kin_error err = {0};
    uint8_t src[6 * 8 * 3], dst[3 * 2 * 3], up[12 * 16 * 3];
    for (size_t i = 0; i < sizeof src; i++)
        src[i] = (uint8_t)(i * i * 31);
    kin_tensor s = KIN_TENSOR(src, KIN_DTYPE_U8, 6, 8, 3),
               d = KIN_TENSOR(dst, KIN_DTYPE_U8, 3, 2, 3);
    assert_ok(kin_resize(&s, &d, KIN_RESIZE_AREA, &err), &err);
    for (int y = 0; y < 3; y++)
        for (int x = 0; x < 2; x++)
            for (int c = 0; c < 3; c++) {
                int sum = 0;
                for (int i = 0; i < 2; i++)
                    for (int j = 0; j < 4; j++)
                        sum += src[((2 * y + i) * 8 + 4 * x + j) * 3 + c];
                assert_int_equal(dst[(y * 2 + x) * 3 + c], clamp_round(sum / 8.0));
            }
    kin_tensor u = KIN_TENSOR(up, KIN_DTYPE_U8, 12, 16, 3);
    assert_ok(kin_resize(&s, &u, KIN_RESIZE_AREA, &err), &err);
    for (int y = 0; y < 12; y++)
        for (int x = 0; x < 16; x++)
            assert_int_equal(up[(y * 16 + x) * 3], src[(y / 2 * 8 + x / 2) * 3]);
    /* 3 columns to 2: weights 2/3, 1/3 */
    uint8_t three[9] = {30, 0, 0, 60, 0, 0, 90, 0, 0}, two[6];
    kin_tensor a = KIN_TENSOR(three, KIN_DTYPE_U8, 1, 3, 3),
               b = KIN_TENSOR(two, KIN_DTYPE_U8, 1, 2, 3);
    assert_ok(kin_resize(&a, &b, KIN_RESIZE_AREA, &err), &err);
    assert_int_equal(two[0], 40);
    assert_int_equal(two[3], 80);
}

static void crops(void **state)
{
    (void)state;
    kin_error err = {0};
    uint8_t src[2 * 5 * 7 * 3], dst[2 * 3 * 4 * 3], square[2 * 5 * 5 * 3];
    for (size_t i = 0; i < sizeof src; i++)
        src[i] = (uint8_t)i;
    kin_tensor s = KIN_TENSOR(src, KIN_DTYPE_U8, 2, 5, 7, 3),
               d = KIN_TENSOR(dst, KIN_DTYPE_U8, 2, 3, 4, 3);
    assert_ok(kin_center_crop(&s, &d, &err), &err);
    for (int f = 0; f < 2; f++)
        for (int y = 0; y < 3; y++)
            assert_memory_equal(dst + (f * 3 + y) * 12, src + ((f * 5 + y + 1) * 7 + 1) * 3, 12);
    assert_int_equal(kin_center_crop(&d, &s, &err), KIN_ERR_SHAPE);
    /* 7 x 5 to a square of the same height: the middle five columns unchanged */
    kin_tensor q = KIN_TENSOR(square, KIN_DTYPE_U8, 2, 5, 5, 3);
    assert_ok(kin_resize_cover(&s, &q, KIN_RESIZE_BICUBIC, &err), &err);
    for (int f = 0; f < 2; f++)
        for (int y = 0; y < 5; y++)
            assert_memory_equal(square + (f * 5 + y) * 15, src + ((f * 5 + y) * 7 + 1) * 3, 15);
}

static void refuses(void **state)
{
    (void)state;
    kin_error err = {0};
    uint8_t a[48], b[48];
    kin_tensor s = KIN_TENSOR(a, KIN_DTYPE_U8, 2, 2, 4, 3),
               d = KIN_TENSOR(b, KIN_DTYPE_U8, 1, 2, 4, 3);
    assert_int_equal(kin_resize(&s, &d, KIN_RESIZE_AREA, &err), KIN_ERR_SHAPE);
    kin_tensor gray = KIN_TENSOR(b, KIN_DTYPE_U8, 2, 2, 4, 1);
    assert_int_equal(kin_resize(&s, &gray, KIN_RESIZE_AREA, &err), KIN_ERR_SHAPE);
    d = s;
    d.data = b;
    for (uint64_t k = 1; k <= 7; k++) {
        kin_alloc_fail_at(k);
        assert_int_equal(kin_resize(&s, &d, KIN_RESIZE_AREA, &err), KIN_ERR_MEM);
        kin_alloc_fail_at(0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bicubic_as_pytorch),
        cmocka_unit_test(floats_are_the_same_before_rounding),
        cmocka_unit_test(area_is_the_mean),
        cmocka_unit_test(crops),
        cmocka_unit_test(refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

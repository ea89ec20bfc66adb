#include "vision/frames.h"

#include <math.h>
#include <string.h>

#include "tests/support/support.h"

static void round_trip(void **state)
{
    (void)state;
    enum { F = 2, H = 11, W = 12 };
    kin_error err = {0};
    uint8_t a[F * H * W * 3], b[F * H * W * 3];
    float x[3 * F * H * W];
    for (size_t i = 0; i < sizeof a; i++)
        a[i] = (uint8_t)(i * 7 + i / 256);
    kin_tensor ta = KIN_TENSOR(a, KIN_DTYPE_U8, F, H, W, 3),
               tb = KIN_TENSOR(b, KIN_DTYPE_U8, F, H, W, 3);
    kin_tensor tx = KIN_TENSOR(x, KIN_DTYPE_F32, 3, F, H, W);
    assert_ok(kin_frames_to_tensor(&ta, &tx, &err), &err);
    /* the order: channel 2 of frame 1, row 3, column 5 */
    assert_true(x[((2 * F + 1) * H + 3) * W + 5] ==
                (float)a[((1 * H + 3) * W + 5) * 3 + 2] / 127.5f - 1);
    for (size_t i = 0; i < sizeof x / sizeof *x; i++)
        assert_true(x[i] >= -1 && x[i] <= 1);
    assert_ok(kin_frames_from_tensor(&tx, &tb, &err), &err);
    assert_memory_equal(a, b, sizeof a);
    kin_tensor wrong = KIN_TENSOR(x, KIN_DTYPE_F32, 3, F, W, H);
    assert_int_equal(kin_frames_to_tensor(&ta, &wrong, &err), KIN_ERR_SHAPE);
    assert_int_equal(kin_frames_from_tensor(&wrong, &tb, &err), KIN_ERR_SHAPE);
}

static void views(void **state)
{
    (void)state;
    kin_error err = {0};
    uint8_t a[2 * 2 * 4 * 3], b[2 * 2 * 2 * 3] = {0};
    float x[3 * 4 * 2 * 2];
    for (size_t i = 0; i < sizeof a; i++)
        a[i] = (uint8_t)(i * 5);
    kin_tensor ta = KIN_TENSOR(a, KIN_DTYPE_U8, 2, 2, 4, 3), part = kin_tensor_slice(&ta, 2, 1, 2);
    kin_tensor all = KIN_TENSOR(x, KIN_DTYPE_F32, 3, 4, 2, 2), tx = kin_tensor_slice(&all, 1, 2, 2);
    kin_tensor tb = KIN_TENSOR(b, KIN_DTYPE_U8, 2, 2, 2, 3);
    assert_ok(kin_frames_to_tensor(&part, &tx, &err), &err);
    assert_ok(kin_frames_from_tensor(&tx, &tb, &err), &err);
    for (int64_t i = 0; i < 24; i++)
        assert_true(kin_tensor_get(&part, i) == b[i]);
}

static void rounding_and_range(void **state)
{
    (void)state;
    kin_error err = {0};
    /* 2*v/255 - 1 with v = 10.5 rounds up, a little less rounds down */
    float x[3 * 4] = {
        -1,   1,      -2.0f, 3.0f, 2 * 0.5f - 1, 2 * 10.49f / 255 - 1, 2 * 10.51f / 255 - 1,
        0.0f, -1e30f, 1e30f, 0.5f, -0.5f};
    static const uint8_t want[12] = {0, 255, 0, 255, 128, 10, 11, 128, 0, 255, 191, 64};
    uint8_t b[12];
    kin_tensor tx = KIN_TENSOR(x, KIN_DTYPE_F32, 3, 1, 2, 2),
               tb = KIN_TENSOR(b, KIN_DTYPE_U8, 1, 2, 2, 3);
    assert_ok(kin_frames_from_tensor(&tx, &tb, &err), &err);
    for (int c = 0; c < 3; c++)
        for (int i = 0; i < 4; i++)
            assert_int_equal(b[i * 3 + c], want[c * 4 + i]);
    x[7] = NAN;
    assert_int_equal(kin_frames_from_tensor(&tx, &tb, &err), KIN_ERR_NUMERIC);
    x[7] = -INFINITY;
    assert_int_equal(kin_frames_from_tensor(&tx, &tb, &err), KIN_ERR_NUMERIC);
}

static void flatness(void **state)
{
    (void)state;
    enum { F = 3, H = 8, W = 8 };
    kin_error err = {0};
    uint8_t a[F * H * W * 3];
    kin_tensor t = KIN_TENSOR(a, KIN_DTYPE_U8, F, H, W, 3);
    memset(a, 77, sizeof a);
    assert_int_equal(kin_frames_check_flat(&t, false, &err), KIN_ERR_NUMERIC);
    /* three constant channels of different values are flat too */
    for (size_t i = 0; i < sizeof a; i++)
        a[i] = (uint8_t)(i % 3 * 50);
    assert_int_equal(kin_frames_check_flat(&t, false, &err), KIN_ERR_NUMERIC);
    /* a picture that does not move is flat only where motion was asked for */
    for (size_t i = 0; i < sizeof a; i++)
        a[i] = (uint8_t)(i % (H * W * 3));
    assert_ok(kin_frames_check_flat(&t, false, &err), &err);
    assert_int_equal(kin_frames_check_flat(&t, true, &err), KIN_ERR_NUMERIC);
    a[sizeof a - 1] ^= 1;
    assert_ok(kin_frames_check_flat(&t, true, &err), &err);
    /* one channel with contrast is enough; deviation just below and above 0.5 */
    memset(a, 9, sizeof a);
    for (size_t i = 0; i < sizeof a; i += 6)
        a[i] = 11;
    assert_ok(kin_frames_check_flat(&t, false, &err), &err);
    memset(a, 9, sizeof a);
    for (size_t i = 0; i < sizeof a; i += 9)
        a[i] = 10;
    assert_int_equal(kin_frames_check_flat(&t, false, &err), KIN_ERR_NUMERIC);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),
        cmocka_unit_test(views),
        cmocka_unit_test(rounding_and_range),
        cmocka_unit_test(flatness),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

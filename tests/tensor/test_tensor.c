/* The tensor value type: views, strides, descriptions, element types. */
#include <math.h>
#include <string.h>

#include "tensor/e4m3.h"
#include "tensor/tensor.h"
#include "tests/support/support.h"

static void types(void **state)
{
    static const struct {
        kin_dtype dtype;
        const char *name;
        size_t size;
    } rows[] = {{KIN_DTYPE_F32, "f32", 4}, {KIN_DTYPE_F64, "f64", 8}, {KIN_DTYPE_BF16, "bf16", 2},
                {KIN_DTYPE_F16, "f16", 2}, {KIN_DTYPE_I8, "i8", 1},   {KIN_DTYPE_U8, "u8", 1},
                {KIN_DTYPE_F8, "fp8", 1},  {KIN_DTYPE_I32, "i32", 4}, {KIN_DTYPE_I64, "i64", 8}};
    kin_dtype parsed;
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        assert_int_equal(kin_dtype_size(rows[i].dtype), rows[i].size);
        assert_string_equal(kin_dtype_name(rows[i].dtype), rows[i].name);
        assert_true(kin_dtype_parse(rows[i].name, &parsed));
        assert_int_equal(parsed, rows[i].dtype);
    }
    assert_false(kin_dtype_parse("f8", &parsed));
    assert_false(kin_dtype_parse("", &parsed));
}

static void shapes(void **state)
{
    float data[24];
    char text[64];
    kin_tensor t = KIN_TENSOR(data, KIN_DTYPE_F32, 2, 3, 4), s, empty;
    (void)state;
    assert_int_equal(kin_tensor_numel(&t), 24);
    assert_true(kin_tensor_is_contiguous(&t));
    assert_int_equal(t.stride[0], 12);
    assert_int_equal(t.stride[1], 4);
    assert_int_equal(t.stride[2], 1);
    assert_string_equal(kin_tensor_describe(&t, text, sizeof(text)), "[2, 3, 4] f32");
    assert_string_equal(kin_tensor_describe(&t, text, 8), "[2, 3, ");
    s = kin_tensor_of(data, KIN_DTYPE_F64, 0, NULL);
    assert_int_equal(kin_tensor_numel(&s), 1);
    assert_true(kin_tensor_is_contiguous(&s));
    assert_string_equal(kin_tensor_describe(&s, text, sizeof(text)), "[] f64");
    empty = KIN_TENSOR(data, KIN_DTYPE_F32, 2, 0, 4);
    assert_int_equal(kin_tensor_numel(&empty), 0);
    assert_true(kin_tensor_is_contiguous(&empty));
    assert_false(kin_tensor_same_shape(&t, &empty));
    assert_false(kin_tensor_same_shape(&t, &s));
    assert_true(kin_tensor_same_shape(&t, &t));
}

static void views(void **state)
{
    float data[24];
    kin_tensor t = KIN_TENSOR(data, KIN_DTYPE_F32, 2, 3, 4), v;
    (void)state;
    for (int i = 0; i < 24; i++)
        data[i] = (float)i;
    t.id = 7;
    v = KIN_RESHAPE(&t, 4, -1);
    assert_int_equal(v.size[1], 6);
    assert_int_equal(v.id, 7);
    assert_true(kin_tensor_get(&v, 23) == 23);
    v = kin_tensor_reshape(&t, 1, (int64_t[]){-1});
    assert_int_equal(v.size[0], 24);

    v = kin_tensor_slice(&t, 1, 1, 2);
    assert_int_equal(v.id, 7);
    assert_int_equal(kin_tensor_numel(&v), 16);
    assert_false(kin_tensor_is_contiguous(&v));
    assert_true(kin_tensor_get(&v, 0) == 4 && kin_tensor_get(&v, 8) == 16);
    v = kin_tensor_slice(&t, 0, 1, 1);
    assert_true(kin_tensor_is_contiguous(&v));
    assert_true(kin_tensor_get(&v, 0) == 12);
    v = kin_tensor_slice(&t, 2, 4, 0);
    assert_int_equal(kin_tensor_numel(&v), 0);

    v = kin_tensor_select(&t, 1, 2);
    assert_int_equal(v.ndim, 2);
    assert_int_equal(v.id, 7);
    assert_true(kin_tensor_get(&v, 0) == 8 && kin_tensor_get(&v, 4) == 20);
    v = kin_tensor_select(&t, 0, 1);
    v = kin_tensor_select(&v, 0, 0);
    v = kin_tensor_select(&v, 0, 3);
    assert_int_equal(v.ndim, 0);
    assert_true(kin_tensor_get(&v, 0) == 15);

    v = kin_tensor_transpose(&t, 0, 1);
    assert_int_equal(v.size[0], 3);
    assert_false(kin_tensor_is_contiguous(&v));
    assert_true(kin_tensor_get(&v, 4) == 12 && kin_tensor_get(&v, 8) == 4);
    v = kin_tensor_transpose(&v, 1, 0);
    assert_true(kin_tensor_is_contiguous(&v));

    v = kin_tensor_expand(&t, 1, 5);
    assert_int_equal(v.ndim, 4);
    assert_int_equal(v.stride[1], 0);
    assert_int_equal(kin_tensor_numel(&v), 120);
    assert_true(kin_tensor_get(&v, 12 * 4 + 3) == 3 && kin_tensor_get(&v, 60) == 12);
    assert_false(kin_tensor_is_contiguous(&v));
    v = kin_tensor_expand(&t, 3, 2);
    assert_true(kin_tensor_get(&v, 5) == 2);
}

/* Views of a tensor without memory stay without: the dry run works on shapes. */
static void views_of_nothing(void **state)
{
    kin_tensor t = KIN_TENSOR(NULL, KIN_DTYPE_F32, 4, 8), v = kin_tensor_slice(&t, 0, 2, 2);
    (void)state;
    assert_null(v.data);
    v = kin_tensor_select(&t, 0, 3);
    assert_null(v.data);
}

static void elements(void **state)
{
    static const double values[] = {0, 1, -1, 3, 100, -5};
    static const kin_dtype all[] = {KIN_DTYPE_F32, KIN_DTYPE_F64, KIN_DTYPE_BF16, KIN_DTYPE_F16,
                                    KIN_DTYPE_I8,  KIN_DTYPE_I32, KIN_DTYPE_I64,  KIN_DTYPE_U8};
    double block[8];
    (void)state;
    for (size_t d = 0; d < 8; d++) {
        kin_tensor t = KIN_TENSOR(block, all[d], 2, 3);
        int n = all[d] == KIN_DTYPE_U8 ? 2 : 6;
        for (int i = 0; i < n; i++)
            kin_tensor_set(&t, i, values[i]);
        for (int i = 0; i < n; i++)
            assert_true(kin_tensor_get(&t, i) == values[i]);
    }
}

static uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof(u));
    return u;
}

/* All 65536 patterns survive the way to f32 and back; NaN stays NaN. */
static void half_round_trip(void **state)
{
    (void)state;
    for (uint32_t v = 0; v < 65536; v++) {
        float b = kin_bf16_to_f32((uint16_t)v), h = kin_f16_to_f32((uint16_t)v);
        if (isnan(b))
            assert_true(isnan(kin_bf16_to_f32(kin_f32_to_bf16(b))));
        else
            assert_int_equal(kin_f32_to_bf16(b), v);
        if (isnan(h))
            assert_true(isnan(kin_f16_to_f32(kin_f32_to_f16(h))));
        else
            assert_int_equal(kin_f32_to_f16(h), v);
    }
}

/* Midpoints go to the even neighbour, all else to the nearer one. */
static void half_rounding(void **state)
{
    (void)state;
    for (uint32_t v = 0; v < 0x7c00; v++) {
        float lo = kin_f16_to_f32((uint16_t)v);
        float hi = v == 0x7bff ? 65536.0f : kin_f16_to_f32((uint16_t)(v + 1));
        float mid = (lo + hi) / 2;
        uint32_t even = v & 1 ? v + 1 : v;
        assert_int_equal(kin_f32_to_f16(mid), even);
        assert_int_equal(kin_f32_to_f16(-mid), even | 0x8000);
        assert_int_equal(kin_f32_to_f16(nextafterf(mid, 0)), v);
        assert_int_equal(kin_f32_to_f16(nextafterf(mid, 1e9f)), v + 1);
    }
    for (uint32_t v = 0; v < 0x7f80; v++) {
        uint32_t mid = v << 16 | 0x8000u, even = v & 1 ? v + 1 : v;
        float f;
        memcpy(&f, &mid, sizeof(f));
        assert_int_equal(kin_f32_to_bf16(f), even);
        assert_int_equal(kin_f32_to_bf16(-f), even | 0x8000);
        mid--;
        memcpy(&f, &mid, sizeof(f));
        assert_int_equal(kin_f32_to_bf16(f), v);
        mid += 2;
        memcpy(&f, &mid, sizeof(f));
        assert_int_equal(kin_f32_to_bf16(f), v + 1);
    }
}

static void half_ends(void **state)
{
    (void)state;
    assert_int_equal(kin_f32_to_f16(65519.0f), 0x7bff);
    assert_int_equal(kin_f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(kin_f32_to_f16(1e30f), 0x7c00);
    assert_int_equal(kin_f32_to_f16(-INFINITY), 0xfc00);
    assert_int_equal(kin_f32_to_f16(0x1p-25f), 0);
    assert_int_equal(kin_f32_to_f16(0x1.8p-25f), 1);
    assert_int_equal(kin_f32_to_f16(-0.0f), 0x8000);
    assert_int_equal(kin_f32_to_bf16(INFINITY), 0x7f80);
    assert_int_equal(kin_f32_to_bf16(3.4e38f), 0x7f80);
    assert_int_equal(bits_of(kin_bf16_to_f32(0x3f80)), 0x3f800000);
    assert_true(kin_f16_to_f32(0x3c00) == 1.0f && kin_f16_to_f32(1) == 0x1p-24f);
}

/* What a hostile file may name as a shape. */
static void shapes_of_files(void **state)
{
    const int64_t large = INT64_C(1) << 40, most = INT64_MAX;
    size_t n = 1;
    (void)state;
    assert_true(kin_shape_numel(0, NULL, &n) && n == 1);
    assert_true(kin_shape_numel(3, (int64_t[]){2, 3, 5}, &n) && n == 30);
    assert_true(kin_shape_numel(1, &most, &n) && n == INT64_MAX);
    assert_true(kin_shape_numel(3, (int64_t[]){large, 0, 7}, &n) && n == 0);
    assert_false(kin_shape_numel(2, (int64_t[]){2, most}, &n));
    assert_false(kin_shape_numel(2, (int64_t[]){large, large}, &n));
    assert_false(kin_shape_numel(3, (int64_t[]){0, large, large}, &n));
    assert_false(kin_shape_numel(3, (int64_t[]){large, large, 0}, &n));
}

/* Every value comes back; what lies between two goes to the nearer, halfway to the even one. */
static void e4m3(void **state)
{
    static const struct {
        float v;
        uint8_t bits;
    } rows[] = {{0, 0x00},       {-0.0f, 0x80},    {1, 0x38},         {448, 0x7e},
                {464, 0x7e},     {1e30f, 0x7e},    {INFINITY, 0x7e},  {-INFINITY, 0xfe},
                {0x1p-9f, 0x01}, {0x1p-10f, 0x00}, {0x1.8p-9f, 0x02}, {0x1.8p-10f, 0x01},
                {0x1p-6f, 0x08}, {-1.0625f, 0xb8}, {1.1875f, 0x3a}};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (kin_f32_to_e4m3(rows[i].v) != rows[i].bits)
            fail_msg("%g becomes 0x%02x", (double)rows[i].v, kin_f32_to_e4m3(rows[i].v));
    for (unsigned v = 0; v < 256; v++) {
        const float f = kin_e4m3_to_f32((uint8_t)v);
        if ((v & 0x7f) == 0x7f) {
            assert_true(isnan(f) && (kin_f32_to_e4m3(f) & 0x7f) == 0x7f);
            continue;
        }
        assert_int_equal(kin_f32_to_e4m3(f), v);
        if ((v & 0x7f) == 0x7e)
            continue;
        const float next = kin_e4m3_to_f32((uint8_t)(v + 1)), mid = 0.5f * (f + next);
        assert_int_equal(kin_f32_to_e4m3(mid), v + (v & 1));
        assert_int_equal(kin_f32_to_e4m3(nextafterf(mid, f)), v);
        assert_int_equal(kin_f32_to_e4m3(nextafterf(mid, next)), v + 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(types),
        cmocka_unit_test(shapes_of_files),
        cmocka_unit_test(shapes),
        cmocka_unit_test(views),
        cmocka_unit_test(views_of_nothing),
        cmocka_unit_test(elements),
        cmocka_unit_test(half_round_trip),
        cmocka_unit_test(half_rounding),
        cmocka_unit_test(half_ends),
        cmocka_unit_test(e4m3),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

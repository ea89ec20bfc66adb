/* The chart's pictures: where lines and areas lie, that peaks stay, files and failures. */
#include "cli/chart.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/path.h"
#include "io/png.h"
#include "tests/support/folder.h"
#include "tests/support/support.h"

static const uint8_t blue[3] = {31, 120, 181}, red[3] = {214, 38, 41};

static bool is_near(const uint8_t *p, const uint8_t c[3])
{
    return abs(p[0] - c[0]) < 16 && abs(p[1] - c[1]) < 16 && abs(p[2] - c[2]) < 16;
}

/* First and last row in column x, below the legend, that have the colour; false: none. */
static bool rows_of(const kin_image *m, int64_t x, const uint8_t c[3], int *first, int *last)
{
    *first = *last = -1;
    for (int y = 78; y < m->height; y++)
        if (is_near(m->rgb + (y * m->width + x) * 3, c)) {
            *first = *first < 0 ? y : *first;
            *last = y;
        }
    return *first >= 0;
}

static void write_and_read(const kin_chart *c, kin_image *m)
{
    kin_error err = {0};
    assert_ok(kin_chart_write(c, kin_test_path("c.png"), 800, &err), &err);
    assert_ok(kin_png_read(kin_test_path("c.png"), m, &err), &err);
    assert_int_equal(m->width, 800);
}

static void a_line_rises(void **state)
{
    (void)state;
    kin_chart c = {.title = "t"};
    kin_image m;
    int a, b, y[3];
    for (int i = 0; i <= 1000; i++)
        assert_true(kin_series_add(kin_chart_series(&c, "p", "s"), i, i));
    write_and_read(&c, &m);
    for (int k = 0; k < 3; k++) {
        assert_true(rows_of(&m, 100 + 120 * k, blue, &a, &b));
        assert_true(b - a < 8);
        y[k] = (a + b) / 2;
    }
    assert_true(y[0] > y[1] && y[1] > y[2]);
    assert_true(abs((y[0] + y[2]) / 2 - y[1]) <= 2); /* straight */
    kin_image_free(&m);
    kin_chart_free(&c);
}

/* A factor of 10 has the same height everywhere. */
static void a_wide_span_is_logarithmic(void **state)
{
    (void)state;
    kin_chart c = {0};
    kin_image m;
    int a, b, y[3];
    for (int i = 0; i <= 1000; i++)
        assert_true(kin_series_add(kin_chart_series(&c, "p", "s"), i, pow(10, i / 250.0)));
    write_and_read(&c, &m);
    for (int k = 0; k < 3; k++) {
        assert_true(rows_of(&m, 100 + 120 * k, blue, &a, &b));
        y[k] = (a + b) / 2;
    }
    assert_true(abs((y[0] + y[2]) / 2 - y[1]) <= 2);
    kin_image_free(&m);
    kin_chart_free(&c);
}

/* One point in 100,000 stands out. */
static void a_peak_stays(void **state)
{
    (void)state;
    kin_chart c = {0};
    kin_image m;
    int a, b, top = 10000;
    for (int i = 0; i < 100000; i++)
        assert_true(kin_series_add(kin_chart_series(&c, "p", "s"), i, i == 54321 ? 1 : 0));
    assert_true(kin_series_add(kin_chart_series(&c, "p", "s"), NAN, 1)); /* left out */
    assert_true(kin_series_add(kin_chart_series(&c, "p", "s"), 100001, INFINITY));
    assert_int_equal(c.panel[0].series[0].n, 100000);
    write_and_read(&c, &m);
    for (int x = 70; x < 380; x++)
        if (rows_of(&m, x, blue, &a, &b))
            top = a < top ? a : top;
    assert_true(top < 100);
    kin_image_free(&m);
    kin_chart_free(&c);
}

static void shares_are_stacked(void **state)
{
    (void)state;
    kin_chart c = {0};
    kin_image m;
    int a, b, d, e;
    for (int i = 0; i < 100; i++) {
        assert_true(kin_series_add(kin_chart_series(&c, "p", "0"), i, 0.25));
        assert_true(kin_series_add(kin_chart_series(&c, "p", "1"), i, 0.75));
    }
    c.panel[0].stacked = true;
    write_and_read(&c, &m);
    assert_true(rows_of(&m, 200, blue, &a, &b));
    assert_true(rows_of(&m, 200, red, &d, &e));
    assert_true(a > e);
    assert_true(fabs((double)(b - a) / (b - d) - 0.25) < 0.03);
    kin_image_free(&m);
    kin_chart_free(&c);
}

static void files(void **state)
{
    (void)state;
    kin_error err = {0};
    kin_chart c = {.title = "a <b> & \"c\""};
    char *svg;
    size_t n;
    for (int i = 0; i < 9; i++)
        assert_true(kin_series_add(kin_chart_series(&c, "p", "s"), i, 3)); /* no span */
    assert_non_null(kin_chart_series(&c, "empty", "s"));
    assert_ok(kin_chart_write(&c, kin_test_path("c.svg"), 800, &err), &err);
    assert_ok(kin_file_read(kin_test_path("c.svg"), 1 << 24, &svg, &n, &err), &err);
    assert_non_null(strstr(svg, "<svg"));
    assert_non_null(strstr(svg, "</svg>"));
    assert_int_equal(kin_chart_write(&c, kin_test_path("c.jpg"), 800, &err), KIN_ERR_ARG);
    assert_int_equal(kin_chart_write(&c, "/proc/c.svg", 800, &err), KIN_ERR_IO);
    assert_int_equal(kin_chart_write(&c, "/proc/c.png", 800, &err), KIN_ERR_IO);
    kin_alloc_fail_at(1);
    assert_int_equal(kin_chart_write(&c, kin_test_path("d.png"), 800, &err), KIN_ERR_MEM);
    kin_alloc_fail_at(0);
    assert_false(kin_path_exists(kin_test_path("d.png")));
    kin_free(svg);
    kin_chart_free(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_line_rises), cmocka_unit_test(a_wide_span_is_logarithmic),
        cmocka_unit_test(a_peak_stays), cmocka_unit_test(shares_are_stacked),
        cmocka_unit_test(files),
    };
    return cmocka_run_group_tests(tests, kin_test_folder_make, kin_test_folder_remove);
}

#include "base/alloc.h"

#include <stdint.h>
#include <string.h>

#include "tests/support/support.h"

static void alignment_and_content(void **state)
{
    (void)state;
    for (size_t n = 0; n < 300; n += 7) {
        unsigned char *p = kin_calloc(n, 1);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 64, 0);
        for (size_t i = 0; i < n; i++)
            assert_int_equal(p[i], 0);
        memset(p, 0xA5, n);
        p = kin_realloc(p, n * 3 + 1);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 64, 0);
        for (size_t i = 0; i < n; i++)
            assert_int_equal(p[i], 0xA5);
        kin_free(p);
    }
    kin_free(NULL);
    char *s = kin_strdup("text");
    assert_string_equal(s, "text");
    kin_free(s);
}

/* Asking for large pages never harms: any range, also one within a page. */
static void large_pages(void **state)
{
    const size_t n = ((size_t)5 << 20) + 12345;
    unsigned char *p = kin_malloc(n);
    (void)state;
    assert_non_null(p);
    kin_large_pages(p, 0);
    kin_large_pages(p, 1);
    kin_large_pages(p + 7, n - 7);
    assert_int_equal((uintptr_t)p % 64, 0);
    memset(p, 0xA5, n);
    assert_int_equal(p[0], 0xA5);
    assert_int_equal(p[n - 1], 0xA5);
    kin_free(p);
}

static void sizes_that_overflow(void **state)
{
    (void)state;
    size_t out = 5;
    assert_null(kin_malloc(SIZE_MAX));
    assert_null(kin_malloc(SIZE_MAX - 64));
    assert_null(kin_calloc(SIZE_MAX / 2, 3));
    assert_false(kin_mul_size(SIZE_MAX, 2, &out));
    assert_false(kin_add_size(SIZE_MAX, 1, &out));
    assert_int_equal(out, 5);
    assert_true(kin_mul_size(6, 7, &out));
    assert_int_equal(out, 42);
}

static void fails_the_kth_once(void **state)
{
    (void)state;
    uint64_t before = kin_alloc_count();
    kin_alloc_fail_at(2);
    void *a = kin_malloc(1), *b = kin_malloc(1), *c = kin_malloc(1);
    kin_alloc_fail_at(0);
    assert_non_null(a);
    assert_null(b);
    assert_non_null(c);
    assert_int_equal(kin_alloc_count() - before, 3);
    kin_alloc_fail_at(1);
    assert_null(kin_realloc(a, 100));
    kin_alloc_fail_at(0);
    kin_free(a);
    kin_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(alignment_and_content),
        cmocka_unit_test(large_pages),
        cmocka_unit_test(sizes_that_overflow),
        cmocka_unit_test(fails_the_kth_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

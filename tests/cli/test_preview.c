/* Previews: which kind a terminal gets, and that what is sent holds the pixels. */
#include "cli/preview.h"

#include <stdlib.h>
#include <string.h>

#include <sixel.h>

#include "base/alloc.h"
#include "tests/support/support.h"

static void kinds(void **state)
{
    (void)state;
    static const struct {
        kin_terminal t;
        kin_preview_kind want;
    } cases[] = {
        {{0}, KIN_PREVIEW_NONE},
        {{.term = "dumb"}, KIN_PREVIEW_NONE},
        {{.term = "xterm-256color"}, KIN_PREVIEW_BLOCKS},
        {{.term = "xterm-256color", .no_colour = "1"}, KIN_PREVIEW_NONE},
        {{.term = "xterm-256color", .no_colour = ""}, KIN_PREVIEW_BLOCKS},
        {{.term = "xterm-kitty"}, KIN_PREVIEW_KITTY},
        {{.term = "xterm-kitty", .no_colour = "1"}, KIN_PREVIEW_NONE},
        {{.term = "xterm-256color", .kitty = "3"}, KIN_PREVIEW_KITTY},
        {{.term = "xterm-256color", .program = "WezTerm"}, KIN_PREVIEW_KITTY},
        {{.term = "xterm-kitty", .kitty = "3", .tmux = "/tmp/x"}, KIN_PREVIEW_BLOCKS},
        {{.term = "screen-256color", .kitty = "3"}, KIN_PREVIEW_BLOCKS},
        {{.term = "foot-extra"}, KIN_PREVIEW_SIXEL},
        {{.term = "xterm", .program = "mintty"}, KIN_PREVIEW_SIXEL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (kin_preview_detect(&cases[i].t) != cases[i].want)
            fail_msg("case %zu: %d", i, (int)kin_preview_detect(&cases[i].t));
    assert_int_equal(kin_preview_choose("none"), KIN_PREVIEW_NONE);
    assert_int_equal(kin_preview_choose("sixel"), KIN_PREVIEW_SIXEL);
    assert_int_equal(kin_preview_choose("kitty"), KIN_PREVIEW_KITTY);
}

/* Frames of one colour each: what is left can be told from all that is drawn. */
static kin_tensor frames_of(uint8_t *rgb, int64_t F, int64_t H, int64_t W)
{
    for (int64_t i = 0; i < F * H * W; i++) {
        const int64_t f = i / (H * W);
        rgb[3 * i] = (uint8_t)(40 * f);
        rgb[3 * i + 1] = 200;
        rgb[3 * i + 2] = (uint8_t)(i % W * 2);
    }
    return KIN_TENSOR(rgb, KIN_DTYPE_U8, F, H, W, 3);
}

static char *show(kin_preview_kind kind, int columns, const kin_tensor *t, size_t *n)
{
    char *text = NULL;
    FILE *fp = open_memstream(&text, n);
    assert_non_null(fp);
    kin_preview_show(kind, fp, columns, t);
    fclose(fp);
    return text;
}

static void blocks(void **state)
{
    (void)state;
    static uint8_t rgb[5 * 16 * 16 * 3];
    const kin_tensor t = frames_of(rgb, 5, 16, 16);
    size_t n;
    setenv("COLORTERM", "truecolor", 1);
    char *text = show(KIN_PREVIEW_BLOCKS, 60, &t, &n);
    /* three frames (0, 2, 4) of 16 x 16 in 8 lines */
    int rows = 0, cells = 0;
    for (const char *p = text; *p; p++)
        rows += *p == '\n';
    assert_int_equal(rows, 8);
    for (const char *p = text; (p = strstr(p, "\033[38;2;")); p++, cells++) {
        int c[3], d[3];
        assert_int_equal(sscanf(p, "\033[38;2;%d;%d;%dm\033[48;2;%d;%d;%dm", &c[0], &c[1], &c[2],
                                &d[0], &d[1], &d[2]),
                         6);
        const int x = cells % 48;
        assert_int_equal(c[0], 40 * 2 * (x / 16));
        assert_int_equal(c[1], 200);
        assert_int_equal(c[2], x % 16 * 2);
        assert_memory_equal(c, d, sizeof c);
    }
    assert_int_equal(cells, 48 * 8);
    free(text);
    unsetenv("COLORTERM");
    text = show(KIN_PREVIEW_BLOCKS, 60, &t, &n);
    assert_null(strstr(text, "\033[38;2;"));
    assert_non_null(strstr(text, "\033[38;5;"));
    free(text);
    /* wide pictures become smaller: means of 2 x 2 */
    static uint8_t wide[64 * 64 * 3];
    const kin_tensor one = frames_of(wide, 1, 64, 64);
    setenv("COLORTERM", "24bit", 1);
    text = show(KIN_PREVIEW_BLOCKS, 32, &one, &n);
    assert_non_null(strstr(text, "\033[38;2;0;200;1m"));
    assert_non_null(strstr(text, "\033[38;2;0;200;125m"));
    assert_null(strstr(text, "\033[38;2;0;200;126m"));
    free(text);
}

static int digit(char c)
{
    static const char all[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c ? strchr(all, c) : NULL;
    return at ? (int)(at - all) : -1;
}

static void kitty(void **state)
{
    (void)state;
    static uint8_t rgb[4 * 32 * 32 * 3];
    const kin_tensor t = frames_of(rgb, 4, 32, 32);
    size_t n, bytes = 0;
    char *text = show(KIN_PREVIEW_KITTY, 80, &t, &n);
    assert_int_equal(strncmp(text, "\033_Ga=T,q=2,f=24,s=384,v=96,m=1;", 31), 0);
    const size_t all = 384 * 96 * 3;
    uint8_t *got = kin_malloc(all);
    const char *last = NULL;
    for (const char *p = text; (p = strstr(p, "\033_G"));) {
        last = p;
        const char *end = strstr(p, "\033\\");
        p = strchr(p, ';') + 1;
        assert_non_null(end);
        assert_true(end - p <= 4096 && (end - p) % 4 == 0);
        for (; p < end; p += 4) {
            assert_true(bytes + 3 <= all);
            for (int k = 0; k < 3; k++)
                got[bytes++] =
                    (uint8_t)(digit(p[k]) << (2 + 2 * k) | digit(p[k + 1]) >> (4 - 2 * k));
        }
    }
    assert_int_equal(bytes, all);
    assert_int_equal(strncmp(last, "\033_Gm=0;", 7), 0);
    for (size_t i = 0; i < all / 3; i++) { /* enlarged three times */
        const size_t x = i % 384;
        assert_int_equal(got[3 * i], 40 * (x / 96));
        assert_int_equal(got[3 * i + 2], x % 96 / 3 * 2);
    }
    kin_free(got);
    free(text);
}

static void sixel(void **state)
{
    (void)state;
    static uint8_t rgb[2 * 32 * 32 * 3];
    const kin_tensor t = frames_of(rgb, 2, 32, 32);
    size_t n;
    char *text = show(KIN_PREVIEW_SIXEL, 80, &t, &n);
    unsigned char *pixels = NULL, *palette = NULL;
    int w, h, colours;
    assert_true(SIXEL_SUCCEEDED(sixel_decode_raw((unsigned char *)text, (int)n, &pixels, &w, &h,
                                                 &palette, &colours, NULL)));
    assert_int_equal(w, 192);
    assert_int_equal(h, 96);
    for (int i = 0; i < w * h; i++) {
        const unsigned char *c = palette + 3 * pixels[i];
        const int x = i % w;
        if (abs(c[0] - 40 * (x / 96)) > 16 || abs(c[1] - 200) > 16 ||
            abs(c[2] - x % 96 / 3 * 2) > 16)
            fail_msg("pixel %d: %d %d %d", i, c[0], c[1], c[2]);
    }
    free(pixels);
    free(palette);
    free(text);
}

static void odd_sizes(void **state)
{
    (void)state;
    static const int64_t sizes[][3] = {{1, 1, 1}, {3, 1, 200}, {2, 300, 2}, {1, 500, 700}};
    for (size_t i = 0; i < 4; i++)
        for (int kind = KIN_PREVIEW_BLOCKS; kind <= KIN_PREVIEW_KITTY; kind++) {
            const int64_t *s = sizes[i];
            uint8_t *rgb = kin_malloc((size_t)(s[0] * s[1] * s[2]) * 3);
            const kin_tensor t = frames_of(rgb, s[0], s[1], s[2]);
            size_t n;
            free(show((kin_preview_kind)kind, 10, &t, &n));
            assert_true(n > 0);
            kin_free(rgb);
        }
    uint8_t rgb[4 * 4 * 3];
    const kin_tensor t = frames_of(rgb, 1, 4, 4);
    size_t n;
    free(show(KIN_PREVIEW_NONE, 80, &t, &n));
    assert_int_equal(n, 0);
    kin_alloc_fail_at(1); /* no memory: nothing is shown */
    free(show(KIN_PREVIEW_KITTY, 80, &t, &n));
    kin_alloc_fail_at(0);
    assert_int_equal(n, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kinds), cmocka_unit_test(blocks),    cmocka_unit_test(kitty),
        cmocka_unit_test(sixel), cmocka_unit_test(odd_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

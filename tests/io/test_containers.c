/* y4m, APNG and GIF: what is written comes back, in time and, as far as the format holds it, in
 * colour. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "io/video.h"
#include "tests/support/folder.h"
#include "tests/support/support.h"

/* A coloured square that wanders over a smooth background: more than 256 colours. */
static void draw(uint8_t *p, int frames, int h, int w)
{
    for (int f = 0; f < frames; f++)
        for (int y = 0; y < h; y++)
            for (int x = 0; x < w; x++, p += 3) {
                const bool in = abs(x - (w / 4 + f)) < w / 6 && abs(y - h / 2) < h / 6;
                p[0] = (uint8_t)(in ? 220 : 40 + 150 * x / w);
                p[1] = (uint8_t)(in ? 40 : 60 + 150 * y / h);
                p[2] = (uint8_t)(in ? 30 : 120);
            }
}

static double psnr(const uint8_t *a, const uint8_t *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (a[i] - b[i]) * (a[i] - b[i]);
    return 10 * log10(255.0 * 255 * (double)n / (sum + 1e-9));
}

/* What ffmpeg decodes, RGB; at most `most` bytes. Returns how many. */
static size_t decode(const char *path, uint8_t *rgb, size_t most)
{
    char command[KIN_PATH_MAX + 96];
    snprintf(command, sizeof command,
             "ffmpeg -v error -i '%s' -fps_mode passthrough -f rawvideo -pix_fmt rgb24 -", path);
    FILE *fp = popen(command, "r");
    assert_non_null(fp);
    const size_t n = fread(rgb, 1, most, fp);
    assert_int_equal(fgetc(fp), EOF);
    assert_int_equal(pclose(fp), 0);
    return n;
}

/* Times of the frames in seconds, at most `most`. Returns how many. */
static int times_of(const char *path, double *pts, int most)
{
    char command[KIN_PATH_MAX + 96];
    int n = 0;
    snprintf(command, sizeof command,
             "ffprobe -v error -show_entries packet=pts_time -of default=nk=1:nw=1 '%s'", path);
    FILE *fp = popen(command, "r");
    assert_non_null(fp);
    while (n < most && fscanf(fp, "%lf", &pts[n]) == 1)
        n++;
    assert_int_equal(pclose(fp), 0);
    return n;
}

static kin_video_params params_of(int h, int w, int64_t num, int64_t den)
{
    kin_video_params p = kin_video_params_default();
    p.width = w;
    p.height = h;
    p.fps_num = num;
    p.fps_den = den;
    return p;
}

static void round_trip(void **state)
{
    (void)state;
    enum { F = 7, H = 31, W = 44, BYTES = F * H * W * 3 };
    static const struct {
        const char *name;
        bool animated;
        double least;   /* dB */
        double rounded; /* seconds that a time may be off */
    } kinds[] = {{"a.y4m", false, 38, 1e-5},
                 {"a.apng", false, 120, 1e-4},
                 {"a.png", true, 120, 1e-4},
                 {"a.gif", false, 30, 0.0051}};
    uint8_t *rgb = kin_malloc(BYTES), *back = kin_malloc(BYTES + 1);
    draw(rgb, F, H, W);
    const kin_tensor t = KIN_TENSOR(rgb, KIN_DTYPE_U8, F, H, W, 3);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        kin_error err = {0};
        double pts[F + 1];
        char *data[2];
        size_t n[2];
        char path[KIN_PATH_MAX];
        strcpy(path, kin_test_path(kinds[i].name));
        kin_video_params p = params_of(H, W, 30000, 1001);
        p.animated = kinds[i].animated;
        for (int k = 0; k < 2; k++) {
            assert_ok(kin_video_write(path, &p, &t, &err), &err);
            assert_ok(kin_file_read(path, 1 << 20, &data[k], &n[k], &err), &err);
        }
        assert_int_equal(n[0], n[1]);
        assert_memory_equal(data[0], data[1], n[0]);
        assert_true(kin_video_looks_like(path, p.animated, data[0], n[0]));
        assert_false(kin_video_looks_like("x.mp4", false, data[0], n[0]));
        assert_int_equal(decode(path, back, BYTES + 1), BYTES);
        assert_int_equal(times_of(path, pts, F + 1), F);
        for (int f = 0; f < F; f++)
            if (fabs(pts[f] - f * 1001 / 30000.0) > kinds[i].rounded)
                fail_msg("%s: frame %d at %g s", path, f, pts[f]);
        const double q = psnr(back, rgb, BYTES);
        if (!(q >= kinds[i].least))
            fail_msg("%s: %.1f dB, must be at least %.1f", path, q, kinds[i].least);
        kin_free(data[0]);
        kin_free(data[1]);
    }
    kin_free(rgb);
    kin_free(back);
}

/* Few colours: the palette has all of them, and nothing is dithered. */
static void gif_keeps_few_colours(void **state)
{
    (void)state;
    enum { F = 3, H = 16, W = 16, BYTES = F * H * W * 3 };
    static const uint8_t colours[4][3] = {{255, 0, 0}, {0, 0, 255}, {250, 250, 250}, {10, 90, 20}};
    kin_error err = {0};
    uint8_t rgb[BYTES], back[BYTES + 1];
    for (size_t i = 0; i < BYTES / 3; i++)
        memcpy(rgb + 3 * i, colours[i / 5 % 4], 3);
    const kin_tensor t = KIN_TENSOR(rgb, KIN_DTYPE_U8, F, H, W, 3);
    const kin_video_params p = params_of(H, W, 10, 1);
    assert_ok(kin_video_write(kin_test_path("few.gif"), &p, &t, &err), &err);
    assert_int_equal(decode(kin_test_path("few.gif"), back, sizeof back), BYTES);
    /* libsixel keeps 5 bits of a colour */
    for (size_t i = 0; i < BYTES; i++)
        if (abs(back[i] - rgb[i]) > 8)
            fail_msg("byte %zu: %d, not %d", i, back[i], rgb[i]);
}

static void one_frame(void **state)
{
    (void)state;
    static const char *const names[] = {"1.y4m", "1.apng", "1.gif", "1.mp4"};
    uint8_t rgb[8 * 8 * 3];
    draw(rgb, 1, 8, 8);
    const kin_tensor t = KIN_TENSOR(rgb, KIN_DTYPE_U8, 8, 8, 3);
    for (size_t i = 0; i < 4; i++) {
        kin_error err = {0};
        uint8_t back[sizeof rgb + 1];
        const kin_video_params p = params_of(8, 8, 8, 1);
        assert_ok(kin_video_write(kin_test_path(names[i]), &p, &t, &err), &err);
        assert_int_equal(decode(kin_test_path(names[i]), back, sizeof back), sizeof rgb);
    }
}

static void refusals(void **state)
{
    (void)state;
    uint8_t rgb[8 * 8 * 3] = {0};
    const kin_tensor t = KIN_TENSOR(rgb, KIN_DTYPE_U8, 8, 8, 3);
    kin_error err = {0};
    kin_video *v;
    kin_video_params p = params_of(8, 8, 60, 1);
    assert_int_equal(kin_video_write(kin_test_path("fast.gif"), &p, &t, &err), KIN_ERR_ARG);
    assert_non_null(strstr(err.text, "50 frames per second"));
    assert_false(kin_path_exists(kin_test_path("fast.gif")));
    p = params_of(8, 8, 8, 1);
    for (uint64_t k = 1; k < 6; k++) { /* memory that is short leaves nothing */
        kin_alloc_fail_at(k);
        const kin_status s = kin_video_write(kin_test_path("short.gif"), &p, &t, &err);
        kin_alloc_fail_at(0);
        if (s == KIN_OK)
            assert_true(k > 3);
        else
            assert_int_equal(s, KIN_ERR_MEM);
        assert_true(kin_path_exists(kin_test_path("short.gif")) == (s == KIN_OK));
        unlink(kin_test_path("short.gif"));
    }
    assert_ok(kin_video_open(kin_test_path("gone.gif"), &p, &v, &err), &err);
    assert_ok(kin_video_put(v, &t, &err), &err);
    kin_video_abort(&v);
    assert_false(kin_path_exists(kin_test_path("gone.gif")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),
        cmocka_unit_test(gif_keeps_few_colours),
        cmocka_unit_test(one_frame),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, kin_test_folder_make, kin_test_folder_remove);
}

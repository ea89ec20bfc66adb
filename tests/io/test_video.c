#include "io/video.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "io/image.h"
#include "io/png.h"
#include "tests/support/folder.h"
#include "tests/support/support.h"

/* A coloured square that wanders over a smooth background. */
static uint8_t *draw(int frames, int h, int w)
{
    uint8_t *p = kin_malloc((size_t)(frames * h * w * 3));
    for (int f = 0; f < frames; f++)
        for (int y = 0; y < h; y++)
            for (int x = 0; x < w; x++) {
                uint8_t *q = p + ((f * h + y) * w + x) * 3;
                int in_square = abs(x - (w / 4 + f)) < w / 6 && abs(y - h / 2) < h / 6;
                q[0] = (uint8_t)(in_square ? 220 : 40 + 100 * x / w);
                q[1] = (uint8_t)(in_square ? 40 : 60 + 100 * y / h);
                q[2] = (uint8_t)(in_square ? 30 : 120);
            }
    return p;
}

static double psnr(const uint8_t *a, const uint8_t *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (a[i] - b[i]) * (a[i] - b[i]);
    return 10 * log10(255.0 * 255 * (double)n / (sum + 1e-9));
}

static void mp4_round_trip(void **state)
{
    (void)state;
    static const struct {
        int h, w, frames;
        int64_t num, den;
        bool chroma_444;
        double least; /* dB; 4:2:0 blurs the colour edge of the square */
    } cases[] = {
        {48, 64, 12, 16, 1, false, 29},  {47, 35, 7, 30000, 1001, false, 38},
        {32, 32, 16, 8, 1, true, 38},    {2, 2, 1, 25, 2, false, 15},
        {1, 1, 3, 1, 1, false, 25},      {64, 33, 5, 24, 1, false, 38},
        {480, 832, 3, 16, 1, false, 38},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kin_error err = {0};
        kin_clip clip;
        int F = cases[i].frames, H = cases[i].h, W = cases[i].w;
        uint8_t *rgb = draw(F, H, W);
        kin_tensor t = KIN_TENSOR(rgb, KIN_DTYPE_U8, F, H, W, 3);
        kin_video_params p = kin_video_params_default();
        p.width = W;
        p.height = H;
        p.fps_num = cases[i].num;
        p.fps_den = cases[i].den;
        p.chroma_444 = cases[i].chroma_444;
        assert_ok(kin_video_write(kin_test_path("a.mp4"), &p, &t, &err), &err);
        assert_ok(kin_video_read(kin_test_path("a.mp4"), NULL, &clip, &err), &err);
        assert_int_equal(clip.frames, F);
        assert_int_equal(clip.total, F);
        assert_int_equal(clip.height, H);
        assert_int_equal(clip.width, W);
        assert_int_equal(clip.info.rotation, 0);
        assert_string_equal(clip.info.pixel_format,
                            H % 2 || W % 2 || cases[i].chroma_444 ? "yuv444p" : "yuv420p");
        double fps = (double)cases[i].num / (double)cases[i].den;
        assert_true(fabs(clip.info.fps - fps) < 1e-6);
        for (int f = 0; f < F; f++)
            assert_true(fabs(clip.pts[f] - f / fps) < 1e-6);
        double q = psnr(clip.rgb, rgb, (size_t)(F * H * W * 3));
        if (q < cases[i].least)
            fail_msg("case %zu: %.1f dB, must be at least %.1f", i, q, cases[i].least);
        kin_clip_free(&clip);
        kin_free(rgb);
    }
}

/* A constant colour must come back: matrix and range of writer and reader agree. */
static void colours_survive(void **state)
{
    (void)state;
    static const uint8_t colours[][3] = {{255, 0, 0},     {0, 255, 0}, {0, 0, 255},
                                         {255, 255, 255}, {0, 0, 0},   {128, 128, 128},
                                         {255, 160, 20}};
    for (size_t k = 0; k < sizeof colours / sizeof *colours; k++) {
        kin_error err = {0};
        kin_clip clip;
        uint8_t rgb[2 * 16 * 16 * 3];
        for (size_t i = 0; i < sizeof rgb; i++)
            rgb[i] = colours[k][i % 3];
        kin_tensor t = KIN_TENSOR(rgb, KIN_DTYPE_U8, 2, 16, 16, 3);
        kin_video_params p = kin_video_params_default();
        p.width = p.height = 16;
        assert_ok(kin_video_write(kin_test_path("c.mp4"), &p, &t, &err), &err);
        assert_ok(kin_video_read(kin_test_path("c.mp4"), NULL, &clip, &err), &err);
        for (size_t i = 0; i < sizeof rgb; i++)
            if (abs(clip.rgb[i] - rgb[i]) > 3)
                fail_msg("colour %zu channel %zu: %d, not %d", k, i % 3, clip.rgb[i], rgb[i]);
        kin_clip_free(&clip);
    }
}

static void same_bytes_and_moov_first(void **state)
{
    (void)state;
    kin_error err = {0};
    uint8_t *rgb = draw(9, 48, 64);
    kin_tensor t = KIN_TENSOR(rgb, KIN_DTYPE_U8, 9, 48, 64, 3);
    static const char *const meta[] = {"title", "a steel ball falls", "comment", "seed=5", NULL};
    kin_video_params p = kin_video_params_default();
    p.width = 64;
    p.height = 48;
    p.metadata = meta;
    char *a, *b;
    size_t na, nb;
    assert_ok(kin_video_write(kin_test_path("x.mp4"), &p, &t, &err), &err);
    assert_ok(kin_file_read(kin_test_path("x.mp4"), 1 << 20, &a, &na, &err), &err);
    /* the second time frame by frame, under another name */
    kin_video *v;
    assert_ok(kin_video_open(kin_test_path("y: z.mp4"), &p, &v, &err), &err);
    for (int f = 0; f < 9; f++) {
        kin_tensor one = kin_tensor_select(&t, 0, f);
        assert_ok(kin_video_put(v, &one, &err), &err);
    }
    assert_false(kin_path_exists(kin_test_path("y: z.mp4")));
    assert_ok(kin_video_close(&v, &err), &err);
    assert_null(v);
    assert_ok(kin_file_read(kin_test_path("y: z.mp4"), 1 << 20, &b, &nb, &err), &err);
    assert_int_equal(na, nb);
    assert_memory_equal(a, b, na);
    char *moov = memmem(a, na, "moov", 4), *mdat = memmem(a, na, "mdat", 4);
    assert_non_null(moov);
    assert_true(moov < mdat);
    assert_non_null(memmem(a, na, "a steel ball falls", 18));
    assert_non_null(memmem(a, na, "seed=5", 6));
    assert_non_null(memmem(a, na, "colr", 4));
    kin_free(a);
    kin_free(b);
    kin_free(rgb);
}

static int files_in(const char *path)
{
    char command[KIN_PATH_MAX + 32];
    int n = -1;
    snprintf(command, sizeof command, "ls -A '%s' | wc -l", path);
    FILE *fp = popen(command, "r");
    assert_int_equal(fscanf(fp, "%d", &n), 1);
    pclose(fp);
    return n;
}

static void nothing_stays_after_abort(void **state)
{
    (void)state;
    kin_error err = {0};
    kin_video *v;
    kin_video_params p = kin_video_params_default();
    p.width = 64;
    p.height = 48;
    char folder[KIN_PATH_MAX];
    strcpy(folder, kin_test_path("abort"));
    assert_ok(kin_path_make_dirs(folder, &err), &err);
    uint8_t *rgb = draw(2, 48, 64);
    kin_tensor t = KIN_TENSOR(rgb, KIN_DTYPE_U8, 2, 48, 64, 3);
    assert_ok(kin_video_open(kin_test_path("abort/a.mp4"), &p, &v, &err), &err);
    assert_ok(kin_video_put(v, &t, &err), &err);
    assert_int_equal(files_in(folder), 1);
    kin_video_abort(&v);
    kin_video_abort(&v);
    assert_int_equal(files_in(folder), 0);
    assert_ok(kin_video_open(kin_test_path("abort/b.mp4"), &p, &v, &err), &err);
    assert_int_equal(kin_video_close(&v, &err), KIN_ERR_ARG);
    assert_int_equal(files_in(folder), 0);
    kin_tensor wrong = KIN_TENSOR(rgb, KIN_DTYPE_U8, 2, 64, 48, 3);
    assert_int_equal(kin_video_write(kin_test_path("abort/c.mp4"), &p, &wrong, &err),
                     KIN_ERR_SHAPE);
    assert_int_equal(files_in(folder), 0);
    assert_int_equal(kin_video_write(kin_test_path("abort/c.avi"), &p, &t, &err), KIN_ERR_ARG);
    assert_int_equal(kin_video_write(kin_test_path("none/c.mp4"), &p, &t, &err), KIN_ERR_IO);
    assert_non_null(strstr(err.text, "none/c.mp4"));
    p.crf = 99;
    assert_int_equal(kin_video_open(kin_test_path("abort/c.mp4"), &p, &v, &err), KIN_ERR_ARG);
    kin_free(rgb);
}

static void png_sequence(void **state)
{
    (void)state;
    kin_error err = {0};
    uint8_t *rgb = draw(3, 5, 7);
    kin_tensor t = KIN_TENSOR(rgb, KIN_DTYPE_U8, 3, 5, 7, 3);
    kin_video_params p = kin_video_params_default();
    p.width = 7;
    p.height = 5;
    p.first_index = 9;
    assert_ok(kin_video_write(kin_test_path("s%02d.png"), &p, &t, &err), &err);
    static const char *const names[] = {"s09.png", "s10.png", "s11.png"};
    for (int f = 0; f < 3; f++) {
        kin_image image;
        assert_ok(kin_image_read(kin_test_path(names[f]), &image, &err), &err);
        assert_memory_equal(image.rgb, rgb + f * 105, 105);
        kin_image_free(&image);
    }
    assert_int_equal(kin_video_write(kin_test_path("one.png"), &p, &t, &err), KIN_ERR_ARG);
    kin_tensor first = kin_tensor_select(&t, 0, 0);
    assert_ok(kin_video_write(kin_test_path("single.png"), &p, &first, &err), &err);
    assert_true(kin_path_exists(kin_test_path("single.png")));
    kin_free(rgb);
}

static void names(void **state)
{
    (void)state;
    kin_error err = {0};
    char out[KIN_PATH_MAX];
    assert_ok(kin_output_name(out, "a/%06d-100%%.png", 42, &err), &err);
    assert_string_equal(out, "a/000042-100%.png");
    assert_ok(kin_output_name(out, "%d.mp4", 7, &err), &err);
    assert_string_equal(out, "7.mp4");
    static const char *const wrong[] = {"a.png", "%s.png", "%d%d.png",        "%n",
                                        "%",     "%ld",    "%0999999999999d", "%-3d"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_int_equal(kin_output_name(out, wrong[i], 1, &err), KIN_ERR_ARG);
    assert_true(kin_output_has_index("x%3d.png"));
    assert_false(kin_output_has_index("x100%%.png"));
    assert_false(kin_output_has_index("x.png"));
    static const struct {
        double fps;
        int64_t num, den;
    } rates[] = {{16, 16, 1},   {29.97, 30000, 1001}, {23.976, 24000, 1001}, {59.94, 60000, 1001},
                 {12.5, 25, 2}, {0.5, 1, 2},          {1000, 1000, 1},       {8, 8, 1}};
    for (size_t i = 0; i < sizeof rates / sizeof *rates; i++) {
        int64_t num, den;
        assert_ok(kin_video_fps(rates[i].fps, &num, &den, &err), &err);
        assert_int_equal(num, rates[i].num);
        assert_int_equal(den, rates[i].den);
    }
    int64_t num, den;
    assert_int_equal(kin_video_fps(0, &num, &den, &err), KIN_ERR_ARG);
    assert_int_equal(kin_video_fps(NAN, &num, &den, &err), KIN_ERR_ARG);
}

static void selects_evenly(void **state)
{
    (void)state;
    kin_error err = {0};
    uint8_t *rgb = draw(11, 32, 32);
    kin_tensor t = KIN_TENSOR(rgb, KIN_DTYPE_U8, 11, 32, 32, 3);
    kin_video_params p = kin_video_params_default();
    p.width = p.height = 32;
    p.fps_num = 10;
    assert_ok(kin_video_write(kin_test_path("sel.mp4"), &p, &t, &err), &err);
    static const struct {
        int64_t n;
        int index[16];
    } cases[] = {{1, {0}},
                 {2, {0, 10}},
                 {3, {0, 5, 10}},
                 {4, {0, 3, 7, 10}},
                 {16, {0, 1, 1, 2, 3, 3, 4, 5, 5, 6, 7, 7, 8, 9, 9, 10}}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        kin_clip all, some;
        kin_video_select s = {.num_frames = cases[k].n};
        assert_ok(kin_video_read(kin_test_path("sel.mp4"), NULL, &all, &err), &err);
        assert_ok(kin_video_read(kin_test_path("sel.mp4"), &s, &some, &err), &err);
        assert_int_equal(some.frames, cases[k].n);
        assert_int_equal(some.total, 11);
        for (int64_t i = 0; i < cases[k].n; i++) {
            assert_true(fabs(some.pts[i] - 0.1 * cases[k].index[i]) < 1e-6);
            assert_memory_equal(some.rgb + i * 3072, all.rgb + cases[k].index[i] * 3072, 3072);
        }
        kin_clip_free(&all);
        kin_clip_free(&some);
    }
    kin_clip clip;
    kin_video_select s = {.max_frames = 10};
    assert_int_equal(kin_video_read(kin_test_path("sel.mp4"), &s, &clip, &err), KIN_ERR_FORMAT);
    s = (kin_video_select){.max_bytes = 11 * 3072 - 1};
    assert_int_equal(kin_video_read(kin_test_path("sel.mp4"), &s, &clip, &err), KIN_ERR_MEM);
    assert_non_null(strstr(err.text, "sel.mp4"));
    s.max_bytes++;
    assert_ok(kin_video_read(kin_test_path("sel.mp4"), &s, &clip, &err), &err);
    kin_clip_free(&clip);
    kin_free(rgb);
}

/* A file cut or flipped anywhere never crashes; a cut one is never accepted as whole. */
static void damaged_files(void **state)
{
    (void)state;
    kin_error err = {0};
    uint8_t *rgb = draw(6, 32, 32);
    kin_tensor t = KIN_TENSOR(rgb, KIN_DTYPE_U8, 6, 32, 32, 3);
    kin_video_params p = kin_video_params_default();
    p.width = p.height = 32;
    char *data;
    size_t n;
    assert_ok(kin_video_write(kin_test_path("dmg.mp4"), &p, &t, &err), &err);
    assert_ok(kin_file_read(kin_test_path("dmg.mp4"), 1 << 20, &data, &n, &err), &err);
    for (size_t cut = 0; cut < n; cut += 37) {
        kin_clip clip;
        if (kin_video_decode(data, cut, "cut", NULL, &clip, &err) == KIN_OK)
            fail_msg("accepted when cut to %zu of %zu bytes", cut, n);
        assert_non_null(strstr(err.text, "cut"));
    }
    unsigned seed = 1;
    for (int k = 0; k < 300; k++) {
        seed = seed * 1664525u + 1013904223u;
        size_t at = (seed >> 8) % n;
        char old = data[at];
        data[at] = (char)(seed >> 3);
        kin_clip clip;
        kin_video_select s = {.max_bytes = 10000000};
        if (kin_video_decode(data, n, "flip", &s, &clip, &err) == KIN_OK)
            kin_clip_free(&clip);
        data[at] = old;
    }
    kin_free(data);
    kin_free(rgb);
}

static void out_of_memory(void **state)
{
    (void)state;
    kin_error err = {0};
    for (uint64_t k = 1; k < 20; k++) {
        kin_clip clip;
        kin_alloc_fail_at(k);
        kin_status s = kin_video_read(kin_test_path("sel.mp4"), NULL, &clip, &err);
        kin_alloc_fail_at(0);
        if (s == KIN_OK) {
            kin_clip_free(&clip);
            assert_true(k > 4);
            return;
        }
        assert_int_equal(s, KIN_ERR_MEM);
    }
    fail();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mp4_round_trip),
        cmocka_unit_test(colours_survive),
        cmocka_unit_test(same_bytes_and_moov_first),
        cmocka_unit_test(nothing_stays_after_abort),
        cmocka_unit_test(png_sequence),
        cmocka_unit_test(names),
        cmocka_unit_test(selects_evenly),
        cmocka_unit_test(damaged_files),
        cmocka_unit_test(out_of_memory),
    };
    return cmocka_run_group_tests(tests, kin_test_folder_make, kin_test_folder_remove);
}

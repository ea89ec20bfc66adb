/* Runs over every file of broken/manifest.json, one test case per format and outcome. */
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/path.h"
#include "io/check.h"
#include "io/dataset.h"
#include "io/jpeg.h"
#include "io/png.h"
#include "io/pth.h"
#include "io/safetensors.h"
#include "io/video.h"
#include "tests/support/support.h"

static char folder[KIN_PATH_MAX];
static cJSON *manifest;

static int open_manifest(void **state)
{
    (void)state;
    const char *data = kin_test_data_dir();
    char path[KIN_PATH_MAX];
    kin_error err = {0};
    if (!data)
        return 0;
    kin_path_join(folder, data, "broken", NULL);
    kin_path_join(path, folder, "manifest.json", NULL);
    if (kin_json_read(path, 1 << 24, 0, &manifest, &err) != KIN_OK) {
        print_error("%s\n", err.text);
        return -1;
    }
    return 0;
}

static int close_manifest(void **state)
{
    (void)state;
    cJSON_Delete(manifest);
    return 0;
}

static const char *str(const cJSON *o, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(o, key)->valuestring;
}

static double num(const cJSON *o, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(o, key)->valuedouble;
}

typedef void (*file_test)(const char *path, const cJSON *entry);

/* Runs `test` on each file of the format with the outcome; returns their number. */
static int each(const char *format, const char *must, file_test test)
{
    int n = 0;
    const cJSON *e;
    if (!manifest)
        skip();
    cJSON_ArrayForEach(e, cJSON_GetObjectItem(manifest, "files"))
    {
        char path[KIN_PATH_MAX];
        if ((format && strcmp(str(e, "format"), format) != 0) || strcmp(str(e, "must"), must) != 0)
            continue;
        kin_path_join(path, folder, str(e, "file"), NULL);
        test(path, e);
        n++;
    }
    return n;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void must_accept(const char *path, const cJSON *e)
{
    kin_error err = {0};
    kin_strbuf report = {0};
    (void)e;
    if (kin_check_file(path, &report, &err) != KIN_OK)
        fail_msg("refused: %s", err.text);
    assert_true(report.len > 0);
    assert_int_equal(report.data[report.len - 1], '\n');
    kin_strbuf_free(&report);
}

static void must_reject(const char *path, const cJSON *e)
{
    kin_error err = {0};
    kin_strbuf report = {0};
    kin_status s = kin_check_file(path, &report, &err);
    if (s != KIN_ERR_FORMAT)
        fail_msg("%s (%s): %s %s %s", path, str(e, "what"), kin_status_name(s), err.text,
                 report.data ? report.data : "");
    if (!strstr(err.text, str(e, "file")))
        fail_msg("the error does not name %s: %s", str(e, "file"), err.text);
    kin_strbuf_free(&report);
}

/* Either outcome, in a process of its own: its peak memory and time are the file's. */
static void must_be_bounded(const char *path, const cJSON *e)
{
    double start = now();
    struct rusage use;
    int code;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        kin_error err = {0};
        kin_strbuf report = {0};
        kin_status s = kin_check_file(path, &report, &err);
        kin_strbuf_free(&report);
        _exit(s == KIN_OK || s == KIN_ERR_FORMAT || s == KIN_ERR_MEM ? 0 : 1);
    }
    assert_int_equal(wait4(pid, &code, 0, &use), pid);
    if (!WIFEXITED(code) || WEXITSTATUS(code) != 0)
        fail_msg("%s: ended with %d", str(e, "file"), code);
    double seconds = now() - start;
    if (seconds > 2)
        fail_msg("%s: %.1f s, must be below 2", str(e, "file"), seconds);
#if !defined(__SANITIZE_ADDRESS__)
    if (use.ru_maxrss > 256 * 1000)
        fail_msg("%s: %ld KB, must be below 256 MB", str(e, "file"), use.ru_maxrss);
#endif
}

static void sound_files_are_accepted(void **state)
{
    (void)state;
    assert_int_equal(each(NULL, "accept", must_accept), 6 + 5 + 3 + 8 + 5 + 1);
}

static void damaged_files_are_refused(void **state)
{
    (void)state;
    assert_true(each(NULL, "reject", must_reject) > 70);
}

static void bounded_files_are_bounded(void **state)
{
    (void)state;
    assert_true(each(NULL, "bounded", must_be_bounded) >= 11);
    /* what is refused takes no more either */
    assert_true(each(NULL, "reject", must_be_bounded) > 70);
}

static void count(const char *path, const cJSON *e)
{
    (void)e;
    if (!kin_path_exists(path))
        fail_msg("%s is not there", path);
}

static void every_file_has_its_test(void **state)
{
    (void)state;
    const int n =
        each(NULL, "accept", count) + each(NULL, "reject", count) + each(NULL, "bounded", count);
    int files = -1; /* the manifest itself */
    assert_int_equal(n, cJSON_GetArraySize(cJSON_GetObjectItem(manifest, "files")));
    DIR *d = opendir(folder);
    assert_non_null(d);
    for (const struct dirent *e; (e = readdir(d));)
        files += e->d_name[0] != '.';
    closedir(d);
    assert_int_equal(n, files);
}

static void tensors(const char *path, const cJSON *e)
{
    kin_error err = {0};
    kin_safetensors *st;
    const cJSON *want = cJSON_GetObjectItem(cJSON_GetObjectItem(e, "expect"), "tensors"), *t;
    assert_ok(kin_safetensors_open(path, &st, &err), &err);
    assert_int_equal(kin_safetensors_count(st), cJSON_GetArraySize(want));
    cJSON_ArrayForEach(t, want)
    {
        kin_tensor got;
        assert_ok(kin_safetensors_get(st, t->string, &got, &err), &err);
        assert_int_equal(kin_tensor_numel(&got), cJSON_GetArraySize(t));
        int64_t i = 0;
        const cJSON *v;
        cJSON_ArrayForEach(v, t)
            assert_true(kin_tensor_get(&got, i++) == (double)(float)v->valuedouble);
    }
    kin_safetensors_close(&st);
}

static void pth_tensors(const char *path, const cJSON *e)
{
    kin_error err = {0};
    kin_pth *pth;
    const cJSON *want = cJSON_GetObjectItem(cJSON_GetObjectItem(e, "expect"), "tensors"), *t, *v;
    assert_ok(kin_pth_open(path, &pth, &err), &err);
    assert_int_equal(kin_pth_count(pth), cJSON_GetArraySize(want));
    cJSON_ArrayForEach(t, want)
    {
        kin_tensor got;
        int64_t i = 0, d = 0;
        const int64_t k = kin_pth_find(pth, t->string);
        assert_true(k >= 0);
        assert_ok(kin_pth_tensor(pth, k, &got, &err), &err);
        assert_int_equal(got.ndim, cJSON_GetArraySize(cJSON_GetObjectItem(t, "shape")));
        cJSON_ArrayForEach(v, cJSON_GetObjectItem(t, "shape"))
            assert_int_equal(got.size[d++], v->valuedouble);
        cJSON_ArrayForEach(v, cJSON_GetObjectItem(t, "values"))
            assert_true(kin_tensor_get(&got, i++) == v->valuedouble);
        assert_int_equal(i, kin_tensor_numel(&got));
        for (int64_t at = 0; at < i; at++) {
            double one;
            kin_pth_read(kin_pth_at(pth, k), at, 1, KIN_DTYPE_F64, &one);
            assert_true(one == kin_tensor_get(&got, at));
        }
    }
    kin_pth_close(&pth);
}

static uint32_t crc32_of(const uint8_t *p, size_t n)
{
    uint32_t c = ~0u;
    for (size_t i = 0; i < n; i++) {
        c ^= p[i];
        for (int k = 0; k < 8; k++)
            c = c & 1 ? 0xEDB88320u ^ (c >> 1) : c >> 1;
    }
    return ~c;
}

static void png(const char *path, const cJSON *e)
{
    kin_error err = {0};
    kin_image image;
    const cJSON *want = cJSON_GetObjectItem(e, "expect");
    assert_ok(kin_png_read(path, &image, &err), &err);
    assert_int_equal(image.width, num(want, "width"));
    assert_int_equal(image.height, num(want, "height"));
    uint32_t crc = crc32_of(image.rgb, (size_t)(image.width * image.height * 3));
    if (crc != (uint32_t)num(want, "rgb8_crc32"))
        fail_msg("%s: CRC %u", path, crc);
    kin_image_free(&image);
}

static void check_mean(const char *path, const uint8_t *rgb, int64_t pixels, const cJSON *mean,
                       double tolerance)
{
    for (int c = 0; c < 3; c++) {
        double sum = 0, want = cJSON_GetArrayItem(mean, c)->valuedouble;
        for (int64_t i = 0; i < pixels; i++)
            sum += rgb[3 * i + c];
        sum /= (double)pixels;
        if (!(fabs(sum - want) <= tolerance))
            fail_msg("%s: channel %d has mean %.2f, not %.2f", path, c, sum, want);
    }
}

static void jpeg(const char *path, const cJSON *e)
{
    kin_error err = {0};
    kin_image image;
    const cJSON *want = cJSON_GetObjectItem(e, "expect");
    assert_ok(kin_jpeg_read(path, &image, &err), &err);
    assert_int_equal(image.width, num(want, "width"));
    assert_int_equal(image.height, num(want, "height"));
    check_mean(path, image.rgb, image.width * image.height, cJSON_GetObjectItem(want, "mean_rgb"),
               num(want, "mean_tolerance"));
    kin_image_free(&image);
}

static void mp4(const char *path, const cJSON *e)
{
    kin_error err = {0};
    kin_clip clip;
    const cJSON *want = cJSON_GetObjectItem(e, "expect");
    assert_ok(kin_video_read(path, NULL, &clip, &err), &err);
    assert_int_equal(clip.frames, num(want, "frames"));
    assert_int_equal(clip.total, num(want, "frames"));
    assert_int_equal(clip.info.coded_width, num(want, "coded_width"));
    assert_int_equal(clip.info.coded_height, num(want, "coded_height"));
    assert_int_equal(clip.width, num(want, "display_width"));
    assert_int_equal(clip.height, num(want, "display_height"));
    assert_int_equal(clip.info.rotation, num(want, "rotation"));
    assert_string_equal(clip.info.pixel_format, str(want, "pix_fmt"));
    for (int64_t f = 0; f < clip.frames; f++) {
        double pts = cJSON_GetArrayItem(cJSON_GetObjectItem(want, "pts"), (int)f)->valuedouble;
        if (fabs(clip.pts[f] - pts) > 1e-4)
            fail_msg("%s: frame %d at %.4f s, not %.4f", path, (int)f, clip.pts[f], pts);
    }
    int64_t pixels = clip.width * clip.height;
    double tolerance = num(want, "mean_tolerance");
    check_mean(path, clip.rgb, pixels, cJSON_GetObjectItem(want, "mean_rgb_first"), tolerance);
    check_mean(path, clip.rgb + (clip.frames - 1) * pixels * 3, pixels,
               cJSON_GetObjectItem(want, "mean_rgb_last"), tolerance);
    kin_clip_free(&clip);
}

static void records(const char *path, const cJSON *e)
{
    kin_error err = {0};
    kin_dataset *ds;
    const kin_dataset_options strict = {.strict = true};
    const cJSON *want = cJSON_GetObjectItem(e, "expect");
    assert_ok(kin_dataset_open(path, &strict, &ds, &err), &err);
    assert_int_equal(ds->count, num(want, "records"));
    if (cJSON_GetObjectItem(want, "captions_0"))
        assert_string_equal(ds->records[0].captions, str(want, "captions_0"));
    kin_dataset_close(&ds);
}

static void contents_are_as_expected(void **state)
{
    (void)state;
    assert_int_equal(each("safetensors", "accept", tensors), 6);
    assert_int_equal(each("pth", "accept", pth_tensors), 1);
    assert_int_equal(each("png", "accept", png), 5);
    assert_int_equal(each("jpeg", "accept", jpeg), 3);
    assert_int_equal(each("mp4", "accept", mp4), 8);
    assert_int_equal(each("wisa_json", "accept", records), 5);
}

static void check_only(const char *path, const cJSON *e)
{
    kin_error err = {0};
    kin_strbuf report = {0};
    (void)e;
    kin_check_file(path, &report, &err);
    kin_strbuf_free(&report);
}

/* Neither our code nor the libraries below it write to the terminal, whatever the file. */
static void nothing_is_printed(void **state)
{
    (void)state;
    if (!manifest)
        skip();
    FILE *caught = tmpfile();
    assert_non_null(caught);
    fflush(NULL);
    int out = dup(1), err = dup(2);
    dup2(fileno(caught), 1);
    dup2(fileno(caught), 2);
    each(NULL, "accept", check_only);
    each(NULL, "reject", check_only);
    each(NULL, "bounded", check_only);
    fflush(NULL);
    dup2(out, 1);
    dup2(err, 2);
    close(out);
    close(err);
    fseek(caught, 0, SEEK_END);
    assert_int_equal(ftell(caught), 0);
    fclose(caught);
}

/* The readers called on the wrong kind of bytes, and on every sound file cut anywhere or with a
 * byte changed, never crash. */
static void any_bytes(const char *path, const cJSON *e)
{
    static char temp[64];
    kin_error err = {0};
    char *data;
    size_t n;
    unsigned seed = 7;
    (void)e;
    snprintf(temp, sizeof temp, "/tmp/kin_broken_%ld.%.12s", (long)getpid(), kin_path_ext(path));
    assert_ok(kin_file_read(path, 1 << 20, &data, &n, &err), &err);
    for (int k = 0; k < 60; k++) {
        kin_strbuf report = {0};
        kin_image image;
        seed = seed * 1664525u + 1013904223u;
        size_t at = (seed >> 8) % n, cut = k % 2 ? n : at;
        char old = data[at];
        data[at] = (char)(seed >> 24);
        FILE *fp = fopen(temp, "wb");
        assert_non_null(fp);
        fwrite(data, 1, cut, fp);
        fclose(fp);
        kin_check_file(temp, &report, &err);
        kin_strbuf_free(&report);
        if (kin_png_decode(data, cut, "x", &image, &err) == KIN_OK)
            kin_image_free(&image);
        if (kin_jpeg_decode(data, cut, "x", &image, &err) == KIN_OK)
            kin_image_free(&image);
        data[at] = old;
    }
    unlink(temp);
    kin_free(data);
}

static void changed_files_never_crash(void **state)
{
    (void)state;
    assert_true(each(NULL, "accept", any_bytes) > 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sound_files_are_accepted),  cmocka_unit_test(damaged_files_are_refused),
        cmocka_unit_test(bounded_files_are_bounded), cmocka_unit_test(every_file_has_its_test),
        cmocka_unit_test(contents_are_as_expected),  cmocka_unit_test(nothing_is_printed),
        cmocka_unit_test(changed_files_never_crash),
    };
    return cmocka_run_group_tests(tests, open_manifest, close_manifest);
}

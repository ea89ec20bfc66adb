/* tests/training/small_images.h: a set of small images in class folders with parts, made in
 * `images_dir`, and configurations of a tiny transformer for it. */
#ifndef KIN_TESTS_TRAINING_SMALL_IMAGES_H
#define KIN_TESTS_TRAINING_SMALL_IMAGES_H

#include "tests/training/tiny.h"

#include "io/png.h"

enum { SIDE = 8, PER_CLASS = 6, TRAIN = 2 * PER_CLASS };

static char *images_dir;

/* Pixel (x, y) of image i of a part; the left half is dark, so that mirroring shows. */
static inline uint8_t pixel(bool test, int64_t i, int64_t x, int64_t y)
{
    return (uint8_t)((x < SIDE / 2 ? 10 : 150) + i * 5 + (test ? 2 : 0) + y % 2);
}

static inline void put_image(const char *part, const char *class_name, int64_t i)
{
    char folder[512], path[600];
    kin_error err = {0};
    uint8_t rgb[SIDE * SIDE * 3];
    kin_tensor t = KIN_TENSOR(rgb, KIN_DTYPE_U8, SIDE, SIDE, 3);
    for (int64_t p = 0; p < SIDE * SIDE * 3; p++)
        rgb[p] = pixel(part[1] == 'e', i, p / 3 % SIDE, p / 3 / SIDE);
    snprintf(folder, sizeof folder, "%s/set/%s/%s", images_dir, part, class_name);
    snprintf(path, sizeof path, "%s/%lld.png", folder, (long long)i);
    assert_ok(kin_path_make_dirs(folder, &err), &err);
    assert_ok(kin_png_write(path, &t, NULL, &err), &err);
}

static inline int make_set(void **state)
{
    (void)state;
    images_dir = tiny_dir();
    for (int64_t i = 0; i < PER_CLASS; i++) {
        put_image("train", "ant", i);
        put_image("train", "bee", PER_CLASS + i);
    }
    for (int64_t i = 0; i < 2; i++) {
        put_image("test", "ant", i);
        put_image("test", "bee", i);
    }
    put_image("extra", "wasp", 0);
    return 0;
}

static inline int drop_set(void **state)
{
    (void)state;
    tiny_remove(images_dir);
    return 0;
}

static inline void write_config(const char *path, const char *extra, double dropout, int64_t every)
{
    FILE *fp = fopen(path, "w");
    assert_non_null(fp);
    fprintf(fp,
            "{\"transformer\":{\"input_size\":%d,\"patch_size\":4,\"in_channels\":3,"
            "\"hidden_size\":16,\"depth\":2,\"num_heads\":2,\"num_classes\":2,\"model\":\"dense\","
            "\"class_dropout_prob\":%g,\"learn_sigma\":false},\"data\":\"set\",\"log_every\":1,"
            "\"optimizer\":{\"lr\":0.001},%s\"checkpoint\":{\"every\":%lld}}",
            SIDE, dropout, extra, (long long)every);
    fclose(fp);
}

#endif

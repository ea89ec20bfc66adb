/* tests/training/test_train_images.c: class-labelled images as training data: parts of a set,
 * mirroring, class dropout and class names, on a small set made here. */
#include "tests/training/small_images.h"

#include "training/images.h"
#include "training/loader.h"

static kin_source *open_source(const char *extra, kin_train_config *c)
{
    char path[512];
    kin_error err = {0};
    kin_source *s;
    snprintf(path, sizeof path, "%s/source.json", images_dir);
    write_config(path, extra, 0.1, 1000);
    assert_ok(kin_train_config_read(path, NULL, c, &err), &err);
    assert_ok(kin_source_open(c, true, NULL, NULL, &s, &err), &err);
    return s;
}

static void parts_are_told_apart(void **state)
{
    kin_train_config c;
    kin_error err = {0};
    (void)state;
    kin_source *s = open_source("", &c);
    assert_int_equal(kin_source_count(s), TRAIN);
    assert_int_equal(kin_source_held_out(s), 4);
    assert_int_equal(kin_source_classes(s), 2); /* no wasp */
    assert_string_equal(kin_source_class_name(s, 1), "bee");
    assert_true(kin_source_flip(s) == 0.5f);
    /* the defaults that are published for image models */
    assert_true(c.optimizer.max_grad_norm == 0.5 && c.optimizer.lr == 0.001);
    assert_true(c.data.frames == 1 && c.data.height == SIDE && c.data.width == SIDE);
    kin_source_close(&s);
    kin_train_config_free(&c);
    kin_images *im;
    char path[512];
    snprintf(path, sizeof path, "%s/set", images_dir);
    /* held out of the training images themselves, of every class */
    assert_ok(kin_images_open(path, "extra", 0, NULL, NULL, &im, &err), &err);
    assert_int_equal(kin_images_count(im, false), 1);
    assert_int_equal(kin_images_count(im, true), 0);
    kin_images_close(&im);
    snprintf(path, sizeof path, "%s/set/train", images_dir);
    assert_ok(kin_images_open(path, "", 4, NULL, NULL, &im, &err), &err);
    assert_int_equal(kin_images_count(im, false), TRAIN - 4);
    int of_class[2] = {0};
    for (int64_t i = 0; i < 4; i++) {
        of_class[kin_images_label(im, true, i)]++;
        for (int64_t j = 0; j < TRAIN - 4; j++)
            assert_string_not_equal(kin_images_name(im, true, i), kin_images_name(im, false, j));
    }
    assert_true(of_class[0] == 2 && of_class[1] == 2);
    kin_images_close(&im);
    assert_int_equal(kin_images_open(path, "", TRAIN, NULL, NULL, &im, &err), KIN_ERR_ARG);
    assert_null(im);
}

/* Half of the samples are mirrored, which ones is a function of seed and sample alone. */
static void samples_are_mirrored(void **state)
{
    enum { ALL = 64, SIZE = 4 };
    kin_train_config c;
    kin_error err = {0};
    int flipped[2][ALL], sum = 0;
    (void)state;
    for (int pass = 0; pass < 2; pass++) {
        kin_source *s = open_source("", &c);
        kin_loader *l;
        const uint64_t first = pass ? ALL / 2 : 0;
        assert_ok(kin_source_reserve(s, &err), &err);
        assert_ok(kin_loader_start(s, 7, SIZE, first, &l, &err), &err);
        for (uint64_t g = first; g < ALL; g++) {
            static const kin_batch *b;
            if (g % SIZE == 0)
                assert_ok(kin_loader_next(l, &b, &err), &err);
            const uint8_t *rgb = b->frames + g % SIZE * SIDE * SIDE * 3;
            flipped[pass][g] = rgb[0] > 100;
            assert_int_equal(rgb[0] > 100, rgb[(SIDE - 1) * 3] < 100);
        }
        kin_loader_stop(&l);
        kin_source_close(&s);
        kin_train_config_free(&c);
    }
    for (int g = 0; g < ALL; g++) {
        sum += flipped[0][g];
        if (g >= ALL / 2)
            assert_int_equal(flipped[0][g], flipped[1][g]);
    }
    assert_true(sum > ALL / 4 && sum < 3 * ALL / 4);
    kin_source *s = open_source("", &c);
    kin_batch held;
    assert_ok(kin_batch_alloc(&(kin_sample_shape){.frames = 1, .height = SIDE, .width = SIDE}, 1,
                              &held, &err),
              &err);
    kin_sample one = kin_batch_sample(&held, 0);
    for (int64_t i = 0; i < kin_source_held_out(s); i++) {
        assert_ok(kin_source_read_held_out(s, i, &one, &err), &err);
        assert_int_equal(one.frames[0], pixel(true, i % 2, 0, 0));
    }
    kin_batch_free(&held);
    kin_source_close(&s);
    kin_train_config_free(&c);
}

static void clips_are_not_mirrored(void **state)
{
    kin_train_config c;
    kin_error err = {0};
    kin_source *s;
    (void)state;
    s = open_source("", &c);
    kin_source_close(&s);
    c.data.flip = 0.5f;
    assert_int_equal(kin_source_open(&c, false, NULL, NULL, &s, &err), KIN_ERR_ARG);
    kin_train_config_free(&c);
}

/* One batch of 16 and two micro-batches of 8 are the same step up to rounding, for a dense model;
 * labels are dropped as the model says, not as texts are. */
static void accumulation_is_one_batch(void **state)
{
    double loss[3], norm[3];
    (void)state;
    for (int k = 0; k < 3; k++) {
        tiny_run t;
        tiny_open(&t, images_dir, k == 0 ? "whole" : k == 1 ? "parts" : "kept", 2);
        write_config(t.config,
                     k == 1 ? "\"steps\":3,\"batch_size\":8,\"gradient_accumulation\":2,"
                            : "\"steps\":3,\"batch_size\":16,",
                     k == 2 ? 0.0 : 0.5, 1000);
        assert_ok(kin_train_run(t.ctx, &t.opt), &t.ctx->error);
        char *log = tiny_log(&t), *last = strstr(log, "{\"step\":3");
        assert_non_null(last);
        assert_int_equal(sscanf(last, "{\"step\":3,\"loss\":%lf", &loss[k]), 1);
        assert_int_equal(sscanf(strstr(last, "grad_norm"), "grad_norm\":%lf", &norm[k]), 1);
        kin_free(log);
        tiny_close(&t);
    }
    print_message("16: %.9g, 2 x 8: %.9g, no label dropped: %.9g\n", loss[0], loss[1], loss[2]);
    assert_true(fabs(loss[0] - loss[1]) < 1e-6 * loss[0]);
    assert_true(fabs(norm[0] - norm[1]) < 1e-4 * norm[0]);
    assert_true(loss[0] != loss[2]);
}

static void classes_have_names(void **state)
{
    tiny_run t;
    kin_pipeline *p;
    (void)state;
    tiny_open(&t, images_dir, "names", 1);
    write_config(t.config, "\"steps\":1,", 0.1, 1000);
    assert_ok(kin_train_run(t.ctx, &t.opt), &t.ctx->error);
    assert_ok(kin_pipeline_load(t.ctx, t.run, &p), &t.ctx->error);
    assert_string_equal(kin_pipeline_class_name(p, 0), "ant");
    assert_string_equal(kin_pipeline_class_name(p, 1), "bee");
    assert_null(kin_pipeline_class_name(p, 2));
    kin_pipeline_destroy(&p);
    tiny_close(&t);
}

static void train_classifier(const char *name, int64_t stop, bool resume)
{
    tiny_run t;
    tiny_open(&t, images_dir, name, 1);
    FILE *fp = fopen(t.config, "w");
    assert_non_null(fp);
    fputs("{\"transformer\":{\"_class_name\":\"KinemaImageClassifier\",\"input_size\":8,"
          "\"widths\":[8,16],\"feature_size\":8,\"num_classes\":2},\"data\":\"set\",\"steps\":60,"
          "\"batch_size\":12,\"log_every\":20,\"optimizer\":{\"lr\":0.003,\"ema_decay\":0.9},"
          "\"validation\":{\"every\":60},\"samples\":{\"every\":20}}",
          fp);
    fclose(fp);
    t.opt.resume = resume;
    t.opt.stop_at = stop;
    const kin_status status = kin_train_run(t.ctx, &t.opt);
    if (stop ? status != KIN_ERR_INTERRUPTED : status != KIN_OK)
        fail_msg("%s: %s", kin_status_name(status), t.ctx->error.text);
    tiny_close(&t);
}

static void a_classifier_learns(void **state)
{
    char a[300], b[300];
    double accuracy = 0, val = 0;
    size_t n;
    (void)state;
    train_classifier("classes", 0, false);
    train_classifier("halves", 33, false);
    train_classifier("halves", 0, true);
    snprintf(a, sizeof a, "%s/classes", images_dir);
    snprintf(b, sizeof b, "%s/halves", images_dir);
    assert_true(tiny_same(a, b, "checkpoint-60/optimizer.safetensors"));
    assert_true(tiny_same(a, b, "checkpoint-60/transformer/diffusion_pytorch_model.safetensors"));
    char *log = tiny_read(a, "log.jsonl", &n);
    assert_int_equal(sscanf(strstr(log, "{\"step\":60"),
                            "{\"step\":60,\"loss\":%*f,\"accuracy\":%lf", &accuracy),
                     1);
    assert_int_equal(sscanf(strstr(log, "val_accuracy"), "val_accuracy\":%lf", &val), 1);
    assert_null(strstr(log, "mse"));
    kin_free(log);
    print_message("right: %g of the training images, %g held out\n", accuracy, val);
    assert_true(accuracy == 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_are_told_apart),   cmocka_unit_test(samples_are_mirrored),
        cmocka_unit_test(clips_are_not_mirrored), cmocka_unit_test(accumulation_is_one_batch),
        cmocka_unit_test(classes_have_names),     cmocka_unit_test(a_classifier_learns),
    };
    return cmocka_run_group_tests(tests, make_set, drop_set);
}

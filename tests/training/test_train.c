/* tests/training/test_train.c: whole runs: exactness of resuming, independence of threads, errors
 * that keep the run. */
#include "tests/training/tiny.h"

#define OPTIMIZER                                                                \
    "\"lr\":0.002,\"ema_decay\":0.9,\"warmup_steps\":4,\"schedule\":\"cosine\"," \
    "\"lr_factors\":{\"condition_embedder.time_embedder.\":0.2}"
#define STEPS10                                                                   \
    "\"steps\":10,\"batch_size\":3,\"log_every\":1,\"validation\":{\"every\":5}," \
    "\"checkpoint\":{\"every\":4,\"keep\":2},"

static char *dir;

static int make_dir(void **state)
{
    (void)state;
    dir = tiny_dir();
    return 0;
}

static int drop_dir(void **state)
{
    (void)state;
    tiny_remove(dir);
    return 0;
}

/* 10 steps at once; 5, stop, resume, 5 more. */
static void ten_is_five_and_five(const char *ffn)
{
    tiny_run a, b;
    tiny_open(&a, dir, "whole", 2);
    tiny_open(&b, dir, "parts", 2);
    tiny_write(a.config, ffn, TINY_SIMULATE, OPTIMIZER, STEPS10);
    tiny_write(b.config, ffn, TINY_SIMULATE, OPTIMIZER, STEPS10);
    assert_ok(kin_train_run(a.ctx, &a.opt), &a.ctx->error);
    b.opt.stop_at = 5;
    assert_int_equal(kin_train_run(b.ctx, &b.opt), KIN_ERR_INTERRUPTED);
    assert_int_equal(b.ctx->error.signal, 2);
    b.opt.stop_at = 0;
    b.opt.resume = true;
    assert_ok(kin_train_run(b.ctx, &b.opt), &b.ctx->error);
    assert_true(tiny_same_checkpoint(&a, &b, 10));
    char *la = tiny_log(&a), *lb = tiny_log(&b);
    assert_string_equal(la, lb);
    assert_non_null(strstr(la, "\"val\":"));
    kin_free(la);
    kin_free(lb);
    tiny_close(&a);
    tiny_close(&b);
}

static void resuming_is_exact_dense(void **state)
{
    (void)state;
    ten_is_five_and_five(TINY_DENSE);
}

static void resuming_is_exact_experts(void **state)
{
    (void)state;
    ten_is_five_and_five(TINY_MOE);
}

static void threads_do_not_change_bytes(void **state)
{
    tiny_run a, b;
    (void)state;
    tiny_open(&a, dir, "one", 1);
    tiny_open(&b, dir, "two", 2);
    tiny_write(a.config, TINY_MOE, TINY_SIMULATE, OPTIMIZER, STEPS10);
    tiny_write(b.config, TINY_MOE, TINY_SIMULATE, OPTIMIZER, STEPS10);
    a.opt.steps = b.opt.steps = 4;
    assert_ok(kin_train_run(a.ctx, &a.opt), &a.ctx->error);
    assert_ok(kin_train_run(b.ctx, &b.opt), &b.ctx->error);
    assert_true(tiny_same_checkpoint(&a, &b, 4));
    /* the comparison can fail: another seed gives other bytes */
    tiny_close(&b);
    tiny_open(&b, dir, "seed", 2);
    tiny_write(b.config, TINY_MOE, TINY_SIMULATE, OPTIMIZER, STEPS10 "\"log_every\":2,");
    FILE *fp = fopen(b.config, "r+");
    char text[8192];
    size_t n = fread(text, 1, sizeof text - 1, fp);
    text[n] = '\0';
    char *seed = strstr(text, "\"seed\":3,"), *twice = strstr(text, "\"log_every\":2,");
    assert_non_null(seed);
    assert_non_null(twice);
    seed[7] = '4';
    memset(twice, ' ', strlen("\"log_every\":2,"));
    rewind(fp);
    fwrite(text, 1, n, fp);
    fclose(fp);
    b.opt.steps = 4;
    assert_ok(kin_train_run(b.ctx, &b.opt), &b.ctx->error);
    assert_false(tiny_same_checkpoint(&a, &b, 4));
    tiny_close(&a);
    tiny_close(&b);
}

static void one_batch_is_learnt_by_heart(void **state)
{
    tiny_run t;
    (void)state;
    tiny_open(&t, dir, "overfit", 2);
    tiny_write(t.config, TINY_DENSE, "\"simulate\":{\"seed\":5,\"count\":2}",
               "\"lr\":0.01,\"betas\":[0.9,0.99]",
               "\"steps\":240,\"batch_size\":2,\"log_every\":1,\"checkpoint\":{\"every\":0},");
    assert_ok(kin_train_run(t.ctx, &t.opt), &t.ctx->error);
    /* the loss varies with the drawn noise level, so the last 20 are judged together */
    char *log = tiny_log(&t);
    double early = 0, late = 0, loss;
    int n = 0;
    for (char *at = log; (at = strstr(at, "\"mse\":")); at += 6, n++) {
        assert_int_equal(sscanf(at, "\"mse\":%lf", &loss), 1);
        early += n < 20 ? loss : 0;
        late += n >= 220 ? loss : 0;
    }
    assert_int_equal(n, 240);
    if (!(late < 0.25 * early))
        fail_msg("mean loss %g of the last 20 steps, %g of the first", late / 20, early / 20);
    kin_free(log);
    tiny_close(&t);
}

/* Two micro-batches of 3 are one batch of 6: the same samples, the mean of the means. */
static void accumulation_is_a_larger_batch(void **state)
{
    tiny_run a, b;
    (void)state;
    tiny_open(&a, dir, "large", 2);
    tiny_open(&b, dir, "accumulated", 2);
    tiny_write(a.config, TINY_DENSE, TINY_SIMULATE, "\"lr\":0.001",
               "\"steps\":1,\"batch_size\":6,\"log_every\":1,");
    tiny_write(b.config, TINY_DENSE, TINY_SIMULATE, "\"lr\":0.001",
               "\"steps\":1,\"batch_size\":3,\"gradient_accumulation\":2,\"log_every\":1,");
    assert_ok(kin_train_run(a.ctx, &a.opt), &a.ctx->error);
    assert_ok(kin_train_run(b.ctx, &b.opt), &b.ctx->error);
    char *la = tiny_log(&a), *lb = tiny_log(&b);
    double va, vb;
    const char *const keys[] = {"\"mse\":%lf", "\"grad_norm\":%lf"};
    for (int i = 0; i < 2; i++) {
        char key[16] = "";
        memcpy(key, keys[i], strcspn(keys[i], "%"));
        const char *at_a = strstr(la, key), *at_b = strstr(lb, key);
        assert_true(at_a && sscanf(at_a, keys[i], &va) == 1);
        assert_true(at_b && sscanf(at_b, keys[i], &vb) == 1);
        if (!(fabs(va - vb) <= 2e-3 * va))
            fail_msg("%s %g in one batch, %g accumulated", key, va, vb);
    }
    kin_free(la);
    kin_free(lb);
    tiny_close(&a);
    tiny_close(&b);
}

static void nan_names_the_step_and_keeps_the_checkpoint(void **state)
{
    tiny_run t;
    char latest[KIN_PATH_MAX];
    kin_error err;
    (void)state;
    tiny_open(&t, dir, "nan", 2);
    /* decay factor 1 - lr*wd = -99 per step: overflow within some twenty steps */
    tiny_write(t.config, TINY_DENSE, TINY_SIMULATE,
               "\"lr\":10,\"weight_decay\":10,\"max_grad_norm\":0",
               "\"steps\":100,\"batch_size\":2,\"log_every\":1,\"checkpoint\":{\"every\":1},");
    assert_int_equal(kin_train_run(t.ctx, &t.opt), KIN_ERR_NUMERIC);
    assert_non_null(strstr(t.ctx->error.text, "step "));
    assert_ok(kin_checkpoint_latest(t.run, latest, &err), &err);
    int64_t at = strtoll(strstr(t.ctx->error.text, "step ") + 5, NULL, 10);
    int64_t saved = strtoll(strrchr(latest, '-') + 1, NULL, 10);
    assert_int_equal(saved, at - 1);
    kin_pipeline *p;
    assert_ok(kin_pipeline_load(t.ctx, t.run, &p), &t.ctx->error);
    kin_pipeline_destroy(&p);
    tiny_close(&t);
}

static void another_configuration_is_refused(void **state)
{
    tiny_run t;
    (void)state;
    tiny_open(&t, dir, "refuse", 2);
    tiny_write(t.config, TINY_DENSE, TINY_SIMULATE, "\"lr\":0.001",
               "\"steps\":2,\"batch_size\":2,");
    assert_ok(kin_train_run(t.ctx, &t.opt), &t.ctx->error);
    /* a run is never overwritten by accident */
    assert_int_equal(kin_train_run(t.ctx, &t.opt), KIN_ERR_ARG);
    assert_non_null(strstr(t.ctx->error.text, "resume"));
    t.opt.resume = true;
    tiny_write(t.config, TINY_DENSE, TINY_SIMULATE, "\"lr\":0.002",
               "\"steps\":4,\"batch_size\":2,");
    assert_int_equal(kin_train_run(t.ctx, &t.opt), KIN_ERR_ARG);
    assert_non_null(strstr(t.ctx->error.text, "optimizer.lr"));
    tiny_write(t.config, TINY_DENSE, "\"simulate\":{\"seed\":6,\"count\":12}", "\"lr\":0.001",
               "\"steps\":4,\"batch_size\":2,");
    assert_int_equal(kin_train_run(t.ctx, &t.opt), KIN_ERR_ARG);
    assert_non_null(strstr(t.ctx->error.text, "data.simulate"));
    /* more steps are what resuming is for; the saved configuration serves where none is given */
    t.opt.config = NULL;
    t.opt.steps = 3;
    assert_ok(kin_train_run(t.ctx, &t.opt), &t.ctx->error);
    char latest[KIN_PATH_MAX];
    kin_error err;
    assert_ok(kin_checkpoint_latest(t.run, latest, &err), &err);
    assert_non_null(strstr(latest, "checkpoint-3"));
    tiny_close(&t);
}

typedef struct counter {
    tiny_run run;
    uint64_t at[64];
} counter;

static void count_report(void *user, const kin_train_report *r)
{
    counter *c = user;
    c->at[r->step] = kin_alloc_count();
}

/* Clips are cached after the first epoch (4 steps); the loader is at most three batches ahead. */
static void steps_do_not_allocate(void **state)
{
    counter c;
    (void)state;
    tiny_open(&c.run, dir, "alloc", 2);
    c.run.opt.report = count_report;
    c.run.opt.user = &c;
    tiny_write(c.run.config, TINY_MOE, TINY_SIMULATE, "\"lr\":0.001",
               "\"steps\":40,\"batch_size\":3,\"log_every\":1,\"checkpoint\":{\"every\":0},");
    assert_ok(kin_train_run(c.run.ctx, &c.run.opt), &c.run.ctx->error);
    for (int i = 10; i <= 40; i++)
        if (c.at[i] != c.at[9])
            fail_msg("step %d: %d allocations since step 9", i, (int)(c.at[i] - c.at[9]));
    assert_true(c.at[9] > c.at[1]);
    tiny_close(&c.run);
}

static void samples_and_config_are_written(void **state)
{
    tiny_run t;
    char path[320];
    (void)state;
    tiny_open(&t, dir, "samples", 2);
    tiny_write(t.config, TINY_MOE, TINY_SIMULATE, "\"lr\":0.001",
               "\"steps\":2,\"batch_size\":2,\"samples\":{\"every\":2,\"count\":2,\"steps\":2},");
    assert_ok(kin_train_run(t.ctx, &t.opt), &t.ctx->error);
    snprintf(path, sizeof path, "%s/samples/000002.png", t.run);
    assert_true(kin_path_exists(path));
    snprintf(path, sizeof path, "%s/config.json", t.run);
    cJSON *json;
    kin_error err;
    assert_ok(kin_json_read(path, 1 << 20, KIN_JSON_STRICT, &json, &err), &err);
    /* defaults are in it */
    const cJSON *o = cJSON_GetObjectItem(json, "optimizer");
    assert_non_null(cJSON_GetObjectItem(o, "ema_decay"));
    cJSON_Delete(json);
    tiny_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(resuming_is_exact_dense, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(resuming_is_exact_experts, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(threads_do_not_change_bytes, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(one_batch_is_learnt_by_heart, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(accumulation_is_a_larger_batch, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(nan_names_the_step_and_keeps_the_checkpoint, make_dir,
                                        drop_dir),
        cmocka_unit_test_setup_teardown(another_configuration_is_refused, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(steps_do_not_allocate, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(samples_and_config_are_written, make_dir, drop_dir),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

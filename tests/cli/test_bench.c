/* `kinema bench` on tiny sizes: reports that parse and add up, and the work counted by hand. */
#include "tests/support/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "cli/bench.h"
#include "cli/bench_step.h"
#include "tests/support/folder.h"
#include "tests/training/tiny.h"

enum { MAX_WORDS = 24 };
static char config[KIN_PATH_MAX], report[KIN_PATH_MAX];

/* Image model: 4 tokens, 2 blocks, the second with 3 experts. */
static const char small_moe[] =
    "{\"_class_name\":\"DiTTransformer2DModel\",\"model\":\"promoe_tc\",\"input_size\":4,"
    "\"patch_size\":2,\"in_channels\":4,\"hidden_size\":32,\"depth\":2,\"num_heads\":2,"
    "\"num_classes\":10,\"MoE_config\":{\"num_routed_experts\":3,\"top_k\":1,"
    "\"router_weight_mode\":\"identity\",\"moe_intermediate_size\":24,"
    "\"shared_expert_intermediate_size\":16}}";

static int make_dir(void **state)
{
    if (kin_test_folder_make(state))
        return -1;
    snprintf(config, sizeof config, "%s", kin_test_path("config.json"));
    snprintf(report, sizeof report, "%s", kin_test_path("report.json"));
    FILE *f = fopen(config, "w");
    if (!f)
        return -1;
    fputs(small_moe, f);
    return fclose(f);
}

/* Runs "kinema bench" with the words up to NULL and -o; returns the report (cJSON_Delete). */
static cJSON *bench(char *first, ...)
{
    char *argv[MAX_WORDS] = {"kinema", "bench", first, "--cpu-time", "-o", report};
    int argc = 6;
    kin_args args = {0};
    kin_error err = {0};
    cJSON *out = NULL;
    va_list list;
    va_start(list, first);
    for (char *w; (w = va_arg(list, char *)) != NULL;)
        argv[argc++] = w;
    va_end(list);
    assert_ok(kin_args_parse(argc, argv, &args, &err), &err);
    assert_ok(kin_cmd_bench(&args, &err), &err);
    kin_args_free(&args);
    assert_ok(kin_json_read(report, 1 << 20, KIN_JSON_STRICT, &out, &err), &err);
    return out;
}

static double number(const cJSON *o, const char *key)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, key);
    if (!cJSON_IsNumber(v))
        fail_msg("'%s' is no number", key);
    return v->valuedouble;
}

static const cJSON *member(const cJSON *o, const char *key)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, key);
    if (!v)
        fail_msg("'%s' is missing", key);
    return v;
}

static void check_head(const cJSON *o, const char *verb)
{
    assert_string_equal(member(o, "kinema")->valuestring, KIN_VERSION);
    assert_string_equal(member(o, "verb")->valuestring, verb);
    assert_true(number(member(o, "machine"), "clock_ghz") > 0.2);
    assert_true(number(member(o, "machine"), "threads") == 1);
    const cJSON *peaks = member(o, "peaks");
    assert_true(number(peaks, "f32") > 1);
    assert_true(number(member(peaks, "one"), "f32") == number(peaks, "f32"));
    static const char *const maybe[] = {"bf16", "int8", "amx_bf16", "amx_int8"};
    for (int i = 0; i < 4; i++)
        assert_true(cJSON_IsNull(member(peaks, maybe[i])) || number(peaks, maybe[i]) > 1);
    assert_true(number(peaks, "triad_dram") > 0.1 && number(peaks, "triad_l2") > 0.1);
}

/* The loop of the peak is at least as fast as any kernel. */
static void check_share(const cJSON *row, double most)
{
#ifndef KIN_SANITIZED
    if (number(row, "share") > most)
        fail_msg("%s %s runs at %.2f of the peak", member(row, "op")->valuestring,
                 member(row, "shape")->valuestring, number(row, "share"));
#else
    (void)most;
#endif
    assert_true(number(row, "share") > 0);
}

static void test_ops(void **state)
{
    static const char *const ops[] = {"linear", "linear_gelu", "linear_dx", "linear_dw"};
    cJSON *o = bench("ops", "--filter", "16x256x1536", "--dtype", "f32", "--rounds", "3", NULL);
    (void)state;
    check_head(o, "ops");
    const cJSON *rows = member(o, "rows");
    assert_int_equal(cJSON_GetArraySize(rows), 4);
    for (int i = 0; i < 4; i++) {
        const cJSON *row = cJSON_GetArrayItem(rows, i);
        assert_string_equal(member(row, "op")->valuestring, ops[i]);
        assert_string_equal(member(row, "dtype")->valuestring, "f32");
        assert_string_equal(member(row, "shape")->valuestring, "16x256x1536");
        assert_string_equal(member(row, "against")->valuestring, "f32");
        assert_true(fabs(number(row, "gflop") - 2e-9 * 16 * 256 * 1536) < 1e-12);
        assert_true(number(row, "seconds") > 0);
        assert_true(number(row, "median") >= number(row, "seconds"));
        check_share(row, 1.15);
    }
    cJSON_Delete(o);
}

static void test_ops_memory(void **state)
{
    cJSON *o = bench("ops", "--filter", "layernorm 2048x384", "--rounds", "3", NULL);
    (void)state;
    const cJSON *rows = member(o, "rows"), *row = cJSON_GetArrayItem(rows, 0);
    assert_int_equal(cJSON_GetArraySize(rows), 1);
    /* in, out, and one scale and shift for each of 8 samples */
    assert_true(fabs(number(row, "mbytes") - 4e-6 * 384 * (2 * 2048 + 2 * 8)) < 1e-9);
    assert_true(strncmp(member(row, "against")->valuestring, "triad_", 6) == 0);
    assert_true(number(row, "gbs") > 0 && number(row, "share") > 0);
    cJSON_Delete(o);
}

/* Operations of the small model for `batch` samples: 2 per multiply-add. */
static double by_hand(double batch)
{
    const double t = 4 * batch, d = 32;
    double n = 2 * t * 16 * d;                    /* patches */
    n += 2 * batch * (256 * d + d * d);           /* time */
    n += 2 * (2 * batch * d * 6 * d);             /* modulation of both blocks */
    n += 2 * (2 * t * d * 3 * d + 2 * t * d * d); /* q, k, v and projection */
    n += 2 * (4 * batch * 4 * 4 * d);             /* attention */
    n += 2 * t * d * (4 * d) * 2;                 /* dense block */
    n += 2 * t * d * 24 * 2 + 2 * t * d * 16 * 2; /* one expert of three, and the shared one */
    n += 2 * batch * d * 2 * d + 2 * t * d * 32;  /* head: 2 x 2 patches of 8 channels */
    return n;
}

static void test_plan(void **state)
{
    kin_error err = {0};
    kin_cost cost;
    size_t workspace = 0;
    cJSON *json = NULL;
    (void)state;
    assert_ok(kin_bench_config_read(config, &json, &err), &err);
    const kin_bench_size size = {.batch = 3};
    assert_ok(kin_bench_plan(json, &size, KIN_DTYPE_F32, &cost, &workspace, &err), &err);
    assert_true(cost.flops == by_hand(3));
    assert_true(cost.bytes > 0 && workspace > 0);
    cJSON_Delete(json);
}

/* Shares of all ops, the rest included. */
static double check_ops(const cJSON *o, double *gflop)
{
    const cJSON *op;
    double share = 0, last = INFINITY;
    *gflop = 0;
    cJSON_ArrayForEach(op, member(o, "ops"))
    {
        const double s = number(op, "seconds");
        const bool other = strcmp(member(op, "op")->valuestring, "other") == 0;
        assert_true(s >= 0 && (other || number(op, "calls") > 0));
        assert_true(other || s <= last);
        last = s;
        share += number(op, "share");
        *gflop += number(op, "gflop");
    }
    return share;
}

static void test_model(void **state)
{
    double gflop;
    cJSON *o = bench("model", "-c", config, "-b", "2", "--rounds", "4", NULL);
    (void)state;
    check_head(o, "model");
    assert_string_equal(member(o, "family")->valuestring, "dit");
    assert_true(number(o, "batch") == 2 && number(o, "tokens") == 4);
    assert_true(fabs(number(o, "gflop") * 1e9 - by_hand(2)) < 1);
    const cJSON *s = member(o, "seconds");
    assert_int_equal(cJSON_GetArraySize(member(s, "all")), 4);
    assert_true(number(s, "best") > 0 && number(s, "best") <= number(s, "median"));
    assert_true(fabs(check_ops(o, &gflop) - 1) < 1e-6);
    assert_true(fabs(gflop * 1e9 - by_hand(2)) < 1); /* every token has its expert */
    const cJSON *m = member(o, "memory");
    assert_true(number(m, "weights") >= 4 * number(o, "params"));
    assert_true(number(m, "workspace_planned") > 0 && number(m, "workspace_used") > 0);
    assert_true(number(m, "peak_rss") > number(m, "weights"));
    cJSON_Delete(o);
}

/* Phases of a step: each is there, and together they are not more than the step. */
static void check_training(const cJSON *o, const char *family)
{
    double gflop;
    const double best = number(member(o, "seconds"), "best");
    const cJSON *p = member(o, "phases");
    assert_string_equal(member(o, "verb")->valuestring, "train");
    assert_string_equal(member(o, "family")->valuestring, family);
    assert_true(number(p, "forward") > 0 && number(p, "backward") > 0);
    assert_true(number(p, "optimizer") > 0 && number(p, "data") >= 0);
    assert_true(number(p, "forward") + number(p, "backward") + number(p, "optimizer") +
                    number(p, "data") <=
                best * 1.000001);
    assert_true(fabs(number(o, "it_per_s") * best - 1) < 1e-9);
    assert_true(fabs(check_ops(o, &gflop) - 1) < 1e-6);
    assert_true(number(member(o, "memory"), "gradients") > 0);
    /* weights, two moments and an average */
    assert_true(number(member(o, "memory"), "optimizer") >= 12 * number(o, "params") - 1e4);
}

static void test_train_model(void **state)
{
    double gflop;
    cJSON *o = bench("train", "-c", config, "-b", "2", "--steps", "2", NULL);
    (void)state;
    check_training(o, "dit");
    assert_int_equal(cJSON_GetArraySize(member(member(o, "seconds"), "all")), 2);
    check_ops(o, &gflop);
    /* all tokens are routed, so ops and plan agree; nothing is gained by differentiating inputs:
     * less than three forwards, but for attention's five products against two */
    assert_true(fabs(number(o, "gflop") - gflop) < 1e-9);
    const double forward = by_hand(2), pairs = 2 * (4 * 2 * 4 * 4 * 32);
    assert_true(gflop * 1e9 > 2.5 * forward && gflop * 1e9 < 3 * forward + 0.5 * pairs);
    assert_true(fabs(number(o, "samples_per_s") / number(o, "it_per_s") - 2) < 1e-9);
    cJSON_Delete(o);
}

static void test_train_config(void **state)
{
    char path[KIN_PATH_MAX];
    (void)state;
    snprintf(path, sizeof path, "%s/train.json", kin_test_folder());
    tiny_write(path, TINY_MOE, TINY_SIMULATE, "\"lr\":0.001", "\"batch_size\":2,");
    cJSON *o = bench("train", "-c", path, "--steps", "2", NULL);
    check_training(o, "kinema");
    assert_true(number(o, "batch") == 2 && number(o, "tokens") == 8);
    cJSON_Delete(o);
    /* the transformer of a training configuration as a model */
    o = bench("model", "-c", path, "--rounds", "1", NULL);
    assert_string_equal(member(o, "family")->valuestring, "kinema");
    cJSON_Delete(o);
}

static void test_scaling(void **state)
{
    static const double experts[] = {4, 8, 16, 32, 64};
    cJSON *o = bench("scaling", "-c", config, "--series", "experts", "--rounds", "1", NULL);
    (void)state;
    assert_string_equal(member(o, "verb")->valuestring, "scaling");
    const cJSON *rows = member(o, "rows");
    assert_int_equal(cJSON_GetArraySize(rows), 5);
    for (int i = 0; i < 5; i++) {
        const cJSON *row = cJSON_GetArrayItem(rows, i);
        assert_string_equal(member(row, "series")->valuestring, "experts");
        assert_true(number(row, "x") == experts[i] && number(row, "seconds") > 0);
        /* the work of a token does not change with the number of experts, the weights do */
        assert_true(fabs(number(row, "gflop") * 1e9 - by_hand(1)) < 1);
        if (i > 0)
            assert_true(number(row, "weights") >
                        number(cJSON_GetArrayItem(rows, i - 1), "weights"));
    }
    cJSON_Delete(o);
}

/* Every slot of the kernel table has a row: its name stands quoted in a file of rows. */
static void test_rows_of_all_slots(void **state)
{
    static const char *const files[] = {"linear",      "attention", "norm",
                                        "elementwise", "routing",   "conv"};
    enum { FILES = sizeof files / sizeof *files };
    static kin_profile p;
    const kin_ctx_options opt = {.backend = KIN_BACKEND_REF, .threads = 1};
    kin_ctx *ctx = NULL;
    kin_error err = {0};
    char *text[FILES], path[512], quoted[80];
    size_t bytes;
    (void)state;
    for (int i = 0; i < FILES; i++) {
        snprintf(path, sizeof path, "%s/cli/bench_rows_%s.c", KIN_SOURCE_DIR, files[i]);
        assert_ok(kin_file_read(path, 1 << 20, &text[i], &bytes, &err), &err);
    }
    assert_ok(kin_ctx_create(&opt, &ctx, &err), &err);
    kin_profile_on(ctx, &p, CLOCK_MONOTONIC);
    for (int i = 0; i < KIN_PROFILE_OPS; i++) {
        bool found = false;
        snprintf(quoted, sizeof quoted, "\"%s\"", p.op[i].name);
        for (int f = 0; f < FILES; f++)
            found = found || strstr(text[f], quoted);
        if (!found)
            fail_msg("bench ops has no row of the kernel %s", p.op[i].name);
    }
    kin_profile_off(ctx, &p);
    kin_ctx_destroy(&ctx);
    for (int i = 0; i < FILES; i++)
        kin_free(text[i]);
}

/* A training step of a model that is named, as scripts/gpu-check asks for it. */
static void test_train_preset(void **state)
{
    kin_error err = {0};
    bool training = true;
    (void)state;
    assert_int_equal(kin_bench_is_training("promoe-xl", &training, &err), KIN_OK);
    assert_false(training);
    assert_int_equal(kin_bench_is_training("promoe-none", &training, &err), KIN_ERR_FORMAT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ops),          cmocka_unit_test(test_rows_of_all_slots),
        cmocka_unit_test(test_ops_memory),   cmocka_unit_test(test_plan),
        cmocka_unit_test(test_model),        cmocka_unit_test(test_train_model),
        cmocka_unit_test(test_train_config), cmocka_unit_test(test_train_preset),
        cmocka_unit_test(test_scaling),
    };
    return cmocka_run_group_tests(tests, make_dir, kin_test_folder_remove);
}

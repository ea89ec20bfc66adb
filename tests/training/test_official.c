/* tests/training/test_official.c: official checkpoints: training goes on from one as from our own
 * of the same state, bit for bit; model directories from it and back. */
#include "tests/training/tiny.h"

#include <signal.h>
#include <sys/resource.h>

#include "io/png.h"
#include "io/safetensors.h"
#include "training/config.h"
#include "training/official.h"

enum { SIDE = 8 };

static char *dir;

static void put_image(const char *class_name, int64_t i)
{
    char folder[512], path[600];
    kin_error err = {0};
    uint8_t rgb[SIDE * SIDE * 3];
    kin_tensor t = KIN_TENSOR(rgb, KIN_DTYPE_U8, SIDE, SIDE, 3);
    for (int64_t p = 0; p < SIDE * SIDE * 3; p++)
        rgb[p] = (uint8_t)(p * 7 + i * 31 + class_name[0]);
    snprintf(folder, sizeof folder, "%s/set/%s", dir, class_name);
    snprintf(path, sizeof path, "%s/%lld.png", folder, (long long)i);
    assert_ok(kin_path_make_dirs(folder, &err), &err);
    assert_ok(kin_png_write(path, &t, NULL, &err), &err);
}

static int make_set(void **state)
{
    (void)state;
    dir = tiny_dir();
    for (int64_t i = 0; i < 6; i++) {
        put_image("ant", i);
        put_image("bee", i);
    }
    return 0;
}

static int drop_set(void **state)
{
    (void)state;
    tiny_remove(dir);
    return 0;
}

static void write_config(const char *path)
{
    FILE *fp = fopen(path, "w");
    assert_non_null(fp);
    fprintf(
        fp,
        "{\"transformer\":{\"input_size\":%d,\"patch_size\":4,\"in_channels\":3,"
        "\"hidden_size\":16,\"depth\":2,\"num_heads\":2,\"num_classes\":2,"
        "\"model\":\"promoe_tc\",\"learn_sigma\":false,\"MoE_config\":{\"num_routed_experts\":3,"
        "\"top_k\":1,\"router_weight_mode\":\"identity\",\"moe_intermediate_size\":12,"
        "\"shared_expert_intermediate_size\":8,\"routing_contrastive_lam\":1,"
        "\"routing_contrastive_temperature\":0.07}},"
        "\"data\":{\"path\":\"set\",\"held_out\":2},\"log_every\":1,\"batch_size\":4,"
        "\"steps\":6,\"optimizer\":{\"lr\":0.002,\"ema_decay\":0.9},"
        "\"checkpoint\":{\"every\":3}}",
        SIDE);
    fclose(fp);
}

static const char *in_dir(const char *name)
{
    static char path[4][512];
    static int next;
    next = (next + 1) % 4;
    snprintf(path[next], sizeof path[next], "%s/%s", dir, name);
    return path[next];
}

/* The run of the first test, made once; its steps 3 and 6 are kept. */
static void whole_run(tiny_run *t)
{
    tiny_open(t, dir, "whole", 2);
    write_config(t->config);
    if (!kin_path_exists(in_dir("whole/latest")))
        assert_ok(kin_train_run(t->ctx, &t->opt), &t->ctx->error);
}

static void training_goes_on(void **state)
{
    tiny_run a, b;
    kin_error err = {0};
    kin_train_config c;
    kin_strbuf notes = {0};
    int64_t step = 0;
    (void)state;
    whole_run(&a);
    assert_ok(kin_official_from(in_dir("whole/checkpoint-3"), in_dir("ckpt_step_2.pth"),
                                KIN_DTYPE_F32, &err),
              &err);
    tiny_open(&b, dir, "other", 1);
    write_config(b.config);
    assert_ok(kin_train_config_read(b.config, NULL, &c, &err), &err);
    assert_ok(
        kin_official_to_run(in_dir("ckpt_step_2.pth"), b.run, c.transformer, &notes, &step, &err),
        &err);
    assert_int_equal(step, 3);
    static const char *const files[] = {"transformer/diffusion_pytorch_model.safetensors",
                                        "ema/transformer/diffusion_pytorch_model.safetensors",
                                        "optimizer.safetensors"};
    for (int i = 0; i < 3; i++)
        assert_true(
            tiny_same(in_dir("whole/checkpoint-3"), in_dir("other/checkpoint-3"), files[i]));
    b.opt.resume = true;
    assert_ok(kin_train_run(b.ctx, &b.opt), &b.ctx->error);
    for (int i = 0; i < 3; i++)
        assert_true(
            tiny_same(in_dir("whole/checkpoint-6"), in_dir("other/checkpoint-6"), files[i]));
    /* what was compared did change */
    assert_false(tiny_same(in_dir("whole/checkpoint-3"), in_dir("other/checkpoint-6"), files[2]));
    assert_int_equal(
        kin_official_to_run(in_dir("ckpt_step_2.pth"), b.run, c.transformer, &notes, NULL, &err),
        KIN_ERR_ARG);
    kin_strbuf_free(&notes);
    kin_train_config_free(&c);
    tiny_close(&a);
    tiny_close(&b);
}

/* Bytes of all tensors of one part of a directory, by name. */
static void same_weights(const char *a, const char *b)
{
    kin_safetensors *x, *y;
    kin_error err = {0};
    assert_ok(kin_safetensors_open_dir(a, "diffusion_pytorch_model.safetensors", &x, &err), &err);
    assert_ok(kin_safetensors_open_dir(b, "diffusion_pytorch_model.safetensors", &y, &err), &err);
    assert_int_equal(kin_safetensors_count(x), kin_safetensors_count(y));
    for (int64_t i = 0; i < kin_safetensors_count(x); i++) {
        const kin_safetensors_entry *e = kin_safetensors_at(x, i);
        const int64_t k = kin_safetensors_find(y, e->name);
        assert_true(k >= 0);
        assert_int_equal(kin_safetensors_at(y, k)->bytes, e->bytes);
        assert_memory_equal(kin_safetensors_at(y, k)->data, e->data, e->bytes);
    }
    kin_safetensors_close(&x);
    kin_safetensors_close(&y);
}

/* EMA or model, any type, one file or shards: the weights are those of the run. */
static void model_directories(void **state)
{
    tiny_run a;
    kin_error err = {0};
    kin_strbuf notes = {0};
    cJSON *given = cJSON_Parse("{\"num_heads\":2}");
    kin_official_options opt = {.given = given, .part = KIN_IMPORT_EMA, .dtype = KIN_DTYPE_F32};
    (void)state;
    whole_run(&a);
    char pth[512];
    snprintf(pth, sizeof pth, "%s", in_dir("run.pth"));
    assert_ok(kin_official_from(a.run, pth, KIN_DTYPE_F32, &err), &err);
    assert_int_equal(
        kin_official_to_model(pth, in_dir("none"), &(kin_official_options){0}, &notes, &err),
        KIN_ERR_FORMAT);
    assert_non_null(strstr(err.text, "number of heads"));
    assert_false(kin_path_exists(in_dir("none")));
    opt.max_shard = 4000;
    assert_ok(kin_official_to_model(pth, in_dir("ema"), &opt, &notes, &err), &err);
    assert_true(
        kin_path_exists(in_dir("ema/transformer/diffusion_pytorch_model.safetensors.index.json")));
    same_weights(in_dir("ema/transformer"), in_dir("whole/checkpoint-6/ema/transformer"));
    opt.part = KIN_IMPORT_MODEL;
    assert_ok(kin_official_to_model(pth, in_dir("model"), &opt, &notes, &err), &err);
    same_weights(in_dir("model/transformer"), in_dir("whole/checkpoint-6/transformer"));
    /* a model directory as .pth holds its weights once, and comes back as it was */
    assert_ok(kin_official_from(in_dir("model"), in_dir("once.pth"), KIN_DTYPE_F32, &err), &err);
    opt = (kin_official_options){.given = given, .part = KIN_IMPORT_EMA, .dtype = KIN_DTYPE_F16};
    assert_ok(kin_official_to_model(in_dir("once.pth"), in_dir("half"), &opt, &notes, &err), &err);
    kin_ctx *ctx;
    kin_pipeline *p;
    assert_ok(kin_ctx_create(&(kin_ctx_options){.backend = KIN_BACKEND_CPU}, &ctx, &err), &err);
    assert_ok(kin_pipeline_load(ctx, in_dir("half"), &p), &ctx->error);
    const kin_param *w = kin_params_find(p->params, "blocks.1.mlp.cluster_centers");
    const kin_param *q = kin_params_find(p->params, "blocks.0.attn.qkv.weight");
    assert_true(w && w->value.dtype == KIN_DTYPE_F32);
    assert_true(q && q->value.dtype == KIN_DTYPE_F16);
    kin_pipeline_destroy(&p);
    kin_ctx_destroy(&ctx);
    cJSON_Delete(given);
    kin_strbuf_free(&notes);
    tiny_close(&a);
}

/* The file size limit stands for a full disk: a clear error, nothing under the final name. */
static void a_full_disk_leaves_nothing(void **state)
{
    tiny_run a;
    kin_error err = {0};
    kin_strbuf notes = {0};
    struct rlimit old, small;
    cJSON *given = cJSON_Parse("{\"num_heads\":2}");
    const kin_official_options opt = {.given = given, .dtype = KIN_DTYPE_F32};
    (void)state;
    whole_run(&a);
    char pth[512];
    snprintf(pth, sizeof pth, "%s", in_dir("full.pth"));
    assert_ok(kin_official_from(a.run, pth, KIN_DTYPE_F32, &err), &err);
    getrlimit(RLIMIT_FSIZE, &old);
    small = old;
    small.rlim_cur = 8192;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    const kin_status model = kin_official_to_model(pth, in_dir("full"), &opt, &notes, &err);
    const kin_status run = kin_official_to_run(pth, in_dir("fullrun"), given, &notes, NULL, &err);
    const kin_status back = kin_official_from(a.run, in_dir("full2.pth"), KIN_DTYPE_F32, &err);
    setrlimit(RLIMIT_FSIZE, &old);
    assert_int_equal(model, KIN_ERR_IO);
    assert_int_equal(run, KIN_ERR_IO);
    assert_int_equal(back, KIN_ERR_IO);
    assert_non_null(strstr(err.text, "full2.pth"));
    assert_false(kin_path_exists(in_dir("full")));
    assert_false(kin_path_exists(in_dir("full.tmp")));
    assert_false(kin_path_exists(in_dir("fullrun/latest")));
    assert_false(kin_path_exists(in_dir("full2.pth")));
    cJSON_Delete(given);
    kin_strbuf_free(&notes);
    tiny_close(&a);
}

/* A file of the official trainer comes back from a run of ours as it was: names, order, values. */
static void the_golden_file_comes_back(void **state)
{
    const char *golden = getenv("KINEMA_GOLDEN");
    kin_error err = {0};
    kin_strbuf notes = {0};
    kin_import x, y;
    cJSON *given = cJSON_Parse("{\"num_heads\":2}");
    char path[KIN_PATH_MAX];
    (void)state;
    if (!golden || !*golden)
        skip();
    assert_ok(kin_path_join(path, golden, "image/ckpt_step_4.pth", &err), &err);
    assert_ok(kin_official_to_run(path, in_dir("golden"), given, &notes, NULL, &err), &err);
    assert_ok(kin_official_from(in_dir("golden"), in_dir("golden.pth"), KIN_DTYPE_F32, &err), &err);
    assert_ok(kin_import_open(path, &x, &err), &err);
    assert_ok(kin_import_open(in_dir("golden.pth"), &y, &err), &err);
    assert_int_equal(x.step, y.step);
    assert_int_equal(x.updates, y.updates);
    assert_int_equal(x.params, y.params);
    int64_t moments = 0;
    for (int64_t i = 0; i < kin_pth_count(x.pth); i++) {
        const kin_pth_entry *e = kin_pth_at(x.pth, i);
        kin_tensor s, t;
        const int64_t k = kin_pth_find(y.pth, e->name);
        if (strlen(e->name) > 5 && strcmp(e->name + strlen(e->name) - 5, ".step") == 0)
            continue;
        moments += strstr(e->name, "exp_avg") != NULL;
        assert_true(k >= 0);
        assert_ok(kin_pth_tensor(x.pth, i, &s, &err), &err);
        assert_ok(kin_pth_tensor(y.pth, k, &t, &err), &err);
        assert_memory_equal(s.data, t.data, (size_t)kin_tensor_numel(&s) * sizeof(float));
        if (i < x.params) /* the order by which the optimizer counts */
            assert_string_equal(kin_pth_at(x.pth, x.param[i])->name,
                                kin_pth_at(y.pth, y.param[i])->name);
    }
    assert_int_equal(moments, 2 * (x.params - 1));
    kin_import_close(&x);
    kin_import_close(&y);
    cJSON_Delete(given);
    kin_strbuf_free(&notes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(training_goes_on),
        cmocka_unit_test(model_directories),
        cmocka_unit_test(a_full_disk_leaves_nothing),
        cmocka_unit_test(the_golden_file_comes_back),
    };
    return cmocka_run_group_tests(tests, make_set, drop_set);
}

/* Autoencoders by the trainer: they learn, go on exactly, and what comes out is a vae folder. */
#include "tests/training/small_images.h"

#include "training/config.h"

#define SMALL_VAE                                                                     \
    "\"vae\":{\"_class_name\":\"AutoencoderKL\",\"block_out_channels\":[8,16],"       \
    "\"layers_per_block\":1,\"norm_num_groups\":4,\"latent_channels\":2,"             \
    "\"sample_size\":8,\"down_block_types\":[\"DownEncoderBlock2D\","                 \
    "\"DownEncoderBlock2D\"],\"up_block_types\":[\"UpDecoderBlock2D\",\"UpDecoderBlo" \
    "ck2D\"]}"

static void write_text(const char *path, const char *text)
{
    FILE *fp = fopen(path, "w");
    assert_non_null(fp);
    fputs(text, fp);
    fclose(fp);
}

/* Trains with `model` in the configuration; returns what the run says. */
static kin_status train(tiny_run *t, const char *model, const char *rest)
{
    char text[2048];
    snprintf(text, sizeof text,
             "{%s,\"data\":\"set\",\"batch_size\":4,\"log_every\":10,"
             "\"optimizer\":{\"lr\":0.003,\"ema_decay\":0.9},\"validation\":{\"every\":30},"
             "\"samples\":{\"every\":30}%s}",
             model, rest);
    write_text(t->config, text);
    return kin_train_run(t->ctx, &t->opt);
}

static void run(const char *name, const char *model, int64_t stop, bool resume, int threads)
{
    tiny_run t;
    tiny_open(&t, images_dir, name, threads);
    t.opt.resume = resume;
    t.opt.stop_at = stop;
    const kin_status status = train(&t, model, ",\"steps\":60");
    if (stop ? status != KIN_ERR_INTERRUPTED : status != KIN_OK)
        fail_msg("%s: %s", kin_status_name(status), t.ctx->error.text);
    if (!stop && !resume)
        assert_true(t.last_loss < 0.5 * t.first_loss);
    tiny_close(&t);
}

static double logged(const char *dir, const char *line, const char *key)
{
    size_t n;
    double value = 0;
    char *log = tiny_read(dir, "log.jsonl", &n), *at = strstr(log, line);
    assert_non_null(at);
    at = strstr(at, key);
    assert_non_null(at);
    value = strtod(at + strlen(key), NULL);
    kin_free(log);
    return value;
}

static void it_learns_and_goes_on(void **state)
{
    static const char *const files[] = {"checkpoint-60/optimizer.safetensors",
                                        "checkpoint-60/vae/diffusion_pytorch_model.safetensors",
                                        "checkpoint-60/ema/vae/diffusion_pytorch_model.safetensors",
                                        "samples/000060.png"};
    char a[300], b[300];
    (void)state;
    run("whole", SMALL_VAE, 0, false, 1);
    run("parts", SMALL_VAE, 37, false, 2);
    run("parts", SMALL_VAE, 0, true, 1);
    snprintf(a, sizeof a, "%s/whole", images_dir);
    snprintf(b, sizeof b, "%s/parts", images_dir);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        assert_true(tiny_same(a, b, files[i]));
    const double early = logged(a, "{\"step\":30,\"val\"", "val_rec\":"),
                 late = logged(a, "{\"step\":60,\"val\"", "val_rec\":");
    print_message("held out: %g, then %g\n", early, late);
    assert_true(late > 0 && late < early);
    assert_true(logged(a, "{\"step\":60,\"val\"", "val_kl\":") > 0);
}

/* The run above as the VAE of a cache of latents, and as a model of its own. */
static void the_result_is_a_vae(void **state)
{
    char a[300], folder[KIN_PATH_MAX], bare[KIN_PATH_MAX];
    kin_error err = {0};
    kin_pipeline *p;
    kin_vae_model *vae;
    tiny_run t;
    (void)state;
    tiny_open(&t, images_dir, "result", 1);
    snprintf(a, sizeof a, "%s/whole", images_dir);
    assert_ok(kin_pipeline_vae_folder(a, folder, &err), &err);
    assert_non_null(strstr(folder, "checkpoint-60/ema/vae"));
    assert_ok(kin_pipeline_vae_folder(folder, bare, &err), &err);
    assert_string_equal(folder, bare);
    assert_ok(kin_vae_model_load(t.ctx, folder, &vae), &t.ctx->error);
    assert_int_equal(kin_vae_get_info(vae->vae)->latent_channels, 2);
    kin_vae_model_destroy(&vae);
    assert_ok(kin_pipeline_load(t.ctx, a, &p), &t.ctx->error);
    assert_int_equal(kin_model_get_info(p->model)->family, KIN_FAMILY_VAE);
    const kin_generate_params params = kin_generate_params_default();
    assert_int_equal(kin_pipeline_generate(p, &params), KIN_ERR_ARG);
    kin_pipeline_destroy(&p);
    tiny_close(&t);
}

/* From a vae folder alone, which says the size of the pictures. */
static void it_starts_from_a_folder(void **state)
{
    char model[600], a[300];
    tiny_run t;
    (void)state;
    tiny_open(&t, images_dir, "again", 1);
    snprintf(model, sizeof model, "\"init_from\":\"%s/whole/checkpoint-60/ema/vae\"", images_dir);
    /* note: with no "vae" in it the configuration does not say what is trained */
    assert_int_not_equal(train(&t, model, ",\"steps\":30"), KIN_OK);
    t.opt.objective = "vae";
    assert_ok(train(&t, model, ",\"steps\":30"), &t.ctx->error);
    tiny_close(&t);
    snprintf(a, sizeof a, "%s/again", images_dir);
    snprintf(model, sizeof model, "%s/whole", images_dir);
    assert_true(logged(a, "{\"step\":30,\"val\"", "val_rec\":") <
                logged(model, "{\"step\":30,\"val\"", "val_rec\":"));
}

static void a_video_vae_too(void **state)
{
    static const char wan[] =
        "{\"vae\":{\"_class_name\":\"AutoencoderKLWan\",\"base_dim\":4,\"z_dim\":16,\"dim_mult\":"
        "[1,2],\"num_res_blocks\":1,\"temperal_downsample\":[true]},\"data\":{\"simulate\":{"
        "\"seed\":5,\"count\":4},\"frames\":%d,\"height\":16,\"width\":16,\"held_out\":1},"
        "\"steps\":2,\"samples\":{\"every\":2},\"validation\":{\"every\":2}}";
    char text[2048];
    tiny_run t;
    (void)state;
    for (int frames = 4; frames >= 3; frames--) {
        tiny_open(&t, images_dir, "wan", 1);
        snprintf(text, sizeof text, wan, frames);
        write_text(t.config, text);
        const kin_status status = kin_train_run(t.ctx, &t.opt);
        if (frames == 3)
            assert_ok(status, &t.ctx->error);
        else
            assert_int_equal(status, KIN_ERR_ARG); /* 4 frames do not come back as 4 */
        tiny_close(&t);
    }
    snprintf(text, sizeof text, "%s/wan/samples/000002.png", images_dir);
    assert_true(kin_path_exists(text));
}

static void configurations_are_checked(void **state)
{
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"{" SMALL_VAE ",\"transformer\":{\"input_size\":8},\"data\":\"set\"}", "no transformer"},
        {"{" SMALL_VAE ",\"objective\":{\"kind\":\"ddpm\"},\"data\":\"set\"}", "must be vae"},
        {"{" SMALL_VAE ",\"objective\":{\"shift\":3},\"data\":\"set\"}", "shift"},
        {"{" SMALL_VAE ",\"objective\":{\"reconstruction\":\"l3\"},\"data\":\"set\"}", "l1, l2"},
        {"{" SMALL_VAE ",\"scheduler\":{},\"data\":\"set\"}", "no scheduler"},
        {"{\"objective\":{\"kind\":\"vae\"},\"data\":\"set\"}", "needs either vae or init_from"},
        {"{\"init_from\":\"x\",\"objective\":{\"kl_weight\":1},\"data\":\"set\"}",
         "needs objective.kind vae"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cJSON *json;
        kin_train_config c;
        kin_error err = {0};
        assert_ok(kin_json_parse(bad[i].text, strlen(bad[i].text), KIN_JSON_STRICT, &json, &err),
                  &err);
        assert_int_not_equal(kin_train_config_parse(json, NULL, NULL, &c, &err), KIN_OK);
        if (!strstr(err.text, bad[i].says))
            fail_msg("'%s' is not in: %s", bad[i].says, err.text);
        cJSON_Delete(json);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_learns_and_goes_on),      cmocka_unit_test(the_result_is_a_vae),
        cmocka_unit_test(it_starts_from_a_folder),    cmocka_unit_test(a_video_vae_too),
        cmocka_unit_test(configurations_are_checked),
    };
    return cmocka_run_group_tests(tests, make_set, drop_set);
}

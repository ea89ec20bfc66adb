/* tests/training/test_latents.c: a cache of VAE latents is what the encoder says, is made once, and
 * is trained from as exactly as pictures are. */
#include "tests/training/small_images.h"

#include "training/image_loss.h"
#include "training/images.h"
#include "training/latents.h"
#include "training/objective.h"
#include "vision/frames.h"

enum { CHANNELS = 4, LATENT = 4, HALF = CHANNELS * LATENT * LATENT };

static kin_ctx *ctx;

static void save_vae(const char *name, uint64_t seed)
{
    static const char config[] =
        "{\"_class_name\": \"AutoencoderKL\", \"block_out_channels\": [8, 16],"
        " \"layers_per_block\": 1, \"norm_num_groups\": 4, \"sample_size\": 8,"
        " \"scaling_factor\": 0.5, \"shift_factor\": 0.25,"
        " \"down_block_types\": [\"DownEncoderBlock2D\", \"DownEncoderBlock2D\"],"
        " \"up_block_types\": [\"UpDecoderBlock2D\", \"UpDecoderBlock2D\"]}";
    kin_error err = {0};
    kin_vae_model *m;
    cJSON *json;
    char folder[512];
    snprintf(folder, sizeof folder, "%s/%s", images_dir, name);
    assert_ok(kin_json_parse(config, sizeof config - 1, KIN_JSON_STRICT, &json, &err), &err);
    assert_ok(kin_vae_model_create(ctx, json, seed, &m), &ctx->error);
    assert_ok(kin_vae_model_save(m, folder, KIN_DTYPE_F32, 0, &err), &err);
    kin_vae_model_destroy(&m);
    cJSON_Delete(json);
}

static kin_latents_options cache(const char *vae_name, int64_t batch)
{
    static char data[512], folder[512], out[512];
    kin_error err = {0};
    kin_vae_model *vae;
    snprintf(data, sizeof data, "%s/set", images_dir);
    snprintf(folder, sizeof folder, "%s/%s", images_dir, vae_name);
    snprintf(out, sizeof out, "%s/cache", images_dir);
    kin_latents_options o = {.data = data,
                             .split = "",
                             .vae = folder,
                             .out = out,
                             .size = SIDE,
                             .batch = batch,
                             .shard = 5};
    assert_ok(kin_vae_model_load(ctx, folder, &vae), &ctx->error);
    assert_ok(kin_latents_make(vae, &o, &err), &err);
    kin_vae_model_destroy(&vae);
    return o;
}

static int make_all(void **state)
{
    kin_error err = {0};
    const kin_ctx_options o = {.backend = KIN_BACKEND_CPU, .threads = 1};
    make_set(state);
    assert_ok(kin_ctx_create(&o, &ctx, &err), &err);
    save_vae("vae", 3);
    return 0;
}

static int drop_all(void **state)
{
    kin_ctx_destroy(&ctx);
    return drop_set(state);
}

static void it_is_made_once(void **state)
{
    char path[640];
    size_t n;
    (void)state;
    kin_latents_options o = cache("vae", 3);
    assert_true(o.made == 4 && o.kept == 0); /* 12 and 4 images, 5 a shard */
    snprintf(path, sizeof path, "%s/train-000001.safetensors", o.out);
    char *before = tiny_read(o.out, "train-000001.safetensors", &n);
    assert_int_equal(remove(path), 0);
    o = cache("vae", 2);
    assert_true(o.made == 1 && o.kept == 3);
    size_t again;
    char *after = tiny_read(o.out, "train-000001.safetensors", &again);
    assert_true(n == again && memcmp(before, after, n) == 0); /* whatever the batch */
    kin_free(before);
    kin_free(after);
    save_vae("other", 4);
    o = cache("other", 3);
    assert_true(o.made == 4 && o.kept == 0); /* of another VAE */
    o = cache("vae", 3);
    assert_true(o.made == 4);
}

static void it_holds_what_the_encoder_says(void **state)
{
    kin_error err = {0};
    kin_latents *l;
    kin_vae_model *vae;
    kin_images *im;
    uint8_t pixels[SIDE * SIDE * 3];
    char folder[512], set[512];
    (void)state;
    kin_latents_options o = cache("vae", 3);
    assert_ok(kin_latents_open(o.out, &l, &err), &err);
    const kin_latents_info *info = kin_latents_get_info(l);
    assert_true(info->channels == CHANNELS && info->height == LATENT && info->count[0] == TRAIN &&
                info->count[1] == 4 && info->classes == 2 && info->image_size == SIDE);
    assert_true(info->scale == 0.5f && info->shift == 0.25f);
    assert_string_equal(kin_latents_class_name(l, 1), "bee");
    snprintf(folder, sizeof folder, "%s/vae", images_dir);
    snprintf(set, sizeof set, "%s/set", images_dir);
    assert_ok(kin_vae_model_load(ctx, folder, &vae), &ctx->error);
    assert_ok(kin_images_open(set, "", 0, NULL, NULL, &im, &err), &err);
    for (int64_t i = 0; i < TRAIN; i++)
        for (int mirrored = 0; mirrored < 2; mirrored++) {
            const size_t mark = kin_ws_mark(ctx);
            kin_tensor dst = KIN_TENSOR(pixels, KIN_DTYPE_U8, SIDE, SIDE, 3), x, mean, logvar;
            kin_tensor frames = KIN_TENSOR(pixels, KIN_DTYPE_U8, 1, SIDE, SIDE, 3);
            assert_ok(kin_images_read(im, false, i, &dst, &err), &err);
            if (mirrored)
                kin_images_flip(pixels, SIDE, SIDE);
            assert_ok(KIN_WS(ctx, &x, KIN_DTYPE_F32, 3, 1, SIDE, SIDE), &ctx->error);
            assert_ok(kin_frames_to_tensor(&frames, &x, &err), &err);
            x = KIN_RESHAPE(&x, 1, 3, SIDE, SIDE);
            assert_ok(kin_vae_encode(ctx, vae->vae, &x, &mean, &logvar), &ctx->error);
            const float *got = kin_latents_moments(l, false, i, mirrored);
            assert_memory_equal(got, mean.data, HALF * sizeof(float));
            assert_memory_equal(got + HALF, logvar.data, HALF * sizeof(float));
            assert_int_equal(kin_latents_label(l, false, i), kin_images_label(im, false, i));
            kin_ws_release(ctx, mark);
        }
    assert_memory_not_equal(kin_latents_moments(l, false, 0, true),
                            kin_latents_moments(l, false, 0, false), HALF * sizeof(float));
    kin_images_close(&im);
    kin_vae_model_destroy(&vae);
    kin_latents_close(&l);
}

static void write_latent_config(const char *path)
{
    FILE *fp = fopen(path, "w");
    assert_non_null(fp);
    fprintf(fp,
            "{\"transformer\":{\"input_size\":%d,\"patch_size\":2,\"in_channels\":%d,"
            "\"hidden_size\":16,\"depth\":1,\"num_heads\":2,\"num_classes\":2,\"model\":\"dense\"},"
            "\"data\":\"cache\",\"log_every\":1,\"steps\":6,\"batch_size\":4,"
            "\"validation\":{\"every\":3},\"samples\":{\"every\":6,\"count\":2,\"steps\":1}}",
            LATENT, CHANNELS);
    fclose(fp);
}

/* Each step draws from the posterior anew, in the model's units; the draw of a step is fixed. */
static void the_posterior_is_drawn_at_each_step(void **state)
{
    kin_train_config c;
    kin_error err = {0};
    kin_source *s;
    kin_batch b;
    kin_pipeline *p;
    kin_train_inputs in;
    char path[512];
    float first[3][HALF];
    (void)state;
    cache("vae", 3);
    snprintf(path, sizeof path, "%s/draw.json", images_dir);
    write_latent_config(path);
    assert_ok(kin_train_config_read(path, NULL, &c, &err), &err);
    assert_ok(kin_source_open(&c, true, NULL, NULL, &s, &err), &err);
    const kin_sample_shape shape = kin_source_shape(s);
    assert_ok(kin_batch_alloc(&shape, 1, &b, &err), &err);
    kin_sample sample = kin_batch_sample(&b, 0);
    assert_ok(kin_source_read(s, 2, &sample, &err), &err);
    b.first = 7;
    assert_ok(kin_pipeline_create(ctx, c.transformer, NULL, NULL, 0, NULL, 1, &p), &ctx->error);
    const kin_train_task task = {.pipe = p, .seed = 5, .latent_scale = 0.5f, .latent_shift = 0.25f};
    static const uint32_t steps[3] = {1, 2, 1};
    for (int k = 0; k < 3; k++) {
        const size_t mark = kin_ws_mark(ctx);
        assert_ok(kin_train_clean(ctx, &task, &b, steps[k], &in), &ctx->error);
        memcpy(first[k], in.x0.data, sizeof first[k]);
        kin_ws_release(ctx, mark);
    }
    assert_memory_equal(first[0], first[2], sizeof first[0]);
    assert_memory_not_equal(first[0], first[1], sizeof first[0]);
    float noise[HALF];
    const kin_rng rng = {5, KIN_RNG_LATENT, 7, 1};
    kin_rng_normal(&rng, 0, HALF, noise);
    for (int i = 0; i < HALF; i++) {
        const double z = (double)sample.moments[i] +
                         exp(0.5 * (double)sample.moments[HALF + i]) * (double)noise[i];
        assert_true(fabs((double)first[0][i] - (z - 0.25) * 0.5) < 1e-5);
    }
    kin_pipeline_destroy(&p);
    kin_batch_free(&b);
    kin_source_close(&s);
    kin_train_config_free(&c);
}

static void train(const char *name, int64_t stop, bool resume)
{
    tiny_run t;
    tiny_open(&t, images_dir, name, 1);
    write_latent_config(t.config);
    t.opt.resume = resume;
    t.opt.stop_at = stop;
    const kin_status status = kin_train_run(t.ctx, &t.opt);
    if (stop ? status != KIN_ERR_INTERRUPTED : status != KIN_OK)
        fail_msg("%s: %s", kin_status_name(status), t.ctx->error.text);
    tiny_close(&t);
}

static void training_resumes_and_the_model_has_the_vae(void **state)
{
    char a[300], b[300];
    kin_pipeline *p;
    kin_image_loss loss;
    kin_error err = {0};
    (void)state;
    kin_latents_options o = cache("vae", 3);
    train("latent", 0, false);
    train("latent2", 4, false);
    train("latent2", 0, true);
    snprintf(a, sizeof a, "%s/latent", images_dir);
    snprintf(b, sizeof b, "%s/latent2", images_dir);
    assert_true(tiny_same(a, b, "checkpoint-6/optimizer.safetensors"));
    assert_true(tiny_same(a, b, "checkpoint-6/vae/diffusion_pytorch_model.safetensors"));
    assert_true(tiny_same(a, b, "samples/000006.png"));
    assert_ok(kin_pipeline_load(ctx, a, &p), &ctx->error);
    assert_non_null(p->vae);
    assert_true(p->height == SIDE && p->width == SIDE);
    assert_string_equal(kin_pipeline_class_name(p, 0), "ant");
    const kin_image_loss_options lo = {.data = o.out, .batch = 4};
    assert_ok(kin_image_loss_run(p, &lo, &loss, &err), &err);
    assert_true(loss.images == 4 && loss.has_linear && loss.mean > 0 && loss.linear_mean > 0);
    kin_pipeline_destroy(&p);
}

static void a_damaged_cache_is_refused(void **state)
{
    kin_error err = {0};
    kin_latents *l;
    char path[640];
    size_t n;
    (void)state;
    kin_latents_options o = cache("vae", 3);
    char *index = tiny_read(o.out, "latents.json", &n);
    snprintf(path, sizeof path, "%s/latents.json", o.out);
    static const char *const changes[][2] = {
        {"\"train\"", "\"trail\""},           {"\"channels\":\t4", "\"channels\":\t2"},
        {"\"train\":\t12", "\"train\":\t16"}, {"\"train\":\t12", "\"train\":\t9e"},
        {"\"shard\":\t5", "\"shard\":\t6"},   {"\"bee\"", "[   ]"}};
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        char *text = kin_strdup(index), *at = strstr(text, changes[i][0]);
        assert_non_null(at);
        memcpy(at, changes[i][1], strlen(changes[i][1]));
        assert_ok(kin_file_write(path, text, n, &err), &err);
        assert_int_not_equal(kin_latents_open(o.out, &l, &err), KIN_OK);
        assert_null(l);
        kin_free(text);
    }
    assert_ok(kin_file_write(path, index, n, &err), &err);
    assert_ok(kin_latents_open(o.out, &l, &err), &err);
    kin_latents_close(&l);
    kin_free(index);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_is_made_once),
        cmocka_unit_test(it_holds_what_the_encoder_says),
        cmocka_unit_test(the_posterior_is_drawn_at_each_step),
        cmocka_unit_test(training_resumes_and_the_model_has_the_vae),
        cmocka_unit_test(a_damaged_cache_is_refused),
    };
    return cmocka_run_group_tests(tests, make_all, drop_all);
}

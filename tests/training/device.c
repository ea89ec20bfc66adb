/* Sampling and training of small models on the emulated device: how often the host waits, and that
 * what leaves the device (--offload) changes no bit. */
#include "tests/training/small_images.h"

#include "tensor/cuda/emulate/lanes.h"
#include "tensor/device.h"

enum { CLIP_BYTES = 4 * 8 * 16 * 3 }; /* of a picture less */

#define PROMOE                                                                                \
    "{\"model\":\"promoe_tc\",\"input_size\":8,\"patch_size\":2,\"in_channels\":3,"           \
    "\"hidden_size\":32,\"depth\":3,\"num_heads\":2,\"num_classes\":2,\"learn_sigma\":false," \
    "\"MoE_config\":{\"num_routed_experts\":3,\"top_k\":2,\"moe_intermediate_size\":24,"      \
    "\"shared_expert_intermediate_size\":24}}"
#define KINEMA                                                                         \
    "{\"_class_name\":\"KinemaTransformer3DModel\",\"model\":\"promoe_tc\","           \
    "\"patch_size\":[2,4,4],\"num_attention_heads\":2,\"attention_head_dim\":8,"       \
    "\"text_dim\":16,\"text_len\":12,\"freq_dim\":32,\"ffn_dim\":24,\"num_layers\":2," \
    "\"phys_head_dim\":4,\"phys_heads_per_class\":1,\"sample_frames\":4,"              \
    "\"sample_height\":8,\"sample_width\":16,\"MoE_config\":{\"num_routed_experts\":3}}"
#define TEXT                                                                        \
    "{\"model_type\":\"t5\",\"architectures\":[\"T5EncoderModel\"],\"d_model\":16," \
    "\"d_kv\":8,\"d_ff\":24,\"num_layers\":1,\"num_heads\":2,\"vocab_size\":96,"    \
    "\"relative_attention_num_buckets\":8,\"relative_attention_max_distance\":16,"  \
    "\"feed_forward_proj\":\"gated-gelu\",\"layer_norm_epsilon\":1e-6}"
#define SCHEDULER "{\"_class_name\":\"FlowMatchEulerDiscreteScheduler\",\"shift\":3.0}"

static const char *const sentences[] = {
    "a red ball falls and bounces on a gray floor", "a blue box slides down a ramp",
    "a green ball is thrown to the right",          "a yellow ball hangs from a spring and swings",
    "two balls collide in the middle of the frame", "the white background has a gradient"};
static void *spiece;
static size_t spiece_bytes;

enum { STEPS_MOST = 8 };

typedef struct film { /* what a sampling makes, and how */
    uint8_t bytes[2][CLIP_BYTES];
    long waits, plays;
    uint64_t log[STEPS_MOST]; /* of each step */
    int steps;
} film;

static kin_ctx *open_ctx(size_t offload)
{
    const kin_ctx_options opt = {.backend = KIN_BACKEND_CUDA, .threads = 1, .offload = offload};
    kin_error err = {0};
    kin_ctx *ctx;
    assert_ok(kin_ctx_create(&opt, &ctx, &err), &err);
    return ctx;
}

static cJSON *json(const char *text)
{
    kin_error err = {0};
    cJSON *j = NULL;
    assert_ok(kin_json_parse(text, strlen(text), KIN_JSON_STRICT, &j, &err), &err);
    return j;
}

/* Nothing is hidden by a start at zero. */
static void randomize(kin_params *params, uint64_t seed)
{
    for (int i = 0; i < params->count; i++) {
        kin_param *p = params->list[i];
        const kin_rng rng = {.seed = seed, .purpose = KIN_RNG_TEST, .sample = (uint64_t)i};
        float *v = p->value.data;
        kin_rng_normal(&rng, 0, kin_tensor_numel(&p->value), v);
        for (int64_t k = 0; k < kin_tensor_numel(&p->value); k++)
            v[k] = 0.2f * v[k] + (strstr(p->name, "norm") ? 1.0f : 0.0f);
        kin_param_touch(p);
    }
}

static kin_pipeline *make(kin_ctx *ctx, bool video)
{
    cJSON *t = json(video ? KINEMA : PROMOE), *e = json(TEXT), *s = json(SCHEDULER);
    kin_pipeline *p = NULL;
    assert_ok(kin_pipeline_create(ctx, t, video ? e : NULL, video ? spiece : NULL,
                                  video ? spiece_bytes : 0, s, 3, &p),
              &ctx->error);
    p->fps = 8;
    randomize(p->params, 61);
    if (video)
        randomize(p->text_params, 62);
    cJSON_Delete(t);
    cJSON_Delete(e);
    cJSON_Delete(s);
    return p;
}

static kin_status receive(void *user, int64_t clip, const kin_tensor *frames)
{
    film *f = user;
    memcpy(f->bytes[clip], frames->data, (size_t)kin_tensor_numel(frames));
    return KIN_OK;
}

static kin_status on_step(void *user, int64_t done, int step, int steps)
{
    film *f = user;
    (void)done;
    (void)step;
    (void)steps;
    f->log[f->steps++] = kin_emulated_log();
    return KIN_OK;
}

/* Two clips or pictures of one batch in so many steps. */
static void sample(kin_ctx *ctx, kin_pipeline *p, bool video, int steps, const char *method,
                   film *f)
{
    static const int32_t labels[2] = {1, 0};
    static const char *const prompts[2] = {"a red ball falls", "a blue box"};
    static float priors[2 * 29];
    kin_generate_params g = kin_generate_params_default();
    for (int i = 0; i < 2 * 29; i++)
        priors[i] = i % 4 == 0;
    g.count = g.batch = 2;
    g.steps = steps;
    g.sampler = method;
    g.allow_flat = true;
    g.emit = receive;
    g.progress = on_step;
    g.user = f;
    if (video) {
        g.prompts = prompts;
        g.prior = priors;
    } else {
        g.labels = labels;
    }
    memset(f, 0, sizeof *f);
    const long before = ctx->device->waits(ctx);
    (void)kin_emulated_plays();
    assert_ok(kin_pipeline_generate(p, &g), &ctx->error);
    f->waits = ctx->device->waits(ctx) - before;
    f->plays = kin_emulated_plays();
}

/* Latents cross over once for each call of the model: the waits of one more step. */
static void a_sampling_step_waits_once(void **state)
{
    (void)state;
    for (int video = 0; video < 2; video++) {
        kin_ctx *ctx = open_ctx(0);
        kin_pipeline *p = make(ctx, video);
        film f, longer;
        sample(ctx, p, video, 2, NULL, &f);
        sample(ctx, p, video, 3, NULL, &longer);
        assert_int_equal(longer.waits - f.waits, 1);
        kin_pipeline_destroy(&p);
        kin_ctx_destroy(&ctx);
    }
}

/* Waits of each of a few steps of the run that t->config describes. */
static void check_training(tiny_run *t, long waits)
{
    kin_trainer *trainer;
    kin_ctx_destroy(&t->ctx);
    t->ctx = open_ctx(0);
    assert_ok(kin_train_open(t->ctx, &t->opt, &trainer), &t->ctx->error);
    for (int i = 0; i < 3; i++) {
        const long before = t->ctx->device->waits(t->ctx);
        assert_ok(kin_train_step(trainer), &t->ctx->error);
        assert_int_equal(t->ctx->device->waits(t->ctx) - before, waits);
    }
    kin_train_close(&trainer);
    tiny_close(t);
}

/* One exchange for the terms of the loss, one for the norm of the gradient. */
static void a_training_step_waits_twice(void **state)
{
    tiny_run t;
    (void)state;
    tiny_open(&t, images_dir, "images", 1);
    FILE *fp = fopen(t.config, "w");
    assert_non_null(fp);
    fprintf(fp,
            "{\"transformer\":%s,\"data\":\"set\",\"log_every\":9,\"steps\":9,\"batch_size\":2,"
            "\"optimizer\":{\"lr\":0.001},\"checkpoint\":{\"every\":9}}",
            PROMOE);
    fclose(fp);
    check_training(&t, 2);
    /* also with the classifier, whose loss WISA scales by its own value */
    tiny_open(&t, images_dir, "clips", 1);
    tiny_write(t.config, TINY_MOE, TINY_SIMULATE, "\"lr\":0.002",
               "\"steps\":9,\"batch_size\":2,\"log_every\":9,\"checkpoint\":{\"every\":9},");
    check_training(&t, 2);
}

static void offload_keeps_the_bits(void **state)
{
    (void)state;
    for (int video = 0; video < 2; video++) {
        film whole, part;
        kin_ctx *ctx = open_ctx(0);
        kin_pipeline *p = make(ctx, video);
        sample(ctx, p, video, 2, NULL, &whole);
        const size_t budget = kin_params_bytes(p->params) / 2;
        kin_pipeline_destroy(&p);
        kin_ctx_destroy(&ctx);
        for (int k = 0; k < 2; k++) {
            kin_emulated_set_order(k ? KIN_EMULATED_COPIES_EARLY : KIN_EMULATED_COPIES_LATE);
            (void)kin_emulated_peak();
            ctx = open_ctx(budget);
            p = make(ctx, video);
            sample(ctx, p, video, 2, NULL, &part);
            assert_memory_equal(whole.bytes, part.bytes, sizeof whole.bytes);
            const size_t peak = kin_emulated_peak();
            if (peak > budget)
                fail_msg("%zu bytes of the device, budget %zu", peak, budget);
            kin_pipeline_destroy(&p);
            kin_ctx_destroy(&ctx);
        }
    }
}

/* One sampling on a context of its own. */
static void sample_alone(bool video, const char *graphs, int steps, const char *method, film *f)
{
    assert_int_equal(setenv("KINEMA_CUDA_GRAPHS", graphs, 1), 0);
    kin_ctx *ctx = open_ctx(0);
    kin_pipeline *p = make(ctx, video);
    sample(ctx, p, video, steps, method, f);
    kin_pipeline_destroy(&p);
    kin_ctx_destroy(&ctx);
    assert_int_equal(unsetenv("KINEMA_CUDA_GRAPHS"), 0);
}

/* Steps launch the same kernels on the same memory once the weights are there: what a recording
 * rests on. */
static void steps_launch_the_same(void **state)
{
    (void)state;
    for (int video = 0; video < 2; video++) {
        film f;
        sample_alone(video, "0", 4, NULL, &f);
        assert_int_equal(f.steps, 4);
        assert_int_equal(f.plays, 0);
        assert_int_not_equal(f.log[0], f.log[1]);
        for (int i = 2; i < 4; i++)
            assert_true(f.log[i] == f.log[1]);
    }
}

/* The forward is called, recorded, then played; all but the first call: the recorded one, too. */
static void check_recordings(bool video, const char *method)
{
    film plain, played;
    sample_alone(video, "0", 3, method, &plain);
    sample_alone(video, "1", 3, method, &played);
    assert_int_equal(plain.plays, 0);
    assert_int_equal(played.plays, played.steps - 1);
    assert_int_equal(played.waits, plain.waits);
    assert_memory_equal(plain.bytes, played.bytes, sizeof plain.bytes);
}

static void recordings_keep_the_bits(void **state)
{
    (void)state;
    check_recordings(false, NULL);
    check_recordings(true, NULL);
    /* two calls of the model in a step */
    check_recordings(false, "heun");
}

enum { TRAIN_STEPS = 5, TAPPED_STEP = 4, MICRO = 2 };

typedef enum train_kind { TRAIN_IMAGE, TRAIN_VIDEO, TRAIN_DDPM } train_kind;
typedef struct training { /* of TRAIN_STEPS steps, two micro-batches each */
    double loss[TRAIN_STEPS];
    long waits[TRAIN_STEPS], plays;
} training;

static void write_image_config(const tiny_run *t, bool ddpm, const char *extra)
{
    FILE *fp = fopen(t->config, "w");
    assert_non_null(fp);
    fprintf(fp,
            "{\"transformer\":%s,\"data\":\"set\",%s%s"
            "\"optimizer\":{\"lr\":0.001,\"warmup_steps\":4}}",
            PROMOE, extra,
            ddpm ? "\"objective\":{\"kind\":\"ddpm\",\"prediction_type\":\"sample\",\"variance_"
                   "type\":\"fixed_small\"},"
                 : "");
    fclose(fp);
}

/* A run of its own; the step before the last is logged, with taps. */
static void train_alone(tiny_run *t, const char *name, train_kind kind, const char *compute,
                        const char *graphs, training *out)
{
    char extra[256];
    kin_trainer *trainer;
    const bool video = kind == TRAIN_VIDEO;
    snprintf(extra, sizeof extra,
             "\"compute\":\"%s\",\"steps\":%d,\"batch_size\":2,\"gradient_accumulation\":%d,"
             "\"log_every\":%d,\"checkpoint\":{\"every\":%d},\"checkpointing\":%s,",
             compute, TRAIN_STEPS, MICRO, TAPPED_STEP, TRAIN_STEPS,
             strcmp(compute, "f32") == 0 ? "true" : "false");
    assert_int_equal(setenv("KINEMA_CUDA_GRAPHS", graphs, 1), 0);
    tiny_open(t, images_dir, name, 1);
    if (video)
        tiny_write(t->config, TINY_MOE, TINY_SIMULATE, "\"lr\":0.002,\"warmup_steps\":4", extra);
    else
        write_image_config(t, kind == TRAIN_DDPM, extra);
    kin_ctx_destroy(&t->ctx);
    t->ctx = open_ctx(0);
    assert_ok(kin_train_open(t->ctx, &t->opt, &trainer), &t->ctx->error);
    (void)kin_emulated_plays();
    for (int i = 0; i < TRAIN_STEPS; i++) {
        const long before = t->ctx->device->waits(t->ctx);
        assert_ok(kin_train_step(trainer), &t->ctx->error);
        out->waits[i] = t->ctx->device->waits(t->ctx) - before;
        out->loss[i] = kin_train_last_report(trainer)->loss;
    }
    out->plays = kin_emulated_plays();
    kin_train_close(&trainer);
    tiny_close(t);
    assert_int_equal(unsetenv("KINEMA_CUDA_GRAPHS"), 0);
}

/* Forward and backward are called, recorded, then played, over changing weights, learning rates and
 * inputs: the same losses, weights, averages and moments, and no wait more. In f32 blocks are
 * recomputed in the backward pass. */
static void check_training_recordings(train_kind kind, const char *compute)
{
    static const char *const kinds[] = {"image", "video", "ddpm"};
    tiny_run a, b;
    training plain, played;
    char name[2][32], da[320], db[320];
    for (int k = 0; k < 2; k++)
        snprintf(name[k], sizeof name[k], "%s-%s-%d", kinds[kind], compute, k);
    train_alone(&a, name[0], kind, compute, "0", &plain);
    train_alone(&b, name[1], kind, compute, "1", &played);
    assert_int_equal(plain.plays, 0);
    assert_int_equal(played.plays, MICRO * (TRAIN_STEPS - 1) - 1);
    assert_memory_equal(plain.loss, played.loss, sizeof plain.loss);
    for (int i = 0; i < TAPPED_STEP - 1; i++) {
        assert_int_equal(plain.waits[i], MICRO + 1);
        assert_int_equal(played.waits[i], MICRO + 1);
    }
    snprintf(da, sizeof da, "%s/checkpoint-%d", a.run, TRAIN_STEPS);
    snprintf(db, sizeof db, "%s/checkpoint-%d", b.run, TRAIN_STEPS);
    for (int i = 0; tiny_files[i]; i++)
        if (kind == TRAIN_VIDEO || !strstr(tiny_files[i], "text_encoder"))
            assert_true(tiny_same(da, db, tiny_files[i]));
}

static void training_recordings_keep_the_bits(void **state)
{
    (void)state;
    for (train_kind kind = TRAIN_IMAGE; kind <= TRAIN_DDPM; kind++) {
        check_training_recordings(kind, "f32");
        check_training_recordings(kind, "bf16");
    }
}

static int setup(void **state)
{
    kin_error err = {0};
    if (make_set(state))
        return -1;
    return kin_tokenizer_train(sentences, 6, 40, false, &spiece, &spiece_bytes, &err) != KIN_OK;
}

static int teardown(void **state)
{
    kin_free(spiece);
    return drop_set(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sampling_step_waits_once),
        cmocka_unit_test(a_training_step_waits_twice),
        cmocka_unit_test(offload_keeps_the_bits),
        cmocka_unit_test(steps_launch_the_same),
        cmocka_unit_test(recordings_keep_the_bits),
        cmocka_unit_test(training_recordings_keep_the_bits),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

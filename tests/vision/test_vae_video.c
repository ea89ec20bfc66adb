/* The causal video autoencoders of Wan and CogVideoX: pieces against the whole, memory over length,
 * batch, threads, refusals. Values against the official code: golden/vae. */
#include "tests/support/support.h"

#include <string.h>

#include "base/json.h"
#include "tests/support/near.h"
#include "vision/vae.h"

#define CONFIG                                                                                     \
    "{\"_class_name\": \"AutoencoderKLWan\", \"base_dim\": 6, \"z_dim\": 3, \"dim_mult\": [1, 2, " \
    "2], \"num_res_blocks\": 1, \"temperal_downsample\": [true, true], \"latents_mean\": [0.2, "   \
    "-0.4, 0.1], \"latents_std\": [0.9, 1.3, 0.7]}"

static void assert_near(const kin_tensor *a, const kin_tensor *b)
{
    char why[200];

    if (!kin_near_tensor(a, b, kin_near_f32(600, 0), why, sizeof why))
        fail_msg("%s", why);
}

static void assert_same_bytes(const kin_tensor *a, const kin_tensor *b)
{
    char why[200];

    if (!kin_near_same_bits(a, b, why, sizeof why))
        fail_msg("%s", why);
}

#define COG                                                                               \
    "{\"_class_name\": \"AutoencoderKLCogVideoX\", \"block_out_channels\": [8, 12, 12], " \
    "\"latent_channels\": 3, \"layers_per_block\": 1, \"norm_num_groups\": 4}"

static const char *const configs[] = {CONFIG, COG};

typedef struct subject {
    kin_ctx *ctx;
    kin_params *params;
    kin_vae *vae;
} subject;

static kin_status make(const char *text, kin_params *params, kin_vae **vae, kin_error *err)
{
    cJSON *j = NULL;
    kin_status status;

    assert_ok(kin_json_parse(text, strlen(text), KIN_JSON_STRICT, &j, err), err);
    status = kin_vae_create(j, params, vae, err);
    cJSON_Delete(j);
    return status;
}

static void open_subject(subject *s, const char *config, int threads)
{
    const kin_ctx_options opt = {
        .backend = KIN_BACKEND_CPU, .threads = threads, .compute = KIN_DTYPE_F32};
    kin_error err = {0};

    assert_ok(kin_ctx_create(&opt, &s->ctx, &err), &err);
    assert_ok(kin_params_create(&s->params, &err), &err);
    assert_ok(make(config, s->params, &s->vae, &err), &err);
    assert_ok(kin_params_alloc(s->params, KIN_DTYPE_F32, false, &err), &err);
    kin_params_init(s->params, 3);
}

static void close_subject(subject *s)
{
    kin_vae_destroy(&s->vae);
    kin_params_destroy(&s->params);
    kin_ctx_destroy(&s->ctx);
}

static kin_tensor noise(kin_ctx *ctx, uint64_t seed, int64_t B, int64_t C, int64_t F, int64_t H,
                        int64_t W)
{
    const kin_rng rng = {.seed = seed, .purpose = KIN_RNG_TEST};
    kin_tensor t;

    assert_ok(KIN_WS(ctx, &t, KIN_DTYPE_F32, B, C, F, H, W), &ctx->error);
    kin_rng_normal(&rng, 0, kin_tensor_numel(&t), t.data);
    return t;
}

static void count_tap(void *user, const char *name, const kin_tensor *t)
{
    (void)name;
    (void)t;
    ++*(int *)user;
}

/* a tap makes it one piece */
static void test_pieces_equal_the_whole(void **state)
{
    static const int64_t frames[] = {1, 5, 13, 14, 16};
    subject s;

    (void)state;
    open_subject(&s, CONFIG, 2);
    for (int i = 0; i < 5; i++) {
        kin_tensor x = noise(s.ctx, 5, 2, 3, frames[i], 12, 20), mean[2], logvar[2], rec[2];
        int taps = 0;

        for (int whole = 0; whole < 2; whole++) {
            s.ctx->tap = whole ? count_tap : NULL;
            s.ctx->tap_user = &taps;
            assert_ok(kin_vae_encode(s.ctx, s.vae, &x, &mean[whole], &logvar[whole]),
                      &s.ctx->error);
            kin_tensor z;
            assert_ok(kin_contiguous(s.ctx, &mean[0], &z), &s.ctx->error);
            assert_ok(kin_vae_decode(s.ctx, s.vae, &z, &rec[whole]), &s.ctx->error);
        }
        assert_true(taps > 0);
        assert_int_equal(mean[0].size[2], (frames[i] - 1) / 4 + 1);
        assert_int_equal(rec[0].size[2], 4 * ((frames[i] - 1) / 4) + 1);
        assert_int_equal(rec[0].size[4], 20);
        assert_near(&mean[0], &mean[1]);
        assert_near(&logvar[0], &logvar[1]);
        assert_near(&rec[0], &rec[1]);
        s.ctx->tap = NULL;
    }
    close_subject(&s);
}

/* bytes above input and output for a decode of f latent frames */
static size_t inside(const char *config, int64_t f)
{
    subject s;
    size_t before, peak;
    kin_tensor z, x;

    open_subject(&s, config, 1);
    z = noise(s.ctx, 5, 1, 3, f, 8, 8);
    before = kin_ws_mark(s.ctx);
    s.ctx->ws.peak = 0;
    assert_ok(kin_vae_decode(s.ctx, s.vae, &z, &x), &s.ctx->error);
    peak = s.ctx->ws.peak - before - (size_t)kin_tensor_numel(&x) * sizeof(float);
    close_subject(&s);
    return peak;
}

static void test_memory_does_not_grow(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++)
        assert_true(inside(configs[i], 41) <= inside(configs[i], 5) + 1024);
}

/* the same bytes for 1 and 2 threads, alone and in a batch */
static void check_bytes(const char *config)
{
    kin_tensor x, all[2], mean, logvar, one, z;
    subject s[2];

    for (int i = 0; i < 2; i++) {
        open_subject(&s[i], config, i + 1);
        x = noise(s[i].ctx, 5, 2, 3, 9, 12, 20);
        assert_ok(kin_vae_encode(s[i].ctx, s[i].vae, &x, &mean, &logvar), &s[i].ctx->error);
        assert_ok(kin_contiguous(s[i].ctx, &mean, &z), &s[i].ctx->error);
        assert_ok(kin_vae_decode(s[i].ctx, s[i].vae, &z, &all[i]), &s[i].ctx->error);
    }
    assert_same_bytes(&all[0], &all[1]);
    for (int64_t b = 0; b < 2; b++) {
        const kin_tensor own = kin_tensor_slice(&z, 0, b, 1),
                         want = kin_tensor_slice(&all[1], 0, b, 1);

        assert_ok(kin_vae_decode(s[1].ctx, s[1].vae, &own, &one), &s[1].ctx->error);
        assert_same_bytes(&one, &want);
    }
    close_subject(&s[0]);
    close_subject(&s[1]);
}

static void test_bytes(void **state)
{
    (void)state;
    check_bytes(CONFIG);
    check_bytes(COG);
}

static void test_frame_counts(void **state)
{
    static const struct {
        int config;
        int64_t frames, latent, decoded;
    } rows[] = {{0, 1, 1, 1}, {0, 9, 3, 9},   {0, 12, 3, 9},  {1, 1, 1, 1},
                {1, 9, 3, 9}, {1, 13, 4, 16}, {1, 17, 5, 17}, {1, 8, 2, 8}};

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        subject s;

        open_subject(&s, configs[rows[i].config], 1);
        assert_int_equal(kin_vae_latent_frames(s.vae, rows[i].frames), rows[i].latent);
        assert_int_equal(kin_vae_decoded_frames(s.vae, rows[i].latent), rows[i].decoded);
        close_subject(&s);
    }
}

static void test_refusals(void **state)
{
    static const struct {
        const char *config, *text;
        kin_status status;
    } bad[] = {
        {"{\"_class_name\": \"AutoencoderKLWan\", \"is_residual\": true}", "is_residual",
         KIN_ERR_UNSUPPORTED},
        {"{\"_class_name\": \"AutoencoderKLWan\", \"attn_scales\": [0.5]}", "attn_scales",
         KIN_ERR_UNSUPPORTED},
        {"{\"_class_name\": \"AutoencoderKLWan\", \"z_dim\": 4}", "latents_mean", KIN_ERR_FORMAT},
        {"{\"_class_name\": \"AutoencoderKLWan\", \"dim_mult\": [1, 2]}", "temperal_downsample",
         KIN_ERR_FORMAT},
        {"{\"_class_name\": \"AutoencoderKLWan\", \"base_dims\": 6}", "base_dim", KIN_ERR_FORMAT},
        {"{\"_class_name\": \"AutoencoderKLWan\", \"scale_factor_temporal\": 8}",
         "scale_factor_temporal", KIN_ERR_ARG},
        {"{\"_class_name\": \"AutoencoderKLCogVideoX\", \"use_quant_conv\": true}",
         "use_quant_conv", KIN_ERR_UNSUPPORTED},
        {"{\"_class_name\": \"AutoencoderKLCogVideoX\", \"temporal_compression_ratio\": 3}",
         "temporal_compression_ratio", KIN_ERR_ARG},
        {"{\"_class_name\": \"AutoencoderKLCogVideoX\", \"norm_num_groups\": 24}",
         "norm_num_groups", KIN_ERR_ARG},
    };
    kin_tensor flat, x;
    subject s;

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        kin_params *params = NULL;
        kin_vae *vae = NULL;
        kin_error err = {0};

        assert_ok(kin_params_create(&params, &err), &err);
        assert_int_equal(make(bad[i].config, params, &vae, &err), bad[i].status);
        assert_non_null(strstr(err.text, bad[i].text));
        kin_vae_destroy(&vae);
        kin_params_destroy(&params);
    }
    open_subject(&s, CONFIG, 1);
    assert_ok(KIN_WS(s.ctx, &flat, KIN_DTYPE_F32, 1, 3, 8, 8), &s.ctx->error);
    assert_int_equal(kin_vae_decode(s.ctx, s.vae, &flat, &x), KIN_ERR_SHAPE);
    close_subject(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pieces_equal_the_whole), cmocka_unit_test(test_memory_does_not_grow),
        cmocka_unit_test(test_bytes), cmocka_unit_test(test_frame_counts),
        cmocka_unit_test(test_refusals)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}

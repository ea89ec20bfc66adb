/* tests/diffusion/test_solver.c: an image pipeline run by every solver that its scheduler_config
 * or the caller names: the same bytes in any batch, guidance and its limits, no heap memory in the
 * loop, refusals. */
#include "tests/diffusion/models.h"

#include "base/alloc.h"
#include "diffusion/pipeline.h"

#define DIT                                                                                       \
    "{\"_class_name\": \"DiTTransformer2DModel\", \"model\": \"dense\", \"input_size\": 8, "      \
    "\"patch_size\": 4, \"in_channels\": 3, \"hidden_size\": 16, \"depth\": 1, \"num_heads\": 2," \
    " \"num_classes\": 3, \"learn_sigma\": true}"

enum { IMAGES = 3, BYTES = 8 * 8 * 3 };

typedef struct album {
    uint8_t image[IMAGES][BYTES];
    uint64_t allocs; /* heap allocations between the first and the last step of a batch */
    int progress;
} album;

static kin_status receive(void *user, int64_t clip, const kin_tensor *frames)
{
    memcpy(((album *)user)->image[clip], frames->data, BYTES);
    return KIN_OK;
}

static kin_status watch(void *user, int64_t done, int step, int steps)
{
    album *a = user;
    static uint64_t first;

    (void)done;
    assert_true(step >= 0 && step <= steps);
    if (a->progress++ == 0)
        first = kin_alloc_count();
    a->allocs = kin_alloc_count() - first;
    return KIN_OK;
}

static kin_pipeline *make(kin_ctx *ctx, const char *scheduler)
{
    cJSON *t = json(DIT), *s = scheduler ? json(scheduler) : NULL;
    kin_pipeline *p = NULL;

    assert_ok(kin_pipeline_create(ctx, t, NULL, NULL, 0, s, 3, &p), &ctx->error);
    randomize(p->params, 71, 0.2f);
    cJSON_Delete(t);
    cJSON_Delete(s);
    return p;
}

static kin_generate_params request(album *a)
{
    static const int32_t labels[IMAGES] = {0, 2, 1};
    kin_generate_params g = kin_generate_params_default();

    memset(a, 0, sizeof(*a));
    g.count = IMAGES;
    g.labels = labels;
    g.steps = 6;
    g.seed = 5;
    g.batch = 1;
    g.cfg_scale = 2;
    g.allow_flat = true;
    g.emit = receive;
    g.progress = watch;
    g.user = a;
    return g;
}

#define VP "\"prediction_type\": \"v_prediction\""

/* every class, from the config or by name */
static void batches_do_not_matter(void **state)
{
    static const struct {
        const char *scheduler, *sampler, *spacing;
        float eta;
    } ways[] = {
        {NULL, NULL, NULL, 0},
        {NULL, "heun", NULL, 0},
        {NULL, "unipc", NULL, 0},
        {NULL, "dpm++2m", NULL, 0},
        {"{\"stochastic_sampling\": true}", NULL, NULL, 0},
        {"{\"use_dynamic_shifting\": true}", NULL, NULL, 0},
        {"{\"_class_name\": \"DDPMScheduler\", \"variance_type\": \"learned_range\"}", NULL, NULL,
         0},
        {"{\"_class_name\": \"DDPMScheduler\", \"variance_type\": \"fixed_large\"}", NULL, "3,2",
         0},
        {"{\"_class_name\": \"DDPMScheduler\", " VP "}", "ddim", NULL, 0.5f},
        {"{\"_class_name\": \"DDPMScheduler\", " VP "}", "ddim", "ddim10", 0},
        {"{\"_class_name\": \"DDIMScheduler\", " VP ", \"thresholding\": true}", NULL, "trailing",
         0},
        {"{\"_class_name\": \"DDPMScheduler\", " VP "}", "euler", NULL, 0},
        {"{\"_class_name\": \"DDPMScheduler\", " VP "}", "euler_a", NULL, 0},
        {"{\"_class_name\": \"DDPMScheduler\", " VP "}", "heun", "linspace", 0},
        {"{\"_class_name\": \"DDPMScheduler\", " VP "}", "unipc", NULL, 0},
        {"{\"_class_name\": \"DPMSolverMultistepScheduler\", " VP
         ", \"algorithm_type\": \"sde-dpmsolver++\"}",
         NULL, NULL, 0},
        {"{\"_class_name\": \"CogVideoXDPMScheduler\", " VP
         ", \"rescale_betas_zero_snr\": true, \"timestep_spacing\": \"trailing\"}",
         NULL, NULL, 0},
    };
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CPU, 2);

    (void)state;
    for (size_t i = 0; i < sizeof(ways) / sizeof(*ways); i++) {
        static album one, all;
        kin_pipeline *p = make(ctx, ways[i].scheduler);
        kin_generate_params g = request(&one);

        g.sampler = ways[i].sampler;
        g.spacing = ways[i].spacing;
        g.eta = ways[i].eta;
        assert_ok(kin_pipeline_generate(p, &g), &ctx->error);
        request(&all);
        g.user = &all;
        g.batch = IMAGES;
        assert_ok(kin_pipeline_generate(p, &g), &ctx->error);
        assert_memory_equal(one.image, all.image, sizeof(one.image));
        assert_memory_not_equal(one.image[0], one.image[1], BYTES);
        assert_true(all.allocs == 0);
        assert_true(all.progress >= 3);
        kin_pipeline_destroy(&p);
    }
    kin_ctx_destroy(&ctx);
}

static void draw(kin_pipeline *p, const kin_generate_params *g, album *a)
{
    kin_generate_params with = *g;

    with.user = a;
    assert_ok(kin_pipeline_generate(p, &with), &p->ctx->error);
}

static bool same(const album *a, const album *b)
{
    return memcmp(a->image, b->image, sizeof(a->image)) == 0;
}

/* largest difference of two albums' pixels */
static int apart(const album *a, const album *b)
{
    int most = 0;

    for (int i = 0; i < IMAGES * BYTES; i++) {
        const int d = abs(a->image[i / BYTES][i % BYTES] - b->image[i / BYTES][i % BYTES]);

        most = d > most ? d : most;
    }
    return most;
}

static void guidance_has_limits(void **state)
{
    static album plain, guided, other;
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CPU, 1);
    kin_pipeline *p = make(ctx, NULL);
    kin_generate_params g = request(&plain);

    (void)state;
    draw(p, &g, &guided);
    g.cfg_scale = 1;
    draw(p, &g, &plain);
    assert_true(apart(&guided, &plain) > 3);
    /* no time lies in the interval: the conditional branch alone, to the byte */
    g.cfg_scale = 2;
    g.cfg_interval[0] = 2000;
    draw(p, &g, &other);
    assert_true(same(&plain, &other));
    /* part of them */
    g.cfg_interval[0] = 300;
    g.cfg_interval[1] = 600;
    draw(p, &g, &other);
    assert_false(same(&plain, &other) || same(&guided, &other));
    g.cfg_interval[0] = 0;
    g.cfg_interval[1] = 1000;
    draw(p, &g, &other);
    assert_true(same(&guided, &other));
    /* contrast of the conditional branch */
    g.cfg_rescale = 0.7f;
    draw(p, &g, &other);
    assert_false(same(&guided, &other));
    g.cfg_rescale = 0;
    /* all channels named are all channels; one is not */
    g.cfg_channels = 3;
    draw(p, &g, &other);
    assert_true(same(&guided, &other));
    g.cfg_channels = 1;
    draw(p, &g, &other);
    assert_false(same(&guided, &other) || same(&plain, &other));
    kin_pipeline_destroy(&p);
    kin_ctx_destroy(&ctx);
}

static void wrong_wishes_are_refused(void **state)
{
    static album a;
    static const struct {
        const char *scheduler, *sampler, *spacing, *text;
        float eta, shift;
        kin_status status;
    } rows[] = {
        {NULL, "ddpm", NULL, "predicts a flow", 0, 0, KIN_ERR_ARG},
        {NULL, NULL, "trailing", "not for flow", 0, 0, KIN_ERR_ARG},
        {NULL, NULL, "ddim5", "respacing", 0, 0, KIN_ERR_ARG},
        {NULL, NULL, NULL, "ddim alone", 0.5f, 0, KIN_ERR_ARG},
        {"{\"_class_name\": \"DDPMScheduler\"}", NULL, NULL, "flow models", 0, 3, KIN_ERR_ARG},
        {"{\"_class_name\": \"DDPMScheduler\"}", NULL, "600,600", "respacing", 0, 0, KIN_ERR_ARG},
        {"{\"_class_name\": \"DDPMScheduler\"}", "euler", "9", "respacing", 0, 0, KIN_ERR_ARG},
        {"{\"_class_name\": \"PNDMScheduler\"}", NULL, NULL, "PNDMScheduler", 0, 0,
         KIN_ERR_UNSUPPORTED},
        {"{\"_class_name\": \"DDIMScheduler\", \"variance_tipe\": 1}", NULL, NULL, "variance_tipe",
         0, 0, KIN_ERR_FORMAT},
        {"{\"_class_name\": \"DDPMScheduler\", \"variance_type\": \"fixed_large_log\"}", NULL, NULL,
         "fixed_large_log", 0, 0, KIN_ERR_UNSUPPORTED},
        {"{\"_class_name\": \"DDIMScheduler\", \"rescale_betas_zero_snr\": true, "
         "\"timestep_spacing\": \"trailing\"}",
         NULL, NULL, "zero SNR", 0, 0, KIN_ERR_ARG},
    };
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CPU, 1);

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        kin_pipeline *p = make(ctx, rows[i].scheduler);
        kin_generate_params g = request(&a);
        kin_status got;

        g.sampler = rows[i].sampler;
        g.spacing = rows[i].spacing;
        g.eta = rows[i].eta;
        g.shift = rows[i].shift;
        got = kin_pipeline_generate(p, &g);
        if (got != rows[i].status || !strstr(ctx->error.text, rows[i].text))
            fail_msg("row %zu: %s: %s", i, kin_status_name(got), ctx->error.text);
        kin_pipeline_destroy(&p);
    }
    kin_ctx_destroy(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batches_do_not_matter),
        cmocka_unit_test(guidance_has_limits),
        cmocka_unit_test(wrong_wishes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

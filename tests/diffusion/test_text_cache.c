/* tests/diffusion/test_text_cache.c: keys and values of the text made once change no bit of what
 * guidance gives, whether its branches run as one batch or one by one, and they are not made again.
 */
#include "diffusion/guided.h"
#include "tests/diffusion/models.h"

#define WAN(more)                                                                            \
    "{\"_class_name\": \"WanTransformer3DModel\", \"in_channels\": 2, \"out_channels\": 2, " \
    "\"attention_head_dim\": 6, \"ffn_dim\": 8, \"text_dim\": 10, \"freq_dim\": 32, " more "}"
#define SMALL WAN("\"num_attention_heads\": 2, \"num_layers\": 2, \"insert_gap\": 42")
#define LARGE WAN("\"num_attention_heads\": 1, \"num_layers\": 1")

static int projections; /* of the text, by its tap */

static void count_text(void *user, const char *name, const kin_tensor *t)
{
    (void)user;
    (void)t;
    projections += strcmp(name, "text") == 0;
}

static void check(kin_ctx *ctx, const net *n, int64_t batch, int64_t side, kin_cfg_mode mode,
                  float t)
{
    const size_t mark = kin_ws_mark(ctx);
    const kin_tensor x = RANDOM(ctx, 1, batch, 2, 1, side, side),
                     text = RANDOM(ctx, 2, batch, 7, 10), uncond = RANDOM(ctx, 3, batch, 7, 10),
                     prior = RANDOM(ctx, 4, batch, 29);
    kin_guided g = {.model = n->model,
                    .mode = mode,
                    .scale = 2.5f,
                    .phys_scale = 1.5f,
                    .interval = {100, 900},
                    .text = &text,
                    .uncond_text = &uncond,
                    .prior = kin_model_get_info(n->model)->categories ? &prior : NULL};
    kin_tensor y[2];

    for (int i = 0; i < 2; i++) {
        assert_ok(kin_ws_tensor(ctx, x.dtype, x.ndim, x.size, &y[i]), &ctx->error);
        if (i == 1)
            assert_ok(kin_guided_cache(ctx, &g, &x), &ctx->error);
        projections = 0;
        ctx->tap = count_text;
        assert_ok(kin_guided_output(ctx, &g, &x, 0.5f, t, 0, &y[i]), &ctx->error);
        ctx->tap = NULL;
        assert_true(i ? projections == 0 : projections > 0);
    }
    assert_memory_equal(y[0].data, y[1].data, (size_t)kin_tensor_numel(&x) * sizeof(float));
    kin_ws_release(ctx, mark);
}

static void test_same_bits(void **state)
{
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CPU, 2);
    net n = open_net(ctx, SMALL), large = open_net(ctx, LARGE);

    (void)state;
    randomize(n.params, 5, 0.3f);
    randomize(large.params, 5, 0.3f);
    check(ctx, &n, 2, 6, KIN_CFG_PLAIN, 500);
    check(ctx, &n, 2, 6, KIN_CFG_MULTI, 500);
    check(ctx, &n, 2, 6, KIN_CFG_MULTI, 950); /* outside the interval: one branch */
    /* 3 * 53 * 53 patches run one by one */
    check(ctx, &large, 1, 106, KIN_CFG_MULTI, 500);
    close_net(&large);
    close_net(&n);
    kin_ctx_destroy(&ctx);
}

/* a cache of other rows, and one while recording, are refused */
static void test_refused(void **state)
{
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CPU, 1);
    net n = open_net(ctx, SMALL);
    const kin_tensor x = RANDOM(ctx, 1, 2, 2, 1, 4, 4), text = RANDOM(ctx, 2, 2, 7, 10),
                     t = RANDOM(ctx, 3, 2);
    kin_text_cache cache, one;
    kin_model_input in = {.x = &x, .t = &t, .text = &text, .cache = &one};
    kin_model_output out;

    (void)state;
    assert_ok(kin_model_cache_text(ctx, n.model, &text, &cache), &ctx->error);
    assert_ok(kin_text_cache_rows(ctx, n.model, &cache, 1, 1, &one), &ctx->error);
    assert_int_equal(kin_model_forward(ctx, n.model, &in, &out), KIN_ERR_ARG);
    assert_non_null(strstr(ctx->error.text, "1 rows for 2 samples"));
    in.cache = &cache;
    assert_ok(kin_model_forward(ctx, n.model, &in, &out), &ctx->error);
    assert_ok(kin_tape_begin(ctx), &ctx->error);
    assert_int_equal(kin_model_forward(ctx, n.model, &in, &out), KIN_ERR_ARG);
    kin_tape_end(ctx);
    close_net(&n);
    kin_ctx_destroy(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

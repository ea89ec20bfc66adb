/* tests/diffusion/test_routers.c: what must hold of every router: identities between them, no
 * influence of batch mates, DiffMoE's predictor and thresholds, published start values. */
#include "tests/diffusion/models.h"

#include "diffusion/moe.h"

#define DIT(model, moe)                                                                            \
    "{\"model\": \"" model "\", \"input_size\": 8, \"patch_size\": 2, \"in_channels\": 3,"         \
    "\"hidden_size\": 16, \"depth\": 2, \"num_heads\": 2, \"mlp_ratio\": 2, \"num_classes\": 10, " \
    "\"MoE_config\": {" moe "}}"
#define GATED "\"num_experts\": 4, \"capacity\": 1"
#define PROMOE                                                                \
    "\"num_routed_experts\": 4, \"top_k\": 1, \"moe_intermediate_size\": 20," \
    "\"shared_expert_intermediate_size\": 12, \"routing_contrastive_lam\": 1"

static const char *const routers[] = {DIT("promoe_tc", PROMOE), DIT("promoe_ec", PROMOE),
                                      DIT("tc", GATED), DIT("ec", GATED), DIT("diffmoe", GATED)};
enum { ROUTERS = sizeof(routers) / sizeof(routers[0]), TOKENS = 16 };

/* sample 0 is null where there are two or more */
static void image_inputs(kin_ctx *ctx, const kin_model *model, int64_t batch, video_in *v,
                         kin_tensor *label)
{
    const kin_model_info *info = kin_model_get_info(model);

    *v = (video_in){.x = RANDOM(ctx, 1, batch, info->in_channels, 8, 8),
                    .dout = RANDOM(ctx, 2, batch, info->out_channels, 8, 8),
                    .t = RANDOM(ctx, 3, batch)};
    assert_ok(KIN_WS(ctx, label, KIN_DTYPE_I32, batch), &ctx->error);
    for (int64_t b = 0; b < batch; b++) {
        ((float *)v->t.data)[b] = 211.5f * (float)(b + 1);
        ((int32_t *)label->data)[b] = batch > 1 && b == 0 ? 10 : (int32_t)b % 10;
    }
    v->in = (kin_model_input){.x = &v->x, .t = &v->t, .label = label};
}

/* --- one layer of experts --- */

typedef struct layer {
    kin_ctx *ctx;
    kin_params *params;
    kin_moe moe;
    kin_tensor x, zero, one, y, aux;
} layer;

static layer open_layer(kin_moe_config cfg, int64_t batch, int64_t tokens, int64_t width)
{
    layer l = {.ctx = open_ctx(KIN_BACKEND_CPU, 1)};
    kin_error err = {0};

    assert_ok(kin_params_create(&l.params, &err), &err);
    assert_ok(kin_moe_register(l.params, "", width, &cfg, &l.moe, &err), &err);
    assert_ok(kin_params_alloc(l.params, KIN_DTYPE_F32, false, &err), &err);
    assert_ok(kin_params_alloc_grads(l.params, false, &err), &err);
    randomize(l.params, 31, 0.5f);
    l.x = RANDOM(l.ctx, 32, batch, tokens, width);
    assert_ok(KIN_WS(l.ctx, &l.zero, KIN_DTYPE_F32, batch, tokens, width), &l.ctx->error);
    assert_ok(KIN_WS(l.ctx, &l.one, KIN_DTYPE_F32, batch, width), &l.ctx->error);
    assert_ok(kin_fill(l.ctx, &l.zero, 0), &l.ctx->error);
    assert_ok(kin_fill(l.ctx, &l.one, 1), &l.ctx->error);
    return l;
}

static void close_layer(layer *l)
{
    kin_moe_free(&l->moe);
    kin_params_destroy(&l->params);
    kin_ctx_destroy(&l->ctx);
}

static void run_layer(layer *l, bool record)
{
    const kin_moe_call call = {.want_aux = record};

    if (record)
        assert_ok(kin_tape_begin(l->ctx), &l->ctx->error);
    assert_ok(kin_moe_forward(l->ctx, &l->moe, &call, &l->x, &l->zero, &l->one, &l->y, &l->aux),
              &l->ctx->error);
    if (record)
        kin_tape_end(l->ctx);
}

static kin_moe_config gated(kin_router_kind router, int64_t experts, double capacity)
{
    kin_moe_config c = kin_config_moe_default(router, 12, 18, false);

    c.experts = experts;
    c.capacity = capacity;
    return c;
}

/* expert e of all tokens -> out [T,D] */
static void expert_of(layer *l, int64_t e, const kin_tensor *rows, kin_tensor *out)
{
    const kin_moe *m = &l->moe;
    const kin_ffn f = {
        .gate = m->gate_w ? m->gate_w[e] : NULL, .w1 = m->w1[e], .b1 = m->b1 ? m->b1[e] : NULL};
    kin_tensor hidden;

    assert_ok(kin_ffn_hidden(l->ctx, &f, rows, &hidden), &l->ctx->error);
    assert_ok(kin_linear(l->ctx, &hidden, m->w2[e], m->b2 ? m->b2[e] : NULL, out), &l->ctx->error);
}

/* Expert choice where every expert takes every token: the mixture with softmax weights. */
static void test_full_capacity_is_dense_mixture(void **state)
{
    (void)state;
    for (int swiglu = 0; swiglu < 2; swiglu++) {
        kin_moe_config c = gated(KIN_ROUTER_EC, 5, 5);
        kin_tensor rows, z, p, of[5];
        layer l;

        c.form = swiglu ? KIN_FFN_SWIGLU : KIN_FFN_FC;
        l = open_layer(c, 2, 7, 12);
        run_layer(&l, false);
        rows = KIN_RESHAPE(&l.x, 14, 12);
        assert_ok(kin_linear(l.ctx, &rows, l.moe.gate, NULL, &z), &l.ctx->error);
        assert_ok(kin_softmax(l.ctx, &z, &p), &l.ctx->error);
        for (int64_t e = 0; e < 5; e++)
            expert_of(&l, e, &rows, &of[e]);
        for (int64_t i = 0; i < 14 * 12; i++) {
            double want = 0;

            for (int64_t e = 0; e < 5; e++)
                want += kin_tensor_get(&p, i / 12 * 5 + e) * kin_tensor_get(&of[e], i);
            assert_true(fabs(kin_tensor_get(&l.y, i) - want) < 1e-5);
        }
        close_layer(&l);
    }
}

/* A batch of one sample is a pool of one sample. */
static void test_diffmoe_of_one_sample_is_ec(void **state)
{
    layer a = open_layer(gated(KIN_ROUTER_EC, 4, 1.5), 1, 11, 12);
    layer b = open_layer(gated(KIN_ROUTER_DIFFMOE, 4, 1.5), 1, 11, 12);

    (void)state;
    assert_int_equal(copy_params(a.params, b.params), a.params->count);
    run_layer(&a, true);
    run_layer(&b, true);
    assert_same_bytes(&a.y, &b.y);
    close_layer(&a);
    close_layer(&b);
}

/* Alike experts: what differs between tokens is the sum of their weights. */
static void test_equal_experts_of_chosen_tokens(void **state)
{
    layer l = open_layer(gated(KIN_ROUTER_EC, 4, 1), 2, 8, 12);
    kin_tensor rows = KIN_RESHAPE(&l.x, 16, 12), expert;
    const kin_moe_call call = {0};
    kin_routing r;
    int none = 0;

    (void)state;
    for (int e = 1; e < 4; e++) {
        kin_param *const *const lists[] = {l.moe.w1, l.moe.b1, l.moe.w2, l.moe.b2};

        for (int k = 0; k < 4; k++)
            memcpy(lists[k][e]->value.data, lists[k][0]->value.data,
                   (size_t)kin_tensor_numel(&lists[k][0]->value) * sizeof(float));
    }
    run_layer(&l, false);
    assert_ok(kin_router_assign(l.ctx, &l.moe, &call, &l.x, &r), &l.ctx->error);
    expert_of(&l, 0, &rows, &expert);
    for (int64_t t = 0; t < 16; t++) {
        double weight = 0;

        for (int64_t e = 0; e < 4; e++)
            weight += kin_tensor_get(&r.score, t * 4 + e);
        none += weight == 0;
        for (int64_t i = t * 12; i < (t + 1) * 12; i++)
            assert_true(fabs(kin_tensor_get(&l.y, i) - weight * kin_tensor_get(&expert, i)) < 1e-5);
    }
    assert_true(none > 0);
    close_layer(&l);
}

/* Uniform probabilities: 0.01, whatever the loads. */
static void test_tc_loss_at_uniform(void **state)
{
    layer l = open_layer(gated(KIN_ROUTER_TC, 4, 1), 2, 8, 12);

    (void)state;
    memset(l.moe.gate->value.data, 0, 4 * 12 * sizeof(float));
    run_layer(&l, true);
    assert_true(fabs(kin_tensor_get(&l.aux, 0) - 0.01) < 1e-8);
    close_layer(&l);
}

/* --- thresholds --- */

/* probability that the predictor gives, sorted descending: the k-th of expert e */
static double kth_prediction(layer *l, int64_t e, int64_t k)
{
    const kin_tensor rows = KIN_RESHAPE(&l->x, 22, 12);
    kin_tensor h, z;
    double v[22];

    assert_ok(kin_linear_act(l->ctx, &rows, l->moe.cp_w1, l->moe.cp_b1, KIN_ACT_SILU, &h),
              &l->ctx->error);
    assert_ok(kin_linear(l->ctx, &h, l->moe.cp_w2, l->moe.cp_b2, &z), &l->ctx->error);
    for (int t = 0; t < 22; t++)
        v[t] = 1 / (1 + exp(-kin_tensor_get(&z, t * 4 + e)));
    for (int i = 0; i < 22; i++)
        for (int j = i + 1; j < 22; j++)
            if (v[j] > v[i]) {
                const double swap = v[i];

                v[i] = v[j];
                v[j] = swap;
            }
    return v[k - 1];
}

static void test_thresholds_follow(void **state)
{
    layer l = open_layer(gated(KIN_ROUTER_DIFFMOE, 4, 1), 2, 11, 12);
    const int64_t k = 5; /* int(22 / 4 * 1) */
    float before[4];

    (void)state;
    memset(l.moe.threshold->value.data, 0, sizeof(before));
    kin_tensor_set(&l.moe.decay->value, 0, 0.95);
    run_layer(&l, true);
    for (int64_t e = 0; e < 4; e++)
        assert_true(fabs(kin_tensor_get(&l.moe.threshold->value, e) -
                         0.05 * kth_prediction(&l, e, k)) < 1e-6);
    for (int i = 1; i < 150; i++)
        run_layer(&l, true);
    for (int64_t e = 0; e < 4; e++) {
        const double want = kth_prediction(&l, e, k);

        assert_true(fabs(kin_tensor_get(&l.moe.threshold->value, e) / want - 1) < 0.01);
    }
    memcpy(before, l.moe.threshold->value.data, sizeof(before));
    run_layer(&l, false);
    assert_memory_equal(before, l.moe.threshold->value.data, sizeof(before));
    close_layer(&l);
}

/* Nothing above its threshold: the experts give nothing, and no value is undefined. */
static void test_no_token_for_anyone(void **state)
{
    layer l = open_layer(gated(KIN_ROUTER_DIFFMOE, 4, 1), 2, 11, 12);

    (void)state;
    for (int rule = 0; rule < 2; rule++) {
        const kin_moe_call call = {.infer_batch = rule};

        for (int e = 0; e < 4; e++)
            kin_tensor_set(&l.moe.threshold->value, e, 2);
        assert_ok(kin_moe_forward(l.ctx, &l.moe, &call, &l.x, &l.zero, &l.one, &l.y, &l.aux),
                  &l.ctx->error);
        for (int64_t i = 0; i < kin_tensor_numel(&l.y); i++)
            assert_true(kin_tensor_get(&l.y, i) == 0.0);
    }
    close_layer(&l);
}

/* --- whole models --- */

/* thresholds near the predictions, so that some tokens are taken and some are not */
static void set_thresholds(kin_params *params)
{
    for (int i = 0; i < params->count; i++) {
        kin_param *p = params->list[i];

        for (int64_t e = 0; strstr(p->name, "expert_threshold") && e < 4; e++)
            kin_tensor_set(&p->value, e, 0.4 + 0.05 * (double)e);
    }
}

static void test_batch_mates(void **state)
{
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CPU, 2);

    (void)state;
    for (int i = 0; i < ROUTERS; i++) {
        net n = open_net(ctx, routers[i]);
        kin_tensor label, x, t, y;
        kin_model_output all, one;
        video_in v;

        randomize(n.params, 40, 0.3f);
        set_thresholds(n.params);
        image_inputs(ctx, n.model, 3, &v, &label);
        assert_ok(kin_model_forward(ctx, n.model, &v.in, &all), &ctx->error);
        for (int64_t b = 0; b < 3; b++) {
            x = kin_tensor_slice(&v.x, 0, b, 1);
            t = kin_tensor_slice(&v.t, 0, b, 1);
            y = kin_tensor_slice(&label, 0, b, 1);
            assert_ok(kin_model_forward(ctx, n.model,
                                        &(kin_model_input){.x = &x, .t = &t, .label = &y}, &one),
                      &ctx->error);
            y = kin_tensor_slice(&all.y, 0, b, 1);
            assert_same_bytes(&one.y, &y);
        }
        close_net(&n);
    }
    kin_ctx_destroy(&ctx);
}

/* The published evaluation of DiffMoE looks at the whole batch. */
static void test_batch_rule_pools(void **state)
{
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CPU, 1);
    net n = open_net(ctx, routers[ROUTERS - 1]);
    kin_tensor label, x, t, y;
    kin_model_output all, one;
    video_in v;

    (void)state;
    randomize(n.params, 40, 0.3f);
    set_thresholds(n.params);
    assert_false(kin_model_pools_batch(n.model));
    kin_model_set_diffmoe_infer(n.model, true);
    assert_true(kin_model_pools_batch(n.model));
    image_inputs(ctx, n.model, 3, &v, &label);
    assert_ok(kin_model_forward(ctx, n.model, &v.in, &all), &ctx->error);
    x = kin_tensor_slice(&v.x, 0, 0, 1);
    t = kin_tensor_slice(&v.t, 0, 0, 1);
    y = kin_tensor_slice(&label, 0, 0, 1);
    assert_ok(
        kin_model_forward(ctx, n.model, &(kin_model_input){.x = &x, .t = &t, .label = &y}, &one),
        &ctx->error);
    y = kin_tensor_slice(&all.y, 0, 0, 1);
    assert_true(near_error(&one.y, &y) > 1e-4);
    close_net(&n);
    kin_ctx_destroy(&ctx);
}

static float *all_grads(const kin_params *params)
{
    float *g = malloc(params->grad_bytes);

    assert_non_null(g);
    memcpy(g, params->grad_block, params->grad_bytes);
    return g;
}

/* The predictor's loss moves the predictor alone: every other gradient is the same to the bit
 * whatever its weight. */
static void test_predictor_is_detached(void **state)
{
    static const char *const weight[] = {"\"CapacityPred_loss_weight\": 0,",
                                         "\"CapacityPred_loss_weight\": 1000,"};
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CPU, 1);
    float *grads[2] = {NULL};
    double own = 0;

    (void)state;
    for (int i = 0; i < 2; i++) {
        char config[1024];
        kin_tensor label;
        video_in v;
        net n;

        snprintf(config, sizeof(config), "{%s%s", weight[i], routers[ROUTERS - 1] + 1);
        n = open_net(ctx, config);
        randomize(n.params, 41, 0.3f);
        image_inputs(ctx, n.model, 3, &v, &label);
        run_backward(&n, &v);
        for (int k = 0; k < n.params->count; k++) {
            kin_param *p = n.params->list[k];

            for (int64_t j = 0;
                 strstr(p->name, "capacity_predictor") && j < kin_tensor_numel(&p->grad); j++) {
                own += i * fabs(kin_tensor_get(&p->grad, j));
                assert_true(i || kin_tensor_get(&p->grad, j) == 0.0);
                kin_tensor_set(&p->grad, j, 0);
            }
        }
        grads[i] = all_grads(n.params);
        if (i)
            assert_memory_equal(grads[0], grads[1], n.params->grad_bytes);
        close_net(&n);
    }
    assert_true(own > 1);
    free(grads[0]);
    free(grads[1]);
    kin_ctx_destroy(&ctx);
}

/* Recomputed blocks, more threads: same output, gradients and thresholds; these move once. */
static void test_recomputation_and_threads(void **state)
{
    (void)state;
    for (int i = 0; i < ROUTERS; i++) {
        float *grads[3];
        double threshold[3] = {0};

        for (int way = 0; way < 3; way++) {
            kin_ctx *ctx = open_ctx(KIN_BACKEND_CPU, way == 2 ? 3 : 1);
            net n = open_net(ctx, routers[i]);
            const kin_param *p = kin_params_find(n.params, "blocks.1.mlp.expert_threshold");
            kin_tensor label;
            video_in v;

            randomize(n.params, 42, 0.3f);
            set_thresholds(n.params);
            kin_model_set_checkpointing(n.model, way == 1);
            image_inputs(ctx, n.model, 3, &v, &label);
            run_backward(&n, &v);
            grads[way] = all_grads(n.params);
            threshold[way] = p ? kin_tensor_get(&p->value, 0) : 0;
            assert_true(threshold[way] == threshold[0] && threshold[0] != 0.4);
            assert_memory_equal(grads[way], grads[0], n.params->grad_bytes);
            close_net(&n);
            kin_ctx_destroy(&ctx);
        }
        for (int way = 0; way < 3; way++)
            free(grads[way]);
    }
}

/* The native family with every router: finite, and the same with recomputed blocks. */
static void test_native_routers(void **state)
{
    static const char *const names[] = {"promoe_tc", "promoe_ec", "tc", "ec", "diffmoe"};
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CPU, 1);

    (void)state;
    for (int i = 0; i < 5; i++) {
        char config[1024];
        kin_tensor y[2];

        for (int way = 0; way < 2; way++) {
            video_in v;
            net n;

            snprintf(config, sizeof(config),
                     "{\"_class_name\": \"KinemaTransformer3DModel\", " NET_SMALL
                     ", \"patch_size\": [1,2,2], \"text_len\": 6, \"ffn_dim\": 24,"
                     "\"phys_head_dim\": 4, \"phys_heads_per_class\": 1, \"model\": \"%s\","
                     "\"MoE_config\": {\"%s\": 3}}",
                     names[i], i < 2 ? "num_routed_experts" : "num_experts");
            n = open_net(ctx, config);
            assert_string_equal(kin_model_get_info(n.model)->router, names[i]);
            randomize(n.params, 43, 0.2f);
            kin_model_set_checkpointing(n.model, way == 1);
            video_inputs(ctx, n.model, 2, 2, 4, 4, &v);
            y[way] = run_backward(&n, &v);
            assert_true(isfinite(near_error(&y[way], &v.dout)));
            close_net(&n);
        }
        assert_same_bytes(&y[0], &y[1]);
    }
    kin_ctx_destroy(&ctx);
}

/* --- start --- */

static void moments(const kin_param *p, double *most, double *deviation)
{
    const int64_t n = kin_tensor_numel(&p->value);
    double sum = 0;

    assert_non_null(p);
    *most = 0;
    for (int64_t i = 0; i < n; i++) {
        const double v = kin_tensor_get(&p->value, i);

        *most = fmax(*most, fabs(v));
        sum += v * v;
    }
    *deviation = sqrt(sum / (double)n);
}

static void check_start(kin_ctx *ctx, const char *config, const char *name, double most,
                        double deviation)
{
    net n = open_net(ctx, config);
    char full[96];
    double top, sd;

    kin_model_start(n.model, n.params, 3);
    snprintf(full, sizeof(full), "blocks.1.mlp.%s", name);
    moments(kin_params_find(n.params, full), &top, &sd);
    assert_true(top <= most);
    assert_true(fabs(sd - deviation) <= 0.15 * deviation);
    close_net(&n);
}

static void test_published_start(void **state)
{
#define WIDE(model, moe)                                                                \
    "{\"model\": \"" model "\", \"input_size\": 8, \"hidden_size\": 256, \"depth\": 2," \
    "\"num_heads\": 2, \"mlp_ratio\": 0.25, \"num_classes\": 4, \"MoE_config\": {" moe "}}"
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CPU, 1);

    (void)state;
    check_start(ctx, WIDE("tc", GATED), "gate.weight", 1.0 / 16, 1 / (16 * sqrt(3)));
    check_start(ctx, WIDE("ec", GATED), "gate_weight", 0.04, 0.006);
    check_start(ctx, WIDE("diffmoe", GATED), "gate_weight", 0.04, 0.006);
    check_start(ctx, WIDE("diffmoe", GATED), "capacity_predictor.0.weight", sqrt(6.0 / 512),
                sqrt(6.0 / 512 / 3));
    check_start(ctx, WIDE("diffmoe", GATED), "capacity_predictor.2.bias", 0, 0);
    check_start(ctx, WIDE("diffmoe", GATED), "expert_threshold", 0, 0);
    check_start(ctx, WIDE("diffmoe", GATED), "ema_decay", 0.9501, 0.95);
    check_start(ctx, WIDE("ec", GATED), "experts.0.fc1.weight", sqrt(6.0 / 320),
                sqrt(6.0 / 320 / 3));
    check_start(ctx, WIDE("promoe_ec", PROMOE), "cluster_centers", 0.12, 0.02);
    kin_ctx_destroy(&ctx);
#undef WIDE
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_full_capacity_is_dense_mixture),
        cmocka_unit_test(test_diffmoe_of_one_sample_is_ec),
        cmocka_unit_test(test_equal_experts_of_chosen_tokens),
        cmocka_unit_test(test_tc_loss_at_uniform),
        cmocka_unit_test(test_thresholds_follow),
        cmocka_unit_test(test_no_token_for_anyone),
        cmocka_unit_test(test_batch_mates),
        cmocka_unit_test(test_batch_rule_pools),
        cmocka_unit_test(test_predictor_is_detached),
        cmocka_unit_test(test_recomputation_and_threads),
        cmocka_unit_test(test_native_routers),
        cmocka_unit_test(test_published_start),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

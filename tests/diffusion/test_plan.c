/* tests/diffusion/test_plan.c: the dry run against runs: workspace and packed weights to the byte.
 */
#include "tests/diffusion/models.h"

#define PROMOE                                                                                 \
    "{\"model\": \"promoe_tc\", \"input_size\": 16, \"patch_size\": 2, \"in_channels\": 3,"    \
    "\"hidden_size\": 64, \"depth\": 4, \"num_heads\": 2, \"num_classes\": 10,"                \
    "\"MoE_config\": {\"num_routed_experts\": 4, \"top_k\": 2, \"moe_intermediate_size\": 96," \
    "\"shared_expert_intermediate_size\": 64, \"routing_contrastive_lam\": 1,"                 \
    "\"load_balance_loss_coef\": 0.01}}"
#define GATED(model, more)                                                                  \
    "{\"model\": \"" model "\", \"input_size\": 16, \"patch_size\": 2, \"in_channels\": 3," \
    "\"hidden_size\": 64, \"depth\": 4, \"num_heads\": 2, \"num_classes\": 10," more        \
    "\"MoE_config\": {\"num_experts\": 5, \"capacity\": 1, \"n_shared_experts\": 1}}"
#define PROMOE_EC                                                                           \
    "{\"model\": \"promoe_ec\", \"input_size\": 16, \"patch_size\": 2, \"in_channels\": 3," \
    "\"hidden_size\": 64, \"depth\": 4, \"num_heads\": 2, \"num_classes\": 10,"             \
    "\"MoE_config\": {\"num_routed_experts\": 5, \"moe_intermediate_size\": 96,"            \
    "\"shared_expert_intermediate_size\": 64, \"routing_contrastive_lam\": 1}}"
#define NATIVE                                                                                   \
    "{\"_class_name\": \"KinemaTransformer3DModel\", \"patch_size\": [1,4,4],"                   \
    "\"num_attention_heads\": 2, \"attention_head_dim\": 32, \"text_dim\": 24, \"text_len\": 6," \
    "\"freq_dim\": 32, \"num_layers\": 4, \"ffn_dim\": 200, \"phys_head_dim\": 4,"               \
    "\"phys_heads_per_class\": 1, \"model\": \"promoe_tc\","                                     \
    "\"MoE_config\": {\"num_routed_experts\": 3}}"

static kin_ctx *ctx_of(kin_backend backend, int threads, kin_dtype compute)
{
    const kin_ctx_options opt = {.backend = backend, .threads = threads, .compute = compute};
    kin_error err = {0};
    kin_ctx *ctx = NULL;

    assert_ok(kin_ctx_create(&opt, &ctx, &err), &err);
    return ctx;
}

static net net_on(kin_ctx *ctx, const char *config)
{
    const bool plan = kin_ctx_is_plan(ctx);
    cJSON *j = json(config);
    net n = {.ctx = ctx};

    assert_ok(kin_params_create(&n.params, &n.err), &n.err);
    assert_ok(kin_model_create(j, n.params, &n.model, &n.err), &n.err);
    assert_ok(kin_params_alloc(n.params, KIN_DTYPE_F32, plan, &n.err), &n.err);
    assert_ok(kin_params_alloc_grads(n.params, plan, &n.err), &n.err);
    if (!plan)
        randomize(n.params, 7, 0.2f);
    cJSON_Delete(j);
    return n;
}

/* The inputs of either family; sample 0 is null. */
static void inputs(kin_ctx *ctx, const kin_model *model, int64_t batch, video_in *v,
                   kin_tensor *label)
{
    const kin_model_info *info = kin_model_get_info(model);

    if (info->family != KIN_FAMILY_DIT) {
        video_inputs(ctx, model, batch, 2, 8, 8, v);
        return;
    }
    *v = (video_in){.x = RANDOM(ctx, 1, batch, info->in_channels, 16, 16),
                    .dout = RANDOM(ctx, 2, batch, info->out_channels, 16, 16),
                    .t = RANDOM(ctx, 3, batch)};
    assert_ok(KIN_WS(ctx, label, KIN_DTYPE_I32, batch), &ctx->error);
    for (int64_t b = 0; b < batch; b++)
        ((int32_t *)label->data)[b] = b == 0 ? 10 : (int32_t)b % 10;
    v->in = (kin_model_input){.x = &v->x, .t = &v->t, .label = label};
}

/* One forward, or one forward and backward; returns the workspace's peak above the inputs. */
static size_t run(net *n, int64_t batch, bool train)
{
    const size_t mark = kin_ws_mark(n->ctx);
    kin_model_output out;
    kin_tensor label;
    video_in v;
    size_t start;

    inputs(n->ctx, n->model, batch, &v, &label);
    start = kin_ws_mark(n->ctx);
    n->ctx->ws.peak = start;
    if (train)
        run_backward(n, &v);
    else
        assert_ok(kin_model_forward(n->ctx, n->model, &v.in, &out), &n->ctx->error);
    kin_ws_release(n->ctx, mark);
    return n->ctx->ws.peak - start;
}

/* A parameter has the packs that were planned; experts that no token chose have none. */
static void check_packs(const kin_params *plan, const kin_params *real)
{
    size_t missing = 0;

    assert_int_equal(plan->count, real->count);
    for (int i = 0; i < plan->count; i++) {
        const kin_param *p = plan->list[i], *r = real->list[i];
        size_t want = 0, have = 0;

        for (const kin_pack *k = p->packs; k; k = k->next)
            want += k->bytes;
        for (const kin_pack *k = r->packs; k; k = k->next)
            have += k->bytes;
        if (strstr(p->name, "experts.") && have == 0)
            missing += want;
        else
            assert_int_equal(want, have);
    }
    assert_int_equal(kin_params_pack_bytes(plan), kin_params_pack_bytes(real) + missing);
    assert_true(kin_params_pack_bytes(real) > 0);
}

static void check(const char *config, int threads, kin_dtype compute)
{
    kin_ctx *plan = ctx_of(KIN_BACKEND_PLAN, threads, compute);
    kin_ctx *real = ctx_of(KIN_BACKEND_CPU, threads, compute);
    net p = net_on(plan, config), r = net_on(real, config);
    static const int64_t batches[] = {1, 2, 5};

    for (int train = 0; train < (compute == KIN_DTYPE_I8 ? 1 : 2); train++) {
        for (size_t i = 0; i < sizeof(batches) / sizeof(batches[0]); i++) {
            const size_t planned = run(&p, batches[i], train), taken = run(&r, batches[i], train);

            if (planned != taken)
                fail_msg("batch %d, %d threads, %s, %s: planned %zu bytes, taken %zu",
                         (int)batches[i], threads, kin_dtype_name(compute),
                         train ? "training" : "inference", planned, taken);
        }
    }
    check_packs(p.params, r.params);
    close_net(&p);
    close_net(&r);
    kin_ctx_destroy(&plan);
    kin_ctx_destroy(&real);
}

static void the_plan_is_exact(void **state)
{
    static const char *const configs[] = {PROMOE,
                                          NATIVE,
                                          PROMOE_EC,
                                          GATED("tc", ""),
                                          GATED("ec", "\"use_swiglu\": true,"),
                                          GATED("diffmoe", "")};

    (void)state;
    for (size_t i = 0; i < sizeof(configs) / sizeof(configs[0]); i++) {
        for (int threads = 1; threads <= 2; threads++) {
            check(configs[i], threads, KIN_DTYPE_F32);
            check(configs[i], threads, KIN_DTYPE_BF16);
            check(configs[i], threads, KIN_DTYPE_I8);
        }
    }
}

/* Rows that the routing makes uneven change nothing: the whole batch on one expert. */
static void routing_does_not_change_the_need(void **state)
{
    kin_ctx *ctx = ctx_of(KIN_BACKEND_CPU, 2, KIN_DTYPE_F32);
    net n = net_on(ctx, PROMOE);
    const size_t spread = run(&n, 5, true);

    (void)state;
    for (int i = 0; i < n.params->count; i++) {
        kin_param *p = n.params->list[i];

        if (!strstr(p->name, "cluster_centers"))
            continue;
        for (int64_t k = 0; k < kin_tensor_numel(&p->value); k++)
            ((float *)p->value.data)[k] = 1.0f;
        kin_param_touch(p);
    }
    assert_int_equal(run(&n, 5, true), spread);
    close_net(&n);
    kin_ctx_destroy(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_plan_is_exact),
        cmocka_unit_test(routing_does_not_change_the_need),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

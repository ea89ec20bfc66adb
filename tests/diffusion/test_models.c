/* Properties of the families: parameter counts, routing of null samples, recomputation, backends,
 * start, refusals. */
#include "tests/diffusion/models.h"

#include "base/path.h"
#include "diffusion/guided.h"
#include "diffusion/moe.h"
#include "samplers/guidance.h"

#define KINEMA                                                                                  \
    "\"_class_name\": \"KinemaTransformer3DModel\", \"patch_size\": [1,2,2], \"ffn_dim\": 24, " \
    "\"text_len\": 5, " NET_SMALL
#define KINEMA_MOE                                                                 \
    KINEMA ", \"model\": \"promoe_tc\", \"insert_gap\": 2, \"phys_head_dim\": 4, " \
           "\"MoE_config\": {\"num_routed_experts\": 4}"

#define COG_CLASS "\"_class_name\": \"CogVideoXTransformer3DModel\", "
#define COG                                                                        \
    COG_CLASS                                                                      \
    "\"in_channels\": 3, \"out_channels\": 3, \"num_attention_heads\": 2, "        \
    "\"attention_head_dim\": 16, \"text_embed_dim\": 12, \"time_embed_dim\": 20, " \
    "\"num_layers\": 3, \"sample_height\": 4, \"sample_width\": 6, \"max_text_seq_length\": 5"
#define COG_ROTARY COG ", \"use_rotary_positional_embeddings\": true"

/* --- parameter counts --- */

static int64_t count_of(const cJSON *config)
{
    kin_params *params;
    kin_model *model;
    kin_error err = {0};
    int64_t n;

    assert_ok(kin_params_create(&params, &err), &err);
    assert_ok(kin_model_create(config, params, &model, &err), &err);
    n = kin_params_numel(params);
    kin_model_destroy(&model);
    kin_params_destroy(&params);
    return n;
}

/* totals of the ProMoE paper's table (with pos_embed), recomputed in the published code */
static void test_published_counts(void **state)
{
    static const struct {
        int depth, width, heads;
        int64_t dense, moe;
    } sizes[] = {{12, 384, 6, 32963360, 75543584},
                 {12, 768, 12, 130512416, 300607520},
                 {24, 1024, 16, 458102816, 1062684704},
                 {28, 1152, 16, 675129632, 1567733792}};

    (void)state;
    for (int i = 0; i < 4; i++) {
        char text[600];
        cJSON *j;

        snprintf(text, sizeof(text),
                 "{\"input_size\": 32, \"patch_size\": 2, \"depth\": %d, \"hidden_size\": %d, "
                 "\"num_heads\": %d}",
                 sizes[i].depth, sizes[i].width, sizes[i].heads);
        j = json(text);
        assert_int_equal(count_of(j), sizes[i].dense);
        cJSON_Delete(j);
        snprintf(text, sizeof(text),
                 "{\"input_size\": 32, \"patch_size\": 2, \"depth\": %d, \"hidden_size\": %d, "
                 "\"num_heads\": %d,"
                 "\"MoE_config\": {\"num_routed_experts\": 12, \"moe_intermediate_size\": %d,"
                 "\"shared_expert_intermediate_size\": %d, \"top_k\": 1}}",
                 sizes[i].depth, sizes[i].width, sizes[i].heads, 2 * sizes[i].width,
                 2 * sizes[i].width);
        j = json(text);
        assert_int_equal(count_of(j), sizes[i].moe);
        cJSON_Delete(j);
    }
}

/* names and shapes, one by one */
static void test_official_shapes(void **state)
{
    const char *dir = kin_test_golden_dir();
    char path[1024];
    cJSON *root;
    const cJSON *m;
    int judged = 0;
    kin_error err = {0};

    (void)state;
    if (!dir)
        skip();
    snprintf(path, sizeof(path), "%s/image/params.json", dir);
    assert_ok(kin_json_read(path, 1 << 24, KIN_JSON_STRICT, &root, &err), &err);
    cJSON_ArrayForEach(m, cJSON_GetObjectItemCaseSensitive(root, "models"))
    {
        const cJSON *tensors = cJSON_GetObjectItemCaseSensitive(m, "tensors");
        kin_params *params;
        kin_model *model;

        if (strstr(m->string, "_EC")) /* expert choice: a later release */
            continue;
        assert_ok(kin_params_create(&params, &err), &err);
        assert_ok(
            kin_model_create(cJSON_GetObjectItemCaseSensitive(m, "config"), params, &model, &err),
            &err);
        assert_int_equal(params->count, cJSON_GetArraySize(tensors));
        for (int i = 0; i < params->count; i++) {
            const kin_param *p = params->list[i];
            const cJSON *shape = cJSON_GetObjectItemCaseSensitive(tensors, p->name);

            assert_int_equal(p->value.ndim, cJSON_GetArraySize(shape));
            for (int d = 0; d < p->value.ndim; d++)
                assert_int_equal(p->value.size[d], cJSON_GetArrayItem(shape, d)->valueint);
        }
        kin_model_destroy(&model);
        kin_params_destroy(&params);
        judged++;
    }
    assert_int_equal(judged, 8);
    cJSON_Delete(root);
}

/* --- null samples --- */

/* a batch of null samples only: gradients of routed experts and prototypes are exactly zero, those
 * of the unconditional expert are not, and the routed experts' values are without effect */
static void test_null_never_touches_routed_experts(void **state)
{
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CPU, 1);
    net n = open_net(ctx, "{" KINEMA_MOE "}");
    kin_tensor first, again;
    video_in v;
    double uncond = 0;

    (void)state;
    randomize(n.params, 21, 0.2f);
    video_inputs(ctx, n.model, 2, 2, 4, 4, &v);
    memset(v.null.data, 1, 2);
    first = run_backward(&n, &v);
    for (int i = 0; i < n.params->count; i++) {
        kin_param *p = n.params->list[i];
        const bool routed = strstr(p->name, "experts.") && !strstr(p->name, "experts.4.");

        for (int64_t k = 0; k < kin_tensor_numel(&p->grad); k++) {
            if (routed || strstr(p->name, "cluster_centers"))
                assert_true(kin_tensor_get(&p->grad, k) == 0.0);
            else if (strstr(p->name, "experts.4."))
                uncond += fabs(kin_tensor_get(&p->grad, k));
        }
        for (int64_t k = 0; routed && k < kin_tensor_numel(&p->value); k++)
            kin_tensor_set(&p->value, k, 1e6);
        kin_param_touch(p);
    }
    assert_true(uncond > 0.1);
    again = run_backward(&n, &v);
    assert_same_bytes(&first, &again);
    close_net(&n);
    kin_ctx_destroy(&ctx);
}

/* all experts alike, top-1 identity: output = shared(x) + cos * E(x) */
static void test_equal_experts(void **state)
{
    enum { N = 9, D = 12 };
    const kin_moe_config cfg = {.router = KIN_ROUTER_PROMOE_TC,
                                .experts = 5,
                                .top_k = 1,
                                .hidden = 7,
                                .shared_hidden = 3,
                                .form = KIN_FFN_PROJ,
                                .shared_form = KIN_FFN_PROJ,
                                .rcl_tau = 0.07,
                                .shared = true};
    const kin_moe_call call = {0};
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CPU, 1);
    kin_params *params;
    kin_moe m;
    kin_error err = {0};
    kin_tensor x, zero, one, y, aux, rows, hidden, shared, expert;
    kin_routing r;

    (void)state;
    assert_ok(kin_params_create(&params, &err), &err);
    assert_ok(kin_moe_register(params, "", D, &cfg, &m, &err), &err);
    assert_ok(kin_params_alloc(params, KIN_DTYPE_F32, false, &err), &err);
    randomize(params, 22, 0.5f);
    for (int e = 1; e < 5; e++) {
        kin_param *const *const lists[] = {m.w1, m.b1, m.w2, m.b2};

        for (int k = 0; k < 4; k++)
            memcpy(lists[k][e]->value.data, lists[k][0]->value.data,
                   (size_t)kin_tensor_numel(&lists[k][0]->value) * sizeof(float));
    }
    x = RANDOM(ctx, 23, 1, N, D);
    assert_ok(KIN_WS(ctx, &zero, KIN_DTYPE_F32, 1, N, D), &ctx->error);
    assert_ok(KIN_WS(ctx, &one, KIN_DTYPE_F32, 1, D), &ctx->error);
    assert_ok(kin_fill(ctx, &zero, 0), &ctx->error);
    assert_ok(kin_fill(ctx, &one, 1), &ctx->error);
    assert_ok(kin_moe_forward(ctx, &m, &call, &x, &zero, &one, &y, &aux), &ctx->error);
    assert_ok(kin_router_assign(ctx, &m, &call, &x, &r), &ctx->error);
    rows = KIN_RESHAPE(&x, N, D);
    assert_ok(kin_ffn_hidden(ctx, &m.shared, &rows, &hidden), &ctx->error);
    assert_ok(kin_linear(ctx, &hidden, m.shared.w2, m.shared.b2, &shared), &ctx->error);
    assert_ok(kin_linear_act(ctx, &rows, m.w1[0], m.b1[0], KIN_ACT_GELU_TANH, &hidden),
              &ctx->error);
    assert_ok(kin_linear(ctx, &hidden, m.w2[0], m.b2[0], &expert), &ctx->error);
    for (int64_t i = 0; i < N * D; i++) {
        const double want = kin_tensor_get(&shared, i) +
                            kin_tensor_get(&r.score, i / D) * kin_tensor_get(&expert, i);

        assert_true(fabs(kin_tensor_get(&y, i) - want) < 1e-5);
    }
    kin_moe_free(&m);
    kin_params_destroy(&params);
    kin_ctx_destroy(&ctx);
}

/* --- start --- */

/* to_out.0 starts at zero: physical blocks change nothing, whatever the prior */
static void test_untrained_physical_block(void **state)
{
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CPU, 1);
    net n = open_net(ctx, "{" KINEMA_MOE "}");
    kin_model_output a, b;
    video_in v;

    (void)state;
    kin_model_start(n.model, n.params, 5);
    /* what starts at zero hides everything behind it, so these two are set */
    for (int i = 0; i < n.params->count; i++) {
        kin_param *p = n.params->list[i];

        if (strstr(p->name, "proj_out") || strstr(p->name, "time_proj"))
            for (int64_t k = 0; k < kin_tensor_numel(&p->value); k++)
                kin_tensor_set(&p->value, k, 0.01 * (double)(k % 17 - 8));
    }
    video_inputs(ctx, n.model, 2, 2, 4, 4, &v);
    assert_ok(kin_model_forward(ctx, n.model, &v.in, &a), &ctx->error);
    for (int i = 0; i < 58; i++)
        ((float *)v.prior.data)[i] = 1.0f - ((float *)v.prior.data)[i];
    assert_ok(kin_model_forward(ctx, n.model, &v.in, &b), &ctx->error);
    assert_same_bytes(&a.y, &b.y);
    assert_same_bytes(&a.logits, &b.logits);
    close_net(&n);
    kin_ctx_destroy(&ctx);
}

static double rms(const kin_param *p)
{
    double sum = 0;

    for (int64_t i = 0; i < kin_tensor_numel(&p->value); i++)
        sum += kin_tensor_get(&p->value, i) * kin_tensor_get(&p->value, i);
    return sqrt(sum / (double)kin_tensor_numel(&p->value));
}

static void test_start_values(void **state)
{
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CPU, 1);
    net n = open_net(ctx, "{" KINEMA_MOE ", \"gate_start\": 0.5, \"pos_embed\": \"learned\","
                          "\"sample_frames\": 4, \"sample_height\": 32, \"sample_width\": 64,"
                          "\"quantity_modulation\": \"all\"}");
    static const char *const zero[] = {"proj_out.weight", "condition_embedder.time_proj.weight",
                                       "phys_blocks.2.phys_attn.to_out.0.weight",
                                       "phys_quantify_embedder.linear_all.weight",
                                       "blocks.0.attn1.to_q.bias"};
    const kin_param *table, *pos;

    (void)state;
    kin_model_start(n.model, n.params, 7);
    for (int i = 0; i < 5; i++) {
        const kin_param *p = kin_params_find(n.params, zero[i]);

        assert_non_null(p);
        assert_true(rms(p) == 0.0);
    }
    /* xavier: sqrt(2 / (in + out)) */
    assert_true(fabs(rms(kin_params_find(n.params, "phys_classifier.0.weight")) - sqrt(2.0 / 528)) <
                0.002);
    assert_true(
        fabs(rms(kin_params_find(n.params, "condition_embedder.text_embedder.linear_1.weight")) -
             0.02) < 0.004);
    pos = kin_params_find(n.params, "pos_embed.column");
    assert_int_equal(pos->value.size[0], 32);
    assert_true(fabs(rms(pos) - 0.3) < 0.03);
    /* rows 2 and 5 are the gates */
    table = kin_params_find(n.params, "blocks.1.scale_shift_table");
    for (int row = 0; row < 6; row++) {
        double mean = 0;

        for (int i = 0; i < 16; i++)
            mean += kin_tensor_get(&table->value, row * 16 + i) / 16;
        if (row == 2 || row == 5)
            assert_true(fabs(mean - 0.5) < 0.3);
        else
            assert_true(fabs(mean) < 0.3);
    }
    close_net(&n);
    kin_ctx_destroy(&ctx);
}

static void test_chosen_start_values(void **state)
{
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CPU, 1);
    net n = open_net(ctx, "{" KINEMA_MOE ", \"pos_embed\": \"learned\", \"pos_embed_start\": 1,"
                          "\"text_embedder_start\": \"xavier\", \"sample_frames\": 4,"
                          "\"sample_height\": 32, \"sample_width\": 64}");
    const kin_param *text;

    (void)state;
    kin_model_start(n.model, n.params, 7);
    text = kin_params_find(n.params, "condition_embedder.text_embedder.linear_1.weight");
    assert_true(fabs(rms(text) / sqrt(2.0 / (double)(text->value.size[0] + text->value.size[1])) -
                     1) < 0.1);
    assert_true(fabs(rms(kin_params_find(n.params, "pos_embed.column")) - 1) < 0.1);
    close_net(&n);
    kin_ctx_destroy(&ctx);
}

/* DiT's fixed table: first half from the column, second from the row */
static void test_dit_positions(void **state)
{
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CPU, 1);
    net n = open_net(ctx, "{\"input_size\": 6, \"patch_size\": 2, \"hidden_size\": 8, \"depth\": 1,"
                          "\"num_heads\": 2, \"num_classes\": 3}");
    const kin_param *p = kin_params_find(n.params, "pos_embed");

    (void)state;
    kin_model_start(n.model, n.params, 1);
    assert_false(p->trainable);
    /* cell (row 1, column 2) */
    for (int i = 0; i < 2; i++) {
        const double f = pow(10000, -i / 2.0);
        const int64_t at = (1 * 3 + 2) * 8;

        assert_true(fabs(kin_tensor_get(&p->value, at + i) - sin(2 * f)) < 1e-6);
        assert_true(fabs(kin_tensor_get(&p->value, at + 2 + i) - cos(2 * f)) < 1e-6);
        assert_true(fabs(kin_tensor_get(&p->value, at + 4 + i) - sin(1 * f)) < 1e-6);
        assert_true(fabs(kin_tensor_get(&p->value, at + 6 + i) - cos(1 * f)) < 1e-6);
    }
    close_net(&n);
    kin_ctx_destroy(&ctx);
}

/* --- recomputation and backends --- */

static float *copy_grads(const kin_params *params)
{
    float *g = malloc(params->grad_bytes);

    memcpy(g, params->grad_block, params->grad_bytes);
    return g;
}

static void check_recomputation(const char *config)
{
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CPU, 2);
    net n = open_net(ctx, config);
    float *plain, *first;
    kin_tensor y;
    size_t mark, bytes, high, low;
    video_in v;

    randomize(n.params, 31, 0.2f);
    video_inputs(ctx, n.model, 3, 2, 4, 6, &v);
    mark = kin_ws_mark(ctx);
    y = run_backward(&n, &v);
    plain = copy_grads(n.params);
    bytes = (size_t)kin_tensor_numel(&y) * sizeof(float);
    first = malloc(bytes);
    memcpy(first, y.data, bytes);
    high = ctx->ws.peak;
    kin_ws_release(ctx, mark);
    ctx->ws.peak = 0;
    kin_model_set_checkpointing(n.model, true);
    y = run_backward(&n, &v);
    low = ctx->ws.peak;
    assert_memory_equal(first, y.data, bytes);
    assert_memory_equal(plain, n.params->grad_block, n.params->grad_bytes);
    assert_true(low < high);
    free(first);
    free(plain);
    close_net(&n);
    kin_ctx_destroy(&ctx);
}

static void test_recomputation_is_bit_equal(void **state)
{
    (void)state;
    check_recomputation("{" KINEMA_MOE "}");
    check_recomputation(
        "{" KINEMA ", \"model\": \"dense\", \"phys_qk_norm\": \"layer_norm\", \"mopa_floor\": 0}");
    check_recomputation(
        "{\"_class_name\": \"WanTransformer3DModel\", \"in_channels\": 3, \"out_channels\": 3,"
        "\"ffn_dim\": 24, " NET_SMALL "}");
    check_recomputation("{" COG "}");
    check_recomputation("{" COG_ROTARY ", \"insert_gap\": 2}");
}

/* a sample does not depend on its batch mates */
static void test_cogvideox_samples_are_apart(void **state)
{
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CPU, 2);
    net n = open_net(ctx, "{" COG_ROTARY ", \"insert_gap\": 2}");
    kin_model_output all, one;
    video_in v;

    (void)state;
    randomize(n.params, 31, 0.2f);
    video_inputs(ctx, n.model, 3, 2, 4, 6, &v);
    assert_ok(kin_model_forward(ctx, n.model, &v.in, &all), &ctx->error);
    for (int64_t b = 0; b < 3; b++) {
        const kin_tensor x = kin_tensor_slice(&v.x, 0, b, 1), t = kin_tensor_slice(&v.t, 0, b, 1),
                         text = kin_tensor_slice(&v.text, 0, b, 1),
                         prior = kin_tensor_slice(&v.prior, 0, b, 1),
                         quant = kin_tensor_slice(&v.quant, 0, b, 1);
        const kin_tensor draws = kin_tensor_slice(&v.u, 1, b, 1),
                         y = kin_tensor_slice(&all.y, 0, b, 1),
                         logits = kin_tensor_slice(&all.logits, 0, b, 1);
        kin_tensor u;
        kin_model_input in = {
            .x = &x, .t = &t, .text = &text, .prior = &prior, .quant = &quant, .u = &u};

        assert_ok(kin_contiguous(ctx, &draws, &u), &ctx->error);
        assert_ok(kin_model_forward(ctx, n.model, &in, &one), &ctx->error);
        assert_same_bytes(&one.y, &y);
        assert_same_bytes(&one.logits, &logits);
    }
    close_net(&n);
    kin_ctx_destroy(&ctx);
}

/* CPU kernels against the reference at real widths */
static void check_width(int heads)
{
    char config[900];
    kin_ctx *ref = open_ctx(KIN_BACKEND_REF, 1), *cpu = open_ctx(KIN_BACKEND_CPU, 2);
    net a, b;
    video_in va, vb;
    kin_tensor ya, yb;

    snprintf(config, sizeof(config),
             "{\"_class_name\": \"KinemaTransformer3DModel\", \"patch_size\": [1,8,8], "
             "\"num_attention_heads\": %d,"
             "\"attention_head_dim\": 64, \"text_dim\": 64, \"text_len\": 6, \"freq_dim\": 64, "
             "\"num_layers\": 2,"
             "\"ffn_dim\": 512, \"phys_head_dim\": 8, \"phys_heads_per_class\": 1,"
             "\"MoE_config\": {\"num_routed_experts\": 3}}",
             heads);
    a = open_net(ref, config);
    b = open_net(cpu, config);
    randomize(a.params, 41, 0.03f);
    copy_params(a.params, b.params);
    video_inputs(ref, a.model, 2, 2, 16, 16, &va);
    video_inputs(cpu, b.model, 2, 2, 16, 16, &vb);
    ya = run_backward(&a, &va);
    yb = run_backward(&b, &vb);
    assert_true(near_error(&yb, &ya) < 1e-5);
    for (int i = 0; i < a.params->count; i++) {
        const double error = near_error(&b.params->list[i]->grad, &a.params->list[i]->grad);
        double top = 0;

        /* note: biases of keys without effect hold rounding noise only */
        for (int64_t k = 0; k < kin_tensor_numel(&a.params->list[i]->grad); k++)
            top = fmax(top, fabs(kin_tensor_get(&a.params->list[i]->grad, k)));
        if (error >= 1e-4 && top > 1e-3)
            fail_msg("gradient of %s: %g", a.params->list[i]->name, error);
    }
    close_net(&a);
    close_net(&b);
    kin_ctx_destroy(&ref);
    kin_ctx_destroy(&cpu);
}

static void test_cpu_against_reference(void **state)
{
    (void)state;
    check_width(6);  /* D 384 */
    check_width(12); /* D 768 */
}

/* --- guidance --- */

/* branches stacked in one batch give the bits of branches run one by one */
static void test_stacked_branches(void **state)
{
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CPU, 1);
    net n = open_net(ctx, "{" KINEMA_MOE "}");
    const int64_t size[5] = {2, 3, 2, 4, 4};
    kin_tensor neg, neg_null, v, of[3], t, sigma;
    video_in in;

    (void)state;
    randomize(n.params, 81, 0.2f);
    video_inputs(ctx, n.model, 2, 2, 4, 4, &in);
    neg = RANDOM(ctx, 82, 2, 5, 12);
    assert_ok(KIN_WS(ctx, &neg_null, KIN_DTYPE_U8, 2), &ctx->error);
    memset(neg_null.data, 1, 2);
    assert_ok(KIN_WS(ctx, &t, KIN_DTYPE_F32, 2), &ctx->error);
    assert_ok(KIN_WS(ctx, &sigma, KIN_DTYPE_F32, 2), &ctx->error);
    assert_ok(kin_fill(ctx, &t, 640), &ctx->error);
    assert_ok(kin_fill(ctx, &sigma, 0.64), &ctx->error);
    assert_ok(kin_ws_tensor(ctx, KIN_DTYPE_F32, 5, size, &v), &ctx->error);
    for (int i = 0; i < 3; i++) {
        kin_model_input one = {.x = &in.x, .t = &t, .text = &in.text, .null = &in.null};
        kin_model_output out;

        if (i == 0) {
            one.prior = &in.prior;
            one.quant = &in.quant;
        }
        if (i == 2) {
            one.text = &neg;
            one.null = &neg_null;
        }
        assert_ok(kin_model_forward(ctx, n.model, &one, &out), &ctx->error);
        assert_ok(kin_model_velocity(ctx, n.model, &in.x, &out.y, &sigma, &of[i]), &ctx->error);
    }
    assert_ok(kin_guidance_mix_multi(ctx, &of[2], &of[1], &of[0], 2.5f, 1.5f, &of[0]), &ctx->error);
    assert_ok(kin_guided_output(ctx,
                                &(kin_guided){.model = n.model,
                                              .mode = KIN_CFG_MULTI,
                                              .scale = 2.5f,
                                              .phys_scale = 1.5f,
                                              .text = &in.text,
                                              .uncond_text = &neg,
                                              .null = &in.null,
                                              .uncond_null = &neg_null,
                                              .prior = &in.prior,
                                              .quant = &in.quant},
                                &in.x, 0.64f, 640, 0, &v),
              &ctx->error);
    assert_same_bytes(&v, &of[0]);
    close_net(&n);
    kin_ctx_destroy(&ctx);
}

/* --- refusals --- */

static kin_status create_only(const char *config, kin_error *err)
{
    cJSON *j = json(config);
    kin_params *params;
    kin_model *model = NULL;
    kin_status status;

    assert_ok(kin_params_create(&params, err), err);
    status = kin_model_create(j, params, &model, err);
    kin_model_destroy(&model);
    kin_params_destroy(&params);
    cJSON_Delete(j);
    return status;
}

static void test_bad_configs(void **state)
{
    static const struct {
        const char *config;
        kin_status status;
        const char *text;
    } rows[] = {
        {"{" KINEMA ", \"CapacityPred_loss_weight\": 1}", KIN_ERR_ARG, "diffmoe"},
        {"{" KINEMA ", \"model\": \"promoe\"}", KIN_ERR_FORMAT, "promoe"},
        {"{" KINEMA ", \"modell\": \"dense\"}", KIN_ERR_FORMAT, "model"},
        {"{" KINEMA ", \"expert_head\": 30}", KIN_ERR_UNSUPPORTED, "expert_head"},
        {"{" KINEMA ", \"shared_head\": 2}", KIN_ERR_UNSUPPORTED, "shared_head"},
        {"{" KINEMA ", \"phys_head_dim\": 5}", KIN_ERR_ARG, "even"},
        {"{" KINEMA ", \"phys_qk_norm\": \"none\"}", KIN_ERR_FORMAT, "phys_qk_norm"},
        {"{" KINEMA ", \"pos_embed\": \"learned\"}", KIN_ERR_FORMAT, "sample_frames"},
        {"{" KINEMA ", \"mopa_flip\": 1.5}", KIN_ERR_ARG, "mopa_flip"},
        {"{" KINEMA ", \"model\": \"dense\", \"MoE_config\": {}}", KIN_ERR_ARG, "MoE_config"},
        {"{" KINEMA ", \"MoE_config\": {\"top_k\": 20}}", KIN_ERR_ARG, "top_k"},
        {"{" KINEMA ", \"MoE_config\": {\"num_routed_experts\": 4000}}", KIN_ERR_ARG,
         "experts in all layers"},
        {"{\"input_size\": 2048, \"patch_size\": 1024}", KIN_ERR_ARG, "per patch"},
        {"{\"_class_name\": \"KinemaTransformer3DModel\"}", KIN_ERR_FORMAT, "missing"},
        {"{\"_class_name\": \"WanTransformer3DModel\", \"image_dim\": 8}", KIN_ERR_UNSUPPORTED,
         "image_dim"},
        {"{" COG ", \"patch_size_t\": 2}", KIN_ERR_UNSUPPORTED, "patch_size_t"},
        {"{" COG ", \"flip_sin_to_cos\": false}", KIN_ERR_UNSUPPORTED, "flip_sin_to_cos"},
        {"{" COG_CLASS "\"sample_height\": 5}", KIN_ERR_ARG, "sample_height"},
        {"{" COG_CLASS "\"use_rotary_positional_embeddings\": true, \"attention_head_dim\": 24}",
         KIN_ERR_ARG, "multiple of 16"},
        {"{" COG ", \"shared_head\": 1}", KIN_ERR_UNSUPPORTED, "shared_head"},
        {"{\"input_size\": 7, \"patch_size\": 2}", KIN_ERR_ARG, "patch_size"},
        {"{\"input_size\": 8, \"model\": \"tc\"}", KIN_ERR_FORMAT, "MoE_config is missing"},
        {"{\"input_size\": 8, \"model\": \"tc\", \"MoE_config\": {\"top_k\": 2}}", KIN_ERR_FORMAT,
         "top_k"},
        {"{\"input_size\": 8, \"model\": \"tc\", \"MoE_config\": {\"capacity\": 9}}", KIN_ERR_ARG,
         "capacity 9"},
        {"{\"input_size\": 8, \"model\": \"ec\", \"MoE_config\": {\"capacity\": 0}}", KIN_ERR_ARG,
         "capacity 0"},
        {"{\"input_size\": 4, \"model\": \"ec\", \"MoE_config\": {}}", KIN_ERR_ARG, "leave none"},
        {"{\"input_size\": 8, \"model\": \"diffmoe\", \"MoE_config\": {\"use_diff_expert\": true}}",
         KIN_ERR_UNSUPPORTED, "use_diff_expert"},
        {"{\"input_size\": 8, \"model\": \"diffmoe\", \"MoE_config\": {\"num_expert\": 2}}",
         KIN_ERR_FORMAT, "num_experts"},
        {"{\"input_size\": 8, \"model\": \"diffmoe\", \"CapacityPred_loss_weight\": -1,"
         "\"MoE_config\": {}}",
         KIN_ERR_ARG, "CapacityPred_loss_weight"},
        {"{\"input_size\": 8, \"model\": \"promoe_ec\", \"MoE_config\": {\"rcl_scope\": \"rank\"}}",
         KIN_ERR_ARG, "rcl_scope"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        kin_error err = {0};

        if (create_only(rows[i].config, &err) != rows[i].status || !strstr(err.text, rows[i].text))
            fail_msg("config %zu: %s: %s", i, kin_status_name(err.status), err.text);
    }
}

static void test_wrong_sizes(void **state)
{
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CPU, 1);
    net n = open_net(ctx, "{" KINEMA_MOE "}");
    kin_tensor odd = RANDOM(ctx, 1, 2, 3, 2, 5, 4), channels = RANDOM(ctx, 1, 2, 4, 2, 4, 4);
    kin_tensor text = RANDOM(ctx, 1, 2, 6, 12), prior = RANDOM(ctx, 1, 2, 28),
               u = RANDOM(ctx, 1, 1, 2, 58);
    kin_model_output out;
    video_in v;

    (void)state;
    randomize(n.params, 1, 0.1f);
    video_inputs(ctx, n.model, 2, 2, 4, 4, &v);
    v.in.x = &odd;
    assert_int_equal(kin_model_forward(ctx, n.model, &v.in, &out), KIN_ERR_SHAPE);
    assert_non_null(strstr(ctx->error.text, "multiple of 2"));
    v.in.x = &channels;
    assert_int_equal(kin_model_forward(ctx, n.model, &v.in, &out), KIN_ERR_SHAPE);
    v.in.x = &v.x;
    v.in.text = &text;
    assert_int_equal(kin_model_forward(ctx, n.model, &v.in, &out), KIN_ERR_SHAPE);
    v.in.text = &v.text;
    v.in.prior = &prior;
    assert_int_equal(kin_model_forward(ctx, n.model, &v.in, &out), KIN_ERR_SHAPE);
    v.in.prior = &v.prior;
    v.in.u = &u; /* one physical block too few */
    assert_int_equal(kin_model_forward(ctx, n.model, &v.in, &out), KIN_ERR_SHAPE);
    v.in.u = NULL;
    assert_ok(kin_model_forward(ctx, n.model, &v.in, &out), &ctx->error);
    close_net(&n);
    kin_ctx_destroy(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published_counts),
        cmocka_unit_test(test_official_shapes),
        cmocka_unit_test(test_null_never_touches_routed_experts),
        cmocka_unit_test(test_equal_experts),
        cmocka_unit_test(test_untrained_physical_block),
        cmocka_unit_test(test_start_values),
        cmocka_unit_test(test_chosen_start_values),
        cmocka_unit_test(test_dit_positions),
        cmocka_unit_test(test_recomputation_is_bit_equal),
        cmocka_unit_test(test_cogvideox_samples_are_apart),
        cmocka_unit_test(test_cpu_against_reference),
        cmocka_unit_test(test_stacked_branches),
        cmocka_unit_test(test_bad_configs),
        cmocka_unit_test(test_wrong_sizes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

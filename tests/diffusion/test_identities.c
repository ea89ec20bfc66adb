/* The identities that tie the native family to the published ones (NATIVE.md), in process with
 * random weights and, where KINEMA_GOLDEN is set, against the official tensors. */
#include "tests/diffusion/models.h"

#include "diffusion/moe.h"
#include "io/safetensors.h"

#define WAN                                                                                     \
    "\"_class_name\": \"WanTransformer3DModel\", \"patch_size\": [1,2,2], \"in_channels\": 4, " \
    "\"out_channels\": 4, \"ffn_dim\": 40, " NET_SMALL
#define KINEMA_DENSE                                                                        \
    "\"_class_name\": \"KinemaTransformer3DModel\", \"model\": \"dense\", \"patch_size\": " \
    "[1,2,2], "                                                                             \
    "\"in_channels\": 4, \"out_channels\": 4, \"ffn_dim\": 40, \"text_len\": 5, " NET_SMALL

/* a kinema dense network with token rope zero does what wan_wisa does, bit for bit */
static void test_dense_zero_is_wan_wisa(void **state)
{
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CPU, 1);
    net wan = open_net(ctx, "{" WAN ", \"insert_gap\": 2, \"whether_classifier\": true}");
    net own = open_net(ctx, "{" KINEMA_DENSE ", \"insert_gap\": 2, \"phys_token_rope\": \"zero\"}");
    video_in v;
    kin_model_output a, b;

    (void)state;
    randomize(wan.params, 11, 0.15f);
    assert_int_equal(wan.params->count, own.params->count);
    assert_int_equal(copy_params(wan.params, own.params), wan.params->count);
    video_inputs(ctx, own.model, 3, 2, 4, 6, &v);
    assert_ok(kin_model_forward(ctx, wan.model, &v.in, &a), &ctx->error);
    assert_ok(kin_model_forward(ctx, own.model, &v.in, &b), &ctx->error);
    assert_same_bytes(&a.y, &b.y);
    assert_same_bytes(&a.logits, &b.logits);
    close_net(&wan);
    close_net(&own);
    kin_ctx_destroy(&ctx);
}

/* without the classifier and with to_out.0 zero the physics is without effect: plain wan */
static void test_silent_physics_is_wan(void **state)
{
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CPU, 1);
    net wan = open_net(ctx, "{" WAN "}");
    net own = open_net(ctx, "{" KINEMA_DENSE ", \"whether_classifier\": false}");
    kin_param *out_w = kin_params_find(own.params, "phys_blocks.2.phys_attn.to_out.0.weight");
    kin_param *out_b = kin_params_find(own.params, "phys_blocks.2.phys_attn.to_out.0.bias");
    video_in v;
    kin_model_output a, b;

    (void)state;
    assert_non_null(out_w);
    assert_null(kin_params_find(wan.params, "phys_blocks.2.phys_attn.to_out.0.weight"));
    randomize(wan.params, 12, 0.15f);
    randomize(own.params, 13, 0.15f);
    assert_int_equal(copy_params(wan.params, own.params), wan.params->count);
    memset(out_w->value.data, 0, (size_t)kin_tensor_numel(&out_w->value) * sizeof(float));
    memset(out_b->value.data, 0, (size_t)kin_tensor_numel(&out_b->value) * sizeof(float));
    kin_param_touch(out_w);
    video_inputs(ctx, own.model, 2, 2, 4, 4, &v);
    assert_ok(kin_model_forward(ctx, own.model, &v.in, &b), &ctx->error);
    assert_ok(kin_model_forward(ctx, wan.model,
                                &(kin_model_input){.x = &v.x, .t = &v.t, .text = &v.text}, &a),
              &ctx->error);
    assert_true(near_error(&b.y, &a.y) < 1e-6);
    close_net(&wan);
    close_net(&own);
    kin_ctx_destroy(&ctx);
}

/* --- the FFN alone, against its definition written out in double --- */

static double gelu(double x)
{
    return 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
}

static void naive_mlp(const kin_param *uw, const kin_param *ub, const kin_param *dw,
                      const kin_param *db, const float *x, int64_t d, int64_t hidden, double factor,
                      double *y)
{
    double *h = calloc((size_t)hidden, sizeof(*h));

    for (int64_t j = 0; j < hidden; j++) {
        double sum = kin_tensor_get(&ub->value, j);

        for (int64_t i = 0; i < d; i++)
            sum += kin_tensor_get(&uw->value, j * d + i) * (double)x[i];
        h[j] = gelu(sum);
    }
    for (int64_t i = 0; i < d; i++) {
        double sum = kin_tensor_get(&db->value, i);

        for (int64_t j = 0; j < hidden; j++)
            sum += kin_tensor_get(&dw->value, i * hidden + j) * h[j];
        y[i] += factor * sum;
    }
    free(h);
}

static int naive_best(const kin_moe *m, const float *x, double *score)
{
    int best = 0;

    *score = -2;
    for (int64_t e = 0; e < m->cfg.experts; e++) {
        double dot = 0, a = 0, b = 0;

        for (int64_t i = 0; i < m->width; i++) {
            const double p = kin_tensor_get(&m->gate->value, e * m->width + i);

            dot += p * (double)x[i];
            a += p * p;
            b += (double)x[i] * (double)x[i];
        }
        dot /= sqrt(a) * sqrt(b);
        if (dot > *score) {
            *score = dot;
            best = (int)e;
        }
    }
    return best;
}

static void test_ffn_is_its_definition(void **state)
{
    enum { B = 2, N = 7, D = 12, HIDDEN = 10, SHARED = 6, E = 4 };
    const kin_moe_config cfg = {.router = KIN_ROUTER_PROMOE_TC,
                                .experts = E,
                                .top_k = 1,
                                .hidden = HIDDEN,
                                .shared_hidden = SHARED,
                                .form = KIN_FFN_PROJ,
                                .shared_form = KIN_FFN_PROJ,
                                .rcl_lambda = 1,
                                .rcl_tau = 0.07,
                                .rcl_any_slot = true,
                                .shared = true,
                                .uncond = true};
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CPU, 1);
    kin_params *params;
    kin_moe m;
    kin_error err = {0};
    kin_tensor x, null, zero, one, y, aux;
    const kin_moe_call call = {.null = &null};

    (void)state;
    assert_ok(kin_params_create(&params, &err), &err);
    assert_ok(kin_moe_register(params, "ffn.", D, &cfg, &m, &err), &err);
    assert_ok(kin_params_alloc(params, KIN_DTYPE_F32, false, &err), &err);
    randomize(params, 14, 0.4f);
    x = RANDOM(ctx, 15, B, N, D);
    assert_ok(KIN_WS(ctx, &null, KIN_DTYPE_U8, B), &ctx->error);
    ((uint8_t *)null.data)[0] = 0;
    ((uint8_t *)null.data)[1] = 1;
    assert_ok(KIN_WS(ctx, &zero, KIN_DTYPE_F32, B, N, D), &ctx->error);
    assert_ok(KIN_WS(ctx, &one, KIN_DTYPE_F32, B, D), &ctx->error);
    assert_ok(kin_fill(ctx, &zero, 0), &ctx->error);
    assert_ok(kin_fill(ctx, &one, 1), &ctx->error);
    assert_ok(kin_moe_forward(ctx, &m, &call, &x, &zero, &one, &y, &aux), &ctx->error);
    for (int t = 0; t < B * N; t++) {
        const float *row = (const float *)x.data + t * D;
        double want[D] = {0}, score = 1;
        int e = E;

        if (t < N)
            e = naive_best(&m, row, &score);
        naive_mlp(m.shared.w1, m.shared.b1, m.shared.w2, m.shared.b2, row, D, SHARED, 1, want);
        naive_mlp(m.w1[e], m.b1[e], m.w2[e], m.b2[e], row, D, HIDDEN, score, want);
        for (int i = 0; i < D; i++)
            assert_true(fabs(want[i] - kin_tensor_get(&y, t * D + i)) < 2e-5);
    }
    kin_moe_free(&m);
    kin_params_destroy(&params);
    kin_ctx_destroy(&ctx);
}

/* --- against the official tensors --- */

typedef struct official {
    kin_safetensors *file;
    cJSON *config;
    char path[1024];
} official;

static bool open_official(const char *name, official *o)
{
    const char *dir = kin_test_golden_dir();
    const char *config;
    kin_error err = {0};

    if (!dir)
        return false;
    snprintf(o->path, sizeof(o->path), "%s/%s", dir, name);
    assert_ok(kin_safetensors_open(o->path, &o->file, &err), &err);
    config = kin_safetensors_metadata(o->file, "config");
    assert_non_null(config);
    assert_ok(kin_json_parse(config, strlen(config), KIN_JSON_STRICT, &o->config, &err), &err);
    return true;
}

static void close_official(official *o)
{
    cJSON_Delete(o->config);
    kin_safetensors_close(&o->file);
}

static kin_tensor official_tensor(kin_ctx *ctx, const official *o, const char *name)
{
    kin_tensor t, out;
    kin_error err = {0};

    assert_ok(kin_safetensors_get(o->file, name, &t, &err), &err);
    assert_ok(kin_ws_tensor(ctx, KIN_DTYPE_F32, t.ndim, t.size, &out), &ctx->error);
    for (int64_t i = 0; i < kin_tensor_numel(&t); i++)
        kin_tensor_set(&out, i, kin_tensor_get(&t, i));
    return out;
}

static void official_params(const official *o, kin_params *params, const char *prefix)
{
    for (int i = 0; i < params->count; i++) {
        kin_param *p = params->list[i];
        char name[300];
        kin_tensor t;
        kin_error err = {0};

        snprintf(name, sizeof(name), "%s%s", prefix, p->name);
        if (kin_safetensors_find(o->file, name) < 0) {
            assert_non_null(strstr(p->name, "phys_"));
            continue;
        }
        assert_ok(kin_safetensors_get(o->file, name, &t, &err), &err);
        assert_true(kin_tensor_same_shape(&t, &p->value));
        memcpy(p->value.data, t.data, (size_t)kin_tensor_numel(&t) * sizeof(float));
        kin_param_touch(p);
    }
}

/* the case's Wan config as a dense native one */
static net open_as_kinema(kin_ctx *ctx, const official *o, bool classifier, int64_t text_len)
{
    static const char *const foreign[] = {"image_dim", "added_kv_proj_dim", "pos_embed_seq_len"};
    cJSON *j = cJSON_Duplicate(o->config, 1);
    net n;

    for (int i = 0; i < 3; i++)
        cJSON_DeleteItemFromObjectCaseSensitive(j, foreign[i]);
    cJSON_DeleteItemFromObjectCaseSensitive(j, "whether_classifier");
    cJSON_AddBoolToObject(j, "whether_classifier", classifier);
    cJSON_AddStringToObject(j, "_class_name", "KinemaTransformer3DModel");
    cJSON_AddStringToObject(j, "model", "dense");
    cJSON_AddStringToObject(j, "phys_token_rope", "zero");
    cJSON_AddNumberToObject(j, "text_len", (double)text_len);
    n = open_net_json(ctx, j);
    cJSON_Delete(j);
    return n;
}

static void check_official(const char *name, bool wisa)
{
    official o = {0};
    kin_ctx *ctx;
    kin_tensor x, t, text, prior, quant, u, want;
    kin_model_input in = {.x = &x, .t = &t, .text = &text};
    kin_model_output out;
    net n;

    if (!open_official(name, &o))
        skip();
    ctx = open_ctx(KIN_BACKEND_CPU, 1);
    x = official_tensor(ctx, &o, "in.hidden_states");
    t = official_tensor(ctx, &o, "in.timestep");
    text = official_tensor(ctx, &o, "in.encoder_hidden_states");
    n = open_as_kinema(ctx, &o, wisa, text.size[1]);
    official_params(&o, n.params, "w.");
    if (wisa) {
        prior = official_tensor(ctx, &o, "in.priori");
        quant = official_tensor(ctx, &o, "in.quantify_priori");
        u = official_tensor(ctx, &o, "in.mopa_u");
        in.prior = &prior;
        in.quant = &quant;
        in.u = &u;
    }
    assert_ok(kin_model_forward(ctx, n.model, &in, &out), &ctx->error);
    want = official_tensor(ctx, &o, "out.sample");
    assert_true(near_error(&out.y, &want) < 1e-5);
    if (wisa) {
        want = official_tensor(ctx, &o, "out.logits");
        assert_true(near_error(&out.logits, &want) < 1e-5);
    }
    close_net(&n);
    kin_ctx_destroy(&ctx);
    close_official(&o);
}

static void test_official_wan_wisa(void **state)
{
    (void)state;
    check_official("video/wan_wisa_dout.safetensors", true);
    check_official("video/wan_wisa_gap2_loss_lo.safetensors", true);
}

/* the physical parameters stay at their start, where to_out.0 is zero (parameters are allocated as
 * zeros) */
static void test_official_wan(void **state)
{
    (void)state;
    check_official("video/wan_t2v.safetensors", false);
    check_official("video/wan_long.safetensors", false);
}

static void test_official_promoe_ffn(void **state)
{
    official o = {0};
    kin_ctx *ctx;
    kin_params *params;
    kin_moe_config cfg = kin_config_moe_default(KIN_ROUTER_PROMOE_TC, 0, 0, false);
    kin_moe m;
    kin_error err = {0};
    kin_tensor x, label, null, zero, one, y, aux, want;

    (void)state;
    if (!open_official("image/promoe_tc_identity.safetensors", &o))
        skip();
    assert_ok(
        kin_config_moe(cJSON_GetObjectItemCaseSensitive(o.config, "MoE_config"), 0, &cfg, &err),
        &err);
    ctx = open_ctx(KIN_BACKEND_CPU, 1);
    for (int layer = 1; layer <= 3; layer += 2) {
        char name[64];

        snprintf(name, sizeof(name), "out.layers.%d.in", layer);
        x = official_tensor(ctx, &o, name);
        assert_ok(kin_params_create(&params, &err), &err);
        snprintf(name, sizeof(name), "blocks.%d.mlp.", layer);
        assert_ok(kin_moe_register(params, name, x.size[2], &cfg, &m, &err), &err);
        assert_ok(kin_params_alloc(params, KIN_DTYPE_F32, false, &err), &err);
        official_params(&o, params, "w.");
        label = official_tensor(ctx, &o, "in.y");
        assert_ok(KIN_WS(ctx, &null, KIN_DTYPE_U8, x.size[0]), &ctx->error);
        for (int64_t b = 0; b < x.size[0]; b++)
            ((uint8_t *)null.data)[b] = kin_tensor_get(&label, b) == 1000.0;
        assert_ok(kin_ws_tensor(ctx, KIN_DTYPE_F32, 3, x.size, &zero), &ctx->error);
        assert_ok(KIN_WS(ctx, &one, KIN_DTYPE_F32, x.size[0], x.size[2]), &ctx->error);
        assert_ok(kin_fill(ctx, &zero, 0), &ctx->error);
        assert_ok(kin_fill(ctx, &one, 1), &ctx->error);
        assert_ok(kin_moe_forward(ctx, &m, &(kin_moe_call){.layer = layer, .null = &null}, &x,
                                  &zero, &one, &y, &aux),
                  &ctx->error);
        snprintf(name, sizeof(name), "out.layers.%d.moe", layer);
        want = official_tensor(ctx, &o, name);
        assert_true(near_error(&y, &want) < 1e-5);
        kin_moe_free(&m);
        kin_params_destroy(&params);
    }
    kin_ctx_destroy(&ctx);
    close_official(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dense_zero_is_wan_wisa), cmocka_unit_test(test_silent_physics_is_wan),
        cmocka_unit_test(test_ffn_is_its_definition),  cmocka_unit_test(test_official_wan_wisa),
        cmocka_unit_test(test_official_wan),           cmocka_unit_test(test_official_promoe_ffn),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "tests/support/support.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tensor/tape.h"
#include "text/encoder.h"

enum { B = 2, T = 9 };

static const char t5[] =
    "{\"model_type\":\"t5\",\"d_model\":8,\"d_kv\":3,\"d_ff\":7,\"num_layers\":2,\"num_heads\":2,"
    "\"vocab_size\":11,\"relative_attention_num_buckets\":8,\"relative_attention_max_distance\":6,"
    "\"feed_forward_proj\":\"relu\",\"unknown_published_key\":[1]}";
static const char umt5[] =
    "{\"architectures\":[\"UMT5EncoderModel\"],\"d_model\":8,\"d_kv\":3,\"d_ff\":7,\"num_layers\":"
    "2,"
    "\"num_heads\":2,\"vocab_size\":11,\"relative_attention_num_buckets\":8,"
    "\"relative_attention_max_distance\":6,\"feed_forward_proj\":\"gated-gelu\"}";

static int32_t id_data[B * T] = {3, 4, 5, 10, 2, 1, 0, 0, 0, 7, 7, 6, 9, 8, 3, 2, 5, 1};
static uint8_t mask_data[B * T] = {1, 1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1};

typedef struct setup {
    kin_ctx *ctx;
    kin_params *params;
    kin_text_encoder *enc;
    kin_tensor ids, mask;
} setup;

static setup made(const char *config, kin_backend backend, kin_dtype dtype)
{
    setup s = {0};
    kin_error err = {0};
    cJSON *json = cJSON_Parse(config);
    assert_non_null(json);
    assert_ok(kin_ctx_create(&(kin_ctx_options){.backend = backend, .threads = 1}, &s.ctx, &err),
              &err);
    assert_ok(kin_params_create(&s.params, &err), &err);
    assert_ok(kin_text_encoder_create(json, s.params, &s.enc, &err), &err);
    assert_ok(kin_params_alloc(s.params, dtype, backend == KIN_BACKEND_PLAN, &err), &err);
    if (backend != KIN_BACKEND_PLAN)
        kin_params_init(s.params, 5);
    cJSON_Delete(json);
    s.ids = KIN_TENSOR(id_data, KIN_DTYPE_I32, B, T);
    s.mask = KIN_TENSOR(mask_data, KIN_DTYPE_U8, B, T);
    return s;
}

static void release(setup *s)
{
    kin_text_encoder_destroy(&s->enc);
    kin_params_destroy(&s->params);
    kin_ctx_destroy(&s->ctx);
}

/* sum of weight * states with fixed weights, f64 */
static double objective(setup *s, const kin_tensor *dout)
{
    kin_tensor y;
    double sum = 0.0;
    size_t mark = kin_ws_mark(s->ctx);
    assert_ok(kin_text_encoder_run(s->ctx, s->enc, &s->ids, &s->mask, &y), &s->ctx->error);
    for (int64_t i = 0; i < kin_tensor_numel(&y); i++)
        sum += kin_tensor_get(&y, i) * kin_tensor_get(dout, i);
    kin_ws_release(s->ctx, mark);
    return sum;
}

/* One entry of a parameter's gradient against the central difference. */
static void check_entry(setup *s, kin_param *p, int64_t i, const kin_tensor *dout)
{
    double old = kin_tensor_get(&p->value, i), h = 1e-5;
    kin_tensor_set(&p->value, i, old + h);
    kin_param_touch(p);
    double up = objective(s, dout);
    kin_tensor_set(&p->value, i, old - h);
    kin_param_touch(p);
    double down = objective(s, dout);
    kin_tensor_set(&p->value, i, old);
    kin_param_touch(p);
    double want = (up - down) / (2.0 * h), got = kin_tensor_get(&p->grad, i);
    if (fabs(want - got) > 1e-6 * fmax(1.0, fabs(want)))
        fail_msg("%s[%d]: gradient %.9g, difference %.9g", p->name, (int)i, got, want);
}

static void check_gradients(const char *config)
{
    setup s = made(config, KIN_BACKEND_REF, KIN_DTYPE_F64);
    kin_error err = {0};
    kin_tensor y;
    double weights[B * T * 8];
    kin_tensor dout = KIN_TENSOR(weights, KIN_DTYPE_F64, B, T, 8);
    for (int i = 0; i < B * T * 8; i++)
        weights[i] = sin(1.0 + i);
    assert_ok(kin_params_alloc_grads(s.params, false, &err), &err);
    assert_ok(kin_tape_begin(s.ctx), &s.ctx->error);
    assert_ok(kin_text_encoder_run(s.ctx, s.enc, &s.ids, &s.mask, &y), &s.ctx->error);
    assert_ok(kin_tape_backward(s.ctx, &y, &dout, 1), &s.ctx->error);
    kin_tape_end(s.ctx);
    int biases = 0;
    for (int k = 0; k < s.params->count; k++) {
        kin_param *p = s.params->list[k];
        int64_t n = kin_tensor_numel(&p->value);
        bool bias = strstr(p->name, "relative_attention_bias") != NULL;
        biases += bias;
        for (int64_t i = k % 3; i < n; i += bias ? 1 : n / 5 + 1)
            check_entry(&s, p, i, &dout);
    }
    assert_int_equal(biases, config == umt5 ? 2 : 1);
    release(&s);
}

static void gradients_are_central_differences(void **state)
{
    (void)state;
    check_gradients(t5);
    check_gradients(umt5);
}

static void masked_keys_do_not_count(void **state)
{
    (void)state;
    setup s = made(umt5, KIN_BACKEND_CPU, KIN_DTYPE_F32);
    int32_t other[B * T];
    kin_tensor a, b, c;
    memcpy(other, id_data, sizeof other);
    other[7] = 9; /* a masked place of sample 0 */
    kin_tensor ids = KIN_TENSOR(other, KIN_DTYPE_I32, B, T);
    assert_ok(kin_text_encoder_run(s.ctx, s.enc, &s.ids, &s.mask, &a), &s.ctx->error);
    assert_ok(kin_text_encoder_run(s.ctx, s.enc, &ids, &s.mask, &b), &s.ctx->error);
    assert_ok(kin_text_encoder_run(s.ctx, s.enc, &ids, NULL, &c), &s.ctx->error);
    bool masked_matters = false;
    for (int64_t i = 0; i < B * T * 8; i++) {
        if (i / 8 != 7)
            assert_true(kin_tensor_get(&a, i) == kin_tensor_get(&b, i));
        masked_matters |= kin_tensor_get(&b, i) != kin_tensor_get(&c, i);
    }
    assert_true(masked_matters);
    release(&s);
}

/* Sample 1 alone gives what it gives in the batch; CPU agrees with the reference. */
/* Streamed: the same bits, and no packed form is left; a plan counts one block of them. */
static void streaming_changes_no_bit(void **state)
{
    (void)state;
    kin_tensor a, b;
    setup s = made(umt5, KIN_BACKEND_CPU, KIN_DTYPE_F32),
          plan = made(umt5, KIN_BACKEND_PLAN, KIN_DTYPE_F32);
    assert_ok(kin_text_encoder_run(s.ctx, s.enc, &s.ids, &s.mask, &a), &s.ctx->error);
    const size_t whole = kin_params_pack_bytes(s.params);
    assert_true(whole > 0 && s.ctx->packed == whole);
    kin_text_encoder_set_streaming(s.enc, true);
    assert_ok(kin_text_encoder_run(s.ctx, s.enc, &s.ids, &s.mask, &b), &s.ctx->error);
    assert_memory_equal(a.data, b.data, (size_t)kin_tensor_numel(&a) * sizeof(float));
    assert_int_equal(kin_params_pack_bytes(s.params), 0);
    assert_int_equal(s.ctx->packed, 0);
    kin_text_encoder_set_streaming(plan.enc, true);
    assert_ok(kin_text_encoder_run(plan.ctx, plan.enc, &plan.ids, &plan.mask, &b),
              &plan.ctx->error);
    assert_int_equal(plan.ctx->packed, 0);
    assert_true(plan.ctx->peak < plan.ctx->ws.peak + whole);
    release(&plan);
    release(&s);
}

static void samples_are_independent(void **state)
{
    (void)state;
    setup s = made(t5, KIN_BACKEND_CPU, KIN_DTYPE_F32),
          r = made(t5, KIN_BACKEND_REF, KIN_DTYPE_F32);
    kin_tensor both, one, ref;
    kin_tensor ids = KIN_TENSOR(id_data + T, KIN_DTYPE_I32, 1, T);
    assert_ok(kin_text_encoder_run(s.ctx, s.enc, &s.ids, NULL, &both), &s.ctx->error);
    assert_ok(kin_text_encoder_run(s.ctx, s.enc, &ids, NULL, &one), &s.ctx->error);
    assert_ok(kin_text_encoder_run(r.ctx, r.enc, &r.ids, NULL, &ref), &r.ctx->error);
    for (int64_t i = 0; i < T * 8; i++)
        assert_true(kin_tensor_get(&one, i) == kin_tensor_get(&both, T * 8 + i));
    for (int64_t i = 0; i < B * T * 8; i++)
        assert_true(fabs(kin_tensor_get(&both, i) - kin_tensor_get(&ref, i)) < 1e-5);
    release(&s);
    release(&r);
}

/* Without a tape a block leaves nothing behind; the plan backend takes the same memory. */
static void memory_does_not_grow_with_depth(void **state)
{
    (void)state;
    char deep[512];
    size_t peak[3], used[3];
    const char *at = strstr(umt5, "\"num_layers\":2");
    snprintf(deep, sizeof deep, "%.*s\"num_layers\":9%s", (int)(at - umt5), umt5, at + 14);
    for (int k = 0; k < 3; k++) {
        setup s =
            made(k == 0 ? umt5 : deep, k == 2 ? KIN_BACKEND_PLAN : KIN_BACKEND_CPU, KIN_DTYPE_F32);
        kin_tensor y;
        assert_ok(kin_text_encoder_run(s.ctx, s.enc, &s.ids, &s.mask, &y), &s.ctx->error);
        peak[k] = s.ctx->ws.peak;
        used[k] = s.ctx->ws.used;
        release(&s);
    }
    assert_true(peak[0] == peak[1] && used[0] == used[1]);
    print_message("peak %zu, deep %zu, plan %zu; left %zu, %zu, %zu\n", peak[0], peak[1], peak[2],
                  used[0], used[1], used[2]);
    /* note: kernels' scratch is not part of the plan of so small a model */
    assert_true(used[2] == used[1]);
}

static void buckets_follow_the_t5_rule(void **state)
{
    (void)state;
    assert_int_equal(kin_text_encoder_bucket(0, 32, 128), 0);
    assert_int_equal(kin_text_encoder_bucket(-7, 32, 128), 7);
    assert_int_equal(kin_text_encoder_bucket(7, 32, 128), 23);
    assert_int_equal(kin_text_encoder_bucket(-8, 32, 128), 8);
    assert_int_equal(kin_text_encoder_bucket(-127, 32, 128), 15);
    assert_int_equal(kin_text_encoder_bucket(-128, 32, 128), 15);
    assert_int_equal(kin_text_encoder_bucket(100000, 32, 128), 31);
    int before = 0;
    for (int r = 0; r < 300; r++) {
        int b = kin_text_encoder_bucket(-r, 32, 128);
        assert_true(b >= before && b < 16);
        before = b;
    }
}

static void wrong_input_is_refused(void **state)
{
    (void)state;
    setup s = made(t5, KIN_BACKEND_CPU, KIN_DTYPE_F32);
    kin_tensor y, wide = KIN_TENSOR(id_data, KIN_DTYPE_I32, 1, B, T);
    kin_tensor mask = KIN_TENSOR(mask_data, KIN_DTYPE_U8, B, T - 1);
    int32_t bad[2] = {3, 11};
    kin_tensor ids = KIN_TENSOR(bad, KIN_DTYPE_I32, 1, 2);
    assert_int_equal(kin_text_encoder_run(s.ctx, s.enc, &wide, NULL, &y), KIN_ERR_SHAPE);
    assert_int_equal(kin_text_encoder_run(s.ctx, s.enc, &s.ids, &mask, &y), KIN_ERR_SHAPE);
    assert_int_equal(kin_text_encoder_run(s.ctx, s.enc, &ids, NULL, &y), KIN_ERR_ARG);
    bad[1] = -1;
    assert_int_equal(kin_text_encoder_run(s.ctx, s.enc, &ids, NULL, &y), KIN_ERR_ARG);
    assert_int_equal(kin_text_encoder_width(s.enc), 8);
    assert_int_equal(kin_text_encoder_vocab(s.enc), 11);
    release(&s);
}

static void wrong_configs_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "{}",
        "{\"model_type\":\"bert\",\"d_model\":8}",
        "{\"model_type\":\"t5\",\"d_model\":8}",
        "{\"model_type\":\"t5\",\"d_model\":8,\"d_kv\":3,\"d_ff\":7,\"num_layers\":2,\"num_heads\":"
        "2,"
        "\"vocab_size\":0}",
        "{\"model_type\":\"t5\",\"d_model\":8,\"d_kv\":3,\"d_ff\":7,\"num_layers\":100000,"
        "\"num_heads\":2,\"vocab_size\":11}",
        "{\"model_type\":\"t5\",\"d_model\":8,\"d_kv\":3,\"d_ff\":7,\"num_layers\":2,\"num_heads\":"
        "2,"
        "\"vocab_size\":11,\"feed_forward_proj\":\"gated-silu\"}",
        "{\"model_type\":\"t5\",\"d_model\":8,\"d_kv\":3,\"d_ff\":7,\"num_layers\":2,\"num_heads\":"
        "2,"
        "\"vocab_size\":11,\"relative_attention_num_buckets\":32,"
        "\"relative_attention_max_distance\":8}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        kin_params *params = NULL;
        kin_text_encoder *enc = NULL;
        kin_error err = {0};
        cJSON *json = cJSON_Parse(bad[i]);
        assert_ok(kin_params_create(&params, &err), &err);
        assert_int_equal(kin_text_encoder_create(json, params, &enc, &err), KIN_ERR_FORMAT);
        assert_null(enc);
        kin_params_destroy(&params);
        cJSON_Delete(json);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_are_central_differences),
        cmocka_unit_test(masked_keys_do_not_count),
        cmocka_unit_test(streaming_changes_no_bit),
        cmocka_unit_test(samples_are_independent),
        cmocka_unit_test(memory_does_not_grow_with_depth),
        cmocka_unit_test(buckets_follow_the_t5_rule),
        cmocka_unit_test(wrong_input_is_refused),
        cmocka_unit_test(wrong_configs_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* tests/diffusion/models.h: small random models and inputs for the tests of this folder. */
#ifndef KIN_TESTS_DIFFUSION_MODELS_H
#define KIN_TESTS_DIFFUSION_MODELS_H

#include "tests/support/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "diffusion/losses.h"
#include "diffusion/model.h"

typedef struct net {
    kin_ctx *ctx; /* borrowed */
    kin_params *params;
    kin_model *model;
    kin_error err;
} net;

static inline kin_ctx *open_ctx(kin_backend backend, int threads)
{
    const kin_ctx_options opt = {.backend = backend, .threads = threads, .compute = KIN_DTYPE_F32};
    kin_error err = {0};
    kin_ctx *ctx = NULL;

    assert_ok(kin_ctx_create(&opt, &ctx, &err), &err);
    return ctx;
}

static inline cJSON *json(const char *text)
{
    kin_error err = {0};
    cJSON *j = NULL;

    assert_ok(kin_json_parse(text, strlen(text), KIN_JSON_STRICT, &j, &err), &err);
    return j;
}

/* every parameter random (norm weights around 1), so that nothing is hidden by a start at zero */
static inline void randomize(kin_params *params, uint64_t seed, float scale)
{
    for (int i = 0; i < params->count; i++) {
        kin_param *p = params->list[i];
        const kin_rng rng = {.seed = seed, .purpose = KIN_RNG_TEST, .sample = (uint64_t)i};
        const int64_t n = kin_tensor_numel(&p->value);
        float *v = p->value.data;

        kin_rng_normal(&rng, 0, n, v);
        for (int64_t k = 0; k < n; k++)
            v[k] =
                v[k] * scale + (strstr(p->name, "norm") && strstr(p->name, "weight") ? 1.0f : 0.0f);
        kin_param_touch(p);
    }
}

static inline net open_net_json(kin_ctx *ctx, const cJSON *config)
{
    net n = {.ctx = ctx};

    assert_ok(kin_params_create(&n.params, &n.err), &n.err);
    assert_ok(kin_model_create(config, n.params, &n.model, &n.err), &n.err);
    assert_ok(kin_params_alloc(n.params, KIN_DTYPE_F32, false, &n.err), &n.err);
    assert_ok(kin_params_alloc_grads(n.params, false, &n.err), &n.err);
    return n;
}

static inline net open_net(kin_ctx *ctx, const char *config)
{
    cJSON *j = json(config);
    net n = open_net_json(ctx, j);

    cJSON_Delete(j);
    return n;
}

static inline void close_net(net *n)
{
    kin_model_destroy(&n->model);
    kin_params_destroy(&n->params);
}

/* same names, same values; parameters that only `to` has keep theirs */
static inline int copy_params(const kin_params *from, kin_params *to)
{
    int copied = 0;

    for (int i = 0; i < from->count; i++) {
        kin_param *p = kin_params_find(to, from->list[i]->name);

        if (!p)
            continue;
        assert_true(kin_tensor_same_shape(&p->value, &from->list[i]->value));
        memcpy(p->value.data, from->list[i]->value.data,
               (size_t)kin_tensor_numel(&p->value) * sizeof(float));
        kin_param_touch(p);
        copied++;
    }
    return copied;
}

static inline kin_tensor random_tensor(kin_ctx *ctx, uint64_t seed, int ndim, const int64_t *size)
{
    const kin_rng rng = {.seed = seed, .purpose = KIN_RNG_TEST, .sample = 1000};
    kin_tensor t;

    assert_ok(kin_ws_tensor(ctx, KIN_DTYPE_F32, ndim, size, &t), &ctx->error);
    kin_rng_normal(&rng, 0, kin_tensor_numel(&t), t.data);
    return t;
}
#define RANDOM(ctx, seed, ...) random_tensor((ctx), (seed), KIN_DIMS(__VA_ARGS__))

/* inputs of a video model with B samples; sample 0 null where there are two or more */
typedef struct video_in {
    kin_tensor x, t, text, null, prior, quant, u, dout;
    kin_model_input in;
} video_in;

static inline void video_inputs(kin_ctx *ctx, const kin_model *model, int64_t B, int64_t F,
                                int64_t H, int64_t W, video_in *v)
{
    const kin_model_info *info = kin_model_get_info(model);
    const int64_t T = info->text_len ? info->text_len : 5;

    v->x = RANDOM(ctx, 1, B, info->in_channels, F, H, W);
    v->dout = RANDOM(ctx, 2, B, info->out_channels, F, H, W);
    v->text = RANDOM(ctx, 3, B, T, info->text_dim);
    v->quant = RANDOM(ctx, 4, B, 18);
    v->t = RANDOM(ctx, 5, B);
    assert_ok(KIN_WS(ctx, &v->null, KIN_DTYPE_U8, B), &ctx->error);
    assert_ok(KIN_WS(ctx, &v->prior, KIN_DTYPE_F32, B, 29), &ctx->error);
    for (int64_t b = 0; b < B; b++) {
        ((float *)v->t.data)[b] = 137.25f * (float)(b + 1);
        ((uint8_t *)v->null.data)[b] = B > 1 && b == 0;
        for (int i = 0; i < 29; i++)
            ((float *)v->prior.data)[b * 29 + i] = (i + b) % 3 == 0;
    }
    v->in = (kin_model_input){.x = &v->x, .t = &v->t, .text = &v->text, .null = &v->null};
    if (info->phys_blocks) {
        const kin_rng rng = {.seed = 6, .purpose = KIN_RNG_TEST};

        assert_ok(KIN_WS(ctx, &v->u, KIN_DTYPE_F32, info->phys_blocks, B, info->phys_heads),
                  &ctx->error);
        kin_rng_uniform(&rng, 0, kin_tensor_numel(&v->u), v->u.data);
        v->in.prior = &v->prior;
        v->in.quant = &v->quant;
        v->in.u = &v->u;
    }
}

/* forward and backward of sum(dout*y) + aux + BCE */
static inline kin_tensor run_backward(net *n, const video_in *v)
{
    kin_model_output out;
    kin_tensor outs[3], grads[3], one, bce;
    int count = 1;

    kin_params_zero_grads(n->params);
    assert_ok(kin_ws_tensor(n->ctx, KIN_DTYPE_F32, 0, NULL, &one), &n->ctx->error);
    assert_ok(kin_fill(n->ctx, &one, 1), &n->ctx->error);
    assert_ok(kin_tape_begin(n->ctx), &n->ctx->error);
    assert_ok(kin_model_forward(n->ctx, n->model, &v->in, &out), &n->ctx->error);
    outs[0] = out.y;
    grads[0] = v->dout;
    if (out.aux.data) {
        outs[count] = out.aux;
        grads[count++] = one;
    }
    if (out.logits.data) {
        assert_ok(kin_bce_logits(n->ctx, &out.logits, &v->prior, NULL, &bce), &n->ctx->error);
        outs[count] = bce;
        grads[count++] = one;
    }
    assert_ok(kin_tape_backward(n->ctx, outs, grads, count), &n->ctx->error);
    kin_tape_end(n->ctx);
    return out.y;
}

/* max|a-b| / max|b| */
static inline double near_error(const kin_tensor *a, const kin_tensor *b)
{
    double worst = 0, top = 1e-30;

    assert_int_equal(kin_tensor_numel(a), kin_tensor_numel(b));
    for (int64_t i = 0; i < kin_tensor_numel(a); i++) {
        const double x = kin_tensor_get(a, i), y = kin_tensor_get(b, i);

        if (!isfinite(x))
            return INFINITY;
        worst = fmax(worst, fabs(x - y));
        top = fmax(top, fabs(y));
    }
    return worst / top;
}

static inline void assert_same_bytes(const kin_tensor *a, const kin_tensor *b)
{
    assert_true(kin_tensor_is_contiguous(a) && kin_tensor_is_contiguous(b));
    assert_int_equal(kin_tensor_numel(a), kin_tensor_numel(b));
    assert_memory_equal(a->data, b->data, (size_t)kin_tensor_numel(a) * kin_dtype_size(a->dtype));
}

#define NET_SMALL                                                                                 \
    "\"num_attention_heads\": 2, \"attention_head_dim\": 8, \"text_dim\": 12, \"freq_dim\": 32, " \
    "\"num_layers\": 3"

#endif

/* How far int8 products move the velocity of a trained model: the bundled one, along its own path
 * from noise to clip, at every noise level of that path. */
#include <math.h>
#include <string.h>

#include "base/path.h"
#include "diffusion/pipeline.h"
#include "tests/support/support.h"

/* DRAWS of noise: a token near a tie that goes to another expert is half of one path's error. */
enum { CLIPS = 3, LEVELS = 7, DRAWS = 3 };
static const float sigmas[LEVELS + 1] = {1.0f, 0.9f, 0.75f, 0.6f, 0.45f, 0.3f, 0.15f, 0.0f};
static const char *const prompts[CLIPS] = {"a red ball falls and bounces on a gray floor",
                                           "a blue box slides down a ramp", ""};

typedef struct subject {
    kin_ctx *ctx;
    kin_pipeline *p;
    kin_tensor x, sigma, t, prior, quant, text, null;
    int64_t n; /* numbers of all clips */
} subject;

static void open_subject(subject *s, kin_dtype compute)
{
    kin_error err = {0};
    kin_ctx_options opt = {.backend = KIN_BACKEND_CPU, .threads = 2, .compute = compute};
    kin_ctx *ctx;
    assert_ok(kin_ctx_create(&opt, &ctx, &err), &err);
    s->ctx = ctx;
    assert_ok(kin_pipeline_load(ctx, KIN_BUNDLED, &s->p), &ctx->error);
    const int64_t F = s->p->frames, H = s->p->height, W = s->p->width;
    s->n = CLIPS * 3 * F * H * W;
    assert_ok(KIN_WS(ctx, &s->x, KIN_DTYPE_F32, CLIPS, 3, F, H, W), &ctx->error);
    assert_ok(KIN_WS(ctx, &s->sigma, KIN_DTYPE_F32, CLIPS), &ctx->error);
    assert_ok(KIN_WS(ctx, &s->t, KIN_DTYPE_F32, CLIPS), &ctx->error);
    assert_ok(KIN_WS(ctx, &s->prior, KIN_DTYPE_F32, CLIPS, 29), &ctx->error);
    assert_ok(KIN_WS(ctx, &s->quant, KIN_DTYPE_F32, CLIPS, 18), &ctx->error);
    memset(s->prior.data, 0, CLIPS * 29 * sizeof(float));
    memset(s->quant.data, 0, CLIPS * 18 * sizeof(float));
    ((float *)s->prior.data)[3] = 1;
    ((float *)s->quant.data)[2] = 1;
    assert_ok(kin_pipeline_encode(s->p, prompts, CLIPS, &s->text, &s->null), &ctx->error);
}

static void close_subject(subject *s)
{
    kin_pipeline_destroy(&s->p);
    kin_ctx_destroy(&s->ctx);
}

/* Velocity of x at a level; lives until the caller's mark is released. */
static const float *velocity(subject *s, const float *x, float sigma)
{
    kin_model_output out;
    kin_tensor v;
    kin_model_input in = {.x = &s->x,
                          .t = &s->t,
                          .text = &s->text,
                          .null = &s->null,
                          .prior = &s->prior,
                          .quant = &s->quant};
    memcpy(s->x.data, x, (size_t)s->n * sizeof(float));
    for (int b = 0; b < CLIPS; b++) {
        ((float *)s->sigma.data)[b] = sigma;
        ((float *)s->t.data)[b] = 1000 * sigma;
    }
    assert_ok(kin_model_forward(s->ctx, s->p->model, &in, &out), &s->ctx->error);
    assert_ok(kin_model_velocity(s->ctx, s->p->model, &s->x, &out.y, &s->sigma, &v),
              &s->ctx->error);
    return v.data;
}

static void bundled_model(void **state)
{
    subject f = {0}, q = {0};
    double error = 0, norm = 0;
    (void)state;
    if (!kin_path_is_dir(KIN_BUNDLED))
        skip();
    open_subject(&f, KIN_DTYPE_F32);
    open_subject(&q, KIN_DTYPE_I8);
    kin_tensor path;
    assert_ok(KIN_WS(f.ctx, &path, KIN_DTYPE_F32, f.n), &f.ctx->error);
    float *x = path.data;
    for (int i = 0; i < DRAWS * LEVELS; i++) {
        const kin_rng rng = {.seed = 7 + (uint64_t)(i / LEVELS), .purpose = KIN_RNG_TEST};
        const int l = i % LEVELS;
        if (l == 0)
            kin_rng_normal(&rng, 0, f.n, x);
        size_t mark_f = kin_ws_mark(f.ctx), mark_q = kin_ws_mark(q.ctx);
        const float *v = velocity(&f, x, sigmas[l]), *w = velocity(&q, x, sigmas[l]);
        double e = 0, n = 0;
        for (int64_t k = 0; k < f.n; k++) {
            e += ((double)w[k] - (double)v[k]) * ((double)w[k] - (double)v[k]);
            n += (double)v[k] * (double)v[k];
            x[k] += (sigmas[l + 1] - sigmas[l]) * v[k];
        }
        print_message("sigma %.2f: velocity off by %.3f %%\n", (double)sigmas[l],
                      100 * sqrt(e / n));
        error += e;
        norm += n;
        kin_ws_release(f.ctx, mark_f);
        kin_ws_release(q.ctx, mark_q);
    }
    print_message("all levels: %.3f %%\n", 100 * sqrt(error / norm));
    assert_true(error > 0); /* it did run in int8 */
    assert_true(sqrt(error / norm) <= 0.01);
    close_subject(&f);
    close_subject(&q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(bundled_model)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

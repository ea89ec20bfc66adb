/* A small autoencoder learns: losses as their formula says, and both fall. */
#include "tests/support/support.h"

#include <math.h>
#include <string.h>

#include "base/json.h"
#include "tensor/kernels.h"
#include "training/optimizer.h"
#include "training/vae_objective.h"

static const char small[] =
    "{\"_class_name\": \"AutoencoderKL\", \"block_out_channels\": [8, 16], \"layers_per_block\": 1,"
    " \"norm_num_groups\": 4, \"latent_channels\": 2, \"down_block_types\": ["
    "\"DownEncoderBlock2D\", \"DownEncoderBlock2D\"], \"up_block_types\": [\"UpDecoderBlock2D\","
    " \"UpDecoderBlock2D\"]}";

typedef struct fixture {
    kin_ctx *ctx;
    kin_params *params;
    kin_vae *vae;
    kin_tensor x, noise;
} fixture;

/* Two pictures of a bright disc on a ramp. */
static void draw(kin_tensor *x)
{
    for (int64_t i = 0; i < kin_tensor_numel(x); i++) {
        const int64_t b = i / 768, c = i / 256 % 3, row = i / 16 % 16, col = i % 16;
        const double r = hypot((double)(row - 8), (double)(col - 5 - 4 * b));
        kin_tensor_set(x, i, r < 4 ? 0.8 - 0.3 * (double)c : (double)row / 16 - 0.7);
    }
}

static void open_fixture(fixture *f, kin_backend backend)
{
    const kin_ctx_options opt = {.backend = backend, .threads = 2};
    kin_error err = {0};
    cJSON *config = NULL;

    *f = (fixture){0};
    assert_ok(kin_ctx_create(&opt, &f->ctx, &err), &err);
    assert_ok(kin_params_create(&f->params, &err), &err);
    assert_ok(kin_json_parse(small, strlen(small), KIN_JSON_STRICT, &config, &err), &err);
    assert_ok(kin_vae_create(config, f->params, &f->vae, &err), &err);
    cJSON_Delete(config);
    const bool plan = backend == KIN_BACKEND_PLAN;
    assert_ok(kin_params_alloc(f->params, KIN_DTYPE_F32, plan, &err), &err);
    assert_ok(kin_params_alloc_grads(f->params, plan, &err), &err);
    assert_ok(KIN_WS(f->ctx, &f->x, KIN_DTYPE_F32, 2, 3, 16, 16), &f->ctx->error);
    assert_ok(KIN_WS(f->ctx, &f->noise, KIN_DTYPE_F32, 2, 2, 8, 8), &f->ctx->error);
    if (plan)
        return;
    const kin_rng rng = {.seed = 3, .purpose = KIN_RNG_TEST};
    kin_params_init(f->params, 5);
    draw(&f->x);
    assert_ok(f->ctx->k->randn(f->ctx, &rng, 0, &f->noise), &f->ctx->error);
}

static void close_fixture(fixture *f)
{
    kin_vae_destroy(&f->vae);
    kin_params_destroy(&f->params);
    kin_ctx_destroy(&f->ctx);
}

/* Losses of one step, as doubles; gradients are added to. */
static void step(fixture *f, const kin_vae_objective *o, double got[3])
{
    const size_t mark = kin_ws_mark(f->ctx);
    kin_vae_losses l;

    assert_ok(kin_tape_begin(f->ctx), &f->ctx->error);
    assert_ok(kin_vae_objective_losses(f->ctx, f->vae, o, &f->x, &f->noise, &l), &f->ctx->error);
    assert_ok(kin_tape_backward(f->ctx, &l.total, NULL, 1), &f->ctx->error);
    kin_tape_end(f->ctx);
    if (got && !kin_ctx_is_plan(f->ctx)) {
        got[0] = kin_tensor_get(&l.total, 0);
        got[1] = kin_tensor_get(&l.rec, 0);
        got[2] = kin_tensor_get(&l.kl, 0);
    }
    kin_ws_release(f->ctx, mark);
}

static void test_formula(void **state)
{
    fixture f;
    (void)state;
    open_fixture(&f, KIN_BACKEND_CPU);
    for (int squared = 0; squared < 2; squared++) {
        const kin_vae_objective o = {.squared = squared != 0, .kl_weight = 0.25};
        kin_tensor mean, logvar, z, rec;
        double got[3], sum = 0, kl = 0;

        step(&f, &o, got);
        assert_ok(kin_vae_encode(f.ctx, f.vae, &f.x, &mean, &logvar), &f.ctx->error);
        assert_ok(kin_vae_sample(f.ctx, &mean, &logvar, &f.noise, &z), &f.ctx->error);
        assert_ok(kin_vae_decode(f.ctx, f.vae, &z, &rec), &f.ctx->error);
        for (int64_t i = 0; i < kin_tensor_numel(&rec); i++) {
            const double d = kin_tensor_get(&rec, i) - kin_tensor_get(&f.x, i);
            sum += squared ? d * d : fabs(d);
        }
        for (int64_t i = 0; i < kin_tensor_numel(&z); i++) {
            const double m = kin_tensor_get(&mean, i), v = kin_tensor_get(&logvar, i);
            kl += (m * m + exp(v) - 1 - v) / 2;
        }
        const double n = (double)kin_tensor_numel(&f.x);
        assert_true(fabs(got[1] - sum / n) < 1e-5);
        assert_true(fabs(got[2] - kl / n) < 1e-5);
        assert_true(fabs(got[0] - got[1] - 0.25 * got[2]) < 1e-6);
    }
    close_fixture(&f);
}

static void test_losses_fall(void **state)
{
    static const char *const prefixes[] = {""};
    const kin_vae_objective o = {.squared = false, .kl_weight = 1e-3};
    kin_optimizer_options opt = kin_optimizer_options_default();
    kin_optimizer *adam = NULL;
    kin_optimizer_report report;
    kin_error err = {0};
    double first[3], last[3];
    fixture f;
    (void)state;
    open_fixture(&f, KIN_BACKEND_CPU);
    opt.lr = 3e-3;
    opt.ema_decay = 0;
    assert_ok(kin_optimizer_create(&opt, &f.params, prefixes, 1, false, &adam, &err), &err);
    for (int i = 0; i < 60; i++) {
        step(&f, &o, i ? last : first);
        assert_ok(kin_optimizer_step(f.ctx, adam, 1, &report), &f.ctx->error);
    }
    if (!(last[1] < 0.5 * first[1]) || !(last[0] < 0.5 * first[0]))
        fail_msg("rec %g -> %g, total %g -> %g", first[1], last[1], first[0], last[0]);
    kin_optimizer_destroy(&adam);
    close_fixture(&f);
}

/* Recomputed blocks give the same gradients, with less memory; a plan knows both. */
static void test_checkpointing(void **state)
{
    const kin_vae_objective o = kin_vae_objective_default();
    size_t taken[2], planned[2];
    fixture f[2];
    (void)state;
    for (int on = 0; on < 2; on++) {
        fixture dry;
        open_fixture(&dry, KIN_BACKEND_PLAN);
        kin_vae_set_checkpointing(dry.vae, on != 0);
        step(&dry, &o, NULL);
        planned[on] = dry.ctx->ws.peak;
        close_fixture(&dry);
        open_fixture(&f[on], KIN_BACKEND_CPU);
        kin_vae_set_checkpointing(f[on].vae, on != 0);
        step(&f[on], &o, NULL);
        taken[on] = f[on].ctx->ws.peak;
    }
    assert_true(taken[1] < taken[0]);
    for (int on = 0; on < 2; on++) {
        if (planned[on] < taken[on] || planned[on] > taken[on] + taken[on] / 4)
            fail_msg("planned %zu bytes, taken %zu", planned[on], taken[on]);
    }
    for (int i = 0; i < f[0].params->count; i++) {
        const kin_tensor *a = &f[0].params->list[i]->grad, *b = &f[1].params->list[i]->grad;
        assert_memory_equal(a->data, b->data, (size_t)kin_tensor_numel(a) * sizeof(float));
    }
    close_fixture(&f[0]);
    close_fixture(&f[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_formula),
        cmocka_unit_test(test_losses_fall),
        cmocka_unit_test(test_checkpointing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* AutoencoderKL beside its golden cases: configurations, what a result may not depend on, tiles. */
#include "tests/support/support.h"

#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "tensor/kernels.h"
#include "vision/vae.h"

#define BLOCKS                                                                 \
    "\"down_block_types\": [\"DownEncoderBlock2D\", \"DownEncoderBlock2D\"], " \
    "\"up_block_types\": [\"UpDecoderBlock2D\", \"UpDecoderBlock2D\"]"
static const char config[] = "{\"_class_name\": \"AutoencoderKL\", \"block_out_channels\": [32, "
                             "64], \"layers_per_block\": 1,"
                             " \"norm_num_groups\": 8, \"sample_size\": 16, " BLOCKS "}";

typedef struct subject {
    kin_ctx *ctx;
    kin_params *params;
    kin_vae *vae;
} subject;

static kin_status create(subject *s, const char *text, kin_error *err)
{
    cJSON *j = NULL;
    kin_status status;

    assert_ok(kin_json_parse(text, strlen(text), KIN_JSON_STRICT, &j, err), err);
    assert_ok(kin_params_create(&s->params, err), err);
    status = kin_vae_create(j, s->params, &s->vae, err);
    cJSON_Delete(j);
    return status;
}

static subject open_subject(kin_backend backend, int threads)
{
    const kin_ctx_options opt = {.backend = backend, .threads = threads};
    const bool plan = backend == KIN_BACKEND_PLAN;
    kin_error err = {0};
    subject s = {0};

    assert_ok(kin_ctx_create(&opt, &s.ctx, &err), &err);
    assert_ok(create(&s, config, &err), &err);
    assert_ok(kin_params_alloc(s.params, KIN_DTYPE_F32, plan, &err), &err);
    if (!plan)
        kin_params_init(s.params, 9);
    return s;
}

static void close_subject(subject *s)
{
    kin_vae_destroy(&s->vae);
    kin_params_destroy(&s->params);
    kin_ctx_destroy(&s->ctx);
}

static kin_tensor noise(subject *s, uint64_t sample, int ndim, const int64_t *sizes)
{
    const kin_rng rng = {.seed = 4, .purpose = KIN_RNG_TEST, .sample = sample};
    kin_tensor t;

    assert_ok(kin_ws_tensor(s->ctx, KIN_DTYPE_F32, ndim, sizes, &t), &s->ctx->error);
    if (!kin_ctx_is_plan(s->ctx))
        assert_ok(s->ctx->k->randn(s->ctx, &rng, 0, &t), &s->ctx->error);
    return t;
}

static void expect(const char *text, kin_status want, const char *part)
{
    kin_error err = {0};
    subject s = {0};

    assert_int_equal(create(&s, text, &err), want);
    if (!strstr(err.text, part))
        fail_msg("\"%s\" should say \"%s\"", err.text, part);
    assert_null(s.vae);
    kin_params_destroy(&s.params);
}

static void test_configurations(void **state)
{
    (void)state;
    expect("{}", KIN_ERR_FORMAT, "_class_name");
    expect("{\"_class_name\": \"AutoencoderTiny\"}", KIN_ERR_UNSUPPORTED, "AutoencoderTiny");
    expect("{\"_class_name\": \"AutoencoderKL\", \"latent_chanels\": 4}", KIN_ERR_FORMAT,
           "latent_channels");
    expect("{\"_class_name\": \"AutoencoderKL\", \"block_out_channels\": [64, 100], " BLOCKS "}",
           KIN_ERR_ARG, "multiple of norm_num_groups");
    expect("{\"_class_name\": \"AutoencoderKL\", \"block_out_channels\": []}", KIN_ERR_FORMAT,
           "block_out_channels");
    expect("{\"_class_name\": \"AutoencoderKL\", \"block_out_channels\": [1e9]}", KIN_ERR_FORMAT,
           "block_out_channels");
    expect("{\"_class_name\": \"AutoencoderKL\", \"block_out_channels\": [64, 64]}", KIN_ERR_FORMAT,
           "down_block_types");
    expect("{\"_class_name\": \"AutoencoderKL\", \"down_block_types\": [\"AttnDownBlock2D\"]}",
           KIN_ERR_UNSUPPORTED, "DownEncoderBlock2D");
    expect("{\"_class_name\": \"AutoencoderKL\", \"act_fn\": \"mish\"}", KIN_ERR_UNSUPPORTED,
           "mish");
    expect("{\"_class_name\": \"AutoencoderKL\", \"latents_mean\": [0]}", KIN_ERR_UNSUPPORTED,
           "latents_mean");
    expect("{\"_class_name\": \"AutoencoderKL\", \"scaling_factor\": 0}", KIN_ERR_FORMAT,
           "scaling_factor");
    assert_string_equal(kin_vae_alias("decoder.mid_block.attentions.0.to_out.0.bias"),
                        "decoder.mid_block.attentions.0.proj_attn.bias");
    assert_string_equal(kin_vae_alias("encoder.mid_block.attentions.0.to_k.weight"),
                        "encoder.mid_block.attentions.0.key.weight");
    assert_null(kin_vae_alias("decoder.conv_in.weight"));
}

static void test_shapes(void **state)
{
    subject s = open_subject(KIN_BACKEND_CPU, 1);
    kin_tensor x = noise(&s, 1, 4, (int64_t[]){1, 3, 1, 8}), mean, logvar;

    (void)state;
    assert_int_equal(kin_vae_encode(s.ctx, s.vae, &x, &mean, &logvar), KIN_ERR_SHAPE);
    x = noise(&s, 1, 4, (int64_t[]){1, 4, 8, 8});
    assert_int_equal(kin_vae_encode(s.ctx, s.vae, &x, &mean, &logvar), KIN_ERR_SHAPE);
    assert_int_equal(kin_vae_decode(s.ctx, s.vae, &mean, &x), KIN_ERR_SHAPE);
    close_subject(&s);
}

/* The bits of a picture depend neither on threads nor on the other pictures; the plan knows the
 * workspace of a run. */
static void test_same_bits(void **state)
{
    subject s[2] = {open_subject(KIN_BACKEND_CPU, 1), open_subject(KIN_BACKEND_CPU, 2)};
    subject dry = open_subject(KIN_BACKEND_PLAN, 2);
    kin_tensor mean[3], logvar[3], rec[3], none;

    (void)state;
    for (int i = 0; i < 3; i++) {
        subject *me = &s[i == 1];
        kin_tensor x = noise(me, 7, 4, (int64_t[]){4, 3, 21, 38});

        if (i == 2)
            x = kin_tensor_slice(&x, 0, 3, 1);
        assert_ok(kin_vae_encode(me->ctx, me->vae, &x, &mean[i], &logvar[i]), &me->ctx->error);
        kin_tensor z = noise(me, 8, 4, (int64_t[]){4, 4, 10, 19});
        if (i == 2)
            z = kin_tensor_slice(&z, 0, 3, 1);
        assert_ok(kin_vae_decode(me->ctx, me->vae, &z, &rec[i]), &me->ctx->error);
    }
    const size_t part = (size_t)(4 * 10 * 19) * sizeof(float);
    for (int b = 0; b < 4; b++) {
        for (int half = 0; half < 2; half++) {
            const kin_tensor *m = half ? logvar : mean;
            const kin_tensor a = kin_tensor_select(&m[0], 0, b), c = kin_tensor_select(&m[1], 0, b);

            assert_memory_equal(a.data, c.data, part);
            if (b == 3) {
                const kin_tensor alone = kin_tensor_select(&m[2], 0, 0);

                assert_memory_equal(a.data, alone.data, part);
            }
        }
    }
    const size_t picture = (size_t)(3 * 20 * 38) * sizeof(float);
    assert_memory_equal(rec[0].data, rec[1].data, 4 * picture);
    assert_memory_equal((char *)rec[0].data + 3 * picture, rec[2].data, picture);

    none = noise(&dry, 7, 4, (int64_t[]){4, 3, 21, 38});
    assert_ok(kin_vae_encode(dry.ctx, dry.vae, &none, &mean[0], &logvar[0]), &dry.ctx->error);
    none = noise(&dry, 8, 4, (int64_t[]){4, 4, 10, 19});
    assert_ok(kin_vae_decode(dry.ctx, dry.vae, &none, &rec[0]), &dry.ctx->error);
    assert_int_equal(dry.ctx->ws.peak, s[1].ctx->ws.peak);
    assert_int_equal(dry.ctx->packed, s[1].ctx->packed);
    close_subject(&dry);
    close_subject(&s[0]);
    close_subject(&s[1]);
}

/* --- tiles, beside the procedure of diffusers written out over whole tiles --- */

enum { MOST = 4, TILE = 16, EXTENT = 4, LIMIT = TILE - EXTENT };

static double blended(double a, double b, int64_t i, int64_t n)
{
    const double w = (double)i / (double)n;
    return a * (1 - w) + b * w;
}

/* The last n rows (or columns) of a fade into the first ones of b, in b. */
static void blend(const kin_tensor *a, kin_tensor *b, bool rows)
{
    const int dim = rows ? 2 : 3;
    int64_t n = a->size[dim] < b->size[dim] ? a->size[dim] : b->size[dim];

    n = n < EXTENT ? n : EXTENT;
    for (int64_t c = 0; c < b->size[1]; c++)
        for (int64_t k = 0; k < n; k++)
            for (int64_t o = 0; o < b->size[5 - dim]; o++) {
                const int64_t from = a->size[dim] - n + k;
                const int64_t at_a = rows ? from * a->size[3] + o : o * a->size[3] + from;
                const int64_t at_b = rows ? k * b->size[3] + o : o * b->size[3] + k;
                const int64_t ia = c * a->size[2] * a->size[3] + at_a;
                const int64_t ib = c * b->size[2] * b->size[3] + at_b;
                kin_tensor_set(b, ib, blended(kin_tensor_get(a, ia), kin_tensor_get(b, ib), k, n));
            }
}

static void check_tiles(int64_t h, int64_t w)
{
    subject s = open_subject(KIN_BACKEND_CPU, 1);
    const kin_vae_tiling tiling = kin_vae_tiling_default(s.vae);
    const int64_t sizes[] = {1, 4, h, w}, step = LIMIT / 2, latent = TILE / 2;
    kin_tensor z = noise(&s, 21, 4, sizes), tile[MOST][MOST], x;

    assert_int_equal(tiling.tile, TILE);
    assert_ok(kin_vae_decode_tiled(s.ctx, s.vae, &z, &tiling, &x), &s.ctx->error);
    assert_int_equal(x.size[2], 2 * h);
    assert_int_equal(x.size[3], 2 * w);
    for (int64_t i = 0; i * step < h; i++)
        for (int64_t j = 0; j * step < w; j++) {
            const int64_t hi = h - i * step, wj = w - j * step;
            kin_tensor part = kin_tensor_slice(&z, 2, i * step, hi < latent ? hi : latent);

            part = kin_tensor_slice(&part, 3, j * step, wj < latent ? wj : latent);
            assert_ok(kin_contiguous(s.ctx, &part, &part), &s.ctx->error);
            assert_ok(kin_vae_decode(s.ctx, s.vae, &part, &tile[i][j]), &s.ctx->error);
        }
    for (int64_t i = 0; i * step < h; i++)
        for (int64_t j = 0; j * step < w; j++) {
            kin_tensor *t = &tile[i][j];

            if (i > 0)
                blend(&tile[i - 1][j], t, true);
            if (j > 0)
                blend(&tile[i][j - 1], t, false);
            for (int64_t k = 0; k < kin_tensor_numel(t); k++) {
                const int64_t c = k / (t->size[2] * t->size[3]), row = k / t->size[3] % t->size[2];
                const int64_t col = k % t->size[3];

                if (row >= LIMIT || col >= LIMIT)
                    continue;
                const double got =
                    kin_tensor_get(&x, (c * 2 * h + i * LIMIT + row) * 2 * w + j * LIMIT + col);
                const double want = kin_tensor_get(t, k);
                if (!(got - want < 1e-6 && want - got < 1e-6))
                    fail_msg("%lldx%lld tile %lld,%lld row %lld column %lld: %g, not %g",
                             (long long)h, (long long)w, (long long)i, (long long)j, (long long)row,
                             (long long)col, got, want);
            }
        }
    close_subject(&s);
}

static void test_tiles(void **state)
{
    (void)state;
    check_tiles(14, 9);  /* 3 x 2, the last row short */
    check_tiles(13, 19); /* a tile of one row, four columns */
    check_tiles(8, 11);  /* one row */
}

/* A picture that fits one tile is decoded whole; the workspace inside does not grow with it. */
static void test_tile_memory(void **state)
{
    kin_vae_tiling tiling = {.tile = 16, .overlap = 0.25};
    size_t inside[2];
    kin_tensor x;

    (void)state;
    for (int i = 0; i < 2; i++) {
        const int64_t side = i ? 44 : 14, sizes[] = {1, 4, side, side};
        subject s = open_subject(KIN_BACKEND_CPU, 1), dry = open_subject(KIN_BACKEND_PLAN, 1);
        kin_tensor z = noise(&s, 3, 4, sizes), d = noise(&dry, 3, 4, sizes);

        assert_ok(kin_vae_decode_tiled(s.ctx, s.vae, &z, &tiling, &x), &s.ctx->error);
        assert_ok(kin_vae_decode_tiled(dry.ctx, dry.vae, &d, &tiling, &x), &dry.ctx->error);
        assert_int_equal(dry.ctx->ws.peak, s.ctx->ws.peak);
        /* without the latent, the picture and the strips above, which are its size */
        inside[i] = s.ctx->ws.peak - (size_t)(side * side * 16 + 12 * side * side * 4) -
                    (size_t)((side + 5) / 6 * 3 * 4 * 16 * 4);
        close_subject(&dry);
        close_subject(&s);
    }
    if (inside[1] > inside[0] + 1024)
        fail_msg("%zu bytes inside for the small picture, %zu for the large one", inside[0],
                 inside[1]);
    subject s = open_subject(KIN_BACKEND_CPU, 1);
    kin_tensor z = noise(&s, 3, 4, (int64_t[]){1, 4, 8, 8}), whole;
    assert_ok(kin_vae_decode_tiled(s.ctx, s.vae, &z, &tiling, &x), &s.ctx->error);
    assert_ok(kin_vae_decode(s.ctx, s.vae, &z, &whole), &s.ctx->error);
    assert_memory_equal(x.data, whole.data, (size_t)kin_tensor_numel(&x) * sizeof(float));
    tiling.tile = 15;
    assert_int_equal(kin_vae_decode_tiled(s.ctx, s.vae, &z, &tiling, &x), KIN_ERR_ARG);
    tiling = (kin_vae_tiling){.tile = 16, .overlap = 1};
    assert_int_equal(kin_vae_decode_tiled(s.ctx, s.vae, &z, &tiling, &x), KIN_ERR_ARG);
    close_subject(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_configurations), cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_same_bits),      cmocka_unit_test(test_tiles),
        cmocka_unit_test(test_tile_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* A tiny untrained text-to-video pipeline from configs to frames: same bytes in any batch and
 * thread count, save and load, refusals, the plan of its memory. */
#include "tests/diffusion/models.h"

#include <unistd.h>

#include "base/alloc.h"
#include "base/path.h"
#include "diffusion/pipeline.h"
#include "tests/support/folder.h"

#define TRANSFORMER(extra)                                                                       \
    "{\"_class_name\": \"KinemaTransformer3DModel\", \"model\": \"promoe_tc\", \"patch_size\": " \
    "[2,4,4],"                                                                                   \
    "\"num_attention_heads\": 2, \"attention_head_dim\": 8, \"text_dim\": 16, \"text_len\": 12," \
    "\"freq_dim\": 32, \"ffn_dim\": 24, \"num_layers\": 2, \"phys_head_dim\": 4, "               \
    "\"phys_heads_per_class\": 1,"                                                               \
    "\"sample_frames\": 4, \"sample_height\": 8, \"sample_width\": 16,"                          \
    "\"MoE_config\": {\"num_routed_experts\": 3}" extra "}"
#define TEXT                                                                              \
    "{\"model_type\": \"t5\", \"architectures\": [\"T5EncoderModel\"], \"d_model\": 16, " \
    "\"d_kv\": 8,"                                                                        \
    "\"d_ff\": 24, \"num_layers\": 1, \"num_heads\": 2, \"vocab_size\": 96,"              \
    "\"relative_attention_num_buckets\": 8, \"relative_attention_max_distance\": 16,"     \
    "\"feed_forward_proj\": \"gated-gelu\", \"layer_norm_epsilon\": 1e-6}"
#define SCHEDULER "{\"_class_name\": \"FlowMatchEulerDiscreteScheduler\", \"shift\": 3.0}"

static const char *const sentences[] = {
    "a red ball falls and bounces on a gray floor", "a blue box slides down a ramp",
    "a green ball is thrown to the right",          "a yellow ball hangs from a spring and swings",
    "two balls collide in the middle of the frame", "the white background has a gradient"};

static void *spiece;
static size_t spiece_bytes;
static char folder[KIN_TEST_FOLDER_MAX];

static int setup(void **state)
{
    kin_error err = {0};

    (void)state;
    if (kin_test_folder_new(folder))
        return -1;
    if (kin_tokenizer_train(sentences, 6, 40, false, &spiece, &spiece_bytes, &err) == KIN_OK)
        return 0;
    print_error("%s\n", err.text);
    return -1;
}

static int teardown(void **state)
{
    kin_error err = {0};

    (void)state;
    kin_free(spiece);
    return kin_path_remove_tree(folder, &err) == KIN_OK ? 0 : -1;
}

static kin_pipeline *make(kin_ctx *ctx, const char *transformer)
{
    cJSON *t = json(transformer), *e = json(TEXT), *s = json(SCHEDULER);
    kin_pipeline *p = NULL;

    assert_ok(kin_pipeline_create(ctx, t, e, spiece, spiece_bytes, s, 3, &p), &ctx->error);
    p->fps = 8;
    if (!kin_ctx_is_plan(ctx)) {
        randomize(p->params, 61, 0.2f);
        randomize(p->text_params, 62, 0.3f);
    }
    cJSON_Delete(t);
    cJSON_Delete(e);
    cJSON_Delete(s);
    return p;
}

enum { CLIPS = 5, CLIP_BYTES = 4 * 8 * 16 * 3 };

typedef struct film {
    uint8_t clip[CLIPS][CLIP_BYTES];
    int64_t next;
    int steps;
    int stop_at;
} film;

static kin_status receive(void *user, int64_t clip, const kin_tensor *frames)
{
    film *f = user;

    assert_int_equal(clip, f->next++);
    assert_int_equal(kin_tensor_numel(frames), CLIP_BYTES);
    assert_int_equal(frames->size[0], 4);
    assert_int_equal(frames->size[3], 3);
    memcpy(f->clip[clip], frames->data, CLIP_BYTES);
    return KIN_OK;
}

static kin_status watch(void *user, int64_t done, int step, int steps)
{
    film *f = user;

    assert_true(done >= 0 && step >= 1 && step <= steps);
    return ++f->steps == f->stop_at ? KIN_ERR_INTERRUPTED : KIN_OK;
}

static float priors[CLIPS * 29], quants[CLIPS * 18];

static kin_generate_params request(film *f)
{
    static const char *const prompts[CLIPS] = {"a red ball falls", "a blue box", "",
                                               "two balls collide",
                                               "a green ball is thrown to the right"};
    kin_generate_params g = kin_generate_params_default();

    for (int i = 0; i < CLIPS * 29; i++)
        priors[i] = i % 4 == 0;
    for (int i = 0; i < CLIPS * 18; i++)
        quants[i] = (float)(i % 7) * 0.5f;
    g.count = CLIPS;
    g.prompts = prompts;
    g.prior = priors;
    g.quant = quants;
    g.steps = 3;
    g.seed = 17;
    g.cfg_mode = KIN_CFG_MULTI;
    g.cfg_scale = 2;
    g.phys_cfg = 1.5f;
    g.emit = receive;
    g.progress = watch;
    g.user = f;
    memset(f, 0, sizeof(*f));
    return g;
}

static void generate(kin_pipeline *p, const kin_generate_params *g)
{
    assert_ok(kin_pipeline_generate(p, g), &p->ctx->error);
}

static void check_same_bytes(const char *transformer)
{
    static film base, other;
    static const struct {
        int threads;
        int64_t batch;
    } ways[] = {{1, 4}, {2, 4}};
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CPU, 1);
    kin_pipeline *p = make(ctx, transformer);
    kin_generate_params g = request(&base);
    size_t used = kin_ws_mark(ctx);

    generate(p, &g);
    assert_int_equal(base.next, CLIPS);
    assert_int_equal(base.steps, CLIPS * 3);
    assert_int_equal(kin_ws_mark(ctx), used);
    assert_memory_not_equal(base.clip[0], base.clip[1], CLIP_BYTES);
    kin_pipeline_destroy(&p);
    kin_ctx_destroy(&ctx);
    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        ctx = open_ctx(KIN_BACKEND_CPU, ways[i].threads);
        p = make(ctx, transformer);
        g = request(&other);
        g.batch = ways[i].batch;
        generate(p, &g);
        assert_memory_equal(base.clip, other.clip, sizeof(base.clip));
        kin_pipeline_destroy(&p);
        kin_ctx_destroy(&ctx);
    }
}

static void test_same_bytes(void **state)
{
    (void)state;
    check_same_bytes(TRANSFORMER(""));
    check_same_bytes(
        TRANSFORMER(", \"mopa_flip_at_inference\": true, \"phys_qk_norm\": \"layer_norm\","
                    "\"prediction_type\": \"sample\", \"pos_embed\": \"learned\","
                    "\"quantity_modulation\": \"all\", \"rope_theta\": 100"));
}

/* a clip belongs to its index, not to its place in the call; seeds, flips and conditions matter */
static void test_what_a_clip_depends_on(void **state)
{
    static film base, other;
    static const uint64_t index[1] = {3};
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CPU, 1);
    kin_pipeline *p = make(ctx, TRANSFORMER(", \"mopa_flip_at_inference\": true"));
    kin_generate_params g = request(&base);

    (void)state;
    generate(p, &g);
    g = request(&other);
    g.count = 1;
    g.prompts += 3;
    g.prior += 3 * 29;
    g.quant += 3 * 18;
    g.sample_index = index;
    generate(p, &g);
    assert_memory_equal(base.clip[3], other.clip[0], CLIP_BYTES);
    g = request(&other);
    g.seed = 18;
    generate(p, &g);
    assert_memory_not_equal(base.clip[0], other.clip[0], CLIP_BYTES);
    g = request(&other);
    priors[0] = 0;
    generate(p, &g);
    assert_memory_not_equal(base.clip[0], other.clip[0], CLIP_BYTES);
    assert_memory_equal(base.clip[1], other.clip[1], CLIP_BYTES);
    kin_pipeline_destroy(&p);
    kin_ctx_destroy(&ctx);
}

/* twice the value; what is returned has to stay until the save is over */
typedef struct values {
    float data[200000];
    int64_t used;
} values;

static const float *doubled(void *user, int table, const kin_param *p)
{
    values *v = user;
    float *out = v->data + v->used;

    (void)table;
    v->used += kin_tensor_numel(&p->value);
    assert_true(v->used <= 200000);
    for (int64_t i = 0; i < kin_tensor_numel(&p->value); i++)
        out[i] = 2 * (float)kin_tensor_get(&p->value, i);
    return out;
}

static void path_in(char *out, size_t bytes, const char *name)
{
    snprintf(out, bytes, "%s/%s", folder, name);
}

/* f32: same bytes of clips, same parameters; then trainable */
static void test_save_and_load(void **state)
{
    static film base, other;
    char dir[256], path[300];
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CPU, 1);
    kin_pipeline *p = make(ctx, TRANSFORMER("")), *q = NULL;
    kin_generate_params g = request(&base);

    (void)state;
    generate(p, &g);
    path_in(dir, sizeof(dir), "plain");
    /* twice: an older directory is replaced */
    assert_ok(kin_pipeline_save(p, dir, KIN_DTYPE_F32, NULL, NULL, &ctx->error), &ctx->error);
    assert_ok(kin_pipeline_save(p, dir, KIN_DTYPE_F32, NULL, NULL, &ctx->error), &ctx->error);
    snprintf(path, sizeof(path), "%s.tmp", dir);
    assert_false(kin_path_exists(path));
    snprintf(path, sizeof(path), "%s.old", dir);
    assert_false(kin_path_exists(path));
    assert_ok(kin_pipeline_load(ctx, dir, &q), &ctx->error);
    assert_int_equal(q->frames, 4);
    assert_int_equal(q->width, 16);
    assert_true(q->fps == 8.0);
    assert_int_equal(strlen(q->hash), 16);
    g = request(&other);
    generate(q, &g);
    assert_memory_equal(base.clip, other.clip, sizeof(base.clip));
    assert_ok(kin_pipeline_make_trainable(q), &ctx->error);
    assert_null(q->files);
    for (int i = 0; i < q->params->count; i++) {
        const kin_param *a = p->params->list[i], *b = q->params->list[i];

        assert_string_equal(a->name, b->name);
        assert_memory_equal(a->value.data, b->value.data,
                            (size_t)kin_tensor_numel(&a->value) * sizeof(float));
        assert_non_null(b->grad.data);
    }
    g = request(&other);
    generate(q, &g);
    assert_memory_equal(base.clip, other.clip, sizeof(base.clip));
    kin_pipeline_destroy(&p);
    kin_pipeline_destroy(&q);
    kin_ctx_destroy(&ctx);
}

/* bf16 keeps matrices in bf16 as they are mapped; everything else is f32; values of a callback are
 * written instead */
static void test_save_bf16_and_values(void **state)
{
    char dir[256];
    static values buffer;
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CPU, 1);
    kin_pipeline *p = make(ctx, TRANSFORMER("")), *q = NULL, *r = NULL;

    (void)state;
    path_in(dir, sizeof(dir), "half");
    assert_ok(kin_pipeline_save(p, dir, KIN_DTYPE_BF16, NULL, NULL, &ctx->error), &ctx->error);
    assert_ok(kin_pipeline_load(ctx, dir, &q), &ctx->error);
    path_in(dir, sizeof(dir), "doubled");
    assert_ok(kin_pipeline_save(p, dir, KIN_DTYPE_F32, doubled, &buffer, &ctx->error), &ctx->error);
    assert_ok(kin_pipeline_load(ctx, dir, &r), &ctx->error);
    assert_string_not_equal(q->hash, r->hash);
    for (int i = 0; i < p->params->count; i++) {
        const kin_param *a = p->params->list[i], *b = q->params->list[i], *c = r->params->list[i];
        const bool matrix = a->value.ndim >= 2 && strstr(a->name, ".weight");

        assert_int_equal(b->value.dtype, matrix ? KIN_DTYPE_BF16 : KIN_DTYPE_F32);
        assert_true(b->mapped && !b->owned);
        for (int64_t k = 0; k < kin_tensor_numel(&a->value); k++) {
            const float v = (float)kin_tensor_get(&a->value, k);
            const float want = matrix ? kin_bf16_to_f32(kin_f32_to_bf16(v)) : v;

            assert_true((float)kin_tensor_get(&b->value, k) == want);
            assert_true((float)kin_tensor_get(&c->value, k) == 2 * v);
        }
    }
    assert_int_equal(kin_params_find(q->text_params, "shared.weight")->value.dtype, KIN_DTYPE_BF16);
    kin_pipeline_destroy(&p);
    kin_pipeline_destroy(&q);
    kin_pipeline_destroy(&r);
    kin_ctx_destroy(&ctx);
}

/* run/latest names a checkpoint; its ema/ is what a run folder stands for */
static void test_run_folder(void **state)
{
    char run[256], path[400];
    static values buffer;
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CPU, 1);
    kin_pipeline *p = make(ctx, TRANSFORMER("")), *q = NULL;
    const kin_param *a, *b;

    (void)state;
    path_in(run, sizeof(run), "run");
    snprintf(path, sizeof(path), "%s/checkpoint-20", run);
    assert_ok(kin_path_make_dirs(run, &ctx->error), &ctx->error);
    assert_ok(kin_pipeline_save(p, path, KIN_DTYPE_F32, NULL, NULL, &ctx->error), &ctx->error);
    snprintf(path, sizeof(path), "%s/checkpoint-20/ema", run);
    assert_ok(kin_pipeline_save(p, path, KIN_DTYPE_F32, doubled, &buffer, &ctx->error),
              &ctx->error);
    assert_int_equal(kin_pipeline_load(ctx, run, &q), KIN_ERR_IO);
    snprintf(path, sizeof(path), "%s/latest", run);
    assert_ok(kin_file_write(path, "checkpoint-20\n", 14, &ctx->error), &ctx->error);
    assert_ok(kin_pipeline_load(ctx, run, &q), &ctx->error);
    a = kin_params_find(p->params, "patch_embedding.weight");
    b = kin_params_find(q->params, "patch_embedding.weight");
    assert_true((float)kin_tensor_get(&b->value, 5) == 2 * (float)kin_tensor_get(&a->value, 5));
    kin_pipeline_destroy(&q);
    snprintf(path, sizeof(path), "%s/checkpoint-20", run);
    assert_ok(kin_pipeline_load(ctx, path, &q), &ctx->error);
    b = kin_params_find(q->params, "patch_embedding.weight");
    assert_true((float)kin_tensor_get(&b->value, 5) == (float)kin_tensor_get(&a->value, 5));
    kin_pipeline_destroy(&q);
    snprintf(path, sizeof(path), "%s/latest", run);
    assert_ok(kin_file_write(path, "../plain", 8, &ctx->error), &ctx->error);
    assert_int_equal(kin_pipeline_load(ctx, run, &q), KIN_ERR_FORMAT);
    kin_pipeline_destroy(&p);
    kin_ctx_destroy(&ctx);
}

static void expect_fail(kin_pipeline *p, const kin_generate_params *g, kin_status status,
                        const char *text)
{
    const kin_status got = kin_pipeline_generate(p, g);

    if (got != status || !strstr(p->ctx->error.text, text))
        fail_msg("%s: %s", kin_status_name(got), p->ctx->error.text);
}

static void test_refusals(void **state)
{
    static film f;
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CPU, 1);
    kin_pipeline *p = make(ctx, TRANSFORMER(""));
    kin_param *out_w, *out_b;
    kin_generate_params g = request(&f);

    (void)state;
    g.width = 18;
    expect_fail(p, &g, KIN_ERR_ARG, "width 18 must be a multiple of 4");
    g = request(&f);
    g.frames = 3;
    expect_fail(p, &g, KIN_ERR_ARG, "frames 3 must be a multiple of 2");
    g = request(&f);
    g.steps = 0;
    assert_int_equal(kin_pipeline_generate(p, &g), KIN_ERR_ARG);
    g = request(&f);
    g.sampler = "eulr";
    expect_fail(p, &g, KIN_ERR_ARG, "euler");
    g = request(&f);
    g.prompts = NULL;
    expect_fail(p, &g, KIN_ERR_ARG, "prompts");
    g = request(&f);
    f.stop_at = 2;
    assert_int_equal(kin_pipeline_generate(p, &g), KIN_ERR_INTERRUPTED);
    assert_int_equal(f.next, 0);
    /* NaN weights: the step is named */
    out_w = kin_params_find(p->params, "proj_out.weight");
    out_b = kin_params_find(p->params, "proj_out.bias");
    kin_tensor_set(&out_b->value, 0, NAN);
    kin_param_touch(out_b);
    g = request(&f);
    expect_fail(p, &g, KIN_ERR_NUMERIC, "step 1 of 3");
    kin_pipeline_destroy(&p);
    /* a model that always says the same colour: flat frames */
    p = make(ctx, TRANSFORMER(", \"prediction_type\": \"sample\""));
    out_w = kin_params_find(p->params, "proj_out.weight");
    out_b = kin_params_find(p->params, "proj_out.bias");
    for (int64_t i = 0; i < kin_tensor_numel(&out_w->value); i++)
        kin_tensor_set(&out_w->value, i, 0);
    for (int64_t i = 0; i < kin_tensor_numel(&out_b->value); i++)
        kin_tensor_set(&out_b->value, i, 0.25);
    kin_param_touch(out_w);
    kin_param_touch(out_b);
    g = request(&f);
    expect_fail(p, &g, KIN_ERR_NUMERIC, "clip 0");
    g = request(&f);
    g.allow_flat = true;
    generate(p, &g);
    assert_int_equal(f.next, CLIPS);
    assert_int_equal(f.clip[0][0], (int)(255 * 0.625 + 0.5));
    kin_pipeline_destroy(&p);
    kin_ctx_destroy(&ctx);
}

static kin_status ignore_clip(void *user, int64_t clip, const kin_tensor *frames)
{
    (void)user;
    (void)clip;
    (void)frames;
    return KIN_OK;
}

/* the same code on shapes alone finds the workspace's peak */
static void test_plan(void **state)
{
    static film f;
    char dir[256];
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CPU, 1), *plan = open_ctx(KIN_BACKEND_PLAN, 1);
    kin_pipeline *p = make(ctx, TRANSFORMER("")), *q = NULL;
    kin_generate_params g = request(&f);
    size_t mark, real;

    (void)state;
    path_in(dir, sizeof(dir), "planned");
    assert_ok(kin_pipeline_save(p, dir, KIN_DTYPE_BF16, NULL, NULL, &ctx->error), &ctx->error);
    kin_pipeline_destroy(&p);
    assert_ok(kin_pipeline_load(ctx, dir, &p), &ctx->error);
    g.count = 3;
    g.batch = 3;
    g.steps = 1;
    g.frames = 8;
    g.height = 64;
    g.width = 64;
    g.emit = ignore_clip;
    mark = kin_ws_mark(ctx);
    generate(p, &g);
    assert_int_equal(kin_ws_mark(ctx), mark);
    real = ctx->ws.peak;
    /* the text encoder's packed weights are given back after use */
    assert_int_equal(kin_params_pack_bytes(p->text_params), 0);
    assert_int_equal(kin_params_pack_bytes(p->params), ctx->packed);
    assert_ok(kin_pipeline_load(plan, dir, &q), &plan->error);
    generate(q, &g);
    assert_int_equal(plan->ws.peak, real);
    /* experts that no token chose are packed in a plan alone */
    assert_true(plan->peak >= ctx->peak && plan->packed >= ctx->packed);
    assert_int_equal(kin_params_pack_bytes(q->params), plan->packed);
    kin_pipeline_destroy(&p);
    kin_pipeline_destroy(&q);
    kin_ctx_destroy(&ctx);
    kin_ctx_destroy(&plan);
}

/* nothing is allocated in a sampling loop but by the tokenizer and the schedule: the count does not
 * grow with steps */
static void test_no_allocation_per_step(void **state)
{
    static film f;
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CPU, 1);
    kin_pipeline *p = make(ctx, TRANSFORMER(""));
    kin_generate_params g = request(&f);
    uint64_t before, few, many;

    (void)state;
    generate(p, &g); /* packs the weights */
    g = request(&f);
    before = kin_alloc_count();
    generate(p, &g);
    few = kin_alloc_count() - before;
    g = request(&f);
    g.steps = 12;
    before = kin_alloc_count();
    generate(p, &g);
    many = kin_alloc_count() - before;
    assert_int_equal(few, many);
    kin_pipeline_destroy(&p);
    kin_ctx_destroy(&ctx);
}

/* broken directories: each failure is named and nothing leaks (run under ASan too) */
static void test_broken_directories(void **state)
{
    char dir[256], path[400];
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CPU, 1);
    kin_pipeline *p = make(ctx, TRANSFORMER("")), *q = NULL;
    static const char *const missing[] = {
        "model_index.json", "transformer/config.json", "tokenizer/spiece.model",
        "text_encoder/model.safetensors", "transformer/diffusion_pytorch_model.safetensors"};

    (void)state;
    for (int i = 0; i < 5; i++) {
        snprintf(dir, sizeof(dir), "%s/broken%d", folder, i);
        assert_ok(kin_pipeline_save(p, dir, KIN_DTYPE_F32, NULL, NULL, &ctx->error), &ctx->error);
        snprintf(path, sizeof(path), "%s/%s", dir, missing[i]);
        assert_int_equal(unlink(path), 0);
        assert_int_not_equal(kin_pipeline_load(ctx, dir, &q), KIN_OK);
        assert_null(q);
        assert_true(ctx->error.text[0] != '\0');
    }
    /* weights of another shape */
    snprintf(dir, sizeof(dir), "%s/shape", folder);
    assert_ok(kin_pipeline_save(p, dir, KIN_DTYPE_F32, NULL, NULL, &ctx->error), &ctx->error);
    snprintf(path, sizeof(path), "%s/transformer/config.json", dir);
    {
        static const char other[] = TRANSFORMER(", \"insert_gap\": 1");

        assert_ok(kin_file_write(path, other, strlen(other), &ctx->error), &ctx->error);
    }
    assert_int_equal(kin_pipeline_load(ctx, dir, &q), KIN_ERR_FORMAT);
    assert_non_null(strstr(ctx->error.text, "phys_blocks.0"));
    kin_pipeline_destroy(&p);
    kin_ctx_destroy(&ctx);
}

/* out of memory at every allocation of a load: an error each time, never a crash */
static void test_load_without_memory(void **state)
{
    char dir[256];
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CPU, 1);
    kin_pipeline *p = make(ctx, TRANSFORMER("")), *q = NULL;
    uint64_t total;

    (void)state;
    path_in(dir, sizeof(dir), "memory");
    assert_ok(kin_pipeline_save(p, dir, KIN_DTYPE_F32, NULL, NULL, &ctx->error), &ctx->error);
    kin_pipeline_destroy(&p);
    total = kin_alloc_count();
    assert_ok(kin_pipeline_load(ctx, dir, &q), &ctx->error);
    total = kin_alloc_count() - total;
    kin_pipeline_destroy(&q);
    for (uint64_t k = 1; k <= total; k += 1 + total / 60) {
        kin_alloc_fail_at(k);
        if (kin_pipeline_load(ctx, dir, &q) == KIN_OK)
            fail_msg("allocation %llu of %llu failed unnoticed", (unsigned long long)k,
                     (unsigned long long)total);
        assert_null(q);
    }
    kin_alloc_fail_at(0);
    kin_ctx_destroy(&ctx);
}

/* a pixel-space image model by class */
static kin_status receive_image(void *user, int64_t clip, const kin_tensor *frames)
{
    assert_int_equal(frames->size[0], 1);
    assert_int_equal(frames->size[1], 8);
    memcpy((uint8_t *)user + clip * 192, frames->data, 192);
    return KIN_OK;
}

static void test_class_conditional(void **state)
{
    static uint8_t one[4 * 192], other[4 * 192];
    static const int32_t labels[4] = {0, 4, 2, 1};
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CPU, 1);
    cJSON *t =
        json("{\"input_size\": 8, \"patch_size\": 2, \"in_channels\": 3, \"hidden_size\": 16, "
             "\"depth\": 2,"
             "\"num_heads\": 2, \"num_classes\": 5, \"MoE_config\": {\"num_routed_experts\": 3,"
             "\"moe_intermediate_size\": 8, \"shared_expert_intermediate_size\": 8, \"top_k\": 1,"
             "\"router_weight_mode\": \"identity\"}}");
    kin_generate_params g = kin_generate_params_default();
    kin_pipeline *p = NULL;

    (void)state;
    assert_ok(kin_pipeline_create(ctx, t, NULL, NULL, 0, NULL, 1, &p), &ctx->error);
    randomize(p->params, 71, 0.2f);
    g.count = 4;
    g.labels = labels;
    g.steps = 3;
    g.emit = receive_image;
    g.user = one;
    generate(p, &g);
    g.batch = 4;
    g.user = other;
    generate(p, &g);
    assert_memory_equal(one, other, sizeof(one));
    g.labels = (const int32_t[4]){0, 4, 2, 6};
    expect_fail(p, &g, KIN_ERR_ARG, "class 6");
    kin_pipeline_destroy(&p);
    cJSON_Delete(t);
    kin_ctx_destroy(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bytes),
        cmocka_unit_test(test_what_a_clip_depends_on),
        cmocka_unit_test(test_save_and_load),
        cmocka_unit_test(test_save_bf16_and_values),
        cmocka_unit_test(test_run_folder),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_plan),
        cmocka_unit_test(test_no_allocation_per_step),
        cmocka_unit_test(test_broken_directories),
        cmocka_unit_test(test_load_without_memory),
        cmocka_unit_test(test_class_conditional),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}

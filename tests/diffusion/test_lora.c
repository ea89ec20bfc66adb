/* Low-rank adapters: what files are taken and refused, scales, several at once, merging, saving. */
#include "tests/diffusion/models.h"
#include "tests/support/folder.h"

#include "base/alloc.h"
#include "diffusion/lora.h"

#define WAN                                                                                 \
    "{\"_class_name\": \"WanTransformer3DModel\", \"in_channels\": 3, \"out_channels\": 3," \
    "\"ffn_dim\": 24, " NET_SMALL "}"

enum { WIDTH = 16, RANK = 2 };

/* One tensor of an adapter file, filled from a seed. */
typedef struct piece {
    const char *name;
    int ndim;
    int64_t size[2];
} piece;

static void write_file(const char *path, const piece *p, int n)
{
    const char *names[16];
    kin_tensor t[16];
    float values[16][64];
    kin_error err = {0};

    for (int i = 0; i < n; i++) {
        names[i] = p[i].name;
        for (int k = 0; k < 64; k++)
            values[i][k] = p[i].ndim == 0 ? 4.0f : 0.1f * (float)((k * 7 + i * 3) % 11 - 5);
        t[i] = kin_tensor_of(values[i], KIN_DTYPE_F32, p[i].ndim, p[i].size);
    }
    assert_ok(kin_safetensors_write(path, names, t, NULL, n, NULL, &err), &err);
}

static kin_tensor output_of(net *n, const video_in *v)
{
    kin_model_output out;

    assert_ok(kin_model_forward(n->ctx, n->model, &v->in, &out), &n->ctx->error);
    return out.y;
}

typedef struct subject {
    kin_ctx *ctx;
    net n;
    video_in v;
} subject;

static void open_subject(subject *s)
{
    s->ctx = open_ctx(KIN_BACKEND_CPU, 1);
    s->n = open_net(s->ctx, WAN);
    randomize(s->n.params, 5, 0.2f);
    video_inputs(s->ctx, s->n.model, 2, 2, 4, 4, &s->v);
}

static void close_subject(subject *s)
{
    close_net(&s->n);
    kin_ctx_destroy(&s->ctx);
}

/* every spelling of one adapter gives the same bits */
static void test_names(void **state)
{
    static const piece spelled[][2] = {
        {{"transformer.blocks.0.attn1.to_q.lora_A.weight", 2, {RANK, WIDTH}},
         {"transformer.blocks.0.attn1.to_q.lora_B.weight", 2, {WIDTH, RANK}}},
        {{"base_model.model.blocks.0.attn1.to_q.lora_A.default.weight", 2, {RANK, WIDTH}},
         {"base_model.model.blocks.0.attn1.to_q.lora_B.default.weight", 2, {WIDTH, RANK}}},
        {{"diffusion_model.blocks.0.attn1.to_q.lora_down.weight", 2, {RANK, WIDTH}},
         {"diffusion_model.blocks.0.attn1.to_q.lora_up.weight", 2, {WIDTH, RANK}}},
        {{"transformer.blocks.0.attn1.to_q.lora.down.weight", 2, {RANK, WIDTH}},
         {"transformer.blocks.0.attn1.to_q.lora.up.weight", 2, {WIDTH, RANK}}},
    };
    kin_tensor plain, first = {0};

    (void)state;
    for (int i = 0; i < 4; i++) {
        kin_safetensors *file = NULL;
        kin_error err = {0};
        int64_t count = 0;
        subject s;
        kin_tensor y;

        open_subject(&s);
        plain = output_of(&s.n, &s.v);
        write_file(kin_test_path("lora.safetensors"), spelled[i], 2);
        assert_ok(kin_safetensors_open(kin_test_path("lora.safetensors"), &file, &err), &err);
        assert_ok(kin_lora_load(s.n.params, file, 0.5, "a", &count, &err), &err);
        assert_int_equal(count, 1);
        y = output_of(&s.n, &s.v);
        assert_true(near_error(&y, &plain) > 1e-4);
        if (!first.data) {
            first = y;
            first.data = malloc((size_t)kin_tensor_numel(&y) * sizeof(float));
            memcpy(first.data, y.data, (size_t)kin_tensor_numel(&y) * sizeof(float));
        }
        assert_same_bytes(&y, &first);
        close_subject(&s);
        kin_safetensors_close(&file);
    }
    free(first.data);
}

/* two files with strengths, one with an alpha: applied, merged and saved again agree */
static void test_several_and_merging(void **state)
{
    static const piece one[] = {
        {"transformer.blocks.0.attn1.to_q.lora_A.weight", 2, {RANK, WIDTH}},
        {"transformer.blocks.0.attn1.to_q.lora_B.weight", 2, {WIDTH, RANK}},
        {"transformer.blocks.1.attn2.to_out.0.lora_A.weight", 2, {3, WIDTH}},
        {"transformer.blocks.1.attn2.to_out.0.lora_B.weight", 2, {WIDTH, 3}}};
    static const piece two[] = {{"blocks.0.attn1.to_q.lora_down.weight", 2, {1, WIDTH}},
                                {"blocks.0.attn1.to_q.lora_up.weight", 2, {WIDTH, 1}},
                                {"blocks.0.attn1.to_q.alpha", 0, {0}}};
    kin_safetensors *file[2] = {0}, *again = NULL;
    kin_error err = {0};
    kin_tensor applied, merged;
    void *memory = NULL;
    const kin_param *w;
    subject s;
    int before;

    (void)state;
    open_subject(&s);
    before = s.n.params->count;
    write_file(kin_test_path("lora.safetensors"), one, 4);
    assert_ok(kin_safetensors_open(kin_test_path("lora.safetensors"), &file[0], &err), &err);
    assert_ok(kin_lora_load(s.n.params, file[0], 0.25, "one", NULL, &err), &err);
    write_file(kin_test_path("two.safetensors"), two, 3);
    assert_ok(kin_safetensors_open(kin_test_path("two.safetensors"), &file[1], &err), &err);
    assert_ok(kin_lora_load(s.n.params, file[1], 0.5, "two", NULL, &err), &err);
    w = kin_params_find(s.n.params, "blocks.0.attn1.to_q.weight");
    assert_true(w->adapters->scale == 0.25f);
    assert_true(w->adapters->next->scale == 2.0f); /* strength 0.5, alpha 4, rank 1 */
    applied = output_of(&s.n, &s.v);

    assert_ok(kin_lora_save(s.n.params, "one", kin_test_path("again.safetensors"), &err), &err);
    assert_ok(kin_safetensors_open(kin_test_path("again.safetensors"), &again, &err), &err);
    assert_int_equal(kin_safetensors_count(again), 4);
    for (int64_t i = 0; i < 4; i++) {
        const kin_safetensors_entry *a = kin_safetensors_at(file[0], i),
                                    *b = kin_safetensors_at(again, i);

        assert_string_equal(a->name, b->name);
        assert_memory_equal(a->data, b->data, a->bytes);
    }

    assert_ok(kin_lora_merge(s.n.params, &memory, &err), &err);
    assert_int_equal(s.n.params->count, before);
    assert_null(w->adapters);
    merged = output_of(&s.n, &s.v);
    assert_true(near_error(&merged, &applied) < 1e-5);
    close_subject(&s);
    kin_free(memory);
    kin_safetensors_close(&file[0]);
    kin_safetensors_close(&file[1]);
    kin_safetensors_close(&again);
}

static void test_refused_files(void **state)
{
    static const struct {
        piece p[2];
        int n;
        kin_status status;
        const char *text;
    } bad[] = {
        {{{"transformer.blocks.0.attn1.to_q.lora_A.weight", 2, {RANK, WIDTH}}},
         1,
         KIN_ERR_FORMAT,
         "no second factor"},
        {{{"transformer.blocks.0.attn1.to_q.lora_B.weight", 2, {WIDTH, RANK}}},
         1,
         KIN_ERR_FORMAT,
         "no first factor"},
        {{{"transformer.blocks.9.attn1.to_q.lora_A.weight", 2, {RANK, WIDTH}},
          {"transformer.blocks.9.attn1.to_q.lora_B.weight", 2, {WIDTH, RANK}}},
         2,
         KIN_ERR_FORMAT,
         "blocks.9"},
        {{{"transformer.blocks.0.attn1.to_q.lora_A.weight", 2, {RANK, 8}},
          {"transformer.blocks.0.attn1.to_q.lora_B.weight", 2, {WIDTH, RANK}}},
         2,
         KIN_ERR_SHAPE,
         "to_q"},
        {{{"transformer.blocks.0.attn1.to_q.lora_A.weight", 2, {RANK, WIDTH}},
          {"transformer.blocks.0.attn1.to_q.lora_B.weight", 2, {WIDTH, 3}}},
         2,
         KIN_ERR_SHAPE,
         "to_q"},
        {{{"transformer.blocks.0.attn1.to_q.weight", 2, {4, 4}}},
         1,
         KIN_ERR_FORMAT,
         "not part of an adapter"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        kin_safetensors *file = NULL;
        kin_error err = {0};
        subject s;

        open_subject(&s);
        write_file(kin_test_path("lora.safetensors"), bad[i].p, bad[i].n);
        assert_ok(kin_safetensors_open(kin_test_path("lora.safetensors"), &file, &err), &err);
        assert_int_equal(kin_lora_load(s.n.params, file, 1, "a", NULL, &err), bad[i].status);
        assert_non_null(strstr(err.text, bad[i].text));
        close_subject(&s);
        kin_safetensors_close(&file);
    }
}

/* new adapters change nothing, and the expression must match a module as a whole */
static void test_new_adapters(void **state)
{
    kin_error err = {0};
    kin_tensor plain, y;
    int64_t count = 0;
    subject s;

    (void)state;
    open_subject(&s);
    plain = output_of(&s.n, &s.v);
    assert_int_equal(kin_lora_create(s.n.params, "to_q", 2, 1, "a", NULL, &err), KIN_ERR_ARG);
    assert_non_null(strstr(err.text, "matches no matrix"));
    assert_int_equal(kin_lora_create(s.n.params, "(", 2, 1, "a", NULL, &err), KIN_ERR_ARG);
    assert_int_equal(kin_lora_create(s.n.params, ".*", 0, 1, "a", NULL, &err), KIN_ERR_ARG);
    assert_ok(kin_lora_create(s.n.params, "blocks.*(to_q|to_k|to_v|to_out.0)", 2, 1, "default",
                              &count, &err),
              &err);
    assert_int_equal(count, 3 * 8);
    for (int i = 0; i < s.n.params->count; i++) {
        kin_param *p = s.n.params->list[i];

        if (!p->value.data) {
            p->value.data = kin_calloc((size_t)kin_tensor_numel(&p->value), sizeof(float));
            for (int64_t k = 0; strstr(p->name, "lora_A") && k < kin_tensor_numel(&p->value); k++)
                kin_tensor_set(&p->value, k, 0.1);
        }
    }
    y = output_of(&s.n, &s.v);
    assert_true(near_error(&y, &plain) < 1e-6);
    for (int i = 0; i < s.n.params->count; i++) {
        if (strstr(s.n.params->list[i]->name, ".lora_"))
            kin_free(s.n.params->list[i]->value.data);
    }
    close_subject(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names), cmocka_unit_test(test_several_and_merging),
        cmocka_unit_test(test_refused_files), cmocka_unit_test(test_new_adapters)};

    return cmocka_run_group_tests(tests, kin_test_folder_make, kin_test_folder_remove);
}

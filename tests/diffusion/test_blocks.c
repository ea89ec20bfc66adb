/* Matrices in 8-bit blocks: written, read, refused, and computed with as the floats they stand for.
 */
#include "tests/support/folder.h"
#include "tests/support/support.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "diffusion/weights.h"
#include "tensor/kernels.h"

/* K: a row ends with a block of 13 */
enum { N = 70, K = 77, ROWS = 5, BLOCKS = 3 };

static float weight[N * K];

static void fill(float *v, int n, int seed)
{
    for (int i = 0; i < n; i++)
        v[i] = sinf((float)(i * seed) * 0.7f) * (i % 97 == 0 ? 9.0f : 1.0f);
}

/* The matrix as "a.weight" into a file. */
static void write_file(const char *path, kin_blocks *b)
{
    const kin_tensor t = KIN_TENSOR(weight, KIN_DTYPE_F32, N, K);
    const kin_item source = kin_item_of("a.weight", &t, KIN_DTYPE_I8);
    kin_item items[2];
    kin_error err = {0};
    fill(weight, N * K, 3);
    assert_ok(kin_blocks_init(b, &source, &items[0], &items[1], &err), &err);
    assert_ok(kin_safetensors_write_items(path, items, 2, NULL, &err), &err);
}

typedef struct bound {
    kin_files *files;
    kin_params *params;
    kin_param *w;
} bound;

static kin_status bind(const char *path, const char *name, int ndim, bound *b, kin_error *err)
{
    const int64_t size[2] = {N, K};
    *b = (bound){.files = kin_calloc(1, sizeof(*b->files))};
    assert_non_null(b->files);
    assert_ok(kin_params_create(&b->params, err), err);
    b->w = kin_params_add(b->params, KIN_INIT(KIN_INIT_ZERO, 0), ndim, size, "%s", name);
    assert_ok(kin_safetensors_open(path, &b->files->file[0], err), err);
    return kin_weights_bind(b->files, 0, b->params, NULL, false, err);
}

static void release(bound *b)
{
    kin_params_destroy(&b->params);
    kin_files_free(&b->files);
}

static void blocks_hold_the_matrix(void **state)
{
    const char *path = kin_test_path("blocks.safetensors");
    kin_error err = {0};
    kin_blocks blocks;
    double off = 0, all = 0;
    bound b;
    (void)state;
    write_file(path, &blocks);
    assert_ok(bind(path, "a.weight", 2, &b, &err), &err);
    assert_true(b.w->mapped && b.w->value.scale);
    for (int i = 0; i < N * K; i++) {
        const double got = kin_tensor_get(&b.w->value, i), want = (double)weight[i];
        float most = 0;
        for (int c = i % K / KIN_BLOCK * KIN_BLOCK, j = 0; j < KIN_BLOCK && c + j < K; j++)
            most = fmaxf(most, fabsf(weight[i / K * K + c + j]));
        /* half a step, and what the factor's own rounding to f16 moves at the far end */
        assert_true(fabs(got - want) <= (double)most * (0.5 / 127 + 1.0 / 2048));
        off += (got - want) * (got - want);
        all += want * want;
    }
    assert_true(fabs(sqrt(blocks.error2 / blocks.value2) - sqrt(off / all)) < 1e-9);
    kin_blocks_free(&blocks);
    release(&b);
}

/* y = x w^T and dx = dy w with the blocks beside the same with their floats. */
static void compare(kin_ctx *ctx, kin_param *blocks, kin_param *floats)
{
    static float x_data[ROWS * K], dy_data[ROWS * N], y_data[2][ROWS * N], dx_data[2][ROWS * K];
    const kin_tensor x = KIN_TENSOR(x_data, KIN_DTYPE_F32, ROWS, K),
                     dy = KIN_TENSOR(dy_data, KIN_DTYPE_F32, ROWS, N);
    kin_param *const w[2] = {blocks, floats};
    fill(x_data, ROWS * K, 5);
    fill(dy_data, ROWS * N, 2);
    for (int i = 0; i < 2; i++) {
        kin_tensor y = KIN_TENSOR(y_data[i], KIN_DTYPE_F32, ROWS, N),
                   dx = KIN_TENSOR(dx_data[i], KIN_DTYPE_F32, ROWS, K);
        const kin_linear_args a = {.m = ROWS, .n = N, .k = K, .x = &x, .w = w[i], .y = &y};
        const kin_linear_bwd_args g = {.m = ROWS, .n = N, .k = K, .dy = &dy, .w = w[i], .dx = &dx};
        assert_ok(ctx->k->linear(ctx, &a), &ctx->error);
        if (ctx->compute != KIN_DTYPE_I8)
            assert_ok(ctx->k->linear_dx(ctx, &g), &ctx->error);
    }
    for (int i = 0; i < ROWS * N; i++)
        assert_true(fabsf(y_data[0][i] - y_data[1][i]) <= 2e-5f * (1 + fabsf(y_data[1][i])));
    for (int i = 0; i < ROWS * K && ctx->compute != KIN_DTYPE_I8; i++)
        assert_true(fabsf(dx_data[0][i] - dx_data[1][i]) <= 2e-5f * (1 + fabsf(dx_data[1][i])));
}

static void products_take_blocks(void **state)
{
    static const kin_ctx_options runs[] = {
        {.backend = KIN_BACKEND_REF},
        {.backend = KIN_BACKEND_CPU, .isa = KIN_ISA_AVX2},
        {.backend = KIN_BACKEND_CPU, .isa = KIN_ISA_AVX512},
        {.backend = KIN_BACKEND_CPU, .isa = KIN_ISA_AMX_EMULATED},
        {.backend = KIN_BACKEND_CPU, .isa = KIN_ISA_AMX}};
    static const kin_dtype computes[] = {KIN_DTYPE_F32, KIN_DTYPE_BF16, KIN_DTYPE_I8};
    const char *path = kin_test_path("products.safetensors");
    static float held[N * K];
    kin_error err = {0};
    kin_blocks blocks;
    int ran = 0;
    (void)state;
    write_file(path, &blocks);
    kin_blocks_free(&blocks);
    for (size_t r = 0; r < 3 * sizeof(runs) / sizeof(runs[0]); r++) {
        kin_ctx_options options = runs[r / 3];
        kin_param floats = {.name = "floats.weight", .int8 = true};
        kin_ctx *ctx = NULL;
        bound b;
        options.compute = computes[r % 3];
        options.threads = 2;
        if (kin_ctx_create(&options, &ctx, &err) != KIN_OK)
            continue; /* a level that this machine lacks */
        assert_ok(bind(path, "a.weight", 2, &b, &err), &err);
        b.w->int8 = true;
        for (int i = 0; i < N * K; i++)
            held[i] = (float)kin_tensor_get(&b.w->value, i);
        floats.value = KIN_TENSOR(held, KIN_DTYPE_F32, N, K);
        compare(ctx, b.w, &floats);
        while (floats.packs) {
            kin_pack *next = floats.packs->next;
            if (floats.packs->free_extra)
                floats.packs->free_extra(floats.packs->extra);
            kin_free(floats.packs->data);
            kin_free(floats.packs);
            floats.packs = next;
        }
        release(&b);
        kin_ctx_destroy(&ctx);
        ran++;
    }
    assert_true(ran >= 6);
}

/* What is not as written above ends in a line with the file and the key. */
static void broken_blocks_are_named(void **state)
{
    static int8_t q[N * K];
    static uint16_t factors[N * BLOCKS];
    const kin_tensor values = KIN_TENSOR(q, KIN_DTYPE_I8, N, K),
                     good = KIN_TENSOR(factors, KIN_DTYPE_F16, N, BLOCKS),
                     few = KIN_TENSOR(factors, KIN_DTYPE_F16, N, BLOCKS - 1),
                     row = KIN_TENSOR(q, KIN_DTYPE_I8, N),
                     of_row = KIN_TENSOR(factors, KIN_DTYPE_F16, N, 1);
    const struct {
        const char *name;
        kin_tensor value, factors;
        const char *factor_name, *what;
        int ndim;
    } rows[] = {{"a.weight", values, good, "a.scale",
                 "needs a matrix and its factors \"a.weight.scale\"", 2},
                {"a.weight", values, few, "a.weight.scale",
                 "\"a.weight.scale\" is [70, 2] f16, must be [70, 3]", 2},
                {"a.bias", row, of_row, "a.bias.scale", "\"a.bias\" has type i8", 1},
                {"a.weight", values, good, "a.weight.scale", NULL, 2}};
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const char *path = kin_test_path("broken.safetensors"), *const names[] = {
                                                                    rows[i].name,
                                                                    rows[i].factor_name};
        const kin_tensor tensors[] = {rows[i].value, rows[i].factors};
        kin_error err = {0};
        bound b;
        assert_ok(kin_safetensors_write(path, names, tensors, NULL, 2, NULL, &err), &err);
        const kin_status status = bind(path, rows[i].name, rows[i].ndim, &b, &err);
        assert_int_equal(status == KIN_OK, rows[i].what == NULL);
        if (rows[i].what) {
            assert_non_null(strstr(err.text, rows[i].what));
            assert_non_null(strstr(err.text, "broken.safetensors"));
        }
        release(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_hold_the_matrix),
        cmocka_unit_test(products_take_blocks),
        cmocka_unit_test(broken_blocks_are_named),
    };
    return cmocka_run_group_tests(tests, kin_test_folder_make, kin_test_folder_remove);
}

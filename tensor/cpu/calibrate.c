/* tensor/cpu/calibrate.c: times the own products against oneDNN's, class by class of weights, and
 * checks that oneDNN's bits hold still; see choose.h. */
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "tensor/cpu/choose.h"
#include "tensor/cpu/onednn.h"

static const int64_t sizes[KIN_CHOICE_SIZES] = {256, 1024, 3072};
static const int64_t row_classes[KIN_CHOICE_ROWS] = {16, 256, 1024};
enum { MOST_ROWS = 1024, FEWER = 200 };

typedef kin_status (*linear_fn)(kin_ctx *, const kin_linear_args *);

/* One weight with room for the largest product. */
typedef struct bench {
    kin_ctx *ctx;
    kin_params *params;
    kin_param *w;
    float *x, *y, *again;
} bench;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static kin_status product(const bench *b, linear_fn run, int64_t m, int64_t n, int64_t k,
                          float *out)
{
    kin_tensor x = KIN_TENSOR(b->x, KIN_DTYPE_F32, m, k), y = KIN_TENSOR(out, KIN_DTYPE_F32, m, n);
    kin_linear_args a = {.m = m, .n = n, .k = k, .x = &x, .w = b->w, .y = &y};
    return run(b->ctx, &a);
}

static kin_status time_rows(const bench *b, linear_fn run, const kin_choice *c, int rounds,
                            double *best_s)
{
    for (int r = 0; r < KIN_CHOICE_ROWS; r++) {
        best_s[r] = 1e30;
        /* note: the first run packs */
        for (int i = 0; i <= rounds; i++) {
            double t = now();
            KIN_TRY(product(b, run, c->rows[r], c->n, c->k, b->y));
            t = now() - t;
            best_s[r] = i > 0 && t < best_s[r] ? t : best_s[r];
        }
    }
    return KIN_OK;
}

/* One thread against all, fewer rows against all. */
static kin_status check_bits(const bench *b, kin_choice *c)
{
    int threads = b->ctx->threads;
    KIN_TRY(product(b, kin_onednn_linear, MOST_ROWS, c->n, c->k, b->y));
    b->ctx->threads = threads > 1 ? 1 : 2;
    kin_status status = product(b, kin_onednn_linear, FEWER, c->n, c->k, b->again);
    b->ctx->threads = threads;
    c->steady = memcmp(b->y, b->again, sizeof(float) * (size_t)(FEWER * c->n)) == 0;
    return status;
}

static kin_status measure(const bench *b, int rounds, kin_choice *c)
{
    uint32_t keep = b->ctx->dense_onednn;
    double own = 0, other = 0;
    b->ctx->dense_onednn = 0;
    kin_status status = time_rows(b, kin_cpu_linear, c, rounds, c->own_s);
    b->ctx->dense_onednn = keep;
    KIN_TRY(status);
    status = time_rows(b, kin_onednn_linear, c, rounds, c->onednn_s);
    if (status == KIN_ERR_BACKEND) { /* no such product in this library */
        memset(&b->ctx->error, 0, sizeof(b->ctx->error));
        memset(c->onednn_s, 0, sizeof(c->onednn_s));
        return KIN_OK;
    }
    KIN_TRY(status);
    KIN_TRY(check_bits(b, c));
    for (int r = 0; r < KIN_CHOICE_ROWS; r++) {
        own += c->own_s[r] / (double)c->rows[r];
        other += c->onednn_s[r] / (double)c->rows[r];
    }
    c->onednn = c->steady && other < own;
    return KIN_OK;
}

static kin_status measure_class(kin_ctx *ctx, int rounds, kin_choice *c)
{
    bench b = {.ctx = ctx};
    size_t mark = kin_ws_mark(ctx);
    kin_rng rng = {.seed = 1, .purpose = KIN_RNG_TEST};
    memcpy(c->rows, row_classes, sizeof(c->rows));
    KIN_TRY(kin_params_create(&b.params, &ctx->error));
    b.w = kin_params_add(b.params, KIN_INIT(KIN_INIT_NORMAL, 0.05f), KIN_DIMS(c->n, c->k), "w");
    b.x = kin_ws_bytes(ctx, sizeof(float) * (size_t)(MOST_ROWS * c->k));
    b.y = kin_ws_bytes(ctx, sizeof(float) * (size_t)(MOST_ROWS * c->n));
    b.again = kin_ws_bytes(ctx, sizeof(float) * (size_t)(MOST_ROWS * c->n));
    kin_status status = !b.w || !b.x || !b.y || !b.again
                            ? kin_fail(&ctx->error, KIN_ERR_MEM, "calibration: out of memory")
                            : kin_params_alloc(b.params, KIN_DTYPE_F32, false, &ctx->error);
    if (status == KIN_OK) {
        kin_params_init(b.params, 1);
        kin_rng_normal(&rng, 0, MOST_ROWS * c->k, b.x);
        status = measure(&b, rounds, c);
    }
    kin_params_destroy(&b.params);
    kin_ws_release(ctx, mark);
    return status;
}

kin_status kin_cpu_calibrate(kin_ctx *ctx, int rounds, kin_choice *out, int *count)
{
    kin_dtype compute = ctx->compute;
    kin_status status = KIN_OK;
    *count = 0;
    for (int i = 0; i < KIN_CHOICE_MAX && status == KIN_OK; i++) {
        kin_choice *c = &out[i];
        ctx->compute = i < KIN_CHOICE_MAX / 2 ? KIN_DTYPE_F32 : KIN_DTYPE_BF16;
        *c = (kin_choice){.isa = ctx->isa,
                          .compute = ctx->compute,
                          .n = sizes[i / KIN_CHOICE_SIZES % KIN_CHOICE_SIZES],
                          .k = sizes[i % KIN_CHOICE_SIZES]};
        status = measure_class(ctx, rounds < 1 ? 1 : rounds, c);
        *count += status == KIN_OK;
    }
    ctx->compute = compute;
    return status;
}

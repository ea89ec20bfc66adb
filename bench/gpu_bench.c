/* bench/gpu_bench.c: gpu_bench [--small] [--twice]: times kernel slots on a CUDA device, JSON on
 * standard output; --twice runs each slot two times on the same inputs instead and compares the
 * bits. --small: sizes for a test run. Exit status: 0, 1 (a failure, or bits that differ), 77 (no
 * device). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "bench/gpu_bench.h"
#include "tensor/device.h"
#include "tensor/ops.h"

enum { EXIT_SKIPPED = 77, MOST_RUNS = 50 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

kin_status noise(bench *b, int ndim, const int64_t *sizes_of, kin_tensor *t)
{
    const kin_rng rng = {.seed = 1, .purpose = KIN_RNG_TEST, .sample = (uint64_t)b->ctx->ws.used};
    KIN_TRY(kin_ws_tensor(b->ctx, KIN_DTYPE_F32, ndim, sizes_of, t));
    return b->ctx->k->randn(b->ctx, &rng, 0, t);
}

/* n floats of the heap that live on the device; random ones, or zeros. */
static kin_status resident(bench *b, int64_t n, bool random, float **out)
{
    float *v = kin_calloc((size_t)n, sizeof *v);
    uint32_t state = 12345;
    if (!v)
        return kin_fail(&b->ctx->error, KIN_ERR_MEM, "bench: out of memory");
    *out = v;
    for (int64_t i = 0; i < n && random; i++) {
        state = state * 1664525u + 1013904223u;
        v[i] = ((float)(state >> 8) / 8388608.0f - 1.0f) * 0.05f;
    }
    return b->ctx->device->adopt(b->ctx, v, (size_t)n * sizeof *v);
}

kin_status weight(bench *b, const char *name, int64_t n, int64_t k, kin_param **out)
{
    const int64_t dims[2] = {n ? n : k, k};
    const int64_t count = n ? n * k : k;
    kin_param *p =
        kin_params_add(b->params, KIN_INIT(KIN_INIT_ZERO, 0), n ? 2 : 1, dims, "%s", name);
    float *value = NULL, *grad = NULL;
    if (!p)
        return kin_fail(&b->ctx->error, KIN_ERR_MEM, "bench: out of memory");
    *out = p;
    kin_status status = resident(b, count, true, &value);
    if (status == KIN_OK)
        status = resident(b, count, false, &grad);
    p->grad = kin_tensor_of(grad, KIN_DTYPE_F32, n ? 2 : 1, dims);
    const kin_tensor t = kin_tensor_of(value, KIN_DTYPE_F32, n ? 2 : 1, dims);
    return status == KIN_OK ? kin_params_bind(p, &t, &b->ctx->error) : status;
}

static kin_status print_row(bench *b, const work *w, double seconds, int runs, bool cudnn)
{
    printf(
        "%s\n  {\"name\": \"%s%s\", \"dtype\": \"%s\", \"ms\": %.4f, \"runs\": %d, \"cudnn\": %s",
        b->rows++ ? "," : "", w->name, b->suffix, kin_dtype_name(b->ctx->compute), 1e3 * seconds,
        runs, cudnn ? "true" : "false");
    if (w->flops > 0)
        printf(", \"tflops\": %.3f", w->flops / seconds * 1e-12);
    if (w->bytes > 0)
        printf(", \"gbps\": %.1f", w->bytes / seconds * 1e-9);
    printf("}");
    return KIN_OK;
}

/* Best of a few rounds, each long enough for the clock. */
static kin_status time_work(bench *b, const work *w)
{
    double best = 0;
    int runs = 1;
    const long before = b->ctx->device->cudnn_launches;
    KIN_TRY(w->run(b, w));
    KIN_TRY(b->ctx->device->wait(b->ctx));
    for (int round = 0; round < 4; round++) {
        const double start = now();
        for (int i = 0; i < runs; i++)
            KIN_TRY(w->run(b, w));
        KIN_TRY(b->ctx->device->wait(b->ctx));
        const double each = (now() - start) / runs;
        if (round == 0 || each < best)
            best = each;
        runs = each > 0.05 ? 1 : (int)(0.05 / (each + 1e-9)) + 1;
        if (runs > MOST_RUNS)
            runs = MOST_RUNS;
    }
    b->seconds = best;
    return print_row(b, w, best, runs, b->ctx->device->cudnn_launches > before);
}

static kin_status compare_work(bench *b, const work *w)
{
    const size_t mark = kin_ws_mark(b->ctx);
    const size_t bytes = (size_t)kin_tensor_numel(w->result) * kin_dtype_size(w->result->dtype);
    kin_tensor first, second;
    KIN_TRY(w->run(b, w));
    KIN_TRY(kin_host(b->ctx, w->result, &first));
    KIN_TRY(w->run(b, w));
    KIN_TRY(kin_host(b->ctx, w->result, &second));
    const bool same = memcmp(first.data, second.data, bytes) == 0;
    printf("%s\n  {\"name\": \"%s%s\", \"dtype\": \"%s\", \"same_bits\": %s}", b->rows++ ? "," : "",
           w->name, b->suffix, kin_dtype_name(b->ctx->compute), same ? "true" : "false");
    b->differ += !same;
    kin_ws_release(b->ctx, mark);
    return KIN_OK;
}

kin_status do_work(bench *b, const work *w)
{
    if (b->twice)
        return w->result ? compare_work(b, w) : KIN_OK;
    return time_work(b, w);
}

void add_bar(bench *b, const char *name, const char *unit, double value, double limit, bool at_most)
{
    if (b->twice || b->ctx->compute != KIN_DTYPE_BF16)
        return;
    b->bars[b->bar_count++] = (bar){name, unit, value, limit, at_most};
}

/* note: small sizes show the steps, they prove nothing */
static void print_bars(const bench *b)
{
    printf("\n], \"bars\": [");
    for (int i = 0; i < b->bar_count; i++) {
        const bar *r = &b->bars[i];
        const bool holds = r->at_most ? r->value <= r->limit : r->value >= r->limit;
        printf("%s\n  {\"work\": \"%s\", \"unit\": \"%s\", \"value\": %.4f, \"bar\": %.4f, "
               "\"at_most\": %s, \"holds\": %s}",
               i ? "," : "", r->work, r->unit, r->value, r->limit, r->at_most ? "true" : "false",
               b->small ? "null"
               : holds  ? "true"
                        : "false");
    }
    printf("\n]}\n");
}

#define RUN(slot, args_type)                                        \
    static kin_status run_##slot(bench *b, const work *w)           \
    {                                                               \
        return b->ctx->k->slot(b->ctx, (const args_type *)w->args); \
    }
RUN(linear, kin_linear_args)
RUN(linear_dx, kin_linear_bwd_args)
RUN(linear_dw, kin_linear_bwd_args)
RUN(grouped, kin_grouped_args)
RUN(grouped_dx, kin_grouped_bwd_args)
RUN(grouped_dw, kin_grouped_bwd_args)
RUN(attention, kin_attention_args)
RUN(attention_bwd, kin_attention_args)
RUN(conv, kin_conv_args)
RUN(conv_dx, kin_conv_args)
RUN(conv_dw, kin_conv_args)
RUN(layernorm, kin_norm_args)
RUN(binary, kin_binary_args)

/* The forward product once more with GELU, its input kept and not, and with a residual. */
static kin_status dense_epilogues(bench *b, const kin_linear_args *plain, double flops)
{
    kin_linear_args gelu = *plain, kept, residual = *plain;
    kin_tensor pre;
    KIN_TRY(noise(b, KIN_DIMS(plain->m, plain->n), &pre));
    gelu.act = KIN_ACT_GELU_TANH;
    kept = gelu;
    kept.pre = &pre;
    residual.residual = &pre;
    KIN_TRY(do_work(b, &(work){"linear_gelu", run_linear, &gelu, plain->y, flops, 0}));
    KIN_TRY(do_work(b, &(work){"linear_gelu_kept", run_linear, &kept, plain->y, flops, 0}));
    return do_work(b, &(work){"linear_residual", run_linear, &residual, plain->y, flops, 0});
}

static kin_status dense(bench *b)
{
    const int64_t n = b->s.dense;
    kin_tensor x, y;
    kin_param *w;
    KIN_TRY(noise(b, KIN_DIMS(n, n), &x));
    KIN_TRY(noise(b, KIN_DIMS(n, n), &y));
    KIN_TRY(weight(b, "dense", n, n, &w));
    const kin_linear_args forward = {.m = n, .n = n, .k = n, .x = &x, .w = w, .y = &y};
    const kin_linear_bwd_args back = {.m = n, .n = n, .k = n, .dy = &x, .x = &x, .w = w, .dx = &y};
    const double flops = 2.0 * (double)n * (double)n * (double)n;
    KIN_TRY(do_work(b, &(work){"linear", run_linear, &forward, &y, flops, 0}));
    if (!b->twice && b->ctx->compute == KIN_DTYPE_BF16) {
        kin_device_facts facts;
        const double rate = flops / b->seconds;
        KIN_TRY(b->ctx->device->facts(b->ctx, n, &facts));
        if (facts.bf16_measured > 0)
            add_bar(b, "dense bf16 linear against cublasLt's best", "share",
                    rate / facts.bf16_measured, 0.95, false);
    }
    KIN_TRY(do_work(b, &(work){"linear_dx", run_linear_dx, &back, &y, flops, 0}));
    return dense_epilogues(b, &forward, flops);
}

/* Experts' products, then the dense ones of equal work. */
typedef struct product_works {
    work experts[3], dense[3]; /* forward, dx, dw */
} product_works;

static kin_status compare_products(bench *b, const product_works *p)
{
    double grouped[3] = {0}, same[3] = {0};
    for (int i = 0; i < 3; i++) {
        KIN_TRY(do_work(b, &p->experts[i]));
        grouped[i] = b->seconds;
    }
    for (int i = 0; i < 3; i++) {
        KIN_TRY(do_work(b, &p->dense[i]));
        same[i] = b->seconds;
    }
    add_bar(b, "grouped experts forward against dense of equal FLOPs", "share",
            same[0] / grouped[0], 0.6, false);
    add_bar(b, "grouped experts forward and backward against dense of equal FLOPs", "share",
            (same[0] + same[1] + same[2]) / (grouped[0] + grouped[1] + grouped[2]), 0.5, false);
    return KIN_OK;
}

static kin_status experts(bench *b)
{
    const int64_t T = b->s.tokens, D = b->s.width, H = b->s.hidden;
    kin_tensor x, scores, idx, weights, y, dx;
    kin_param *w[EXPERTS];
    kin_dispatch d;
    KIN_TRY(noise(b, KIN_DIMS(T, D), &x));
    KIN_TRY(noise(b, KIN_DIMS(T, EXPERTS), &scores));
    KIN_TRY(kin_topk(b->ctx, &scores, 1, NULL, EXPERTS, &idx, &weights));
    KIN_TRY(kin_dispatch_build(b->ctx, &idx, &weights, EXPERTS, -1, 0, &d));
    KIN_TRY(noise(b, KIN_DIMS(T, H), &y));
    KIN_TRY(noise(b, KIN_DIMS(T, D), &dx));
    for (int e = 0; e < EXPERTS; e++) {
        char name[32];
        snprintf(name, sizeof name, "expert%d", e);
        KIN_TRY(weight(b, name, H, D, &w[e]));
    }
    const kin_grouped_args forward = {
        .n = H, .k = D, .d = &d, .gather = true, .x = &x, .w = w, .act = KIN_ACT_SILU, .y = &y};
    const kin_grouped_bwd_args back = {
        .n = H, .k = D, .d = &d, .gather = true, .dy = &y, .x = &x, .w = w, .dx = &dx};
    const kin_linear_args same = {
        .m = T, .n = H, .k = D, .x = &x, .w = w[0], .act = KIN_ACT_SILU, .y = &y};
    const kin_linear_bwd_args same_back = {
        .m = T, .n = H, .k = D, .dy = &y, .x = &x, .w = w[0], .dx = &dx};
    const double flops = 2.0 * (double)T * (double)D * (double)H;
    const product_works p = {
        .experts = {{"experts", run_grouped, &forward, &y, flops, 0},
                    {"experts_dx", run_grouped_dx, &back, &dx, flops, 0},
                    {"experts_dw", run_grouped_dw, &back, NULL, flops, 0}},
        .dense = {{"linear_of_equal_flops", run_linear, &same, &y, flops, 0},
                  {"linear_dx_of_equal_flops", run_linear_dx, &same_back, &dx, flops, 0},
                  {"linear_dw_of_equal_flops", run_linear_dw, &same_back, NULL, flops, 0}}};
    return compare_products(b, &p);
}

static kin_status attention(bench *b, int64_t d, const char *forward, const char *backward)
{
    const int64_t B = b->s.batch, A = b->s.heads, N = b->s.sequence;
    kin_tensor q, k, v, o, lse, dout, dq, dk, dv;
    const int64_t size[4] = {B, N, A, d};
    kin_tensor *all[] = {&q, &k, &v, &o, &dout, &dq, &dk, &dv};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        KIN_TRY(noise(b, 4, size, all[i]));
    KIN_TRY(KIN_WS(b->ctx, &lse, KIN_DTYPE_F32, B, A, N));
    const kin_attention_args a = {.q = &q,
                                  .k = &k,
                                  .v = &v,
                                  .scale = 0.125f,
                                  .o = &o,
                                  .lse = &lse,
                                  .dout = &dout,
                                  .dq = &dq,
                                  .dk = &dk,
                                  .dv = &dv};
    const double pairs = 2.0 * (double)(B * A * N * d) * (double)N;
    KIN_TRY(do_work(b, &(work){forward, run_attention, &a, &o, 2 * pairs, 0}));
    return do_work(b, &(work){backward, run_attention_bwd, &a, &dk, 5 * pairs, 0});
}

/* A layer of a video autoencoder: 3x3x3, zeros before the first frame alone. */
static kin_status video_layer(bench *b)
{
    const int64_t F = b->s.frames, S = b->s.side, C = b->s.channels, rows = F * S * S;
    const kin_conv_shape shape = {.batch = 1,
                                  .frames = F,
                                  .height = S,
                                  .width = S,
                                  .in = C,
                                  .out_frames = F,
                                  .out_height = S,
                                  .out_width = S,
                                  .out = C,
                                  .kt = 3,
                                  .kh = 3,
                                  .kw = 3,
                                  .stride = 1,
                                  .up = 1,
                                  .front = 2,
                                  .top = 1,
                                  .left = 1};
    kin_tensor x, y, dx;
    kin_param *w;
    KIN_TRY(noise(b, KIN_DIMS(rows, C), &x));
    KIN_TRY(noise(b, KIN_DIMS(rows, C), &y));
    KIN_TRY(noise(b, KIN_DIMS(rows, C), &dx));
    KIN_TRY(weight(b, "video_layer", C, C * 27, &w));
    const kin_conv_args a = {.s = shape, .x = &x, .w = w, .y = &y, .dy = &y, .dx = &dx};
    const double flops = 2.0 * (double)rows * (double)(C * C) * 27;
    KIN_TRY(do_work(b, &(work){"conv3d", run_conv, &a, &y, flops, 0}));
    KIN_TRY(do_work(b, &(work){"conv3d_dx", run_conv_dx, &a, &dx, flops, 0}));
    /* note: it adds to the gradient, so that two runs give other bits */
    return b->twice ? KIN_OK
                    : do_work(b, &(work){"conv3d_dw", run_conv_dw, &a, &w->grad, flops, 0});
}

static kin_status memory_bound(bench *b)
{
    const int64_t rows = b->s.tokens * 4, D = b->s.width;
    kin_tensor x, y, z, mean, rstd;
    KIN_TRY(noise(b, KIN_DIMS(rows, D), &x));
    KIN_TRY(noise(b, KIN_DIMS(rows, D), &z));
    KIN_TRY(noise(b, KIN_DIMS(rows, D), &y));
    KIN_TRY(KIN_WS(b->ctx, &mean, KIN_DTYPE_F32, rows));
    KIN_TRY(KIN_WS(b->ctx, &rstd, KIN_DTYPE_F32, rows));
    const kin_norm_args norm = {
        .rows = rows, .d = D, .eps = 1e-6f, .x = &x, .y = &y, .mean = &mean, .rstd = &rstd};
    const kin_binary_args add = {.kind = KIN_BINARY_ADD, .alpha = 1, .a = &x, .b = &z, .y = &y};
    const double bytes = (double)(rows * D) * sizeof(float);
    KIN_TRY(do_work(b, &(work){"layernorm", run_layernorm, &norm, &y, 0, 2 * bytes}));
    return do_work(b, &(work){"add", run_binary, &add, &y, 0, 3 * bytes});
}

/* What cuDNN does where it is there. */
static kin_status attention_and_conv(bench *b)
{
    const size_t mark = kin_ws_mark(b->ctx);
    KIN_TRY(attention(b, 64, "attention_d64", "attention_bwd_d64"));
    kin_ws_release(b->ctx, mark);
    KIN_TRY(attention(b, 72, "attention_d72", "attention_bwd_d72"));
    kin_ws_release(b->ctx, mark);
    KIN_TRY(attention(b, 128, "attention_d128", "attention_bwd_d128"));
    kin_ws_release(b->ctx, mark);
    KIN_TRY(video_layer(b));
    kin_ws_release(b->ctx, mark);
    return KIN_OK;
}

static kin_status all_works(bench *b)
{
    const size_t mark = kin_ws_mark(b->ctx);
    KIN_TRY(dense(b));
    kin_ws_release(b->ctx, mark);
    KIN_TRY(experts(b));
    kin_ws_release(b->ctx, mark);
    KIN_TRY(layer(b));
    kin_ws_release(b->ctx, mark);
    KIN_TRY(attention_and_conv(b));
    KIN_TRY(memory_bound(b));
    kin_ws_release(b->ctx, mark);
    return KIN_OK;
}

/* What weight() made. */
static void free_values(bench *b)
{
    for (int i = 0; b->params && i < b->params->count; i++) {
        void *made[2] = {b->params->list[i]->value.data, b->params->list[i]->grad.data};
        for (int k = 0; k < 2; k++) {
            b->ctx->device->release(b->ctx, made[k]);
            kin_free(made[k]);
        }
    }
    kin_params_destroy(&b->params);
}

static kin_status run_compute(bench *b, kin_dtype compute, kin_status (*works)(bench *b))
{
    kin_error err = {0};
    const kin_ctx_options opt = {.backend = KIN_BACKEND_CUDA, .compute = compute};
    kin_status status = kin_ctx_create(&opt, &b->ctx, &err);
    if (status == KIN_OK) {
        status = kin_params_create(&b->params, &b->ctx->error);
        if (status == KIN_OK)
            status = works(b);
        err = b->ctx->error;
        free_values(b);
        kin_ctx_destroy(&b->ctx);
    }
    if (status != KIN_OK)
        fprintf(stderr, "gpu_bench: %s\n", err.text);
    return status;
}

int main(int argc, char **argv)
{
    bench b = {.s = {8192, 4096, 1152, 2304, 8, 16, 4096, 4, 480, 96}, .suffix = ""};
    char text[256];
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--small") == 0) {
            b.s = (sizes){96, 60, 40, 72, 1, 2, 70, 2, 6, 16};
            b.small = true;
        } else if (strcmp(argv[i], "--twice") == 0) {
            b.twice = true;
        } else {
            fprintf(stderr, "usage: gpu_bench [--small] [--twice]\n");
            return 2;
        }
    }
    if (kin_cuda_count(text, sizeof text) == 0) {
        fprintf(stderr, "gpu_bench: no device: %s\n", text);
        return EXIT_SKIPPED;
    }
    if (!kin_cuda_describe(0, text, sizeof text))
        text[0] = '\0';
    printf("{\"device\": \"%s\", \"rows\": [", text);
    fflush(stdout);
    kin_status status = run_compute(&b, KIN_DTYPE_F32, all_works);
    if (status == KIN_OK)
        status = run_compute(&b, KIN_DTYPE_BF16, all_works);
    /* attention's gradient by cuDNN, whose sums have no fixed order; the own kernels beside it */
    setenv("KINEMA_CUDA_DETERMINISTIC", "0", 1);
    b.suffix = "_any_order";
    if (status == KIN_OK && !b.twice)
        status = run_compute(&b, KIN_DTYPE_BF16, attention_and_conv);
    setenv("KINEMA_CUDA_PRODUCTS", "own", 1);
    b.suffix = "_own";
    if (status == KIN_OK && !b.twice)
        status = run_compute(&b, KIN_DTYPE_BF16, attention_and_conv);
    print_bars(&b);
    return status == KIN_OK && b.differ == 0 ? 0 : 1;
}

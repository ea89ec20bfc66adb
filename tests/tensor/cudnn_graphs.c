/* The graphs given to cuDNN, without a device: for devices described in JSON its heuristics must
 * offer an engine for each, and plans are made up to the point where the driver would load a
 * kernel. Runs with the toolkit's stub of the driver in place of libcuda.so.1. */
#include <stdio.h>
#include <string.h>

#include "tensor/cuda/cudnn_graphs.h"
#include "tests/support/support.h"

typedef struct device {
    const char *name;
    int version, processors, shared, clock, memory_clock;
    long long cache, memory;
} device;

static const device devices[] = {
    {"A100 80GB", 800, 108, 166912, 1410000, 1593000, 41943040, 85899345920},
    {"H200", 900, 132, 232448, 1980000, 3201000, 62914560, 150754820096},
    {"B200", 1000, 148, 232448, 1965000, 3996000, 132644864, 191126044672},
};
enum { DEVICES = sizeof devices / sizeof *devices };

static kin_cudnn *open_described(const device *d)
{
    char text[1024];
    snprintf(text, sizeof text,
             "{\"deviceName\": \"%s\", \"cudaDeviceId\": 0, \"pciDeviceId\": 0, \"deviceVer\": %d,"
             " \"driverVer\": 13000, \"isTccDriver\": 0, \"supportCoopLaunch\": 1,"
             " \"multiProcessorCount\": %d, \"maxSharedMemoryPerBlock\": 49152,"
             " \"maxSharedMemoryPerBlockOptin\": %d, \"reservedSharedMemoryPerBlock\": 1024,"
             " \"smClockRateKHz\": %d, \"memClockRateKHz\": %d, \"l2CacheSize\": %lld,"
             " \"totalGlobalMem\": %lld, \"warpSize\": 32, \"regsPerBlock\": 65536,"
             " \"maxRegistersPerSM\": 65536, \"maxThreadsPerBlock\": 1024,"
             " \"maxThreadsPerSM\": 2048, \"maxCtasPerSM\": 32,"
             " \"maxBlockSize\": [1024, 1024, 64], \"maxGridSize\": [2147483647, 65535, 65535]}",
             d->name, d->version, d->processors, d->shared, d->clock, d->memory_clock, d->cache,
             d->memory);
    kin_cudnn *lib = kin_cudnn_load_described(text);
    if (!lib)
        fail_msg("no cuDNN for %s", text);
    return lib;
}

/* Contiguous q, k, v, o and dout, or (fused) q, k, v as columns of one buffer. */
static kin_cudnn_attention_spec attention(int64_t kind, int64_t nq, int64_t nk, int64_t d,
                                          bool stats, bool fused)
{
    kin_cudnn_attention_spec s = {
        .kind = kind, .batch = 2, .heads = 12, .nq = nq, .nk = nk, .d = d, .stats = stats};
    for (int i = 0; i < 5; i++) {
        const int64_t rows = i == KIN_CUDNN_K || i == KIN_CUDNN_V ? nk : nq;
        const int64_t row = s.heads * d * (fused && i <= KIN_CUDNN_V ? 3 : 1);
        const int64_t stride[3] = {rows * row, row, d};
        memcpy(s.stride[i], stride, sizeof stride);
    }
    return s;
}

static void check_attention(kin_cudnn *lib, const kin_cudnn_attention_spec *s)
{
    const kin_cudnn_plan *p = kin_cudnn_graph(
        lib, (const int64_t *)s, sizeof *s / sizeof(int64_t),
        s->kind == KIN_CUDNN_ATTENTION ? kin_cudnn_build_attention : kin_cudnn_build_attention_bwd);
    assert_non_null(p);
    print_message("attention kind %d d=%d %dx%d stats=%d: %d offers %s\n", (int)s->kind, (int)s->d,
                  (int)s->nq, (int)s->nk, (int)s->stats, p->offers, p->why);
    if (p->offers == 0)
        fail_msg("attention kind %d d=%d %dx%d: no engine: %s", (int)s->kind, (int)s->d, (int)s->nq,
                 (int)s->nk, p->why);
}

static void attention_forward(void **state)
{
    static const int64_t sizes[] = {64, 72, 96, 128};
    for (int i = 0; i < 4; i++) {
        for (int stats = 0; stats < 2; stats++) {
            kin_cudnn_attention_spec s =
                attention(KIN_CUDNN_ATTENTION, 1024, 1024, sizes[i], stats, true);
            check_attention(*state, &s);
            s = attention(KIN_CUDNN_ATTENTION, 1001, 77, sizes[i], stats, false);
            check_attention(*state, &s);
        }
    }
}

static void attention_backward(void **state)
{
    static const int64_t sizes[] = {64, 72, 128};
    for (int i = 0; i < 3; i++) {
        kin_cudnn_attention_spec s =
            attention(KIN_CUDNN_ATTENTION_BWD, 256, 256, sizes[i], true, true);
        check_attention(*state, &s);
        s = attention(KIN_CUDNN_ATTENTION_BWD, 1001, 77, sizes[i], true, false);
        check_attention(*state, &s);
    }
}

/* Kernels of convolution come with the library: plans are whole. Video layers with zeros before the
 * first frame alone, picture layers, stride 2 with a row and a column of zeros after the last,
 * narrow ends. */
static const kin_cudnn_conv_spec layers[] = {
    {0, 0, 1, 4, 60, 104, 96, 4, 60, 104, 96, 3, 3, 3, 1, 2, 1, 1, 0},
    {0, 0, 1, 5, 32, 32, 192, 3, 32, 32, 192, 3, 1, 1, 1, 0, 0, 0, 0},
    {0, 0, 1, 4, 60, 104, 96, 4, 60, 104, 3, 3, 3, 3, 1, 2, 1, 1, 0},
    {0, 0, 4, 1, 64, 64, 128, 1, 64, 64, 128, 1, 3, 3, 1, 0, 1, 1, 0},
    {0, 0, 4, 1, 64, 64, 128, 1, 32, 32, 128, 1, 3, 3, 2, 0, 0, 0, 0},
    {0, 0, 4, 1, 64, 64, 3, 1, 64, 64, 128, 1, 3, 3, 1, 0, 1, 1, 0},
};
enum { LAYERS = sizeof layers / sizeof *layers };

static void convolution(void **state)
{
    for (int i = 0; i < LAYERS; i++) {
        for (int kind = KIN_CUDNN_CONV; kind <= KIN_CUDNN_CONV_DW; kind++) {
            int offers[3];
            for (int type = 0; type < 3; type++) { /* f32, bf16, TF32 */
                kin_cudnn_conv_spec s = layers[i];
                s.kind = kind;
                s.bf16 = type == 1;
                s.tf32 = type == 2;
                const int count = sizeof s / sizeof(int64_t);
                const kin_cudnn_plan *p =
                    kin_cudnn_graph(*state, (const int64_t *)&s, count, kin_cudnn_build_conv);
                assert_non_null(p);
                print_message("layer %d kind %d type %d: %d offers\n", i, kind, type, p->offers);
                if (!kin_cudnn_find(*state, (const int64_t *)&s, count, kin_cudnn_build_conv))
                    fail_msg("layer %d kind %d type %d: no plan: %s", i, kind, type, p->why);
                offers[type] = p->offers;
            }
            assert_true(offers[2] > offers[0]);
        }
    }
}

/* Kernels of attention are compiled; what fails then is the driver's stub, asked to load them
 * (error 34). Once forward and backward: a second each. */
static void attention_plans(void **state)
{
    for (int kind = KIN_CUDNN_ATTENTION; kind <= KIN_CUDNN_ATTENTION_BWD; kind++) {
        const kin_cudnn_attention_spec s = attention(kind, 1024, 1024, 128, true, true);
        void (*build)(kin_cudnn_plan *) =
            kind == KIN_CUDNN_ATTENTION ? kin_cudnn_build_attention : kin_cudnn_build_attention_bwd;
        const int count = sizeof s / sizeof(int64_t);
        const kin_cudnn_plan *found = kin_cudnn_find(*state, (const int64_t *)&s, count, build);
        const kin_cudnn_plan *p = kin_cudnn_graph(*state, (const int64_t *)&s, count, build);
        if (!found && !strstr(p->why, "(34)"))
            fail_msg("attention kind %d: %s", kind, p->why);
    }
}

/* What cannot be must be refused, or the other tests show nothing. */
static void refusals(void **state)
{
    kin_cudnn_attention_spec s = attention(KIN_CUDNN_ATTENTION, 64, 64, 63, false, false);
    assert_null(kin_cudnn_find(*state, (const int64_t *)&s, sizeof s / sizeof(int64_t),
                               kin_cudnn_build_attention));
    kin_cudnn_conv_spec c = layers[0];
    c.kind = KIN_CUDNN_CONV;
    c.out_width++;
    c.left = 0;
    c.width = 0;
    const kin_cudnn_plan *p = kin_cudnn_graph(*state, (const int64_t *)&c,
                                              sizeof c / sizeof(int64_t), kin_cudnn_build_conv);
    assert_int_equal(p->offers, 0);
    assert_true(p->why[0] != '\0');
}

int main(void)
{
    int failed = 0;
    for (int i = 0; i < DEVICES; i++) {
        kin_cudnn *lib = open_described(&devices[i]);
        const struct CMUnitTest tests[] = {
            {"attention forward", attention_forward, NULL, NULL, lib},
            {"attention backward", attention_backward, NULL, NULL, lib},
            {"convolution", convolution, NULL, NULL, lib},
            {"attention plans", attention_plans, NULL, NULL, lib},
            {"refusals", refusals, NULL, NULL, lib},
        };
        failed += _cmocka_run_group_tests(devices[i].name, tests, sizeof tests / sizeof *tests,
                                          NULL, NULL);
        kin_cudnn_free(&lib);
    }
    return failed;
}

/* tensor/cuda/rate.cu: the product library's own best rate, for reports. */
#include "tensor/cuda/library.cuh"

namespace
{

constexpr int timed = 10; /* runs of an algorithm */

/* bf16 within [-1, 1): what the bits of a counter make */
__global__ void noise_kernel(uint16_t *to, int64_t n)
{
    KIN_EACH(i, n)
    {
        uint32_t h = (uint32_t)i * 2654435761u;
        h ^= h >> 15;
        to[i] = kin_float_bf16((float)(int32_t)h * 4.6566129e-10f);
    }
}

struct work {
    kin_lt *lt;
    kin_lt_product q;
    kin_lt_data d;
    cudaStream_t stream;
    cudaEvent_t event[2];
};

/* Seconds of one run of the algorithm, 0: it does not run. */
double time_algorithm(const work &w, const kin_lt_algo *algo)
{
    float ms = 0;
    bool ok = true;
    for (int i = 0; i <= timed && ok; i++) {
        ok = kin_lt_run_offer(w.lt, &w.q, &w.d, algo, w.stream);
        if (i == 0) /* the first run loads the kernel */
            ok = ok && cudaEventRecord(w.event[0], w.stream) == cudaSuccess;
    }
    ok = ok && cudaEventRecord(w.event[1], w.stream) == cudaSuccess &&
         cudaEventSynchronize(w.event[1]) == cudaSuccess &&
         cudaEventElapsedTime(&ms, w.event[0], w.event[1]) == cudaSuccess;
    return ok ? 1e-3 * (double)ms / timed : 0;
}

/* Best seconds over the algorithms that the library names; 0: none ran. */
double best_time(library *l, int64_t n, uint16_t *const *x, kin_gpu *gpu)
{
    kin_lt_algo algo[KIN_LT_OFFERS];
    work w = {};
    double best = 0;
    w.lt = l->lt;
    w.stream = gpu->stream;
    w.q.type = w.q.out = KIN_LT_BF16;
    w.q.m = w.q.n = w.q.k = w.q.ld_a = w.q.ld_b = w.q.ld_y = n;
    w.q.along_a = w.q.along_b = 1;
    w.q.align_a = w.q.align_b = w.q.align_y = 256;
    w.d.a = x[1];
    w.d.b = x[0];
    w.d.y = x[2];
    int count = 0;
    if (cudaEventCreate(&w.event[0]) == cudaSuccess && cudaEventCreate(&w.event[1]) == cudaSuccess)
        count = kin_lt_offers(w.lt, &w.q, &w.d, algo);
    for (int i = 0; i < count; i++) {
        const double t = time_algorithm(w, &algo[i]);
        if (t > 0 && (best == 0 || t < best))
            best = t;
    }
    for (cudaEvent_t e : w.event)
        if (e)
            cudaEventDestroy(e);
    return best;
}

} // namespace

extern "C" kin_status kin_cuda_products_rate(kin_gpu *gpu, int64_t n, double *rate, kin_error *err)
{
    library *l = (library *)gpu->products;
    uint16_t *x[3] = {};
    *rate = 0;
    if (!l)
        return KIN_OK;
    bool room = true;
    for (uint16_t *&p : x) {
        p = (uint16_t *)kin_gpu_alloc(gpu, (size_t)(n * n) * 2);
        room = room && p;
    }
    double best = 0;
    if (room) {
        for (int i = 0; i < 2; i++)
            noise_kernel<<<kin_blocks(n * n), KIN_THREADS, 0, gpu->stream>>>(x[i], n * n);
        best = best_time(l, n, x, gpu);
    }
    for (uint16_t *p : x)
        kin_gpu_free(p);
    if (!room && kin_gpu_wait(gpu, err) != KIN_OK)
        return err->status;
    if (!room)
        return kin_fail(err, KIN_ERR_MEM, "cuda: no memory to measure a product of %lld",
                        (long long)n);
    *rate = best > 0 ? 2.0 * (double)n * (double)n * (double)n / best : 0;
    return kin_gpu_wait(gpu, err);
}

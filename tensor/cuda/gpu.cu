/* tensor/cuda/gpu.cu: a CUDA device. The workspace is a reserved address range into which memory is
 * mapped as it grows (the driver's virtual memory calls, fetched at run time, so that the program
 * starts without a driver). */
#include "tensor/cuda/gpu_stream.cuh"
#include "tensor/cuda/peak.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cuda.h>
#include <new>

namespace
{

/* the driver's calls that are needed, by name */
struct driver {
    decltype(&cuMemAddressReserve) reserve;
    decltype(&cuMemAddressFree) release_range;
    decltype(&cuMemCreate) create;
    decltype(&cuMemRelease) release;
    decltype(&cuMemMap) map;
    decltype(&cuMemUnmap) unmap;
    decltype(&cuMemSetAccess) access;
    decltype(&cuMemGetAllocationGranularity) granularity;
};

template <typename F> bool entry(const char *name, F *fn)
{
    cudaDriverEntryPointQueryResult found;
    void *p = nullptr;
    /* note: 12000 is the ABI version asked for, not the driver's */
    if (cudaGetDriverEntryPointByVersion(name, &p, 12000, cudaEnableDefault, &found) !=
            cudaSuccess ||
        found != cudaDriverEntryPointSuccess)
        return false;
    *fn = reinterpret_cast<F>(p);
    return true;
}

bool driver_load(driver *d)
{
    return entry("cuMemAddressReserve", &d->reserve) &&
           entry("cuMemAddressFree", &d->release_range) && entry("cuMemCreate", &d->create) &&
           entry("cuMemRelease", &d->release) && entry("cuMemMap", &d->map) &&
           entry("cuMemUnmap", &d->unmap) && entry("cuMemSetAccess", &d->access) &&
           entry("cuMemGetAllocationGranularity", &d->granularity);
}

size_t round_up(size_t n, size_t step)
{
    return (n + step - 1) / step * step;
}

constexpr int oldest_major = 8; /* compute capability */
constexpr size_t least_growth = (size_t)64 << 20;
std::atomic<unsigned long> frees;

} // namespace

struct kin_gpu_range {
    driver call;
    CUmemAllocationProp prop;
    CUdeviceptr base;
    size_t reserved, committed, step;
    CUmemGenericAllocationHandle handle[1024];
    size_t size[1024];
    int pieces;
};

struct kin_gpu_recording {
    cudaGraphExec_t exec;
    char *kept; /* page-locked */
    size_t used, bytes;
};

static kin_status failed(kin_error *err, const char *what, cudaError_t e)
{
    (void)cudaGetLastError(); /* said here, so that no launch after this is blamed */
    return kin_fail(err, e == cudaErrorMemoryAllocation ? KIN_ERR_MEM : KIN_ERR_BACKEND,
                    "cuda: %s: %s", what, cudaGetErrorString(e));
}

static kin_status refused(kin_error *err)
{
    return kin_fail(err, KIN_ERR_UNSUPPORTED, "cuda: not while recording");
}

/* All devices there are. */
static int count_devices(char *why, size_t bytes)
{
    int n = 0;
    cudaError_t e = cudaGetDeviceCount(&n);
    if (e != cudaSuccess) {
        cudaGetLastError();
        snprintf(why, bytes, "%s", cudaGetErrorString(e));
        return 0;
    }
    if (n == 0)
        snprintf(why, bytes, "no device");
    return n;
}

int kin_gpu_count(char *why, size_t bytes)
{
    const int all = count_devices(why, bytes);
    int n = 0, major = 0;
    while (n < all &&
           cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, n) == cudaSuccess &&
           major >= oldest_major)
        n++;
    if (all > 0 && n == 0) {
        cudaGetLastError();
        snprintf(why, bytes, "compute capability %d.x, it must be %d.0 or newer", major,
                 oldest_major);
    }
    return n;
}

bool kin_gpu_describe(int index, char *text, size_t bytes)
{
    cudaDeviceProp p;
    size_t free_bytes = 0, total = 0;
    if (cudaGetDeviceProperties(&p, index) != cudaSuccess) {
        cudaGetLastError();
        return false;
    }
    if (cudaSetDevice(index) != cudaSuccess || cudaMemGetInfo(&free_bytes, &total) != cudaSuccess)
        cudaGetLastError();
    snprintf(text, bytes, "%s, sm_%d%d, %d multiprocessors, %.1f GiB (%.1f free)", p.name, p.major,
             p.minor, p.multiProcessorCount, (double)p.totalGlobalMem / (1 << 30),
             (double)free_bytes / (1 << 30));
    return true;
}

static kin_status range_open(kin_gpu *g, size_t bytes, kin_error *err)
{
    kin_gpu_range *r = g->range;
    if (!driver_load(&r->call))
        return kin_fail(err, KIN_ERR_UNSUPPORTED,
                        "cuda: the driver lacks virtual memory calls (too old)");
    r->prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    r->prop.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    r->prop.location.id = g->index;
    if (r->call.granularity(&r->step, &r->prop, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED) !=
        CUDA_SUCCESS)
        return kin_fail(err, KIN_ERR_BACKEND, "cuda: no allocation granularity");
    r->reserved = round_up(bytes, r->step);
    if (r->call.reserve(&r->base, r->reserved, 0, 0, 0) != CUDA_SUCCESS)
        return kin_fail(err, KIN_ERR_MEM, "cuda: cannot reserve %zu bytes of address space",
                        r->reserved);
    return KIN_OK;
}

kin_status kin_gpu_commit(kin_gpu *g, size_t bytes, kin_error *err)
{
    kin_gpu_range *r = g->range;
    if (bytes <= r->committed)
        return KIN_OK;
    if (g->recording)
        return refused(err);
    size_t free_bytes = 0, total = 0, need = bytes - r->committed;
    (void)cudaMemGetInfo(&free_bytes, &total);
    /* grows by an eighth, so that the number of pieces stays small; less where memory is short */
    size_t grow = need > least_growth ? need : least_growth;
    if (grow < r->committed / 8)
        grow = r->committed / 8;
    grow = round_up(grow, r->step);
    if (grow > free_bytes)
        grow = round_up(need, r->step);
    if (r->pieces == (int)(sizeof r->handle / sizeof *r->handle) ||
        r->committed + grow > r->reserved)
        return kin_fail(err, KIN_ERR_MEM, "cuda: workspace of %zu bytes is too large", bytes);
    CUmemAccessDesc access = {};
    access.location = r->prop.location;
    access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    CUmemGenericAllocationHandle h;
    CUresult e = r->call.create(&h, grow, &r->prop, 0);
    /* note: not all that is reported as free can be had */
    if (e == CUDA_ERROR_OUT_OF_MEMORY && grow > round_up(need, r->step)) {
        grow = round_up(need, r->step);
        e = r->call.create(&h, grow, &r->prop, 0);
    }
    if (e != CUDA_SUCCESS && e != CUDA_ERROR_OUT_OF_MEMORY)
        return kin_fail(err, KIN_ERR_BACKEND, "cuda: workspace: error %d of the driver", (int)e);
    if (e != CUDA_SUCCESS)
        return kin_fail(err, KIN_ERR_MEM,
                        "cuda: the workspace needs %zu bytes more, the device has %zu free", need,
                        free_bytes);
    CUdeviceptr at = r->base + r->committed;
    if (r->call.map(at, grow, 0, h, 0) != CUDA_SUCCESS) {
        r->call.release(h);
        return kin_fail(err, KIN_ERR_MEM, "cuda: cannot map %zu bytes", grow);
    }
    if (r->call.access(at, grow, &access, 1) != CUDA_SUCCESS) {
        r->call.unmap(at, grow);
        r->call.release(h);
        return kin_fail(err, KIN_ERR_BACKEND, "cuda: cannot make %zu bytes accessible", grow);
    }
    r->handle[r->pieces] = h;
    r->size[r->pieces++] = grow;
    r->committed += grow;
    return KIN_OK;
}

static void range_close(kin_gpu_range *r)
{
    CUdeviceptr at = r->base;
    for (int i = 0; i < r->pieces; i++) {
        r->call.unmap(at, r->size[i]);
        r->call.release(r->handle[i]);
        at += r->size[i];
    }
    if (r->base)
        r->call.release_range(r->base, r->reserved);
}

kin_status kin_gpu_open(int index, size_t *range, char **base, kin_gpu **out, kin_error *err)
{
    char why[200];
    const int n = count_devices(why, sizeof why);
    *out = nullptr;
    if (n == 0)
        return kin_fail(err, KIN_ERR_UNSUPPORTED, "cuda: no device can be used here: %s", why);
    if (index < 0 || index >= n)
        return kin_fail(err, KIN_ERR_UNSUPPORTED, "cuda: device %d must be below the %d here",
                        index, n);
    cudaDeviceProp p;
    cudaError_t e = cudaGetDeviceProperties(&p, index);
    if (e == cudaSuccess)
        e = cudaSetDevice(index);
    if (e != cudaSuccess)
        return failed(err, "open", e);
    if (p.major < oldest_major)
        return kin_fail(err, KIN_ERR_UNSUPPORTED, "cuda: %s is sm_%d%d, it must be sm_80 or newer",
                        p.name, p.major, p.minor);
    kin_gpu *g = new (std::nothrow) kin_gpu();
    kin_gpu_range *r = g ? new (std::nothrow) kin_gpu_range() : nullptr;
    if (!r) {
        delete g;
        return kin_fail(err, KIN_ERR_MEM, "cuda: out of memory");
    }
    g->index = index;
    g->capability = 10 * p.major + p.minor;
    g->range = r;
    /* note: contexts of one thread share their parameters' forms, so they share a stream */
    g->stream = g->lanes[KIN_GPU_COMPUTE] = cudaStreamPerThread;
    e = cudaStreamCreateWithFlags(&g->lanes[KIN_GPU_COPY], cudaStreamNonBlocking);
    if (e != cudaSuccess) {
        kin_gpu_close(&g);
        return failed(err, "stream", e);
    }
    /* records and host tensors take addresses too */
    const size_t most = 4 * (size_t)p.totalGlobalMem;
    if (*range > most)
        *range = most;
    kin_status status = range_open(g, *range, err);
    if (status != KIN_OK) {
        kin_gpu_close(&g);
        return status;
    }
    *range = r->reserved;
    *base = (char *)r->base;
    *out = g;
    return KIN_OK;
}

void kin_gpu_close(kin_gpu **pg)
{
    kin_gpu *g = *pg;
    if (!g)
        return;
    for (cudaStream_t lane : g->lanes)
        cudaStreamSynchronize(lane);
    for (cudaEvent_t event : g->events)
        if (event)
            cudaEventDestroy(event);
    if (g->lanes[KIN_GPU_COPY])
        cudaStreamDestroy(g->lanes[KIN_GPU_COPY]);
    range_close(g->range);
    delete g->range;
    delete g;
    *pg = nullptr;
}

void *kin_gpu_alloc(kin_gpu *g, size_t bytes)
{
    void *p = nullptr;
    if (g->recording || cudaMalloc(&p, bytes ? bytes : 1) != cudaSuccess) {
        cudaGetLastError();
        return nullptr;
    }
    return p;
}

void kin_gpu_free(void *p)
{
    frees++;
    cudaDeviceSynchronize(); /* note: which cudaFree need not do */
    cudaFree(p);
}

size_t kin_gpu_free_bytes(const kin_gpu *)
{
    size_t free_bytes = 0, total = 0;
    if (cudaMemGetInfo(&free_bytes, &total) != cudaSuccess)
        cudaGetLastError();
    return free_bytes;
}

void *kin_gpu_pinned(kin_gpu *, size_t bytes)
{
    void *p = nullptr;
    if (cudaHostAlloc(&p, bytes, cudaHostAllocDefault) != cudaSuccess) {
        cudaGetLastError();
        return nullptr;
    }
    return p;
}

void kin_gpu_unpin(void *p)
{
    cudaDeviceSynchronize();
    cudaFreeHost(p);
}

void kin_gpu_use(kin_gpu *g, kin_gpu_lane lane)
{
    g->stream = g->lanes[lane];
}

kin_status kin_gpu_copy(kin_gpu *g, void *dst, const void *src, size_t bytes, kin_error *err)
{
    cudaError_t e = cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDefault, g->stream);
    return e == cudaSuccess ? KIN_OK : failed(err, "copy", e);
}

kin_status kin_gpu_signal(kin_gpu *g, int event, kin_error *err)
{
    cudaError_t e = cudaSuccess;
    if (g->recording)
        return refused(err);
    if (!g->events[event])
        e = cudaEventCreateWithFlags(&g->events[event], cudaEventDisableTiming);
    if (e == cudaSuccess)
        e = cudaEventRecord(g->events[event], g->stream);
    return e == cudaSuccess ? KIN_OK : failed(err, "event", e);
}

kin_status kin_gpu_after(kin_gpu *g, int event, kin_error *err)
{
    if (g->recording)
        return refused(err);
    if (!g->events[event])
        return KIN_OK;
    cudaError_t e = cudaStreamWaitEvent(g->stream, g->events[event], 0);
    return e == cudaSuccess ? KIN_OK : failed(err, "event", e);
}

kin_status kin_gpu_reach(kin_gpu *g, int event, kin_error *err)
{
    if (g->recording)
        return refused(err);
    cudaError_t e = g->events[event] ? cudaEventQuery(g->events[event]) : cudaSuccess;
    if (e == cudaErrorNotReady) {
        (void)cudaGetLastError();
        g->waits++;
        e = cudaEventSynchronize(g->events[event]);
    }
    return e == cudaSuccess ? KIN_OK : failed(err, "kernel", e);
}

kin_status kin_gpu_wait(kin_gpu *g, kin_error *err)
{
    if (g->recording)
        return refused(err);
    g->waits++;
    cudaError_t e = cudaStreamSynchronize(g->stream);
    return e == cudaSuccess ? KIN_OK : failed(err, "kernel", e);
}

kin_status kin_gpu_launched(kin_gpu *g, const char *op, kin_error *err)
{
    (void)g;
    cudaError_t e = cudaGetLastError();
    return e == cudaSuccess ? KIN_OK : failed(err, op, e);
}

bool kin_gpu_facts_of(const kin_gpu *g, kin_gpu_facts *out)
{
    cudaDeviceProp p;
    int khz = 0;
    size_t free_bytes = 0;
    *out = {};
    if (cudaGetDeviceProperties(&p, g->index) != cudaSuccess ||
        cudaDeviceGetAttribute(&khz, cudaDevAttrClockRate, g->index) != cudaSuccess ||
        cudaMemGetInfo(&free_bytes, &out->total) != cudaSuccess) {
        cudaGetLastError();
        return false;
    }
    out->capability = g->capability;
    out->bf16_peak =
        kin_cuda_bf16_peak(p.name, g->capability, p.multiProcessorCount, 1e3 * (double)khz);
    out->used = out->total - free_bytes;
    return true;
}

long kin_gpu_waits(const kin_gpu *g)
{
    return g->waits;
}

bool kin_gpu_record(kin_gpu *g, size_t bytes)
{
    kin_gpu_recording *r = new (std::nothrow) kin_gpu_recording();
    if (!r)
        return false;
    r->bytes = bytes;
    r->kept = bytes ? (char *)kin_gpu_pinned(g, bytes) : nullptr;
    if ((bytes && !r->kept) ||
        cudaStreamBeginCapture(g->stream, cudaStreamCaptureModeThreadLocal) != cudaSuccess) {
        cudaGetLastError();
        kin_gpu_forget(r);
        return false;
    }
    g->recording = r;
    return true;
}

bool kin_gpu_is_recording(const kin_gpu *g)
{
    return g->recording;
}

const void *kin_gpu_keep(kin_gpu *g, const void *host, size_t bytes)
{
    kin_gpu_recording *r = g->recording;
    const size_t padded = round_up(bytes, KIN_GPU_ALIGN);
    if (padded > r->bytes - r->used)
        return nullptr;
    char *at = r->kept + r->used;
    memcpy(at, host, bytes);
    r->used += padded;
    return at;
}

kin_gpu_recording *kin_gpu_recorded(kin_gpu *g)
{
    kin_gpu_recording *r = g->recording;
    cudaGraph_t graph = nullptr;
    g->recording = nullptr;
    bool ok = cudaStreamEndCapture(g->stream, &graph) == cudaSuccess && graph &&
              cudaGraphInstantiate(&r->exec, graph, 0) == cudaSuccess;
    if (graph)
        cudaGraphDestroy(graph);
    if (ok)
        return r;
    cudaGetLastError();
    kin_gpu_forget(r);
    return nullptr;
}

kin_status kin_gpu_play(kin_gpu *g, kin_gpu_recording *r, kin_error *err)
{
    cudaError_t e = cudaGraphLaunch(r->exec, g->stream);
    return e == cudaSuccess ? KIN_OK : failed(err, "graph", e);
}

void kin_gpu_forget(kin_gpu_recording *r)
{
    if (!r)
        return;
    cudaDeviceSynchronize();
    if (r->kept)
        kin_gpu_unpin(r->kept);
    if (r->exec)
        cudaGraphExecDestroy(r->exec);
    delete r;
}

unsigned long kin_gpu_frees(void)
{
    return frees;
}

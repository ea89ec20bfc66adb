/* tensor/cuda/emulate/gpu.cc: a device of host memory that only kernels and copies may touch: at
 * any other time its pages are closed, so that code which reads a device tensor on the host stops
 * here as it would on a GPU. */
#include <cstdio>
#include <cstring>
#include <mutex>
#include <new>
#include <sys/mman.h>

#include "tensor/cuda/gpu_stream.cuh"

struct kin_gpu_range {
    char *base;
    size_t reserved, committed;
    kin_gpu_range *next;
};

namespace
{

kin_gpu_range *ranges;
int opened; /* calls of kin_emulated_memory(true) that have not ended */
std::mutex lock;
constexpr size_t step = (size_t)1 << 20;

void protect(kin_gpu_range *r, bool open)
{
    if (r->committed)
        mprotect(r->base, r->committed, open ? PROT_READ | PROT_WRITE : PROT_NONE);
}

} // namespace

void kin_emulated_memory(bool open)
{
    std::lock_guard<std::mutex> hold(lock);
    if (open ? opened++ == 0 : --opened == 0)
        for (kin_gpu_range *r = ranges; r; r = r->next)
            protect(r, open);
}

int kin_gpu_count(char *why, size_t bytes)
{
    if (bytes)
        why[0] = 0;
    return 1;
}

bool kin_gpu_describe(int index, char *text, size_t bytes)
{
    snprintf(text, bytes, "emulated on the host, for tests");
    return index == 0;
}

kin_status kin_gpu_open(int index, size_t *range, char **base, kin_gpu **out, kin_error *err)
{
    *out = nullptr;
    if (index != 0)
        return kin_fail(err, KIN_ERR_UNSUPPORTED, "cuda: device %d must be below the 1 here",
                        index);
    kin_gpu *g = new (std::nothrow) kin_gpu();
    kin_gpu_range *r = new (std::nothrow) kin_gpu_range();
    void *p = mmap(NULL, *range, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!g || !r || p == MAP_FAILED) {
        delete g;
        delete r;
        return kin_fail(err, KIN_ERR_MEM, "emulated gpu: no address space");
    }
    madvise(p, *range, MADV_DONTDUMP);
    r->base = (char *)p;
    r->reserved = *range;
    g->range = r;
    g->capability = 90;
    std::lock_guard<std::mutex> hold(lock);
    r->next = ranges;
    ranges = r;
    *base = r->base;
    *out = g;
    return KIN_OK;
}

void kin_gpu_close(kin_gpu **pg)
{
    kin_gpu *g = *pg;
    if (!g)
        return;
    {
        std::lock_guard<std::mutex> hold(lock);
        kin_gpu_range **at = &ranges;
        while (*at != g->range)
            at = &(*at)->next;
        *at = g->range->next;
    }
    munmap(g->range->base, g->range->reserved);
    delete g->range;
    delete g;
    *pg = nullptr;
}

kin_status kin_gpu_commit(kin_gpu *g, size_t bytes, kin_error *err)
{
    kin_gpu_range *r = g->range;
    if (bytes <= r->committed)
        return KIN_OK;
    std::lock_guard<std::mutex> hold(lock);
    const size_t end = (bytes + step - 1) / step * step;
    if (end > r->reserved)
        return kin_fail(err, KIN_ERR_MEM, "emulated gpu: workspace of %zu bytes", bytes);
    r->committed = end;
    protect(r, opened > 0);
    return KIN_OK;
}

void *kin_gpu_alloc(kin_gpu *, size_t bytes)
{
    return malloc(bytes ? bytes : 1);
}

void kin_gpu_free(void *p)
{
    free(p);
}

static kin_status move(void *dst, const void *src, size_t bytes)
{
    kin_emulated_memory(true);
    memcpy(dst, src, bytes);
    kin_emulated_memory(false);
    return KIN_OK;
}

kin_status kin_gpu_upload(kin_gpu *, void *dst, const void *src, size_t bytes, kin_error *)
{
    return move(dst, src, bytes);
}

kin_status kin_gpu_read(kin_gpu *g, void *dst, const void *src, size_t bytes, kin_error *)
{
    g->waits++;
    return move(dst, src, bytes);
}

kin_status kin_gpu_copy(kin_gpu *, void *dst, const void *src, size_t bytes, kin_error *)
{
    return move(dst, src, bytes);
}

kin_status kin_gpu_wait(kin_gpu *g, kin_error *)
{
    g->waits++;
    return KIN_OK;
}

kin_status kin_gpu_launched(kin_gpu *, const char *, kin_error *)
{
    return KIN_OK;
}

bool kin_gpu_facts_of(const kin_gpu *g, kin_gpu_facts *out)
{
    *out = {};
    out->capability = g->capability;
    out->used = g->range->committed;
    out->total = g->range->reserved;
    return true;
}

long kin_gpu_waits(const kin_gpu *g)
{
    return g->waits;
}

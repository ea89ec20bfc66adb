#include "tensor/cuda/resident.h"

#include <string.h>

#include "base/alloc.h"

/* The first range that ends behind p; count: none. */
static int behind(const kin_residents *r, const char *p)
{
    int low = 0, high = r->count;
    while (low < high) {
        const int mid = (low + high) / 2;
        if (r->list[mid].host + r->list[mid].bytes > p)
            high = mid;
        else
            low = mid + 1;
    }
    return low;
}

kin_status kin_residents_adopt(kin_residents *r, kin_staging *via, void *host, size_t bytes,
                               kin_error *err)
{
    const int at = behind(r, host);
    kin_resident one = {.host = host, .bytes = bytes};
    if (bytes == 0)
        return KIN_OK;
    if (at < r->count && r->list[at].host < one.host + bytes)
        return kin_fail(err, KIN_ERR_ARG, "cuda: this memory lies on the device already");
    if (r->count == r->cap) {
        const int cap = r->cap ? 2 * r->cap : 64;
        kin_resident *grown = kin_realloc(r->list, (size_t)cap * sizeof *grown);
        if (!grown)
            return kin_fail(err, KIN_ERR_MEM, "cuda: out of memory");
        r->list = grown;
        r->cap = cap;
    }
    one.device = kin_gpu_alloc(via->gpu, bytes);
    if (!one.device) {
        KIN_TRY(kin_gpu_wait(via->gpu, err));
        return kin_fail(err, KIN_ERR_MEM, "cuda: %zu bytes do not fit on the device", bytes);
    }
    kin_status status = kin_staging_upload(via, one.device, host, bytes, err);
    if (status != KIN_OK) {
        kin_gpu_free(one.device);
        return status;
    }
    memmove(r->list + at + 1, r->list + at, (size_t)(r->count - at) * sizeof *r->list);
    r->list[at] = one;
    r->count++;
    return KIN_OK;
}

void *kin_residents_find(const kin_residents *r, const void *host)
{
    const int at = behind(r, host);
    if (at == r->count || r->list[at].host > (const char *)host)
        return NULL;
    return r->list[at].device + ((const char *)host - r->list[at].host);
}

void kin_residents_release(kin_residents *r, const void *host)
{
    const int at = behind(r, host);
    if (at == r->count || r->list[at].host != host)
        return;
    kin_gpu_free(r->list[at].device);
    memmove(r->list + at, r->list + at + 1, (size_t)(r->count - at - 1) * sizeof *r->list);
    r->count--;
}

void kin_residents_free(kin_residents *r)
{
    for (int i = 0; i < r->count; i++)
        kin_gpu_free(r->list[i].device);
    kin_free(r->list);
    *r = (kin_residents){0};
}

#include "tensor/cuda/offload.h"

#include <string.h>

#include "base/alloc.h"
#include "tensor/cuda/cuda.h"
#include "tensor/cuda/staging.h"

enum { ALIGN = 256, RAW_MOST = 4 << 20, RING = 64 };

struct kin_held {
    kin_offload *owner; /* NULL: closed */
    kin_param *p;
    bool bf16;
    uint64_t version;   /* of p, that data holds */
    char *data;         /* NULL: not on the device */
    size_t bytes;       /* of data */
    unsigned long call; /* the last operation that used it */
    int ready, used;    /* events: has arrived; its last operation is done (-1: none) */
    bool arriving;      /* the compute lane has not been told to wait for `ready` */
};

struct kin_offload {
    kin_ctx *ctx;
    kin_gpu *gpu;
    kin_staging staging; /* of the copy lane */
    char *block;         /* raw bytes to be converted, then the forms */
    size_t bytes, raw;
    kin_held **order;  /* all forms by first use */
    kin_held **placed; /* those on the device, by address */
    int count, cap, on_device;
    int at; /* place of the form used last, -1: none */
    unsigned long call;
    bool touched; /* the present operation used a form */
    int event;    /* RING of `used`, then RING of `ready` */
    int used, ready;
};

_Static_assert(KIN_OFFLOAD_EVENTS == KIN_STAGING_EVENTS + 2 * RING, "events of the parts");

static size_t padded(size_t bytes)
{
    return (bytes + ALIGN - 1) & ~(size_t)(ALIGN - 1);
}

kin_status kin_offload_open(kin_ctx *ctx, kin_gpu *gpu, size_t budget, int event, kin_offload **out,
                            kin_error *err)
{
    kin_offload *o = kin_calloc(1, sizeof *o);
    *out = NULL;
    if (!o)
        return kin_fail(err, KIN_ERR_MEM, "offload: out of memory");
    o->bytes = budget & ~(size_t)(ALIGN - 1);
    o->block = kin_gpu_alloc(gpu, o->bytes);
    if (!o->block) {
        kin_free(o);
        KIN_TRY(kin_gpu_wait(gpu, err));
        return kin_fail(err, KIN_ERR_MEM, "offload: the device has no %zu MB free",
                        budget / 1000000);
    }
    o->ctx = ctx;
    o->gpu = gpu;
    o->raw = o->bytes / 8 < RAW_MOST ? padded(o->bytes / 8) : RAW_MOST;
    o->at = -1;
    kin_staging_open(&o->staging, gpu, event);
    o->event = event + KIN_STAGING_EVENTS;
    *out = o;
    return KIN_OK;
}

void kin_offload_close(kin_offload **po)
{
    kin_offload *o = *po;
    if (!o)
        return;
    for (int i = 0; i < o->count; i++) {
        o->order[i]->owner = NULL;
        o->order[i]->data = NULL;
    }
    kin_gpu_free(o->block);
    kin_staging_close(&o->staging);
    kin_free(o->order);
    kin_free(o->placed);
    kin_free(o);
    *po = NULL;
}

/* --- the list of forms --- */

static bool lists_grow(kin_offload *o)
{
    if (o->count < o->cap)
        return true;
    const size_t cap = o->cap ? 2 * (size_t)o->cap : 64;
    kin_held **order = kin_realloc(o->order, cap * sizeof *order);
    if (order)
        o->order = order;
    kin_held **placed = order ? kin_realloc(o->placed, cap * sizeof *placed) : NULL;
    if (!placed)
        return false;
    o->placed = placed;
    o->cap = (int)cap;
    return true;
}

kin_held *kin_held_create(kin_offload *o, kin_param *p, bool bf16)
{
    kin_held *h = lists_grow(o) ? kin_calloc(1, sizeof *h) : NULL;
    if (!h)
        return NULL;
    *h = (kin_held){.owner = o, .p = p, .bf16 = bf16, .used = -1};
    o->order[o->count++] = h;
    return h;
}

static int place_in(kin_held *const *list, int count, const kin_held *h)
{
    int i = 0;
    while (i < count && list[i] != h)
        i++;
    return i;
}

static void remove_at(kin_held **list, int *count, int i)
{
    memmove(list + i, list + i + 1, (size_t)(*count - i - 1) * sizeof *list);
    (*count)--;
}

/* Its memory is free for uploads queued from now on, which come after its last operation. */
static kin_status evict(kin_offload *o, kin_held *h)
{
    kin_status status = KIN_OK;
    remove_at(o->placed, &o->on_device, place_in(o->placed, o->on_device, h));
    h->data = NULL;
    if (h->used >= 0) {
        kin_gpu_use(o->gpu, KIN_GPU_COPY);
        status = kin_gpu_after(o->gpu, h->used, &o->ctx->error);
        kin_gpu_use(o->gpu, KIN_GPU_COMPUTE);
    }
    return status;
}

void kin_held_free(void *held)
{
    kin_held *h = held;
    kin_offload *o = h ? h->owner : NULL;
    if (o) {
        const int at = place_in(o->order, o->count, h);
        if (h->data)
            (void)evict(o, h);
        remove_at(o->order, &o->count, at);
        o->at -= at <= o->at;
    }
    kin_free(h);
}

bool kin_held_of(const kin_held *held, const kin_offload *o)
{
    return held && held->owner == o;
}

/* --- room --- */

/* Uses of forms until that of order[i], were every pass like the first. */
static int distance(const kin_offload *o, int i)
{
    return i > o->at ? i - o->at : i - o->at + o->count;
}

/* The form on the device that is needed last, none of the present operation; NULL: none. */
static kin_held *needed_last(const kin_offload *o, int *when)
{
    kin_held *found = NULL;
    *when = 0;
    for (int i = 0; i < o->count; i++) {
        kin_held *h = o->order[i];
        if (h->data && h->call != o->call && distance(o, i) > *when) {
            *when = distance(o, i);
            found = h;
        }
    }
    return found;
}

/* First gap of that many bytes: the address, and where in `placed` it comes; NULL: none. */
static char *find_gap(const kin_offload *o, size_t bytes, int *before)
{
    char *from = o->block + o->raw;
    for (int i = 0; i <= o->on_device; i++) {
        char *to = i < o->on_device ? o->placed[i]->data : o->block + o->bytes;
        if ((size_t)(to - from) >= bytes) {
            *before = i;
            return from;
        }
        if (i < o->on_device)
            from = to + padded(o->placed[i]->bytes);
    }
    return NULL;
}

/* Places h, in the room of forms that are needed later than `when`. False in *found: there is none.
 */
static kin_status place(kin_offload *o, kin_held *h, int when, bool *found)
{
    const kin_tensor *value = &h->p->value;
    int before, last;
    char *at;
    h->bytes = (size_t)kin_tensor_numel(value) * (h->bf16 ? 2 : kin_dtype_size(value->dtype));
    *found = false;
    while (!(at = find_gap(o, padded(h->bytes), &before))) {
        kin_held *out = needed_last(o, &last);
        if (!out || last <= when)
            return KIN_OK;
        KIN_TRY(evict(o, out));
    }
    memmove(o->placed + before + 1, o->placed + before,
            (size_t)(o->on_device - before) * sizeof *o->placed);
    o->placed[before] = h;
    o->on_device++;
    h->data = at;
    *found = true;
    return KIN_OK;
}

/* --- bytes --- */

/* The value rounded to bf16 at h->data, piece by piece through the raw bytes. */
static kin_status convert(kin_offload *o, const kin_held *h)
{
    const size_t size = kin_dtype_size(h->p->value.dtype);
    const int64_t n = kin_tensor_numel(&h->p->value), piece = (int64_t)(o->raw / size);
    kin_cuda_call c = {.ctx = o->ctx, .gpu = o->gpu, .op = "offload"};
    for (int64_t at = 0; at < n && c.status == KIN_OK; at += piece) {
        const int64_t m = n - at < piece ? n - at : piece;
        const kin_tensor x = kin_tensor_of(o->block, h->p->value.dtype, 1, &m);
        const kin_tensor y = kin_tensor_of(h->data + 2 * at, KIN_DTYPE_BF16, 1, &m);
        c.status = kin_staging_upload(&o->staging, o->block,
                                      (const char *)h->p->value.data + (size_t)at * size,
                                      (size_t)m * size, &o->ctx->error);
        kin_cuda_to_bf16(&c, &x, &y);
    }
    return c.status;
}

/* Queues the upload of h, which has its place, on the copy lane. */
static kin_status bring(kin_offload *o, kin_held *h)
{
    kin_error *err = &o->ctx->error;
    o->ready = (o->ready + 1) % RING;
    h->ready = o->event + RING + o->ready;
    h->version = h->p->version;
    h->arriving = true;
    h->used = -1;
    kin_gpu_use(o->gpu, KIN_GPU_COPY);
    kin_status status =
        h->bf16 ? convert(o, h)
                : kin_staging_upload(&o->staging, h->data, h->p->value.data, h->bytes, err);
    if (status == KIN_OK)
        status = kin_gpu_signal(o->gpu, h->ready, err);
    kin_gpu_use(o->gpu, KIN_GPU_COMPUTE);
    /* what did not arrive must not be found */
    if (status != KIN_OK)
        (void)evict(o, h);
    return status;
}

/* --- an operation --- */

void kin_offload_begin(kin_offload *o)
{
    o->call++;
    o->touched = false;
}

kin_status kin_offload_use(kin_offload *o, kin_held *h, void **data)
{
    kin_error *err = &o->ctx->error;
    bool found;
    o->at = place_in(o->order, o->count, h);
    if (h->data && h->version != h->p->version)
        KIN_TRY(evict(o, h));
    if (!h->data) {
        KIN_TRY(place(o, h, 0, &found));
        if (!found)
            return kin_fail(err, KIN_ERR_MEM,
                            "offload: %.1f MB of weights on the device are too few: %s, of %.1f "
                            "MB, does not fit beside the others that its operation reads",
                            (double)(o->bytes - o->raw) / 1e6, h->p->name, (double)h->bytes / 1e6);
        h->call = o->call;
        KIN_TRY(bring(o, h));
    }
    if (h->arriving)
        KIN_TRY(kin_gpu_after(o->gpu, h->ready, err));
    h->arriving = false;
    h->call = o->call;
    o->touched = true;
    *data = h->data;
    return KIN_OK;
}

/* Brings what comes next, as far as there is room of forms needed later. */
static kin_status bring_next(kin_offload *o)
{
    bool found = true;
    for (int k = 1; k < o->count && found; k++) {
        kin_held *h = o->order[(o->at + k) % o->count];
        if (h->data)
            continue;
        KIN_TRY(place(o, h, k, &found));
        if (found)
            KIN_TRY(bring(o, h));
    }
    return KIN_OK;
}

kin_status kin_offload_end(kin_offload *o)
{
    if (!o->touched)
        return KIN_OK;
    o->used = (o->used + 1) % RING;
    KIN_TRY(kin_gpu_signal(o->gpu, o->event + o->used, &o->ctx->error));
    for (int i = 0; i < o->on_device; i++)
        if (o->placed[i]->call == o->call)
            o->placed[i]->used = o->event + o->used;
    /* its forms may leave: what is queued on them is marked */
    o->call++;
    return bring_next(o);
}

#include "tensor/cuda/call.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "tensor/cuda/cuda.h"
#include "tensor/cuda/cudnn.h"
#include "tensor/cuda/offload.h"
#include "tensor/cuda/pack.h"
#include "tensor/cuda/resident.h"

/* events of the device: the first of each part's own */
enum { EVENT_STAGING = 0, EVENT_OFFLOAD = KIN_STAGING_EVENTS };
_Static_assert(EVENT_OFFLOAD + KIN_OFFLOAD_EVENTS <= KIN_GPU_EVENTS, "events of all parts");
/* keys of a parameter's forms on the device: those that stay, those of offload.h */
enum {
    KEY_VALUE = 0x43554401,
    KEY_BF16 = 0x43554402,
    KEY_HELD = 0x43554403,
    KEY_HELD_BF16 = 0x43554404,
    KEY_F8 = 0x43554405,
    KEY_TAPS = 0x43554406,
    KEY_TAPS_BF16 = 0x43554407
};
enum { CONVERT_PIECE = 4 << 20 }; /* values converted at a time */
enum { STEP_BYTES = 256, F8_CAPABILITY = 89 };

typedef struct device {
    kin_device base; /* first member: ctx->device points here */
    kin_gpu *gpu;
    kin_staging staging; /* of the compute lane */
    kin_residents residents;
    kin_offload *offload; /* NULL: parameters stay on the device */
    bool graphs;          /* work may be recorded */
    uint64_t refills;     /* of parameters' forms and adopted ranges */
} device;

static device *device_of(const kin_ctx *ctx)
{
    return (device *)ctx->device;
}

static kin_status commit(kin_ctx *ctx, size_t used)
{
    return kin_gpu_commit(device_of(ctx)->gpu, used, &ctx->error);
}

static kin_status move(kin_ctx *ctx, void *dst, const void *src, size_t bytes)
{
    const size_t apart = (size_t)((const char *)src - (char *)dst);
    /* in order and in pieces that do not overlap */
    for (size_t at = 0; at < bytes && apart > 0; at += apart) {
        const size_t n = bytes - at < apart ? bytes - at : apart;
        KIN_TRY(kin_gpu_copy(device_of(ctx)->gpu, (char *)dst + at, (const char *)src + at, n,
                             &ctx->error));
    }
    return KIN_OK;
}

static kin_status read_back(kin_ctx *ctx, void *host, const void *from, size_t bytes)
{
    return kin_staging_read(&device_of(ctx)->staging, host, from, bytes, &ctx->error);
}

static kin_status wait_all(kin_ctx *ctx)
{
    return kin_gpu_wait(device_of(ctx)->gpu, &ctx->error);
}

static long waits(const kin_ctx *ctx)
{
    return kin_gpu_waits(device_of(ctx)->gpu);
}

static bool record(kin_ctx *ctx, size_t uploads)
{
    const device *d = device_of(ctx);
    /* note: with offload parameters have no fixed addresses */
    return d->graphs && !d->offload && kin_gpu_record(d->gpu, uploads);
}

static void *recorded(kin_ctx *ctx)
{
    return kin_gpu_recorded(device_of(ctx)->gpu);
}

static kin_status play(kin_ctx *ctx, void *recording)
{
    return kin_gpu_play(device_of(ctx)->gpu, recording, &ctx->error);
}

static void forget(void *recording)
{
    kin_gpu_forget(recording);
}

static uint64_t changes(const kin_ctx *ctx)
{
    return device_of(ctx)->refills + kin_gpu_frees();
}

static kin_status refresh(kin_ctx *ctx, const kin_params *params);

/* Host bytes to the compute lane. */
static kin_status send(kin_ctx *ctx, void *to, const void *host, size_t bytes)
{
    return kin_staging_upload(&device_of(ctx)->staging, to, host, bytes, &ctx->error);
}

static kin_status adopt(kin_ctx *ctx, void *host, size_t bytes)
{
    device *d = device_of(ctx);
    d->refills++;
    return kin_residents_adopt(&d->residents, &d->staging, host, bytes, &ctx->error);
}

static kin_status pull(kin_ctx *ctx, void *host, size_t bytes)
{
    device *d = device_of(ctx);
    const void *from = kin_residents_find(&d->residents, host);
    return from ? kin_staging_read(&d->staging, host, from, bytes, &ctx->error) : KIN_OK;
}

static void release(kin_ctx *ctx, const void *host)
{
    kin_residents_release(&device_of(ctx)->residents, host);
}

static kin_status facts(kin_ctx *ctx, int64_t n, kin_device_facts *out)
{
    kin_gpu *gpu = device_of(ctx)->gpu;
    kin_gpu_facts f;
    *out = (kin_device_facts){0};
    if (!kin_gpu_facts_of(gpu, &f))
        return kin_fail(&ctx->error, KIN_ERR_BACKEND, "cuda: the device says nothing of itself");
    out->capability = f.capability;
    out->used = f.used;
    out->total = f.total;
    out->bf16_peak = f.bf16_peak;
    return n ? kin_cuda_products_rate(gpu, n, &out->bf16_measured, &ctx->error) : KIN_OK;
}

static void device_close(kin_device **pd)
{
    device *d = (device *)*pd;
    if (!d)
        return;
    kin_cuda_products_close(d->gpu);
    kin_offload_close(&d->offload);
    kin_residents_free(&d->residents);
    kin_staging_close(&d->staging);
    kin_gpu_close(&d->gpu);
    kin_free(d);
    *pd = NULL;
}

/* Memory for parameters, as the options ask. */
static kin_status open_offload(kin_ctx *ctx, device *d, size_t bytes, kin_error *err)
{
    if (bytes == KIN_OFFLOAD_AUTO)
        bytes = kin_gpu_free_bytes(d->gpu) / 2;
    return bytes ? kin_offload_open(ctx, d->gpu, bytes, EVENT_OFFLOAD, &d->offload, err) : KIN_OK;
}

kin_status kin_cuda_open(kin_ctx *ctx, int index, size_t offload, kin_kernels *k, kin_error *err)
{
    device *d = kin_calloc(1, sizeof *d);
    if (!d)
        return kin_fail(err, KIN_ERR_MEM, "cuda: out of memory");
    d->base = (kin_device){.bytes = ctx->ws.reserved,
                           .commit = commit,
                           .move = move,
                           .read = read_back,
                           .adopt = adopt,
                           .pull = pull,
                           .release = release,
                           .facts = facts,
                           .wait = wait_all,
                           .waits = waits,
                           .record = record,
                           .recorded = recorded,
                           .play = play,
                           .forget = forget,
                           .changes = changes,
                           .refresh = refresh,
                           .close = device_close};
    kin_status status = kin_gpu_open(index, &d->base.bytes, &d->base.base, &d->gpu, err);
    kin_gpu_facts facts = {0};
    if (status == KIN_OK && ctx->compute == KIN_DTYPE_F8 &&
        (!kin_gpu_facts_of(d->gpu, &facts) || facts.capability < F8_CAPABILITY))
        status = kin_fail(err, KIN_ERR_UNSUPPORTED,
                          "cuda: fp8 products need compute capability 8.9, the device has %d.%d",
                          facts.capability / 10, facts.capability % 10);
    if (status == KIN_OK)
        status = kin_cuda_products_open(d->gpu, err);
    if (status == KIN_OK)
        status = open_offload(ctx, d, offload, err);
    if (status != KIN_OK) {
        if (d->gpu)
            kin_cuda_products_close(d->gpu);
        kin_gpu_close(&d->gpu);
        kin_free(d);
        return status;
    }
    kin_staging_open(&d->staging, d->gpu, EVENT_STAGING);
    const char *graphs = getenv("KINEMA_CUDA_GRAPHS");
    d->graphs = !graphs || strcmp(graphs, "0") != 0;
    if (!kin_gpu_describe(index, d->base.name, sizeof d->base.name))
        d->base.name[0] = '\0';
    d->base.library = kin_cuda_products_library(d->gpu);
    d->base.cudnn_launches = kin_cuda_cudnn(d->gpu) ? 0 : -1;
    kin_kernels_init_cuda(k);
    ctx->device = &d->base;
    return KIN_OK;
}

int kin_cuda_count(char *why, size_t bytes)
{
    return kin_gpu_count(why, bytes);
}

bool kin_cuda_describe(int index, char *text, size_t bytes)
{
    return kin_gpu_describe(index, text, bytes);
}

bool kin_cuda_small_tiles(void)
{
    const char *tiles = getenv("KINEMA_CUDA_TILES");
    return tiles && strcmp(tiles, "small") == 0;
}

/* --- one call --- */

kin_cuda_call kin_cuda_begin(kin_ctx *ctx, const char *op)
{
    device *d = device_of(ctx);
    if (d->offload)
        kin_offload_begin(d->offload);
    return (kin_cuda_call){.ctx = ctx, .gpu = d->gpu, .op = op, .mark = kin_ws_mark(ctx)};
}

void kin_cuda_fail(kin_cuda_call *c, kin_status status, const char *rule)
{
    if (c->status == KIN_OK)
        c->status = kin_fail(&c->ctx->error, status, "cuda: %s: %s", c->op, rule);
}

void kin_cuda_check_launch(kin_cuda_call *c)
{
    if (c->status == KIN_OK)
        c->status = kin_gpu_launched(c->gpu, c->op, &c->ctx->error);
}

kin_status kin_cuda_end(kin_cuda_call *c)
{
    kin_offload *offload = device_of(c->ctx)->offload;
    if (c->status == KIN_OK && offload)
        c->status = kin_offload_end(offload);
    for (const kin_cuda_result *r = c->results; r; r = r->next)
        kin_cuda_read(c, r->host, r->device, r->bytes);
    /* note: the memory is free for the next call: what was launched is ordered before it */
    kin_ws_release(c->ctx, c->mark);
    return c->status;
}

void *kin_cuda_scratch(kin_cuda_call *c, size_t bytes)
{
    kin_tensor t;
    const int64_t n = (int64_t)bytes;
    if (c->status == KIN_OK)
        c->status = kin_ws_tensor(c->ctx, KIN_DTYPE_U8, 1, &n, &t);
    return c->status == KIN_OK ? t.data : NULL;
}

void *kin_cuda_bytes(kin_cuda_call *c, const void *host, size_t bytes)
{
    void *p = kin_cuda_scratch(c, bytes);
    c->ctx->device->uploaded += (bytes + KIN_GPU_ALIGN - 1) & ~(size_t)(KIN_GPU_ALIGN - 1);
    if (c->status == KIN_OK && bytes > 0)
        c->status = send(c->ctx, p, host, bytes);
    return p;
}

void kin_cuda_read(kin_cuda_call *c, void *host, const void *from, size_t bytes)
{
    if (c->status == KIN_OK && bytes > 0)
        c->status =
            kin_staging_read(&device_of(c->ctx)->staging, host, from, bytes, &c->ctx->error);
}

static void bring_back(kin_cuda_call *c, void *host, const void *from, size_t bytes)
{
    kin_cuda_result *r = kin_ws_bytes(c->ctx, sizeof *r);
    if (!r) {
        c->status = c->ctx->error.status;
        return;
    }
    *r = (kin_cuda_result){.next = c->results, .host = host, .device = from, .bytes = bytes};
    c->results = r;
}

/* True for a view that leaves no gap between its elements. */
static bool dense(const kin_tensor *t, int64_t span)
{
    return span == kin_tensor_numel(t);
}

static kin_tensor view(kin_cuda_call *c, const kin_tensor *t, bool read, bool write)
{
    kin_tensor v = {0};
    if (!t || !t->data || c->status != KIN_OK)
        return v;
    v = *t;
    if (t->dtype == KIN_DTYPE_F64 && !c->f64) {
        kin_cuda_fail(c, KIN_ERR_UNSUPPORTED, "f64 operands are the reference's alone");
        v.data = NULL;
        return v;
    }
    if (kin_device_holds(c->ctx->device, t->data))
        return v;
    void *resident = kin_residents_find(&device_of(c->ctx)->residents, t->data);
    if (resident) {
        v.data = resident;
        return v;
    }
    const int64_t span = kin_device_span(t);
    const size_t bytes = (size_t)span * kin_dtype_size(t->dtype);
    v.data =
        read || !dense(t, span) ? kin_cuda_bytes(c, t->data, bytes) : kin_cuda_scratch(c, bytes);
    if (write && c->status == KIN_OK)
        bring_back(c, t->data, v.data, bytes);
    return v;
}

kin_tensor kin_cuda_in(kin_cuda_call *c, const kin_tensor *t)
{
    return view(c, t, true, false);
}

kin_tensor kin_cuda_out(kin_cuda_call *c, const kin_tensor *t, bool keep)
{
    return view(c, t, keep, true);
}

/* p as a matrix [size0, rest] (a vector: one row). */
static kin_tensor flat(const kin_tensor *t, void *data)
{
    const int64_t n = kin_tensor_numel(t), rows = t->ndim > 1 ? t->size[0] : 1;
    const int64_t sizes[2] = {rows, rows ? n / rows : 0};
    return kin_tensor_of(data, t->dtype, 2, sizes);
}

/* The parameter's device form of this key, made from the current version, or an unfilled one (then
 * *fresh). */
static void *form(kin_cuda_call *c, kin_param *p, uint64_t key, size_t bytes, bool *fresh)
{
    kin_pack *pack = kin_param_pack_find(p, key);
    *fresh = false;
    if (c->status != KIN_OK)
        return NULL;
    if (pack && pack->extra)
        return pack->extra;
    /* a recording would fill it at each play; and what it fills holds nothing yet */
    if (kin_gpu_is_recording(c->gpu)) {
        kin_cuda_fail(c, KIN_ERR_UNSUPPORTED, "no weights come while recording");
        return NULL;
    }
    device_of(c->ctx)->refills++;
    pack = kin_param_pack_get(p, key, bytes, true);
    if (!pack) {
        kin_cuda_fail(c, KIN_ERR_MEM, "out of memory");
        return NULL;
    }
    if (!pack->extra) {
        pack->extra = kin_gpu_alloc(c->gpu, bytes);
        pack->free_extra = kin_gpu_free;
        kin_ctx_add_packed(c->ctx, bytes);
    }
    if (!pack->extra) {
        pack->bytes = 0;
        c->status = kin_gpu_wait(c->gpu, &c->ctx->error);
        if (c->status == KIN_OK)
            c->status =
                kin_fail(&c->ctx->error, KIN_ERR_MEM,
                         "cuda: %s: %zu bytes of weights do not fit on the device", p->name, bytes);
        return NULL;
    }
    *fresh = true;
    return pack->extra;
}

/* A form that could not be filled must not be found again. */
static void spoil(kin_cuda_call *c, kin_param *p, uint64_t key)
{
    kin_pack *pack = kin_param_pack_find(p, key);
    if (c->status != KIN_OK && pack)
        pack->version = p->version - 1;
}

/* True where the device can take the value as it is stored. */
static bool takes(kin_cuda_call *c, const kin_param *p)
{
    if (!p || !p->value.data || c->status != KIN_OK)
        return false;
    if (p->value.dtype == KIN_DTYPE_F64)
        kin_cuda_fail(c, KIN_ERR_UNSUPPORTED, "f64 parameters are the reference's alone");
    else if (p->value.scale)
        kin_cuda_fail(c, KIN_ERR_UNSUPPORTED, "weights in 8-bit blocks are the CPU's alone");
    return c->status == KIN_OK;
}

static size_t value_bytes(const kin_param *p)
{
    return (size_t)kin_tensor_numel(&p->value) * kin_dtype_size(p->value.dtype);
}

/* Device memory that holds the value already: an adopted range, or a form of this version. */
static void *value_there(kin_cuda_call *c, const kin_param *p)
{
    void *resident = kin_residents_find(&device_of(c->ctx)->residents, p->value.data);
    const kin_pack *pack = resident ? NULL : kin_param_pack_find(p, KEY_VALUE);
    return pack ? pack->extra : resident;
}

/* The form of a parameter that does not stay on the device. */
static void *held_form(kin_cuda_call *c, kin_param *p, bool bf16)
{
    kin_offload *o = device_of(c->ctx)->offload;
    kin_pack *pack = kin_param_pack_get(p, bf16 ? KEY_HELD_BF16 : KEY_HELD, 0, true);
    void *data = NULL;
    if (pack && !kin_held_of(pack->extra, o)) {
        kin_held_free(pack->extra);
        pack->extra = kin_held_create(o, p, bf16);
        pack->free_extra = kin_held_free;
    }
    if (!pack || !pack->extra)
        kin_cuda_fail(c, KIN_ERR_MEM, "out of memory");
    else
        c->status = kin_offload_use(o, pack->extra, &data);
    return data;
}

kin_tensor kin_cuda_value(kin_cuda_call *c, kin_param *p)
{
    if (!takes(c, p))
        return (kin_tensor){0};
    void *data = value_there(c, p);
    bool fresh = false;
    if (!data && device_of(c->ctx)->offload)
        data = held_form(c, p, false);
    else if (!data)
        data = form(c, p, KEY_VALUE, value_bytes(p), &fresh);
    if (fresh) {
        c->status = send(c->ctx, data, p->value.data, value_bytes(p));
        spoil(c, p, KEY_VALUE);
        kin_param_drop_pages(p);
    }
    return flat(&p->value, data);
}

/* The value rounded to bf16 into `to`, on the device: brought over piece by piece where it is not
 * there yet. */
static void bring_bf16(kin_cuda_call *c, const kin_param *p, char *to)
{
    const int64_t n = kin_tensor_numel(&p->value), size = (int64_t)kin_dtype_size(p->value.dtype);
    char *there = value_there(c, p);
    const int64_t piece = there || n < CONVERT_PIECE ? n : CONVERT_PIECE;
    const size_t mark = kin_ws_mark(c->ctx);
    char *from = there ? there : kin_cuda_scratch(c, (size_t)(piece * size));
    for (int64_t at = 0; at < n && c->status == KIN_OK; at += piece) {
        const int64_t m = n - at < piece ? n - at : piece;
        if (!there)
            c->status =
                send(c->ctx, from, (const char *)p->value.data + at * size, (size_t)(m * size));
        const kin_tensor x = kin_tensor_of(from, p->value.dtype, 1, &m);
        const kin_tensor y = kin_tensor_of(to + 2 * at, KIN_DTYPE_BF16, 1, &m);
        kin_cuda_to_bf16(c, &x, &y);
    }
    kin_ws_release(c->ctx, mark);
    if (!there)
        kin_param_drop_pages(p);
}

kin_tensor kin_cuda_value_bf16(kin_cuda_call *c, kin_param *p)
{
    if (!takes(c, p))
        return (kin_tensor){0};
    if (p->value.dtype == KIN_DTYPE_BF16)
        return kin_cuda_value(c, p);
    bool fresh;
    kin_tensor to = flat(&p->value, NULL);
    to.dtype = KIN_DTYPE_BF16;
    if (device_of(c->ctx)->offload && !value_there(c, p)) {
        to.data = held_form(c, p, true);
        return to;
    }
    to.data = form(c, p, KEY_BF16, (size_t)kin_tensor_numel(&p->value) * 2, &fresh);
    if (fresh) {
        bring_bf16(c, p, to.data);
        spoil(c, p, KEY_BF16);
    }
    return to;
}

/* One form that holds an older version. */
static void refresh_form(kin_cuda_call *c, kin_param *p, uint64_t key)
{
    device *d = device_of(c->ctx);
    const uint64_t refills = d->refills;
    if (key == KEY_BF16) {
        (void)kin_cuda_value_bf16(c, p);
        d->refills = refills; /* its place is the same */
    } else if (key == KEY_F8 || key == KEY_TAPS || key == KEY_TAPS_BF16 ||
               (key == KEY_VALUE && !kin_residents_find(&d->residents, p->value.data))) {
        d->refills++;
    }
}

static kin_status refresh(kin_ctx *ctx, const kin_params *params)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "refresh");
    for (int i = 0; i < params->count; i++) {
        kin_param *p = params->list[i];
        for (const kin_pack *pack = p->packs; pack; pack = pack->next)
            if (pack->version != p->version && pack->extra)
                refresh_form(&c, p, pack->key);
    }
    return kin_cuda_end(&c);
}

kin_tensor kin_cuda_value_fp8(kin_cuda_call *c, kin_param *p, float **step)
{
    const kin_tensor value = kin_cuda_value(c, p);
    if (!value.data)
        return value;
    bool fresh;
    kin_tensor to = value;
    char *made = form(c, p, KEY_F8, STEP_BYTES + (size_t)kin_tensor_numel(&value), &fresh);
    *step = (float *)made;
    to.dtype = KIN_DTYPE_F8;
    to.data = made ? made + STEP_BYTES : NULL;
    if (fresh) {
        kin_cuda_to_fp8(c, &value, &to, *step);
        spoil(c, p, KEY_F8);
    }
    return to;
}

kin_tensor kin_cuda_value_taps(kin_cuda_call *c, kin_param *p, int64_t taps, kin_dtype dtype)
{
    const kin_tensor value = kin_cuda_value(c, p);
    if (!value.data)
        return value;
    bool fresh;
    const uint64_t key = dtype == KIN_DTYPE_BF16 ? KEY_TAPS_BF16 : KEY_TAPS;
    kin_tensor to = value;
    to.dtype = dtype;
    to.data = form(c, p, key, (size_t)kin_tensor_numel(&value) * kin_dtype_size(dtype), &fresh);
    if (fresh) {
        kin_cuda_pack_taps(c, &value, &to, taps);
        spoil(c, p, key);
    }
    return to;
}

kin_tensor kin_cuda_grad(kin_cuda_call *c, const kin_param *p)
{
    if (!p || !p->grad.data)
        return (kin_tensor){0};
    kin_tensor grad = p->grad;
    grad.ndim = 1;
    grad.size[0] = kin_tensor_numel(&p->grad);
    grad.stride[0] = 1;
    grad = kin_cuda_out(c, &grad, true);
    return flat(&p->grad, grad.data);
}

void *kin_cuda_floats(kin_cuda_call *c, float *host, int64_t n, bool written)
{
    kin_tensor t = kin_tensor_of(host, KIN_DTYPE_F32, 1, &n);
    return view(c, &t, true, written).data;
}

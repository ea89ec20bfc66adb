#include "tensor/cuda/call.h"

#include <string.h>

#include "base/alloc.h"
#include "tensor/cuda/cuda.h"
#include "tensor/cuda/cudnn.h"
#include "tensor/cuda/pack.h"
#include "tensor/cuda/resident.h"

enum { /* of a parameter's forms on the device */
       KEY_VALUE = 0x43554401,
       KEY_BF16,
       KEY_TAPS,
       KEY_TAPS_BF16
};

typedef struct device {
    kin_device base; /* first member: ctx->device points here */
    kin_gpu *gpu;
    kin_residents residents;
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
    return kin_gpu_read(device_of(ctx)->gpu, host, from, bytes, &ctx->error);
}

static kin_status wait_all(kin_ctx *ctx)
{
    return kin_gpu_wait(device_of(ctx)->gpu, &ctx->error);
}

static kin_status adopt(kin_ctx *ctx, void *host, size_t bytes)
{
    device *d = device_of(ctx);
    return kin_residents_adopt(&d->residents, d->gpu, host, bytes, &ctx->error);
}

static kin_status pull(kin_ctx *ctx, void *host, size_t bytes)
{
    device *d = device_of(ctx);
    const void *from = kin_residents_find(&d->residents, host);
    return from ? kin_gpu_read(d->gpu, host, from, bytes, &ctx->error) : KIN_OK;
}

static void release(kin_ctx *ctx, const void *host)
{
    kin_residents_release(&device_of(ctx)->residents, host);
}

static void device_close(kin_device **pd)
{
    device *d = (device *)*pd;
    if (!d)
        return;
    kin_cuda_products_close(d->gpu);
    kin_residents_free(&d->residents);
    kin_gpu_close(&d->gpu);
    kin_free(d);
    *pd = NULL;
}

kin_status kin_cuda_open(kin_ctx *ctx, int index, kin_kernels *k, kin_error *err)
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
                           .wait = wait_all,
                           .close = device_close};
    kin_status status = kin_gpu_open(index, &d->base.bytes, &d->base.base, &d->gpu, err);
    if (status == KIN_OK)
        status = kin_cuda_products_open(d->gpu, err);
    if (status != KIN_OK) {
        if (d->gpu)
            kin_gpu_close(&d->gpu);
        kin_free(d);
        return status;
    }
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

/* --- one call --- */

kin_cuda_call kin_cuda_begin(kin_ctx *ctx, const char *op)
{
    return (kin_cuda_call){
        .ctx = ctx, .gpu = device_of(ctx)->gpu, .op = op, .mark = kin_ws_mark(ctx)};
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
    if (c->status == KIN_OK && bytes > 0)
        c->status = kin_gpu_upload(c->gpu, p, host, bytes, &c->ctx->error);
    return p;
}

void kin_cuda_read(kin_cuda_call *c, void *host, const void *from, size_t bytes)
{
    if (c->status == KIN_OK && bytes > 0)
        c->status = kin_gpu_read(c->gpu, host, from, bytes, &c->ctx->error);
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

kin_tensor kin_cuda_value(kin_cuda_call *c, kin_param *p)
{
    if (!p || !p->value.data || c->status != KIN_OK)
        return (kin_tensor){0};
    if (p->value.dtype == KIN_DTYPE_F64) {
        kin_cuda_fail(c, KIN_ERR_UNSUPPORTED, "f64 parameters are the reference's alone");
        return (kin_tensor){0};
    }
    if (p->value.scale) {
        kin_cuda_fail(c, KIN_ERR_UNSUPPORTED, "weights in 8-bit blocks are the CPU's alone");
        return (kin_tensor){0};
    }
    void *resident = kin_residents_find(&device_of(c->ctx)->residents, p->value.data);
    if (resident)
        return flat(&p->value, resident);
    bool fresh;
    const size_t bytes = (size_t)kin_tensor_numel(&p->value) * kin_dtype_size(p->value.dtype);
    void *data = form(c, p, KEY_VALUE, bytes, &fresh);
    if (fresh) {
        c->status = kin_gpu_upload(c->gpu, data, p->value.data, bytes, &c->ctx->error);
        spoil(c, p, KEY_VALUE);
        kin_param_drop_pages(p);
    }
    return flat(&p->value, data);
}

kin_tensor kin_cuda_value_bf16(kin_cuda_call *c, kin_param *p)
{
    kin_tensor value = kin_cuda_value(c, p);
    if (!value.data || value.dtype == KIN_DTYPE_BF16)
        return value;
    bool fresh;
    const int64_t n = kin_tensor_numel(&value);
    kin_tensor to = value;
    to.dtype = KIN_DTYPE_BF16;
    to.data = form(c, p, KEY_BF16, (size_t)n * 2, &fresh);
    if (fresh) {
        kin_cuda_to_bf16(c, &value, &to);
        spoil(c, p, KEY_BF16);
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

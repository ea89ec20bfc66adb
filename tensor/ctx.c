#include "tensor/ctx.h"

#include <errno.h>
#include <omp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/alloc.h"
#include "tensor/cpu/choose.h"
#include "tensor/device.h"
#include "tensor/kernels.h"
#include "tensor/plan/plan.h"
#include "tensor/tape.h"

enum { WS_ALIGN = 64 };

/* Address space to reserve; a smaller one is taken where the system refuses. */
static const size_t ws_sizes[] = {(size_t)1 << 40, (size_t)1 << 37, (size_t)1 << 35,
                                  (size_t)1 << 33};

static kin_status ws_open(kin_ws *ws, size_t limit, kin_error *err)
{
    for (size_t i = 0; i < sizeof ws_sizes / sizeof *ws_sizes; i++) {
        void *p = mmap(NULL, ws_sizes[i], PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED)
            continue;
        /* note: a core dump would otherwise try to hold the whole range */
        madvise(p, ws_sizes[i], MADV_DONTDUMP);
        ws->base = p;
        ws->reserved = ws_sizes[i];
        ws->limit = limit && limit < ws->reserved ? limit : ws->reserved;
        return KIN_OK;
    }
    return kin_fail(err, KIN_ERR_MEM, "workspace: cannot reserve address space: %s",
                    strerror(errno));
}

/* The ISA level to use: the wanted one, lowered by KINEMA_ISA. */
static kin_status choose_isa(kin_isa wanted, kin_isa *out, kin_error *err)
{
    kin_isa have = kin_isa_detect();
    kin_isa isa = wanted ? wanted : have;
    const char *env = getenv("KINEMA_ISA");
    if (env && *env && !wanted) {
        isa = KIN_ISA_NONE;
        for (kin_isa i = KIN_ISA_AVX2; i <= KIN_ISA_AMX; i++)
            if (strcmp(env, kin_isa_name(i)) == 0)
                isa = i;
        if (isa == KIN_ISA_NONE)
            return kin_fail(err, KIN_ERR_ARG,
                            "KINEMA_ISA: '%s' is not one of avx2, avx512, amx-emulated, amx", env);
    }
    if (!kin_isa_available(isa))
        return kin_fail(err, KIN_ERR_UNSUPPORTED,
                        "ISA level: %s is not available here, the best this machine has is %s",
                        isa == KIN_ISA_NONE ? "avx2 (the lowest)" : kin_isa_name(isa),
                        kin_isa_name(have));
    *out = isa;
    return KIN_OK;
}

kin_status kin_ctx_create(const kin_ctx_options *opt, kin_ctx **out, kin_error *err)
{
    *out = NULL;
    if (opt->threads < 0 || opt->threads > 1024)
        return kin_fail(err, KIN_ERR_ARG, "threads: %d must be between 0 and 1024", opt->threads);
    if (opt->compute != KIN_DTYPE_F32 && opt->compute != KIN_DTYPE_BF16 &&
        opt->compute != KIN_DTYPE_I8 && opt->compute != KIN_DTYPE_F8)
        return kin_fail(err, KIN_ERR_UNSUPPORTED, "compute type: %s must be f32, bf16, i8 or fp8",
                        kin_dtype_name(opt->compute));
    if (opt->compute == KIN_DTYPE_F8 && opt->backend != KIN_BACKEND_CUDA &&
        opt->backend != KIN_BACKEND_PLAN)
        return kin_fail(err, KIN_ERR_UNSUPPORTED,
                        "compute type: fp8 products are CUDA's (--device cuda); on the CPU it must "
                        "be f32, bf16 or int8");
    if (opt->backend == KIN_BACKEND_CUDA && opt->compute == KIN_DTYPE_I8)
        return kin_fail(
            err, KIN_ERR_UNSUPPORTED,
            "compute type: int8 products are the CPU's; on CUDA it must be f32, bf16 or fp8");
    if (opt->offload && opt->backend != KIN_BACKEND_CUDA && opt->backend != KIN_BACKEND_PLAN)
        return kin_fail(err, KIN_ERR_ARG, "offload: weights leave a CUDA device; there is none");
    if (opt->offload && opt->compute == KIN_DTYPE_F8)
        return kin_fail(err, KIN_ERR_UNSUPPORTED,
                        "offload: fp8 weights stay on the device; it must be f32 or bf16");
    kin_isa isa = KIN_ISA_NONE;
    if (opt->backend == KIN_BACKEND_CPU ||
        (opt->backend == KIN_BACKEND_PLAN && kin_isa_detect() != KIN_ISA_NONE))
        KIN_TRY(choose_isa(opt->isa, &isa, err));

    kin_ctx *ctx = kin_calloc(1, sizeof *ctx);
    kin_kernels *k = kin_calloc(1, sizeof *k);
    if (!ctx || !k) {
        kin_free(ctx);
        kin_free(k);
        return kin_fail(err, KIN_ERR_MEM, "context: out of memory");
    }
    if (opt->backend == KIN_BACKEND_PLAN) {
        kin_kernels_init_plan(k);
        if (isa != KIN_ISA_NONE)
            kin_plan_add_scratch(k);
    } else if (opt->backend != KIN_BACKEND_CUDA) {
        kin_kernels_init_ref(k);
        if (opt->backend == KIN_BACKEND_CPU)
            kin_kernels_init_cpu(k, isa);
    }
    ctx->k = k;
    ctx->backend = opt->backend;
    ctx->isa = isa;
    ctx->threads = opt->threads ? opt->threads : omp_get_max_threads();
    ctx->compute = opt->compute;
    ctx->precision = opt->precision;
    kin_status status = ws_open(&ctx->ws, opt->ws_limit, err);
    /* note: a dry run touches small records far apart; each would take a large page */
    if (status == KIN_OK && opt->backend == KIN_BACKEND_CPU)
        kin_large_pages(ctx->ws.base, ctx->ws.reserved);
    if (status == KIN_OK && isa != KIN_ISA_NONE)
        status = kin_cpu_choices_load(ctx, err);
    if (status == KIN_OK && opt->backend == KIN_BACKEND_CUDA)
        status = kin_cuda_open(ctx, opt->device, opt->offload, k, err);
    if (status != KIN_OK) {
        kin_ctx_destroy(&ctx);
        return status;
    }
    *out = ctx;
    return KIN_OK;
}

void kin_ctx_destroy(kin_ctx **pctx)
{
    kin_ctx *ctx = *pctx;
    if (!ctx)
        return;
    if (ctx->device)
        ctx->device->close(&ctx->device);
    if (ctx->ws.base)
        munmap(ctx->ws.base, ctx->ws.reserved);
    kin_free((void *)ctx->k);
    kin_free(ctx);
    *pctx = NULL;
}

void kin_ctx_add_packed(kin_ctx *ctx, size_t bytes)
{
    ctx->packed += bytes;
    /* note: the workspace keeps the pages it has touched once */
    if (ctx->ws.peak + ctx->packed > ctx->peak)
        ctx->peak = ctx->ws.peak + ctx->packed;
}

void *kin_ws_bytes(kin_ctx *ctx, size_t bytes)
{
    kin_ws *ws = &ctx->ws;
    size_t padded;
    if (!kin_add_size(bytes, WS_ALIGN - 1, &padded)) {
        kin_fail(&ctx->error, KIN_ERR_MEM, "workspace: size overflow");
        return NULL;
    }
    padded &= ~(size_t)(WS_ALIGN - 1);
    if (padded > ws->limit - ws->used) {
        kin_fail(&ctx->error, KIN_ERR_MEM,
                 "workspace: %zu bytes more than the %zu in use pass the limit of %zu", bytes,
                 ws->used, ws->limit);
        return NULL;
    }
    void *p = ws->base + ws->used;
    ws->used += padded;
    if (ws->used > ws->peak)
        ws->peak = ws->used;
    kin_ctx_add_packed(ctx, 0);
    return p;
}

kin_status kin_ws_host(kin_ctx *ctx, kin_dtype dtype, int ndim, const int64_t *sizes,
                       kin_tensor *out)
{
    size_t bytes = kin_dtype_size(dtype);
    for (int i = 0; i < ndim; i++)
        if (sizes[i] < 0 || !kin_mul_size(bytes, (size_t)sizes[i], &bytes))
            return kin_fail(&ctx->error, KIN_ERR_MEM,
                            "workspace: tensor size overflow (dimension %d = %lld)", i,
                            (long long)sizes[i]);
    void *p = kin_ws_bytes(ctx, bytes);
    if (!p)
        return KIN_ERR_MEM;
    *out = kin_tensor_of(p, dtype, ndim, sizes);
    return KIN_OK;
}

kin_status kin_ws_tensor(kin_ctx *ctx, kin_dtype dtype, int ndim, const int64_t *sizes,
                         kin_tensor *out)
{
    KIN_TRY(kin_ws_host(ctx, dtype, ndim, sizes, out));
    if (!ctx->device)
        return KIN_OK;
    out->data = ctx->device->base + ((char *)out->data - ctx->ws.base);
    return ctx->device->commit(ctx, ctx->ws.used);
}

int64_t kin_device_span(const kin_tensor *t)
{
    int64_t last = 0;
    for (int i = 0; i < t->ndim; i++) {
        if (t->size[i] == 0)
            return 0;
        last += (t->size[i] - 1) * t->stride[i];
    }
    return last + 1;
}

kin_status kin_host(kin_ctx *ctx, const kin_tensor *t, kin_tensor *out)
{
    const void *from = t->data;
    *out = *t; /* note: the two may be one */
    if (!ctx->device || !from || !kin_device_holds(ctx->device, from))
        return KIN_OK;
    const size_t bytes = (size_t)kin_device_span(t) * kin_dtype_size(t->dtype);
    out->data = kin_ws_bytes(ctx, bytes);
    if (!out->data)
        return KIN_ERR_MEM;
    out->id = 0;
    return ctx->device->read(ctx, out->data, from, bytes);
}

kin_status kin_host_back(kin_ctx *ctx, const kin_tensor *host, const kin_tensor *t)
{
    kin_tensor to = *t;
    return host->data == t->data ? KIN_OK : ctx->k->copy(ctx, host, &to, false);
}

kin_status kin_settle(kin_ctx *ctx, kin_tensor *t)
{
    kin_tensor there;
    if (!ctx->device)
        return KIN_OK;
    KIN_TRY(kin_ws_tensor(ctx, t->dtype, t->ndim, t->size, &there));
    KIN_TRY(ctx->k->copy(ctx, t, &there, false));
    *t = there;
    return KIN_OK;
}

kin_status kin_scalar(kin_ctx *ctx, const kin_tensor *t, double *out)
{
    const size_t mark = kin_ws_mark(ctx);
    kin_tensor one = *t, host;
    one.ndim = 0;
    KIN_TRY(kin_host(ctx, &one, &host));
    *out = kin_tensor_get(&host, 0);
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

kin_status kin_scalars(kin_ctx *ctx, const kin_tensor *const *t, int n, double *out)
{
    const size_t mark = kin_ws_mark(ctx);
    kin_tensor all;
    KIN_TRY(KIN_WS(ctx, &all, KIN_DTYPE_F32, n));
    for (int i = 0; i < n; i++) {
        kin_tensor to = kin_tensor_slice(&all, 0, i, 1), one = to;
        if (!t[i]->data)
            continue;
        one.data = t[i]->data;
        KIN_TRY(ctx->k->copy(ctx, &one, &to, false));
    }
    KIN_TRY(kin_host(ctx, &all, &all));
    for (int i = 0; i < n; i++)
        out[i] = t[i]->data ? kin_tensor_get(&all, i) : 0;
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

size_t kin_ws_mark(const kin_ctx *ctx)
{
    return ctx->ws.used;
}

void kin_ws_release(kin_ctx *ctx, size_t mark)
{
    if (mark <= ctx->ws.used)
        ctx->ws.used = mark;
}

kin_status kin_ws_keep(kin_ctx *ctx, size_t mark, kin_tensor *t)
{
    kin_tensor low;
    kin_ws_release(ctx, mark);
    KIN_TRY(kin_ws_tensor(ctx, t->dtype, t->ndim, t->size, &low));
    const size_t bytes = (size_t)kin_tensor_numel(t) * kin_dtype_size(t->dtype);
    if (ctx->device && kin_device_holds(ctx->device, t->data))
        KIN_TRY(ctx->device->move(ctx, low.data, t->data, bytes));
    else if (ctx->device)
        KIN_TRY(ctx->k->copy(ctx, t, &low, false));
    else if (!kin_ctx_is_plan(ctx) && low.data != t->data)
        memmove(low.data, t->data, bytes);
    *t = low;
    return KIN_OK;
}

void kin_tap(kin_ctx *ctx, const kin_tensor *t, const char *fmt, ...)
{
    if (!ctx->tap)
        return;
    char name[128];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    kin_tensor host; /* note: taps look at it themselves, some until the next one */
    if (kin_host(ctx, t, &host) == KIN_OK)
        ctx->tap(ctx->tap_user, name, &host);
}

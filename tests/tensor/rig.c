#include "tests/tensor/rig.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "tensor/device.h"

/* Stands of ctx, a copy of it with one thread (the same where threads do not matter), and the
 * reference. */
static void open_contexts(rig *r, kin_ctx_options opt)
{
    kin_error err = {0};
    kin_ctx_options ref = {.backend = KIN_BACKEND_REF, .threads = 1, .compute = opt.compute};
    assert_ok(kin_ctx_create(&ref, &r->ctx[0], &err), &err);
    assert_ok(kin_ctx_create(&opt, &r->ctx[1], &err), &err);
    opt.threads = 1;
    assert_ok(kin_ctx_create(&opt, &r->one, &err), &err);
}

int rig_open_cuda(rig *rigs, int cap)
{
    const kin_dtype compute[] = {KIN_DTYPE_F32, KIN_DTYPE_BF16};
    for (int i = 0; i < 2 && i < cap; i++) {
        kin_ctx_options cuda = {.backend = KIN_BACKEND_CUDA, .compute = compute[i]};
        memset(&rigs[i], 0, sizeof rigs[i]);
        snprintf(rigs[i].name, sizeof rigs[i].name, "cuda %s", kin_dtype_name(compute[i]));
        open_contexts(&rigs[i], cuda);
    }
    return 2;
}

void rig_open(rig *r, kin_isa isa, kin_dtype compute, kin_precision precision)
{
    kin_ctx_options cpu = {.backend = KIN_BACKEND_CPU,
                           .isa = isa,
                           .threads = 2,
                           .compute = compute,
                           .precision = precision};
    memset(r, 0, sizeof(*r));
    snprintf(r->name, sizeof(r->name), "cpu %s %s%s", kin_isa_name(isa), kin_dtype_name(compute),
             precision == KIN_PRECISION_HIGH ? " high" : "");
    open_contexts(r, cpu);
}

int rig_open_all(rig *rigs, int cap)
{
    int count = 0;
    for (kin_isa isa = KIN_ISA_AVX2; isa <= KIN_ISA_AMX && count + 3 <= cap; isa++) {
        if (!kin_isa_available(isa))
            continue;
        /* note: plain f32 does not use the tiles */
        if (isa != KIN_ISA_AMX_EMULATED)
            rig_open(&rigs[count++], isa, KIN_DTYPE_F32, KIN_PRECISION_HIGHEST);
        rig_open(&rigs[count++], isa, KIN_DTYPE_BF16, KIN_PRECISION_HIGHEST);
        if (isa >= KIN_ISA_AMX_EMULATED)
            rig_open(&rigs[count++], isa, KIN_DTYPE_F32, KIN_PRECISION_HIGH);
    }
    return count;
}

static void release(rig *r)
{
    for (int i = 0; i < r->memories; i++)
        kin_canary_close(&r->memory[i]);
    r->memories = 0;
    kin_params_destroy(&r->params);
}

void rig_close(rig *r)
{
    release(r);
    kin_ctx_destroy(&r->ctx[0]);
    kin_ctx_destroy(&r->ctx[1]);
    kin_ctx_destroy(&r->one);
}

void rig_fail(rig *r, const char *fmt, ...)
{
    char text[700];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    release(r);
    fail_msg("%s, %s: %s (KIN_SEED=%llu)", r->name, r->what, text,
             (unsigned long long)kin_test_seed());
}

void rig_begin(rig *r, const char *fmt, ...)
{
    kin_error err = {0};
    va_list ap;
    release(r);
    va_start(ap, fmt);
    vsnprintf(r->what, sizeof(r->what), fmt, ap);
    va_end(ap);
    assert_ok(kin_params_create(&r->params, &err), &err);
    r->mark[0] = kin_ws_mark(r->ctx[0]);
    r->mark[1] = kin_ws_mark(r->ctx[1]);
    r->cases++;
}

static uint64_t checksum(const kin_canary *c)
{
    return kin_fnv1a(KIN_FNV1A_START, c->t.data, c->bytes) | 1;
}

void rig_end(rig *r)
{
    char why[256];
    for (int i = 0; i < r->memories; i++) {
        if (!kin_canary_intact(&r->memory[i], why, sizeof(why)))
            RIG_FAIL(r, "tensor %d of the case: %s", i, why);
        if (r->sum[i] && r->sum[i] != checksum(&r->memory[i]))
            RIG_FAIL(r, "tensor %d of the case, an input, was changed", i);
    }
    for (int side = 0; side < 2; side++) {
        if (kin_ws_mark(r->ctx[side]) != r->mark[side])
            RIG_FAIL(r, "side %d left scratch in the workspace", side);
    }
    release(r);
}

static kin_canary *memory_of(rig *r, kin_dtype dtype, int pad, int ndim, const int64_t *sizes)
{
    if (r->memories == RIG_MEMORY)
        RIG_FAIL(r, "too many tensors in a case");
    kin_canary *c = &r->memory[r->memories];
    r->sum[r->memories++] = 0;
    if (!kin_canary_open(c, dtype, pad, ndim, sizes))
        RIG_FAIL(r, "out of memory");
    return c;
}

static void draw(rig *r, const kin_tensor *t, double spread)
{
    kin_rng rng = {.seed = kin_test_seed(), .purpose = KIN_RNG_TEST, .sample = r->sample++};
    int64_t n = kin_tensor_numel(t);
    for (int64_t i = 0; i < n; i += 256) {
        float v[256];
        int64_t m = n - i < 256 ? n - i : 256;
        kin_rng_normal(&rng, (uint64_t)i, m, v);
        for (int64_t j = 0; j < m; j++)
            kin_tensor_set(t, i + j, spread * (double)v[j]);
    }
}

kin_tensor rig_in(rig *r, double spread, int pad, int ndim, const int64_t *sizes)
{
    kin_canary *c = memory_of(r, KIN_DTYPE_F32, pad, ndim, sizes);
    draw(r, &c->t, spread);
    r->sum[r->memories - 1] = checksum(c);
    return c->t;
}

kin_tensor rig_ints(rig *r, kin_dtype dtype, int lo, int hi, int ndim, const int64_t *sizes)
{
    kin_rng rng = {.seed = kin_test_seed(), .purpose = KIN_RNG_TEST, .sample = r->sample++};
    kin_canary *c = memory_of(r, dtype, 0, ndim, sizes);
    for (int64_t i = 0; i < kin_tensor_numel(&c->t); i++)
        kin_tensor_set(&c->t, i,
                       lo + (double)kin_rng_index_at(&rng, (uint64_t)i, (uint64_t)(hi - lo)));
    r->sum[r->memories - 1] = checksum(c);
    return c->t;
}

kin_tensor rig_copy(rig *r, const kin_tensor *from)
{
    kin_canary *c = memory_of(r, from->dtype, 0, from->ndim, from->size);
    for (int64_t i = 0; i < kin_tensor_numel(from); i++)
        kin_tensor_set(&c->t, i, kin_tensor_get(from, i));
    r->sum[r->memories - 1] = checksum(c);
    return c->t;
}

pair rig_out(rig *r, kin_dtype dtype, bool filled, int pad, int ndim, const int64_t *sizes)
{
    pair p = {
        .t = {memory_of(r, dtype, pad, ndim, sizes)->t, memory_of(r, dtype, pad, ndim, sizes)->t}};
    if (filled) {
        draw(r, &p.t[0], 1);
        for (int64_t i = 0; i < kin_tensor_numel(&p.t[0]); i++)
            kin_tensor_set(&p.t[1], i, kin_tensor_get(&p.t[0], i));
    }
    return p;
}

param_pair rig_param(rig *r, kin_dtype dtype, double spread, bool grad, int ndim,
                     const int64_t *sizes)
{
    kin_error err = {0};
    param_pair pp = {0};
    kin_canary *c = memory_of(r, dtype, 0, ndim, sizes);
    draw(r, &c->t, spread);
    r->sum[r->memories - 1] = checksum(c);
    if (grad)
        pp.grad = rig_out(r, KIN_DTYPE_F32, true, 0, ndim, sizes);
    for (int side = 0; side < 2; side++) {
        kin_param *p = kin_params_add(r->params, KIN_INIT(KIN_INIT_ZERO, 0), ndim, sizes, "p%d",
                                      r->params->count);
        assert_non_null(p);
        assert_ok(kin_params_bind(p, &c->t, &err), &err);
        if (grad)
            p->grad = pp.grad.t[side];
        pp.p[side] = p;
    }
    return pp;
}

void rig_near_one(rig *r, const char *name, const kin_tensor *got, const kin_tensor *want,
                  kin_near_bound bound)
{
    /* each product of halves leaves out about 2^-16 of itself */
    if (r->ctx[1]->precision == KIN_PRECISION_HIGH && bound.length > 0)
        bound.eps_acc = fmax(bound.eps_acc, 0x1p-15);
    char why[512];
    if (!kin_near_tensor(got, want, bound, why, sizeof(why)))
        RIG_FAIL(r, "%s%s", name, why);
}

void rig_near(rig *r, const char *name, const pair *p, kin_near_bound bound)
{
    rig_near_one(r, name, &p->t[1], &p->t[0], bound);
}

void rig_same(rig *r, const char *name, const kin_tensor *a, const kin_tensor *b)
{
    char why[256];
    if (!kin_near_same_bits(a, b, why, sizeof(why)))
        RIG_FAIL(r, "%s%s", name, why);
}

kin_near_bound rig_bf16(const rig *r, kin_near_bound bound, double factor)
{
    if (rig_is_bf16(r))
        bound.eps_out = factor * 0x1p-9;
    return bound;
}

bool rig_has_cudnn(const rig *r)
{
    return r->ctx[1]->device && r->ctx[1]->device->cudnn_launches >= 0;
}

void rig_returned(rig *r, int side, size_t slot, const char *name, kin_status status)
{
    if (side == 1)
        r->ran[slot]++;
    if (rig_has_cudnn(r) && r->ctx[1]->device->cudnn_launches > r->launches) {
        r->by_cudnn[slot]++;
        r->launches = r->ctx[1]->device->cudnn_launches;
    }
    if (status != KIN_OK)
        RIG_FAIL(r, "%s on side %d: %s: %s", name, side, kin_status_name(status),
                 r->ctx[side]->error.text);
}

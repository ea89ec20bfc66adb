/* tensor/cpu/onednn.c: see onednn.h. */
#include <omp.h>
#include <string.h>

#include <oneapi/dnnl/dnnl.h>

#include "base/alloc.h"
#include "tensor/cpu/onednn.h"

/* One product [KIN_ONEDNN_ROWS, k] x [k, n] with its reordered weight (which is the pack's data).
 */
typedef struct product {
    dnnl_engine_t engine;
    dnnl_primitive_t primitive;
    dnnl_primitive_desc_t desc;
    int64_t n, k;
    bool bf16;
    size_t scratch_bytes;
} product;

static kin_status failed(kin_ctx *ctx, const char *what, dnnl_status_t status)
{
    return kin_fail(&ctx->error, status == dnnl_out_of_memory ? KIN_ERR_MEM : KIN_ERR_BACKEND,
                    "oneDNN: %s: status %d", what, (int)status);
}

#define TRY_DNNL(ctx, call)                         \
    do {                                            \
        dnnl_status_t dnnl_try_ = (call);           \
        if (dnnl_try_ != dnnl_success)              \
            return failed((ctx), #call, dnnl_try_); \
    } while (0)

static void product_free(void *p)
{
    product *d = p;
    if (d->primitive)
        dnnl_primitive_destroy(d->primitive);
    if (d->desc)
        dnnl_primitive_desc_destroy(d->desc);
    if (d->engine)
        dnnl_engine_destroy(d->engine);
    kin_free(d);
}

/* Descriptors are values in 2.x and objects in 3.x. */
#if DNNL_VERSION_MAJOR >= 3
typedef dnnl_memory_desc_t md_hold;
typedef const_dnnl_memory_desc_t md_ref;
#define MD_REF(h) (h)
#define MD_FREE(h) dnnl_memory_desc_destroy(h)
static dnnl_status_t md_strides(md_hold *h, const dnnl_dims_t dims, dnnl_data_type_t type,
                                const dnnl_dims_t strides)
{
    return dnnl_memory_desc_create_with_strides(h, 2, dims, type, strides);
}
static dnnl_status_t md_any(md_hold *h, const dnnl_dims_t dims, dnnl_data_type_t type)
{
    return dnnl_memory_desc_create_with_tag(h, 2, dims, type, dnnl_format_tag_any);
}
#else
typedef dnnl_memory_desc_t md_hold;
typedef const dnnl_memory_desc_t *md_ref;
#define MD_REF(h) (&(h))
#define MD_FREE(h) ((void)(h))
static dnnl_status_t md_strides(md_hold *h, const dnnl_dims_t dims, dnnl_data_type_t type,
                                const dnnl_dims_t strides)
{
    return dnnl_memory_desc_init_by_strides(h, 2, dims, type, strides);
}
static dnnl_status_t md_any(md_hold *h, const dnnl_dims_t dims, dnnl_data_type_t type)
{
    return dnnl_memory_desc_init_by_tag(h, 2, dims, type, dnnl_format_tag_any);
}
#endif

static dnnl_status_t desc_create(product *p, md_ref src, md_ref weight, md_ref dst)
{
    dnnl_primitive_attr_t attr;
    dnnl_status_t st = dnnl_primitive_attr_create(&attr);
    if (st != dnnl_success)
        return st;
    st = dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user);
#if DNNL_VERSION_MAJOR >= 3
    if (st == dnnl_success)
        st = dnnl_matmul_primitive_desc_create(&p->desc, p->engine, src, weight, NULL, dst, attr);
#else
    dnnl_matmul_desc_t d;
    if (st == dnnl_success)
        st = dnnl_matmul_desc_init(&d, src, weight, NULL, dst);
    if (st == dnnl_success)
        st = dnnl_primitive_desc_create(&p->desc, &d, attr, p->engine, NULL);
#endif
    dnnl_primitive_attr_destroy(attr);
    return st;
}

/* The primitive of p->n, p->k. One thread: so it never splits the sum over k between threads. */
static kin_status product_init(kin_ctx *ctx, product *p)
{
    dnnl_data_type_t type = p->bf16 ? dnnl_bf16 : dnnl_f32;
    const dnnl_dims_t src_dims = {KIN_ONEDNN_ROWS, p->k}, src_strides = {p->k, 1};
    const dnnl_dims_t w_dims = {p->k, p->n}, dst_dims = {KIN_ONEDNN_ROWS, p->n},
                      dst_strides = {p->n, 1};
    md_hold src, weight, dst;
    TRY_DNNL(ctx, dnnl_engine_create(&p->engine, dnnl_cpu, 0));
    TRY_DNNL(ctx, md_strides(&src, src_dims, type, src_strides));
    TRY_DNNL(ctx, md_any(&weight, w_dims, type));
    TRY_DNNL(ctx, md_strides(&dst, dst_dims, dnnl_f32, dst_strides));
    int threads = omp_get_max_threads();
    omp_set_num_threads(1);
    dnnl_status_t st = desc_create(p, MD_REF(src), MD_REF(weight), MD_REF(dst));
    if (st == dnnl_success)
        st = dnnl_primitive_create(&p->primitive, p->desc);
    omp_set_num_threads(threads);
    MD_FREE(src);
    MD_FREE(weight);
    MD_FREE(dst);
    if (st != dnnl_success)
        return failed(ctx, "matmul", st);
    p->scratch_bytes = dnnl_memory_desc_get_size(
        dnnl_primitive_desc_query_md(p->desc, dnnl_query_scratchpad_md, 0));
    return KIN_OK;
}

/* Runs one primitive on memories made for this call. */
static dnnl_status_t run_once(dnnl_engine_t engine, dnnl_primitive_t primitive, int count,
                              const int *roles, const md_ref *descs, void *const *data)
{
    dnnl_exec_arg_t args[4];
    dnnl_stream_t stream = NULL;
    dnnl_status_t st = dnnl_stream_create(&stream, engine, dnnl_stream_default_flags);
    int made = 0;
    for (; made < count && st == dnnl_success; made++) {
        args[made].arg = roles[made];
        st = dnnl_memory_create(&args[made].memory, descs[made], engine, data[made]);
        if (st != dnnl_success)
            break;
    }
    if (st == dnnl_success)
        st = dnnl_primitive_execute(primitive, stream, made, args);
    if (st == dnnl_success)
        st = dnnl_stream_wait(stream);
    for (int i = 0; i < made; i++)
        dnnl_memory_destroy(args[i].memory);
    if (stream)
        dnnl_stream_destroy(stream);
    return st;
}

/* Reorders weight values [n,k] (seen as [depth, cols]) into the layout of p. */
static kin_status reorder(kin_ctx *ctx, const product *p, const kin_param *w, bool transposed,
                          void *dst)
{
    const dnnl_dims_t dims = {p->k, p->n}, plain = {p->n, 1}, turned = {1, p->k};
    md_ref to = dnnl_primitive_desc_query_md(p->desc, dnnl_query_weights_md, 0);
    md_hold from;
    dnnl_primitive_desc_t desc = NULL;
    dnnl_primitive_t primitive = NULL;
    TRY_DNNL(ctx, md_strides(&from, dims, w->value.dtype == KIN_DTYPE_BF16 ? dnnl_bf16 : dnnl_f32,
                             transposed ? plain : turned));
    dnnl_status_t st =
        dnnl_reorder_primitive_desc_create(&desc, MD_REF(from), p->engine, to, p->engine, NULL);
    if (st == dnnl_success)
        st = dnnl_primitive_create(&primitive, desc);
    if (st == dnnl_success) {
        const int roles[2] = {DNNL_ARG_FROM, DNNL_ARG_TO};
        const md_ref descs[2] = {MD_REF(from), to};
        void *const data[2] = {w->value.data, dst};
        st = run_once(p->engine, primitive, 2, roles, descs, data);
    }
    if (primitive)
        dnnl_primitive_destroy(primitive);
    if (desc)
        dnnl_primitive_desc_destroy(desc);
    MD_FREE(from);
    return st == dnnl_success ? KIN_OK : failed(ctx, "reorder of weights", st);
}

/* The product of weight w seen as [n,k] (transposed: dy w) with its current values. */
static kin_status product_of(kin_ctx *ctx, kin_param *w, int64_t n, int64_t k, bool transposed,
                             kin_pack **out)
{
    bool bf16 = ctx->compute == KIN_DTYPE_BF16;
    uint64_t key = 0x10000u + (bf16 ? 2u : 0u) + (transposed ? 1u : 0u);
    kin_pack *pack = kin_param_pack_find(w, key);
    if (pack) {
        *out = pack;
        return KIN_OK;
    }
    for (pack = w->packs; pack && pack->key != key;)
        pack = pack->next;
    product *p = pack ? pack->extra : NULL;
    if (!p) {
        p = kin_calloc(1, sizeof(*p));
        if (!p)
            return kin_fail(&ctx->error, KIN_ERR_MEM, "oneDNN: product: out of memory");
        p->n = transposed ? k : n;
        p->k = transposed ? n : k;
        p->bf16 = bf16;
        kin_status st = product_init(ctx, p);
        if (st != KIN_OK) {
            product_free(p);
            return st;
        }
    }
    size_t bytes =
        dnnl_memory_desc_get_size(dnnl_primitive_desc_query_md(p->desc, dnnl_query_weights_md, 0));
    bool fresh = !pack || !pack->extra;
    kin_status st = kin_cpu_pack_get(ctx, w, key, bytes, &pack);
    if (st != KIN_OK) {
        if (fresh)
            product_free(p);
        return st;
    }
    pack->extra = p;
    pack->free_extra = product_free;
    *out = pack;
    if (kin_ctx_is_plan(ctx))
        return KIN_OK;
    st = reorder(ctx, p, w, transposed, pack->data);
    if (st != KIN_OK)
        pack->version = w->version - 1;
    kin_param_drop_pages(w);
    return st;
}

/* Rows of x as the left operand of one block: f32 or bf16, missing rows 0. */
static void gather_rows(const kin_simd *s, const product *p, const float *x, int64_t ld,
                        int64_t rows, void *dst)
{
    size_t item = p->bf16 ? sizeof(uint16_t) : sizeof(float);
    for (int64_t r = 0; r < rows; r++) {
        char *d = (char *)dst + (size_t)(r * p->k) * item;
        if (p->bf16)
            s->to_bf16(x + r * ld, p->k, (uint16_t *)(void *)d);
        else
            memcpy(d, x + r * ld, (size_t)p->k * item);
    }
    memset((char *)dst + (size_t)(rows * p->k) * item, 0,
           (size_t)((KIN_ONEDNN_ROWS - rows) * p->k) * item);
}

typedef struct target {
    const kin_epilogue *epi; /* or: */
    float *c;
    int64_t ldc;
    bool acc;
} target;

static size_t round64(size_t n)
{
    return (n + 63) / 64 * 64;
}

static kin_status run_blocks(kin_ctx *ctx, const kin_pack *pack, const float *x, int64_t ld,
                             int64_t m, const target *t)
{
    const product *p = pack->extra;
    const kin_simd *s = kin_cpu_simd(ctx);
    int64_t blocks = (m + KIN_ONEDNN_ROWS - 1) / KIN_ONEDNN_ROWS;
    int threads = blocks < ctx->threads ? (int)blocks : ctx->threads;
    size_t src_bytes = round64((size_t)(KIN_ONEDNN_ROWS * p->k) * sizeof(float));
    size_t dst_bytes = round64((size_t)(KIN_ONEDNN_ROWS * p->n) * sizeof(float));
    size_t each = src_bytes + dst_bytes + round64(p->scratch_bytes + 1), mark = kin_ws_mark(ctx);
    if (m == 0)
        return KIN_OK;
    char *work = kin_ws_bytes(ctx, (size_t)threads * each);
    if (!work)
        return ctx->error.status;
    if (kin_cpu_planned(ctx, mark))
        return KIN_OK;
    const int roles[4] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST, DNNL_ARG_SCRATCHPAD};
    const md_ref descs[4] = {dnnl_primitive_desc_query_md(p->desc, dnnl_query_src_md, 0),
                             dnnl_primitive_desc_query_md(p->desc, dnnl_query_weights_md, 0),
                             dnnl_primitive_desc_query_md(p->desc, dnnl_query_dst_md, 0),
                             dnnl_primitive_desc_query_md(p->desc, dnnl_query_scratchpad_md, 0)};
    int worst = (int)dnnl_success;
    /* note: always a parallel region, in which the library keeps to one thread */
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1) reduction(max : worst)
    for (int64_t i = 0; i < blocks; i++) {
        char *mine = work + (size_t)omp_get_thread_num() * each;
        int64_t r0 = i * KIN_ONEDNN_ROWS,
                rows = m - r0 < KIN_ONEDNN_ROWS ? m - r0 : KIN_ONEDNN_ROWS;
        float *y = (float *)(void *)(mine + src_bytes);
        void *const data[4] = {mine, pack->data, y, mine + src_bytes + dst_bytes};
        gather_rows(s, p, x + r0 * ld, ld, rows, mine);
        int st =
            (int)run_once(p->engine, p->primitive, p->scratch_bytes ? 4 : 3, roles, descs, data);
        worst = st > worst ? st : worst;
        if (t->epi)
            s->epilogue(t->epi, NULL, r0, 0, (int)rows, (int)p->n, y, p->n);
        else
            s->put_rows(rows, p->n, 1.0f, y, p->n, t->c + r0 * t->ldc, t->ldc, t->acc);
    }
    kin_ws_release(ctx, mark);
    return worst == (int)dnnl_success ? KIN_OK : failed(ctx, "matmul run", (dnnl_status_t)worst);
}

kin_status kin_onednn_linear(kin_ctx *ctx, const kin_linear_args *a)
{
    size_t mark = kin_ws_mark(ctx);
    kin_epilogue epi;
    kin_pack *pack;
    KIN_TRY(kin_cpu_linear_epilogue(ctx, a, &epi));
    KIN_TRY(product_of(ctx, a->w, a->n, a->k, false, &pack));
    target t = {.epi = &epi};
    KIN_TRY(run_blocks(ctx, pack, kin_f32(a->x), kin_ld(a->x), a->m, &t));
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

kin_status kin_onednn_linear_dx(kin_ctx *ctx, const kin_linear_bwd_args *a)
{
    kin_pack *pack;
    KIN_TRY(product_of(ctx, a->w, a->n, a->k, true, &pack));
    target t = {.c = kin_f32(a->dx), .ldc = kin_ld(a->dx), .acc = a->acc};
    return run_blocks(ctx, pack, kin_f32(a->dy), kin_ld(a->dy), a->m, &t);
}

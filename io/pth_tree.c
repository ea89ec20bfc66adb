/* io/pth_tree.c: the value of a pickle as a flat list of tensors and numbers with joined names. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/text.h"
#include "io/pth_parts.h"

enum { MAX_SCALARS = 1000000, MAX_NAME_BYTES = 64 << 20 };

typedef struct walk {
    kin_pth *p;
    kin_strbuf name;
    uint64_t visits, bytes, names; /* bytes of all views, and of their names */
    kin_error *err;
} walk;

static kin_status parse_dims(walk *w, uint32_t value, int64_t *out, int *ndim)
{
    const kin_pickle *k = &w->p->pickle;
    const kin_pickle_value *t = &k->value[value];
    if ((t->kind != KIN_PICKLE_TUPLE && t->kind != KIN_PICKLE_LIST) || t->count > KIN_ITEM_MAX_DIMS)
        return kin_fail(w->err, KIN_ERR_FORMAT,
                        "tensor \"%.100s\": shape and strides must be at most %d integers",
                        w->name.data, KIN_ITEM_MAX_DIMS);
    *ndim = (int)t->count;
    for (uint32_t i = 0; i < t->count; i++) {
        const kin_pickle_value *v = &k->value[t->item[i]];
        if (v->kind != KIN_PICKLE_INT || v->i < 0)
            return kin_fail(w->err, KIN_ERR_FORMAT,
                            "tensor \"%.100s\": sizes and strides must be integers >= 0",
                            w->name.data);
        out[i] = v->i;
    }
    return KIN_OK;
}

/* The view lies inside its storage and repeats nothing. */
static kin_status check_view(walk *w, const kin_pth_entry *e, const kin_pth_storage *s,
                             int64_t offset)
{
    size_t numel = 0, last = (size_t)offset, part;
    bool ok = offset >= 0 && kin_shape_numel(e->ndim, e->size, &numel);
    const bool empty = numel == 0;
    for (int d = 0; ok && !empty && d < e->ndim; d++)
        ok = kin_mul_size((size_t)e->size[d] - 1, (size_t)e->stride[d], &part) &&
             kin_add_size(last, part, &last);
    if (!ok || (!empty && last >= s->count))
        return kin_fail(w->err, KIN_ERR_FORMAT,
                        "tensor \"%.100s\" reaches outside its storage of %" PRIu64 " elements",
                        e->name, s->count);
    if (numel > s->count)
        return kin_fail(w->err, KIN_ERR_FORMAT,
                        "tensor \"%.100s\": %zu elements of a storage of %" PRIu64, e->name, numel,
                        s->count);
    w->bytes += numel * kin_dtype_size(e->dtype);
    if (w->bytes > (uint64_t)KIN_PTH_MAX_VIEWS * w->p->blob.bytes)
        return kin_fail(w->err, KIN_ERR_FORMAT, "views add up to more than %d times the file",
                        KIN_PTH_MAX_VIEWS);
    return KIN_OK;
}

static bool is_contiguous(const kin_pth_entry *e)
{
    int64_t step = 1;
    for (int d = e->ndim - 1; d >= 0; d--) {
        if (e->size[d] == 0)
            return true;
        if (e->size[d] != 1 && e->stride[d] != step)
            return false;
        step *= e->size[d];
    }
    return true;
}

static bool grow(void **list, int64_t *cap, int64_t count, size_t size)
{
    if (count < *cap)
        return true;
    const int64_t want = *cap ? 2 * *cap : 64;
    char *more = kin_malloc((size_t)want * size);
    if (!more)
        return false;
    if (count)
        memcpy(more, *list, (size_t)count * size);
    kin_free(*list);
    *list = more;
    *cap = want;
    return true;
}

/* A copy of the present name, which the lists own. */
static kin_status copy_name(walk *w, char **out)
{
    w->names += w->name.len + 1;
    if (w->names > MAX_NAME_BYTES)
        return kin_fail(w->err, KIN_ERR_FORMAT, "names of more than %d bytes", MAX_NAME_BYTES);
    *out = kin_strdup(w->name.data);
    return *out ? KIN_OK : kin_fail(w->err, KIN_ERR_MEM, "out of memory");
}

/* _rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, hooks, ...) */
static kin_status add_tensor(walk *w, const kin_pickle_value *args)
{
    kin_pth *p = w->p;
    const kin_pickle *k = &p->pickle;
    kin_pth_entry e = {0};
    int strides;
    if (args->count < 6 || k->value[args->item[0]].kind != KIN_PICKLE_PERSISTENT ||
        k->value[args->item[1]].kind != KIN_PICKLE_INT)
        return kin_fail(w->err, KIN_ERR_FORMAT, "tensor \"%.100s\": not as torch.save writes it",
                        w->name.data);
    const kin_pth_storage *s = kin_pth_storage_of(p, &k->value[args->item[0]]);
    const int64_t offset = k->value[args->item[1]].i;
    KIN_TRY(parse_dims(w, args->item[2], e.size, &e.ndim));
    KIN_TRY(parse_dims(w, args->item[3], e.stride, &strides));
    if (strides != e.ndim)
        return kin_fail(w->err, KIN_ERR_FORMAT, "tensor \"%.100s\": %d sizes, %d strides",
                        w->name.data, e.ndim, strides);
    if (p->count == KIN_PTH_MAX_TENSORS)
        return kin_fail(w->err, KIN_ERR_FORMAT, "more than %d tensors", KIN_PTH_MAX_TENSORS);
    e.dtype = kin_pth_storage_dtype(s);
    e.storage = kin_pickle_storage_type(s->type);
    char *name;
    KIN_TRY(copy_name(w, &name));
    e.name = name;
    if (!grow((void **)&p->list, &p->cap, p->count, sizeof e)) {
        kin_free(name);
        return kin_fail(w->err, KIN_ERR_MEM, "no memory for tensor \"%.100s\"", w->name.data);
    }
    p->list[p->count++] = e; /* note: owns the name from here on */
    KIN_TRY(check_view(w, &e, s, offset));
    kin_pth_entry *in = &p->list[p->count - 1];
    in->contiguous = is_contiguous(in);
    in->data = s->count ? s->data + (size_t)offset * kin_dtype_size(e.dtype) : s->data;
    return KIN_OK;
}

static kin_status add_number(walk *w, double value)
{
    kin_pth *p = w->p;
    char *name;
    if (p->scalar_count == MAX_SCALARS)
        return kin_fail(w->err, KIN_ERR_FORMAT, "more than %d numbers", MAX_SCALARS);
    KIN_TRY(copy_name(w, &name));
    if (!grow((void **)&p->scalars, &p->scalar_cap, p->scalar_count, sizeof(kin_pth_scalar))) {
        kin_free(name);
        return kin_fail(w->err, KIN_ERR_MEM, "out of memory");
    }
    p->scalars[p->scalar_count++] = (kin_pth_scalar){name, value};
    return KIN_OK;
}

static kin_status visit(walk *w, uint32_t value, int depth);

static kin_status call(walk *w, const kin_pickle_value *v, int depth)
{
    const kin_pickle *k = &w->p->pickle;
    const kin_pickle_value *args = &k->value[v->item[1]];
    if (k->value[v->item[0]].i == KIN_PICKLE_REBUILD_V2)
        return add_tensor(w, args);
    if (args->count == 0)
        return kin_fail(w->err, KIN_ERR_FORMAT, "parameter \"%.100s\" without a tensor",
                        w->name.data);
    return visit(w, args->item[0], depth + 1);
}

/* A member under the present name + "." + its own. */
static kin_status enter(walk *w, const char *key, size_t n, uint32_t value, int depth)
{
    const size_t before = w->name.len;
    if (memchr(key, '\0', n) || n > 1000)
        return kin_fail(w->err, KIN_ERR_FORMAT, "\"%.100s\": a key must be a short text",
                        w->name.data);
    if (before)
        kin_strbuf_add(&w->name, ".");
    kin_strbuf_add_bytes(&w->name, key, n);
    if (w->name.failed)
        return kin_fail(w->err, KIN_ERR_MEM, "out of memory");
    KIN_TRY(visit(w, value, depth + 1));
    w->name.len = before;
    w->name.data[before] = '\0';
    return KIN_OK;
}

static kin_status members(walk *w, const kin_pickle_value *v, int depth)
{
    const kin_pickle *k = &w->p->pickle;
    const bool dict = v->kind == KIN_PICKLE_DICT;
    for (uint32_t i = 0; i < v->count; i += dict ? 2 : 1) {
        const kin_pickle_value *key = &k->value[v->item[i]];
        char index[32];
        if (dict && key->kind == KIN_PICKLE_STRING) {
            KIN_TRY(enter(w, key->text, key->count, v->item[i + 1], depth));
            continue;
        }
        if (dict && key->kind != KIN_PICKLE_INT)
            return kin_fail(w->err, KIN_ERR_FORMAT, "\"%.100s\": keys must be texts or integers",
                            w->name.data);
        const int n = snprintf(index, sizeof index, "%" PRId64, dict ? key->i : (int64_t)i);
        KIN_TRY(enter(w, index, (size_t)n, v->item[dict ? i + 1 : i], depth));
    }
    return KIN_OK;
}

static kin_status visit(walk *w, uint32_t value, int depth)
{
    const kin_pickle_value *v = &w->p->pickle.value[value];
    if (depth > KIN_PTH_MAX_DEPTH)
        return kin_fail(w->err, KIN_ERR_FORMAT, "nested deeper than %d", KIN_PTH_MAX_DEPTH);
    if (++w->visits > KIN_PICKLE_MAX_VALUES)
        return kin_fail(w->err, KIN_ERR_FORMAT, "more than %d values", KIN_PICKLE_MAX_VALUES);
    switch (v->kind) {
    case KIN_PICKLE_BOOL:
    case KIN_PICKLE_INT: return add_number(w, (double)v->i);
    case KIN_PICKLE_FLOAT: return add_number(w, v->f);
    case KIN_PICKLE_CALL: return call(w, v, depth);
    case KIN_PICKLE_TUPLE:
    case KIN_PICKLE_LIST:
    case KIN_PICKLE_SET:
    case KIN_PICKLE_DICT: return members(w, v, depth);
    default: return KIN_OK;
    }
}

kin_status kin_pth_walk(kin_pth *p, kin_error *err)
{
    walk w = {.p = p, .err = err};
    kin_strbuf_add(&w.name, "");
    const kin_status status =
        w.name.data ? visit(&w, p->pickle.root, 0) : kin_fail(err, KIN_ERR_MEM, "out of memory");
    kin_strbuf_free(&w.name);
    return status;
}

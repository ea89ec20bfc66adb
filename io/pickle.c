/* The machine of opcodes. Format: Python's Lib/pickletools.py, protocols 2 to 5. */
#include "io/pickle.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/text.h"

#define MARK UINT32_MAX  /* on the stack */
#define UNSET UINT32_MAX /* in the memo */

typedef struct machine {
    const uint8_t *at, *end, *start;
    kin_pickle *p;
    uint32_t *stack, *memo;
    uint32_t depth, stack_cap, memo_cap, memo_next;
    uint64_t members; /* of all containers */
    kin_error *err;
} machine;

static const char *const storage_types[] = {
    "FloatStorage", "HalfStorage", "BFloat16Storage", "DoubleStorage", "LongStorage",
    "IntStorage",   "CharStorage", "ByteStorage",     "BoolStorage",   NULL};

static const struct {
    const char *module, *name;
    kin_pickle_global global;
} allowed[] = {
    {"torch._utils", "_rebuild_tensor_v2", KIN_PICKLE_REBUILD_V2},
    {"torch._utils", "_rebuild_parameter", KIN_PICKLE_REBUILD_PARAMETER},
    {"collections", "OrderedDict", KIN_PICKLE_ORDERED_DICT},
    {"__builtin__", "set", KIN_PICKLE_SET_TYPE},
    {"builtins", "set", KIN_PICKLE_SET_TYPE},
    {"torch", "Size", KIN_PICKLE_SIZE},
    {"torch", "float32", KIN_PICKLE_CONSTANT},
    {"torch", "float16", KIN_PICKLE_CONSTANT},
    {"torch", "bfloat16", KIN_PICKLE_CONSTANT},
    {"torch", "float64", KIN_PICKLE_CONSTANT},
    {"torch", "int64", KIN_PICKLE_CONSTANT},
};

const char *kin_pickle_storage_type(int64_t i)
{
    return i >= 0 && i < (int64_t)(sizeof storage_types / sizeof *storage_types) ? storage_types[i]
                                                                                 : NULL;
}

static kin_status damaged(const machine *m, const char *what)
{
    return kin_fail(m->err, KIN_ERR_FORMAT, "pickle: %s before byte %zu", what,
                    (size_t)(m->at - m->start));
}

static kin_status no_memory(const machine *m)
{
    return kin_fail(m->err, KIN_ERR_MEM, "pickle: out of memory");
}

/* --- values, stack, memo --- */

static bool grow(uint32_t **list, uint32_t *cap, uint32_t need)
{
    uint32_t want = *cap ? *cap : 16;
    while (want < need)
        want = want < UINT32_MAX / 2 ? want * 2 : UINT32_MAX;
    if (want == *cap)
        return true;
    uint32_t *more = kin_malloc((size_t)want * sizeof **list);
    if (!more)
        return false;
    if (*cap)
        memcpy(more, *list, (size_t)*cap * sizeof **list);
    kin_free(*list);
    *list = more;
    *cap = want;
    return true;
}

static kin_status push(machine *m, uint32_t v)
{
    if (m->depth == KIN_PICKLE_MAX_VALUES)
        return damaged(m, "the stack is too deep");
    if (m->depth == m->stack_cap && !grow(&m->stack, &m->stack_cap, m->depth + 1))
        return no_memory(m);
    m->stack[m->depth++] = v;
    return KIN_OK;
}

static kin_status add(machine *m, kin_pickle_value v, uint32_t *number)
{
    kin_pickle *p = m->p;
    if (p->count == KIN_PICKLE_MAX_VALUES)
        return kin_fail(m->err, KIN_ERR_FORMAT, "pickle: more than %d values",
                        KIN_PICKLE_MAX_VALUES);
    if (p->count == p->cap) {
        const uint32_t cap = p->cap ? 2 * p->cap : 256;
        kin_pickle_value *more = kin_malloc((size_t)cap * sizeof *more);
        if (!more)
            return no_memory(m);
        if (p->count)
            memcpy(more, p->value, (size_t)p->count * sizeof *more);
        kin_free(p->value);
        p->value = more;
        p->cap = cap;
    }
    p->value[p->count] = v;
    *number = p->count++;
    return KIN_OK;
}

static kin_status push_new(machine *m, kin_pickle_value v)
{
    uint32_t n = 0;
    KIN_TRY(add(m, v, &n));
    return push(m, n);
}

static kin_status pop(machine *m, uint32_t *v)
{
    if (m->depth == 0 || m->stack[m->depth - 1] == MARK)
        return damaged(m, "an operand is missing");
    *v = m->stack[--m->depth];
    return KIN_OK;
}

/* Place of the topmost mark; what stands above it is [*first, depth). */
static kin_status find_mark(const machine *m, uint32_t *first)
{
    for (uint32_t i = m->depth; i > 0; i--)
        if (m->stack[i - 1] == MARK) {
            *first = i;
            return KIN_OK;
        }
    return damaged(m, "a mark is missing");
}

static kin_status extend(machine *m, kin_pickle_value *v, const uint32_t *item, uint32_t n)
{
    if (n > KIN_PICKLE_MAX_VALUES - v->count)
        return damaged(m, "a container is too large");
    /* note: a few bytes can ask for a long list to be copied, over and over */
    if ((m->members += n) > KIN_PICKLE_MAX_MEMBERS)
        return damaged(m, "too many members of containers");
    if (v->cap < v->count + n) {
        uint32_t *list = v->cap ? v->item : NULL;
        if (!grow(&list, &v->cap, v->count + n))
            return no_memory(m);
        v->item = list;
    }
    if (n)
        memcpy(v->item + v->count, item, (size_t)n * sizeof *item);
    v->count += n;
    return KIN_OK;
}

/* A new container with the top n values of the stack, which it takes. */
static kin_status collect(machine *m, kin_pickle_kind kind, uint32_t n)
{
    uint32_t number = 0;
    if (m->depth < n)
        return damaged(m, "an operand is missing");
    const uint32_t first = m->depth - n;
    for (uint32_t i = first; i < m->depth; i++)
        if (m->stack[i] == MARK)
            return damaged(m, "an operand is missing");
    if (kind == KIN_PICKLE_DICT && n % 2)
        return damaged(m, "a key has no value");
    KIN_TRY(add(m, (kin_pickle_value){.kind = (uint8_t)kind}, &number));
    if (n) /* note: before the first value there is no stack */
        KIN_TRY(extend(m, &m->p->value[number], m->stack + first, n));
    m->depth = first;
    return push(m, number);
}

static kin_status collect_marked(machine *m, kin_pickle_kind kind)
{
    uint32_t first = 0;
    KIN_TRY(find_mark(m, &first));
    KIN_TRY(collect(m, kind, m->depth - first));
    /* the mark below it goes */
    m->stack[m->depth - 2] = m->stack[m->depth - 1];
    m->depth--;
    return KIN_OK;
}

/* Values [first, depth) of the stack go into the container below them (below the mark if there is
 * one). */
static kin_status append(machine *m, kin_pickle_kind kind, uint32_t first, bool marked)
{
    const uint32_t below = first - (marked ? 1 : 0);
    if (below == 0 || m->stack[below - 1] == MARK)
        return damaged(m, "an operand is missing");
    kin_pickle_value *v = &m->p->value[m->stack[below - 1]];
    if (v->kind != kind)
        return damaged(m, "a container of another kind");
    if (kind == KIN_PICKLE_DICT && (m->depth - first) % 2)
        return damaged(m, "a key has no value");
    KIN_TRY(extend(m, v, m->stack + first, m->depth - first));
    m->depth = below;
    return KIN_OK;
}

static kin_status append_last(machine *m, kin_pickle_kind kind, uint32_t n)
{
    if (m->depth < n + 1)
        return damaged(m, "an operand is missing");
    for (uint32_t i = m->depth - n; i < m->depth; i++)
        if (m->stack[i] == MARK)
            return damaged(m, "an operand is missing");
    return append(m, kind, m->depth - n, false);
}

static kin_status append_marked(machine *m, kin_pickle_kind kind)
{
    uint32_t first = 0;
    KIN_TRY(find_mark(m, &first));
    return append(m, kind, first, true);
}

static kin_status put(machine *m, uint64_t index)
{
    if (m->depth == 0 || m->stack[m->depth - 1] == MARK)
        return damaged(m, "nothing to remember");
    if (index >= KIN_PICKLE_MAX_MEMO)
        return kin_fail(m->err, KIN_ERR_FORMAT, "pickle: memo index %" PRIu64 " must be below %d",
                        index, KIN_PICKLE_MAX_MEMO);
    if (index >= m->memo_cap) {
        const uint32_t old = m->memo_cap;
        if (!grow(&m->memo, &m->memo_cap, (uint32_t)index + 1))
            return no_memory(m);
        for (uint32_t i = old; i < m->memo_cap; i++)
            m->memo[i] = UNSET;
    }
    m->memo[index] = m->stack[m->depth - 1];
    return KIN_OK;
}

static kin_status get(machine *m, uint64_t index)
{
    if (index >= m->memo_cap || m->memo[index] == UNSET)
        return damaged(m, "a memo entry was never set");
    return push(m, m->memo[index]);
}

/* --- operands --- */

static kin_status number(machine *m, int bytes, uint64_t *out)
{
    if (m->end - m->at < bytes)
        return damaged(m, "the file ends");
    *out = 0;
    for (int i = bytes - 1; i >= 0; i--)
        *out = *out << 8 | m->at[i];
    m->at += bytes;
    return KIN_OK;
}

static kin_status push_int(machine *m, int bytes)
{
    uint64_t v = 0;
    KIN_TRY(number(m, bytes, &v));
    return push_new(
        m, (kin_pickle_value){.kind = KIN_PICKLE_INT,
                              .i = bytes == 4 ? (int64_t)(int32_t)(uint32_t)v : (int64_t)v});
}

/* Two's complement of up to 8 bytes; longer ones do not occur in what we read. */
static kin_status push_long(machine *m)
{
    uint64_t n = 0, v = 0;
    KIN_TRY(number(m, 1, &n));
    if (n > 8)
        return damaged(m, "an integer of more than 64 bits");
    if (n)
        KIN_TRY(number(m, (int)n, &v));
    if (n > 0 && n < 8 && v >> (8 * n - 1))
        v |= ~UINT64_C(0) << (8 * n);
    return push_new(m, (kin_pickle_value){.kind = KIN_PICKLE_INT, .i = (int64_t)v});
}

static kin_status push_float(machine *m)
{
    uint64_t v = 0;
    double d;
    if (m->end - m->at < 8)
        return damaged(m, "the file ends");
    for (int i = 0; i < 8; i++) /* note: the only big-endian number of the format */
        v = v << 8 | m->at[i];
    m->at += 8;
    memcpy(&d, &v, sizeof d);
    return push_new(m, (kin_pickle_value){.kind = KIN_PICKLE_FLOAT, .f = d});
}

static kin_status push_text(machine *m, int length_bytes, kin_pickle_kind kind)
{
    uint64_t n = 0;
    KIN_TRY(number(m, length_bytes, &n));
    if (n > (uint64_t)(m->end - m->at) || n > UINT32_MAX)
        return kin_fail(m->err, KIN_ERR_FORMAT,
                        "pickle: a text of %" PRIu64 " bytes, the file has %zu", n,
                        (size_t)(m->end - m->at));
    const char *text = (const char *)m->at;
    m->at += n;
    if (kind == KIN_PICKLE_STRING && !kin_utf8_valid(text, (size_t)n))
        return damaged(m, "a text is not UTF-8");
    return push_new(m,
                    (kin_pickle_value){.kind = (uint8_t)kind, .count = (uint32_t)n, .text = text});
}

/* --- globals and calls --- */

static bool same(const char *a, size_t n, const char *b)
{
    return strlen(b) == n && memcmp(a, b, n) == 0;
}

static kin_status push_global(machine *m, const char *module, size_t nm, const char *name,
                              size_t nn)
{
    int64_t g = -1;
    for (size_t i = 0; i < sizeof allowed / sizeof *allowed; i++)
        if (same(module, nm, allowed[i].module) && same(name, nn, allowed[i].name))
            g = allowed[i].global;
    for (int64_t i = 0; g < 0 && storage_types[i]; i++)
        if (same(module, nm, "torch") && same(name, nn, storage_types[i]))
            g = i;
    if (g < 0)
        return kin_fail(m->err, KIN_ERR_FORMAT,
                        "pickle: \"%.*s.%.*s\" is not allowed (only tensors, numbers, texts and "
                        "containers are)",
                        (int)(nm < 80 ? nm : 80), module, (int)(nn < 80 ? nn : 80), name);
    return push_new(m, (kin_pickle_value){.kind = KIN_PICKLE_GLOBAL, .i = g});
}

static kin_status line(machine *m, const char **text, size_t *n)
{
    const uint8_t *nl = memchr(m->at, '\n', (size_t)(m->end - m->at));
    if (!nl)
        return damaged(m, "the file ends");
    *text = (const char *)m->at;
    *n = (size_t)(nl - m->at);
    if (!kin_utf8_valid(*text, *n))
        return damaged(m, "a name is not UTF-8");
    m->at = nl + 1;
    return KIN_OK;
}

static kin_status op_global(machine *m)
{
    const char *module, *name;
    size_t nm, nn;
    KIN_TRY(line(m, &module, &nm));
    KIN_TRY(line(m, &name, &nn));
    return push_global(m, module, nm, name, nn);
}

static kin_status op_stack_global(machine *m)
{
    uint32_t a = 0, b = 0;
    KIN_TRY(pop(m, &b));
    KIN_TRY(pop(m, &a));
    const kin_pickle_value *module = &m->p->value[a], *name = &m->p->value[b];
    if (module->kind != KIN_PICKLE_STRING || name->kind != KIN_PICKLE_STRING)
        return damaged(m, "a global without a name");
    return push_global(m, module->text, module->count, name->text, name->count);
}

/* OrderedDict(), or OrderedDict of a list of pairs, as a dictionary. */
static kin_status ordered_dict(machine *m, const kin_pickle_value *args)
{
    uint32_t made = 0;
    KIN_TRY(add(m, (kin_pickle_value){.kind = KIN_PICKLE_DICT}, &made));
    if (args->count > 1)
        return damaged(m, "OrderedDict with more than one argument");
    if (args->count == 1) {
        const kin_pickle_value list = m->p->value[args->item[0]];
        if (list.kind != KIN_PICKLE_LIST)
            return damaged(m, "OrderedDict of something that is no list");
        for (uint32_t i = 0; i < list.count; i++) {
            const kin_pickle_value pair = m->p->value[list.item[i]];
            if ((pair.kind != KIN_PICKLE_LIST && pair.kind != KIN_PICKLE_TUPLE) || pair.count != 2)
                return damaged(m, "OrderedDict of something that is no pair");
            KIN_TRY(extend(m, &m->p->value[made], pair.item, 2));
        }
    }
    return push(m, made);
}

static kin_status op_reduce(machine *m)
{
    uint32_t a = 0, f = 0, made = 0;
    KIN_TRY(pop(m, &a));
    KIN_TRY(pop(m, &f));
    /* note: copies, since `add` moves the values */
    const kin_pickle_value call = m->p->value[f], args = m->p->value[a];
    if (call.kind != KIN_PICKLE_GLOBAL || args.kind != KIN_PICKLE_TUPLE)
        return damaged(m, "a call of something that is no global");
    switch (call.i) {
    case KIN_PICKLE_ORDERED_DICT: return ordered_dict(m, &args);
    case KIN_PICKLE_SIZE:
    case KIN_PICKLE_SET_TYPE:
        if (args.count != 1 || (m->p->value[args.item[0]].kind != KIN_PICKLE_LIST &&
                                m->p->value[args.item[0]].kind != KIN_PICKLE_TUPLE))
            return damaged(m, "a set or a size of something else than a list");
        return push(m, args.item[0]);
    case KIN_PICKLE_REBUILD_V2:
    case KIN_PICKLE_REBUILD_PARAMETER: break;
    default: return damaged(m, "a call of a global that is no function");
    }
    KIN_TRY(add(m, (kin_pickle_value){.kind = KIN_PICKLE_CALL}, &made));
    KIN_TRY(extend(m, &m->p->value[made], (const uint32_t[]){f, a}, 2));
    return push(m, made);
}

/* The state of an OrderedDict (its _metadata) says nothing that we need. */
static kin_status op_build(machine *m)
{
    uint32_t state = 0;
    KIN_TRY(pop(m, &state));
    if (m->depth == 0 || m->stack[m->depth - 1] == MARK)
        return damaged(m, "an operand is missing");
    return m->p->value[m->stack[m->depth - 1]].kind == KIN_PICKLE_DICT
               ? KIN_OK
               : damaged(m, "a state for something that is no dictionary");
}

static kin_status op_persistent(machine *m)
{
    uint32_t id = 0, made = 0;
    KIN_TRY(pop(m, &id));
    KIN_TRY(add(m, (kin_pickle_value){.kind = KIN_PICKLE_PERSISTENT}, &made));
    KIN_TRY(extend(m, &m->p->value[made], &id, 1));
    return push(m, made);
}

/* --- opcodes --- */

static kin_status memo_op(machine *m, uint8_t op)
{
    uint64_t v = 0;
    if (op == 0x94) /* MEMOIZE */
        return put(m, m->memo_next++);
    KIN_TRY(number(m, op == 'q' || op == 'h' ? 1 : 4, &v));
    return op == 'q' || op == 'r' ? put(m, v) : get(m, v);
}

static kin_status stack_op(machine *m, uint8_t op)
{
    uint32_t v = 0, first = 0;
    switch (op) {
    case '(': return push(m, MARK);
    case '0': return pop(m, &v);
    case '1':
        KIN_TRY(find_mark(m, &first));
        m->depth = first - 1;
        return KIN_OK;
    default: /* '2' DUP */
        KIN_TRY(pop(m, &v));
        KIN_TRY(push(m, v));
        return push(m, v);
    }
}

static kin_status protocol(machine *m)
{
    uint64_t v = 0;
    KIN_TRY(number(m, 1, &v));
    return v >= 2 && v <= 5
               ? KIN_OK
               : kin_fail(m->err, KIN_ERR_FORMAT, "pickle: protocol %d must be 2 to 5", (int)v);
}

static kin_status step(machine *m, uint8_t op)
{
    uint64_t skip = 0;
    switch (op) {
    case 0x80: return protocol(m);
    case 0x95: return number(m, 8, &skip); /* FRAME */
    case '(':
    case '0':
    case '1':
    case '2': return stack_op(m, op);
    case 'N': return push_new(m, (kin_pickle_value){.kind = KIN_PICKLE_NONE});
    case 0x88:
    case 0x89: return push_new(m, (kin_pickle_value){.kind = KIN_PICKLE_BOOL, .i = op == 0x88});
    case 'K': return push_int(m, 1);
    case 'M': return push_int(m, 2);
    case 'J': return push_int(m, 4);
    case 0x8A: return push_long(m);
    case 'G': return push_float(m);
    case 0x8C: return push_text(m, 1, KIN_PICKLE_STRING);
    case 'X': return push_text(m, 4, KIN_PICKLE_STRING);
    case 0x8D: return push_text(m, 8, KIN_PICKLE_STRING);
    case 'U': return push_text(m, 1, KIN_PICKLE_STRING); /* of Python 2 */
    case 'T': return push_text(m, 4, KIN_PICKLE_STRING);
    case 'C': return push_text(m, 1, KIN_PICKLE_BYTES);
    case 'B': return push_text(m, 4, KIN_PICKLE_BYTES);
    case ']': return collect(m, KIN_PICKLE_LIST, 0);
    case '}': return collect(m, KIN_PICKLE_DICT, 0);
    case ')': return collect(m, KIN_PICKLE_TUPLE, 0);
    case 0x8F: return collect(m, KIN_PICKLE_SET, 0);
    case 0x85:
    case 0x86:
    case 0x87: return collect(m, KIN_PICKLE_TUPLE, op - 0x84u);
    case 't': return collect_marked(m, KIN_PICKLE_TUPLE);
    case 'l': return collect_marked(m, KIN_PICKLE_LIST);
    case 'd': return collect_marked(m, KIN_PICKLE_DICT);
    case 0x91: return collect_marked(m, KIN_PICKLE_SET);
    case 'a': return append_last(m, KIN_PICKLE_LIST, 1);
    case 's': return append_last(m, KIN_PICKLE_DICT, 2);
    case 'e': return append_marked(m, KIN_PICKLE_LIST);
    case 'u': return append_marked(m, KIN_PICKLE_DICT);
    case 0x90: return append_marked(m, KIN_PICKLE_SET);
    case 'q':
    case 'r':
    case 'h':
    case 'j':
    case 0x94: return memo_op(m, op);
    case 'c': return op_global(m);
    case 0x93: return op_stack_global(m);
    case 'R': return op_reduce(m);
    case 'b': return op_build(m);
    case 'Q': return op_persistent(m);
    default: break;
    }
    return kin_fail(m->err, KIN_ERR_FORMAT, "pickle: opcode 0x%02X at byte %zu is not allowed", op,
                    (size_t)(m->at - m->start) - 1);
}

static kin_status run(machine *m)
{
    for (;;) {
        if (m->at == m->end)
            return damaged(m, "no STOP");
        const uint8_t op = *m->at++;
        if (op == '.')
            break;
        KIN_TRY(step(m, op));
    }
    KIN_TRY(pop(m, &m->p->root));
    m->p->used = (size_t)(m->at - m->start);
    return m->depth == 0 ? KIN_OK : damaged(m, "more than one value");
}

kin_status kin_pickle_parse(const uint8_t *data, size_t bytes, kin_pickle *out, kin_error *err)
{
    machine m = {.at = data, .start = data, .p = out, .err = err};
    *out = (kin_pickle){0};
    m.end = data + (bytes < KIN_PICKLE_MAX_BYTES ? bytes : KIN_PICKLE_MAX_BYTES);
    const kin_status status = run(&m);
    kin_free(m.stack);
    kin_free(m.memo);
    return status;
}

void kin_pickle_free(kin_pickle *p)
{
    for (uint32_t i = 0; i < p->count; i++) {
        const uint8_t k = p->value[i].kind;
        if (p->value[i].cap && k >= KIN_PICKLE_TUPLE && k != KIN_PICKLE_GLOBAL)
            kin_free(p->value[i].item);
    }
    kin_free(p->value);
    *p = (kin_pickle){0};
}

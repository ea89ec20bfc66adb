#include "tensor/tape.h"

#include <string.h>

#include "tensor/kernels.h"
#include "tensor/tape_internal.h"

enum { CHUNK = 128, MAX_CHECKPOINT = 16 };

typedef struct node {
    char *data; /* first element of the tensor the node stands for */
    char *grad; /* its gradient, NULL until asked for */
    int64_t numel;
    kin_dtype dtype; /* of the data: f32, f64 or bf16 */
    bool written;    /* grad holds a value to add to */
    /* The activation that gave the tensor, or NULL, and whether the gradient was delivered before
     * it, of type past_dtype. */
    const kin_tape_past *past;
    bool is_past;
    kin_dtype past_dtype;
} node;

typedef struct entry {
    kin_backward_fn fn;
    void *saved;
} entry;

typedef struct node_chunk {
    struct node_chunk *next;
    node n[CHUNK];
} node_chunk;

typedef struct entry_chunk {
    struct entry_chunk *prev;
    entry e[CHUNK];
} entry_chunk;

/* Ids start at first_id, so that ids of an outer tape mean "constant" here. Lists are chunks in the
 * workspace. */
struct kin_tape {
    int32_t first_id, nodes;
    int entries;
    bool recording;
    node_chunk *head, *tail;
    entry_chunk *last;
};

static kin_tape *tape_new(kin_ctx *ctx, int32_t first_id)
{
    kin_tape *tape = kin_ws_bytes(ctx, sizeof *tape);
    if (tape)
        *tape = (kin_tape){.first_id = first_id, .recording = true};
    return tape;
}

kin_status kin_tape_begin(kin_ctx *ctx)
{
    if (ctx->compute == KIN_DTYPE_I8 || ctx->compute == KIN_DTYPE_F8)
        return kin_fail(&ctx->error, KIN_ERR_UNSUPPORTED,
                        "training: products in %s have no gradient; compute must be f32 or bf16",
                        ctx->compute == KIN_DTYPE_I8 ? "int8" : "fp8");
    ctx->tape = tape_new(ctx, 1);
    return ctx->tape ? KIN_OK : KIN_ERR_MEM;
}

void kin_tape_end(kin_ctx *ctx)
{
    ctx->tape = NULL;
}

static kin_dtype grad_dtype(const node *n)
{
    if (n->is_past)
        return n->past_dtype;
    return n->dtype == KIN_DTYPE_F64 ? KIN_DTYPE_F64 : KIN_DTYPE_F32;
}

static node *node_of(kin_ctx *ctx, const kin_tensor *t)
{
    kin_tape *tape = ctx->tape;
    if (!tape || t->id < tape->first_id || t->id >= tape->first_id + tape->nodes)
        return NULL;
    int32_t i = t->id - tape->first_id;
    node_chunk *c = tape->head;
    for (; i >= CHUNK; i -= CHUNK)
        c = c->next;
    return &c->n[i];
}

static node *node_add(kin_ctx *ctx, kin_tensor *t)
{
    kin_tape *tape = ctx->tape;
    int32_t at = tape->nodes % CHUNK;
    if (at == 0) {
        node_chunk *c = kin_ws_bytes(ctx, sizeof *c);
        if (!c)
            return NULL;
        c->next = NULL;
        if (tape->tail)
            tape->tail->next = c;
        else
            tape->head = c;
        tape->tail = c;
    }
    node *n = &tape->tail->n[at];
    *n = (node){.data = t->data, .numel = kin_tensor_numel(t), .dtype = t->dtype};
    t->id = tape->first_id + tape->nodes++;
    return n;
}

static kin_status entry_add(kin_ctx *ctx, kin_backward_fn fn, void *saved)
{
    kin_tape *tape = ctx->tape;
    int at = tape->entries % CHUNK;
    if (at == 0) {
        entry_chunk *c = kin_ws_bytes(ctx, sizeof *c);
        if (!c)
            return KIN_ERR_MEM;
        c->prev = tape->last;
        tape->last = c;
    }
    tape->last->e[at] = (entry){fn, saved};
    tape->entries++;
    return KIN_OK;
}

bool kin_tape_recording(const kin_ctx *ctx)
{
    return ctx->tape && ctx->tape->recording;
}

bool kin_tape_needs(const kin_ctx *ctx, const kin_tensor *t)
{
    return t && t->id != 0 && kin_tape_recording(ctx) && t->id >= ctx->tape->first_id;
}

bool kin_tape_needs_param(const kin_ctx *ctx, const kin_param *p)
{
    return p && p->grad.data && kin_tape_recording(ctx);
}

kin_status kin_tape_watch(kin_ctx *ctx, kin_tensor *t)
{
    if (!kin_tape_recording(ctx) || !kin_tensor_is_contiguous(t))
        return kin_fail(&ctx->error, KIN_ERR_ARG,
                        "tape: watch needs a recording tape and a contiguous tensor");
    return node_add(ctx, t) ? KIN_OK : KIN_ERR_MEM;
}

kin_status kin_tape_add(kin_ctx *ctx, kin_tensor *y, kin_backward_fn fn, void *saved)
{
    if (!node_add(ctx, y))
        return KIN_ERR_MEM;
    return entry_add(ctx, fn, saved);
}

kin_status kin_tape_add_param(kin_ctx *ctx, kin_tensor *y, kin_param *p)
{
    node *n = node_add(ctx, y);
    if (!n)
        return KIN_ERR_MEM;
    n->grad = p->grad.data;
    n->written = true;
    return KIN_OK;
}

/* The same view on the node's gradient as t is on its data. */
static kin_tensor grad_view(const node *n, const kin_tensor *t)
{
    kin_tensor g = *t;
    const size_t at = (size_t)((char *)t->data - n->data) / kin_dtype_size(n->dtype);
    g.id = 0;
    g.dtype = grad_dtype(n);
    g.data = n->grad + at * kin_dtype_size(grad_dtype(n));
    return g;
}

/* True if t names every element of the node exactly once. */
static bool covers(const node *n, const kin_tensor *t)
{
    if ((char *)t->data != n->data || kin_tensor_numel(t) != n->numel)
        return false;
    for (int i = 0; i < t->ndim; i++)
        if (t->stride[i] == 0 && t->size[i] > 1)
            return false;
    return true;
}

kin_status kin_tape_grad_slot(kin_ctx *ctx, const kin_tensor *t, kin_tensor *grad, bool *acc)
{
    node *n = node_of(ctx, t);
    *grad = (kin_tensor){0};
    *acc = false;
    if (!n)
        return KIN_OK;
    if (n->is_past)
        return kin_fail(&ctx->error, KIN_ERR_ARG,
                        "tape: a hidden value that one product alone was to read is read twice");
    if (!n->grad) {
        kin_tensor made;
        KIN_TRY(kin_ws_tensor(ctx, grad_dtype(n), 1, &n->numel, &made));
        n->grad = made.data;
    }
    if (!n->written && !covers(n, t)) {
        kin_tensor all = kin_tensor_of(n->grad, grad_dtype(n), 1, &n->numel);
        KIN_TRY(ctx->k->fill(ctx, &all, 0.0));
        n->written = true;
    }
    *acc = n->written;
    n->written = true;
    *grad = grad_view(n, t);
    return KIN_OK;
}

kin_status kin_tape_note_past(kin_ctx *ctx, const kin_tensor *y, kin_act act, const kin_tensor *pre)
{
    node *n = node_of(ctx, y);
    kin_tape_past *p = n ? kin_ws_bytes(ctx, sizeof *p) : NULL;
    if (!p)
        return n ? KIN_ERR_MEM : KIN_OK;
    *p = (kin_tape_past){act, *pre};
    n->past = p;
    return KIN_OK;
}

kin_status kin_tape_grad_slot_past(kin_ctx *ctx, const kin_tensor *t, kin_dtype kept,
                                   kin_tensor *grad, bool *acc, const kin_tape_past **past)
{
    node *n = node_of(ctx, t);
    *past = NULL;
    if (!n || !n->past || n->grad || n->written || !covers(n, t) ||
        !kin_tensor_same_shape(t, &n->past->pre))
        return kin_tape_grad_slot(ctx, t, grad, acc);
    KIN_TRY(kin_ws_tensor(ctx, kept, 1, &n->numel, grad));
    n->grad = grad->data;
    n->written = n->is_past = true;
    n->past_dtype = kept;
    *grad = grad_view(n, t);
    *acc = false;
    *past = n->past;
    return KIN_OK;
}

bool kin_tape_is_past(kin_ctx *ctx, const kin_tensor *y)
{
    const node *n = node_of(ctx, y);
    return n && n->is_past;
}

kin_status kin_tape_grad_slot_add(kin_ctx *ctx, const kin_tensor *t, kin_tensor *grad)
{
    bool acc;
    KIN_TRY(kin_tape_grad_slot(ctx, t, grad, &acc));
    return grad->data && !acc ? ctx->k->fill(ctx, grad, 0.0) : KIN_OK;
}

bool kin_tape_grad_give(kin_ctx *ctx, const kin_tensor *from, const kin_tensor *to)
{
    node *f = node_of(ctx, from), *n = node_of(ctx, to);
    if (!f || !n || !f->grad || n->grad || n->written || !covers(n, to) || !covers(f, from) ||
        !kin_tensor_is_contiguous(to) || grad_dtype(f) != grad_dtype(n))
        return false;
    n->grad = f->grad;
    n->written = true;
    return true;
}

kin_tensor kin_tape_grad_in(kin_ctx *ctx, const kin_tensor *y)
{
    return kin_tape_grad(ctx, y);
}

kin_tensor kin_tape_grad(kin_ctx *ctx, const kin_tensor *t)
{
    node *n = node_of(ctx, t);
    return n && n->grad && n->written ? grad_view(n, t) : (kin_tensor){0};
}

static kin_status run_backward(kin_ctx *ctx)
{
    kin_tape *tape = ctx->tape;
    for (int i = tape->entries - 1; i >= 0; i--) {
        const entry *e = &tape->last->e[i % CHUNK];
        KIN_TRY(e->fn(ctx, e->saved));
        if (i % CHUNK == 0)
            tape->last = tape->last->prev;
    }
    tape->entries = 0;
    return KIN_OK;
}

kin_status kin_tape_backward(kin_ctx *ctx, const kin_tensor *out, const kin_tensor *dout, int n)
{
    if (!kin_tape_recording(ctx))
        return kin_fail(&ctx->error, KIN_ERR_ARG, "tape: backward without a recorded forward");
    ctx->tape->recording = false;
    for (int i = 0; i < n; i++) {
        kin_tensor g;
        bool acc;
        KIN_TRY(kin_tape_grad_slot(ctx, &out[i], &g, &acc));
        if (!g.data)
            continue;
        if (dout && !kin_tensor_same_shape(&dout[i], &out[i]))
            return kin_fail(&ctx->error, KIN_ERR_SHAPE,
                            "tape: gradient %d has another shape than its output", i);
        if (dout) {
            KIN_TRY(ctx->k->copy(ctx, &dout[i], &g, acc));
        } else {
            KIN_TRY(ctx->k->fill(
                ctx, &g, 1.0)); /* note: several outputs without dout must be distinct nodes */
        }
    }
    return run_backward(ctx);
}

/* --- block recomputation --- */

typedef struct checkpoint {
    kin_checkpoint_fn fn;
    void *arg;
    int n_in, n_out;
    kin_tensor in[MAX_CHECKPOINT], out[MAX_CHECKPOINT];
} checkpoint;

/* Runs fn without recording and keeps nothing of it but contiguous outputs at the start of its
 * memory. */
static kin_status run_compact(kin_ctx *ctx, kin_checkpoint_fn fn, void *arg, const kin_tensor *in,
                              kin_tensor *out, int n_out)
{
    bool recording = ctx->tape && ctx->tape->recording;
    if (recording)
        ctx->tape->recording = false;
    size_t mark = kin_ws_mark(ctx);
    kin_status status = fn(ctx, arg, in, out);
    if (recording)
        ctx->tape->recording = true;
    KIN_TRY(status);
    /* outputs above everything, then down to the mark: the two places cannot overlap */
    kin_tensor high[MAX_CHECKPOINT];
    for (int i = 0; i < n_out; i++) {
        if (!out[i].data)
            continue;
        KIN_TRY(kin_ws_tensor(ctx, out[i].dtype, out[i].ndim, out[i].size, &high[i]));
        KIN_TRY(ctx->k->copy(ctx, &out[i], &high[i], false));
    }
    kin_ws_release(ctx, mark);
    for (int i = 0; i < n_out; i++) {
        if (!out[i].data)
            continue;
        KIN_TRY(kin_ws_tensor(ctx, high[i].dtype, high[i].ndim, high[i].size, &out[i]));
        KIN_TRY(ctx->k->copy(ctx, &high[i], &out[i], false));
    }
    return KIN_OK;
}

/* Makes input i a node of the inner tape whose gradient is the outer one's memory: sums then grow
 * in the same order as without recomputation, to the same bits. */
static kin_status input_adopt(kin_ctx *ctx, const checkpoint *c, int i, kin_tensor *in,
                              kin_tensor *grad, bool *acc)
{
    node *n = node_add(ctx, in);
    if (!n)
        return KIN_ERR_MEM;
    for (int j = 0; j < c->n_in && !*acc; j++)
        if (j != i && c->in[j].id == c->in[i].id) {
            /* the same tensor comes in twice: either may be written first */
            KIN_TRY(ctx->k->fill(ctx, grad, 0.0));
            *acc = true;
        }
    n->grad = grad->data;
    n->written = *acc;
    return KIN_OK;
}

static kin_status checkpoint_bwd(kin_ctx *ctx, void *saved)
{
    checkpoint *c = saved;
    kin_tape *outer = ctx->tape;
    kin_tensor dout[MAX_CHECKPOINT], din[MAX_CHECKPOINT], in[MAX_CHECKPOINT], out[MAX_CHECKPOINT];
    bool acc[MAX_CHECKPOINT], any = false;
    for (int i = 0; i < c->n_out; i++) {
        dout[i] = kin_tape_grad_in(ctx, &c->out[i]);
        any |= dout[i].data != NULL;
    }
    if (!any)
        return KIN_OK;
    for (int i = 0; i < c->n_in; i++)
        KIN_TRY(kin_tape_grad_slot(ctx, &c->in[i], &din[i], &acc[i]));

    size_t mark = kin_ws_mark(ctx);
    kin_tape *inner = tape_new(ctx, outer->first_id + outer->nodes);
    if (!inner)
        return KIN_ERR_MEM;
    ctx->tape = inner;
    kin_status status = KIN_OK;
    for (int i = 0; i < c->n_in; i++) {
        in[i] = c->in[i];
        in[i].id = 0;
        if (din[i].data)
            KIN_GOTO(input_adopt(ctx, c, i, &in[i], &din[i], &acc[i]));
    }
    memset(out, 0, sizeof out);
    KIN_GOTO(c->fn(ctx, c->arg, in, out));
    inner->recording = false;
    for (int i = 0; i < c->n_out; i++) {
        kin_tensor g;
        bool a;
        if (!dout[i].data)
            continue;
        KIN_GOTO(kin_tape_grad_slot(ctx, &out[i], &g, &a));
        if (g.data)
            KIN_GOTO(ctx->k->copy(ctx, &dout[i], &g, a));
    }
    KIN_GOTO(run_backward(ctx));
    for (int i = 0; i < c->n_in; i++)
        if (din[i].data && !acc[i] && !kin_tape_grad(ctx, &in[i]).data)
            KIN_GOTO(ctx->k->fill(ctx, &din[i], 0.0));
done:
    ctx->tape = outer;
    kin_ws_release(ctx, mark);
    return status;
}

kin_status kin_checkpoint(kin_ctx *ctx, kin_checkpoint_fn fn, void *arg, const kin_tensor *in,
                          int n_in, kin_tensor *out, int n_out)
{
    if (n_in > MAX_CHECKPOINT || n_out > MAX_CHECKPOINT)
        return kin_fail(&ctx->error, KIN_ERR_ARG, "checkpoint: at most %d inputs and outputs",
                        (int)MAX_CHECKPOINT);
    for (int i = 0; i < n_in; i++)
        if (in[i].id != 0 && !kin_tensor_is_contiguous(&in[i]))
            return kin_fail(&ctx->error, KIN_ERR_SHAPE, "checkpoint: input %d must be contiguous",
                            i);
    checkpoint *c = NULL;
    if (kin_tape_recording(ctx)) {
        c = kin_ws_bytes(ctx, sizeof *c);
        if (!c)
            return KIN_ERR_MEM;
    }
    KIN_TRY(run_compact(ctx, fn, arg, in, out, n_out));
    if (!c)
        return KIN_OK;
    *c = (checkpoint){.fn = fn, .arg = arg, .n_in = n_in, .n_out = n_out};
    for (int i = 0; i < n_in; i++)
        c->in[i] = in[i];
    for (int i = 0; i < n_out; i++) {
        if (out[i].data && (out[i].dtype == KIN_DTYPE_F32 || out[i].dtype == KIN_DTYPE_F64) &&
            !node_add(ctx, &out[i]))
            return KIN_ERR_MEM;
        c->out[i] = out[i];
    }
    return entry_add(ctx, checkpoint_bwd, c);
}

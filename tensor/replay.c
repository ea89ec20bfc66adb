#include "tensor/replay.h"

#include <string.h>

#include "base/alloc.h"
#include "tensor/device.h"

enum { PLACES = 12, KEY_MOST = 1 << 20 };

typedef enum entry_state { FREE = 0, SEEN, RECORDED, REFUSED } entry_state;

typedef struct entry {
    entry_state state;
    void *key; /* key_bytes, heap */
    size_t key_bytes;
    uint64_t changes; /* of the device's memory when it was last called */
    size_t uploads;   /* bytes that it sends to the device */
    void *recording;
    void *result; /* as fn left it; heap */
    size_t used;  /* of the workspace, when it was done */
} entry;

struct kin_replay {
    kin_ctx *ctx;
    const kin_kernels *kernels; /* ctx's own table, no profile before it */
    entry place[PLACES];
    kin_replay_counts counts;
};

kin_status kin_replay_create(kin_ctx *ctx, kin_replay **out)
{
    *out = kin_calloc(1, sizeof **out);
    if (!*out)
        return kin_fail(&ctx->error, KIN_ERR_MEM, "replay: out of memory");
    (*out)->ctx = ctx;
    (*out)->kernels = ctx->k;
    return KIN_OK;
}

/* What was recorded goes, the work is still known. */
static void drop_recording(kin_ctx *ctx, entry *e)
{
    if (e->recording)
        ctx->device->forget(e->recording);
    kin_free(e->result);
    e->recording = e->result = NULL;
}

static void forget(kin_ctx *ctx, entry *e)
{
    drop_recording(ctx, e);
    kin_free(e->key);
    *e = (entry){0};
}

void kin_replay_destroy(kin_replay **pr)
{
    kin_replay *r = *pr;
    if (!r)
        return;
    for (int i = 0; i < PLACES; i++)
        forget(r->ctx, &r->place[i]);
    kin_free(r);
    *pr = NULL;
}

kin_replay_counts kin_replay_count(const kin_replay *r)
{
    return r ? r->counts : (kin_replay_counts){0};
}

/* --- what makes work the same --- */

typedef struct key_head { /* of a tensor; zeroed before it is filled, compared as bytes */
    const void *data;     /* NULL: the values follow */
    int64_t dtype, ndim, size[KIN_MAX_DIMS], stride[KIN_MAX_DIMS];
} key_head;

static bool on_device(const kin_ctx *ctx, const kin_tensor *t)
{
    return kin_device_holds(ctx->device, t->data);
}

static size_t key_bytes_of(const kin_ctx *ctx, const kin_replay_work *w)
{
    size_t n = sizeof w->fn + sizeof(size_t);
    for (int i = 0; i < w->count; i++) {
        const kin_tensor *t = w->reads[i];
        n += sizeof(key_head);
        if (t && t->data && !on_device(ctx, t))
            n += (size_t)kin_device_span(t) * kin_dtype_size(t->dtype);
    }
    return n;
}

static char *add(char *at, const void *bytes, size_t n)
{
    memcpy(at, bytes, n);
    return at + n;
}

static void fill_key(const kin_ctx *ctx, const kin_replay_work *w, char *at)
{
    const size_t mark = kin_ws_mark(ctx);
    at = add(at, &w->fn, sizeof w->fn);
    at = add(at, &mark, sizeof mark);
    for (int i = 0; i < w->count; i++) {
        const kin_tensor *t = w->reads[i];
        key_head h;
        memset(&h, 0, sizeof h);
        if (!t || !t->data) {
            h.ndim = -1;
            at = add(at, &h, sizeof h);
            continue;
        }
        h.data = on_device(ctx, t) ? t->data : NULL;
        h.dtype = t->dtype;
        h.ndim = t->ndim;
        memcpy(h.size, t->size, (size_t)t->ndim * sizeof *h.size);
        memcpy(h.stride, t->stride, (size_t)t->ndim * sizeof *h.stride);
        at = add(at, &h, sizeof h);
        if (!h.data)
            at = add(at, t->data, (size_t)kin_device_span(t) * kin_dtype_size(t->dtype));
    }
}

/* The entry of this work, or a free one that becomes its (then SEEN comes after the call); NULL: no
 * place or no memory. */
static entry *find(kin_replay *r, const kin_replay_work *w)
{
    const size_t bytes = key_bytes_of(r->ctx, w);
    char *key = bytes <= KEY_MOST ? kin_malloc(bytes) : NULL;
    entry *free_place = NULL;
    if (!key)
        return NULL;
    fill_key(r->ctx, w, key);
    for (int i = 0; i < PLACES; i++) {
        entry *e = &r->place[i];
        if (e->state == FREE) {
            free_place = free_place ? free_place : e;
        } else if (e->key_bytes == bytes && memcmp(e->key, key, bytes) == 0) {
            kin_free(key);
            return e;
        }
    }
    if (!free_place) {
        kin_free(key);
        return NULL;
    }
    *free_place = (entry){.key = key, .key_bytes = bytes};
    return free_place;
}

/* --- the three ways --- */

static kin_status call(kin_replay *r, entry *e, const kin_replay_work *w)
{
    const size_t before = r->ctx->device->uploaded;
    r->counts.called++;
    KIN_TRY(w->fn(r->ctx, w->user));
    e->uploads = r->ctx->device->uploaded - before;
    e->changes = r->ctx->device->changes(r->ctx);
    return KIN_OK;
}

/* Records the work without running it; false: cannot be done, nothing has happened. */
static bool record(kin_replay *r, entry *e, const kin_replay_work *w)
{
    kin_ctx *ctx = r->ctx;
    const kin_error error = ctx->error;
    const size_t mark = kin_ws_mark(ctx);
    if (!ctx->device->record(ctx, e->uploads))
        return false;
    const kin_status status = w->fn(ctx, w->user);
    e->recording = ctx->device->recorded(ctx);
    e->result = kin_malloc(w->bytes);
    if (status == KIN_OK && e->recording && e->result) {
        memcpy(e->result, w->result, w->bytes);
        e->used = ctx->ws.used;
        r->counts.recorded++;
        return true;
    }
    drop_recording(ctx, e);
    kin_ws_release(ctx, mark);
    ctx->error = error;
    return false;
}

static kin_status play(kin_replay *r, const entry *e, const kin_replay_work *w)
{
    kin_ctx *ctx = r->ctx;
    KIN_TRY(ctx->device->play(ctx, e->recording));
    memcpy(w->result, e->result, w->bytes);
    ctx->ws.used = e->used;
    r->counts.played++;
    return KIN_OK;
}

/* What is kept of the parameters is brought up to date, in the memory that a recording names. */
static kin_status refresh(kin_ctx *ctx, const kin_replay_work *w)
{
    for (int i = 0; i < w->tables; i++)
        if (w->params[i])
            KIN_TRY(ctx->device->refresh(ctx, w->params[i]));
    return KIN_OK;
}

static bool keeps_any(const kin_replay *r)
{
    for (int i = 0; i < PLACES; i++)
        if (r->place[i].state == SEEN || r->place[i].state == RECORDED)
            return true;
    return false;
}

kin_status kin_replay_run(kin_replay *r, kin_ctx *ctx, const kin_replay_work *w)
{
    if (!r || !ctx->device || ctx->tape)
        return w->fn(ctx, w->user);
    /* note: also before it is called: what a kernel would bring up to date ends recordings */
    if (keeps_any(r))
        KIN_TRY(refresh(ctx, w));
    if (ctx->tap || ctx->k != r->kernels)
        return w->fn(ctx, w->user);
    entry *e = find(r, w);
    if (!e || e->state == REFUSED) {
        r->counts.called++;
        return w->fn(ctx, w->user);
    }
    /* memory that the recording names may hold something else by now */
    if (e->state == RECORDED && e->changes != ctx->device->changes(ctx)) {
        drop_recording(ctx, e);
        e->state = FREE;
    }
    if (e->state == SEEN && e->changes == ctx->device->changes(ctx))
        e->state = record(r, e, w) ? RECORDED : REFUSED;
    if (e->state == RECORDED) {
        const kin_error error = ctx->error;
        if (play(r, e, w) == KIN_OK)
            return KIN_OK;
        /* note: a graph takes memory of its own; what else has failed fails again below */
        drop_recording(ctx, e);
        e->state = REFUSED;
        ctx->error = error;
    }
    const kin_status status = call(r, e, w);
    if (status != KIN_OK)
        forget(ctx, e);
    else if (e->state == FREE)
        e->state = SEEN;
    return status;
}

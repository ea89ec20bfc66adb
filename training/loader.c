#include "training/loader.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "base/alloc.h"
#include "tensor/rng.h"

struct kin_loader {
    kin_source *source;
    uint64_t seed, next; /* global index of the next batch to fill */
    int32_t *order;
    int64_t epoch;
    kin_batch slot[KIN_LOADER_DEPTH];
    int filled, taken; /* slots filled and handed out so far, modulo nothing */
    bool holding;      /* the main thread still reads slot taken-1 */
    bool stop, threaded;
    kin_status status; /* of the first failure */
    kin_error error;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
};

static size_t batch_layout(const kin_sample_shape *shape, int64_t size, kin_batch *b, char *base)
{
    size_t n = (size_t)size, t = shape->state_dim ? 0 : (size_t)shape->text_len, at = 0;
    struct {
        void **p;
        size_t bytes;
    } part[] = {
        {(void **)&b->frames, n * kin_sample_frame_bytes(shape)},
        {(void **)&b->moments, n * (size_t)kin_sample_moments(shape) * sizeof(float)},
        {(void **)&b->states, n * (size_t)kin_sample_states(shape) * sizeof(float)},
        {(void **)&b->ids, n * t * sizeof(int32_t)},
        {(void **)&b->mask, n * t},
        {(void **)&b->prior, n * KIN_PHYS_CATEGORIES * sizeof(float)},
        {(void **)&b->quant, n * KIN_PHYS_QUANTITIES * sizeof(float)},
        {(void **)&b->empty, n},
        {(void **)&b->label, n * sizeof(int32_t)},
    };
    for (size_t i = 0; i < sizeof part / sizeof *part; i++) {
        if (base)
            *part[i].p = base + at;
        at += (part[i].bytes + 63) & ~(size_t)63;
    }
    return at;
}

kin_status kin_batch_alloc(const kin_sample_shape *shape, int64_t size, kin_batch *out,
                           kin_error *err)
{
    memset(out, 0, sizeof *out);
    out->size = size;
    out->shape = *shape;
    out->bytes = batch_layout(shape, size, out, NULL);
    out->block = kin_calloc(1, out->bytes);
    if (!out->block)
        return kin_fail(err, KIN_ERR_MEM, "batch: %zu bytes do not fit", out->bytes);
    batch_layout(shape, size, out, out->block);
    return KIN_OK;
}

void kin_batch_free(kin_batch *b)
{
    kin_free(b->block);
    memset(b, 0, sizeof *b);
}

kin_sample kin_batch_sample(const kin_batch *batch, int64_t b)
{
    const kin_sample_shape *s = &batch->shape;
    return (kin_sample){.frames = batch->frames + (size_t)b * kin_sample_frame_bytes(s),
                        .moments = batch->moments + b * kin_sample_moments(s),
                        .states = batch->states + b * kin_sample_states(s),
                        .ids = batch->ids + b * (s->state_dim ? 0 : s->text_len),
                        .mask = batch->mask + b * (s->state_dim ? 0 : s->text_len),
                        .prior = batch->prior + b * KIN_PHYS_CATEGORIES,
                        .quant = batch->quant + b * KIN_PHYS_QUANTITIES,
                        .empty = batch->empty + b,
                        .label = batch->label + b};
}

int64_t kin_data_order(uint64_t seed, int64_t count, uint64_t g, int32_t *order, int64_t *epoch)
{
    if (count == 0)
        return (int64_t)g;
    int64_t e = (int64_t)(g / (uint64_t)count);
    if (e != *epoch) {
        /* Fisher and Yates, drawn from (seed, epoch) alone */
        const kin_rng rng = {seed, KIN_RNG_DATA, (uint64_t)e, 0};
        for (int64_t i = 0; i < count; i++)
            order[i] = (int32_t)i;
        for (int64_t i = count - 1; i > 0; i--) {
            int64_t j = (int64_t)kin_rng_index_at(&rng, (uint64_t)i, (uint64_t)i + 1);
            int32_t t = order[i];
            order[i] = order[j];
            order[j] = t;
        }
        *epoch = e;
    }
    return order[g % (uint64_t)count];
}

/* Mirrored or not, drawn for each sample of the run anew. */
static bool is_flipped(const kin_loader *l, uint64_t sample)
{
    const kin_rng rng = {l->seed, KIN_RNG_FLIP, sample, 0};
    const float p = kin_source_flip(l->source);
    return p > 0 && kin_rng_uniform_at(&rng, 0) < p;
}

static kin_status fill(kin_loader *l, kin_batch *b, kin_error *err)
{
    b->first = l->next;
    for (int64_t i = 0; i < b->size; i++) {
        int64_t clip = kin_data_order(l->seed, kin_source_count(l->source), b->first + (uint64_t)i,
                                      l->order, &l->epoch);
        kin_sample s = kin_batch_sample(b, i);
        KIN_TRY(is_flipped(l, b->first + (uint64_t)i)
                    ? kin_source_read_mirrored(l->source, clip, &s, err)
                    : kin_source_read(l->source, clip, &s, err));
    }
    l->next += (uint64_t)b->size;
    return KIN_OK;
}

static void *run(void *arg)
{
    kin_loader *l = arg;
    pthread_mutex_lock(&l->lock);
    while (!l->stop && l->status == KIN_OK) {
        int busy = l->filled - l->taken + (l->holding ? 1 : 0);
        if (busy >= KIN_LOADER_DEPTH) {
            pthread_cond_wait(&l->changed, &l->lock);
            continue;
        }
        kin_batch *b = &l->slot[l->filled % KIN_LOADER_DEPTH];
        pthread_mutex_unlock(&l->lock);
        kin_error err = {0};
        kin_status status = fill(l, b, &err);
        pthread_mutex_lock(&l->lock);
        if (status != KIN_OK) {
            l->status = status;
            l->error = err;
        } else {
            l->filled++;
        }
        pthread_cond_broadcast(&l->changed);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

/* Signals go to the main thread. */
static int start_thread(kin_loader *l)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = pthread_create(&l->thread, NULL, run, l);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return rc;
}

kin_status kin_loader_start(kin_source *source, uint64_t seed, int64_t size, uint64_t first,
                            kin_loader **out, kin_error *err)
{
    const kin_sample_shape shape = kin_source_shape(source);
    const int64_t count = kin_source_count(source);
    kin_status status = KIN_OK;
    *out = NULL;
    kin_loader *l = kin_calloc(1, sizeof *l);
    if (!l)
        return kin_fail(err, KIN_ERR_MEM, "loader: out of memory");
    l->source = source;
    l->seed = seed;
    l->next = first;
    l->epoch = -1;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->changed, NULL);
    l->order = kin_malloc((size_t)count * sizeof *l->order);
    if (!l->order)
        status = kin_fail(err, KIN_ERR_MEM, "loader: out of memory");
    for (int i = 0; i < KIN_LOADER_DEPTH && status == KIN_OK; i++)
        status = kin_batch_alloc(&shape, size, &l->slot[i], err);
    if (status == KIN_OK && start_thread(l) != 0)
        status = kin_fail(err, KIN_ERR_BACKEND, "loader: no thread could be started");
    else if (status == KIN_OK)
        l->threaded = true;
    if (status != KIN_OK) {
        kin_loader_stop(&l);
        return status;
    }
    *out = l;
    return KIN_OK;
}

void kin_loader_stop(kin_loader **pl)
{
    kin_loader *l = *pl;
    if (!l)
        return;
    if (l->threaded) {
        pthread_mutex_lock(&l->lock);
        l->stop = true;
        pthread_cond_broadcast(&l->changed);
        pthread_mutex_unlock(&l->lock);
        pthread_join(l->thread, NULL);
    }
    for (int i = 0; i < KIN_LOADER_DEPTH; i++)
        kin_batch_free(&l->slot[i]);
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->changed);
    kin_free(l->order);
    kin_free(l);
    *pl = NULL;
}

kin_status kin_loader_next(kin_loader *l, const kin_batch **batch, kin_error *err)
{
    kin_status status = KIN_OK;
    pthread_mutex_lock(&l->lock);
    l->holding = false;
    pthread_cond_broadcast(&l->changed);
    while (l->filled == l->taken && l->status == KIN_OK)
        pthread_cond_wait(&l->changed, &l->lock);
    if (l->filled > l->taken) {
        *batch = &l->slot[l->taken++ % KIN_LOADER_DEPTH];
        l->holding = true;
    } else {
        status = l->status;
        *err = l->error;
        err->status = status;
    }
    pthread_mutex_unlock(&l->lock);
    return status;
}

size_t kin_loader_bytes(const kin_sample_shape *shape, int64_t size, int64_t count)
{
    kin_batch b;
    return KIN_LOADER_DEPTH * batch_layout(shape, size, &b, NULL) + (size_t)count * sizeof(int32_t);
}

#include "cli/writer.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "base/alloc.h"

/* stack and heap of a thread, beside the slots */
enum { THREAD_BYTES = 1 << 20 };

typedef struct slot {
    int64_t clip;
    kin_tensor frames; /* data within the block */
} slot;

struct kin_writer {
    kin_writer_fn write;
    void *user;
    int64_t slots;
    size_t bytes; /* of one slot */
    slot *slot;   /* [slots] */
    char *block;
    /* under the lock */
    int64_t put, done; /* clips taken and written so far */
    bool end;
    kin_status status; /* of the first failure */
    kin_error error;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
};

static void *run(void *user)
{
    kin_writer *w = user;
    kin_error err = {0};
    kin_status status = KIN_OK;
    pthread_mutex_lock(&w->lock);
    for (;;) {
        while (w->done == w->put && !w->end)
            pthread_cond_wait(&w->changed, &w->lock);
        if (w->done == w->put)
            break;
        const slot *s = &w->slot[w->done % w->slots];
        pthread_mutex_unlock(&w->lock);
        status = w->write(w->user, s->clip, &s->frames, &err);
        pthread_mutex_lock(&w->lock);
        if (status != KIN_OK) {
            w->status = status;
            w->error = err;
            pthread_cond_broadcast(&w->changed);
            break;
        }
        w->done++;
        pthread_cond_broadcast(&w->changed);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

static kin_status create_thread(kin_writer *w, kin_error *err)
{
    sigset_t all, old;
    /* signals are for the main thread */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = pthread_create(&w->thread, NULL, run, w);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return rc ? kin_fail(err, KIN_ERR_BACKEND, "writer: no thread: %s", strerror(rc)) : KIN_OK;
}

static void destroy(kin_writer *w)
{
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->changed);
    kin_free(w->slot);
    kin_free(w->block);
    kin_free(w);
}

kin_status kin_writer_start(kin_writer_fn write, void *user, int64_t slots, size_t bytes,
                            kin_writer **out, kin_error *err)
{
    size_t all;
    *out = NULL;
    kin_writer *w = kin_calloc(1, sizeof *w);
    if (!w)
        return kin_fail(err, KIN_ERR_MEM, "writer: out of memory");
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, NULL);
    w->write = write;
    w->user = user;
    w->slots = slots;
    w->bytes = bytes;
    w->slot = kin_calloc((size_t)slots, sizeof *w->slot);
    w->block = kin_mul_size((size_t)slots, bytes, &all) ? kin_malloc(all) : NULL;
    kin_status status =
        w->slot && w->block
            ? create_thread(w, err)
            : kin_fail(err, KIN_ERR_MEM, "writer: no memory for %lld clips", (long long)slots);
    if (status != KIN_OK) {
        destroy(w);
        return status;
    }
    *out = w;
    return KIN_OK;
}

/* the lock is held */
static kin_status failure(const kin_writer *w, kin_error *err)
{
    if (w->status != KIN_OK && err)
        *err = w->error;
    return w->status;
}

kin_status kin_writer_put(kin_writer *w, int64_t clip, const kin_tensor *frames, kin_error *err)
{
    size_t n = (size_t)kin_tensor_numel(frames) * kin_dtype_size(frames->dtype);
    if (n > w->bytes || !kin_tensor_is_contiguous(frames))
        return kin_fail(err, KIN_ERR_SHAPE, "writer: a clip of %zu bytes must be at most %zu", n,
                        w->bytes);
    pthread_mutex_lock(&w->lock);
    while (w->put - w->done >= w->slots && w->status == KIN_OK)
        pthread_cond_wait(&w->changed, &w->lock);
    kin_status status = failure(w, err);
    pthread_mutex_unlock(&w->lock);
    if (status != KIN_OK)
        return status;
    /* a free slot is this thread's alone until `put` says that it is filled */
    int64_t at = w->put % w->slots;
    w->slot[at] = (slot){.clip = clip, .frames = *frames};
    w->slot[at].frames.data = memcpy(w->block + (size_t)at * w->bytes, frames->data, n);
    pthread_mutex_lock(&w->lock);
    w->put++;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    return KIN_OK;
}

kin_status kin_writer_check(kin_writer *w, int64_t *done, kin_error *err)
{
    pthread_mutex_lock(&w->lock);
    *done = w->done;
    kin_status status = failure(w, err);
    pthread_mutex_unlock(&w->lock);
    return status;
}

kin_status kin_writer_finish(kin_writer **pw, int64_t *done, kin_error *err)
{
    kin_writer *w = *pw;
    if (!w)
        return KIN_OK;
    pthread_mutex_lock(&w->lock);
    w->end = true;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    if (done)
        *done = w->done;
    kin_status status = failure(w, err);
    destroy(w);
    *pw = NULL;
    return status;
}

uint64_t kin_writer_bytes(int64_t slots, size_t bytes)
{
    return (uint64_t)slots * bytes + THREAD_BYTES;
}

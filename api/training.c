/* api/training.c: the training loop behind kinema/training.h. */
#include <kinema/training.h>

#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "api/sized.h"
#include "base/alloc.h"
#include "training/train.h"

struct kin_training {
    kin_ctx *ctx;
    kin_trainer *trainer;
    kin_training_options options;
    kin_train_options train;
    char data[KIN_PATH_MAX];
};

void kin_training_options_init(kin_training_options *o, size_t size)
{
    const kin_training_options standard = {0};
    kin_sized_put(o, size, &standard, sizeof standard);
}

static void on_message(void *user, const char *text)
{
    const kin_training *t = user;
    if (t->options.message)
        t->options.message(t->options.user, text);
}

static int on_poll(void *user)
{
    const kin_training *t = user;
    return t->options.cancelled && t->options.cancelled(t->options.user) ? SIGINT : 0;
}

static kin_status start(kin_training *t, const kin_training_options *options, kin_error *err)
{
    kin_training_options *o = &t->options;
    KIN_TRY(kin_sized_get(o, sizeof *o, options, "training options", err));
    if (o->steps < 0)
        return kin_fail(err, KIN_ERR_ARG, "training: steps %lld must not be negative",
                        (long long)o->steps);
    if (!o->config && !o->resume)
        return kin_fail(err, KIN_ERR_ARG, "training: a configuration must be named");
    t->train = (kin_train_options){.config = o->config,
                                   .data = o->data,
                                   .run = o->run,
                                   .resume = o->resume,
                                   .steps = o->steps,
                                   .force = o->force,
                                   .message = on_message,
                                   .interrupted = on_poll,
                                   .user = t};
    /* note: the whole path is saved with the run, so that a resumed one finds the data from any
     * folder */
    if (o->data && realpath(o->data, t->data))
        t->train.data = t->data;
    const kin_ctx_options ctx = {.backend = KIN_BACKEND_CPU, .threads = o->threads};
    KIN_TRY(kin_ctx_create(&ctx, &t->ctx, err));
    if (kin_train_open(t->ctx, &t->train, &t->trainer) == KIN_OK)
        return KIN_OK;
    *err = t->ctx->error;
    return err->status;
}

kin_status kin_training_create(const kin_training_options *options, kin_training **out,
                               kin_error *err)
{
    kin_error why = {0};
    kin_training *t = kin_calloc(1, sizeof *t);
    kin_status status =
        t ? start(t, options, &why) : kin_fail(&why, KIN_ERR_MEM, "training: out of memory");
    if (status != KIN_OK)
        kin_training_destroy(&t);
    *out = t;
    return status == KIN_OK ? KIN_OK : kin_sized_error(&why, err);
}

void kin_training_destroy(kin_training **t)
{
    if (!t || !*t)
        return;
    kin_train_close(&(*t)->trainer);
    kin_ctx_destroy(&(*t)->ctx);
    kin_free(*t);
    *t = NULL;
}

void kin_training_get_report(const kin_training *t, kin_training_report *report, size_t size)
{
    const kin_train_report *last = kin_train_last_report(t->trainer);
    const kin_training_report all = {.step = last->step,
                                     .steps = last->steps,
                                     .loss = last->loss,
                                     .grad_norm = last->grad_norm,
                                     .lr = last->lr,
                                     .validation = last->val_loss};
    kin_sized_put(report, size, &all, sizeof all);
}

/* A checkpoint, and the word that the caller asked for it. */
static kin_status stop(kin_training *t)
{
    KIN_TRY(kin_train_save(t->trainer));
    kin_fail(&t->ctx->error, KIN_ERR_INTERRUPTED, "train: stopped by the caller at step %lld",
             (long long)kin_train_last_report(t->trainer)->step);
    t->ctx->error.signal = 0;
    return KIN_ERR_INTERRUPTED;
}

static kin_status run(kin_training *t, int64_t steps,
                      int (*on_step)(void *user, const kin_training_report *report), void *user)
{
    kin_training_report report;
    if (steps < 0)
        return kin_fail(&t->ctx->error, KIN_ERR_ARG, "training: steps %lld must not be negative",
                        (long long)steps);
    for (int64_t i = 0; (!steps || i < steps) && !kin_train_finished(t->trainer); i++) {
        KIN_TRY(kin_train_step(t->trainer));
        kin_training_get_report(t, &report, sizeof report);
        if (on_step && on_step(user, &report))
            return stop(t);
    }
    return KIN_OK;
}

kin_status kin_training_run(kin_training *t, int64_t steps,
                            int (*on_step)(void *user, const kin_training_report *report),
                            void *user, kin_error *err)
{
    const kin_status status = run(t, steps, on_step, user);
    return status == KIN_OK ? KIN_OK : kin_sized_error(&t->ctx->error, err);
}

kin_status kin_training_save(kin_training *t, kin_error *err)
{
    const kin_status status = kin_train_save(t->trainer);
    return status == KIN_OK ? KIN_OK : kin_sized_error(&t->ctx->error, err);
}

/* kinema/training.h: training a model, step by step.
 *
 * A run is a folder: checkpoints that are written whole or not at all, a log (log.jsonl), the
 * configuration as used. A run that ended anywhere goes on exactly where its newest checkpoint was
 * made. About structs with a member `size` see kinema/generator.h. */
#ifndef KINEMA_TRAINING_H
#define KINEMA_TRAINING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <kinema/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A run in progress. */
typedef struct kin_training kin_training;

typedef struct kin_training_options {
    size_t size;        /* of this struct; set by kin_training_options_init */
    const char *config; /* training configuration (JSON file, docs/training.md); NULL with resume:
                           the one saved with the run. Borrowed until kin_training_destroy, as all
                           text here */
    const char *data;   /* data set, in place of the configuration's; NULL: the configuration's */
    const char *run;    /* folder of the run; made where it is missing */
    bool resume;        /* go on from the newest checkpoint in it */
    bool force;         /* start although memory looks short */
    int64_t steps;      /* in place of the configuration's; 0: the configuration's */
    int threads;        /* 0: as many as OpenMP takes; never changes the result */
    /* Notes and warnings, one line each; NULL: dropped. */
    void (*message)(void *user, const char *text);
    /* Polled while clips are encoded before the first step, which may take long: anything but 0
     * stops; what is encoded stays. NULL: never. */
    int (*cancelled)(void *user);
    void *user; /* handed to both */
} kin_training_options;

/* Defaults: nothing named, all threads. size: sizeof *o. */
void kin_training_options_init(kin_training_options *o, size_t size);

/* Reads configuration and data, makes or loads the model and does all that comes before the first
 * step. *out is the caller's: kin_training_destroy; NULL on failure.
 * Fails: ARG (a value; a run that is there already without resume), FORMAT (configuration, data,
 * checkpoint), IO, MEM (the planned peak does not fit), UNSUPPORTED, INTERRUPTED. err may be NULL.
 */
kin_status kin_training_create(const kin_training_options *options, kin_training **out,
                               kin_error *err);

/* Gives everything back and sets *t to NULL, without a checkpoint. t and *t may be NULL. */
void kin_training_destroy(kin_training **t);

/* What the last step was like. */
typedef struct kin_training_report {
    size_t size;         /* of this struct, as given to kin_training_get_report */
    int64_t step, steps; /* done, and those there will be in all */
    double loss;         /* of the step; 0 before the first one */
    double grad_norm;    /* before clipping */
    double lr;           /* learning rate of the step */
    double validation;   /* loss on held-out samples; negative where none ran at this step */
} kin_training_report;

/* Writes at most `size` bytes (sizeof *report), also where the library knows less or more members.
 */
void kin_training_get_report(const kin_training *t, kin_training_report *report, size_t size);

/* Takes up to `steps` optimizer steps (0: all that are left) with what is due after each: log,
 * validation, sample pictures, checkpoint. on_step (may be NULL) is called after each; anything but
 * 0 saves a checkpoint and stops. The last step of the run ends with a checkpoint. With no step
 * left: KIN_OK at once.
 * Fails: ARG (steps negative), FORMAT and IO (data that changed, full disk), NUMERIC (the loss is
 * not finite; the last checkpoint stays), MEM, INTERRUPTED (on_step said so). After any failure but
 * INTERRUPTED and ARG the run can only be destroyed. err may be NULL. */
kin_status kin_training_run(kin_training *t, int64_t steps,
                            int (*on_step)(void *user, const kin_training_report *report),
                            void *user, kin_error *err);

/* Writes a checkpoint of this moment. Fails: IO, MEM. err may be NULL. */
kin_status kin_training_save(kin_training *t, kin_error *err);

#ifdef __cplusplus
}
#endif

#endif

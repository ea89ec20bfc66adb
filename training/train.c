/* training/train.c: the training loop. */
#include "training/train.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "training/trainer.h"

static kin_status write_config(const kin_trainer *t)
{
    char path[KIN_PATH_MAX];
    KIN_TRY(kin_path_join(path, t->opt->run, "config.json", &t->ctx->error));
    char *text = cJSON_Print(t->cfg.json);
    if (!text)
        return kin_fail(&t->ctx->error, KIN_ERR_MEM, "train: out of memory");
    kin_status status = kin_file_write(path, text, strlen(text), &t->ctx->error);
    cJSON_free(text);
    return status;
}

kin_status kin_train_save(kin_trainer *t)
{
    const kin_checkpoint_info info = {.step = t->step,
                                      .fingerprint = kin_source_fingerprint(t->source),
                                      .config = t->cfg.json,
                                      .finetune = t->cfg.base ? &t->cfg.finetune : NULL,
                                      .base = t->cfg.init_from};
    KIN_TRY(kin_optimizer_bring(t->optim));
    return kin_checkpoint_save(t->opt->run, t->pipe, t->optim, &info, t->cfg.checkpoint.keep,
                               &t->ctx->error);
}

/* One optimizer step: micro-batches, update. Gradients are the mean over the micro-batches; they
 * are 0 before a step and after it. */
static kin_status train_step(kin_trainer *t, kin_train_losses *losses, kin_optimizer_report *update)
{
    const int64_t micro = t->cfg.accumulation;
    kin_error *err = &t->ctx->error;
    *losses = (kin_train_losses){0};
    for (int64_t i = 0; i < micro; i++) {
        const kin_batch *batch;
        KIN_TRY(kin_loader_next(t->loader, &batch, err));
        KIN_TRY(kin_train_micro_step(t->ctx, &t->task, batch, (uint32_t)(t->step + 1), losses));
    }
    const double scale = 1.0 / (double)micro;
    losses->total *= scale;
    losses->flow *= scale;
    losses->vb *= scale;
    losses->bce *= scale;
    losses->classifier *= scale;
    losses->aux *= scale;
    losses->accuracy *= scale;
    losses->rec *= scale;
    losses->kl *= scale;
    return kin_optimizer_step(t->ctx, t->optim, scale, update);
}

static kin_status draw_samples(kin_trainer *t)
{
    switch (kin_model_get_info(t->pipe->model)->family) {
    case KIN_FAMILY_CLASSIFIER: return KIN_OK;
    case KIN_FAMILY_VAE: return t->held_out.size > 0 ? kin_trainer_reconstructions(t) : KIN_OK;
    default: return kin_trainer_samples(t);
    }
}

static bool due(int64_t step, int64_t every)
{
    return every > 0 && step % every == 0;
}

/* What follows a step: log, validation, samples, checkpoint, in this order, so that a checkpoint's
 * log is complete. */
static kin_status after_step(kin_trainer *t, const kin_train_losses *losses)
{
    const kin_train_config *c = &t->cfg;
    if (due(t->step, c->log_every)) {
        KIN_TRY(kin_trainer_log_step(t, losses));
        if (due(t->step, c->validation.every) && t->held_out.size > 0)
            KIN_TRY(kin_trainer_validate(t));
        if (t->opt->report)
            t->opt->report(t->opt->user, &t->report);
    } else if (due(t->step, c->validation.every) && t->held_out.size > 0) {
        KIN_TRY(kin_trainer_validate(t));
    }
    if (due(t->step, c->samples.every)) {
        kin_status status = draw_samples(t);
        if (status == KIN_ERR_NUMERIC)
            kin_trainer_message(t, "step %" PRId64 ": no sample grid: %s", t->step,
                                t->ctx->error.text);
        else if (status != KIN_ERR_INTERRUPTED)
            KIN_TRY(status);
    }
    return t->step == c->steps || due(t->step, c->checkpoint.every) ? kin_train_save(t) : KIN_OK;
}

static kin_status stop_requested(kin_trainer *t)
{
    int signal = t->opt->interrupted ? t->opt->interrupted(t->opt->user) : 0;
    if (signal == 0 && t->opt->stop_at > 0 && t->step >= t->opt->stop_at)
        signal = 2; /* SIGINT */
    if (signal == 0)
        return KIN_OK;
    if (!due(t->step, t->cfg.checkpoint.every))
        KIN_TRY(kin_train_save(t));
    kin_fail(&t->ctx->error, KIN_ERR_INTERRUPTED, "train: stopped at step %" PRId64 ", saved in %s",
             t->step, t->opt->run);
    t->ctx->error.signal = signal;
    return KIN_ERR_INTERRUPTED;
}

kin_status kin_train_step(kin_trainer *t)
{
    kin_train_losses losses;
    kin_optimizer_report update;
    const bool watch = due(t->step + 1, t->cfg.log_every);
    if (watch)
        kin_trainer_watch_experts(t, true);
    kin_status status = train_step(t, &losses, &update);
    if (watch)
        kin_trainer_watch_experts(t, false);
    if (status == KIN_ERR_NUMERIC)
        return kin_fail_prefix(
            &t->ctx->error, "train: step %" PRId64 " (the last checkpoint is intact)", t->step + 1);
    KIN_TRY(status);
    t->step++;
    kin_trainer_report_step(t, &losses, &update);
    return after_step(t, &losses);
}

bool kin_train_finished(const kin_trainer *t)
{
    return t->step >= t->cfg.steps;
}

const kin_train_report *kin_train_last_report(const kin_trainer *t)
{
    return &t->report;
}

/* The configuration of the run, and where it goes on. */
static kin_status read_config(kin_trainer *t, char checkpoint[KIN_PATH_MAX])
{
    const kin_train_options *o = t->opt;
    kin_error *err = &t->ctx->error;
    char saved[KIN_PATH_MAX];
    const char *path = o->config;
    if (o->resume && !path) {
        KIN_TRY(kin_path_join(saved, o->run, "config.json", err));
        path = saved;
    }
    const bool classify = o->objective && strcmp(o->objective, "classify") == 0;
    const kin_train_overrides over = {o->data, o->steps, classify ? NULL : o->objective};
    if (!path && !classify)
        return kin_fail(err, KIN_ERR_ARG, "train: a configuration file must be given");
    KIN_TRY(path ? kin_train_config_read(path, &over, &t->cfg, err)
                 : kin_train_config_classifier(&over, &t->cfg, err));
    KIN_TRY(kin_train_config_adopt(&t->cfg, t->ctx));
    if (!o->resume)
        return KIN_OK;
    kin_checkpoint_info info;
    KIN_TRY(kin_checkpoint_latest(o->run, checkpoint, err));
    KIN_TRY(kin_checkpoint_read_info(checkpoint, &info, err));
    t->step = info.step;
    kin_status status =
        info.imported ? KIN_OK : kin_train_config_compatible(&t->cfg, info.config, err);
    cJSON_Delete(info.config);
    return status;
}

static kin_status check_same_data(kin_trainer *t, const char *checkpoint)
{
    kin_checkpoint_info info;
    KIN_TRY(kin_checkpoint_read_info(checkpoint, &info, &t->ctx->error));
    cJSON_Delete(info.config);
    return info.imported || info.fingerprint == kin_source_fingerprint(t->source)
               ? KIN_OK
               : kin_fail(&t->ctx->error, KIN_ERR_ARG,
                          "resume: the data are not those the run was started with");
}

static kin_status prepare_run(kin_trainer *t)
{
    const kin_train_options *o = t->opt;
    kin_error *err = &t->ctx->error;
    char latest[KIN_PATH_MAX];
    if (!o->run || !o->run[0])
        return kin_fail(err, KIN_ERR_ARG, "train: a run folder must be given");
    KIN_TRY(kin_path_join(latest, o->run, "latest", err));
    if (o->resume && !kin_path_exists(latest))
        return kin_fail(err, KIN_ERR_ARG,
                        "train: %s holds no checkpoint to go on from; start the run without "
                        "--resume",
                        o->run);
    KIN_TRY(kin_path_make_dirs(o->run, err));
    KIN_TRY(kin_lock_folder(&t->lock, o->run, err));
    if (!o->resume && kin_path_exists(latest))
        return kin_fail(err, KIN_ERR_ARG,
                        "train: %s holds a run already; resume it or name another folder", o->run);
    return kin_checkpoint_clean(o->run, err);
}

/* The planned peak, by a twin of this run on a plan context. A tokenizer made for it is handed to
 * `heir` (or NULL). */
static kin_status plan_peak(kin_ctx *ctx, kin_train_options *opt, kin_trainer *heir, uint64_t *peak)
{
    const kin_ctx_options options = {.backend = KIN_BACKEND_PLAN,
                                     .isa = ctx->isa,
                                     .threads = ctx->threads,
                                     .compute = ctx->compute,
                                     .precision = ctx->precision};
    char checkpoint[KIN_PATH_MAX] = "";
    kin_ctx *plan = NULL;
    kin_train_options quiet = *opt;
    kin_status status = KIN_OK;
    quiet.message = NULL;
    kin_trainer *t = kin_calloc(1, sizeof *t);
    if (!t)
        return kin_fail(&ctx->error, KIN_ERR_MEM, "train: out of memory");
    KIN_GOTO(kin_ctx_create(&options, &plan, &ctx->error));
    t->ctx = plan;
    t->opt = &quiet;
    t->lock = KIN_LOCK_NONE;
    KIN_GOTO(read_config(t, checkpoint));
    KIN_GOTO(kin_trainer_setup(t, opt->resume ? checkpoint : NULL));
    KIN_GOTO(kin_trainer_plan(t, peak));
    if (heir) {
        heir->spiece = t->spiece;
        heir->spiece_bytes = t->spiece_bytes;
        t->spiece = NULL;
    }
done:
    if (status != KIN_OK && plan)
        ctx->error = plan->error;
    kin_trainer_close(t);
    kin_free(t);
    if (plan)
        kin_ctx_destroy(&plan);
    return status;
}

static kin_status check_memory(kin_trainer *t)
{
    const uint64_t left = kin_memory_available(), mb = UINT64_C(1) << 20;
    uint64_t peak = 0;
    KIN_TRY(plan_peak(t->ctx, t->opt, t, &peak));
    t->opt->peak_bytes = peak;
    if (left == 0 || peak <= left)
        return KIN_OK;
    if (!t->opt->force)
        return kin_fail(&t->ctx->error, KIN_ERR_MEM,
                        "train: the run needs about %" PRIu64 " MB, %" PRIu64
                        " MB are free (force tries anyway)",
                        peak / mb, left / mb);
    kin_trainer_message(t, "the run needs about %" PRIu64 " MB, %" PRIu64 " MB are free", peak / mb,
                        left / mb);
    return KIN_OK;
}

/* All that comes before the first step. */
static kin_status start(kin_trainer *t)
{
    char checkpoint[KIN_PATH_MAX] = "";
    kin_error *err = &t->ctx->error;
    KIN_TRY(prepare_run(t));
    KIN_TRY(kin_trainer_encode_data(t->ctx, t->opt, t->encoded));
    KIN_TRY(read_config(t, checkpoint));
    KIN_TRY(check_memory(t));
    KIN_TRY(kin_trainer_setup(t, t->opt->resume ? checkpoint : NULL));
    if (t->opt->resume)
        KIN_TRY(check_same_data(t, checkpoint));
    KIN_TRY(write_config(t));
    KIN_TRY(kin_source_reserve(t->source, err));
    KIN_TRY(kin_validation_read(t->source, &t->held_out, err));
    KIN_TRY(kin_log_open(t->opt->run, t->step, &t->log, err));
    const uint64_t first =
        (uint64_t)t->step * (uint64_t)t->cfg.batch * (uint64_t)t->cfg.accumulation;
    KIN_TRY(kin_loader_start(t->source, t->cfg.seed, t->cfg.batch, first, &t->loader, err));
    t->started = t->logged = kin_trainer_clock();
    t->logged_step = t->step;
    t->report = (kin_train_report){.step = t->step, .steps = t->cfg.steps, .val_loss = -1};
    return KIN_OK;
}

kin_status kin_train_open(kin_ctx *ctx, kin_train_options *opt, kin_trainer **out)
{
    kin_trainer *t = kin_calloc(1, sizeof *t);
    ctx->error = (kin_error){0};
    *out = t;
    if (!t)
        return kin_fail(&ctx->error, KIN_ERR_MEM, "train: out of memory");
    t->ctx = ctx;
    t->opt = opt;
    t->lock = KIN_LOCK_NONE;
    t->compute = ctx->compute;
    t->data = opt->data;
    kin_status status = start(t);
    if (status != KIN_OK)
        kin_train_close(out);
    return status;
}

void kin_train_close(kin_trainer **t)
{
    if (!t || !*t)
        return;
    kin_trainer_close(*t);
    kin_lock_release(&(*t)->lock);
    (*t)->ctx->compute = (*t)->compute;
    (*t)->opt->data = (*t)->data; /* note: that of encoded clips is the trainer's */
    kin_free(*t);
    *t = NULL;
}

kin_status kin_train_run(kin_ctx *ctx, kin_train_options *opt)
{
    kin_trainer *t;
    if (opt->dry_run) {
        ctx->error = (kin_error){0};
        return plan_peak(ctx, opt, NULL, &opt->peak_bytes);
    }
    kin_status status = kin_train_open(ctx, opt, &t);
    if (status == KIN_OK && kin_train_finished(t))
        status = kin_train_save(t);
    while (status == KIN_OK && !kin_train_finished(t)) {
        status = kin_train_step(t);
        if (status == KIN_OK && !kin_train_finished(t))
            status = stop_requested(t);
    }
    kin_train_close(&t);
    return status;
}

/* training/finetune.c: a run that fine-tunes a published video transformer: its clips encoded, its
 * base frozen, its noise levels those of the published trainer. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "training/trainer.h"

/* --- data --- */

typedef struct encoding {
    const kin_train_options *opt;
    const char *what; /* of the last message */
    int64_t told;
} encoding;

/* One line per tenth. */
static kin_status on_clip(void *user, const char *what, int64_t done, int64_t total, kin_error *err)
{
    encoding *e = user;
    const int64_t tenth = 10 * done / total;
    char line[96];
    if (!e->what || strcmp(e->what, what) != 0 || tenth > e->told) {
        e->what = what;
        e->told = tenth;
        snprintf(line, sizeof line, "%s encoded: %" PRId64 " of %" PRId64, what, done, total);
        if (e->opt->message)
            e->opt->message(e->opt->user, line);
    }
    const int signal = e->opt->interrupted ? e->opt->interrupted(e->opt->user) : 0;
    if (signal == 0)
        return KIN_OK;
    kin_fail(err, KIN_ERR_INTERRUPTED,
             "train: stopped while clips are encoded; what is done stays");
    err->signal = signal;
    return KIN_ERR_INTERRUPTED;
}

static void on_message(void *user, const char *text)
{
    const encoding *e = user;
    if (e->opt->message)
        e->opt->message(e->opt->user, text);
}

static kin_status encode(kin_ctx *ctx, const kin_train_config *cfg, kin_train_options *opt,
                         char path[KIN_PATH_MAX])
{
    kin_error *err = &ctx->error;
    encoding e = {.opt = opt};
    /* note: what is held out is chosen when the clips are read */
    kin_train_config all = *cfg;
    all.data.held_out = 0;
    KIN_TRY(kin_path_join(path, opt->run, "encoded", err));
    kin_clips_options o = {.data = &all,
                           .model = cfg->init_from,
                           .out = path,
                           .progress = on_clip,
                           .message = on_message,
                           .user = &e};
    kin_error failed = {0};
    const kin_status status = kin_clips_make(ctx, &o, &failed);
    if (status != KIN_OK) {
        *err = failed;
        return status;
    }
    opt->data = path;
    return KIN_OK;
}

kin_status kin_trainer_encode_data(kin_ctx *ctx, kin_train_options *opt, char path[KIN_PATH_MAX])
{
    kin_error *err = &ctx->error;
    char saved[KIN_PATH_MAX];
    const char *config = opt->config;
    kin_train_config cfg;
    path[0] = '\0';
    if (opt->resume && !config) {
        KIN_TRY(kin_path_join(saved, opt->run, "config.json", err));
        config = saved;
    }
    if (!config || opt->objective)
        return KIN_OK;
    const kin_train_overrides over = {opt->data, opt->steps, NULL};
    KIN_TRY(kin_train_config_read(config, &over, &cfg, err));
    const bool raw = cfg.base && (cfg.data.simulate || !kin_clips_is(cfg.data.path));
    const kin_dtype compute = ctx->compute;
    kin_status status = KIN_OK;
    if (raw && (status = kin_train_config_adopt(&cfg, ctx)) == KIN_OK)
        status = encode(ctx, &cfg, opt, path);
    ctx->compute = compute;
    kin_train_config_free(&cfg);
    return status;
}

/* --- model --- */

static kin_status check_clips(const kin_trainer *t)
{
    const kin_clips *clips = kin_source_clips(t->source);
    const kin_model_info *info = kin_model_get_info(t->pipe->model);
    kin_error *err = &t->ctx->error;
    if (!clips)
        return kin_fail(err, KIN_ERR_ARG,
                        "train: fine-tuning needs encoded clips (kinema dataset cache)");
    const kin_clips_info *c = kin_clips_get_info(clips);
    if (c->text_dim != info->text_dim || (info->text_len && info->text_len != c->text_len))
        return kin_fail(err, KIN_ERR_ARG,
                        "train: text states [%" PRId64 ",%" PRId64
                        "] of the encoded clips do not fit the model, which takes [%" PRId64
                        ",%" PRId64 "]",
                        c->text_len, c->text_dim, info->text_len, info->text_dim);
    return KIN_OK;
}

static kin_status set_levels(kin_trainer *t)
{
    kin_error *err = &t->ctx->error;
    kin_scheduler s;
    t->levels = kin_levels_flow(t->cfg.objective.shift);
    if (t->cfg.base == KIN_FAMILY_COGVIDEOX) {
        KIN_TRY(kin_scheduler_read(t->pipe->scheduler_config, &s, err));
        KIN_TRY(kin_levels_cogvideox(&s, &t->levels, err));
    }
    t->task.levels = &t->levels;
    return KIN_OK;
}

kin_status kin_trainer_setup_finetune(kin_trainer *t, const char *checkpoint)
{
    const kin_train_config *c = &t->cfg;
    KIN_TRY(kin_source_open(c, false, NULL, NULL, &t->source, &t->ctx->error));
    KIN_TRY(kin_finetune_open(t->ctx, c->init_from, &c->finetune, checkpoint, &t->pipe));
    KIN_TRY(check_clips(t));
    KIN_TRY(set_levels(t));
    kin_model_set_checkpointing(t->pipe->model, c->checkpointing);
    const kin_clips_info *clips = kin_clips_get_info(kin_source_clips(t->source));
    if (strcmp(clips->model, c->init_from) != 0)
        kin_trainer_message(t, "note: the clips were encoded with %.200s, not with this model",
                            clips->model);
    t->task.pipe = t->pipe;
    t->task.objective = c->objective;
    t->task.seed = c->seed;
    t->task.latent_scale = clips->scale;
    t->task.latent_shift = clips->shift;
    t->task.latent_mean = clips->mean;
    t->task.latent_inv_std = clips->inv_std;
    return kin_trainer_make_optimizer(t, checkpoint);
}

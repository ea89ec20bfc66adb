/* training/setup.c: builds a training run: data, tokenizer, model, optimizer. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/json.h"
#include "training/trainer.h"

void kin_trainer_message(const kin_trainer *t, const char *fmt, ...)
{
    char text[1024];
    va_list ap;
    if (!t->opt->message)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    t->opt->message(t->opt->user, text);
}

double kin_trainer_clock(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

static void source_note(void *user, const char *text)
{
    kin_trainer_message(user, "%s", text);
}

/* Prompts of the first training clips, for the tokenizer's training. */
static kin_status sentences(kin_trainer *t, char ***out, int *n)
{
    const int64_t count = kin_source_count(t->source);
    int64_t want = t->cfg.tokenizer.sentences;
    if (count > 0 && want > count)
        want = count;
    char **list = kin_calloc((size_t)want, sizeof *list);
    if (!list)
        return kin_fail(&t->ctx->error, KIN_ERR_MEM, "tokenizer: out of memory");
    *out = list;
    *n = 0;
    while (*n < want) {
        KIN_TRY(kin_source_prompt(t->source, *n, false, &list[*n], &t->ctx->error));
        (*n)++;
    }
    return KIN_OK;
}

static kin_status train_tokenizer(kin_trainer *t, void **model, size_t *bytes)
{
    char **list = NULL;
    int n = 0;
    kin_status status = sentences(t, &list, &n);
    if (status == KIN_OK)
        status = kin_tokenizer_train_type(
            t->cfg.tokenizer.type, (const char *const *)list, n, (int)t->cfg.tokenizer.vocab_size,
            t->cfg.tokenizer.byte_fallback, model, bytes, &t->ctx->error);
    for (int i = 0; i < n; i++)
        kin_free(list[i]);
    kin_free(list);
    return status;
}

static kin_status default_scheduler(const kin_trainer *t, cJSON **out)
{
    if (t->cfg.use_ddpm)
        return kin_ddpm_scheduler(&t->cfg.ddpm, out, &t->ctx->error);
    cJSON *s = cJSON_CreateObject();
    if (!s || !cJSON_AddStringToObject(s, "_class_name", "FlowMatchEulerDiscreteScheduler") ||
        !cJSON_AddNumberToObject(s, "num_train_timesteps", 1000) ||
        !cJSON_AddNumberToObject(s, "shift", (double)t->cfg.objective.shift)) {
        cJSON_Delete(s);
        return kin_fail(&t->ctx->error, KIN_ERR_MEM, "train: out of memory");
    }
    *out = s;
    return KIN_OK;
}

static kin_status get_tokenizer(kin_trainer *t)
{
    const kin_train_config *c = &t->cfg;
    if (!c->text_encoder || t->spiece)
        return KIN_OK;
    if (c->tokenizer.file[0])
        return kin_file_read(c->tokenizer.file, 64 << 20, (char **)&t->spiece, &t->spiece_bytes,
                             &t->ctx->error);
    return train_tokenizer(t, &t->spiece, &t->spiece_bytes);
}

/* The VAE of cached latents becomes part of the new model. */
static kin_status attach_vae(kin_trainer *t)
{
    const kin_latents_info *info = kin_source_latents(t->source);
    const char *const pair[] = {"diffusers", "AutoencoderKL"};
    kin_pipeline *p = t->pipe;
    KIN_TRY(kin_vae_model_load(t->ctx, info->vae, &p->vae));
    if (!kin_json_put(p->index, "vae", cJSON_CreateStringArray(pair, 2)))
        return kin_fail(&t->ctx->error, KIN_ERR_MEM, "train: out of memory");
    p->height = p->width = info->image_size;
    return KIN_OK;
}

static kin_status new_pipeline(kin_trainer *t)
{
    const kin_train_config *c = &t->cfg;
    cJSON *scheduler = NULL;
    KIN_TRY(get_tokenizer(t));
    if (!c->scheduler && !c->autoencoder)
        KIN_TRY(default_scheduler(t, &scheduler));
    kin_status status =
        kin_pipeline_create(t->ctx, c->transformer, c->text_encoder, t->spiece, t->spiece_bytes,
                            c->scheduler ? c->scheduler : scheduler, c->seed, &t->pipe);
    cJSON_Delete(scheduler);
    KIN_TRY(status);
    if (c->autoencoder) { /* which takes any size */
        t->pipe->frames = t->pipe->height = t->pipe->width = 0;
        return KIN_OK;
    }
    t->pipe->frames = c->data.frames;
    t->pipe->height = c->data.height;
    t->pipe->width = c->data.width;
    t->pipe->fps = c->data.fps;
    return kin_source_latents(t->source) ? attach_vae(t) : KIN_OK;
}

/* A new classifier has the classes of the data, unless its configuration says a number. */
static kin_status count_classes(kin_trainer *t)
{
    cJSON *c = cJSON_GetObjectItemCaseSensitive(t->cfg.json, "transformer");
    const cJSON *name = cJSON_GetObjectItemCaseSensitive(c, "_class_name");
    if (!cJSON_IsString(name) || strcmp(name->valuestring, "KinemaImageClassifier") != 0 ||
        cJSON_HasObjectItem(c, "num_classes"))
        return KIN_OK;
    return cJSON_AddNumberToObject(c, "num_classes", (double)kin_source_classes(t->source))
               ? KIN_OK
               : kin_fail(&t->ctx->error, KIN_ERR_MEM, "train: out of memory");
}

static kin_status load_pipeline(kin_trainer *t, const char *dir)
{
    if (t->cfg.autoencoder)
        KIN_TRY(kin_pipeline_load_autoencoder(t->ctx, dir, &t->pipe));
    else
        KIN_TRY(kin_pipeline_load(t->ctx, dir, &t->pipe));
    if (!t->cfg.autoencoder && kin_model_vae(t->pipe->model))
        return kin_fail(&t->ctx->error, KIN_ERR_ARG,
                        "train: %s is an autoencoder; objective.kind must be vae (--objective vae)",
                        dir);
    return kin_pipeline_make_trainable(t->pipe);
}

/* The samples of an autoencoder whose configuration was not at hand have its own size. */
static void adopt_size(kin_trainer *t)
{
    const kin_vae_info *info = kin_vae_get_info(kin_model_vae(t->pipe->model));
    if (!t->cfg.data.height)
        t->cfg.data.height = info->sample_size;
    if (!t->cfg.data.width)
        t->cfg.data.width = t->cfg.data.height;
    if (!t->cfg.data.frames)
        t->cfg.data.frames = info->frame_reduction > 1 ? 4 * info->frame_reduction + 1 : 1;
}

static kin_status check_pipeline(kin_trainer *t)
{
    const kin_model_info *info = kin_model_get_info(t->pipe->model);
    if (t->cfg.autoencoder)
        return kin_vae_objective_check(kin_model_vae(t->pipe->model), t->cfg.data.frames,
                                       t->cfg.data.height, t->cfg.data.width, &t->ctx->error);
    if (info->input_size) {
        if (kin_source_classes(t->source) > info->num_classes)
            return kin_fail(&t->ctx->error, KIN_ERR_ARG,
                            "train: %lld classes in the data must be at most the model's %lld",
                            (long long)kin_source_classes(t->source), (long long)info->num_classes);
        return KIN_OK;
    }
    if (!t->pipe->text || !t->pipe->tokenizer)
        return kin_fail(&t->ctx->error, KIN_ERR_ARG, "train: this model needs a text_encoder");
    if (kin_tokenizer_vocab(t->pipe->tokenizer) > kin_text_encoder_vocab(t->pipe->text))
        return kin_fail(&t->ctx->error, KIN_ERR_ARG,
                        "train: text_encoder.vocab_size %lld must be at least the tokenizer's %d",
                        (long long)kin_text_encoder_vocab(t->pipe->text),
                        kin_tokenizer_vocab(t->pipe->tokenizer));
    return KIN_OK;
}

/* The model, its scheduler and the objective must be of one kind. */
static kin_status set_objective(kin_trainer *t)
{
    const kin_model_info *info = kin_model_get_info(t->pipe->model);
    const kin_train_config *c = &t->cfg;
    kin_error *err = &t->ctx->error;
    bool flow;
    if (c->autoencoder)
        return KIN_OK;
    KIN_TRY(kin_pipeline_is_flow(t->pipe, &flow, err));
    if (t->pipe->scheduler_config && flow == c->use_ddpm)
        return kin_fail(err, KIN_ERR_ARG,
                        "train: the model's scheduler is %s flow and objective.kind is %s",
                        flow ? "a" : "no", c->use_ddpm ? "ddpm" : "flow");
    if (!c->use_ddpm)
        return KIN_OK;
    if (info->family != KIN_FAMILY_DIT)
        return kin_fail(err, KIN_ERR_ARG,
                        "train: objective.kind ddpm is for class-conditional image models");
    if (c->ddpm.variance == KIN_VARIANCE_LEARNED_RANGE &&
        info->out_channels != 2 * info->in_channels)
        return kin_fail(err, KIN_ERR_ARG,
                        "train: variance_type learned_range needs learn_sigma in the transformer");
    if (!t->pipe->scheduler_config)
        KIN_TRY(kin_ddpm_scheduler(&c->ddpm, &t->pipe->scheduler_config, err));
    KIN_TRY(kin_ddpm_make(&c->ddpm, &t->ddpm, err));
    t->task.ddpm = &t->ddpm;
    return KIN_OK;
}

/* Class names into the model, unless it has names already. */
static kin_status name_classes(kin_trainer *t)
{
    const int64_t n = kin_source_classes(t->source);
    bool told = false;
    for (int64_t i = 0; i < n; i++) {
        const char *name = kin_source_class_name(t->source, i),
                   *old = kin_pipeline_class_name(t->pipe, i);
        if (!old)
            KIN_TRY(kin_pipeline_name_class(t->pipe, i, name));
        else if (strcmp(old, name) != 0 && !told) {
            kin_trainer_message(t, "class %lld is %.100s in the data and %.100s in the model",
                                (long long)i, name, old);
            told = true;
        }
    }
    return KIN_OK;
}

static kin_status set_text(kin_trainer *t)
{
    const kin_model_info *info = kin_model_get_info(t->pipe->model);
    kin_null_text *null = &t->task.null_text;
    const int64_t len = kin_pipeline_text_len(t->pipe);
    if (info->input_size || t->cfg.autoencoder)
        return KIN_OK;
    kin_source_set_tokenizer(t->source, t->pipe->tokenizer, len);
    null->ids = kin_calloc((size_t)len, sizeof *null->ids);
    null->mask = kin_calloc((size_t)len, 1);
    if (!null->ids || !null->mask)
        return kin_fail(&t->ctx->error, KIN_ERR_MEM, "train: out of memory");
    return kin_tokenizer_encode_padded(t->pipe->tokenizer, "", 0, (int)len, null->ids, null->mask,
                                       &t->ctx->error);
}

kin_status kin_trainer_make_optimizer(kin_trainer *t, const char *checkpoint)
{
    static const char *const prefixes[] = {"", "text_encoder."};
    kin_params *const tables[] = {t->pipe->params, t->pipe->text_params};
    KIN_TRY(kin_optimizer_create(&t->cfg.optimizer, tables, prefixes, 2, kin_ctx_is_plan(t->ctx),
                                 &t->optim, &t->ctx->error));
    if (checkpoint && !kin_ctx_is_plan(t->ctx))
        KIN_TRY(kin_checkpoint_load_optimizer(checkpoint, t->step, t->optim, &t->ctx->error));
    return kin_optimizer_settle(t->ctx, t->optim);
}

static void count_tokens(kin_trainer *t)
{
    const kin_model_info *info = kin_model_get_info(t->pipe->model);
    const kin_sample_shape shape = kin_source_shape(t->source);
    t->tokens = t->cfg.batch * t->cfg.accumulation * (shape.frames / info->patch[0]) *
                (shape.height / info->patch[1]) * (shape.width / info->patch[2]);
}

static kin_status setup_own(kin_trainer *t, const char *checkpoint)
{
    const char *from = checkpoint ? checkpoint : t->cfg.init_from[0] ? t->cfg.init_from : NULL;
    bool classes = t->cfg.image > 0;
    if (from) {
        KIN_TRY(load_pipeline(t, from));
        classes = kin_model_get_info(t->pipe->model)->input_size > 0;
        if (t->cfg.autoencoder)
            adopt_size(t);
    }
    if (classes)
        t->cfg.data.frames = 1;
    KIN_TRY(kin_source_open(&t->cfg, classes, source_note, t, &t->source, &t->ctx->error));
    if (!from) {
        KIN_TRY(count_classes(t));
        KIN_TRY(new_pipeline(t));
    }
    KIN_TRY(check_pipeline(t));
    KIN_TRY(set_objective(t));
    if (classes && !t->cfg.autoencoder)
        KIN_TRY(name_classes(t));
    if (!t->cfg.autoencoder)
        t->pipe->cfg_scale = t->cfg.samples.cfg_scale;
    KIN_TRY(set_text(t));
    kin_model_set_checkpointing(t->pipe->model, t->cfg.checkpointing);
    t->task.pipe = t->pipe;
    t->task.objective = t->cfg.objective;
    t->task.vae = t->cfg.vae;
    if (classes)
        t->task.objective.condition_dropout = kin_model_get_info(t->pipe->model)->class_dropout;
    t->task.seed = t->cfg.seed;
    if (kin_source_latents(t->source)) {
        t->task.latent_scale = kin_source_latents(t->source)->scale;
        t->task.latent_shift = kin_source_latents(t->source)->shift;
    }
    return kin_trainer_make_optimizer(t, checkpoint);
}

kin_status kin_trainer_setup(kin_trainer *t, const char *checkpoint)
{
    KIN_TRY(t->cfg.base ? kin_trainer_setup_finetune(t, checkpoint) : setup_own(t, checkpoint));
    count_tokens(t);
    if (t->ctx->device)
        KIN_TRY(kin_replay_create(t->ctx, &t->task.replay));
    return kin_trainer_experts_alloc(t);
}

void kin_trainer_close(kin_trainer *t)
{
    kin_loader_stop(&t->loader);
    kin_log_close(&t->log);
    kin_replay_destroy(&t->task.replay);
    kin_optimizer_destroy(&t->optim);
    if (t->pipe)
        kin_pipeline_destroy(&t->pipe);
    kin_source_close(&t->source);
    kin_batch_free(&t->held_out);
    kin_free(t->spiece);
    kin_free(t->task.null_text.ids);
    kin_free(t->task.null_text.mask);
    kin_free(t->experts.n);
    kin_free(t->experts.seen);
    kin_free(t->experts.share);
    kin_free(t->prompts);
    kin_free(t->prompt);
    kin_ddpm_free(&t->ddpm);
    kin_levels_free(&t->levels);
    kin_train_config_free(&t->cfg);
}

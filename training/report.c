/* training/report.c: what a run tells while it goes: log lines, validation, sample grids. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "io/png.h"
#include "training/trainer.h"

/* --- experts --- */

kin_status kin_trainer_experts_alloc(kin_trainer *t)
{
    const kin_model_info *info = kin_model_get_info(t->pipe->model);
    kin_expert_counts *e = &t->experts;
    if (info->experts == 0)
        return KIN_OK;
    e->layers = info->num_layers;
    e->experts = info->experts;
    e->n = kin_calloc((size_t)(e->layers * (e->experts + 1)), sizeof *e->n);
    e->seen = kin_calloc((size_t)e->layers, sizeof *e->seen);
    e->share = kin_calloc((size_t)e->experts + 1, sizeof *e->share);
    return e->n && e->seen && e->share
               ? KIN_OK
               : kin_fail(&t->ctx->error, KIN_ERR_MEM, "train: out of memory");
}

/* Counts the routing decisions that the model shows under "layers.I.route" [B,N,K]. */
static void count_experts(void *user, const char *name, const kin_tensor *x)
{
    kin_expert_counts *e = &((kin_trainer *)user)->experts;
    int layer, at = 0;
    if (sscanf(name, "layers.%d.route%n", &layer, &at) != 1 || at == 0 || name[at] != '\0' ||
        layer < 0 || layer >= e->layers || x->dtype != KIN_DTYPE_I32)
        return;
    const int64_t k = x->size[x->ndim - 1], tokens = kin_tensor_numel(x) / k;
    const int32_t *idx = x->data;
    int64_t *n = e->n + layer * (e->experts + 1);
    for (int64_t i = 0; i < tokens * k; i++) {
        /* note: a token of a null sample names the unconditional expert in every slot but uses one
         */
        if (idx[i] > e->experts || idx[i] < 0 || (idx[i] == e->experts && i % k != 0))
            continue;
        n[idx[i]]++;
    }
    e->seen[layer] = true;
}

void kin_trainer_watch_experts(kin_trainer *t, bool on)
{
    kin_expert_counts *e = &t->experts;
    if (e->experts == 0)
        return;
    t->ctx->tap = on ? count_experts : NULL;
    t->ctx->tap_user = on ? t : NULL;
    if (on) {
        memset(e->n, 0, (size_t)(e->layers * (e->experts + 1)) * sizeof *e->n);
        memset(e->seen, 0, (size_t)e->layers * sizeof *e->seen);
    }
}

/* Shares of the routed experts among the tokens that are routed, then the share of all tokens that
 * went to the unconditional one. */
static void log_experts(kin_trainer *t)
{
    const kin_expert_counts *e = &t->experts;
    char key[24];
    double lo = 1, hi = 0;
    kin_log_open_object(&t->log, "experts");
    for (int64_t l = 0; l < e->layers; l++) {
        const int64_t *n = e->n + l * (e->experts + 1);
        int64_t routed = 0;
        if (!e->seen[l])
            continue;
        for (int64_t i = 0; i < e->experts; i++)
            routed += n[i];
        for (int64_t i = 0; i < e->experts; i++) {
            e->share[i] = routed ? (double)n[i] / (double)routed : 0;
            lo = fmin(lo, e->share[i]);
            hi = fmax(hi, e->share[i]);
        }
        const int64_t all = routed + n[e->experts];
        e->share[e->experts] = all ? (double)n[e->experts] / (double)all : 0;
        snprintf(key, sizeof key, "%" PRId64, l);
        kin_log_array(&t->log, key, e->share, (int)e->experts + 1);
    }
    kin_log_close_object(&t->log);
    t->report.expert_share_min = lo;
    t->report.expert_share_max = hi;
}

/* --- steps --- */

static void log_time(kin_trainer *t)
{
    const double now = kin_trainer_clock();
    const double seconds = now - t->logged;
    kin_train_report *r = &t->report;
    r->it_per_s = seconds > 0 ? (double)(t->step - t->logged_step) / seconds : 0;
    r->tokens_per_s = r->it_per_s * (double)t->tokens;
    r->eta_s = r->it_per_s > 0 ? (double)(r->steps - t->step) / r->it_per_s : 0;
    t->logged = now;
    t->logged_step = t->step;
    kin_log_open_object(&t->log, "time");
    kin_log_number(&t->log, "s", now - t->started);
    kin_log_number(&t->log, "it_per_s", r->it_per_s);
    kin_log_number(&t->log, "tokens_per_s", r->tokens_per_s);
    kin_log_close_object(&t->log);
}

kin_status kin_trainer_log_step(kin_trainer *t, const kin_train_losses *l,
                                const kin_optimizer_report *update)
{
    kin_train_report *r = &t->report;
    *r = (kin_train_report){.step = t->step,
                            .steps = t->cfg.steps,
                            .loss = l->total,
                            .mse = l->flow,
                            .bce = l->bce,
                            .aux = l->aux,
                            .grad_norm = update->grad_norm,
                            .lr = update->lr,
                            .expert_share_min = -1,
                            .expert_share_max = -1,
                            .val_loss = -1,
                            .accuracy = l->has_accuracy ? l->accuracy : -1};
    kin_log_begin(&t->log, t->step);
    kin_log_number(&t->log, "loss", l->total);
    if (l->has_flow)
        kin_log_number(&t->log, "mse", l->flow);
    if (l->has_accuracy)
        kin_log_number(&t->log, "accuracy", l->accuracy);
    if (l->has_bce) {
        kin_log_number(&t->log, "bce", l->bce);
        kin_log_number(&t->log, "classifier", l->classifier);
    }
    if (l->has_vb)
        kin_log_number(&t->log, "vb", l->vb);
    if (l->has_aux)
        kin_log_number(&t->log, "aux", l->aux);
    kin_log_number(&t->log, "grad_norm", update->grad_norm);
    kin_log_number(&t->log, "lr", update->lr);
    kin_log_number(&t->log, "samples", (double)(t->step * t->cfg.batch * t->cfg.accumulation));
    if (t->experts.experts > 0)
        log_experts(t);
    log_time(t);
    return kin_log_end(&t->log, &t->ctx->error);
}

/* --- validation --- */

static kin_status run_validation(kin_trainer *t, bool shuffled, kin_validation_result *out)
{
    kin_validation_options opt = {.sigmas = t->cfg.validation.sigmas,
                                  .batch = t->cfg.batch,
                                  .shuffled = shuffled,
                                  .seed = t->cfg.seed};
    memcpy(opt.sigma, t->cfg.validation.sigma, sizeof opt.sigma);
    return kin_validate(t->ctx, &t->task, &t->held_out, &opt, out);
}

static void log_health(kin_trainer *t, const kin_mlp_health *h)
{
    if (h->has_time) {
        kin_log_open_object(&t->log, "time_mlp");
        kin_log_number(&t->log, "mean", h->time_mean);
        kin_log_number(&t->log, "spread", h->time_spread);
        kin_log_close_object(&t->log);
    }
    if (h->has_quant) {
        kin_log_open_object(&t->log, "quantity_mlp");
        kin_log_number(&t->log, "mean", h->quant_mean);
        kin_log_number(&t->log, "spread", h->quant_spread);
        kin_log_close_object(&t->log);
    }
    if ((h->has_time && h->time_spread < 1e-3) || (h->has_quant && h->quant_spread < 1e-4))
        kin_trainer_message(t,
                            "step %" PRId64 ": a conditioning MLP hardly reacts any more (spread: "
                            "time %.2g, quantities %.2g)",
                            t->step, h->time_spread, h->quant_spread);
}

static kin_status validate_averages(kin_trainer *t)
{
    kin_validation_result own, other = {0};
    kin_mlp_health health;
    char key[24];
    KIN_TRY(run_validation(t, false, &own));
    if (t->cfg.validation.shuffled)
        KIN_TRY(run_validation(t, true, &other));
    KIN_TRY(kin_train_health(t->ctx, &t->task, &t->held_out, &health));
    kin_log_begin(&t->log, t->step);
    kin_log_number(&t->log, "val", own.mean);
    kin_log_open_object(&t->log, "val_at");
    for (int i = 0; i < t->cfg.validation.sigmas; i++) {
        snprintf(key, sizeof key, "%g", (double)t->cfg.validation.sigma[i]);
        kin_log_number(&t->log, key, own.at[i]);
    }
    kin_log_close_object(&t->log);
    if (t->cfg.validation.shuffled)
        kin_log_number(&t->log, "val_shuffled", other.mean);
    log_health(t, &health);
    t->report.val_loss = own.mean;
    return kin_log_end(&t->log, &t->ctx->error);
}

static kin_status validate_classes(kin_trainer *t)
{
    double loss, accuracy;
    KIN_TRY(kin_validate_classes(t->ctx, &t->task, &t->held_out, t->cfg.batch, &loss, &accuracy));
    kin_log_begin(&t->log, t->step);
    kin_log_number(&t->log, "val", loss);
    kin_log_number(&t->log, "val_accuracy", accuracy);
    t->report.val_loss = loss;
    return kin_log_end(&t->log, &t->ctx->error);
}

kin_status kin_trainer_validate(kin_trainer *t)
{
    const bool classes = kin_model_get_info(t->pipe->model)->family == KIN_FAMILY_CLASSIFIER;
    kin_optimizer_swap_ema(t->optim);
    kin_status status = classes ? validate_classes(t) : validate_averages(t);
    kin_optimizer_swap_ema(t->optim);
    return status;
}

/* --- sample grids --- */

/* A clip is a row of its frames (at most 16, evenly); images stand `across` in a row. */
typedef struct grid {
    kin_tensor image; /* u8 [H,W,3] */
    int64_t across, frames, height, width;
} grid;

/* Images in a row: one of each class where they fit, else a square. */
static int64_t images_across(int64_t count, int64_t classes)
{
    int64_t side = 1;
    while (side * side < count)
        side++;
    return classes <= 32 && classes <= count ? classes : side;
}

static void put_frame(const grid *g, int64_t row, int64_t column, const uint8_t *src)
{
    for (int64_t y = 0; y < g->height; y++)
        memcpy((uint8_t *)g->image.data +
                   ((row * g->height + y) * g->image.size[1] + column * g->width) * 3,
               src + y * g->width * 3, (size_t)g->width * 3);
}

static kin_status put_clip(void *user, int64_t clip, const kin_tensor *frames)
{
    const grid *g = user;
    const int64_t total = frames->size[0];
    for (int64_t c = 0; c < g->frames; c++) {
        const int64_t f = g->frames > 1 ? c * (total - 1) / (g->frames - 1) : 0;
        put_frame(g, clip / g->across, clip % g->across * g->frames + c,
                  (const uint8_t *)frames->data + f * g->height * g->width * 3);
    }
    return KIN_OK;
}

static kin_status sample_params(kin_trainer *t, kin_generate_params *p, float *prior, float *quant,
                                int32_t *labels)
{
    const int64_t held = t->held_out.size;
    const bool image = kin_model_get_info(t->pipe->model)->family == KIN_FAMILY_DIT;
    for (int64_t i = 0; i < p->count; i++) {
        if (image) {
            labels[i] = (int32_t)(i % kin_model_get_info(t->pipe->model)->num_classes);
        } else if (held > 0) {
            memcpy(prior + i * KIN_PHYS_CATEGORIES,
                   t->held_out.prior + i % held * KIN_PHYS_CATEGORIES,
                   KIN_PHYS_CATEGORIES * sizeof(float));
            memcpy(quant + i * KIN_PHYS_QUANTITIES,
                   t->held_out.quant + i % held * KIN_PHYS_QUANTITIES,
                   KIN_PHYS_QUANTITIES * sizeof(float));
        }
    }
    if (image) {
        p->labels = labels;
    } else {
        p->prompts = t->prompt;
        p->prior = prior;
        p->quant = quant;
    }
    return KIN_OK;
}

/* Prompts of the grid: those of the first held-out clips. */
static kin_status sample_prompts(kin_trainer *t)
{
    const int64_t n = t->cfg.samples.count, held = kin_source_held_out(t->source);
    char **text = kin_calloc((size_t)n, sizeof *text);
    size_t bytes = 1;
    kin_status status = KIN_OK;
    t->prompt = kin_calloc((size_t)n, sizeof *t->prompt);
    if (!text || !t->prompt)
        status = kin_fail(&t->ctx->error, KIN_ERR_MEM, "samples: out of memory");
    for (int64_t i = 0; i < n && status == KIN_OK; i++) {
        status =
            kin_source_prompt(t->source, held ? i % held : i, held > 0, &text[i], &t->ctx->error);
        if (status == KIN_OK)
            bytes += strlen(text[i]) + 1;
    }
    if (status == KIN_OK && !(t->prompts = kin_calloc(bytes, 1)))
        status = kin_fail(&t->ctx->error, KIN_ERR_MEM, "samples: out of memory");
    char *at = t->prompts;
    for (int64_t i = 0; text && i < n; i++) {
        if (status == KIN_OK) {
            memcpy(at, text[i], strlen(text[i]) + 1);
            t->prompt[i] = at;
            at += strlen(at) + 1;
        }
        kin_free(text[i]);
    }
    kin_free(text);
    return status;
}

static kin_status poll_stop(void *user, int64_t clips, int step, int steps)
{
    const kin_trainer *t = user;
    (void)clips;
    (void)step;
    (void)steps;
    /* the signal itself is acted on after the step */
    return t->opt->interrupted && t->opt->interrupted(t->opt->user) ? KIN_ERR_INTERRUPTED : KIN_OK;
}

typedef struct sampler_user {
    grid grid;
    kin_trainer *trainer;
} sampler_user;

static kin_status emit_clip(void *user, int64_t clip, const kin_tensor *frames)
{
    return put_clip(&((sampler_user *)user)->grid, clip, frames);
}

static kin_status poll_sampler(void *user, int64_t clips, int step, int steps)
{
    return poll_stop(((sampler_user *)user)->trainer, clips, step, steps);
}

static kin_status write_grid(kin_trainer *t, const grid *g)
{
    char dir[KIN_PATH_MAX], name[64], path[KIN_PATH_MAX];
    KIN_TRY(kin_path_join(dir, t->opt->run, "samples", &t->ctx->error));
    KIN_TRY(kin_path_make_dirs(dir, &t->ctx->error));
    snprintf(name, sizeof name, "%06" PRId64 ".png", t->step);
    KIN_TRY(kin_path_join(path, dir, name, &t->ctx->error));
    return kin_png_write(path, &g->image, NULL, &t->ctx->error);
}

static kin_status generate_grid(kin_trainer *t, grid *g, float *values, int32_t *labels)
{
    const int64_t n = t->cfg.samples.count;
    sampler_user user = {.grid = *g, .trainer = t};
    kin_generate_params p = kin_generate_params_default();
    p.count = n;
    p.frames = t->cfg.data.frames;
    p.height = g->height;
    p.width = g->width;
    p.steps = (int)t->cfg.samples.steps;
    p.cfg_scale = (float)t->cfg.samples.cfg_scale;
    p.seed = t->cfg.seed;
    p.batch = n < t->cfg.batch ? n : t->cfg.batch;
    p.allow_flat = true;
    p.progress = poll_sampler;
    p.emit = emit_clip;
    p.user = &user;
    KIN_TRY(sample_params(t, &p, values, values + n * KIN_PHYS_CATEGORIES, labels));
    KIN_TRY(kin_pipeline_generate(t->pipe, &p));
    return write_grid(t, g);
}

kin_status kin_trainer_samples(kin_trainer *t)
{
    const int64_t n = t->cfg.samples.count, frames = t->cfg.data.frames;
    const kin_model_info *info = kin_model_get_info(t->pipe->model);
    grid g = {.across = info->family == KIN_FAMILY_DIT ? images_across(n, info->num_classes) : 1,
              .frames = frames < 16 ? frames : 16,
              .height = t->pipe->vae ? t->pipe->height : t->cfg.data.height,
              .width = t->pipe->vae ? t->pipe->width : t->cfg.data.width};
    const int64_t rows = (n + g.across - 1) / g.across * g.height,
                  columns = g.across * g.frames * g.width;
    if (!t->prompt)
        KIN_TRY(sample_prompts(t));
    uint8_t *pixels = kin_calloc((size_t)(rows * columns), 3);
    float *values =
        kin_calloc((size_t)n, (KIN_PHYS_CATEGORIES + KIN_PHYS_QUANTITIES) * sizeof *values);
    int32_t *labels = kin_calloc((size_t)n, sizeof *labels);
    kin_status status = KIN_ERR_MEM;
    if (pixels && values && labels) {
        g.image = KIN_TENSOR(pixels, KIN_DTYPE_U8, rows, columns, 3);
        kin_optimizer_swap_ema(t->optim);
        status = generate_grid(t, &g, values, labels);
        kin_optimizer_swap_ema(t->optim);
    } else {
        kin_fail(&t->ctx->error, KIN_ERR_MEM, "samples: out of memory");
    }
    kin_free(pixels);
    kin_free(values);
    kin_free(labels);
    return status;
}

/* training/samples.c: grids of pictures that a run draws while it goes: samples of a generating
 * model, reconstructions of an autoencoder. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "io/png.h"
#include "training/trainer.h"
#include "vision/frames.h"

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

/* --- reconstructions --- */

/* Held-out sample i and what the autoencoder makes of it, below it. */
static kin_status put_pair(kin_trainer *t, const grid *g, int64_t i)
{
    const kin_batch part = kin_batch_part(&t->held_out, i, 1);
    const kin_sample_shape *s = &part.shape;
    const size_t mark = kin_ws_mark(t->ctx);
    const int64_t below = i / g->across * 2 * g->across + i % g->across;
    kin_train_inputs in;
    kin_model_output out;
    kin_tensor frames, x;
    kin_status status = KIN_OK;
    KIN_GOTO(kin_train_clean(t->ctx, &t->task, &part, 0, &in));
    const kin_model_input args = {.x = &in.x0};
    KIN_GOTO(kin_model_forward(t->ctx, t->pipe->model, &args, &out));
    KIN_GOTO(KIN_WS_HOST(t->ctx, &frames, KIN_DTYPE_U8, s->frames, s->height, s->width, 3));
    memcpy(frames.data, part.frames, kin_sample_frame_bytes(s));
    KIN_GOTO(put_clip((void *)(uintptr_t)g, below, &frames));
    KIN_GOTO(kin_host(t->ctx, &out.y, &out.y));
    x = KIN_RESHAPE(&out.y, 3, s->frames, s->height, s->width);
    KIN_GOTO(kin_frames_from_tensor(&x, &frames, &t->ctx->error));
    status = put_clip((void *)(uintptr_t)g, below + g->across, &frames);
done:
    kin_ws_release(t->ctx, mark);
    return status;
}

kin_status kin_trainer_reconstructions(kin_trainer *t)
{
    const int64_t held = t->held_out.size,
                  n = t->cfg.samples.count < held ? t->cfg.samples.count : held,
                  frames = t->cfg.data.frames;
    grid g = {.across = frames > 1 ? 1
                        : n < 8    ? n
                                   : 8,
              .frames = frames < 16 ? frames : 16,
              .height = t->cfg.data.height,
              .width = t->cfg.data.width};
    const int64_t rows = 2 * ((n + g.across - 1) / g.across) * g.height,
                  columns = g.across * g.frames * g.width;
    uint8_t *pixels = kin_calloc((size_t)(rows * columns), 3);
    if (!pixels)
        return kin_fail(&t->ctx->error, KIN_ERR_MEM, "samples: out of memory");
    kin_status status = KIN_OK;
    g.image = KIN_TENSOR(pixels, KIN_DTYPE_U8, rows, columns, 3);
    kin_optimizer_swap_ema(t->optim);
    for (int64_t i = 0; i < n && status == KIN_OK; i++)
        status = put_pair(t, &g, i);
    kin_optimizer_swap_ema(t->optim);
    if (status == KIN_OK)
        status = write_grid(t, &g);
    kin_free(pixels);
    return status;
}

/* --- what is generated --- */

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

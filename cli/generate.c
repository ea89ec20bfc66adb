/* cli/generate.c: `kinema generate`: flags to pipeline parameters, clips to files. */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "cli/common.h"
#include "cli/condition.h"
#include "cli/output.h"
#include "cli/signals.h"
#include "diffusion/pipeline.h"
#include "physics/prior_rules.h"
#include "samplers/sampler.h"

typedef struct generation {
    const kin_args *args;
    kin_progress progress;
    kin_output output;
    kin_pipeline *pipeline;
    kin_generate_params params;
    kin_physics_prior condition;
    int32_t *classes;
    int64_t class_count;
    cJSON *settings;
    char *settings_text;
    /* per clip */
    const char **prompts, **negatives;
    float *prior, *quant;
    int32_t *labels;
    double fps, started;
    char last_path[KIN_PATH_MAX];
} generation;

static kin_status on_progress(void *user, int64_t clips_done, int step, int steps)
{
    generation *g = user;
    if (kin_ctx_is_plan(g->pipeline->ctx))
        return KIN_OK;
    int64_t in_flight = g->params.count - clips_done < g->params.batch
                            ? g->params.count - clips_done
                            : g->params.batch;
    kin_progress_update(&g->progress, clips_done * steps + step * (in_flight > 0 ? in_flight : 0),
                        NULL, false);
    return kin_signals_check("generate", &g->pipeline->ctx->error);
}

static kin_status on_clip(void *user, int64_t clip, const kin_tensor *frames)
{
    generation *g = user;
    kin_error *err = &g->pipeline->ctx->error;
    if (kin_ctx_is_plan(g->pipeline->ctx))
        return KIN_OK;
    KIN_TRY(kin_output_put(&g->output, clip, frames, g->last_path, err));
    if (kin_args_bool(g->args, "quiet"))
        return KIN_OK;
    kin_progress_end(&g->progress);
    printf("%s: %lld frames %lldx%lld, %g fps, seed %llu%s%.0lld, %.2f s\n", g->last_path,
           (long long)frames->size[0], (long long)frames->size[2], (long long)frames->size[1],
           g->fps, (unsigned long long)g->params.seed, clip ? " clip " : "", (long long)clip,
           kin_clock_s() - g->started);
    fflush(stdout);
    return KIN_OK;
}

/* What the flags alone can tell to be wrong, before a model is read. */
static kin_status check_flags(generation *g, kin_error *err)
{
    const kin_args *a = g->args;
    const kin_sampler *sampler;
    KIN_TRY(kin_output_init(&g->output, kin_args_text(a, "output"), kin_args_int(a, "count"), err));
    KIN_TRY(kin_sampler_find(kin_args_text(a, "sampling-method"), &sampler, err));
    if (kin_args_real(a, "phys-cfg") > 0 && strcmp(kin_args_text(a, "cfg-mode"), "multi"))
        return kin_fail(err, KIN_ERR_ARG,
                        "generate: --phys-cfg %g works with --cfg-mode multi alone",
                        kin_args_real(a, "phys-cfg"));
    if (kin_args_text(a, "class"))
        KIN_TRY(
            kin_condition_classes(kin_args_text(a, "class"), &g->classes, &g->class_count, err));
    return KIN_OK;
}

static void set_params(generation *g)
{
    const kin_args *a = g->args;
    kin_generate_params *p = &g->params;
    *p = kin_generate_params_default();
    p->count = kin_args_int(a, "count");
    p->frames = kin_args_int(a, "frames");
    p->width = kin_args_int(a, "width");
    p->height = kin_args_int(a, "height");
    p->steps = (int)kin_args_int(a, "steps");
    p->sampler = kin_args_text(a, "sampling-method");
    if (kin_args_source(a, "flow-shift"))
        p->shift = (float)kin_args_real(a, "flow-shift");
    p->phys_cfg = (float)kin_args_real(a, "phys-cfg");
    p->cfg_mode = strcmp(kin_args_text(a, "cfg-mode"), "multi") ? KIN_CFG_PLAIN : KIN_CFG_MULTI;
    p->seed = (uint64_t)kin_args_int(a, "seed");
    p->batch = kin_args_int(a, "batch") < p->count ? kin_args_int(a, "batch") : p->count;
    p->allow_flat = kin_args_bool(a, "allow-flat");
    p->progress = on_progress;
    p->emit = on_clip;
    p->user = g;
}

/* Sizes, rate and guidance that the flags left to the model. */
static kin_status set_sizes(generation *g, kin_error *err)
{
    const kin_pipeline *p = g->pipeline;
    kin_generate_params *q = &g->params;
    q->frames = q->frames ? q->frames : p->frames;
    q->width = q->width ? q->width : p->width;
    q->height = q->height ? q->height : p->height;
    q->cfg_scale = kin_cli_cfg_scale(g->args, p);
    g->fps = kin_args_source(g->args, "fps") ? kin_args_real(g->args, "fps")
             : p->fps > 0                    ? p->fps
                                             : 8;
    g->output.fps = g->fps;
    if (q->frames < 1 || q->width < 1 || q->height < 1)
        return kin_fail(err, KIN_ERR_ARG,
                        "generate: the model names no clip size; give --frames, -W and -H");
    return kin_output_check_frames(&g->output, q->frames, err);
}

static kin_status set_conditions(generation *g, kin_error *err)
{
    const kin_model_info *info = kin_model_get_info(g->pipeline->model);
    size_t n = (size_t)g->params.count;
    if (info->num_classes > 0) {
        if (!g->class_count)
            return kin_fail(
                err, KIN_ERR_ARG,
                "generate: this model is class-conditional; name classes 0..%lld by --class",
                (long long)info->num_classes - 1);
        if (!(g->labels = kin_malloc(n * sizeof *g->labels)))
            return kin_fail(err, KIN_ERR_MEM, "generate: out of memory");
        for (size_t i = 0; i < n; i++) {
            g->labels[i] = g->classes[i % (size_t)g->class_count];
            if (g->labels[i] >= info->num_classes)
                return kin_fail(err, KIN_ERR_ARG, "generate: class %d must be below %lld",
                                (int)g->labels[i], (long long)info->num_classes);
        }
        g->params.labels = g->labels;
        return KIN_OK;
    }
    if (g->class_count)
        return kin_fail(
            err, KIN_ERR_ARG,
            "generate: --class needs a class-conditional model; this one takes a prompt");
    KIN_TRY(kin_condition_make(kin_args_text(g->args, "prompt"), kin_args_text(g->args, "physics"),
                               (double)g->params.frames / g->fps,
                               kin_condition_with_law(g->pipeline), &g->condition, err));
    g->prompts = kin_malloc(n * sizeof *g->prompts);
    g->negatives = kin_malloc(n * sizeof *g->negatives);
    g->prior = kin_malloc(n * sizeof g->condition.prior);
    g->quant = kin_malloc(n * sizeof g->condition.quant);
    if (!g->prompts || !g->negatives || !g->prior || !g->quant)
        return kin_fail(err, KIN_ERR_MEM, "generate: out of memory");
    const char *negative = kin_args_text(g->args, "negative-prompt");
    for (size_t i = 0; i < n; i++) {
        g->prompts[i] = g->condition.caption ? g->condition.caption : "";
        g->negatives[i] = negative ? negative : "";
        memcpy(g->prior + i * KIN_PHYS_CATEGORIES, g->condition.prior, sizeof g->condition.prior);
        memcpy(g->quant + i * KIN_PHYS_QUANTITIES, g->condition.quant, sizeof g->condition.quant);
    }
    g->params.prompts = g->prompts;
    g->params.negatives = g->negatives;
    if (info->categories) {
        g->params.prior = g->prior;
        g->params.quant = g->quant;
    }
    return KIN_OK;
}

/* The settings without what may not change the bytes of a clip: threads, batch, where the model
 * lies. */
static char *text_without_place(const cJSON *settings)
{
    static const char *const left_out[] = {"threads", "batch", "progress", "model"};
    cJSON *copy = cJSON_Duplicate(settings, true);
    for (size_t i = 0; copy && i < sizeof left_out / sizeof left_out[0]; i++)
        cJSON_DeleteItemFromObject(copy, left_out[i]);
    cJSON_DeleteItemFromObject(cJSON_GetObjectItem(copy, "kinema"), "model");
    char *text = copy ? cJSON_PrintUnformatted(copy) : NULL;
    cJSON_Delete(copy);
    return text;
}

/* The settings as used, sizes and guidance of the model included; saved beside the output and in
 * its metadata.
 */
static kin_status make_settings(generation *g, const char *model_dir, kin_error *err)
{
    char buf[512];
    KIN_TRY(kin_args_settings(g->args, &g->settings, err));
    cJSON *own = cJSON_AddObjectToObject(g->settings, "kinema");
    bool ok = own && cJSON_AddStringToObject(own, "version", KIN_VERSION) &&
              cJSON_AddStringToObject(own, "model", model_dir) &&
              cJSON_AddStringToObject(own, "model_hash", g->pipeline->hash);
    if (g->condition.caption)
        ok = ok && cJSON_AddStringToObject(own, "text", g->condition.caption) &&
             cJSON_AddStringToObject(own, "physics",
                                     kin_prior_describe(&g->condition, buf, sizeof buf));
    const struct {
        const char *name;
        double value;
    } sizes[] = {{"frames", (double)g->params.frames},
                 {"width", (double)g->params.width},
                 {"height", (double)g->params.height},
                 {"fps", g->fps},
                 {"cfg-scale", (double)g->params.cfg_scale}};
    for (size_t i = 0; ok && i < sizeof sizes / sizeof sizes[0]; i++) {
        cJSON_DeleteItemFromObject(g->settings, sizes[i].name);
        ok = cJSON_AddNumberToObject(g->settings, sizes[i].name, sizes[i].value);
    }
    g->settings_text = ok ? text_without_place(g->settings) : NULL;
    if (!g->settings_text)
        return kin_fail(err, KIN_ERR_MEM, "generate: out of memory");
    g->output.settings = g->settings_text;
    g->output.prompt = kin_args_text(g->args, "prompt");
    g->output.hash = g->pipeline->hash;
    g->output.seed = g->params.seed;
    return KIN_OK;
}

static void release(generation *g)
{
    kin_physics_prior_free(&g->condition);
    kin_free(g->prompts);
    kin_free(g->negatives);
    kin_free(g->prior);
    kin_free(g->quant);
    kin_free(g->labels);
    g->prompts = g->negatives = NULL;
    g->prior = g->quant = NULL;
    g->labels = NULL;
    cJSON_Delete(g->settings);
    g->settings = NULL;
    cJSON_free(g->settings_text);
    g->settings_text = NULL;
    kin_pipeline_destroy(&g->pipeline);
}

/* Loads the model on ctx, makes the conditions and runs; on a plan context nothing is written. */
static kin_status run_on(generation *g, kin_ctx *ctx, const char *model_dir, kin_error *err)
{
    char path[KIN_PATH_MAX];
    KIN_TRY(kin_cli_load(ctx, model_dir, &g->pipeline, err));
    set_params(g);
    KIN_TRY(set_sizes(g, err));
    KIN_TRY(set_conditions(g, err));
    if (!kin_ctx_is_plan(ctx)) {
        char buf[512];
        KIN_TRY(make_settings(g, model_dir, err));
        KIN_TRY(kin_output_prepare(&g->output, err));
        if (g->params.prompts)
            kin_progress_note(&g->progress, "physics: %s",
                              kin_prior_describe(&g->condition, buf, sizeof buf));
        kin_progress_begin(&g->progress, "generate", "steps", g->params.count * g->params.steps);
        g->started = kin_clock_s();
    }
    kin_status status = kin_pipeline_generate(g->pipeline, &g->params);
    kin_progress_end(&g->progress);
    if (status != KIN_OK) {
        *err = ctx->error;
        return status;
    }
    if (kin_ctx_is_plan(ctx))
        return KIN_OK;
    KIN_TRY(kin_output_settings_path(&g->output, path, err));
    return kin_cli_write_json(path, g->settings, err);
}

/* Weights beside their packed forms. */
static uint64_t value_bytes(const kin_params *params)
{
    return params ? kin_params_resident_bytes(params) - kin_params_pack_bytes(params) : 0;
}

/* Runs the same code on shapes alone; *peak: bytes the whole process will hold. */
static kin_status plan(generation *g, const char *model_dir, uint64_t *peak, kin_error *err)
{
    kin_ctx *ctx = NULL;
    KIN_TRY(kin_cli_context(g->args, true, &ctx, err));
    kin_status status = run_on(g, ctx, model_dir, err);
    if (status == KIN_OK) {
        uint64_t bytes = kin_cli_memory_used() + ctx->peak;
        bytes += kin_output_bytes(&g->output, g->params.frames, g->params.height, g->params.width);
        bytes += value_bytes(g->pipeline->params) + value_bytes(g->pipeline->text_params);
        *peak = bytes;
    }
    release(g);
    kin_ctx_destroy(&ctx);
    return status;
}

static kin_status generate(generation *g, kin_error *err)
{
    char model_dir[KIN_PATH_MAX];
    uint64_t peak = 0;
    kin_ctx *ctx = NULL;
    KIN_TRY(check_flags(g, err));
    KIN_TRY(kin_cli_model(g->args, model_dir, err));
    KIN_TRY(plan(g, model_dir, &peak, err));
    if (kin_args_bool(g->args, "dry-run")) {
        printf("peak memory: %llu bytes (%.1f MB)\n", (unsigned long long)peak, (double)peak / 1e6);
        return KIN_OK;
    }
    KIN_TRY(kin_cli_check_memory("generate", peak, kin_args_bool(g->args, "force"), err));
    KIN_TRY(kin_cli_context(g->args, false, &ctx, err));
    kin_status status = run_on(g, ctx, model_dir, err);
    release(g);
    kin_ctx_destroy(&ctx);
    return status;
}

kin_status kin_cmd_generate(const kin_args *args, kin_error *err)
{
    generation g = {.args = args};
    kin_cli_progress(args, &g.progress);
    kin_status status = generate(&g, err);
    kin_free(g.classes);
    return status;
}

/* cli/generate.c: `kinema generate`: flags to pipeline parameters, clips to files. */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "cli/common.h"
#include "cli/condition.h"
#include "cli/output.h"
#include "cli/resume.h"
#include "cli/sampling.h"
#include "cli/signals.h"
#include "cli/writer.h"
#include "diffusion/pipeline.h"
#include "physics/prior_rules.h"

enum { CLASS_FILE_MAX = 256 << 20 };

typedef struct generation {
    const kin_args *args;
    kin_progress progress;
    kin_output output;
    kin_pipeline *pipeline;
    kin_generate_params params; /* its count: clips that this call makes */
    kin_physics_prior condition;
    char *class_text; /* of --class-file */
    kin_classes classes;
    int64_t count; /* clips that there will be in all */
    bool series;   /* clips that a later call can complete */
    kin_resume resume;
    kin_writer *writer;
    cJSON *settings;
    char *settings_text;
    /* per clip to make */
    const char **prompts, **negatives;
    float *prior, *quant;
    int32_t *labels;
    double fps, started;
    int64_t reported; /* finished clips that the user was told of */
} generation;

/* ---- from the sampler to files ---- */

static int64_t clip_number(const generation *g, int64_t clip)
{
    return g->series ? g->resume.missing[clip] : clip;
}

/* Images come by the thousand and are told of once, at the end. */
static bool is_images(const generation *g)
{
    return g->series && g->params.frames == 1;
}

/* Tells of the clips that have been written by now. */
static kin_status report(generation *g, int64_t written, kin_error *err)
{
    char path[KIN_PATH_MAX];
    if (is_images(g) || kin_args_bool(g->args, "quiet"))
        return KIN_OK;
    for (; g->reported < written; g->reported++) {
        int64_t clip = clip_number(g, g->reported);
        snprintf(path, sizeof path, "%s", g->output.name);
        if (g->series)
            KIN_TRY(kin_output_path(&g->output, clip, path, err));
        kin_progress_end(&g->progress);
        printf("%s: %lld frames %lldx%lld, %g fps, seed %llu%s%.0lld, %.2f s\n", path,
               (long long)g->params.frames, (long long)g->params.width, (long long)g->params.height,
               g->fps, (unsigned long long)g->params.seed, clip ? " clip " : "", (long long)clip,
               kin_clock_s() - g->started);
        fflush(stdout);
    }
    return KIN_OK;
}

static kin_status on_progress(void *user, int64_t clips_done, int step, int steps)
{
    generation *g = user;
    kin_error *err = &g->pipeline->ctx->error;
    int64_t written;
    if (kin_ctx_is_plan(g->pipeline->ctx))
        return KIN_OK;
    int64_t in_flight = g->params.count - clips_done < g->params.batch
                            ? g->params.count - clips_done
                            : g->params.batch;
    KIN_TRY(kin_writer_check(g->writer, &written, err));
    KIN_TRY(report(g, written, err));
    kin_progress_update(&g->progress,
                        g->progress.before + clips_done * steps +
                            step * (in_flight > 0 ? in_flight : 0),
                        NULL, false);
    return kin_signals_check("generate", err);
}

static kin_status on_clip(void *user, int64_t clip, const kin_tensor *frames)
{
    generation *g = user;
    if (kin_ctx_is_plan(g->pipeline->ctx))
        return KIN_OK;
    KIN_TRY(kin_writer_put(g->writer, clip_number(g, clip), frames, &g->pipeline->ctx->error));
    /* the rest of a batch may have a long decoding before it */
    return kin_signals_check("generate", &g->pipeline->ctx->error);
}

/* In the writer's thread. */
static kin_status write_clip(void *user, int64_t clip, const kin_tensor *frames, kin_error *err)
{
    const generation *g = user;
    return kin_output_put(&g->output, clip, frames, err);
}

/* ---- from flags to parameters ---- */

/* The file of --class-file, and how many images it asks for. */
static kin_status read_class_file(generation *g, kin_error *err)
{
    const char *path = kin_args_text(g->args, "class-file");
    size_t bytes;
    if (!path)
        return KIN_OK;
    if (kin_args_text(g->args, "class") || kin_args_bool(g->args, "balanced"))
        return kin_fail(err, KIN_ERR_ARG,
                        "generate: --class-file names every image's class; --class and --balanced "
                        "have no place beside it");
    KIN_TRY(kin_cli_need_input("class file", path, err));
    KIN_TRY(kin_file_read(path, CLASS_FILE_MAX, &g->class_text, &bytes, err));
    int64_t lines = kin_classes_count_lines(g->class_text);
    if (kin_args_source(g->args, "count") <= KIN_SOURCE_DEFAULT && lines > 0)
        g->count = lines;
    return KIN_OK;
}

/* What the flags alone can tell to be wrong, before a model is read. */
static kin_status check_flags(generation *g, kin_error *err)
{
    const kin_args *a = g->args;
    const char *name = kin_args_text(a, "output"), *npz = kin_args_text(a, "npz");
    if (npz && kin_args_source(a, "output") > KIN_SOURCE_DEFAULT)
        return kin_fail(err, KIN_ERR_ARG, "generate: --npz stands in the place of -o; give one");
    if (npz && strcmp(kin_path_ext(npz), "npz"))
        return kin_fail(err, KIN_ERR_ARG, "generate: --npz '%s' must end in .npz", npz);
    g->count = kin_args_int(a, "count");
    KIN_TRY(read_class_file(g, err));
    KIN_TRY(kin_output_init(&g->output, npz ? npz : name, g->count, err));
    KIN_TRY(kin_cli_sampling_check(a, err));
    return KIN_OK;
}

static void set_params(generation *g)
{
    const kin_args *a = g->args;
    kin_generate_params *p = &g->params;
    *p = kin_generate_params_default();
    p->count = g->count;
    p->frames = kin_args_int(a, "frames");
    p->width = kin_args_int(a, "width");
    p->height = kin_args_int(a, "height");
    kin_cli_sampling(a, g->pipeline, p);
    p->cfg_channels = kin_args_int(a, "cfg-channels");
    p->batch = kin_args_int(a, "batch");
    p->allow_flat = kin_args_bool(a, "allow-flat");
    p->vae_tiling = kin_args_bool(a, "vae-tiling");
    p->vae_tile = kin_args_int(a, "vae-tile");
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
    g->fps = kin_args_source(g->args, "fps") ? kin_args_real(g->args, "fps")
             : p->fps > 0                    ? p->fps
                                             : 8;
    g->output.fps = g->fps;
    if (q->frames < 1 || q->width < 1 || q->height < 1)
        return kin_fail(err, KIN_ERR_ARG,
                        "generate: the model names no clip size; give --frames, -W and -H");
    g->series = kin_output_is_series(&g->output, q->frames);
    return kin_output_check_frames(&g->output, q->frames, err);
}

/* The classes that images may show. */
static kin_status set_classes(generation *g, kin_error *err)
{
    const kin_args *a = g->args;
    const kin_pipeline *p = g->pipeline;
    const int64_t num = kin_model_get_info(p->model)->num_classes;
    const char *list = kin_args_text(a, "class");
    const char *given = list                           ? "class"
                        : g->class_text                ? "class-file"
                        : kin_args_bool(a, "balanced") ? "balanced"
                                                       : NULL;
    if (num < 1)
        return given ? kin_fail(err, KIN_ERR_ARG,
                                "generate: --%s needs a class-conditional model; this one takes a "
                                "prompt",
                                given)
                     : KIN_OK;
    kin_classes_free(&g->classes);
    const char **names = kin_calloc((size_t)num, sizeof *names);
    if (!names)
        return kin_fail(err, KIN_ERR_MEM, "generate: out of memory");
    bool any = false;
    for (int64_t i = 0; i < num; i++)
        any = (names[i] = kin_pipeline_class_name(p, i)) != NULL || any;
    kin_status status =
        g->class_text ? kin_classes_from_lines(g->class_text, kin_args_text(a, "class-file"), num,
                                               any ? names : NULL, &g->classes, err)
        : list        ? kin_classes_from_list(list, num, any ? names : NULL, &g->classes, err)
                      : kin_classes_all(num, &g->classes, err);
    kin_free(names);
    g->classes.in_turn |= kin_args_bool(a, "balanced");
    g->output.classes = &g->classes;
    return status;
}

/* The prompt and what is made of it: one for all clips. */
static kin_status set_prompt(generation *g, kin_error *err)
{
    if (g->classes.n)
        return KIN_OK;
    return kin_condition_make(kin_args_text(g->args, "prompt"), kin_args_text(g->args, "physics"),
                              (double)g->params.frames / g->fps,
                              kin_condition_with_law(g->pipeline), &g->condition, err);
}

static kin_status set_texts(generation *g, kin_error *err)
{
    const size_t n = (size_t)g->params.count;
    const char *negative = kin_args_text(g->args, "negative-prompt");
    g->prompts = kin_malloc(n * sizeof *g->prompts);
    g->negatives = kin_malloc(n * sizeof *g->negatives);
    g->prior = kin_malloc(n * sizeof g->condition.prior);
    g->quant = kin_malloc(n * sizeof g->condition.quant);
    if (!g->prompts || !g->negatives || !g->prior || !g->quant)
        return kin_fail(err, KIN_ERR_MEM, "generate: out of memory");
    for (size_t i = 0; i < n; i++) {
        g->prompts[i] = g->condition.caption ? g->condition.caption : "";
        g->negatives[i] = negative ? negative : "";
        memcpy(g->prior + i * KIN_PHYS_CATEGORIES, g->condition.prior, sizeof g->condition.prior);
        memcpy(g->quant + i * KIN_PHYS_QUANTITIES, g->condition.quant, sizeof g->condition.quant);
    }
    g->params.prompts = g->prompts;
    g->params.negatives = g->negatives;
    if (kin_model_get_info(g->pipeline->model)->categories) {
        g->params.prior = g->prior;
        g->params.quant = g->quant;
    }
    return KIN_OK;
}

/* The conditions of the clips to make. */
static kin_status set_conditions(generation *g, kin_error *err)
{
    const int64_t n = g->params.count;
    /* note: an index that is signed may be read as unsigned */
    g->params.sample_index = (const uint64_t *)g->resume.missing;
    if (!g->classes.n)
        return set_texts(g, err);
    if (!(g->labels = kin_malloc((size_t)n * sizeof *g->labels)))
        return kin_fail(err, KIN_ERR_MEM, "generate: out of memory");
    for (int64_t i = 0; i < n; i++)
        g->labels[i] = kin_classes_at(&g->classes, g->params.seed,
                                      g->resume.missing ? g->resume.missing[i] : i);
    g->params.labels = g->labels;
    return KIN_OK;
}

/* The settings without what may not change the bytes of a clip: threads, batch, how many there are,
 * where the model lies. */
static char *text_without_place(const cJSON *settings)
{
    static const char *const left_out[] = {"threads", "batch", "progress", "model", "count"};
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
    if (g->classes.n) {
        snprintf(buf, sizeof buf, "%016llx", (unsigned long long)kin_classes_hash(&g->classes));
        ok = ok && cJSON_AddStringToObject(own, "classes", buf);
    }
    const struct {
        const char *name;
        double value;
    } sizes[] = {{"count", (double)g->count},
                 {"frames", (double)g->params.frames},
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
    /* the record of a series compares these too; they are no part of a clip's metadata */
    if (g->series && (!cJSON_AddStringToObject(own, "output", kin_path_base(g->output.name)) ||
                      !cJSON_AddStringToObject(own, "isa", kin_isa_name(g->pipeline->ctx->isa))))
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
    kin_classes_free(&g->classes);
    g->output.classes = NULL;
    kin_npz_close(&g->output.npz);
    kin_resume_close(&g->resume);
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

/* ---- the run ---- */

static size_t clip_bytes(const generation *g)
{
    return (size_t)(g->params.frames * g->params.height * g->params.width) * 3;
}

/* A batch that is being encoded, and one clip more. */
static int64_t writer_slots(const generation *g)
{
    return g->params.batch + 1 < g->params.count ? g->params.batch + 1 : g->params.count;
}

/* Which clips are to be made: all of them, or those that a series lacks. */
static kin_status prepare(generation *g, const char *model_dir, kin_error *err)
{
    char buf[512];
    KIN_TRY(make_settings(g, model_dir, err));
    KIN_TRY(kin_output_prepare(&g->output, err));
    if (g->series) {
        KIN_TRY(kin_resume_open(&g->resume, &g->output, g->params.height, g->params.width,
                                g->settings, kin_args_bool(g->args, "force"), err));
        g->params.count = g->resume.n;
        if (g->params.count < g->count)
            kin_progress_note(&g->progress, "%s: %lld of %lld are there", g->output.name,
                              (long long)(g->count - g->params.count), (long long)g->count);
    }
    if (g->condition.caption)
        kin_progress_note(&g->progress, "physics: %s",
                          kin_prior_describe(&g->condition, buf, sizeof buf));
    return KIN_OK;
}

static int64_t label_of(void *user, int64_t i)
{
    const generation *g = user;
    return kin_classes_at(&g->classes, g->params.seed, i);
}

/* What is left once every clip is written: the archive's end, the settings, a word to the user. */
static kin_status finish(generation *g, kin_error *err)
{
    char path[KIN_PATH_MAX];
    const kin_generate_params *p = &g->params;
    if (g->output.npz)
        KIN_TRY(kin_npz_finish(&g->output.npz, g->classes.n ? label_of : NULL, g, err));
    if (is_images(g) && !kin_args_bool(g->args, "quiet"))
        printf("%s: %lld images %lldx%lld, seed %llu, %lld made in %.2f s\n", g->output.name,
               (long long)g->count, (long long)p->width, (long long)p->height,
               (unsigned long long)p->seed, (long long)p->count, kin_clock_s() - g->started);
    if (g->series)
        return KIN_OK;
    KIN_TRY(kin_output_settings_path(&g->output, path, err));
    return kin_cli_write_json(path, g->settings, err);
}

static void begin_progress(generation *g)
{
    const kin_generate_params *p = &g->params;
    int64_t all = g->series ? g->count : p->count;
    kin_progress_begin(&g->progress, "generate", is_images(g) ? "images" : "steps", all * p->steps);
    g->progress.before = (all - p->count) * p->steps;
    if (is_images(g)) {
        g->progress.per = p->steps;
        g->progress.rate = "images/s";
    }
}

/* Samples and writes; what was sampled before a failure or a signal is written all the same. */
static kin_status sample(generation *g, kin_error *err)
{
    kin_ctx *ctx = g->pipeline->ctx;
    kin_error write_error = {0};
    int64_t written = 0;
    if (!g->params.count)
        return KIN_OK;
    KIN_TRY(kin_writer_start(write_clip, g, writer_slots(g), clip_bytes(g), &g->writer, err));
    begin_progress(g);
    kin_status status = kin_pipeline_generate(g->pipeline, &g->params);
    *err = ctx->error;
    kin_status wrote = kin_writer_finish(&g->writer, &written, &write_error);
    if (status == KIN_OK && wrote != KIN_OK) {
        *err = write_error;
        status = wrote;
    }
    kin_error dropped;
    kin_status told = report(g, written, status == KIN_OK ? err : &dropped);
    kin_progress_end(&g->progress);
    if (status != KIN_OK && g->series)
        kin_progress_note(&g->progress, "%s: %lld of %lld are there; the same command goes on",
                          g->output.name, (long long)(g->count - g->params.count + written),
                          (long long)g->count);
    return status == KIN_OK ? told : status;
}

/* Loads the model on ctx, makes the conditions and runs; on a plan context nothing is written. */
static kin_status run_on(generation *g, kin_ctx *ctx, const char *model_dir, kin_error *err)
{
    KIN_TRY(kin_cli_load(g->args, ctx, model_dir, &g->pipeline, err));
    set_params(g);
    KIN_TRY(set_sizes(g, err));
    KIN_TRY(set_classes(g, err));
    KIN_TRY(set_prompt(g, err));
    if (!kin_ctx_is_plan(ctx))
        KIN_TRY(prepare(g, model_dir, err));
    if (g->params.batch > g->params.count)
        g->params.batch = g->params.count;
    KIN_TRY(set_conditions(g, err));
    g->started = kin_clock_s();
    if (!kin_ctx_is_plan(ctx)) {
        KIN_TRY(sample(g, err));
        return finish(g, err);
    }
    kin_status status = kin_pipeline_generate(g->pipeline, &g->params);
    if (status != KIN_OK)
        *err = ctx->error;
    return status;
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
        bytes += kin_writer_bytes(writer_slots(g), clip_bytes(g));
        if (g->series)
            bytes += (uint64_t)g->count * sizeof *g->resume.missing;
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
    generation g = {.args = args, .resume.record.fd = -1};
    kin_cli_progress(args, &g.progress);
    kin_status status = generate(&g, err);
    kin_free(g.class_text);
    return status;
}

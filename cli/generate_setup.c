/* cli/generate_setup.c: from the flags of `kinema generate` to the parameters of a generation. */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "cli/generation.h"
#include "cli/sampling.h"
#include "diffusion/condition.h"

enum { CLASS_FILE_MAX = 256 << 20 };

/* The file of --class-file, and how many images it asks for. */
static kin_status read_class_file(kin_generation *g, kin_error *err)
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

kin_status kin_generation_check_flags(kin_generation *g, kin_error *err)
{
    const kin_args *a = g->args;
    const char *name = kin_args_text(a, "output"), *npz = kin_args_text(a, "npz");
    if (npz && kin_args_source(a, "output") > KIN_SOURCE_DEFAULT)
        return kin_fail(err, KIN_ERR_ARG, "generate: --npz stands in the place of -o; give one");
    if (npz && strcmp(kin_path_ext(npz), "npz"))
        return kin_fail(err, KIN_ERR_ARG, "generate: --npz '%s' must end in .npz", npz);
    g->count = kin_args_int(a, "count");
    KIN_TRY(read_class_file(g, err));
    KIN_TRY(kin_cli_output(a, npz ? npz : name, g->count, &g->output, err));
    KIN_TRY(kin_cli_sampling_check(a, err));
    return KIN_OK;
}

void kin_generation_set_params(kin_generation *g)
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
    g->keeps =
        !g->output.piped && g->pipeline->vae && kin_vae_get_info(g->pipeline->vae->vae)->video;
}

kin_status kin_generation_set_inputs(kin_generation *g, kin_error *err)
{
    const int64_t tokens = kin_args_int(g->args, "max-sequence-length");
    const char *text = kin_args_text(g->args, "noise"), *name;
    char path[KIN_PATH_MAX];
    kin_status status = KIN_OK;
    if (tokens && kin_pipeline_set_text_len(g->pipeline, tokens) != KIN_OK) {
        *err = g->pipeline->ctx->error;
        return err->status;
    }
    if (!text)
        return KIN_OK;
    name = strrchr(text, ':');
    if (snprintf(path, sizeof path, "%.*s", name ? (int)(name - text) : KIN_PATH_MAX, text) >=
        KIN_PATH_MAX)
        return kin_fail(err, KIN_ERR_ARG, "--noise: the name is too long");
    KIN_TRY(kin_cli_need_input("noise", path, err));
    KIN_GOTO(kin_safetensors_open(path, &g->noise_file, err));
    KIN_GOTO(kin_safetensors_get(g->noise_file, name ? name + 1 : "latents", &g->noise, err));
    g->params.noise = &g->noise;
done:
    return status == KIN_OK ? KIN_OK : kin_fail_prefix(err, "noise %s", path);
}

kin_status kin_generation_set_sizes(kin_generation *g, kin_error *err)
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
    g->series = g->models->shared || kin_output_is_series(&g->output, q->frames);
    if (g->models->shared && g->output.pattern && !kin_output_is_series(&g->output, q->frames))
        return kin_fail(err, KIN_ERR_ARG, "output: '%s': a job's clip must be one file",
                        g->output.name);
    return kin_output_check_frames(&g->output, q->frames, err);
}

kin_status kin_generation_set_classes(kin_generation *g, kin_error *err)
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

/* What the reading of the annotation mends or leaves out. */
static void on_note(void *user, kin_annotation_note kind, const char *field, const char *text)
{
    kin_generation *g = user;
    (void)kind;
    if (!kin_args_bool(g->args, "quiet"))
        kin_progress_note(&g->progress, "physics: %s: %s", field, text);
}

kin_status kin_generation_set_prompt(kin_generation *g, kin_error *err)
{
    const kin_annotation_options options = {.note = on_note, .user = g};
    if (g->classes.n)
        return KIN_OK;
    const char *physics = kin_condition_physics(kin_args_text(g->args, "physics"), g->pipeline);
    return kin_condition_make(
        kin_args_text(g->args, "prompt"), physics, (double)g->params.frames / g->fps,
        kin_condition_with_law(g->pipeline, physics && strcmp(physics, "none")),
        kin_ctx_is_plan(g->pipeline->ctx) ? NULL : &options, &g->condition, err);
}

static kin_status set_texts(kin_generation *g, kin_error *err)
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

kin_status kin_generation_set_conditions(kin_generation *g, kin_error *err)
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

void kin_generation_release(kin_generation *g)
{
    kin_physics_prior_free(&g->condition);
    kin_classes_free(&g->classes);
    g->output.classes = NULL;
    kin_output_close(&g->output);
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
    kin_safetensors_close(&g->noise_file);
    g->pipeline = NULL;
}

/* cli/generate.c: `kinema generate`: flags to pipeline parameters, clips to files. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/json.h"
#include "cli/from_latents.h"
#include "cli/generation.h"
#include "cli/queue.h"
#include "cli/sampled.h"
#include "cli/signals.h"

/* ---- from the sampler to files ---- */

static int64_t clip_number(const kin_generation *g, int64_t clip)
{
    return g->series ? g->resume.missing[clip] : clip;
}

/* Images come by the thousand and are told of once, at the end. */
static bool is_images(const kin_generation *g)
{
    return g->params.frames == 1 && (g->series || g->output.columns);
}

/* Tells of the clips that have been written by now. */
static kin_status report(kin_generation *g, int64_t written, kin_error *err)
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
        fprintf(g->output.piped ? stderr : stdout,
                "%s: %lld frames %lldx%lld, %g fps, seed %llu%s%.0lld, %.2f s\n", path,
                (long long)g->params.frames, (long long)g->params.width,
                (long long)g->params.height, g->fps, (unsigned long long)g->params.seed,
                clip ? " clip " : "", (long long)clip, kin_clock_s() - g->started);
        fflush(stdout);
    }
    return KIN_OK;
}

static kin_status on_progress(void *user, int64_t clips_done, int step, int steps)
{
    kin_generation *g = user;
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

/* Clips that come one upon the other are not all shown. */
static void show(kin_generation *g, const kin_tensor *frames)
{
    const double now = kin_clock_s();
    if (g->preview == KIN_PREVIEW_NONE ||
        (g->previewed > 0 && now - g->previewed < (is_images(g) ? 5 : 1)))
        return;
    kin_progress_end(&g->progress);
    kin_preview_show(g->preview, stderr, 0, frames);
    g->previewed = now;
}

static kin_status on_clip(void *user, int64_t clip, const kin_tensor *frames)
{
    kin_generation *g = user;
    if (kin_ctx_is_plan(g->pipeline->ctx))
        return KIN_OK;
    clip += g->decoded;
    KIN_TRY(kin_writer_put(g->writer, clip_number(g, clip), frames, &g->pipeline->ctx->error));
    show(g, frames);
    /* the rest of a batch may have a long decoding before it */
    return kin_signals_check("generate", &g->pipeline->ctx->error);
}

/* Sampling is done: what may take long to decode is safe from here on. */
static kin_status on_sampled(void *user, int64_t clip, const kin_tensor *latents)
{
    kin_generation *g = user;
    kin_error *err = &g->pipeline->ctx->error;
    char path[KIN_PATH_MAX];
    if (kin_ctx_is_plan(g->pipeline->ctx))
        return KIN_OK;
    KIN_TRY(kin_sampled_path(&g->output, clip_number(g, g->decoded + clip), path, err));
    return kin_sampled_write(path, latents, g->settings_text, g->pipeline->vae->hash, err);
}

/* In the writer's thread. */
static kin_status write_clip(void *user, int64_t clip, const kin_tensor *frames, kin_error *err)
{
    kin_generation *g = user;
    char path[KIN_PATH_MAX];
    KIN_TRY(kin_output_put(&g->output, clip, frames, err));
    if (!g->keeps || kin_args_bool(g->args, "save-latents"))
        return KIN_OK;
    KIN_TRY(kin_sampled_path(&g->output, clip, path, err));
    unlink(path);
    return KIN_OK;
}

/* ---- latents of an earlier run ---- */

/* True if a run with these settings left the latents of this clip. */
static bool is_sampled(kin_generation *g, int64_t clip, const cJSON *settings)
{
    char path[KIN_PATH_MAX], why[512] = "";
    kin_sampled s = {0};
    kin_error err = {0};
    if (kin_sampled_path(&g->output, clip, path, &err) != KIN_OK || !kin_path_exists(path))
        return false;
    const bool good = kin_sampled_open(path, &s, &err) == KIN_OK &&
                      kin_sampled_matches(&s, settings, why, sizeof why);
    kin_sampled_close(&s);
    if (good)
        kin_progress_note(&g->progress, "%s: sampled by an earlier run, to be decoded", path);
    else
        kin_progress_note(&g->progress, "%s: not used (%s), sampling anew", path,
                          why[0] ? why : err.text);
    return good;
}

/* Puts the clips that are only to be decoded before the others. */
static kin_status find_sampled(kin_generation *g, kin_error *err)
{
    int64_t *list = g->resume.missing;
    cJSON *settings = NULL;
    if (!g->keeps || kin_args_bool(g->args, "force"))
        return KIN_OK;
    KIN_TRY(kin_json_parse(g->settings_text, strlen(g->settings_text), KIN_JSON_STRICT, &settings,
                           err));
    for (int64_t i = 0; i < g->params.count; i++) {
        if (!is_sampled(g, clip_number(g, i), settings))
            continue;
        int64_t clip = list ? list[i] : 0;
        if (list) /* note: the order of both parts stays */
            memmove(list + g->ready + 1, list + g->ready, (size_t)(i - g->ready) * sizeof *list);
        if (list)
            list[g->ready] = clip;
        g->ready++;
    }
    cJSON_Delete(settings);
    return KIN_OK;
}

static kin_status decode_one(kin_generation *g, int64_t clip, kin_error *err)
{
    char path[KIN_PATH_MAX];
    kin_sampled s;
    kin_status status;
    KIN_TRY(kin_sampled_path(&g->output, clip_number(g, clip), path, err));
    status = kin_sampled_open(path, &s, err);
    if (status == KIN_OK) {
        status = kin_pipeline_decode(g->pipeline, &g->params, 0, &s.latents);
        if (status != KIN_OK)
            *err = g->pipeline->ctx->error;
    }
    kin_sampled_close(&s);
    return status;
}

/* Decodes what is sampled, then samples the rest. */
static kin_status make_clips(kin_generation *g, kin_error *err)
{
    for (; g->decoded < g->ready; g->decoded++)
        KIN_TRY(decode_one(g, g->decoded, err));
    if (!g->params.count)
        return KIN_OK;
    kin_status status = kin_pipeline_generate(g->pipeline, &g->params);
    if (status != KIN_OK)
        *err = g->pipeline->ctx->error;
    return status;
}

/* ---- the run ---- */

static size_t clip_bytes(const kin_generation *g)
{
    return (size_t)(g->params.frames * g->params.height * g->params.width) * 3;
}

/* A batch that is being encoded, and one clip more. */
static int64_t writer_slots(const kin_generation *g)
{
    const int64_t clips = g->ready + g->params.count;
    return g->params.batch + 1 < clips ? g->params.batch + 1 : clips;
}

/* Which clips are to be made: all of them, or those that a series lacks. */
static kin_status prepare(kin_generation *g, const char *model_dir, kin_error *err)
{
    char buf[512];
    KIN_TRY(kin_generation_make_settings(g, model_dir, err));
    KIN_TRY(kin_output_prepare(&g->output, err));
    if (g->series) {
        KIN_TRY(kin_resume_open(&g->resume, &g->output, g->params.frames, g->params.height,
                                g->params.width, g->settings, kin_args_bool(g->args, "force"),
                                err));
        g->params.count = g->resume.n;
        if (g->params.count < g->count && !g->models->shared)
            kin_progress_note(&g->progress, "%s: %lld of %lld are there", g->output.name,
                              (long long)(g->count - g->params.count), (long long)g->count);
    }
    if (g->condition.caption)
        kin_progress_note(&g->progress, "physics: %s",
                          kin_prior_describe(&g->condition, buf, sizeof buf));
    return find_sampled(g, err);
}

static int64_t label_of(void *user, int64_t i)
{
    const kin_generation *g = user;
    return kin_classes_at(&g->classes, g->params.seed, i);
}

/* What is left once every clip is written: the archive's end, the settings, a word to the user. */
static kin_status finish(kin_generation *g, kin_error *err)
{
    char path[KIN_PATH_MAX];
    const kin_generate_params *p = &g->params;
    if (g->output.npz)
        KIN_TRY(kin_npz_finish(&g->output.npz, g->classes.n ? label_of : NULL, g, err));
    if (is_images(g) && !kin_args_bool(g->args, "quiet"))
        printf("%s: %lld images %lldx%lld, seed %llu, %lld made in %.2f s\n", g->output.name,
               (long long)g->count, (long long)p->width, (long long)p->height,
               (unsigned long long)p->seed, (long long)p->count, kin_clock_s() - g->started);
    if (g->series || g->output.piped)
        return KIN_OK;
    KIN_TRY(kin_output_settings_path(&g->output, path, err));
    return kin_cli_write_json(path, g->settings, err);
}

static void begin_progress(kin_generation *g)
{
    const kin_generate_params *p = &g->params;
    int64_t all = g->series ? g->count : p->count;
    kin_progress_begin(&g->progress, g->label, is_images(g) ? "images" : "steps", all * p->steps);
    g->progress.before = (all - p->count) * p->steps;
    if (is_images(g)) {
        g->progress.per = p->steps;
        g->progress.rate = "images/s";
    }
}

/* Samples and writes; what was sampled before a failure or a signal is written all the same. */
static kin_status sample(kin_generation *g, kin_error *err)
{
    kin_error write_error = {0};
    int64_t written = 0, before = g->count - g->params.count;
    if (!g->params.count)
        return KIN_OK;
    g->params.count -= g->ready;
    if (g->params.sample_index)
        g->params.sample_index += g->ready;
    KIN_TRY(kin_writer_start(write_clip, g, writer_slots(g), clip_bytes(g), &g->writer, err));
    begin_progress(g);
    kin_status status = make_clips(g, err);
    kin_status wrote = kin_writer_finish(&g->writer, &written, &write_error);
    if (status == KIN_OK && wrote != KIN_OK) {
        *err = write_error;
        status = wrote;
    }
    kin_error dropped;
    kin_status told = report(g, written, status == KIN_OK ? err : &dropped);
    kin_progress_end(&g->progress);
    g->made = written;
    if (status != KIN_OK && g->series && !g->models->shared)
        kin_progress_note(&g->progress, "%s: %lld of %lld are there; the same command goes on",
                          g->output.name, (long long)(before + written), (long long)g->count);
    return status == KIN_OK ? told : status;
}

/* ---- the model ---- */

static void close_model(kin_generation_models *m, bool plan)
{
    kin_pipeline_destroy(&m->on[plan].pipeline);
    kin_ctx_destroy(&m->on[plan].ctx);
}

void kin_generation_models_close(kin_generation_models *m)
{
    close_model(m, false);
    close_model(m, true);
}

static kin_status open_model(kin_generation *g, bool plan, const char *dir, kin_error *err)
{
    kin_generation_models *m = g->models;
    if (!m->on[plan].ctx)
        KIN_TRY(kin_cli_context(g->args, plan, &m->on[plan].ctx, err));
    if (!m->on[plan].pipeline)
        KIN_TRY(kin_cli_load(g->args, m->on[plan].ctx, dir, &m->on[plan].pipeline, err));
    g->pipeline = m->on[plan].pipeline;
    if (!m->used)
        m->used = kin_cli_memory_used();
    return KIN_OK;
}

/* Makes the conditions and runs; on a plan context nothing is written. */
static kin_status run_loaded(kin_generation *g, const char *model_dir, kin_error *err)
{
    const kin_ctx *ctx = g->pipeline->ctx;
    char texts[KIN_PATH_MAX];
    if (kin_model_vae(g->pipeline->model))
        return kin_fail(err, KIN_ERR_ARG,
                        "generate: %s is an autoencoder alone, which makes nothing", model_dir);
    kin_generation_set_params(g);
    g->params.progress = on_progress;
    g->params.emit = on_clip;
    g->params.sampled = on_sampled;
    g->params.vae_tiling |= g->tiled;
    g->params.user = g;
    KIN_TRY(kin_generation_set_sizes(g, err));
    KIN_TRY(kin_generation_set_inputs(g, err));
    if (g->keeps && kin_path_cache(texts, "KINEMA_TEXT_CACHE", "texts") &&
        kin_pipeline_keep_texts(g->pipeline, texts) != KIN_OK) {
        *err = ctx->error;
        return err->status;
    }
    KIN_TRY(kin_generation_set_classes(g, err));
    KIN_TRY(kin_generation_set_prompt(g, err));
    if (!kin_ctx_is_plan(ctx))
        KIN_TRY(prepare(g, model_dir, err));
    if (g->params.batch > g->params.count)
        g->params.batch = g->params.count;
    KIN_TRY(kin_generation_set_conditions(g, err));
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

static kin_status run_on(kin_generation *g, bool plan, const char *model_dir, kin_error *err)
{
    KIN_TRY(open_model(g, plan, model_dir, err));
    const size_t mark = kin_ws_mark(g->pipeline->ctx);
    const kin_status status = run_loaded(g, model_dir, err);
    kin_ws_release(g->pipeline->ctx, mark);
    return status;
}

/* Runs the same code on shapes alone; *peak: bytes the whole process will hold. */
static kin_status plan(kin_generation *g, const char *model_dir, uint64_t *peak, kin_error *err)
{
    kin_status status = run_on(g, true, model_dir, err);
    if (status == KIN_OK) {
        uint64_t bytes = g->models->used + g->pipeline->planned;
        bytes += kin_output_bytes(&g->output, g->params.frames, g->params.height, g->params.width);
        bytes += kin_writer_bytes(writer_slots(g), clip_bytes(g));
        if (g->series)
            bytes += (uint64_t)g->count * sizeof *g->resume.missing;
        *peak = bytes;
    }
    kin_generation_release(g);
    return status;
}

/* Where memory is short for decoding a video whole, tiles that would fit. */
static kin_status plan_tiles(kin_generation *g, const char *model_dir, uint64_t *peak,
                             kin_error *err)
{
    const uint64_t left = kin_cli_memory_left();
    uint64_t less = 0;
    if (!g->keeps || !left || *peak <= left || kin_args_bool(g->args, "vae-tiling"))
        return KIN_OK;
    g->tiled = true;
    KIN_TRY(plan(g, model_dir, &less, err));
    g->tiled = less < *peak;
    if (!g->tiled)
        return KIN_OK;
    kin_progress_note(&g->progress, "memory: %.1f MB do not fit; decoding in tiles: %.1f MB",
                      (double)*peak / 1e6, (double)less / 1e6);
    *peak = less;
    return KIN_OK;
}

/* note: what an earlier job holds is part of the peak already */
static kin_status check_memory(const kin_generation *g, uint64_t peak, kin_error *err)
{
    const uint64_t now = kin_cli_memory_used(), used = g->models->used;
    const uint64_t held = g->models->checked && now > used ? now - used : 0;
    if (peak <= g->models->checked)
        return KIN_OK;
    return kin_cli_check_memory("generate", peak > held ? peak - held : 0,
                                kin_args_bool(g->args, "force"), err);
}

static kin_status generate(kin_generation *g, kin_error *err)
{
    char model_dir[KIN_PATH_MAX];
    uint64_t peak = 0;
    KIN_TRY(kin_generation_check_flags(g, err));
    KIN_TRY(kin_cli_model(g->args, model_dir, err));
    KIN_TRY(plan(g, model_dir, &peak, err));
    KIN_TRY(plan_tiles(g, model_dir, &peak, err));
    const bool dry = kin_args_bool(g->args, "dry-run");
    if (!dry)
        KIN_TRY(check_memory(g, peak, err));
    g->models->checked = peak > g->models->checked ? peak : g->models->checked;
    if (dry)
        return KIN_OK;
    if (!g->models->shared)
        close_model(g->models, true);
    return run_on(g, false, model_dir, err);
}

kin_preview_kind kin_generation_preview(const kin_args *args, const kin_progress *progress)
{
    const char *mode = kin_args_text(args, "preview");
    const bool wanted = progress->mode == KIN_PROGRESS_LINE ||
                        kin_args_source(args, "preview") > KIN_SOURCE_DEFAULT;
    return wanted && !kin_args_bool(args, "quiet") ? kin_preview_choose(mode) : KIN_PREVIEW_NONE;
}

kin_status kin_generation_run(kin_generation *g, kin_error *err)
{
    g->resume.record.fd = -1;
    const kin_status status = generate(g, err);
    kin_generation_release(g);
    kin_free(g->class_text);
    g->class_text = NULL;
    return status;
}

kin_status kin_cmd_generate(const kin_args *args, kin_error *err)
{
    kin_generation_models models = {0};
    kin_generation g = {.args = args, .models = &models, .label = "generate"};
    if (kin_args_text(args, "prompts"))
        return kin_generate_queue(args, err);
    if (kin_args_text(args, "from-latents"))
        return kin_generate_from_latents(args, err);
    kin_cli_progress(args, &g.progress);
    g.preview = kin_generation_preview(args, &g.progress);
    const kin_status status = kin_generation_run(&g, err);
    if (status == KIN_OK && kin_args_bool(args, "dry-run"))
        printf("peak memory: %llu bytes (%.1f MB)\n", (unsigned long long)models.checked,
               (double)models.checked / 1e6);
    kin_generation_models_close(&models);
    return status;
}

/* cli/evaluate.c: `kinema evaluate`. Suite physics: clips for held-out prompts of the simulator's
 * grammar, judged by the tracker of physics/; suites loss, fd and routing: evaluate_loss.c,
 * evaluate_images.c, evaluate_fd.c, evaluate_routing.c. The report is JSON on stdout. */
#include "cli/evaluate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "cli/output.h"
#include "cli/sampling.h"
#include "cli/signals.h"
#include "diffusion/condition.h"
#include "physics/evaluate.h"

enum {
    SEED_PROMPTS = 8 /* prompts that are drawn with a second seed */
};
/* Prompts come from a stream of their own, so that they are new to a model trained on `dataset
 * simulate` of any seed that people use. */
#define HELD_OUT_SEED UINT64_C(0x6b696e656d616576)

typedef struct evaluation {
    const kin_args *args;
    kin_progress progress;
    kin_pipeline *pipeline;
    kin_sim_options sim;
    int64_t count;
    kin_sim_clip *clips;       /* [count] truth of each prompt; frames freed */
    kin_physics_prior *priors; /* [count] */
    const char **prompts;
    float *prior, *quant;
    kin_evaluation *judged, *reference;
    bool keep;
    kin_output output;
    /* second seed */
    uint8_t *first; /* frames of the first SEED_PROMPTS clips */
    size_t clip_bytes;
    int64_t same;
    double difference;
} evaluation;

static kin_status on_progress(void *user, int64_t clips_done, int step, int steps)
{
    evaluation *e = user;
    (void)step;
    (void)steps;
    kin_progress_update(&e->progress, clips_done, NULL, false);
    return kin_signals_check("evaluate", &e->pipeline->ctx->error);
}

static kin_status on_clip(void *user, int64_t clip, const kin_tensor *frames)
{
    evaluation *e = user;
    kin_error *err = &e->pipeline->ctx->error;
    kin_asked asked;
    kin_asked_from_truth(&e->clips[clip].truth, &asked);
    if (clip < SEED_PROMPTS)
        memcpy(e->first + (size_t)clip * e->clip_bytes, frames->data, e->clip_bytes);
    if (e->keep) {
        e->output.prompt = e->clips[clip].caption;
        KIN_TRY(kin_output_put(&e->output, clip, frames, err));
    }
    return kin_evaluation_add(e->judged, frames->data, (int)frames->size[0], (int)frames->size[1],
                              (int)frames->size[2], &asked, NULL, err);
}

static kin_status on_second(void *user, int64_t clip, const kin_tensor *frames)
{
    evaluation *e = user;
    const uint8_t *a = e->first + (size_t)clip * e->clip_bytes, *b = frames->data;
    double sum = 0;
    for (size_t i = 0; i < e->clip_bytes; i++)
        sum += abs((int)a[i] - (int)b[i]);
    e->same += sum == 0;
    e->difference += sum / (double)e->clip_bytes;
    return KIN_OK;
}

/* Prompts, conditions and truth of all clips; the judge's figures on the simulated frames
 * themselves go into reference. */
static kin_status make_prompts(evaluation *e, kin_error *err)
{
    size_t n = (size_t)e->count;
    e->clips = kin_calloc(n, sizeof *e->clips);
    e->priors = kin_calloc(n, sizeof *e->priors);
    e->prompts = kin_calloc(n, sizeof *e->prompts);
    e->prior = kin_malloc(n * sizeof e->priors->prior);
    e->quant = kin_malloc(n * sizeof e->priors->quant);
    if (!e->clips || !e->priors || !e->prompts || !e->prior || !e->quant)
        return kin_fail(err, KIN_ERR_MEM, "evaluate: out of memory");
    uint64_t seed = HELD_OUT_SEED + (uint64_t)kin_args_int(e->args, "seed");
    for (size_t i = 0; i < n; i++) {
        kin_sim_clip *c = &e->clips[i];
        kin_asked asked;
        KIN_TRY(kin_simulate_clip(&e->sim, seed, i, c, err));
        KIN_TRY(kin_sim_prior(c, &e->priors[i], err));
        kin_asked_from_truth(&c->truth, &asked);
        KIN_TRY(kin_evaluation_add(e->reference, c->frames, c->truth.frames, c->truth.height,
                                   c->truth.width, &asked, NULL, err));
        kin_free(c->frames);
        c->frames = NULL;
        if (!kin_condition_with_law(e->pipeline, true))
            e->priors[i].caption[e->priors[i].caption_bytes] = '\0';
        e->prompts[i] = e->priors[i].caption;
        memcpy(e->prior + i * KIN_PHYS_CATEGORIES, e->priors[i].prior, sizeof e->priors[i].prior);
        memcpy(e->quant + i * KIN_PHYS_QUANTITIES, e->priors[i].quant, sizeof e->priors[i].quant);
    }
    return KIN_OK;
}

static kin_generate_params params_of(evaluation *e)
{
    const kin_args *a = e->args;
    kin_generate_params p = kin_generate_params_default();
    p.count = e->count;
    p.prompts = e->prompts;
    if (kin_model_get_info(e->pipeline->model)->categories) {
        p.prior = e->prior;
        p.quant = e->quant;
    }
    p.frames = e->sim.frames;
    p.width = e->sim.width;
    p.height = e->sim.height;
    kin_cli_sampling(a, e->pipeline, &p);
    p.batch = kin_args_int(a, "batch");
    /* note: a flat clip is a bad clip here, to be counted and not to end the run */
    p.allow_flat = true;
    p.progress = on_progress;
    p.emit = on_clip;
    p.user = e;
    return p;
}

/* The first prompts once more with the next seed. */
static kin_status run_second_seed(evaluation *e, kin_generate_params p)
{
    p.count = e->count < SEED_PROMPTS ? e->count : SEED_PROMPTS;
    p.seed++;
    p.emit = on_second;
    p.progress = NULL;
    return kin_pipeline_generate(e->pipeline, &p);
}

/* ---- reports ---- */

kin_status kin_evaluate_report_open(const kin_args *args, const char *suite, const char *hash_key,
                                    const char *hash, cJSON **root, kin_error *err)
{
    cJSON *settings = NULL;
    KIN_TRY(kin_args_settings(args, &settings, err));
    *root = cJSON_CreateObject();
    const bool ok = cJSON_AddStringToObject(*root, "suite", suite) &&
                    (!hash || cJSON_AddStringToObject(*root, hash_key, hash));
    if (kin_json_put(ok ? *root : NULL, "settings", settings))
        return KIN_OK;
    cJSON_Delete(*root);
    *root = NULL;
    return kin_fail(err, KIN_ERR_MEM, "evaluate: out of memory");
}

kin_status kin_evaluate_report_close(cJSON *root, kin_status status, bool ok, kin_error *err)
{
    if (status == KIN_OK)
        status = ok ? kin_cli_print_json(root, err)
                    : kin_fail(err, KIN_ERR_MEM, "evaluate: out of memory");
    cJSON_Delete(root);
    return status;
}

static kin_status report(evaluation *e, double seconds, kin_error *err)
{
    cJSON *judged = NULL, *reference = NULL, *root = NULL;
    kin_status status = KIN_OK;
    int64_t twice = e->count < SEED_PROMPTS ? e->count : SEED_PROMPTS;
    bool ok = true;
    KIN_TRY(
        kin_evaluate_report_open(e->args, "physics", "model_hash", e->pipeline->hash, &root, err));
    if (!kin_args_source(e->args, "cfg-scale"))
        ok = cJSON_AddNumberToObject(cJSON_GetObjectItem(root, "settings"), "cfg-scale",
                                     (double)kin_cli_cfg_scale(e->args, e->pipeline));
    KIN_GOTO(kin_evaluation_report(e->judged, &judged, err));
    ok = kin_json_put(root, "generated", judged) && ok;
    KIN_GOTO(kin_evaluation_report(e->reference, &reference, err));
    ok = kin_json_put(root, "simulated", reference) && ok;
    cJSON *seeds = ok ? cJSON_AddObjectToObject(root, "second_seed") : NULL;
    ok = seeds && cJSON_AddNumberToObject(seeds, "clips", (double)twice) &&
         cJSON_AddNumberToObject(seeds, "differing", (double)(twice - e->same)) &&
         cJSON_AddNumberToObject(seeds, "mean_abs_difference", e->difference / (double)twice) &&
         cJSON_AddNumberToObject(root, "seconds_per_clip", seconds / (double)(e->count + twice));
done:
    return kin_evaluate_report_close(root, status, ok, err);
}

static kin_status check_thresholds(const evaluation *e, kin_error *err)
{
    const struct {
        const char *flag, *what;
        double got;
    } bars[] = {{"min-colour", "share of clips with the asked colour",
                 kin_evaluation_colour_share(e->judged)},
                {"min-intact", "share of clips with the object intact",
                 kin_evaluation_intact_share(e->judged)}};
    for (size_t i = 0; i < sizeof bars / sizeof bars[0]; i++)
        if (kin_args_source(e->args, bars[i].flag) &&
            bars[i].got < kin_args_real(e->args, bars[i].flag))
            return kin_fail(err, KIN_ERR_THRESHOLD, "evaluate: %s %.3f is below %.3f", bars[i].what,
                            bars[i].got, kin_args_real(e->args, bars[i].flag));
    return KIN_OK;
}

static kin_status run_physics(evaluation *e, kin_error *err)
{
    const kin_args *a = e->args;
    const kin_pipeline *p = e->pipeline;
    kin_sim_options_default(&e->sim);
    e->sim.width = p->width ? (int)p->width : e->sim.width;
    e->sim.height = p->height ? (int)p->height : e->sim.height;
    e->sim.frames = p->frames ? (int)p->frames : e->sim.frames;
    e->sim.fps = p->fps > 0 ? p->fps : e->sim.fps;
    if (kin_args_text(a, "kinds"))
        KIN_TRY(kin_sim_options_kinds(&e->sim, kin_args_text(a, "kinds"), err));
    KIN_TRY(kin_sim_options_check(&e->sim, err));
    e->count = kin_args_int(a, "count");
    e->clip_bytes = (size_t)e->sim.frames * (size_t)e->sim.height * (size_t)e->sim.width * 3;
    if (!(e->first = kin_malloc(e->clip_bytes * SEED_PROMPTS)))
        return kin_fail(err, KIN_ERR_MEM, "evaluate: out of memory");
    if (kin_args_text(a, "output")) {
        e->keep = true;
        KIN_TRY(kin_output_init(&e->output, kin_args_text(a, "output"), e->count, NULL, err));
        KIN_TRY(kin_output_check_frames(&e->output, e->sim.frames, err));
        KIN_TRY(kin_output_prepare(&e->output, err));
        e->output.fps = e->sim.fps;
        e->output.hash = p->hash;
        e->output.seed = (uint64_t)kin_args_int(a, "seed");
    }
    KIN_TRY(kin_evaluation_create(&e->judged, err));
    KIN_TRY(kin_evaluation_create(&e->reference, err));
    KIN_TRY(make_prompts(e, err));
    kin_progress_begin(&e->progress, "evaluate", "clips", e->count);
    double start = kin_clock_s();
    kin_generate_params params = params_of(e);
    kin_status status = kin_pipeline_generate(e->pipeline, &params);
    if (status == KIN_OK)
        status = run_second_seed(e, params);
    kin_progress_end(&e->progress);
    if (status != KIN_OK) {
        *err = e->pipeline->ctx->error;
        return status;
    }
    KIN_TRY(report(e, kin_clock_s() - start, err));
    return check_thresholds(e, err);
}

static void release(evaluation *e)
{
    for (int64_t i = 0; i < e->count; i++) {
        if (e->clips)
            kin_sim_clip_free(&e->clips[i]);
        if (e->priors)
            kin_physics_prior_free(&e->priors[i]);
    }
    kin_free(e->clips);
    kin_free(e->priors);
    kin_free(e->prompts);
    kin_free(e->prior);
    kin_free(e->quant);
    kin_free(e->first);
    kin_evaluation_destroy(e->judged);
    kin_evaluation_destroy(e->reference);
}

kin_status kin_cmd_evaluate(const kin_args *args, kin_error *err)
{
    char dir[KIN_PATH_MAX];
    const char *suite = kin_args_text(args, "suite");
    bool physics = strcmp(suite, "physics") == 0, routing = strcmp(suite, "routing") == 0;
    kin_ctx *ctx = NULL;
    evaluation e = {.args = args};
    if (strcmp(suite, "fd") == 0)
        return kin_evaluate_fd(args, err);
    if (!physics && !routing && !kin_args_text(args, "data"))
        return kin_fail(err, KIN_ERR_ARG,
                        "evaluate: the suite 'loss' needs a data set (--data PATH)");
    if (physics && kin_args_text(args, "data"))
        return kin_fail(err, KIN_ERR_ARG,
                        "evaluate: the suite 'physics' judges clips that it generates, of prompts "
                        "whose law it knows; --data is for loss, fd and routing");
    if (kin_args_text(args, "data"))
        KIN_TRY(kin_cli_need_input("data set", kin_args_text(args, "data"), err));
    KIN_TRY(kin_cli_sampling_check(args, err));
    KIN_TRY(kin_cli_model(args, dir, err));
    KIN_TRY(kin_cli_context(args, false, &ctx, err));
    kin_cli_progress(args, &e.progress);
    kin_status status = kin_cli_load(args, ctx, dir, &e.pipeline, err);
    const bool images =
        status == KIN_OK && kin_model_get_info(e.pipeline->model)->family == KIN_FAMILY_DIT;
    if (status == KIN_OK && routing)
        status = kin_evaluate_routing(args, e.pipeline, &e.progress, err);
    else if (images && !physics)
        status = kin_evaluate_image_loss(args, e.pipeline, &e.progress, err);
    else if (status == KIN_OK && !kin_model_get_info(e.pipeline->model)->text_dim)
        status = kin_fail(err, KIN_ERR_ARG, "evaluate: needs a text model");
    else if (status == KIN_OK)
        status =
            physics ? run_physics(&e, err) : kin_evaluate_loss(args, e.pipeline, &e.progress, err);
    release(&e);
    kin_pipeline_destroy(&e.pipeline);
    kin_ctx_destroy(&ctx);
    return status;
}

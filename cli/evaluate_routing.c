/* cli/evaluate_routing.c: `kinema evaluate --suite routing`: training/routing.h as a table or as
 * JSON, and as a picture. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "cli/evaluate.h"
#include "cli/routing_picture.h"
#include "cli/signals.h"
#include "training/routing.h"

enum { LEVELS = KIN_ROUTING_LEVELS };

typedef struct suite {
    const kin_args *args;
    kin_pipeline *pipe;
    const kin_model_info *info;
    kin_routing_report out;
} suite;

/* --- report --- */

static double ratio(double a, int64_t n)
{
    return n > 0 ? a / (double)n : 0;
}

/* Mean and least distance 1 - cosine of a layer's prototypes. */
static kin_status distances(const suite *s, int layer, double *mean, double *least, kin_error *err)
{
    const int64_t E = s->out.stats.experts;
    double *like = kin_malloc((size_t)(E * E) * sizeof *like);
    if (!like)
        return kin_fail(err, KIN_ERR_MEM, "routing: out of memory");
    kin_status status = kin_routing_stats_likeness(&s->out.stats, layer, like, err);
    *mean = 0;
    *least = E > 1 ? 2 : 0;
    for (int64_t i = 0; i < E * E && status == KIN_OK; i++) {
        if (i / E == i % E)
            continue;
        *mean += (1 - like[i]) / (double)(E * (E - 1));
        *least = fmin(*least, 1 - like[i]);
    }
    kin_free(like);
    return status;
}

static bool add_cell(const suite *s, cJSON *list, int layer, int level)
{
    const kin_routing_cell *c = kin_routing_stats_cell(&s->out.stats, layer, level);
    const int64_t *taken = kin_routing_stats_taken(&s->out.stats, layer, level);
    const int64_t routed = c->tokens - c->unconditional;
    cJSON *o = cJSON_CreateObject();
    if (!kin_json_append(list, o))
        return false;
    cJSON *counts = cJSON_AddArrayToObject(o, "tokens_per_expert");
    for (int64_t e = 0; counts && e < s->out.stats.experts; e++)
        if (!kin_json_append(counts, cJSON_CreateNumber((double)taken[e])))
            return false;
    return counts &&
           cJSON_AddNumberToObject(o, "sigma",
                                   round(1e3 * (double)kin_routing_sigma[level]) / 1e3) &&
           cJSON_AddNumberToObject(o, "tokens", (double)c->tokens) &&
           cJSON_AddNumberToObject(o, "load_max_over_mean",
                                   kin_routing_stats_imbalance(&s->out.stats, layer, level)) &&
           cJSON_AddNumberToObject(o, s->out.stats.cosine ? "top1_cosine" : "top1_score",
                                   ratio(c->strength, routed - c->none)) &&
           cJSON_AddNumberToObject(o, "unconditional_share",
                                   ratio((double)c->unconditional, c->tokens)) &&
           cJSON_AddNumberToObject(o, "none_share", ratio((double)c->none, c->tokens)) &&
           cJSON_AddNumberToObject(o, "capacity", ratio((double)c->pairs, routed)) &&
           (!c->rcl_n || cJSON_AddNumberToObject(o, "rcl", ratio(c->rcl, c->rcl_n)));
}

static kin_status add_layer(const suite *s, cJSON *list, int layer, kin_error *err)
{
    double mean, least;
    KIN_TRY(distances(s, layer, &mean, &least, err));
    cJSON *o = cJSON_CreateObject(), *levels = NULL, *d = NULL;
    bool ok = kin_json_append(list, o);
    if (ok) {
        ok = cJSON_AddNumberToObject(o, "block", s->out.stats.block[layer]) &&
             (d = cJSON_AddObjectToObject(o, "prototype_distance")) &&
             cJSON_AddNumberToObject(d, "mean", mean) && cJSON_AddNumberToObject(d, "min", least) &&
             (levels = cJSON_AddArrayToObject(o, "levels"));
    } else {
        cJSON_Delete(o);
    }
    for (int k = 0; k < LEVELS && ok; k++)
        ok = add_cell(s, levels, layer, k);
    return ok ? KIN_OK : kin_fail(err, KIN_ERR_MEM, "evaluate: out of memory");
}

static kin_status print_json(const suite *s, kin_error *err)
{
    cJSON *root, *layers = NULL;
    kin_status status = KIN_OK;
    KIN_TRY(kin_evaluate_report_open(s->args, "routing", "model_hash", s->pipe->hash, &root, err));
    bool ok = cJSON_AddStringToObject(root, "router", s->info->router) &&
              cJSON_AddNumberToObject(root, "experts", (double)s->out.stats.experts) &&
              cJSON_AddNumberToObject(root, "samples", (double)s->out.samples) &&
              cJSON_AddStringToObject(root, "samples_from", s->out.from) &&
              cJSON_AddNumberToObject(root, "tokens_per_sample", (double)s->out.stats.tokens) &&
              (layers = cJSON_AddArrayToObject(root, "layers"));
    for (int l = 0; l < s->out.stats.layers && ok && status == KIN_OK; l++)
        status = add_layer(s, layers, l, err);
    return kin_evaluate_report_close(root, status, ok, err);
}

static void print_row(const suite *s, int layer, int level)
{
    const kin_routing_cell *c = kin_routing_stats_cell(&s->out.stats, layer, level);
    const int64_t *taken = kin_routing_stats_taken(&s->out.stats, layer, level);
    const int64_t routed = c->tokens - c->unconditional;
    printf("%5d  %5.2f  %8.2f  %7.3f  %6.1f%%  %6.1f%%  %8.3f  ", s->out.stats.block[layer],
           (double)kin_routing_sigma[level],
           kin_routing_stats_imbalance(&s->out.stats, layer, level),
           ratio(c->strength, routed - c->none), 100 * ratio((double)c->unconditional, c->tokens),
           100 * ratio((double)c->none, c->tokens), ratio((double)c->pairs, routed));
    if (c->rcl_n)
        printf("%6.4f ", ratio(c->rcl, c->rcl_n));
    else
        printf("     - ");
    for (int64_t e = 0; e < s->out.stats.experts; e++)
        printf(" %5.1f", 100 * ratio((double)taken[e], routed));
    putchar('\n');
}

static kin_status print_table(const suite *s, kin_error *err)
{
    printf("router %s, %lld experts; %lld samples of %lld tokens: %s\n\n", s->info->router,
           (long long)s->out.stats.experts, (long long)s->out.samples,
           (long long)s->out.stats.tokens, s->out.from);
    printf(
        "block  sigma  max/mean  %s  uncond.     none  capacity     RCL   tokens of each expert, "
        "%% of those routed\n",
        s->out.stats.cosine ? "cos top" : "p top  ");
    for (int l = 0; l < s->out.stats.layers; l++)
        for (int k = 0; k < LEVELS; k++)
            print_row(s, l, k);
    printf("\nblock  distance between %s (1 - cosine): mean, least\n",
           s->out.stats.cosine ? "prototypes" : "rows of the gate");
    for (int l = 0; l < s->out.stats.layers; l++) {
        double mean, least;
        KIN_TRY(distances(s, l, &mean, &least, err));
        printf("%5d  %6.3f  %6.3f\n", s->out.stats.block[l], mean, least);
    }
    return KIN_OK;
}

/* --- the suite --- */

static kin_status on_progress(void *user, int64_t done, int64_t total, kin_error *err)
{
    (void)total;
    kin_progress_update(user, done, NULL, false);
    return kin_signals_check("evaluate", err);
}

static bool is_given(const kin_args *args, const char *flag)
{
    return kin_args_source(args, flag) > KIN_SOURCE_DEFAULT;
}

kin_status kin_evaluate_routing(const kin_args *args, kin_pipeline *pipeline,
                                kin_progress *progress, kin_error *err)
{
    suite s = {.args = args, .pipe = pipeline, .info = kin_model_get_info(pipeline->model)};
    const bool images = s.info->family == KIN_FAMILY_DIT;
    const char *picture = kin_args_text(args, "output");
    const kin_routing_options opt = {
        .data = kin_args_text(args, "data"),
        /* note: the default is meant for clips to generate */
        .count = is_given(args, "count") ? kin_args_int(args, "count") : 16,
        .batch = kin_args_int(args, "batch"),
        .seed = (uint64_t)kin_args_int(args, "seed"),
        .steps = (int)kin_args_int(args, "steps"),
        .shift = is_given(args, "flow-shift") ? kin_args_real(args, "flow-shift") : 1,
        .progress = on_progress,
        .user = progress};
    kin_progress_begin(progress, "evaluate", images ? "images" : "clips", opt.count);
    kin_status status = kin_routing_measure(pipeline, &opt, &s.out, err);
    kin_progress_end(progress);
    if (status == KIN_OK && picture)
        status = kin_routing_picture_write(&s.out.stats, s.out.grid, picture, err);
    if (status == KIN_OK)
        status = kin_args_bool(args, "json") ? print_json(&s, err) : print_table(&s, err);
    kin_routing_report_free(&s.out);
    return status;
}

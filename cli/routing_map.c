#include "cli/routing_map.h"

#include <stdio.h>

#include "cli/routing_picture.h"

/* The forwards to come belong to the next solver step. */
static kin_status next_step(void *user, int64_t clips_done, int step, int steps)
{
    kin_routing_stats *s = user;
    (void)clips_done;
    s->level = step < steps ? step : steps - 1; /* `step` of them are done */
    return KIN_OK;
}

static kin_status ignore_clip(void *user, int64_t clip, const kin_tensor *frames)
{
    (void)user;
    (void)clip;
    (void)frames;
    return KIN_OK;
}

static void print_shares(const kin_routing_stats *s)
{
    for (int l = 0; l < s->layers; l++) {
        printf("routing of block %d:", s->block[l]);
        for (int64_t e = 0; e < s->experts; e++) {
            int64_t n = 0, all = 0;
            for (int k = 0; k < s->levels; k++) {
                n += kin_routing_stats_taken(s, l, k)[e];
                all += kin_routing_stats_cell(s, l, k)->tokens;
            }
            printf(" %.1f%%", 100.0 * (double)n / (double)all);
        }
        putchar('\n');
    }
}

static kin_status run(kin_pipeline *p, const kin_routing_map_params *params, kin_routing_stats *s)
{
    const kin_model_info *info = kin_model_get_info(p->model);
    const char *prompt = params->condition->caption ? params->condition->caption : "";
    kin_generate_params g = kin_generate_params_default();
    g.count = 1;
    g.prompts = &prompt;
    g.prior = info->categories ? params->condition->prior : NULL;
    g.quant = info->categories ? params->condition->quant : NULL;
    g.steps = params->steps;
    g.cfg_scale = 1;
    g.seed = params->seed;
    g.allow_flat = true;
    g.emit = ignore_clip;
    g.progress = next_step;
    g.user = s;
    p->ctx->tap = kin_routing_stats_tap;
    p->ctx->tap_user = s;
    kin_status status = kin_pipeline_generate(p, &g);
    p->ctx->tap = NULL;
    p->ctx->tap_user = NULL;
    return status;
}

kin_status kin_routing_map_draw(kin_pipeline *p, const kin_routing_map_params *params,
                                kin_error *err)
{
    const kin_model_info *info = kin_model_get_info(p->model);
    kin_routing_stats s;
    int64_t grid[3];
    kin_routing_grid(info, p->frames, p->height, p->width, grid);
    KIN_TRY(kin_routing_stats_init(&s, info, p->params, params->steps,
                                   grid[0] * grid[1] * grid[2] + info->has_token, err));
    kin_status status = run(p, params, &s);
    if (status != KIN_OK)
        *err = p->ctx->error;
    else if (s.odd || !s.layers)
        status = kin_fail(err, KIN_ERR_UNSUPPORTED,
                          "inspect: the model's forward reports no routing of %lld tokens",
                          (long long)s.tokens);
    else
        status = kin_routing_picture_write(&s, grid, params->path, err);
    if (status == KIN_OK)
        print_shares(&s);
    kin_routing_stats_free(&s);
    return status;
}

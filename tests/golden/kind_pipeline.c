/* Whole pipelines of golden/video: wan_pipeline (a model directory from its text to its frames) and
 * cogvideox_cfg (guidance that follows the time). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "diffusion/pipeline_parts.h"
#include "physics/annotation.h"
#include "samplers/guidance.h"
#include "tests/golden/golden.h"
#include "tests/golden/models.h"

/* --- wan_pipeline --- */

enum { PROMPTS = 2 };

typedef struct pipeline_case {
    kin_golden_case *c;
    kin_pipeline *p;
    kin_physics_prior prior;
    const char *prompt[PROMPTS]; /* the prompt and the negative one */
    kin_tensor cond, uncond, guided, latents, frames;
    int step;
    kin_status status;
} pipeline_case;

static void store(pipeline_case *r, kin_tensor *all, const kin_tensor *t)
{
    if (r->status == KIN_OK)
        r->status = kin_golden_store(r->c, all, r->step, t);
}

/* [3,F,H,W] in [-1,1] to [1,F,H,W,3] in [0,1] */
static void store_frames(pipeline_case *r, const kin_tensor *t)
{
    const int64_t pixels = t->size[1] * t->size[2] * t->size[3];

    for (int64_t i = 0; i < pixels * 3; i++) {
        const double v = (kin_tensor_get(t, i) + 1.0) / 2.0;

        kin_tensor_set(&r->frames, i % pixels * 3 + i / pixels, v < 0 ? 0 : v > 1 ? 1 : v);
    }
}

static void on_tap(void *user, const char *name, const kin_tensor *t)
{
    pipeline_case *r = user;
    char out[64];

    if (!strcmp(name, "model_cond"))
        store(r, &r->cond, t);
    else if (!strcmp(name, "model_uncond"))
        store(r, &r->uncond, t);
    else if (!strcmp(name, "guided"))
        store(r, &r->guided, t);
    else if (!strncmp(name, "latents.", 8))
        store(r, &r->latents, t), r->step++;
    else if (!strcmp(name, "decoded") && kin_tensor_numel(t) == kin_tensor_numel(&r->frames))
        store_frames(r, t);
    else if (strstr(name, "prompt_embeds")) {
        snprintf(out, sizeof(out), "out.%s", name);
        kin_golden_check(r->c, out, t, 1e-5);
    }
}

static kin_status drop(void *user, int64_t clip, const kin_tensor *frames)
{
    (void)user;
    (void)clip;
    (void)frames;
    return KIN_OK;
}

/* the annotation gives prior and quantities; prompts as the tokenizer sees them */
static kin_status read_texts(pipeline_case *r)
{
    kin_golden_case *c = r->c;
    const cJSON *clean = cJSON_GetObjectItemCaseSensitive(c->config, "cleaned_prompts");
    const cJSON *record = cJSON_GetObjectItemCaseSensitive(c->config, "annotation");
    kin_tensor prior, quant;

    KIN_TRY(kin_annotation_read(record, NULL, &r->prior, &c->ctx->error));
    KIN_TRY(kin_golden_input(c, "in.priori", &prior));
    KIN_TRY(kin_golden_input(c, "in.quantify_priori", &quant));
    kin_golden_expect(c, !memcmp(prior.data, r->prior.prior, sizeof(r->prior.prior)),
                      "the annotation's prior");
    kin_golden_expect(c, !memcmp(quant.data, r->prior.quant, sizeof(r->prior.quant)),
                      "the annotation's quantities");
    for (int i = 0; i < PROMPTS; i++) {
        r->prompt[i] = cJSON_GetStringValue(cJSON_GetArrayItem(clean, i));
        if (!r->prompt[i])
            return kin_fail(&c->ctx->error, KIN_ERR_FORMAT, "case: no cleaned_prompts");
    }
    return KIN_OK;
}

static kin_status check_tokens(pipeline_case *r, int64_t len)
{
    kin_golden_case *c = r->c;
    kin_tensor ids, mask;

    KIN_TRY(KIN_WS_HOST(c->ctx, &ids, KIN_DTYPE_I32, PROMPTS, len));
    KIN_TRY(KIN_WS_HOST(c->ctx, &mask, KIN_DTYPE_U8, PROMPTS, len));
    for (int i = 0; i < PROMPTS; i++)
        KIN_TRY(kin_tokenizer_encode_padded(r->p->tokenizer, r->prompt[i], strlen(r->prompt[i]),
                                            (int)len, (int32_t *)ids.data + i * len,
                                            (uint8_t *)mask.data + i * len, &c->ctx->error));
    kin_golden_check(c, "out.input_ids", &ids, 0);
    kin_golden_check(c, "out.attention_mask", &mask, 0);
    return KIN_OK;
}

static kin_status check_schedule(pipeline_case *r, const kin_generate_params *a)
{
    kin_golden_case *c = r->c;
    kin_error *err = &c->ctx->error;
    kin_schedule s = {0};
    kin_scheduler cfg;
    kin_tensor t;

    KIN_TRY(kin_solver_config(r->p, a, &cfg, err));
    KIN_TRY(kin_solver_schedule(r->p, a, &cfg, 1, &s, err));
    t = kin_tensor_of(s.sigma, KIN_DTYPE_F32, 1, (int64_t[]){s.n + 1});
    kin_golden_check(c, "out.sigmas", &t, 1e-6);
    t = kin_tensor_of(s.t, KIN_DTYPE_F32, 1, (int64_t[]){s.n});
    kin_golden_check(c, "out.timesteps", &t, 0);
    kin_schedule_free(&s);
    return KIN_OK;
}

static kin_status run_generation(pipeline_case *r, const kin_generate_params *a)
{
    kin_golden_case *c = r->c;
    kin_status status;

    KIN_TRY(kin_golden_like(c, "out.model_cond", &r->cond));
    KIN_TRY(kin_golden_like(c, "out.model_uncond", &r->uncond));
    KIN_TRY(kin_golden_like(c, "out.guided", &r->guided));
    KIN_TRY(kin_golden_like(c, "out.latents", &r->latents));
    KIN_TRY(kin_golden_like(c, "out.frames", &r->frames));
    c->ctx->tap = on_tap;
    c->ctx->tap_user = r;
    status = kin_pipeline_generate(r->p, a);
    c->ctx->tap = NULL;
    KIN_TRY(status);
    KIN_TRY(r->status);
    kin_golden_check(c, "out.model_cond", &r->cond, 5e-5);
    kin_golden_check(c, "out.model_uncond", &r->uncond, 5e-5);
    kin_golden_check(c, "out.guided", &r->guided, 5e-5);
    kin_golden_check(c, "out.latents", &r->latents, 5e-5);
    kin_golden_check(c, "out.frames", &r->frames, 1e-4);
    return KIN_OK;
}

static kin_status run_pipeline(pipeline_case *r)
{
    kin_golden_case *c = r->c;
    kin_generate_params a = kin_generate_params_default();
    const char *name = kin_golden_string(c, "directory");
    const int64_t len = (int64_t)kin_golden_number(c, "max_sequence_length", 512);
    char dir[KIN_PATH_MAX];
    kin_tensor noise;

    KIN_TRY(kin_golden_path(c, name ? name : "", dir));
    KIN_TRY(kin_pipeline_load(c->ctx, dir, &r->p));
    KIN_TRY(kin_pipeline_set_text_len(r->p, len));
    KIN_TRY(read_texts(r));
    KIN_TRY(check_tokens(r, len));
    KIN_TRY(kin_golden_input(c, "in.latents", &noise));
    a.prompts = &r->prompt[0];
    a.negatives = &r->prompt[1];
    a.prior = r->prior.prior;
    a.quant = r->prior.quant;
    a.noise = &noise;
    a.frames = (int64_t)kin_golden_number(c, "num_frames", 0);
    a.height = (int64_t)kin_golden_number(c, "height", 0);
    a.width = (int64_t)kin_golden_number(c, "width", 0);
    a.steps = (int)kin_golden_number(c, "num_inference_steps", 0);
    a.cfg_scale = (float)kin_golden_number(c, "guidance_scale", 0);
    a.shift = (float)kin_golden_number(c, "flow_shift", 0);
    a.allow_flat = true;
    a.emit = drop;
    KIN_TRY(check_schedule(r, &a));
    return run_generation(r, &a);
}

static kin_status kind_wan_pipeline(kin_golden_case *c)
{
    pipeline_case r = {.c = c};
    const kin_status status = run_pipeline(&r);

    c->ctx->tap = NULL;
    kin_physics_prior_free(&r.prior);
    kin_pipeline_destroy(&r.p);
    return status;
}

/* --- cogvideox_cfg --- */

static kin_status kind_cogvideox_cfg(kin_golden_case *c)
{
    const char *mode = kin_golden_string(c, "mode");
    const bool multi = mode && !strcmp(mode, "multi");
    const double g = kin_golden_number(c, "guidance_scale", 1.0);
    const double gp = kin_golden_number(c, "phys_guidance_scale", 0.0);
    const int steps = (int)kin_golden_number(c, "num_inference_steps", 0);
    kin_tensor t, scale, phys, all, cond, text, uncond;

    KIN_TRY(kin_golden_input_f32(c, "in.timesteps", &t));
    KIN_TRY(kin_golden_like(c, "out.guidance", &scale));
    KIN_TRY(kin_golden_like(c, "out.guided", &all));
    KIN_TRY(kin_golden_like(c, multi ? "out.phys_guidance" : "out.guidance", &phys));
    for (int i = 0; i < steps; i++) {
        kin_tensor y = kin_tensor_select(&all, 0, i);
        const double at = kin_tensor_get(&t, i);
        const double gt = kin_guidance_dynamic(g, at, steps);
        const double gpt = kin_guidance_dynamic(gp, at, steps);

        kin_tensor_set(&scale, i, gt);
        kin_tensor_set(&phys, i, gpt);
        KIN_TRY(kin_golden_entry(c, "in.noise_cond", i, &cond));
        KIN_TRY(kin_golden_entry(c, "in.noise_uncond", i, &uncond));
        if (multi) {
            KIN_TRY(kin_golden_entry(c, "in.noise_text", i, &text));
            KIN_TRY(
                kin_guidance_mix_multi(c->ctx, &uncond, &text, &cond, (float)gt, (float)gpt, &y));
        } else {
            KIN_TRY(kin_guidance_mix(c->ctx, &uncond, &cond, (float)gt, &y));
        }
    }
    kin_golden_check(c, "out.guidance", &scale, 1e-5);
    if (multi)
        kin_golden_check(c, "out.phys_guidance", &phys, 1e-5);
    kin_golden_check(c, "out.guided", &all, 1e-5);
    return KIN_OK;
}

extern const kin_golden_kind kin_golden_kinds_pipeline[];
const kin_golden_kind kin_golden_kinds_pipeline[] = {
    {"wan_pipeline", kind_wan_pipeline},
    {"cogvideox_cfg", kind_cogvideox_cfg},
    {NULL, NULL},
};

/* bench/random_model.c: a model directory with random weights, for measurements of speed and memory
 * on sizes for which no trained weights are at hand.
 *   random_model CONFIG.json OUT f32|bf16 */
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "diffusion/pipeline.h"

static kin_status make(kin_ctx *ctx, const char *config, const char *out, kin_dtype dtype)
{
    cJSON *json = NULL, *scheduler = cJSON_CreateObject();
    kin_pipeline *p = NULL;
    kin_status status;
    cJSON_AddStringToObject(scheduler, "_class_name", "FlowMatchEulerDiscreteScheduler");
    KIN_GOTO(kin_json_read(config, 1 << 20, KIN_JSON_STRICT, &json, &ctx->error));
    KIN_GOTO(kin_pipeline_create(ctx, json, NULL, NULL, 0, scheduler, 1, &p));
    /* modulation and head start at zero, which would leave the blocks without effect */
    for (int i = 0; i < p->params->count; i++) {
        kin_param *w = p->params->list[i];
        if (w->trainable && w->init.kind == KIN_INIT_ZERO)
            w->init = KIN_INIT(KIN_INIT_NORMAL, 0.02f);
    }
    kin_params_init(p->params, 1);
    /* positions far apart, so that the tokens spread over all experts */
    kin_param *pos = kin_params_find(p->params, "pos_embed");
    const kin_rng rng = {.seed = 1, .purpose = KIN_RNG_INIT, .sample = UINT64_C(1) << 32};
    if (pos)
        kin_rng_normal(&rng, 0, kin_tensor_numel(&pos->value), pos->value.data);
    status = kin_pipeline_save(p, out, dtype, NULL, NULL, &ctx->error);
done:
    kin_pipeline_destroy(&p);
    cJSON_Delete(scheduler);
    cJSON_Delete(json);
    return status;
}

int main(int argc, char **argv)
{
    kin_error err;
    kin_dtype dtype;
    kin_ctx *ctx = NULL;
    if (argc != 4 || !kin_dtype_parse(argv[3], &dtype)) {
        fprintf(stderr, "usage: random_model CONFIG.json OUT f32|bf16\n");
        return 2;
    }
    kin_status status = kin_ctx_create(&(kin_ctx_options){.backend = KIN_BACKEND_CPU}, &ctx, &err);
    if (status == KIN_OK && (status = make(ctx, argv[1], argv[2], dtype)) != KIN_OK)
        err = ctx->error;
    if (status != KIN_OK)
        fprintf(stderr, "random_model: %s\n", err.text);
    kin_ctx_destroy(&ctx);
    return status == KIN_OK ? 0 : 1;
}

/* tests/diffusion/test_memory.c: what sampling from a bf16 model keeps resident. A program of its
 * own, so that nothing else is in the figure. */
#include "tests/diffusion/models.h"
#include "tests/support/folder.h"

#include <malloc.h>
#include <sys/stat.h>

#include "diffusion/pipeline.h"

#define MODEL                                                                                   \
    "{\"model\": \"promoe_tc\", \"input_size\": 32, \"patch_size\": 4, \"in_channels\": 3,"     \
    "\"hidden_size\": 384, \"depth\": 4, \"num_heads\": 6, \"num_classes\": 10,"                \
    "\"MoE_config\": {\"num_routed_experts\": 8, \"top_k\": 1, \"moe_intermediate_size\": 768," \
    "\"shared_expert_intermediate_size\": 768}}"

static double status_mb(const char *key)
{
    char line[256];
    double kb = 0;
    FILE *fp = fopen("/proc/self/status", "r");

    assert_non_null(fp);
    while (fgets(line, sizeof line, fp)) {
        if (!strncmp(line, key, strlen(key)))
            kb = strtod(line + strlen(key), NULL);
    }
    fclose(fp);
    return kb * 1024 / 1e6;
}

/* The peak from here on is that of what follows. */
static bool restart_peak(void)
{
    FILE *fp = fopen("/proc/self/clear_refs", "w");
    bool ok = fp && fputs("5", fp) >= 0;

    return fp ? fclose(fp) == 0 && ok : false;
}

static void save_model(const char *dir)
{
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CPU, 1);
    cJSON *config = json(MODEL), *scheduler = json("{}");
    kin_pipeline *p = NULL;

    assert_ok(kin_pipeline_create(ctx, config, NULL, NULL, 0, scheduler, 1, &p), &ctx->error);
    randomize(p->params, 3, 0.05f);
    assert_ok(kin_pipeline_save(p, dir, KIN_DTYPE_BF16, NULL, NULL, &ctx->error), &ctx->error);
    kin_pipeline_destroy(&p);
    kin_ctx_destroy(&ctx);
    cJSON_Delete(config);
    cJSON_Delete(scheduler);
    malloc_trim(0);
}

static kin_status ignore(void *user, int64_t clip, const kin_tensor *frames)
{
    (void)user;
    (void)clip;
    (void)frames;
    return KIN_OK;
}

/* Packed weights take the place of the mapped ones, page for page. */
static void sampling_holds_the_weights_once(void **state)
{
    const int32_t label = 3;
    const kin_ctx_options opt = {
        .backend = KIN_BACKEND_CPU, .threads = 2, .compute = KIN_DTYPE_BF16};
    kin_generate_params g = kin_generate_params_default();
    const char *dir = kin_test_path("model");
    char file[500];
    kin_ctx *ctx = NULL;
    kin_pipeline *p = NULL;
    kin_error err = {0};
    struct stat st;
    double before, taken, weights, work, packed;

    (void)state;
    save_model(dir);
    snprintf(file, sizeof(file), "%s/transformer/diffusion_pytorch_model.safetensors", dir);
    assert_int_equal(stat(file, &st), 0);
    if (!restart_peak())
        skip();
    before = status_mb("VmRSS:");
    assert_ok(kin_ctx_create(&opt, &ctx, &err), &err);
    assert_ok(kin_pipeline_load(ctx, dir, &p), &ctx->error);
    /* loading reads every byte for the hash and keeps next to nothing */
    weights = (double)st.st_size / 1e6;
    taken = status_mb("VmHWM:") - before;
    print_message("weights %.1f MB, loading %.1f MB\n", weights, taken);
#ifndef KIN_SANITIZED
    assert_true(taken < 0.5 * weights);
#endif
    g.labels = &label;
    g.steps = 2;
    g.allow_flat = true;
    g.emit = ignore;
    assert_ok(kin_pipeline_generate(p, &g), &ctx->error);
    taken = status_mb("VmHWM:") - before;
    work = (double)ctx->ws.peak / 1e6;
    packed = (double)ctx->packed / 1e6;
    print_message("packed %.1f MB, workspace %.1f MB, sampling %.1f MB\n", packed, work, taken);
#ifndef KIN_SANITIZED
    /* 8 MB: threads and what the libraries take at first use */
    assert_true(packed > 0.5 * weights);
    assert_true(taken < 1.2 * packed + work + 8);
#endif
    kin_pipeline_destroy(&p);
    kin_ctx_destroy(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(sampling_holds_the_weights_once)};
    return cmocka_run_group_tests(tests, kin_test_folder_make, kin_test_folder_remove);
}

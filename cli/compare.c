#include "cli/compare.h"

#include <inttypes.h>
#include <stdio.h>

#include "diffusion/probe.h"

void kin_cli_tell_error(void *user, const char *part, const char *name, double relative,
                        double worst)
{
    (void)user;
    printf("%s/%s: error %.5f of its norm, of a value at most %.3g\n", part, name, relative, worst);
}

static void tell(const char *how, const kin_probe *a, const kin_probe *b)
{
    printf("end to end, products in %s:", how);
    if (a->text)
        printf(" text %.5f,", kin_probe_difference(a->text, b->text, a->texts));
    printf(" output");
    for (int i = 0; i < KIN_PROBE_TIMES; i++)
        printf(" %.5f at time %.0f%s", kin_probe_difference(a->y[i], b->y[i], a->n),
               (double)kin_probe_times[i], i + 1 < KIN_PROBE_TIMES ? "," : "\n");
}

static kin_status compare_in(const kin_args *args, const kin_probe *want, const char *dir,
                             kin_dtype compute, kin_error *err)
{
    const kin_ctx_options options = {
        .backend = KIN_BACKEND_CPU, .threads = kin_cli_threads(args), .compute = compute};
    kin_ctx *ctx = NULL;
    kin_pipeline *p = NULL;
    kin_probe got = {0};
    KIN_TRY(kin_ctx_create(&options, &ctx, err));
    kin_status status = kin_pipeline_load(ctx, dir, &p);
    if (status == KIN_OK)
        status = kin_probe_run(p, &got);
    if (status == KIN_OK)
        tell(kin_cli_dtype_name(compute), want, &got);
    else
        *err = ctx->error;
    kin_probe_free(&got);
    kin_pipeline_destroy(&p);
    kin_ctx_destroy(&ctx);
    return status;
}

kin_status kin_cli_compare(const kin_args *args, kin_pipeline *p, const char *dir,
                           kin_progress *notes, kin_error *err)
{
    const kin_family family = kin_model_get_info(p->model)->family;
    const uint64_t left = kin_cli_memory_left();
    uint64_t most = (uint64_t)kin_params_numel(p->params);
    kin_probe want = {0};
    if (family == KIN_FAMILY_VAE || family == KIN_FAMILY_CLASSIFIER)
        return KIN_OK;
    if (p->text_params && (uint64_t)kin_params_numel(p->text_params) > most)
        most = (uint64_t)kin_params_numel(p->text_params);
    if (left && most * sizeof(float) > left) {
        kin_progress_note(notes,
                          "no comparison from end to end: it takes %" PRIu64 " MB, %" PRIu64
                          " MB are there",
                          most * sizeof(float) >> 20, left >> 20);
        return KIN_OK;
    }
    kin_status status = kin_probe_run(p, &want);
    if (status != KIN_OK)
        *err = p->ctx->error;
    if (status == KIN_OK)
        status = compare_in(args, &want, dir, KIN_DTYPE_F32, err);
    if (status == KIN_OK)
        status = compare_in(args, &want, dir, KIN_DTYPE_I8, err);
    kin_probe_free(&want);
    return status;
}

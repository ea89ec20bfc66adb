/* cli/convert.c: `kinema convert`: a model directory or run folder into a model directory of
 * another weight type. A run folder gives the EMA weights of its newest checkpoint. */
#include <stdio.h>
#include <string.h>

#include "cli/common.h"

kin_status kin_cmd_convert(const kin_args *args, kin_error *err)
{
    char model[KIN_PATH_MAX];
    const char *out = kin_args_text(args, "output");
    if (!out)
        return kin_fail(err, KIN_ERR_ARG, "convert: -o DIR is needed");
    if (kin_path_exists(out) && !kin_args_bool(args, "force"))
        return kin_fail(err, KIN_ERR_ARG, "convert: %s is there already (--force replaces it)",
                        out);
    KIN_TRY(kin_cli_model(args, model, err));
    bool bf16 = strcmp(kin_args_text(args, "dtype"), "bf16") == 0;

    kin_ctx_options opt = {.backend = KIN_BACKEND_CPU, .threads = kin_cli_threads(args)};
    kin_ctx *ctx = NULL;
    kin_pipeline *p = NULL;
    KIN_TRY(kin_ctx_create(&opt, &ctx, err));
    kin_status status = kin_cli_load(ctx, model, &p, err);
    if (status == KIN_OK)
        status = kin_pipeline_save(p, out, bf16 ? KIN_DTYPE_BF16 : KIN_DTYPE_F32, NULL, NULL, err);
    if (status == KIN_OK)
        printf("%s: weights in %s\n", out, bf16 ? "bf16" : "f32");
    kin_pipeline_destroy(&p);
    kin_ctx_destroy(&ctx);
    return status;
}

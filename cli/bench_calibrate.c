/* cli/bench_calibrate.c: `kinema bench --calibrate`: times own products against oneDNN's and writes
 * the table by which they are chosen. */
#include <stdio.h>

#include "cli/bench.h"
#include "tensor/cpu/choose.h"

static void print_choice(const kin_choice *c)
{
    printf("%-5s %5lld x %-5lld", kin_dtype_name(c->compute), (long long)c->n, (long long)c->k);
    for (int r = 0; r < KIN_CHOICE_ROWS; r++) {
        const double gflop = 2e-9 * (double)(c->rows[r] * c->n * c->k);
        printf("  %5lld rows: own %7.1f", (long long)c->rows[r], gflop / c->own_s[r]);
        if (c->onednn_s[r] > 0)
            printf(", oneDNN %7.1f GF/s", gflop / c->onednn_s[r]);
        else
            printf(" GF/s, oneDNN none");
    }
    printf("  -> %s%s\n", c->onednn ? "oneDNN" : "own",
           c->onednn_s[0] > 0 && !c->steady ? " (oneDNN's bits move)" : "");
}

kin_status kin_bench_calibrate(const kin_args *args, kin_error *err)
{
    char path[KIN_PATH_MAX];
    const char *named = kin_args_text(args, "output");
    kin_choice rows[KIN_CHOICE_MAX];
    int count = 0;
    kin_ctx *ctx = NULL;
    if (!kin_args_bool(args, "calibrate"))
        return kin_fail(err, KIN_ERR_ARG,
                        "bench: needs a second word or --calibrate; see 'kinema --help'");
    if (named)
        snprintf(path, sizeof path, "%s", named);
    else
        kin_cpu_choices_path(path, sizeof path);
    if (!path[0])
        return kin_fail(err, KIN_ERR_ARG,
                        "bench: no place for the table: name one by -o FILE or KINEMA_CALIBRATION");
    KIN_TRY(kin_cli_context(args, false, &ctx, err));
    kin_status status = kin_cpu_calibrate(ctx, (int)kin_args_int(args, "rounds"), rows, &count);
    if (status != KIN_OK)
        *err = ctx->error;
    kin_ctx_destroy(&ctx);
    KIN_TRY(status);
    for (int i = 0; i < count; i++)
        print_choice(&rows[i]);
    KIN_TRY(kin_cpu_choices_write(path, rows, count, err));
    printf("%s: written\n", path);
    return KIN_OK;
}

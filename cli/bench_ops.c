/* cli/bench_ops.c: `kinema bench ops`: each kernel beside the peak of the same run. The rows
 * themselves stand in bench_rows_*.c. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cli/bench.h"
#include "tensor/ops.h"

kin_status kin_bench_noise(kin_ctx *ctx, kin_tensor *t, int ndim, const int64_t *sizes)
{
    static uint64_t stream; /* every tensor of a run has numbers of its own */
    KIN_TRY(kin_ws_tensor(ctx, KIN_DTYPE_F32, ndim, sizes, t));
    const kin_rng rng = {.seed = 1, .purpose = KIN_RNG_TEST, .sample = stream++};
    return ctx->k->randn(ctx, &rng, 0, t);
}

kin_status kin_bench_operand(kin_ctx *ctx, kin_tensor *t)
{
    const kin_tensor from = *t;
    if (kin_operand_dtype(ctx) == KIN_DTYPE_F32)
        return KIN_OK;
    KIN_TRY(kin_ws_tensor(ctx, kin_operand_dtype(ctx), from.ndim, from.size, t));
    return ctx->k->copy(ctx, &from, t, false);
}

void kin_bench_add_ratio(const kin_bench *b, const kin_bench_row *row, const kin_bench_row *other,
                         const char *name)
{
    if (!row->out || !other->out)
        return;
    cJSON_AddNumberToObject(row->out, "ratio", row->seconds / other->seconds);
    cJSON_AddStringToObject(row->out, "other", name);
    kin_bench_print(b, "%-20s %-8s %-30s %.3f times %s\n", "", row->dtype, row->shape,
                    row->seconds / other->seconds, name);
}

bool kin_bench_wants(const kin_bench *b, const char *op, const char *shape)
{
    char text[192];
    const char *filter = kin_args_text(b->args, "filter");
    snprintf(text, sizeof text, "%s %s %s", op, shape, kin_bench_dtype_name(b->ctx));
    return !filter || strstr(text, filter);
}

/* What a row of this work can hope for. */
static kin_bench_against against_of(const kin_bench *b, const kin_profile_op *work)
{
    if (work->flops > 0)
        return KIN_AGAINST_F32;
    if (work->bytes <= (double)kin_peak_cache(2) * b->threads)
        return KIN_AGAINST_L2;
    return work->bytes <= (double)kin_peak_cache(3) ? KIN_AGAINST_L3 : KIN_AGAINST_DRAM;
}

/* Work of one run, as the plan table counts it. */
static kin_status count_work(kin_bench *b, const kin_bench_row *row, kin_profile_op *work)
{
    static kin_profile profile;
    kin_profile_on(b->ctx, &profile, CLOCK_MONOTONIC);
    kin_status status = row->run(b->ctx, row->user);
    kin_profile_off(b->ctx, &profile);
    *work = kin_profile_total(&profile);
    if (row->flops > 0)
        work->flops = row->flops;
    if (status != KIN_OK) {
        *b->err = b->ctx->error;
        b->err->status = status;
    }
    return status;
}

static void report_row(kin_bench *b, kin_bench_row *row, const kin_profile_op *work,
                       kin_bench_against against, const kin_bench_times *t)
{
    static const char *const names[] = {"triad_l2", "triad_l3", "triad_dram", "f32"};
    const double rate = work->flops / t->best, speed = work->bytes / t->best;
    const double share = (against == KIN_AGAINST_F32 ? rate : speed) / t->peak;
    cJSON *o = row->out;
    cJSON_AddNumberToObject(o, "threads", b->threads);
    cJSON_AddNumberToObject(o, "seconds", t->best);
    cJSON_AddNumberToObject(o, "median", t->median);
    cJSON_AddNumberToObject(o, "gflop", work->flops * 1e-9);
    cJSON_AddNumberToObject(o, "mbytes", work->bytes * 1e-6);
    cJSON_AddNumberToObject(o, "gflops", rate * 1e-9);
    cJSON_AddNumberToObject(o, "gbs", speed * 1e-9);
    cJSON_AddStringToObject(o, "against", names[against]);
    kin_bench_add(o, "peak", t->peak * 1e-9);
    kin_bench_add(o, "share", share);
    kin_bench_print(b, "%-20s %-8s %-30s %10.3f ms %8.1f %s %6.2f of %s\n", row->op, row->dtype,
                    row->shape, t->best * 1e3, work->flops > 0 ? rate * 1e-9 : speed * 1e-9,
                    work->flops > 0 ? "GF/s" : "GB/s", share, names[against]);
}

kin_status kin_bench_run_row(kin_bench *b, kin_bench_row *row)
{
    kin_profile_op work;
    kin_bench_times t;
    row->out = NULL;
    if (!kin_bench_wants(b, row->op, row->shape))
        return KIN_OK;
    row->dtype = kin_bench_dtype_name(b->ctx);
    KIN_TRY(count_work(b, row, &work));
    const kin_bench_against against = against_of(b, &work);
    KIN_TRY(kin_bench_time(b, against, row->run, NULL, row->user, &t));
    row->out = cJSON_CreateObject();
    cJSON *rows = cJSON_GetObjectItemCaseSensitive(b->root, "rows");
    if (!row->out || !cJSON_AddItemToArray(rows, row->out))
        return kin_fail(b->err, KIN_ERR_MEM, "bench: out of memory");
    row->seconds = t.best;
    cJSON_AddStringToObject(row->out, "op", row->op);
    cJSON_AddStringToObject(row->out, "dtype", row->dtype);
    cJSON_AddStringToObject(row->out, "shape", row->shape);
    report_row(b, row, &work, against, &t);
    return KIN_OK;
}

/* All groups on one context. What a group failed with in the context's own error goes to err. */
static kin_status run_groups(kin_bench *b)
{
    static kin_status (*const group[])(kin_bench *) = {
        kin_bench_rows_linear,  kin_bench_rows_grouped, kin_bench_rows_attention,
        kin_bench_rows_conv,    kin_bench_rows_norm,    kin_bench_rows_elementwise,
        kin_bench_rows_routing, kin_bench_rows_layer,   kin_bench_rows_mopa};
    /* int8 is products alone, and only forward */
    const size_t groups = b->ctx->compute == KIN_DTYPE_I8 ? 2 : sizeof group / sizeof *group;
    for (size_t i = 0; i < groups; i++) {
        const size_t mark = kin_ws_mark(b->ctx);
        kin_status status = group[i](b);
        kin_ws_release(b->ctx, mark);
        if (status != KIN_OK) {
            if (b->err->status == KIN_OK)
                *b->err = b->ctx->error;
            return status;
        }
    }
    return KIN_OK;
}

kin_status kin_bench_ops(const kin_args *args, kin_error *err)
{
    static const kin_dtype types[] = {KIN_DTYPE_F32, KIN_DTYPE_BF16, KIN_DTYPE_I8};
    const char *dtype = kin_args_text(args, "dtype");
    kin_bench b;
    kin_status status;
    KIN_GOTO(kin_bench_open(args, KIN_DTYPE_F32, &b, err));
    KIN_GOTO(kin_bench_measure_peaks(&b, true));
    if (!cJSON_AddArrayToObject(b.root, "rows"))
        KIN_GOTO(kin_fail(err, KIN_ERR_MEM, "bench: out of memory"));
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (strcmp(dtype, "all") && strcmp(dtype, kin_cli_dtype_name(types[i])))
            continue;
        KIN_GOTO(kin_bench_reopen(&b, types[i], b.threads));
        KIN_GOTO(run_groups(&b));
    }
    status = kin_bench_report(&b);
done:
    kin_bench_close(&b);
    return status;
}

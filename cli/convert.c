/* cli/convert.c: `kinema convert`: model directories, run folders and .pth files into one another.
 * A run folder gives the EMA weights of its newest checkpoint unless told otherwise. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/alloc.h"
#include "base/json.h"
#include "cli/compare.h"
#include "io/safetensors.h"
#include "training/checkpoint.h"
#include "training/official.h"

typedef struct conversion {
    const kin_args *args;
    const char *out;
    kin_dtype dtype;
    uint64_t max_shard;
    bool ema;
    kin_progress notes;
    kin_error *err;
} conversion;

static bool ends_in(const char *path, const char *a, const char *b)
{
    return strcasecmp(kin_path_ext(path), a) == 0 || (b && strcasecmp(kin_path_ext(path), b) == 0);
}

/* "2GB", "500MB", "1GiB", "1000000" */
static kin_status parse_size(const char *text, uint64_t *out, kin_error *err)
{
    static const struct {
        const char *unit;
        double bytes;
    } units[] = {{"", 1},      {"B", 1},        {"KB", 1e3},     {"MB", 1e6},    {"GB", 1e9},
                 {"TB", 1e12}, {"KIB", 0x1p10}, {"MIB", 0x1p20}, {"GIB", 0x1p30}};
    char *end;
    *out = 0;
    if (!text)
        return KIN_OK;
    const double v = strtod(text, &end);
    for (size_t i = 0; end != text && i < sizeof units / sizeof *units; i++)
        if (strcasecmp(end, units[i].unit) == 0 && v * units[i].bytes >= 1 &&
            v * units[i].bytes < 0x1p62) {
            *out = (uint64_t)(v * units[i].bytes);
            return KIN_OK;
        }
    return kin_fail(err, KIN_ERR_ARG, "--max-shard-size: '%s' must be a size such as 2GB or 500MB",
                    text);
}

static const char *type_name(kin_dtype dtype)
{
    return dtype == KIN_DTYPE_I8 ? "8-bit blocks" : kin_dtype_name(dtype);
}

/* The lines of what was guessed. */
static void tell(conversion *c, const kin_strbuf *notes)
{
    const char *at = notes->data;
    while (at && *at) {
        const size_t n = strcspn(at, "\n");
        kin_progress_note(&c->notes, "%.*s", (int)n, at);
        at += n + (at[n] == '\n');
    }
}

/* Any .pth as one safetensors file, names and types as they are. */
static kin_status pth_to_safetensors(conversion *c, const char *in)
{
    kin_pth *pth;
    KIN_TRY(kin_pth_open(in, &pth, c->err));
    const int64_t n = kin_pth_count(pth);
    kin_item *items = kin_calloc((size_t)n + 1, sizeof *items);
    kin_status status = items ? KIN_OK : kin_fail(c->err, KIN_ERR_MEM, "convert: out of memory");
    for (int64_t i = 0; i < n && status == KIN_OK; i++)
        items[i] = kin_pth_item(pth, i, kin_pth_at(pth, i)->name, kin_pth_at(pth, i)->dtype);
    if (status == KIN_OK)
        status = kin_safetensors_write_items(c->out, items, n, NULL, c->err);
    if (status == KIN_OK)
        kin_cli_say(c->args, "%s: %" PRId64 " tensors\n", c->out, n);
    kin_free(items);
    kin_pth_close(&pth);
    return status;
}

static kin_status from_pth(conversion *c, const char *in, const cJSON *given)
{
    const char *vae = kin_args_text(c->args, "vae");
    char folder[KIN_PATH_MAX];
    const kin_official_options opt = {.given = given,
                                      .part = c->ema ? KIN_IMPORT_EMA : KIN_IMPORT_MODEL,
                                      .dtype = c->dtype,
                                      .max_shard = c->max_shard,
                                      .vae = vae ? folder : NULL};
    kin_strbuf notes = {0};
    int64_t step = 0;
    kin_status status;
    status = vae ? kin_pipeline_vae_folder(vae, folder, c->err) : KIN_OK;
    if (status != KIN_OK)
        return c->err->status = status == KIN_ERR_MEM ? status : KIN_ERR_FORMAT;
    if (kin_args_bool(c->args, "with-optimizer")) {
        if (opt.vae)
            return kin_fail(c->err, KIN_ERR_ARG, "convert: --vae is for model directories");
        if (kin_args_source(c->args, "dtype") == KIN_SOURCE_FLAG && c->dtype != KIN_DTYPE_F32)
            return kin_fail(c->err, KIN_ERR_ARG,
                            "convert: --with-optimizer keeps everything in f32");
        status = kin_official_to_run(in, c->out, given, &notes, &step, c->err);
        tell(c, &notes);
        if (status == KIN_OK)
            kin_cli_say(c->args, "%s: checkpoint-%" PRId64 " with averages and moments\n", c->out,
                        step);
    } else {
        status = kin_official_to_model(in, c->out, &opt, &notes, c->err);
        tell(c, &notes);
        if (status == KIN_OK)
            kin_cli_say(c->args, "%s: %s weights in %s\n", c->out, c->ema ? "EMA" : "model",
                        type_name(c->dtype));
    }
    kin_strbuf_free(&notes);
    return status;
}

static kin_status to_directory(conversion *c, const char *model)
{
    const kin_ctx_options options = {.backend = KIN_BACKEND_CPU,
                                     .threads = kin_cli_threads(c->args)};
    const bool blocks = c->dtype == KIN_DTYPE_I8;
    const kin_save_options save = {
        .dtype = c->dtype, .max_shard = c->max_shard, .report = blocks ? kin_cli_tell_error : NULL};
    kin_ctx *ctx = NULL;
    kin_pipeline *p = NULL;
    KIN_TRY(kin_ctx_create(&options, &ctx, c->err));
    kin_status status = kin_cli_load(c->args, ctx, model, &p, c->err);
    if (status == KIN_OK && kin_pipeline_merge_loras(p) != KIN_OK) {
        *c->err = ctx->error;
        status = c->err->status;
    }
    if (status == KIN_OK)
        status = kin_pipeline_save_as(p, c->out, &save, c->err);
    if (status == KIN_OK && blocks)
        status = kin_cli_compare(c->args, p, c->out, &c->notes, c->err);
    if (status == KIN_OK)
        kin_cli_say(c->args, "%s: weights in %s\n", c->out, type_name(c->dtype));
    kin_pipeline_destroy(&p);
    kin_ctx_destroy(&ctx);
    return status;
}

static kin_status from_directory(conversion *c)
{
    char model[KIN_PATH_MAX], index[KIN_PATH_MAX], latest[KIN_PATH_MAX];
    KIN_TRY(kin_cli_model(c->args, model, c->err));
    if (kin_args_bool(c->args, "with-optimizer") || kin_args_text(c->args, "config") ||
        kin_args_text(c->args, "vae"))
        return kin_fail(
            c->err, KIN_ERR_ARG,
            "convert: --with-optimizer, --vae and -c are for .pth files (a run given to -o "
            "x.pth keeps its optimizer)");
    if (ends_in(c->out, "pth", "pt")) {
        if (c->dtype == KIN_DTYPE_I8)
            return kin_fail(c->err, KIN_ERR_ARG,
                            "convert: a .pth file holds no 8-bit blocks; --dtype f32, bf16 or f16");
        if (kin_args_text(c->args, "lora"))
            return kin_fail(c->err, KIN_ERR_ARG,
                            "convert: --lora goes with -o DIR; convert its result to .pth");
        KIN_TRY(kin_official_from(model, c->out, c->dtype, c->err));
        kin_cli_say(c->args, "%s: weights in %s\n", c->out, kin_dtype_name(c->dtype));
        return KIN_OK;
    }
    KIN_TRY(kin_path_join(index, model, "model_index.json", c->err));
    if (c->ema || kin_path_exists(index))
        return to_directory(c, model);
    KIN_TRY(kin_checkpoint_latest(model, latest, c->err));
    return to_directory(c, latest);
}

static kin_status convert(conversion *c)
{
    const char *in = kin_args_text(c->args, "model"), *config = kin_args_text(c->args, "config");
    const bool file = in && kin_path_exists(in) && !kin_path_is_dir(in);
    cJSON *given = NULL;
    if (!file)
        return from_directory(c);
    if (ends_in(c->out, "safetensors", NULL))
        return pth_to_safetensors(c, in);
    if (ends_in(c->out, "pth", "pt"))
        return kin_fail(c->err, KIN_ERR_ARG, "convert: %s is a .pth file already", in);
    if (config) {
        KIN_TRY(kin_cli_need_input("configuration", config, c->err));
        KIN_TRY(kin_json_read(config, 1 << 20, KIN_JSON_STRICT, &given, c->err));
    }
    kin_status status = from_pth(c, in, given);
    cJSON_Delete(given);
    return status;
}

kin_status kin_cmd_convert(const kin_args *args, kin_error *err)
{
    conversion c = {.args = args, .out = kin_args_text(args, "output"), .err = err};
    if (!c.out)
        return kin_fail(err, KIN_ERR_ARG, "convert: -o DIR is needed");
    if (kin_path_exists(c.out) && !kin_args_bool(args, "force"))
        return kin_fail(err, KIN_ERR_ARG, "convert: %s is there already (--force replaces it)",
                        c.out);
    KIN_TRY(kin_cli_dtype(kin_args_text(args, "dtype"), &c.dtype, err));
    KIN_TRY(parse_size(kin_args_text(args, "max-shard-size"), &c.max_shard, err));
    c.ema = strcmp(kin_args_text(args, "weights"), "ema") == 0;
    kin_cli_progress(args, &c.notes);
    kin_status status = convert(&c);
    kin_progress_end(&c.notes);
    return status;
}

/* tensor/cpu/choose.c: see choose.h. Without a file the own products do all work, from measurement
 * (docs/SPEED.md): in f32 as fast as oneDNN 2.6 for many rows and 4 times as fast for few, with the
 * epilogue in the same pass; in bf16 on AMX 1.1 to 2 times as fast. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/path.h"
#include "base/text.h"
#include "tensor/cpu/choose.h"

enum { FILE_MAX = 1 << 20 };

static int size_class(int64_t n)
{
    return n < 512 ? 0 : n < 2048 ? 1 : 2;
}

static uint32_t class_bit(kin_dtype compute, int64_t n, int64_t k)
{
    int row = (compute == KIN_DTYPE_BF16) * KIN_CHOICE_SIZES + size_class(n);
    return 1u << (row * KIN_CHOICE_SIZES + size_class(k));
}

bool kin_cpu_use_onednn(const kin_ctx *ctx, const kin_param *w, int64_t n, int64_t k)
{
    /* int8 is never left to it; bf16 weights under f32 would be widened, at twice the memory */
    if (ctx->compute == KIN_DTYPE_I8 || w->value.dtype == KIN_DTYPE_F16 || w->value.scale ||
        (w->value.dtype == KIN_DTYPE_BF16 && ctx->compute == KIN_DTYPE_F32))
        return false;
    return !(ctx->compute == KIN_DTYPE_F32 && ctx->precision == KIN_PRECISION_HIGH) &&
           (ctx->dense_onednn & class_bit(ctx->compute, n, k));
}

void kin_cpu_choices_path(char *out, size_t size)
{
    char path[KIN_PATH_MAX];
    const bool found = kin_path_cache(path, "KINEMA_CALIBRATION", "calibration.json");
    if (snprintf(out, size, "%s", found ? path : "") >= (int)size)
        out[0] = 0;
}

kin_status kin_cpu_choices_write(const char *path, const kin_choice *rows, int count,
                                 kin_error *err)
{
    char dir[KIN_PATH_MAX];
    kin_strbuf b = {0};
    kin_strbuf_add(&b, "{\"choices\": [");
    for (int i = 0; i < count; i++) {
        const kin_choice *c = &rows[i];
        kin_strbuf_addf(&b,
                        "%s\n  {\"isa\": \"%s\", \"compute\": \"%s\", \"n\": %lld, \"k\": %lld, ",
                        i ? "," : "", kin_isa_name(c->isa), kin_dtype_name(c->compute),
                        (long long)c->n, (long long)c->k);
        kin_strbuf_addf(&b, "\"steady\": %s, \"engine\": \"%s\", \"times\": [",
                        c->steady ? "true" : "false", c->onednn ? "onednn" : "own");
        for (int r = 0; r < KIN_CHOICE_ROWS; r++)
            kin_strbuf_addf(&b, "%s{\"rows\": %lld, \"own_s\": %.4g, \"onednn_s\": %.4g}",
                            r ? ", " : "", (long long)c->rows[r], c->own_s[r], c->onednn_s[r]);
        kin_strbuf_add(&b, "]}");
    }
    kin_strbuf_add(&b, "\n]}\n");
    kin_status status = b.failed ? kin_fail(err, KIN_ERR_MEM, "calibration: out of memory")
                                 : kin_path_dir(dir, path, err);
    if (status == KIN_OK)
        status = kin_path_make_dirs(dir, err);
    if (status == KIN_OK)
        status = kin_file_write(path, b.data, b.len, err);
    kin_strbuf_free(&b);
    return status;
}

static kin_status load_row(kin_ctx *ctx, const cJSON *row, kin_error *err)
{
    const char *isa = NULL, *compute = NULL, *engine = NULL;
    int64_t n = 0, k = 0;
    KIN_TRY(kin_json_get_str(row, "isa", &isa, err));
    KIN_TRY(kin_json_get_str(row, "compute", &compute, err));
    KIN_TRY(kin_json_get_str(row, "engine", &engine, err));
    KIN_TRY(kin_json_get_i64(row, "n", 1, INT64_MAX, &n, err));
    KIN_TRY(kin_json_get_i64(row, "k", 1, INT64_MAX, &k, err));
    if (!isa || !compute || !engine || !n || !k)
        return kin_fail(err, KIN_ERR_FORMAT, "a row lacks isa, compute, engine, n or k");
    if (strcmp(isa, kin_isa_name(ctx->isa)) != 0)
        return KIN_OK;
    bool bf16 = strcmp(compute, kin_dtype_name(KIN_DTYPE_BF16)) == 0;
    uint32_t bit = class_bit(bf16 ? KIN_DTYPE_BF16 : KIN_DTYPE_F32, n, k);
    bool onednn = strcmp(engine, "onednn") == 0;
    ctx->dense_onednn = onednn ? ctx->dense_onednn | bit : ctx->dense_onednn & ~bit;
    return KIN_OK;
}

kin_status kin_cpu_choices_load(kin_ctx *ctx, kin_error *err)
{
    char path[KIN_PATH_MAX];
    cJSON *tree = NULL;
    kin_error why = {0};
    ctx->dense_onednn = 0;
    kin_cpu_choices_path(path, sizeof path);
    if (!path[0] || !kin_path_exists(path))
        return KIN_OK;
    kin_status status = kin_json_read(path, FILE_MAX, KIN_JSON_STRICT, &tree, &why);
    if (status != KIN_OK)
        return kin_fail(err, status, "%s", why.text);
    const cJSON *rows = cJSON_GetObjectItemCaseSensitive(tree, "choices"), *row;
    if (!cJSON_IsArray(rows))
        status = kin_fail(&why, KIN_ERR_FORMAT, "'choices' must be an array");
    cJSON_ArrayForEach(row, rows) if (status == KIN_OK) status = load_row(ctx, row, &why);
    cJSON_Delete(tree);
    return status == KIN_OK ? KIN_OK : kin_fail(err, status, "calibration: %s: %s", path, why.text);
}

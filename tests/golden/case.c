/* tests/golden/case.c: opens a case, hands out its inputs, runs its kind. */
#include "tests/golden/golden.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "tensor/kernels.h"
#include "tensor/tape.h"

enum { MAX_JSON = 64 << 20 };

static void open_safetensors(kin_golden_case *c, kin_error *err)
{
    if (kin_safetensors_open(c->path, &c->file, err) != KIN_OK)
        return;
    const char *kind = kin_safetensors_metadata(c->file, "kind");
    const char *config = kin_safetensors_metadata(c->file, "config");
    if (!kind || !config) {
        kin_fail(err, KIN_ERR_FORMAT, "no case: the metadata has no kind and config");
        return;
    }
    snprintf(c->kind, sizeof c->kind, "%s", kind);
    c->seen = kin_calloc((size_t)kin_safetensors_count(c->file) + 1, sizeof *c->seen);
    if (!c->seen)
        kin_fail(err, KIN_ERR_MEM, "out of memory");
    else
        /* scheduler configs may hold a bare -Infinity */
        kin_json_parse(config, strlen(config), KIN_JSON_ALLOW_INFINITY, &c->config, err);
}

/* Cases of text hold \u0000, which the strict reader refuses; they give the bytes in hex as well.
 */
static kin_status read_json(const char *path, cJSON **out, kin_error *err)
{
    char *text;
    size_t bytes;
    KIN_TRY(kin_file_read(path, MAX_JSON, &text, &bytes, err));
    kin_status status = kin_json_parse(text, bytes, KIN_JSON_ALLOW_INFINITY, out, err);
    if (status == KIN_ERR_FORMAT && strstr(text, "\\u0000")) {
        *out = cJSON_ParseWithLength(text, bytes);
        if (*out) {
            *err = (kin_error){0};
            status = KIN_OK;
        }
    }
    kin_free(text);
    return status;
}

static void open_json(kin_golden_case *c, kin_error *err)
{
    if (read_json(c->path, &c->config, err) != KIN_OK)
        return;
    const cJSON *kind =
        cJSON_IsObject(c->config) ? cJSON_GetObjectItemCaseSensitive(c->config, "kind") : NULL;
    if (!cJSON_IsString(kind))
        kin_fail(err, KIN_ERR_FORMAT, "no case: there is no top-level kind");
    else
        snprintf(c->kind, sizeof c->kind, "%s", kind->valuestring);
}

void kin_golden_open(kin_golden_case *c, kin_ctx *ctx, const char *path)
{
    *c = (kin_golden_case){.ctx = ctx, .path = path};
    kin_error err = {0};
    const char *ext = kin_path_ext(path);
    if (kin_path_dir(c->dir, path, &err) == KIN_OK) {
        if (strcmp(ext, "safetensors") == 0)
            open_safetensors(c, &err);
        else if (strcmp(ext, "json") == 0)
            open_json(c, &err);
        else
            kin_fail(&err, KIN_ERR_FORMAT,
                     "no case: the name ends neither in .safetensors nor in "
                     ".json");
    }
    if (err.status != KIN_OK)
        kin_golden_fail(c, "%s", err.text);
}

void kin_golden_close(kin_golden_case *c)
{
    kin_safetensors_close(&c->file);
    cJSON_Delete(c->config);
    kin_free(c->seen);
    kin_strbuf_free(&c->skip_text);
    c->config = NULL;
    c->seen = NULL;
}

static bool is_result(const char *name)
{
    return strncmp(name, "out.", 4) == 0 || strncmp(name, "grad.", 5) == 0 ||
           strncmp(name, "grad_in.", 8) == 0;
}

/* Nothing that the file states as a result may go unchecked. */
static void check_complete(kin_golden_case *c)
{
    int64_t n = c->file ? kin_safetensors_count(c->file) : 0;
    int missed = 0;
    const char *first = NULL;
    for (int64_t i = 0; i < n; i++) {
        const char *name = kin_safetensors_at(c->file, i)->name;
        if (is_result(name) && !c->seen[i]) {
            first = first ? first : name;
            missed++;
        }
    }
    if (missed)
        kin_golden_fail(c, "%d results were not compared, first %s", missed, first);
    else if (c->checks == 0)
        kin_golden_fail(c, "nothing was compared");
}

void kin_golden_run(kin_golden_case *c)
{
    if (c->failed)
        return;
    const kin_golden_kind *kind = kin_golden_find(c->kind);
    if (!kind) {
        kin_golden_fail(c, "unknown kind");
        return;
    }
    kin_ctx *ctx = c->ctx;
    size_t mark = kin_ws_mark(ctx);
    ctx->error = (kin_error){0};
    kin_status status = kind->run(c);
    ctx->tap = NULL;
    ctx->tap_user = NULL;
    if (ctx->tape)
        kin_tape_end(ctx);
    kin_ws_release(ctx, mark);
    if (status != KIN_OK)
        kin_golden_fail(c, "%s: %s", kin_status_name(status), ctx->error.text);
    else if (!c->failed)
        check_complete(c);
}

/* --- inputs --- */

bool kin_golden_has(const kin_golden_case *c, const char *name)
{
    return c->file && kin_safetensors_find(c->file, name) >= 0;
}

kin_status kin_golden_tensor(kin_golden_case *c, const char *name, kin_tensor *out)
{
    if (!c->file)
        return kin_fail(&c->ctx->error, KIN_ERR_FORMAT, "case: no tensor %s in a .json", name);
    return kin_safetensors_get(c->file, name, out, &c->ctx->error);
}

static kin_status input_as(kin_golden_case *c, const char *name, kin_dtype dtype, kin_tensor *out)
{
    kin_tensor t;
    KIN_TRY(kin_golden_tensor(c, name, &t));
    KIN_TRY(kin_ws_host(c->ctx, dtype, t.ndim, t.size, out));
    int64_t n = kin_tensor_numel(&t);
    for (int64_t i = 0; i < n; i++)
        kin_tensor_set(out, i, kin_tensor_get(&t, i));
    return KIN_OK;
}

kin_status kin_golden_input(kin_golden_case *c, const char *name, kin_tensor *out)
{
    kin_tensor t;
    KIN_TRY(kin_golden_tensor(c, name, &t));
    return input_as(c, name, t.dtype == KIN_DTYPE_I64 ? KIN_DTYPE_I32 : t.dtype, out);
}

kin_status kin_golden_input_f32(kin_golden_case *c, const char *name, kin_tensor *out)
{
    return input_as(c, name, KIN_DTYPE_F32, out);
}

kin_status kin_golden_input_optional(kin_golden_case *c, const char *name, kin_tensor *out)
{
    *out = (kin_tensor){0};
    return kin_golden_has(c, name) ? kin_golden_input(c, name, out) : KIN_OK;
}

double kin_golden_number(const kin_golden_case *c, const char *key, double fallback)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(c->config, key);
    return cJSON_IsNumber(v) ? v->valuedouble : fallback;
}

bool kin_golden_bool(const kin_golden_case *c, const char *key, bool fallback)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(c->config, key);
    return cJSON_IsBool(v) ? cJSON_IsTrue(v) : fallback;
}

const char *kin_golden_string(const kin_golden_case *c, const char *key)
{
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(c->config, key));
}

/* The first tensor w.* that no parameter of the table has taken. */
static const char *left_over(kin_golden_case *c, const kin_params *params, const char *prefix)
{
    size_t len = strlen(prefix);
    for (int64_t i = 0; i < kin_safetensors_count(c->file); i++) {
        const char *name = kin_safetensors_at(c->file, i)->name;
        if (strncmp(name, prefix, len) == 0 && !kin_params_find(params, name + len))
            return name;
    }
    return NULL;
}

kin_status kin_golden_bind(kin_golden_case *c, kin_params *params, const char *prefix, bool grads,
                           bool allow_rest)
{
    kin_error *err = &c->ctx->error;
    char name[512];
    if (params->failed != KIN_OK)
        return kin_fail(err, params->failed, "case: registration of parameters failed");
    for (int i = 0; i < params->count; i++) {
        kin_tensor t;
        snprintf(name, sizeof name, "%s%s", prefix, params->list[i]->name);
        KIN_TRY(kin_golden_tensor(c, name, &t));
        KIN_TRY(kin_params_bind(params->list[i], &t, err));
    }
    const char *rest = allow_rest ? NULL : left_over(c, params, prefix);
    if (rest)
        return kin_fail(err, KIN_ERR_FORMAT, "case: no parameter takes %s", rest);
    if (!grads)
        return KIN_OK;
    KIN_TRY(kin_params_alloc_grads(params, false, err));
    kin_params_zero_grads(params);
    return KIN_OK;
}

/* --- files --- */

kin_status kin_golden_path(kin_golden_case *c, const char *path, char out[KIN_PATH_MAX])
{
    if (!path || !kin_path_is_inside(path))
        return kin_fail(&c->ctx->error, KIN_ERR_FORMAT,
                        "case: path \"%s\" must be relative and inside its folder",
                        path ? path : "(none)");
    return kin_path_join(out, c->dir, path, &c->ctx->error);
}

kin_status kin_golden_read(kin_golden_case *c, const char *path, char **data, size_t *bytes)
{
    char full[KIN_PATH_MAX];
    KIN_TRY(kin_golden_path(c, path, full));
    return kin_file_read(full, MAX_JSON, data, bytes, &c->ctx->error);
}

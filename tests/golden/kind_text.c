/* tests/golden/kind_text.c: kinds t5_encoder, umt5_encoder, tokenizer,
 * prompt_clean. */
#include "tests/golden/golden.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "tensor/tape.h"
#include "text/clean.h"
#include "text/encoder.h"
#include "text/tokenizer.h"

extern const kin_golden_kind kin_golden_kinds_text[];

/* --- t5_encoder, umt5_encoder --- */

typedef struct encoder_run {
    kin_params *params;
    kin_text_encoder *enc;
    kin_safetensors *weights; /* of a model directory */
    cJSON *config;            /* of a model directory */
    kin_tokenizer *tok;
} encoder_run;

static void encoder_run_free(encoder_run *r)
{
    kin_text_encoder_destroy(&r->enc);
    kin_params_destroy(&r->params);
    kin_safetensors_close(&r->weights);
    cJSON_Delete(r->config);
    kin_tokenizer_destroy(&r->tok);
}

static kin_status bind_directory(kin_golden_case *c, encoder_run *r, const char *dir)
{
    kin_error *err = &c->ctx->error;
    char path[KIN_PATH_MAX], file[KIN_PATH_MAX];
    KIN_TRY(kin_golden_path(c, dir, path));
    KIN_TRY(kin_path_join(file, path, "config.json", err));
    KIN_TRY(kin_json_read(file, 1 << 20, 0, &r->config, err));
    KIN_TRY(kin_text_encoder_create(r->config, r->params, &r->enc, err));
    KIN_TRY(kin_safetensors_open_dir(path, "model.safetensors", &r->weights, err));
    for (int i = 0; i < r->params->count; i++) {
        kin_tensor t;
        KIN_TRY(kin_safetensors_get(r->weights, r->params->list[i]->name, &t, err));
        KIN_TRY(kin_params_bind(r->params->list[i], &t, err));
    }
    return KIN_OK;
}

/* Every bucket that the case lists, r = -(n+3) .. n+3. */
static kin_status check_buckets(kin_golden_case *c)
{
    kin_tensor want, got;
    if (!kin_golden_has(c, "out.bucket"))
        return KIN_OK;
    KIN_TRY(kin_golden_tensor(c, "out.bucket", &want));
    KIN_TRY(kin_ws_host(c->ctx, KIN_DTYPE_I32, want.ndim, want.size, &got));
    int buckets = (int)kin_golden_number(c, "relative_attention_num_buckets", 32);
    int distance = (int)kin_golden_number(c, "relative_attention_max_distance", 128);
    int n = (int)want.size[0];
    for (int i = 0; i < n; i++)
        kin_tensor_set(&got, i, kin_text_encoder_bucket(i - n / 2, buckets, distance));
    kin_golden_check(c, "out.bucket", &got, 0.0);
    return KIN_OK;
}

static kin_status run_encoder(kin_golden_case *c, encoder_run *r, kin_tensor *states)
{
    kin_tensor ids, mask, dout;
    kin_ctx *ctx = c->ctx;
    bool grads = kin_golden_has(c, "in.dout");
    KIN_TRY(kin_golden_input(c, "in.input_ids", &ids));
    KIN_TRY(kin_golden_input_optional(c, "in.attention_mask", &mask));
    if (mask.data) {
        kin_tensor wide = mask;
        KIN_TRY(kin_ws_host(ctx, KIN_DTYPE_U8, wide.ndim, wide.size, &mask));
        for (int64_t i = 0; i < kin_tensor_numel(&wide); i++)
            kin_tensor_set(&mask, i, kin_tensor_get(&wide, i));
    }
    kin_golden_taps(c, 1e-5, NULL);
    if (grads)
        KIN_TRY(kin_tape_begin(ctx));
    KIN_TRY(kin_text_encoder_run(ctx, r->enc, &ids, mask.data ? &mask : NULL, states));
    ctx->tap = NULL;
    if (!grads)
        return KIN_OK;
    KIN_TRY(kin_golden_input(c, "in.dout", &dout));
    KIN_TRY(kin_tape_backward(ctx, states, &dout, 1));
    kin_golden_check_grads(c, r->params, 1e-4);
    return KIN_OK;
}

/* The tokenizer of the case's folder; tokenizer.json, where there is one, says whether bytes stand
 * in for unknown characters. */
static kin_status open_tokenizer(kin_golden_case *c, const char *dir, kin_tokenizer **tok)
{
    char name[512], path[KIN_PATH_MAX];
    char *model;
    size_t bytes;
    kin_error *err = &c->ctx->error;
    kin_tokenizer_options opt = {.extra_ids = 100, .legacy = true};
    snprintf(name, sizeof name, "%s/tokenizer.json", dir);
    KIN_TRY(kin_golden_path(c, name, path));
    if (kin_path_exists(path)) {
        cJSON *json;
        bool fallback = false;
        KIN_TRY(kin_json_read(path, 64 << 20, 0, &json, err));
        kin_status status = kin_json_get_bool(cJSON_GetObjectItemCaseSensitive(json, "model"),
                                              "byte_fallback", &fallback, err);
        cJSON_Delete(json);
        KIN_TRY(status);
        opt.no_byte_fallback = !fallback;
        opt.extra_ids = 300;
    }
    snprintf(name, sizeof name, "%s/spiece.model", dir);
    KIN_TRY(kin_golden_read(c, name, &model, &bytes));
    kin_status status = kin_tokenizer_create(model, bytes, &opt, tok, err);
    kin_free(model);
    return status;
}

/* prompts -> in.input_ids, through the tokenizer. */
static kin_status check_prompts(kin_golden_case *c, encoder_run *r, bool cleaned)
{
    kin_tensor ids;
    int32_t got[512];
    int length = (int)kin_golden_number(c, "max_sequence_length", 0);
    const cJSON *prompts = cJSON_GetObjectItemCaseSensitive(c->config, "prompts"), *p;
    KIN_TRY(kin_golden_input(c, "in.input_ids", &ids));
    if (length < 1 || length > 512 || ids.size[1] != length)
        return kin_fail(&c->ctx->error, KIN_ERR_FORMAT, "case: max_sequence_length %d", length);
    KIN_TRY(open_tokenizer(c, kin_golden_string(c, "tokenizer"), &r->tok));
    int row = 0;
    cJSON_ArrayForEach(p, prompts)
    {
        const char *text = cJSON_GetStringValue(p);
        if (!text || row >= ids.size[0])
            return kin_fail(&c->ctx->error, KIN_ERR_FORMAT, "case: prompt %d", row);
        kin_strbuf clean = {0};
        kin_status status = KIN_OK;
        if (cleaned)
            status = kin_prompt_clean(text, strlen(text), &clean, &c->ctx->error);
        text = clean.data ? clean.data : text;
        if (status == KIN_OK)
            status = kin_tokenizer_encode_padded(r->tok, text, strlen(text), length, got, NULL,
                                                 &c->ctx->error);
        kin_strbuf_free(&clean);
        KIN_TRY(status);
        kin_golden_expect(
            c, memcmp(got, (int32_t *)ids.data + row * length, (size_t)length * sizeof *got) == 0,
            "ids of prompt %d", row);
        row++;
    }
    return KIN_OK;
}

/* out.prompt_embeds: CogVideoX takes the states as they are, Wan zeroes the rows after the last
 * real token. */
static kin_status check_embeds(kin_golden_case *c, kin_tensor *states, bool zero_padding)
{
    if (zero_padding) {
        kin_tensor mask;
        KIN_TRY(kin_golden_tensor(c, "in.attention_mask", &mask));
        KIN_TRY(kin_host(c->ctx, states, states));
        int64_t width = states->size[2];
        for (int64_t i = 0; i < kin_tensor_numel(&mask); i++)
            if (kin_tensor_get(&mask, i) == 0.0)
                memset((float *)states->data + i * width, 0, (size_t)width * sizeof(float));
    }
    kin_golden_check(c, "out.prompt_embeds", states, 1e-5);
    return KIN_OK;
}

static kin_status encoder_steps(kin_golden_case *c, encoder_run *r, bool umt5)
{
    kin_error *err = &c->ctx->error;
    kin_tensor states;
    const char *dir = kin_golden_string(c, "directory");
    KIN_TRY(kin_params_create(&r->params, err));
    if (dir) {
        KIN_TRY(bind_directory(c, r, dir));
        KIN_TRY(check_prompts(c, r, umt5));
    } else {
        if (!cJSON_AddStringToObject(c->config, "model_type", umt5 ? "umt5" : "t5"))
            return kin_fail(err, KIN_ERR_MEM, "case: out of memory");
        KIN_TRY(kin_text_encoder_create(c->config, r->params, &r->enc, err));
        KIN_TRY(kin_golden_bind(c, r->params, "w.", kin_golden_has(c, "in.dout"), false));
    }
    KIN_TRY(check_buckets(c));
    KIN_TRY(run_encoder(c, r, &states));
    return dir ? check_embeds(c, &states, umt5) : KIN_OK;
}

static kin_status run_t5(kin_golden_case *c)
{
    encoder_run r = {0};
    kin_status status = encoder_steps(c, &r, false);
    encoder_run_free(&r);
    return status;
}

static kin_status run_umt5(kin_golden_case *c)
{
    encoder_run r = {0};
    kin_status status = encoder_steps(c, &r, true);
    encoder_run_free(&r);
    return status;
}

/* --- tokenizer --- */

enum { COLUMNS = 10 };

typedef struct column {
    const char *name;      /* key of a case */
    const char *model_key; /* key of the file's name */
    const char *extra_key;
    bool plain, legacy, fast;
    const char *json; /* a tokenizer.json instead of the model */
    bool json_bytes;  /* with byte_fallback set in it */
} column;

static const char umt5_json[] = "umt5_tokenizer/tokenizer.json";

static const column columns[COLUMNS] = {
    {"t5_spm", "spiece", "t5_extra_ids", true, true, false, NULL, false},
    {"umt5_spm", "spiece_bytes", "umt5_extra_ids", true, true, false, NULL, false},
    {"t5_slow_legacy", "spiece", "t5_extra_ids", false, true, false, NULL, false},
    {"umt5_slow_legacy", "spiece_bytes", "umt5_extra_ids", false, true, false, NULL, false},
    {"t5_slow", "spiece", "t5_extra_ids", false, false, false, NULL, false},
    {"umt5_slow", "spiece_bytes", "umt5_extra_ids", false, false, false, NULL, false},
    {"t5_fast", "spiece", "t5_extra_ids", false, true, true, NULL, false},
    {"umt5_fast", "spiece_bytes", "umt5_extra_ids", false, true, true, NULL, false},
    {"umt5_fast", NULL, NULL, false, true, true, umt5_json, false},
    {"umt5_fast_bytes", NULL, NULL, false, true, true, umt5_json, true},
};

/* From tokenizer.json; bytes: "byte_fallback": false in it becomes true. */
static kin_status open_json(kin_golden_case *c, const char *name, bool bytes, kin_tokenizer **tok)
{
    static const char key[] = "\"byte_fallback\": false";
    char *text, *at;
    size_t n;
    KIN_TRY(kin_golden_read(c, name, &text, &n));
    at = bytes ? strstr(text, key) : NULL;
    if (at)
        memcpy(at + sizeof key - 6, "true ", 5);
    kin_status status = bytes && !at ? kin_fail(&c->ctx->error, KIN_ERR_FORMAT,
                                                "case: %s has no byte_fallback", name)
                                     : kin_tokenizer_create_json(text, n, tok, &c->ctx->error);
    kin_free(text);
    return status;
}

static kin_status open_column(kin_golden_case *c, const column *col, kin_tokenizer **tok)
{
    char *model;
    size_t bytes;
    kin_tokenizer_options opt = {.extra_ids = (int)kin_golden_number(c, col->extra_key, 0),
                                 .legacy = col->legacy,
                                 .fast = col->fast};
    if (col->json)
        return open_json(c, col->json, col->json_bytes, tok);
    KIN_TRY(kin_golden_read(c, kin_golden_string(c, col->model_key), &model, &bytes));
    kin_status status = kin_tokenizer_create(model, bytes, &opt, tok, &c->ctx->error);
    kin_free(model);
    return status;
}

static bool same_ids(const cJSON *want, const int32_t *got, int n)
{
    if (!cJSON_IsArray(want) || cJSON_GetArraySize(want) != n)
        return false;
    const cJSON *v;
    int i = 0;
    cJSON_ArrayForEach(v, want)
    {
        if (!cJSON_IsNumber(v) || v->valuedouble != (double)got[i++])
            return false;
    }
    return true;
}

static int hex(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The hex digits under key -> bytes (kin_free). */
static kin_status case_text(kin_golden_case *c, const cJSON *row, const char *key, char **text,
                            size_t *bytes)
{
    const char *s = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, key));
    size_t n = s ? strlen(s) : 1;
    *bytes = n / 2;
    *text = n % 2 ? NULL : kin_malloc(n / 2 + 1);
    for (size_t i = 0; *text && i < n; i += 2) {
        int hi = hex(s[i]), lo = hex(s[i + 1]);
        if (hi < 0 || lo < 0) {
            kin_free(*text);
            *text = NULL;
        } else {
            (*text)[i / 2] = (char)(16 * hi + lo);
        }
    }
    return *text ? KIN_OK
                 : kin_fail(&c->ctx->error, KIN_ERR_FORMAT, "case: %s must be hex digits", key);
}

static kin_status check_row(kin_golden_case *c, const column *col, const kin_tokenizer *tok,
                            const cJSON *row, int index)
{
    char *text;
    size_t bytes;
    int32_t *ids = NULL;
    int n = 0;
    KIN_TRY(case_text(c, row, "utf8_hex", &text, &bytes));
    kin_status status = col->plain
                            ? kin_tokenizer_pieces(tok, text, bytes, &ids, &n, &c->ctx->error)
                            : kin_tokenizer_encode(tok, text, bytes, &ids, &n, &c->ctx->error);
    if (status == KIN_OK)
        kin_golden_expect(c, same_ids(cJSON_GetObjectItemCaseSensitive(row, col->name), ids, n),
                          "%s of case %d", col->name, index);
    kin_free(text);
    kin_free(ids);
    return status;
}

static kin_status check_column(kin_golden_case *c, const column *col)
{
    kin_tokenizer *tok = NULL;
    const cJSON *row;
    int index = 0;
    KIN_TRY(open_column(c, col, &tok));
    kin_status status = KIN_OK;
    cJSON_ArrayForEach(row, cJSON_GetObjectItemCaseSensitive(c->config, "cases"))
    {
        KIN_GOTO(check_row(c, col, tok, row, index++));
    }
done:
    kin_tokenizer_destroy(&tok);
    return status;
}

/* One row of `padded`. */
static kin_status check_padded(kin_golden_case *c, const cJSON *row, int index)
{
    int32_t ids[512];
    uint8_t mask[512];
    int32_t wide[512];
    kin_tokenizer *tok = NULL;
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, "text"));
    const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, "tokenizer"));
    const cJSON *max = cJSON_GetObjectItemCaseSensitive(row, "max_length");
    int n = cJSON_IsNumber(max) ? max->valueint : 0;
    if (!text || !name || n < 1 || n > 512)
        return kin_fail(&c->ctx->error, KIN_ERR_FORMAT, "case: padded row %d", index);
    bool fast = strcmp(name, "umt5_fast") == 0;
    if (!fast && strcmp(name, "t5_slow_legacy") != 0)
        return kin_fail(&c->ctx->error, KIN_ERR_UNSUPPORTED, "case: padded tokenizer %s", name);
    KIN_TRY(open_column(c, &columns[fast ? 8 : 2], &tok));
    kin_status status =
        kin_tokenizer_encode_padded(tok, text, strlen(text), n, ids, mask, &c->ctx->error);
    kin_tokenizer_destroy(&tok);
    KIN_TRY(status);
    for (int i = 0; i < n; i++)
        wide[i] = mask[i];
    kin_golden_expect(c, same_ids(cJSON_GetObjectItemCaseSensitive(row, "ids"), ids, n),
                      "ids of padded row %d", index);
    kin_golden_expect(c, same_ids(cJSON_GetObjectItemCaseSensitive(row, "mask"), wide, n),
                      "mask of padded row %d", index);
    return KIN_OK;
}

static kin_status run_tokenizer(kin_golden_case *c)
{
    const cJSON *row;
    int index = 0;
    for (int i = 0; i < COLUMNS; i++)
        KIN_TRY(check_column(c, &columns[i]));
    cJSON_ArrayForEach(row, cJSON_GetObjectItemCaseSensitive(c->config, "padded"))
    {
        KIN_TRY(check_padded(c, row, index++));
    }
    return KIN_OK;
}

/* --- prompt_clean --- */

static kin_status check_clean(kin_golden_case *c, const cJSON *row, int index)
{
    char *text = NULL, *want = NULL;
    size_t bytes, wanted;
    kin_strbuf got = {0};
    kin_status status;
    KIN_GOTO(case_text(c, row, "in_hex", &text, &bytes));
    KIN_GOTO(case_text(c, row, "out_hex", &want, &wanted));
    KIN_GOTO(kin_prompt_clean(text, bytes, &got, &c->ctx->error));
    kin_golden_expect(c, got.len == wanted && (!wanted || memcmp(got.data, want, wanted) == 0),
                      "row %d, \"%s\"", index, got.data ? got.data : "");
done:
    kin_strbuf_free(&got);
    kin_free(text);
    kin_free(want);
    return status;
}

static kin_status run_prompt_clean(kin_golden_case *c)
{
    /* text that was decoded with a wrong code page, which ftfy guesses by its look */
    static const char guessed[] = "ftfy: mojibake";
    const cJSON *row;
    int index = 0;
    cJSON_ArrayForEach(row, cJSON_GetObjectItemCaseSensitive(c->config, "cases"))
    {
        const char *group = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, "group"));
        if (group && strcmp(group, guessed) == 0)
            kin_golden_skip(c, "row %d (%s)", index, guessed);
        else
            KIN_TRY(check_clean(c, row, index));
        index++;
    }
    return KIN_OK;
}

const kin_golden_kind kin_golden_kinds_text[] = {
    {"t5_encoder", run_t5},
    {"umt5_encoder", run_umt5},
    {"tokenizer", run_tokenizer},
    {"prompt_clean", run_prompt_clean},
    {NULL, NULL},
};

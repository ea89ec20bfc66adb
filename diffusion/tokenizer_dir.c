#include "diffusion/tokenizer_dir.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/path.h"

enum { MODEL, JSON, CONFIG, SPECIAL_MAP, ADDED_MAP };
enum { EXTRA_DEFAULT = 100, /* of T5Tokenizer */ EXTRA_MAX = 100000 };

static const struct {
    const char *name;
    size_t max_bytes;
} table[KIN_TOKENIZER_FILES] = {
    [MODEL] = {"spiece.model", 256 << 20},
    [JSON] = {"tokenizer.json", 256 << 20},
    [CONFIG] = {"tokenizer_config.json", 64 << 20},
    [SPECIAL_MAP] = {"special_tokens_map.json", 64 << 20},
    [ADDED_MAP] = {"added_tokens.json", 64 << 20},
};

void kin_tokenizer_files_free(kin_tokenizer_files **files)
{
    if (!*files)
        return;
    for (int i = 0; i < KIN_TOKENIZER_FILES; i++)
        kin_free((*files)->data[i]);
    kin_free(*files);
    *files = NULL;
}

static kin_status read_files(const char *dir, kin_tokenizer_files *f, kin_error *err)
{
    char path[KIN_PATH_MAX];

    for (int i = 0; i < KIN_TOKENIZER_FILES; i++) {
        KIN_TRY(kin_path_join(path, dir, table[i].name, err));
        if (kin_path_exists(path))
            KIN_TRY(kin_file_read(path, table[i].max_bytes, &f->data[i], &f->bytes[i], err));
    }
    return f->data[MODEL] || f->data[JSON]
               ? KIN_OK
               : kin_fail(err, KIN_ERR_FORMAT, "holds neither spiece.model nor tokenizer.json");
}

/* --- tokenizer_config.json --- */

/* The number of <extra_id_i>: extra_ids, which must agree with additional_special_tokens; T5's own
 * default where neither says it. */
static kin_status read_extra(const cJSON *config, int *extra, kin_error *err)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(config, "additional_special_tokens"), *v;
    int64_t said = -1, listed = 0;

    KIN_TRY(kin_json_get_i64(config, "extra_ids", 0, EXTRA_MAX, &said, err));
    cJSON_ArrayForEach(v, list)
    {
        const cJSON *text = cJSON_IsObject(v) ? cJSON_GetObjectItemCaseSensitive(v, "content") : v;

        listed += cJSON_IsString(text) && strstr(text->valuestring, "<extra_id_") != NULL;
    }
    if (said > 0 && listed > 0 && said != listed)
        return kin_fail(err, KIN_ERR_FORMAT,
                        "tokenizer_config.json: extra_ids %lld differs from the %lld in "
                        "additional_special_tokens",
                        (long long)said, (long long)listed);
    if (listed > EXTRA_MAX)
        return kin_fail(err, KIN_ERR_FORMAT, "tokenizer_config.json: %lld extra ids exceed %d",
                        (long long)listed, (int)EXTRA_MAX);
    *extra = (int)(said >= 0 ? said : listed > 0 ? listed : EXTRA_DEFAULT);
    return KIN_OK;
}

static kin_status read_added_token(const cJSON *v, kin_added_token *a, kin_error *err)
{
    char *end = NULL;
    const long id = v->string ? strtol(v->string, &end, 10) : -1;

    if (!v->string || !v->string[0] || *end || id < 0 || id > INT32_MAX)
        return kin_fail(err, KIN_ERR_FORMAT,
                        "tokenizer_config.json: \"%.40s\" in added_tokens_decoder is no id",
                        v->string ? v->string : "");
    a->id = (int32_t)id;
    KIN_TRY(kin_json_get_str(v, "content", &a->text, err));
    KIN_TRY(kin_json_get_bool(v, "lstrip", &a->left, err));
    KIN_TRY(kin_json_get_bool(v, "rstrip", &a->right, err));
    return a->text && a->text[0]
               ? KIN_OK
               : kin_fail(err, KIN_ERR_FORMAT,
                          "tokenizer_config.json: token %ld of added_tokens_decoder has no content",
                          id);
}

/* added_tokens_decoder: {"ID": {"content", "lstrip", "rstrip"}}. *list is the caller's; its texts
 * point into config. */
static kin_status read_added(const cJSON *config, kin_added_token **list, int *n, kin_error *err)
{
    const cJSON *all = cJSON_GetObjectItemCaseSensitive(config, "added_tokens_decoder"), *v;
    const int count = cJSON_IsObject(all) ? cJSON_GetArraySize(all) : 0;

    if (count == 0)
        return KIN_OK;
    *list = kin_calloc((size_t)count, sizeof(**list));
    if (!*list)
        return kin_fail(err, KIN_ERR_MEM, "tokenizer: no memory for %d added tokens", count);
    cJSON_ArrayForEach(v, all)
    {
        KIN_TRY(read_added_token(v, &(*list)[*n], err));
        ++*n;
    }
    return KIN_OK;
}

static kin_status make_slow(const kin_tokenizer_files *f, bool fast, kin_tokenizer **out,
                            kin_error *err)
{
    kin_tokenizer_options opt = {.legacy = true, .fast = fast, .extra_ids = EXTRA_DEFAULT};
    kin_added_token *added = NULL;
    cJSON *config = NULL;
    kin_status status = KIN_OK;

    if (f->data[CONFIG]) {
        KIN_GOTO(kin_json_parse(f->data[CONFIG], f->bytes[CONFIG], KIN_JSON_STRICT, &config, err));
        KIN_GOTO(read_extra(config, &opt.extra_ids, err));
        KIN_GOTO(kin_json_get_bool(config, "legacy", &opt.legacy, err));
        KIN_GOTO(read_added(config, &added, &opt.added_count, err));
        opt.added = added;
    }
    status = kin_tokenizer_create(f->data[MODEL], f->bytes[MODEL], &opt, out, err);
done:
    kin_free(added);
    cJSON_Delete(config);
    return status;
}

kin_status kin_tokenizer_dir_load(const char *dir, const char *class_name, kin_tokenizer **out,
                                  kin_tokenizer_files **files, kin_error *err)
{
    const bool slow = !class_name || !strcmp(class_name, "T5Tokenizer");
    kin_tokenizer_files *f = kin_calloc(1, sizeof(*f));
    kin_status status;

    *out = NULL;
    if (!f)
        return kin_fail(err, KIN_ERR_MEM, "tokenizer: out of memory");
    status = read_files(dir, f, err);
    if (status == KIN_OK && f->data[JSON] && (!slow || !class_name || !f->data[MODEL]))
        status = kin_tokenizer_create_json(f->data[JSON], f->bytes[JSON], out, err);
    else if (status == KIN_OK)
        status = make_slow(f, !slow, out, err);
    if (status != KIN_OK || !files)
        kin_tokenizer_files_free(&f);
    if (files)
        *files = f;
    return status == KIN_OK ? KIN_OK : kin_fail_prefix(err, "%s", dir);
}

kin_status kin_tokenizer_dir_save(const char *dir, const kin_tokenizer *tok,
                                  const kin_tokenizer_files *files, kin_error *err)
{
    static const char config[] =
        "{\n\t\"tokenizer_class\":\t\"T5Tokenizer\",\n\t\"extra_ids\":\t0,\n"
        "\t\"legacy\":\ttrue,\n\t\"pad_token\":\t\"<pad>\",\n"
        "\t\"eos_token\":\t\"</s>\",\n\t\"unk_token\":\t\"<unk>\"\n}";
    char path[KIN_PATH_MAX];
    size_t bytes;
    const void *model = kin_tokenizer_model(tok, &bytes);

    for (int i = 0; files && i < KIN_TOKENIZER_FILES; i++) {
        KIN_TRY(kin_path_join(path, dir, table[i].name, err));
        if (files->data[i])
            KIN_TRY(kin_file_write(path, files->data[i], files->bytes[i], err));
    }
    if (files)
        return KIN_OK;
    KIN_TRY(kin_path_join(path, dir, table[MODEL].name, err));
    KIN_TRY(kin_file_write(path, model, bytes, err));
    KIN_TRY(kin_path_join(path, dir, table[CONFIG].name, err));
    return kin_file_write(path, config, strlen(config), err);
}

/* diffusion/saver.c: a pipeline into a model directory, complete or not at all. */
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/path.h"
#include "diffusion/pipeline_parts.h"
#include "diffusion/tokenizer_dir.h"
#include "io/blob.h"
#include "io/safetensors.h"

typedef struct save_job {
    const kin_pipeline *p;
    const char *root; /* DIR.tmp */
    const kin_save_options *opt;
    kin_error *err;
} save_job;

static kin_status write_json(const save_job *j, const char *part, const char *name,
                             const cJSON *json)
{
    char folder[KIN_PATH_MAX], path[KIN_PATH_MAX];
    char *text;
    kin_status status;

    if (!json)
        return KIN_OK;
    KIN_TRY(kin_path_join(folder, j->root, part, j->err));
    KIN_TRY(kin_path_make_dirs(folder, j->err));
    KIN_TRY(kin_path_join(path, folder, name, j->err));
    text = cJSON_Print(json);
    if (!text)
        return kin_fail(j->err, KIN_ERR_MEM, "save: out of memory");
    status = kin_file_write(path, text, strlen(text), j->err);
    cJSON_free(text);
    return status;
}

enum { BLOCKS_LEAST = 1 << 16 }; /* values of a matrix, below which bf16 costs nothing either */

/* matrices and tables in the asked type (blocks: those that allow it, the others in bf16); norms
 * and other small parts always f32 */
static kin_dtype store_type(const save_job *j, const kin_param *p)
{
    if (!kin_weight_is_matrix(p))
        return KIN_DTYPE_F32;
    if (j->opt->dtype == KIN_DTYPE_I8)
        return p->blocks && p->value.ndim == 2 && kin_tensor_numel(&p->value) >= BLOCKS_LEAST
                   ? KIN_DTYPE_I8
                   : KIN_DTYPE_BF16;
    return j->opt->dtype;
}

static kin_status make_item(const save_job *j, int table, const kin_param *p, kin_item *out)
{
    if (j->opt->source) {
        KIN_TRY(j->opt->source(j->opt->user, table, p, out, j->err));
        out->name = p->name;
        out->store = store_type(j, p);
        return KIN_OK;
    }
    *out = p->mapped ? kin_item_of_mapped(p->name, &p->value, store_type(j, p))
                     : kin_item_of(p->name, &p->value, store_type(j, p));
    return KIN_OK;
}

/* The items of a table, matrices in blocks as two; *count of them. blocks: one for each parameter.
 */
static kin_status make_items(const save_job *j, int table, const kin_params *params,
                             kin_item *items, kin_blocks *blocks, int *count)
{
    for (int i = 0; i < params->count; i++) {
        kin_item *item = &items[(*count)++];

        KIN_TRY(make_item(j, table, params->list[i], item));
        if (item->store == KIN_DTYPE_I8) {
            const kin_item source = *item;

            KIN_TRY(kin_blocks_init(&blocks[i], &source, item, &items[(*count)++], j->err));
        }
    }
    return KIN_OK;
}

static void tell_errors(const save_job *j, const char *part, const kin_params *params,
                        const kin_blocks *blocks)
{
    for (int i = 0; i < params->count && j->opt->report; i++) {
        const kin_blocks *b = &blocks[i];

        if (b->name)
            j->opt->report(j->opt->report_user, part, params->list[i]->name,
                           b->value2 > 0 ? sqrt(b->error2 / b->value2) : 0.0, b->worst);
    }
}

static kin_status write_weights(const save_job *j, const char *part, const char *file, int table,
                                const kin_params *params)
{
    static const char *const metadata[] = {"format", "pt", NULL};
    kin_item *items = kin_calloc(2 * (size_t)params->count + 1, sizeof(*items));
    kin_blocks *blocks = kin_calloc((size_t)params->count + 1, sizeof(*blocks));
    char folder[KIN_PATH_MAX];
    kin_status status = KIN_OK;
    int count = 0;

    if (!items || !blocks)
        KIN_GOTO(kin_fail(j->err, KIN_ERR_MEM, "save: out of memory"));
    KIN_GOTO(make_items(j, table, params, items, blocks, &count));
    KIN_GOTO(kin_path_join(folder, j->root, part, j->err));
    KIN_GOTO(kin_path_make_dirs(folder, j->err));
    KIN_GOTO(
        kin_safetensors_write_dir(folder, file, items, count, j->opt->max_shard, metadata, j->err));
    tell_errors(j, part, params, blocks);
done:
    for (int i = 0; blocks && i < params->count; i++)
        kin_blocks_free(&blocks[i]);
    kin_free(blocks);
    kin_free(items);
    return status;
}

static kin_status write_tokenizer(const save_job *j)
{
    char folder[KIN_PATH_MAX];

    if (!j->p->tokenizer)
        return KIN_OK;
    KIN_TRY(kin_path_join(folder, j->root, "tokenizer", j->err));
    KIN_TRY(kin_path_make_dirs(folder, j->err));
    return kin_tokenizer_dir_save(folder, j->p->tokenizer, j->p->tokenizer_files, j->err);
}

static bool set_number(cJSON *own, const char *key, double value)
{
    cJSON_DeleteItemFromObjectCaseSensitive(own, key);
    return !(value > 0) || cJSON_AddNumberToObject(own, key, value);
}

static kin_status write_vae(const save_job *j)
{
    char folder[KIN_PATH_MAX];

    if (!j->p->vae)
        return KIN_OK;
    KIN_TRY(kin_path_join(folder, j->root, "vae", j->err));
    return kin_vae_model_save(j->p->vae, folder,
                              j->opt->dtype == KIN_DTYPE_I8 ? KIN_DTYPE_BF16 : j->opt->dtype,
                              j->opt->max_shard, j->err);
}

/* One file, piece by piece. */
static kin_status copy_file(const save_job *j, const char *from, const char *to)
{
    enum { PIECE = 4 << 20 };
    kin_blob blob;
    kin_file_out f = {0};
    kin_status status;

    KIN_TRY(kin_blob_open(from, &blob, j->err));
    status = kin_file_out_open(&f, to, j->err);
    for (size_t at = 0; status == KIN_OK && at < blob.bytes; at += PIECE) {
        const size_t n = blob.bytes - at < PIECE ? blob.bytes - at : PIECE;

        if (fwrite(blob.data + at, 1, n, f.fp) != n)
            status = kin_fail(j->err, KIN_ERR_IO, "save: cannot write %s: %s", to, strerror(errno));
        kin_mapped_drop(blob.data + at, n);
    }
    if (status == KIN_OK)
        status = kin_file_out_commit(&f, j->err);
    kin_file_out_abort(&f);
    kin_blob_close(&blob);
    return status;
}

/* config.json and the weights of a folder of another model as part `vae` of this one */
static kin_status copy_vae(const save_job *j)
{
    char folder[KIN_PATH_MAX], from[KIN_PATH_MAX], to[KIN_PATH_MAX];
    const struct dirent *e;
    kin_status status = KIN_OK;
    DIR *d = j->opt->vae ? opendir(j->opt->vae) : NULL;

    if (!j->opt->vae)
        return KIN_OK;
    if (!d)
        return kin_fail(j->err, KIN_ERR_IO, "save: %s: %s", j->opt->vae, strerror(errno));
    KIN_GOTO(kin_path_join(folder, j->root, "vae", j->err));
    KIN_GOTO(kin_path_make_dirs(folder, j->err));
    while ((e = readdir(d))) {
        const bool weights = !strncmp(e->d_name, "diffusion_pytorch_model", 23) &&
                             (!strcmp(kin_path_ext(e->d_name), "safetensors") ||
                              !strcmp(kin_path_ext(e->d_name), "json"));

        if (!weights && strcmp(e->d_name, "config.json"))
            continue;
        KIN_GOTO(kin_path_join(from, j->opt->vae, e->d_name, j->err));
        KIN_GOTO(kin_path_join(to, folder, e->d_name, j->err));
        KIN_GOTO(copy_file(j, from, to));
    }
done:
    closedir(d);
    return status;
}

/* model_index.json with the clip size and guidance of this pipeline; what else "kinema" says stays
 */
static kin_status write_index(const save_job *j)
{
    const kin_pipeline *p = j->p;
    cJSON *index = cJSON_Duplicate(p->index, 1);
    cJSON *own = cJSON_DetachItemFromObjectCaseSensitive(index, "kinema");
    const bool sized = p->frames > 0 && p->height > 0 && p->width > 0;
    kin_status status;
    bool ok;

    if (!cJSON_IsObject(own)) {
        cJSON_Delete(own);
        own = cJSON_CreateObject();
    }
    ok = index && own && set_number(own, "frames", sized ? (double)p->frames : 0) &&
         set_number(own, "height", sized ? (double)p->height : 0) &&
         set_number(own, "width", sized ? (double)p->width : 0) && set_number(own, "fps", p->fps) &&
         set_number(own, "cfg_scale", p->cfg_scale);
    if (ok && own->child)
        ok = kin_json_put(index, "kinema", own);
    else
        cJSON_Delete(own);
    status = ok ? write_json(j, "", "model_index.json", index)
                : kin_fail(j->err, KIN_ERR_MEM, "save: out of memory");
    cJSON_Delete(index);
    return status;
}

static kin_status write_all(const save_job *j)
{
    const kin_pipeline *p = j->p;

    KIN_TRY(write_json(j, kin_pipeline_part(p), "config.json", p->transformer_config));
    KIN_TRY(write_weights(j, kin_pipeline_part(p), KIN_PIPELINE_TRANSFORMER_FILE, 0, p->params));
    if (p->text_params) {
        KIN_TRY(write_json(j, "text_encoder", "config.json", p->text_config));
        KIN_TRY(write_weights(j, "text_encoder", KIN_PIPELINE_TEXT_FILE, 1, p->text_params));
    }
    KIN_TRY(write_tokenizer(j));
    KIN_TRY(write_vae(j));
    KIN_TRY(copy_vae(j));
    KIN_TRY(write_json(j, "scheduler", "scheduler_config.json", p->scheduler_config));
    return write_index(j);
}

/* DIR.tmp takes DIR's place; an older DIR stays until then */
static kin_status publish(const char *temp, const char *dir, kin_error *err)
{
    char old[KIN_PATH_MAX], parent[KIN_PATH_MAX];
    const bool exists = kin_path_exists(dir);

    if (snprintf(old, sizeof(old), "%s.old", dir) >= (int)sizeof(old))
        return kin_fail(err, KIN_ERR_ARG, "save: path is too long");
    if (exists) {
        if (kin_path_exists(old))
            KIN_TRY(kin_path_remove_tree(old, err));
        if (rename(dir, old) != 0)
            return kin_fail(err, KIN_ERR_IO, "save: cannot move %s aside: %s", dir,
                            strerror(errno));
    }
    if (rename(temp, dir) != 0) {
        const int code = errno;

        if (exists)
            (void)rename(old, dir);
        return kin_fail(err, KIN_ERR_IO, "save: cannot rename %s: %s", temp, strerror(code));
    }
    KIN_TRY(kin_path_dir(parent, dir, err));
    KIN_TRY(kin_path_sync_dir(parent, err));
    return exists ? kin_path_remove_tree(old, err) : KIN_OK;
}

kin_status kin_pipeline_save_as(const kin_pipeline *p, const char *dir, const kin_save_options *opt,
                                kin_error *err)
{
    char clean[KIN_PATH_MAX], temp[KIN_PATH_MAX];
    const save_job job = {.p = p, .root = temp, .opt = opt, .err = err};
    size_t n;
    kin_status status;

    if (opt->dtype != KIN_DTYPE_F32 && opt->dtype != KIN_DTYPE_BF16 &&
        opt->dtype != KIN_DTYPE_F16 && opt->dtype != KIN_DTYPE_I8)
        return kin_fail(err, KIN_ERR_ARG, "save: weights must be f32, bf16, f16 or 8-bit blocks");
    KIN_TRY(kin_path_join(clean, NULL, dir, err));
    for (n = strlen(clean); n > 1 && clean[n - 1] == '/'; n--)
        clean[n - 1] = '\0';
    if (snprintf(temp, sizeof(temp), "%s.tmp", clean) >= (int)sizeof(temp))
        return kin_fail(err, KIN_ERR_ARG, "save: path is too long");
    if (kin_path_exists(temp))
        KIN_TRY(kin_path_remove_tree(temp, err));
    KIN_TRY(kin_path_make_dirs(temp, err));
    status = write_all(&job);
    if (status == KIN_OK)
        status = publish(temp, clean, err);
    if (status != KIN_OK && kin_path_exists(temp)) {
        kin_error ignored;

        (void)kin_path_remove_tree(temp, &ignored);
    }
    return status;
}

/* the values of kin_pipeline_save as items; one tensor per parameter of both tables */
typedef struct value_source {
    kin_pipeline_values values;
    void *user;
    kin_tensor *tensor;
    int first[2]; /* of each table */
} value_source;

static kin_status value_item(void *user, int table, const kin_param *p, kin_item *out,
                             kin_error *err)
{
    const value_source *s = user;
    kin_tensor *t = &s->tensor[s->first[table] + p->index];

    (void)err;
    *t = kin_tensor_of((void *)(uintptr_t)s->values(s->user, table, p), KIN_DTYPE_F32,
                       p->value.ndim, p->value.size);
    *out = kin_item_of(p->name, t, KIN_DTYPE_F32);
    return KIN_OK;
}

kin_status kin_pipeline_save(const kin_pipeline *p, const char *dir, kin_dtype dtype,
                             kin_pipeline_values values, void *user, kin_error *err)
{
    const int rest = p->text_params ? p->text_params->count : 0;
    value_source source = {.values = values, .user = user, .first = {0, p->params->count}};
    kin_save_options opt = {.dtype = dtype};
    kin_status status;

    if (values) {
        source.tensor = kin_calloc((size_t)(p->params->count + rest) + 1, sizeof(kin_tensor));
        if (!source.tensor)
            return kin_fail(err, KIN_ERR_MEM, "save: out of memory");
        opt.source = value_item;
        opt.user = &source;
    }
    status = kin_pipeline_save_as(p, dir, &opt, err);
    kin_free(source.tensor);
    return status;
}

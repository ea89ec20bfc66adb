#include "training/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "io/safetensors.h"

static const char dir_prefix[] = "checkpoint-";

/* --- writing --- */

static const float *ema_value(void *user, int table, const kin_param *p)
{
    return kin_optimizer_ema(user, table, p);
}

static kin_status write_moments(const char *dir, const kin_optimizer *o, kin_error *err)
{
    const int64_t n = 2 * (int64_t)o->count;
    char path[KIN_PATH_MAX];
    KIN_TRY(kin_path_join(path, dir, "optimizer.safetensors", err));
    kin_tensor *tensors = kin_calloc((size_t)n, sizeof *tensors);
    char(*text)[KIN_OPTIMIZER_NAME_MAX] = kin_calloc((size_t)n, sizeof *text);
    const char **names = kin_calloc((size_t)n, sizeof *names);
    kin_status status =
        tensors && text && names ? KIN_OK : kin_fail(err, KIN_ERR_MEM, "checkpoint: out of memory");
    for (int64_t i = 0; i < n && status == KIN_OK; i++) {
        const kin_optimizer_slot *s = &o->slot[i / 2];
        memcpy(text[i], i % 2 ? "v." : "m.", 3);
        kin_optimizer_name(o, (int)(i / 2), text[i] + 2, KIN_OPTIMIZER_NAME_MAX - 2);
        names[i] = text[i];
        tensors[i] = kin_tensor_of(i % 2 ? s->v : s->m, KIN_DTYPE_F32, s->param->value.ndim,
                                   s->param->value.size);
    }
    if (status == KIN_OK)
        status = kin_safetensors_write(path, names, tensors, NULL, n, NULL, err);
    kin_free(tensors);
    kin_free(text);
    kin_free(names);
    return status;
}

kin_status kin_checkpoint_write_info(const char *dir, const kin_checkpoint_info *info,
                                     kin_error *err)
{
    char path[KIN_PATH_MAX], number[32];
    KIN_TRY(kin_path_join(path, dir, "state.json", err));
    cJSON *root = cJSON_CreateObject();
    cJSON *config = info->config ? cJSON_Duplicate(info->config, true) : cJSON_CreateObject();
    snprintf(number, sizeof number, "%016" PRIx64, info->fingerprint);
    bool ok = root && config && cJSON_AddNumberToObject(root, "format", 1) &&
              cJSON_AddNumberToObject(root, "step", (double)info->step) &&
              cJSON_AddStringToObject(root, "data", number) &&
              (!info->imported || cJSON_AddTrueToObject(root, "imported"));
    if (ok && cJSON_AddItemToObject(root, "config", config))
        config = NULL;
    char *text = ok && !config ? cJSON_Print(root) : NULL;
    kin_status status = text ? kin_file_write(path, text, strlen(text), err)
                             : kin_fail(err, KIN_ERR_MEM, "checkpoint: out of memory");
    cJSON_free(text);
    cJSON_Delete(config);
    cJSON_Delete(root);
    return status;
}

static kin_status write_all(const char *dir, const kin_pipeline *pipe, const kin_optimizer *opt,
                            const kin_checkpoint_info *info, kin_error *err)
{
    char ema[KIN_PATH_MAX];
    if (info->finetune) {
        KIN_TRY(kin_finetune_save(pipe, info->finetune, info->base, dir, err));
    } else {
        KIN_TRY(kin_pipeline_save(pipe, dir, KIN_DTYPE_F32, NULL, NULL, err));
        KIN_TRY(kin_path_join(ema, dir, "ema", err));
        KIN_TRY(kin_pipeline_save(pipe, ema, KIN_DTYPE_F32, ema_value, (void *)opt, err));
    }
    KIN_TRY(write_moments(dir, opt, err));
    KIN_TRY(kin_checkpoint_write_info(dir, info, err));
    return kin_path_sync_dir(dir, err);
}

static kin_status write_latest(const char *run, const char *name, kin_error *err)
{
    char path[KIN_PATH_MAX], line[64];
    KIN_TRY(kin_path_join(path, run, "latest", err));
    int n = snprintf(line, sizeof line, "%s\n", name);
    return kin_file_write(path, line, (size_t)n, err);
}

/* Step of a folder name "checkpoint-N", or -1. */
static int64_t step_of(const char *name)
{
    char *end;
    if (strncmp(name, dir_prefix, sizeof dir_prefix - 1) != 0)
        return -1;
    const char *digits = name + sizeof dir_prefix - 1;
    if (*digits < '0' || *digits > '9')
        return -1;
    errno = 0;
    long long step = strtoll(digits, &end, 10);
    return *end == '\0' && errno == 0 ? (int64_t)step : -1;
}

/* Calls `fn` for each entry of the run folder. */
static kin_status each_entry(const char *run,
                             kin_status (*fn)(const char *run, const char *name, void *user,
                                              kin_error *err),
                             void *user, kin_error *err)
{
    DIR *d = opendir(run);
    const struct dirent *e;
    kin_status status = KIN_OK;
    if (!d)
        return kin_fail(err, KIN_ERR_IO, "%s: %s", run, strerror(errno));
    while (status == KIN_OK && (e = readdir(d)))
        status = fn(run, e->d_name, user, err);
    closedir(d);
    return status;
}

typedef struct newest {
    int64_t keep;
    int n;
    int64_t step[4096];
} newest;

static kin_status collect(const char *run, const char *name, void *user, kin_error *err)
{
    newest *all = user;
    int64_t step = step_of(name);
    (void)run;
    (void)err;
    if (step >= 0 && all->n < 4096)
        all->step[all->n++] = step;
    return KIN_OK;
}

static int descending(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x < y) - (x > y);
}

static kin_status remove_old(const char *run, int64_t keep, int64_t step, kin_error *err)
{
    newest *all = kin_calloc(1, sizeof *all);
    char path[KIN_PATH_MAX], name[64];
    if (!all)
        return kin_fail(err, KIN_ERR_MEM, "checkpoint: out of memory");
    kin_status status = each_entry(run, collect, all, err);
    qsort(all->step, (size_t)all->n, sizeof *all->step, descending);
    int64_t kept = 0;
    for (int i = 0; i < all->n && status == KIN_OK; i++) {
        /* never one beyond the present step: it belongs to a run that was continued elsewhere */
        if (all->step[i] > step || kept++ < keep)
            continue;
        snprintf(name, sizeof name, "%s%" PRId64, dir_prefix, all->step[i]);
        status = kin_path_join(path, run, name, err);
        if (status == KIN_OK)
            status = kin_path_remove_tree(path, err);
    }
    kin_free(all);
    return status;
}

/* Bytes a checkpoint will take: weights, averages, two moments, and room for the rest. */
static uint64_t bytes_needed(const kin_optimizer *o)
{
    uint64_t n = 0;
    for (int i = 0; i < o->count; i++)
        n += (uint64_t)o->slot[i].n;
    return 4 * sizeof(float) * n + (UINT64_C(4) << 20);
}

kin_status kin_checkpoint_place(const char *run, int64_t step, uint64_t bytes,
                                kin_checkpoint_writer write, void *user, kin_error *err)
{
    char name[64], temp_name[80], temp[KIN_PATH_MAX], path[KIN_PATH_MAX];
    snprintf(name, sizeof name, "%s%" PRId64, dir_prefix, step);
    snprintf(temp_name, sizeof temp_name, "%s.partial", name);
    KIN_TRY(kin_path_join(temp, run, temp_name, err));
    KIN_TRY(kin_path_join(path, run, name, err));
    if (!kin_path_has_space(run, bytes))
        return kin_fail(err, KIN_ERR_IO,
                        "checkpoint: %s needs %" PRIu64 " MB of free space; older ones stay", path,
                        bytes >> 20);
    if (kin_path_exists(temp))
        KIN_TRY(kin_path_remove_tree(temp, err));
    kin_status status = write(temp, user, err);
    if (status == KIN_OK && kin_path_exists(path))
        status = kin_path_remove_tree(path, err);
    if (status == KIN_OK && rename(temp, path) != 0)
        status = kin_fail(err, KIN_ERR_IO, "checkpoint: %s: %s", path, strerror(errno));
    if (status != KIN_OK) {
        kin_error ignored;
        if (kin_path_exists(temp))
            kin_path_remove_tree(temp, &ignored);
        return status;
    }
    KIN_TRY(kin_path_sync_dir(run, err));
    return write_latest(run, name, err);
}

typedef struct own {
    const kin_pipeline *pipe;
    const kin_optimizer *opt;
    const kin_checkpoint_info *info;
} own;

static kin_status write_own(const char *dir, void *user, kin_error *err)
{
    const own *o = user;
    return write_all(dir, o->pipe, o->opt, o->info, err);
}

kin_status kin_checkpoint_save(const char *run, const kin_pipeline *pipe, const kin_optimizer *opt,
                               const kin_checkpoint_info *info, int64_t keep, kin_error *err)
{
    own o = {pipe, opt, info};
    KIN_TRY(kin_checkpoint_place(run, info->step, bytes_needed(opt), write_own, &o, err));
    return remove_old(run, keep, info->step, err);
}

/* --- reading --- */

kin_status kin_checkpoint_latest(const char *run, char dir[KIN_PATH_MAX], kin_error *err)
{
    char path[KIN_PATH_MAX], *text;
    size_t n;
    KIN_TRY(kin_path_join(path, run, "latest", err));
    KIN_TRY(kin_file_read(path, 256, &text, &n, err));
    text[strcspn(text, "\r\n")] = '\0';
    kin_status status = step_of(text) >= 0
                            ? kin_path_join(dir, run, text, err)
                            : kin_fail(err, KIN_ERR_FORMAT, "%s: must name a checkpoint", path);
    kin_free(text);
    return status;
}

kin_status kin_checkpoint_read_info(const char *dir, kin_checkpoint_info *info, kin_error *err)
{
    char path[KIN_PATH_MAX];
    const char *data = "0";
    int64_t format = 0, step = 0;
    cJSON *root = NULL;
    kin_status status = KIN_OK;
    *info = (kin_checkpoint_info){0};
    KIN_TRY(kin_path_join(path, dir, "state.json", err));
    KIN_TRY(kin_json_read(path, 16 << 20, KIN_JSON_ALLOW_INFINITY, &root, err));
    KIN_GOTO(kin_json_get_i64(root, "format", 1, 1, &format, err));
    KIN_GOTO(kin_json_get_i64(root, "step", 0, INT64_C(1) << 40, &step, err));
    KIN_GOTO(kin_json_get_str(root, "data", &data, err));
    KIN_GOTO(kin_json_get_bool(root, "imported", &info->imported, err));
    info->step = step;
    info->fingerprint = strtoull(data, NULL, 16);
    info->config = cJSON_DetachItemFromObjectCaseSensitive(root, "config");
    if (format != 1 || !cJSON_IsObject(info->config))
        status = kin_fail(err, KIN_ERR_FORMAT, "%s: needs format 1 and a config", path);
done:
    cJSON_Delete(root);
    if (status != KIN_OK) {
        cJSON_Delete(info->config);
        info->config = NULL;
    }
    return status;
}

static kin_status copy_in(const kin_safetensors *st, const char *name, const kin_optimizer_slot *s,
                          float *to, kin_error *err)
{
    kin_tensor t;
    KIN_TRY(kin_safetensors_get(st, name, &t, err));
    if (t.dtype != KIN_DTYPE_F32 || !kin_tensor_same_shape(&t, &s->param->value))
        return kin_fail(err, KIN_ERR_SHAPE,
                        "checkpoint: %s must be f32 and have the parameter's shape", name);
    memcpy(to, t.data, (size_t)s->n * sizeof(float));
    return KIN_OK;
}

static kin_status load_moments(const char *dir, kin_optimizer *o, kin_error *err)
{
    char path[KIN_PATH_MAX], name[KIN_OPTIMIZER_NAME_MAX + 2];
    kin_safetensors *st;
    kin_status status = KIN_OK;
    KIN_TRY(kin_path_join(path, dir, "optimizer.safetensors", err));
    KIN_TRY(kin_safetensors_open(path, &st, err));
    for (int i = 0; i < o->count; i++) {
        memcpy(name, "m.", 3);
        kin_optimizer_name(o, i, name + 2, KIN_OPTIMIZER_NAME_MAX);
        KIN_GOTO(copy_in(st, name, &o->slot[i], o->slot[i].m, err));
        name[0] = 'v';
        KIN_GOTO(copy_in(st, name, &o->slot[i], o->slot[i].v, err));
    }
done:
    kin_safetensors_close(&st);
    return status;
}

static kin_status load_averages(const char *dir, int table, kin_optimizer *o, kin_error *err)
{
    static const char *const folder[] = {"ema/transformer", "ema/text_encoder"};
    static const char *const file[] = {"diffusion_pytorch_model.safetensors", "model.safetensors"};
    char path[KIN_PATH_MAX];
    kin_safetensors *st = NULL;
    kin_status status = KIN_OK;
    for (int i = 0; i < o->count; i++) {
        kin_optimizer_slot *s = &o->slot[i];
        if (s->table != table)
            continue;
        if (!st) {
            KIN_TRY(kin_path_join(path, dir, folder[table], err));
            if (table == 0 && !kin_path_is_dir(path)) /* an autoencoder alone */
                KIN_TRY(kin_path_join(path, dir, "ema/vae", err));
            KIN_TRY(kin_safetensors_open_dir(path, file[table], &st, err));
        }
        KIN_GOTO(copy_in(st, s->param->name, s, s->ema, err));
    }
done:
    kin_safetensors_close(&st);
    return status;
}

kin_status kin_checkpoint_load_optimizer(const char *dir, int64_t step, kin_optimizer *opt,
                                         kin_error *err)
{
    KIN_TRY(load_moments(dir, opt, err));
    for (int t = 0; t < KIN_OPTIMIZER_TABLES && !opt->opt.no_ema; t++)
        KIN_TRY(load_averages(dir, t, opt, err));
    opt->step = step;
    return KIN_OK;
}

static kin_status remove_partial(const char *run, const char *name, void *user, kin_error *err)
{
    char path[KIN_PATH_MAX];
    (void)user;
    if (strncmp(name, dir_prefix, sizeof dir_prefix - 1) != 0 || !strstr(name, ".partial"))
        return KIN_OK;
    KIN_TRY(kin_path_join(path, run, name, err));
    return kin_path_remove_tree(path, err);
}

kin_status kin_checkpoint_clean(const char *run, kin_error *err)
{
    return each_entry(run, remove_partial, NULL, err);
}

#include "diffusion/embeds.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "base/path.h"
#include "diffusion/pipeline_parts.h"
#include "io/safetensors.h"

enum { FILES_MOST = 512 }; /* each at most 8 MB: 512 tokens of width 4096 */

static const char tensor_name[] = "states";

kin_status kin_embeds_config_hash(const cJSON *config, uint64_t *out, kin_error *err)
{
    char *text = cJSON_PrintUnformatted(config);

    if (!text)
        return kin_fail(err, KIN_ERR_MEM, "text encoder's config: out of memory");
    *out = kin_fnv1a(KIN_FNV1A_START, text, strlen(text));
    cJSON_free(text);
    return KIN_OK;
}

kin_status kin_pipeline_keep_texts(kin_pipeline *p, const char *folder)
{
    if (strlen(folder) + 64 > sizeof(p->text_folder))
        return kin_fail(&p->ctx->error, KIN_ERR_ARG, "%s: the path is too long", folder);
    snprintf(p->text_folder, sizeof(p->text_folder), "%s", folder);
    return KIN_OK;
}

/* False where nothing is kept: no folder, weights that are no file's, a plan. */
static bool path_of(const kin_pipeline *p, const kin_tensor *ids, char out[KIN_PATH_MAX])
{
    const kin_ctx *ctx = p->ctx;
    const int how[] = {(int)ctx->compute, (int)ctx->precision, (int)ctx->isa,
                       (int)kin_model_get_info(p->model)->family};
    uint64_t key[2] = {p->text_hash, KIN_FNV1A_START};
    char name[64];

    if (!p->text_folder[0] || !p->text_hash || !p->files || kin_ctx_is_plan(ctx))
        return false;
    for (int i = 0; i < 2; i++) {
        key[i] = kin_fnv1a(key[i], how, sizeof(how));
        key[i] = kin_fnv1a(key[i], ids->data, (size_t)kin_tensor_numel(ids) * sizeof(int32_t));
    }
    snprintf(name, sizeof(name), "%016" PRIx64 "%016" PRIx64 ".safetensors", key[0], key[1]);
    return kin_path_join(out, p->text_folder, name, NULL) == KIN_OK;
}

bool kin_embeds_find(kin_pipeline *p, const kin_tensor *ids, kin_tensor *states)
{
    const int64_t len = ids->size[1], width = kin_text_encoder_width(p->text);
    kin_safetensors *file = NULL;
    char path[KIN_PATH_MAX];
    kin_error ignored = {0};
    kin_tensor t;
    bool found;

    if (!path_of(p, ids, path) || !kin_path_exists(path) ||
        kin_safetensors_open(path, &file, &ignored) != KIN_OK)
        return false;
    /* rows at the end that are zero are not stored */
    found = kin_safetensors_get(file, tensor_name, &t, &ignored) == KIN_OK && t.ndim == 2 &&
            t.dtype == KIN_DTYPE_F32 && t.size[0] <= len && t.size[1] == width &&
            KIN_WS_HOST(p->ctx, states, KIN_DTYPE_F32, 1, len, width) == KIN_OK;
    if (found) {
        const size_t bytes = (size_t)kin_tensor_numel(&t) * sizeof(float);

        memset(states->data, 0, (size_t)(len * width) * sizeof(float));
        memcpy(states->data, t.data, bytes);
        (void)utimensat(AT_FDCWD, path, NULL, 0); /* used just now */
    }
    kin_safetensors_close(&file);
    return found;
}

/* Removes the file that was used longest ago, where there are more than the most. */
static void drop_oldest(const char *folder)
{
    char path[KIN_PATH_MAX], oldest[KIN_PATH_MAX] = "";
    const struct dirent *e;
    struct stat s;
    time_t when = 0;
    int count = 0;
    DIR *d = opendir(folder);

    while (d && (e = readdir(d))) {
        if (strcmp(kin_path_ext(e->d_name), "safetensors") != 0 ||
            kin_path_join(path, folder, e->d_name, NULL) != KIN_OK || stat(path, &s) != 0)
            continue;
        count++;
        if (!oldest[0] || s.st_mtime < when) {
            memcpy(oldest, path, sizeof(path));
            when = s.st_mtime;
        }
    }
    if (d)
        closedir(d);
    if (count > FILES_MOST)
        (void)unlink(oldest);
}

void kin_embeds_keep(kin_pipeline *p, const kin_tensor *ids, const kin_tensor *states)
{
    const char *const names[] = {tensor_name};
    const size_t mark = kin_ws_mark(p->ctx);
    const int64_t width = states->size[2];
    int64_t n = kin_tensor_numel(states);
    char path[KIN_PATH_MAX];
    kin_error ignored = {0};
    kin_tensor t, here;
    const float *v;

    if (!path_of(p, ids, path) || kin_path_make_dirs(p->text_folder, &ignored) != KIN_OK)
        return;
    if (kin_host(p->ctx, states, &here) != KIN_OK)
        return;
    v = here.data;
    while (n > width && v[n - 1] == 0.0f)
        n--;
    t = KIN_TENSOR(here.data, KIN_DTYPE_F32, (n + width - 1) / width, width);
    if (kin_safetensors_write(path, names, &t, NULL, 1, NULL, &ignored) == KIN_OK)
        drop_oldest(p->text_folder);
    kin_ws_release(p->ctx, mark);
}

#include "cli/resume.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"

/* Settings that may change from call to call without changing a byte of a clip. */
static const char *const free_keys[] = {"threads",    "batch", "progress", "model",
                                        "allow-flat", "count", NULL};
/* The number of pictures is part of an archive's header, and of a sheet. */
static const char *const free_keys_whole[] = {"threads", "batch",      "progress",
                                              "model",   "allow-flat", NULL};

/* ---- files ---- */

/* Whether the file of a clip is there and looks whole: its beginning and its end are right. */
static bool is_whole(const kin_output *o, const char *path, int64_t height, int64_t width)
{
    static const uint8_t end[12] = {0, 0, 0, 0, 'I', 'E', 'N', 'D', 0xAE, 0x42, 0x60, 0x82};
    uint8_t head[24] = {0}, tail[12] = {0};
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    bool ok = fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 64 &&
              pread(fd, head, sizeof head, 0) == sizeof head &&
              pread(fd, tail, sizeof tail, st.st_size - 12) == sizeof tail;
    if (fd >= 0)
        close(fd);
    if (!ok || o->kind == KIN_OUTPUT_CLIP)
        return ok && kin_video_looks_like(path, o->animated, head, sizeof head);
    int64_t w = head[16] << 24 | head[17] << 16 | head[18] << 8 | head[19];
    int64_t h = head[20] << 24 | head[21] << 16 | head[22] << 8 | head[23];
    return memcmp(head, "\x89PNG\r\n\x1a\n", 8) == 0 && w == width && h == height &&
           memcmp(tail, end, sizeof end) == 0;
}

/* True if name (without ".tmp.PID") is that of a clip of o or of its record. */
static bool is_ours(const kin_output *o, const char *record, const char *name)
{
    char clip[KIN_PATH_MAX];
    const char *digits = name, *pattern = kin_path_base(o->name);
    if (strcmp(name, kin_path_base(record)) == 0 || strcmp(name, pattern) == 0)
        return true;
    while (*digits && *digits == *pattern && *pattern != '%') {
        digits++;
        pattern++;
    }
    if (!isdigit((unsigned char)*digits))
        return false;
    return kin_output_name(clip, kin_path_base(o->name), atoll(digits), NULL) == KIN_OK &&
           strcmp(clip, name) == 0;
}

/* Files that killed processes were writing. */
static kin_status remove_temporary(const kin_output *o, const char *record, kin_error *err)
{
    char dir[KIN_PATH_MAX], path[KIN_PATH_MAX], name[256];
    KIN_TRY(kin_path_dir(dir, o->name, err));
    DIR *d = opendir(dir);
    if (!d)
        return kin_fail(err, KIN_ERR_IO, "read: %s: %s", dir, strerror(errno));
    for (const struct dirent *e; (e = readdir(d)) != NULL;) {
        const char *end = strstr(e->d_name, ".tmp.");
        if (!end || !end[5] || end[5 + strspn(end + 5, "0123456789")])
            continue;
        snprintf(name, sizeof name, "%.*s", (int)(end - e->d_name), e->d_name);
        if (is_ours(o, record, name) && kin_path_join(path, dir, e->d_name, NULL) == KIN_OK)
            unlink(path);
    }
    closedir(d);
    return KIN_OK;
}

/* Clips first..last-1 have no file yet; with force their files are removed. */
static kin_status clear(const kin_output *o, int64_t first, int64_t last, bool force,
                        kin_error *err)
{
    char path[KIN_PATH_MAX];
    for (int64_t i = first; i < last; i++) {
        KIN_TRY(kin_output_path(o, i, path, err));
        if (force && unlink(path) != 0 && errno != ENOENT)
            return kin_fail(err, KIN_ERR_IO, "remove: %s: %s", path, strerror(errno));
        if (!force && kin_path_exists(path))
            return kin_fail(err, KIN_ERR_ARG,
                            "output: %s is there, but no run that made it is known (--force starts "
                            "over)",
                            path);
    }
    return KIN_OK;
}

/* ---- one output ---- */

typedef struct job {
    kin_resume *r;
    kin_output *o;
    int64_t height, width;
    const cJSON *settings;
    cJSON *old; /* settings of the run before, NULL: none */
    bool fresh; /* start over */
    bool force;
    kin_error *err;
} job;

static int64_t count_of(const cJSON *settings)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(settings, "count");
    return cJSON_IsNumber(v) && v->valuedouble >= 1 && v->valuedouble < 1e15
               ? (int64_t)v->valuedouble
               : 0;
}

/* The record with the number of clips that may be there by now. */
static kin_status write_record(job *j, int64_t count)
{
    cJSON *copy = cJSON_Duplicate(j->settings, true);
    cJSON *number = cJSON_GetObjectItemCaseSensitive(copy, "count");
    if (!number) {
        cJSON_Delete(copy);
        return kin_fail(j->err, KIN_ERR_MEM, "generate: out of memory");
    }
    cJSON_SetNumberValue(number, (double)count);
    kin_status status = kin_record_write(&j->r->record, copy, j->err);
    cJSON_Delete(copy);
    return status;
}

/* Opens the record; settings that differ are an error, or with force a reason to start over. */
static kin_status open_record(job *j, const char *path)
{
    char text[512];
    const bool whole = j->o->kind == KIN_OUTPUT_NPZ || (j->o->columns && !j->o->pattern);
    const char *const *ignored = whole ? free_keys_whole : free_keys;
    kin_status status = kin_record_open(&j->r->record, path, &j->old, j->err);
    if (status == KIN_ERR_FORMAT && j->force)
        status = KIN_OK;
    KIN_TRY(status);
    j->fresh = !j->old || kin_record_differs(j->old, j->settings, ignored, text, sizeof text);
    if (j->old && j->fresh && !j->force)
        return kin_fail(j->err, KIN_ERR_ARG,
                        "output: %s is of a run with other settings: %s (--force starts over)",
                        path, text);
    return KIN_OK;
}

static kin_status need_missing(kin_resume *r, int64_t most, kin_error *err)
{
    r->missing = kin_malloc((size_t)most * sizeof *r->missing);
    return r->missing ? KIN_OK : kin_fail(err, KIN_ERR_MEM, "generate: out of memory");
}

static kin_status open_files(job *j)
{
    char path[KIN_PATH_MAX];
    kin_resume *r = j->r;
    const int64_t count = j->o->count, before = j->old ? count_of(j->old) : 0;
    const int64_t most = before > count ? before : count;
    const bool fresh = j->fresh;
    KIN_TRY(clear(j->o, fresh ? 0 : before, fresh ? most : count, j->force, j->err));
    if (fresh || most > before)
        KIN_TRY(write_record(j, fresh ? count : most));
    KIN_TRY(need_missing(r, count, j->err));
    for (int64_t i = 0; i < count; i++) {
        KIN_TRY(kin_output_path(j->o, i, path, j->err));
        if (fresh || !is_whole(j->o, path, j->height, j->width))
            r->missing[r->n++] = i;
    }
    return KIN_OK;
}

static kin_status open_archive(job *j)
{
    kin_output *o = j->o;
    const int64_t size[4] = {o->count, j->height, j->width, 3};
    const bool fresh = j->fresh;
    int64_t have = 0;
    if (fresh && !j->force && !j->old && kin_path_exists(o->name))
        return kin_fail(j->err, KIN_ERR_ARG,
                        "output: %s is there, but no run that made it is known (--force starts "
                        "over)",
                        o->name);
    if (!fresh && kin_npz_is_complete(o->name, size, o->classes != NULL))
        return KIN_OK;
    /* note: the part comes before the record: a record without a part means a finished archive */
    KIN_TRY(kin_npz_open(o->name, size, !fresh, &o->npz, &have, j->err));
    if (fresh)
        KIN_TRY(write_record(j, o->count));
    KIN_TRY(need_missing(j->r, o->count - have + 1, j->err));
    for (int64_t i = have; i < o->count; i++)
        j->r->missing[j->r->n++] = i;
    return KIN_OK;
}

kin_status kin_resume_open(kin_resume *r, kin_output *o, int64_t frames, int64_t height,
                           int64_t width, const cJSON *settings, bool force, kin_error *err)
{
    job j = {.r = r,
             .o = o,
             .height = height,
             .width = width,
             .settings = settings,
             .force = force,
             .err = err};
    char path[KIN_PATH_MAX];
    memset(r, 0, sizeof *r);
    r->record.fd = -1;
    if (o->kind == KIN_OUTPUT_PNG)
        kin_output_picture(o, frames, &j.height, &j.width);
    KIN_TRY(kin_output_settings_path(o, path, err));
    kin_status status = open_record(&j, path);
    if (status == KIN_OK)
        status = remove_temporary(o, path, err);
    if (status == KIN_OK)
        status = o->kind == KIN_OUTPUT_NPZ ? open_archive(&j) : open_files(&j);
    cJSON_Delete(j.old);
    return status;
}

void kin_resume_close(kin_resume *r)
{
    kin_record_close(&r->record);
    kin_free(r->missing);
    r->missing = NULL;
    r->n = 0;
}

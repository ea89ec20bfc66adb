#include "cli/record.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/json.h"
#include "base/lock.h"

enum { RECORD_MAX = 16 << 20, ATTEMPTS = 100 };

static kin_status open_locked(kin_record *r, kin_error *err)
{
    char who[64] = "another process";
    for (int i = 0; i < ATTEMPTS; i++) {
        r->fd = open(r->path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        if (r->fd < 0)
            return kin_fail(err, KIN_ERR_IO, "write: %s: %s", r->path, strerror(errno));
        const bool locked = kin_lock_file(r->fd);
        if (locked && kin_lock_is_current(r->fd, r->path))
            return KIN_OK;
        if (!locked)
            kin_lock_describe(r->fd, who, sizeof who);
        close(r->fd);
        r->fd = -1;
        if (!locked)
            break;
    }
    return kin_fail(err, KIN_ERR_IO, "%s: %s is writing this output", r->path, who);
}

kin_status kin_record_open(kin_record *r, const char *path, cJSON **old, kin_error *err)
{
    struct stat st;
    *old = NULL;
    snprintf(r->path, sizeof r->path, "%s", path);
    KIN_TRY(open_locked(r, err));
    if (fstat(r->fd, &st) != 0)
        return kin_fail(err, KIN_ERR_IO, "read: %s: %s", path, strerror(errno));
    if (st.st_size == 0)
        return KIN_OK;
    KIN_TRY(kin_json_read(path, RECORD_MAX, KIN_JSON_STRICT, old, err));
    if (cJSON_IsObject(*old))
        return KIN_OK;
    cJSON_Delete(*old);
    *old = NULL;
    return kin_fail(err, KIN_ERR_FORMAT, "%s: must be an object of settings", path);
}

kin_status kin_record_write(kin_record *r, const cJSON *settings, kin_error *err)
{
    kin_file_out f;
    char *text = cJSON_Print(settings);
    if (!text)
        return kin_fail(err, KIN_ERR_MEM, "%s: out of memory", r->path);
    kin_status status = kin_file_out_open(&f, r->path, err);
    int fd = -1;
    if (status == KIN_OK) {
        fputs(text, f.fp);
        fputc('\n', f.fp);
        /* note: the new file is locked before it gets the name, so that the lock is never free */
        fd = fcntl(fileno(f.fp), F_DUPFD_CLOEXEC, 0);
        if (fd < 0 || !kin_lock_file(fd)) {
            kin_file_out_abort(&f);
            status = kin_fail(err, KIN_ERR_IO, "write: %s: cannot be locked", r->path);
        } else {
            status = kin_file_out_commit(&f, err);
        }
    }
    cJSON_free(text);
    if (status == KIN_OK) {
        close(r->fd);
        r->fd = fd;
    } else if (fd >= 0) {
        close(fd);
    }
    return status;
}

void kin_record_close(kin_record *r)
{
    struct stat st;
    if (r->fd < 0)
        return;
    if (fstat(r->fd, &st) == 0 && st.st_size == 0 && kin_lock_is_current(r->fd, r->path))
        unlink(r->path);
    close(r->fd);
    r->fd = -1;
}

/* ---- comparison ---- */

static bool is_ignored(const char *key, const char *const *ignored)
{
    if (strcmp(key, "from") == 0) /* who gave a value, not what it is */
        return true;
    for (; *ignored; ignored++)
        if (strcmp(*ignored, key) == 0)
            return true;
    return false;
}

typedef struct difference {
    const char *const *ignored;
    char *text;
    size_t room, used;
    int count;
} difference;

static const char *value_text(const cJSON *v, char buf[64])
{
    char *text = v ? cJSON_PrintUnformatted(v) : NULL;
    snprintf(buf, 64, "%.60s", text ? text : "none");
    cJSON_free(text);
    return buf;
}

static void note(difference *d, const char *key, const cJSON *old, const cJSON *now)
{
    char a[64], b[64];
    if (d->count++ < 3 && d->used < d->room) {
        int n = snprintf(d->text + d->used, d->room - d->used, "%s%s was %s, now %s",
                         d->used ? "; " : "", key, value_text(old, a), value_text(now, b));
        d->used += n > 0 ? (size_t)n : 0;
    }
}

/* one level of keys: those of `old`, then those that only `now` has */
static void compare(difference *d, const cJSON *old, const cJSON *now)
{
    for (const cJSON *i = old ? old->child : NULL; i; i = i->next) {
        const cJSON *j = cJSON_GetObjectItemCaseSensitive(now, i->string);
        if (strcmp(i->string, "kinema") && !is_ignored(i->string, d->ignored) &&
            !(j && cJSON_Compare(i, j, true)))
            note(d, i->string, i, j);
    }
    for (const cJSON *j = now ? now->child : NULL; j; j = j->next)
        if (strcmp(j->string, "kinema") && !is_ignored(j->string, d->ignored) &&
            !cJSON_GetObjectItemCaseSensitive(old, j->string))
            note(d, j->string, NULL, j);
}

bool kin_record_differs(const cJSON *old, const cJSON *now, const char *const *ignored, char *text,
                        size_t n)
{
    difference d = {.ignored = ignored, .text = text, .room = n};
    text[0] = 0;
    compare(&d, old, now);
    compare(&d, cJSON_GetObjectItemCaseSensitive(old, "kinema"),
            cJSON_GetObjectItemCaseSensitive(now, "kinema"));
    return d.count > 0;
}

#include "training/log.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/path.h"

/* Length of the leading part of the file whose lines belong to steps up to `step`. */
static long valid_length(FILE *fp, int64_t step)
{
    static const char start[] = "{\"step\":";
    char *line = NULL;
    size_t cap = 0;
    long length = 0;
    ssize_t n;
    while ((n = getline(&line, &cap, fp)) > 0) {
        if (line[n - 1] != '\n' || strncmp(line, start, sizeof start - 1) != 0 ||
            strtoll(line + sizeof start - 1, NULL, 10) > step)
            break;
        length += n;
    }
    free(line);
    return length;
}

kin_status kin_log_open(const char *run, int64_t step, kin_log *log, kin_error *err)
{
    char path[KIN_PATH_MAX];
    *log = (kin_log){0};
    KIN_TRY(kin_path_join(path, run, "log.jsonl", err));
    log->path = kin_strdup(path);
    if (!log->path)
        return kin_fail(err, KIN_ERR_MEM, "log: out of memory");
    FILE *fp = fopen(path, "r");
    long length = 0;
    if (fp) {
        length = valid_length(fp, step);
        fclose(fp);
        if (truncate(path, length) != 0)
            return kin_fail(err, KIN_ERR_IO, "%s: %s", path, strerror(errno));
    }
    log->fp = fopen(path, "a");
    if (!log->fp)
        return kin_fail(err, KIN_ERR_IO, "%s: %s", path, strerror(errno));
    return kin_events_open(run, step, &log->events, err);
}

void kin_log_close(kin_log *log)
{
    if (log->fp)
        fclose(log->fp);
    kin_strbuf_free(&log->line);
    kin_events_close(&log->events);
    kin_free(log->path);
    *log = (kin_log){0};
}

void kin_log_begin(kin_log *log, int64_t step)
{
    log->line.len = 0;
    if (log->line.data)
        log->line.data[0] = '\0';
    kin_strbuf_addf(&log->line, "{\"step\":%" PRId64, step);
    log->members = 1;
    kin_events_begin(&log->events, step);
}

/* The same number for TensorBoard; index -1: not of an array. */
static void put_event(kin_log *log, const char *key, int index, double value)
{
    char tag[128], number[16] = "";
    if (index >= 0)
        snprintf(number, sizeof number, "/%d", index);
    snprintf(tag, sizeof tag, "%s%s%s%s", log->object, log->object[0] ? "/" : "", key, number);
    kin_events_number(&log->events, tag, value);
}

static void put_key(kin_log *log, const char *key)
{
    kin_strbuf_addf(&log->line, "%s\"%s\":", log->members++ ? "," : "", key);
}

static void put_value(kin_log *log, double value)
{
    if (isfinite(value))
        kin_strbuf_addf(&log->line, "%.9g", value);
    else
        kin_strbuf_add(&log->line, "null");
}

void kin_log_number(kin_log *log, const char *key, double value)
{
    put_key(log, key);
    put_value(log, value);
    put_event(log, key, -1, value);
}

void kin_log_open_object(kin_log *log, const char *key)
{
    put_key(log, key);
    kin_strbuf_add(&log->line, "{");
    log->members = 0;
    snprintf(log->object, sizeof log->object, "%s", key);
}

void kin_log_close_object(kin_log *log)
{
    kin_strbuf_add(&log->line, "}");
    log->members = 1;
    log->object[0] = '\0';
}

void kin_log_array(kin_log *log, const char *key, const double *v, int n)
{
    put_key(log, key);
    for (int i = 0; i < n; i++) {
        kin_strbuf_add(&log->line, i ? "," : "[");
        put_value(log, v[i]);
        put_event(log, key, i, v[i]);
    }
    kin_strbuf_add(&log->line, n ? "]" : "[]");
}

kin_status kin_log_end(kin_log *log, kin_error *err)
{
    kin_strbuf_add(&log->line, "}\n");
    if (log->line.failed)
        return kin_fail(err, KIN_ERR_MEM, "log: out of memory");
    if (fwrite(log->line.data, 1, log->line.len, log->fp) != log->line.len || fflush(log->fp) != 0)
        return kin_fail(err, KIN_ERR_IO, "%s: %s", log->path, strerror(errno));
    return kin_events_end(&log->events, err);
}

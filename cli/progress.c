#include "cli/progress.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/text.h"

double kin_clock_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

const char *kin_progress_time(double seconds, char buf[32])
{
    if (!(seconds >= 0) || seconds > 1e7) {
        snprintf(buf, 32, "?");
        return buf;
    }
    long s = lround(seconds);
    if (s >= 3600)
        snprintf(buf, 32, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
    else
        snprintf(buf, 32, "%ld:%02ld", s / 60, s % 60);
    return buf;
}

void kin_progress_init(kin_progress *p, const char *mode, FILE *to)
{
    memset(p, 0, sizeof *p);
    p->to = to;
    const char *no_color = getenv("NO_COLOR"), *term = getenv("TERM");
    bool terminal = isatty(fileno(to)) && !(term && !strcmp(term, "dumb"));
    if (!strcmp(mode, "none"))
        p->mode = KIN_PROGRESS_NONE;
    else if (!strcmp(mode, "json"))
        p->mode = KIN_PROGRESS_JSON;
    else
        p->mode = terminal && strcmp(mode, "plain") ? KIN_PROGRESS_LINE : KIN_PROGRESS_PLAIN;
    p->colour = p->mode == KIN_PROGRESS_LINE && !(no_color && *no_color);
}

void kin_progress_begin(kin_progress *p, const char *what, const char *unit, int64_t total)
{
    p->what = what;
    p->unit = unit;
    p->total = total;
    p->before = 0;
    p->per = 1;
    p->rate = "it/s";
    p->started = kin_clock_s();
    p->shown = p->started;
}

/* {"task", "done", "total", what the caller adds} as one line */
static void put_json(kin_progress *p, int64_t done, const char *members)
{
    kin_strbuf b = {0};
    kin_strbuf_add(&b, "{\"task\":");
    kin_strbuf_add_json(&b, p->what);
    kin_strbuf_addf(&b, ",\"done\":%lld,\"total\":%lld", (long long)(done / p->per),
                    (long long)(p->total / p->per));
    if (*members)
        kin_strbuf_addf(&b, ",%s", members);
    kin_strbuf_add(&b, "}\n");
    if (!b.failed)
        fputs(b.data, p->to);
    kin_strbuf_free(&b);
    fflush(p->to);
}

static void show_json(kin_progress *p, int64_t done, double rate, double eta, const char *extra)
{
    kin_strbuf b = {0};
    kin_strbuf_add(&b, "");
    if (rate > 0)
        kin_strbuf_addf(&b, "\"it_per_s\":%.4g,\"eta_s\":%.4g", rate, eta);
    if (extra) {
        kin_strbuf_add(&b, b.len ? ",\"text\":" : "\"text\":");
        kin_strbuf_add_json(&b, extra);
    }
    if (!b.failed)
        put_json(p, done, b.data);
    kin_strbuf_free(&b);
}

/* True when it is time to show something again. */
static bool due(kin_progress *p, int64_t done, bool force)
{
    static const double gap[] = {0, 0.1, 2, 0.5};
    double now = kin_clock_s();
    if (p->mode == KIN_PROGRESS_NONE ||
        (!force && done != p->total && now - p->shown < gap[p->mode]))
        return false;
    p->shown = now;
    return true;
}

static void show_text(kin_progress *p, int64_t done, const char *text)
{
    char head[96];
    snprintf(head, sizeof head, "%lld/%lld %s", (long long)(done / p->per),
             (long long)(p->total / p->per), p->unit);
    if (p->mode == KIN_PROGRESS_LINE)
        fprintf(p->to, "\r%s%s%s: %s%s\033[K", p->colour ? "\033[36m" : "", p->what,
                p->colour ? "\033[0m" : "", head, text);
    else
        fprintf(p->to, "%s: %s%s\n", p->what, head, text);
    p->open_line = p->mode == KIN_PROGRESS_LINE;
    fflush(p->to);
}

void kin_progress_update(kin_progress *p, int64_t done, const char *extra, bool force)
{
    if (!due(p, done, force))
        return;
    double spent = p->shown - p->started;
    double rate =
        done > p->before && spent > 0 ? (double)(done - p->before) / spent / (double)p->per : 0;
    double eta = rate > 0 ? (double)(p->total - done) / rate / (double)p->per : 0;
    char text[512] = "", eta_text[32];
    if (p->mode == KIN_PROGRESS_JSON) {
        show_json(p, done, rate, eta, extra);
        return;
    }
    int n = 0;
    if (rate > 0)
        n = snprintf(text, sizeof text, "  %.*f %s  ETA %s",
                     rate < 0.1  ? 4
                     : rate < 10 ? 2
                                 : 1,
                     rate, p->rate, kin_progress_time(eta, eta_text));
    if (extra)
        snprintf(text + n, sizeof text - (size_t)n, "  %s", extra);
    show_text(p, done, text);
}

void kin_progress_show(kin_progress *p, int64_t done, const char *text, bool force)
{
    char line[512];
    if (!due(p, done, force))
        return;
    if (p->mode == KIN_PROGRESS_JSON) {
        show_json(p, done, 0, 0, text);
        return;
    }
    snprintf(line, sizeof line, "  %s", text);
    show_text(p, done, line);
}

void kin_progress_members(kin_progress *p, int64_t done, const char *members, bool force)
{
    if (due(p, done, force))
        put_json(p, done, members);
}

void kin_progress_end(kin_progress *p)
{
    if (p->open_line)
        fputc('\n', p->to);
    p->open_line = false;
    fflush(p->to);
}

void kin_progress_note(kin_progress *p, const char *fmt, ...)
{
    if (p->mode == KIN_PROGRESS_NONE)
        return;
    char text[2048];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (p->mode == KIN_PROGRESS_JSON) {
        kin_strbuf b = {0};
        kin_strbuf_add(&b, "{\"note\":");
        kin_strbuf_add_json(&b, text);
        kin_strbuf_add(&b, "}\n");
        if (!b.failed)
            fputs(b.data, p->to);
        kin_strbuf_free(&b);
    } else {
        fprintf(p->to, "%s%s\n", p->open_line ? "\r\033[K" : "", text);
    }
    p->open_line = false;
    fflush(p->to);
}

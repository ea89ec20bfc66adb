/* cli/progress.h: progress on a stream (standard error): one line that is rewritten on a terminal,
 * plain lines at intervals elsewhere, or one JSON object per line. Not thread-safe. */
#ifndef KIN_CLI_PROGRESS_H
#define KIN_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

typedef enum kin_progress_mode {
    KIN_PROGRESS_NONE = 0,
    KIN_PROGRESS_LINE,  /* one line, rewritten */
    KIN_PROGRESS_PLAIN, /* whole lines, at most one in 2 s */
    KIN_PROGRESS_JSON   /* one object per line, at most one in 0.5 s */
} kin_progress_mode;

typedef struct kin_progress {
    FILE *to;
    kin_progress_mode mode;
    bool colour;
    const char *what; /* "generate"; borrowed */
    const char *unit; /* "step"; borrowed */
    int64_t total;
    /* set after kin_progress_begin where they differ from 0, 1 and "it/s" */
    int64_t before;   /* part of `done` that was there at the start; no part of the rate */
    int64_t per;      /* what is shown: done / per of total / per */
    const char *rate; /* borrowed */
    double started, shown;
    bool open_line; /* a rewritten line stands unfinished on the terminal */
} kin_progress;

/* `mode` is auto, plain, json or none; auto looks whether `to` is a terminal. Colour only there and
 * without NO_COLOR. */
void kin_progress_init(kin_progress *p, const char *mode, FILE *to);
void kin_progress_begin(kin_progress *p, const char *what, const char *unit, int64_t total);
/* done of total; extra (may be NULL) is shown behind the rate. Always shown when done == total or
 * force. */
void kin_progress_update(kin_progress *p, int64_t done, const char *extra, bool force);
/* The same where the caller knows rate and rest itself and says them in text. */
void kin_progress_show(kin_progress *p, int64_t done, const char *text, bool force);
/* In mode JSON, in the place of the above: an object with members of the caller's, e.g.
 * "\"loss\":0.5". */
void kin_progress_members(kin_progress *p, int64_t done, const char *members, bool force);
void kin_progress_end(kin_progress *p);
/* A line of its own, above the progress; nothing in mode NONE. */
void kin_progress_note(kin_progress *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Seconds on the monotonic clock. */
double kin_clock_s(void);
/* "1:05", "2:03:04". */
const char *kin_progress_time(double seconds, char buf[32]);

#endif

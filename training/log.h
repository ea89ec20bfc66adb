/* training/log.h: run/log.jsonl, one JSON object per line. What a line says is a function of the
 * run alone, but for its last member "time". Nothing is allocated after the first lines. The same
 * numbers go into the event file that TensorBoard reads, members of objects and arrays under tags
 * like "experts/1/0". */
#ifndef KIN_TRAINING_LOG_H
#define KIN_TRAINING_LOG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/status.h"
#include "base/text.h"
#include "training/events.h"

typedef struct kin_log {
    FILE *fp;
    kin_strbuf line;
    int members;
    char *path;
    kin_events events;
    char object[32]; /* the one that is open, "": none */
} kin_log;

/* Opens run/log.jsonl and the event file; lines of steps beyond `step` and an unfinished last line
 * are cut off. Fails: IO, MEM. */
kin_status kin_log_open(const char *run, int64_t step, kin_log *log, kin_error *err);
void kin_log_close(kin_log *log);

/* One line: begin, members, end. Numbers that are not finite become null. */
void kin_log_begin(kin_log *log, int64_t step);
void kin_log_number(kin_log *log, const char *key, double value);
void kin_log_open_object(kin_log *log, const char *key);
void kin_log_close_object(kin_log *log);
void kin_log_array(kin_log *log, const char *key, const double *v, int n);
/* Writes and flushes the line. Fails: IO (naming the file), MEM. */
kin_status kin_log_end(kin_log *log, kin_error *err);

#endif

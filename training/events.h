/* training/events.h: run/events.out.tfevents.kinema, the numbers of log.jsonl as TensorBoard reads
 * them: TFRecord frames (length and data, each with a masked CRC-32C) around protobuf messages
 * tensorflow.Event {wall_time = 1, step = 2, file_version = 3, summary = 5}, Summary {value = 1},
 * Value {tag = 1, simple_value = 2}. Nothing is allocated after the first events. */
#ifndef KIN_TRAINING_EVENTS_H
#define KIN_TRAINING_EVENTS_H

#include <stdint.h>
#include <stdio.h>

#include "base/status.h"
#include "base/text.h"

typedef struct kin_events {
    FILE *fp;
    char *path;
    kin_strbuf event, summary, value; /* of the event being made */
} kin_events;

/* Opens the file in folder `run`; events of steps beyond `step`, and what an earlier process left
 * unfinished, are cut off. Fails: IO, MEM. */
kin_status kin_events_open(const char *run, int64_t step, kin_events *e, kin_error *err);
void kin_events_close(kin_events *e);

/* One event: begin, numbers, end. Numbers that are not finite are left out. */
void kin_events_begin(kin_events *e, int64_t step);
void kin_events_number(kin_events *e, const char *tag, double value);
/* Writes and flushes it. Fails: IO (naming the file), MEM. */
kin_status kin_events_end(kin_events *e, kin_error *err);

/* CRC-32C as TFRecord stores it. */
uint32_t kin_events_crc(const void *data, size_t n);

#endif

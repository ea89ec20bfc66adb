/* cli/record.h: the record of a run beside its output: the settings it was started with, as a file
 * that -c takes. It is locked while the run lasts, so that no second process writes the same
 * output. */
#ifndef KIN_CLI_RECORD_H
#define KIN_CLI_RECORD_H

#include <cjson/cJSON.h>

#include "base/path.h"

typedef struct kin_record {
    int fd; /* holds the lock */
    char path[KIN_PATH_MAX];
} kin_record;

/* Opens and locks path, which appears empty if it is not there. *old: the settings in it
 * (caller's), NULL if there are none yet. Fails: KIN_ERR_IO (also if another process holds it),
 * KIN_ERR_FORMAT (no settings; the record is open all the same), KIN_ERR_MEM. Close:
 * kin_record_close, always. */
kin_status kin_record_open(kin_record *r, const char *path, cJSON **old, kin_error *err);
/* Replaces the settings in it, complete or not at all; the lock stays held. */
kin_status kin_record_write(kin_record *r, const cJSON *settings, kin_error *err);
/* Gives up the lock; a record in which nothing was ever written is removed. */
void kin_record_close(kin_record *r);

/* True if two settings differ in a key that is not in `ignored` (NULL-terminated; members of the
 * object "kinema" count as keys too); text names up to three of them with both values. */
bool kin_record_differs(const cJSON *old, const cJSON *now, const char *const *ignored, char *text,
                        size_t n);

#endif

/* cli/resume.h: what an output of many clips still lacks. A later call with the same settings goes
 * on where an earlier one ended, however that ended; one with other settings is refused. */
#ifndef KIN_CLI_RESUME_H
#define KIN_CLI_RESUME_H

#include "cli/output.h"
#include "cli/record.h"

typedef struct kin_resume {
    kin_record record;
    int64_t *missing; /* [n] numbers of the clips to make, rising; owned */
    int64_t n;
} kin_resume;

/* Locks the output o (clips of frames x height x width), compares settings with those of
 * the run that began it, and lists what is missing. Files that are there are trusted if their
 * beginning and end are right and a run with these settings wrote them; temporary files of killed
 * runs are removed. force: where the settings differ, or files are there of which no run is known,
 * starts over (their clips are removed) instead of failing. For .npz opens o->npz. Fails:
 * KIN_ERR_ARG (naming what differs), KIN_ERR_IO (also: another process is at it), KIN_ERR_FORMAT
 * (record unreadable), KIN_ERR_MEM. Close: kin_resume_close, always. */
kin_status kin_resume_open(kin_resume *r, kin_output *o, int64_t frames, int64_t height,
                           int64_t width, const cJSON *settings, bool force, kin_error *err);
void kin_resume_close(kin_resume *r);

#endif

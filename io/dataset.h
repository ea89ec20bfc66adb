/* io/dataset.h: WISA-style training records (card wisa 2.2; our simulated sets have the same form)
 * and their clips. Structure is checked here; what the annotation means belongs to physics/. */
#ifndef KIN_IO_DATASET_H
#define KIN_IO_DATASET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cjson/cJSON.h>

#include "base/status.h"
#include "io/video.h"

/* All strings and nodes belong to the dataset. */
typedef struct kin_record {
    int64_t index;        /* position in the json */
    const char *file;     /* relative to the folder of the json; cannot leave it */
    const char *video_id; /* "" when absent */
    const char *captions;
    const char *label;       /* as written, blanks kept */
    int64_t width, height;   /* 0 when absent (tolerant reading only), as the next two */
    double fps, duration;    /* 1/s, s */
    const cJSON *annotation; /* physical_annotation */
    const cJSON *json;       /* the whole record */
} kin_record;

typedef enum kin_dataset_note { KIN_DATASET_DROP, KIN_DATASET_FALLBACK } kin_dataset_note;

typedef struct kin_dataset_options {
    bool strict; /* a bad record fails the whole file; else it is dropped */
    void (*note)(void *user, kin_dataset_note kind, int64_t record,
                 const char *text); /* may be NULL */
    void *user;
} kin_dataset_options;

typedef struct kin_dataset {
    kin_record *records;
    int64_t count; /* good records */
    int64_t total; /* records in the json */
    int64_t dropped, fallbacks;
    struct kin_dataset_source *source;
} kin_dataset;

/* path: the json, a folder holding wisa.json, or a tar of such a folder. Byte order mark and
 * several concatenated arrays are taken. A record needs file, captions, physical_annotation with
 * phys_law, n0..n2, q0..q4 (strings) and quantify_n0 (pairs), _n1, _n2 (a pair), label, width,
 * height, fps, duration. Tolerant reading drops a record whose file, captions or annotation object
 * is missing, or that has any member of a wrong type, and notes every other missing member as a
 * fallback. Fails: KIN_ERR_IO; KIN_ERR_FORMAT (names file, record and key; also when no record is
 * left); KIN_ERR_MEM. */
kin_status kin_dataset_open(const char *path, const kin_dataset_options *options, kin_dataset **out,
                            kin_error *err);
void kin_dataset_close(kin_dataset **ds);

/* What the bytes of record i's file are told apart by: its size and 64 KiB at either end. Fails:
 * KIN_ERR_IO. */
kin_status kin_dataset_clip_key(const kin_dataset *ds, int64_t i, uint64_t *key, kin_error *err);

/* Why WISA's training leaves record i out (shorter than 3 s; on_the_fly, where nothing was encoded
 * before: also longer than 10 s, a width outside 720 to 3000, more than one box of text), or NULL.
 * What a record does not say leaves it in. */
const char *kin_dataset_left_out(const kin_dataset *ds, int64_t i, bool on_the_fly);

/* Reads record i's clip, num_frames of it (0: all) as kin_video_select says. A clip that is gone or
 * damaged is an error that names it. Thread-safe for different clips. Free: kin_clip_free. */
kin_status kin_dataset_read_clip(const kin_dataset *ds, int64_t i, int64_t num_frames,
                                 kin_clip *out, kin_error *err);

#endif

#include "io/dataset.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/path.h"
#include "io/blob.h"
#include "io/image.h"
#include "io/tar.h"

enum { MAX_JSON_BYTES = 1000000000, END_BYTES = 65536 };

/* of the frames kept of one clip: 81 of 1920x1080, which a smaller size is made from, fit */
static const size_t MAX_CLIP = (size_t)1 << 30;

struct kin_dataset_source {
    cJSON *json;
    kin_tar *tar;              /* NULL: a folder */
    char path[KIN_PATH_MAX];   /* as given */
    char folder[KIN_PATH_MAX]; /* of the json; inside the tar with a slash behind it, or "" */
};

/* One record under check: the first fault ends it, the missing members are collected. */
typedef struct reading {
    const cJSON *json;
    char fault[512];
    char missing[512];
} reading;

static bool fault(reading *r, const char *key, const char *rule)
{
    if (!r->fault[0])
        snprintf(r->fault, sizeof r->fault, "\"%s\" %s", key, rule);
    return false;
}

/* The member of `obj`, or NULL; a missing one is noted, a required one is a fault. */
static const cJSON *member(reading *r, const cJSON *obj, const char *key, bool required)
{
    const cJSON *m = cJSON_GetObjectItemCaseSensitive(obj, key);
    if (m)
        return m;
    if (required) {
        fault(r, key, "is missing");
    } else {
        size_t n = strlen(r->missing);
        snprintf(r->missing + n, sizeof r->missing - n, "%s%s", n ? ", " : "", key);
    }
    return NULL;
}

static const char *text(reading *r, const cJSON *obj, const char *key, bool required)
{
    const cJSON *m = member(r, obj, key, required);
    if (m && !cJSON_IsString(m))
        fault(r, key, "must be a string");
    return cJSON_IsString(m) ? m->valuestring : "";
}

/* A number in (0, hi], whole if asked; 0 when missing. */
static double number(reading *r, const char *key, double hi, bool whole)
{
    const cJSON *m = member(r, r->json, key, false);
    if (!m)
        return 0;
    double v = cJSON_IsNumber(m) ? m->valuedouble : -1;
    if (!(v > 0 && v <= hi) || (whole && v != floor(v))) {
        char rule[80];
        snprintf(rule, sizeof rule, "must be %s in (0, %g]", whole ? "an integer" : "a number", hi);
        fault(r, key, rule);
        return 0;
    }
    return v;
}

static bool is_pair(const cJSON *m)
{
    return cJSON_IsArray(m) && cJSON_GetArraySize(m) == 2 && cJSON_IsNumber(m->child) &&
           cJSON_IsNumber(m->child->next);
}

/* physical_annotation: texts and quantities by type; what they mean is read in physics/. */
static void check_annotation(reading *r, const cJSON *a)
{
    static const char *const texts[] = {"phys_law", "n0", "n1", "n2", "q0", "q1", "q2", "q3", "q4"};
    static const char *const pairs[] = {"quantify_n1", "quantify_n2"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        text(r, a, texts[i], false);
    const cJSON *list = member(r, a, "quantify_n0", false);
    if (list && !cJSON_IsArray(list))
        fault(r, "quantify_n0", "must be a list of [lo, hi]");
    for (const cJSON *m = list ? list->child : NULL; m; m = m->next)
        if (!is_pair(m))
            fault(r, "quantify_n0", "must be a list of [lo, hi]");
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        const cJSON *m = member(r, a, pairs[i], false);
        if (m && !is_pair(m))
            fault(r, pairs[i], "must be [lo, hi]");
    }
}

static void check_scores(reading *r)
{
    static const char *const scores[] = {"motion_score", "motion_score_v2", "visual_quality_score",
                                         "text_bbox_num", "text_bbox_ratio"};
    for (size_t i = 0; i < sizeof scores / sizeof *scores; i++) {
        const cJSON *m = cJSON_GetObjectItemCaseSensitive(r->json, scores[i]);
        if (m && !cJSON_IsNumber(m) && !cJSON_IsNull(m))
            fault(r, scores[i], "must be a number");
    }
}

/* Fills *out; r->fault and r->missing say what was wrong. */
static void read_record(reading *r, kin_record *out)
{
    if (!cJSON_IsObject(r->json)) {
        snprintf(r->fault, sizeof r->fault, "must be an object");
        return;
    }
    out->json = r->json;
    out->file = text(r, r->json, "file", true);
    out->captions = text(r, r->json, "captions", true);
    if (!r->fault[0] && !kin_path_is_inside(out->file))
        fault(r, "file", "must be a relative path inside the folder");
    const cJSON *id = cJSON_GetObjectItemCaseSensitive(r->json, "video_id");
    if (id && !cJSON_IsString(id))
        fault(r, "video_id", "must be a string");
    out->video_id = cJSON_IsString(id) ? id->valuestring : "";
    out->label = text(r, r->json, "label", false);
    out->width = (int64_t)number(r, "width", KIN_IMAGE_MAX_SIDE, true);
    out->height = (int64_t)number(r, "height", KIN_IMAGE_MAX_SIDE, true);
    out->fps = number(r, "fps", 1000, false);
    out->duration = number(r, "duration", 1e6, false);
    check_scores(r);
    out->annotation = member(r, r->json, "physical_annotation", true);
    if (out->annotation && !cJSON_IsObject(out->annotation))
        fault(r, "physical_annotation", "must be an object");
    else if (out->annotation)
        check_annotation(r, out->annotation);
}

static void note(const kin_dataset_options *o, kin_dataset_note kind, int64_t record,
                 const char *message)
{
    if (o->note)
        o->note(o->user, kind, record, message);
}

static kin_status read_records(kin_dataset *ds, const kin_dataset_options *o, kin_error *err)
{
    const cJSON *json = ds->source->json;
    if (!cJSON_IsArray(json))
        return kin_fail(err, KIN_ERR_FORMAT, "must be an array of records");
    ds->total = cJSON_GetArraySize(json);
    ds->records = kin_calloc((size_t)ds->total, sizeof *ds->records);
    if (!ds->records)
        return kin_fail(err, KIN_ERR_MEM, "no memory for %lld records", (long long)ds->total);
    int64_t index = 0;
    for (const cJSON *m = json->child; m; m = m->next, index++) {
        reading r = {.json = m};
        kin_record *out = &ds->records[ds->count];
        *out = (kin_record){.index = index};
        read_record(&r, out);
        if (!r.fault[0] && o->strict && r.missing[0])
            snprintf(r.fault, sizeof r.fault, "%.400s missing", r.missing);
        if (r.fault[0] && o->strict)
            return kin_fail(err, KIN_ERR_FORMAT, "record %lld: %s", (long long)index, r.fault);
        if (r.fault[0]) {
            ds->dropped++;
            note(o, KIN_DATASET_DROP, index, r.fault);
            continue;
        }
        if (r.missing[0]) {
            char message[600];
            snprintf(message, sizeof message, "missing: %s", r.missing);
            ds->fallbacks++;
            note(o, KIN_DATASET_FALLBACK, index, message);
        }
        ds->count++;
    }
    if (ds->count == 0)
        return kin_fail(err, KIN_ERR_FORMAT, "holds no usable record");
    return KIN_OK;
}

/* wisa.json with the shortest path in the tar; its folder goes to source->folder. */
static const kin_tar_entry *find_json(struct kin_dataset_source *s)
{
    const kin_tar_entry *best = NULL;
    for (int64_t i = 0; i < kin_tar_count(s->tar); i++) {
        const kin_tar_entry *e = kin_tar_at(s->tar, i);
        if (strcmp(kin_path_base(e->name), "wisa.json") == 0 &&
            (!best || strlen(e->name) < strlen(best->name)))
            best = e;
    }
    if (best)
        snprintf(s->folder, sizeof s->folder, "%.*s", (int)(kin_path_base(best->name) - best->name),
                 best->name);
    return best;
}

static kin_status load_json(struct kin_dataset_source *s, kin_error *err)
{
    const unsigned flags = KIN_JSON_ALLOW_BOM | KIN_JSON_CONCATENATED;
    char path[KIN_PATH_MAX];
    if (strcmp(kin_path_ext(s->path), "tar") == 0) {
        KIN_TRY(kin_tar_open(s->path, &s->tar, err));
        const kin_tar_entry *e = find_json(s);
        if (!e)
            return kin_fail(err, KIN_ERR_FORMAT, "%s: holds no wisa.json", s->path);
        kin_status status = kin_json_parse((const char *)e->data, e->bytes, flags, &s->json, err);
        if (status != KIN_OK)
            kin_fail_prefix(err, "%s: %s", s->path, e->name);
        return status;
    }
    if (kin_path_is_dir(s->path)) {
        strcpy(s->folder, s->path);
        KIN_TRY(kin_path_join(path, s->path, "wisa.json", err));
        return kin_json_read(path, MAX_JSON_BYTES, flags, &s->json, err);
    }
    KIN_TRY(kin_path_dir(s->folder, s->path, err));
    return kin_json_read(s->path, MAX_JSON_BYTES, flags, &s->json, err);
}

kin_status kin_dataset_open(const char *path, const kin_dataset_options *options, kin_dataset **out,
                            kin_error *err)
{
    kin_status status;
    const kin_dataset_options none = {0};
    *out = NULL;
    if (strlen(path) >= KIN_PATH_MAX)
        return kin_fail(err, KIN_ERR_ARG, "dataset: path is too long");
    kin_dataset *ds = kin_calloc(1, sizeof *ds);
    if (ds)
        ds->source = kin_calloc(1, sizeof *ds->source);
    if (!ds || !ds->source) {
        status = kin_fail(err, KIN_ERR_MEM, "dataset: %s: no memory", path);
        goto done;
    }
    strcpy(ds->source->path, path);
    KIN_GOTO(load_json(ds->source, err));
    status = read_records(ds, options ? options : &none, err);
    if (status != KIN_OK)
        kin_fail_prefix(err, "dataset: %s", path);
done:
    if (status != KIN_OK)
        kin_dataset_close(&ds);
    *out = ds;
    return status;
}

void kin_dataset_close(kin_dataset **dataset)
{
    kin_dataset *ds = *dataset;
    if (!ds)
        return;
    if (ds->source) {
        cJSON_Delete(ds->source->json);
        kin_tar_close(&ds->source->tar);
        kin_free(ds->source);
    }
    kin_free(ds->records);
    kin_free(ds);
    *dataset = NULL;
}

/* Where record i's file is: a path, or (entry) a member of the tar. */
static kin_status locate(const kin_dataset *ds, int64_t i, char path[KIN_PATH_MAX],
                         const kin_tar_entry **entry, kin_error *err)
{
    const struct kin_dataset_source *s = ds->source;
    *entry = NULL;
    if (i < 0 || i >= ds->count)
        return kin_fail(err, KIN_ERR_ARG, "dataset: record %lld must be 0 to %lld", (long long)i,
                        (long long)ds->count - 1);
    const char *file = ds->records[i].file;
    if (!s->tar)
        return kin_path_join(path, s->folder, file, err);
    while (file[0] == '.' && file[1] == '/')
        file += 2;
    if (snprintf(path, KIN_PATH_MAX, "%s%s", s->folder, file) >= KIN_PATH_MAX)
        return kin_fail(err, KIN_ERR_ARG, "dataset: path is too long");
    *entry = kin_tar_find(s->tar, path);
    return *entry ? KIN_OK
                  : kin_fail(err, KIN_ERR_IO, "dataset: %s: %s: no such member", s->path, path);
}

static uint64_t hash_ends(const uint8_t *data, size_t bytes)
{
    const uint64_t size = bytes;
    const size_t end = bytes > 2 * END_BYTES ? END_BYTES : bytes;
    uint64_t h = kin_fnv1a(KIN_FNV1A_START, &size, sizeof size);
    h = kin_fnv1a(h, data, end);
    if (end < bytes)
        h = kin_fnv1a(h, data + bytes - END_BYTES, END_BYTES);
    return h;
}

kin_status kin_dataset_clip_key(const kin_dataset *ds, int64_t i, uint64_t *key, kin_error *err)
{
    char path[KIN_PATH_MAX];
    const kin_tar_entry *entry;
    kin_blob blob;
    KIN_TRY(locate(ds, i, path, &entry, err));
    if (entry) {
        *key = hash_ends(entry->data, entry->bytes);
        return KIN_OK;
    }
    KIN_TRY(kin_blob_open(path, &blob, err));
    *key = hash_ends(blob.data, blob.bytes);
    kin_blob_close(&blob);
    return KIN_OK;
}

const char *kin_dataset_left_out(const kin_dataset *ds, int64_t i, bool on_the_fly)
{
    const kin_record *r = &ds->records[i];
    const cJSON *boxes = cJSON_GetObjectItemCaseSensitive(r->json, "text_bbox_num");
    if (r->duration > 0 && r->duration < 3)
        return "shorter than 3 s";
    if (!on_the_fly)
        return NULL;
    if (r->duration > 10)
        return "longer than 10 s";
    if (r->width > 0 && (r->width < 720 || r->width > 3000))
        return "width outside 720 to 3000";
    return cJSON_IsNumber(boxes) && boxes->valuedouble > 1 ? "more than one box of text" : NULL;
}

kin_status kin_dataset_read_clip(const kin_dataset *ds, int64_t i, int64_t num_frames,
                                 kin_clip *out, kin_error *err)
{
    char path[KIN_PATH_MAX], where[2 * KIN_PATH_MAX + 8];
    const kin_video_select select = {.num_frames = num_frames, .max_bytes = MAX_CLIP};
    const kin_tar_entry *entry;
    *out = (kin_clip){0};
    KIN_TRY(locate(ds, i, path, &entry, err));
    if (!entry)
        return kin_video_read(path, &select, out, err);
    snprintf(where, sizeof where, "%s: %s", ds->source->path, path);
    return kin_video_decode(entry->data, entry->bytes, where, &select, out, err);
}

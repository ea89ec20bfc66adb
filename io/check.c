#include "io/check.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/json.h"
#include "base/path.h"
#include "io/blob.h"
#include "io/dataset.h"
#include "io/image.h"
#include "io/pth.h"
#include "io/safetensors.h"
#include "io/tar.h"
#include "io/video.h"

typedef enum format {
    FORMAT_UNKNOWN,
    FORMAT_PNG,
    FORMAT_JPEG,
    FORMAT_VIDEO,
    FORMAT_TAR,
    FORMAT_PTH,
    FORMAT_SAFETENSORS,
    FORMAT_JSON
} format;

static format by_content(const uint8_t *p, size_t n)
{
    if (n >= 4 && memcmp(p, "\x89PNG", 4) == 0)
        return FORMAT_PNG;
    if (n >= 3 && memcmp(p, "\xFF\xD8\xFF", 3) == 0)
        return FORMAT_JPEG;
    if (n >= 8 && (memcmp(p + 4, "ftyp", 4) == 0 || memcmp(p + 4, "moov", 4) == 0))
        return FORMAT_VIDEO;
    if (n >= 12 && (memcmp(p, "\x1A\x45\xDF\xA3", 4) == 0 || memcmp(p + 8, "AVI ", 4) == 0))
        return FORMAT_VIDEO;
    if (kin_pth_detect(p, n))
        return FORMAT_PTH;
    if (kin_tar_detect(p, n))
        return FORMAT_TAR;
    if (n >= 9 && p[8] == '{' && p[5] == 0 && p[6] == 0 && p[7] == 0)
        return FORMAT_SAFETENSORS;
    return FORMAT_UNKNOWN;
}

static format by_extension(const char *name)
{
    static const struct {
        const char *ext;
        format format;
    } table[] = {
        {"png", FORMAT_PNG},    {"jpg", FORMAT_JPEG},
        {"jpeg", FORMAT_JPEG},  {"mp4", FORMAT_VIDEO},
        {"mov", FORMAT_VIDEO},  {"mkv", FORMAT_VIDEO},
        {"webm", FORMAT_VIDEO}, {"avi", FORMAT_VIDEO},
        {"tar", FORMAT_TAR},    {"pth", FORMAT_PTH},
        {"pt", FORMAT_PTH},     {"ckpt", FORMAT_PTH},
        {"json", FORMAT_JSON},  {"safetensors", FORMAT_SAFETENSORS},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strcasecmp(kin_path_ext(name), table[i].ext) == 0)
            return table[i].format;
    return FORMAT_UNKNOWN;
}

static format detect(const char *name, const uint8_t *p, size_t n)
{
    format f = by_content(p, n);
    return f != FORMAT_UNKNOWN ? f : by_extension(name);
}

static kin_status check_image(const uint8_t *p, size_t n, const char *where, kin_strbuf *report,
                              kin_error *err)
{
    kin_image image;
    KIN_TRY(kin_image_decode(p, n, where, &image, err));
    if (report)
        kin_strbuf_addf(report, "%s picture, %" PRId64 " x %" PRId64 " pixels\n",
                        p[0] == 0x89 ? "PNG" : "JPEG", image.width, image.height);
    kin_image_free(&image);
    return KIN_OK;
}

static void report_video(kin_strbuf *b, const kin_video_info *i, int64_t frames, double first,
                         double last)
{
    kin_strbuf_addf(b, "video, %" PRId64 " frames of %" PRId64 " x %" PRId64 " pixels", frames,
                    i->width, i->height);
    if (i->rotation != 0)
        kin_strbuf_addf(b, " (stored %" PRId64 " x %" PRId64 ", rotation %d)", i->coded_width,
                        i->coded_height, i->rotation);
    kin_strbuf_addf(b, ", %s, %.6g frames per second, times %.4f to %.4f s\n", i->pixel_format,
                    i->fps, first, last);
}

static kin_status check_video(const uint8_t *p, size_t n, const char *where, kin_strbuf *report,
                              kin_error *err)
{
    kin_video_reader *r;
    const uint8_t *rgb;
    double pts = 0, first = 0, last = 0;
    int64_t frames = 0;
    kin_status status;
    KIN_TRY(kin_video_reader_open(p, n, where, &r, err));
    while ((status = kin_video_reader_next(r, true, &rgb, &pts, err)) == KIN_OK && rgb) {
        last = pts;
        if (frames++ == 0)
            first = pts;
    }
    int64_t promised = kin_video_reader_info(r)->samples;
    if (status == KIN_OK && (frames == 0 || frames < promised))
        status = kin_fail(err, KIN_ERR_FORMAT,
                          "video: %s: holds %" PRId64 " frames, its index says %" PRId64, where,
                          frames, promised);
    if (status == KIN_OK && report)
        report_video(report, kin_video_reader_info(r), frames, first, last);
    kin_video_reader_close(&r);
    return status;
}

/* Number of NaN and infinite values. */
static int64_t count_not_finite(const kin_tensor *t)
{
    int64_t n = kin_tensor_numel(t), bad = 0;
    if (t->dtype != KIN_DTYPE_F32 && t->dtype != KIN_DTYPE_F64 && t->dtype != KIN_DTYPE_BF16 &&
        t->dtype != KIN_DTYPE_F16)
        return 0;
    for (int64_t i = 0; i < n; i++)
        switch (t->dtype) {
        case KIN_DTYPE_F32: bad += !isfinite(((const float *)t->data)[i]); break;
        case KIN_DTYPE_F64: bad += !isfinite(((const double *)t->data)[i]); break;
        case KIN_DTYPE_BF16: bad += (((const uint16_t *)t->data)[i] & 0x7F80) == 0x7F80; break;
        default: bad += (((const uint16_t *)t->data)[i] & 0x7C00) == 0x7C00;
        }
    return bad;
}

static void report_tensors(const kin_safetensors *st, kin_strbuf *b)
{
    const char *value;
    int64_t n = kin_safetensors_count(st);
    kin_strbuf_addf(b, "safetensors, %" PRId64 " tensors\n", n);
    for (int64_t i = 0; i < kin_safetensors_metadata_count(st); i++) {
        kin_strbuf_add(b, "  metadata ");
        kin_strbuf_add_json(b, kin_safetensors_metadata_at(st, i, &value));
        kin_strbuf_add(b, ": ");
        kin_strbuf_add_json(b, value);
        kin_strbuf_add(b, "\n");
    }
    for (int64_t i = 0; i < n; i++) {
        const kin_safetensors_entry *e = kin_safetensors_at(st, i);
        kin_tensor t;
        kin_strbuf_add(b, "  ");
        kin_strbuf_add_json(b, e->name);
        kin_strbuf_addf(b, " %s [", e->dtype);
        for (int d = 0; d < e->ndim; d++)
            kin_strbuf_addf(b, "%s%" PRId64, d ? ", " : "", e->size[d]);
        kin_strbuf_add(b, "]");
        int64_t bad = kin_safetensors_tensor(st, i, &t, NULL) == KIN_OK ? count_not_finite(&t) : 0;
        if (bad > 0)
            kin_strbuf_addf(b, ", %" PRId64 " values not finite", bad);
        kin_strbuf_add(b, "\n");
    }
}

static kin_status check_safetensors(const char *path, kin_strbuf *report, kin_error *err)
{
    kin_safetensors *st;
    KIN_TRY(kin_safetensors_open(path, &st, err));
    report_tensors(st, report);
    kin_safetensors_close(&st);
    return KIN_OK;
}

/* An index file: its shards are read too. */
static kin_status check_index(const char *path, kin_strbuf *report, kin_error *err)
{
    char dir[KIN_PATH_MAX], name[KIN_PATH_MAX];
    kin_safetensors *st;
    KIN_TRY(kin_path_dir(dir, path, err));
    snprintf(name, sizeof name, "%s", kin_path_base(path));
    name[strlen(name) - strlen(".index.json")] = 0;
    KIN_TRY(kin_safetensors_open_dir(dir, name, &st, err));
    report_tensors(st, report);
    kin_safetensors_close(&st);
    return KIN_OK;
}

/* NaN and infinite values, read piece by piece; each page is given back. */
static int64_t count_not_finite_pth(const kin_pth *pth, int64_t i)
{
    double piece[4096];
    const kin_item item = kin_pth_item(pth, i, "", KIN_DTYPE_F64);
    const int64_t n = kin_item_numel(&item);
    int64_t bad = 0;
    for (int64_t at = 0; at < n; at += 4096) {
        const int64_t m = n - at < 4096 ? n - at : 4096;
        item.read(item.user, at, m, KIN_DTYPE_F64, piece);
        for (int64_t k = 0; k < m; k++)
            bad += !isfinite(piece[k]);
    }
    return bad;
}

static void report_pth(const kin_pth *pth, kin_strbuf *b)
{
    const int64_t n = kin_pth_count(pth);
    double step;
    kin_strbuf_addf(b, "torch.save file, %s, %" PRId64 " tensors, %" PRId64 " numbers\n",
                    kin_pth_is_legacy(pth) ? "older stream" : "zip form", n,
                    kin_pth_number_count(pth));
    if (kin_pth_number(pth, "step", &step))
        kin_strbuf_addf(b, "  step %.0f\n", step);
    for (int64_t i = 0; i < n; i++) {
        const kin_pth_entry *e = kin_pth_at(pth, i);
        kin_strbuf_add(b, "  ");
        kin_strbuf_add_json(b, e->name);
        kin_strbuf_addf(b, " %s [", e->storage);
        for (int d = 0; d < e->ndim; d++)
            kin_strbuf_addf(b, "%s%" PRId64, d ? ", " : "", e->size[d]);
        kin_strbuf_addf(b, "]%s", e->contiguous ? "" : ", strided");
        const int64_t bad = count_not_finite_pth(pth, i);
        if (bad > 0)
            kin_strbuf_addf(b, ", %" PRId64 " values not finite", bad);
        kin_strbuf_add(b, "\n");
    }
}

static kin_status check_pth(const char *path, kin_strbuf *report, kin_error *err)
{
    kin_pth *pth;
    KIN_TRY(kin_pth_open(path, &pth, err));
    kin_status status = kin_pth_verify(pth, err);
    if (status == KIN_OK)
        report_pth(pth, report);
    else
        kin_fail_prefix(err, "pth: %s", path);
    kin_pth_close(&pth);
    return status;
}

static kin_status check_dataset(const char *path, kin_strbuf *report, kin_error *err)
{
    const kin_dataset_options strict = {.strict = true};
    kin_dataset *ds;
    KIN_TRY(kin_dataset_open(path, &strict, &ds, err));
    kin_strbuf_addf(report, "WISA training records, %" PRId64 "\n", ds->count);
    kin_dataset_close(&ds);
    return KIN_OK;
}

static bool has(const cJSON *obj, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(obj, key) != NULL;
}

/* Flat records for inference: texts only, without a clip. */
static bool is_inference_list(const cJSON *list)
{
    if (!cJSON_IsArray(list) || !list->child)
        return false;
    for (const cJSON *m = list->child; m; m = m->next)
        if (!cJSON_IsObject(m) || has(m, "file") || has(m, "captions") ||
            has(m, "physical_annotation") || !has(m, "phys_law"))
            return false;
    return true;
}

/* A record outside an array, or an array of records under some key. */
static bool hides_records(const cJSON *obj)
{
    if (has(obj, "physical_annotation"))
        return true;
    for (const cJSON *m = obj->child; m; m = m->next)
        if (cJSON_IsArray(m) && m->child && has(m->child, "physical_annotation"))
            return true;
    return false;
}

static kin_status check_json(const char *path, const kin_blob *blob, kin_strbuf *report,
                             kin_error *err)
{
    static const char suffix[] = ".safetensors.index.json";
    const unsigned flags = KIN_JSON_ALLOW_BOM | KIN_JSON_CONCATENATED | KIN_JSON_ALLOW_INFINITY;
    size_t n = strlen(path);
    cJSON *json;
    if (n > sizeof suffix && strcmp(path + n - (sizeof suffix - 1), suffix) == 0)
        return check_index(path, report, err);
    kin_status status = kin_json_parse((const char *)blob->data, blob->bytes, flags, &json, err);
    if (status != KIN_OK)
        return kin_fail_prefix(err, "%s", path);
    if (is_inference_list(json))
        kin_strbuf_addf(report, "physical annotations for inference, %d\n",
                        cJSON_GetArraySize(json));
    else if (cJSON_IsArray(json))
        status = check_dataset(path, report, err);
    else if (hides_records(json))
        status = kin_fail(err, KIN_ERR_FORMAT, "%s: training records must stand in an array", path);
    else
        kin_strbuf_addf(report, "JSON %s, %d members\n", cJSON_IsObject(json) ? "object" : "value",
                        cJSON_GetArraySize(json));
    cJSON_Delete(json);
    return status;
}

static kin_status check_tar(const char *path, kin_strbuf *report, kin_error *err)
{
    kin_tar *tar;
    kin_status status = KIN_OK;
    int64_t images = 0, videos = 0, total;
    bool dataset = false;
    KIN_TRY(kin_tar_open(path, &tar, err));
    total = kin_tar_count(tar);
    for (int64_t i = 0; i < total && status == KIN_OK; i++) {
        char where[2 * KIN_PATH_MAX];
        const kin_tar_entry *e = kin_tar_at(tar, i);
        format f = detect(e->name, e->data, e->bytes);
        snprintf(where, sizeof where, "%s: %s", path, e->name);
        if (f == FORMAT_PNG || f == FORMAT_JPEG) {
            status = check_image(e->data, e->bytes, where, NULL, err);
            images++;
        } else if (f == FORMAT_VIDEO) {
            status = check_video(e->data, e->bytes, where, NULL, err);
            videos++;
        } else if (strcmp(kin_path_base(e->name), "wisa.json") == 0) {
            dataset = true;
        }
    }
    kin_tar_close(&tar);
    if (status != KIN_OK)
        return status;
    kin_strbuf_addf(report,
                    "tar, %" PRId64 " files: %" PRId64 " pictures, %" PRId64 " videos, %" PRId64
                    " others\n",
                    total, images, videos, total - images - videos);
    return dataset && strcasecmp(kin_path_ext(path), "tar") == 0 ? check_dataset(path, report, err)
                                                                 : KIN_OK;
}

static kin_status check_blob(const char *path, const kin_blob *blob, kin_strbuf *report,
                             kin_error *err)
{
    switch (detect(path, blob->data, blob->bytes)) {
    case FORMAT_PNG:
    case FORMAT_JPEG: return check_image(blob->data, blob->bytes, path, report, err);
    case FORMAT_VIDEO: return check_video(blob->data, blob->bytes, path, report, err);
    case FORMAT_TAR: return check_tar(path, report, err);
    case FORMAT_SAFETENSORS: return check_safetensors(path, report, err);
    case FORMAT_JSON: return check_json(path, blob, report, err);
    case FORMAT_PTH: return check_pth(path, report, err);
    case FORMAT_UNKNOWN: break;
    }
    return kin_fail(err, KIN_ERR_FORMAT, "check: %s: is of no known format", path);
}

kin_status kin_check_file(const char *path, kin_strbuf *report, kin_error *err)
{
    kin_blob blob;
    KIN_TRY(kin_blob_open(path, &blob, err));
    kin_status status = check_blob(path, &blob, report, err);
    kin_blob_close(&blob);
    if (status == KIN_OK && report->failed)
        status = kin_fail(err, KIN_ERR_MEM, "check: %s: no memory for the report", path);
    return status;
}

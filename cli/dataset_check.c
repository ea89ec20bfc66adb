/* cli/dataset_check.c: `kinema dataset check`: reads a data set to its end, clips and pictures
 * included, and prints every fallback, alias and drop with its record, then a summary. With
 * --strict the first of them is an error. */
#include <stdio.h>
#include <string.h>

#include "cli/common.h"
#include "cli/signals.h"
#include "io/class_folder.h"
#include "io/dataset.h"
#include "io/tar.h"
#include "io/blob.h"
#include "physics/annotation.h"

typedef struct checker {
    kin_progress progress;
    int64_t fallbacks, aliases, drops;
    int64_t record; /* the one being read, for annotation notes */
    const char *file;
    int64_t categories[KIN_PHYS_CATEGORIES];
} checker;

static void print_note(checker *c, const char *kind, int64_t record, const char *file,
                       const char *field, const char *text)
{
    kin_progress_end(&c->progress);
    printf("record %lld%s%s%s: %s: %s%s%s\n", (long long)record, file ? " (" : "", file ? file : "",
           file ? ")" : "", kind, field ? field : "", field ? ": " : "", text);
}

static void on_dataset_note(void *user, kin_dataset_note kind, int64_t record, const char *text)
{
    checker *c = user;
    *(kind == KIN_DATASET_DROP ? &c->drops : &c->fallbacks) += 1;
    print_note(c, kind == KIN_DATASET_DROP ? "drop" : "fallback", record, NULL, NULL, text);
}

static void on_annotation_note(void *user, kin_annotation_note kind, const char *field,
                               const char *text)
{
    checker *c = user;
    if (kind == KIN_NOTE_FALLBACK)
        c->fallbacks++;
    else if (kind == KIN_NOTE_ALIAS)
        c->aliases++;
    else
        c->drops++;
    print_note(c, kin_annotation_note_name(kind), c->record, c->file, field, text);
}

/* Annotation and clip of record i. A record that cannot be used is a drop, or the error itself when
 * strict. */
static kin_status check_record(checker *c, const kin_dataset *ds, int64_t i, bool strict,
                               int64_t *bad, kin_error *err)
{
    const kin_record *r = &ds->records[i];
    kin_annotation_options options = {.strict = strict, .note = on_annotation_note, .user = c};
    kin_physics_prior prior = {0};
    kin_clip clip = {0};
    c->record = r->index;
    c->file = r->file;
    kin_status status = kin_annotation_read(r->json, &options, &prior, err);
    if (status == KIN_OK) {
        for (int k = 0; k < KIN_PHYS_CATEGORIES; k++)
            c->categories[k] += prior.prior[k] > 0;
        status = kin_dataset_read_clip(ds, i, 0, &clip, err);
    }
    if (status == KIN_OK && r->width && (clip.width != r->width || clip.height != r->height)) {
        char text[128];
        snprintf(text, sizeof text,
                 "the record says %lldx%lld, the clip has %lldx%lld; the clip counts",
                 (long long)r->width, (long long)r->height, (long long)clip.width,
                 (long long)clip.height);
        if (strict)
            status = kin_fail(err, KIN_ERR_FORMAT, "%s", text);
        else
            on_annotation_note(c, KIN_NOTE_FALLBACK, "width, height", text);
    }
    kin_physics_prior_free(&prior);
    kin_clip_free(&clip);
    if (status == KIN_OK || status == KIN_ERR_MEM)
        return status;
    if (strict) {
        err->status = KIN_ERR_FORMAT;
        return kin_fail_prefix(err, "record %lld (%s)", (long long)r->index, r->file);
    }
    c->drops++;
    ++*bad;
    print_note(c, "drop", r->index, r->file, NULL, err->text);
    return KIN_OK;
}

static void print_summary(const checker *c, const kin_dataset *ds, int64_t bad)
{
    const char *before = " ";
    printf("%lld records, %lld usable; %lld fallbacks, %lld aliases, %lld drops\n",
           (long long)ds->total, (long long)(ds->count - bad), (long long)c->fallbacks,
           (long long)c->aliases, (long long)c->drops);
    printf("phenomena:");
    for (int k = 0; k < KIN_PHYS_CATEGORIES; k++)
        if (kin_phys_is_label(k) && c->categories[k]) {
            printf("%s%s %lld", before, kin_phys_phrase(k), (long long)c->categories[k]);
            before = ", ";
        }
    printf("%s\n", before[0] == ' ' ? " none" : "");
}

static kin_status check_wisa(const kin_args *args, const char *path, kin_error *err)
{
    checker c = {0};
    bool strict = kin_args_bool(args, "strict");
    kin_dataset *ds = NULL;
    int64_t bad = 0;
    kin_cli_progress(args, &c.progress);
    kin_dataset_options options = {.strict = strict, .note = on_dataset_note, .user = &c};
    KIN_TRY(kin_dataset_open(path, &options, &ds, err));
    kin_progress_begin(&c.progress, "check", "records", ds->count);
    kin_status status = KIN_OK;
    for (int64_t i = 0; status == KIN_OK && i < ds->count; i++) {
        status = check_record(&c, ds, i, strict, &bad, err);
        if (status == KIN_OK)
            status = kin_signals_check("dataset check", err);
        kin_progress_update(&c.progress, i + 1, NULL, false);
    }
    kin_progress_end(&c.progress);
    if (status == KIN_OK && bad == ds->count)
        status = kin_fail(err, KIN_ERR_FORMAT, "dataset check: %s: no usable record is left", path);
    if (status == KIN_OK)
        print_summary(&c, ds, bad);
    kin_dataset_close(&ds);
    return status;
}

static kin_status check_images(const kin_args *args, const char *path, kin_error *err)
{
    kin_class_folder *set = NULL;
    kin_progress progress;
    int64_t bad = 0;
    kin_status status = KIN_OK;
    kin_cli_progress(args, &progress);
    KIN_TRY(kin_class_folder_open(path, NULL, &set, err));
    int64_t n = kin_class_folder_count(set);
    kin_progress_begin(&progress, "check", "images", n);
    for (int64_t i = 0; status == KIN_OK && i < n; i++) {
        kin_image image = {0};
        status = kin_class_folder_image(set, i, &image, err);
        kin_image_free(&image);
        if (status != KIN_OK && status != KIN_ERR_MEM && !kin_args_bool(args, "strict")) {
            kin_progress_end(&progress);
            printf("image %lld: drop: %s\n", (long long)i, err->text);
            bad++;
            status = KIN_OK;
        }
        if (status == KIN_OK)
            status = kin_signals_check("dataset check", err);
        kin_progress_update(&progress, i + 1, NULL, false);
    }
    kin_progress_end(&progress);
    if (status == KIN_OK)
        printf("%lld images, %lld usable, %lld classes\n", (long long)n, (long long)(n - bad),
               (long long)kin_class_folder_classes(set));
    kin_class_folder_close(&set);
    return status;
}

/* True for a folder or tar without wisa.json, where only class folders can be meant. */
static bool is_class_folder(const char *path)
{
    char index[KIN_PATH_MAX];
    kin_blob blob;
    if (kin_path_is_dir(path))
        return kin_path_join(index, path, "wisa.json", NULL) == KIN_OK && !kin_path_exists(index);
    if (kin_blob_open(path, &blob, NULL) != KIN_OK)
        return false;
    bool tar_file = kin_tar_detect(blob.data, blob.bytes), found = false;
    kin_blob_close(&blob);
    kin_tar *tar = NULL;
    if (!tar_file || kin_tar_open(path, &tar, NULL) != KIN_OK)
        return false;
    for (int64_t i = 0; i < kin_tar_count(tar) && !found; i++)
        found = strcmp(kin_path_base(kin_tar_at(tar, i)->name), "wisa.json") == 0;
    kin_tar_close(&tar);
    return !found;
}

kin_status kin_cmd_check(const kin_args *args, kin_error *err)
{
    const char *path = args->positional;
    if (!path)
        return kin_fail(
            err, KIN_ERR_ARG,
            "dataset check: needs the data set (wisa.json, its folder, or a tar of it)");
    KIN_TRY(kin_cli_need_input("data set", path, err));
    return is_class_folder(path) ? check_images(args, path, err) : check_wisa(args, path, err);
}

#include "io/dataset.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/path.h"
#include "base/text.h"
#include "io/check.h"
#include "tests/support/folder.h"
#include "tests/support/support.h"

static const char annotation[] =
    "{\"phys_law\":\"l\",\"n0\":\"\",\"n1\":\"\",\"n2\":\"\",\"q0\":\"\",\"q1\":\"\",\"q2\":\"\","
    "\"q3\":\"\",\"q4\":\"\","
    "\"quantify_n0\":[[1,2]],\"quantify_n1\":[0,5],\"quantify_n2\":[20,25]}";

/* A record with `change` put behind its members, `file` as the clip and `annot` as the annotation.
 */
static void record(kin_strbuf *b, const char *file, const char *annot, const char *change)
{
    kin_strbuf_addf(
        b,
        "{\"file\":\"%s\",\"captions\":\"c\",\"width\":8,\"height\":8,\"fps\":4,\"duration\":1,"
        "\"label\":\"Collision \"%s%s,\"physical_annotation\":%s}",
        file, *change ? "," : "", change, annot);
}

typedef struct seen {
    int drops, fallbacks;
    int64_t last;
    char text[300];
} seen;

static void on_note(void *user, kin_dataset_note kind, int64_t at, const char *message)
{
    seen *s = user;
    if (kind == KIN_DATASET_DROP)
        s->drops++;
    else
        s->fallbacks++;
    s->last = at;
    snprintf(s->text, sizeof s->text, "%s", message);
}

static void bad_records_fail_or_drop(void **state)
{
    (void)state;
    static const struct {
        const char *file, *annotation, *change, *names;
    } bad[] = {
        {"/etc/passwd", annotation, "", "file"},
        {"a/../../b.mp4", annotation, "", "file"},
        {"", annotation, "", "file"},
        {"v.mp4", "[]", "", "physical_annotation"},
        {"v.mp4", "null", "", "physical_annotation"},
        {"v.mp4", annotation, "\"motion_score\":\"x\"", "motion_score"},
        {"v.mp4", annotation, "\"video_id\":5", "video_id"},
        {"v.mp4", "{\"q0\":1}", "", "q0"},
        {"v.mp4", "{\"quantify_n0\":[[1]]}", "", "quantify_n0"},
        {"v.mp4", "{\"quantify_n1\":[1,2,3]}", "", "quantify_n1"},
        {"v.mp4", "{\"quantify_n2\":[1,\"2\"]}", "", "quantify_n2"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        kin_error err = {0};
        kin_strbuf b = {0};
        kin_dataset *ds;
        seen s = {0};
        kin_dataset_options o = {.note = on_note, .user = &s};
        kin_strbuf_add(&b, "[");
        record(&b, "ok.mp4", annotation, "");
        kin_strbuf_add(&b, ",");
        record(&b, bad[i].file, bad[i].annotation, bad[i].change);
        kin_strbuf_add(&b, "]");
        assert_ok(kin_file_write(kin_test_path("r.json"), b.data, b.len, &err), &err);
        assert_ok(kin_dataset_open(kin_test_path("r.json"), &o, &ds, &err), &err);
        assert_int_equal(ds->count, 1);
        assert_int_equal(ds->total, 2);
        assert_int_equal(ds->dropped, 1);
        assert_int_equal(s.drops, 1);
        assert_int_equal(s.last, 1);
        if (!strstr(s.text, bad[i].names))
            fail_msg("case %zu: %s", i, s.text);
        kin_dataset_close(&ds);
        o.strict = true;
        assert_int_equal(kin_dataset_open(kin_test_path("r.json"), &o, &ds, &err), KIN_ERR_FORMAT);
        assert_null(ds);
        assert_non_null(strstr(err.text, "r.json"));
        assert_non_null(strstr(err.text, "record 1"));
        assert_non_null(strstr(err.text, bad[i].names));
        kin_strbuf_free(&b);
    }
}

static void missing_members_are_noted(void **state)
{
    (void)state;
    static const char text[] =
        "[{\"file\":\"./v.mp4\",\"captions\":\"c\",\"physical_annotation\":{\"q0\":\"x\"}}]";
    kin_error err = {0};
    kin_dataset *ds;
    seen s = {0};
    kin_dataset_options o = {.note = on_note, .user = &s};
    assert_ok(kin_file_write(kin_test_path("m.json"), text, sizeof text - 1, &err), &err);
    assert_ok(kin_dataset_open(kin_test_path("m.json"), &o, &ds, &err), &err);
    assert_int_equal(ds->fallbacks, 1);
    assert_int_equal(s.fallbacks, 1);
    assert_non_null(strstr(s.text, "quantify_n1"));
    assert_non_null(strstr(s.text, "width"));
    assert_int_equal(ds->records[0].width, 0);
    assert_string_equal(ds->records[0].label, "");
    kin_clip clip;
    assert_int_equal(kin_dataset_read_clip(ds, 0, 0, &clip, &err), KIN_ERR_IO);
    assert_non_null(strstr(err.text, "v.mp4"));
    assert_int_equal(kin_dataset_read_clip(ds, 1, 0, &clip, &err), KIN_ERR_ARG);
    kin_dataset_close(&ds);
    o.strict = true;
    assert_int_equal(kin_dataset_open(kin_test_path("m.json"), &o, &ds, &err), KIN_ERR_FORMAT);
    assert_ok(kin_file_write(kin_test_path("e.json"), "[]", 2, &err), &err);
    assert_int_equal(kin_dataset_open(kin_test_path("e.json"), NULL, &ds, &err), KIN_ERR_FORMAT);
    assert_int_equal(kin_dataset_open(kin_test_path("none.json"), NULL, &ds, &err), KIN_ERR_IO);
}

/* The shipped example: as a json, as a folder, as a tar of the folder. */
static void wisa(void **state)
{
    (void)state;
    const char *data = kin_test_data_dir();
    kin_error err = {0};
    char paths[3][KIN_PATH_MAX], command[3 * KIN_PATH_MAX];
    if (!data)
        skip();
    kin_path_join(paths[0], data, "wisa/wisa.json", NULL);
    kin_path_join(paths[1], data, "wisa", NULL);
    kin_path_join(paths[2], kin_test_folder(), "wisa.tar", NULL);
    snprintf(command, sizeof command, "tar -C '%s' -cf '%s' wisa", data, paths[2]);
    assert_int_equal(system(command), 0);
    uint8_t first[3][64];
    for (int k = 0; k < 3; k++) {
        kin_dataset *ds;
        kin_clip clip;
        const kin_dataset_options strict = {.strict = true};
        assert_ok(kin_dataset_open(paths[k], &strict, &ds, &err), &err);
        assert_int_equal(ds->count, 6);
        const kin_record *r = &ds->records[0];
        assert_string_equal(r->file, "videos/wan_1.mp4");
        assert_string_equal(r->video_id, "wan_1");
        assert_string_equal(r->label, "Deformation ");
        assert_int_equal(r->width, 832);
        assert_true(r->fps == 30.0);
        assert_non_null(cJSON_GetObjectItem(r->annotation, "phys_law"));
        int64_t i = 1; /* the smallest file */
        assert_ok(kin_dataset_read_clip(ds, i, 4, &clip, &err), &err);
        assert_int_equal(clip.frames, 4);
        assert_int_equal(clip.width, 832);
        assert_int_equal(clip.height, 480);
        double end = ds->records[i].duration - 1 / ds->records[i].fps;
        assert_true(fabs(clip.pts[0]) < 1e-6);
        assert_true(fabs(clip.pts[3] - end) < 1e-3);
        assert_true(fabs(clip.info.fps - ds->records[i].fps) < 1e-6);
        assert_int_equal(clip.total, lround(ds->records[i].duration * ds->records[i].fps));
        memcpy(first[k], clip.rgb + 832 * 240 * 3, 64);
        kin_clip_free(&clip);
        kin_dataset_close(&ds);
    }
    assert_memory_equal(first[0], first[1], 64);
    assert_memory_equal(first[0], first[2], 64);
}

/* Each shipped file is taken by the check; the annotations for inference are told apart from
 * training records. */
static void shipped_files_pass_the_check(void **state)
{
    (void)state;
    static const struct {
        const char *file, *says;
    } files[] = {
        {"wisa/wisa.json", "records, 6"},
        {"wisa/example.json", "annotations for inference, 3"},
        {"wisa/probe.json", "JSON object"},
        {"wisa/videos/wan_2.mp4", "152 frames of 832 x 480"},
        {"wisa/videos/wisa_wan_3.mp4", "81 frames of 832 x 480"},
    };
    const char *data = kin_test_data_dir();
    if (!data)
        skip();
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char path[KIN_PATH_MAX];
        kin_error err = {0};
        kin_strbuf report = {0};
        kin_path_join(path, data, files[i].file, NULL);
        assert_ok(kin_check_file(path, &report, &err), &err);
        if (!strstr(report.data, files[i].says))
            fail_msg("%s: %s", files[i].file, report.data);
        kin_strbuf_free(&report);
    }
}

static void out_of_memory(void **state)
{
    (void)state;
    kin_error err = {0};
    kin_strbuf b = {0};
    kin_dataset *ds;
    kin_strbuf_add(&b, "[");
    record(&b, "ok.mp4", annotation, "");
    kin_strbuf_add(&b, "]");
    assert_ok(kin_file_write(kin_test_path("o.json"), b.data, b.len, &err), &err);
    kin_strbuf_free(&b);
    for (uint64_t k = 1; k < 50; k++) {
        kin_alloc_fail_at(k);
        kin_status s = kin_dataset_open(kin_test_path("o.json"), NULL, &ds, &err);
        kin_alloc_fail_at(0);
        if (s == KIN_OK) {
            kin_dataset_close(&ds);
            assert_true(k > 3);
            return;
        }
        assert_int_equal(s, KIN_ERR_MEM);
        assert_null(ds);
    }
    fail();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_records_fail_or_drop),
        cmocka_unit_test(missing_members_are_noted),
        cmocka_unit_test(wisa),
        cmocka_unit_test(shipped_files_pass_the_check),
        cmocka_unit_test(out_of_memory),
    };
    return cmocka_run_group_tests(tests, kin_test_folder_make, kin_test_folder_remove);
}

/* tests/training/test_train_data.c: order and content of the training data; sets of clips on disk.
 */
#include "tests/training/tiny.h"

#include "io/video.h"
#include "training/loader.h"

static char *dir;

static int make_dir(void **state)
{
    (void)state;
    dir = tiny_dir();
    return 0;
}

static int drop_dir(void **state)
{
    (void)state;
    tiny_remove(dir);
    return 0;
}

static void an_epoch_shows_every_clip_once(void **state)
{
    enum { N = 37 };
    int32_t order[N], other[N];
    int64_t epoch = -1, epoch2 = -1, first[N];
    bool differs = false;
    (void)state;
    for (int e = 0; e < 3; e++) {
        int seen[N] = {0};
        for (int i = 0; i < N; i++) {
            int64_t clip = kin_data_order(9, N, (uint64_t)(e * N + i), order, &epoch);
            assert_in_range(clip, 0, N - 1);
            seen[clip]++;
            if (e == 0)
                first[i] = clip;
            differs |= e > 0 && clip != first[i];
        }
        for (int i = 0; i < N; i++)
            assert_int_equal(seen[i], 1);
    }
    assert_true(differs);
    /* a function of the index alone */
    for (int i = 2 * N; i >= 0; i -= 5)
        assert_int_equal(kin_data_order(9, N, (uint64_t)i, other, &epoch2),
                         kin_data_order(9, N, (uint64_t)i, order, &epoch));
    assert_int_equal(kin_data_order(9, 0, 123456789, NULL, &epoch), 123456789);
}

/* A set of n simulated clips as files, the records as the data set command writes them. */
static void write_set(const char *folder, int n)
{
    kin_sim_options o;
    kin_error err = {0};
    char path[320], name[32];
    cJSON *all = cJSON_CreateArray();
    kin_sim_options_default(&o);
    o.width = o.height = 16;
    o.frames = 4;
    assert_ok(kin_path_make_dirs(folder, &err), &err);
    for (int i = 0; i < n; i++) {
        kin_sim_clip clip;
        cJSON *record;
        kin_video_params v = kin_video_params_default();
        assert_ok(kin_simulate_clip(&o, 1, (uint64_t)i, &clip, &err), &err);
        snprintf(name, sizeof name, "c%d.mp4", i);
        snprintf(path, sizeof path, "%s/%s", folder, name);
        v.width = v.height = 16;
        v.crf = 0;
        v.chroma_444 = true;
        const kin_tensor frames = KIN_TENSOR(clip.frames, KIN_DTYPE_U8, 4, 16, 16, 3);
        assert_ok(kin_video_write(path, &v, &frames, &err), &err);
        assert_ok(kin_sim_record_json(&clip, name, name, &record, &err), &err);
        cJSON_AddItemToArray(all, record);
        kin_sim_clip_free(&clip);
    }
    char *text = cJSON_Print(all);
    snprintf(path, sizeof path, "%s/wisa.json", folder);
    assert_ok(kin_file_write(path, text, strlen(text), &err), &err);
    cJSON_free(text);
    cJSON_Delete(all);
}

/* What comes back from files is what the simulator draws on the fly: prompts, prior, quantities
 * exactly, pixels up to the video coding. */
static void files_give_what_the_simulator_gives(void **state)
{
    enum { N = 6 };
    char folder[128], text[512];
    kin_error err = {0};
    kin_train_config cf, cs;
    kin_source *files, *sim;
    kin_batch a, b;
    cJSON *json;
    (void)state;
    snprintf(folder, sizeof folder, "%s/set", dir);
    write_set(folder, N);
    snprintf(text, sizeof text,
             "{\"transformer\":{},\"data\":{\"path\":\"%s\",\"frames\":4,\"height\":16,"
             "\"width\":16}}",
             folder);
    assert_ok(kin_json_parse(text, strlen(text), KIN_JSON_STRICT, &json, &err), &err);
    assert_ok(kin_train_config_parse(json, NULL, NULL, &cf, &err), &err);
    cJSON_Delete(json);
    snprintf(text, sizeof text,
             "{\"transformer\":{},\"data\":{\"simulate\":{\"seed\":1,\"count\":6},\"frames\":4,"
             "\"height\":16,\"width\":16}}");
    assert_ok(kin_json_parse(text, strlen(text), KIN_JSON_STRICT, &json, &err), &err);
    assert_ok(kin_train_config_parse(json, NULL, NULL, &cs, &err), &err);
    cJSON_Delete(json);
    assert_ok(kin_source_open(&cf, false, NULL, NULL, &files, &err), &err);
    assert_ok(kin_source_open(&cs, false, NULL, NULL, &sim, &err), &err);
    assert_int_equal(kin_source_count(files), N);
    const kin_sample_shape shape = kin_source_shape(files);
    assert_ok(kin_batch_alloc(&shape, N, &a, &err), &err);
    assert_ok(kin_batch_alloc(&shape, N, &b, &err), &err);
    double far = 0;
    for (int i = 0; i < N; i++) {
        kin_sample sa = kin_batch_sample(&a, i), sb = kin_batch_sample(&b, i);
        char *ta, *tb;
        assert_ok(kin_source_read(files, i, &sa, &err), &err);
        assert_ok(kin_source_read(sim, i, &sb, &err), &err);
        assert_ok(kin_source_prompt(files, i, false, &ta, &err), &err);
        assert_ok(kin_source_prompt(sim, i, false, &tb, &err), &err);
        assert_string_equal(ta, tb);
        assert_true(strlen(ta) > 10);
        kin_free(ta);
        kin_free(tb);
        for (size_t j = 0; j < kin_sample_frame_bytes(&shape); j++)
            far += fabs((double)sa.frames[j] - sb.frames[j]);
    }
    assert_memory_equal(a.prior, b.prior, N * KIN_PHYS_CATEGORIES * sizeof(float));
    assert_memory_equal(a.quant, b.quant, N * KIN_PHYS_QUANTITIES * sizeof(float));
    far /= (double)(N * kin_sample_frame_bytes(&shape));
    if (!(far < 4))
        fail_msg("pixels differ by %g of 255 on average", far);
    kin_batch_free(&a);
    kin_batch_free(&b);
    kin_source_close(&files);
    kin_source_close(&sim);
    kin_train_config_free(&cf);
    kin_train_config_free(&cs);
}

static void batches_from_the_middle_are_the_same(void **state)
{
    kin_error err = {0};
    kin_train_config c;
    cJSON *json;
    static const char text[] =
        "{\"transformer\":{},\"data\":{\"simulate\":{\"seed\":1,\"count\":7},\"frames\":4,"
        "\"height\":16,\"width\":16}}";
    uint8_t *kept[12];
    size_t bytes = 0;
    (void)state;
    assert_ok(kin_json_parse(text, sizeof text - 1, KIN_JSON_STRICT, &json, &err), &err);
    assert_ok(kin_train_config_parse(json, NULL, NULL, &c, &err), &err);
    cJSON_Delete(json);
    /* the whole way with a cache, then from batch 8 on without one */
    for (int pass = 0; pass < 2; pass++) {
        kin_source *s;
        kin_loader *l;
        const kin_batch *batch;
        const int from = pass ? 8 : 0;
        c.data.cache_mb = pass ? 0 : 64;
        assert_ok(kin_source_open(&c, false, NULL, NULL, &s, &err), &err);
        assert_ok(kin_source_reserve(s, &err), &err);
        assert_int_equal(kin_source_cache_bytes(s) > 0, pass == 0);
        assert_ok(kin_loader_start(s, 4, 3, (uint64_t)from * 3, &l, &err), &err);
        for (int i = from; i < 12; i++) {
            assert_ok(kin_loader_next(l, &batch, &err), &err);
            assert_int_equal(batch->first, (uint64_t)i * 3);
            bytes = 3 * kin_sample_frame_bytes(&batch->shape);
            if (pass == 0) {
                kept[i] = kin_malloc(bytes);
                memcpy(kept[i], batch->frames, bytes);
            } else {
                assert_memory_equal(kept[i], batch->frames, bytes);
            }
        }
        kin_loader_stop(&l);
        kin_source_close(&s);
    }
    assert_memory_not_equal(kept[8], kept[9], bytes);
    for (int i = 0; i < 12; i++)
        kin_free(kept[i]);
    kin_train_config_free(&c);
}

typedef struct vanishing {
    tiny_run run;
    const char *folder;
} vanishing;

static void take_clips_away(void *user, const kin_train_report *r)
{
    vanishing *v = user;
    char path[320];
    if (r->step != 3)
        return;
    for (int i = 0; i < 8; i++) {
        snprintf(path, sizeof path, "%s/c%d.mp4", v->folder, i);
        unlink(path);
    }
}

static void a_vanished_clip_is_named_and_the_run_kept(void **state)
{
    char folder[128], data[300], latest[KIN_PATH_MAX];
    vanishing v;
    kin_error err;
    (void)state;
    snprintf(folder, sizeof folder, "%s/set", dir);
    write_set(folder, 8);
    tiny_open(&v.run, dir, "vanish", 1);
    v.folder = folder;
    v.run.opt.report = take_clips_away;
    v.run.opt.user = &v;
    snprintf(data, sizeof data, "\"path\":\"set\",\"cache_mb\":0");
    tiny_write(v.run.config, TINY_DENSE, data, "\"lr\":0.001",
               "\"steps\":50,\"batch_size\":1,\"log_every\":1,\"tokenizer\":{\"vocab_size\":60},"
               "\"checkpoint\":{\"every\":2},");
    /* eight captions make a smaller vocabulary than the usual one: the key comes first, the later
     * one is cut */
    char *text, *twice;
    size_t n;
    assert_ok(kin_file_read(v.run.config, 1 << 20, &text, &n, &err), &err);
    twice = strstr(text, "\"tokenizer\":{\"vocab_size\":80,\"sentences\":100},");
    assert_non_null(twice);
    memset(twice, ' ', strlen("\"tokenizer\":{\"vocab_size\":80,\"sentences\":100},"));
    assert_ok(kin_file_write(v.run.config, text, n, &err), &err);
    kin_free(text);
    kin_status status = kin_train_run(v.run.ctx, &v.run.opt);
    if (status != KIN_ERR_IO || !strstr(v.run.ctx->error.text, ".mp4"))
        fail_msg("%s: %s", kin_status_name(status), v.run.ctx->error.text);
    kin_pipeline *p;
    assert_ok(kin_checkpoint_latest(v.run.run, latest, &err), &err);
    assert_ok(kin_pipeline_load(v.run.ctx, latest, &p), &v.run.ctx->error);
    kin_pipeline_destroy(&p);
    tiny_close(&v.run);
}

/* The published clips: 832x480 to 16x16, four frames of all. */
static void real_clips_are_read(void **state)
{
    const char *root = kin_test_data_dir();
    char text[1024];
    kin_error err = {0};
    kin_train_config c;
    kin_source *s;
    kin_batch b;
    cJSON *json;
    (void)state;
    if (!root) {
        print_message("KINEMA_DATA is not set\n");
        skip();
    }
    snprintf(text, sizeof text,
             "{\"transformer\":{},\"data\":{\"path\":\"%.800s/wisa\",\"frames\":4,\"height\":16,"
             "\"width\":16,\"held_out\":2,\"caption_field\":\"captions+phys_law\"}}",
             root);
    assert_ok(kin_json_parse(text, strlen(text), KIN_JSON_STRICT, &json, &err), &err);
    assert_ok(kin_train_config_parse(json, NULL, NULL, &c, &err), &err);
    cJSON_Delete(json);
    assert_ok(kin_source_open(&c, false, NULL, NULL, &s, &err), &err);
    assert_int_equal(kin_source_count(s), 4);
    assert_int_equal(kin_source_held_out(s), 2);
    const kin_sample_shape shape = kin_source_shape(s);
    assert_ok(kin_batch_alloc(&shape, 1, &b, &err), &err);
    kin_sample sample = kin_batch_sample(&b, 0);
    assert_ok(kin_source_read(s, 0, &sample, &err), &err);
    assert_true(b.prior[KIN_PHYS_COLLISION] == 1 && b.prior[KIN_PHYS_DEFORMATION] == 1);
    char *prompt;
    assert_ok(kin_source_prompt(s, 0, false, &prompt, &err), &err);
    assert_non_null(strstr(prompt, "stress and strain"));
    kin_free(prompt);
    kin_batch_free(&b);
    kin_source_close(&s);
    kin_train_config_free(&c);
}

/* Image models train on class folders; here on CIFAR-10's tar. */
static void class_folders_train_an_image_model(void **state)
{
    const char *root = kin_test_data_dir();
    tiny_run t;
    (void)state;
    if (!root) {
        print_message("KINEMA_DATA is not set\n");
        skip();
    }
    tiny_open(&t, dir, "cifar", 2);
    FILE *fp = fopen(t.config, "w");
    fprintf(fp,
            "{\"transformer\":{\"_class_name\":\"DiTTransformer2DModel\",\"input_size\":32,"
            "\"patch_size\":8,\"in_channels\":3,\"hidden_size\":32,\"depth\":2,\"num_heads\":2,"
            "\"num_classes\":10,\"learn_sigma\":true},\"steps\":3,\"batch_size\":4,"
            "\"log_every\":1,\"data\":{\"path\":\"%s/cifar10.tar\",\"split\":\"test\","
            "\"height\":32,\"width\":32,\"held_out\":20},\"validation\":{\"every\":3,\"shuffled\":"
            "true},"
            "\"samples\":{\"every\":3,\"count\":2,\"steps\":1}}",
            root);
    fclose(fp);
    assert_ok(kin_train_run(t.ctx, &t.opt), &t.ctx->error);
    assert_int_equal(t.reports, 3);
    char *log = tiny_log(&t);
    assert_non_null(strstr(log, "val_shuffled"));
    kin_free(log);
    tiny_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_epoch_shows_every_clip_once),
        cmocka_unit_test_setup_teardown(files_give_what_the_simulator_gives, make_dir, drop_dir),
        cmocka_unit_test(batches_from_the_middle_are_the_same),
        cmocka_unit_test_setup_teardown(a_vanished_clip_is_named_and_the_run_kept, make_dir,
                                        drop_dir),
        cmocka_unit_test(real_clips_are_read),
        cmocka_unit_test_setup_teardown(class_folders_train_an_image_model, make_dir, drop_dir),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The public interface as a program sees it: defaults and sizes of its structs, errors, callbacks,
 * the same bytes again, silence, runs that stop and go on. */
#include <kinema/kinema.h>

#include <fcntl.h>
#include <pthread.h>

#include "tests/training/tiny.h"

#define BUNDLED KIN_SOURCE_DIR "/models/bundled"
#define PROMPT "a red ball falls and bounces on a gray floor"

enum { STEPS = 3 };

static kin_generator *open_generator(int threads)
{
    kin_generator_options o;
    kin_generator *g;
    kin_error err = {0};
    kin_generator_options_init(&o, sizeof o);
    o.threads = threads;
    assert_ok(kin_generator_create(BUNDLED, &o, &g, &err), &err);
    return g;
}

/* What the callbacks saw. */
typedef struct seen {
    int64_t done, total, stop_at; /* stop_at: cancel when so many steps are done; 0: never */
    int results, stop_results;    /* stop_results: refuse that clip; 0: none */
    kin_result last;
    uint8_t *rgb;
    size_t bytes;
} seen;

static int on_progress(void *user, int64_t done, int64_t total)
{
    seen *s = user;
    assert_true(done > s->done && done <= total);
    s->done = done;
    s->total = total;
    return s->stop_at && done >= s->stop_at;
}

static int on_result(void *user, const kin_result *r)
{
    seen *s = user;
    s->bytes = (size_t)(r->frames * r->height * r->width * 3);
    s->last = *r;
    kin_free(s->rgb);
    s->rgb = kin_malloc(s->bytes);
    if (!s->rgb)
        return 1;
    memcpy(s->rgb, r->rgb, s->bytes);
    return ++s->results == s->stop_results;
}

static kin_request request_of(seen *s)
{
    kin_request r;
    kin_request_init(&r, sizeof r);
    r.prompt = PROMPT;
    r.steps = STEPS;
    r.progress = on_progress;
    r.result = on_result;
    r.user = s;
    return r;
}

static void test_structs(void **state)
{
    (void)state;
    kin_generator *g = open_generator(1);
    kin_generator_info info;
    kin_error err = {0};
    seen s = {0};
    kin_request r = request_of(&s);
    assert_string_equal(kin_version(), KIN_VERSION);
    assert_string_equal(kin_status_name(KIN_ERR_NUMERIC), "numeric");
    kin_generator_get_info(g, &info, sizeof info);
    assert_true(info.size == sizeof info && info.frames == 16 && info.height == 32 &&
                info.width == 32 && info.classes == 0 && info.physics);
    /* an older program knows fewer members: the rest of its memory stays */
    memset(&info, 0x55, sizeof info);
    kin_generator_get_info(g, &info, offsetof(kin_generator_info, height));
    assert_true(info.frames == 16 && info.height == 0x5555555555555555);
    /* a newer one has more */
    struct {
        kin_generator_info info;
        int64_t more;
    } newer = {.more = 7};
    kin_generator_get_info(g, &newer.info, sizeof newer);
    assert_true(newer.info.size == sizeof newer && newer.info.width == 32 && newer.more == 0);
    r.size = 0;
    assert_int_equal(kin_generator_run(g, &r, &err), KIN_ERR_ARG);
    assert_non_null(strstr(err.text, "_init"));
    r.size = sizeof r + 8;
    assert_int_equal(kin_generator_run(g, &r, &err), KIN_ERR_ARG);
    assert_non_null(strstr(err.text, "later version"));
    kin_generator_destroy(&g);
    assert_null(g);
    kin_generator_destroy(&g);
    kin_generator_destroy(NULL);
}

static void expect_refused(kin_generator *g, kin_request r, kin_status status, const char *part)
{
    kin_error err = {0};
    assert_int_equal(kin_generator_run(g, &r, NULL), status);
    assert_int_equal(kin_generator_run(g, &r, &err), status);
    assert_int_equal(err.status, status);
    if (!strstr(err.text, part))
        fail_msg("'%s' is not in '%s'", part, err.text);
}

static void test_refusals(void **state)
{
    (void)state;
    kin_generator *g = (kin_generator *)&state;
    kin_generator_options o;
    kin_error err = {0};
    seen s = {0};
    assert_int_equal(kin_generator_create("nowhere", NULL, &g, &err), KIN_ERR_IO);
    assert_true(g == NULL && strstr(err.text, "nowhere"));
    assert_int_equal(kin_generator_create(NULL, NULL, &g, NULL), KIN_ERR_ARG);
    kin_generator_options_init(&o, sizeof o);
    o.dtype = "f64";
    assert_int_equal(kin_generator_create(BUNDLED, &o, &g, &err), KIN_ERR_ARG);
    o.dtype = "f32";
    o.threads = -1;
    assert_int_equal(kin_generator_create(BUNDLED, &o, &g, &err), KIN_ERR_ARG);

    /* a limit that the activations do not keep to */
    o.threads = 1;
    o.max_memory = 1 << 16;
    kin_request small = request_of(&s);
    assert_ok(kin_generator_create(BUNDLED, &o, &g, &err), &err);
    assert_int_equal(kin_generator_run(g, &small, &err), KIN_ERR_MEM);
    kin_generator_destroy(&g);

    g = open_generator(1);
#define REFUSED(status, part, ...)          \
    do {                                    \
        kin_request r = request_of(&s);     \
        __VA_ARGS__;                        \
        expect_refused(g, r, status, part); \
    } while (0)
    REFUSED(KIN_ERR_ARG, "prompt", r.prompt = NULL);
    REFUSED(KIN_ERR_ARG, "UTF-8", r.prompt = "\xff");
    REFUSED(KIN_ERR_ARG, "receiver", r.result = NULL);
    REFUSED(KIN_ERR_ARG, "count", r.count = 0);
    REFUSED(KIN_ERR_ARG, "count", r.batch = -1);
    REFUSED(KIN_ERR_ARG, "steps", r.steps = -1);
    REFUSED(KIN_ERR_ARG, "negative", r.width = -32);
    REFUSED(KIN_ERR_ARG, "33", r.width = 33);
    REFUSED(KIN_ERR_ARG, "fps", r.fps = NAN);
    REFUSED(KIN_ERR_ARG, "cfg_scale", r.cfg_scale = INFINITY);
    REFUSED(KIN_ERR_ARG, "eulr", r.sampler = "eulr");
    REFUSED(KIN_ERR_FORMAT, "nowhere.json", r.physics = "nowhere.json");
#undef REFUSED
    assert_true(s.results == 0 && s.done == 0);
    kin_generator_destroy(&g);
}

static void test_cancel_and_again(void **state)
{
    (void)state;
    kin_generator *g = open_generator(1);
    kin_error err = {0};
    seen stopped = {.stop_at = 2}, refused = {.stop_results = 1}, a = {0}, b = {0};
    kin_request r = request_of(&stopped);
    assert_int_equal(kin_generator_run(g, &r, &err), KIN_ERR_INTERRUPTED);
    assert_true(err.signal == 0 && stopped.done == 2 && stopped.results == 0);
    r = request_of(&refused);
    r.count = 2;
    assert_int_equal(kin_generator_run(g, &r, &err), KIN_ERR_INTERRUPTED);
    assert_int_equal(refused.results, 1);
    /* what was stopped changes nothing in what comes after it */
    r = request_of(&a);
    r.count = 2;
    assert_ok(kin_generator_run(g, &r, &err), &err);
    assert_true(a.done == 2 * STEPS && a.total == 2 * STEPS && a.results == 2);
    assert_true(a.last.clip == 1 && a.last.frames == 16 && a.last.height == 32 &&
                a.last.width == 32 && a.last.fps == 8);
    r = request_of(&b);
    r.count = r.batch = 2;
    assert_ok(kin_generator_run(g, &r, &err), &err);
    assert_memory_equal(a.rgb, b.rgb, a.bytes);
    assert_true(refused.bytes == a.bytes && memcmp(a.rgb, refused.rgb, a.bytes) != 0);
    kin_generator_destroy(&g);
    kin_free(refused.rgb);
    kin_free(a.rgb);
    kin_free(b.rgb);
}

/* No allocation that fails leaves the generator unusable. */
static void test_out_of_memory(void **state)
{
    (void)state;
    kin_generator *g = open_generator(1);
    kin_error err = {0};
    seen s = {0};
    kin_request r = request_of(&s);
    r.steps = 1;
    kin_status status = KIN_ERR_MEM;
    uint64_t failed = 0;
    for (uint64_t k = 1; status != KIN_OK && k < 4000; k++) {
        s.done = 0;
        kin_alloc_fail_at(k);
        status = kin_generator_run(g, &r, &err);
        kin_alloc_fail_at(0);
        /* the receiver of this test allocates as well, and refuses the clip */
        assert_true(status == KIN_OK || status == KIN_ERR_MEM || status == KIN_ERR_INTERRUPTED);
        failed += status != KIN_OK;
    }
    assert_int_equal(status, KIN_OK);
    assert_true(failed > 5);
    kin_generator_destroy(&g);
    kin_free(s.rgb);
}

typedef struct worker {
    int threads;
    seen seen;
    kin_error err;
} worker;

static void *work(void *user)
{
    worker *w = user;
    kin_generator_options o;
    kin_generator *g = NULL;
    kin_request r = request_of(&w->seen);
    kin_generator_options_init(&o, sizeof o);
    o.threads = w->threads;
    if (kin_generator_create(BUNDLED, &o, &g, &w->err) == KIN_OK)
        kin_generator_run(g, &r, &w->err);
    kin_generator_destroy(&g);
    return NULL;
}

static void test_threads_at_once(void **state)
{
    (void)state;
    worker w[3] = {{.threads = 1}, {.threads = 2}, {.threads = 1}};
    pthread_t thread[3];
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, work, &w[i]), 0);
    for (int i = 0; i < 3; i++)
        pthread_join(thread[i], NULL);
    for (int i = 0; i < 3; i++) {
        assert_ok(w[i].err.status, &w[i].err);
        assert_int_equal(w[i].seen.results, 1);
        assert_memory_equal(w[i].seen.rgb, w[0].seen.rgb, w[0].seen.bytes);
    }
    for (int i = 0; i < 3; i++)
        kin_free(w[i].seen.rgb);
}

static void test_save(void **state)
{
    (void)state;
    uint8_t rgb[2 * 16 * 16 * 3];
    kin_result r = {.frames = 2, .height = 16, .width = 16, .fps = 8, .rgb = rgb};
    kin_error err = {0};
    for (size_t i = 0; i < sizeof rgb; i++)
        rgb[i] = (uint8_t)(i * 7);
    assert_ok(kin_result_save(&r, kin_test_path("x.mp4"), &err), &err);
    assert_true(kin_path_exists(kin_test_path("x.mp4")));
    assert_ok(kin_result_save(&r, kin_test_path("x-%02d.png"), &err), &err);
    assert_true(kin_path_exists(kin_test_path("x-01.png")));
    assert_int_equal(kin_result_save(&r, kin_test_path("x.bmp"), &err), KIN_ERR_ARG);
    assert_ok(kin_result_save(&r, kin_test_path("x.gif"), &err), &err);
    assert_int_equal(kin_result_save(&r, kin_test_path("none/x.mp4"), NULL), KIN_ERR_IO);
    r.frames = 0;
    assert_int_equal(kin_result_save(&r, kin_test_path("y.mp4"), &err), KIN_ERR_ARG);
}

/* ---- training ---- */

typedef struct steps_seen {
    int64_t steps, stop_at;
} steps_seen;

static int on_step(void *user, const kin_training_report *r)
{
    steps_seen *s = user;
    s->steps++;
    assert_true(r->steps == 6 && r->loss > 0 && isfinite(r->loss) && r->lr > 0);
    return r->step == s->stop_at;
}

static kin_training *open_training(const tiny_run *run, bool resume)
{
    kin_training_options o;
    kin_training *t;
    kin_error err = {0};
    kin_training_options_init(&o, sizeof o);
    o.config = resume ? NULL : run->config;
    o.run = run->run;
    o.resume = resume;
    o.threads = 1;
    assert_ok(kin_training_create(&o, &t, &err), &err);
    return t;
}

static void test_training(void **state)
{
    (void)state;
    char *dir = tiny_dir();
    tiny_run whole, parts;
    kin_training_report report;
    kin_error err = {0};
    steps_seen all = {0}, stopping = {.stop_at = 4};
    tiny_open(&whole, dir, "whole", 1);
    tiny_open(&parts, dir, "parts", 1);
    tiny_write(whole.config, TINY_MOE, TINY_SIMULATE, "\"lr\":0.01", "\"steps\":6,");
    tiny_write(parts.config, TINY_MOE, TINY_SIMULATE, "\"lr\":0.01", "\"steps\":6,");

    kin_training *t = open_training(&whole, false);
    assert_ok(kin_training_run(t, 0, on_step, &all, &err), &err);
    assert_int_equal(all.steps, 6);
    assert_ok(kin_training_run(t, 5, on_step, &all, &err), &err); /* none is left */
    assert_int_equal(all.steps, 6);
    kin_training_destroy(&t);

    /* two steps and no more, one that is saved by hand, then stopped by the callback */
    t = open_training(&parts, false);
    assert_int_equal(kin_training_run(t, -1, NULL, NULL, &err), KIN_ERR_ARG);
    assert_ok(kin_training_run(t, 2, NULL, NULL, &err), &err);
    kin_training_get_report(t, &report, sizeof report);
    assert_true(report.step == 2 && report.steps == 6 && report.validation < 0);
    assert_ok(kin_training_save(t, &err), &err);
    kin_training_destroy(&t);
    assert_null(t);
    t = open_training(&parts, true);
    kin_training_get_report(t, &report, sizeof report);
    assert_true(report.step == 2 && report.steps == 6);
    assert_int_equal(kin_training_run(t, 0, on_step, &stopping, &err), KIN_ERR_INTERRUPTED);
    assert_true(err.signal == 0 && stopping.steps == 2);
    kin_training_destroy(&t);
    t = open_training(&parts, true);
    assert_ok(kin_training_run(t, 0, NULL, NULL, &err), &err);
    kin_training_destroy(&t);
    assert_true(tiny_same_checkpoint(&whole, &parts, 6));

    kin_training_options o;
    kin_training_options_init(&o, sizeof o);
    assert_int_equal(kin_training_create(&o, &t, &err), KIN_ERR_ARG);
    assert_null(t);
    o.config = "nowhere.json";
    o.run = kin_test_path("none");
    assert_int_not_equal(kin_training_create(&o, &t, &err), KIN_OK);
    assert_true(t == NULL && strstr(err.text, "nowhere.json"));
    o.config = whole.config;
    o.run = whole.run;
    assert_int_equal(kin_training_create(&o, &t, NULL), KIN_ERR_ARG); /* holds a run already */
    tiny_close(&whole);
    tiny_close(&parts);
    tiny_remove(dir);
}

/* All of the above with both streams in a file that must stay empty. */
static void test_all_in_silence(void **state)
{
    FILE *file = tmpfile();
    assert_non_null(file);
    fflush(NULL);
    int out = dup(1), err = dup(2);
    assert_true(out >= 0 && err >= 0 && dup2(fileno(file), 1) == 1 && dup2(fileno(file), 2) == 2);
    test_refusals(state);
    test_cancel_and_again(state);
    test_save(state);
    test_training(state);
    fflush(NULL);
    assert_true(dup2(out, 1) == 1 && dup2(err, 2) == 2);
    close(out);
    close(err);
    assert_int_equal(lseek(fileno(file), 0, SEEK_END), 0);
    fclose(file);
}

int main(int argc, char **argv)
{
    (void)argv;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_structs),          cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_cancel_and_again), cmocka_unit_test(test_out_of_memory),
        cmocka_unit_test(test_threads_at_once),  cmocka_unit_test(test_save),
        cmocka_unit_test(test_training),
    };
    /* in a process of its own, since some libraries greet once */
    const struct CMUnitTest silence[] = {cmocka_unit_test(test_all_in_silence)};
    if (argc > 1)
        return cmocka_run_group_tests(silence, kin_test_folder_make, kin_test_folder_remove);
    return cmocka_run_group_tests(tests, kin_test_folder_make, kin_test_folder_remove);
}

/* tests/training/test_train_kill.c: a run that is killed, or that finds no room, leaves a
 * checkpoint that loads. Children run with one thread, so that the parent never owns an OpenMP team
 * when it forks. */
#include "tests/training/tiny.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

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

#define EVERY_STEP \
    "\"steps\":100000,\"batch_size\":1,\"log_every\":1,\"checkpoint\":{\"every\":1,\"keep\":2},"

static void train_in_child(const char *name, bool resume)
{
    tiny_run t;
    tiny_open(&t, dir, name, 1);
    t.opt.resume = resume;
    _exit(kin_train_run(t.ctx, &t.opt) == KIN_OK ? 0 : 1);
}

/* Loads everything that run/latest names; returns its step. */
static int64_t load_all(const char *run)
{
    static const char *const prefixes[] = {"", "text_encoder."};
    char latest[KIN_PATH_MAX];
    kin_error err = {0};
    kin_checkpoint_info info;
    const kin_ctx_options o = {.backend = KIN_BACKEND_CPU, .threads = 1};
    kin_ctx *ctx;
    kin_pipeline *p, *ema;
    kin_optimizer *opt;
    assert_ok(kin_ctx_create(&o, &ctx, &err), &err);
    assert_ok(kin_checkpoint_latest(run, latest, &err), &err);
    assert_ok(kin_checkpoint_read_info(latest, &info, &err), &err);
    cJSON_Delete(info.config);
    assert_ok(kin_pipeline_load(ctx, latest, &p), &ctx->error);
    assert_ok(kin_pipeline_make_trainable(p), &ctx->error);
    kin_params *const tables[] = {p->params, p->text_params};
    const kin_optimizer_options options = kin_optimizer_options_default();
    assert_ok(kin_optimizer_create(&options, tables, prefixes, 2, false, &opt, &err), &err);
    assert_ok(kin_checkpoint_load_optimizer(latest, info.step, opt, &err), &err);
    assert_ok(kin_pipeline_load(ctx, run, &ema), &ctx->error);
    kin_pipeline_destroy(&ema);
    kin_optimizer_destroy(&opt);
    kin_pipeline_destroy(&p);
    kin_ctx_destroy(&ctx);
    return info.step;
}

static void wait_ms(long ms)
{
    const struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

/* Step in the file `latest`, -1 while there is none. */
static int64_t step_named(const char *latest)
{
    long long step = -1;
    FILE *fp = fopen(latest, "r");
    if (!fp)
        return -1;
    if (fscanf(fp, "checkpoint-%lld", &step) != 1)
        step = -1;
    fclose(fp);
    return step;
}

static void killed_at_any_moment_it_goes_on(void **state)
{
    char run[256], config[256], latest[320];
    int64_t step = 0;
    (void)state;
    snprintf(run, sizeof run, "%s/kill", dir);
    snprintf(config, sizeof config, "%s/kill.json", dir);
    snprintf(latest, sizeof latest, "%s/latest", run);
    tiny_write(config, TINY_DENSE, TINY_SIMULATE, "\"lr\":0.001", EVERY_STEP);
    for (int i = 0; i < 8; i++) {
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0)
            train_in_child("kill", i > 0);
        /* nothing but checkpoints is going on: whenever the kill comes, it likely hits one being
         * written */
        for (int tries = 0; step_named(latest) <= step && tries < 3000; tries++)
            wait_ms(2);
        wait_ms(3 + 7 * i);
        assert_int_equal(kill(pid, SIGKILL), 0);
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status)); /* it ran until then */
        int64_t now = load_all(run);
        assert_true(now > step);
        step = now;
    }
}

static void limit_report(void *user, const kin_train_report *r)
{
    (void)user;
    if (r->step == 3) {
        /* the moments of the model need more than this */
        const struct rlimit limit = {16384, 16384};
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &limit);
    }
}

static void no_room_is_an_error_that_keeps_the_run(void **state)
{
    char run[256], config[256];
    (void)state;
    snprintf(run, sizeof run, "%s/full", dir);
    snprintf(config, sizeof config, "%s/full.json", dir);
    tiny_write(config, TINY_DENSE, TINY_SIMULATE, "\"lr\":0.001", EVERY_STEP);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        tiny_run t;
        tiny_open(&t, dir, "full", 1);
        t.opt.report = limit_report;
        _exit(kin_train_run(t.ctx, &t.opt) == KIN_ERR_IO ? 42 : 1);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 42);
    assert_int_equal(load_all(run), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(killed_at_any_moment_it_goes_on, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(no_room_is_an_error_that_keeps_the_run, make_dir, drop_dir),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

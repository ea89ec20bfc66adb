/* tests/training/test_image_kill_long.c: image training killed fifty times at any moment ends with
 * the bytes of a run that nothing disturbed: weights, averages, moments, log. */
#include "tests/training/small_images.h"

#include <signal.h>
#include <sys/wait.h>
#include <time.h>

enum { KILLS = 50, STEPS = 2000 };

/* note: how often is saved may change between the parts of a run */
static void configure(const char *path, int64_t every)
{
    write_config(path, "\"steps\":2000,\"batch_size\":2,\"gradient_accumulation\":2,", 0.2, every);
}

static int64_t newest(const char *run)
{
    char path[320];
    long long step = 0;
    snprintf(path, sizeof path, "%s/latest", run);
    FILE *fp = fopen(path, "r");
    if (!fp)
        return 0;
    if (fscanf(fp, "checkpoint-%lld", &step) != 1)
        step = 0;
    fclose(fp);
    return step;
}

static void train_in_child(const char *name, bool resume)
{
    tiny_run t;
    tiny_open(&t, images_dir, name, 1);
    t.opt.resume = resume;
    _exit(kin_train_run(t.ctx, &t.opt) == KIN_OK ? 0 : 1);
}

/* Lets it run until it has saved once more, and a while, which the number of the kill says. */
static void kill_once(const tiny_run *t, int number)
{
    const struct timespec ms = {0, 1000000};
    const int64_t from = newest(t->run);
    const pid_t pid = fork();
    int status;
    assert_true(pid >= 0);
    if (pid == 0)
        train_in_child("killed", from > 0);
    for (int i = 0; newest(t->run) <= from && i < 20000; i++)
        nanosleep(&ms, NULL);
    for (int i = 0; i < number * 7 % 23; i++)
        nanosleep(&ms, NULL);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    assert_true(newest(t->run) > from && newest(t->run) < STEPS);
}

static void fifty_kills_change_nothing(void **state)
{
    static const char *const files[] = {
        "transformer/diffusion_pytorch_model.safetensors", "model_index.json",
        "ema/transformer/diffusion_pytorch_model.safetensors", "optimizer.safetensors"};
    tiny_run whole, killed;
    char a[320], b[320];
    (void)state;
    /* note: the children first; with more than one thread a fork would lose the team */
    tiny_open(&killed, images_dir, "killed", 1);
    configure(killed.config, 1);
    for (int i = 0; i < KILLS; i++)
        kill_once(&killed, i);
    print_message("%d kills until step %lld\n", KILLS, (long long)newest(killed.run));
    configure(killed.config, 1000);
    killed.opt.resume = true;
    assert_ok(kin_train_run(killed.ctx, &killed.opt), &killed.ctx->error);
    tiny_open(&whole, images_dir, "whole", 1);
    configure(whole.config, 1000);
    assert_ok(kin_train_run(whole.ctx, &whole.opt), &whole.ctx->error);
    snprintf(a, sizeof a, "%s/checkpoint-%d", whole.run, STEPS);
    snprintf(b, sizeof b, "%s/checkpoint-%d", killed.run, STEPS);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        assert_true(tiny_same(a, b, files[i]));
    char *log[2] = {tiny_log(&whole), tiny_log(&killed)};
    assert_string_equal(log[0], log[1]);
    kin_free(log[0]);
    kin_free(log[1]);
    tiny_close(&whole);
    tiny_close(&killed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(fifty_kills_change_nothing)};
    return cmocka_run_group_tests(tests, make_set, drop_set);
}

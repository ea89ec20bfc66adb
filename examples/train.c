/* Trains a model, with a line for each step:
 *   cc train.c $(pkg-config --cflags --libs kinema) -o train
 *   ./train config.json clips run 20
 * The same command goes on with a run that was stopped (Ctrl-C). */
#include <kinema/kinema.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

static volatile sig_atomic_t stop;

static void on_signal(int number)
{
    stop = number;
}

static int on_step(void *user, const kin_training_report *r)
{
    FILE *table = user;
    fprintf(table, "%lld\t%.5f\t%.3g\n", (long long)r->step, r->loss, r->lr);
    return stop;
}

static void on_message(void *user, const char *text)
{
    (void)user;
    fprintf(stderr, "note: %s\n", text);
}

static int has_checkpoint(const char *run)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/latest", run);
    FILE *f = fopen(path, "r"); /* a link to a folder, or a file */
    if (f)
        fclose(f);
    return f != NULL;
}

int main(int argc, char **argv)
{
    kin_training_options options;
    kin_training *training = NULL;
    kin_error err = {KIN_OK, 0, ""};
    if (argc != 5) {
        fprintf(stderr, "usage: train CONFIG DATA RUN STEPS\n");
        return 2;
    }
    signal(SIGINT, on_signal);
    kin_training_options_init(&options, sizeof options);
    options.config = argv[1];
    options.data = argv[2];
    options.run = argv[3];
    options.steps = atoll(argv[4]);
    options.resume = has_checkpoint(argv[3]);
    options.message = on_message;
    if (kin_training_create(&options, &training, &err) == KIN_OK)
        kin_training_run(training, 0, on_step, stdout, &err);
    kin_training_destroy(&training);
    if (err.status != KIN_OK)
        fprintf(stderr, "%s: %s\n", kin_status_name(err.status), err.text);
    return err.status != KIN_OK;
}

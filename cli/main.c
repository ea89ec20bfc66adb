/* cli/main.c: the program `kinema`: finds the verb, runs it, prints the error, returns the exit
 * code. */
#include <stdio.h>
#include <string.h>

#include "cli/common.h"
#include "cli/exit.h"
#include "cli/help.h"
#include "cli/signals.h"
#include "cli/waiting.h"

static kin_status run(const kin_args *args, kin_error *err)
{
    switch (args->verb->verb) {
    case KIN_VERB_GENERATE: return kin_cmd_generate(args, err);
    case KIN_VERB_TRAIN: return kin_cmd_train(args, err);
    case KIN_VERB_SIMULATE: return kin_cmd_simulate(args, err);
    case KIN_VERB_CACHE: return kin_cmd_cache(args, err);
    case KIN_VERB_CHECK: return kin_cmd_check(args, err);
    case KIN_VERB_EVALUATE: return kin_cmd_evaluate(args, err);
    case KIN_VERB_INSPECT: return kin_cmd_inspect(args, err);
    case KIN_VERB_PLOT: return kin_cmd_plot(args, err);
    case KIN_VERB_CONVERT: return kin_cmd_convert(args, err);
    case KIN_VERB_BENCH_OPS:
    case KIN_VERB_BENCH_MODEL:
    case KIN_VERB_BENCH_TRAIN:
    case KIN_VERB_BENCH_SCALING:
    case KIN_VERB_BENCH: return kin_cmd_bench(args, err);
    default: return kin_fail(err, KIN_ERR_ARG, "kinema: no verb");
    }
}

/* The last word on standard error: a line for people, an object for programs (--progress json). */
static void tell_error(const kin_args *args, const kin_error *err, int code)
{
    const char *text = strncmp(err->text, "kinema: ", 8) ? err->text : err->text + 8;
    const char *progress = args->verb ? kin_args_text(args, "progress") : NULL;
    kin_strbuf b = {0};
    kin_strbuf_add_json(&b, text);
    if (progress && strcmp(progress, "json") == 0 && !b.failed)
        fprintf(stderr, "{\"error\":%s,\"exit\":%d}\n", b.data, code);
    else
        fprintf(stderr, "kinema: %s\n", text);
    kin_strbuf_free(&b);
}

/* What needs no verb. False: something else was asked for. */
static bool without_verb(int argc, char **argv, kin_status *status, kin_error *err)
{
    if (argc == 3 && strcmp(argv[1], "--write-help") == 0) { /* for the build and packagers */
        *status = kin_help_write(argv[2], err);
        return true;
    }
    if (argc < 2)
        kin_help_jobs(stdout);
    return argc < 2;
}

int main(int argc, char **argv)
{
    kin_args args = {0};
    kin_error err = {0};
    kin_status status = KIN_OK;
    const bool none = without_verb(argc, argv, &status, &err);
    if (!none)
        status = kin_args_parse(argc, argv, &args, &err);
    if (status == KIN_OK && args.version) {
        puts("kinema " KIN_VERSION);
    } else if (status == KIN_OK && args.help) {
        kin_help_show(args.verb, stdout);
    } else if (status == KIN_OK && !none) {
        if (args.verb->verb != KIN_VERB_INSPECT && args.verb->verb != KIN_VERB_CHECK &&
            args.verb->verb != KIN_VERB_PLOT)
            kin_waiting_choose(argv);
        kin_signals_install();
        status = run(&args, &err);
    }
    /* note: data that could not be written (full disk, closed pipe) is a failure, whatever the verb
     * said */
    if (fflush(stdout) || ferror(stdout))
        if (status == KIN_OK)
            status = kin_fail(&err, KIN_ERR_IO, "stdout: write failed");
    const int code = kin_exit_code(status, err.signal);
    if (status != KIN_OK)
        tell_error(&args, &err, code);
    kin_args_free(&args);
    return none && argc < 2 && !code ? KIN_EXIT_USAGE : code;
}

/* cli/main.c: the program `kinema`: finds the verb, runs it, prints the error, returns the exit
 * code. */
#include <stdio.h>
#include <string.h>

#include "cli/common.h"
#include "cli/exit.h"
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
    case KIN_VERB_CONVERT: return kin_cmd_convert(args, err);
    case KIN_VERB_BENCH_OPS:
    case KIN_VERB_BENCH_MODEL:
    case KIN_VERB_BENCH_TRAIN:
    case KIN_VERB_BENCH_SCALING:
    case KIN_VERB_BENCH: return kin_cmd_bench(args, err);
    default: return kin_fail(err, KIN_ERR_ARG, "kinema: no verb");
    }
}

int main(int argc, char **argv)
{
    kin_args args = {0};
    kin_error err = {0};
    kin_status status = kin_args_parse(argc, argv, &args, &err);
    if (status == KIN_OK && args.version) {
        puts("kinema " KIN_VERSION);
    } else if (status == KIN_OK && args.help) {
        kin_args_help(args.verb, stdout);
    } else if (status == KIN_OK) {
        if (args.verb->verb != KIN_VERB_INSPECT && args.verb->verb != KIN_VERB_CHECK)
            kin_waiting_choose(argv);
        kin_signals_install();
        status = run(&args, &err);
    }
    kin_args_free(&args);
    /* note: data that could not be written (full disk, closed pipe) is a failure, whatever the verb
     * said */
    if (fflush(stdout) || ferror(stdout))
        if (status == KIN_OK)
            status = kin_fail(&err, KIN_ERR_IO, "stdout: write failed");
    if (status != KIN_OK)
        fprintf(stderr, "kinema: %s\n", strncmp(err.text, "kinema: ", 8) ? err.text : err.text + 8);
    return kin_exit_code(status, err.signal);
}

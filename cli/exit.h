/* cli/exit.h: how a status leaves the program. */
#ifndef KIN_CLI_EXIT_H
#define KIN_CLI_EXIT_H

#include "base/status.h"

enum {
    KIN_EXIT_OK = 0,
    KIN_EXIT_FAILED = 1,
    KIN_EXIT_USAGE = 2,
    KIN_EXIT_INPUT = 3,
    KIN_EXIT_MEMORY = 4,
    KIN_EXIT_NUMERIC = 5,
    KIN_EXIT_THRESHOLD = 6,
    KIN_EXIT_SIGNAL = 128 /* plus the signal: 130, 143 */
};

/* The exit code of a status; signal counts for KIN_ERR_INTERRUPTED alone. */
int kin_exit_code(kin_status status, int signal);

#endif

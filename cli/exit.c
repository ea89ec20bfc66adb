#include "cli/exit.h"

#include <signal.h>

int kin_exit_code(kin_status status, int signal)
{
    switch (status) {
    case KIN_OK: return KIN_EXIT_OK;
    case KIN_ERR_ARG: return KIN_EXIT_USAGE;
    case KIN_ERR_FORMAT: return KIN_EXIT_INPUT;
    case KIN_ERR_MEM: return KIN_EXIT_MEMORY;
    case KIN_ERR_NUMERIC: return KIN_EXIT_NUMERIC;
    case KIN_ERR_THRESHOLD: return KIN_EXIT_THRESHOLD;
    case KIN_ERR_INTERRUPTED: return KIN_EXIT_SIGNAL + (signal > 0 ? signal : SIGINT);
    default: return KIN_EXIT_FAILED;
    }
}

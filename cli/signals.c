#include "cli/signals.h"

#include <signal.h>
#include <string.h>

static volatile sig_atomic_t caught;

static void on_signal(int number)
{
    caught = number;
}

void kin_signals_install(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    /* note: RESETHAND restores the default, so that a second Ctrl-C ends a program that does not
     * poll */
    action.sa_flags = SA_RESETHAND | SA_RESTART;
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

int kin_signals_caught(void)
{
    return caught;
}

kin_status kin_signals_check(const char *what, kin_error *err)
{
    int number = caught;
    if (!number)
        return KIN_OK;
    kin_fail(err, KIN_ERR_INTERRUPTED, "%s: interrupted by %s", what,
             number == SIGINT ? "SIGINT" : "SIGTERM");
    if (err)
        err->signal = number;
    return KIN_ERR_INTERRUPTED;
}

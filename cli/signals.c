#include "cli/signals.h"

#include <signal.h>
#include <string.h>
#include <time.h>

static volatile sig_atomic_t caught;
static struct timespec first; /* when; read and written by the handler alone */

/* The program saves and ends by itself. A second signal ends a program that does not poll, but not
 * one that came with the first: `timeout` and terminals send it to the process and to its group. */
static void on_signal(int number)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (caught && now.tv_sec - first.tv_sec + (now.tv_nsec >= first.tv_nsec ? 0 : -1) >= 1) {
        signal(number, SIG_DFL);
        raise(number);
        return;
    }
    if (!caught)
        first = now;
    caught = number;
}

void kin_signals_install(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART;
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

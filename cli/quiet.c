#include "cli/quiet.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "physics/simulate.h"

/* Takes the place of the printing hook of libchipmunk (a debug build in Debian, which warns about
 * resting contacts). A hard error is a broken assertion inside the library: nothing after it can be
 * trusted. */
void cpMessage(const char *condition, const char *file, int line, int is_error, int is_hard_error,
               const char *message, ...);
void cpMessage(const char *condition, const char *file, int line, int is_error, int is_hard_error,
               const char *message, ...)
{
    (void)message;
    if (is_error || is_hard_error)
        fprintf(stderr, "kinema: chipmunk: %s failed (%s:%d)\n", condition, file, line);
}

void kin_quiet_simulator(void)
{
    kin_sim_options options;
    kin_sim_clip clip;
    fflush(stdout);
    int out = dup(STDOUT_FILENO), null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (out >= 0 && null >= 0)
        dup2(null, STDOUT_FILENO);
    kin_sim_options_default(&options);
    options.frames = 2;
    for (int kind = 0; kind < kin_sim_kind_count(); kind++)
        options.weights[kind] = kind == kin_sim_kind_find("collision");
    if (kin_simulate_clip(&options, 0, 0, &clip, NULL) == KIN_OK)
        kin_sim_clip_free(&clip);
    fflush(stdout);
    if (out >= 0 && null >= 0)
        dup2(out, STDOUT_FILENO);
    if (out >= 0)
        close(out);
    if (null >= 0)
        close(null);
}

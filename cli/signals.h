/* cli/signals.h: SIGINT and SIGTERM become a flag that long work polls; a second signal ends the
 * program at once. */
#ifndef KIN_CLI_SIGNALS_H
#define KIN_CLI_SIGNALS_H

#include "base/status.h"

/* Installs the handlers. */
void kin_signals_install(void);
/* The signal that arrived, or 0. */
int kin_signals_caught(void);
/* KIN_ERR_INTERRUPTED with err->signal set if a signal arrived, else KIN_OK. `what` opens the
 * message. */
kin_status kin_signals_check(const char *what, kin_error *err);

#endif

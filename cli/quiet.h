/* cli/quiet.h: keeps libraries from talking on our streams. */
#ifndef KIN_CLI_QUIET_H
#define KIN_CLI_QUIET_H

/* To be called once, before the first simulation and before other threads run: Debian's Chipmunk
 * prints a banner on stdout with its first space and warnings on stderr. Afterwards it is silent.
 */
void kin_quiet_simulator(void);

#endif

/* cli/waiting.h: how threads wait for each other. */
#ifndef KIN_CLI_WAITING_H
#define KIN_CLI_WAITING_H

/* Starts the program again (same process id) with GOMP_SPINCOUNT=1000, unless it or OMP_WAIT_POLICY
 * is set. By itself libgomp spins 300,000 times (7 ms) before a waiting thread sleeps; on a machine
 * that does other work the spinning thread holds the core the other one needs, and a step takes ten
 * times as long. 1,000 turns are 25 us, a few times the price of a wake-up. libgomp reads the
 * variable before main begins, hence the second start. Returns where that is not needed or not
 * possible. */
void kin_waiting_choose(char **argv);

#endif

// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a program pays that uses neither of the calls: a system call that does next to nothing, and a context switch
 * between two processes. One line for each: what, nanoseconds.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* The best of many short batches: most have no tick of the clock in them. */
#define BATCHES 50
#define ROUNDS 200

static unsigned long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000UL + time.tv_nsec;
}

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static int there[2], back[2];

static void call(void)
{
	syscall(SYS_getppid);
}

static void bounce(void)
{
	char byte = 0;

	if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1)
		fail("pipe");
}

static double best(void (*once)(void))
{
	unsigned long least = ~0UL;

	for (int batch = 0; batch < BATCHES; batch++) {
		unsigned long begin = now(), took;

		for (int round = 0; round < ROUNDS; round++)
			once();
		took = now() - begin;
		if (took < least)
			least = took;
	}
	return (double)least / ROUNDS;
}

int main(void)
{
	char byte;

	printf("getppid %.1f\n", best(call));
	if (pipe(there) || pipe(back))
		fail("pipe");
	switch (fork()) {
	case -1:
		fail("fork");
	case 0:
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		while (read(there[0], &byte, 1) == 1 && write(back[1], &byte, 1) == 1)
			;
		exit(0);
	}
	/* There and back are two switches. */
	printf("switch %.1f\n", best(bounce) / 2);
	return 0;
}

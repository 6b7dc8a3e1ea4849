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

#define ROUNDS 20000

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

static void bounce(int from, int to)
{
	char byte = 0;

	if (write(to, &byte, 1) != 1 || read(from, &byte, 1) != 1)
		fail("pipe");
}

int main(void)
{
	int there[2], back[2];
	unsigned long begin;

	for (int i = 0; i < 100; i++)
		syscall(SYS_getppid);
	begin = now();
	for (int i = 0; i < ROUNDS; i++)
		syscall(SYS_getppid);
	/* A tenth of an instruction shows. */
	printf("getppid %.1f\n", (double)(now() - begin) / ROUNDS);

	if (pipe(there) || pipe(back))
		fail("pipe");
	switch (fork()) {
	case -1:
		fail("fork");
	case 0: {
		char byte;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		while (read(there[0], &byte, 1) == 1 && write(back[1], &byte, 1) == 1)
			;
		exit(0);
	}
	}
	for (int i = 0; i < 100; i++)
		bounce(back[0], there[1]);
	begin = now();
	for (int i = 0; i < ROUNDS; i++)
		bounce(back[0], there[1]);
	printf("switch %.1f\n", (double)(now() - begin) / ROUNDS / 2);
	return 0;
}

/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What both ways to intercept have in common: a guest that makes system calls or faults without an end, in a process of its
 * own, and a report of the time that one of them takes.
 */
#ifndef INTERCEPTION_H
#define INTERCEPTION_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

/* getpid, for ever; what it returns is not looked at. */
void guest_calls(void);
/* A store to the address in RBX, for ever; the store has three bytes. */
void guest_faults(void);
#define STORE_BYTES 3

__asm__(".text\n"
	"guest_calls: mov $39, %eax\n syscall\n jmp guest_calls\n"
	"guest_faults: mov %rax, (%rbx)\n jmp guest_faults\n");

enum kind { CALLS, FAULTS };

static inline void fail(const char *what)
{
	perror(what);
	exit(1);
}

static inline unsigned long long now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ull + now.tv_nsec;
}

/* A process with a stack for the guest and nothing at the address that it stores to. */
static inline unsigned long guest_stack(void)
{
	void *stack = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (stack == MAP_FAILED)
		fail("mmap");
	return (unsigned long)stack + 65536 - 64;
}

/* Runs one interception after the other, and says how long one takes: the best of five. */
static inline void measure(const char *name, enum kind kind, unsigned int rounds, void (*once)(enum kind))
{
	unsigned long long best = ~0ull;

	for (unsigned int n = 0; n < rounds / 10 + 1; n++)
		once(kind);
	for (int attempt = 0; attempt < 5; attempt++) {
		unsigned long long begin = now_ns();

		for (unsigned int n = 0; n < rounds; n++)
			once(kind);
		begin = now_ns() - begin;
		if (begin < best)
			best = begin;
	}
	printf("%s %s %.1f ns\n", name, kind == CALLS ? "system call" : "fault", (double)best / rounds);
}

static inline void usage_or(int argc, char **argv, enum kind *kind, unsigned int *rounds)
{
	if (argc != 3 || (strcmp(argv[1], "calls") && strcmp(argv[1], "faults"))) {
		fprintf(stderr, "usage: %s calls|faults ROUNDS\n", argv[0]);
		exit(2);
	}
	*kind = strcmp(argv[1], "calls") ? FAULTS : CALLS;
	*rounds = strtoul(argv[2], NULL, 10);
}

#endif

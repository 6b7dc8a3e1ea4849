// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory of another process to /dev/null and to a socket: by process_vm_readv() and write(), and by process_vmsplice() and
 * splice(). Whoever reads the socket is part of both. One line for each: what, how, nanoseconds for a page of 4 KiB.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef __NR_process_vmsplice
#define __NR_process_vmsplice 548
#endif

#define AREA	(8UL << 20)	/* a multiple of a huge page */
#define PIPE	(256UL << 10)	/* what is in the pipe, or in the buffer, at a time */
#define ROUNDS	4

static char *area;
static pid_t target;

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static unsigned long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000UL + time.tv_nsec;
}

/* A process with an area that is filled, in pages of the one or the other size. */
static void start_target(int advice)
{
	int ready[2];
	char byte;

	if (pipe(ready))
		fail("pipe");
	target = fork();
	if (target < 0)
		fail("fork");
	if (target == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		madvise(area, AREA, advice);
		memset(area, 'x', AREA);
		if (write(ready[1], "", 1) != 1)
			fail("ready");
		for (;;)
			pause();
	}
	close(ready[1]);
	if (read(ready[0], &byte, 1) != 1)
		fail("the target has ended");
	close(ready[0]);
}

static void end_target(void)
{
	kill(target, SIGKILL);
	waitpid(target, NULL, 0);
}

static void copy(int sink)
{
	static char buffer[PIPE];

	for (size_t done = 0; done < AREA; done += PIPE) {
		struct iovec local = { buffer, PIPE }, remote = { area + done, PIPE };
		size_t written = 0;

		if (process_vm_readv(target, &local, 1, &remote, 1, 0) != PIPE)
			fail("process_vm_readv");
		while (written < PIPE) {
			ssize_t n = write(sink, buffer + written, PIPE - written);

			if (n <= 0)
				fail("write");
			written += n;
		}
	}
}

static void map(int sink)
{
	static int ends[2] = { -1, -1 };

	if (ends[0] < 0 && (pipe(ends) || fcntl(ends[1], F_SETPIPE_SZ, PIPE) < 0))
		fail("pipe");
	for (size_t done = 0; done < AREA;) {
		struct iovec remote = { area + done, AREA - done };
		ssize_t n = syscall(__NR_process_vmsplice, target, ends[1], &remote, 1, 0);

		if (n <= 0)
			fail("process_vmsplice");
		done += n;
		while (n > 0) {
			ssize_t out = splice(ends[0], NULL, sink, NULL, n, SPLICE_F_MOVE);

			if (out <= 0)
				fail("splice");
			n -= out;
		}
	}
}

/* Reads until nobody writes any more. */
static pid_t start_reader(int socket, int other)
{
	static char buffer[PIPE];
	pid_t reader = fork();

	if (reader < 0)
		fail("fork");
	if (reader == 0) {
		close(other);
		while (read(socket, buffer, sizeof(buffer)) > 0)
			;
		exit(0);
	}
	close(socket);
	return reader;
}

static void measure(const char *what, const char *how, void (*transfer)(int), int sink)
{
	unsigned long begin;

	/* Once for what happens only once. */
	transfer(sink);
	begin = now();
	for (int round = 0; round < ROUNDS; round++)
		transfer(sink);
	printf("%s %s %lu\n", what, how, (now() - begin) / (ROUNDS * (AREA >> 12)));
}

static void measure_both(const char *pages)
{
	int null = open("/dev/null", O_WRONLY), ends[2];
	char what[32];
	pid_t reader;

	if (null < 0)
		fail("/dev/null");
	snprintf(what, sizeof(what), "null-%s", pages);
	measure(what, "readv", copy, null);
	measure(what, "vmsplice", map, null);
	close(null);

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends))
		fail("socketpair");
	reader = start_reader(ends[0], ends[1]);
	snprintf(what, sizeof(what), "socket-%s", pages);
	measure(what, "readv", copy, ends[1]);
	measure(what, "vmsplice", map, ends[1]);
	close(ends[1]);
	waitpid(reader, NULL, 0);
}

int main(void)
{
	/* Aligned, so that it can be of huge pages. */
	char *room = mmap(NULL, 2 * AREA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (room == MAP_FAILED)
		fail("mmap");
	area = (char *)(((unsigned long)room + AREA - 1) & ~(AREA - 1));
	setvbuf(stdout, NULL, _IOLBF, 0);
	start_target(MADV_NOHUGEPAGE);
	measure_both("small");
	end_target();
	start_target(MADV_HUGEPAGE);
	measure_both("huge");
	end_target();
	return 0;
}

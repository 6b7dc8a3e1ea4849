// SPDX-License-Identifier: GPL-2.0-only
/* process_vmsplice(): pages of another process, in a pipe. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/process_vm.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "tap.h"
#include "target.h"

#define PAGE 4096

static ssize_t process_vmsplice(pid_t pid, int fd, const struct iovec *iov,
				unsigned long nr_segs, unsigned int flags)
{
	return syscall(__NR_process_vmsplice, pid, fd, iov, nr_segs, flags);
}

static bool fails(ssize_t result, int error)
{
	return result == -1 && errno == error;
}

int main(void)
{
	/* Shared with the child, so that each sees what the other writes. */
	char *shared = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	char *hole = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct iovec iov = { shared + PAGE - 3, 6 };
	char bytes[2 * PAGE];
	int fds[2], pidfd;
	pid_t pid;

	if (fails(process_vmsplice(0, -1, NULL, 0, 0), ENOSYS))
		tap_skip_all("no process_vmsplice in this kernel");
	tap_plan(9);
	memcpy(shared + PAGE - 3, "abcdef", 6);
	pid = start_target();
	if (pipe(fds))
		return 1;

	tap(process_vmsplice(pid, fds[1], &iov, 1, 0) == 6 &&
	    read(fds[0], bytes, sizeof(bytes)) == 6 && !memcmp(bytes, "abcdef", 6),
	    "bytes on two pages arrive in order");

	tap(process_vmsplice(pid, fds[1], &iov, 1, 0) == 6 &&
	    memcpy(shared + PAGE - 3, "ABCDEF", 6) &&
	    read(fds[0], bytes, sizeof(bytes)) == 6 && !memcmp(bytes, "ABCDEF", 6),
	    "the pipe has the page, not a copy");

	pidfd = syscall(SYS_pidfd_open, pid, 0);
	tap(process_vmsplice(pidfd, fds[1], &iov, 1, PROCESS_VM_PIDFD) == 6 &&
	    read(fds[0], bytes, sizeof(bytes)) == 6, "a pidfd names the process");

	tap(fails(process_vmsplice(pid, fds[1], &iov, 1, 1u << 31), EINVAL), "an unknown flag");
	tap(fails(process_vmsplice(pid, fds[0], &iov, 1, 0), EBADF), "the wrong end of the pipe");
	iov = (struct iovec){ hole, 1 };
	tap(fails(process_vmsplice(pid, fds[1], &iov, 1, 0), EFAULT), "memory that can't be read");

	fcntl(fds[1], F_SETPIPE_SZ, PAGE);
	iov = (struct iovec){ shared, 2 * PAGE };
	tap(process_vmsplice(pid, fds[1], &iov, 1, 0) == PAGE, "what fits in the pipe is inserted");
	tap(fails(process_vmsplice(pid, fds[1], &iov, 1, SPLICE_F_NONBLOCK), EAGAIN), "a full pipe");

	end_target(pid);
	tap(fails(process_vmsplice(pidfd, fds[1], &iov, 1, PROCESS_VM_PIDFD), ESRCH), "a process that has ended");
	return tap_end();
}

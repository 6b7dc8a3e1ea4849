// SPDX-License-Identifier: GPL-2.0-only
/* Interception by ptrace: PTRACE_SYSEMU, with all registers read and written at each stop. One tracer, one guest. */
#include <errno.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>

#include "interception.h"

static pid_t guest;

static void wait_for_stop(void)
{
	int status;

	if (waitpid(guest, &status, __WALL) != guest || !WIFSTOPPED(status)) {
		fprintf(stderr, "the guest is gone\n");
		exit(1);
	}
}

static void once(enum kind kind)
{
	struct user_regs_struct regs;
	siginfo_t info;

	if (ptrace(PTRACE_SYSEMU, guest, 0, 0))
		fail("PTRACE_SYSEMU");
	wait_for_stop();
	if (kind == FAULTS && (ptrace(PTRACE_GETSIGINFO, guest, 0, &info) || info.si_signo != SIGSEGV))
		fail("PTRACE_GETSIGINFO");
	if (ptrace(PTRACE_GETREGS, guest, 0, &regs))
		fail("PTRACE_GETREGS");
	if (kind == CALLS)
		regs.rax = regs.orig_rax == 39 ? 1 : -ENOSYS;
	else
		regs.rip += STORE_BYTES;
	if (ptrace(PTRACE_SETREGS, guest, 0, &regs))
		fail("PTRACE_SETREGS");
}

int main(int argc, char **argv)
{
	struct user_regs_struct regs;
	unsigned int rounds;
	enum kind kind;

	usage_or(argc, argv, &kind, &rounds);
	guest = fork();
	if (guest < 0)
		fail("fork");
	if (guest == 0) {
		if (ptrace(PTRACE_TRACEME, 0, 0, 0))
			fail("PTRACE_TRACEME");
		raise(SIGSTOP);
		_exit(0);
	}
	wait_for_stop();
	if (ptrace(PTRACE_SETOPTIONS, guest, 0, PTRACE_O_EXITKILL) || ptrace(PTRACE_GETREGS, guest, 0, &regs))
		fail("ptrace");
	regs.rip = (unsigned long)(kind == CALLS ? guest_calls : guest_faults);
	/* Not in the middle of a system call any more. */
	regs.orig_rax = -1;
	regs.rbx = 16;
	if (ptrace(PTRACE_SETREGS, guest, 0, &regs))
		fail("PTRACE_SETREGS");
	measure("ptrace", kind, rounds, once);
	kill(guest, SIGKILL);
	return 0;
}

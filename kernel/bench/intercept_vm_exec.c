// SPDX-License-Identifier: GPL-2.0-only
/* Interception by process_vm_exec. One caller, one guest. */
#include <errno.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "interception.h"

#ifndef __NR_process_vm_exec
#define __NR_process_vm_exec 549
#endif

static pid_t target;
static struct sigcontext context;

static void once(enum kind kind)
{
	siginfo_t info;
	uint64_t mask = 0;

	if (syscall(__NR_process_vm_exec, target, &context, 0, &info, &mask, sizeof(mask)))
		fail("process_vm_exec");
	if (info.si_signo != (kind == CALLS ? SIGSYS : SIGSEGV)) {
		fprintf(stderr, "signal %d\n", info.si_signo);
		exit(1);
	}
	if (kind == CALLS)
		context.rax = info.si_syscall == 39 ? 1 : -ENOSYS;
	else
		context.rip += STORE_BYTES;
}

int main(int argc, char **argv)
{
	unsigned int rounds;
	enum kind kind;

	usage_or(argc, argv, &kind, &rounds);
	context.rsp = guest_stack();
	context.rip = (unsigned long)(kind == CALLS ? guest_calls : guest_faults);
	context.rbx = 16;
	context.eflags = 0x202;
	target = fork();
	if (target < 0)
		fail("fork");
	if (target == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	measure("process_vm_exec", kind, rounds, once);
	kill(target, SIGKILL);
	return 0;
}

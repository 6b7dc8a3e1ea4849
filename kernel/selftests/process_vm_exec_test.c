// SPDX-License-Identifier: GPL-2.0-only
/* process_vm_exec(): code that runs in the memory of another process, until it makes a system call or faults. */
#define _GNU_SOURCE
#include <linux/process_vm.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "tap.h"
#include "target.h"

#ifndef PROCESS_VM_EXEC_SYSCALL
#define PROCESS_VM_EXEC_SYSCALL 1
#endif

#define PAGE 4096

static int process_vm_exec(pid_t pid, struct sigcontext *ctx, unsigned long flags,
			   siginfo_t *info, const uint64_t *mask)
{
	return syscall(__NR_process_vm_exec, pid, ctx, flags, info, mask, sizeof(*mask));
}

static const unsigned char code[] = {
	0x0f, 0x05,		/* 0: syscall */
	0x90, 0x90,
	0x48, 0x8b, 0x07,	/* 4: mov (%rdi), %rax */
	0x0f, 0x05,		/* 7: syscall */
	0xeb, 0xfe,		/* 9: jmp . */
};

int main(void)
{
	char *text = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *data = mmap(NULL, PAGE, PROT_NONE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct sigcontext ctx = { 0 };
	uint64_t none = 0, alarm_only = 1ull << (SIGALRM - 1);
	siginfo_t info;
	sigset_t set;
	pid_t pid;

	if (process_vm_exec(0, NULL, ~0ul, NULL, NULL) == -1 && errno == ENOSYS)
		tap_skip_all("no process_vm_exec in this kernel");
	tap_plan(8);
	memcpy(text, code, sizeof(code));
	mprotect(text, PAGE, PROT_READ | PROT_EXEC);
	pid = start_target();

	ctx.rip = (uint64_t)text;
	ctx.rsp = (uint64_t)(text + PAGE);
	ctx.rax = SYS_getpid;
	tap(process_vm_exec(pid, &ctx, 0, &info, &none) == 0 && info.si_signo == SIGSYS,
	    "a system call comes back to the caller");
	tap(info.si_syscall == SYS_getpid && info.si_call_addr == text + 2 && (int64_t)ctx.rax == -ENOSYS,
	    "it is described, and wasn't made");

	ctx.rip = (uint64_t)text + 4;
	ctx.rdi = (uint64_t)data;
	tap(process_vm_exec(pid, &ctx, 0, &info, &none) == 0 && info.si_signo == SIGSEGV &&
	    info.si_addr == data, "a fault comes back, too");

	/* The supervisor repairs it, by a system call in that memory. */
	{
		struct sigcontext call = { .rax = SYS_mprotect, .rdi = (uint64_t)data, .rsi = PAGE,
					   .rdx = PROT_READ | PROT_WRITE };

		tap(process_vm_exec(pid, &call, PROCESS_VM_EXEC_SYSCALL, &info, &none) == 0 && call.rax == 0,
		    "a system call is made in the other memory");
	}
	tap(process_vm_exec(pid, &ctx, 0, &info, &none) == 0 && info.si_signo == SIGSYS &&
	    ctx.rip == (uint64_t)text + 9, "the guest goes on where it was");

	sigemptyset(&set);
	sigaddset(&set, SIGALRM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	ualarm(20000, 0);
	tap(process_vm_exec(pid, &ctx, 0, &info, &alarm_only) == 0 && info.si_signo == SIGALRM,
	    "a signal of the mask ends a guest that spins");

	{
		struct sigcontext call = { .rax = SYS_execve };

		tap(process_vm_exec(pid, &call, PROCESS_VM_EXEC_SYSCALL, &info, &none) == -1 &&
		    errno == EOPNOTSUPP, "other system calls aren't made");
	}
	end_target(pid);
	tap(process_vm_exec(pid, &ctx, 0, &info, &none) == -1 && errno == ESRCH, "a process that has ended");
	return tap_end();
}

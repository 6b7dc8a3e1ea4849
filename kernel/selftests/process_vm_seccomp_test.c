// SPDX-License-Identifier: GPL-2.0-only
/* A seccomp filter can deny both calls, and applies to the call that process_vm_exec() makes. */
#define _GNU_SOURCE
#include <linux/filter.h>
#include <linux/process_vm.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "tap.h"
#include "target.h"

#ifndef PROCESS_VM_EXEC_SYSCALL
#define PROCESS_VM_EXEC_SYSCALL 1
#endif

/* Makes one system call fail with EDOM, which nothing else here does. */
static int deny(unsigned int nr)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EDOM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { 4, filter };

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ?:
	       prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

int main(void)
{
	struct sigcontext call = { .rax = SYS_madvise };
	uint64_t none = 0;
	siginfo_t info;
	pid_t pid;

	if (syscall(__NR_process_vm_exec, 0, NULL, ~0ul, NULL, NULL, 0) == -1 && errno == ENOSYS)
		tap_skip_all("no process_vm_exec in this kernel");
	tap_plan(4);
	pid = start_target();

	tap(syscall(__NR_process_vm_exec, pid, &call, PROCESS_VM_EXEC_SYSCALL, &info, &none, 8) == 0 &&
	    call.rax == 0, "madvise in the other process, without a filter");
	call = (struct sigcontext){ .rax = SYS_madvise };
	deny(SYS_madvise);
	tap(syscall(__NR_process_vm_exec, pid, &call, PROCESS_VM_EXEC_SYSCALL, &info, &none, 8) == 0 &&
	    (int64_t)call.rax == -EDOM, "the caller's filter applies to it");
	deny(__NR_process_vmsplice);
	tap(syscall(__NR_process_vmsplice, pid, -1, NULL, 0, 0) == -1 && errno == EDOM, "process_vmsplice is denied");
	deny(__NR_process_vm_exec);
	tap(syscall(__NR_process_vm_exec, pid, &call, 0, &info, &none, 8) == -1 && errno == EDOM,
	    "process_vm_exec is denied");
	end_target(pid);
	return tap_end();
}

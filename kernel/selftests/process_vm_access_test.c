// SPDX-License-Identifier: GPL-2.0-only
/* process_vm_exec(): who may. An answer that the kernel keeps from one call to the next holds no longer than its reasons. */
#define _GNU_SOURCE
#include <linux/process_vm.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "tap.h"
#include "target.h"

#define PAGE 4096
#define ROUNDS 50
#define USER 1000
#define OTHER 1001

static char *text;
static int order[2], answer[2];

/* One call of a guest; 0, or the error. */
static int visit(pid_t pid)
{
	struct sigcontext ctx = { .rip = (uint64_t)text, .rsp = (uint64_t)(text + PAGE) };
	uint64_t none = 0;
	siginfo_t info;

	if (syscall(__NR_process_vm_exec, pid, &ctx, 0, &info, &none, sizeof(none)) == 0)
		return 0;
	return errno;
}

/* A target that changes what access to it depends on when it is told to. */
static pid_t start_changing_target(void)
{
	pid_t pid = fork();
	char what;

	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_DUMPABLE, 1);
	while (read(order[0], &what, 1) == 1) {
		int failed = 0;

		if (what == 'u')
			failed = setresuid(USER, USER, USER);
		failed |= prctl(PR_SET_DUMPABLE, what != '0');
		what = failed ? '!' : '.';
		if (write(answer[1], &what, 1) != 1)
			break;
	}
	_exit(0);
}

static bool tell(char what)
{
	return write(order[1], &what, 1) == 1 && read(answer[0], &what, 1) == 1 && what == '.';
}

int main(void)
{
	bool allowed = true, refused = true;
	pid_t pid;

	if (syscall(__NR_process_vm_exec, 0, NULL, ~0ul, NULL, NULL, 0) == -1 && errno == ENOSYS)
		tap_skip_all("no process_vm_exec in this kernel");
	if (geteuid() != 0)
		tap_skip_all("only root can become several users");
	tap_plan(6);
	text = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memcpy(text, "\x0f\x05", 2);	/* syscall */
	mprotect(text, PAGE, PROT_READ | PROT_EXEC);
	if (pipe(order) || pipe(answer) || setresgid(USER, USER, USER) ||
	    setresuid(USER, USER, OTHER) || prctl(PR_SET_DUMPABLE, 1))
		return 1;
	pid = start_changing_target();

	tap(tell('1') && visit(pid) == EPERM, "not while the other can become another user");
	tap(tell('u') && visit(pid) == 0 && visit(pid) == 0, "one user's process visits another of his");
	for (int i = 0; i < ROUNDS; i++) {
		allowed &= visit(pid) == 0 && visit(pid) == 0 && tell('0');
		refused &= visit(pid) == EPERM && visit(pid) == EPERM && tell('1');
	}
	tap(allowed, "again and again while it can be dumped");
	tap(refused, "not once it can't be dumped");
	tap(visit(pid) == 0 && setresuid(OTHER, -1, -1) == 0 && visit(pid) == EPERM,
	    "not after becoming another user");
	tap(setresuid(USER, -1, -1) == 0 && visit(pid) == 0 && visit(pid) == 0,
	    "but as the old one");
	end_target(pid);
	return tap_end();
}

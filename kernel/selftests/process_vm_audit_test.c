// SPDX-License-Identifier: GPL-2.0-only
/* A system call that a guest wanted to make, and that wasn't made, is not in the audit log as if it had been. */
#define _GNU_SOURCE
#include <linux/audit.h>
#include <linux/netlink.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "tap.h"
#include "target.h"

#define PAGE 4096

/* Audited; neither the C library nor this program calls it but where it says so. */
#define NR SYS_getpriority

static int netlink;

static bool request(int type, const void *data, size_t len)
{
	struct {
		struct nlmsghdr header;
		char data[2048];
	} message = { .header = { NLMSG_LENGTH(len), type, NLM_F_REQUEST | NLM_F_ACK, 1, 0 } };
	struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };

	memcpy(message.data, data, len);
	return sendto(netlink, &message, message.header.nlmsg_len, 0, (void *)&kernel, sizeof(kernel)) > 0;
}

/* Records of the call that come in the next moments. */
static int records(void)
{
	struct pollfd ready = { netlink, POLLIN, 0 };
	char buffer[16384], wanted[32];
	int count = 0;

	snprintf(wanted, sizeof(wanted), " syscall=%ld ", (long)NR);
	while (poll(&ready, 1, 1000) > 0) {
		struct nlmsghdr *header = (void *)buffer;
		ssize_t len = recv(netlink, buffer, sizeof(buffer) - 1, 0);

		if (len < (ssize_t)sizeof(*header))
			continue;
		buffer[len] = 0;
		if (header->nlmsg_type == AUDIT_SYSCALL && strstr(NLMSG_DATA(header), wanted))
			count++;
	}
	return count;
}

static int audited(void)
{
	static const unsigned char code[] = { 0x0f, 0x05 };
	char *text = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct sigcontext ctx = { .rax = NR };
	uint64_t none = 0;
	siginfo_t info;
	pid_t pid;

	memcpy(text, code, sizeof(code));
	mprotect(text, PAGE, PROT_READ | PROT_EXEC);
	syscall(NR, 0, 0);
	tap(records() == 1, "a call that is made is in the log");

	pid = start_target();
	ctx.rip = (uint64_t)text;
	ctx.rsp = (uint64_t)(text + PAGE);
	tap(syscall(__NR_process_vm_exec, pid, &ctx, 0, &info, &none, 8) == 0 &&
	    info.si_signo == SIGSYS && info.si_syscall == NR, "a guest wants to make it");
	tap(records() == 0, "that isn't in the log");
	end_target(pid);
	return tap_end();
}

int main(void)
{
	struct audit_status status = { .mask = AUDIT_STATUS_ENABLED | AUDIT_STATUS_PID, .enabled = 1 };
	struct audit_rule_data rule = { .flags = AUDIT_FILTER_EXIT, .action = AUDIT_ALWAYS };
	int wait_status;
	pid_t pid;

	if (syscall(__NR_process_vm_exec, 0, NULL, ~0ul, NULL, NULL, 0) == -1 && errno == ENOSYS)
		tap_skip_all("no process_vm_exec in this kernel");
	netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_AUDIT);
	if (netlink < 0)
		tap_skip_all("no audit in this kernel");
	tap_plan(3);
	/* This process is the audit daemon now. */
	status.pid = getpid();
	rule.mask[AUDIT_WORD(NR)] = AUDIT_BIT(NR);
	request(AUDIT_SET, &status, sizeof(status));
	request(AUDIT_ADD_RULE, &rule, sizeof(rule));
	records();

	/* Only processes that have begun since then are audited. */
	pid = fork();
	if (pid == 0)
		exit(audited());
	return waitpid(pid, &wait_status, 0) != pid || wait_status;
}

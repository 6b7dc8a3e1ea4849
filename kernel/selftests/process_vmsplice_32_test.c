// SPDX-License-Identifier: GPL-2.0-only
/*
 * process_vmsplice() by a 32-bit program, whose struct iovec is half as long.
 *
 * Without a C library, so that no 32-bit one is needed: gcc -m32 -nostdlib -ffreestanding. The process that it reads is
 * itself.
 */
#define NR_EXIT 1
#define NR_READ 3
#define NR_WRITE 4
#define NR_GETPID 20
#define NR_PIPE 42
#define NR_PROCESS_VMSPLICE 548

#define EINVAL 22
#define EFAULT 14
#define ENOSYS 38

struct iovec32 {
	void *base;
	unsigned int len;
};

static int call(int nr, int a, int b, int c, int d, int e)
{
	int result;

	asm volatile("int $0x80" : "=a"(result) : "a"(nr), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e) : "memory");
	return result;
}

static void say(const char *text)
{
	int len = 0;

	while (text[len])
		len++;
	call(NR_WRITE, 1, (int)text, len, 0, 0);
}

static int failed;

static void tap(int ok, const char *name)
{
	static char number[] = "1 ";

	if (!ok) {
		say("not ");
		failed = 1;
	}
	say("ok ");
	say(number);
	number[0]++;
	say(name);
	say("\n");
}

static const char first[] = "first ", second[] = "second";

static int vmsplice(int pid, int fd, const struct iovec32 *iov, unsigned int nr, unsigned int flags)
{
	return call(NR_PROCESS_VMSPLICE, pid, fd, (int)iov, nr, flags);
}

void _start(void)
{
	struct iovec32 iov[2] = { { (void *)first, 6 }, { (void *)second, 6 } };
	struct iovec32 many[16];
	int pid = call(NR_GETPID, 0, 0, 0, 0, 0);
	char bytes[64];
	int fds[2], i, same = 1;

	if (vmsplice(0, -1, 0, 0, 0) == -ENOSYS) {
		say("TAP version 13\n1..0 # SKIP no process_vmsplice for 32-bit programs\n");
		call(NR_EXIT, 4, 0, 0, 0, 0);
	}
	say("TAP version 13\n1..5\n");
	call(NR_PIPE, (int)fds, 0, 0, 0, 0);
	tap(vmsplice(pid, fds[1], iov, 2, 0) == 12, "two segments of the 32-bit layout");
	tap(call(NR_READ, fds[0], (int)bytes, sizeof(bytes), 0, 0) == 12, "their bytes are in the pipe");
	for (i = 0; i < 12; i++)
		same &= bytes[i] == (i < 6 ? first[i] : second[i - 6]);
	tap(same, "they are the right ones, in order");
	/* More segments than there is room for on the stack of the kernel's call. */
	for (i = 0; i < 16; i++)
		many[i] = (struct iovec32){ (void *)first, 1 };
	tap(vmsplice(pid, fds[1], many, 16, 0) == 16, "many segments");
	iov[1].len = 0x80000000u;
	tap(vmsplice(pid, fds[1], iov, 2, 0) == -EINVAL, "a length that is negative in 32 bits");
	call(NR_EXIT, failed, 0, 0, 0, 0);
	__builtin_unreachable();
}

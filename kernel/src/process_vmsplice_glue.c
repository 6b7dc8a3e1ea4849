// SPDX-License-Identifier: GPL-2.0-only
/* The C that process_vmsplice() can't do without: its entry point, which is a macro, and inline functions. */
#include <linux/compat.h>
#include <linux/fsnotify.h>
#include <linux/mm.h>
#include <linux/syscalls.h>

#include "process_vmsplice_glue.h"

/* In process_vmsplice.rs. */
ssize_t process_vmsplice(pid_t pid, int fd, const struct iovec __user *iov,
			 unsigned long nr_segs, unsigned int flags);

SYSCALL_DEFINE5(process_vmsplice, pid_t, pid, int, fd,
		const struct iovec __user *, iov, unsigned long, nr_segs,
		unsigned int, flags)
{
	return process_vmsplice(pid, fd, iov, nr_segs, flags);
}

bool process_vm_in_compat_syscall(void)
{
	return in_compat_syscall();
}

void process_vm_put_page(struct page *page)
{
	put_page(page);
}

/* As splice(2) does when it has put something into a pipe. */
void process_vm_pipe_filled(struct pipe_inode_info *pipe, struct file *file)
{
	/* The new head is visible before the queue is looked at; pairs with the barrier in wait_event(). */
	smp_mb();
	if (waitqueue_active(&pipe->rd_wait))
		wake_up_interruptible(&pipe->rd_wait);
	kill_fasync(&pipe->fasync_readers, SIGIO, POLL_IN);
	fsnotify_modify(file);
}

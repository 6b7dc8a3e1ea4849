/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _PROCESS_VMSPLICE_GLUE_H
#define _PROCESS_VMSPLICE_GLUE_H

#include <linux/file.h>
#include <linux/fs.h>
#include <linux/pipe_fs_i.h>
#include <linux/sched/signal.h>
#include <linux/splice.h>
#include <linux/uio.h>

bool process_vm_in_compat_syscall(void);
void process_vm_put_page(struct page *page);
void process_vm_pipe_filled(struct pipe_inode_info *pipe, struct file *file);

#endif

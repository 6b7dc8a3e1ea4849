/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
#ifndef _UAPI_LINUX_PROCESS_VM_H
#define _UAPI_LINUX_PROCESS_VM_H

/* Flag of process_vmsplice(), beside those of splice(): pid is a pidfd. */
#define PROCESS_VM_PIDFD	0x100

#endif

/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _PROCESS_VM_GLUE_H
#define _PROCESS_VM_GLUE_H

#include <linux/mm.h>
#include <linux/pid.h>
#include <linux/ptrace.h>
#include <linux/sched.h>
#include <linux/sched/mm.h>
#include <uapi/linux/process_vm.h>

void process_vm_mmgrab(struct mm_struct *mm);
void process_vm_mmdrop(struct mm_struct *mm);
int process_vm_mmap_read_lock_killable(struct mm_struct *mm);
void process_vm_mmap_read_unlock(struct mm_struct *mm);

#endif

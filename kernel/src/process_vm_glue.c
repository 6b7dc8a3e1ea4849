// SPDX-License-Identifier: GPL-2.0-only
/* Inline functions that both calls use, for Rust, which can't see their bodies. */
#include <linux/mmap_lock.h>

#include "process_vm_glue.h"

void process_vm_mmgrab(struct mm_struct *mm)
{
	mmgrab(mm);
}

void process_vm_mmdrop(struct mm_struct *mm)
{
	mmdrop(mm);
}

int process_vm_mmap_read_lock_killable(struct mm_struct *mm)
{
	return mmap_read_lock_killable(mm);
}

void process_vm_mmap_read_unlock(struct mm_struct *mm)
{
	mmap_read_unlock(mm);
}

/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * process_vm_exec: code that runs in another process's address space.
 *
 * What the hooks in entry, signal, exit and mm code need to know. The rest is in mm/process_vm/, in Rust.
 */
#ifndef _LINUX_PROCESS_VM_EXEC_H
#define _LINUX_PROCESS_VM_EXEC_H

#include <linux/sched.h>

struct kernel_siginfo;
struct pt_regs;

enum vm_exec_place {
	/* No guest. */
	VM_EXEC_HOME,
	/* mm, pt_regs, segments and vector state are the guest's. */
	VM_EXEC_GUEST,
	/* The guest waits for work that the caller does between two of its instructions. */
	VM_EXEC_AWAY,
};

/* The begin of a task's state: what C code looks at. */
struct vm_exec {
	/* The task's own mm while task->mm is another's. Written by the task under its task_lock. */
	struct mm_struct *home_mm;
	/* Only the task itself looks at this. */
	enum vm_exec_place place;
	struct rcu_head rcu;
};

#ifdef CONFIG_PROCESS_VM_EXEC

/* Whether current is about to return to its guest, or came from there. */
static __always_inline bool vm_exec_in_guest(void)
{
	return unlikely(current->vm_exec) && current->vm_exec->place == VM_EXEC_GUEST;
}

static __always_inline bool vm_exec_is_away(void)
{
	return unlikely(current->vm_exec) && current->vm_exec->place == VM_EXEC_AWAY;
}

/* The mm that a task is known by. Needs task_lock or the RCU read lock. */
static inline struct mm_struct *task_home_mm(struct task_struct *task)
{
	struct vm_exec *state = READ_ONCE(task->vm_exec);
	struct mm_struct *home = state ? READ_ONCE(state->home_mm) : NULL;

	return home ?: READ_ONCE(task->mm);
}

void vm_exec_syscall(struct pt_regs *regs);
void vm_exec_vsyscall(struct pt_regs *regs, int nr, unsigned long caller);
bool vm_exec_claim(const struct kernel_siginfo *info);
bool vm_exec_interrupt(struct pt_regs *regs, unsigned long ti_work);
bool vm_exec_resume(struct pt_regs *regs);
void vm_exec_exit(void);

#else

static inline bool vm_exec_in_guest(void) { return false; }
static inline bool vm_exec_is_away(void) { return false; }
static inline struct mm_struct *task_home_mm(struct task_struct *task) { return READ_ONCE(task->mm); }
static inline void vm_exec_syscall(struct pt_regs *regs) { }
static inline void vm_exec_vsyscall(struct pt_regs *regs, int nr, unsigned long caller) { }
static inline bool vm_exec_claim(const struct kernel_siginfo *info) { return false; }
static inline bool vm_exec_interrupt(struct pt_regs *regs, unsigned long ti_work) { return false; }
static inline bool vm_exec_resume(struct pt_regs *regs) { return false; }
static inline void vm_exec_exit(void) { }

#endif
#endif

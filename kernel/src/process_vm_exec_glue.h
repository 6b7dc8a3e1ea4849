/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the Rust half of process_vm_exec calls: macros, inline functions, and what only per-processor headers have.
 *
 * Every function acts on current. Which half owns which decision is said in process_vm_exec.rs.
 */
#ifndef _PROCESS_VM_EXEC_GLUE_H
#define _PROCESS_VM_EXEC_GLUE_H

#include <linux/pid.h>
#include <linux/ptrace.h>
#include <linux/sched.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/process_vm_exec.h>
#include <asm/unistd.h>

/* Segment bases and selectors: those of the side that is not running. */
struct vm_exec_segments {
	unsigned long fsbase;
	unsigned long gsbase;
	unsigned short fs;
	unsigned short gs;
	unsigned short ds;
	unsigned short es;
};

/* Vector state. */
struct vm_exec_fpu {
	/* Made once for a task. */
	struct fpstate *guest;
	/* The caller's, while the guest's is in its place. */
	struct fpstate *home;
	/* PKRU of the side that is not running. */
	unsigned int pkru;
};

/* Fields of task_struct that hold addresses in the caller's memory. */
struct vm_exec_stash {
	void *rseq;
	void *utask;
	int mm_cid;
	unsigned long rseq_events;
};

long vm_exec_call(struct pt_regs *regs, int pid, unsigned long context, unsigned long flags,
		  unsigned long info, unsigned long mask, unsigned long sizemask);

/* Words that are read and written of a sigcontext. */
#define VM_EXEC_CONTEXT 26

bool vm_exec_get_mask(unsigned long *to, unsigned long from);
bool vm_exec_get_context(unsigned long *to, unsigned long from);
bool vm_exec_put_context(unsigned long to, const unsigned long *from);
bool vm_exec_put_info(unsigned long to, const struct kernel_siginfo *info);
bool vm_exec_is_refused(struct mm_struct *target);
unsigned int vm_exec_address_bits(void);
void vm_exec_pass_over(struct vm_exec *state, struct mm_struct *target);
void vm_exec_come_back(struct vm_exec *state);
void vm_exec_swap_segments(struct vm_exec_segments *other);
void vm_exec_hide(struct vm_exec_stash *stash);
void vm_exec_show(struct vm_exec_stash *stash);
void vm_exec_swap_probes(struct vm_exec_stash *stash);
void vm_exec_abort_probe(struct pt_regs *regs);
void vm_exec_free_probes(void);
void vm_exec_forget(struct vm_exec *state);
void vm_exec_catch(bool is_on);
bool vm_exec_is_compat(void);
void vm_exec_wake_up(void);
bool vm_exec_do_work(struct pt_regs *regs);

struct vm_exec **vm_exec_slot(void);
void vm_exec_last_fault(unsigned long *trapno, unsigned long *err, unsigned long *cr2);

unsigned long vm_exec_open_mask(unsigned long mask);
void vm_exec_close_mask(void);
bool vm_exec_handler_waits(void);
bool vm_exec_signal_pending(void);
int vm_exec_take_signal(unsigned long mask, struct kernel_siginfo *info);
void vm_exec_block_until_return(unsigned long blocked);
void vm_exec_restore_blocked(void);

int vm_exec_seccomp(struct pt_regs *regs);
long vm_exec_inner_call(struct pt_regs *regs, unsigned int nr);

int vm_exec_fpu_check(unsigned long area);
int vm_exec_fpu_make(struct vm_exec_fpu *fpu);
void vm_exec_fpu_free(struct vm_exec_fpu *fpu);
int vm_exec_fpu_start(struct vm_exec_fpu *fpu, unsigned long area);
void vm_exec_fpu_continue(struct vm_exec_fpu *fpu);
bool vm_exec_fpu_stop(struct vm_exec_fpu *fpu, unsigned long area, bool keep);

#endif

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

/* Vector state. */
struct vm_exec_fpu {
	/* Made once for a task. */
	struct fpstate *guest;
	/* The caller's, while the guest's is in its place. */
	struct fpstate *home;
	/* PKRU of the side that is not running. */
	unsigned int pkru;
};

long vm_exec_call(struct pt_regs *regs, int pid, unsigned long context, unsigned long flags,
		  unsigned long info, unsigned long mask, unsigned long sizemask);

/* Words of a sigcontext that mean something. */
#define VM_EXEC_CONTEXT 26

bool vm_exec_get_mask(unsigned long *to, unsigned long from);
bool vm_exec_get_context(unsigned long *to, unsigned long from);
bool vm_exec_put_context(unsigned long to, const unsigned long *from, bool is_fault);
bool vm_exec_put_word(unsigned long to, unsigned long word);
bool vm_exec_put_info(unsigned long to, const struct kernel_siginfo *info);
bool vm_exec_is_refused(struct mm_struct *target);
unsigned int vm_exec_address_bits(void);
void vm_exec_pass_over(struct vm_exec *state, struct mm_struct *target);
void vm_exec_come_back(struct vm_exec *state);
void vm_exec_abort_probe(struct pt_regs *regs);
void vm_exec_free_probes(void);
void vm_exec_do_work(struct pt_regs *regs);
unsigned long vm_exec_swap_gsbase(unsigned long next);
void vm_exec_load_selectors(unsigned short fs, unsigned short gs, unsigned short ds, unsigned short es);
void vm_exec_put_cred(const struct cred *cred);

void vm_exec_lock_signals(void);
void vm_exec_unlock_signals(void);
void vm_exec_restore_mask_later(void);
void vm_exec_restore_mask(void);

int vm_exec_seccomp(struct pt_regs *regs);
long vm_exec_inner_call(struct pt_regs *regs, unsigned int nr);

int vm_exec_fpu_make(struct vm_exec_fpu *fpu);
void vm_exec_fpu_free(struct vm_exec_fpu *fpu);
int vm_exec_fpu_start(struct vm_exec_fpu *fpu, unsigned long area);
void vm_exec_fpu_continue(struct vm_exec_fpu *fpu);
bool vm_exec_fpu_stop(struct vm_exec_fpu *fpu, unsigned long area, bool keep);

#endif

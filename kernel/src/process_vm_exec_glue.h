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
#include <linux/vmalloc.h>
#include <asm/fpu/signal.h>
#include <asm/pkru.h>
#include <asm/unistd.h>

long vm_exec_call(struct pt_regs *regs, int pid, unsigned long context, unsigned long flags,
		  unsigned long info, unsigned long mask, unsigned long sizemask);

/* Words of a sigcontext that mean something. */
#define VM_EXEC_CONTEXT 26

bool vm_exec_get_context(unsigned long *to, unsigned long from, unsigned long mask);
bool vm_exec_put_context(unsigned long to, const unsigned long *from, bool is_fault);
bool vm_exec_put_word(unsigned long to, unsigned long word);
bool vm_exec_put_info(unsigned long to, const struct kernel_siginfo *info);
bool vm_exec_is_possible(void);
bool vm_exec_is_refused(struct mm_struct *target);
void vm_exec_load_mm(struct mm_struct *mm, struct vm_exec *state, struct mm_struct *home);
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

bool vm_exec_has_pkru(void);
struct fpstate *vm_exec_fpu_make(void);
void vm_exec_fpu_install(struct fpstate *fps, bool keep);

#endif

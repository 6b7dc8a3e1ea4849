/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the Rust half of process_vmsplice() and process_vm_exec() sees of C:
 * read by bindgen, by way of rust/bindings/bindings_helper.h.
 */
#ifndef _PROCESS_VM_BINDINGS_H
#define _PROCESS_VM_BINDINGS_H

#ifdef CONFIG_PROCESS_VM_RUST
#include "process_vm_glue.h"

/* Where fields are: bindgen misplaces what is behind an empty structure with an alignment. */
#define FIELD(name, structure, field) const size_t RUST_CONST_HELPER_##name = offsetof(struct structure, field)
#define NO_FIELD(name) const size_t RUST_CONST_HELPER_##name = 0
FIELD(MM_USERS, mm_struct, mm_users);
#endif

#ifdef CONFIG_PROCESS_VM_EXEC
#include "process_vm_exec_glue.h"
#include <linux/cred.h>

FIELD(TASK_MM, task_struct, mm);
FIELD(TASK_VM_EXEC, task_struct, vm_exec);
FIELD(TASK_ALLOC_LOCK, task_struct, alloc_lock);
FIELD(TASK_THREAD_PID, task_struct, thread_pid);
FIELD(TASK_CRED, task_struct, cred);
FIELD(TASK_REAL_CRED, task_struct, real_cred);
FIELD(TASK_SIGNAL, task_struct, signal);
FIELD(TASK_SIGHAND, task_struct, sighand);
FIELD(TASK_PENDING, task_struct, pending.signal);
FIELD(TASK_BLOCKED, task_struct, blocked);
FIELD(TASK_REAL_BLOCKED, task_struct, real_blocked);
FIELD(TASK_SAVED_SIGMASK, task_struct, saved_sigmask);
FIELD(TASK_TRAP_NR, task_struct, thread.trap_nr);
FIELD(TASK_ERROR_CODE, task_struct, thread.error_code);
FIELD(TASK_CR2, task_struct, thread.cr2);
FIELD(SIGNAL_SHARED_PENDING, signal_struct, shared_pending.signal);
FIELD(TASK_FPSTATE, task_struct, thread.fpu.fpstate);
FIELD(FPSTATE_XFEATURES, fpstate, regs.xsave.header.xfeatures);
FIELD(FPSTATE_MXCSR, fpstate, regs.fxsave.mxcsr);
FIELD(MM_FLAGS, mm_struct, flags);
FIELD(CPU_VIRT_BITS, cpuinfo_x86, x86_virt_bits);
#ifdef CONFIG_MEMCG
FIELD(MM_OWNER, mm_struct, owner);
#endif
#ifdef CONFIG_RSEQ
FIELD(TASK_RSEQ, task_struct, rseq);
FIELD(TASK_RSEQ_EVENTS, task_struct, rseq_event_mask);
#else
NO_FIELD(TASK_RSEQ);
NO_FIELD(TASK_RSEQ_EVENTS);
#endif
#ifdef CONFIG_SCHED_MM_CID
FIELD(TASK_MM_CID, task_struct, mm_cid);
#else
NO_FIELD(TASK_MM_CID);
#endif
#ifdef CONFIG_UPROBES
FIELD(TASK_UTASK, task_struct, utask);
#else
NO_FIELD(TASK_UTASK);
#endif
#endif

#ifdef CONFIG_PROCESS_VMSPLICE
#include "process_vmsplice_glue.h"

/* A cast in its macro hides this one from bindgen. */
const fmode_t RUST_CONST_HELPER_FMODE_WRITE = FMODE_WRITE;
#endif

#endif

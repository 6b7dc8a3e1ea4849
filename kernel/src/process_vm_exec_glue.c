// SPDX-License-Identifier: GPL-2.0-only
/*
 * process_vm_exec: what Rust can't call, because it is a macro, an inline function or a field that some
 * configurations don't have.
 */
#include <linux/irqflags.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/mmu_context.h>
#include <linux/resume_user_mode.h>
#include <linux/seccomp.h>
#include <linux/syscalls.h>
#include <linux/uaccess.h>
#include <linux/uprobes.h>
#include <asm/fsgsbase.h>
#include <asm/mmu_context.h>
#include <asm/segment.h>
#include <asm/syscall.h>

#include "process_vm_exec_glue.h"

static_assert(_TIF_SIGPENDING == 1 << 2 && _TIF_NOTIFY_RESUME == 1 << 1 && _TIF_NOTIFY_SIGNAL == 1 << 17);

SYSCALL_DEFINE6(process_vm_exec, pid_t, pid, void __user *, context, unsigned long, flags, void __user *, info,
		const void __user *, mask, size_t, sizemask)
{
	return vm_exec_call(current_pt_regs(), pid, (unsigned long)context, flags, (unsigned long)info,
			    (unsigned long)mask, sizemask);
}

/*
 * Word by word: a string instruction takes longer to begin than this takes. Unrolled by hand, because the compiler leaves
 * loops with jumps out of assembly as they are.
 */
#define FOUR(each, n) each(n); each((n) + 1); each((n) + 2); each((n) + 3)
#define GET(n) unsafe_get_user(to[n], &word[n], fault)
#define PUT(n) unsafe_put_user(from[n], &word[n], fault)
#define ZERO(n) unsafe_put_user(0ul, &word[n], fault)

bool vm_exec_get_mask(unsigned long *to, unsigned long from)
{
	return !get_user(*to, (unsigned long __user *)from);
}

bool vm_exec_get_context(unsigned long *to, unsigned long from)
{
	const unsigned long __user *word = (const unsigned long __user *)from;

	if (!user_read_access_begin(word, VM_EXEC_CONTEXT * sizeof(*word)))
		return false;
	FOUR(GET, 0); FOUR(GET, 4); FOUR(GET, 8); FOUR(GET, 12); FOUR(GET, 16); FOUR(GET, 20); GET(24); GET(25);
	user_read_access_end();
	return true;
fault:
	user_read_access_end();
	return false;
}

bool vm_exec_put_context(unsigned long to, const unsigned long *from)
{
	unsigned long __user *word = (unsigned long __user *)to;

	if (!user_write_access_begin(word, VM_EXEC_CONTEXT * sizeof(*word)))
		return false;
	FOUR(PUT, 0); FOUR(PUT, 4); FOUR(PUT, 8); FOUR(PUT, 12); FOUR(PUT, 16); FOUR(PUT, 20); PUT(24); PUT(25);
	user_write_access_end();
	return true;
fault:
	user_write_access_end();
	return false;
}

/* What the kernel's structure lacks is zero. */
bool vm_exec_put_info(unsigned long to, const struct kernel_siginfo *info)
{
	const unsigned long *from = (const unsigned long *)info;
	unsigned long __user *word = (unsigned long __user *)to;

	static_assert(sizeof(*info) == 6 * sizeof(*word) && sizeof(siginfo_t) == 16 * sizeof(*word));
	if (!user_write_access_begin(word, sizeof(siginfo_t)))
		return false;
	FOUR(PUT, 0); PUT(4); PUT(5); ZERO(6); ZERO(7); FOUR(ZERO, 8); FOUR(ZERO, 12);
	user_write_access_end();
	return true;
fault:
	user_write_access_end();
	return false;
}

/* State of the caller or the target that would not survive a visit, or would act on the wrong side. */
bool vm_exec_is_refused(struct mm_struct *target)
{
#ifdef CONFIG_X86_USER_SHADOW_STACK
	if (current->thread.features)
		return true;
#endif
#ifdef CONFIG_IOMMU_MM_DATA
	if (current->pasid_activated || mm_valid_pasid(target) || mm_valid_pasid(current->mm))
		return true;
#endif
	return target == current->mm || target->task_size != TASK_SIZE_MAX ||
	       test_thread_flag(TIF_ADDR32) || test_thread_flag(TIF_IO_BITMAP) || current->thread.iopl_emul ||
	       !boot_cpu_has(X86_FEATURE_FSGSBASE) || cpu_feature_enabled(X86_FEATURE_XENPV);
}

unsigned int vm_exec_address_bits(void)
{
	return boot_cpu_data.x86_virt_bits;
}

static void load_mm(struct vm_exec *state, struct mm_struct *mm, struct mm_struct *home)
{
	struct task_struct *task = current;
	struct mm_struct *from = task->mm;

	/* As kthread_use_mm(). The lock is also what task_home_mm() relies on. */
	task_lock(task);
	local_irq_disable();
	task->active_mm = mm;
	task->mm = mm;
	WRITE_ONCE(state->home_mm, home);
	membarrier_update_current_mm(mm);
	switch_mm_irqs_off(from, mm, task);
	local_irq_enable();
#ifdef CONFIG_MEMCG
	/* All that remained of an owner's threads were away when it looked for an heir. */
	if (!home && !mm->owner)
		WRITE_ONCE(mm->owner, task);
#endif
	task_unlock(task);
	lru_gen_use_mm(mm);
}

/* No concurrency id is in use while away: nothing there is allowed to depend on one. */
void vm_exec_pass_over(struct vm_exec *state, struct mm_struct *target)
{
	sched_mm_cid_before_execve(current);
	load_mm(state, target, current->mm);
}

void vm_exec_come_back(struct vm_exec *state)
{
	struct mm_struct *target = current->mm;

	load_mm(state, state->home_mm, NULL);
	sched_mm_cid_after_execve(current);
	/* We may have been made its owner; that must be somebody who stays. */
	mm_update_next_owner(target);
}

/* Out of line, and out of reach of tracing: in between the per-cpu base is the wrong one. */
static noinstr unsigned long swap_gsbase(unsigned long next)
{
	unsigned long previous;

	native_swapgs();
	previous = rdgsbase();
	wrgsbase(next);
	native_swapgs();
	return previous;
}

void vm_exec_swap_segments(struct vm_exec_segments *other)
{
	struct vm_exec_segments next = *other;
	unsigned long flags;

	savesegment(fs, other->fs);
	savesegment(gs, other->gs);
	savesegment(ds, other->ds);
	savesegment(es, other->es);
	other->fsbase = rdfsbase();
	if (unlikely(other->fs | next.fs))
		loadsegment(fs, next.fs);
	if (unlikely(other->ds | next.ds))
		loadsegment(ds, next.ds);
	if (unlikely(other->es | next.es))
		loadsegment(es, next.es);
	wrfsbase(next.fsbase);
	if (unlikely(other->gs | next.gs) || cpu_feature_enabled(X86_FEATURE_FRED)) {
		other->gsbase = x86_gsbase_read_cpu_inactive();
		load_gs_index(next.gs);
		x86_gsbase_write_cpu_inactive(next.gsbase);
		return;
	}
	local_irq_save(flags);
	other->gsbase = swap_gsbase(next.gsbase);
	local_irq_restore(flags);
}

/* The kernel writes to these addresses on its own account; while away they are somebody else's. */
void vm_exec_hide(struct vm_exec_stash *stash)
{
#ifdef CONFIG_RSEQ
	stash->rseq = (__force void *)current->rseq;
	current->rseq = NULL;
	stash->rseq_events = xchg(&current->rseq_event_mask, 0);
#ifdef CONFIG_SCHED_MM_CID
	stash->mm_cid = current->mm_cid;
#endif
#endif
}

void vm_exec_show(struct vm_exec_stash *stash)
{
#ifdef CONFIG_RSEQ
	bool is_stale = current->rseq_event_mask;

#ifdef CONFIG_SCHED_MM_CID
	is_stale |= stash->mm_cid != current->mm_cid;
#endif
	current->rseq = (__force struct rseq __user *)stash->rseq;
	if (stash->rseq_events)
		xchg(&current->rseq_event_mask, stash->rseq_events | current->rseq_event_mask);
	if (is_stale)
		rseq_set_notify_resume(current);
#endif
}

void vm_exec_swap_probes(struct vm_exec_stash *stash)
{
#ifdef CONFIG_UPROBES
	struct uprobe_task *mine = current->utask;

	current->utask = stash->utask;
	stash->utask = mine;
#endif
}

/*
 * A guest that is in the middle of a probed instruction, which runs from a copy elsewhere, is put to where it was; the probe
 * is met again when it goes on.
 */
void vm_exec_abort_probe(struct pt_regs *regs)
{
#ifdef CONFIG_UPROBES
	struct uprobe_task *probe = current->utask;
	unsigned long done;

	if (likely(!probe || !probe->active_uprobe))
		return;
	done = regs->ip - probe->xol_vaddr;
	probe->state = UTASK_SSTEP_TRAPPED;
	uprobe_notify_resume(regs);
	/* After a system call, which is not made again. */
	regs->ip += done;
#endif
}

void vm_exec_free_probes(void)
{
	uprobe_free_utask(current);
}

void vm_exec_forget(struct vm_exec *state)
{
	task_lock(current);
	current->vm_exec = NULL;
	task_unlock(current);
	kfree_rcu(state, rcu);
}

/* Whether system calls are the guest's. */
void vm_exec_catch(bool is_on)
{
	if (is_on)
		set_syscall_work(VM_EXEC);
	else
		clear_syscall_work(VM_EXEC);
}

/* Whether the guest came by a 32-bit entry. Nothing after this may take the caller's own call for one. */
bool vm_exec_is_compat(void)
{
	bool is_compat = current_thread_info()->status & TS_COMPAT;

	current_thread_info()->status &= ~TS_COMPAT;
	return is_compat;
}

/* Makes the way to user mode look for what was claimed. */
void vm_exec_wake_up(void)
{
	set_thread_flag(TIF_NOTIFY_RESUME);
}

bool vm_exec_do_work(struct pt_regs *regs)
{
	if (!test_thread_flag(TIF_NOTIFY_RESUME))
		return false;
	resume_user_mode_work(regs);
	return true;
}

/* Fields of task_struct are not for Rust: bindgen misplaces what is behind an empty structure with an alignment. */
struct vm_exec **vm_exec_slot(void)
{
	return &current->vm_exec;
}

void vm_exec_last_fault(unsigned long *trapno, unsigned long *err, unsigned long *cr2)
{
	*trapno = current->thread.trap_nr;
	*err = current->thread.error_code;
	*cr2 = current->thread.cr2;
}

/* Returns what was blocked before. */
unsigned long vm_exec_open_mask(unsigned long mask)
{
	unsigned long blocked;

	spin_lock_irq(&current->sighand->siglock);
	blocked = current->blocked.sig[0];
	current->real_blocked.sig[0] = mask;
	current->blocked.sig[0] &= ~mask;
	recalc_sigpending();
	spin_unlock_irq(&current->sighand->siglock);
	return blocked;
}

void vm_exec_close_mask(void)
{
	spin_lock_irq(&current->sighand->siglock);
	sigemptyset(&current->real_blocked);
	spin_unlock_irq(&current->sighand->siglock);
}

/* Whether a signal is pending whose handler would run. */
bool vm_exec_handler_waits(void)
{
	unsigned long pending;
	bool waits = false;
	int signal;

	spin_lock_irq(&current->sighand->siglock);
	pending = current->pending.signal.sig[0] | current->signal->shared_pending.signal.sig[0];
	pending &= ~current->blocked.sig[0];
	for_each_set_bit(signal, &pending, _NSIG) {
		__sighandler_t handler = current->sighand->action[signal].sa.sa_handler;

		waits |= handler != SIG_DFL && handler != SIG_IGN;
	}
	spin_unlock_irq(&current->sighand->siglock);
	return waits;
}

bool vm_exec_signal_pending(void)
{
	return signal_pending(current);
}

int vm_exec_take_signal(unsigned long mask, struct kernel_siginfo *info)
{
	sigset_t others = { .sig = { ~mask } };
	enum pid_type type;
	int signal;

	spin_lock_irq(&current->sighand->siglock);
	signal = dequeue_signal(&others, info, &type);
	spin_unlock_irq(&current->sighand->siglock);
	return signal;
}

/* As sigsuspend(2): a handler's frame has the caller's mask, and so has the task if there is none. */
void vm_exec_block_until_return(unsigned long blocked)
{
	current->saved_sigmask.sig[0] = blocked;
	set_restore_sigmask();
}

void vm_exec_restore_blocked(void)
{
	restore_saved_sigmask();
}

/* The registers are current's: passed, so that Rust knows that they are looked at and changed. */
int vm_exec_seccomp(struct pt_regs *regs)
{
	return secure_computing();
}

long vm_exec_inner_call(struct pt_regs *regs, unsigned int nr)
{
	return x64_sys_call(regs, nr);
}

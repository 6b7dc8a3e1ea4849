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

SYSCALL_DEFINE6(process_vm_exec, pid_t, pid, void __user *, context, unsigned long, flags, void __user *, info,
		const void __user *, mask, size_t, sizemask)
{
	return vm_exec_call(current_pt_regs(), pid, (unsigned long)context, flags, (unsigned long)info,
			    (unsigned long)mask, sizemask);
}

/*
 * Word by word: a string instruction takes longer to begin than this takes. By two instructions each, which the user access
 * macros are not in all compilers, and unrolled by hand, because loops with jumps out of assembly are left as they are.
 */
#define MOVE(to, from, n, user)								\
	asm goto("1: mov %c[offset](%[source]), %%rax\n2: mov %%rax, %c[offset](%[sink])\n"	\
		 _ASM_EXTABLE_UA(user, %l[fault])					\
		 :: [source] "r" (from), [sink] "r" (to), [offset] "i" ((n) * 8)	\
		 : "rax", "memory" : fault)
#define FOUR(each, n) each(n); each((n) + 1); each((n) + 2); each((n) + 3)
#define GET(n) MOVE(to, word, n, 1b)
#define PUT(n) MOVE(word, from, n, 2b)
#define ZERO(n) unsafe_put_user(0ul, &word[n], fault)

/* Registers, flags, fpstate and the two bases, all that a guest is made of; and the mask, behind them. */
bool vm_exec_get_context(unsigned long *to, unsigned long from, unsigned long mask)
{
	const unsigned long __user *word = (const unsigned long __user *)from;

	if (!user_read_access_begin(word, VM_EXEC_CONTEXT * sizeof(*word)))
		return false;
	FOUR(GET, 0); FOUR(GET, 4); FOUR(GET, 8); FOUR(GET, 12); GET(16); GET(17); GET(23); GET(24); GET(25);
	user_read_access_end();
	word = (const unsigned long __user *)mask;
	to += VM_EXEC_CONTEXT;
	if (!user_read_access_begin(word, sizeof(*word)))
		return false;
	GET(0);
	user_read_access_end();
	return true;
fault:
	user_read_access_end();
	return false;
}

/* Registers, flags, selectors and the two bases; of a fault what it was. */
bool vm_exec_put_context(unsigned long to, const unsigned long *from, bool is_fault)
{
	unsigned long __user *word = (unsigned long __user *)to;

	if (!user_write_access_begin(word, VM_EXEC_CONTEXT * sizeof(*word)))
		return false;
	FOUR(PUT, 0); FOUR(PUT, 4); FOUR(PUT, 8); FOUR(PUT, 12); PUT(16); PUT(17); PUT(18); PUT(24); PUT(25);
	if (is_fault) {
		PUT(19); PUT(20); PUT(22);
	}
	user_write_access_end();
	return true;
fault:
	user_write_access_end();
	return false;
}

bool vm_exec_put_word(unsigned long to, unsigned long word)
{
	return !put_user(word, (unsigned long __user *)to);
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
	       test_thread_flag(TIF_ADDR32) || test_thread_flag(TIF_IO_BITMAP) || current->thread.iopl_emul;
}

/* What every visit takes of the processor. */
bool vm_exec_is_possible(void)
{
	return boot_cpu_has(X86_FEATURE_FSGSBASE) && boot_cpu_has(X86_FEATURE_XSAVE) &&
	       !cpu_feature_enabled(X86_FEATURE_XENPV);
}

/* As kthread_use_mm(). The lock is also what task_home_mm() relies on. */
void vm_exec_load_mm(struct mm_struct *mm, struct vm_exec *state, struct mm_struct *home)
{
	struct mm_struct *from = current->mm;

	task_lock(current);
	local_irq_disable();
	current->active_mm = mm;
	current->mm = mm;
	WRITE_ONCE(state->home_mm, home);
	membarrier_update_current_mm(mm);
	switch_mm_irqs_off(from, mm, current);
	local_irq_enable();
#ifdef CONFIG_MEMCG
	/* All that remained of an owner's threads were away when it looked for an heir. */
	if (!home && !mm->owner)
		WRITE_ONCE(mm->owner, current);
#endif
	task_unlock(current);
	lru_gen_use_mm(mm);
}

bool vm_exec_has_pkru(void)
{
	return cpu_feature_enabled(X86_FEATURE_OSPKE);
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

/* The base of user mode; returns what it was. */
unsigned long vm_exec_swap_gsbase(unsigned long next)
{
	unsigned long previous;

	if (cpu_feature_enabled(X86_FEATURE_FRED)) {
		previous = x86_gsbase_read_cpu_inactive();
		x86_gsbase_write_cpu_inactive(next);
		return previous;
	}
	/* They are on wherever this is called. */
	local_irq_disable();
	previous = swap_gsbase(next);
	local_irq_enable();
	return previous;
}

/* Those of the caller may be gone from its tables by now; then it gets none. */
void vm_exec_load_selectors(unsigned short fs, unsigned short gs, unsigned short ds, unsigned short es)
{
	loadsegment(fs, fs);
	loadsegment(ds, ds);
	loadsegment(es, es);
	load_gs_index(gs);
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

/* After a look at TIF_NOTIFY_RESUME. */
void vm_exec_do_work(struct pt_regs *regs)
{
	resume_user_mode_work(regs);
}

void vm_exec_lock_signals(void)
{
	spin_lock_irq(&current->sighand->siglock);
}

void vm_exec_unlock_signals(void)
{
	spin_unlock_irq(&current->sighand->siglock);
}

/* As sigsuspend(2), which has put the mask into saved_sigmask. */
void vm_exec_restore_mask_later(void)
{
	set_restore_sigmask();
}

void vm_exec_restore_mask(void)
{
	restore_saved_sigmask();
}

void vm_exec_put_cred(const struct cred *cred)
{
	put_cred(cred);
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

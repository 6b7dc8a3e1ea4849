// SPDX-License-Identifier: GPL-2.0-only
/*
 * process_vm_exec: two vector states for one task.
 *
 * fpu->fpstate points to the state of the side that runs, as KVM does it for its guests. C because the accessors
 * are inline functions of headers that belong to arch/x86/kernel/fpu.
 */
#include <linux/uaccess.h>
#include <linux/vmalloc.h>
#include <asm/fpu/api.h>
#include <asm/fpu/sched.h>
#include <asm/fpu/signal.h>
#include <asm/fpu/types.h>
#include <asm/pkru.h>

#include "../../arch/x86/kernel/fpu/context.h"
#include "../../arch/x86/kernel/fpu/internal.h"
#include "../../arch/x86/kernel/fpu/xstate.h"
#include "process_vm_exec_glue.h"

static unsigned int area_size(void)
{
	return fpu_user_cfg.default_size + FP_XSTATE_MAGIC2_SIZE;
}

/* Makes the guest's buffer. */
int vm_exec_fpu_make(struct vm_exec_fpu *fpu)
{
	struct fpstate *fps;

	vm_exec_fpu_free(fpu);
	fps = vzalloc(ALIGN(offsetof(struct fpstate, regs), 64) + fpu_kernel_cfg.default_size);
	if (!fps)
		return -ENOMEM;
	fps->size = fpu_kernel_cfg.default_size;
	fps->user_size = fpu_user_cfg.default_size;
	fps->xfeatures = fpu_kernel_cfg.default_features;
	fps->user_xfeatures = fpu_user_cfg.default_features;
	fps->xfd = init_fpstate.xfd;
	fpstate_init_user(fps);
	fpu->guest = fps;
	return 0;
}

void vm_exec_fpu_free(struct vm_exec_fpu *fpu)
{
	vfree(fpu->guest);
	fpu->guest = NULL;
}

/*
 * fpregs_lock() keeps softirqs away, which may use the registers; so does this, and takes less: interrupts are on wherever
 * these functions are called.
 */
static void lock(void)
{
	local_irq_disable();
}

static void unlock(void)
{
	local_irq_enable();
}

static void install(struct fpstate *fps)
{
	struct fpu *fpu = &current->thread.fpu;

	fpu->fpstate = fps;
	__fpu_invalidate_fpregs_state(fpu);
	set_thread_flag(TIF_NEED_FPU_LOAD);
}

static void save(void)
{
	if (!test_thread_flag(TIF_NEED_FPU_LOAD))
		save_fpregs_to_fpstate(&current->thread.fpu);
}

static void clean(struct fpstate *fps)
{
	/* Whatever is not in use is loaded as its initial state; only MXCSR may be loaded nevertheless. */
	fps->regs.xsave.header.xfeatures = 0;
	fps->regs.fxsave.mxcsr = MXCSR_DEFAULT;
}

/*
 * The guest's state from now on: that of the area, or a clean one. PKRU changes last: user memory can be out of reach
 * after that.
 */
int vm_exec_fpu_start(struct vm_exec_fpu *fpu, unsigned long area)
{
	lock();
	save();
	fpu->home = current->thread.fpu.fpstate;
	clean(fpu->guest);
	install(fpu->guest);
	unlock();

	fpu->pkru = read_pkru();
	if (!area) {
		write_pkru(pkru_get_init_value());
	} else if (!fpu__restore_sig((void __user *)area, 0)) {
		vm_exec_fpu_stop(fpu, 0, false);
		return -EINVAL;
	}
	return 0;
}

/* The guest's state again, as it was when it was stopped with keep. */
void vm_exec_fpu_continue(struct vm_exec_fpu *fpu)
{
	u32 pkru = fpu->pkru;

	lock();
	save();
	fpu->home = current->thread.fpu.fpstate;
	install(fpu->guest);
	unlock();
	fpu->pkru = read_pkru();
	write_pkru(pkru);
}

/*
 * The caller's state from now on. The guest's goes to the area, if there is one; false if that can't be written.
 * Needs the caller's mm.
 */
bool vm_exec_fpu_stop(struct vm_exec_fpu *fpu, unsigned long area, bool keep)
{
	void __user *buffer = (void __user *)area;
	struct fpstate *fps = current->thread.fpu.fpstate;
	u32 pkru = read_pkru();
	bool stored = true;

	write_pkru(fpu->pkru);
	fpu->pkru = pkru;
	/* With a dynamic feature in use, it is larger than what the caller has provided. */
	if (area)
		stored = fps->user_size == fpu_user_cfg.default_size &&
			 copy_fpstate_to_sigframe(buffer, buffer, area_size(), pkru);
	lock();
	if (keep)
		save();
	install(fpu->home);
	unlock();
	fpu->home = NULL;
	if (fps != fpu->guest) {
		/* See fpstate_realloc(), which leaves a buffer alone that it has not made. */
		vfree(fpu->guest);
		fpu->guest = fps;
	}
	return stored;
}

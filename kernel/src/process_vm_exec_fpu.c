// SPDX-License-Identifier: GPL-2.0-only
/*
 * process_vm_exec: what vector states are made of. C because the accessors are inline functions of headers that belong to
 * arch/x86/kernel/fpu.
 */
#include <linux/irqflags.h>
#include <linux/vmalloc.h>
#include <asm/fpu/api.h>
#include <asm/fpu/sched.h>
#include <asm/fpu/signal.h>

#include "../../arch/x86/kernel/fpu/context.h"
#include "../../arch/x86/kernel/fpu/internal.h"
#include "../../arch/x86/kernel/fpu/xstate.h"
#include "process_vm_exec_glue.h"

struct fpstate *vm_exec_fpu_make(void)
{
	struct fpstate *fps = vzalloc(ALIGN(offsetof(struct fpstate, regs), 64) + fpu_kernel_cfg.default_size);

	if (!fps)
		return NULL;
	fps->size = fpu_kernel_cfg.default_size;
	fps->user_size = fpu_user_cfg.default_size;
	fps->xfeatures = fpu_kernel_cfg.default_features;
	fps->user_xfeatures = fpu_user_cfg.default_features;
	fps->xfd = init_fpstate.xfd;
	fpstate_init_user(fps);
	return fps;
}

/*
 * The task's state is in fps from now on. What is in the registers is kept in the old one, if it is worth that.
 *
 * fpregs_lock() keeps softirqs away, which may use the registers. So does this, and takes less: interrupts are on wherever
 * it is called.
 */
void vm_exec_fpu_install(struct fpstate *fps, bool keep)
{
	struct fpu *fpu = &current->thread.fpu;

	local_irq_disable();
	if (keep && !test_thread_flag(TIF_NEED_FPU_LOAD))
		save_fpregs_to_fpstate(fpu);
	fpu->fpstate = fps;
	__fpu_invalidate_fpregs_state(fpu);
	set_thread_flag(TIF_NEED_FPU_LOAD);
	local_irq_enable();
}

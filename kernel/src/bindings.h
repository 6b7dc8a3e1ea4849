/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the Rust half of process_vmsplice() and process_vm_exec() sees of C:
 * read by bindgen, by way of rust/bindings/bindings_helper.h.
 */
#ifndef _PROCESS_VM_BINDINGS_H
#define _PROCESS_VM_BINDINGS_H

#ifdef CONFIG_PROCESS_VM_RUST
#include "process_vm_glue.h"
#endif

#ifdef CONFIG_PROCESS_VM_EXEC
#include "process_vm_exec_glue.h"
#endif

#ifdef CONFIG_PROCESS_VMSPLICE
#include "process_vmsplice_glue.h"

/* A cast in its macro hides this one from bindgen. */
const fmode_t RUST_CONST_HELPER_FMODE_WRITE = FMODE_WRITE;
#endif

#endif

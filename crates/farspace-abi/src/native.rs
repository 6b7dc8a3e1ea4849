//! The two system calls of a kernel that has them (`kernel/include/uapi/linux/process_vm.h`).

/// Number of process_vmsplice on x86-64. No version of Linux has given it to anything else yet, so whoever calls it
/// asks first whether it is what it should be.
pub const NR_PROCESS_VMSPLICE: i64 = 548;
/// Number of process_vm_exec on x86-64.
pub const NR_PROCESS_VM_EXEC: i64 = 549;
/// PROCESS_VM_PIDFD, a flag of process_vmsplice: `pid` is a pidfd.
pub const PROCESS_VM_PIDFD: u32 = 0x100;

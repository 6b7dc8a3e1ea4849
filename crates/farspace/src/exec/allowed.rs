//! Syscall mode: one system call in the target's address space, made by the agent.
//!
//! Which calls those are, and what is done about descriptors and about calls that wait, is [`Target::syscall`]'s: this
//! only speaks its language of registers.
//!
//! [`Target::syscall`]: crate::Target::syscall

use std::ops::ControlFlow;

use farspace_abi::exec::SigContext;
use farspace_sys::signal;
use rustix::io::Errno;

use super::attachment::{Attachment, public};
use crate::remote::{Permit, make};

/// Makes the call that the registers describe; its result goes to RAX. `blocked` is the caller's own signal mask: all
/// signals are blocked here, and one that wouldn't be there ends a call that waits.
///
/// # Errors
///
/// EOPNOTSUPP: it isn't allowed; ESRCH: the target has ended.
pub(super) fn call(attachment: &Attachment, registers: &mut SigContext, blocked: u64) -> Result<(), Errno> {
    let SigContext { rax, rdi, rsi, rdx, r10, r8, r9, .. } = *registers;
    let args = [rdi, rsi, rdx, r10, r8, r9].map(Into::into);
    let mut go_on = || match signal::pending() & !blocked {
        0 => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    };
    let agent = attachment.agent();
    let returned = make(agent.pid(), agent, rax, args, Permit::Listed, &mut go_on);
    registers.rax = returned.map_err(|error| public(error.errno()))?.into_raw() as u64;
    Ok(())
}

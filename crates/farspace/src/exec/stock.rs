//! process_vm_exec by the agent: the checks of the system call, and the copies of what its arguments point to.
//!
//! Everything is copied in once and out once: what another thread does to the caller's structures meanwhile changes
//! what is run or is overwritten, and nothing else.
//!
//! Invariants: SAFETY.md, 14 and 21 to 23.

use farspace_abi::exec::{SigContext, SigInfo};
use farspace_exec::{Context, Outcome, Signals, Vector};
use farspace_sys::own;
use farspace_sys::signal::{self, Blocked};
use rustix::io::Errno;

use super::{ExecFlags, table};
use crate::backend::ExecCall;
use crate::raw;

/// Bytes of the kernel's sigset_t.
const SET_BYTES: usize = 8;
/// Signals that no mask has an effect on: SIGKILL and SIGSTOP.
const UNMASKABLE: u64 = 1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1);

/// One call.
///
/// # Errors
///
/// As [`process_vm_exec`](super::raw::process_vm_exec).
///
/// # Safety
///
/// As there.
pub(crate) unsafe fn vm_exec(call: &ExecCall) -> Result<(), Errno> {
    let flags = ExecFlags::from_bits(call.flags).ok_or(Errno::INVAL)?;
    if call.sizemask != SET_BYTES {
        return Err(Errno::INVAL);
    }
    let (mut context, mask) = read(call)?;
    if flags.contains(ExecFlags::SYSCALL) {
        let pid = target(call.pid, flags)?;
        let attachment = {
            let _blocked = Blocked::all(0);
            table::attached(pid)?
        };
        attachment.syscall(&mut context.registers)?;
        // SAFETY: as this function's.
        return unsafe { write(call, &context.registers, None) };
    }
    context.check()?;
    let mut vector = match context.registers.fpstate {
        0 => None,
        address => Some((address, read_vector(address)?)),
    };
    let pid = target(call.pid, flags)?;
    let blocked = Blocked::all(mask);
    let signals = Signals { mask, blocked: blocked.before() };
    let outcome = enter(pid, &mut context, vector.as_mut().map(|(_, state)| state), signals)?;
    if let Outcome::Signal(info) = outcome {
        context.info = info;
    }
    // SAFETY: the caller's promise for `context`, its `fpstate` and `info`. The mask is restored after this.
    unsafe {
        if let Some((address, state)) = &vector {
            let (legacy, extended) = (Vector::LEGACY, state.extended());
            let second = address.wrapping_add(extended.start as u64);
            own::write(&[(*address, &state.bytes()[legacy]), (second, &state.bytes()[extended])])?;
        }
        if matches!(outcome, Outcome::Interrupted) {
            write(call, &context.registers, None)?;
            return Err(Errno::INTR);
        }
        write(call, &context.registers, Some(&context.info))
    }
}

/// Runs the guest. A vector state that was taken is changed in place.
fn enter(
    pid: i32,
    context: &mut Context,
    vector: Option<&mut Vector>,
    signals: Signals,
) -> Result<Outcome, Errno> {
    let attachment = table::attached(pid)?;
    // Pending already: not one instruction of the guest is run.
    if let Some(bytes) = signal::take(signals.mask) {
        return Ok(Outcome::Signal(SigInfo { bytes }));
    }
    let mut guest = attachment.guest()?;
    let error = |error: farspace_exec::Error| match error.errno() {
        // It didn't stop when told to, and was killed.
        Errno::TIMEDOUT => Errno::SRCH,
        errno => errno,
    };
    guest.watch(signals.mask)?;
    guest.vcpu.load(context, vector.as_deref()).map_err(error)?;
    let outcome = guest.run(signals).map_err(error)?;
    guest.vcpu.store(context, vector).map_err(error)?;
    attachment.give_back(guest);
    Ok(outcome)
}

/// The target's pid. Whether it is there and may be accessed turns out with the attachment.
fn target(pid: i32, flags: ExecFlags) -> Result<i32, Errno> {
    if flags.contains(ExecFlags::PIDFD) { raw::behind_pidfd(pid) } else { raw::plain(pid) }
}

fn read(call: &ExecCall) -> Result<(Context, u64), Errno> {
    let mut context = Context::default();
    if call.are_references {
        // SAFETY: valid for reads, and nobody else's meanwhile.
        let mask = unsafe {
            context.registers = *call.context;
            *call.mask
        };
        return Ok((context, mask & !UNMASKABLE));
    }
    let mut mask = [0; SET_BYTES];
    let registers = &raw mut context.registers;
    // SAFETY: the structure is exclusive, has no padding (asserted in farspace-abi), and any bytes are a value.
    let registers = unsafe { std::slice::from_raw_parts_mut(registers.cast(), size_of::<SigContext>()) };
    own::read(&mut [(call.context as u64, registers), (call.mask as u64, &mut mask)])?;
    Ok((context, u64::from_ne_bytes(mask) & !UNMASKABLE))
}

/// Writes what the caller gets back.
///
/// # Safety
///
/// As [`vm_exec`].
unsafe fn write(call: &ExecCall, registers: &SigContext, info: Option<&SigInfo>) -> Result<(), Errno> {
    // SAFETY: the caller's promise; references are valid for writes, and nobody else's meanwhile.
    unsafe {
        if call.are_references {
            *call.context = *registers;
            if let Some(info) = info {
                *call.info = *info;
            }
            return Ok(());
        }
        let registers = (call.context as u64, bytes_of(registers));
        match info {
            None => own::write(&[registers]),
            Some(info) => own::write(&[registers, (call.info as u64, &info.bytes)]),
        }
    }
}

fn read_vector(address: u64) -> Result<Vector, Errno> {
    let mut head = [0; Vector::HEAD];
    own::read(&mut [(address, &mut head)])?;
    // With the magic number behind it.
    let mut bytes = vec![0; Vector::len_of(&head)? + 4];
    own::read(&mut [(address, &mut bytes)])?;
    Vector::new(bytes)
}

fn bytes_of(registers: &SigContext) -> &[u8] {
    // SAFETY: a structure without padding (asserted in farspace-abi), borrowed as long as the result.
    unsafe { std::slice::from_raw_parts((&raw const *registers).cast(), size_of::<SigContext>()) }
}

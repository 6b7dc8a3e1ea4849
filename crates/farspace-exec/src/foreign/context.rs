//! Registers between a `sigcontext` of the caller's and a signal frame.

use farspace_abi::exec::{SYS_USER_DISPATCH, SigContext, SigInfo};
use farspace_abi::vcpu::{KICK, area};
use rustix::io::Errno;

use super::start;
use crate::arch::frame::{self, USER_CS, USER_SS};
use crate::area::{Area, FrameAt};

/// CS of 32-bit user code (arch/x86/include/asm/segment.h).
const USER_CS_32: u64 = 0x23;
/// Number of the exception that a page fault is: the only one that sets CR2.
const PAGE_FAULT: u64 = 14;
/// SYS_SECCOMP: a system call that the filter has caught.
const SYS_SECCOMP: i32 = 1;

/// A guest's registers, as the caller gave them and gets them back.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context {
    /// `fpstate` is not followed.
    pub registers: SigContext,
    /// Filled where there is an event.
    pub info: SigInfo,
}

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// A system call, by whatever entry.
    Syscall,
    /// A fault or trap.
    Fault,
    /// An interruption.
    Kick,
    /// A signal that somebody has sent to the task: none of the guest's doing.
    Noise,
}

impl Context {
    /// Checks what would otherwise kill the task: addresses that the processor doesn't take.
    ///
    /// # Errors
    ///
    /// EINVAL.
    pub fn check(&self) -> Result<(), Errno> {
        let registers = &self.registers;
        let [fs_base, gs_base, ..] = registers.reserved1;
        if [registers.rip, registers.rsp, fs_base, gs_base].into_iter().all(is_canonical) {
            Ok(())
        } else {
            Err(Errno::INVAL)
        }
    }

    /// Puts the registers into a frame.
    pub(super) fn load(&self, area: &Area, frame: FrameAt) {
        let registers = &self.registers;
        for (at, value) in PLACES.iter().zip(values(registers)) {
            area.set_in_frame(frame, *at, value);
        }
        let code = if u64::from(registers.cs) == USER_CS_32 { USER_CS_32 } else { USER_CS };
        area.set_in_frame(frame, frame::SELECTORS, code | USER_SS << 48);
        area.set_in_frame(frame, frame::SIGMASK, start::blocked());
        area.set(area::RAX, registers.rax);
        area.set(area::LOAD_FS, registers.reserved1[0]);
        area.set(area::LOAD_GS, registers.reserved1[1]);
    }

    /// Takes the registers from a frame, and what it tells of the event.
    pub(super) fn store(&mut self, area: &Area, frame: FrameAt, cause: Cause) {
        let registers = &mut self.registers;
        for (at, place) in PLACES.iter().zip(places(registers)) {
            *place = area.in_frame(frame, *at);
        }
        let selectors = area.in_frame(frame, frame::SELECTORS).to_le_bytes();
        let selector = |index: usize| u16::from_le_bytes([selectors[2 * index], selectors[2 * index + 1]]);
        [registers.cs, registers.gs, registers.fs, registers.ss] =
            [selector(0), selector(1), selector(2), selector(3)];
        registers.reserved1[0] = area.get(area::FS_BASE);
        registers.reserved1[1] = area.get(area::GS_BASE);
        match cause {
            Cause::Syscall => {
                registers.rax = -i64::from(libc::ENOSYS) as u64;
                self.info = syscall_info(area, frame);
            }
            Cause::Fault => {
                registers.err = area.in_frame(frame, frame::ERR);
                registers.trapno = area.in_frame(frame, frame::TRAPNO);
                // Otherwise it is that of an earlier fault, perhaps of another guest.
                let is_page_fault = registers.trapno == PAGE_FAULT;
                registers.cr2 = if is_page_fault { area.in_frame(frame, frame::CR2) } else { 0 };
                for (index, word) in self.info.bytes.chunks_exact_mut(8).enumerate() {
                    word.copy_from_slice(&area.in_frame(frame, frame::SIGINFO + 8 * index).to_le_bytes());
                }
            }
            Cause::Kick | Cause::Noise => {}
        }
    }
}

/// What a frame is of.
pub(super) fn cause(area: &Area, frame: FrameAt) -> Cause {
    let signal = area.word_in_frame(frame, frame::siginfo::SIGNO) as i32;
    let code = area.word_in_frame(frame, frame::siginfo::CODE) as i32;
    match signal {
        KICK => Cause::Kick,
        libc::SIGSYS if code == SYS_USER_DISPATCH || code == SYS_SECCOMP => Cause::Syscall,
        // SI_USER and below: sent by a process (sigaction(2)).
        _ if code > 0 => Cause::Fault,
        _ => Cause::Noise,
    }
}

/// The same for whatever caught the call: si_signo, si_code, si_call_addr, si_syscall, si_arch, and zeros.
fn syscall_info(area: &Area, frame: FrameAt) -> SigInfo {
    let mut info = SigInfo::default();
    let mut put = |at: usize, bytes: &[u8]| info.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &libc::SIGSYS.to_le_bytes());
    put(8, &SYS_USER_DISPATCH.to_le_bytes());
    put(16, &area.in_frame(frame, frame::siginfo::ADDR).to_le_bytes());
    put(24, &area.word_in_frame(frame, frame::siginfo::SYSCALL).to_le_bytes());
    put(28, &area.word_in_frame(frame, frame::siginfo::ARCH).to_le_bytes());
    info
}

const PLACES: [usize; 18] = [
    frame::R8,
    frame::R9,
    frame::R10,
    frame::R11,
    frame::R12,
    frame::R13,
    frame::R14,
    frame::R15,
    frame::RDI,
    frame::RSI,
    frame::RBP,
    frame::RBX,
    frame::RDX,
    frame::RAX,
    frame::RCX,
    frame::RSP,
    frame::RIP,
    frame::RFLAGS,
];

/// The registers in the order of [`PLACES`].
fn places(all: &mut SigContext) -> [&mut u64; 18] {
    [
        &mut all.r8,
        &mut all.r9,
        &mut all.r10,
        &mut all.r11,
        &mut all.r12,
        &mut all.r13,
        &mut all.r14,
        &mut all.r15,
        &mut all.rdi,
        &mut all.rsi,
        &mut all.rbp,
        &mut all.rbx,
        &mut all.rdx,
        &mut all.rax,
        &mut all.rcx,
        &mut all.rsp,
        &mut all.rip,
        &mut all.eflags,
    ]
}

fn values(all: &SigContext) -> [u64; 18] {
    let mut copy = *all;
    places(&mut copy).map(|place| *place)
}

/// True for an address whose upper bits are copies of bit 47 (four-level page tables).
fn is_canonical(address: u64) -> bool {
    (address as i64) << 16 >> 16 == address as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_addresses() {
        for good in [0, 0x7fff_ffff_ffff, 0xffff_ffff_ff60_0000, 0xffff_8000_0000_0000] {
            assert!(is_canonical(good), "{good:#x}");
        }
        for bad in [1 << 47, 1 << 63, 0x1234_5678_9abc_def0, 0xffff_7fff_ffff_ffff] {
            assert!(!is_canonical(bad), "{bad:#x}");
        }
    }
}

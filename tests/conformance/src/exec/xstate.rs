//! Vector state: XSAVE areas as signal frames have them, and what is in them.
//!
//! Layout: Intel SDM volume 1, chapter 13; the kernel's marks in a frame: `struct _fpx_sw_bytes`,
//! arch/x86/include/uapi/asm/sigcontext.h.

use super::own::{self, Disposition};
use crate::case::Outcome;
use crate::world::{expect, expect_bytes};
use core::arch::asm;
use core::arch::x86_64::__cpuid_count;
use farspace_victims::pattern;
use libtest_mimic::Failed;
use std::sync::atomic::{AtomicUsize, Ordering};

/// x87 and SSE.
pub(super) const SSE: u64 = 3;
/// x87, SSE and AVX.
pub(super) const AVX: u64 = 7;
/// All that, and AVX-512's masks and registers.
pub(super) const AVX512: u64 = 0xe7;

/// Bytes set aside for an area; those with AMX tiles have about 11,000.
const ROOM: usize = 16 << 10;
/// Offsets in an area.
const MXCSR: usize = 24;
const ST: usize = 32;
const XMM: usize = 160;
const MAGIC: usize = 464;
const EXTENDED_SIZE: usize = 468;
const XSTATE_BV: usize = 512;
const FP_XSTATE_MAGIC1: u32 = 0x4650_5853;
/// The control word and MXCSR that a new program has.
const CLEAN_FCW: u16 = 0x37f;
pub(super) const CLEAN_MXCSR: u32 = 0x1f80;
/// A control word of double precision, and an MXCSR that flushes to zero: harmless, but not what a new program has.
const FILLED_FCW: u16 = 0x27f;
pub(super) const FILLED_MXCSR: u32 = 0x9fc0;

#[derive(Clone)]
#[repr(C, align(64))]
struct Aligned([u8; ROOM]);

/// An XSAVE area, in standard format.
#[derive(Clone)]
pub(super) struct Area(Box<Aligned>);

impl Area {
    /// Nothing but zeros.
    pub(super) fn zeroed() -> Self {
        Self(Box::new(Aligned([0; ROOM])))
    }

    /// The area of a signal frame of the calling thread.
    pub(super) fn of_frame() -> Result<Self, Failed> {
        static COPY_TO: AtomicUsize = AtomicUsize::new(0);
        extern "C" fn copy(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
            // SAFETY: the kernel passes a valid frame, whose area is as long as it says; the copy has ROOM bytes.
            unsafe {
                let from = (*context.cast::<libc::ucontext_t>()).uc_mcontext.fpregs.cast::<u8>();
                let len = match from.add(MAGIC).cast::<u32>().read_unaligned() {
                    FP_XSTATE_MAGIC1 => from.add(EXTENDED_SIZE).cast::<u32>().read_unaligned() as usize,
                    _ => 512,
                };
                from.copy_to(COPY_TO.load(Ordering::SeqCst) as *mut u8, len.min(ROOM));
            }
        }
        let mut area = Self::zeroed();
        COPY_TO.store(area.0.0.as_mut_ptr() as usize, Ordering::SeqCst);
        let handler = copy as *const () as libc::sighandler_t;
        let _handler = Disposition::set(libc::SIGUSR1, handler, libc::SA_SIGINFO)?;
        own::signal_thread(own::tid(), libc::SIGUSR1)?;
        let mark = u32::from_ne_bytes(area.bytes(MAGIC, 4).try_into().map_err(|_| "not a word")?);
        expect("the mark in a signal frame", &mark, &FP_XSTATE_MAGIC1)?;
        Ok(area)
    }

    /// An area with these bytes at its begin.
    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        let mut area = Self::zeroed();
        area.0.0[..bytes.len()].copy_from_slice(bytes);
        area
    }

    pub(super) fn addr(&self) -> u64 {
        self.0.0.as_ptr() as u64
    }

    pub(super) fn bytes(&self, offset: usize, len: usize) -> &[u8] {
        // Another address space may have written to it.
        std::hint::black_box(&self.0.0[offset..offset + len])
    }

    pub(super) fn all(&self) -> &[u8] {
        self.bytes(0, ROOM)
    }

    fn half(&self, offset: usize) -> u16 {
        u16::from_ne_bytes([self.bytes(offset, 1)[0], self.bytes(offset + 1, 1)[0]])
    }

    pub(super) fn mxcsr(&self) -> u32 {
        u32::from(self.half(MXCSR)) | u32::from(self.half(MXCSR + 2)) << 16
    }

    pub(super) fn set_mxcsr(&mut self, value: u32) {
        self.put(MXCSR, &value.to_ne_bytes());
    }

    fn put(&mut self, offset: usize, bytes: &[u8]) {
        self.0.0[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn in_use(&self) -> u64 {
        (0..8).fold(0, |bits, n| bits | u64::from(self.0.0[XSTATE_BV + n]) << (8 * n))
    }

    /// Puts a pattern into every register of these components.
    pub(super) fn fill(&mut self, components: u64, seed: u64) {
        self.put(0, &FILLED_FCW.to_ne_bytes());
        // No register is empty.
        self.put(2, &[0, 0, 0xff, 0]);
        self.put(6, &[0; 18]);
        self.set_mxcsr(FILLED_MXCSR);
        for n in 0..8 {
            // A normal number: the top bit of the significand set, an exponent in the middle.
            let significand = pattern::word(seed, n as u64) | 1 << 63;
            self.put(ST + 16 * n, &significand.to_ne_bytes());
            self.put(ST + 16 * n + 8, &(0x3ff0 + n as u16).to_ne_bytes());
            self.put(ST + 16 * n + 10, &[0; 6]);
        }
        self.put(XMM, &pattern::bytes(seed, 1 << 20, 256));
        for component in (2..8).filter(|n| components & 1 << n != 0) {
            let (offset, len) = place_of(component);
            self.put(offset, &pattern::bytes(seed, (component as u64) << 21, len));
        }
        let in_use = self.in_use() | components;
        self.put(XSTATE_BV, &in_use.to_ne_bytes());
    }

    /// The content of a component; where it isn't in use, its initial state.
    fn component(&self, component: usize) -> Vec<u8> {
        let is_used = self.in_use() & 1 << component != 0;
        match component {
            0 if is_used => {
                // Control, status, tags (the reserved byte apart), and ten bytes of each register.
                let registers = (0..8).flat_map(|n| self.bytes(ST + 16 * n, 10));
                self.bytes(0, 5).iter().chain(registers).copied().collect()
            }
            0 => {
                let mut clean = vec![0; 85];
                clean[..2].copy_from_slice(&CLEAN_FCW.to_ne_bytes());
                clean
            }
            _ => {
                let (offset, len) = place_of(component);
                if is_used { self.bytes(offset, len).to_vec() } else { vec![0; len] }
            }
        }
    }

    /// Compares components and MXCSR.
    pub(super) fn expect(&self, what: &str, components: u64, wanted: &Self) -> Outcome {
        expect(&format!("{what}: MXCSR"), &self.mxcsr(), &wanted.mxcsr())?;
        for component in (0..8).filter(|n| components & 1 << n != 0) {
            let (got, wanted) = (self.component(component), wanted.component(component));
            expect_bytes(&format!("{what}: component {component}"), &got, &wanted)?;
        }
        Ok(())
    }

    /// The state that a new program has.
    pub(super) fn clean() -> Self {
        let mut area = Self::zeroed();
        area.set_mxcsr(CLEAN_MXCSR);
        area
    }
}

/// Offset and length of a component (CPUID leaf 0xd).
fn place_of(component: usize) -> (usize, usize) {
    match component {
        1 => (XMM, 256),
        _ => {
            let leaf = cpuid(0xd, component as u32);
            (leaf.ebx as usize, leaf.eax as usize)
        }
    }
}

fn cpuid(leaf: u32, subleaf: u32) -> core::arch::x86_64::CpuidResult {
    __cpuid_count(leaf, subleaf)
}

/// Components that the kernel has switched on; 0 without XSAVE.
pub(crate) fn enabled() -> u64 {
    const OSXSAVE: u32 = 1 << 27;
    if cpuid(1, 0).ecx & OSXSAVE == 0 {
        return 0;
    }
    let (low, high): (u32, u32);
    // SAFETY: OSXSAVE says that the instruction is there; it only reads.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Whether the kernel has switched on protection keys (OSPKE).
pub(crate) fn has_pkru() -> bool {
    cpuid(7, 0).ecx & 1 << 4 != 0
}

/// Runs `call` with another MXCSR and x87 control word: what they were after it.
pub(super) fn with_controls<T>(call: impl FnOnce() -> T) -> (T, (u16, u32)) {
    let (fcw, mxcsr, clean_fcw, clean_mxcsr) = (FILLED_FCW, FILLED_MXCSR, CLEAN_FCW, CLEAN_MXCSR);
    // SAFETY: both values are valid and mask every exception; that floating point is rounded otherwise matters to nobody.
    unsafe { asm!("fldcw [{}]", "ldmxcsr [{}]", in(reg) &fcw, in(reg) &mxcsr, options(nostack)) };
    let result = call();
    let mut after = (0_u16, 0_u32);
    // SAFETY: the two values are written to; then the controls are as before.
    unsafe {
        asm!(
            "fnstcw [{}]", "stmxcsr [{}]", "fldcw [{}]", "ldmxcsr [{}]",
            in(reg) &raw mut after.0, in(reg) &raw mut after.1, in(reg) &clean_fcw, in(reg) &clean_mxcsr,
            options(nostack)
        );
    }
    (result, after)
}

/// Number of process_vm_exec in farspace's own kernels.
pub(super) const NR_PROCESS_VM_EXEC: u64 = 549;

/// A system call with `area` in the registers: the result, and the registers after it. The third argument is 0.
pub(super) fn call_with(area: &Area, components: u64, nr: u64, arguments: [u64; 6]) -> (i64, Area) {
    let mut after = Area::zeroed();
    let result: u64;
    let clean = CLEAN_MXCSR;
    // SAFETY: the areas are aligned and large enough; every register that changes is named, and x87 and MXCSR are
    // as Rust has them at the end. The pointers among the arguments are the caller's own.
    unsafe {
        asm!(
            "xor edx, edx",
            "xrstor64 [r12]",
            "xor edx, edx",
            "mov rax, rcx",
            "syscall",
            "mov r9, rax",
            "mov eax, r15d",
            "xor edx, edx",
            "xsave64 [r13]",
            "fninit",
            "ldmxcsr [r14]",
            in("rcx") nr,
            in("r12") area.0.0.as_ptr(),
            in("r13") after.0.0.as_mut_ptr(),
            in("r14") &clean,
            in("r15") components,
            inout("rax") components => _,
            in("rdi") arguments[0],
            in("rsi") arguments[1],
            in("r10") arguments[3],
            in("r8") arguments[4],
            inout("r9") arguments[5] => result,
            clobber_abi("sysv64"),
        );
    }
    (result as i64, after)
}

#[cfg(test)]
mod tests {
    use super::{AVX512, Area, call_with, enabled};

    #[test]
    fn registers_go_through_a_call() {
        let components = enabled() & AVX512;
        let mut area = Area::of_frame().unwrap_or_else(|_| panic!("no frame"));
        area.fill(components, 7);
        let (pid, after) = call_with(&area, components, libc::SYS_getpid as u64, [0; 6]);
        assert_eq!(pid, i64::from(std::process::id()));
        assert!(after.expect("after", components, &area).is_ok());
        assert!(after.expect("after", components, &Area::clean()).is_err());
    }
}

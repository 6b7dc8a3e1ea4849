//! Executable pages, running code with given registers, catching faults, applying plans.
//!
//! # Safety
//!
//! The pages are mapped for as long as the process lives, and only code that the tests have assembled runs there. One test
//! at a time has them ([`Machine::lock`]).

use std::arch::naked_asm;
use std::ops::Range;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

use farspace_patch::arch::x86_64::{WINDOW_MAX, traps::faulting_address};
use farspace_patch::{Landing, Patches, Plan, Refusal, Step};

/// Length of the code pages, and of the data page behind them.
pub(crate) const CODE_LEN: usize = 0x2000;
pub(crate) const DATA_LEN: usize = 0x1000;

/// Where the common code keeps the address to return to, in the data page; tests use what is below.
const SAVED_AT: usize = 0xff0;

static LOCK: Mutex<()> = Mutex::new(());
static TARGET: AtomicU64 = AtomicU64::new(0);
static STACK: AtomicU64 = AtomicU64::new(0);
static FAULT_AT: AtomicU64 = AtomicU64::new(0);
static LANDINGS: AtomicU64 = AtomicU64::new(0);
static PATCHES: AtomicPtr<Patches> = AtomicPtr::new(std::ptr::null_mut());

/// General registers in the processor's order, and the flags. rsp is not looked at.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Registers {
    pub(crate) general: [u64; 16],
    pub(crate) flags: u64,
}

/// How a run has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Returned, with these registers and the data page like this.
    Returned(Registers, Vec<u8>),
    /// Faulted at this address, which is in no patch.
    Faulted(u64),
}

/// The pages, and the patches in them.
pub(crate) struct Machine {
    base: u64,
    common: u64,
    pub(crate) patches: Patches,
    _lock: MutexGuard<'static, ()>,
}

impl Machine {
    /// Takes the pages. Whatever was there is gone.
    pub(crate) fn lock() -> Self {
        let lock = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
        for signal in [libc::SIGILL, libc::SIGSEGV, libc::SIGTRAP, libc::SIGBUS] {
            catch(signal);
        }
        let base = try_map(0, CODE_LEN + DATA_LEN + CODE_LEN).expect("memory");
        let common = base + (CODE_LEN + DATA_LEN) as u64;
        let machine = Self { base, common, patches: Patches::default(), _lock: lock };
        machine.write(common, &common_code(common, machine.data() + SAVED_AT as u64));
        machine
    }

    /// Address of the code pages.
    pub(crate) fn code(&self) -> u64 {
        self.base
    }

    /// Address of the data page.
    pub(crate) fn data(&self) -> u64 {
        self.base + CODE_LEN as u64
    }

    pub(crate) fn write(&self, at: u64, bytes: &[u8]) {
        // SAFETY: the tests write to pages of theirs only, which are mapped writable.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at as *mut u8, bytes.len()) }
    }

    pub(crate) fn read(&self, at: u64, len: usize) -> Vec<u8> {
        // SAFETY: as in `write`.
        unsafe { std::slice::from_raw_parts(at as *const u8, len).to_vec() }
    }

    pub(crate) fn apply(&self, step: Step) {
        // SAFETY: as in `write`; a store of one byte, which other threads may be executing.
        unsafe { (step.at as *mut u8).write_volatile(step.byte) }
        synchronize_cores();
    }

    /// Plans the site, maps and writes its trampoline. What is left to do are the steps.
    pub(crate) fn prepare(&mut self, at: u64) -> Result<Plan, Refusal> {
        let code = self.read(at, WINDOW_MAX);
        // The test runner's threads map and unmap meanwhile: what was free may be taken.
        let plan = loop {
            let plan = self.patches.plan(at, &code, self.common, &free())?;
            if plan.new_page().is_none_or(|page| try_map(page, 4096) == Some(page)) {
                break plan;
            }
        };
        self.write(plan.site().trampoline().start, plan.trampoline());
        self.patches.commit(plan.clone()).expect("a fresh plan");
        Ok(plan)
    }

    pub(crate) fn patch(&mut self, at: u64) -> Result<(), Refusal> {
        self.prepare(at)?.steps().into_iter().for_each(|step| self.apply(step));
        Ok(())
    }

    pub(crate) fn undo_all(&mut self) {
        for undone in self.patches.undo(0..u64::MAX) {
            undone.steps.into_iter().for_each(|step| self.apply(step));
            if let Some(page) = self.patches.release(undone.trampoline.start) {
                // SAFETY: nothing is left in the page.
                unsafe { libc::munmap(page as *mut _, 4096) };
            }
        }
    }

    /// Runs from `at` until the code returns or faults outside of patches.
    pub(crate) fn run(&self, at: u64, registers: &Registers) -> Outcome {
        self.write(self.data(), &[0x5a; SAVED_AT]);
        PATCHES.store((&raw const self.patches).cast_mut(), SeqCst);
        TARGET.store(at, SeqCst);
        FAULT_AT.store(0, SeqCst);
        let mut registers = *registers;
        // SAFETY: `at` is code of the tests, which keeps the stack in order or faults.
        unsafe { enter(&mut registers) };
        PATCHES.store(std::ptr::null_mut(), SeqCst);
        match FAULT_AT.load(SeqCst) {
            0 => {
                registers.general[4] = 0;
                Outcome::Returned(registers, self.read(self.data(), SAVED_AT))
            }
            fault => Outcome::Faulted(fault),
        }
    }

    /// How often a thread has landed in a patch since it was asked last.
    pub(crate) fn landings(&self) -> u64 {
        LANDINGS.swap(0, SeqCst)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for page in self.patches.pages() {
            // SAFETY: a page of trampolines that nothing uses any more.
            unsafe { libc::munmap(page as *mut _, 4096) };
        }
        // SAFETY: the pages of `lock`.
        unsafe { libc::munmap(self.base as *mut _, 2 * CODE_LEN + DATA_LEN) };
    }
}

/// Maps pages for everything: somewhere, or (if `at` isn't 0) exactly at an address that is free.
fn try_map(at: u64, len: usize) -> Option<u64> {
    let protection = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    let exact = if at == 0 { 0 } else { libc::MAP_FIXED_NOREPLACE };
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | exact;
    // SAFETY: replaces no mapping.
    let address = unsafe { libc::mmap(at as *mut _, len, protection, flags, -1, 0) };
    (address != libc::MAP_FAILED).then_some(address as u64)
}

/// The gaps between this process's mappings.
fn free() -> Vec<Range<u64>> {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc");
    let (mut gaps, mut end) = (Vec::new(), 0x10000);
    for line in maps.lines() {
        let (from, rest) = line.split_once('-').expect("a range");
        let to = rest.split_once(' ').expect("a range").0;
        let parse = |text| u64::from_str_radix(text, 16).expect("hexadecimal");
        if parse(from) > end && parse(from) < 1 << 47 {
            gaps.push(end..parse(from));
        }
        end = parse(to);
    }
    gaps
}

/// A common code that makes the system call and leaves the registers as the kernel would.
fn common_code(at: u64, saved: u64) -> Vec<u8> {
    let mut code = Vec::new();
    let mut relative = |opcode: &[u8], behind: &[u8]| {
        code.extend(opcode);
        let end = at + code.len() as u64 + 4;
        code.extend((saved.wrapping_sub(end) as u32).to_le_bytes());
        code.extend(behind);
    };
    relative(&[0x48, 0x89, 0x0d], &[0x0f, 0x05]); // mov [saved], rcx; syscall
    relative(&[0x48, 0x8b, 0x0d], &[0x48, 0x8b, 0x49, 0xf8]); // mov rcx, [saved]; mov rcx, [rcx - 8]
    relative(&[0xff, 0x25], &[]); // jmp [saved]
    code
}

fn catch(signal: i32) {
    // SAFETY: all zeros are a valid sigaction; the handler only touches atomics and its own frame.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_fault as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
        assert_eq!(libc::sigaction(signal, &action, std::ptr::null_mut()), 0);
    }
}

/// Does what an engine would: continues a thread that has landed in a patch, and gives up on others.
extern "C" fn on_fault(_signal: i32, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a ucontext_t; PATCHES is null or what `run`'s caller borrows.
    let (registers, patches) = unsafe {
        let context = &mut *context.cast::<libc::ucontext_t>();
        (&mut context.uc_mcontext.gregs, PATCHES.load(SeqCst).as_ref())
    };
    let ip = faulting_address(
        registers[libc::REG_TRAPNO as usize] as u64,
        registers[libc::REG_RIP as usize] as u64,
    );
    let target = match patches.and_then(|patches| patches.landing(ip)) {
        Some(Landing::Syscall(site)) => Some(site.trampoline().start),
        Some(Landing::Copy { to, .. }) => Some(to),
        _ => None,
    };
    if let Some(target) = target {
        LANDINGS.fetch_add(1, SeqCst);
        registers[libc::REG_RIP as usize] = target as i64;
    } else if STACK.load(SeqCst) == 0 || FAULT_AT.load(SeqCst) != 0 {
        // SAFETY: not a fault of the tests' code, or one on the way out.
        unsafe { libc::abort() }
    } else {
        FAULT_AT.store(ip, SeqCst);
        registers[libc::REG_RIP as usize] = leave as *const () as i64;
        registers[libc::REG_RSP as usize] = STACK.load(SeqCst) as i64;
    }
}

/// Loads the registers, calls TARGET, stores the registers.
#[unsafe(naked)]
unsafe extern "C" fn enter(registers: *mut Registers) {
    naked_asm!(
        "push rbx", "push rbp", "push r12", "push r13", "push r14", "push r15",
        "push rdi",
        "mov [rip + {stack}], rsp",
        "push qword ptr [rdi + 128]", "popfq",
        "mov rax, [rdi]", "mov rcx, [rdi + 8]", "mov rdx, [rdi + 16]", "mov rbx, [rdi + 24]",
        "mov rbp, [rdi + 40]", "mov rsi, [rdi + 48]",
        "mov r8, [rdi + 64]", "mov r9, [rdi + 72]", "mov r10, [rdi + 80]", "mov r11, [rdi + 88]",
        "mov r12, [rdi + 96]", "mov r13, [rdi + 104]", "mov r14, [rdi + 112]", "mov r15, [rdi + 120]",
        "mov rdi, [rdi + 56]",
        "call qword ptr [rip + {target}]",
        "xchg rdi, [rsp]",
        "mov [rdi], rax", "mov [rdi + 8], rcx", "mov [rdi + 16], rdx", "mov [rdi + 24], rbx",
        "mov [rdi + 40], rbp", "mov [rdi + 48], rsi",
        "mov [rdi + 64], r8", "mov [rdi + 72], r9", "mov [rdi + 80], r10", "mov [rdi + 88], r11",
        "mov [rdi + 96], r12", "mov [rdi + 104], r13", "mov [rdi + 112], r14", "mov [rdi + 120], r15",
        "pushfq", "pop qword ptr [rdi + 128]",
        "mov rax, [rsp]", "mov [rdi + 56], rax",
        "jmp {leave}",
        stack = sym STACK, target = sym TARGET, leave = sym leave,
    )
}

/// The end of [`enter`], and where a fault leads.
#[unsafe(naked)]
unsafe extern "C" fn leave() {
    naked_asm!("cld", "add rsp, 8", "pop r15", "pop r14", "pop r13", "pop r12", "pop rbp", "pop rbx", "ret")
}

/// Serializes all processors that run this process.
fn synchronize_cores() {
    const PRIVATE_EXPEDITED_SYNC_CORE: i32 = 1 << 5;
    const REGISTER_PRIVATE_EXPEDITED_SYNC_CORE: i32 = 1 << 6;
    for command in [REGISTER_PRIVATE_EXPEDITED_SYNC_CORE, PRIVATE_EXPEDITED_SYNC_CORE] {
        // SAFETY: membarrier changes no memory.
        assert_eq!(unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) }, 0);
    }
}

/// Runs `child` in a forked process; returns its wait status.
pub(crate) fn fork(child: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child runs code of the tests and leaves by _exit.
    unsafe {
        match libc::fork() {
            0 => libc::_exit(child()),
            pid => {
                let mut status = 0;
                assert_eq!(libc::waitpid(pid, &mut status, 0), pid);
                status
            }
        }
    }
}

/// Unmaps a page.
pub(crate) fn unmap(at: u64, len: usize) {
    // SAFETY: the caller's page.
    unsafe { libc::munmap(at as *mut _, len) };
}

//! From the first instruction of the agent to its last.
//!
//! Invariants: SAFETY.md, 4, 5, 6 and 8.

use core::mem::offset_of;
use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering};

use farspace_abi::boot::{
    AGENT_SOCKET_FD, BootContext, HELLO_FDS, HELLO_TIMEOUT_MS, HOST_SOCKET_FD, THREAD_LEFT, placement,
};
use farspace_abi::mailbox::{self, Mailbox, SHARED_BYTES};
use farspace_abi::region::{CODE_BYTES, CONTEXT_OFFSET, PRIVATE_BYTES, REGION_BYTES};

use crate::arch::nr;
use crate::arch::syscall::{syscall, unmap_and_die, unmap_and_exit};
use crate::guests::{Guests, MADV_DONTFORK, MAP_FIXED_NOREPLACE};
use crate::serve::{self, Channel, Fds};

/// Name of the task, as in `ps` (15 bytes and a NUL: prctl(2), PR_SET_NAME).
const NAME: [u8; 16] = *b"farspace-agent\0\0";
const PR_SET_NAME: u64 = 15;
const SIGSEGV: u64 = 11;
const KCMP_VM: u64 = 1;
const RLIMIT_CORE: u64 = 4;
const PROT_READ_WRITE: u64 = 3;
/// MAP_SHARED, and nothing may be there.
const SHARED_THERE: u64 = 1 | MAP_FIXED_NOREPLACE;
const MADV_DOFORK: u64 = 11;
/// AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC.
const SOCKET: (u64, u64) = (1, 5 | 0o200_0000);

/// Where the agent lives; enough to leave.
#[derive(Clone, Copy)]
pub(crate) struct Home {
    region: u64,
    is_thread: bool,
}

impl Home {
    /// Whether what is forked with this memory has a copy of the region.
    ///
    /// # Safety
    ///
    /// The borrowed thread must have left the region: a child that it makes in a signal handler goes on there.
    pub(crate) unsafe fn inherit(self, inherits: bool) {
        let advice = if inherits { MADV_DOFORK } else { MADV_DONTFORK };
        // SAFETY: the region is the agent's; nothing of it changes here.
        unsafe { syscall(nr::MADVISE, [self.region, REGION_BYTES as u64, advice, 0, 0, 0]) };
    }
}

/// The agent: its own process in the target's address space, a child of init, all signals blocked.
///
/// # Safety
///
/// Called once by the bootstrap, on the region's stack, with the address of the region's context page.
pub(crate) unsafe extern "C" fn agent_main(context: *mut BootContext) -> ! {
    // SAFETY: all calls below act on this task alone, or on the region, which is the agent's.
    unsafe {
        let placement =
            ptr::read_volatile(context.byte_add(offset_of!(BootContext, placement)).cast::<u32>());
        let is_thread = placement == placement::THREAD;
        let home = Home { region: context as u64 - CONTEXT_OFFSET as u64, is_thread };
        become_quiet(is_thread);
        let pair = context.byte_add(offset_of!(BootContext, host_fd)).cast::<u32>();
        let mut fds = [0i32; 2];
        let made = syscall(nr::SOCKETPAIR, [SOCKET.0, SOCKET.1, 0, fds.as_mut_ptr() as u64, 0, 0]);
        let ready = &*context.byte_add(offset_of!(BootContext, agent_ready)).cast::<AtomicU32>();
        // The table was empty, so the pair is 0 and 1; anything else means that the target plays with it.
        if made < 0 || ptr::read_volatile(&raw const fds) != [AGENT_SOCKET_FD, HOST_SOCKET_FD] {
            ready.store(if made < 0 { made as u32 } else { -9i32 as u32 }, Ordering::Release);
            wait_for_thread(context);
            leave(home);
        }
        ptr::write_volatile(pair, HOST_SOCKET_FD as u32);
        ready.store(1, Ordering::Release);

        let Some(hello) = hello() else {
            wait_for_thread(context);
            leave(home);
        };
        syscall(nr::CLOSE, [HOST_SOCKET_FD as u64, 0, 0, 0, 0, 0]);
        let shared = home.region + PRIVATE_BYTES as u64;
        let memfd = hello[0] as u64;
        let mapped =
            syscall(nr::MMAP, [shared, SHARED_BYTES as u64, PROT_READ_WRITE, SHARED_THERE, memfd, 0]);
        syscall(nr::CLOSE, [memfd, 0, 0, 0, 0, 0]);
        if mapped == shared as i64 {
            // Children of the target have no use for it, and nobody would take it away there.
            home.inherit(false);
            let fds =
                |index: usize| Fds { ring: hello[1 + index], answer: hello[3 + index], target: hello[5] };
            let boxes = shared as *const Mailbox;
            let agent = Channel { mailbox: boxes.add(mailbox::AGENT), fds: fds(mailbox::AGENT) };
            let snapshot = Channel { mailbox: boxes.add(mailbox::SNAPSHOT), fds: fds(mailbox::SNAPSHOT) };
            let mut guests = Guests::none();
            let end = serve::agent(&agent, &snapshot, &mut guests, context, home);
            guests.end();
            if let serve::End::Quit(request) = end {
                // The host has taken its thread back long ago. It ends this task between two instructions of the
                // wait; if it dies before, the socket says so.
                serve::answer(&agent, request, 0);
                serve::wait_alone(&agent.fds);
            }
        }
        wait_for_thread(context);
        leave(home);
    }
}

/// Leaves the target's session, working directory and name, and makes the last SIGSEGV a quiet one. A thread
/// shares session, limits and signal actions with the target, and leaves them alone.
unsafe fn become_quiet(is_thread: bool) {
    /// `struct kernel_sigaction` (include/linux/signal_types.h).
    #[repr(C)]
    struct KernelSigaction {
        handler: u64,
        flags: u64,
        restorer: u64,
        mask: u64,
    }
    let handler = KernelSigaction { handler: 1 << 12, flags: 0, restorer: 0, mask: !0 };
    let limit = [1u64, 1];
    let root = *b"/\0";
    // SAFETY: each call reads a local that outlives it; signal actions are the agent's own (no CLONE_SIGHAND).
    unsafe {
        syscall(nr::CHDIR, [root.as_ptr() as u64, 0, 0, 0, 0, 0]);
        syscall(nr::PRCTL, [PR_SET_NAME, NAME.as_ptr() as u64, 0, 0, 0, 0]);
        if is_thread {
            return;
        }
        syscall(nr::SETSID, [0; 6]);
        syscall(nr::RT_SIGACTION, [SIGSEGV, &raw const handler as u64, 0, 8, 0, 0]);
        syscall(nr::SETRLIMIT, [RLIMIT_CORE, limit.as_ptr() as u64, 0, 0, 0, 0]);
    }
}

/// Waits for the host's first message and returns its descriptors, or `None` if it doesn't come.
unsafe fn hello() -> Option<[i32; HELLO_FDS]> {
    // SAFETY: plain calls on this task's own descriptors and stack.
    unsafe {
        if !serve::readable(AGENT_SOCKET_FD, HELLO_TIMEOUT_MS) {
            return None;
        }
        let mut fds = [-1; HELLO_FDS];
        (serve::receive_fds(&mut fds) == HELLO_FDS as i64).then_some(fds)
    }
}

/// True if the borrowed thread is still in this memory: the kernel writes 0 over its tid when it leaves, by its end or an
/// exec (mm_release, kernel/fork.c).
///
/// # Safety
///
/// The context page must be mapped.
pub(crate) unsafe fn is_home(context: *const BootContext) -> bool {
    // SAFETY: the page is mapped. C libraries keep the word of the main thread for as long as the program runs; in one
    // that has unmapped it this task gets a SIGSEGV, which is nobody else's, and the host hears of an agent that has
    // ended. The futex call compares the word at any address, and wakes and moves nobody.
    unsafe {
        let address =
            ptr::read_volatile(context.byte_add(offset_of!(BootContext, tid_address)).cast::<u64>());
        if address == 0 || !address.is_multiple_of(4) {
            return false;
        }
        let [process, thread] =
            ptr::read_volatile(context.byte_add(offset_of!(BootContext, thread)).cast::<[i32; 2]>());
        if process == thread {
            return ptr::read_volatile(address as *const i32) == thread;
        }
        // The stack of another thread, where its word lies, may be unmapped after its end.
        // FUTEX_CMP_REQUEUE | FUTEX_PRIVATE_FLAG of none: EAGAIN if the word is another one.
        syscall(nr::FUTEX, [address, 4 | 128, 0, 0, context as u64, thread as u32 as u64]) == 0
    }
}

/// Waits until the borrowed thread has left the region. It says so when nobody takes it back in `go_timeout`, and the host
/// does when it takes it back. A host that gets no CPU may hold it stopped in there meanwhile.
unsafe fn wait_for_thread(context: *const BootContext) {
    // SAFETY: the context page belongs to the region and is mapped as long as the agent lives.
    unsafe {
        let done = &*context.byte_add(offset_of!(BootContext, thread_done)).cast::<AtomicU32>();
        let timeout =
            ptr::read_volatile(context.byte_add(offset_of!(BootContext, go_timeout)).cast::<[i64; 2]>());
        let pause = [0i64, 10_000_000];
        let [process, thread] =
            ptr::read_volatile(context.byte_add(offset_of!(BootContext, thread)).cast::<[i32; 2]>());
        while done.load(Ordering::Acquire) != THREAD_LEFT {
            // Dead, or another program by now: then it never comes.
            let own = syscall(nr::GETTID, [0; 6]) as u64;
            if syscall(nr::TGKILL, [process as u64, thread as u64, 0, 0, 0, 0]) < 0
                || syscall(nr::KCMP, [own, thread as u64, KCMP_VM, 0, 0, 0]) > 0
            {
                return;
            }
            syscall(nr::NANOSLEEP, [pause.as_ptr() as u64, 0, 0, 0, 0, 0]);
        }
        // It may have some ten instructions to go.
        syscall(nr::NANOSLEEP, [timeout.as_ptr() as u64, 0, 0, 0, 0, 0]);
        syscall(nr::NANOSLEEP, [timeout.as_ptr() as u64, 0, 0, 0, 0, 0]);
    }
}

/// Takes the agent's mappings out of the target, itself last. A thread can't do that: a fault of it would be the
/// target's. It leaves its code behind, for the next visit to take away.
unsafe fn leave(home: Home) -> ! {
    // SAFETY: the region is the agent's own; the borrowed thread has left.
    unsafe {
        if home.is_thread {
            unmap_and_exit(home.region + CODE_BYTES as u64, (REGION_BYTES - CODE_BYTES) as u64);
        }
        unmap_and_die(home.region, REGION_BYTES as u64);
    }
}

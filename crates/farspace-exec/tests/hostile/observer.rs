//! An independent witness: every system call that a stub is about to execute, as the kernel sees it.
//!
//! A filter of the test's own, installed before the engine starts and inherited by all its tasks, hands each call from
//! below the end of the engine's range (and from the vsyscall page) to a thread here, but for those that guests may cause:
//! FUTEX_WAIT, FUTEX_WAKE, sched_yield and rt_sigreturn from the vCPUs' page. Calls that the engine's own filter or user dispatch
//! stops never get here: those two come first (seccomp(2), "the most restrictive"). What gets here has to be what a
//! steward was ordered to do.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use farspace_abi::vcpu::{
    AREA_BYTES, AREAS, CONSTANTS, MAX_VCPUS, ORDERS, RESERVED_BASE, RESERVED_END, SCRATCH, STEWARD_CODE,
    STUB_BYTES, VCPU_CODE, area_of,
};

const ALLOW: u32 = 0x7fff_0000;
const NOTIFY: u32 = 0x7fc0_0000; // SECCOMP_RET_USER_NOTIF
const PAGE: u64 = 0x1000;
const EVERYTHING: u64 = u32::MAX as u64;

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) calls: AtomicU64,
    /// Calls that nobody ordered.
    pub(crate) wrong: Mutex<Vec<String>>,
    /// mmap, mprotect and munmap that the test itself asks for: number, address, length.
    asked: Mutex<BTreeSet<(i64, u64, u64)>>,
}

impl Seen {
    /// To be called before asking for it.
    pub(crate) fn ask(&self, nr: i64, at: u64, len: u64) {
        self.asked.lock().expect("no panics").insert((nr, at, len));
    }
}

/// `struct seccomp_notif` (linux/seccomp.h).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Notification {
    id: u64,
    pid: u32,
    flags: u32,
    nr: i32,
    arch: u32,
    ip: u64,
    args: [u64; 6],
}

/// `struct seccomp_notif_resp`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Response {
    id: u64,
    val: i64,
    error: i32,
    flags: u32,
}

/// Puts the calling thread, and all that it starts from now on, under observation.
pub(crate) fn observe() -> Arc<Seen> {
    let listener = install();
    let seen = Arc::new(Seen::default());
    let shared = Arc::clone(&seen);
    std::thread::spawn(move || watch(&listener, &shared));
    seen
}

fn install() -> OwnedFd {
    let (high, page) = ((VCPU_CODE >> 32) as u32, VCPU_CODE as u32);
    let statement = |code: u16, k: u32| libc::sock_filter { code, jt: 0, jf: 0, k };
    let jump = |code: u16, k: u32, jt: u8, jf: u8| libc::sock_filter { code, jt, jf, k };
    let (load, equal, above, give) = (0x20, 0x15, 0x25, 0x06);
    let program = [
        statement(load, 12),
        jump(equal, u32::MAX, 15, 0), // the vsyscall page: notify
        jump(above, high, 13, 0),     // the caller's own code: allow
        jump(equal, high, 0, 13),     // the guest's: notify
        statement(load, 8),
        jump(above, page, 0, 11),
        jump(above, page + 0xfff, 10, 0),
        statement(load, 4),
        jump(equal, 0xc000_003e, 0, 8),
        statement(load, 0),
        jump(equal, libc::SYS_sched_yield as u32, 5, 0),
        jump(equal, libc::SYS_rt_sigreturn as u32, 4, 0),
        jump(equal, libc::SYS_futex as u32, 0, 4),
        statement(load, 24), // the operation
        jump(above, 1, 2, 0),
        statement(give, ALLOW),
        statement(give, ALLOW),
        statement(give, NOTIFY),
    ];
    let header = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    // SAFETY: the program lives until the call returns; the thread gives up privileges that it doesn't use.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        // SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER
        let fd = libc::syscall(libc::SYS_seccomp, 1, 1 << 3, &raw const header);
        assert!(fd >= 0, "seccomp: {}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd as i32)
    }
}

fn watch(listener: &OwnedFd, seen: &Seen) {
    const RECEIVE: u64 = 0xc050_2100;
    const SEND: u64 = 0xc018_2101;
    let mut starts = BTreeMap::new();
    loop {
        let mut call = Notification::default();
        // SAFETY: the kernel fills in what has the layout of its own structure.
        if unsafe { libc::ioctl(listener.as_raw_fd(), RECEIVE, &raw mut call) } != 0 {
            match std::io::Error::last_os_error().raw_os_error() {
                // The task was killed meanwhile, or a signal.
                Some(libc::ENOENT | libc::EINTR) => continue,
                _ => return,
            }
        }
        seen.calls.fetch_add(1, Ordering::Relaxed);
        if let Err(why) = check(&call, seen, &mut starts) {
            let mut wrong = seen.wrong.lock().expect("no panics");
            if wrong.len() < 20 {
                wrong.push(format!("{why}: {call:x?}"));
            }
        }
        // SECCOMP_USER_NOTIF_FLAG_CONTINUE
        let response = Response { id: call.id, flags: 1, ..Response::default() };
        // SAFETY: as above; a task that has ended meanwhile is an error of no matter.
        unsafe { libc::ioctl(listener.as_raw_fd(), SEND, &raw const response) };
    }
}

/// What the task of a vCPU does before it is one, in this order.
const START: [i64; 7] = [
    libc::SYS_prctl,
    libc::SYS_getppid,
    libc::SYS_close_range,
    libc::SYS_sigaltstack,
    libc::SYS_seccomp,
    libc::SYS_rt_sigprocmask,
    libc::SYS_prctl,
];

/// The task of a vCPU.
#[derive(Clone, Copy, Debug)]
struct Start {
    /// When it began: a number is used again.
    began: u64,
    /// Calls of [`START`] that it has done.
    done: usize,
}

impl Start {
    fn next(&mut self, nr: i64) -> Result<(), &'static str> {
        match START.get(self.done) {
            Some(expected) if *expected == nr => self.done += 1,
            // A notified call that is interrupted is made, and notified, again (seccomp_unotify(2)).
            _ if self.done.checked_sub(1).and_then(|last| START.get(last)) == Some(&nr) => {}
            Some(_) => return Err("not what a vCPU starts with"),
            None => return Err("from the steward's code by a vCPU"),
        }
        Ok(())
    }
}

fn check(call: &Notification, seen: &Seen, starts: &mut BTreeMap<u32, Start>) -> Result<(), &'static str> {
    if call.arch != 0xc000_003e {
        return Err("another table");
    }
    if !(STEWARD_CODE + 1..STEWARD_CODE + PAGE).contains(&call.ip) {
        return Err("not from the steward's code");
    }
    let [a, b, c, d, e, f] = call.args;
    let nr = i64::from(call.nr);
    let is_first = nr == libc::SYS_prctl && a == libc::PR_SET_PDEATHSIG as u64;
    if let Some(start) = starts.get_mut(&call.pid)
        && start_of(call.pid) == Some(start.began)
    {
        start.next(nr)?;
    } else if is_first {
        starts.extend(start_of(call.pid).map(|began| (call.pid, Start { began, done: 1 })));
    }
    let in_orders = |at: u64| (ORDERS..ORDERS + PAGE).contains(&at);
    let is_right = match nr {
        libc::SYS_read => [a, b, c] == [0, SCRATCH, 64],
        libc::SYS_write => [a, b, c] == [2, ORDERS + 8, 8],
        libc::SYS_lseek => [a, c] == [1, 0],
        libc::SYS_exit_group => a == 0,
        libc::SYS_recvmsg => [a, b, c] == [0, SCRATCH + 0x100, 0x4000_0000],
        libc::SYS_close_range => [0, 3].contains(&a) && [b, c] == [EVERYTHING, 0],
        libc::SYS_clone => {
            let vcpu = (libc::CLONE_VM | libc::CLONE_CHILD_CLEARTID | libc::SIGCHLD) as u64;
            [a, b] == [libc::SIGCHLD as u64, 0] || [a, b] == [vcpu, 0]
        }
        libc::SYS_dup2 => b < 3 && a == b + 3,
        libc::SYS_modify_ldt => [a, c] == [1, 16] && in_orders(b),
        libc::SYS_membarrier => [1 << 5, 1 << 6].contains(&a),
        libc::SYS_getppid | libc::SYS_setpgid => true,
        libc::SYS_prlimit64 => [a, b] == [0, u64::from(libc::RLIMIT_CORE)] && in_orders(c) && d == 0,
        libc::SYS_rt_sigaction => in_orders(b) && [c, d] == [0, 8],
        libc::SYS_rt_sigprocmask => a == libc::SIG_SETMASK as u64 && in_orders(b) && [c, d] == [0, 8],
        libc::SYS_sigaltstack => in_orders(a) && b == 0,
        libc::SYS_seccomp => [a, b] == [1, 0] && in_orders(c),
        libc::SYS_mseal => [a, b, c] == [RESERVED_BASE, STUB_BYTES, 0],
        libc::SYS_prctl => match a as i32 {
            libc::PR_SET_PDEATHSIG => b == libc::SIGKILL as u64,
            libc::PR_SET_CHILD_SUBREAPER | libc::PR_SET_NO_NEW_PRIVS => b == 1,
            59 => [b, c, d, e] == [1, VCPU_CODE, PAGE, CONSTANTS],
            _ => false,
        },
        libc::SYS_mmap if a == ORDERS => [b, c, d, e, f] == [PAGE, 1, 0x11, 1, 0],
        libc::SYS_mmap if a == SCRATCH => [b, c, d, e, f] == [PAGE, 3, 0x11, 1, PAGE],
        libc::SYS_mmap if (RESERVED_BASE..RESERVED_END).contains(&a) => {
            (0..MAX_VCPUS).any(|index| area_of(index) == a) && [b, c, d, e] == [AREA_BYTES, 3, 0x11, 1]
        }
        // A trampoline.
        libc::SYS_mmap if d == 0x10_0022 => [b, c] == [PAGE, 5],
        libc::SYS_munmap if a >= RESERVED_BASE => {
            [a, b] == [AREAS, RESERVED_END - AREAS] || a >= RESERVED_END
        }
        libc::SYS_munmap if [a, b] == [PAGE, RESERVED_BASE - PAGE] => true,
        libc::SYS_mmap | libc::SYS_mprotect | libc::SYS_munmap => {
            seen.asked.lock().expect("no panics").contains(&(nr, a, b)) || nr == libc::SYS_munmap && b == PAGE
        }
        _ => false,
    };
    if is_right { Ok(()) } else { Err("not ordered") }
}

/// When a task began, in ticks since boot (proc_pid_stat(5), field 22).
fn start_of(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

/// Makes getpid(2) from where only stubs are, to see that it is seen.
pub(crate) fn provoke() {
    // mov eax, 39; syscall; ret
    let code = [0xb8u8, 39, 0, 0, 0, 0x0f, 0x05, 0xc3];
    // SAFETY: the page lies where nothing of this process is (MAP_FIXED_NOREPLACE); it holds a whole function that touches
    // no memory but its return address.
    unsafe {
        let both = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        let page = libc::mmap(0x1000_0000 as *mut _, PAGE as usize, both, flags, -1, 0);
        assert_eq!(page as u64, 0x1000_0000);
        std::ptr::copy_nonoverlapping(code.as_ptr(), page.cast(), code.len());
        assert_eq!(libc::mprotect(page, PAGE as usize, libc::PROT_READ | libc::PROT_EXEC), 0);
        let call: extern "C" fn() -> i64 = std::mem::transmute(page);
        assert_eq!(call(), libc::getpid().into());
        libc::munmap(page, PAGE as usize);
    }
}

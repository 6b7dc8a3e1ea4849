//! A process with room for guests whose only thread no signal and no tracer reaches: it waits for a page, inside a
//! system call, until the end.
//!
//! The page is registered with a userfaultfd that nobody serves. A fault of the kernel's own, made for a system call,
//! is retried when a signal comes instead of being given up (fault_signal_pending, include/linux/sched/signal.h).
//!
//! `ready PID WORD...` as of [`guest-room`](crate::room); the process is a child, and this one speaks for it.

use crate::room::Room;
use crate::witness::Witness;
use crate::{Verdict, control, sys};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

/// ioctls and constants of include/uapi/linux/userfaultfd.h.
const UFFDIO_API: u32 = 0xc018_aa3f;
const UFFDIO_REGISTER: u32 = 0xc020_aa00;
const UFFDIO_ZEROPAGE: u32 = 0xc020_aa04;
const UFFD_API: u64 = 0xaa;
const UFFDIO_REGISTER_MODE_MISSING: u64 = 1;

pub(crate) fn main(_: &[String]) -> Verdict {
    let mut room = Room::new(1)?;
    let page = page()?;
    let (reader, writer) = sys::pipe()?;
    let child = sys::fork(|| {
        let told = sys::die_with_parent().and_then(|()| {
            let userfault = register(page);
            let number = userfault.as_ref().map_or(-1, AsRawFd::as_raw_fd);
            sys::write_all(&writer, &number.to_ne_bytes())?;
            userfault
        });
        // SAFETY: the kernel writes to a page that nothing refers to.
        let done = unsafe { libc::syscall(libc::SYS_getcwd, page, crate::PAGE) };
        i32::from(told.is_err() || done < 0)
    })?;
    let mut number = [0; 4];
    sys::read(&reader, &mut number)?;
    let number = i32::from_ne_bytes(number);
    if number < 0 {
        return control::skip("no userfaultfd for faults of the kernel's own");
    }
    let userfault = fetch(child, number)?;
    wait_for_the_fault(child)?;
    room.is_of(child);
    let mut witness = Witness::start()?;
    control::say(&format!("ready {child} {}", room.words()));
    control::serve(&mut witness, |witness, words| {
        if let Some(answer) = room.command(words) {
            return Some(answer);
        }
        (words.first() == Some(&"exit")).then(|| {
            witness.check(crate::baseline::Left::Nothing)?;
            serve(&userfault, page)?;
            sys::wait_success(child)?;
            witness.rebase()?;
            Ok(String::new())
        })
    })
}

fn page() -> Result<usize, String> {
    let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), crate::PAGE, prot, flags, -1, 0) };
    if page == libc::MAP_FAILED {
        return Err(format!("mmap: {}", io::Error::last_os_error()));
    }
    Ok(page as usize)
}

fn control(userfault: &OwnedFd, what: &str, request: u32, words: &mut [u64]) -> Verdict {
    // SAFETY: the words are the structure of this request, and live through the call.
    let done = unsafe { libc::ioctl(userfault.as_raw_fd(), request as _, words.as_mut_ptr()) };
    sys::os(what, done).map(drop)
}

/// A userfaultfd of this process that has the page.
fn register(page: usize) -> Result<OwnedFd, String> {
    // SAFETY: no memory is involved; the descriptor is owned at once.
    let userfault = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
    let userfault = sys::owned("userfaultfd", userfault as i32)?;
    control(&userfault, "UFFDIO_API", UFFDIO_API, &mut [UFFD_API, 0, 0])?;
    let mut range = [page as u64, crate::PAGE as u64, UFFDIO_REGISTER_MODE_MISSING, 0];
    control(&userfault, "UFFDIO_REGISTER", UFFDIO_REGISTER, &mut range)?;
    Ok(userfault)
}

/// Gives the page at last.
fn serve(userfault: &OwnedFd, page: usize) -> Verdict {
    control(userfault, "UFFDIO_ZEROPAGE", UFFDIO_ZEROPAGE, &mut [page as u64, crate::PAGE as u64, 0, 0])
}

/// A descriptor of the child's.
fn fetch(child: i32, number: i32) -> Result<OwnedFd, String> {
    // SAFETY: no memory is involved; what is returned is owned at once.
    unsafe {
        let pidfd = sys::owned("pidfd_open", libc::syscall(libc::SYS_pidfd_open, child, 0) as i32)?;
        let fd = libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0);
        sys::owned("pidfd_getfd", fd as i32)
    }
}

/// Waits until the child sleeps in its getcwd.
fn wait_for_the_fault(child: i32) -> Verdict {
    let wanted = libc::SYS_getcwd.to_string();
    for _ in 0..20_000 {
        let now = std::fs::read_to_string(format!("/proc/{child}/syscall")).unwrap_or_default();
        if now.split_whitespace().next() == Some(&wanted) {
            return Ok(());
        }
        sys::sleep(Duration::from_millis(1))?;
    }
    Err("the child doesn't get to its fault".to_owned())
}

//! What a target does: everything that a program may do to its own memory and threads, at random, until it ends.

use crate::guest::{self, AREA, AREA_BYTES, CODE, DATA, DATA_BYTES};
use crate::random::Random;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// The name under which this program is one.
pub(crate) const PROGRAM: &str = "farspace-stress-target";

/// Serves as a target if this process was started as one.
pub(crate) fn host() -> Option<ExitCode> {
    let mut args = std::env::args();
    if args.next().as_deref() != Some(PROGRAM) {
        return None;
    }
    let seed = args.next().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    Some(match run(seed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // It is what somebody has made of its memory that fails it, as well as the limits of the machine.
            eprintln!("target: {error}");
            ExitCode::FAILURE
        }
    })
}

extern "C" fn on_signal(_: libc::c_int) {}

fn run(seed: u64) -> io::Result<()> {
    // SAFETY: the handler does nothing.
    unsafe { libc::signal(libc::SIGUSR1, on_signal as extern "C" fn(libc::c_int) as libc::sighandler_t) };
    map(CODE, 0x1000)?;
    let code = guest::page();
    // SAFETY: the page was mapped above, and nobody refers to it.
    unsafe {
        std::ptr::copy_nonoverlapping(code.as_ptr(), CODE as *mut u8, code.len());
        libc::mprotect(CODE as *mut libc::c_void, 0x1000, libc::PROT_READ | libc::PROT_EXEC);
    }
    map(DATA, DATA_BYTES)?;
    let mut random = Random(seed);
    loop {
        match random.below(200) {
            0 => return Ok(()),
            1 => {
                let next = random.next().to_string();
                return Err(Command::new("/proc/self/exe").arg0(PROGRAM).arg(next).exec());
            }
            2..20 => fork(&mut random),
            20..40 => {
                let _ = std::thread::spawn(|| std::hint::black_box(1));
            }
            40..60 => std::thread::sleep(std::time::Duration::from_micros(random.below(3000))),
            // SAFETY: the area is nobody's but this loop's.
            60..100 => unsafe {
                libc::munmap(AREA as *mut libc::c_void, AREA_BYTES as usize);
            },
            // SAFETY: as above.
            100..120 => unsafe {
                let half = AREA_BYTES as usize / 2;
                libc::mprotect(AREA as *mut libc::c_void, half, random.below(8) as i32);
            },
            _ => {
                map(AREA, AREA_BYTES)?;
                let at = AREA + random.below(AREA_BYTES);
                // SAFETY: mapped by this thread, the only one that does; another process may have unmapped it since,
                // and then this one ends.
                unsafe { (at as *mut u8).write_volatile(random.next() as u8) };
            }
        }
    }
}

/// Fresh memory, whatever was there.
fn map(at: u64, len: u64) -> io::Result<()> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: addresses that nothing else of this program uses.
    let mapped = unsafe { libc::mmap(at as *mut libc::c_void, len as usize, protection, flags, -1, 0) };
    if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn fork(random: &mut Random) {
    let nap = random.below(1000) as u32;
    // SAFETY: the child sleeps and leaves, without anything that takes a lock.
    unsafe {
        match libc::fork() {
            0 => {
                libc::usleep(nap);
                libc::_exit(0);
            }
            child if child > 0 => {
                libc::waitpid(child, std::ptr::null_mut(), 0);
            }
            _ => {}
        }
    }
}

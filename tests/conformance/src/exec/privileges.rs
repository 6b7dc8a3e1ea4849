//! Cases 64 and 65: in syscall mode the caller's seccomp filter and limits count, not the target's.

use super::guest;
use super::own;
use super::place::{Place, Room};
use crate::case::Outcome;
use crate::world::expect;
use libtest_mimic::Failed;
use std::os::unix::process::CommandExt;

const USER: u32 = 65_531;
/// What the filter gives: an errno that mlock never has.
const FROM_FILTER: i64 = -33;
const EPERM: i64 = -1;

fn mlock(place: &Place) -> Result<i64, Failed> {
    Ok(place
        .syscall(libc::SYS_mlock, &[place.data.addr, 4096])
        .map_err(|e| format!("the call gives {e:?}"))?)
}

/// Plays a caller whose filter forbids mlock.
pub(super) fn filtered(place: &Place) -> Result<String, Failed> {
    // linux/filter.h: load the number; if it is mlock's, an errno; else allow.
    let statement = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_mlock as u32),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | -FROM_FILTER as u32),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    expect("without the filter", &mlock(place)?, &0)?;
    // SAFETY: the program is valid for the call.
    unsafe {
        own::os("no_new_privs", libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into())?;
        let mode = libc::SECCOMP_SET_MODE_FILTER;
        own::os("seccomp", libc::syscall(libc::SYS_seccomp, mode, 0, &raw const program))?;
    }
    expect("with the filter", &mlock(place)?, &FROM_FILTER)?;
    let unlocked = place.syscall(libc::SYS_munlock, &[place.data.addr, 4096]);
    expect("what it allows", &unlocked, &Ok(0))?;
    Ok("ok".to_owned())
}

pub(super) fn seccomp() -> Outcome {
    let room = Room::with(guest::syscall())?;
    room.play("filtered")?;
    room.unharmed()
}

/// Plays a caller that may lock no memory, while the target may.
pub(super) fn limited(place: &Place) -> Result<String, Failed> {
    expect("with the caller's first limit", &mlock(place)?, &0)?;
    let unlocked = place.syscall(libc::SYS_munlock, &[place.data.addr, 4096]);
    expect("munlock", &unlocked, &Ok(0))?;
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit is valid for the call.
    own::os("setrlimit", unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &none) }.into())?;
    expect("with none", &mlock(place)?, &EPERM)?;
    Ok("ok".to_owned())
}

pub(super) fn credentials() -> Outcome {
    let as_user = |command: &mut std::process::Command| {
        command.uid(USER).gid(USER);
    };
    let room = Room::spawn_with("guest-room", &[], guest::syscall(), as_user)?;
    let mut caller = room.caller_with("limited", as_user)?;
    expect("caller", &caller.line()?.as_str(), &"ok")?;
    room.unharmed()
}

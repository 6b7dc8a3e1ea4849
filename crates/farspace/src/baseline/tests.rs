//! Every baseline makes rounds, and none leaves anything behind.

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::peer::Peer;
use super::*;

/// More than one round: the state between rounds is part of each baseline.
fn works(mut of: impl Rounds) {
    for nr_calls in [1, 100, 7] {
        assert!(of.round(nr_calls).unwrap() > Duration::ZERO);
    }
}

/// On one CPU, on two if there are two, and wherever the scheduler likes.
fn everywhere<R: Rounds>(start: fn(Cpus) -> Result<R>) {
    for cpus in [Cpus::one(), Cpus::two(), Some(Cpus::unpinned())].into_iter().flatten() {
        works(start(cpus).unwrap());
    }
}

#[test]
fn getpid_rounds() {
    works(Getpid);
}

#[test]
fn sysemu_rounds() {
    everywhere(Sysemu::start);
}

#[test]
fn local_sigsys_rounds() {
    works(LocalSigsys::start().unwrap());
}

#[test]
fn shared_line_rounds() {
    // Two spinners need two CPUs.
    if let Some(cpus) = Cpus::two() {
        works(SharedLine::start(cpus).unwrap());
        works(SharedLine::start(Cpus::unpinned()).unwrap());
    }
}

#[test]
fn futex_rounds() {
    everywhere(Futex::start);
}

#[test]
fn user_notif_rounds() {
    everywhere(UserNotif::start);
}

#[test]
fn a_round_leaves_the_thread_where_it_may_run() {
    let before = rustix::thread::sched_getaffinity(None).unwrap();
    works(Futex::start(Cpus::one().unwrap()).unwrap());
    assert_eq!(rustix::thread::sched_getaffinity(None).unwrap(), before);
}

#[test]
fn a_killed_child_ends_the_round() {
    let mut peer = idle();
    kill_process(Pid::from_raw(peer.pid()).unwrap(), Signal::KILL).unwrap();
    assert_eq!(peer.ring("wake the child").unwrap_err().errno(), Errno::SRCH);
}

#[test]
fn a_dropped_child_is_reaped() {
    let peer = idle();
    let pid = Pid::from_raw(peer.pid()).unwrap();
    test_kill_process(pid).unwrap();
    drop(peer);
    assert_eq!(test_kill_process(pid), Err(Errno::SRCH));
}

#[test]
fn a_child_dies_with_the_thread_that_started_it() {
    let mut peer = std::thread::spawn(idle).join().unwrap();
    assert_eq!(peer.ring("wake the child").unwrap_err().errno(), Errno::SRCH);
}

/// A child that never answers: nobody makes requests on its line.
fn idle() -> Peer {
    // SAFETY: the child only accesses the board and calls futex(2).
    unsafe { Peer::start(Cpus::unpinned(), |board| board.line.answer(board.line.next(0))) }.unwrap()
}

#[test]
fn spawn_rounds() {
    for way in [super::Way::Fork, super::Way::PosixSpawn] {
        assert!(super::Spawn::start(way).unwrap().round(2).unwrap() > Duration::ZERO);
    }
}

//! A round trip through one cache line that both sides look at all the time.
//!
//! The floor of any hand-off between two CPUs: the line moves there and back (Intel 64 and IA-32 Architectures
//! Optimization Reference Manual, "pause" in spin-wait loops). Between rounds the child sleeps, so that other
//! baselines have its CPU.

use std::hint::spin_loop;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::board::{Board, ENDED, ended, following};
use super::peer::Peer;
use super::{Cpus, Rounds};
use crate::Result;

/// The request after which the child sleeps until the bell; no number of a request has this bit.
const PARK: u32 = 1 << 31;
/// How long the scheduler has, before a round, to give each side a CPU of its own, and how it is known that it has:
/// so many round trips in so short a time.
const SETTLE_TIME: Duration = Duration::from_millis(50);
const SETTLED: (u32, Duration) = (64, Duration::from_micros(200));

/// A child that spins for requests and answers each in the same line.
#[derive(Debug)]
pub struct SharedLine {
    peer: Peer,
    cpus: Cpus,
    last: u32,
}

impl SharedLine {
    /// Starts the child. On a single CPU every round trip would cost two time slices.
    ///
    /// # Errors
    ///
    /// EAGAIN, ENOMEM: no more processes; ENOSYS: older than Linux 5.3.
    pub fn start(cpus: Cpus) -> Result<Self> {
        // SAFETY: `serve` only accesses the board and calls futex(2).
        let peer = unsafe { Peer::start(cpus, serve)? };
        Ok(Self { peer, cpus, last: 0 })
    }

    /// Makes round trips until they are fast. A child that has just been woken may begin on this side's CPU; there
    /// every round trip costs time slices.
    fn settle(&mut self) -> Result<()> {
        let begin = Instant::now();
        loop {
            let (nr_calls, enough) = SETTLED;
            let start = Instant::now();
            // One by one: a single slow one already says that this is not it yet.
            for _ in 0..nr_calls {
                self.exchange(1)?;
                if start.elapsed() > enough {
                    break;
                }
            }
            if start.elapsed() <= enough || begin.elapsed() > SETTLE_TIME {
                return Ok(());
            }
        }
    }

    fn exchange(&mut self, nr_calls: u32) -> Result<()> {
        let line = &self.peer.board().line;
        for _ in 0..nr_calls {
            self.last = following(self.last);
            line.request.store(self.last, Ordering::Release);
            loop {
                match line.reply.load(Ordering::Acquire) {
                    reply if reply == self.last => break,
                    ENDED => return Err(ended()),
                    _ => spin_loop(),
                }
            }
        }
        Ok(())
    }
}

impl Rounds for SharedLine {
    fn round(&mut self, nr_calls: u32) -> Result<Duration> {
        let _pinned = self.cpus.pin_host()?;
        self.peer.ring("wake the child")?;
        let result = self.settle().and_then(|()| {
            let start = Instant::now();
            self.exchange(nr_calls)?;
            Ok(start.elapsed())
        });
        self.peer.board().line.request.store(PARK, Ordering::Release);
        result
    }
}

/// The child.
fn serve(board: &Board) {
    let (line, mut rung) = (&board.line, 0);
    loop {
        rung = board.bell.next(rung);
        let mut last = line.request.load(Ordering::Relaxed);
        board.bell.answer(rung);
        loop {
            match line.request.load(Ordering::Acquire) {
                PARK if last != PARK => break,
                request if request == last => spin_loop(),
                request => {
                    line.reply.store(request, Ordering::Release);
                    last = request;
                }
            }
        }
    }
}

//! A round trip between two processes that sleep while they wait (futex(2)).

use std::time::{Duration, Instant};

use super::board::{Board, following};
use super::peer::Peer;
use super::{Cpus, Rounds};
use crate::Result;

/// A child that answers each request by FUTEX_WAKE and waits for the next by FUTEX_WAIT. Nobody spins.
#[derive(Debug)]
pub struct Futex {
    peer: Peer,
    cpus: Cpus,
    last: u32,
}

impl Futex {
    /// Starts the child.
    ///
    /// # Errors
    ///
    /// EAGAIN, ENOMEM: no more processes; ENOSYS: older than Linux 5.3.
    pub fn start(cpus: Cpus) -> Result<Self> {
        // SAFETY: `serve` only accesses the board and calls futex(2).
        let peer = unsafe { Peer::start(cpus, serve)? };
        Ok(Self { peer, cpus, last: 0 })
    }
}

impl Rounds for Futex {
    fn round(&mut self, nr_calls: u32) -> Result<Duration> {
        let _pinned = self.cpus.pin_host()?;
        let line = &self.peer.board().line;
        let start = Instant::now();
        for _ in 0..nr_calls {
            self.last = following(self.last);
            line.ask(self.last)?;
        }
        Ok(start.elapsed())
    }
}

/// The child.
fn serve(board: &Board) {
    let mut last = 0;
    loop {
        last = board.line.next(last);
        board.line.answer(last);
    }
}

//! Moving ranges by process_vmsplice: the pipe is filled, then emptied, by one thread.
//!
//! No second thread and no hand-off between CPUs: filling costs no copy, so there is nothing to do beside it.

use farspace_abi::RemoteIoVec;
use farspace_abi::mailbox::MAX_IOV;
use rustix::io::Errno;

use super::Space;
use crate::drain::Drain;
use crate::share::locate;
use crate::sink::Sink;
use crate::target::OwnPipe;
use crate::transfer::{Progress, Transfer, WRITE_OUT, interrupted};
use crate::{Error, Result, SpliceFlags};

/// A pipe between an address space and a sink.
#[derive(Clone, Copy)]
pub(crate) struct Stream<'a> {
    pub(crate) pid: i32,
    pub(crate) space: &'a Space,
    pub(crate) pipe: &'a OwnPipe,
}

impl Stream<'_> {
    /// Moves at most 1024 ranges.
    pub(crate) fn run(
        &self,
        ranges: &[RemoteIoVec],
        sink: &mut Sink<'_>,
        progress: Progress<'_>,
    ) -> Result<Transfer> {
        debug_assert!(ranges.len() <= MAX_IOV, "process_vmsplice takes no more");
        let mut left = ranges.to_vec();
        let (mut bytes, mut first) = (0, 0);
        loop {
            first += left[first..].iter().take_while(|range| range.len == 0).count();
            if first == left.len() {
                return Ok(Transfer { bytes, stopped: None });
            }
            let stopped =
                match self.space.vmsplice(self.pipe.writer(), &left[first..], SpliceFlags::NONBLOCK.bits()) {
                    Ok(filled) => {
                        // A range that is longer than the pipe comes again, with what is left of it.
                        take(&mut left[first..], filled as u64);
                        bytes += self.empty(filled, sink, progress)?;
                        continue;
                    }
                    Err(Errno::INTR) => continue,
                    // It was empty.
                    Err(errno) => errno,
                };
            // The target's end looks like one of its memory.
            self.space.check()?;
            return Ok(Transfer { bytes, stopped: locate(ranges, bytes).map(|at| (at, stopped)) });
        }
    }

    /// Empties the pipe into the sink, or into nothing after a failure.
    fn empty(&self, filled: usize, sink: &mut Sink<'_>, progress: Progress<'_>) -> Result<u64> {
        let drain = Drain { pipe: self.pipe.reader(), room: self.pipe.room() };
        let mut done = 0;
        let mut copying = false;
        while done < filled {
            let step = if copying { drain.copy_out(sink, progress) } else { drain.move_out(sink) };
            let outcome = match step {
                Ok(n) => {
                    done += n;
                    if n > 0 && progress(n as u64).is_break() { Err(interrupted(self.pid)) } else { Ok(()) }
                }
                // The sink is full, or a signal came.
                Err(Errno::INTR) if progress(0).is_break() => Err(interrupted(self.pid)),
                Err(Errno::INTR) => Ok(()),
                // This file or device takes no pages (a terminal, O_APPEND): copy from the pipe.
                Err(Errno::INVAL) if !copying => {
                    copying = true;
                    Ok(())
                }
                Err(errno) => Err(Error::new(WRITE_OUT, self.pid, errno)),
            };
            if let Err(error) = outcome {
                // The pipe is the handle's, and is used again.
                let mut rest = vec![0; filled - done];
                let _ = rustix::io::read(self.pipe.reader(), &mut rest);
                return Err(error);
            }
        }
        Ok(done as u64)
    }
}

/// Shortens the ranges by what has been moved of them.
fn take(ranges: &mut [RemoteIoVec], mut bytes: u64) {
    for range in ranges {
        let part = range.len.min(bytes);
        range.base.0 = range.base.0.wrapping_add(part);
        range.len -= part;
        bytes -= part;
        if bytes == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_taken_from_the_begin() {
        let mut ranges = [RemoteIoVec::new(0x1000, 10), RemoteIoVec::new(0x9000, 20)];
        take(&mut ranges, 13);
        assert_eq!(ranges, [RemoteIoVec::new(0x100a, 0), RemoteIoVec::new(0x9003, 17)]);
    }
}

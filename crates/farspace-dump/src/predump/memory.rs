//! The memory of a process, as a source of pages.

use std::ops::ControlFlow;

use farspace::Target;
use farspace_image::criu::PageRun;
use farspace_sys::memory::Memory;
use farspace_sys::{RemoteAddr, RemoteIoVec};
use rustix::io::Errno;

use super::{PageSource, Place};
use crate::{Error, Result, plan};

const PAGE: u64 = 4096;

/// A process that is attached to.
pub(super) struct ProcessMemory<'a> {
    pub(super) target: &'a mut Target,
    /// The same by copy, whatever a mapping's protection is.
    pub(super) memory: Memory,
    /// Told of the bytes of each step.
    pub(super) progress: &'a mut (dyn FnMut(u64) -> ControlFlow<()> + Send),
    /// Pages that couldn't be read.
    pub(super) vanished: u64,
    /// The process has ended or executed another program: all that was asked for since is zeros.
    pub(super) is_gone: bool,
}

impl PageSource for ProcessMemory<'_> {
    fn splice(&mut self, runs: &[PageRun], to: Place<'_>) -> Result<()> {
        let mut left: Vec<_> = runs.iter().map(|run| RemoteIoVec::new(run.vaddr, run.len_bytes())).collect();
        let mut done = 0;
        while !left.is_empty() && !self.is_gone {
            let transfer = match self.target.splice(&left, &mut to.after(done), self.progress) {
                Ok(transfer) => transfer,
                Err(error) if error.errno() == Errno::INTR => return Err(Error::Interrupted),
                // How much has gone out isn't known.
                Err(error) if matches!(to, Place::Stream(_)) => return Err(error.into()),
                Err(error) if error.operation() != farspace::WRITE_OUT && error.errno() == Errno::SRCH => {
                    self.is_gone = true;
                    break;
                }
                Err(error) => return Err(error.into()),
            };
            let Some((stuck, _)) = transfer.stopped else { return Ok(()) };
            // What was moved before it, and all of its page, whose beginning is moved again.
            let page = RemoteAddr(stuck.0 & !(PAGE - 1));
            done += before(&left, page);
            let mut bytes = [0; PAGE as usize];
            self.read(page.0, &mut bytes)?;
            self.write_out(&bytes, to, done)?;
            done += PAGE;
            left = plan::after(&left, RemoteAddr(page.0 + PAGE));
        }
        // A file is full of zeros already.
        if let Place::Stream(_) = to {
            for _ in 0..plan::total(&left) / PAGE {
                self.write_out(&[0; PAGE as usize], to, done)?;
            }
        }
        Ok(())
    }

    fn read(&mut self, vaddr: u64, buffer: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            let at = RemoteAddr(vaddr + done as u64);
            let read = if self.is_gone { Ok(0) } else { self.memory.read(at, &mut buffer[done..]) };
            match read {
                Ok(n) if n > 0 => done += n,
                Err(e) if e.is_gone() => self.is_gone = true,
                _ => {
                    let page = (done / PAGE as usize + 1) * PAGE as usize;
                    let rest = buffer.len().min(page);
                    buffer[done..rest].fill(0);
                    done = rest;
                    self.vanished += 1;
                }
            }
        }
        if (self.progress)(0).is_break() { Err(Error::Interrupted) } else { Ok(()) }
    }
}

impl ProcessMemory<'_> {
    /// Fails once the process has ended or executed another program.
    ///
    /// # Errors
    ///
    /// ESRCH.
    pub(super) fn check(&self) -> Result<()> {
        let gone = || farspace_sys::Error::new("read memory", self.target.pid(), Errno::SRCH).into();
        if self.is_gone { Err(gone()) } else { Ok(()) }
    }

    fn write_out(&self, bytes: &[u8], to: Place<'_>, done: u64) -> Result<()> {
        to.after(done)
            .write_all(bytes)
            .map_err(|errno| farspace_sys::Error::new(farspace::WRITE_OUT, self.target.pid(), errno).into())
    }
}

/// How many bytes of the ranges come before an address.
fn before(ranges: &[RemoteIoVec], end: RemoteAddr) -> u64 {
    plan::total(ranges) - plan::total(&plan::after(ranges, end))
}

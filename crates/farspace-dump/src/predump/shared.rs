//! Shared memory without a file: one image for each object, whoever has it mapped.
//!
//! It is written whole each time. A process can map such memory, change it and unmap it, and no bit in anybody's page table
//! tells; so CRIU's final dump takes all of it, too.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;

use farspace_image::criu::{ImageId, PageFlags, PageRun};
use farspace_sys::process::Mapping;
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::{PageSink, PageSource, Place};
use crate::{Error, Result};

const PAGE: u64 = 4096;
/// Bytes that one call moves at most.
const STEP: u64 = 32 << 20;

/// An object and one of the mappings that it can be reached by.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) inode: u64,
    pub(super) pid: i32,
    pub(super) mapping: Mapping,
}

impl Object {
    /// Opens the whole object.
    pub(super) fn open(&self) -> io::Result<File> {
        let (start, end) = (self.mapping.start.0, self.mapping.end.0);
        let file = File::open(format!("/proc/{}/map_files/{start:x}-{end:x}", self.pid))?;
        // That mapping may have become another one.
        if rustix::fs::fstat(&file)?.st_ino == self.inode { Ok(file) } else { Err(Errno::NOENT.into()) }
    }

    /// Writes its image; returns the pages written.
    pub(super) fn write(
        &self,
        file: &File,
        sink: &mut dyn PageSink,
        progress: &mut (dyn FnMut(u64) -> ControlFlow<()> + Send),
    ) -> Result<u64> {
        let error = |errno| Error::from(farspace_sys::Error::new("read shared memory", self.pid, errno));
        let end = file.metadata().map_or(0, |found| found.len()).next_multiple_of(PAGE);
        let mut source = SharedMemory { file, pid: self.pid, progress };
        let mut at = 0;
        let mut nr_pages = 0;
        sink.begin(ImageId::Shared(self.inode))?;
        while at < end {
            // Only what has pages; the rest is zeros, and not in the image.
            let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
                Ok(data) => data / PAGE * PAGE,
                Err(Errno::NXIO) => break,
                Err(errno) => return Err(error(errno)),
            };
            let hole = rustix::fs::seek(file, SeekFrom::Hole(data)).map_err(error)?.next_multiple_of(PAGE);
            let len = (hole.min(end).saturating_sub(data)).min(STEP);
            if len == 0 {
                break;
            }
            let run = PageRun { vaddr: data, nr_pages: len / PAGE, flags: PageFlags::PRESENT };
            sink.pages(&[run], &mut source)?;
            nr_pages += run.nr_pages;
            at = data + len;
        }
        sink.end()?;
        Ok(nr_pages)
    }
}

/// An object as a source of pages; addresses are offsets.
struct SharedMemory<'a> {
    file: &'a File,
    pid: i32,
    progress: &'a mut (dyn FnMut(u64) -> ControlFlow<()> + Send),
}

impl PageSource for SharedMemory<'_> {
    fn splice(&mut self, runs: &[PageRun], to: Place<'_>) -> Result<()> {
        let mut buffer = vec![0; 1 << 20];
        let mut done = 0;
        for run in runs {
            let mut at = run.vaddr;
            while at < run.range().end {
                let len = (run.range().end - at).min(buffer.len() as u64) as usize;
                self.read(at, &mut buffer[..len])?;
                to.after(done).write_all(&buffer[..len]).map_err(|errno| {
                    Error::from(farspace_sys::Error::new(farspace::WRITE_OUT, self.pid, errno))
                })?;
                at += len as u64;
                done += len as u64;
                if (self.progress)(len as u64).is_break() {
                    return Err(Error::Interrupted);
                }
            }
        }
        Ok(())
    }

    fn read(&mut self, vaddr: u64, buffer: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            match self.file.read_at(&mut buffer[done..], vaddr + done as u64) {
                // Truncated meanwhile: zeros from there on.
                Ok(0) => {
                    buffer[done..].fill(0);
                    break;
                }
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    let errno = Errno::from_io_error(&e).unwrap_or(Errno::IO);
                    return Err(farspace_sys::Error::new("read shared memory", self.pid, errno).into());
                }
            }
        }
        Ok(())
    }
}

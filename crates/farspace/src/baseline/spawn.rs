//! fork and exec of a static program: what it otherwise takes to have a fresh address space.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;

use super::Rounds;
use crate::{Error, Result};

/// Where the program is mapped.
const BASE: u64 = 0x40_0000;
/// `mov eax, 60; xor edi, edi; syscall`: exit(0).
const CODE: [u8; 9] = [0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05];

/// How a program is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// fork(2) and execve(2).
    Fork,
    /// posix_spawn(3), which copies no page tables of the caller's.
    PosixSpawn,
}

/// Starts of the smallest static program there is, each waited for.
#[derive(Debug)]
pub struct Spawn {
    program: File,
    way: Way,
}

impl Spawn {
    /// Makes the program.
    ///
    /// # Errors
    ///
    /// EMFILE, ENOMEM.
    pub fn start(way: Way) -> Result<Self> {
        let error = |errno| Error::new("make a static program", None, errno);
        let mut program = File::from(memfd_create("static", MemfdFlags::CLOEXEC).map_err(error)?);
        program.write_all(&image()).map_err(|e| error(Errno::from_io_error(&e).unwrap_or(Errno::IO)))?;
        Ok(Self { program, way })
    }
}

impl Rounds for Spawn {
    fn round(&mut self, nr_calls: u32) -> Result<Duration> {
        let path = format!("/proc/self/fd/{}", self.program.as_raw_fd());
        let start = Instant::now();
        for _ in 0..nr_calls {
            let mut command = Command::new(&path);
            command.env_clear().stdin(Stdio::null());
            if self.way == Way::Fork {
                // With something to do in between, the standard library forks.
                // SAFETY: that does nothing.
                unsafe { command.pre_exec(|| Ok(())) };
            }
            let failed = match command.status() {
                Ok(status) if status.success() => continue,
                Ok(_) => Errno::IO,
                Err(error) => Errno::from_io_error(&error).unwrap_or(Errno::IO),
            };
            return Err(Error::new("run a static program", None, failed));
        }
        Ok(start.elapsed())
    }
}

/// An ELF file of one segment (elf(5)).
fn image() -> Vec<u8> {
    let len = 64 + 56 + CODE.len() as u64;
    let mut image = b"\x7fELF\x02\x01\x01".to_vec();
    image.resize(16, 0);
    // ET_EXEC, EM_X86_64
    for half in [2u16, 62] {
        image.extend(half.to_le_bytes());
    }
    image.extend(1u32.to_le_bytes());
    for word in [BASE + 64 + 56, 64, 0] {
        image.extend(word.to_le_bytes());
    }
    image.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 1, 64, 0, 0] {
        image.extend(half.to_le_bytes());
    }
    // PT_LOAD, PF_R | PF_X
    for word in [1u32, 5] {
        image.extend(word.to_le_bytes());
    }
    for word in [0, BASE, BASE, len, len, 0x1000] {
        image.extend(word.to_le_bytes());
    }
    image.extend(CODE);
    image
}

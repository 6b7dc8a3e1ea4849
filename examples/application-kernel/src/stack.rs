//! What a program finds on its stack: arguments, environment, auxiliary vector (getauxval(3)).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use farspace_exec::Protection;
use rustix::process::{getegid, geteuid, getgid, getuid};
use rustix::rand::GetRandomFlags;

use crate::kernel::Kernel;
use crate::layout::Bytes;
use crate::loader::{Image, reason};
use crate::memory::{Backing, PAGE};

/// Bytes of the stack; what the guest doesn't use of it never exists.
pub(crate) const BYTES: u64 = 8 << 20;
const TOP: u64 = 0x7fff_ff00_0000;

/// Strings that go to the top of the stack, and the address at which they begin.
struct Strings {
    bytes: Vec<u8>,
    at: u64,
}

impl Strings {
    fn add(&mut self, bytes: &[u8]) -> u64 {
        let at = self.at + self.bytes.len() as u64;
        self.bytes.extend(bytes);
        self.bytes.push(0);
        at
    }
}

/// Maps the stack and fills it; returns the stack pointer.
pub(crate) fn build<'a>(
    kernel: &mut Kernel,
    arguments: impl Iterator<Item = &'a OsString>,
    path: &OsStr,
    program: &Image,
    start: &Image,
) -> anyhow::Result<u64> {
    let both = Protection::READ | Protection::WRITE;
    kernel.memory.map(TOP - BYTES..TOP, both, Backing::Anonymous).map_err(reason)?;
    let arguments: Vec<_> = arguments.map(|argument| argument.as_bytes().to_vec()).collect();
    let environment: Vec<_> = std::env::vars_os()
        .map(|(name, value)| [&name.into_vec()[..], b"=", value.as_bytes()].concat())
        .collect();
    let strings = arguments.iter().chain(&environment);
    let len = strings.map(|string| string.len() as u64 + 1).sum::<u64>() + path.len() as u64 + 64;
    anyhow::ensure!(len < BYTES / 4, "the arguments and the environment are too long");

    let mut strings = Strings { bytes: Vec::new(), at: (TOP - len) / 16 * 16 };
    let mut words = Bytes::default();
    words.u64(arguments.len() as u64);
    for list in [&arguments, &environment] {
        list.iter().for_each(|string| words.u64(strings.add(string)));
        words.u64(0);
    }
    let mut random = [0; 16];
    rustix::rand::getrandom(&mut random[..], GetRandomFlags::empty())?;
    let (hwcap, hwcap2) = rustix::param::linux_hwcap();
    let vector = [
        (libc::AT_PHDR, program.headers),
        (libc::AT_PHENT, 56),
        (libc::AT_PHNUM, program.nr_headers),
        (libc::AT_PAGESZ, PAGE),
        // The interpreter's place; a program without one is told 0.
        (libc::AT_BASE, if start.entry == program.entry { 0 } else { start.bias }),
        (libc::AT_FLAGS, 0),
        (libc::AT_ENTRY, program.entry),
        (libc::AT_UID, getuid().as_raw().into()),
        (libc::AT_EUID, geteuid().as_raw().into()),
        (libc::AT_GID, getgid().as_raw().into()),
        (libc::AT_EGID, getegid().as_raw().into()),
        (libc::AT_SECURE, 0),
        (libc::AT_HWCAP, hwcap as u64),
        (libc::AT_HWCAP2, hwcap2 as u64),
        (libc::AT_CLKTCK, rustix::param::clock_ticks_per_second()),
        (libc::AT_RANDOM, strings.add(&random)),
        (libc::AT_PLATFORM, strings.add(b"x86_64")),
        (libc::AT_EXECFN, strings.add(path.as_bytes())),
        (libc::AT_NULL, 0),
    ];
    for (kind, value) in vector {
        words.u64s([kind, value]);
    }
    let pointer = (strings.at - words.0.len() as u64) / 16 * 16;
    kernel.memory.write(pointer, &words.0).map_err(reason)?;
    kernel.memory.write(strings.at, &strings.bytes).map_err(reason)?;
    Ok(pointer)
}

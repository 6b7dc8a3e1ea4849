//! A process with room for guests: code, stack and data for code that a tester runs in this address space.
//!
//! `ready PID code=ADDR:LEN:SEED stack=... data=... ro=... none=... bus=... hole=... mirror=...`: each region is filled
//! with the pattern of its seed. The tester announces by `may NAME OFFSET LEN` what it, or its guest, will write; every
//! other byte must stay as it was, which every check compares. `exec` becomes a new image with other patterns, which says
//! `ready` anew.
//!
//! `--image N`: the seeds are 100 * N + 1, ...

use crate::witness::Witness;
use crate::{Verdict, control, option, pattern, sys};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Far from everything that the kernel places by itself, and at the same address in every image.
const BASE: usize = 0x1500_0000_0000;
const NONE: i32 = libc::PROT_NONE;
const READ: i32 = libc::PROT_READ;
const WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;
const ALL: i32 = WRITE | libc::PROT_EXEC;
const PAGE: usize = crate::PAGE;

/// What a region is made of.
#[derive(Clone, Copy)]
enum Made {
    /// Anonymous memory at [`BASE`] plus this.
    At(usize),
    /// Anonymous memory below 2 GiB, where 32-bit code can point to it.
    Low,
    /// A file of one page at [`BASE`] plus this; what is behind its end is mapped, too.
    FileEnd(usize),
    /// Nothing, at [`BASE`] plus this.
    Hole(usize),
}

const REGIONS: &[(&str, Made, usize, i32)] = &[
    ("code", Made::At(0), 4 * PAGE, ALL),
    ("data", Made::At(0x10_0000), 64 * PAGE, WRITE),
    ("ro", Made::At(0x20_0000), 4 * PAGE, READ),
    ("none", Made::At(0x30_0000), 4 * PAGE, NONE),
    ("bus", Made::FileEnd(0x40_0000), 2 * PAGE, WRITE),
    ("hole", Made::Hole(0x50_0000), 16 * PAGE, NONE),
    ("mirror", Made::At(0x60_0000), PAGE, WRITE),
    ("stack", Made::Low, 64 * PAGE, WRITE),
];

struct Region {
    name: &'static str,
    addr: usize,
    len: usize,
    /// Bytes that can be looked at.
    filled: usize,
    seed: u64,
    /// (offset, length) of what may be different.
    announced: Vec<(usize, usize)>,
}

/// All regions.
pub(crate) struct Room {
    regions: Vec<Region>,
    image: u64,
    /// The process that is looked at: `self`, or a child.
    process: String,
}

pub(crate) fn main(args: &[String]) -> Verdict {
    let mut room = Room::new(option(args, "--image", 1)?)?;
    let mut witness = Witness::start()?;
    control::ready(&room.words());
    control::serve(&mut witness, |_, words| room.command(words))
}

impl Room {
    /// Maps and fills every region.
    pub(crate) fn new(image: u64) -> Result<Self, String> {
        let regions = (100 * image + 1..).zip(REGIONS).map(|(seed, region)| Region::new(seed, region));
        Ok(Self { regions: regions.collect::<Result<_, _>>()?, image, process: "self".to_owned() })
    }

    /// The room that is looked at is that of a child, which has its copy by fork.
    pub(crate) fn is_of(&mut self, child: i32) {
        self.process = child.to_string();
    }

    /// The words of the ready line.
    pub(crate) fn words(&self) -> String {
        let word = |r: &Region| format!("{}={:#x}:{:#x}:{:#x}", r.name, r.addr, r.len, r.seed);
        self.regions.iter().map(word).collect::<Vec<_>>().join(" ")
    }

    /// Answers the room's own commands; fails a check if something has changed.
    pub(crate) fn command(&mut self, words: &[&str]) -> control::Special {
        match *words {
            ["may", name, offset, len] => Some(self.announce(name, offset, len)),
            ["exec"] => {
                let image = (self.image + 1).to_string();
                let mut command = Command::new("/proc/self/exe");
                let error = command.arg0(crate::PROGRAM).args(["guest-room", "--image", &image]).exec();
                Some(Err(format!("exec: {error}")))
            }
            ["check" | "exit", ..] => self.verify().err().map(Err),
            _ => None,
        }
    }

    fn verify(&self) -> Verdict {
        let path = format!("/proc/{}/mem", self.process);
        let memory = File::open(&path).map_err(|e| format!("{path}: {e}"))?;
        self.regions.iter().try_for_each(|region| region.verify(&memory))
    }

    fn announce(&mut self, name: &str, offset: &str, len: &str) -> Result<String, String> {
        let region = self.regions.iter_mut().find(|r| r.name == name).ok_or("no such region")?;
        let number = |text: &str| text.parse::<usize>().map_err(|_| format!("{text} is not a number"));
        region.announced.push((number(offset)?, number(len)?));
        Ok("ok".to_owned())
    }
}

impl Region {
    fn new(
        seed: u64,
        &(name, made, len, protection): &(&'static str, Made, usize, i32),
    ) -> Result<Self, String> {
        let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let (addr, filled) = match made {
            Made::At(offset) => (map(BASE + offset, len, private | libc::MAP_FIXED_NOREPLACE, -1)?, len),
            Made::Low => (map(0, len, private | libc::MAP_32BIT, -1)?, len),
            Made::FileEnd(offset) => {
                // SAFETY: no memory but the name is involved; the descriptor is owned at once.
                let file = unsafe { libc::memfd_create(c"room".as_ptr(), libc::MFD_CLOEXEC) };
                let file = File::from(sys::owned("memfd_create", file)?);
                file.set_len(PAGE as u64).map_err(|e| format!("memfd: {e}"))?;
                let flags = libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE;
                (map(BASE + offset, len, flags, file.as_raw_fd())?, PAGE)
            }
            Made::Hole(offset) => (BASE + offset, 0),
        };
        for (index, at) in (addr..addr + filled).step_by(8).enumerate() {
            // SAFETY: inside the new mapping, which is writable, aligned, and known to nobody else.
            unsafe { (at as *mut u64).write_volatile(pattern::word(seed, index as u64)) };
        }
        if filled > 0 {
            // SAFETY: this program's own mapping, to which there are no references.
            sys::os("mprotect", unsafe { libc::mprotect(addr as *mut _, len, protection) })?;
        }
        Ok(Self { name, addr, len, filled, seed, announced: Vec::new() })
    }

    /// Compares every byte that nobody announced to change. Read through the kernel: some can't be read directly.
    fn verify(&self, memory: &File) -> Verdict {
        let mut content = vec![0; self.filled];
        memory.read_exact_at(&mut content, self.addr as u64).map_err(|e| format!("{}: {e}", self.name))?;
        for (index, word) in content.chunks_exact(8).enumerate() {
            let wanted = pattern::word(self.seed, index as u64).to_le_bytes();
            if word == wanted {
                continue;
            }
            for offset in (8 * index..8 * index + 8).filter(|at| content[*at] != wanted[at % 8]) {
                if !self.announced.iter().any(|(begin, len)| (*begin..begin + len).contains(&offset)) {
                    return Err(format!(
                        "{}: byte {offset:#x} is {:#x}, expected {:#x}: nobody was to write there",
                        self.name,
                        content[offset],
                        wanted[offset % 8]
                    ));
                }
            }
        }
        Ok(())
    }
}

fn map(at: usize, len: usize, flags: i32, fd: i32) -> Result<usize, String> {
    // SAFETY: a new mapping; a fixed address is never one that is in use (NOREPLACE).
    let addr = unsafe { libc::mmap(at as *mut _, len, WRITE, flags, fd, 0) };
    match addr == libc::MAP_FAILED || (at != 0 && addr as usize != at) {
        true => Err(format!("mmap at {at:#x}: {}", std::io::Error::last_os_error())),
        false => Ok(addr as usize),
    }
}

//! Cases 22 to 24: what becomes of the pages behind the pipe, and that the target never sees it.

use crate::case::Outcome;
use crate::world::{GIFT, MOVE, PAGE, Pipe, expect, expect_bytes, expect_count, memory, range, unharmed};
use libtest_mimic::Failed;
use rustix::pipe::{SpliceFlags, splice, tee};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};

const LEN: u64 = 8 * PAGE;

/// Files into which pages can be spliced: one of tmpfs, one of the file system of the temporary directory.
fn files() -> Result<Vec<(&'static str, File)>, Failed> {
    let memfd = rustix::fs::memfd_create("conformance", rustix::fs::MemfdFlags::CLOEXEC)?;
    let path = std::env::temp_dir().join(format!("farspace-conformance-{}", std::process::id()));
    let disk = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(vec![("tmpfs", memfd.into()), ("disk", disk)])
}

/// Moves `len` bytes from the pipe to `out`.
fn forward(reader: &OwnedFd, out: &impl AsFd, len: u64) -> Outcome {
    let mut left = len as usize;
    while left > 0 {
        match splice(reader, None, out, None, left, SpliceFlags::MOVE)? {
            0 => return Err(format!("the pipe ended {left} bytes early").into()),
            n => left -= n,
        }
    }
    Ok(())
}

/// Sends the target's pages into `file`, then writes over all of it: through the file and through a mapping.
fn overwrite(pipe: &Pipe, file: &mut File, wanted: &[u8]) -> Outcome {
    file.rewind()?;
    forward(&pipe.reader, file, wanted.len() as u64)?;
    let mut data = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut data)?;
    expect_bytes("in the file", &data[..wanted.len()], wanted)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&vec![0xaa; wanted.len() / 2])?;
    let (prot, flags) = (rustix::mm::ProtFlags::WRITE, rustix::mm::MapFlags::SHARED);
    // SAFETY: a new mapping of a file that is at least as long; it is filled once and unmapped.
    unsafe {
        let at = rustix::mm::mmap(std::ptr::null_mut(), wanted.len(), prot, flags, &*file, 0)?;
        at.cast::<u8>().write_bytes(0xbb, wanted.len());
        rustix::mm::munmap(at, wanted.len())?;
    }
    Ok(())
}

pub(super) fn downstream_write() -> Outcome {
    let mut victim = memory(&["anon:64K", "shared", "fileshared", "readonly"])?;
    for name in ["anon", "shared", "fileshared", "readonly"] {
        let region = victim.region(name)?;
        for (_, mut file) in files()? {
            let pipe = Pipe::new()?;
            let iov = [range(region, 0, LEN)];
            expect_count(name, pipe.call(victim.pid(), &iov, MOVE), LEN)?;
            overwrite(&pipe, &mut file, &region.bytes(0, LEN))?;
            // Every byte of every region is compared by the target itself.
            victim.check()?;
        }
    }
    // A write of the reader's into the pipe behind the pages must not be merged into the last one.
    let region = victim.region("anon")?;
    let pipe = Pipe::new()?;
    expect_count("part of a page", pipe.call(victim.pid(), &[range(region, 0, 100)], 0), 100)?;
    rustix::io::write(&pipe.writer, &[0xcc; 100])?;
    expect_bytes("then 100 more", &pipe.drain()?, &[region.bytes(0, 100), vec![0xcc; 100]].concat())?;
    unharmed(victim)
}

pub(super) fn unaligned_gift() -> Outcome {
    let mut victim = memory(&["anon:64K"])?;
    let anon = victim.region("anon")?;
    for (offset, len) in [(1, 10), (100, PAGE), (PAGE - 1, 2), (0, 2 * PAGE), (PAGE, PAGE + 1)] {
        for flags in [GIFT, GIFT | MOVE] {
            for (what, mut file) in files()? {
                let pipe = Pipe::new()?;
                expect_count(
                    &format!("{offset}+{len}"),
                    pipe.call(victim.pid(), &[range(anon, offset, len)], flags),
                    len,
                )?;
                overwrite(&pipe, &mut file, &anon.bytes(offset, len))
                    .map_err(|e| format!("{offset}+{len} into {what}: {e:?}"))?;
            }
        }
    }
    // The gift was none: the target can still write, and only it sees that.
    victim.command("write anon 0 4096 99")?;
    victim.check()?;
    unharmed(victim)
}

pub(super) fn tee_and_splice() -> Outcome {
    let victim = memory(&["anon:64K"])?;
    let anon = victim.region("anon")?;
    let (pipe, second) = (Pipe::new()?, Pipe::new()?);
    expect_count("pages", pipe.call(victim.pid(), &[range(anon, 50, LEN)], 0), LEN)?;
    let n = tee(&pipe.reader, &second.writer, LEN as usize, SpliceFlags::empty())?;
    expect("tee", &n, &(LEN as usize))?;
    let wanted = anon.bytes(50, LEN);
    let (mut receiver, sender) = std::os::unix::net::UnixStream::pair()?;
    forward(&pipe.reader, &sender, LEN)?;
    let mut data = vec![0; LEN as usize];
    receiver.read_exact(&mut data)?;
    expect_bytes("through a socket", &data, &wanted)?;
    let third = Pipe::new()?;
    forward(&second.reader, &third.writer, LEN)?;
    expect_bytes("through tee and a third pipe", &third.drain()?, &wanted)?;
    unharmed(victim)
}

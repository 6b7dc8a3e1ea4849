//! Cases 19 to 21: every kind of memory, and data that outlives it.

use crate::case::Outcome;
use crate::world::{PAGE, Pipe, expect_bytes, expect_count, expect_errno, memory, range, unharmed};
use farspace_victims::harness::Region;
use rustix::io::Errno;

/// Everything from `region`, in calls that neither begin nor end on page boundaries, then its last bytes.
fn whole(pid: i32, region: Region) -> Outcome {
    const STEP: u64 = 10 * PAGE + 123;
    let pipe = Pipe::new()?;
    let mut offset = 0;
    while offset < region.len {
        let len = STEP.min(region.len - offset);
        let n = pipe.call(pid, &[range(region, offset, len)], 0);
        expect_count(&format!("offset {offset:#x}"), n, len)?;
        expect_bytes(&format!("offset {offset:#x}"), &pipe.drain()?, &region.bytes(offset, len))?;
        offset += len;
    }
    Ok(())
}

fn kind(name: &str) -> Outcome {
    let victim = memory(&[name])?;
    whole(victim.pid(), victim.region(name)?)?;
    unharmed(victim)
}

pub(super) fn thp() -> Outcome {
    let victim = memory(&["thp"])?;
    let region = victim.region("thp")?;
    if !is_huge(victim.pid(), region)? {
        eprintln!("the kernel gave no huge page to a region that asked for it: its small pages are tested");
    }
    whole(victim.pid(), region)?;
    unharmed(victim)
}

/// Whether the mapping at `region` has a huge page (smaps AnonHugePages).
fn is_huge(pid: i32, region: Region) -> Result<bool, libtest_mimic::Failed> {
    let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let begin = smaps.find(&format!("{:x}-", region.addr)).ok_or("the region isn't in smaps")?;
    let line = smaps[begin..].lines().find_map(|line| line.strip_prefix("AnonHugePages:"));
    Ok(line.is_some_and(|kib| kib.trim() != "0 kB"))
}

pub(super) fn hugetlb() -> Outcome {
    kind("hugetlb")
}

pub(super) fn file() -> Outcome {
    kind("file")
}

pub(super) fn file_cow() -> Outcome {
    kind("filecow")
}

pub(super) fn file_shared() -> Outcome {
    kind("fileshared")
}

pub(super) fn shared() -> Outcome {
    kind("shared")
}

pub(super) fn readonly() -> Outcome {
    kind("readonly")
}

pub(super) fn secretmem() -> Outcome {
    let victim = memory(&["secretmem", "anon:64K"])?;
    let (secret, anon) = (victim.region("secretmem")?, victim.region("anon")?);
    let pipe = Pipe::new()?;
    for offset in [0, 100, secret.len - 1] {
        let iov = [range(secret, offset, 1), range(anon, 0, 1)];
        expect_errno(&format!("offset {offset}"), pipe.call(victim.pid(), &iov, 0), Errno::FAULT)?;
    }
    let iov = [range(anon, 0, 100), range(secret, 0, 100)];
    expect_count("up to the secret", pipe.call(victim.pid(), &iov, 0), 100)?;
    expect_bytes("up to the secret", &pipe.drain()?, &anon.bytes(0, 100))?;
    unharmed(victim)
}

pub(super) fn survives_munmap_and_exit() -> Outcome {
    let mut victim = memory(&["anon:64K", "shared", "file"])?;
    let (anon, shared, file) = (victim.region("anon")?, victim.region("shared")?, victim.region("file")?);
    let pipe = Pipe::new()?;
    let iov = [range(anon, 0, 4 * PAGE), range(shared, 0, 4 * PAGE), range(file, 0, 4 * PAGE)];
    expect_count("three kinds", pipe.call(victim.pid(), &iov, 0), 12 * PAGE)?;
    for name in ["anon", "shared", "file"] {
        victim.command(&format!("munmap {name}"))?;
    }
    let first = 2 * PAGE;
    let mut data = vec![0; first as usize];
    rustix::io::read(&pipe.reader, &mut data)?;
    expect_bytes("after munmap", &data, &anon.bytes(0, first))?;
    unharmed(victim)?;
    let wanted =
        [anon.bytes(first, 4 * PAGE - first), shared.bytes(0, 4 * PAGE), file.bytes(0, 4 * PAGE)].concat();
    expect_bytes("after exit", &pipe.drain()?, &wanted)
}

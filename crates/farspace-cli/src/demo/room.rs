//! Is there enough memory and disk for what is about to happen?

use std::path::{Path, PathBuf};

use crate::exit::Exit;
use crate::failure::Failure;
use crate::units;

/// What farspace, the target's code and page tables need besides.
const MARGIN_BYTES: u64 = 128 << 20;

/// Where the dumps of a target of this size go, after a check that target and dump fit.
pub(crate) fn find(target_bytes: u64, wanted: Option<&Path>) -> Result<PathBuf, Failure> {
    let available = available_memory().unwrap_or(u64::MAX);
    let need = target_bytes.saturating_add(MARGIN_BYTES);
    if available < need {
        return Err(short(format!("memory for a target of {}", units::size(target_bytes)), available, need));
    }
    if let Some(dir) = wanted {
        let in_memory = if is_tmpfs(dir)? { target_bytes } else { 0 };
        let need_both = need.saturating_add(in_memory);
        if available < need_both {
            return Err(short(
                format!("memory for target and dump ({} is in memory)", dir.display()),
                available,
                need_both,
            ));
        }
        return enough_disk(dir, need).map(|()| dir.to_owned());
    }
    let shm = Path::new("/dev/shm");
    // No disk to wait for; but the dump takes memory there.
    if available > need.saturating_mul(2) && is_tmpfs(shm).unwrap_or(false) && enough_disk(shm, need).is_ok()
    {
        return Ok(shm.to_owned());
    }
    let dir = std::env::temp_dir();
    enough_disk(&dir, need).map(|()| dir)
}

fn short(what: String, have: u64, need: u64) -> Failure {
    Failure::new(Exit::Failed, format!("not enough {what}"))
        .cause(format!("{} available, {} needed", units::size(have), units::size(need)))
        .next("give a smaller --size")
}

/// MemAvailable of /proc/meminfo.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib << 10)
}

fn enough_disk(dir: &Path, need: u64) -> Result<(), Failure> {
    let stat = rustix::fs::statvfs(dir)
        .map_err(|e| Failure::output(format!("look at {}", dir.display()), &e.into()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free >= need {
        return Ok(());
    }
    Err(Failure::new(Exit::Output, format!("not enough room in {}", dir.display()))
        .cause(format!("{} free, {} needed", units::size(free), units::size(need)))
        .next("give another --dir or a smaller --size"))
}

fn is_tmpfs(dir: &Path) -> Result<bool, Failure> {
    /// TMPFS_MAGIC, include/uapi/linux/magic.h.
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    let stat = rustix::fs::statfs(dir)
        .map_err(|e| Failure::output(format!("look at {}", dir.display()), &e.into()))?;
    Ok(stat.f_type as u64 == TMPFS_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_much_is_one_clear_line() {
        let text = find(1 << 60, None).unwrap_err().to_string();
        assert!(text.contains("available") && text.contains("--size"), "{text}");
    }

    #[test]
    fn directory_must_exist() {
        let text = find(1 << 20, Some(Path::new("/no/such"))).unwrap_err().to_string();
        assert!(text.contains("/no/such"), "{text}");
    }

    #[test]
    fn small_fits() {
        find(1 << 20, None).unwrap();
    }
}

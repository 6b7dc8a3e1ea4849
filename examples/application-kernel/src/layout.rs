//! Structures as the guest reads and writes them.

use rustix::fs::{Stat, StatFs, Statx, StatxTimestamp, Timespec};

/// Bytes in the making.
#[derive(Debug, Default)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl Bytes {
    pub(crate) fn u16(&mut self, value: u16) {
        self.0.extend(value.to_le_bytes());
    }

    pub(crate) fn u16s<const N: usize>(&mut self, values: [u16; N]) {
        values.into_iter().for_each(|value| self.u16(value));
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    pub(crate) fn u32s<const N: usize>(&mut self, values: [u32; N]) {
        values.into_iter().for_each(|value| self.u32(value));
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    pub(crate) fn u64s<const N: usize>(&mut self, values: [u64; N]) {
        values.into_iter().for_each(|value| self.u64(value));
    }
}

/// `struct stat` of x86-64 (arch/x86/include/uapi/asm/stat.h).
pub(crate) fn stat(stat: &Stat) -> Vec<u8> {
    let mut bytes = Bytes::default();
    bytes.u64s([stat.st_dev, stat.st_ino, stat.st_nlink]);
    bytes.u32s([stat.st_mode, stat.st_uid, stat.st_gid, 0]);
    bytes.u64(stat.st_rdev);
    bytes.u64s([stat.st_size, stat.st_blksize, stat.st_blocks].map(|word| word as u64));
    let times = [
        (stat.st_atime, stat.st_atime_nsec),
        (stat.st_mtime, stat.st_mtime_nsec),
        (stat.st_ctime, stat.st_ctime_nsec),
    ];
    for (seconds, nanoseconds) in times {
        bytes.u64(seconds as u64);
        bytes.u64(nanoseconds);
    }
    bytes.0.resize(144, 0);
    bytes.0
}

/// `struct statx` (include/uapi/linux/stat.h).
pub(crate) fn statx(statx: &Statx) -> Vec<u8> {
    let mut bytes = Bytes::default();
    bytes.u32(statx.stx_mask);
    bytes.u32(statx.stx_blksize);
    bytes.u64(statx.stx_attributes.bits());
    bytes.u32s([statx.stx_nlink, statx.stx_uid, statx.stx_gid]);
    bytes.u16(statx.stx_mode);
    bytes.u16(0);
    let words = [statx.stx_ino, statx.stx_size, statx.stx_blocks, statx.stx_attributes_mask.bits()];
    bytes.u64s(words);
    for StatxTimestamp { tv_sec, tv_nsec, .. } in
        [statx.stx_atime, statx.stx_btime, statx.stx_ctime, statx.stx_mtime]
    {
        bytes.u64(tv_sec as u64);
        bytes.u64(tv_nsec.into());
    }
    let devices = [statx.stx_rdev_major, statx.stx_rdev_minor, statx.stx_dev_major, statx.stx_dev_minor];
    bytes.u32s(devices);
    bytes.0.resize(256, 0);
    bytes.0
}

/// `struct statfs` (include/uapi/asm-generic/statfs.h), without the id of the file system.
pub(crate) fn statfs(statfs: &StatFs) -> Vec<u8> {
    let mut bytes = Bytes::default();
    bytes.u64s([statfs.f_type as u64, statfs.f_bsize as u64]);
    bytes.u64s([statfs.f_blocks, statfs.f_bfree, statfs.f_bavail, statfs.f_files, statfs.f_ffree, 0]);
    bytes.u64s([statfs.f_namelen as u64, statfs.f_frsize as u64, statfs.f_flags as u64]);
    bytes.0.resize(120, 0);
    bytes.0
}

/// Reads `struct timespec` from 16 bytes.
pub(crate) fn timespec(bytes: &[u8]) -> Timespec {
    let mut words = bytes.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes));
    let mut word = || words.next().unwrap_or(0);
    Timespec { tv_sec: word(), tv_nsec: word() }
}

//! NT_PRPSINFO: the process as `ps` would show it.

/// Length in bytes of `struct elf_prpsinfo` on x86-64 (include/linux/elfcore.h).
pub(super) const PRPSINFO_LEN: usize = 136;
/// Length in bytes of `pr_fname`, with its terminator.
const FNAME_LEN: usize = 16;
/// Length in bytes of `pr_psargs` (ELF_PRARGSZ), with its terminator.
const PSARGS_LEN: usize = 80;

/// The state letters whose place in this list is `pr_state` (fill_psinfo in fs/binfmt_elf.c).
const STATES: &[u8; 6] = b"RSDTZW";

/// The process as a whole (`struct elf_prpsinfo`; sources are the fields of proc_pid_stat(5)).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// The state letter of `/proc/PID/stat`, such as `b'S'`.
    pub state: u8,
    /// The nice value, -20 (most favoured) to 19.
    pub nice: i8,
    /// The kernel's task flags, `PF_*` (field 9 of `/proc/PID/stat`).
    pub flags: u64,
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// Process id (thread-group id).
    pub pid: i32,
    /// The parent's process id.
    pub ppid: i32,
    /// Process group id.
    pub pgrp: i32,
    /// Session id.
    pub sid: i32,
    /// The command name of `/proc/PID/comm`, without the newline; cut to 15 bytes in the file.
    pub comm: Vec<u8>,
    /// The bytes of `/proc/PID/cmdline`, NUL-separated; cut to 79 bytes and blank-separated in the file.
    pub cmdline: Vec<u8>,
}

impl Process {
    /// The note's descriptor.
    pub(super) fn prpsinfo(&self) -> Vec<u8> {
        // The list has no tracing stop ('t'); to a reader it is a stop.
        let sname = if self.state == b't' { b'T' } else { self.state };
        let state = STATES.iter().position(|&s| s == sname).unwrap_or(0) as u8;
        let mut out = Vec::with_capacity(PRPSINFO_LEN);
        out.extend([state, sname, u8::from(sname == b'Z'), self.nice.cast_unsigned()]);
        out.extend([0; 4]);
        out.extend(self.flags.to_le_bytes());
        out.extend(self.uid.to_le_bytes());
        out.extend(self.gid.to_le_bytes());
        for id in [self.pid, self.ppid, self.pgrp, self.sid] {
            out.extend(id.to_le_bytes());
        }
        put_text(&mut out, &self.comm, FNAME_LEN);
        put_text(&mut out, &joined(&self.cmdline), PSARGS_LEN);
        debug_assert_eq!(out.len(), PRPSINFO_LEN);
        out
    }
}

/// The arguments with blanks between them and none at the end.
fn joined(cmdline: &[u8]) -> Vec<u8> {
    let end = cmdline.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    cmdline[..end].iter().take(PSARGS_LEN).map(|&byte| if byte == 0 { b' ' } else { byte }).collect()
}

/// Appends `text` in a field of `len` bytes, cut so that a terminating NUL remains.
fn put_text(out: &mut Vec<u8>, text: &[u8], len: usize) {
    let end = out.len() + len;
    out.extend(text.iter().take(len - 1));
    out.resize(end, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_where_the_kernel_puts_them() {
        let process = Process {
            state: b't',
            nice: -5,
            flags: 0x40_0000,
            uid: 1000,
            gid: 1001,
            pid: 2,
            ppid: 3,
            pgrp: 4,
            sid: 5,
            comm: b"a-name-that-is-too-long".to_vec(),
            cmdline: b"sleep\x00100\0\0".to_vec(),
        };
        let bytes = process.prpsinfo();
        assert_eq!(bytes.len(), PRPSINFO_LEN);
        assert_eq!(bytes[..4], [3, b'T', 0, 0xfb]);
        assert_eq!(bytes[8..16], 0x40_0000u64.to_le_bytes());
        assert_eq!(bytes[16..20], 1000u32.to_le_bytes());
        assert_eq!(bytes[20..24], 1001u32.to_le_bytes());
        assert_eq!([bytes[24], bytes[28], bytes[32], bytes[36]], [2, 3, 4, 5]);
        assert_eq!(&bytes[40..56], b"a-name-that-is-\0");
        assert_eq!(&bytes[56..66], b"sleep 100\0");
    }

    #[test]
    fn long_arguments_keep_their_terminator() {
        let process = Process { cmdline: vec![b'x'; 500], ..Process::default() };
        let bytes = process.prpsinfo();
        assert_eq!(bytes.len(), PRPSINFO_LEN);
        assert_eq!((bytes[134], bytes[135]), (b'x', 0));
    }
}

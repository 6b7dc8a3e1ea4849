//! System call numbers (arch/x86/entry/syscalls/syscall_64.tbl).

pub(crate) const READ: u64 = 0;
pub(crate) const WRITE: u64 = 1;
pub(crate) const CLOSE: u64 = 3;
pub(crate) const POLL: u64 = 7;
pub(crate) const MMAP: u64 = 9;
pub(crate) const MPROTECT: u64 = 10;
pub(crate) const MUNMAP: u64 = 11;
pub(crate) const RT_SIGACTION: u64 = 13;
pub(crate) const RT_SIGPROCMASK: u64 = 14;
pub(crate) const NANOSLEEP: u64 = 35;
pub(crate) const RECVMSG: u64 = 47;
pub(crate) const SOCKETPAIR: u64 = 53;
pub(crate) const CLONE: u64 = 56;
pub(crate) const EXIT: u64 = 60;
pub(crate) const WAIT4: u64 = 61;
pub(crate) const CHDIR: u64 = 80;
pub(crate) const SETSID: u64 = 112;
pub(crate) const PRCTL: u64 = 157;
pub(crate) const SETRLIMIT: u64 = 160;
pub(crate) const GETTID: u64 = 186;
pub(crate) const EXIT_GROUP: u64 = 231;
pub(crate) const TGKILL: u64 = 234;
pub(crate) const PSELECT6: u64 = 270;
pub(crate) const VMSPLICE: u64 = 278;
pub(crate) const KCMP: u64 = 312;
pub(crate) const CLOSE_RANGE: u64 = 436;

//! x86-64.

mod boot;
pub(crate) mod syscall;

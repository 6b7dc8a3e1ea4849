//! x86-64.

mod boot;
pub(crate) mod nr;
pub(crate) mod prefetch;
pub(crate) mod syscall;

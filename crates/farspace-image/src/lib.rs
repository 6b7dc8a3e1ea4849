//! Dump file formats: the ELF core, and the memory images of CRIU.
//!
//! Purpose: turn what a dumper knows about a process into the bytes that gdb, lldb, crash reporters and CRIU read.
//! Pure: no system call, no unsafe code, no other farspace crate. Memory used is proportional to the number of
//! mappings and threads, never to the amount of the target's memory.
//!
//! * [`core_file`]: the file: [`CoreSpec`](core_file::CoreSpec) describes a process,
//!   [`CoreLayout`](core_file::CoreLayout) says which byte goes where.
//! * [`criu`]: pagemaps, inventory and the like of CRIU.
//! * [`filter`]: which part of a mapping belongs into the file (`/proc/PID/coredump_filter`).
//! * [`page_server`]: the messages of CRIU's page server.
//! * [`auxv`]: reading the auxiliary vector.
//!
//! Addresses are plain `u64` here: to a file format they are file contents. Callers convert from their own
//! address types at this border.

#![forbid(unsafe_code)]

pub mod auxv;
pub mod core_file;
pub mod criu;
pub mod filter;
pub mod page_server;

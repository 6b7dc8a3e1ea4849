//! x86-64.

mod registers;

pub use registers::{Registers, SYSCALL_INSTRUCTION, is_restart, syscall_and_exit};

//! x86-64.

mod registers;

pub use registers::{Registers, SYSCALL_INSTRUCTION, syscall_and_exit};

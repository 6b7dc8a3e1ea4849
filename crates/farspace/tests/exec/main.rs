//! process_vm_exec on other processes: guests are a few instructions in a page that the test maps in a child.

mod child;
mod guest;

mod caller;
mod events;
mod signals;
mod state;
mod syscalls;

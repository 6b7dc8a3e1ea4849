//! Constants and layouts shared by the host, the agent and (later) the kernel.
//!
//! No dependencies and no `std`: this crate is compiled a second time into the agent. Everything that both
//! sides must agree on exists here once; layouts are asserted at compile time.

#![no_std]
#![forbid(unsafe_code)]

mod addr;
pub mod boot;
pub mod exec;
pub mod mailbox;
pub mod native;
pub mod region;
pub mod vcpu;

pub use addr::{RemoteAddr, RemoteIoVec};

//! Running code in other address spaces, and stopping at each system call or fault.
//!
//! An [`Engine`] makes [`Space`]s: processes with nothing in them but a small stub and what the caller maps. A [`Vcpu`] is a
//! task in a space; [`Vcpu::run`] runs guest code until an [`Event`]. The signal frame of the task lies in memory that both
//! share, so registers are read and written in place.
//!
//! | file | what |
//! |---|---|
//! | `engine` | the first steward, and what all spaces inherit |
//! | `space` | mappings, copies, forks |
//! | `steward`, `orders` | system calls in a space, on orders that the guest can't forge |
//! | `patching`, `maps` | hot system call sites are rewritten, and put back when their code changes |
//! | `vcpu`, `birth`, `area`, `wait`, `pace` | running a guest: events, registers, and waiting without burning a CPU |
//! | `memory` | the memory file of a space |
//! | `foreign` | guests in the address space of a process that runs already |
//! | `arch/x86_64` | the stub's code, its filter, and the layout of signal frames |

#[cfg(target_arch = "x86_64")]
#[path = "arch/x86_64/mod.rs"]
mod arch;
mod area;
mod birth;
mod engine;
mod error;
mod event;
mod floor;
mod foreign;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod maps;
mod memory;
mod orders;
mod pace;
mod patching;
mod regs;
mod shell;
mod space;
mod steward;
mod vcpu;
mod wait;

pub use engine::{Engine, MAY_BE_DIRECT};
pub use error::{Error, Result};
pub use event::{ARCH_I386, ARCH_X86_64, Access, Event, Fault, Route, Syscall};
pub use farspace_abi::RemoteAddr;
pub use farspace_abi::vcpu::{MAX_VCPUS, RESERVED_BASE, RESERVED_END};
pub use foreign::{Context, ForeignSpace, ForeignVcpu, Outcome, Place, Signals, Task, Unborn, Vector};
pub use pace::Placement;
pub use regs::{Reg, Registers};
pub use space::{Protection, Sharing, Space};
pub use vcpu::{Interrupter, Vcpu};

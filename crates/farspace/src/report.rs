//! Which mechanism served, and why not a better one.

use std::fmt;
use std::time::Duration;

/// How the bytes of the target are reached, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mechanism {
    /// The kernel's own process_vmsplice.
    Native,
    /// vmsplice(2) by the agent in the target: no copy.
    Agent,
    /// A copy through /proc/PID/mem.
    PidMem,
    /// A copy by process_vm_readv(2).
    ReadV,
}

impl Mechanism {
    /// Name in reports: `native`, `agent`, `pidmem`, `readv`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Agent => "agent",
            Self::PidMem => "pidmem",
            Self::ReadV => "readv",
        }
    }

    /// True if the bytes reach the pipe without a copy.
    pub fn is_zero_copy(self) -> bool {
        matches!(self, Self::Native | Self::Agent)
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What an attach has found.
#[derive(Clone, Debug)]
pub struct Report {
    /// The mechanism in use.
    pub mechanism: Mechanism,
    /// Why better mechanisms are not, one sentence each.
    pub reasons: Vec<String>,
    /// How long one thread of the target was held by the attach; zero where nothing was injected.
    pub stop: Duration,
}

//! Why a site can't be rewritten.

/// Why a site stays as it is. The engine goes on trapping there; only [`NoRoom`](Refusal::NoRoom) and
/// [`Overlap`](Refusal::Overlap) may be different later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The bytes at the site aren't `syscall`: the code has changed since the trap.
    #[error("no syscall instruction at {at:#x}")]
    NotSyscall {
        /// The site.
        at: u64,
    },
    /// An instruction extends beyond the bytes that the caller has vouched for (the end of the mapping).
    #[error("the instruction at {at:#x} extends beyond the mapping")]
    Truncated {
        /// The instruction.
        at: u64,
    },
    /// No instruction that the decoder knows.
    #[error("no known instruction at {at:#x}")]
    Undecodable {
        /// Where decoding has failed.
        at: u64,
    },
    /// A call: the return address that it pushes would be the trampoline's.
    #[error("a call at {at:#x}")]
    Call {
        /// The instruction.
        at: u64,
    },
    /// Another instruction that enters the kernel or is meant to fault: syscall, sysenter, int, ud2, hlt, in, out.
    #[error("an instruction at {at:#x} that traps")]
    Trap {
        /// The instruction.
        at: u64,
    },
    /// A transaction's begin or abort: where it continues is relative to the instruction.
    #[error("a transaction at {at:#x}")]
    Transaction {
        /// The instruction.
        at: u64,
    },
    /// A far or operand-size-prefixed branch: processors of different vendors disagree on the latter.
    #[error("an unusual branch at {at:#x}")]
    Branch {
        /// The instruction.
        at: u64,
    },
    /// An x87 instruction: it records its own address.
    #[error("an x87 instruction at {at:#x}")]
    X87 {
        /// The instruction.
        at: u64,
    },
    /// A memory operand relative to eip, or one inside the patch itself.
    #[error("an operand of the instruction at {at:#x} can't be relocated")]
    Operand {
        /// The instruction.
        at: u64,
    },
    /// A branch to an address inside the patch that is no instruction boundary.
    #[error("the branch at {at:#x} leads into the middle of an instruction of the patch")]
    MiddleTarget {
        /// The branch.
        at: u64,
    },
    /// What follows a return or jump isn't padding: it may be data.
    #[error("no padding at {at:#x} behind the end of the flow")]
    NotPadding {
        /// The first byte that isn't padding.
        at: u64,
    },
    /// Another patch, or one that was undone and not yet released, has some of the bytes.
    #[error("overlaps the patch at {site:#x}")]
    Overlap {
        /// The other site.
        site: u64,
    },
    /// No free address within reach satisfies the constraints.
    #[error("no free address for a trampoline")]
    NoRoom,
}

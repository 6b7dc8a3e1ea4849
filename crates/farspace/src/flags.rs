//! Flags of process_vmsplice.

bitflags::bitflags! {
    /// Flags of [`process_vmsplice`](crate::process_vmsplice), with the kernel's values (splice(2)).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct SpliceFlags: u32 {
        /// Accepted, changes nothing: a page of another process is never moved away.
        const MOVE = 1;
        /// Fails with EAGAIN instead of waiting for the first free slot of the pipe.
        const NONBLOCK = 2;
        /// Accepted, changes nothing.
        const MORE = 4;
        /// Accepted, needs no alignment, changes nothing: a page of another process is never given away.
        const GIFT = 8;
        /// `pid` is a pidfd (PROCESS_VM_PIDFD).
        const PIDFD = 0x100;
    }
}

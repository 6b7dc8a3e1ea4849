//! The memory over which the execution engine talks to its tasks in a space.
//!
//! A created space consists of a *steward*, a task that makes system calls on the engine's orders and runs no guest
//! code, and of vCPUs, each a task that runs one guest context at a time. Everything of theirs lies between
//! [`RESERVED_BASE`] and [`RESERVED_END`]:
//!
//! | address | what | guest may |
//! |---|---|---|
//! | [`STEWARD_CODE`] | the steward's code | read, run (each system call from there is caught) |
//! | [`VCPU_CODE`] | the vCPUs' code; the only addresses from which a vCPU's system call is let through | read, run |
//! | [`CONSTANTS`] | the user-dispatch selector | read |
//! | [`ORDERS`] | [`Orders`] | read |
//! | [`SCRATCH`] | what the kernel wants to write to; never read by the steward | read, write |
//! | [`area_of`] | [`AREA_BYTES`] for each vCPU | read, write |
//!
//! In a foreign process lies a *room*: [`ROOM_BYTES`] at an address that the kernel has chosen, with the image of the stub
//! at its begin (the code of [`STEWARD_OFFSET`] is that which prepares a task there) and the areas from [`ROOM_AREAS`] on.

/// First address that belongs to the engine in a created space.
pub const RESERVED_BASE: u64 = 0x600_0000_0000;
/// First address after that.
pub const RESERVED_END: u64 = 0x600_4000_0000;
/// Offset of the steward's code in the image of the stub.
pub const STEWARD_OFFSET: u64 = 0x1000;
/// Offset of the vCPUs' code in the image of the stub.
pub const VCPU_OFFSET: u64 = 0x2000;
/// Offset of the constants in the image of the stub.
pub const CONSTANTS_OFFSET: u64 = 0x3000;
/// Bytes of the image of the stub.
pub const STUB_BYTES: u64 = 0x4000;
/// The steward's code.
pub const STEWARD_CODE: u64 = RESERVED_BASE + STEWARD_OFFSET;
/// The vCPUs' code, one page.
pub const VCPU_CODE: u64 = RESERVED_BASE + VCPU_OFFSET;
/// One page of constants; its first byte is SYSCALL_DISPATCH_FILTER_BLOCK.
pub const CONSTANTS: u64 = RESERVED_BASE + CONSTANTS_OFFSET;
/// [`Orders`], one page, read-only in the space.
pub const ORDERS: u64 = RESERVED_BASE + 0x10000;
/// One page for the kernel to write to.
pub const SCRATCH: u64 = RESERVED_BASE + 0x11000;
/// The area of the first vCPU.
pub const AREAS: u64 = RESERVED_BASE + 0x1000_0000;
/// Bytes of a vCPU's area, and its alignment.
pub const AREA_BYTES: u64 = 0x8000;
/// vCPUs that a space can have.
pub const MAX_VCPUS: usize = 256;
/// Offset of the first area in the space's memory file, after the orders and the scratch page.
pub const AREAS_OFFSET: u64 = 0x2000;

/// Offset of the first area in the room of a foreign process.
pub const ROOM_AREAS: u64 = AREA_BYTES;
/// Bytes of that room. Only what is used of it is mapped to anything.
pub const ROOM_BYTES: u64 = ROOM_AREAS + MAX_VCPUS as u64 * AREA_BYTES;

/// The ES selector of a vCPU: the only per-task value that code without a stack, without flags and without a base
/// register of its own can read. 0 for the first vCPU; entry `index` of the local descriptor table for others.
pub const fn selector_of(index: usize) -> u16 {
    if index == 0 { 0 } else { (index as u16) << 3 | 7 }
}

/// Where the area of a vCPU lies in a created space: a function of its selector, computed by `lea` alone.
pub const fn area_of(index: usize) -> u64 {
    AREAS + selector_of(index) as u64 * 0x8000
}

/// Offsets in a vCPU's area.
pub mod area {
    /// u32: number of the newest event << [`KIND_BITS`] | its kind; written by the stub. The kernel writes 0 when the
    /// task ends.
    pub const EVENT: usize = 0x00;
    /// u32: the event that was answered last; written by the engine.
    pub const ANSWERED: usize = 0x04;
    /// u64: number of the system call, and its result.
    pub const RAX: usize = 0x08;
    /// u64 each: the arguments.
    pub const RDI: usize = 0x10;
    /// See [`RDI`].
    pub const RSI: usize = 0x18;
    /// See [`RDI`].
    pub const RDX: usize = 0x20;
    /// See [`RDI`].
    pub const R10: usize = 0x28;
    /// See [`RDI`].
    pub const R8: usize = 0x30;
    /// See [`RDI`].
    pub const R9: usize = 0x38;

    /// u32: a [`command`](super::command), written by the engine before [`ANSWERED`].
    pub const COMMAND: usize = 0x40;
    /// u32: how often the stub looks for the answer before it sleeps.
    pub const LOOKS: usize = 0x44;
    /// u32: [`ASLEEP_ON_FUTEX`] or [`ASLEEP_ON_EVENTFD`] while the engine sleeps, else 0.
    pub const ENGINE_ASLEEP: usize = 0x48;
    /// u64: FS base to load with [`command::LOAD_FS`](super::command::LOAD_FS).
    pub const LOAD_FS: usize = 0x50;
    /// u64: GS base to load.
    pub const LOAD_GS: usize = 0x58;
    /// u32: how often the stub then lets others run before it sleeps.
    pub const YIELDS: usize = 0x60;

    /// u32: 1 while the stub sleeps. In a line that is seldom written to, and not beside one that the stub writes to: the
    /// processor fetches lines in pairs.
    pub const STUB_ASLEEP: usize = 0x4c;
    /// u64: address of the signal frame of the newest event.
    pub const FRAME: usize = 0x88;
    /// u64: FS base at the newest signal.
    pub const FS_BASE: usize = 0x90;
    /// u64: GS base at the newest signal.
    pub const GS_BASE: usize = 0x98;

    /// u64 each: the rest of the registers at a patched site.
    pub const RBX: usize = 0xc0;
    /// See [`RBX`].
    pub const RBP: usize = 0xc8;
    /// See [`RBX`].
    pub const R12: usize = 0xd0;
    /// See [`RBX`].
    pub const R13: usize = 0xd8;
    /// See [`RBX`].
    pub const R14: usize = 0xe0;
    /// See [`RBX`].
    pub const R15: usize = 0xe8;
    /// See [`RBX`].
    pub const RSP: usize = 0xf0;
    /// u64: address after the `syscall` instruction.
    pub const RIP: usize = 0xf8;
    /// u64: where the trampoline goes on.
    pub const RESUME: usize = 0x100;
    /// u64: flags, pushed here by the stub.
    pub const RFLAGS: usize = 0x138;
    /// Top of the stack of one entry that [`RFLAGS`] is.
    pub const FLAGS_STACK: usize = RFLAGS + 8;
    /// In foreign processes: the steps by which the task prepares itself, laid out as [`orders`](super::orders), and
    /// what they point to; up to [`STACK`].
    pub const START: usize = 0x200;
    /// Signal stack: from here to the end of the area.
    pub const STACK: usize = 0x1000;

    /// In [`ENGINE_ASLEEP`]: woken by FUTEX_WAKE of [`EVENT`].
    pub const ASLEEP_ON_FUTEX: u32 = 1;
    /// In [`ENGINE_ASLEEP`]: woken by a write to descriptor 0 of the stub, an eventfd (foreign processes only).
    pub const ASLEEP_ON_EVENTFD: u32 = 2;
    /// Bits of [`EVENT`] that are the kind.
    pub const KIND_BITS: u32 = 2;
    /// Kind: a system call at a patched site; everything of interest is in this line.
    pub const KIND_PATCHED: u32 = 0;
    /// Kind: a signal; everything is in the frame.
    pub const KIND_SIGNAL: u32 = 1;
    /// Kind: a system call of the 64-bit table by SIGSYS; what is of interest is in this line as well, and the result
    /// is taken from it.
    pub const KIND_TRAPPED: u32 = 2;
}

/// Bits of [`area::COMMAND`].
pub mod command {
    /// Raise a signal in the stub, so that the whole state lies in a frame.
    pub const MATERIALIZE: u32 = 1;
    /// Load the FS base (after a signal only).
    pub const LOAD_FS: u32 = 2;
    /// Load the GS base (after a signal only).
    pub const LOAD_GS: u32 = 4;
}

/// The signal that interrupts a running guest: the first real-time signal that the C libraries leave alone.
pub const KICK: i32 = 35;

/// Offset in [`CONSTANTS`] of a u64 of 1, for eventfds.
pub const ONE_OFFSET: u64 = 8;

/// Offset in [`CONSTANTS`] of one bit for each system call number that the stub makes itself.
pub const DIRECT_OFFSET: u64 = 64;
/// Numbers that [`DIRECT_OFFSET`] has bits for.
pub const DIRECT_NUMBERS: u32 = 512;

/// The engine's orders to a steward: system calls made one after the other.
///
/// The page is read-only in the space. The answer does not go through memory, which the guest could write to: it is
/// the file offset of the space's memory file, [`answer`].
pub mod orders {
    /// u32: number of the newest orders, starting at 1.
    pub const NUMBER: usize = 0;
    /// u64, always 1: what the steward writes to its eventfd.
    pub const ONE: usize = 8;
    /// First of the steps.
    pub const STEPS: usize = 0x100;
    /// Bytes of a step: u32 system call number, u32 flags, six u64 arguments.
    pub const STEP_BYTES: usize = 64;
    /// Steps that there is room for.
    pub const MAX_STEPS: usize = 40;
    /// Data that the arguments point to, to the end of the page.
    pub const DATA: usize = STEPS + MAX_STEPS * STEP_BYTES;

    /// Number of a step that ends the orders.
    pub const END: u32 = u32::MAX;
    /// Number of a step that jumps: args\[0\] address, args\[1\] to RDI, args\[2\] to RSI.
    pub const JUMP: u32 = u32::MAX - 1;

    /// The step's result is the answer.
    pub const KEEP: u32 = 1 << 8;
    /// An error doesn't end the orders.
    pub const MAY_FAIL: u32 = 1 << 9;
    /// A result other than args\[5\] ends the task.
    pub const EXPECT: u32 = 1 << 10;
    /// A result of 0 goes on at the step in the low 8 bits (the child of a clone).
    pub const BRANCH: u32 = 1 << 11;

    /// Bits of the answer that hold the result; above them the low 15 bits of the number.
    pub const RESULT_BITS: u32 = 48;

    /// The file offset that answers orders.
    pub const fn answer(number: u32, result: i64) -> u64 {
        (number as u64 & 0x7fff) << RESULT_BITS | result as u64 & ((1 << RESULT_BITS) - 1)
    }
}

const _: () = assert!(area_of(MAX_VCPUS) < RESERVED_END);
const _: () = assert!(STUB_BYTES <= ROOM_AREAS);
const _: () = assert!(orders::DATA < 0x1000);
const _: () = assert!(area::ANSWERED / 64 == area::R9 / 64, "one line");

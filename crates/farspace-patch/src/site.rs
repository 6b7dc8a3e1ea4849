//! One site, the plan that makes it, and what an address in it stands for.

use std::ops::Range;

use crate::arch::x86_64::PATCH_LEN;
use crate::arch::x86_64::traps::INT3;

/// A store of one byte into the guest's code. All threads must see it before the next one is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The guest's address.
    pub at: u64,
    /// The byte to write there.
    pub byte: u8,
}

/// A rewritten site.
///
/// # Invariants
///
/// * `patched[1..]` are all in [`TRAPS`](crate::arch::x86_64::traps::TRAPS).
/// * `marks` ascend by offset; the first is `(0, at)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    pub(crate) at: u64,
    pub(crate) window_len: u8,
    pub(crate) original: [u8; PATCH_LEN],
    pub(crate) patched: [u8; PATCH_LEN],
    pub(crate) trampoline: Range<u64>,
    pub(crate) after: u64,
    /// (offset into the trampoline, original address that an instruction pointer from there on stands for).
    pub(crate) marks: Box<[(u16, u64)]>,
    pub(crate) retired: bool,
}

impl Site {
    /// Address of the `syscall` instruction, S.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// The five bytes that are changed.
    pub fn patch(&self) -> Range<u64> {
        self.at..self.at + PATCH_LEN as u64
    }

    /// The whole instructions that have been relocated, and the `syscall`. Contains [`patch`](Self::patch).
    pub fn window(&self) -> Range<u64> {
        self.at..self.at + u64::from(self.window_len)
    }

    /// What the changed bytes were.
    pub fn original(&self) -> [u8; PATCH_LEN] {
        self.original
    }

    /// What the changed bytes are.
    pub fn patched(&self) -> [u8; PATCH_LEN] {
        self.patched
    }

    /// Where the trampoline is. It lies in one page.
    pub fn trampoline(&self) -> Range<u64> {
        self.trampoline.clone()
    }

    /// Where the guest continues when its system call is done: the copy of the instruction at S+2.
    pub fn after(&self) -> u64 {
        self.after
    }

    /// Whether the original bytes are back (or being put back), and the trampoline waits for its release.
    pub fn is_retired(&self) -> bool {
        self.retired
    }

    /// The stores that make the patch, in order.
    pub fn steps(&self) -> [Step; PATCH_LEN + 1] {
        let [jmp, rel @ ..] = self.patched;
        let [a, b, c, d] = rel;
        self.numbered([(0, INT3), (1, a), (2, b), (3, c), (4, d), (0, jmp)])
    }

    /// The stores that take the patch back, in order. Right from any state between two of [`steps`](Self::steps), too.
    pub fn undo_steps(&self) -> [Step; PATCH_LEN + 1] {
        let [s, a, b, c, d] = self.original;
        self.numbered([(0, INT3), (4, d), (3, c), (2, b), (1, a), (0, s)])
    }

    /// What a thread that stands at `ip`, inside the patch, must do.
    pub(crate) fn landing(&self, ip: u64) -> Landing<'_> {
        if ip == self.at {
            return Landing::Syscall(self);
        }
        match self.marks.iter().find(|(_, original)| *original == ip) {
            Some((offset, _)) => Landing::Copy { site: self, to: self.trampoline.start + u64::from(*offset) },
            None => Landing::Middle(self),
        }
    }

    /// The original address that `ip`, inside the trampoline, stands for.
    pub(crate) fn origin(&self, ip: u64) -> u64 {
        let offset = ip - self.trampoline.start;
        let next = self.marks.partition_point(|(from, _)| u64::from(*from) <= offset);
        // INVARIANT: the first mark is at offset 0, so there is one before `next`.
        self.marks[next - 1].1
    }

    fn numbered(&self, bytes: [(u64, u8); PATCH_LEN + 1]) -> [Step; PATCH_LEN + 1] {
        bytes.map(|(offset, byte)| Step { at: self.at + offset, byte })
    }
}

/// What a thread has to do that has trapped, or is to be continued, inside a patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Landing<'a> {
    /// It stands at the site itself, which traps only while the patch is made or undone. Serve the system call and
    /// continue at [`Site::after`], or let it enter the [trampoline](Site::trampoline).
    Syscall(&'a Site),
    /// It stands at an instruction that was relocated. Continue at `to`.
    Copy {
        /// The patch.
        site: &'a Site,
        /// Where the same instruction is now.
        to: u64,
    },
    /// It stands inside of what was one instruction (a skipped `lock` prefix, hand-made overlapping code). Undo the
    /// patch, don't make it again, and let the thread run the original bytes. If the site [is
    /// retired](Site::is_retired), the original bytes are back already: let it run.
    Middle(&'a Site),
}

/// A patch that could be made now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub(crate) site: Site,
    pub(crate) trampoline: Vec<u8>,
    pub(crate) new_page: Option<u64>,
}

impl Plan {
    /// The site as it will be.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// The page that has to be mapped first (private, read and execute for the guest), or none if the trampoline shares
    /// a page with others.
    pub fn new_page(&self) -> Option<u64> {
        self.new_page
    }

    /// The bytes to write to [`Site::trampoline`] before anything else is written.
    /// [`layout`](crate::arch::x86_64::layout) says what is where.
    pub fn trampoline(&self) -> &[u8] {
        &self.trampoline
    }

    /// The stores that make the patch, in order, after [`commit`](crate::Patches::commit).
    pub fn steps(&self) -> [Step; PATCH_LEN + 1] {
        self.site.steps()
    }
}

//! The notes of a core: their order and their framing.
//!
//! Order as in the kernel (write_note_info in fs/binfmt_elf.c): a thread's NT_PRSTATUS opens its notes and the
//! first thread's are interleaved with those of the process. One difference: every thread has its NT_SIGINFO, as
//! in gdb's own cores, which BFD attributes to the NT_PRSTATUS before it.

use object::elf::{NT_AUXV, NT_FILE, NT_PRFPREG, NT_PRPSINFO, NT_PRSTATUS, NT_SIGINFO, NT_X86_XSTATE};

use super::{CoreSpec, mapped_file};

/// Length in bytes of `Elf64_Nhdr`.
const HEADER_LEN: usize = 12;

/// One note, before framing.
pub(super) struct Note<'a> {
    owner: &'static str,
    kind: u32,
    descriptor: &'a [u8],
}

impl<'a> Note<'a> {
    fn new(owner: &'static str, kind: u32, descriptor: &'a [u8]) -> Self {
        Self { owner, kind, descriptor }
    }

    /// Length in the file, in bytes.
    pub(super) fn len(&self) -> u64 {
        (HEADER_LEN + padded(self.owner.len() + 1) + padded(self.descriptor.len())) as u64
    }

    /// The note as it is in the file; name and descriptor are padded to 4 bytes each (elf(5)).
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LEN + 8 + padded(self.descriptor.len()));
        out.extend((self.owner.len() as u32 + 1).to_le_bytes());
        out.extend((self.descriptor.len() as u32).to_le_bytes());
        out.extend(self.kind.to_le_bytes());
        out.extend(self.owner.as_bytes());
        out.push(0);
        out.resize(padded(out.len()), 0);
        out.extend(self.descriptor);
        out.resize(padded(out.len()), 0);
        out
    }
}

fn padded(len: usize) -> usize {
    len.next_multiple_of(4)
}

/// Calls `sink` with each note of `spec` in order; one note is in memory at a time.
pub(super) fn visit<E>(spec: &CoreSpec, mut sink: impl FnMut(Note<'_>) -> Result<(), E>) -> Result<(), E> {
    for (index, thread) in spec.threads.iter().enumerate() {
        let first = index == 0;
        sink(Note::new("CORE", NT_PRSTATUS, &thread.prstatus(&spec.process)))?;
        if first {
            sink(Note::new("CORE", NT_PRPSINFO, &spec.process.prpsinfo()))?;
        }
        if let Some(siginfo) = &thread.siginfo {
            sink(Note::new("CORE", NT_SIGINFO, siginfo))?;
        }
        if first && !spec.auxv.is_empty() {
            sink(Note::new("CORE", NT_AUXV, &spec.auxv))?;
        }
        if first && !spec.files.is_empty() {
            let nr = mapped_file::nr_fitting(&spec.files);
            sink(Note::new("CORE", NT_FILE, &mapped_file::descriptor(&spec.files[..nr])))?;
        }
        if let Some(fpregs) = thread.prfpreg() {
            sink(Note::new("CORE", NT_PRFPREG, &fpregs))?;
        }
        if !thread.xsave.is_empty() {
            sink(Note::new("LINUX", NT_X86_XSTATE, &thread.xsave))?;
        }
    }
    Ok(())
}

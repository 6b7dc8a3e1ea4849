//! Which part of a mapping belongs into a core (core(5), "Controlling which mappings are written").
//!
//! [`CoredumpFilter::extent`] is the kernel's decision (vma_dump_size in fs/coredump.c) made from what
//! `/proc/PID/smaps` says about a mapping.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use bitflags::bitflags;
use thiserror::Error;

mod vma;

pub use vma::{Backing, VmFlags, Vma};

bitflags! {
    /// The kinds of memory that are dumped (core(5), include/linux/sched/coredump.h).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct CoredumpFilter: u32 {
        /// Private memory without a file, and private file pages that were written to.
        const ANON_PRIVATE = 1 << 0;
        /// Shared memory without a name in the file system: MAP_ANONYMOUS, memfd, SysV, deleted files.
        const ANON_SHARED = 1 << 1;
        /// Private mappings of files, whole.
        const MAPPED_PRIVATE = 1 << 2;
        /// Shared mappings of files.
        const MAPPED_SHARED = 1 << 3;
        /// The first page of a mapped program or library, which holds its ELF header and build id.
        const ELF_HEADERS = 1 << 4;
        /// Private hugetlb pages.
        const HUGETLB_PRIVATE = 1 << 5;
        /// Shared hugetlb pages.
        const HUGETLB_SHARED = 1 << 6;
        /// Private mappings of persistent memory.
        const DAX_PRIVATE = 1 << 7;
        /// Shared mappings of persistent memory.
        const DAX_SHARED = 1 << 8;
    }
}

/// How much of a mapping is dumped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    Full,
    /// Its first page.
    FirstPage,
    /// Nothing; the mapping is listed with a `filesz` of 0.
    None,
}

impl Extent {
    /// The bytes to dump of a mapping of `memsz` bytes: the `filesz` of its segment.
    pub fn filesz(self, memsz: u64) -> u64 {
        match self {
            Self::Full => memsz,
            Self::FirstPage => memsz.min(crate::core_file::PAGE_SIZE),
            Self::None => 0,
        }
    }
}

/// A filter that can't be read.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseFilterError {
    /// Not a number.
    #[error("\"{text}\" is no core dump filter; give a bit mask such as 0x33 (see core(5))")]
    NotANumber {
        /// What was given.
        text: String,
        /// Why it is none.
        source: ParseIntError,
    },
    /// A bit without a meaning.
    #[error("the core dump filter {mask:#x} has bits beyond 0x1ff, which mean nothing (see core(5))")]
    UnknownBits {
        /// What was given.
        mask: u32,
    },
}

impl Default for CoredumpFilter {
    /// The kernel's default, 0x33 (MMF_DUMP_FILTER_DEFAULT with CONFIG_CORE_DUMP_DEFAULT_ELF_HEADERS).
    fn default() -> Self {
        Self::ANON_PRIVATE | Self::ANON_SHARED | Self::ELF_HEADERS | Self::HUGETLB_PRIVATE
    }
}

impl fmt::Display for CoredumpFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.bits())
    }
}

impl FromStr for CoredumpFilter {
    type Err = ParseFilterError;

    /// Reads a mask as the kernel does on a write to `/proc/PID/coredump_filter`: `0x` hexadecimal, a leading `0`
    /// octal, else decimal.
    fn from_str(text: &str) -> Result<Self, ParseFilterError> {
        let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            Some(digits) => (digits, 16),
            None if text.len() > 1 && text.starts_with('0') => (&text[1..], 8),
            None => (text, 10),
        };
        Self::from_digits(text, digits, radix)
    }
}

impl CoredumpFilter {
    /// Reads the text of `/proc/PID/coredump_filter`, hexadecimal without a prefix.
    ///
    /// # Errors
    ///
    /// `text` is not a mask. Bits that a newer kernel may have are dropped.
    pub fn from_proc(text: &str) -> Result<Self, ParseFilterError> {
        let digits = text.trim();
        match u32::from_str_radix(digits, 16) {
            Ok(mask) => Ok(Self::from_bits_truncate(mask)),
            Err(source) => Err(ParseFilterError::NotANumber { text: digits.to_owned(), source }),
        }
    }

    fn from_digits(text: &str, digits: &str, radix: u32) -> Result<Self, ParseFilterError> {
        let mask = u32::from_str_radix(digits, radix)
            .map_err(|source| ParseFilterError::NotANumber { text: text.to_owned(), source })?;
        Self::from_bits(mask).ok_or(ParseFilterError::UnknownBits { mask })
    }

    /// How much of `vma` is dumped.
    ///
    /// The kernel's rules in the kernel's order (vma_dump_size in fs/coredump.c), with one difference: special
    /// mappings whose pages no one can read (`[vvar]`, an execute-only `[vsyscall]`) are left out, where the kernel
    /// writes zeros.
    pub fn extent(self, vma: &Vma) -> Extent {
        let whole_if = |kind: Self| if self.contains(kind) { Extent::Full } else { Extent::None };
        let shared = vma.flags.contains(VmFlags::SHARED);
        if vma.backing == Backing::Special {
            let readable =
                vma.flags.contains(VmFlags::READ) && !vma.flags.intersects(VmFlags::IO | VmFlags::PFNMAP);
            return if readable { Extent::Full } else { Extent::None };
        }
        if vma.flags.contains(VmFlags::DONTDUMP) {
            return Extent::None;
        }
        if vma.is_dax {
            return whole_if(if shared { Self::DAX_SHARED } else { Self::DAX_PRIVATE });
        }
        if vma.flags.contains(VmFlags::HUGETLB) {
            return whole_if(if shared { Self::HUGETLB_SHARED } else { Self::HUGETLB_PRIVATE });
        }
        if vma.flags.contains(VmFlags::IO) {
            return Extent::None;
        }
        if shared {
            let named = matches!(vma.backing, Backing::File { is_unlinked: false, .. });
            return whole_if(if named { Self::MAPPED_SHARED } else { Self::ANON_SHARED });
        }
        if vma.is_written && self.contains(Self::ANON_PRIVATE) {
            return Extent::Full;
        }
        let Backing::File { offset, is_program, .. } = vma.backing else { return Extent::None };
        if self.contains(Self::MAPPED_PRIVATE) {
            return Extent::Full;
        }
        let has_header = is_program && offset == 0 && vma.flags.contains(VmFlags::READ);
        if has_header && self.contains(Self::ELF_HEADERS) { Extent::FirstPage } else { Extent::None }
    }
}

#[cfg(test)]
mod tests;

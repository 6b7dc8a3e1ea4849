//! Which mappings go into the core, and which of their pages exist.

use std::fs::File;
use std::io::{BufRead, BufReader};

use farspace_image::core_file::{MappedFile, Segment, SegmentFlags};
use farspace_image::filter::{Backing, CoredumpFilter, Extent, VmFlags, Vma};
use farspace_sys::memory::Memory;
use farspace_sys::pagemap::Pagemap;
use farspace_sys::process::{ANON_HUGEPAGE, Mapping, is_hugetlb};
use farspace_sys::{RemoteAddr, RemoteIoVec};

use crate::Result;

/// A mapping and what is to be done with it.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) mapping: Mapping,
    vma: Vma,
    /// Bytes of it that go into the core, from its start; absent pages among them become holes.
    pub(crate) dumped_bytes: u64,
    pub(crate) traits: Traits,
    details: Details,
}

/// What decides how the pages are reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traits {
    /// A write by the target shows in a forked child, too.
    pub(crate) is_shared: bool,
    /// Absent pages are zeros, and not in a file.
    pub(crate) is_anonymous: bool,
    /// PROT_NONE or write-only: only a tracer's route reads it.
    pub(crate) is_unreadable: bool,
    /// From a pool of huge pages (hugetlbfs): a page that a pipe or a socket refers to is missing there when the target has
    /// dropped it, and if the pool has no other, SIGBUS ends the next one that needs one.
    pub(crate) is_hugetlb: bool,
    /// MADV_WIPEONFORK: zeros in a forked child.
    pub(crate) is_wiped_on_fork: bool,
    /// Not MADV_DONTFORK, nor a private page of a pool: there in a snapshot.
    pub(crate) is_copied_by_fork: bool,
}

/// How pages are had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// Spliced, or copied together with others.
    Any,
    /// By a tracer's route alone.
    Tracer,
    /// By a copy that doesn't refer to them while the target runs.
    Unreferenced,
}

impl Traits {
    pub(crate) fn route(self) -> Route {
        match self {
            Self { is_hugetlb: true, .. } => Route::Unreferenced,
            Self { is_unreadable: true, .. } => Route::Tracer,
            _ => Route::Any,
        }
    }
}

/// Which mappings are dumped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Selection {
    pub(crate) filter: CoredumpFilter,
    pub(crate) undumped: Undumped,
}

/// What is done with MADV_DONTDUMP memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Undumped {
    LeftOut,
    Dumped,
}

/// Reads the mappings with their flags from /proc/PID/smaps, line by line; sorted by address.
pub(crate) fn read(pid: i32, selection: Selection, memory: &Memory) -> Result<Vec<Planned>> {
    let maps = farspace_sys::process::mappings(pid)?;
    let details = Details::read(pid);
    let mut details = details.into_iter().peekable();
    let mut planned = Vec::with_capacity(maps.len());
    for mapping in maps {
        // Both lists are sorted; a mapping that came between the two reads has no details.
        while details.peek().is_some_and(|d| d.start < mapping.start.0) {
            details.next();
        }
        let detail =
            details.next_if(|d| d.start == mapping.start.0).unwrap_or_else(|| Details::of(pid, &mapping));
        planned.push(Planned::new(mapping, detail, selection, memory));
    }
    Ok(planned)
}

impl Planned {
    fn new(mapping: Mapping, detail: Details, selection: Selection, memory: &Memory) -> Self {
        let mut backing = Backing::from_maps(&mapping.name, mapping.inode, mapping.offset);
        if let Backing::File { offset: 0, is_program, .. } = &mut backing {
            let mut magic = [0; 4];
            *is_program = memory.read_exact(mapping.start, &mut magic).is_ok() && magic == *b"\x7fELF";
        }
        let mut flags = detail.flags;
        // Device memory stays out: IO is another flag.
        flags.set(
            VmFlags::DONTDUMP,
            flags.contains(VmFlags::DONTDUMP) && selection.undumped == Undumped::LeftOut,
        );
        let vma = Vma { backing, flags, is_written: detail.is_written, is_dax: false };
        let dumped_bytes = match selection.filter.extent(&vma) {
            Extent::None => 0,
            extent => extent.filesz(mapping.len_bytes()),
        };
        let is_private = mapping.permissions[3] == b'p';
        let is_hugetlb = flags.contains(VmFlags::HUGETLB);
        let is_pool = is_hugetlb && mapping.name.starts_with(ANON_HUGEPAGE);
        let traits = Traits {
            is_shared: vma.flags.contains(VmFlags::SHARED) || !is_private,
            is_anonymous: (backing == Backing::Anonymous || is_pool) && is_private,
            is_unreadable: mapping.permissions[0] != b'r',
            is_hugetlb,
            is_wiped_on_fork: detail.is_wiped_on_fork,
            is_copied_by_fork: !(detail.is_left_out_by_fork || is_hugetlb && is_private),
        };
        Self { mapping, vma, dumped_bytes, traits, details: detail }
    }

    /// The segment of the core.
    pub(crate) fn segment(&self) -> Segment {
        let bit = |index: usize, letter: u8, flag| {
            if self.mapping.permissions[index] == letter { flag } else { SegmentFlags::empty() }
        };
        Segment {
            vaddr: self.mapping.start.0,
            memsz: self.mapping.len_bytes(),
            filesz: self.dumped_bytes,
            flags: bit(0, b'r', SegmentFlags::READ)
                | bit(1, b'w', SegmentFlags::WRITE)
                | bit(2, b'x', SegmentFlags::EXECUTE),
        }
    }

    /// The entry of NT_FILE, if the mapping has a file.
    pub(crate) fn mapped_file(&self) -> Option<MappedFile> {
        matches!(self.vma.backing, Backing::File { .. }).then(|| MappedFile {
            start: self.mapping.start.0,
            end: self.mapping.end.0,
            page_offset: self.mapping.offset / 4096,
            path: self.mapping.name.clone(),
        })
    }

    /// The runs of pages to write: those that exist, of memory without a file; all, of files and shared memory, of which
    /// the page map shows only what this process has touched. ([vsyscall] is above the addresses that it covers.)
    pub(crate) fn runs(&self, pagemap: &mut Pagemap) -> Result<Vec<RemoteIoVec>> {
        let whole = RemoteIoVec { base: self.mapping.start, len: self.dumped_bytes };
        if !self.traits.is_anonymous {
            return Ok(if whole.len > 0 { vec![whole] } else { Vec::new() });
        }
        let mut runs: Vec<RemoteIoVec> = Vec::new();
        pagemap.populated(whole, &mut |run| match runs.last_mut() {
            Some(last) if last.base.0 + last.len == run.base.0 => last.len += run.len,
            _ => runs.push(run),
        })?;
        Ok(runs)
    }

    /// True if the two are the same mapping, as far as a dump cares.
    pub(crate) fn is(&self, mapping: &Mapping) -> bool {
        self.mapping == *mapping
    }
}

/// What smaps adds to a line of maps.
#[derive(Clone, Copy, Debug)]
struct Details {
    start: u64,
    flags: VmFlags,
    is_written: bool,
    is_wiped_on_fork: bool,
    is_left_out_by_fork: bool,
}

impl Details {
    /// What a line of maps says by itself. The rest isn't known: as if written to, so that it isn't left out.
    fn of(pid: i32, mapping: &Mapping) -> Self {
        let mut flags = VmFlags::empty();
        flags.set(VmFlags::HUGETLB, is_hugetlb(pid, mapping));
        flags.set(VmFlags::READ, mapping.permissions[0] == b'r');
        Self {
            start: mapping.start.0,
            flags,
            is_written: true,
            is_wiped_on_fork: false,
            is_left_out_by_fork: false,
        }
    }

    fn read(pid: i32) -> Vec<Self> {
        let Ok(file) = File::open(format!("/proc/{pid}/smaps")) else { return Vec::new() };
        let mut details: Vec<Self> = Vec::new();
        let mut line = Vec::new();
        let mut reader = BufReader::new(file);
        while matches!(reader.read_until(b'\n', &mut line), Ok(n) if n > 0) {
            let text = String::from_utf8_lossy(&line);
            let mut words = text.split_whitespace();
            match (words.next(), details.last_mut()) {
                // Pages that were swapped out are the mapping's own no less.
                (Some("Anonymous:" | "Swap:"), Some(last)) => last.is_written |= words.next() != Some("0"),
                (Some("VmFlags:"), Some(last)) => {
                    last.flags = VmFlags::from_smaps(&text);
                    for code in words {
                        last.is_wiped_on_fork |= code == "wf";
                        last.is_left_out_by_fork |= code == "dc";
                    }
                }
                (Some(range), _) if !range.ends_with(':') => {
                    let start =
                        range.split_once('-').and_then(|(start, _)| u64::from_str_radix(start, 16).ok());
                    if let Some(start) = start {
                        details.push(Self {
                            start,
                            flags: VmFlags::READ,
                            is_written: false,
                            is_wiped_on_fork: false,
                            is_left_out_by_fork: false,
                        });
                    }
                }
                _ => {}
            }
            line.clear();
        }
        details
    }
}

/// The plan for another list of mappings, without a look at smaps, which takes long: what was one mapping with them before
/// says what is known of the new ones.
pub(crate) fn revise(
    pid: i32,
    maps: Vec<Mapping>,
    before: Vec<Planned>,
    selection: Selection,
    memory: &Memory,
) -> Vec<Planned> {
    if maps.len() == before.len() && before.iter().zip(&maps).all(|(planned, mapping)| planned.is(mapping)) {
        return before;
    }
    let mut revised = Vec::with_capacity(maps.len());
    for mapping in maps {
        if let Some(planned) = find(&before, &mapping) {
            revised.push(planned.clone());
            continue;
        }
        let first = before.partition_point(|p| p.mapping.end <= mapping.start);
        let mut overlapping = before[first..].iter().take_while(|p| p.mapping.start < mapping.end);
        let kin = overlapping.find(|p| {
            let of = |m: &Mapping| (m.permissions[3], m.inode);
            of(&p.mapping) == of(&mapping) && p.mapping.name == mapping.name
        });
        let mut details = kin.map_or_else(|| Details::of(pid, &mapping), |kin| kin.details);
        details.flags.set(VmFlags::READ, mapping.permissions[0] == b'r');
        // It may have been written to since.
        details.is_written = true;
        revised.push(Planned::new(mapping, details, selection, memory));
    }
    revised
}

/// Finds a mapping among planned ones, in the order of [`read`].
pub(crate) fn find<'a>(planned: &'a [Planned], mapping: &Mapping) -> Option<&'a Planned> {
    let index = planned.binary_search_by_key(&mapping.start.0, |p| p.mapping.start.0).ok()?;
    planned.get(index).filter(|p| p.mapping == *mapping)
}

/// The total length of the runs, in bytes.
pub(crate) fn total(runs: &[RemoteIoVec]) -> u64 {
    runs.iter().map(|run| run.len).sum()
}

/// Cuts the runs to those at or after an address.
pub(crate) fn after(runs: &[RemoteIoVec], from: RemoteAddr) -> Vec<RemoteIoVec> {
    runs.iter()
        .filter_map(|run| {
            let end = run.base.0 + run.len;
            let start = run.base.0.max(from.0);
            (start < end).then(|| RemoteIoVec::new(start, end - start))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_mappings_are_planned() {
        let pid = std::process::id() as i32;
        let memory = Memory::open(pid).expect("our own");
        let selection = Selection { filter: CoredumpFilter::default(), undumped: Undumped::LeftOut };
        let planned = read(pid, selection, &memory).expect("our own");
        let stack = planned.iter().find(|p| p.mapping.name == b"[stack]").expect("there is one");
        assert!(stack.traits.is_anonymous && stack.dumped_bytes == stack.mapping.len_bytes());
        let vdso = planned.iter().find(|p| p.mapping.name == b"[vdso]").expect("there is one");
        assert!(!vdso.traits.is_anonymous && vdso.dumped_bytes > 0);
        assert!(planned.iter().all(|p| find(&planned, &p.mapping).is_some()));
    }

    #[test]
    fn a_mapping_that_smaps_does_not_list() {
        let memory = Memory::open(std::process::id() as i32).expect("our own");
        let selection = Selection { filter: CoredumpFilter::all(), undumped: Undumped::Dumped };
        let vsyscall = |permissions: &[u8; 4]| {
            let mapping = Mapping {
                start: RemoteAddr(0xffff_ffff_ff60_0000),
                end: RemoteAddr(0xffff_ffff_ff60_1000),
                permissions: *permissions,
                offset: 0,
                device: (0, 0),
                inode: 0,
                name: b"[vsyscall]".to_vec(),
            };
            let pid = std::process::id() as i32;
            let details = Details::of(pid, &mapping);
            let planned = Planned::new(mapping, details, selection, &memory);
            let mut pagemap = Pagemap::open(pid).expect("our own");
            planned.runs(&mut pagemap).expect("the page map isn't asked")
        };
        assert_eq!(vsyscall(b"--xp"), []);
        assert_eq!(total(&vsyscall(b"r-xp")), 4096);
    }

    #[test]
    fn what_is_left_after_an_address() {
        let runs = [RemoteIoVec::new(0x1000, 0x2000), RemoteIoVec::new(0x5000, 0x1000)];
        assert_eq!(after(&runs, RemoteAddr(0x2000)), [RemoteIoVec::new(0x2000, 0x1000), runs[1]]);
        assert_eq!(total(&after(&runs, RemoteAddr(0x6000))), 0);
    }
}

//! The stages of a dump of one process: before, while and after everything stands still.

use std::time::Duration;

use farspace::{Frozen, Snapshot, Target};
use farspace_image::core_file::{
    CoreLayout, CoreSpec, Process, SIGINFO_STOPPED, Segment, Thread, trim_xsave,
};
use farspace_sys::memory::{FileWindow, Memory};
use farspace_sys::pagemap::Pagemap;
use farspace_sys::process::{self, Mapping};

use super::shared::SharedMemory;
use super::{Tell, selection};
use crate::converge::Course;
use crate::origin::Origin;
use crate::place::Place;
use crate::plan::{self, Planned, Selection};
use crate::program::Program;
use crate::write::Writer;
use crate::{DumpOptions, Error, Level, Progress, Result, census};

/// Length of an xsave area after [`trim_xsave`] on a CPU with AVX-512 and protection keys, in bytes; a wrong guess
/// costs the preparation of the file.
const TRIMMED_XSAVE: usize = 2696;

/// One dump under way.
pub(crate) struct Job<'a> {
    pub(crate) pid: i32,
    level: Level,
    pub(crate) selection: Selection,
    was_stopped: bool,
    pub(crate) weaker: Vec<String>,
    /// How a dump that converges went.
    pub(crate) course: Course,
    /// What other dumps of the same instant hold, and this one need not; with this one's name.
    shared: Option<(&'a SharedMemory, String)>,
}

/// Where a dump is written, and who is told.
pub(crate) struct To<'a> {
    pub(crate) place: &'a Place,
    pub(crate) progress: Tell<'a>,
}

/// What is known before the stop.
pub(super) struct Before {
    memory: Memory,
    /// The mappings, and where in the file the memory begins, if its pages are made already.
    planned: Option<(Vec<Planned>, Option<u64>)>,
}

/// What was taken while everything stood still.
pub(super) struct Held {
    threads: Vec<Thread>,
    maps: Vec<Mapping>,
    memory: Memory,
    planned: Option<(Vec<Planned>, Option<u64>)>,
    snapshot: Option<Snapshot>,
}

/// What came of it.
pub(crate) struct Written {
    pub(crate) threads: usize,
    pub(crate) segments: usize,
    pub(crate) bytes: u64,
    pub(crate) file_bytes: u64,
    pub(crate) weaker: Vec<String>,
    pub(crate) stop: Duration,
    /// The rounds of a dump that converges, and the level that was reached.
    pub(crate) course: Course,
}

impl<'a> Job<'a> {
    pub(super) fn new(pid: i32, options: &DumpOptions, was_stopped: bool) -> Self {
        let selection = selection(pid, options.filter);
        Self {
            pid,
            level: options.level,
            selection,
            was_stopped,
            weaker: Vec::new(),
            course: Course::default(),
            shared: None,
        }
    }

    /// The same dump as one of several: shared memory that another one has is left out. `name` is this core's.
    pub(super) fn sharing(self, shared: &'a SharedMemory, name: &str) -> Self {
        Self { shared: Some((shared, name.to_owned())), ..self }
    }

    /// Makes it another level.
    pub(super) fn fall_back(&mut self, level: Level, course: Course) {
        self.level = level;
        self.course = Course { level, ..course };
    }

    /// True if the pages are copied in the stop.
    pub(super) fn copies_stopped(&self) -> bool {
        self.level.copies_stopped()
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    /// Before the stop: whatever is slow, and probably still right afterwards.
    ///
    /// With a place, what can be made there in advance is.
    pub(super) fn before(&self, target: &Target, place: Option<&Place>) -> Result<Before> {
        let memory = Memory::open(self.pid)?;
        let planned = match self.level {
            Level::Snapshot if !target.report().mechanism.is_zero_copy() => {
                let reason = format!("--mechanism {} only reads", target.report().mechanism);
                return Err(Error::NoSnapshot { pid: self.pid, reason });
            }
            Level::Converge | Level::Snapshot | Level::Fuzzy => None,
            // The flags of the mappings are slow to read and rarely change: once before, again only if they did.
            Level::Frozen => {
                let planned = self.plan(target, &memory)?;
                let prepared = place.map(|place| self.prepare(&planned, place)).transpose()?.flatten();
                Some((planned, prepared))
            }
        };
        Ok(Before { memory, planned })
    }

    /// While everything stands still: registers, mappings, and what freezes the memory.
    pub(super) fn at_stop(&self, target: &mut Target, frozen: &Frozen, before: Before) -> Result<Held> {
        let (threads, maps) = self.registers(target, frozen)?;
        let snapshot = match self.level {
            Level::Snapshot => Some(target.snapshot()?),
            Level::Converge | Level::Frozen | Level::Fuzzy => None,
        };
        let Before { memory, planned } = before;
        Ok(Held { threads, maps, memory, planned, snapshot })
    }

    /// Writes everything: still in the stop where the level copies then, after it elsewhere.
    pub(super) fn write(
        &mut self,
        target: &mut Target,
        program: &Program,
        held: Held,
        to: &mut To<'_>,
    ) -> Result<Written> {
        let Held { mut threads, maps, memory, planned, snapshot } = held;
        self.finish_threads(&mut threads);
        let (layout, bytes) = match (snapshot, planned) {
            (Some(snapshot), _) => self.snapshot(target, threads, &maps, memory, snapshot, to)?,
            (None, planned) => self.all(target, threads, &maps, memory, planned, to)?,
        };
        if self.level == Level::Fuzzy {
            // The registers are older than the memory, but not another program's.
            program.check()?;
            let why = "all memory is as of when it was written to the file, after the registers";
            self.weaker.push(why.to_owned());
        }
        Ok(Written {
            threads: layout.spec().threads.len(),
            segments: layout.segments().len(),
            bytes,
            file_bytes: layout.file_len(),
            weaker: std::mem::take(&mut self.weaker),
            stop: Duration::ZERO,
            course: std::mem::take(&mut self.course),
        })
    }

    /// Pages from the forked child, and live what a fork leaves out.
    fn snapshot(
        &mut self,
        target: &mut Target,
        threads: Vec<Thread>,
        maps: &[Mapping],
        live_memory: Memory,
        snapshot: Snapshot,
        to: &mut To<'_>,
    ) -> Result<(CoreLayout, u64)> {
        if snapshot.is_child_of_target() {
            let why = "it takes in orphans, and only its waits with __WALL or __WCLONE could see that";
            self.weaker.push(format!("the snapshot was a child of pid {} meanwhile: {why}", self.pid));
        }
        let copied = plan::read(snapshot.pid(), self.selection, &snapshot.memory()?)?;
        // What a fork leaves out is in the target's list and not in the child's.
        let live = plan::read(self.pid, self.selection, &live_memory)?;
        // Sorted, as the mappings are.
        let mut from_target = Vec::new();
        let mut mappings = Vec::new();
        for mapping in maps {
            match plan::find(&copied, mapping) {
                Some(planned) if !planned.traits.is_wiped_on_fork => {
                    let planned = self.not_twice(planned.clone());
                    if planned.traits.is_shared && planned.dumped_bytes > 0 && mapping.permissions[1] == b'w'
                    {
                        self.weaken(mapping, "is shared, and as of when it was written to the file");
                    }
                    mappings.push(planned);
                }
                wiped => match plan::find(&live, mapping).or(wiped) {
                    Some(planned) => {
                        let planned = self.not_twice(planned.clone());
                        if planned.dumped_bytes > 0 {
                            let how = "isn't copied by a fork, and as of when it was written to the file";
                            self.weaken(mapping, how);
                            from_target.push(mapping.start);
                        }
                        mappings.push(planned);
                    }
                    None => self.weaken(mapping, "was gone before it could be read, and is missing"),
                },
            }
        }
        let layout = self.layout(threads, &mappings)?;
        to.place.write_header(&layout)?;
        let (rest, held): (Vec<usize>, Vec<usize>) =
            (0..mappings.len()).partition(|&i| from_target.binary_search(&mappings[i].mapping.start).is_ok());
        let mut bytes = 0;
        let mut origin = Origin::snapshot(snapshot)?;
        bytes += self.mappings(&mut origin, &layout, &mappings, &held, bytes, to)?;
        drop(origin);
        let mut origin = Origin::target(target, live_memory)?;
        bytes += self.mappings(&mut origin, &layout, &mappings, &rest, bytes, to)?;
        Ok((layout, bytes))
    }

    /// All pages from the target.
    fn all(
        &mut self,
        target: &mut Target,
        threads: Vec<Thread>,
        maps: &[Mapping],
        memory: Memory,
        planned: Option<(Vec<Planned>, Option<u64>)>,
        to: &mut To<'_>,
    ) -> Result<(CoreLayout, u64)> {
        let is_same = |planned: &[Planned]| {
            planned.len() == maps.len() && planned.iter().zip(maps).all(|(p, m)| p.is(m))
        };
        let (before, prepared) = planned.unzip();
        let prepared = prepared.flatten();
        let (mappings, unchanged) = match before {
            Some(before) if is_same(&before) => (before, true),
            _ => (self.plan(target, &memory)?, false),
        };
        let mappings: Vec<_> = mappings.into_iter().map(|planned| self.not_twice(planned)).collect();
        let layout = self.layout(threads, &mappings)?;
        if prepared.is_some_and(|prepared| !unchanged || prepared != layout.data_offset()) {
            // Made for another layout: pages would be left where holes belong.
            to.place.set_len(0)?;
        }
        to.place.write_header(&layout)?;
        let mut origin = Origin::target(target, memory)?;
        let all: Vec<usize> = (0..mappings.len()).collect();
        let bytes = self.mappings(&mut origin, &layout, &mappings, &all, 0, to)?;
        Ok((layout, bytes))
    }

    /// The mappings, without the bytes of those that another core has by now; which one has them is decided by
    /// [`Job::not_twice`].
    pub(crate) fn once(&self, planned: &[Planned]) -> Vec<Planned> {
        let mut once = planned.to_vec();
        if let Some((shared, name)) = &self.shared {
            for planned in &mut once {
                if shared.meanwhile().held_by(planned, name).is_some() {
                    planned.dumped_bytes = 0;
                }
            }
        }
        once
    }

    /// The same mapping, without its bytes if another core of the same instant has them.
    pub(crate) fn not_twice(&mut self, mut planned: Planned) -> Planned {
        if let Some((shared, name)) = &self.shared
            && let Some(there) = shared.held_by(&planned, name)
        {
            planned.dumped_bytes = 0;
            self.weaken(&planned.mapping, &format!("is shared, and in {there}"));
        }
        planned
    }

    /// Makes the pages of a file in memory before the target is stopped: most of the time of writing it goes there.
    /// Returns where in the file the memory begins, if it was done.
    fn prepare(&self, mappings: &[Planned], place: &Place) -> Result<Option<u64>> {
        const WINDOW: u64 = 2 << 20;
        let Some(output) = place.here().filter(|output| output.is_in_memory()) else { return Ok(None) };
        // Registers take the same room whatever they are.
        let thread = |tid| Thread {
            tid,
            xsave: vec![0; TRIMMED_XSAVE],
            siginfo: (!self.was_stopped).then_some(SIGINFO_STOPPED),
            ..Thread::default()
        };
        let threads = process::threads(self.pid)?.into_iter().map(thread).collect();
        let layout = self.layout(threads, mappings)?;
        place.set_len(layout.file_len())?;
        let mut pagemap = Pagemap::open(self.pid)?;
        for (planned, index) in mappings.iter().zip(0..) {
            let Some(offset) = layout.segment_offset(index) else { continue };
            for run in planned.runs(&mut pagemap)? {
                let start = offset + (run.base.0 - planned.mapping.start.0);
                for at in (0..run.len).step_by(WINDOW as usize) {
                    // Without space the write will fail, and say so.
                    if FileWindow::map(output.file(), start + at, (run.len - at).min(WINDOW)).is_err() {
                        return Ok(Some(layout.data_offset()));
                    }
                }
            }
        }
        Ok(Some(layout.data_offset()))
    }

    /// The mappings of the target, without those of the visit.
    pub(crate) fn plan(&self, target: &Target, memory: &Memory) -> Result<Vec<Planned>> {
        let mut mappings = plan::read(self.pid, self.selection, memory)?;
        mappings.retain(|planned| !target.owns(&planned.mapping));
        Ok(mappings)
    }

    /// What must be read while everything stands still.
    pub(crate) fn registers(&self, target: &Target, frozen: &Frozen) -> Result<(Vec<Thread>, Vec<Mapping>)> {
        let maps = without_ours(target, process::mappings(self.pid)?);
        let mut threads = Vec::with_capacity(frozen.threads().len());
        for frozen in frozen.threads() {
            let mut xsave = match frozen.thread.xstate() {
                Ok(xsave) => xsave,
                Err(e) if e.is_gone() => return Err(e.into()),
                Err(_) => Vec::new(),
            };
            let fpregs = if xsave.is_empty() {
                frozen.thread.floating_point()?.try_into().ok().map(Box::new)
            } else {
                None
            };
            trim_xsave(&mut xsave);
            threads.push(Thread {
                tid: frozen.thread.tid(),
                signal: 0,
                pending: 0,
                blocked: frozen.thread.blocked_signals().unwrap_or(0),
                regs: frozen.registers.to_array(),
                fpregs,
                xsave,
                siginfo: (!self.was_stopped).then_some(SIGINFO_STOPPED),
                ..Thread::default()
            });
        }
        Ok((threads, maps))
    }

    /// What may be read a moment later.
    pub(crate) fn finish_threads(&self, threads: &mut [Thread]) {
        for thread in threads {
            (thread.times, thread.pending) = census::thread(self.pid, thread.tid);
        }
    }

    /// Who the process is, and its auxiliary vector.
    pub(crate) fn census(&self) -> Result<(Process, Vec<u8>)> {
        Ok((census::process(self.pid)?, census::auxv(self.pid)))
    }

    pub(crate) fn spec(
        &self,
        (process, auxv): (Process, Vec<u8>),
        threads: Vec<Thread>,
        mappings: &[Planned],
        segments: Vec<Segment>,
    ) -> CoreSpec {
        let files = mappings.iter().filter_map(Planned::mapped_file).collect();
        CoreSpec { process, auxv, files, threads, segments }
    }

    fn layout(&self, threads: Vec<Thread>, mappings: &[Planned]) -> Result<CoreLayout> {
        let segments = mappings.iter().map(Planned::segment).collect();
        let spec = self.spec(self.census()?, threads, mappings, segments);
        CoreLayout::new(spec).map_err(|source| Error::Layout { pid: self.pid, source })
    }

    /// Writes the mappings with these indexes; returns the bytes written.
    fn mappings(
        &mut self,
        origin: &mut Origin<'_>,
        layout: &CoreLayout,
        mappings: &[Planned],
        which: &[usize],
        already: u64,
        to: &mut To<'_>,
    ) -> Result<u64> {
        let mut total = already;
        for &index in which {
            total += plan::total(&mappings[index].runs(&mut origin.pagemap)?);
        }
        let done = Progress { done_bytes: already, total_bytes: total };
        let mut writer = Writer::new(to.place, &mut *to.progress, done);
        for &index in which {
            if let Some(offset) = layout.segment_offset(index) {
                writer.mapping(origin, &mappings[index], offset)?;
            }
        }
        let bytes = writer.done.done_bytes - already;
        let missing = std::mem::take(&mut writer.missing);
        for (name, bytes) in missing {
            self.weaken_missing(&name, bytes);
        }
        Ok(bytes)
    }

    pub(crate) fn weaken_missing(&mut self, name: &[u8], bytes: u64) {
        self.weaker.push(format!("{bytes} bytes of {} couldn't be read and are holes", describe(name)));
    }

    pub(crate) fn weaken(&mut self, mapping: &Mapping, how: &str) {
        let name = describe(&mapping.name);
        self.weaker.push(format!(
            "{}-{} ({} bytes of {name}) {how}",
            mapping.start,
            mapping.end,
            mapping.len_bytes()
        ));
    }
}

pub(crate) fn without_ours(target: &Target, mut maps: Vec<Mapping>) -> Vec<Mapping> {
    maps.retain(|mapping| !target.owns(mapping));
    maps
}

fn describe(name: &[u8]) -> String {
    if name.is_empty() { "anonymous memory".to_owned() } else { String::from_utf8_lossy(name).into_owned() }
}

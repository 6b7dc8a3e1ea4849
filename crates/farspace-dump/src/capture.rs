//! The order of events at each level: what happens while the target is stopped, and what after.
//!
//! | level | stopped | after |
//! |---|---|---|
//! | snapshot | registers, list of mappings, fork | pages from the forked child; what a fork leaves out, live |
//! | frozen | registers, mappings, all pages | - |
//! | fuzzy | registers, list of mappings | all pages, live |

use std::io::Seek as _;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use farspace::{AttachOptions, Frozen, Mechanism, Refusal, Target};
use farspace_image::core_file::{CoreLayout, CoreSpec, SIGINFO_STOPPED, Thread, trim_xsave};
use farspace_image::filter::CoredumpFilter;
use farspace_sys::memory::{FileWindow, Memory};
use farspace_sys::pagemap::Pagemap;
use farspace_sys::process::{self, Mapping};
use rustix::io::Errno;

use crate::origin::Origin;
use crate::output::Output;
use crate::plan::{self, Planned, Selection, Undumped};
use crate::program::Program;
use crate::write::Writer;
use crate::{DumpOptions, DumpReport, Error, Filter, Level, Progress, Result, census};

/// Writes an ELF core of a running process to `path`.
///
/// `progress` is called often, from another thread; `Break` ends the dump. The file appears under its name only when it is complete.
///
/// # Errors
///
/// The target can't be visited or ends meanwhile; the output exists or can't be written.
pub fn dump(
    pid: i32,
    path: &Path,
    options: &DumpOptions,
    progress: &mut (dyn FnMut(Progress) -> ControlFlow<()> + Send),
) -> Result<DumpReport> {
    // Threads of the target that are traced are let go with the end of the thread that traces them.
    farspace::on_own_thread(|| capture(pid, path, options, progress))
}

fn capture(
    pid: i32,
    path: &Path,
    options: &DumpOptions,
    progress: &mut (dyn FnMut(Progress) -> ControlFlow<()> + Send),
) -> Result<DumpReport> {
    let begin = Instant::now();
    let status = process::status(pid)?;
    let pid = status.tgid;
    if pid == std::process::id() as i32 {
        return Err(Error::Own { pid });
    }
    farspace_sys::memory::check_access(pid)?;
    let output = Output::create(path, options.overwrite)?;
    let program = Program::of(pid);
    let visit = Visit { pid, was_stopped: status.state == 'T', begin };
    visit.dump(output, path, options, progress).map_err(|error| match error {
        // It was there a moment ago.
        Error::Target(error) if error.errno() == Errno::SRCH => Error::Gone { pid },
        // Whatever can't be had in the middle of an exec.
        Error::Target(_) | Error::Layout { .. } | Error::NoSnapshot { .. } if !program.still_runs() => {
            Error::Gone { pid }
        }
        error => error,
    })
}

/// A dump of a process that exists and may be visited.
struct Visit {
    pid: i32,
    was_stopped: bool,
    begin: Instant,
}

impl Visit {
    fn dump(
        self,
        output: Output,
        path: &Path,
        options: &DumpOptions,
        progress: &mut (dyn FnMut(Progress) -> ControlFlow<()> + Send),
    ) -> Result<DumpReport> {
        let Self { pid, was_stopped, begin } = self;
        let selection = selection(pid, options.filter);
        // A snapshot is the agent's work: why it can't be there is the error then.
        let needed = (options.level == Level::Snapshot).then_some(Mechanism::Agent);
        let attach = AttachOptions {
            mechanism: options.mechanism.or(needed),
            stop_timeout: options.stop_timeout,
            ..AttachOptions::default()
        };
        let mut target = Target::attach_with(pid, &attach).map_err(|error| match error.refusal() {
            // Nothing helps against these: all levels stop every thread.
            None | Some(Refusal::Traced { .. } | Refusal::Not64Bit) => error.into(),
            Some(refusal) if needed.is_some() => Error::NoSnapshot { pid, reason: refusal.to_string() },
            Some(_) => error.into(),
        })?;
        let mut job = Job { pid, selection, output: &output, progress, was_stopped, weaker: Vec::new() };
        let done = match options.level {
            Level::Snapshot => job.snapshot(&mut target, options.stop_timeout),
            Level::Frozen => job.frozen(&mut target, options.stop_timeout),
            Level::Fuzzy => job.fuzzy(&mut target, options.stop_timeout),
        };
        let done = done.map_err(|error| job.explain(error))?;
        let weaker = job.weaker;
        let found = target.report().clone();
        target.detach()?;
        output.finish()?;
        Ok(DumpReport {
            pid,
            level: options.level.name().to_owned(),
            path: path.to_owned(),
            mechanism: found.mechanism.name().to_owned(),
            fallback_reasons: found.reasons,
            weaker,
            threads: done.threads,
            segments: done.segments,
            bytes_written: done.bytes,
            file_bytes: done.file_bytes,
            stop_ns: nanos(done.stop),
            attach_stop_ns: nanos(found.stop),
            total_ns: nanos(begin.elapsed()),
        })
    }
}

/// Length of an xsave area after [`trim_xsave`] on a CPU with AVX-512 and protection keys, in bytes; a wrong guess
/// costs the preparation of the file.
const TRIMMED_XSAVE: usize = 2696;

/// One dump under way.
struct Job<'a> {
    pid: i32,
    selection: Selection,
    output: &'a Output,
    progress: &'a mut (dyn FnMut(Progress) -> ControlFlow<()> + Send),
    was_stopped: bool,
    weaker: Vec<String>,
}

struct Done {
    threads: usize,
    segments: usize,
    bytes: u64,
    file_bytes: u64,
    stop: Duration,
}

/// What was read while the target was stopped.
struct Instantaneous {
    threads: Vec<Thread>,
    maps: Vec<Mapping>,
}

impl Job<'_> {
    fn snapshot(&mut self, target: &mut Target, timeout: Duration) -> Result<Done> {
        if !target.report().mechanism.is_zero_copy() {
            let reason = format!("--mechanism {} only reads", target.report().mechanism);
            return Err(Error::NoSnapshot { pid: self.pid, reason });
        }
        let live_memory = Memory::open(self.pid)?;
        let frozen = target.freeze(timeout)?;
        let mut instant = self.registers(target, &frozen)?;
        let snapshot = target.snapshot()?;
        let stop = frozen.thaw();
        if snapshot.is_child_of_target() {
            let why = "it takes in orphans, and only its waits with __WALL or __WCLONE could see that";
            self.weaker.push(format!("the snapshot was a child of pid {} meanwhile: {why}", self.pid));
        }
        self.finish_threads(&mut instant.threads);

        let copied = plan::read(snapshot.pid(), self.selection, &snapshot.memory()?)?;
        // What a fork leaves out is in the target's list and not in the child's.
        let live = plan::read(self.pid, self.selection, &live_memory)?;
        // Sorted, as the mappings are.
        let mut from_target = Vec::new();
        let mut mappings = Vec::new();
        for mapping in &instant.maps {
            match plan::find(&copied, mapping) {
                Some(planned) if !planned.traits.is_wiped_on_fork => {
                    if planned.traits.is_shared && planned.dumped_bytes > 0 && mapping.permissions[1] == b'w'
                    {
                        self.weaken(mapping, "is shared, and as of when it was written to the file");
                    }
                    mappings.push(planned.clone());
                }
                wiped => match plan::find(&live, mapping).or(wiped) {
                    Some(planned) => {
                        if planned.dumped_bytes > 0 {
                            self.weaken(
                                mapping,
                                "isn't copied by a fork, and as of when it was written to the file",
                            );
                            from_target.push(mapping.start);
                        }
                        mappings.push(planned.clone());
                    }
                    None => self.weaken(mapping, "was gone before it could be read, and is missing"),
                },
            }
        }
        let layout = self.layout(instant.threads, &mappings)?;
        self.write_header(&layout)?;
        let (rest, held): (Vec<usize>, Vec<usize>) =
            (0..mappings.len()).partition(|&i| from_target.binary_search(&mappings[i].mapping.start).is_ok());
        let mut bytes = 0;
        let mut origin = Origin::snapshot(snapshot)?;
        bytes += self.write(&mut origin, &layout, &mappings, &held, bytes)?;
        drop(origin);
        let mut origin = Origin::target(target, live_memory)?;
        bytes += self.write(&mut origin, &layout, &mappings, &rest, bytes)?;
        Ok(done(&layout, bytes, stop))
    }

    fn frozen(&mut self, target: &mut Target, timeout: Duration) -> Result<Done> {
        let memory = Memory::open(self.pid)?;
        // The flags of the mappings are slow to read and rarely change: once before, again only if they did.
        let before = self.plan(target, &memory)?;
        let prepared = self.prepare(&before)?;
        let frozen = target.freeze(timeout)?;
        let mut instant = self.registers(target, &frozen)?;
        self.finish_threads(&mut instant.threads);
        let unchanged =
            before.len() == instant.maps.len() && before.iter().zip(&instant.maps).all(|(p, m)| p.is(m));
        let mappings = if unchanged { before } else { self.plan(target, &memory)? };
        let layout = self.layout(instant.threads, &mappings)?;
        if prepared.is_some_and(|prepared| !unchanged || prepared != layout.data_offset()) {
            // Made for another layout: pages would be left where holes belong.
            self.output.file().set_len(0).map_err(|e| self.output.error("write", e))?;
        }
        self.write_header(&layout)?;
        let mut origin = Origin::target(target, memory)?;
        let all: Vec<usize> = (0..mappings.len()).collect();
        let bytes = self.write(&mut origin, &layout, &mappings, &all, 0)?;
        Ok(done(&layout, bytes, frozen.thaw()))
    }

    /// Makes the pages of a file in memory before the target is stopped: most of the time of writing it goes there.
    /// Returns where in the file the memory begins, if it was done.
    fn prepare(&self, mappings: &[Planned]) -> Result<Option<u64>> {
        const WINDOW: u64 = 2 << 20;
        if !self.output.is_in_memory() {
            return Ok(None);
        }
        // Registers take the same room whatever they are.
        let thread = |tid| Thread {
            tid,
            xsave: vec![0; TRIMMED_XSAVE],
            siginfo: (!self.was_stopped).then_some(SIGINFO_STOPPED),
            ..Thread::default()
        };
        let threads = process::threads(self.pid)?.into_iter().map(thread).collect();
        let layout = self.layout(threads, mappings)?;
        self.output.file().set_len(layout.file_len()).map_err(|e| self.output.error("write", e))?;
        let mut pagemap = Pagemap::open(self.pid)?;
        for (planned, index) in mappings.iter().zip(0..) {
            let Some(offset) = layout.segment_offset(index) else { continue };
            for run in planned.runs(&mut pagemap)? {
                let start = offset + (run.base.0 - planned.mapping.start.0);
                for at in (0..run.len).step_by(WINDOW as usize) {
                    // Without space the write will fail, and say so.
                    if FileWindow::map(self.output.file(), start + at, (run.len - at).min(WINDOW)).is_err() {
                        return Ok(Some(layout.data_offset()));
                    }
                }
            }
        }
        Ok(Some(layout.data_offset()))
    }

    fn fuzzy(&mut self, target: &mut Target, timeout: Duration) -> Result<Done> {
        let frozen = target.freeze(timeout)?;
        let mut instant = self.registers(target, &frozen)?;
        let stop = frozen.thaw();
        self.finish_threads(&mut instant.threads);
        let memory = Memory::open(self.pid)?;
        let mappings = self.plan(target, &memory)?;
        let layout = self.layout(instant.threads, &mappings)?;
        self.write_header(&layout)?;
        let mut origin = Origin::target(target, memory)?;
        let all: Vec<usize> = (0..mappings.len()).collect();
        let bytes = self.write(&mut origin, &layout, &mappings, &all, 0)?;
        self.weaker
            .push("all memory is as of when it was written to the file, after the registers".to_owned());
        Ok(done(&layout, bytes, stop))
    }

    /// The mappings of the target, without those of the visit.
    fn plan(&self, target: &Target, memory: &Memory) -> Result<Vec<Planned>> {
        let mut mappings = plan::read(self.pid, self.selection, memory)?;
        mappings.retain(|planned| !target.owns(&planned.mapping));
        Ok(mappings)
    }

    /// What must be read while everything stands still.
    fn registers(&self, target: &Target, frozen: &Frozen) -> Result<Instantaneous> {
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
        Ok(Instantaneous { threads, maps })
    }

    /// What may be read a moment later.
    fn finish_threads(&self, threads: &mut [Thread]) {
        for thread in threads {
            (thread.times, thread.pending) = census::thread(self.pid, thread.tid);
        }
    }

    fn layout(&self, threads: Vec<Thread>, mappings: &[Planned]) -> Result<CoreLayout> {
        let spec = CoreSpec {
            process: census::process(self.pid)?,
            auxv: census::auxv(self.pid),
            files: mappings.iter().filter_map(Planned::mapped_file).collect(),
            threads,
            segments: mappings.iter().map(Planned::segment).collect(),
        };
        CoreLayout::new(spec).map_err(|source| Error::Layout { pid: self.pid, source })
    }

    /// Writes everything but the memory, and makes the file as long as it will be.
    fn write_header(&self, layout: &CoreLayout) -> Result<()> {
        let mut file = self.output.file();
        file.rewind()
            .and_then(|()| layout.write_header(file))
            .and_then(|()| file.set_len(layout.file_len()))
            .map_err(|e| self.output.error("write", e))
    }

    /// Writes the mappings with these indexes; returns the bytes written.
    fn write(
        &mut self,
        origin: &mut Origin<'_>,
        layout: &CoreLayout,
        mappings: &[Planned],
        which: &[usize],
        already: u64,
    ) -> Result<u64> {
        let mut total = already;
        for &index in which {
            total += plan::total(&mappings[index].runs(&mut origin.pagemap)?);
        }
        let mut writer = Writer {
            output: self.output,
            progress: &mut *self.progress,
            done: Progress { done_bytes: already, total_bytes: total },
            missing: Vec::new(),
        };
        for &index in which {
            if let Some(offset) = layout.segment_offset(index) {
                writer.mapping(origin, &mappings[index], offset)?;
            }
        }
        let bytes = writer.done.done_bytes - already;
        let missing = std::mem::take(&mut writer.missing);
        for (name, bytes) in missing {
            self.weaker.push(format!("{bytes} bytes of {} couldn't be read and are holes", describe(&name)));
        }
        Ok(bytes)
    }

    fn weaken(&mut self, mapping: &Mapping, how: &str) {
        let name = describe(&mapping.name);
        self.weaker.push(format!(
            "{}-{} ({} bytes of {name}) {how}",
            mapping.start,
            mapping.end,
            mapping.len_bytes()
        ));
    }

    /// An error while writing is the output's, where it came through a splice.
    fn explain(&self, error: Error) -> Error {
        match error {
            Error::Target(e) if e.errno() == Errno::INTR => Error::Interrupted,
            Error::Target(e) if is_output(e.errno()) && e.operation() == farspace::WRITE_OUT => {
                self.output.error("write", e.errno().into())
            }
            other => other,
        }
    }
}

fn is_output(errno: Errno) -> bool {
    !matches!(errno, Errno::SRCH | Errno::PERM)
}

fn selection(pid: i32, filter: Filter) -> Selection {
    let own = || {
        let text = std::fs::read_to_string(format!("/proc/{pid}/coredump_filter")).ok()?;
        CoredumpFilter::from_proc(&text).ok()
    };
    match filter {
        Filter::All => Selection { filter: CoredumpFilter::all(), undumped: Undumped::Dumped },
        Filter::Mask(filter) => Selection { filter, undumped: Undumped::LeftOut },
        Filter::Target => Selection { filter: own().unwrap_or_default(), undumped: Undumped::LeftOut },
    }
}

fn without_ours(target: &Target, mut maps: Vec<Mapping>) -> Vec<Mapping> {
    maps.retain(|mapping| !target.owns(mapping));
    maps
}

fn done(layout: &CoreLayout, bytes: u64, stop: Duration) -> Done {
    Done {
        threads: layout.spec().threads.len(),
        segments: layout.segments().len(),
        bytes,
        file_bytes: layout.file_len(),
        stop,
    }
}

fn describe(name: &[u8]) -> String {
    if name.is_empty() { "anonymous memory".to_owned() } else { String::from_utf8_lossy(name).into_owned() }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

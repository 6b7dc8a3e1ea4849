//! One pre-dump under way: process by process, then what they share.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use farspace::{AttachOptions, Mechanism, Target};
use farspace_image::criu::{ImageId, PageFlags};
use farspace_sys::memory::Memory;
use farspace_sys::pagemap::Pagemap;
use farspace_sys::process;
use rustix::io::Errno;

use super::areas::{self, Kind};
use super::batch::Batch;
use super::memory::ProcessMemory;
use super::session::{OnProgress, Predumper, nanos};
use super::shared::Object;
use super::tracking::{self, Linkage, Look};
use super::tree::{self, Member};
use super::{PageSink, PredumpReport};
use crate::dirty::PageSet;
use crate::{Error, Progress, Result};

/// So much to copy is worth an agent that does it without copying.
const WORTHWHILE: u64 = 64 << 20;

/// One pre-dump under way.
pub(super) struct Work<'a> {
    predumper: &'a mut Predumper,
    sink: &'a mut (dyn PageSink + Send),
    progress: OnProgress<'a>,
    /// When the parent was made, if there is one and if it says so.
    parent_us: Option<Option<u64>>,
    done_bytes: u64,
    total_bytes: u64,
    /// Shared memory objects, by inode.
    objects: BTreeMap<u64, Object>,
    report: PredumpReport,
}

impl<'a> Work<'a> {
    pub(super) fn new(
        predumper: &'a mut Predumper,
        sink: &'a mut (dyn PageSink + Send),
        progress: OnProgress<'a>,
        parent_us: Option<Option<u64>>,
    ) -> Self {
        let (objects, report) = (BTreeMap::new(), PredumpReport::default());
        Self { predumper, sink, progress, parent_us, done_bytes: 0, total_bytes: 0, objects, report }
    }

    pub(super) fn into_report(self) -> PredumpReport {
        self.report
    }

    /// Writes all images.
    pub(super) fn all(&mut self) -> Result<()> {
        let members = tree::members(self.predumper.root)?;
        self.predumper.trackers.retain(|pid, _| members.iter().any(|member| member.pid == *pid));
        for member in members {
            match self.process(member) {
                Ok(()) => self.report.processes += 1,
                // Processes come and go; one that is there is never left out in silence.
                Err(Error::Target(e))
                    if e.errno() == Errno::SRCH
                        && member.pid != self.predumper.root
                        && process::status(member.pid).map_or(true, |status| status.no_memory) =>
                {
                    self.report.weaker.push(format!("pid {} ended meanwhile", member.pid));
                }
                Err(error) => return Err(error),
            }
        }
        for object in std::mem::take(&mut self.objects).into_values() {
            self.shared(&object)?;
        }
        Ok(())
    }

    fn process(&mut self, member: Member) -> Result<()> {
        let image = ImageId::Process(member.image_pid);
        let wanted = self.predumper.options.mechanism;
        // With tracking under way the memory can be read from outside, and nothing is held for an agent.
        let is_tracked = wanted.is_none() && self.predumper.is_tracked(member.pid);
        let memory = Memory::open(member.pid)?;
        let pagemap = Pagemap::open(member.pid)?;
        let mut target =
            self.attach(member.pid, if is_tracked { Some(Mechanism::PidMem) } else { wanted })?;
        let scan = Instant::now();
        let mut look = self.predumper.look(&target, self.is_in_parent(member.pid))?;
        look.there.add(&tracking::huge_zeros(&pagemap, &areas::with_pages(&look.areas))?);
        // CRIU takes it whole, whether its pages are there or not. It never changes.
        for vdso in look.areas.iter().filter(|area| area.kind == Kind::Vdso) {
            look.there.insert(vdso.range());
            look.changed.remove(vdso.range());
        }
        let parent = self.sink.parent(image, &look.there)?;
        let linkage = if parent.is_some() { look.linkage } else { Linkage::Nothing };
        let mut unchanged = parent.unwrap_or_default();
        unchanged.subtract(&look.changed);
        let changed_bytes = look.there.bytes().saturating_sub(unchanged.bytes());
        if is_tracked && changed_bytes > WORTHWHILE {
            target = self.attach(member.pid, None)?;
        }
        self.note(&target, &look, linkage, changed_bytes, scan.elapsed());
        let write = Instant::now();
        self.sink.begin(image)?;
        let written = self.write(&mut target, memory, &look, &unchanged);
        self.report.write_ns += nanos(write.elapsed());
        match written {
            // What there is of it does no harm: nobody will look for the process's pages.
            Err(Error::Target(e)) if e.errno() == Errno::SRCH => {
                self.sink.end()?;
                Err(e.into())
            }
            Err(error) => Err(error),
            Ok(()) => {
                self.sink.end()?;
                Ok(target.detach()?)
            }
        }
    }

    fn attach(&self, pid: i32, mechanism: Option<Mechanism>) -> Result<Target> {
        let stop_timeout = self.predumper.options.stop_timeout;
        let attach = AttachOptions { mechanism, stop_timeout, ..AttachOptions::default() };
        Ok(Target::attach_with(pid, &attach)?)
    }

    /// True if the parent can have this process: it has started before the parent's images were made. In doubt it is
    /// another one, as for CRIU.
    fn is_in_parent(&self, pid: i32) -> bool {
        let tick_us = 1_000_000 / rustix::param::clock_ticks_per_second().max(1);
        match (self.parent_us, tree::start_ticks(pid)) {
            (Some(Some(parent_us)), Some(start)) => start < parent_us / tick_us,
            _ => false,
        }
    }

    fn note(&mut self, target: &Target, look: &Look, linkage: Linkage, changed_bytes: u64, took: Duration) {
        let report = &mut self.report;
        let found = target.report();
        report.scan_ns += nanos(took);
        report.stop_ns = report.stop_ns.max(nanos(look.stop));
        report.attach_stop_ns = report.attach_stop_ns.max(nanos(found.stop));
        let name = linkage.name().to_owned();
        for (list, new) in
            [(&mut report.tracking, name), (&mut report.mechanisms, found.mechanism.name().to_owned())]
        {
            if !list.contains(&new) {
                list.push(new);
            }
        }
        for reason in found.reasons.iter().chain(&look.reasons) {
            if !report.fallback_reasons.contains(reason) {
                report.fallback_reasons.push(reason.clone());
            }
        }
        self.total_bytes += changed_bytes;
    }

    fn write(&mut self, target: &mut Target, memory: Memory, look: &Look, unchanged: &PageSet) -> Result<()> {
        let pid = target.pid();
        let (done, total, progress) = (&mut self.done_bytes, self.total_bytes, &mut *self.progress);
        let mut told = |bytes| {
            *done += bytes;
            progress(Progress { done_bytes: *done, total_bytes: total.max(*done) })
        };
        let mut source = ProcessMemory { target, memory, progress: &mut told, vanished: 0, is_gone: false };
        let mut batch = Batch::new(self.sink, &mut source);
        for area in &look.areas {
            match area.kind {
                Kind::Nothing => {}
                Kind::Shared { inode } => {
                    let object = || Object { inode, pid, mapping: area.mapping.clone() };
                    self.objects.entry(inode).or_insert_with(object);
                }
                Kind::Untracked => self.report.weaker.push(format!(
                    "{}-{} of pid {pid} is hugetlbfs memory, which no kernel tracks: it was left out, and criu dump \
                     refuses to go on from here rather than restore old contents",
                    area.mapping.start, area.mapping.end
                )),
                Kind::Anonymous { lazy: true } => batch.area(area, look, unchanged, PageFlags::LAZY)?,
                Kind::Anonymous { lazy: false } | Kind::PrivateFile | Kind::Vdso => {
                    batch.area(area, look, unchanged, PageFlags::empty())?;
                }
            }
        }
        batch.flush()?;
        self.report.pages_written += batch.written;
        self.report.pages_in_parent += batch.in_parent;
        self.report.bytes_written += batch.written * 4096;
        if source.vanished > 0 {
            let pages = source.vanished;
            self.report
                .weaker
                .push(format!("{pages} pages of pid {pid} had gone before they were read: zeros"));
        }
        Ok(())
    }

    fn shared(&mut self, object: &Object) -> Result<()> {
        let file = match object.open() {
            Ok(file) => file,
            Err(error) => {
                let inode = object.inode;
                let next = "it needs CAP_CHECKPOINT_RESTORE; criu dump takes it all anyway";
                let what =
                    format!("shared memory {inode} of pid {} was left out: {error}; {next}", object.pid);
                self.report.weaker.push(what);
                return Ok(());
            }
        };
        let (done, total, progress) = (&mut self.done_bytes, self.total_bytes, &mut *self.progress);
        let mut told = |bytes| {
            *done += bytes;
            progress(Progress { done_bytes: *done, total_bytes: total.max(*done) })
        };
        let pages = object.write(&file, self.sink, &mut told)?;
        self.report.shared_objects += 1;
        self.report.shared_pages_written += pages;
        self.report.bytes_written += pages * 4096;
        Ok(())
    }
}

//! A target as others see it, before and after: nothing of farspace may stay.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// Lines of a thread's status that a visit must not change.
const STATUS: [&str; 6] = ["Name", "TracerPid", "SigBlk", "SigPnd", "ShdPnd", "Seccomp"];

/// The kinds of leftovers that the next visit uses and removes.
const MAPPING: &str = "mapping";
const VDSO: &str = "vdso";

/// How long what doesn't stay for the next visit may take to vanish on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// What /proc tells of a process.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct View {
    threads: BTreeSet<i32>,
    status: BTreeMap<(i32, String), String>,
    descriptors: BTreeMap<String, String>,
    mappings: BTreeSet<String>,
    vdso: Vec<u8>,
    children: BTreeSet<i32>,
    relatives: BTreeSet<i32>,
    /// Mappings of which a userfaultfd has hold, and pages that are write-protected for one.
    armed: Vec<String>,
}

impl View {
    /// Looks at a process that has done all that it does lazily.
    pub(crate) fn of(pid: i32) -> Self {
        let threads: BTreeSet<i32> = numbers(&format!("/proc/{pid}/task")).collect();
        let mut status = BTreeMap::new();
        for &tid in &threads {
            let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).unwrap_or_default();
            for (key, value) in text.lines().filter_map(|line| line.split_once(':')) {
                if STATUS.contains(&key) {
                    status.insert((tid, key.to_owned()), value.trim().to_owned());
                }
            }
        }
        let descriptors = numbers(&format!("/proc/{pid}/fd"))
            .filter_map(|fd| {
                let to = fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok()?;
                Some((fd.to_string(), to.to_string_lossy().into_owned()))
            })
            .collect();
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        let grows = |line: &&str| !line.ends_with("[heap]") && !line.ends_with("[stack]");
        Self {
            children: children(pid),
            relatives: relatives(pid),
            armed: armed(pid, &maps),
            vdso: vdso(pid, &maps),
            mappings: maps.lines().filter(grows).map(str::to_owned).collect(),
            threads,
            status,
            descriptors,
        }
    }

    /// What `now` has and this has not, or the other way round; empty if nothing.
    pub(crate) fn difference(&self, now: &Self) -> Left {
        let mut left = Left::default();
        let sets =
            |a: &BTreeSet<i32>, b: &BTreeSet<i32>| a.symmetric_difference(b).copied().collect::<Vec<_>>();
        left.tell("thread", sets(&self.threads, &now.threads));
        left.tell("child", sets(&self.children, &now.children).into_iter().map(describe));
        left.tell("sharer of the memory", sets(&self.relatives, &now.relatives).into_iter().map(describe));
        let changed =
            self.status.iter().filter(|(key, value)| now.status.get(key).is_some_and(|n| n != *value));
        left.tell(
            "status",
            changed.map(|(key, value)| format!("{key:?} was {value}, is {:?}", now.status.get(key))),
        );
        let fds = |a: &Self, b: &Self| -> Vec<String> {
            let only = a.descriptors.iter().filter(|(fd, to)| b.descriptors.get(*fd) != Some(*to));
            only.map(|(fd, to)| format!("{fd} -> {to}")).collect()
        };
        left.tell("descriptor", fds(now, self));
        left.tell("missing descriptor", fds(self, now));
        left.tell(MAPPING, now.mappings.difference(&self.mappings));
        left.tell("missing mapping", self.mappings.difference(&now.mappings));
        left.tell("armed", &now.armed);
        left.tell(VDSO, (self.vdso != now.vdso).then_some("its code was changed"));
        left
    }

    /// Waits until nothing is left; else what is. `patience` is for what may stay for the next visit: what only has to get a
    /// CPU to go is waited for longer.
    pub(crate) fn wait_clean(&self, pid: i32, patience: Duration) -> Result<Duration, Left> {
        let begin = Instant::now();
        loop {
            let mut left = self.difference(&Self::of(pid));
            if left.0.is_empty() {
                return Ok(begin.elapsed());
            }
            if !Path::new(&format!("/proc/{pid}/exe")).exists() {
                left.0 = vec![("process", format!("{pid} is dead"))];
                return Err(left);
            }
            let may_stay = left.0.iter().all(|(kind, _)| [MAPPING, VDSO].contains(kind));
            if begin.elapsed() > if may_stay { patience } else { patience.max(LONG) } {
                return Err(left);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// What kind of thing, and which.
#[derive(Debug, Default)]
pub(crate) struct Left(pub(crate) Vec<(&'static str, String)>);

impl Left {
    fn tell(&mut self, kind: &'static str, which: impl IntoIterator<Item = impl ToString>) {
        self.0.extend(which.into_iter().map(|which| (kind, which.to_string())));
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(12).try_for_each(|(kind, which)| write!(f, "[{kind} {which}] "))
    }
}

/// The numeric names in a directory.
fn numbers(directory: &str) -> impl Iterator<Item = i32> + use<> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// State and parent of a process: the two fields after the name in stat (proc(5)).
fn state_and_parent(pid: i32) -> Option<(char, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// Children, zombies included.
pub(crate) fn children(pid: i32) -> BTreeSet<i32> {
    numbers("/proc")
        .filter(|other| state_and_parent(*other).is_some_and(|(_, parent)| parent == pid))
        .collect()
}

/// Other processes with the same image: they share the memory, or copied it by a fork. The auxiliary vector holds
/// addresses that are random for each exec. Zombies have none any more: those of init are init's to reap.
fn relatives(pid: i32) -> BTreeSet<i32> {
    let auxv = |pid: i32| fs::read(format!("/proc/{pid}/auxv")).unwrap_or_default();
    let own = auxv(pid);
    numbers("/proc").filter(|other| *other != pid && !own.is_empty() && auxv(*other) == own).collect()
}

/// The code that the kernel gave the process. Code of ours in it must go.
fn vdso(pid: i32, maps: &str) -> Vec<u8> {
    let range = maps.lines().find(|line| line.ends_with("[vdso]")).and_then(|line| {
        let (start, end) = line.split_whitespace().next()?.split_once('-')?;
        Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
    });
    let Some((start, end)) = range else { return Vec::new() };
    let mut bytes = vec![0; (end - start) as usize];
    let read =
        fs::File::open(format!("/proc/{pid}/mem")).and_then(|mem| mem.read_exact_at(&mut bytes, start));
    if read.is_ok() { bytes } else { Vec::new() }
}

fn describe(pid: i32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    format!("[{pid} {} {:?}]", name.trim(), state_and_parent(pid))
}

/// What is armed: the flag of mappings (uw, proc_pid_smaps(5)) and the bit of pages (57, pagemap.rst).
fn armed(pid: i32, maps: &str) -> Vec<String> {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap_or_default();
    let flags = smaps.lines().filter_map(|line| line.strip_prefix("VmFlags:"));
    let mut armed: Vec<String> =
        flags.filter(|flags| flags.split_whitespace().any(|flag| flag == "uw")).map(str::to_owned).collect();
    let Ok(pagemap) = fs::File::open(format!("/proc/{pid}/pagemap")) else { return armed };
    for line in maps.lines() {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let parse = |text| u64::from_str_radix(text, 16).ok();
        let Some((Some(start), Some(end))) = range.map(|(a, b)| (parse(a), parse(b))) else { continue };
        let mut entries = vec![0; ((end - start) / 4096 * 8).min(1 << 20) as usize];
        let n = pagemap.read_at(&mut entries, start / 4096 * 8).unwrap_or(0);
        let is_armed = |entry: &[u8]| entry[7] & 1 << (57 - 56) != 0;
        let pages = entries[..n].chunks_exact(8).filter(|entry| is_armed(entry)).count();
        if pages > 0 {
            armed.push(format!("{pages} pages of {line}"));
        }
    }
    armed
}

//! Targets that have the whole pool of huge pages (hugetlbfs): a page that is kept from them for a moment is their death.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use farspace_dump::stream::{Address, ReceiveOptions, Receiver, StreamOptions};
use farspace_dump::{Destination, DumpOptions, DumpReport, Level, OnMiss, dump};
use farspace_victims::harness::{Failure, Region, Victim};
use object::Endianness;
use object::read::elf::{FileHeader as _, ProgramHeader as _};

const HUGE: usize = 2 << 20;
const NR_HUGEPAGES: &str = "/proc/sys/vm/nr_hugepages";
/// Pages that the pool is made to have.
const POOL: u64 = 8;

/// The machine's pool, given back as it was.
struct Pool(Option<u64>);

impl Pool {
    fn fill() -> Self {
        let before = fs::read_to_string(NR_HUGEPAGES).ok().and_then(|n| n.trim().parse::<u64>().ok());
        let more = before.filter(|&n| n < POOL && fs::write(NR_HUGEPAGES, POOL.to_string()).is_ok());
        Self(more)
    }

    /// Pages that nobody has, and nobody was promised.
    fn free(&self) -> u64 {
        let meminfo = fs::read_to_string("/proc/meminfo").expect("readable");
        let field = |name: &str| -> u64 {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
        };
        field("HugePages_Free:").saturating_sub(field("HugePages_Rsvd:"))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if let Some(before) = self.0 {
            let _ = fs::write(NR_HUGEPAGES, before.to_string());
        }
    }
}

/// Dumps to a file of that name, through a receiver or not.
fn take(pid: i32, path: &Path, is_sent: bool, options: &DumpOptions) -> DumpReport {
    if !is_sent {
        return dump(pid, &path.into(), options, &mut |_| ControlFlow::Continue(())).expect("dumped");
    }
    let receiver = Receiver::listen(&Address::Tcp("127.0.0.1:0".into())).expect("it listens");
    let to = Destination::Stream(StreamOptions::to(receiver.address().clone()));
    std::thread::scope(|scope| {
        let sender = scope.spawn(move || dump(pid, &to, options, &mut |_| ControlFlow::Continue(())));
        let received =
            receiver.receive(path, None, &ReceiveOptions::default(), &mut |_| ControlFlow::Continue(()));
        received.expect("received");
        sender.join().expect("no panic").expect("sent")
    })
}

/// The first word of each huge page of a region, as the core has it.
fn words(core: &[u8], region: &Region) -> Vec<u64> {
    let header = object::elf::FileHeader64::<Endianness>::parse(core).expect("an ELF file");
    let endian = header.endian().expect("known");
    let programs = header.program_headers(endian, core).expect("program headers");
    let program = programs
        .iter()
        .find(|p| p.p_vaddr(endian) == region.addr && p.p_type(endian) == object::elf::PT_LOAD)
        .expect("in the core");
    let data = program.data(endian, core).expect("inside of the file");
    data[..region.len as usize]
        .chunks(HUGE)
        .map(|page| u64::from_le_bytes(page[..8].try_into().expect("eight")))
        .collect()
}

#[test]
fn nobody_takes_pages_from_the_pool() {
    let pool = Pool::fill();
    let nr = pool.free();
    for no_reserve in ["0", "1"] {
        let args = ["--pages", &nr.max(1).to_string(), "--noreserve", no_reserve];
        let victim = match Victim::spawn("pool", &args) {
            Err(Failure::Skip(reason)) => {
                eprintln!("not possible here: {reason}");
                return;
            }
            victim => victim.expect("it starts"),
        };
        let region = victim.region("hugetlb").expect("named");
        let converge = DumpOptions { max_downtime: None, ..DumpOptions::default() };
        let snapshot = DumpOptions {
            max_downtime: Some(Duration::ZERO),
            on_miss: OnMiss::Snapshot,
            ..DumpOptions::default()
        };
        let level = |level| DumpOptions { level, ..DumpOptions::default() };
        let ways = [
            (converge, true),
            (snapshot, false),
            (level(Level::Frozen), true),
            (level(Level::Snapshot), false),
            (level(Level::Fuzzy), false),
        ];
        for (options, is_exact) in &ways {
            for run in 0..6 {
                let directory = tempfile::tempdir().expect("a directory");
                let path = directory.path().join("core");
                let report = take(victim.pid(), &path, run % 2 == 1, options);
                let context = format!("{report:?}");
                let words = words(&fs::read(&path).expect("readable"), &region);
                assert_eq!(words.len() as u64, nr, "{context}");
                let last = words.iter().copied().max().expect("some");
                // One that was dropped a moment ago has no contents.
                let is_right = |(page, word): (u64, u64)| {
                    word % nr == page && (!is_exact || last - word < nr)
                        || word == 0 && page == (last + 1) % nr
                };
                assert!(!is_exact || (0..).zip(words.iter().copied()).all(is_right), "{words:?}: {context}");
                assert_eq!(
                    *is_exact,
                    !report.weaker.iter().any(|w| w.contains("as of when it was")),
                    "{context}"
                );
            }
        }
        victim.finish().expect("unharmed");
    }
    drop(pool);
}

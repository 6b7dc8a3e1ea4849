//! Our own rows: many spaces, and what one costs from its beginning to its end.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::Context as _;
use farspace::engine::{Engine, Event, Protection, Reg, Space, Vcpu};

use super::engine::{CODE, DEADLINE, PATCHED, WARM_UP};
use super::entry::{Entry, Round};

/// A space from its beginning to its end.
pub(super) const LIVES: &[Entry] =
    &[Entry { name: "space-life", against: &["fork-exec-static"], start: lives }];

/// Crowds. What a call costs while so many guests share the CPUs: with no collapse it stays what it is for one.
pub(super) const ENTRIES: &[Entry] = &[
    Entry::baseline("exec-1-vcpu", || crowd(1)),
    Entry { name: "exec-2-vcpus", against: &["exec-1-vcpu"], start: || crowd(2) },
    Entry { name: "exec-4-vcpus", against: &["exec-1-vcpu"], start: || crowd(4) },
    Entry { name: "exec-16-vcpus", against: &["exec-1-vcpu"], start: || crowd(16) },
    Entry { name: "exec-64-vcpus", against: &["exec-1-vcpu"], start: || crowd(64) },
    Entry { name: "exec-256-vcpus", against: &["exec-1-vcpu"], start: || crowd(256) },
];

/// Calls that each guest of a crowd makes at least: some milliseconds of work, or beginning and end would be measured.
const MIN_CALLS_EACH: u32 = 10_000;

/// MiB of the kernel's and the user's memory that each of so many idle spaces with a vCPU takes.
pub(super) fn memory_each(nr_spaces: u32) -> anyhow::Result<f64> {
    let engine = Engine::new()?;
    let before = memory_in_use()?;
    let mut spaces = Vec::new();
    for _ in 0..nr_spaces {
        let (space, mut vcpu) = guest(&engine)?;
        call(&mut vcpu)?;
        spaces.push((vcpu, space));
    }
    Ok((memory_in_use()? - before) / 1024.0 / f64::from(nr_spaces))
}

/// KiB of what spaces consist of (proc_meminfo(5)).
fn memory_in_use() -> anyhow::Result<f64> {
    const KINDS: [&str; 5] = ["AnonPages:", "Shmem:", "Slab:", "KernelStack:", "PageTables:"];
    let text = std::fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    let value = |kind: &&str| {
        let line = text.lines().find_map(|line| line.strip_prefix(*kind))?;
        line.split_whitespace().next()?.parse::<f64>().ok()
    };
    Ok(KINDS.iter().filter_map(value).sum())
}

/// Spaces that are created, run to their first system call and dropped.
fn lives() -> anyhow::Result<Round> {
    let engine = Engine::new()?;
    Ok(Box::new(move |nr_calls| {
        let begin = Instant::now();
        for _ in 0..nr_calls {
            let (_space, mut vcpu) = guest(&engine)?;
            call(&mut vcpu)?;
        }
        Ok(begin.elapsed())
    }))
}

/// A guest of a crowd, and the thread that runs it.
struct Member {
    orders: Sender<u32>,
    done: Receiver<anyhow::Result<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Member {
    fn start(engine: &Engine) -> anyhow::Result<Self> {
        let (space, mut vcpu) = guest(engine)?;
        for _ in 0..WARM_UP {
            call(&mut vcpu)?;
        }
        let (orders, ordered) = channel::<u32>();
        let (report, done) = channel();
        let work = move || {
            let _space = space;
            for nr_calls in ordered {
                let outcome = (0..nr_calls).try_for_each(|_| call(&mut vcpu));
                if report.send(outcome).is_err() {
                    break;
                }
            }
        };
        let thread = std::thread::Builder::new().name("guest".to_owned()).spawn(work)?;
        Ok(Self { orders, done, thread: Some(thread) })
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // Without orders its thread ends.
        self.orders = channel().0;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// So many guests in spaces of their own, all at once.
fn crowd(nr_guests: u32) -> anyhow::Result<Round> {
    let engine = Engine::new()?;
    let members: Vec<_> = (0..nr_guests).map(|_| Member::start(&engine)).collect::<Result<_, _>>()?;
    Ok(Box::new(move |nr_calls| {
        let _engine = &engine;
        let each = (nr_calls / nr_guests).max(MIN_CALLS_EACH);
        let begin = Instant::now();
        for member in &members {
            member.orders.send(each).context("a guest's thread has ended")?;
        }
        for member in &members {
            member.done.recv().context("a guest's thread has ended")??;
        }
        // For the calls that were asked for.
        Ok(begin.elapsed().mul_f64(f64::from(nr_calls) / f64::from(each * nr_guests)))
    }))
}

fn guest(engine: &Engine) -> anyhow::Result<(Space, Vcpu)> {
    let space = engine.space()?;
    space.map_anonymous(CODE, 4096, Protection::READ | Protection::EXECUTE)?;
    space.write(CODE, &PATCHED)?;
    let mut vcpu = space.vcpu()?;
    vcpu.set_reg(Reg::Rip, CODE.0)?;
    Ok((space, vcpu))
}

fn call(vcpu: &mut Vcpu) -> anyhow::Result<()> {
    match vcpu.run(DEADLINE)? {
        Event::Syscall(_) => Ok(vcpu.set_reg(Reg::Rax, 42)?),
        other => anyhow::bail!("the guest stopped for {other:?}"),
    }
}

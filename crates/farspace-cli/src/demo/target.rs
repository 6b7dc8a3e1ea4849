//! The sample target: a process that works, waits and watches itself.

use std::io::BufRead as _;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::Timespec;

use super::gap::{GapMeter, LongestGap};
use super::pattern::{Checksum, HotPage, PAGE, StaticPage};
use super::protocol::{Hello, Request, State};
use crate::cli::TargetArgs;
use crate::exit::Exit;
use crate::failure::Failure;

/// Time between two looks of the thread that only watches.
const NAP: Duration = Duration::from_micros(100);
/// Longer than any demo.
const FOREVER: Timespec = Timespec { tv_sec: 100_000, tv_nsec: 0 };

/// Runs the target until its standard input closes.
pub(crate) fn run(args: &TargetArgs) -> anyhow::Result<()> {
    // If the demo is killed while this process is stopped, nobody else would end it.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .context("ask to die with the parent")?;
    let pages = static_pages(args.size)?;
    let checksum = checksum(&pages);
    let hot: Arc<Vec<HotPage>> = Arc::new((0..args.hot as usize / PAGE).map(HotPage::new).collect());
    let generation = Arc::new(AtomicU64::new(1));
    let longest = LongestGap::default();
    let disturbed = block_some_threads()?;
    let (meter, watched) = (longest.clone(), NAP);
    if !args.asleep {
        spawn("watcher", move || watch(meter, watched))?;
    }
    if !hot.is_empty() {
        let (hot, generation, longest) = (Arc::clone(&hot), Arc::clone(&generation), longest.clone());
        match args.rate {
            None => spawn("writer", move || write_forever(&hot, &generation, longest))?,
            Some(0) => {}
            Some(rate) => spawn("writer", move || write_at_rate(&hot, rate, longest))?,
        }
    }
    let hello = Hello {
        pid: std::process::id() as i32,
        static_base: pages.as_ptr() as u64,
        static_len: (pages.len() * PAGE) as u64,
        checksum,
        hot_base: hot.as_ptr() as u64,
        hot_len: (hot.len() * PAGE) as u64,
    };
    say(&hello)?;
    let mut seen = Vec::new();
    let mut current = checksum;
    let mut touch_ns = 0;
    for line in std::io::stdin().lock().lines() {
        let request = Request::parse(&line.context("read a request")?)
            .ok_or_else(|| Failure::new(Exit::Usage, "unknown request; demo-target is for farspace demo"))?;
        match request {
            Request::Reset => longest.reset(),
            Request::State => (),
            Request::Check => current = self::checksum(&pages),
            Request::Touch => touch_ns = touch(&hot),
        }
        seen.extend(disturbed.try_iter());
        let generation = generation.load(Ordering::Relaxed);
        say(&State {
            generation,
            longest_gap_ns: longest.ns(),
            touch_ns,
            checksum: current,
            disturbed: seen.clone(),
        })?;
    }
    Ok(())
}

fn say(message: &impl serde::Serialize) -> anyhow::Result<()> {
    crate::output::print(&(serde_json::to_string(message)? + "\n"))
}

/// Fills the static region, with every CPU.
fn static_pages(size: u64) -> anyhow::Result<Vec<StaticPage>> {
    let nr = usize::try_from(size).unwrap_or(usize::MAX) / PAGE;
    let mut pages = Vec::new();
    pages.try_reserve_exact(nr).map_err(|error| {
        Failure::new(Exit::Failed, format!("allocate {size} bytes"))
            .cause(error)
            .next("give a smaller --size")
    })?;
    pages.extend((0..nr as u64).map(StaticPage::new));
    Ok(pages)
}

fn checksum(pages: &[StaticPage]) -> u64 {
    let mut sum = Checksum::default();
    pages.iter().for_each(|page| sum.words(page.0.iter().copied()));
    sum.finish()
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .with_context(|| format!("start thread {name}"))?;
    Ok(())
}

/// Looks at the clock, naps, and looks again.
fn watch(longest: LongestGap, nap: Duration) {
    // The default slack of 50 us would look like a gap. Without the right to change it gaps look longer.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    let Ok(mut meter) = GapMeter::new(longest) else { return };
    loop {
        thread::sleep(nap);
        if meter.look(nap).is_err() {
            return;
        }
    }
}

/// Rewrites the hot region round by round and watches itself doing it.
fn write_forever(hot: &[HotPage], generation: &AtomicU64, longest: LongestGap) {
    let Ok(mut meter) = GapMeter::new(longest) else { return };
    for round in 2.. {
        generation.store(round, Ordering::Relaxed);
        for (index, page) in hot.iter().enumerate() {
            page.write(round, index);
            if meter.look(Duration::ZERO).is_err() {
                return;
            }
        }
    }
}

/// Changes a word in so many random pages per second, and watches itself doing it.
fn write_at_rate(hot: &[HotPage], pages_per_s: u64, longest: LongestGap) {
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    let Ok(mut meter) = GapMeter::new(longest) else { return };
    let begin = Instant::now();
    // xorshift; any sequence without a pattern will do.
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut written = 0;
    loop {
        let due = (begin.elapsed().as_secs_f64() * pages_per_s as f64) as u64;
        // After a stop it doesn't make up for all that it missed at once.
        written = written.max(due.saturating_sub(pages_per_s / 100));
        let asleep = if written >= due {
            thread::sleep(NAP);
            NAP
        } else {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            hot[random as usize % hot.len()].touch((random >> 40) as usize, random);
            written += 1;
            Duration::ZERO
        };
        if meter.look(asleep).is_err() {
            return;
        }
    }
}

/// One write to each page; returns the time it took, in nanoseconds.
fn touch(hot: &[HotPage]) -> u64 {
    let begin = Instant::now();
    for (index, page) in hot.iter().enumerate() {
        page.touch(index * 7, index as u64);
    }
    begin.elapsed().as_nanos() as u64
}

/// Starts threads that block for ever, each in another system call; one that returns says so on the channel.
fn block_some_threads() -> anyhow::Result<mpsc::Receiver<String>> {
    let (sender, receiver) = mpsc::channel();
    let blocked = |name: &'static str, call: fn() -> String| {
        let sender = sender.clone();
        spawn(name, move || {
            let outcome = call();
            // Nobody listens any more only while the target is ending.
            let _ = sender.send(format!("{name}: {outcome}"));
        })
    };
    blocked("poll", block_in_poll)?;
    blocked("read", block_in_read)?;
    blocked("nanosleep", || format!("{:?}", rustix::thread::nanosleep(&FOREVER)))?;
    blocked("futex", block_in_futex)?;
    Ok(receiver)
}

fn block_in_poll() -> String {
    let (reader, _writer) = match rustix::pipe::pipe() {
        Ok(ends) => ends,
        Err(errno) => return format!("pipe: {errno}"),
    };
    let mut fds = [PollFd::new(&reader, PollFlags::IN)];
    format!("{:?}", rustix::event::poll(&mut fds, Some(&FOREVER)))
}

fn block_in_read() -> String {
    let (reader, _writer) = match rustix::pipe::pipe() {
        Ok(ends) => ends,
        Err(errno) => return format!("pipe: {errno}"),
    };
    format!("{:?}", rustix::io::read(&reader, &mut [0u8; 1]))
}

fn block_in_futex() -> String {
    let (lock, never) = (Mutex::new(()), Condvar::new());
    let guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
    // A condition variable may wake for no reason; with nobody to notify it that would be a disturbance here.
    drop(never.wait(guard));
    "woke up".to_owned()
}

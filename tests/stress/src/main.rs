//! Both calls from many threads, against targets that fork, exec, unmap, exit, get signals, are stopped, traced and
//! killed meanwhile. It ends when its time is over, whatever happens.
//!
//! | module | what |
//! |---|---|
//! | `target` | what a target does |
//! | `chaos` | what is done to the targets |
//! | `worker` | the calls, and what they may answer |
//! | `guest` | code for process_vm_exec |
//! | `tally` | what has been counted |
//!
//! A run fails on an answer that no state of a target explains, on a register of the caller that has changed, or where a
//! kind of call has never succeeded. What the kernel thinks of it is in its log.

mod chaos;
mod guest;
mod random;
mod slots;
mod tally;
mod target;
mod worker;

use clap::Parser;
use slots::Slots;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tally::Tally;

/// Runs both calls against targets that do everything at once.
#[derive(Parser)]
struct Options {
    /// How long.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Threads that make calls.
    #[arg(long, default_value_t = 8)]
    threads: u64,
    /// Processes that they are made on.
    #[arg(long, default_value_t = 4)]
    targets: usize,
    /// Another one gives another sequence.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// A thread that is stuck in a call would keep the run from ending; then this does.
const GRACE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    if let Some(code) = target::host() {
        return code;
    }
    let options = Options::parse();
    if let Err(reason) = farspace::backend::check() {
        eprintln!("{reason}");
        return ExitCode::FAILURE;
    }
    println!("backend: {}, seed {}", farspace::backend_name(), options.seed);
    worker::prepare_process();
    let (slots, tally, is_over) = (Slots::new(options.targets), Tally::default(), AtomicBool::new(false));
    let end = Instant::now() + Duration::from_secs(options.seconds);
    // Not waited for: it is there for the case that nothing else gets anywhere.
    std::thread::spawn(move || {
        let limit = farspace_victims::pace::limit(GRACE);
        std::thread::sleep(end.saturating_duration_since(Instant::now()) + limit);
        eprintln!("not over {limit:?} after its time: a call doesn't return");
        std::process::exit(3);
    });
    let outcome = std::thread::scope(|scope| {
        let chaos = scope.spawn(|| chaos::run(&slots, options.seed, end, &is_over));
        let workers: Vec<_> = (1..=options.threads)
            .map(|nr| {
                scope.spawn({
                    let (slots, tally) = (&slots, &tally);
                    move || worker::run(slots, tally, options.seed << 16 | nr, end)
                })
            })
            .collect();
        let mut outcome = Ok(());
        for worker in workers {
            outcome = outcome.and(worker.join().unwrap_or_else(|_| Err("a worker panicked".to_owned())));
        }
        is_over.store(true, Ordering::Relaxed);
        outcome.and(chaos.join().unwrap_or_else(|_| Err("chaos panicked".to_owned())))
    });
    print!("{tally}");
    match outcome.and_then(|()| tally.every_kind_succeeded()) {
        Ok(()) => {
            println!("ok");
            ExitCode::SUCCESS
        }
        Err(reason) => {
            println!("FAILED: {reason}");
            ExitCode::FAILURE
        }
    }
}

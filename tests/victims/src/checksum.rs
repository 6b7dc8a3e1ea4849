//! Computes for a known amount of work, then looks at the result and at itself.
//!
//! It ends by itself with `ok` or `harmed`: after `--rounds`, after `--seconds`, or as soon as there is any command.

use crate::baseline::{Baseline, Left};
use crate::work::Block;
use crate::{Verdict, control, option, sys};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, Mutex, PoisonError};
use std::time::{Duration, Instant};

#[derive(Clone, Copy)]
struct Amount {
    rounds: u64,
    time: Duration,
    block_bytes: usize,
}

pub(crate) fn main(args: &[String]) -> Verdict {
    let threads: u64 = option(args, "--threads", 2)?;
    let rounds = option(args, "--rounds", u64::MAX)?;
    let seconds = option(args, "--seconds", if rounds == u64::MAX { 2.0 } else { 1e6 })?;
    let block_bytes = option(args, "--block", 256 << 10)?;
    let amount = Amount { rounds, time: Duration::from_secs_f64(seconds), block_bytes };
    // What may be in the address space at the end: `--left agent` for a tester that stays attached.
    let left = match option(args, "--left", "nothing".to_owned())?.as_str() {
        "agent" => Left::Agent,
        _ => Left::Nothing,
    };
    // All threads meet after they started, when they are done, and never again: they may not end before the
    // process looked at itself.
    let meet = Barrier::new(threads as usize + 1);
    let harm = Mutex::new(None);
    let done = AtomicBool::new(false);
    let asked = AtomicBool::new(false);
    let results = Mutex::new((0_u64, 0_u64));
    std::thread::scope(|scope| {
        for seed in 1..threads {
            let (meet, harm, asked, results) = (&meet, &harm, &asked, &results);
            scope.spawn(move || {
                meet.wait();
                work(seed, amount, asked, harm, results);
                meet.wait();
                park();
            });
        }
        scope.spawn(|| {
            meet.wait();
            // A thread that always sits in a system call: an interrupted one is seen here.
            while !done.load(Ordering::SeqCst) {
                if let Err(reason) = sys::sleep(Duration::from_millis(10)) {
                    note(&harm, reason);
                }
                asked.fetch_or(control::has_command(), Ordering::SeqCst);
            }
            meet.wait();
            park();
        });
        meet.wait();
        let verdict = Baseline::capture().and_then(|baseline| {
            control::ready("");
            work(0, amount, &asked, &harm, &results);
            done.store(true, Ordering::SeqCst);
            meet.wait();
            if let Some(reason) = harm.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return Err(reason);
            }
            baseline.check(left)
        });
        let (rounds, sum) = *results.lock().unwrap_or_else(PoisonError::into_inner);
        match &verdict {
            Ok(()) => control::say(&format!("ok sum={sum:#x} rounds={rounds}")),
            Err(reason) => control::say(&format!("harmed {reason}")),
        }
        // The other threads are parked for good.
        std::process::exit(i32::from(verdict.is_err()))
    })
}

fn park() {
    loop {
        std::thread::park();
    }
}

fn note(harm: &Mutex<Option<String>>, reason: String) {
    harm.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
}

fn work(
    seed: u64,
    amount: Amount,
    asked: &AtomicBool,
    harm: &Mutex<Option<String>>,
    results: &Mutex<(u64, u64)>,
) {
    let begin = Instant::now();
    let mut block = Block::new(seed, amount.block_bytes);
    let mut rounds = 0;
    while rounds < amount.rounds && begin.elapsed() < amount.time && !asked.load(Ordering::SeqCst) {
        block.advance();
        rounds += 1;
    }
    let (sum, expected) = (block.sum(), block.expected(rounds));
    if sum != expected {
        note(harm, format!("thread {seed}: sum {sum:#x} after {rounds} rounds, expected {expected:#x}"));
    }
    let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
    results.0 += rounds;
    results.1 ^= sum;
}

//! Cases 27 and 28: the target runs on meanwhile, whatever it does.

use crate::case::Outcome;
use crate::timeline;
use crate::world::{NONBLOCK, PAGE, Pipe, expect, expect_bytes, unharmed};
use farspace::{RemoteIoVec, SpliceFlags, Target};
use farspace_victims::harness::Victim;
use farspace_victims::{pace, pattern};
use libtest_mimic::Failed;
use rustix::io::Errno;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// The first page of the program: what every target has. Where it is linked statically, the heap lies below it.
fn program_page(pid: i32) -> Result<RemoteIoVec, Failed> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let file = maps.lines().find(|line| line.contains('/')).ok_or("no file is mapped")?;
    let start = u64::from_str_radix(file.split('-').next().unwrap_or_default(), 16)?;
    Ok(RemoteIoVec::new(start, PAGE))
}

pub(super) fn never_stops() -> Outcome {
    /// A machine that is busy with something else makes gaps of its own; stops would be there in each attempt.
    const ATTEMPTS: usize = 5;
    let mut victim = Victim::spawn("timeline", &["--threads", "1"])?;
    let page = program_page(victim.pid())?;
    let mut outcome = Ok(());
    for _ in 0..ATTEMPTS {
        outcome = compare_periods(&mut victim, page)?;
        if outcome.is_ok() {
            break;
        }
    }
    outcome?;
    unharmed(victim)
}

/// An idle period and one of calls: the inner result is whether the target was stopped.
fn compare_periods(victim: &mut Victim, page: RemoteIoVec) -> Result<Outcome, Failed> {
    const PERIOD: Duration = Duration::from_secs(2);
    victim.command("reset")?;
    std::thread::sleep(PERIOD);
    let idle = timeline::gaps(victim)?;

    let target = Target::attach(victim.pid())?;
    let pipe = Pipe::new()?;
    let one = |calls: &mut u64| -> Outcome {
        let n = target.vmsplice(pipe.writer.as_fd(), &[page], SpliceFlags::NONBLOCK)?;
        expect("bytes", &(n as u64), &PAGE)?;
        *calls += 1;
        let data = pipe.drain()?;
        expect_bytes("an ELF file's begin", &data[..4], b"\x7fELF")
    };
    let mut calls = 0;
    one(&mut calls)?;
    victim.command("reset")?;
    let begin = Instant::now();
    while begin.elapsed() < PERIOD {
        one(&mut calls)?;
    }
    let busy = timeline::gaps(victim)?;
    target.detach()?;
    Ok(timeline::expect_undisturbed(&idle, &busy, calls))
}

pub(super) fn storm() -> Outcome {
    const PERIOD: Duration = Duration::from_secs(3);
    let mut victim = Victim::spawn("storm", &[])?;
    let area = victim.word("area").and_then(|word| word.split_once(':')).ok_or("no area")?;
    let hex = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16);
    let (addr, len) = (hex(area.0)?, hex(area.1)?);
    let pipe = Pipe::new()?;
    let (mut some, mut none, mut offset) = (0_u64, 0_u64, 0);
    let begin = Instant::now();
    // At the least; a slow visitor gets longer, to have seen both.
    let is_over = |some: u64, none: u64| {
        begin.elapsed() >= if some > 0 && none > 0 { PERIOD } else { pace::limit(5 * PERIOD) }
    };
    while !is_over(some, none) {
        let iov = [RemoteIoVec::new(addr + offset, len - offset)];
        match pipe.call(victim.pid(), &iov, NONBLOCK) {
            Ok(n) => {
                some += 1;
                // Each byte is the pattern's, or the zero of a page that isn't filled yet. Not each word: the pipe is read
                // byte by byte (rep movsb) while the target writes.
                let data = pipe.drain()?;
                expect("bytes in the pipe", &data.len(), &n)?;
                let is_good = |(byte, right): (&u8, u8)| *byte == 0 || *byte == right;
                for (index, word) in (offset / 8..).zip(data.chunks_exact(8)) {
                    let right = pattern::word(0xa2ea, index).to_le_bytes();
                    if !word.iter().zip(right).all(is_good) {
                        return Err(format!("word {index} of the area is {word:x?}, not {right:x?}").into());
                    }
                }
            }
            Err(Errno::FAULT) => none += 1,
            Err(errno) => return Err(format!("in the storm: {errno}").into()),
        }
        offset = (offset + PAGE) % len;
    }
    eprintln!("{some} calls found the area, {none} did not");
    expect("both were seen", &(some > 0 && none > 0), &true)?;
    victim.check()?;
    unharmed(victim)
}

/// What a call may say about a target that changes into another program, or ends.
fn bearable(result: Result<usize, Errno>) -> Outcome {
    match result {
        Ok(_) | Err(Errno::FAULT | Errno::SRCH) => Ok(()),
        Err(errno) => Err(format!("{errno}, expected bytes, EFAULT or ESRCH").into()),
    }
}

pub(super) fn exec() -> Outcome {
    let victim = Victim::spawn("exec-loop", &[])?;
    let pipe = Pipe::new()?;
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(3) {
        // The program moves with every exec; the maps are old when the call is made.
        let Ok(page) = program_page(victim.pid()) else { continue };
        bearable(pipe.call(victim.pid(), &[page], NONBLOCK))?;
        pipe.drain()?;
    }
    unharmed(victim)
}

pub(super) fn exit() -> Outcome {
    let pipe = Pipe::new()?;
    for round in 0..60_u32 {
        let after_us = (round * 97 % 3000).to_string();
        let threads = if round % 3 == 0 { "3" } else { "1" };
        let victim = Victim::spawn("exit-race", &["--after-us", &after_us, "--threads", threads])?;
        for _ in 0..20 {
            bearable(pipe.call(victim.pid(), &[RemoteIoVec::new(PAGE, 1)], NONBLOCK))?;
        }
        // It ends in its own time, with its own status.
        victim.result()?;
    }
    Ok(())
}

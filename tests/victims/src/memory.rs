//! Memory of every kind, at addresses that the tester is told, changed on request.
//!
//! `ready PID NAME:ADDR:LEN:SEED... NAME:-:REASON...`: a region's byte at offset `o` is
//! [`pattern::byte`](crate::pattern::byte)`(SEED, o)`, all zeros for `untouched`; `-` is a kind that this machine doesn't
//! give. Commands: `write NAME OFFSET LEN SEED`, `munmap NAME`, `checksum NAME` (answers `sum=HEX`), `sleep MS`,
//! `exec` (becomes the `idle` victim, which says `ready` anew).
//! Every check compares every byte of every region with what must be there.

use crate::region::{KINDS, Region};
use crate::witness::Witness;
use crate::{Verdict, control, sys};
use std::fmt::Write;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

pub(crate) fn main(args: &[String]) -> Verdict {
    let mut regions = Vec::new();
    let mut line = String::new();
    let all = KINDS.iter().map(|(name, ..)| (*name).to_owned()).collect::<Vec<_>>();
    for wanted in if args.is_empty() { &all } else { args } {
        let (name, len) = match wanted.split_once(':') {
            Some((name, len)) => (name, Some(size(len)?)),
            None => (wanted.as_str(), None),
        };
        // Writing into a string can't fail.
        let _ = match Region::new(name, len) {
            Ok(region) => {
                let written = write!(line, "{name}:{:#x}:{:#x}:{} ", region.addr, region.len, region.seed);
                regions.push(region);
                written
            }
            Err(reason) => write!(line, "{name}:-:{} ", reason.replace(char::is_whitespace, "_")),
        };
    }
    let mut witness = Witness::start()?;
    control::ready(&line);
    control::serve(&mut witness, |witness, words| command(&mut regions, witness, words))
}

fn command(regions: &mut Vec<Region>, witness: &mut Witness, words: &[&str]) -> control::Special {
    let names = regions.iter().map(|r| r.name).collect::<Vec<_>>();
    let find =
        |name: &str| names.iter().position(|known| *known == name).ok_or_else(|| format!("no region {name}"));
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("{text} is not a number"));
    let mut run = || -> Result<String, String> {
        match *words {
            ["write", name, offset, len, seed] => {
                let at = find(name)?;
                regions[at].write(number(offset)? as usize, number(len)? as usize, number(seed)?)?;
            }
            ["munmap", name] => {
                let at = find(name)?;
                regions.remove(at).unmap()?;
                witness.rebase()?;
            }
            ["checksum", name] => return Ok(format!("sum={:x}", regions[find(name)?].checksum()?)),
            ["exec"] => {
                let error = Command::new("/proc/self/exe").arg0(crate::PROGRAM).arg("idle").exec();
                return Err(format!("exec: {error}"));
            }
            ["sleep", ms] => sys::sleep(Duration::from_millis(number(ms)?))?,
            _ => return Err(String::new()),
        }
        Ok("ok".to_owned())
    };
    match words {
        ["check" | "exit", ..] => regions.iter().try_for_each(Region::verify).err().map(Err),
        _ => match run() {
            Err(reason) if reason.is_empty() => None,
            answer => Some(answer),
        },
    }
}

/// A length with K, M or G.
fn size(text: &str) -> Result<usize, String> {
    let (digits, shift) = match text.strip_suffix(['K', 'M', 'G']) {
        Some(digits) => (
            digits,
            if text.ends_with('K') {
                10
            } else if text.ends_with('M') {
                20
            } else {
                30
            },
        ),
        None => (text, 0),
    };
    digits.parse::<usize>().map(|n| n << shift).map_err(|_| format!("{text} is not a length"))
}

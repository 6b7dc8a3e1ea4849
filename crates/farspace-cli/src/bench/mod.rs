//! Measurements: farspace and its baseline in pairs, in the same run, over the same memory.
//!
//! | file | what |
//! |---|---|
//! | `report` | rows, medians, the table |
//! | `sinks` | where the bytes go: /dev/null, sockets with a reader, files |
//! | `transfers` | splice against process_vm_readv + write, and the curve over target sizes |
//! | `streams` | a dump over TCP into a file |
//! | `stops` | how long targets are stopped: attach, dump, gcore; farspace's own memory |
//! | `dumps` | dumps of a target that writes: converge against gcore and a forked snapshot |
//! | `services` | redis and postgres under load while they are dumped |
//! | `exec` | answering system calls for another process: the known ways, each against the others |

use crate::cli::BenchArgs;
use crate::{interrupt, units};

mod dumps;
mod exec;
mod report;
mod services;
mod sinks;
mod stops;
mod streams;
mod transfers;

pub(crate) use dumps::dumps;
pub(crate) use exec::exec;
pub(crate) use report::Report;
pub(crate) use services::services;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
struct Scale {
    /// Memory of the target that is transferred.
    target_bytes: u64,
    /// Pairs for each row.
    pairs: usize,
    /// Attaches for each size.
    attaches: usize,
    /// Target sizes for attach, curve and peak memory.
    sizes: &'static [u64],
}

const FULL: Scale = Scale {
    target_bytes: 1 << 30,
    pairs: 7,
    attaches: 30,
    sizes: &[64 << 20, 256 << 20, 1 << 30, 4 << 30, 8 << 30],
};
const QUICK: Scale = Scale { target_bytes: 64 << 20, pairs: 3, attaches: 5, sizes: &[16 << 20, 64 << 20] };

/// Measures everything that `bench splice` reports.
pub(crate) fn splice(args: &BenchArgs) -> anyhow::Result<Report> {
    let scale = if args.quick { QUICK } else { FULL };
    interrupt::watch()?;
    let disk = args.dir.clone().unwrap_or_else(|| ".".into());
    let only = args.only.as_deref().unwrap_or_default();
    let is_wanted = |group: &str| group.contains(only);
    let mut report = Report::new();
    transfers::measure(scale, &is_wanted, &disk, &mut report)?;
    stops::measure(scale, &is_wanted, &mut report)?;
    anyhow::ensure!(!report.is_empty(), "no group of rows of `bench splice` has {only:?} in its name");
    Ok(report)
}

/// "64m", "1g": sizes in row names.
fn size_name(bytes: u64) -> String {
    match bytes {
        b if b >= 1 << 30 => format!("{}g", b >> 30),
        b => format!("{}m", b >> 20),
    }
}

/// Says on stderr why rows are missing: they are named skips.
fn skip(rows: &str, why: &str) {
    crate::failure::eprint_line(&format!("bench: skipped {rows}: {why}"));
}

/// Whether a target of this size fits beside its copy.
fn fits(bytes: u64) -> bool {
    let fits = crate::demo::room::find(bytes, None).is_ok();
    if !fits {
        skip(&format!("rows for {}", units::size(bytes)), "not enough memory or disk");
    }
    fits
}

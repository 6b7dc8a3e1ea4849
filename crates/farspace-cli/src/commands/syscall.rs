//! `farspace syscall`.

use std::fmt::Write as _;

use serde::Serialize;
use syscalls::Errno;

use crate::cli::SyscallArgs;
use crate::engine::{Attached, CallOutcome, CallPermit, CallResult, check_call};
use crate::failure::{CallFailed, eprint_line, errno_text};
use crate::syscall::hexdump;
use crate::{interrupt, units};

/// The JSON report.
#[derive(Debug, Serialize)]
struct Report {
    pid: i32,
    call: String,
    number: u64,
    arguments: Vec<String>,
    /// As the kernel returned it; a descriptor is 0 here, for it ends with farspace.
    result: i64,
    errno: Option<&'static str>,
    error: Option<String>,
    outputs: Vec<OutputBuffer>,
    #[serde(skip)]
    shown: String,
    /// Who made the call: native (process_vm_exec) or agent.
    mechanism: String,
    stop_ns: u64,
}

/// What a call has left in an `out:` buffer.
#[derive(Debug, Serialize)]
struct OutputBuffer {
    /// Position of the argument, from 1.
    argument: usize,
    hex: String,
    #[serde(skip)]
    bytes: Vec<u8>,
}

/// Makes the call and reports. A call that fails is reported like one that succeeds, and has its own exit code.
pub(crate) fn run(args: &SyscallArgs) -> anyhow::Result<()> {
    super::splice::check_target(args.pid)?;
    let permit = if args.any { CallPermit::Any } else { CallPermit::Listed };
    check_call(args.call, &args.args, permit)?;
    interrupt::watch()?;
    let target = Attached::for_calls(args.pid)?;
    let mechanism = target.mechanism_of(args.call);
    let outcome = target.call(args.call, &args.args, permit)?;
    let stop = target.stop();
    // Report on a target that is free again.
    drop(target);
    if args.verbose {
        eprint_line(&match stop.is_zero() {
            true => format!("by process_vm_exec: nothing of pid {} was stopped", args.pid),
            false => {
                format!("by {mechanism}: one thread of pid {} was held for {}", args.pid, units::time(stop))
            }
        });
    }
    let failed = matches!(outcome.result, CallResult::Errno(_));
    let report = report(args, outcome, mechanism, stop.as_nanos() as u64);
    args.report.format().print(&report, human)?;
    if failed { Err(CallFailed.into()) } else { Ok(()) }
}

fn report(args: &SyscallArgs, outcome: CallOutcome, mechanism: String, stop_ns: u64) -> Report {
    let (result, errno, shown) = match outcome.result {
        CallResult::Number(number) => (number as i64, None, (number as i64).to_string()),
        CallResult::Address(address) => (address as i64, None, format!("{address:#x}")),
        CallResult::Fd => (0, None, "a descriptor of farspace, closed with it".to_owned()),
        CallResult::Errno(errno) => {
            let raw = errno.raw_os_error();
            let name = Errno::new(raw).name().unwrap_or("an unknown errno");
            let text = errno_text(&errno.into());
            let shown = format!("-1 {name} ({text})");
            (-i64::from(raw), Some((name, text)), shown)
        }
    };
    let (errno, error) = errno.unzip();
    let outputs = outcome.outputs.into_iter().map(|(nr, bytes)| OutputBuffer {
        argument: nr + 1,
        hex: bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut hex, byte| {
            // Writing to a String can't fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        }),
        bytes,
    });
    Report {
        pid: args.pid,
        call: args.call.name(),
        number: args.call.nr,
        arguments: args.args.iter().map(|arg| arg.text.clone()).collect(),
        result,
        errno,
        error,
        outputs: outputs.collect(),
        shown,
        mechanism,
        stop_ns,
    }
}

fn human(report: &Report) -> String {
    let mut text = format!("{}({}) = {}\n", report.call, report.arguments.join(", "), report.shown);
    for output in &report.outputs {
        text.push_str(&format!("argument {}, {} bytes:\n", output.argument, output.bytes.len()));
        text.push_str(&hexdump(&output.bytes));
    }
    text
}

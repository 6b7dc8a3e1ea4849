//! Clocks and sleep.

use rustix::fs::Timespec;
use rustix::io::Errno;
use rustix::thread::NanosleepRelativeResult;
use rustix::time::ClockId;

use crate::kernel::{Answer, Call, Kernel, Stop};
use crate::layout::{self, Bytes};

pub(crate) const CALLS: &[(i64, Call)] = &[
    (libc::SYS_clock_gettime, |kernel, &[id, at, ..]| {
        tell(kernel, at, rustix::time::clock_gettime(clock(id)?))
    }),
    (libc::SYS_clock_getres, |kernel, &[id, at, ..]| {
        tell(kernel, at, rustix::time::clock_getres(clock(id)?))
    }),
    (libc::SYS_gettimeofday, |kernel, &[at, ..]| {
        let now = rustix::time::clock_gettime(ClockId::Realtime);
        tell(kernel, at, Timespec { tv_nsec: now.tv_nsec / 1000, ..now })
    }),
    (libc::SYS_time, |kernel, &[at, ..]| {
        let seconds = rustix::time::clock_gettime(ClockId::Realtime).tv_sec;
        if at != 0 {
            kernel.memory.write(at, &seconds.to_le_bytes())?;
        }
        Ok(seconds as u64)
    }),
    (libc::SYS_nanosleep, |kernel, &[at, ..]| sleep(kernel, at)),
    (libc::SYS_clock_nanosleep, |kernel, &[_, flags, at, ..]| {
        // TIMER_ABSTIME is nothing that a small program needs.
        if flags == 0 { sleep(kernel, at) } else { Err(Errno::OPNOTSUPP.into()) }
    }),
];

fn clock(id: u64) -> Result<ClockId, Stop> {
    Ok(match id as i32 {
        libc::CLOCK_REALTIME => ClockId::Realtime,
        libc::CLOCK_MONOTONIC => ClockId::Monotonic,
        libc::CLOCK_PROCESS_CPUTIME_ID => ClockId::ProcessCPUTime,
        libc::CLOCK_THREAD_CPUTIME_ID => ClockId::ThreadCPUTime,
        libc::CLOCK_MONOTONIC_RAW => ClockId::MonotonicRaw,
        libc::CLOCK_REALTIME_COARSE => ClockId::RealtimeCoarse,
        libc::CLOCK_MONOTONIC_COARSE => ClockId::MonotonicCoarse,
        libc::CLOCK_BOOTTIME => ClockId::Boottime,
        _ => return Err(Errno::INVAL.into()),
    })
}

fn tell(kernel: &mut Kernel, at: u64, time: Timespec) -> Answer {
    if at != 0 {
        let mut bytes = Bytes::default();
        bytes.u64s([time.tv_sec, time.tv_nsec].map(|word| word as u64));
        kernel.memory.write(at, &bytes.0)?;
    }
    Ok(0)
}

fn sleep(kernel: &mut Kernel, at: u64) -> Answer {
    let mut bytes = [0; 16];
    kernel.memory.read(at, &mut bytes)?;
    match rustix::thread::nanosleep(&layout::timespec(&bytes)) {
        NanosleepRelativeResult::Ok => Ok(0),
        NanosleepRelativeResult::Interrupted(_) => Err(Errno::INTR.into()),
        NanosleepRelativeResult::Err(errno) => Err(errno.into()),
    }
}

/// The timeout of poll(2): `None` is for ever.
pub(crate) fn milliseconds(timeout: i32) -> Option<Timespec> {
    let timeout = i64::from(timeout);
    (timeout >= 0).then_some(Timespec { tv_sec: timeout / 1000, tv_nsec: timeout % 1000 * 1_000_000 })
}

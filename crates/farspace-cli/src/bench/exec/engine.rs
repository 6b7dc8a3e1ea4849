//! Our own rows: guests in created spaces.

use std::time::{Duration, Instant};

use anyhow::bail;
use farspace::RemoteAddr;
use farspace::baseline::Cpus;
use farspace::engine::{Engine, Event, Placement, Protection, Reg, Route, Space, Vcpu};

use super::baselines::{one, two};
use super::entry::{Entry, Round};

/// All of them.
pub(super) const ENTRIES: &[Entry] = &[
    Entry {
        name: "exec-patched-two-cpus",
        against: &["shared-line-two-cpus"],
        start: || calls(&PATCHED, Route::Patched, Some(two()?)),
    },
    Entry {
        name: "exec-patched-unpinned",
        against: &["shared-line-unpinned"],
        start: || calls(&PATCHED, Route::Patched, None),
    },
    Entry {
        name: "exec-patched-one-cpu",
        against: &["futex-one-cpu"],
        start: || calls(&PATCHED, Route::Patched, Some(one()?)),
    },
    Entry {
        name: "exec-trapped-two-cpus",
        against: &["local-sigsys", "shared-line-two-cpus"],
        start: || calls(&TRAPPED, Route::Trapped, Some(two()?)),
    },
    Entry {
        name: "exec-trapped-unpinned",
        against: &["local-sigsys", "shared-line-unpinned"],
        start: || calls(&TRAPPED, Route::Trapped, None),
    },
    Entry {
        name: "exec-trapped-one-cpu",
        against: &["futex-one-cpu"],
        start: || calls(&TRAPPED, Route::Trapped, Some(one()?)),
    },
    Entry { name: "exec-fault-two-cpus", against: &["sysemu-one-cpu"], start: || faults(Some(two()?)) },
];

/// `mov eax, 39; syscall; jmp 0`, where the jump is too near for a patch.
const TRAPPED: [u8; 9] = [0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7];
/// `mov eax, 39; syscall; cmp rax, -4096; jmp 0`
pub(super) const PATCHED: [u8; 15] =
    [0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff, 0xeb, 0xf1];
/// `mov al, [rdi]; jmp 0`
const FAULTING: [u8; 4] = [0x8a, 0x07, 0xeb, 0xfc];

pub(super) const CODE: RemoteAddr = RemoteAddr(0x40_0000);
/// Calls before the first round.
pub(super) const WARM_UP: u32 = 100;
/// Longer than any round.
pub(super) const DEADLINE: Option<Duration> = Some(Duration::from_secs(10));

/// A guest and what it lives in.
struct Guest {
    vcpu: Vcpu,
    cpus: Option<Cpus>,
    _space: Space,
    _engine: Engine,
}

impl Guest {
    fn start(code: &[u8], cpus: Option<Cpus>) -> anyhow::Result<Self> {
        let engine = Engine::new()?;
        let space = engine.space()?;
        space.map_anonymous(CODE, 4096, Protection::READ | Protection::EXECUTE)?;
        space.write(CODE, code)?;
        let mut vcpu = space.vcpu()?;
        vcpu.set_reg(Reg::Rip, CODE.0)?;
        vcpu.set_placement(match cpus {
            None => Placement::Auto,
            Some(cpus) if cpus.is_one() => Placement::Together,
            Some(_) => Placement::Apart,
        });
        // Until hot sites are rewritten, and the vCPU has left the CPU that it was made on.
        for _ in 0..WARM_UP {
            vcpu.run(DEADLINE)?;
            vcpu.set_reg(Reg::Rip, CODE.0)?;
        }
        if let Some(cpus) = cpus {
            cpus.pin_peer(vcpu.pid())?;
        }
        Ok(Self { vcpu, cpus, _space: space, _engine: engine })
    }

    /// Times a piece of work on the CPU that is the host's.
    fn time(&mut self, work: impl FnOnce(&mut Vcpu) -> anyhow::Result<()>) -> anyhow::Result<Duration> {
        let _pinned = self.cpus.map(Cpus::pin_host).transpose()?;
        let begin = Instant::now();
        work(&mut self.vcpu)?;
        Ok(begin.elapsed())
    }
}

/// Answers system calls that come by the route.
fn calls(code: &'static [u8], route: Route, cpus: Option<Cpus>) -> anyhow::Result<Round> {
    let mut guest = Guest::start(code, cpus)?;
    Ok(Box::new(move |nr_calls| {
        guest.time(|vcpu| {
            for _ in 0..nr_calls {
                match vcpu.run(DEADLINE)? {
                    Event::Syscall(call) if call.nr == 39 && call.route == route => {
                        vcpu.set_reg(Reg::Rax, 42)?;
                    }
                    other => bail!("the guest stopped for {other:?}"),
                }
            }
            Ok(())
        })
    }))
}

/// Steps over loads from nowhere.
fn faults(cpus: Option<Cpus>) -> anyhow::Result<Round> {
    let mut guest = Guest::start(&FAULTING, cpus)?;
    Ok(Box::new(move |nr_calls| {
        guest.time(|vcpu| {
            for _ in 0..nr_calls {
                match vcpu.run(DEADLINE)? {
                    Event::Fault(fault) if fault.signal == 11 => {
                        vcpu.set_reg(Reg::Rip, CODE.0 + 2)?;
                    }
                    other => bail!("the guest stopped for {other:?}"),
                }
            }
            Ok(())
        })
    }))
}

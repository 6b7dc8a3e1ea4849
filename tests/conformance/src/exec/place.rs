//! Where guests run: the regions of a `guest-room`, and how a case enters it.

use crate::caller::Caller;
use crate::case::Outcome;
use crate::exec::guest;
use crate::world::expect;
use farspace::{SigContext, SigInfo};
use farspace_victims::harness::Victim;
use farspace_victims::{pace, pattern};
use libtest_mimic::Failed;
use rustix::io::Errno;
use std::fs::File;
use std::ops::Deref;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// PROCESS_VM_EXEC_SYSCALL.
pub(super) const SYSCALL: u64 = 1;
/// PROCESS_VM_EXEC_PIDFD.
pub(super) const PIDFD: u64 = 2;
/// The flags that a guest may have: carry, parity, adjust, zero, sign, direction, overflow.
pub(super) const FLAGS: u64 = 0xcd5;
/// System calls that the guests make.
pub(super) const GETPID: u64 = libc::SYS_getpid as u64;
const ENOSYS: u64 = -38_i64 as u64;
/// AUDIT_ARCH_X86_64 (include/uapi/linux/audit.h).
pub(super) const X86_64: u32 = 0xc000_003e;
/// AUDIT_ARCH_I386.
pub(super) const I386: u32 = 0x4000_0003;
/// What is left of a call has this long to go.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(20);
/// For a guest that is expected to run.
const RUN_TIMEOUT: Duration = Duration::from_secs(20);

/// A range of the target, filled with a pattern.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) addr: u64,
    pub(super) len: u64,
    pub(super) seed: u64,
}

impl Span {
    /// The word at `offset`, as long as nothing was written there.
    pub(super) fn word(&self, offset: u64) -> u64 {
        pattern::word(self.seed, offset / 8)
    }
}

/// A process and its regions: all that a caller needs to know.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) pid: i32,
    words: Vec<String>,
    pub(super) code: Span,
    pub(super) data: Span,
    pub(super) stack: Span,
    pub(super) ro: Span,
    pub(super) none: Span,
    pub(super) bus: Span,
    pub(super) hole: Span,
    pub(super) mirror: Span,
}

impl Place {
    /// From the words of the victim's ready line.
    pub(super) fn new(pid: i32, words: &[String]) -> Result<Self, Failed> {
        let find = |name: &str| {
            let word = words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            let numbers = word.unwrap_or_default().split(':');
            let numbers = numbers.map(|n| u64::from_str_radix(n.trim_start_matches("0x"), 16));
            match *numbers.collect::<Result<Vec<_>, _>>().unwrap_or_default() {
                [addr, len, seed] => Ok(Span { addr, len, seed }),
                _ => Err(format!("no region {name} in {words:?}")),
            }
        };
        Ok(Self {
            pid,
            words: words.to_vec(),
            code: find("code")?,
            data: find("data")?,
            stack: find("stack")?,
            ro: find("ro")?,
            none: find("none")?,
            bus: find("bus")?,
            hole: find("hole")?,
            mirror: find("mirror")?,
        })
    }

    /// The context of a guest at the begin of the code; RBX points to the data.
    pub(super) fn context(&self) -> SigContext {
        SigContext {
            rip: self.code.addr,
            rsp: self.stack.addr + self.stack.len - 64,
            rbx: self.data.addr,
            eflags: 0x202,
            cs: 0x33,
            ss: 0x2b,
            ..SigContext::default()
        }
    }

    /// One call, into an info that is full of junk before.
    pub(super) fn call(&self, context: &mut SigContext, flags: u64, mask: u64) -> Result<SigInfo, Errno> {
        let mut info = SigInfo { bytes: [0xaa; 128] };
        // SAFETY: the three pointers are to values of this function and its caller's.
        unsafe { farspace::raw::process_vm_exec(self.pid, context, flags, &mut info, &mask, 8) }
            .map(|()| info)
    }

    /// Runs the guest with an empty mask.
    pub(super) fn run(&self, context: &mut SigContext) -> Result<SigInfo, Failed> {
        Ok(self.call(context, 0, 0).map_err(|errno| format!("the call gives {errno:?}"))?)
    }

    /// Runs the guest, which must end at a `ud2`.
    pub(super) fn run_to_end(&self, context: &mut SigContext) -> Outcome {
        let info = self.run(context)?;
        expect("the signal at the guest's end", &describe(&info), &format!("signal {}", libc::SIGILL))
            .map_err(|e| at(e, context))?;
        expect("the instruction at the guest's end", &self.read(context.rip, 2)?, &guest::UD2.to_vec())
    }

    /// Runs the guest, which must end by a system call of the 64-bit table.
    pub(super) fn run_to_syscall(&self, context: &mut SigContext, nr: u64) -> Result<SigInfo, Failed> {
        let info = self.run(context)?;
        expect_syscall(&info, context, nr, X86_64)?;
        Ok(info)
    }

    /// One system call in the target: its result, an errno where it is negative.
    pub(super) fn syscall(&self, nr: i64, args: &[u64]) -> Result<i64, Errno> {
        let arg = |n: usize| args.get(n).copied().unwrap_or(0);
        let mut context = SigContext {
            rax: nr as u64,
            rdi: arg(0),
            rsi: arg(1),
            rdx: arg(2),
            r10: arg(3),
            r8: arg(4),
            r9: arg(5),
            ..SigContext::default()
        };
        self.call(&mut context, SYSCALL, 0).map(|_| context.rax as i64)
    }

    /// One system call in the target that must give `wanted`.
    pub(super) fn expect_syscall(&self, what: &str, nr: i64, args: &[u64], wanted: i64) -> Outcome {
        expect(what, &self.syscall(nr, args), &Ok(wanted))
    }

    fn memory(&self) -> Result<File, Failed> {
        let path = format!("/proc/{}/mem", self.pid);
        Ok(File::options().read(true).write(true).open(&path).map_err(|e| format!("{path}: {e}"))?)
    }

    /// Bytes of the target.
    pub(super) fn read(&self, addr: u64, len: u64) -> Result<Vec<u8>, Failed> {
        let mut bytes = vec![0; len as usize];
        self.memory()?.read_exact_at(&mut bytes, addr).map_err(|e| format!("read at {addr:#x}: {e}"))?;
        Ok(bytes)
    }

    /// A word of the target.
    pub(super) fn read_word(&self, addr: u64) -> Result<u64, Failed> {
        Ok(u64::from_le_bytes(self.read(addr, 8)?.try_into().map_err(|_| "not a word")?))
    }

    /// Puts bytes into the target; it must have been told.
    pub(super) fn write(&self, addr: u64, bytes: &[u8]) -> Outcome {
        Ok(self.memory()?.write_all_at(bytes, addr).map_err(|e| format!("write at {addr:#x}: {e}"))?)
    }

    /// The line of the target's maps that begins at `addr`.
    pub(super) fn mapping(&self, addr: u64) -> Result<Option<String>, Failed> {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.pid))?;
        let begin = format!("{addr:08x}-");
        Ok(maps.lines().find(|line| line.starts_with(&begin)).map(str::to_owned))
    }

    /// Waits until a counting guest has come beyond `count`.
    pub(super) fn wait_for_count(&self, count: u64) -> Result<u64, Failed> {
        let begin = Instant::now();
        while begin.elapsed() < pace::limit(RUN_TIMEOUT) {
            match self.read_word(self.data.addr)? {
                now if now > count => return Ok(now),
                _ => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        Err(format!("the guest's counter is not above {count} after {RUN_TIMEOUT:?}").into())
    }

    /// Lets a spinning guest go on to its system call.
    pub(super) fn release(&self) -> Outcome {
        self.write(self.data.addr + 8, &1_u64.to_le_bytes())
    }
}

/// A victim with its regions.
pub(super) struct Room {
    victim: Victim,
    place: Place,
}

impl Deref for Room {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

impl Room {
    /// A room with this guest in it.
    pub(super) fn with(guest: &[u8]) -> Result<Self, Failed> {
        Self::spawn("guest-room", &[], guest)
    }

    /// A victim that offers a room, with a guest in it.
    pub(super) fn spawn(victim: &str, args: &[&str], guest: &[u8]) -> Result<Self, Failed> {
        Self::spawn_with(victim, args, guest, |_| {})
    }

    /// As [`Self::spawn`]; `configure` may change the victim's user.
    pub(super) fn spawn_with(
        victim: &str,
        args: &[&str],
        guest: &[u8],
        configure: impl FnOnce(&mut std::process::Command),
    ) -> Result<Self, Failed> {
        let victim = Victim::spawn_with(victim, args, configure)?;
        let place = Place::new(victim.pid(), victim.words())?;
        let mut room = Self { victim, place };
        room.load(guest)?;
        Ok(room)
    }

    /// A room with a guest that uses the first two words of the data, which are zero.
    pub(super) fn counting(guest: &[u8]) -> Result<Self, Failed> {
        let mut room = Self::with(guest)?;
        room.clear(0, 16)?;
        Ok(room)
    }

    /// Puts a guest at the begin of the code.
    pub(super) fn load(&mut self, guest: &[u8]) -> Outcome {
        self.announce("code", 0, guest.len() as u64)?;
        self.write(self.code.addr, guest)
    }

    /// Tells the victim that these bytes may change.
    pub(super) fn announce(&mut self, region: &str, offset: u64, len: u64) -> Outcome {
        Ok(self.victim.command(&format!("may {region} {offset} {len}")).map(drop)?)
    }

    /// Announces that part of the data may change, and makes it zero.
    pub(super) fn clear(&mut self, offset: u64, len: u64) -> Outcome {
        self.announce("data", offset, len)?;
        self.write(self.data.addr + offset, &vec![0; len as usize])
    }

    /// The victim, for what else it can do.
    pub(super) fn victim(&mut self) -> &mut Victim {
        &mut self.victim
    }

    /// Becomes a new image: the same victim, new content.
    pub(super) fn exec(&mut self) -> Outcome {
        let line = self.victim.command("exec")?;
        let words = line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        self.place = Place::new(self.victim.pid(), &words)?;
        Ok(())
    }

    /// Starts a caller of its own that plays a scenario here.
    pub(super) fn caller(&self, scenario: &str) -> Result<Caller, Failed> {
        self.caller_with(scenario, |_| {})
    }

    /// As [`Self::caller`]; `configure` may change user and environment.
    pub(super) fn caller_with(
        &self,
        scenario: &str,
        configure: impl FnOnce(&mut std::process::Command),
    ) -> Result<Caller, Failed> {
        Caller::start(|command| {
            command.args(["exec", scenario, &self.pid.to_string()]).args(&self.words);
            configure(command);
        })
    }

    /// A caller that plays a scenario to its end, which must be well.
    pub(super) fn play(&self, scenario: &str) -> Outcome {
        expect(scenario, &self.caller(scenario)?.line()?.as_str(), &"ok")
    }

    /// The last line of every case: the target runs on, unharmed, nothing but what was announced has changed, and
    /// nothing is left in it, as soon as all callers are known to be gone.
    pub(super) fn unharmed(self) -> Outcome {
        // A backend may keep something for the next call; there will be none.
        farspace::raw::leave_idle();
        self.unharmed_by_itself()
    }

    /// The same, without a word about the last call's having been the last.
    pub(super) fn unharmed_by_itself(mut self) -> Outcome {
        self.victim.check()?;
        let begin = Instant::now();
        while let Err(failure) = self.victim.check_detached() {
            if begin.elapsed() > pace::limit(LEAVE_TIMEOUT) {
                return Err(failure.into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(self.victim.finish()?)
    }
}

/// What the call returned with, for comparisons.
pub(super) fn describe(info: &SigInfo) -> String {
    match info.signo() {
        libc::SIGSYS => format!("syscall {} of {:#x}", info.syscall(), info.arch()),
        signal => format!("signal {signal}"),
    }
}

/// Adds to a failure where the guest was.
pub(super) fn at(failed: Failed, context: &SigContext) -> Failed {
    format!("{}; guest at {context:x?}", failed.message().unwrap_or_default()).into()
}

/// The event is this system call, and the context is as after one.
pub(super) fn expect_syscall(info: &SigInfo, context: &SigContext, nr: u64, arch: u32) -> Outcome {
    expect("event", &describe(info), &format!("syscall {} of {arch:#x}", nr as i32))
        .map_err(|e| at(e, context))?;
    expect("si_code", &info.code(), &2)?;
    expect("rax at a system call", &context.rax, &ENOSYS)
}

/// si_code and the rest of a signal event.
pub(super) fn expect_signal(what: &str, info: &SigInfo, signal: i32, code: i32) -> Outcome {
    expect(what, &(describe(info), info.code()), &(format!("signal {signal}"), code))
}

//! A space with a hostile guest in it, and what the supervisor does there meanwhile.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use farspace_abi::vcpu::{AREA_BYTES, RESERVED_BASE, SCRATCH, STUB_BYTES, area, area_of};
use farspace_exec::{Engine, Error, Protection, Reg, Registers, RemoteAddr, Sharing, Space, Vcpu};

use crate::attempts::{self, DATA, DATA_BYTES, FRAME, SLOTS, VALUES};
use crate::guests;
use crate::observer::Seen;
use crate::random::Random;

/// Read-only in the space, and always the same.
const PATTERN: RemoteAddr = RemoteAddr(0x60_0000);
const PATTERN_BYTES: u64 = 0x2000;
/// Mapped and unmapped all the time.
const TOY: RemoteAddr = RemoteAddr(0x70_0000);
const TOY_BYTES: u64 = 0x4000;
const RX: Protection = Protection::READ.union(Protection::EXECUTE);
const RW: Protection = Protection::READ.union(Protection::WRITE);

/// Nothing may take longer: ten seconds until something is given up, five more until it is killed, and a slow machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(25);

/// A space to attack.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) space: Space,
    /// The stub's system call instructions.
    pub(crate) gates: Vec<u64>,
    file: OwnedFd,
}

/// Fails if `work` takes longer than anything may.
pub(crate) fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let begin = Instant::now();
    let outcome = work();
    assert!(begin.elapsed() < LIMIT, "{what} took {:?}", begin.elapsed());
    outcome
}

/// True for what may happen to a vCPU of a hostile guest.
pub(crate) fn is_its_own_fault(error: &Error) -> bool {
    matches!(error, Error::Ended { .. } | Error::Damaged { .. } | Error::Unresponsive { .. })
}

impl Stage {
    pub(crate) fn new(engine: &Engine, seen: &Seen, random: &mut Random) -> Self {
        for (at, len) in
            [(guests::CODE, 0x1000), (DATA, DATA_BYTES), (PATTERN, PATTERN_BYTES), (TOY, TOY_BYTES)]
        {
            seen.ask(libc::SYS_mmap, at.0, len);
        }
        seen.ask(libc::SYS_munmap, TOY.0, TOY_BYTES);
        seen.ask(libc::SYS_mprotect, TOY.0, TOY_BYTES);
        let space = engine.space().expect("a space");
        space.map_anonymous(guests::CODE, 0x1000, RX).expect("map");
        space.write(guests::CODE, guests::code()).expect("write");
        space.map_anonymous(DATA, DATA_BYTES, RW).expect("map");
        space.map_anonymous(PATTERN, PATTERN_BYTES, Protection::READ).expect("map");
        space.write(PATTERN, &pattern()).expect("write");
        let file = rustix::fs::memfd_create("toy", rustix::fs::MemfdFlags::CLOEXEC).expect("a memfd");
        rustix::fs::ftruncate(&file, TOY_BYTES).expect("truncate");
        let mut stub = vec![0; STUB_BYTES as usize];
        space.read(RemoteAddr(RESERVED_BASE), &mut stub).expect("read");
        let is_gate = |at: &usize| stub[*at..].starts_with(&[0x0f, 0x05]);
        let gates = (0..stub.len()).filter(is_gate).map(|at| RESERVED_BASE + at as u64).collect();
        let stage = Self { space, gates, file };
        stage.refresh(random);
        stage
    }

    /// New values of interest and another hand-made frame.
    pub(crate) fn refresh(&self, random: &mut Random) {
        let values: Vec<u8> = (0..64).flat_map(|_| attempts::value_of_frames(random).to_le_bytes()).collect();
        self.space.write(RemoteAddr(VALUES), &values).expect("write");
        self.space.write(RemoteAddr(FRAME), &attempts::frame(random)).expect("write");
    }

    /// Something that a supervisor does. The steward does as it is told, whatever the guest writes meanwhile; but what
    /// comes with descriptors can be spoiled through the scratch page.
    pub(crate) fn disturb(&self, random: &mut Random) {
        match random.below(8) {
            0 => self.space.map_anonymous(TOY, TOY_BYTES, RW).expect("map"),
            1 => self.space.unmap(TOY, TOY_BYTES).expect("unmap"),
            2 => {
                let _ = self.space.protect(TOY, TOY_BYTES, Protection::READ);
            }
            3 => {
                let shared = random.pick(&[Sharing::Shared, Sharing::Private]);
                let mapped = self.space.map_file(TOY, TOY_BYTES, RW, shared, self.file.as_fd(), 0);
                assert!(
                    !matches!(mapped, Err(Error::Ended { .. } | Error::Unresponsive { .. })),
                    "{mapped:?}"
                );
            }
            4 | 5 => self.check_pattern(),
            6 => self.refresh(random),
            _ => match timed("a vCPU", || self.space.vcpu()) {
                Ok(vcpu) => drop(vcpu),
                Err(error) => assert!(is_its_own_fault(&error), "{error:?}"),
            },
        }
    }

    /// That an order to map memory is carried out here, and not elsewhere.
    pub(crate) fn check_orders(&self, round: u64) {
        self.space.unmap(TOY, TOY_BYTES).expect("unmap");
        assert!(self.space.read(TOY, &mut [0; 8]).is_err(), "it was unmapped");
        self.space.map_anonymous(TOY, TOY_BYTES, RW).expect("map");
        self.space.write(TOY, &round.to_le_bytes()).expect("it was mapped");
    }

    fn check_pattern(&self) {
        let mut bytes = vec![0; PATTERN_BYTES as usize];
        assert_eq!(self.space.read(PATTERN, &mut bytes), Ok(bytes.len()));
        assert!(bytes == pattern(), "a wrong read");
    }

    /// A vCPU, however often it takes.
    pub(crate) fn vcpu(&self) -> Vcpu {
        loop {
            match timed("a vCPU", || self.space.vcpu()) {
                Ok(vcpu) => return vcpu,
                Err(error) => assert!(is_its_own_fault(&error), "{error:?}"),
            }
        }
    }

    /// Registers of a thread that scribbles: over an area, its first lines, its signal stack's top, the scratch page.
    pub(crate) fn scribbler(random: &mut Random) -> Registers {
        let mut regs = Registers::default();
        let target = area_of(random.below(SLOTS) as usize);
        if random.one_in(4) {
            regs[Reg::Rip] = random.pick(&[guests::forge(), guests::first()]);
            regs[Reg::Rdi] = target;
            regs[Reg::Rsi] = target + area::STACK as u64 + random.below(0xd00) * 8;
            regs[Reg::Rdx] = 1000 + random.below(3000);
            return regs;
        }
        let (from, len) = match random.below(6) {
            0 => (target, AREA_BYTES),
            1 => (target, 64),
            2 => (target, 0x140),
            3 | 4 => (target + AREA_BYTES - 0x1000, 0x1000),
            _ => (SCRATCH, 0x200),
        };
        regs[Reg::Rip] = guests::scribble();
        regs[Reg::Rdi] = from;
        regs[Reg::Rsi] = len / 8;
        regs[Reg::Rdx] = 1 + random.below(20_000);
        regs[Reg::Rbx] = random.next() | 1;
        regs[Reg::R9] = VALUES;
        regs
    }
}

fn pattern() -> Vec<u8> {
    (0..PATTERN_BYTES).map(|n| ((n * 7) ^ (n >> 8)) as u8).collect()
}

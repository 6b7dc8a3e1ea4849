//! The engine's side of the shared memory against a stub that writes anything: for `fuzz/` and for a property test.
//!
//! The task of the vCPU is dead, so that whatever lies in the area was written by the script, and nothing answers.

use std::sync::atomic::Ordering;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use farspace_abi::RemoteAddr;
use farspace_abi::vcpu::{AREA_BYTES, AREAS, AREAS_OFFSET, area};
use farspace_sys::pidfd;
use std::os::fd::AsFd;

use crate::{Engine, Event, Protection, Reg, Route, Space, Vcpu};

const CODE: RemoteAddr = RemoteAddr(0x40_0000);
const SOON: Option<Duration> = Some(Duration::from_secs(10));
/// Nothing comes that isn't there already.
const AT_ONCE: Option<Duration> = Some(Duration::from_millis(1));

/// `syscall; cmp rax, -4096; inc rbx; jmp back`: a site that can be rewritten, and is.
const LOOP: [u8; 13] = [0x0f, 0x05, 0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff, 0x48, 0xff, 0xc3, 0xeb, 0xf3];

/// Bytes of a script, read as numbers.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*bytes)
    }

    fn byte(&mut self) -> Option<u8> {
        self.bytes().map(|[byte]| byte)
    }

    /// A number: small, near something of interest, or any.
    fn number(&mut self) -> Option<u64> {
        let kind = self.byte()?;
        let small = u64::from(u16::from_le_bytes(self.bytes()?));
        Some(match kind % 8 {
            0 => small,
            1 => CODE.0.wrapping_add(small % 32),
            2 => AREAS.wrapping_add(small),
            3 => u64::MAX - small,
            4 => (1 << 47) - small,
            5 => small << 32,
            6 => AREAS + area::STACK as u64 + small % 0x700 * 16,
            _ => u64::from_le_bytes(self.bytes()?),
        })
    }
}

fn stage() -> &'static Mutex<Space> {
    static STAGE: OnceLock<(Engine, Mutex<Space>)> = OnceLock::new();
    let make = || -> crate::Result<(Engine, Mutex<Space>)> {
        let engine = Engine::new()?;
        let space = engine.space()?;
        space.map_anonymous(CODE, 0x1000, Protection::READ | Protection::EXECUTE)?;
        space.write(CODE, &LOOP)?;
        let mut vcpu = space.vcpu()?;
        vcpu.set_reg(Reg::Rip, CODE.0)?;
        while !matches!(vcpu.run(SOON)?, Event::Syscall(call) if call.route == Route::Patched) {}
        drop(vcpu);
        Ok((engine, Mutex::new(space)))
    };
    &STAGE.get_or_init(|| make().expect("an engine, a space, a rewritten site")).1
}

/// Plays one script.
///
/// # Panics
///
/// If the engine tells of an event that no guest can cause, or can't make a vCPU.
pub fn protocol(script: &[u8]) {
    let space = stage().lock().unwrap_or_else(PoisonError::into_inner);
    let mut vcpu = space.vcpu().expect("a vCPU");
    let task = pidfd::open(vcpu.pid()).expect("it lives");
    pidfd::kill(task.as_fd());
    assert!(pidfd::wait_end(task.as_fd(), Duration::from_secs(10)), "it ends");
    // The slot is the first: there is no other vCPU.
    let memory = &space.inner.memory;
    let start = AREAS_OFFSET as usize;
    let mut script = Script(script);
    let mut number = 1;
    while let Some(is_over) = step(&mut script, &mut vcpu, &mut number, &|at, value| {
        memory.u64(start + at % AREA_BYTES as usize / 8 * 8).store(value, Ordering::Relaxed);
    }) {
        if is_over {
            break;
        }
    }
}

/// One step; true if the vCPU is lost.
fn step(
    script: &mut Script<'_>,
    vcpu: &mut Vcpu,
    number: &mut u32,
    put: &dyn Fn(usize, u64),
) -> Option<bool> {
    let lost = match script.byte()? % 12 {
        // A word of the first lines, of the frame, of anywhere.
        0 => {
            let at = script.byte()?;
            put(usize::from(at) * 2, script.number()?);
            false
        }
        1 | 2 => {
            let at = u16::from_le_bytes(script.bytes()?);
            put(usize::from(at), script.number()?);
            false
        }
        3 => {
            put(area::FRAME, script.number()?);
            false
        }
        // The next event, and a look at it.
        4..8 => {
            let kind = u32::from(script.byte()? % 4);
            put(area::EVENT, u64::from(*number + 1) << area::KIND_BITS | u64::from(kind));
            *number += 1;
            run(vcpu)
        }
        8 => {
            let reg = Reg::ALL[usize::from(script.byte()?) % Reg::ALL.len()];
            vcpu.set_reg(reg, script.number()?).is_err()
        }
        9 => {
            let mut all = vcpu.registers();
            all[Reg::Rip] = script.number()?;
            vcpu.load(&all).is_err()
        }
        10 => {
            let mut vectors = [0; 0x1000];
            let len = usize::from(u16::from_le_bytes(script.bytes()?)) % vectors.len();
            let copied = vcpu.vector_state(&mut vectors[..len]);
            copied.and_then(|_| vcpu.set_vector_state(&vectors[..len])).is_err()
        }
        _ => {
            let base = script.number()? >> 17;
            let bases = vcpu.fs_base().and_then(|_| vcpu.gs_base());
            bases.and_then(|_| vcpu.set_fs_base(base)).and_then(|()| vcpu.set_gs_base(base)).is_err()
        }
    };
    Some(lost)
}

/// True if the vCPU is lost.
fn run(vcpu: &mut Vcpu) -> bool {
    match vcpu.run(AT_ONCE) {
        Ok(Event::Fault(fault)) => {
            assert!(crate::engine::CAUGHT.contains(&fault.signal), "{fault:?}");
            false
        }
        Ok(Event::Syscall(call)) => {
            assert!([crate::ARCH_X86_64, crate::ARCH_I386].contains(&call.arch), "{call:?}");
            false
        }
        Ok(Event::Interrupted) => false,
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_stub_confuses_the_engine(script in proptest::collection::vec(any::<u8>(), 0..600)) {
            super::protocol(&script);
        }
    }
}

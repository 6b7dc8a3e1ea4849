//! A supervisor that is busy with all it can do, until somebody kills it.

use std::time::Duration;

use farspace_exec::{Engine, Protection, Reg, RemoteAddr, Space, Vcpu};

pub(crate) const CODE: RemoteAddr = RemoteAddr(0x40_0000);
const RX: Protection = Protection::READ.union(Protection::EXECUTE);

/// A space with code, and a vCPU that is to run it.
pub(crate) fn guest(engine: &Engine, code: &[u8]) -> (Space, Vcpu) {
    let space = engine.space().expect("a space");
    space.map_anonymous(CODE, 0x1000, RX).expect("map");
    space.write(CODE, code).expect("write");
    let vcpu = start(&space);
    (space, vcpu)
}

/// One more vCPU.
pub(crate) fn start(space: &Space) -> Vcpu {
    let mut vcpu = space.vcpu().expect("a vCPU");
    vcpu.set_reg(Reg::Rip, CODE.0).expect("set");
    vcpu
}

/// `syscall; jmp back`
pub(crate) const CALLS: &[u8] = &[0x0f, 0x05, 0xeb, 0xfc];
/// `jmp self`
pub(crate) const SPINS: &[u8] = &[0xeb, 0xfe];

/// Makes engines, spaces, forks and vCPUs, and runs them; for a minute at most, should nobody come.
pub(crate) fn work() {
    let begin = std::time::Instant::now();
    while begin.elapsed() < Duration::from_secs(60) {
        let engine = Engine::new().expect("an engine");
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..3 {
                        let (space, mut calls) = guest(&engine, CALLS);
                        let mut other = start(&space);
                        for _ in 0..50 {
                            calls.run(None).expect("run");
                            other.run(None).expect("run");
                        }
                        let copy = space.fork().expect("a fork");
                        start(&copy).run(None).expect("run");
                        let (_spinning, mut spins) = guest(&engine, SPINS);
                        spins.run(Some(Duration::from_millis(3))).expect("run");
                    }
                });
            }
        });
    }
}

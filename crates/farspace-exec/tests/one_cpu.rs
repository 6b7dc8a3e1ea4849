//! The engine where there is one CPU: in a test program of its own, for it finds that out once.

use std::time::{Duration, Instant};

use farspace_exec::{Engine, Event, Protection, Reg, RemoteAddr};
use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};

const CODE: RemoteAddr = RemoteAddr(0x40_0000);
const SOON: Option<Duration> = Some(Duration::from_secs(30));

/// There is no place to look from, and nobody waits for one, however busy.
#[test]
fn busy_guests_go_on() {
    let mut cpus = CpuSet::new();
    cpus.set(sched_getcpu());
    sched_setaffinity(None, &cpus).expect("an affinity");
    let begin = Instant::now();
    let engine = Engine::new().expect("an engine");
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let space = engine.space().expect("a space");
                space.map_anonymous(CODE, 0x1000, Protection::READ | Protection::EXECUTE).expect("map");
                // mov eax, 39; syscall; jmp back
                space.write(CODE, &[0xb8, 39, 0, 0, 0, 0x0f, 5, 0xeb, 0xf7]).expect("write");
                let mut vcpu = space.vcpu().expect("a vCPU");
                vcpu.set_reg(Reg::Rip, CODE.0).expect("set");
                for round in 0..2000 {
                    let event = vcpu.run(SOON).expect("run");
                    assert!(matches!(event, Event::Syscall(call) if call.nr == 39), "{round}: {event:?}");
                    assert!(begin.elapsed() < Duration::from_secs(60), "still at {round}");
                    vcpu.set_reg(Reg::Rax, 1).expect("set");
                }
            });
        }
    });
}

//! Sites that are rewritten while guests run.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use farspace_exec::{Engine, Event, Protection, Reg, RemoteAddr, Route, Space, Syscall, Vcpu};

const CODE: RemoteAddr = RemoteAddr(0x40_0000);
const SOON: Option<Duration> = Some(Duration::from_secs(30));
const RX: Protection = Protection::READ.union(Protection::EXECUTE);
const RW: Protection = Protection::READ.union(Protection::WRITE);

/// `syscall; cmp rax, -4096; inc rbx; jmp 0`
const LOOP: [u8; 13] = [0x0f, 0x05, 0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff, 0x48, 0xff, 0xc3, 0xeb, 0xf3];

fn guest(code: &[u8]) -> (Engine, Space, Vcpu) {
    let engine = Engine::new().expect("an engine");
    let space = engine.space().expect("a space");
    space.map_anonymous(CODE, 0x1000, RX).expect("map");
    space.write(CODE, code).expect("write");
    let mut vcpu = space.vcpu().expect("a vCPU");
    vcpu.set_reg(Reg::Rip, CODE.0).expect("set");
    (engine, space, vcpu)
}

fn call(vcpu: &mut Vcpu) -> Syscall {
    match vcpu.run(SOON) {
        Ok(Event::Syscall(call)) => call,
        other => panic!("{other:?} at {:#x}", vcpu.reg(Reg::Rip)),
    }
}

/// Runs until the site has been rewritten.
fn warm(vcpu: &mut Vcpu) {
    for _ in 0..100 {
        if call(vcpu).route == Route::Patched {
            return;
        }
    }
    panic!("never rewritten");
}

#[test]
fn a_hot_site_is_rewritten() {
    let (_engine, space, mut vcpu) = guest(&LOOP);
    warm(&mut vcpu);
    for round in 0..10_000 {
        for (value, reg) in (round * 100..).zip([
            Reg::Rax,
            Reg::Rdi,
            Reg::Rsi,
            Reg::Rdx,
            Reg::R10,
            Reg::R8,
            Reg::R9,
            Reg::R15,
        ]) {
            vcpu.set_reg(reg, value).expect("set");
        }
        let rbx = vcpu.reg(Reg::Rbx);
        let call = call(&mut vcpu);
        assert_eq!((call.route, call.nr), (Route::Patched, round * 100));
        assert_eq!(call.args, [1, 2, 3, 4, 5, 6].map(|n| round * 100 + n));
        assert_eq!(vcpu.reg(Reg::R15), round * 100 + 7);
        assert_eq!(vcpu.reg(Reg::Rbx), rbx + 1);
        assert_eq!(vcpu.reg(Reg::Rip), CODE.0 + 2);
    }
    let mut seen = [0; 13];
    space.read(CODE, &mut seen).expect("read");
    assert_eq!(seen, LOOP, "readers see the original");
}

#[test]
fn the_whole_state_is_there_after_a_patched_call() {
    let (_engine, _space, mut vcpu) = guest(&LOOP);
    warm(&mut vcpu);
    vcpu.set_fs_base(0x1234_5678).expect("set");
    assert_eq!(call(&mut vcpu).route, Route::Patched);
    assert_eq!(vcpu.fs_base(), Ok(0x1234_5678));
    let mut all = vcpu.registers();
    all[Reg::R12] = 77;
    all[Reg::Rip] = CODE.0;
    vcpu.load(&all).expect("load");
    assert_eq!(call(&mut vcpu).route, Route::Patched);
    assert_eq!(vcpu.reg(Reg::R12), 77);
}

#[test]
fn every_address_of_a_patch_can_be_jumped_to() {
    let (_engine, _space, mut vcpu) = guest(&LOOP);
    warm(&mut vcpu);
    // At the comparison, which is in the middle of the patch.
    let rbx = vcpu.reg(Reg::Rbx);
    vcpu.set_reg(Reg::Rip, CODE.0 + 2).expect("set");
    assert_eq!(call(&mut vcpu).route, Route::Patched);
    assert_eq!(vcpu.reg(Reg::Rbx), rbx + 1);
    // Inside of the comparison: 00 f0 is `add al, dh`, ff ff is no instruction.
    vcpu.set_reg(Reg::Rip, CODE.0 + 4).expect("set");
    let Event::Fault(fault) = vcpu.run(SOON).expect("run") else { panic!("no fault") };
    assert_eq!((fault.signal, fault.addr.0), (libc::SIGILL, CODE.0 + 6));
}

#[test]
fn changed_code_is_not_patched_code() {
    let (_engine, space, mut vcpu) = guest(&LOOP);
    warm(&mut vcpu);
    // The same loop, but it decrements.
    let mut changed = LOOP;
    changed[10] = 0xcb;
    space.write(CODE, &changed).expect("write");
    let rbx = vcpu.reg(Reg::Rbx);
    assert_eq!(call(&mut vcpu).route, Route::Trapped);
    assert_eq!(vcpu.reg(Reg::Rbx), rbx.wrapping_sub(1));
    warm(&mut vcpu);
    space.map_anonymous(CODE, 0x1000, RW).expect("map");
    space.write(CODE, &LOOP).expect("write");
    space.protect(CODE, 0x1000, RX).expect("protect");
    let rbx = vcpu.reg(Reg::Rbx);
    assert_eq!(call(&mut vcpu).route, Route::Trapped);
    assert_eq!(vcpu.reg(Reg::Rbx), rbx.wrapping_add(1));
    space.protect(CODE, 0x1000, RX | Protection::WRITE).expect("protect");
    for _ in 0..50 {
        assert_eq!(call(&mut vcpu).route, Route::Trapped, "writable code stays as it is");
    }
}

#[test]
fn other_vcpus_run_through_code_that_is_rewritten() {
    let (_engine, space, first) = guest(&LOOP);
    let mut vcpus = vec![first];
    for _ in 0..3 {
        let mut vcpu = space.vcpu().expect("a vCPU");
        vcpu.set_reg(Reg::Rip, CODE.0).expect("set");
        vcpus.push(vcpu);
    }
    let patched = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for mut vcpu in vcpus {
            let patched = &patched;
            scope.spawn(move || {
                for round in 0..4000u64 {
                    vcpu.set_reg(Reg::Rax, round).expect("set");
                    let call = call(&mut vcpu);
                    assert_eq!((call.nr, vcpu.reg(Reg::Rbx)), (round, round));
                    patched.fetch_add(u32::from(call.route == Route::Patched), Ordering::Relaxed);
                }
            });
        }
        scope.spawn(|| {
            let begin = Instant::now();
            // A site that is written to again and again before it is hot is left alone.
            while patched.load(Ordering::Relaxed) == 0 && begin.elapsed() < Duration::from_secs(30) {
                std::thread::yield_now();
            }
            for _ in 0..50 {
                space.write(CODE, &LOOP).expect("write");
                std::thread::sleep(Duration::from_millis(2));
            }
        });
    });
    assert!(patched.into_inner() > 0);
}

/// Who traps at the first byte of the first patch of all takes that for what it is.
#[test]
fn others_are_in_the_middle_of_the_first_patch() {
    let engine = Engine::new().expect("an engine");
    for _ in 0..200 {
        let space = engine.space().expect("a space");
        space.map_anonymous(CODE, 0x1000, RX).expect("map");
        space.write(CODE, &LOOP).expect("write");
        let is_patched = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..6 {
                let mut vcpu = space.vcpu().expect("a vCPU");
                vcpu.set_reg(Reg::Rip, CODE.0).expect("set");
                let is_patched = &is_patched;
                scope.spawn(move || {
                    while call(&mut vcpu).route != Route::Patched && !is_patched.load(Ordering::Relaxed) {}
                    is_patched.store(true, Ordering::Relaxed);
                    call(&mut vcpu);
                });
            }
        });
    }
}

#[test]
fn forks_have_patches_of_their_own() {
    let (_engine, space, mut vcpu) = guest(&LOOP);
    warm(&mut vcpu);
    let copy = space.fork().expect("fork");
    let mut other = copy.vcpu().expect("a vCPU");
    other.set_reg(Reg::Rip, CODE.0).expect("set");
    assert_eq!(call(&mut other).route, Route::Patched);
    space.unmap(CODE, 0x1000).expect("unmap");
    assert_eq!(call(&mut other).route, Route::Patched);
    assert!(matches!(vcpu.run(SOON), Ok(Event::Fault(_))));
}

#[test]
fn a_patched_guest_is_interrupted() {
    let (_engine, _space, mut vcpu) = guest(&LOOP);
    warm(&mut vcpu);
    let interrupter = vcpu.interrupter();
    std::thread::scope(|scope| {
        let kicker = scope.spawn(move || {
            for _ in 0..200 {
                interrupter.interrupt();
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        let mut interrupted = 0;
        let mut calls = vcpu.reg(Reg::Rbx);
        // Once more at the end: what it has done while this thread had no CPU is felt then.
        let mut is_over = false;
        while !is_over {
            is_over = kicker.is_finished();
            match vcpu.run(SOON).expect("run") {
                Event::Interrupted => interrupted += 1,
                Event::Syscall(_) => {
                    calls += 1;
                    assert_eq!(vcpu.reg(Reg::Rbx), calls);
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(interrupted > 0);
    });
}

#[test]
fn direct_calls_do_not_come_out() {
    // mov eax, 39 (getpid); syscall; cmp rax, -4096; mov r8, rax; mov eax, 500; syscall; cmp rax, -4096; jmp 0
    let code = [
        &[0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff, 0x49, 0x89, 0xc0][..],
        &[0xb8, 0xf4, 1, 0, 0, 0x0f, 0x05, 0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff, 0xeb, 0xe1][..],
    ]
    .concat();
    let engine = Engine::with_direct(&[libc::SYS_getpid as u32]).expect("an engine");
    let space = engine.space().expect("a space");
    space.map_anonymous(CODE, 0x1000, RX).expect("map");
    space.write(CODE, &code).expect("write");
    let mut vcpu = space.vcpu().expect("a vCPU");
    vcpu.set_reg(Reg::Rip, CODE.0).expect("set");
    for _ in 0..200 {
        let call = call(&mut vcpu);
        assert_eq!((call.nr, call.args[4]), (500, vcpu.pid() as u64));
        vcpu.set_reg(Reg::R8, 0).expect("set");
    }
    assert!(Engine::with_direct(&[libc::SYS_munmap as u32]).is_err());
}

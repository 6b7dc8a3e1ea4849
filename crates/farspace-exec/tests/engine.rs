//! The engine on small guests.

use std::time::{Duration, Instant};

use farspace_abi::vcpu::{AREA_BYTES, area_of};
use farspace_exec::{ARCH_I386, ARCH_X86_64, Engine, Event, Protection, Reg, RemoteAddr, Space, Vcpu};
use rustix::io::Errno;

const CODE: RemoteAddr = RemoteAddr(0x40_0000);
const SOON: Option<Duration> = Some(Duration::from_secs(30));

fn guest(code: &[u8]) -> (Engine, Space, Vcpu) {
    let engine = Engine::new().expect("an engine");
    let space = engine.space().expect("a space");
    space.map_anonymous(CODE, 0x1000, Protection::READ | Protection::EXECUTE).expect("map");
    space.write(CODE, code).expect("write");
    let mut vcpu = space.vcpu().expect("a vCPU");
    vcpu.set_reg(Reg::Rip, CODE.0).expect("set");
    (engine, space, vcpu)
}

#[test]
fn a_system_call_comes_out() {
    // mov eax, 39; syscall; mov ebx, eax; syscall
    let (_engine, _space, mut vcpu) = guest(&[0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0x89, 0xc3, 0x0f, 0x05]);
    vcpu.set_reg(Reg::Rdi, 7).expect("set");
    let Event::Syscall(call) = vcpu.run(SOON).expect("run") else { panic!("no system call") };
    assert_eq!((call.nr, call.args[0], call.arch), (39, 7, ARCH_X86_64));
    assert_eq!(vcpu.reg(Reg::Rip), CODE.0 + 7);
    vcpu.set_reg(Reg::Rax, 1234).expect("set");
    let Event::Syscall(call) = vcpu.run(SOON).expect("run") else { panic!("no system call") };
    assert_eq!((call.nr, vcpu.reg(Reg::Rbx)), (1234, 1234));
}

#[test]
fn faults_are_told() {
    // mov [rdi], eax
    let (_engine, space, mut vcpu) = guest(&[0x89, 0x07, 0x0f, 0x05]);
    vcpu.set_reg(Reg::Rdi, 0x1234_5000).expect("set");
    let Event::Fault(fault) = vcpu.run(SOON).expect("run") else { panic!("no fault") };
    assert_eq!((fault.signal, fault.addr.0), (libc::SIGSEGV, 0x1234_5000));
    assert_eq!(fault.access(), Some(farspace_exec::Access::Write));
    space.map_anonymous(RemoteAddr(0x1234_5000), 0x1000, Protection::READ | Protection::WRITE).expect("map");
    assert!(matches!(vcpu.run(SOON).expect("run"), Event::Syscall(_)));
}

#[test]
fn loaded_registers_mean_64_bit_mode() {
    const STACK: RemoteAddr = RemoteAddr(0x50_0000);
    // push 0x23; push rsi; retfq; int 0x80; then: mov rbx, rdi; syscall
    let code = [0x6a, 0x23, 0x56, 0x48, 0xcb, 0xcd, 0x80, 0x48, 0x89, 0xfb, 0x0f, 0x05];
    let (_engine, space, mut vcpu) = guest(&code);
    space.map_anonymous(STACK, 0x1000, Protection::READ | Protection::WRITE).expect("map");
    vcpu.set_reg(Reg::Rsp, STACK.0 + 0x1000).expect("set");
    vcpu.set_reg(Reg::Rsi, CODE.0 + 5).expect("set");
    let Event::Syscall(call) = vcpu.run(SOON).expect("run") else { panic!("no system call") };
    assert_eq!(call.arch, ARCH_I386);
    let mut all = vcpu.registers();
    all[Reg::Rip] = CODE.0 + 7;
    all[Reg::Rdi] = 1 << 40;
    vcpu.load(&all).expect("load");
    let Event::Syscall(call) = vcpu.run(SOON).expect("run") else { panic!("no system call") };
    assert_eq!((call.arch, vcpu.reg(Reg::Rbx)), (ARCH_X86_64, 1 << 40));
}

#[test]
fn a_spinning_guest_is_interrupted() {
    // jmp self
    let (_engine, _space, mut vcpu) = guest(&[0xeb, 0xfe]);
    assert_eq!(vcpu.run(Some(Duration::from_millis(20))), Ok(Event::Interrupted));
    let interrupter = vcpu.interrupter();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(20));
            interrupter.interrupt();
        });
        assert_eq!(vcpu.run(SOON), Ok(Event::Interrupted));
    });
}

#[test]
fn many_vcpus_in_one_space() {
    // syscall; jmp back
    let (_engine, space, first) = guest(&[0x0f, 0x05, 0xeb, 0xfc]);
    drop(first);
    let mut vcpus: Vec<_> = (0..16).map(|_| space.vcpu().expect("a vCPU")).collect();
    for vcpu in &mut vcpus {
        vcpu.set_reg(Reg::Rip, CODE.0).expect("set");
    }
    std::thread::scope(|scope| {
        for (index, mut vcpu) in vcpus.into_iter().enumerate() {
            scope.spawn(move || {
                for round in 0..1000 {
                    vcpu.set_reg(Reg::Rax, index as u64 + round).expect("set");
                    let Event::Syscall(call) = vcpu.run(SOON).expect("run") else { panic!("no system call") };
                    assert_eq!(call.nr, index as u64 + round);
                }
            });
        }
    });
}

#[test]
fn forks_are_copies() {
    let (_engine, space, _vcpu) = guest(&[0x0f, 0x05]);
    let copy = space.fork().expect("fork");
    space.write(CODE, &[0x90]).expect("write");
    let mut byte = [0];
    copy.read(CODE, &mut byte).expect("read");
    assert_eq!(byte, [0x0f]);
    let mut vcpu = copy.vcpu().expect("a vCPU");
    vcpu.set_reg(Reg::Rip, CODE.0).expect("set");
    assert!(matches!(vcpu.run(SOON).expect("run"), Event::Syscall(_)));
}

fn parent(pid: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a task");
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    fields.split_whitespace().nth(1).expect("a parent").parse().expect("a number")
}

#[test]
fn a_space_has_nothing_of_the_one_before() {
    const DATA: RemoteAddr = RemoteAddr(0x5000_0000);
    // jmp self
    let (engine, space, mut vcpu) = guest(&[0xeb, 0xfe]);
    let mut second = space.vcpu().expect("a vCPU");
    second.set_reg(Reg::Rip, CODE.0).expect("set");
    space.map_anonymous(DATA, 0x1000, Protection::READ | Protection::WRITE).expect("map");
    space.write(DATA, b"a secret").expect("write");
    for vcpu in [&mut vcpu, &mut second] {
        vcpu.set_reg(Reg::R15, 0x5ec2e7).expect("set");
        vcpu.set_fs_base(0x5ec2e7).expect("set");
        assert_eq!(vcpu.run(Some(Duration::from_millis(2))), Ok(Event::Interrupted));
    }
    let steward = parent(vcpu.pid());
    drop((vcpu, second, space));
    let space = engine.space().expect("a space");
    let mut bytes = [0; 8];
    for at in [CODE, DATA] {
        assert_eq!(space.read(at, &mut bytes).map_err(|error| error.errno()), Err(Errno::FAULT));
    }
    let mut vcpu = space.vcpu().expect("a vCPU");
    assert_eq!(parent(vcpu.pid()), steward, "the process is the same one");
    assert_eq!((vcpu.reg(Reg::R15), vcpu.fs_base()), (0, Ok(0)));
    // What could be left of the second guest is its area: mov rax, [rdi], for each of its words.
    space.map_anonymous(CODE, 0x1000, Protection::READ | Protection::EXECUTE).expect("map");
    space.write(CODE, &[0x48, 0x8b, 0x07, 0x0f, 0x05, 0xeb, 0xf9]).expect("write");
    let second = space.vcpu().expect("a vCPU");
    for word in 0..AREA_BYTES / 8 {
        vcpu.set_reg(Reg::Rip, CODE.0).expect("set");
        vcpu.set_reg(Reg::Rdi, area_of(1) + 8 * word).expect("set");
        let Event::Syscall(call) = vcpu.run(SOON).expect("run") else { panic!("no system call") };
        assert_ne!(call.nr, 0x5ec2e7, "word {word}");
    }
    drop(second);
}

#[test]
fn a_vcpu_in_the_place_of_another_waits_for_its_own_answers() {
    // syscall; jmp back
    let (_engine, space, mut vcpu) = guest(&[0x0f, 0x05, 0xeb, 0xfc]);
    for _ in 0..100 {
        assert!(matches!(vcpu.run(SOON), Ok(Event::Syscall(_))));
        drop(vcpu);
        vcpu = space.vcpu().expect("a vCPU");
        vcpu.set_reg(Reg::Rip, CODE.0).expect("set");
    }
}

#[test]
fn addresses_and_lengths_near_the_top_are_errors() {
    let (_engine, space, _vcpu) = guest(&[0x0f, 0x05]);
    for (at, len) in
        [(0, u64::MAX), (0x1000, u64::MAX - 0xfff), (u64::MAX - 0xfff, 0x1000), (1 << 47, 0x1000)]
    {
        let at = RemoteAddr(at);
        assert!(space.map_anonymous(at, len, Protection::READ).is_err(), "{at:?} {len:#x}");
        assert!(space.protect(at, len, Protection::READ).is_err(), "{at:?} {len:#x}");
        assert!(space.unmap(at, len).is_err(), "{at:?} {len:#x}");
    }
    for at in [u64::MAX - 8, u64::MAX - 0x800, (1 << 47) - 8, 1 << 63] {
        assert!(space.write(RemoteAddr(at), &[0; 8]).is_err(), "{at:#x}");
        assert!(space.read(RemoteAddr(at), &mut [0; 8]).is_err(), "{at:#x}");
    }
}

/// CPU time of a task, in clock ticks (proc_pid_stat(5), fields 14 and 15).
fn ticks(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    let fields = stat.rsplit_once(") ").expect("a name").1.split(' ');
    fields.skip(11).take(2).map(|field| field.parse::<u64>().expect("a number")).sum()
}

/// Its state (field 3).
fn state(pid: i32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    stat.rsplit_once(") ").and_then(|(_, fields)| fields.chars().next()).expect("a state")
}

#[test]
fn idle_guests_use_no_cpu() {
    // mov eax, 34 (pause); syscall
    let (engine, _space, first) = guest(&[0xb8, 34, 0, 0, 0, 0x0f, 0x05]);
    drop(first);
    let guests: Vec<_> = (0..64)
        .map(|_| {
            let space = engine.space().expect("a space");
            space.map_anonymous(CODE, 0x1000, Protection::READ | Protection::EXECUTE).expect("map");
            space.write(CODE, &[0xb8, 34, 0, 0, 0, 0x0f, 0x05]).expect("write");
            let mut vcpu = space.vcpu().expect("a vCPU");
            vcpu.set_reg(Reg::Rip, CODE.0).expect("set");
            assert!(matches!(vcpu.run(SOON).expect("run"), Event::Syscall(call) if call.nr == 34));
            (space, vcpu)
        })
        .collect();
    // Those that still look for their answer, or had no CPU to stop that, come to sleep first.
    let begin = Instant::now();
    while !guests.iter().all(|(_, vcpu)| state(vcpu.pid()) == 'S')
        && begin.elapsed() < SOON.unwrap_or_default()
    {
        std::thread::sleep(Duration::from_millis(10));
    }
    let sum = || guests.iter().map(|(_, vcpu)| ticks(vcpu.pid())).sum::<u64>();
    let before = sum();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(sum(), before, "ticks of 64 guests in 3 s");
}

//! Arguments, several callers, targets that change, and many calls.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use farspace::{SigContext, SigInfo, raw};
use rustix::io::Errno;

use crate::child::{Target, wait_for};
use crate::guest::{COUNT, Guest, called, caller, errno};

fn call(pid: i32, context: u64, flags: u64, info: u64, mask: u64, size: usize) -> Result<(), Errno> {
    // SAFETY: the addresses are those of structures of the callers here, or can't be accessed.
    unsafe { raw::process_vm_exec(pid, context as *mut _, flags, info as *mut _, mask as *const _, size) }
}

#[test]
fn arguments_are_checked_in_order() {
    let target = Target::start();
    let guest = Guest::new(&target, &[0x0f, 5]);
    let (mut context, mut info, mask) = (guest.begin(), SigInfo::default(), 0u64);
    let [c, i, m] = [&raw mut context as u64, &raw mut info as u64, &raw const mask as u64];
    // SAFETY: nobody else uses it now; the compiler doesn't know that `call` reads it.
    let rewind = || unsafe { (c as *mut SigContext).write_volatile(guest.begin()) };
    let pid = target.pid();
    assert_eq!(call(-1, 8, 4, 8, 8, 8), Err(Errno::INVAL));
    assert_eq!(call(-1, 8, 0, 8, 8, 4), Err(Errno::INVAL));
    assert_eq!(call(-1, 8, 0, i, m, 8), Err(Errno::FAULT));
    assert_eq!(call(-1, c, 0, i, 8, 8), Err(Errno::FAULT));
    assert_eq!(call(-1, c, 0, i, m, 8), Err(Errno::SRCH));
    assert_eq!(call(i32::MAX, c, 0, i, m, 8), Err(Errno::SRCH));
    assert_eq!(call(-1, c, 2, i, m, 8), Err(Errno::BADF));
    assert_eq!(call(pid, c, 0, 8, m, 8), Err(Errno::FAULT));
    assert_eq!(call(std::process::id() as i32, c, 0, i, m, 8), Err(Errno::OPNOTSUPP));
    rewind();
    assert_eq!(call(pid, c, 0, i, m, 8), Ok(()));
    let pidfd = farspace_sys::pidfd::open(pid).expect("it lives");
    use std::os::fd::AsRawFd as _;
    rewind();
    assert_eq!(call(pidfd.as_raw_fd(), c, 2, i, m, 8), Ok(()));
    assert_eq!((info.signo(), context.rip), (libc::SIGSYS, guest.page + 2));
}

#[test]
fn a_context_that_is_unmapped_meanwhile() {
    let target = Target::start();
    // cmp dword [rdi], 0; je back; syscall
    let guest = Guest::new(&target, &[0x83, 0x3f, 0, 0x74, 0xfb, 0x0f, 5]);
    // SAFETY: a new mapping, unmapped once.
    let done = unsafe {
        let page = libc::mmap(std::ptr::null_mut(), 4096, 3, 0x22, -1, 0);
        let context = page.cast::<SigContext>();
        context.write(SigContext { rdi: guest.page + 0x800, ..guest.begin() });
        let (mut info, mask) = (SigInfo::default(), 0u64);
        let page = page as u64;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(20));
                libc::munmap(page as *mut _, 4096);
                guest.write(0x800, &[1]);
            });
            call(target.pid(), page, 0, &raw mut info as u64, &raw const mask as u64, 8)
        })
    };
    assert_eq!(done, Err(Errno::FAULT));
}

#[test]
fn callers_in_parallel() {
    let mut target = Target::start();
    let before = target.look();
    // mov rbx, rax; syscall
    let guest = Guest::new(&target, &[0x48, 0x89, 0xc3, 0x0f, 5]);
    std::thread::scope(|scope| {
        for index in 0..8u64 {
            let guest = &guest;
            scope.spawn(move || {
                for round in 0..300 {
                    let mut context = guest.begin();
                    context.rax = index << 16 | round;
                    context.r13 = context.rax;
                    let info = guest.run(&mut context).expect("a call");
                    assert_eq!(info.syscall() as u64, index << 16 | round);
                    assert_eq!((context.rbx, context.r13), (index << 16 | round, index << 16 | round));
                }
            });
        }
    });
    guest.remove();
    target.assert_clean(&before);
}

#[test]
fn a_target_that_executes_another_program() {
    use std::process::{Command, Stdio};
    let mut shell = Command::new("sh")
        .args(["-c", "read line; exec sleep 1000"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("everywhere");
    let pid = shell.id() as i32;
    let mmap = || crate::guest::syscall(pid, libc::SYS_mmap, [0, 4096, 3, 0x22, u64::MAX, 0]);
    wait_for("the shell", || {
        std::fs::read_to_string(format!("/proc/{pid}/syscall")).is_ok_and(|text| text.starts_with("0 "))
    });
    let old = mmap().expect("a call") as u64;
    let mut context = SigContext { rip: old, ..SigContext::default() };
    let guest = Guest { pid, page: old };
    assert_eq!(guest.run(&mut context).expect("a call").signo(), libc::SIGSEGV);
    drop(shell.stdin.take());
    wait_for("the exec", || {
        std::fs::read_to_string(format!("/proc/{pid}/syscall")).is_ok_and(|text| text.starts_with("230 "))
    });
    let new = mmap().expect("a call") as u64;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("it lives");
    assert!(maps.contains(&format!("{new:x}-")), "{new:x} in\n{maps}");
    let guest = Guest { pid, page: new };
    let mut context = SigContext { rip: new, ..SigContext::default() };
    assert_eq!(guest.run(&mut context).expect("a call").signo(), libc::SIGSEGV);
    farspace::raw::leave_idle();
    shell.kill().expect("ours");
    shell.wait().expect("ours");
    assert_eq!(guest.run(&mut context).map_err(|e| errno(&e)), Err(libc::ESRCH));
}

#[test]
fn a_task_that_is_killed_ends_the_call() {
    let mut target = Target::start();
    let guest = Guest::new(&target, &COUNT);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            guest.wait_for_count();
            target.kill("farspace-vcpu");
        });
        let begin = Instant::now();
        let mut context = guest.counting();
        assert_eq!(guest.run(&mut context).map_err(|e| errno(&e)), Err(libc::ESRCH));
        assert!(begin.elapsed() < Duration::from_secs(30));
    });
    guest.write(0, &[0x0f, 5]);
    let mut context = guest.begin();
    assert_eq!(guest.run(&mut context).expect("a new task").signo(), libc::SIGSYS);
    assert!(target.is_alive());
}

#[test]
fn ten_thousand_calls_leave_nothing() {
    let mut target = Target::start();
    let before = target.look();
    let guest = Guest::new(&target, &[0x0f, 5]);
    // Another test may end the attachment meanwhile: then it looks like that for a moment only.
    let mut first = target.look();
    wait_for("the first call's leavings", || {
        let looks = [(); 2].map(|()| {
            guest.run(&mut guest.begin()).expect("a call");
            target.look()
        });
        let [one, two] = looks;
        let is_settled = one == two && one.3.len() == 3;
        first = two;
        is_settled
    });
    let begin = Instant::now();
    for round in 0..10_000 {
        let mut context = guest.begin();
        context.rax = round;
        assert_eq!(guest.run(&mut context).expect("a call").syscall() as u64, round);
    }
    eprintln!("{} ns per call", begin.elapsed().as_nanos() / 10_000);
    let count = |(maps, threads, fds, sharers): (Vec<String>, _, _, BTreeSet<i32>)| {
        (maps.len(), threads, fds, sharers.len())
    };
    let first = count(first);
    // Another test may end the attachment meanwhile.
    wait_for("as after the first call", || {
        let mut context = guest.begin();
        guest.run(&mut context).expect("a call");
        count(target.look()) == first
    });
    guest.remove();
    target.assert_clean(&before);
}

#[test]
fn attachments_end_by_themselves() {
    let target = Target::start();
    let before = target.look();
    // Another test, or the time that this one was without a CPU, may have ended it by the time of the look.
    wait_for("an attachment", || {
        crate::guest::syscall(target.pid(), libc::SYS_madvise, [0, 0, 0, 0, 0, 0]).expect("a call");
        target.look() != before
    });
    wait_for("the attachment's end", || target.look() == before);
}

#[test]
fn a_target_named_by_a_thread() {
    // This test program's twin, which has threads; it makes calls on nothing.
    let mut target = Target::start_threaded();
    let before = target.look();
    let thread = target.threads().into_iter().find(|tid| *tid != target.pid()).expect("there are two");
    let guest = Guest::new(&target, &[0x0f, 5]);
    let guest = Guest { pid: thread, ..guest };
    for _ in 0..3 {
        let mut context = guest.begin();
        assert_eq!(guest.run(&mut context).expect("a call").signo(), libc::SIGSYS);
    }
    guest.remove();
    target.assert_clean(&before);
}

#[test]
fn a_target_that_takes_in_orphans() {
    // The agent is a thread of it then, and the task a child.
    let mut target = Target::start_with(|| {
        // SAFETY: no memory is involved.
        unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
    });
    let before = target.look();
    let guest = Guest::new(&target, &[0x0f, 5]);
    // Another test may end the attachment meanwhile.
    wait_for("the agent's thread", || {
        assert_eq!(guest.run(&mut guest.begin()).expect("a call").signo(), libc::SIGSYS);
        target.look().1 == before.1 + 1
    });
    guest.remove();
    target.assert_clean(&before);
}

#[test]
fn a_target_with_a_filter_is_refused() {
    let mut target = Target::start_with(|| {
        // BPF_RET | BPF_K, SECCOMP_RET_ALLOW
        let allow = libc::sock_filter { code: 6, jt: 0, jf: 0, k: 0x7fff_0000 };
        let program = libc::sock_fprog { len: 1, filter: (&raw const allow).cast_mut() };
        // SAFETY: the program outlives the calls.
        unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program);
        }
    });
    let before = target.look();
    let guest = Guest { pid: target.pid(), page: 0x1000 };
    let mut context = guest.begin();
    assert_eq!(guest.run(&mut context).map_err(|e| errno(&e)), Err(libc::EOPNOTSUPP));
    target.assert_clean(&before);
}

#[test]
fn a_target_or_an_agent_that_is_killed_ends_the_call() {
    for name in ["sleep", "farspace-agent"] {
        let target = Target::start();
        let guest = Guest::new(&target, &COUNT);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                guest.wait_for_count();
                target.kill(name);
            });
            let begin = Instant::now();
            let mut context = guest.counting();
            assert_eq!(guest.run(&mut context).map_err(|e| errno(&e)), Err(libc::ESRCH), "{name}");
            assert!(begin.elapsed() < Duration::from_secs(30));
        });
        if name != "sleep" {
            wait_for("the tasks' end", || target.look().3.len() == 1);
        }
    }
}

#[test]
fn a_child_of_the_caller_is_not_the_caller() {
    let mut target = Target::start();
    let before = target.look();
    let guest = Guest::new(&target, &[0x83, 0x3f, 0, 0x74, 0xfb, 0x0f, 5]);
    guest.write(0x800, &[1]);
    farspace::raw::leave_idle();
    let mut caller = caller(&guest, "fork").spawn().expect("this test");
    let output = std::io::BufReader::new(caller.stdout.take().expect("piped"));
    let answer = std::io::BufRead::lines(output)
        .map_while(Result::ok)
        .find_map(|line| line.split_once("child ").and_then(|(_, pid)| pid.parse::<i32>().ok()));
    let second = answer.expect("both calls have worked");
    caller.kill().expect("ours");
    caller.wait().expect("ours");
    // Its child still has all other descriptors of it.
    wait_for("nothing left", || target.look().3.len() == 1);
    // SAFETY: no memory is involved.
    unsafe { libc::kill(second, libc::SIGKILL) };
    guest.remove();
    target.assert_clean(&before);
}

#[test]
#[ignore = "a caller in a process of its own"]
fn process() {
    let Some((act, guest)) = called() else { return };
    let mut context = SigContext { rdi: guest.page + 0x800, ..guest.begin() };
    match act.as_str() {
        "wait" => assert_eq!(guest.run(&mut context).expect("a call").signo(), libc::SIGSYS),
        "spin" => {
            println!("begin");
            let _ = guest.run(&mut context);
        }
        "fork" => fork(&guest, context),
        _ => panic!("{act}"),
    }
}

/// A call, a child with a call of its own that outlives its parent, and another call that doesn't end.
fn fork(guest: &Guest, begin: SigContext) {
    guest.run(&mut { begin }).expect("a call");
    guest.write(0x800, &[0]);
    // SAFETY: the only other thread of this process waits for this one.
    if unsafe { libc::fork() } == 0 {
        guest.run(&mut SigContext { rip: guest.page + 5, ..begin }).expect("a call");
        raw::leave_idle();
        println!("child {}", std::process::id());
        std::thread::sleep(Duration::from_secs(60));
    } else {
        let _ = guest.run(&mut { begin });
    }
}

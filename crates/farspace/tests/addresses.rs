//! Addresses in the target that are farspace's for a while: never some that the target has unmapped and uses again, and none
//! of them in its children.

use std::fs;
use std::time::Duration;

use farspace::{AttachOptions, ExecFlags, Mechanism, SigContext, SigInfo, Target, TargetId, process_vm_exec};
use farspace_victims::harness::Victim;

fn attach(pid: i32) -> Target {
    let options = AttachOptions { mechanism: Some(Mechanism::Agent), ..AttachOptions::default() };
    Target::attach_with(pid, &options).expect("it can be visited")
}

/// A program that has unmapped something and maps something else there, while a visit lasts.
#[test]
fn what_the_target_has_unmapped_stays_its_own() {
    let mut victim = Victim::spawn("holes", &[]).expect("it starts");
    for round in 0..3 {
        victim.command("open").expect("unharmed");
        let target = attach(victim.pid());
        let scratch = target.scratch(1 << 16).expect("mapped");
        victim.command("fill").expect("unharmed");
        scratch.write(0, b"ours").expect("still there");
        let mut back = [0; 4];
        scratch.read(0, &mut back).expect("still there");
        assert_eq!(&back, b"ours", "round {round}");
        drop(scratch);
        victim.check().expect("unharmed");
        target.detach().expect("in time");
        victim.check_detached().expect("unharmed");
    }
    victim.finish().expect("unharmed");
}

/// The same while tasks for guests are in it.
#[test]
fn and_so_it_does_with_guests() {
    let mut victim = Victim::spawn("holes", &[]).expect("it starts");
    victim.command("open").expect("unharmed");
    for round in 0..3 {
        let (mut context, mut info) =
            (SigContext { rip: 0x1000, ..SigContext::default() }, SigInfo::default());
        process_vm_exec(TargetId::Pid(victim.pid()), &mut context, ExecFlags::empty(), &mut info, 0)
            .expect("it runs");
        assert_eq!((info.signo(), context.rip), (libc::SIGSEGV, 0x1000), "round {round}");
        victim.command("fill").expect("unharmed");
        victim.check().expect("unharmed");
    }
    victim.finish_attached().expect("unharmed");
}

/// What is forked during a visit has nothing of it.
#[test]
fn children_inherit_nothing() {
    let mut victim = Victim::spawn("holes", &[]).expect("it starts");
    let before = maps(victim.pid());
    let mut target = attach(victim.pid());
    let mut children = vec![victim.command("child").expect("unharmed")];
    let snapshot = target.freeze(Duration::from_secs(5)).and_then(|frozen| {
        let snapshot = target.snapshot()?;
        frozen.thaw();
        Ok(snapshot)
    });
    children.push(victim.command("child").expect("unharmed"));
    drop(snapshot.expect("made"));
    assert_ne!(maps(victim.pid()), before);
    target.detach().expect("in time");
    for answer in children {
        let pid = answer.strip_prefix("pid=").and_then(|pid| pid.parse().ok()).expect("a number");
        assert_eq!(maps(pid), before, "of a child");
    }
    assert_eq!(maps(victim.pid()), before);
    victim.finish().expect("unharmed");
}

/// The lines of /proc/PID/maps, but for what grows.
fn maps(pid: i32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/maps")).expect("it lives");
    text.lines()
        .filter(|line| !line.ends_with("[heap]") && !line.ends_with("[stack]"))
        .map(str::to_owned)
        .collect()
}

//! QEMU: its command line, and watching it to the end.

use super::{Accel, Echo, Exit, Folder, Outcome, Vm, tag};
use anyhow::Context;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Instant;

/// One run that is watched.
pub(super) struct Run<'a> {
    pub(super) vm: &'a Vm,
    pub(super) folder: &'a Folder,
    pub(super) token: &'a str,
    pub(super) echo: Echo,
}

impl Run<'_> {
    /// Starts the machine and waits until it ends.
    pub(super) fn to_the_end(&self) -> anyhow::Result<Outcome> {
        let log = self.folder.log();
        let mut command = machine(self.vm, self.folder);
        // The first serial port is the kernel's, the second the command's.
        command.arg("-serial").arg(format!("file:{}", log.display()));
        command.args(["-chardev", "stdio,id=job,signal=off", "-serial", "chardev:job", "-monitor", "none"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let begin = Instant::now();
        let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
        let (output, exit) = self.watch(&mut child)?;
        Ok(Outcome::new(exit, output, log, begin.elapsed()))
    }

    /// Reads what comes until the machine is gone; ends it at the time limit, or when KVM gives up on it.
    fn watch(&self, child: &mut Child) -> anyhow::Result<(String, Exit)> {
        let pid = child.id() as i32;
        let is_late = AtomicBool::new(false);
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (done, wait) = channel::<()>();
        let (output, status) = std::thread::scope(|scope| {
            scope.spawn(|| {
                let wait = wait;
                if wait.recv_timeout(self.vm.limit) == Err(RecvTimeoutError::Timeout) {
                    is_late.store(true, Ordering::Relaxed);
                    crate::processes::kill_tree(pid);
                }
            });
            scope.spawn(|| {
                for line in
                    stderr.into_iter().flat_map(|pipe| BufReader::new(pipe).lines()).map_while(Result::ok)
                {
                    // QEMU stops the machine then, and waits for somebody to look at it.
                    if line.contains("KVM internal error") {
                        crate::processes::kill_tree(pid);
                    } else if self.echo == Echo::Yes && !line.contains("warning: TCG doesn't support") {
                        eprintln!("qemu: {line}");
                    }
                }
            });
            let result = stdout.map_or(Ok((String::new(), None)), |pipe| self.read(pipe));
            let _ = child.wait();
            drop(done);
            result
        })?;
        let exit = match status {
            Some(status) => Exit::Status(status),
            None if is_late.load(Ordering::Relaxed) => Exit::TimeLimit,
            None => Exit::Crash,
        };
        Ok((output, exit))
    }

    /// The command's output, and its status if there is one.
    fn read(&self, pipe: impl Read) -> anyhow::Result<(String, Option<i32>)> {
        let (mut output, mut status, mut began) = (String::new(), None, false);
        for line in BufReader::new(pipe).split(b'\n') {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches('\r');
            // An unfinished line of the command's may stand before it.
            if let Some((before, said)) = line.split_once(self.token) {
                began |= said == " begin";
                status = said.strip_prefix(" status ").and_then(|status| status.trim().parse().ok());
                if before.is_empty() {
                    continue;
                }
            }
            let line = line.split(self.token).next().unwrap_or_default();
            if began {
                if self.echo == Echo::Yes {
                    println!("{line}");
                }
                writeln!(output, "{line}")?;
            }
        }
        Ok((output, status))
    }
}

/// A shell on this terminal.
pub(super) fn interactive(vm: &Vm, folder: &Folder) -> anyhow::Result<()> {
    let mut command = machine(vm, folder);
    command.args(["-serial", "mon:stdio"]);
    command.status().with_context(|| format!("{command:?}"))?;
    Ok(())
}

/// What all machines have in common.
fn machine(vm: &Vm, folder: &Folder) -> Command {
    // QEMU must not outlive this program, however that ends.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
    command.args(["-nodefaults", "-display", "none", "-no-reboot", "-no-user-config", "-M", "q35"]);
    command.args(vm.accel.unwrap_or(Accel::Tcg).arguments(vm.clock));
    if let Some(feature) = &vm.cpu_without {
        // The last one counts.
        command.arg("-cpu").arg(format!("max,la57=off,-{feature}"));
    }
    command.arg("-m").arg(format!("{}M", vm.memory_mib));
    command.arg("-smp").arg(vm.cpus.to_string());
    command.arg("-kernel").arg(&vm.kernel).arg("-initrd").arg(folder.initramfs());
    let own = [
        // A panic ends the machine, and what would be one elsewhere is one here.
        "console=ttyS0 panic=-1 oops=panic",
        // A busy host is no mistake of the kernel's: its timer interrupts come late, and so do its threads.
        "no_timer_check rcupdate.rcu_cpu_stall_timeout=120 watchdog_thresh=60 tsc=reliable",
        // Kernels without the vsyscall page by default have it when asked.
        "vsyscall=xonly",
    ];
    let given = vm.parameters.iter().map(String::as_str);
    let parameters: Vec<&str> = own.into_iter().chain(given).collect();
    command.arg("-append").arg(parameters.join(" "));
    for disk in &vm.disks {
        command.arg("-drive").arg(format!("file={},format=raw,if=virtio", disk.display()));
    }
    for (nr, (host, _)) in vm.shares.iter().enumerate() {
        let tag = tag(nr);
        let share = format!("local,path={},mount_tag={tag},security_model=none", host.display());
        command.arg("-virtfs").arg(share);
    }
    command
}

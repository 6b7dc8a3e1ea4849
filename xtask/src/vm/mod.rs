//! Virtual machines for tests: one kernel, one initramfs, one command, one verdict.
//!
//! ```no_run
//! let mut files = Initramfs::with_busybox()?;       // /bin/busybox, /init, the directories
//! files.file("target/x/my-test", "/bin/my-test")?;  // one file of the host
//! files.program("strace")?;                         // a program of the host, with its shared libraries
//! files.tree("/some/rootfs", "/")?;                 // a whole tree, with its owners, modes and links
//! files.modules("/x/lib/modules/6.12...", &["ext4", "9p"])?; // modules, loaded at boot in the right order
//! let mut vm = Vm::new("my-test", "path/to/bzImage", files);
//! vm.memory_mib = 2048;
//! vm.limit = Duration::from_secs(300);
//! vm.run("my-test --all", Echo::Yes)?.verdict()?;
//! ```
//!
//! The command is a script for the guest's `/bin/sh`, run as root with loopback up and proc, sys, dev, devpts, tmp, shm, cgroup2,
//! debugfs mounted where the kernel has them. Its output goes to a second serial port and to nothing else, so the
//! kernel's messages (`kernel.log`, its path is in the [`Outcome`]) can't be mixed up with it, nor the end of it:
//! that is a line with a random token and the exit status. Then the guest looks for leaks, if its kernel can, and ends.
//! A panic, an oops, the time limit and a dead QEMU end it earlier. [`Outcome::verdict`] is an error unless the
//! command has succeeded *and* the kernel had nothing to complain about ([`log`]).
//!
//! The machine dies with this program (also by kill -9), and leaves nothing but its folder in `target/vm`: the log.
//!
//! Files come back over the output, or by a raw disk image ([`Vm::disks`], /dev/vda...) or a shared folder
//! ([`Vm::shares`], 9p) where the kernel has the drivers, built in or by [`Initramfs::modules`].
//!
//! KVM is used where a kernel really boots with it ([`accel`]), else TCG: all of it in software, 10 to 50 times slower.
//! FARSPACE_VM_ACCEL=kvm|tcg forces one.

pub(crate) mod accel;
mod closure;
mod init;
mod initramfs;
mod log;
mod modules;
mod outcome;
mod qemu;

pub(crate) use accel::Accel;
pub(crate) use initramfs::Initramfs;
pub(crate) use outcome::{Exit, Outcome};

use anyhow::Context;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A machine to be started.
pub(crate) struct Vm {
    name: String,
    kernel: PathBuf,
    files: Initramfs,
    /// Memory of the guest; the initramfs lies in it.
    pub(crate) memory_mib: u32,
    pub(crate) cpus: u32,
    /// Without it, the best that works.
    pub(crate) accel: Option<Accel>,
    pub(crate) clock: Clock,
    /// A feature that the processor doesn't have; for TCG.
    pub(crate) cpu_without: Option<String>,
    /// Raw images, as /dev/vda and so on; needs virtio_blk in the guest.
    pub(crate) disks: Vec<PathBuf>,
    /// Folders of the host and where they appear in the guest, writable; needs 9p and 9pnet_virtio in the guest.
    pub(crate) shares: Vec<(PathBuf, String)>,
    /// More of the kernel's command line.
    pub(crate) parameters: Vec<String>,
    /// Real time, boot included.
    pub(crate) limit: Duration,
}

/// What time is in the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Clock {
    /// That of the host.
    #[default]
    Real,
    /// One nanosecond is one instruction (`-icount shift=0,sleep=off`): exactly repeatable, one CPU, TCG.
    Instructions,
}

/// Whether the command's output is also printed as it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Echo {
    Yes,
    No,
}

impl Vm {
    pub(crate) fn new(name: &str, kernel: impl Into<PathBuf>, files: Initramfs) -> Self {
        Self {
            name: name.to_owned(),
            kernel: kernel.into(),
            files,
            memory_mib: 1536,
            cpus: 2,
            accel: None,
            clock: Clock::Real,
            cpu_without: None,
            disks: Vec::new(),
            shares: Vec::new(),
            parameters: Vec::new(),
            limit: Duration::from_secs(300),
        }
    }

    /// The guest's files, to add to.
    pub(crate) fn files(&mut self) -> &mut Initramfs {
        &mut self.files
    }

    /// Boots, runs a script in the guest, and waits for the end.
    ///
    /// # Errors
    /// QEMU can't be started. What goes wrong in the guest is in the outcome.
    pub(crate) fn run(mut self, script: &str, echo: Echo) -> anyhow::Result<Outcome> {
        self.choose_accel()?;
        let folder = Folder::new(&self.name)?;
        let token = token()?;
        self.files.bytes("/init", 0o755, init::script(&token, &self.mounts()));
        self.files.bytes("/job", 0o755, format!("#!/bin/sh\n{script}\n"));
        self.files.write(&folder.initramfs())?;
        let run = qemu::Run { vm: &self, folder: &folder, token: &token, echo };
        run.to_the_end()
    }

    /// Boots to a shell on this terminal. Ctrl-A X ends the machine.
    ///
    /// # Errors
    /// QEMU can't be started.
    pub(crate) fn shell(mut self) -> anyhow::Result<()> {
        self.choose_accel()?;
        let folder = Folder::new(&self.name)?;
        self.files.bytes("/init", 0o755, init::interactive(&self.mounts()));
        self.files.write(&folder.initramfs())?;
        qemu::interactive(&self, &folder)
    }

    /// What will run the guest's instructions.
    ///
    /// # Errors
    /// The trial that finds it can't be prepared.
    pub(crate) fn accel(&self) -> anyhow::Result<Accel> {
        match (self.clock, self.accel) {
            (Clock::Instructions, _) => Ok(Accel::Tcg),
            (Clock::Real, Some(accel)) => Ok(accel),
            (Clock::Real, None) => accel::best(&self.kernel),
        }
    }

    fn choose_accel(&mut self) -> anyhow::Result<()> {
        self.accel = Some(self.accel()?);
        if self.clock == Clock::Instructions {
            self.cpus = 1;
        }
        Ok(())
    }

    /// Tag and place of each share.
    fn mounts(&self) -> Vec<(String, String)> {
        self.shares.iter().enumerate().map(|(nr, (_, at))| (tag(nr), at.clone())).collect()
    }
}

fn tag(nr: usize) -> String {
    format!("share{nr}")
}

/// The folder of one run. Dropped, only the log is left.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> anyhow::Result<Self> {
        let path = target().join("vm").join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }

    fn initramfs(&self) -> PathBuf {
        self.0.join("initramfs.cpio")
    }

    fn log(&self) -> PathBuf {
        self.0.join("kernel.log")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.initramfs());
    }
}

/// Where cargo puts what it makes.
pub(crate) fn target() -> PathBuf {
    let given = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    given.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"))
}

/// What no command prints by accident.
fn token() -> anyhow::Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(format!("vm-{:x}-{:x}", now.as_nanos(), std::process::id()))
}

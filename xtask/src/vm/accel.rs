//! What runs the guest's instructions. Whether KVM works is found by booting with it: a /dev/kvm inside of another
//! virtual machine may be there, accept everything, and stop at the first instruction that it doesn't know.

use super::{Clock, Echo, Exit, Folder, Initramfs, Vm, init, qemu, token};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

/// How the guest's instructions are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Accel {
    /// By the processor.
    Kvm,
    /// By QEMU, in software.
    Tcg,
}

impl Accel {
    /// QEMU's arguments for it, with the processor that the guest sees.
    pub(super) fn arguments(self, clock: Clock) -> Vec<&'static str> {
        match (self, clock) {
            (Self::Kvm, _) => vec!["-accel", "kvm", "-cpu", "host"],
            // Five-level page tables make every walk longer, and nothing here needs them.
            (Self::Tcg, Clock::Real) => vec!["-accel", "tcg,thread=multi", "-cpu", "max,la57=off"],
            (Self::Tcg, Clock::Instructions) => {
                vec!["-accel", "tcg,thread=single", "-cpu", "max,la57=off", "-icount", "shift=0,sleep=off"]
            }
        }
    }
}

/// A kernel that boots with KVM has said so by then.
const TRIAL: Duration = Duration::from_secs(20);

/// The fastest that boots this kernel; tried once for each run of this program.
///
/// # Errors
/// The trial can't be prepared.
pub(super) fn best(kernel: &Path) -> anyhow::Result<Accel> {
    static CHOICE: OnceLock<Accel> = OnceLock::new();
    if let Some(accel) = CHOICE.get() {
        return Ok(*accel);
    }
    let accel = match std::env::var("FARSPACE_VM_ACCEL").as_deref() {
        Ok("kvm") => Accel::Kvm,
        Ok("tcg") => Accel::Tcg,
        _ if boots_with_kvm(kernel)? => Accel::Kvm,
        _ => Accel::Tcg,
    };
    println!("vm: {}", if accel == Accel::Kvm { "KVM" } else { "no KVM here that boots a kernel: TCG" });
    Ok(*CHOICE.get_or_init(|| accel))
}

fn boots_with_kvm(kernel: &Path) -> anyhow::Result<bool> {
    let is_open = std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
    if !is_open {
        return Ok(false);
    }
    let mut vm = Vm::new("kvm-trial", kernel, Initramfs::with_busybox()?);
    (vm.accel, vm.memory_mib, vm.limit) = (Some(Accel::Kvm), 512, TRIAL);
    let (folder, token) = (Folder::new(&vm.name)?, token()?);
    vm.files.bytes("/init", 0o755, init::script(&token, &[]));
    vm.files.bytes("/job", 0o755, "exit 0");
    vm.files.write(&folder.initramfs())?;
    let run = qemu::Run { vm: &vm, folder: &folder, token: &token, echo: Echo::No };
    Ok(run.to_the_end()?.exit == Exit::Status(0))
}

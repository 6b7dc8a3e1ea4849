//! A guest with farspace's own programs, linked statically.

use super::build::{self, Flavour, Variant};
use crate::vm::{self, Accel, Initramfs, Vm};
use anyhow::Context as _;
use std::path::PathBuf;
use xshell::{Shell, cmd};

/// Our own programs in every guest, and their packages.
const PROGRAMS: &[(&str, &str)] = &[
    ("farspace", "farspace-cli"),
    ("farspace-conformance", "farspace-conformance"),
    ("farspace-stress", "farspace-stress"),
    ("farspace-victim", "farspace-victims"),
];

/// The target that is linked statically. Another name than the default keeps build scripts out of it.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// Which machine.
#[derive(clap::Args)]
pub(crate) struct Machine {
    /// The kernel's image (bzImage, vmlinuz); by default farspace's own, built if need be.
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Of farspace's own kernels: the one with everything that finds mistakes.
    #[arg(long, conflicts_with = "kernel")]
    debug: bool,
    /// Of farspace's own kernels: the one without the calls.
    #[arg(long, conflicts_with = "kernel")]
    unpatched: bool,
    /// The guest's memory.
    #[arg(long, default_value_t = 1536)]
    memory_mib: u32,
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// What runs the guest's instructions; by default KVM where it works.
    #[arg(long, value_enum)]
    accel: Option<Accel>,
    /// A program of this machine that is to be in the guest, with its libraries.
    #[arg(long = "with", value_name = "PROGRAM")]
    programs: Vec<String>,
    /// A file of this machine that is to be in the guest, in /root.
    #[arg(long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// A folder of this machine that is to be in the guest, with everything in it.
    #[arg(long = "tree", value_name = "FOLDER:PLACE", value_parser = pair)]
    trees: Vec<(PathBuf, String)>,
    /// A folder of this machine to share with the guest by 9p.
    #[arg(long = "share", value_name = "FOLDER:PLACE", value_parser = pair)]
    shares: Vec<(PathBuf, String)>,
    /// A raw disk image: /dev/vda, /dev/vdb...
    #[arg(long = "disk", value_name = "FILE")]
    disks: Vec<PathBuf>,
    /// The kernel's /lib/modules/RELEASE, for --module.
    #[arg(long, value_name = "FOLDER", default_value = "/lib/modules")]
    modules: PathBuf,
    /// A module to load at boot, with those that it needs.
    #[arg(long = "module", value_name = "NAME")]
    module: Vec<String>,
    /// More of the kernel's command line.
    #[arg(long = "append", value_name = "PARAMETER", allow_hyphen_values = true)]
    parameters: Vec<String>,
}

impl Machine {
    /// How much slower than usual the guest is; what time limits in there are multiplied with.
    pub(super) fn slowness(&self, vm: &Vm) -> anyhow::Result<u32> {
        let debug = if self.debug { 4 } else { 1 };
        Ok(debug * if vm.accel()? == Accel::Kvm { 1 } else { 5 })
    }

    /// Why there is no such kernel here and none can be built, if that is so.
    pub(super) fn obstacle(&self, shell: &Shell) -> Option<String> {
        if self.kernel.is_some() { None } else { build::obstacle(shell) }
    }

    fn image(&self, shell: &Shell) -> anyhow::Result<PathBuf> {
        if let Some(kernel) = &self.kernel {
            return Ok(kernel.clone());
        }
        let flavour = if self.debug { Flavour::Debug } else { Flavour::Small };
        let variant = if self.unpatched { Variant::Unpatched } else { Variant::Patched };
        Ok(build::image(shell, flavour, variant)?.bzimage)
    }

    /// The machine that they describe.
    pub(super) fn vm(&self, shell: &Shell, name: &str) -> anyhow::Result<Vm> {
        let mut files = files(shell)?;
        for program in &self.programs {
            files.program(program)?;
        }
        for file in &self.files {
            let name = file.file_name().unwrap_or_default();
            files.file(file, PathBuf::from("/root").join(name))?;
        }
        for (folder, place) in &self.trees {
            files.tree(folder, place)?;
        }
        if !self.module.is_empty() {
            files.modules(&self.modules, &self.module.iter().map(String::as_str).collect::<Vec<_>>())?;
        }
        let mut vm = Vm::new(name, self.image(shell)?, files);
        (vm.memory_mib, vm.cpus, vm.accel) = (self.memory_mib, self.cpus, self.accel);
        vm.parameters.clone_from(&self.parameters);
        vm.shares.clone_from(&self.shares);
        vm.disks.clone_from(&self.disks);
        Ok(vm)
    }
}

/// `FOLDER:PLACE`.
fn pair(text: &str) -> Result<(PathBuf, String), String> {
    let (folder, place) = text.split_once(':').ok_or("write it as FOLDER:PLACE")?;
    Ok((folder.into(), place.to_owned()))
}

/// busybox and our own programs, built if need be.
///
/// # Errors
/// The build fails.
pub(crate) fn files(shell: &Shell) -> anyhow::Result<Initramfs> {
    // A folder of its own: the flags are others, and neither build throws away what the other has made.
    let target = vm::target().join("static");
    let packages = PROGRAMS.iter().flat_map(|(_, package)| ["--package", package]);
    {
        let _flags = shell.push_env("RUSTFLAGS", "-C target-feature=+crt-static");
        let _debug = shell.push_env("CARGO_PROFILE_RELEASE_DEBUG", "0");
        let _target = shell.push_env("CARGO_TARGET_DIR", &target);
        cmd!(shell, "cargo build --release --quiet --target {TRIPLE} {packages...}").quiet().run()?;
    }
    let mut files = Initramfs::with_busybox()?;
    for (program, _) in PROGRAMS {
        files.file(target.join(TRIPLE).join("release").join(program), format!("/bin/{program}"))?;
    }
    Ok(files)
}

/// Adds an integration test of a package as the program `/bin/test-NAME`, linked in the same way.
///
/// # Errors
/// The build fails.
pub(crate) fn add_test(
    shell: &Shell,
    files: &mut Initramfs,
    package: &str,
    name: &str,
) -> anyhow::Result<()> {
    let target = vm::target().join("static");
    let _flags = shell.push_env("RUSTFLAGS", "-C target-feature=+crt-static");
    let _debug = shell.push_env("CARGO_PROFILE_RELEASE_DEBUG", "0");
    let _target = shell.push_env("CARGO_TARGET_DIR", &target);
    let build = cmd!(
        shell,
        "cargo test --release --no-run --quiet --target {TRIPLE} --package {package} --test {name} --message-format=json"
    );
    let messages = build.quiet().read()?;
    let executable = messages.lines().find_map(|line| {
        let (_, path) = line.split_once("\"executable\":\"")?;
        path.split('"').next()
    });
    let executable = executable.with_context(|| format!("cargo hasn't said where the test {name} is"))?;
    files.file(executable, format!("/bin/test-{name}"))
}
